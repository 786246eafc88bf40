"""Two runs compared: what makes them differ, what does not, how cells find each other, and what is left uncompared."""

from __future__ import annotations

import io
import json
import time
from datetime import timedelta

import pytest
from archived import write_journal
from past_runs import NOON, ORIGIN, cell, write_run
from rich.cells import cell_len
from rich.console import Console
from support import Desk, code, notebook_text, parameters

from opsbook.archive.diff import KEPT, compare_runs
from opsbook.archive.history import read_run
from opsbook.archive.line_diff import MOST_LINES, diff_lines
from opsbook.errors import ArchiveError
from opsbook.model import event as e
from opsbook.model.run import CellState, RunState, RunTargets, TargetOutcome
from opsbook.model.target import TargetState
from opsbook.report.diff import diff_document, print_diff

CODE = {"cell-0": "import os", "cell-1": "%%on web\nuname -r", "cell-2": "print('done')"}


def make_run(root, tail, *, said=None, codes=None, answers=(), memes=None, **changes):
    """Write a run of cells with some code, what each said, and what targets answered to the second."""
    sources = CODE if codes is None else codes
    folder = write_run(root, *(cell(text) for text in sources.values()), tail=tail, **changes)
    record = json.loads(folder.record.read_bytes())
    for known, cell_id in zip(record["cells"], sources, strict=True):
        known["id"], known["label"] = cell_id, cell_id.title()
        known["meme"] = (memes or {}).get(cell_id, "")
    folder.record.write_text(json.dumps(record))
    folder.source.write_text(notebook_text([code(text, cell_id=name) for name, text in sources.items()]))
    events = []
    for cell_id, text in (said or {}).items():
        events += [e.CellStarted(cell_id=cell_id), e.CellOutput(cell_id=cell_id, stream="stdout", text=text)]
    for target, text in answers:
        ended = {"state": TargetState.OK, "stdout": text}
        events.append(e.TargetEnded(call=1, cell_id="cell-1", target=target, **ended))
    write_journal(folder.journal, events)
    return read_run(folder)


def compared(tmp_path, before, after):
    return compare_runs(make_run(tmp_path, 1, **before), make_run(tmp_path, 2, **after))


def test_two_runs_of_the_same_differ_in_nothing_however_long_they_took(tmp_path):
    table = "5 ok · {} · 3 hosts alike, 2 differ\nok  web1\n"
    one = {"said": {"cell-1": table.format("0:02")}, "answers": [("web1", "6.1\n")], "duration_s": 90.0}
    other = {**one, "said": {"cell-1": table.format("1:00:59")}, "at": NOON + timedelta(days=1), "duration_s": 9.0}
    found = compared(tmp_path, one, other)

    assert not found.differs
    assert (found.run, found.parameters, found.cells, found.targets, found.notes) == ((), (), (), (), ())
    assert next((one.name, one.before, one.after) for one in found.times) == ("run", 90.0, 9.0)


def test_a_reboot_is_known_by_another_id_each_time_and_that_is_no_difference(tmp_path):
    ids = ("11d2bf13-24e9-47fe-9b32-944ab3a0522f", "9c9e495f-0ad2-46bc-9cd4-27d68c64d695")
    sides = [{"said": {"cell-1": f"web1  boot id {one} -> {two}\n"}} for one, two in (ids, ids[::-1])]

    assert not compared(tmp_path, *sides).differs


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"status": RunState.FAILED}, "run"),
        ({"reason": "no lock"}, "run"),
        ({"parameters": {"stack": "prod"}}, "parameters"),
        ({"said": {"cell-0": "else\n"}}, "cells"),
        ({"codes": {**CODE, "cell-2": "print('over')"}}, "cells"),
        ({"answers": [("web1", "6.2\n")]}, "cells"),
        ({"targets": RunTargets(results={"web1": TargetOutcome(state=TargetState.FAILED, exit_code=1)})}, "targets"),
    ],
)
def test_each_of_these_makes_runs_differ_and_nothing_else_is_named(tmp_path, change, where):
    base = {"parameters": {"stack": "dev"}, "said": {"cell-0": "same\n"}, "answers": [("web1", "6.1\n")]}
    write = change.pop("targets", None)
    one, other = (
        make_run(tmp_path, 1, **base, targets=("web1",)),
        make_run(tmp_path, 2, **base | change, targets=("web1",)),
    )
    if write is not None:
        record = json.loads(other.folder.record.read_bytes())
        record["targets"]["results"]["web1"] = {"state": "failed", "exit_code": 1}
        other.folder.record.write_text(json.dumps(record))
        other = read_run(other.folder)
    found = compare_runs(one, other)

    assert found.differs
    assert {name for name in ("run", "parameters", "cells", "targets") if getattr(found, name)} == {where}


