"""A target whose SFTP server means harm: what it answers is a result of that target, and costs nothing else."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Sshd
from transfers import opened, reason, sftp_server, state

SERVER = """
import os, struct, sys
mode = open({mode!r}).read()
read, write = sys.stdin.buffer.read, sys.stdout.buffer.write
def say(kind, body):
    write(struct.pack(">IB", len(body) + 1, kind) + body)
    sys.stdout.flush()
def text(value):
    return struct.pack(">I", len(value)) + value
while True:
    head = read(5)
    if len(head) < 5:
        break
    size, kind = struct.unpack(">IB", head)
    body = read(size - 1)
    number = body[:4]
    if kind == 1:
        known = text(b"limits@openssh.com") + text(b"1") + text(b"statvfs@openssh.com") + text(b"2")
        say(2, struct.pack(">I", 3) + known)
    elif mode == "unasked":
        while True:
            say(101, os.urandom(4) + struct.pack(">I", 0))
    elif mode == "short":
        say({{3: 102, 17: 105, 8: 105, 200: 201, 5: 103}}.get(kind, 101), number)
    elif mode == "chatty":
        say(101, number + struct.pack(">I", 4) + text(b"\\x1b[2J" + b"x" * 900000) + text(b""))
    elif kind == 200:
        say(201, number)
    elif kind == 17:
        say(105, number + struct.pack(">IQI", 5, 0 if mode == "endless" else 3, 0o100644))
    elif kind == 3:
        say(102, number + text(b"h"))
    elif kind == 5 and mode == "endless":
        say(103, number + text(b"y" * 32768))
    elif kind == 5:
        say(103, number + text(b"y" * 200000)) if mode == "more" else say(101, number + struct.pack(">I", 1))
    else:
        say(101, number + struct.pack(">I", 0))
"""
"""An SFTP server that lies in one way or the other, behind a real sshd."""


@pytest.fixture(scope="module")
def liar(sshd: Sshd, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    folder = tmp_path_factory.mktemp("liar")
    (folder / "server.py").write_text(SERVER.format(mode=str(folder / "mode")))
    forced = f"ForceCommand {sys.executable} {folder / 'server.py'}"
    with sftp_server(sshd, folder, extra=forced) as made:
        yield made


@pytest.mark.parametrize("mode", ["unasked", "short", "chatty", "more"])
def test_a_lie_of_a_target_is_its_own_failure(liar: Sshd, tmp_path: Path, mode: str) -> None:
    (liar.folder / "mode").write_text(mode)
    with opened(liar) as notebook:
        for result in (
            notebook.fleet.get("/etc/lie", tmp_path / "got", check=False, timeout=20),
            notebook.fleet.put(content="abcd", remote="/etc/lie", check=False, timeout=20),
        ):
            assert state(result) == "failed", reason(result)
            assert "internal error" not in reason(result)
            assert len(reason(result)) < 1500
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_file_without_an_end_is_gone_when_its_time_is_up(liar: Sshd, tmp_path: Path) -> None:
    (liar.folder / "mode").write_text("endless")
    with opened(liar) as notebook:
        result = notebook.fleet.get("/etc/lie", tmp_path / "got", check=False, timeout=0.5)
        assert state(result) == "timed_out"
        assert "nothing was written here" in reason(result)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
