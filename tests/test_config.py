"""Settings: where they come from, which one wins, and what is refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from opsbook.config import FILE, Settings, load_settings
from opsbook.errors import UsageError


def write(folder: Path, text: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FILE).write_text(text, encoding="utf-8")
    return folder


def test_without_a_file_and_variables_the_defaults_hold(tmp_path: Path) -> None:
    settings = load_settings(tmp_path, {})
    assert settings == Settings()
    assert (settings.archive, settings.parallel, settings.max_fail) == ("archive", 64, "0")
    assert (settings.ssh.host_keys, settings.ssh.connect_timeout) == ("", "10s")


def test_the_nearest_file_upwards_holds_alone(tmp_path: Path) -> None:
    write(tmp_path, 'parallel = 3\nmax_fail = "5%"\n')
    near = write(tmp_path / "team", "parallel = 7\n")
    below = near / "a" / "b"
    below.mkdir(parents=True)
    assert (load_settings(below, {}).parallel, load_settings(below, {}).max_fail) == (7, "0")
    assert load_settings(tmp_path, {}).parallel == 3


def test_the_working_directory_and_the_process_environment_are_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(write(tmp_path, "parallel = 3\n"))
    monkeypatch.setenv("OPSBOOK_MAX_FAIL", "2")
    settings = load_settings()
    assert (settings.parallel, settings.max_fail) == (3, "2")


def test_paths_in_the_file_are_relative_to_the_file(tmp_path: Path) -> None:
    write(
        tmp_path,
        'archive = "runs"\ninventory = ["hosts.ini", "~/more.yml"]\n[ssh]\nknown_hosts = "known"\n',
    )
    settings = load_settings(tmp_path / "nowhere", {})
    assert settings.archive == str(tmp_path / "runs")
    assert settings.inventory == (str(tmp_path / "hosts.ini"), str(Path("~/more.yml").expanduser()))
    assert settings.ssh.known_hosts == (str(tmp_path / "known"),)


def test_one_inventory_needs_no_list(tmp_path: Path) -> None:
    assert load_settings(write(tmp_path, 'inventory = "hosts"\n'), {}).inventory == (str(tmp_path / "hosts"),)


def test_variables_go_over_the_file_and_empty_ones_do_not_count(tmp_path: Path) -> None:
    write(
        tmp_path, 'parallel = 3\narchive = "runs"\ninventory = "a"\n[ssh]\nhost_keys = "off"\nconnect_timeout = "3s"\n'
    )
    environ = {
        "OPSBOOK_PARALLEL": "8",
        "OPSBOOK_ARCHIVE": "",
        "OPSBOOK_INVENTORY": os.pathsep.join(["x.ini", "/y.ini"]),
        "OPSBOOK_HOST_KEYS": "strict",
        "OPSBOOK_KNOWN_HOSTS": "k",
        "OPSBOOK_COMMAND_TIMEOUT": "5m",
        "OPSBOOK_OUTPUT_CELL_CHARACTERS": "20000",
        "PARALLEL": "99",
    }
    settings = load_settings(tmp_path, environ)
    assert (settings.parallel, settings.archive) == (8, str(tmp_path / "runs"))
    assert settings.inventory == ("x.ini", "/y.ini")
    assert (settings.ssh.host_keys, settings.ssh.known_hosts) == ("strict", ("k",))
    assert (settings.ssh.connect_timeout, settings.command_timeout) == ("3s", "5m")
    assert (settings.output.cell_characters, settings.output.run_characters) == (20_000, 100_000_000)


@pytest.mark.parametrize(
    ("text", "what", "hint"),
    [
        ("paralel = 8", "unknown field `paralel`", "did you mean 'parallel'?"),
        ('[ssh]\nhost_key = "off"', "unknown field `host_key`", "did you mean 'host_keys'?"),
        ("zzzz = 1", "unknown field `zzzz`", "known: archive, inventory"),
        ('[nowhere]\na = "b"', "unknown field `nowhere`", "known: archive"),
        ("archive = 5", "Expected `str`, got `int`", ""),
        ("inventory = 5", "Expected `array`", ""),
        ("parallel = true", "Expected `int`", ""),
        ('parallel = "many"', "Expected `int`", ""),
        ('[ssh]\nhost_keys = "maybe"', "host_keys is 'maybe'", "strict, accept-new or off"),
        ("x = [", "", ""),
        ('ssh = "off"', "ssh", ""),
        ("ssh = 5", "ssh", ""),
        ("ssh = [1]", "ssh", ""),
        ('archive = "~nobody-of-that-name/x"', "", ""),
    ],
)
def test_what_cannot_be_understood_is_a_usage_error_with_a_hint(
    tmp_path: Path, text: str, what: str, hint: str
) -> None:
    with pytest.raises(UsageError) as caught:
        load_settings(write(tmp_path, text), {})
    assert what in str(caught.value)
    assert hint in caught.value.hint


def test_a_file_that_is_not_utf8_is_a_usage_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b'archive = "\xff"\n')
    with pytest.raises(UsageError, match=FILE):
        load_settings(tmp_path, {})


@pytest.mark.parametrize("environ", [{"OPSBOOK_PARALLEL": "many"}, {"OPSBOOK_HOST_KEYS": "maybe"}])
def test_a_variable_that_cannot_be_understood_is_a_usage_error(tmp_path: Path, environ: dict[str, str]) -> None:
    with pytest.raises(UsageError):
        load_settings(tmp_path, environ)
