"""The recorder: one writer, in order, on disk before anybody is told, and nobody who follows can hold it up."""

from __future__ import annotations

import errno
import os
import resource
import stat
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from opsbook.archive.fold import RecordFold
from opsbook.archive.journal import read_journal
from opsbook.archive.layout import Claim, RunFolder, run_folder
from opsbook.archive.links import digest_of
from opsbook.errors import ArchiveError
from opsbook.execution import recorder as recording
from opsbook.execution.recorder import Recorder
from opsbook.model import event as e
from opsbook.model.outcome import Ending
from opsbook.model.protocol import Observer
from opsbook.model.run import CellState, Operator, RunbookRef, RunRecord, RunState
from opsbook.model.target import TargetState
from opsbook.redaction import MASK, Redactor

RUN_ID = "20261120T113958Z-patch-7f3a2c"
VALUE = "tr0ub4dor"
WAIT_S = 10.0


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[RunFolder]:
    claim = Claim(run_folder(tmp_path, RUN_ID))
    yield claim.folder
    claim.release()


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


def files(syncs: list[os.stat_result]) -> int:
    """How many of them were files."""
    return sum(stat.S_ISREG(one.st_mode) for one in syncs)


# order


def test_events_are_recorded_in_the_order_they_were_handed_in(folder: RunFolder) -> None:
    recorder = record_in(folder)
    for number in range(3000):
        recorder.submit(metric(number))
    recorder.close()
    assert journalled(folder) == [metric(number) for number in range(3000)]
    assert [entry.seq for entry in read_journal(folder.journal)] == list(range(1, 3001))


