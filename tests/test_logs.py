"""What a run's cells and targets said, read back: whole, in order, by cell and by target; in process."""

from __future__ import annotations

import fcntl
import io
import json
from datetime import UTC, datetime

import pytest
from archived import write_journal
from past_runs import ORIGIN, cell, write_run
from rich.console import Console

from opsbook.archive.files import write_whole
from opsbook.archive.history import read_run
from opsbook.archive.journal import Journal
from opsbook.archive.line_pattern import LinePattern, PatternError
from opsbook.archive.log_choice import choose
from opsbook.archive.logs import LONGEST_LINE, RunLog, follow_batches, read_batches
from opsbook.errors import UsageError
from opsbook.model import event as e
from opsbook.model.run import CellState, Incident
from opsbook.model.target import TargetState
from opsbook.redaction import Redactor
from opsbook.report.logs import JsonLog, RawLog, TextLog, found

SAID = ("one\n", "two\nhalf", " of three\n", "four without an end")


def told(cell_id, *texts, stream="stdout"):
    output = [e.CellOutput(cell_id=cell_id, stream=stream, text=text) for text in texts]
    return [e.CellStarted(cell_id=cell_id), *output, e.CellEnded(cell_id=cell_id, state=CellState.OK)]


def ended(target, stdout="", stderr="", *, cell_id="cell-1", call=1, **more):
    known = {"state": TargetState.OK, "stdout": stdout, "stderr": stderr, **more}
    return e.TargetEnded(call=call, cell_id=cell_id, target=target, **known)


def make_run(root, events, logs=None, **changes):
    folder = write_run(root, cell("a"), cell("%%on web"), cell("c"), targets=tuple(logs or ()), **changes)
    (folder.path / "hosts").mkdir()
    for target, text in (logs or {}).items():
        folder.host_log(target).write_bytes(text if isinstance(text, bytes) else text.encode())
    write_journal(folder.journal, events)
    return folder


def log_of(folder, **asked):
    record = read_run(folder).record
    return RunLog(folder, record, choose(record, **asked))


def shown(folder, **asked):
    log = log_of(folder, **asked)
    lines = [line for batch in read_batches(log) for line in batch]
    return [f"{line.target or line.cell}: {line.text}" for line in lines], list(log.notes)


def test_lines_are_put_together_from_their_pieces_and_streams_do_not_mix(tmp_path):
    mixed = told("cell-0", *SAID)
    mixed.insert(3, e.CellOutput(cell_id="cell-0", stream="stderr", text="aside\n"))
    lines, notes = shown(make_run(tmp_path, [*mixed, *told("cell-2", "last\n")]))

    assert lines == ["1: one", "1: two", "1: aside", "1: half of three", "1: four without an end", "3: last"]
    assert notes == []


def test_what_targets_said_stands_where_the_journal_tells_that_it_was_said(tmp_path):
    events = [
        *told("cell-0", "before\n"),
        ended("web1", "a\nb\n", "aside\n"),
        ended("web2", "x\n"),
        *told("cell-1", "table\n"),
        ended("web1", "c\n", cell_id="cell-2", call=2),
        *told("cell-2", "after\n"),
    ]
    folder = make_run(tmp_path, events, {"web1": "a\naside\nb\nc\n", "web2": "x\n"})

    lines, notes = shown(folder)
    assert lines == [
        *("1: before", "web1: a", "web1: aside", "web1: b", "web2: x", "2: table"),
        *("web1: c", "3: after"),
    ]
    assert notes == []
    assert shown(folder, target="web1")[0] == ["web1: a", "web1: aside", "web1: b", "web1: c"]
    assert shown(folder, cell="2")[0] == ["web1: a", "web1: aside", "web1: b", "web2: x", "2: table"]
    assert shown(folder, cell="cell-2", target="web*")[0] == ["web1: c"]