def test_the_time_a_target_took_and_the_place_of_its_spool_make_no_difference(tmp_path):
    runs = [make_run(tmp_path, tail, targets=("web1",)) for tail in (1, 2)]
    for number, run in enumerate(runs):
        record = json.loads(run.folder.record.read_bytes())
        why = f"lost; /root/.local/state/opsbook/{number}123456789abcdef01234567 keeps it"
        record["targets"]["results"]["web1"] = {"state": "lost", "reason": why, "duration_s": 1.0 + number}
        run.folder.record.write_text(json.dumps(record))

    assert not compare_runs(*(read_run(run.folder) for run in runs)).differs


def test_cells_find_each_other_by_meme_then_by_id_then_by_text(tmp_path):
    meme = f"{ORIGIN}-1-1a2b"
    one = {"codes": {"a": "1", "b": "2", "c": "3", "gone": "4"}, "memes": {"a": meme}}
    other = {"codes": {"new": "9", "b": "22", "x": "3", "a2": "11"}, "memes": {"a2": f"{ORIGIN}-1-ffff"}}
    found = compared(tmp_path, one, other)

    told = {change.label: (change.before, change.after, change.matched_by, change.moved) for change in found.cells}
    assert told.pop("A2") == (1, 4, "meme", False)
    assert told == {
        "B": (2, 2, "id", True),
        "X": (3, 3, "text", True),
        "Gone": (4, 0, "", False),
        "New": (0, 1, "", False),
    }
    (code_of_b,) = [change.code for change in found.cells if change.label == "B"]
    assert code_of_b.lines == ("@@ -1 +1 @@", "-2", "+22")
    assert [change.name for change in found.times] == ["run", "cell 4", "cell 2", "cell 3"]


def test_of_a_cell_that_was_tried_again_the_last_try_counts(tmp_path):
    run = make_run(tmp_path, 1, said={"cell-0": "well\n"})
    other = make_run(tmp_path, 2)
    other.folder.journal.unlink()
    tries = [e.CellOutput(cell_id="cell-0", stream="stdout", text=text) for text in ("badly\n", "well\n")]
    write_journal(other.folder.journal, [tries[0], e.CellStarted(cell_id="cell-0", attempt=2), tries[1]])

    assert not compare_runs(run, other).differs


def test_of_a_huge_output_the_beginning_is_compared_by_line_and_the_rest_as_a_whole(tmp_path):
    huge = "x\n" * KEPT
    same = compared(tmp_path, {"said": {"cell-0": huge}}, {"said": {"cell-0": huge}})
    assert not same.differs
    other = compared(tmp_path / "2", {"said": {"cell-0": huge}}, {"said": {"cell-0": f"{huge}y\n"}})
    (change,) = other.cells
    assert change.output.lines == ()
    assert change.output.note == "only the first 200,000 of 400,000 and 400,002 characters are compared line by line"


