"""What leaves for a target's shell arrives byte for byte, whatever it is, through a real sshd."""

from __future__ import annotations

import secrets
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Sshd
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from servers import connect

from opsbook.errors import UsageError
from opsbook.model.target import Target, TargetState
from opsbook.ssh.command import Command
from opsbook.ssh.connection import Connection
from opsbook.ssh.hostkeys import HostKeyPolicy, KnownHosts
from opsbook.ssh.script import Script, prepare

FUZZ = settings(
    max_examples=8, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
NASTY = st.sampled_from(
    [
        *("'", '"', "`id`", "$(id)", "$HOME", "${x}", "\\", "\\\\", "\\'", "\n", "\r", "\t", "\x1b", "\x7f", "!", "!!"),
        *(
            "} fi; }",
            "\nstop\n",
            "fi",
            "EOF",
            "<<EOF",
            "#",
            ";",
            "&",
            "|",
            "*",
            "~",
            "-n",
            "--",
            "-e",
            " ",
            "  ",
            "=",
            "é",
        ),
        *("%s", "%%", "\\0", "\\c", "$'\\n'", "\u2028", "\ufeff", "😀", "\ud7ff", "\U0010ffff", "\x01", "\x80", "\xa0"),
    ]
)
CHARACTERS = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
TEXT = st.text(CHARACTERS, max_size=30) | st.lists(NASTY, max_size=8).map("".join)
VALUES = st.lists(TEXT, min_size=15, max_size=60)
"""Many for one command: it is the values that are tried, not the connection."""


@pytest.fixture
def connection(sshd: Sshd) -> Iterator[Connection]:
    target = Target(name="web1", host="127.0.0.3", port=sshd.port, user=sshd.user, identity_files=(str(sshd.identity),))
    made = connect(target, KnownHosts([sshd.known_hosts]), HostKeyPolicy.STRICT, timeout_s=30)
    yield made
    made.close()


def run(connection: Connection, script: Script) -> None:
    marker = f"mark-{secrets.token_hex(8)}"
    command = Command(connection, script, marker=marker, timeout_s=60, on_output=lambda *_: None)
    ended = command.run(lambda: None)
    assert ended.state is TargetState.OK, ended


def print_all(names: list[str], *, to: Path) -> str:
    return "\n".join(f'printf "%s\\0" "${name}" >>{shlex.quote(str(to))}' for name in names)


@pytest.mark.parametrize("shell", [None, "sh -eu"])
@FUZZ
@given(values=VALUES)
def test_every_variable_is_the_value_it_was_given(
    connection: Connection, tmp_path_factory: pytest.TempPathFactory, shell: str | None, values: list[str]
) -> None:
    file = tmp_path_factory.mktemp("there") / "said"
    half = len(values) // 2
    variables = {f"v{number}": value for number, value in enumerate(values[:half])}
    environment = {f"e{number}": value for number, value in enumerate(values[half:])}
    text = print_all([*variables, *environment], to=file)
    run(connection, Script(text=text, variables=variables, environment=environment, shell=shell))
    assert file.read_bytes().split(b"\0")[:-1] == [value.encode() for value in values]


@pytest.mark.parametrize("shell", [None, "sh -eu"])
@FUZZ
@given(values=VALUES)
def test_every_byte_of_a_script_is_what_the_shell_reads(
    connection: Connection, tmp_path_factory: pytest.TempPathFactory, shell: str | None, values: list[str]
) -> None:
    file = tmp_path_factory.mktemp("there") / "said"
    there = shlex.quote(str(file))
    lines = [f'printf "%s\\0" {shlex.quote(value)} >>{there}' for value in values]
    end = f"END{secrets.token_hex(8)}"
    text = "\n".join([*lines, f"cat >>{there} <<'{end}'", *values, end])
    run(connection, Script(text=text, shell=shell))
    said = "".join(f"{value}\0" for value in values) + "".join(f"{value}\n" for value in values)
    assert file.read_bytes() == said.encode()


def test_a_megabyte_arrives_whole_as_a_variable_and_as_text(connection: Connection, tmp_path: Path) -> None:
    value = ('it\'s "$HOME" `id` \\ é\n' * 50_000)[: 1024 * 1024]
    file = tmp_path / "said"
    there, more = shlex.quote(str(file)), "x" * 1024 * 1024
    text = f"printf %s \"$big\" >{there}\ncat >>{there} <<'END'\n{more}\nEND"
    run(connection, Script(text=text, variables={"big": value}))
    assert file.read_bytes() == value.encode() + more.encode() + b"\n"


@pytest.mark.parametrize("value", ["a\0b", "\0", "\udcff"])
def test_what_no_shell_can_hold_is_refused_before_anything_is_sent(value: str) -> None:
    for script in (
        Script(text=f"echo {value}"),
        Script(text="id", variables={"x": value}),
        Script(text="id", environment={"x": value}),
        Script(text="id", directory=value),
    ):
        with pytest.raises(UsageError):
            prepare(script, marker="mark")


@given(st.text(max_size=10))
def test_only_a_name_names_a_variable(name: str) -> None:
    valid = name.isascii() and name.isidentifier()
    for script in (Script(text="id", variables={name: "1"}), Script(text="id", environment={name: "1"})):
        if valid:
            prepare(script, marker="mark")
        else:
            with pytest.raises(UsageError):
                prepare(script, marker="mark")