def test_what_a_log_has_besides_is_not_lost_and_its_place_is_said_to_be_unknown(tmp_path):
    events = [ended("web1", "mine\n"), *told("cell-2", "after\n"), ended("web1", "more\n", call=2)]
    lines, notes = shown(make_run(tmp_path, events, {"web1": "other\nlines\nmore\n"}))

    assert lines == ["3: after", "web1: other", "web1: lines", "web1: more"]
    assert "web1: which command said which lines is not known" in notes[0]


def test_lines_between_two_calls_that_are_known_stand_before_the_second(tmp_path):
    events = [
        ended("web1", "up\n"),
        ended("web1", "boot id 1 -> 2\n", kind="reboot", call=2),
        ended("web1", "0\n", cell_id="cell-2", call=3),
    ]
    folder = make_run(tmp_path, [*events, *told("cell-2", "after\n")], {"web1": "up\ngoing down\nback\n0\n"})

    assert shown(folder)[0] == ["web1: up", "web1: going down", "web1: back", "web1: 0", "3: after"]
    assert shown(folder, cell="2")[0] == ["web1: up", "web1: boot id 1 -> 2", "web1: going down", "web1: back"]
    assert shown(folder, cell="3")[0] == ["web1: 0", "3: after"]


def test_of_a_call_whose_output_the_journal_has_cut_a_cell_shows_its_ends_and_says_so(tmp_path):
    events = [ended("web1", "first\n…\nlast\n", truncated=True), *told("cell-1", "table\n")]
    folder = make_run(tmp_path, events, {"web1": "first\nmiddle\nlast\n"})

    lines, notes = shown(folder, cell="2")
    assert lines == ["web1: first", "web1: …", "web1: last", "2: table"]
    assert "web1: only the ends of what was said" in notes[0]
    assert shown(folder, target="web1")[0] == ["web1: first", "web1: middle", "web1: last"]
    alike = make_run(tmp_path / "2", [ended("web1", "y\n" * 2, truncated=True)], {"web1": "y\n" * 5})
    assert shown(alike, cell="2") == (["web1: y"] * 2, notes)


def test_an_answer_from_an_earlier_run_was_not_said_in_this_one(tmp_path):
    folder = make_run(tmp_path, [ended("web1", "then\n", replayed=True), ended("web1", "now\n")], {"web1": "now\n"})

    assert shown(folder)[0] == shown(folder, cell="2")[0] == ["web1: now"]


def test_what_was_said_to_a_command_nobody_saw_the_end_of_belongs_to_its_cell(tmp_path):
    call = e.CallStarted(call=1, cell_id="cell-1", kind="run", text="sleep", targets=("web1",))
    folder = make_run(tmp_path, [call], {"web1": "half\n"})

    assert shown(folder, cell="2")[0] == ["web1: half"]
    assert shown(folder, cell="1")[0] == []