def test_a_difference_names_its_place_in_the_whole_text_and_is_bounded():
    before = [f"line {number}" for number in range(5000)]
    after = [*before[:4000], "new", *before[4001:]]
    found = diff_lines("\n".join(before), "\n".join(after))
    around = [f" line {number}" for number in (3997, 3998, 3999)]
    behind = [f" line {number}" for number in (4001, 4002, 4003)]
    assert list(found.lines) == ["@@ -3998,7 +3998,7 @@", *around, "-line 4000", "+new", *behind]

    begun = time.thread_time()
    others = [f"other {number}" for number in range(200_000)]
    found = diff_lines("\n".join(before), "\n".join(others))
    assert found.note.startswith("5,000 lines against 200,000:")
    assert len(found.lines) == 21
    many = ["a" * (number % 90) for number in range(MOST_LINES)]
    diff_lines("\n".join(many), "\n".join(reversed([*many, "x"])))
    assert time.thread_time() - begun < 8
    (_, minus, plus) = diff_lines("y" * 9000, "z").lines
    assert (minus, plus) == (f"-{'y' * 499}… (8,501 more characters)", "+z")
    assert diff_lines("a\nb", "a\nb\n").note == "only in how lines end"


def test_code_that_cannot_be_read_is_said_not_to_be_compared_and_a_damaged_run_is_refused(tmp_path):
    run, other = make_run(tmp_path, 1), make_run(tmp_path, 2)
    other.folder.source.write_text("{")
    assert compare_runs(run, other).notes == (
        f"the runbook kept with {other.folder.run_id} cannot be read: code was not compared",
    )
    other.folder.record.write_text("{")
    with pytest.raises(ArchiveError, match="is damaged"):
        compare_runs(run, read_run(other.folder))


def test_eighty_columns_are_enough_and_nothing_acts_on_the_screen(tmp_path):
    hostile = "\x1b]0;title\x07 ##[group] " + "wide 字 " * 60
    one = make_run(tmp_path, 1, said={"cell-0": "plain\n"}, parameters={"stack": "dev"}, targets=("web1",))
    other = make_run(
        tmp_path,
        2,
        said={"cell-0": f"{hostile}\n"},
        parameters={"stack": hostile, "a-name-that-is-too-long-for-its-column": [1]},
        status=RunState.FAILED,
        reason=hostile,
        user="eve\x1b[31m",
    )
    found = compare_runs(one, other)
    screen = io.StringIO()
    print_diff(found, Console(file=screen, width=80), runs=(one.record, other.record))

    shown = screen.getvalue()
    assert "\x1b" not in shown
    assert "\x07" not in shown
    assert "##[" not in shown
    assert [line for line in shown.splitlines() if cell_len(line) > 80] == []
    assert "they differ: how they ended, 2 parameters, 1 cell, 1 target" in shown
    assert "status        succeeded → failed" in shown
    assert "web1          ok → (none)" in shown
    document = json.loads(diff_document(found))
    assert document["differs"] is True
    assert document["parameters"][1] == {"name": "a-name-that-is-too-long-for-its-column", "after": [1]}
    assert document["cells"][0]["output"]["lines"][1] == "-plain"


def test_the_exit_code_says_whether_runs_differ(tmp_path):
    desk = Desk(tmp_path)
    desk.notebook(parameters("n: int = 1"), code("print(n + 1)", cell_id="say"), code("1 / (3 - n)", cell_id="div"))
    for number in (1, 1, 3):
        desk.opsbook("run", "book.ipynb", "-p", f"n={number}", "--quiet")
    first, second, third = (run.folder.name for run in desk.runs())

    assert desk.opsbook("diff", first, second).code == 0
    ran = desk.opsbook("diff", second, "last", "--json")
    assert (ran.code, ran.err) == (1, "")
    assert (ran.json["before"], ran.json["after"]) == (second, third)
    assert ran.json["parameters"] == [{"name": "n", "before": 1, "after": 3}]
    changed = {change["label"]: change for change in ran.json["cells"]}
    assert changed["print(n + 1)"]["output"]["lines"] == ["@@ -1 +1 @@", "-2", "+4"]
    assert changed["1 / (3 - n)"]["state"] == {"name": "state", "before": CellState.OK, "after": CellState.FAILED}
    assert {change["matched_by"] for change in changed.values()} == {"meme"}
    assert desk.opsbook("diff", "last", "nobody").code == 2
    same = desk.opsbook("diff", third, "last-failed")
    assert (same.code, same.out.splitlines()[2:]) == (0, ["", "both are the same run"])
