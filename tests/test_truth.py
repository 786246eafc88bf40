"""Every way a cell or a run can end, through the real command: what is told of it is true, and all of it agrees.

papermill's own false successes stand beside the runs they are about. Signals are in test_stop, timeouts in
test_timeouts, kernels that are missing or die at their start in test_kernels too.
"""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path
from threading import Thread

import pytest
from agreement import check_agreement
from support import LOAD, Desk, code, finish, wait_for

BEGUN = code("open('begun', 'w').close()", cell_id="begun")
LATER = code("open('later', 'w').close()", cell_id="later")
TIDY = code("open('tidied', 'w').close()", "always", cell_id="tidy")
PAPERMILL = """
import sys, papermill
papermill.execute_notebook("book.ipynb", "out.ipynb", progress_bar=False)
"""


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def papermill(desk: Desk) -> tuple[int, dict[str, str]]:
    """Run papermill on the same notebook: its exit code, and what its copy says of each cell."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PAPERMILL],
        cwd=desk.folder,
        env=desk.environment,
        capture_output=True,
        timeout=100,
        check=False,
    )
    cells = json.loads((desk.folder / "out.ipynb").read_bytes())["cells"]
    told = {cell["id"]: cell["metadata"].get("papermill", {}).get("status") for cell in cells}
    return done.returncode, {name: status for name, status in told.items() if status}


def test_a_cell_that_leaves_is_no_success_of_the_cells_behind_it(desk: Desk) -> None:
    desk.notebook(code("import sys\nsys.exit(0)", cell_id="leaves"), LATER)
    exit_code, marks = papermill(desk)
    assert (exit_code, marks) == (0, {"leaves": "failed", "later": "pending"})  # what papermill makes of it
    assert not (desk.folder / "later").exists()
    record = check_agreement(desk, desk.opsbook("run", "book.ipynb"), status="failed", code=1)
    assert desk.run().states == {"leaves": "failed", "later": "not_run"}
    assert record["cells"][0]["error"] == {"name": "SystemExit", "text": "0"}
    assert not (desk.folder / "later").exists()


def test_a_cell_that_ends_its_kernel_politely_is_no_success_either(desk: Desk) -> None:
    desk.notebook(code("quit()", cell_id="leaves"), LATER, TIDY)
    record = check_agreement(desk, desk.opsbook("run", "book.ipynb"), status="failed", code=1)
    assert desk.run().states == {"leaves": "failed", "later": "not_run", "tidy": "not_run"}
    assert record["cells"][0]["error"]["name"] == "SystemExit"
    assert "(always) did not run: the kernel was gone" in record["notes"][0]


def test_each_cell_ends_as_it_did_whatever_its_code_was_up_to(desk: Desk) -> None:
    """Clean-up cells run whatever those before them came to, so that one run shows them all."""
    cells = {
        "error": ("1/0", "failed"),
        "exit": ("import sys\nsys.exit()", "failed"),
        "exit3": ("import sys\nsys.exit(3)", "failed"),
        "interrupt": ("raise KeyboardInterrupt", "failed"),
        "input": ("input('name? ')", "failed"),
        "password": ("import getpass\ngetpass.getpass()", "failed"),
        "syntax": ("def (", "failed"),
        "cancelled": ("import asyncio\nraise asyncio.CancelledError", "failed"),
        "group": ("raise ExceptionGroup('several', [ValueError('one')])", "failed"),
        "base": ("class Odd(BaseException): ...\nraise Odd", "failed"),
        "thread": ("import threading\nt = threading.Thread(target=lambda: 1/0)\nt.start()\nt.join()", "ok"),
        "late": (
            "import time\ndef late():\n    time.sleep(0.5)\n    print('late')\nthreading.Thread(target=late).start()",
            "ok",
        ),
        "asynchronous": ("import asyncio\nawait asyncio.sleep(0.7)\nprint('on time')", "ok"),
        "child": ("import subprocess\nsubprocess.run(['sh', '-c', 'exit 5'])\n!false", "ok"),
        "empty": ("# nothing", "ok"),
        "closes": ("import sys\nprint('before')\nsys.stdout.close()", "ok"),
        "closed": ("print('after')", "failed"),
        "records": ("record('last', 1)", "ok"),
    }
    desk.notebook(LOAD, *(code(source, "always", cell_id=name) for name, (source, _) in cells.items()))
    record = check_agreement(desk, desk.opsbook("run", "book.ipynb"), status="failed", code=1)
    assert desk.run().states == {"load": "ok", **{name: state for name, (_, state) in cells.items()}}
    assert record["metrics"] == {"last": 1}
    errors = {cell["id"]: cell["error"]["name"] for cell in record["cells"] if cell["error"]}
    assert errors == {
        "error": "ZeroDivisionError",
        "exit": "SystemExit",
        "exit3": "SystemExit",
        "interrupt": "KeyboardInterrupt",
        "input": "StdinNotImplementedError",
        "password": "StdinNotImplementedError",
        "syntax": "SyntaxError",
        "cancelled": "CancelledError",
        "group": "ExceptionGroup",
        "base": "Odd",
        "closed": "ValueError",
    }
    assert record["reason"] == 'cell "1/0" raised ZeroDivisionError: division by zero'
    assert "on time" in desk.run().output("asynchronous")
    assert desk.run().output("closes") == "before\n"


def test_a_kernel_killed_in_a_cell_is_lost_and_papermills_copy_says_that_all_is_well(desk: Desk) -> None:
    kill = "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)"
    desk.notebook(BEGUN, code(kill, "retry:3", cell_id="oom"), LATER, TIDY)
    exit_code, marks = papermill(desk)
    assert exit_code != 0
    assert marks["later"] == "completed"  # what papermill makes of it
    assert not (desk.folder / "later").exists()
    record = check_agreement(desk, desk.opsbook("run", "book.ipynb"), status="lost", code=6)
    assert desk.run().states == {"begun": "ok", "oom": "lost", "later": "not_run", "tidy": "not_run"}
    assert record["cells"][1]["attempts"] == 1
    assert record["reason"] == "the kernel was killed by SIGKILL (out of memory?)"
    assert not (desk.folder / "tidied").exists()
    assert "(always) did not run: the kernel was gone" in record["notes"][0]


def test_a_kernel_that_leaves_in_a_cell_is_lost_whatever_code_it_leaves_with(desk: Desk) -> None:
    desk.notebook(BEGUN, code("import os\nos._exit(0)", cell_id="leaves"), LATER)
    record = check_agreement(desk, desk.opsbook("run", "book.ipynb"), status="lost", code=6)
    assert desk.run().states == {"begun": "ok", "leaves": "lost", "later": "not_run"}
    assert record["reason"] == "the kernel ended by itself with exit code 0"


def test_a_kernel_killed_between_two_cells_leaves_the_next_one_unrun(desk: Desk) -> None:
    pid = "import os\nwith open('pid', 'w') as file:\n    print(os.getpid(), file=file)"
    desk.notebook(code(pid, cell_id="pid"), code("open('later', 'w').close()", "confirm", cell_id="gate"), LATER, TIDY)
    ours, theirs = pty.openpty()
    terminal = {**desk.environment, "TERM": "xterm", "COLUMNS": "120"}
    process = desk.fork("run", "book.ipynb", stdin=theirs, stderr=theirs, env=terminal)
    os.close(theirs)
    said: list[bytes] = []
    reader = Thread(target=_read, args=(ours, said))
    reader.start()
    wait_for(lambda: b"Go on?" in b"".join(said), seconds=60, what="the question")
    os.kill(int((desk.folder / "pid").read_text()), signal.SIGKILL)
    wait_for(lambda: not _lives(int((desk.folder / "pid").read_text())), what="the kernel's end")
    os.write(ours, b"y\n")
    ran = finish(process)
    reader.join(10)
    os.close(ours)
    record = check_agreement(desk, ran, status="lost", code=6)
    assert desk.run().states == {"pid": "ok", "gate": "not_run", "later": "not_run", "tidy": "not_run"}
    assert record["reason"] == "the kernel was killed by SIGKILL (out of memory?)"
    assert not (desk.folder / "later").exists()


def _read(terminal: int, said: list[bytes]) -> None:
    try:
        while data := os.read(terminal, 65536):
            said.append(data)
    except OSError:
        return  # the last process at the terminal has gone


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_run_that_was_killed_reads_as_interrupted_everywhere(desk: Desk) -> None:
    desk.notebook(BEGUN, code("import time\ntime.sleep(120)", cell_id="slow"), LATER)
    process = desk.fork("run", "book.ipynb")
    wait_for(lambda: _at_slow(desk), seconds=60, what="the slow cell")
    process.kill()
    process.communicate()
    shown = desk.opsbook("show", "last", "--json").json
    assert (shown["status"], shown["exit_code"], shown["reason"]) == (
        "interrupted",
        None,
        "its process ended without finishing the record",
    )
    assert {cell["id"]: cell["state"] for cell in shown["cells"]} == {
        "begun": "ok",
        "slow": "interrupted",
        "later": "not_run",
    }
    (listed,) = desk.opsbook("runs", "--json").json
    assert listed == {name: value for name, value in shown.items() if name != "copy"}
    assert "interrupted" in desk.opsbook("runs").out
    assert "was interrupted" in desk.opsbook("show", "last").out


def _at_slow(desk: Desk) -> bool:
    files = desk.folder.glob("archive/*/*/*/*/events.jsonl")
    return any(b'"cell_started","cell_id":"slow"' in file.read_bytes() for file in files)


def test_a_kernel_that_is_not_there_starts_nothing(desk: Desk) -> None:
    desk.notebook(BEGUN, kernel="nowhere")
    ran = desk.opsbook("run", "book.ipynb")
    assert (ran.code, ran.out, desk.runs()) == (2, "", [])
    assert "error: there is no kernel 'nowhere' here" in ran.err


def test_a_kernel_that_dies_at_its_start_runs_nothing_and_says_so(desk: Desk) -> None:
    spec = desk.folder / "home/.local/share/jupyter/kernels/brief"
    spec.mkdir(parents=True)
    argv = ["sh", "-c", "echo no such library >&2; exit 4", "sh", "{connection_file}"]
    (spec / "kernel.json").write_text(json.dumps({"argv": argv, "display_name": "b", "language": "python"}))
    desk.notebook(BEGUN, TIDY, kernel="brief")
    record = check_agreement(desk, desk.opsbook("run", "book.ipynb"), status="failed", code=2)
    assert desk.run().states == {"begun": "not_run", "tidy": "not_run"}
    assert "ended by itself with exit code 4 before it was ready" in record["reason"]
    assert "no such library" in record["reason"]