def test_a_journal_that_is_torn_shows_what_it_has_and_says_that_there_was_more(tmp_path):
    folder = make_run(tmp_path, told("cell-0", "one\n", "two\n"))
    lines = folder.journal.read_bytes().splitlines(keepends=True)
    folder.journal.write_bytes(b"".join([*lines[:2], lines[2].replace(b"two", b"six"), *lines[3:]]))

    said, notes = shown(folder)
    assert said == ["1: one", "1: six"]
    assert notes == ["the journal is torn or damaged behind line 3: nothing of what follows is shown"]
    with (folder.path / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # a run that goes on is in the middle of a line, now and then
        assert shown(folder) == (said, [])


def test_a_line_longer_than_memory_has_room_for_is_broken(tmp_path):
    folder = make_run(tmp_path, told("cell-0", *["x" * (LONGEST_LINE // 2)] * 5))

    batches = list(read_batches(log_of(folder)))
    assert sum(len(line.text) for batch in batches for line in batch) == LONGEST_LINE // 2 * 5
    assert max(sum(len(line.text) for line in batch) for batch in batches) <= 2 * LONGEST_LINE


def test_a_cell_is_named_by_number_id_or_meme_and_one_that_is_not_there_is_refused(tmp_path):
    folder = make_run(tmp_path, [*told("cell-0", "a\n"), *told("cell-2", "c\n")])
    record = json.loads(folder.record.read_bytes())
    record["cells"][2]["meme"] = f"{ORIGIN}-2-1a2b-3c4d"
    folder.record.write_text(json.dumps(record))

    for name in ("3", "cell-2", ORIGIN, f"{ORIGIN}-2-1a2b-3c4d"):
        assert shown(folder, cell=name)[0] == ["3: c"], name
    for name in ("4", "0", "-1", "²", "cell-9", "7f9a0f6e-c1b4-11f0-8de9-0242ac120003"):
        with pytest.raises(UsageError, match="has no cell") as refused:
            shown(folder, cell=name)
        assert "1 to 3, or by id: cell-0, cell-1, cell-2" in refused.value.hint
    with pytest.raises(UsageError, match="has no target 'db'") as refused:
        shown(folder, target="db")
    assert refused.value.hint == "it was given no targets"


def test_each_line_has_a_name_when_more_than_one_may_speak(tmp_path):
    several = make_run(tmp_path, [], {"web1": "", "web2": ""})
    record = read_run(several).record
    named = {
        asked: choose(record, **dict(asked)).has_several(record, several, growing=False)
        for asked in ((), (("cell", "1"), ("target", "web1")), (("target", "web*"),), (("target", "web1"),))
    }
    assert list(named.values()) == [True, False, True, False]


HOSTILE = "\x1b[31mred\x1b[0m \x1b]0;title\x07 back\rhere \u202e##[group]x\n::set-env name=PATH::/tmp\r\n"


def test_what_is_printed_does_nothing_and_raw_is_what_was_said(tmp_path):
    folder = make_run(tmp_path, [], {"web1": HOSTILE.encode() + b"\xff\n"})
    (batch,) = read_batches(log_of(folder, target="web1"))

    screen = io.StringIO()
    TextLog(Console(file=screen, width=80), named=True).write(batch)
    assert screen.getvalue().splitlines() == [
        r"web1 | red \x1b]0;title\a back\rhere \u202e# #[group]x",
        "web1 | ::set-env name=PATH::/tmp",
        "web1 | \ufffd",
    ]
    bare = io.StringIO()
    TextLog(Console(file=bare, width=80), named=False).write(batch)
    assert bare.getvalue().splitlines()[1] == ": :set-env name=PATH::/tmp"
    raw = io.BytesIO()
    RawLog(raw, named=False).write(batch)
    assert raw.getvalue() == HOSTILE.encode() + b"\xff\n"


def test_json_is_one_document_with_what_is_known_of_each_line(tmp_path):
    folder = make_run(tmp_path, [*told("cell-0", "a\n"), ended("web1", "b\n")], {"web1": "b\n\xff"})
    log, out = log_of(folder), io.BytesIO()
    sink = JsonLog(out, run_id=folder.run_id)
    for batch in read_batches(log):
        sink.write(batch)
    sink.end(log.notes)

    document = json.loads(out.getvalue())
    at = document["lines"][0].pop("at")
    assert datetime.fromisoformat(at).tzinfo == UTC
    assert document == {
        "run_id": folder.run_id,
        "lines": [
            {"text": "a", "cell": 1, "target": "", "stream": "stdout"},
            {"text": "b", "at": None, "cell": 2, "target": "web1", "stream": ""},
            {"text": "ÿ", "at": None, "cell": 0, "target": "web1", "stream": ""},
        ],
        "notes": [],
    }


def test_grep_finds_what_is_shown_and_says_where_an_expression_is_wrong(tmp_path):
    folder = make_run(tmp_path, told("cell-0", "\x1b[31merror\x1b[0m: no lock\n", "fine\n"))
    (batch,) = read_batches(log_of(folder))

    assert [line.text for line in found(batch, LinePattern("^error: no"))] == [batch[0].text]
    for text, at in (("a(b", 1), ("x[", 1), ("*", 0)):
        with pytest.raises(PatternError) as wrong:
            LinePattern(text)
        assert (wrong.value.text, wrong.value.at) == (text, at)
        assert f"at character {at + 1}" in str(wrong.value)


def test_an_expression_that_takes_for_ever_is_ended(tmp_path):
    folder = make_run(tmp_path, told("cell-0", "a" * 60 + "!\n"))
    (batch,) = read_batches(log_of(folder))

    with pytest.raises(UsageError, match="for a few lines"):
        found(batch, LinePattern("(a+)+$", budget_s=0.2))


def test_who_follows_sees_what_comes_once_also_when_files_are_replaced_at_the_end(tmp_path):
    folder = make_run(tmp_path, [], {"web1": "one secret\nhal"})
    folder.journal.unlink()
    journal = Journal(folder.journal, Redactor())
    journal.append(told("cell-0", "first\n")[:2], durable=False)
    log = log_of(folder)

    def new():
        return [f"{line.target or line.cell}: {line.text}" for line in log.new()]

    assert new() == ["1: first"]
    log.follow()
    assert new() == ["web1: one secret"]
    with folder.host_log("web1").open("ab") as more:
        more.write(b"f\nnext\n")
    journal.append([e.CellOutput(cell_id="cell-0", stream="stdout", text="second\n")], durable=False)
    assert new() == ["1: second", "web1: half", "web1: next"]
    write_whole(folder.host_log("web1"), b"one ***\nhalf\nnext\nlast\n")
    knows = Redactor()
    knows.add("second")
    journal.distrust()
    incidents: list[Incident] = []
    journal.mask_again(knows, incidents.append, insist=True)
    assert incidents
    journal.append([e.CellOutput(cell_id="cell-0", stream="stdout", text="third\n")], durable=False)
    assert new() == ["1: third", "web1: last"]
    assert new() == []
    journal.close()
    with folder.host_log("web1").open("ab") as more:
        more.write(b"cut o")
    assert [line.text for batch in follow_batches(log, folder) for line in batch] == ["cut o"]


def test_who_follows_goes_on_in_a_file_that_was_written_over_or_has_the_number_of_an_old_one(tmp_path):
    folder = make_run(tmp_path, told("cell-0", "long secret\n", "a\n"), {"web1": "long secret\nhalf"})
    log = log_of(folder)
    log.follow()
    assert [line.text for line in log.new()] == ["long secret", "a", "long secret"]
    masked = told("cell-0", "***\n", "a\n", "next\n")
    write_journal(tmp_path / "masked", masked)
    folder.journal.write_bytes((tmp_path / "masked").read_bytes())
    folder.host_log("web1").write_bytes(b"***\nhalf\nnew\n")
    assert [line.text for line in log.new()] == ["half", "new"], "the entry's number was seen before"
    folder.host_log("web1").write_bytes(b"***\n***\nnew\n" + b"and more\n" * 9)
    write_journal(tmp_path / "more", [*masked, *told("cell-2", "last\n")])
    folder.journal.write_bytes((tmp_path / "more").read_bytes())
    assert [line.text for line in log.new()] == ["last", *["and more"] * 9]
    assert list(log.notes) == []
    folder.journal.write_bytes(b"")
    folder.host_log("web1").write_bytes(b"")
    assert [list(log.new()) for _ in range(2)] == [[], []]


def test_a_file_that_is_no_journal_and_a_link_for_a_log_hurt_nobody(tmp_path):
    folder = make_run(tmp_path, [], {"web1": ""})
    folder.host_log("web1").unlink()
    folder.host_log("web1").symlink_to("/etc/hostname")
    folder.journal.write_bytes(b"\0" * 100)

    assert shown(folder) == ([], ["the journal is torn or damaged behind line 0: nothing of what follows is shown"])
