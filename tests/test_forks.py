"""A command the tests fork is what a new interpreter would be: it sees, says and leaves the same."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path

import forks
import pytest
from forks import Forked
from support import Desk, code, finish

LOOKS = """
import os, sys
print(sorted(os.environ), os.getcwd(), sys.path, len(os.listdir("/proc/self/fd")))
runner = int(open(f"/proc/{os.getppid()}/stat").read().rpartition(")")[2].split()[1])
print([os.readlink(f"/proc/{runner}/fd/{number}").partition(":")[0] for number in range(3)])
"""


def test_a_forked_command_sees_says_and_leaves_what_a_new_interpreter_would(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.notebook(code(LOOKS, cell_id="looks"))
    forked, new = desk.opsbook("run", "book.ipynb", "--json"), finish(desk.start("run", "book.ipynb", "--json"))
    assert (forked.code, new.code) == (0, 0), forked
    one, other = desk.run_of(forked), desk.run_of(new)
    assert one.output("looks") == other.output("looks")
    assert one.record["argv"] == other.record["argv"]
    starts = desk.python_processes()
    assert [line.replace(one.folder.name, "") for line in starts if "-m opsbook " in line] == starts[:1] * 2
    refused = ("run", "nowhere.ipynb")
    assert desk.opsbook(*refused) == finish(desk.start(*refused))


def test_a_forked_command_can_be_asked_for_its_end_as_often_as_wanted(tmp_path: Path) -> None:
    ended = Desk(tmp_path).fork("run", "nowhere.ipynb", start_new_session=True)
    assert ended.communicate() == ended.communicate()
    assert (ended.wait(), ended.poll(), ended.returncode) == (2, 2, 2)
    ended.kill()  # nobody any more


def test_a_forked_command_that_does_not_end_is_killed_and_said_to_be_too_slow(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.notebook(code("import time\ntime.sleep(60)"))
    with pytest.raises(subprocess.TimeoutExpired):
        desk.opsbook("run", "book.ipynb", seconds=2)
    assert desk.opsbook("run", "nowhere.ipynb").code == 2
    assert [run["status"] for run in desk.opsbook("runs", "--json").json] in ([], ["interrupted"])


def test_a_pipe_that_stays_open_behind_a_command_is_not_waited_for_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forks, "REST_S", 0.3)
    reads, held = os.pipe()
    answers, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        theirs.send(b"1")
        ended = Forked(["--version"], answers, {"stdout": reads})
        theirs.send(b"0")
        with pytest.raises(subprocess.TimeoutExpired):
            ended.communicate()
        os.close(held)
        assert ended.communicate() == ("", "")
