"""A recorder of a run's folder, what it has written, and observers of every kind."""

from __future__ import annotations

import resource
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from opsbook.archive.fold import RecordFold
from opsbook.archive.journal import read_journal
from opsbook.archive.layout import RunFolder
from opsbook.execution.recorder import Recorder
from opsbook.model import event as e
from opsbook.model.outcome import Ending
from opsbook.model.protocol import Observer
from opsbook.model.run import Operator, RunbookRef, RunRecord, RunState
from opsbook.redaction import Redactor

RUN_ID = "20261120T113958Z-patch-7f3a2c"
WAIT_S = 10.0


def record_in(
    folder: RunFolder,
    *observers: Observer,
    redactor: Redactor | None = None,
    make_room: Callable[[int], None] = lambda _: None,
) -> Recorder:
    claimed = RunRecord(
        run_id=RUN_ID,
        status=RunState.RUNNING,
        runbook=RunbookRef(path="patch.ipynb", title="Patch", sha256="0" * 64),
        started_at=datetime.now(UTC),
        operator=Operator(user="maya", host="here", pid=1),
    )
    return Recorder(folder, redactor or Redactor(), RecordFold(claimed), observers, make_room=make_room)


def metric(value: object) -> e.MetricRecorded:
    return e.MetricRecorded(name="m", value=value)


def output(text: str, target: str = "web1") -> e.TargetOutput:
    return e.TargetOutput(call=1, target=target, stream="stdout", text=text)


def journalled(folder: RunFolder) -> list[e.Event]:
    return [entry.event for entry in read_journal(folder.journal)]


def folded(recorder: Recorder) -> RunRecord:
    return recorder.fold.record(recorder.fold.judge(Ending()), datetime.now(UTC))


@contextmanager
def busy(recorder: Recorder) -> Iterator[None]:
    """Hold the recorder's thread, so that what is handed in meanwhile gathers in its queue."""
    held, go = threading.Event(), threading.Event()

    def hold(_: str) -> None:
        held.set()
        assert go.wait(WAIT_S)

    recorder.mark(hold)
    assert held.wait(WAIT_S)
    try:
        yield
    finally:
        go.set()


class Seen:
    """An observer that keeps what it sees."""

    def __init__(self) -> None:
        self.entries: list[e.Entry] = []
        self.threads: set[str] = set()
        self.closed = 0

    def observe(self, entry: e.Entry) -> None:
        self.entries.append(entry)
        self.threads.add(threading.current_thread().name)

    def close(self) -> None:
        self.closed += 1


class Raises(Seen):
    """An observer that is broken."""

    def observe(self, entry: e.Entry) -> None:
        super().observe(entry)
        raise RuntimeError("a broken view")

    def close(self) -> None:
        super().close()
        raise RuntimeError("a broken view")


class Hangs(Seen):
    """An observer that never comes back, until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()

    def observe(self, entry: e.Entry) -> None:
        self.go.wait(60)


@contextmanager
def full_disk(recorder: Recorder, folder: RunFolder) -> Iterator[None]:
    """Let no file grow beyond what the journal has now: the system's own limit, lifted again at the end."""
    recorder.settle()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (folder.journal.stat().st_size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
