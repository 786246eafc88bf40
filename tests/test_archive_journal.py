"""The journal: chained, torn, followed by rubbish, changed, of a newer opsbook, with secrets in it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from archived import EVENTS, RUN_ID, VALUE, make_record, write_journal

from opsbook.archive.journal import FIRST, Journal, read_journal
from opsbook.errors import ArchiveError
from opsbook.model import event as e
from opsbook.model.run import CellError, CellState
from opsbook.redaction import MASK, Redactor


def test_a_journal_gives_back_what_was_recorded_numbered_and_chained(tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    entries = write_journal(file)
    assert list(read_journal(file)) == entries
    assert tuple(entry.event for entry in entries) == EVENTS
    assert [entry.seq for entry in entries] == list(range(1, len(EVENTS) + 1))
    lines = file.read_bytes().splitlines()
    assert [entry.prev for entry in entries] == [FIRST, *(hashlib.sha256(line).hexdigest() for line in lines[:-1])]
    assert all(entry.at.tzinfo is not None for entry in entries)


def test_events_appended_together_are_chained_as_those_appended_one_by_one(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j", Redactor())
    entries = journal.append(EVENTS[:3], durable=True) + journal.append([], durable=True)
    entries += journal.append(EVENTS[3:], durable=False)
    journal.close()
    assert list(read_journal(tmp_path / "j")) == entries


def test_a_journal_is_never_written_over(tmp_path: Path) -> None:
    write_journal(tmp_path / "j")
    with pytest.raises(ArchiveError, match="has lines already"):
        Journal(tmp_path / "j", Redactor())


def test_a_journal_torn_at_any_byte_gives_every_whole_line_before(tmp_path: Path) -> None:
    file, torn = tmp_path / "events.jsonl", tmp_path / "torn.jsonl"
    entries = write_journal(file)
    raw = file.read_bytes()
    for length in range(len(raw) + 1):
        torn.write_bytes(raw[:length])
        assert list(read_journal(torn)) == entries[: raw[:length].count(b"\n")], length


def test_a_journal_followed_by_rubbish_gives_every_line_before(tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    entries = write_journal(file)
    raw = file.read_bytes()
    junk = [
        b"\0" * 512,
        b"\xff\xfe\n",
        b'{"prev": "\xff"}\n',
        b"[]\n",
        b"null\n",
        b"\n",
        b"{}\n",
        b"[" * 100_000 + b"\n",
    ]
    for tail in junk:
        file.write_bytes(raw + tail)
        assert list(read_journal(file)) == entries, tail[:20]


def test_a_changed_removed_or_moved_line_ends_the_reading_there(tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    entries = write_journal(file)
    lines = file.read_bytes().splitlines(keepends=True)
    for place in range(len(lines) - 1):
        changed = lines[place].replace(b'"seq":', b'"seq": ')
        file.write_bytes(b"".join([*lines[:place], changed, *lines[place + 1 :]]))
        assert list(read_journal(file)) == entries[: place + 1]
        file.write_bytes(b"".join([*lines[:place], *lines[place + 1 :]]))
        assert list(read_journal(file)) == entries[:place]
        file.write_bytes(b"".join([*lines[: place + 1], *lines[place:]]))
        assert list(read_journal(file)) == entries[: place + 1]


def test_an_event_of_a_newer_kind_is_passed_over_and_an_unknown_field_or_state_is_read(tmp_path: Path) -> None:
    lines: list[bytes] = []
    for event in (
        {"type": "metric_recorded", "name": "a", "value": 1, "colour": "new"},
        {"type": "teleported", "to": "nowhere"},
        {"type": "cell_ended", "cell_id": "a", "state": "transcended"},
    ):
        prev = hashlib.sha256(lines[-1]).hexdigest() if lines else FIRST
        entry = {"seq": len(lines) + 1, "at": "2026-11-20T11:39:58Z", "prev": prev, "event": event, "new": 1}
        lines.append(json.dumps(entry).encode())
    (tmp_path / "j").write_bytes(b"\n".join(lines) + b"\n")
    assert [entry.event for entry in read_journal(tmp_path / "j")] == [
        e.MetricRecorded(name="a", value=1),
        e.CellEnded(cell_id="a", state=CellState.UNKNOWN),
    ]


def test_a_journal_that_is_not_there_is_empty(tmp_path: Path) -> None:
    assert list(read_journal(tmp_path / "none")) == []
    assert list(read_journal(tmp_path)) == []


def test_a_secret_is_masked_in_what_is_written_and_in_what_is_handed_on(tmp_path: Path) -> None:
    redactor = Redactor()
    redactor.add(VALUE)
    events = (
        e.CellOutput(cell_id="a", stream="stdout", text=f"token={VALUE}\n"),
        e.MetricRecorded(name="m", value={VALUE: [VALUE]}),
        e.CellEnded(cell_id="a", state=CellState.FAILED, error=CellError(name="E", text=VALUE)),
        e.RunStarted(run_id=RUN_ID, title=VALUE, parameters={"p": VALUE}, cells=make_record().cells),
    )
    entries = write_journal(tmp_path / "j", events, redactor)
    assert VALUE.encode() not in (tmp_path / "j").read_bytes()
    assert list(read_journal(tmp_path / "j")) == entries
    assert entries[0].event == e.CellOutput(cell_id="a", stream="stdout", text=f"token={MASK}\n")
    assert VALUE not in repr(entries)


@pytest.mark.parametrize(
    "value",
    ["2026", "0000", "type", "event", "prev", "metric_recorded", "state", "failed", "name", "cell_ended", "aaaa"],
)
def test_a_secret_that_looks_like_our_own_words_breaks_neither_chain_nor_states(tmp_path: Path, value: str) -> None:
    redactor = Redactor()
    redactor.add(value)
    pair: tuple[e.Event, ...] = (
        e.MetricRecorded(name="m", value=f"is {value}"),
        e.CellEnded(cell_id="a", state=CellState.FAILED),
    )
    events = pair * 40
    entries = write_journal(tmp_path / "j", events, redactor)
    assert list(read_journal(tmp_path / "j")) == entries
    assert entries[0].event == e.MetricRecorded(name="m", value=f"is {MASK}")
    assert entries[1].event == e.CellEnded(cell_id="a", state=CellState.FAILED)


def test_text_that_is_not_unicode_is_repaired_and_still_recorded(tmp_path: Path) -> None:
    entries = write_journal(tmp_path / "j", [e.CellOutput(cell_id="a", stream="stdout", text="a\ud800b"), EVENTS[1]])
    assert len(entries) == 2
    assert list(read_journal(tmp_path / "j")) == entries