def test_each_threads_events_keep_their_order_among_those_of_others(folder: RunFolder) -> None:
    recorder = record_in(folder)

    def work(name: int) -> None:
        for number in range(200):
            recorder.submit(metric([name, number]))
        recorder.commit_now(metric([name, 200]))

    threads = [threading.Thread(target=work, args=(name,)) for name in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    recorder.close()
    pairs = [event.value for event in journalled(folder) if isinstance(event, e.MetricRecorded)]
    assert len(pairs) == 8 * 201
    for name in range(8):
        assert [number for who, number in pairs if who == name] == list(range(201))


def test_settling_waits_for_all_that_was_handed_in_before(folder: RunFolder) -> None:
    recorder = record_in(folder)
    for number in range(500):
        recorder.submit(metric(number))
    recorder.settle()
    assert len(journalled(folder)) == 500
    assert folded(recorder).metrics == {"m": 499}
    recorder.close()


# on disk


def test_an_acknowledgement_comes_only_after_the_event_is_on_disk(
    folder: RunFolder, syncs: list[os.stat_result]
) -> None:
    recorder = record_in(folder)
    told: list[tuple[str, int, int]] = []
    syncs.clear()
    for number in range(5):
        done = threading.Event()

        def tell(why: str, done: threading.Event = done) -> None:
            told.append((why, files(syncs), len(journalled(folder))))
            done.set()

        recorder.commit(metric(number), tell)
        assert done.wait(WAIT_S)
    assert told == [("", number + 1, number + 1) for number in range(5)]
    recorder.close()


def test_all_who_wait_at_the_same_time_share_one_sync(folder: RunFolder, syncs: list[os.stat_result]) -> None:
    recorder = record_in(folder)
    told: list[str] = []
    with busy(recorder):
        syncs.clear()
        for number in range(300):
            recorder.commit(metric(number), told.append)
        assert told == []
        assert syncs == []
    recorder.settle()
    assert told == [""] * 300
    assert (len(syncs), files(syncs)) == (1, 1)
    recorder.close()


def test_events_nobody_waits_for_are_not_synced_one_by_one_but_with_the_next_and_at_the_end(
    folder: RunFolder, syncs: list[os.stat_result]
) -> None:
    recorder = record_in(folder)
    syncs.clear()
    for number in range(50):
        recorder.submit(metric(number))
    recorder.settle()
    assert syncs == []
    recorder.commit_now(metric("last"))
    assert (len(syncs), files(syncs)) == (1, 1)
    recorder.submit(metric("after"))
    recorder.close()
    assert files(syncs) >= 2
    assert len(journalled(folder)) == 52


def test_a_mark_is_told_when_all_before_it_is_written(folder: RunFolder) -> None:
    recorder = record_in(folder)
    counts: list[int] = []
    recorder.submit(metric(1))
    recorder.mark(lambda _: counts.append(len(journalled(folder))))
    recorder.submit(metric(2))
    recorder.commit(None, lambda _: counts.append(len(journalled(folder))))
    recorder.close()
    assert counts[0] >= 1
    assert counts[1] == 2


def test_a_commit_without_an_event_puts_on_disk_what_came_before(
    folder: RunFolder, syncs: list[os.stat_result]
) -> None:
    recorder = record_in(folder)
    recorder.submit(metric(1))
    recorder.settle()
    syncs.clear()
    told: list[str] = []
    recorder.commit(None, told.append)
    recorder.settle()
    assert (told, len(syncs), files(syncs)) == ([""], 1, 1)
    recorder.close()


def test_a_caller_that_is_gone_when_it_is_told_stops_nobody(folder: RunFolder) -> None:
    recorder = record_in(folder)

    def gone(_: str) -> None:
        raise OSError("the other side is gone")

    told: list[str] = []
    with busy(recorder):
        recorder.commit(metric(1), gone)
        recorder.commit(metric(2), told.append)
    recorder.commit_now(metric(3))
    recorder.close()
    assert told == [""]
    assert journalled(folder) == [metric(1), metric(2), metric(3)]


# failure


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


def test_a_failure_is_told_to_everyone_who_waits_and_to_everyone_after(folder: RunFolder) -> None:
    recorder = record_in(folder)
    recorder.commit_now(metric("good"))
    told: list[str] = []
    with full_disk(recorder, folder):
        with busy(recorder):
            for number in range(20):
                recorder.commit(metric(number), told.append)
        with pytest.raises(ArchiveError, match="File too large"):
            recorder.commit_now(metric("later"))
    with pytest.raises(ArchiveError, match="File too large"):
        recorder.commit_now(metric("though there is space again"))
    assert len(told) == 20
    assert all("File too large" in why for why in told)
    assert "File too large" in recorder.failure
    recorder.close()
    assert journalled(folder) == [metric("good")]


def test_what_happened_when_nothing_could_be_recorded_is_true_all_the_same_but_what_was_intended_was_not_sent(
    folder: RunFolder,
) -> None:
    seen = Seen()
    recorder = record_in(folder, seen)
    recorder.commit_now(metric("good"))
    intents = [e.Intent(call=1, cell_id="a", target=name, digest="d", kind="run") for name in ("web1", "web2")]
    after = [e.MetricRecorded(name="at that moment", value=1), e.MetricRecorded(name="later", value=2)]
    with full_disk(recorder, folder):
        for event, intent in zip(after, intents, strict=True):
            with busy(recorder):
                recorder.submit(intent)
                recorder.submit(event)
            recorder.settle()
    recorder.fold.close()
    recorder.close()
    assert folded(recorder).metrics == {"m": "good", "at that moment": 1, "later": 2}
    assert folded(recorder).targets.results == {}
    assert [entry.event for entry in seen.entries] == [metric("good"), *after]
    assert journalled(folder) == [metric("good")]


ENDED = e.RunEnded(status=RunState.FAILED, exit_code=5, reason="the disk was full")


def test_how_a_run_ended_is_recorded_also_in_a_journal_that_could_not_be_written_before(folder: RunFolder) -> None:
    recorder = record_in(folder)
    recorder.commit_now(metric("good"))
    with full_disk(recorder, folder):
        recorder.submit(metric("lost"))
        with pytest.raises(ArchiveError, match="File too large"):
            recorder.end(ENDED)
    recorder.end(ENDED)
    recorder.close()
    assert journalled(folder) == [metric("good"), ENDED]
    assert recorder.head == digest_of(folder.journal.read_bytes().splitlines()[-1])


def test_nothing_is_recorded_behind_the_end_of_a_run(folder: RunFolder) -> None:
    recorder = record_in(folder)
    recorder.end(ENDED)
    head = recorder.head
    recorder.commit_now(e.StopRequested(signal="SIGTERM"))
    recorder.close()
    assert journalled(folder) == [ENDED]
    assert recorder.head == head


def test_when_the_disk_did_not_take_a_batch_for_sure_the_lines_after_it_still_follow(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = record_in(folder)
    real = os.fsync

    def fails(descriptor: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(ArchiveError, match="Input/output error"):
        recorder.commit_now(metric("perhaps"))
    monkeypatch.setattr(os, "fsync", real)
    recorder.end(ENDED)
    recorder.close()
    assert journalled(folder) == [metric("perhaps"), ENDED]


def test_an_intent_is_not_on_disk_in_a_journal_that_was_deleted(folder: RunFolder) -> None:
    recorder = record_in(folder)
    recorder.commit_now(metric("good"))
    folder.journal.unlink()
    with pytest.raises(ArchiveError, match="cannot append to the journal"):
        recorder.commit_now(metric("nowhere"))
    recorder.close()


def test_room_for_the_record_is_made_before_anything_is_sent(folder: RunFolder) -> None:
    asked: list[int] = []
    recorder = record_in(folder, make_room=asked.append)
    names = tuple(f"web{number}" for number in range(50))
    call = e.CallStarted(call=1, cell_id="a", kind="run", text="id", targets=names)
    for event in (call, call, metric("x" * 1000), e.CellStarted(cell_id="a")):
        recorder.commit_now(event)
    first, again, measured, nothing = asked
    assert first > 50 * 500
    assert (again, nothing) == (0, 0)
    assert 1000 < measured < 1200
    recorder.close()


def test_when_there_is_no_room_for_the_record_nothing_more_is_granted(folder: RunFolder) -> None:
    def no_room(size: int) -> None:
        if size:
            raise ArchiveError("cannot reserve room")

    recorder = record_in(folder, make_room=no_room)
    call = e.CallStarted(call=1, cell_id="a", kind="run", text="id", targets=("web1",))
    recorder.submit(call)
    with pytest.raises(ArchiveError, match="cannot reserve room"):
        recorder.commit_now(e.Intent(call=1, cell_id="a", target="web1", digest="d", kind="run"))
    recorder.close()
    assert journalled(folder) == []


@pytest.mark.parametrize("value", [object(), 1j], ids=["object", "complex"])
def test_an_event_that_cannot_be_written_is_a_failure_and_never_a_wait_without_end(
    folder: RunFolder, value: object
) -> None:
    recorder = record_in(folder)
    told: list[str] = []
    recorder.commit(metric(value), told.append)
    settled = threading.Thread(target=recorder.settle, daemon=True)
    settled.start()
    settled.join(WAIT_S)
    assert not settled.is_alive()
    assert told
    assert told[0] == recorder.failure != ""
    recorder.close()


def test_text_that_is_not_unicode_is_recorded_all_the_same(folder: RunFolder) -> None:
    recorder = record_in(folder)
    recorder.submit(e.CellOutput(cell_id="a", stream="stdout", text="a\ud800b"))
    recorder.submit(output("c\udcffd\n"))
    recorder.commit_now(metric(1))
    recorder.close()
    assert recorder.failure == ""
    assert len(journalled(folder)) == 2
    assert folder.host_log("web1").read_bytes() == b"c\xffd\n"


# host logs


def test_what_targets_say_goes_to_their_logs_and_not_into_the_journal(folder: RunFolder) -> None:
    recorder = record_in(folder)
    for number in range(3):
        recorder.submit(output(f"one {number}\n", "web1"))
        recorder.submit(output(f"two {number}\n", "web2"))
    recorder.commit_now(metric(1))
    recorder.close()
    assert folder.host_log("web1").read_text() == "one 0\none 1\none 2\n"
    assert folder.host_log("web2").read_text() == "two 0\ntwo 1\ntwo 2\n"
    assert stat.S_IMODE(folder.host_log("web1").stat().st_mode) == 0o600
    assert journalled(folder) == [metric(1)]


def test_targets_whose_names_look_alike_have_logs_of_their_own(folder: RunFolder) -> None:
    recorder = record_in(folder)
    names = ("web1", "WEB1", "東京", "大阪", "../web1", "2001:db8::1:2", "2001:db8:1::2")
    for name in names:
        recorder.submit(output(f"{name}\n", name))
    recorder.close()
    assert recorder.failure == ""
    assert [folder.host_log(name).read_text() for name in names] == [f"{name}\n" for name in names]


# secrets


def test_a_secret_reaches_neither_journal_nor_log_nor_observer(folder: RunFolder) -> None:
    redactor, seen = Redactor(), Seen()
    redactor.add(VALUE)
    recorder = record_in(folder, seen, redactor=redactor)
    recorder.submit(output(f"token={VALUE}\n"))
    recorder.submit(e.CellOutput(cell_id="a", stream="stdout", text=VALUE))
    ended = e.TargetEnded(
        call=1, cell_id="a", target="web1", state=TargetState.FAILED, stdout=VALUE, stderr=f"{VALUE}!"
    )
    recorder.submit(ended)
    recorder.close()
    assert VALUE.encode() not in folder.journal.read_bytes()
    assert folder.host_log("web1").read_text() == f"token={MASK}\n"
    assert VALUE not in repr(seen.entries)
    assert VALUE not in repr(folded(recorder))


@pytest.mark.parametrize("value", ["2026", "0000", "type", "failed", "metric_recorded"])
def test_a_secret_that_looks_like_our_own_words_stops_nothing(folder: RunFolder, value: str) -> None:
    redactor = Redactor()
    redactor.add(value)
    recorder = record_in(folder, redactor=redactor)
    recorder.commit_now(e.CellEnded(cell_id="a", state=CellState.FAILED))
    recorder.commit_now(metric(value))
    recorder.close()
    assert journalled(folder) == [e.CellEnded(cell_id="a", state=CellState.FAILED), metric(MASK)]


# observers


def test_observers_see_what_happened_in_its_order_on_their_own_thread_and_then_the_end(folder: RunFolder) -> None:
    first, second = Seen(), Seen()
    recorder = record_in(folder, first, second)
    call = e.CallStarted(call=1, cell_id="a", kind="run", text="id", targets=("web1",))
    ended = e.TargetEnded(call=1, cell_id="a", target="web1", state=TargetState.OK)
    events: Sequence[e.Event] = (call, output("one\n"), metric(1), output("two\n"), ended)
    with busy(recorder):
        for event in events:
            recorder.submit(event)
    recorder.close()
    for seen in (first, second):
        assert [entry.event for entry in seen.entries] == list(events)
        assert [entry.seq for entry in seen.entries] == [1, 0, 2, 0, 3]
        assert seen.closed == 1
        assert threading.current_thread().name not in seen.threads
    recorded = [entry for entry in first.entries if entry.seq]
    assert recorded == list(read_journal(folder.journal))


def test_an_observer_that_raises_stops_neither_the_run_nor_another_observer(folder: RunFolder) -> None:
    broken, seen = Raises(), Seen()
    recorder = record_in(folder, broken, seen)
    for number in range(10):
        recorder.commit_now(metric(number))
    recorder.close()
    assert len(journalled(folder)) == len(seen.entries) == len(broken.entries) == 10
    assert (seen.closed, broken.closed) == (1, 1)
    assert recorder.failure == ""


def test_an_observer_that_hangs_holds_up_neither_the_run_nor_another_observer(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording, "_QUEUE", 100)
    monkeypatch.setattr(recording, "_PATIENCE_S", 0.3)
    hangs, seen = Hangs(), Seen()
    recorder = record_in(folder, hangs, seen)
    began = time.monotonic()
    for number in range(500):
        recorder.submit(metric(number))
        recorder.submit(output("x\n"))
    recorder.commit_now(metric("last"))
    recorder.commit_now(metric("and one more"))
    assert time.monotonic() - began < 3
    recorder.close()
    assert time.monotonic() - began < 5
    hangs.go.set()
    assert len(journalled(folder)) == 502
    metrics = [entry.event for entry in seen.entries if entry.seq]
    assert metrics == journalled(folder)
    assert recorder.failure == ""


def test_a_slow_observer_loses_output_before_anything_else(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "_QUEUE", 20)
    slow = Hangs()
    recorder = record_in(folder, slow)
    for number in range(200):
        recorder.submit(output(f"{number}\n"))
    recorder.settle()
    assert len(folder.host_log("web1").read_text().splitlines()) == 200
    recorder.settle()
    slow.go.set()
    recorder.submit(metric(1))
    recorder.close()
    assert journalled(folder) == [metric(1)]
    assert recorder.failure == ""
