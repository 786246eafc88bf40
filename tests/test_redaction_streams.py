"""Output in pieces on its way through the recorder: what is held back, for how long, and what every sink gets."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from opsbook.archive.copy import clean_document
from opsbook.archive.fold import RecordFold
from opsbook.archive.journal import read_journal
from opsbook.archive.layout import Claim, RunFolder, run_folder
from opsbook.archive.links import inspect_lines
from opsbook.execution.output_streams import OutputStreams
from opsbook.execution.recorder import Recorder
from opsbook.masked_stream import MaskedStream
from opsbook.model import event as e
from opsbook.model.run import Incident, Operator, RunbookRef, RunRecord, RunState
from opsbook.model.target import TargetState
from opsbook.redaction import MASK, Redactor

VALUE = "Zaubernuss-7"
KEY = "-----BEGIN OPENSSH PRIVATE KEY-----\n" + "b3BlbnNzaC1rZXktdjEA\n" * 9 + "-----END OPENSSH PRIVATE KEY-----\n"


@pytest.fixture
def redactor() -> Redactor:
    made = Redactor()
    made.add(VALUE, name="env:TOKEN")
    return made


def printed(text: str, stream: str = "stdout", cell: str = "a") -> e.CellOutput:
    return e.CellOutput(cell_id=cell, stream=stream, text=text)


def said(data: bytes, stream: str = "stdout", target: str = "web1") -> e.TargetOutput:
    text = data.decode("utf-8", "replace")
    return e.TargetOutput(call=1, target=target, stream=stream, text=text, raw=data if text.encode() != data else b"")


def target_ended(target: str = "web1") -> e.TargetEnded:
    return e.TargetEnded(call=1, cell_id="a", target=target, state=TargetState.OK, stdout=f"x {VALUE}\n")


# what is held back


@pytest.mark.parametrize(
    "line", ["nothing to see\n", "Zauberer\n", "ends like it: Zaubern\n", "http://host/path\n", "\x1b[31mred\x1b[0m\n"]
)
def test_a_line_that_cannot_be_the_beginning_of_anything_is_shown_at_once(redactor: Redactor, line: str) -> None:
    assert MaskedStream(redactor).feed(line) == line


def test_only_the_end_that_may_be_a_beginning_waits_and_no_longer_than_needed(redactor: Redactor) -> None:
    stream = MaskedStream(redactor)
    assert stream.feed("Progress 50% Zaub") == "Progress 50% "
    assert stream.feed("erer") == "Zauberer"
    assert stream.feed(" Zaubernuss") == " "
    assert stream.feed("-7.") == f"{MASK}."
    assert (stream.feed("Zau"), stream.end(), stream.end()) == ("", "Zau", "Zau"[:0])


def test_a_longer_secret_that_begins_with_a_shorter_one_is_masked_as_a_whole() -> None:
    redactor = Redactor()
    redactor.add("Zauber", "Zaubernuss-7")
    stream = MaskedStream(redactor)
    parts = [stream.feed(part) for part in ("a Zauber", "nuss-", "7 b Zauber", "ei")]
    assert "".join((*parts, stream.end())) == f"a {MASK} b {MASK}ei"


def test_a_flood_that_could_go_on_for_ever_is_not_held_back() -> None:
    redactor = Redactor()
    redactor.add("aaaa")
    stream = MaskedStream(redactor)
    shown = [stream.feed("a" * 1000) for _ in range(50)]
    assert shown[0] == MASK
    assert len(stream.kept) < 10
    assert "".join((*shown, stream.feed("b"), stream.end())) == f"{MASK}b"


def test_a_private_key_is_masked_in_whatever_pieces_it_comes() -> None:
    text = f"before\n{KEY}after\n"
    for size in (1, 7, 64, 1000):
        stream = MaskedStream(Redactor())
        parts = [stream.feed(text[at : at + size]) for at in range(0, len(text), size)]
        whole = "".join((*parts, stream.end()))
        assert "b3Blbn" not in whole, size
        assert whole.startswith("before\n-----BEGIN")
        assert whole.endswith("-----END OPENSSH PRIVATE KEY-----\nafter\n")


def test_a_character_whose_bytes_came_apart_is_one_again() -> None:
    redactor, stream = Redactor(), None
    redactor.add("Schlüssel")
    stream = MaskedStream(redactor)
    data = "der Schlüssel, \xff".encode() + b"\xff\xe2\x98"
    parts = [stream.feed(bytes([byte]).decode("utf-8", "surrogateescape")) for byte in data]
    whole = "".join((*parts, stream.end())).encode("utf-8", "surrogateescape")
    assert whole == data.replace("Schlüssel".encode(), b"***")


# through the recorder


def test_what_was_held_back_is_let_go_before_the_event_that_ends_its_stream(redactor: Redactor) -> None:
    streams = OutputStreams(redactor)
    cell = [printed("x Zauber"), printed("Zau", "stderr"), printed("nuss-7 y Z"), e.CellEnded(cell_id="a", state="ok")]
    passed = streams.masked(cell)
    assert [type(event).__name__ for event in passed[-3:]] == ["CellOutput", "CellOutput", "CellEnded"]
    shown = "".join(event.text for event in passed if isinstance(event, e.CellOutput) and event.stream == "stdout")
    assert shown == f"x {MASK} y Z"
    passed = streams.masked([said(b"Zaub"), said(b"Z", "stderr"), said(b"Zau", target="web2"), target_ended()])
    assert [getattr(event, "text", "") for event in passed] == ["Zaub", "Z", ""]
    passed = streams.masked([e.RunEnded(status=RunState.FAILED, exit_code=1)])
    assert [getattr(event, "text", "") for event in passed] == ["Zau", ""]


def test_streams_are_kept_apart_by_cell_call_target_and_name(redactor: Redactor) -> None:
    streams = OutputStreams(redactor)
    pieces = [printed("Zauber"), printed("Zauber", "stderr"), printed("Zauber", cell="b"), said(b"Zauber")]
    assert streams.masked(pieces) == []
    assert [event.text for event in streams.masked([said(b"nuss-7")])] == [MASK]
    assert [event.text for event in streams.masked([printed("nuss-7", cell="b")])] == [MASK]


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[RunFolder]:
    claim = Claim(run_folder(tmp_path, "20261120T120000Z-book-000000"))
    yield claim.folder
    claim.release()


class Seen:
    """An observer that keeps what it sees."""

    def __init__(self) -> None:
        self.events: list[e.Event] = []

    def observe(self, entry: e.Entry) -> None:
        self.events.append(entry.event)

    def close(self) -> None:
        pass


def recorder_in(folder: RunFolder, redactor: Redactor, *observers: Seen) -> Recorder:
    now = datetime(2026, 11, 20, 12, tzinfo=UTC)
    claimed = RunRecord(
        run_id=folder.run_id,
        status=RunState.RUNNING,
        runbook=RunbookRef(path="book.ipynb", title="Book", sha256="0" * 64),
        started_at=now,
        operator=Operator(user="u", host="h", pid=1),
    )
    return Recorder(folder, redactor, RecordFold(claimed), observers)


def test_journal_host_log_and_screen_get_what_came_in_pieces_masked(folder: RunFolder, redactor: Redactor) -> None:
    seen = Seen()
    recorder = recorder_in(folder, redactor, seen)
    for letter in f"<{VALUE}>":
        recorder.submit(printed(letter))
        recorder.submit(said(letter.encode()))
        recorder.submit(said(letter.encode(), "stderr"))
    recorder.submit(said(b"\xff Zaub"))
    recorder.submit(target_ended())
    recorder.end(e.RunEnded(status=RunState.SUCCEEDED, exit_code=0))
    recorder.close()
    log = folder.host_log("web1").read_bytes()
    assert log.count(MASK.encode()) == 2
    assert log.endswith(b"\xff Zaub")
    ended = [entry.event for entry in read_journal(folder.journal) if isinstance(entry.event, e.TargetEnded)]
    assert [(event.stdout, event.masked) for event in ended] == [(f"x {MASK}\n", True)]
    for shown in (log.decode("utf-8", "replace"), folder.journal.read_text(), repr(seen.events)):
        assert VALUE not in shown
        assert MASK in shown
    texts = "".join(entry.event.text for entry in read_journal(folder.journal) if isinstance(entry.event, e.CellOutput))
    assert texts == f"<{MASK}>"


# what becomes known later


def test_what_was_written_before_a_secret_was_known_is_masked_and_the_chain_made_anew(folder: RunFolder) -> None:
    redactor = Redactor()
    recorder = recorder_in(folder, redactor)
    recorder.submit(e.CellStarted(cell_id="a"))
    recorder.submit(printed("x Zauber"))
    recorder.submit(said(f"a\xff {VALUE}\n".encode("latin-1")))
    recorder.submit(printed("nuss-7 y"))
    recorder.submit(target_ended())
    recorder.settle()
    redactor.add(VALUE, name="env:TOKEN")
    recorder.submit(printed("later"))
    recorder.settle()
    assert VALUE not in folder.journal.read_text(), "it was little, and masked at once"
    recorder.scan()
    recorder.end(e.RunEnded(status=RunState.SUCCEEDED, exit_code=0))
    recorder.close()
    assert recorder.failure == ""
    lines = list(inspect_lines(folder.journal.read_bytes().splitlines(keepends=True)))
    assert [line.problem for line in lines] == [""] * 6
    assert lines[-1].hash == recorder.head
    assert VALUE not in folder.journal.read_text()
    assert folder.host_log("web1").read_bytes() == b"a\xff ***\n"
    events = [entry.event for entry in read_journal(folder.journal)]
    assert "".join(event.text for event in events if isinstance(event, e.CellOutput)) == f"x {MASK} ylater"
    assert [event.masked for event in events if isinstance(event, e.TargetEnded)] == [True]
    assert Incident(secret="env:TOKEN", file="events.jsonl", line=4) in recorder.incidents
    assert Incident(secret="env:TOKEN", file="hosts/web1.log", line=1) in recorder.incidents
    assert VALUE not in repr(recorder.incidents)


def test_a_secret_that_was_known_from_the_start_costs_no_second_look(folder: RunFolder, redactor: Redactor) -> None:
    recorder = recorder_in(folder, redactor)
    recorder.submit(printed("x"))
    recorder.settle()
    before = folder.journal.stat().st_ino
    redactor.add(VALUE)
    recorder.submit(printed("y"))
    recorder.settle()
    recorder.scan()
    recorder.close()
    assert not recorder._journal._distrusted
    assert folder.journal.stat().st_ino == before
    assert recorder.incidents == ()


# the executed copy


def test_what_is_torn_over_outputs_of_a_cell_or_lines_of_a_text_is_masked_in_the_copy(redactor: Redactor) -> None:
    def stream(name: str, text: str | list[str]) -> dict[str, object]:
        return {"output_type": "stream", "name": name, "text": text}

    shown = {"output_type": "display_data", "data": {"text/html": ["<b>Zauber", "nuss-7</b>"]}, "metadata": {}}
    outputs = [
        stream("stdout", "a Zauber"),
        shown,
        stream("stderr", "error Zaub"),
        stream("stdout", ["nuss", "-7 b Zaub"]),
        stream("stderr", "ernuss-7 c"),
    ]
    cell = {"cell_type": "code", "source": ["x = 'Zauber", "nuss-7'"], "metadata": {}, "outputs": outputs}
    document = {"metadata": {}, "cells": [cell]}
    (clean,) = clean_document(document, redactor)["cells"]
    assert clean["source"] == ["x = '***", "'"]
    assert [output.get("text") for output in clean["outputs"]] == ["a ***", None, "error ***", " b ***", " c"]
    assert clean["outputs"][1]["data"]["text/html"] == ["<b>***", "</b>"]
    assert VALUE not in json.dumps(clean)
