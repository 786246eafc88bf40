"""Inventory scripts: which are run, how, and what of their answers counts."""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from support import Desk, processes_with, wait_for

from opsbook.errors import InventoryError
from opsbook.inventory.load import load
from opsbook.inventory.script import Script
from opsbook.model.target import Inventory


def script(folder: Path, text: str, *, name: str = "hosts.sh", shell: str = "/bin/sh") -> Path:
    file = folder / name
    file.write_text(f"#!{shell}\n{text}\n", encoding="utf-8")
    file.chmod(0o755)
    return file


def printing(folder: Path, listing: Any, **kwargs: Any) -> Path:
    text = listing if isinstance(listing, str) else json.dumps(listing)
    (folder / "listing").write_text(text, encoding="utf-8")
    return script(folder, f"cat '{folder}/listing'", **kwargs)


def run(file: Path) -> Inventory:
    return load([file], trusted=[file])


LISTING = {
    "_meta": {"hostvars": {"w1": {"ansible_port": 2222, "deep": {"a": [1, None]}}, "nobody": {"x": 1}}},
    "web": {"hosts": ["w1", "w2"], "vars": {"tier": "front", "ansible_user": "deploy"}},
    "db": ["d1"],
    "prod": {"children": ["web", "db", "later"]},
}


def test_a_trusted_script_gives_groups_hosts_and_variables(tmp_path: Path) -> None:
    inventory = run(printing(tmp_path, LISTING))
    w1, w2, d1 = inventory.targets
    assert (w1.port, w1.user, w1.groups) == (2222, "deploy", ("prod", "web"))
    assert w1.vars == {"tier": "front", "ansible_user": "deploy", "ansible_port": 2222, "deep": {"a": [1, None]}}
    assert (w2.port, d1.groups) == (None, ("db", "prod"))
    assert inventory.groups["prod"] == ("w1", "w2", "d1")
    assert inventory.groups["later"] == ()


def test_what_a_script_gives_is_merged_with_files_and_their_variables(tmp_path: Path) -> None:
    file = printing(tmp_path, LISTING)
    (tmp_path / "more.ini").write_text("[web]\nw2 tier=host\n")
    (tmp_path / "group_vars").mkdir()
    (tmp_path / "group_vars/db.yml").write_text("tier: back\n")
    inventory = load([file, tmp_path / "more.ini"], trusted=[file])
    assert [target.vars.get("tier") for target in inventory.targets] == ["front", "host", "back"]


def test_a_script_is_asked_for_each_host_when_its_list_holds_no_variables(tmp_path: Path) -> None:
    file = script(
        tmp_path,
        f"echo \"$@\" >> '{tmp_path}/calls'\n"
        'case "$*" in --list) echo \'{"web": {"hosts": ["w1", "w2", "w3"]}}\' ;;\n'
        '"--host w1") echo \'{"a": 1}\' ;; "--host w2") ;; *) echo "{}" ;; esac',
    )
    assert [target.vars for target in run(file).targets] == [{"a": 1}, {}, {}]
    assert (tmp_path / "calls").read_text().split("\n")[:-1] == ["--list", "--host w1", "--host w2", "--host w3"]


def test_a_script_has_no_input_no_shell_and_a_session_of_its_own(tmp_path: Path) -> None:
    file = script(
        tmp_path,
        "import json, os, sys\n"
        "facts = {'stdin': sys.stdin.read(), 'argv': sys.argv[1:], 'leads': os.getsid(0) == os.getpid()}\n"
        "print(json.dumps({'web': ['w1'], '_meta': {'hostvars': {'w1': facts}}}))",
        name="hosts; touch ran",
        shell=sys.executable,
    )
    assert run(file).targets[0].vars == {"stdin": "", "argv": ["--list"], "leads": True}
    assert not (tmp_path / "ran").exists()


def test_only_the_listed_path_is_trusted_whatever_leads_to_it(tmp_path: Path) -> None:
    (tmp_path / "sources").mkdir()
    file = printing(tmp_path / "sources", LISTING, name="10.sh")
    other = script(tmp_path / "sources", f"touch '{tmp_path}/ran'", name="20.sh")
    (tmp_path / "link").symlink_to(file)
    assert len(load([tmp_path / "link"], trusted=[file]).targets) == 3
    assert len(load([file], trusted=[tmp_path / "link"]).targets) == 3
    for trusted in ([tmp_path / "sources"], [file], [tmp_path]):
        with pytest.raises(InventoryError, match="is executable") as caught:
            load([tmp_path / "sources"], trusted=trusted)
        assert "trusted_scripts" in caught.value.hint
    assert not (tmp_path / "ran").exists()
    other.chmod(0o644)
    other.write_text("w9\n")
    (tmp_path / "sources/listing").rename(tmp_path / "listing")
    printing(tmp_path, LISTING, name="sources/10.sh")
    assert [target.name for target in load([tmp_path / "sources"], trusted=[file]).targets] == ["w1", "w2", "d1", "w9"]


def test_a_trusted_file_that_is_not_executable_is_read(tmp_path: Path) -> None:
    file = tmp_path / "hosts"
    file.write_text("w1\n")
    assert load([file], trusted=[file]).targets[0].name == "w1"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("echo starting >&2; echo 'no access' >&2; echo >&2; exit 3", "failed with exit code 3: no access"),
        ("exit 1", "failed with exit code 1"),
        ("kill -9 $$", "was ended by signal 9"),
        ("printf 'bad\\033[31m\\n' >&2; exit 2", "failed with exit code 2: bad?[31m"),
        ("true", "what it prints is not JSON"),
        ("echo '[web]'", "what it prints is not JSON"),
        ("echo '[]'", "what it prints is not a mapping"),
        ("printf '\\377'", "what it prints is not UTF-8"),
        ("head -c 17000000 /dev/zero", "prints more than 16 MiB"),
    ],
)
def test_a_script_that_fails_is_named_with_the_reason(tmp_path: Path, text: str, words: str) -> None:
    file = script(tmp_path, text)
    with pytest.raises(InventoryError) as caught:
        run(file)
    assert str(caught.value).startswith(f"{file}: ")
    assert words in str(caught.value)
    assert caught.value.hint


