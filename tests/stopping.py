"""A run that is stopped by real signals, at a terminal or without: what is awaited before, and what holds after."""

from __future__ import annotations

import os
import pty
import select
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from threading import Event, Thread

from agreement import check_run
from forks import Forked
from support import Desk, Run, code, processes_with, wait_for

START_S = 30
"""Seconds a run may take to come to a point on a busy machine."""
PID = code("import os\nwith open('kernel', 'w') as file:\n    print(os.getpid(), file=file)", cell_id="pid")
LATER = code("open('later', 'w').close()", cell_id="later")


def await_sleepers(number: str, count: int) -> None:
    """Return when so many targets are in the middle of their command."""
    wait_for(lambda: len(processes_with(f"sleep {number}")) >= count, seconds=START_S, what=f"{count} sleeping")


def waiting(name: str) -> str:
    """Return a line of shell that waits, for a bounded time, until there is a file of that name."""
    return f"for _ in $(seq 1200); do if [ -e {name} ]; then break; fi; sleep 0.05; done"


def python_waiting(name: str) -> str:
    """Return lines of Python that do the same."""
    return (
        f"import os, time\nfor _ in range(1200):\n    if os.path.exists({name!r}):\n        break\n    time.sleep(0.05)"
    )


def written(desk: Desk, *words: str) -> bool:
    """Whether a journal has a line with all these words; the last line of a growing journal may be torn."""
    lines = [
        line for file in desk.folder.glob("archive/*/*/*/*/events.jsonl") for line in file.read_text().splitlines()
    ]
    return any(all(word in line for word in words) for line in lines)


def await_cell(desk: Desk, cell_id: str) -> None:
    wait_for(lambda: written(desk, '"cell_started"', f'"{cell_id}"'), seconds=START_S, what=f"the start of {cell_id}")


def await_file(path: Path) -> None:
    wait_for(path.exists, seconds=START_S, what=f"{path.name}")


def times(run: Run, *kinds: str, cell_id: str | None = None) -> list[datetime]:
    """When, by the journal, something happened."""
    return [
        datetime.fromisoformat(entry["at"])
        for entry in run.journal
        if entry["event"]["type"] in kinds and (cell_id is None or entry["event"].get("cell_id") == cell_id)
    ]


def seconds_to_end(run: Run) -> float:
    """How long, by the journal, the run took from the first signal to its end."""
    return (times(run, "run_ended")[0] - times(run, "stop_requested")[0]).total_seconds()


def ends(run: Run, cell_id: str) -> dict[str, tuple[str, str]]:
    """How a cell's fleet calls ended, by target: the state and the reason."""
    found = run.events("target_ended")
    return {one["target"]: (one["state"], one["reason"]) for one in found if one["cell_id"] == cell_id}


def check_stopped(desk: Desk, run: Run, exit_code: int, number: signal.Signals) -> None:
    """The run was stopped by a signal, and everything says so."""
    record = check_run(run, status="interrupted", code=128 + number)
    assert (exit_code, record["reason"]) == (128 + number, f"stopped by {number.name}")
    assert run.events("stop_requested")[0]["signal"] == number.name
    assert not (desk.folder / "later").exists()


class Terminal:
    """A person at a terminal who starts `opsbook run book.ipynb` there."""

    def __init__(self, desk: Desk) -> None:
        self._ours, theirs = pty.openpty()
        size = {"TERM": "xterm", "COLUMNS": "100", "LINES": "30"}
        self.process = desk.fork("run", "book.ipynb", env={**desk.environment, **size}, terminal=theirs)
        os.close(theirs)
        self._said: list[bytes] = []
        self._closing = Event()
        self._reader = Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        while not self._closing.is_set():
            if not select.select([self._ours], [], [], 0.05)[0]:
                continue
            try:
                self._said.append(os.read(self._ours, 65536))
            except OSError:
                return  # the last process at the terminal has gone

    @property
    def shown(self) -> str:
        return b"".join(self._said).decode(errors="replace")

    def press(self, keys: bytes) -> None:
        os.write(self._ours, keys)

    def await_shown(self, words: str) -> None:
        wait_for(lambda: words in self.shown, seconds=START_S, what=f"{words!r} on the screen")

    def finish(self, *, seconds: float = 40) -> int:
        """Wait for the run's end, and return its exit code."""
        exit_code = self.process.wait(seconds)
        self._reader.join(10)
        return exit_code

    def close(self) -> None:
        """Close the window: what runs in it is hung up."""
        if not self._closing.is_set():
            self._closing.set()
            self._reader.join(10)
            os.close(self._ours)


@contextmanager
def at_a_terminal(desk: Desk) -> Iterator[Terminal]:
    terminal = Terminal(desk)
    try:
        yield terminal
    finally:
        terminal.process.kill()
        terminal.process.wait(10)
        terminal.close()


@contextmanager
def started(desk: Desk, *args: str) -> Iterator[Forked]:
    """Start a run without a terminal; a failed test does not leave it behind."""
    process = desk.fork("run", *(args or ("book.ipynb",)), start_new_session=True)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate(10)
