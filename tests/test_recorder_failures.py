"""A recorder that cannot write: everybody is told, nothing more is granted, and how a run ended is tried again."""

from __future__ import annotations

import errno
import os
import threading
import time

import pytest
from recording import (
    WAIT_S,
    Seen,
    busy,
    folded,
    full_disk,
    journalled,
    metric,
    record_in,
)

from opsbook.archive.layout import RunFolder
from opsbook.archive.links import digest_of
from opsbook.errors import ArchiveError
from opsbook.model import event as e
from opsbook.model.run import RunState
from opsbook.redaction import Redactor

pytest_plugins = ["recorder_desk"]
ENDED = e.RunEnded(status=RunState.FAILED, exit_code=5, reason="the disk was full")


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


def test_a_defect_of_ours_while_output_is_masked_is_told_at_once_and_lets_nothing_through(folder: RunFolder) -> None:
    class Broken(Redactor):
        def look(self, text: str, *, ends: bool) -> tuple[list[tuple[int, int]], int]:
            raise NameError(text)

    seen = Seen()
    recorder = record_in(folder, seen, redactor=Broken())
    begun = time.monotonic()
    recorder.submit(e.TargetOutput(call=1, target="web1", stream="stdout", text="hunter22\n"))
    with pytest.raises(ArchiveError, match="NameError"):
        recorder.commit_now(metric("after"))
    with pytest.raises(ArchiveError, match="NameError"):
        recorder.end(ENDED)
    recorder.close()
    assert time.monotonic() - begun < WAIT_S
    assert "NameError" in recorder.failure
    assert "hunter22" not in f"{recorder.failure}{seen.entries}{journalled(folder)}"


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