def test_a_script_that_the_system_cannot_run_is_named(tmp_path: Path) -> None:
    file = tmp_path / "hosts"
    file.write_text("no interpreter\n")
    file.chmod(0o755)
    with pytest.raises(InventoryError, match="cannot be run: Exec format error"):
        run(file)


@pytest.mark.parametrize(
    ("listing", "words"),
    [
        ({"web": {}}, "group 'web' is empty"),
        ({"web": {"host": ["w1"]}}, "group 'web' has an unknown key 'host'"),
        ({"web": {"hosts": "w1"}}, "hosts of group 'web' is not a list of names"),
        ({"web": {"hosts": {"w1": {}}}}, "hosts of group 'web' is not a list of names"),
        ({"web": {"hosts": [1]}}, "hosts of group 'web' is not a list of names"),
        ({"web": None}, "hosts of group 'web' is not a list of names"),
        ({"web": ["w[1:2]"]}, "'w[1:2]' is not a host name"),
        ({"web": ["--help"]}, "'--help' is not a host name"),
        ({"web": {"vars": []}}, "vars of group 'web' is not a mapping"),
        ({"web": {"children": ["web"]}}, "contain itself"),
        ({"web": {"children": ["all"]}}, "'all' cannot be a child"),
        ({"we b": ["w1"]}, "cannot be a group's name"),
        ({"web": ["w1"], "_meta": {}}, "_meta.hostvars is not a mapping"),
        ({"web": ["w1"], "_meta": []}, "_meta is not a mapping"),
        ({"web": ["w1"], "_meta": {"hostvars": {"w1": []}}}, "the variables of host 'w1' is not a mapping"),
        ({"web": {"hosts": ["w1"], "vars": {"ansible_host": "{{ x }}"}}}, "ansible_host is a template"),
        ('{"web": ["w1"], "web": ["w2"]}', "'web' stands twice"),
        ('{"web": {"vars": {"x": NaN}}}', "nan is not a number"),
        ('{"web": {"vars": {"x": 1e999}}}', "inf is not a number"),
        ('{"web": {"vars": {"x": "\\ud800"}}}', "lone surrogate"),
        ('{"web": {"vars": {"x": ' + "[" * 200 + "]" * 200 + "}}}", "nested more than 100 deep"),
        ('{"web": {"vars": {"x": ' + "[" * 200_000 + "]" * 200_000 + "}}}", "nested more than 100 deep"),
        ('{"web": {"vars": {"x": ' + "9" * 5000 + "}}}", "not JSON"),
        ({"web": {"hosts": []}}, "names no host"),
    ],
)
def test_a_listing_that_cannot_be_understood_is_refused(tmp_path: Path, listing: Any, words: str) -> None:
    file = printing(tmp_path, listing)
    with pytest.raises(InventoryError) as caught:
        run(file)
    assert words in str(caught.value)
    assert str(caught.value).startswith(f"{file}: ")


def test_marked_texts_of_a_listing_are_plain(tmp_path: Path) -> None:
    cipher = "$ANSIBLE_VAULT;1.1;AES256\n6162\n"
    marked = {"a": {"__ansible_unsafe": "{{ x }}"}, "b": [{"__ansible_vault": cipher}]}
    inventory = run(printing(tmp_path, {"web": ["w1"], "_meta": {"hostvars": {"w1": marked}}}))
    assert inventory.targets[0].vars == {"a": "{{ x }}", "b": [cipher]}


@pytest.mark.parametrize("text", ["sleep 3141 & sleep 3142", "sleep 3141 & exec >&- 2>&-; sleep 3142", "sleep 3141 &"])
def test_a_script_that_does_not_end_is_killed_with_what_it_started(tmp_path: Path, text: str) -> None:
    marker = 10**6 + os.getpid()
    file = script(tmp_path, text.replace("3141", f"{marker}1").replace("3142", f"{marker}2"))
    started = time.monotonic()
    with pytest.raises(InventoryError, match=r"did not end within 0\.5 s"):
        Script(file, timeout_s=0.5).list()
    assert time.monotonic() - started < 10
    wait_for(lambda: not processes_with(f"sleep {marker}"))


def test_all_questions_to_a_script_share_one_deadline(tmp_path: Path) -> None:
    asked = Script(script(tmp_path, "sleep 0.4; echo '{}'"), timeout_s=1.0)
    with pytest.raises(InventoryError, match="did not end within 1 s"):
        for number in range(10):
            asked.host(f"w{number}")


def test_the_settings_say_which_scripts_the_command_runs(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    printing(tmp_path, LISTING)
    (tmp_path / "home/.ssh").mkdir(parents=True)
    desk.write("home/.ssh/config", "Host mine\n")
    desk.write("opsbook.toml", 'inventory = ["hosts.sh", "ssh_config:~/.ssh/config"]\n')
    refused = desk.opsbook("targets", "--json")
    assert (refused.code, refused.out) == (2, "")
    assert "trusted_scripts" in refused.err
    desk.write(
        "opsbook.toml",
        'inventory = ["hosts.sh", "ssh_config:~/.ssh/config"]\ntrusted_scripts = "hosts.sh"\n',
    )
    listed = desk.opsbook("targets", "--json")
    assert listed.code == 0, listed.err
    assert [target["name"] for target in listed.json] == ["w1", "w2", "d1", "mine"]
