"""Who follows a run: all of it, in order, on a thread of its own, and nobody who follows can hold it up."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

import pytest
from recording import (
    Hangs,
    Raises,
    Seen,
    busy,
    journalled,
    metric,
    output,
    record_in,
)

from opsbook.archive.journal import read_journal
from opsbook.archive.layout import RunFolder
from opsbook.execution import pump
from opsbook.model import event as e
from opsbook.model.target import TargetState

pytest_plugins = ["recorder_desk"]


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
    monkeypatch.setattr(pump, "_QUEUE", 100)
    monkeypatch.setattr(pump, "_PATIENCE_S", 0.3)
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
    monkeypatch.setattr(pump, "_QUEUE", 20)
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
