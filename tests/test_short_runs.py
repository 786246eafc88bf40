"""What makes a short run short takes nothing away: what is put off is done when it is needed, and at the end."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from support import Desk, code, wait_for

from opsbook.archive.fold import RecordFold
from opsbook.archive.journal import read_journal
from opsbook.archive.layout import Claim, RunFolder, run_folder
from opsbook.config import EnvSettings
from opsbook.errors import ArchiveError
from opsbook.execution.kernel import start_kernel
from opsbook.execution.recorder import Recorder
from opsbook.model.event import CellStarted
from opsbook.model.run import Operator, RunbookRef, RunRecord, RunState
from opsbook.redaction import Redactor

RUN_ID = "20261120T113958Z-patch-7f3a2c"
STARTED = CellStarted(cell_id="a")


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[RunFolder]:
    claim = Claim(run_folder(tmp_path, RUN_ID))
    yield claim.folder
    claim.release()


@pytest.fixture
def recorder(folder: RunFolder) -> Iterator[Recorder]:
    claimed = RunRecord(
        run_id=RUN_ID,
        status=RunState.RUNNING,
        runbook=RunbookRef(path="patch.ipynb", title="Patch", sha256="0" * 64),
        started_at=datetime.now(UTC),
        operator=Operator(user="maya", host="here", pid=1),
    )
    made = Recorder(folder, Redactor(), RecordFold(claimed), ())
    yield made
    made.close()


def test_a_cell_that_starts_is_in_the_journal_before_it_runs_and_on_disk_soon_after(
    folder: RunFolder, recorder: Recorder, syncs: list[os.stat_result]
) -> None:
    for number in range(1, 51):
        recorder.write_now(STARTED)
        assert [entry.event for entry in read_journal(folder.journal)] == [STARTED] * number
    size = folder.journal.stat().st_size
    wait_for(lambda: size in [one.st_size for one in syncs], what="the journal on disk, though nobody asked")


@pytest.mark.parametrize("call", ["write", "fsync"])
def test_where_the_journal_cannot_be_written_no_cell_is_begun_and_nobody_tries_without_end(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    tried = []

    def fails(descriptor: int, *_: object) -> None:
        tried.append(descriptor)
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fails)
        recorder.submit(STARTED)
        wait_for(lambda: recorder.failure, what="a disk that fails to be noticed, though nobody asked")
        with pytest.raises(ArchiveError, match="Input/output"):
            recorder.write_now(STARTED)
        begun = time.process_time()
        time.sleep(1)
        assert time.process_time() - begun < 0.3
        assert len(tried) == 1


def test_a_kernel_that_is_being_killed_is_alive_no_more(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(desk.folder)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        kernel = start_kernel("python3", channel=theirs, cwd=tmp_path, settings=EnvSettings())
        was_alive = kernel.alive
        kernel.kill()
        is_alive = kernel.alive
        kernel.end(asked=False)
    assert (was_alive, is_alive) == (True, False)


def test_in_a_kernel_that_is_to_end_no_further_cell_is_begun(desk: Desk) -> None:
    lingers = "import atexit, time\natexit.register(time.sleep, 30)\nexit()"
    desk.notebook(code(lingers, cell_id="leaves"), code("1", "always", cell_id="after"))
    ran = desk.opsbook("run", "book.ipynb")
    assert ran.code == 1, ran.err
    assert desk.run().states == {"leaves": "failed", "after": "not_run"}


def python(text: str, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", text, *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_a_library_that_is_put_off_is_imported_when_something_of_it_is_used() -> None:
    done = python("""
import sys
from opsbook.execution.deferred import put_off
put_off("wave")
import wave
assert "chunk" not in sys.modules and not hasattr(wave, "__file__")
assert wave.open is sys.modules["wave"].open and sys.modules["wave"] is not wave
put_off("email")
from email.message import Message
assert Message().as_string() == "\\n"
put_off("json")
import json
assert json.dumps([1]) == "[1]"
""")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("how", "said"), [("idle", ["at the end"]), ("busy", ["still at work", "at the end"])])
def test_a_command_ends_at_once_when_all_is_said_and_done(how: str, said: list[str]) -> None:
    text = """
import atexit, sys, threading, time
from opsbook.cli.main import main
def work():
    time.sleep(1)
    print("still at work", flush=True)
if sys.argv.pop() == "busy":
    threading.Thread(target=work).start()
atexit.register(print, "at the end", flush=True)
main()
"""
    done = python(text, "--version", how)
    assert (done.returncode, done.stdout.splitlines()[1:]) == (0, said), done
