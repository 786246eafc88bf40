"""The recorder: one writer, in order, and on disk before anybody is told."""

from __future__ import annotations

import os
import stat
import threading

import pytest
from recording import (
    WAIT_S,
    Seen,
    busy,
    folded,
    journalled,
    metric,
    output,
    record_in,
)

from opsbook.archive.journal import read_journal
from opsbook.archive.layout import RunFolder
from opsbook.model import event as e
from opsbook.model.run import CellState
from opsbook.model.target import TargetState
from opsbook.redaction import MASK, Redactor

pytest_plugins = ["recorder_desk"]
VALUE = "tr0ub4dor"


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
