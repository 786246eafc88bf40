"""A part of a runbook: which cells a run of it executes, what it says of the others, and that it is never the whole."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from agreement import answered, check_agreement
from support import LOAD, Desk, code, parameters, prose

from opsbook.errors import UsageError
from opsbook.model.run import CellSelection
from opsbook.runbook.notebook import Runbook, read_runbook
from opsbook.runbook.selection import select_cells

MARKS = "open({!r}, 'w').close()"


def step(name: str, *tags: str) -> dict[str, object]:
    """Return a cell that leaves a file of its name."""
    return code(MARKS.format(name), *tags, cell_id=name)


BOOK = (
    prose("# Patch"),
    parameters("stack: str = 'dev'"),
    LOAD,
    prose("## Prepare"),
    step("silence", "quiet"),
    step("gate", "confirm"),
    prose("## Update the *stack*\n\nslowly"),
    step("update", "patch", "phase:Update"),
    prose("### Reboot"),
    step("reboot", "patch", "risky"),
    step("undo", "on-failure"),
    prose("## Afterwards"),
    step("verify", "check"),
    step("tidy", "always"),
    step("old", "skip", "patch"),
)
WORK = ("silence", "gate", "update", "reboot", "undo", "verify", "tidy")


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    made = Desk(tmp_path)
    made.notebook(*BOOK)
    return made


@pytest.fixture
def book(desk: Desk) -> Runbook:
    return read_runbook(desk.folder / "book.ipynb")


def chosen(book: Runbook, **selection: tuple[str, ...]) -> list[str]:
    """Which of the working cells are chosen."""
    cells = {cell.id: cell for cell in select_cells(book, CellSelection(**selection)).cells}
    assert not cells["parameters"].is_skipped
    assert not cells["load"].is_skipped
    assert cells["old"].left_out == "tagged skip"
    return [name for name in WORK if not cells[name].is_skipped]


@pytest.mark.parametrize(
    ("selection", "cells"),
    [
        ({}, list(WORK)),
        ({"sections": ("Update the stack",)}, ["update", "reboot", "undo"]),
        ({"sections": ("update THE  *stack*",)}, ["update", "reboot", "undo"]),
        ({"sections": ("Reboot",)}, ["reboot", "undo"]),
        ({"sections": ("Reboot", "Prepare")}, ["silence", "gate", "reboot", "undo"]),
        ({"sections": ("Patch",)}, list(WORK)),
        ({"only_tags": ("patch",)}, ["update", "reboot", "undo", "tidy"]),
        ({"only_tags": ("phase:Update", "check")}, ["update", "undo", "verify", "tidy"]),
        ({"skip_tags": ("risky", "always")}, ["silence", "gate", "update", "undo", "verify"]),
        ({"only_tags": ("patch",), "skip_tags": ("risky", "on-failure")}, ["update", "tidy"]),
        ({"sections": ("Update the stack",), "only_tags": ("risky",)}, ["reboot", "undo"]),
        ({"sections": ("Update the stack",), "only_tags": ("patch",), "skip_tags": ("risky",)}, ["update", "undo"]),
    ],
)
def test_sections_make_the_part_and_tags_choose_in_it(
    book: Runbook, selection: dict[str, tuple[str, ...]], cells: list[str]
) -> None:
    assert chosen(book, **selection) == cells


@pytest.mark.parametrize(
    ("selection", "what", "hint"),
    [
        ({"only_tags": ("patsh",)}, "no cell is tagged 'patsh'", "did you mean 'patch'?"),
        ({"skip_tags": ("zzz",)}, "no cell is tagged 'zzz'", "there are: 'parameters', 'quiet'"),
        ({"sections": ("Reboots",)}, "there is no heading 'Reboots'", "did you mean 'Reboot'?"),
        ({"sections": ("update stack",)}, "there is no heading", "did you mean 'Update the *stack*'?"),
        ({"sections": ("zzz",)}, "there is no heading 'zzz'", "there are: 'Patch', 'Prepare'"),
        ({"skip_tags": ("parameters",)}, "the parameters cell cannot be left out", "-p"),
        ({"sections": ("Prepare",), "only_tags": ("risky",)}, "no cell is left to run", "set-up"),
        ({"only_tags": ("always",)}, "no cell is left to run", "clean-up"),
        ({"only_tags": ("skip",)}, "no cell is left to run", "skipped"),
    ],
)
def test_what_names_nothing_is_refused_with_the_nearest(
    book: Runbook, selection: dict[str, tuple[str, ...]], what: str, hint: str
) -> None:
    with pytest.raises(UsageError) as caught:
        select_cells(book, CellSelection(**selection))
    assert what in str(caught.value)
    assert hint in caught.value.hint


def test_a_heading_that_is_there_twice_or_has_no_code_names_no_part(desk: Desk) -> None:
    book = read_runbook(desk.notebook(prose("## A"), code("1"), prose("## a"), code("2"), prose("## End")))
    with pytest.raises(UsageError, match="2 headings are called 'A'"):
        select_cells(book, CellSelection(sections=("A",)))
    with pytest.raises(UsageError, match="there is no code under 'End'"):
        select_cells(book, CellSelection(sections=("end",)))


def test_tags_take_no_gate_away(book: Runbook) -> None:
    def asking(**selection: tuple[str, ...]) -> list[str]:
        return [cell.id for cell in select_cells(book, CellSelection(**selection)).cells if cell.asks]

    assert asking() == ["gate"]
    assert asking(only_tags=("patch",)) == ["gate"]
    assert asking(skip_tags=("confirm",)) == ["gate"]
    assert asking(only_tags=("quiet",)) == []  # nothing runs behind it
    assert asking(sections=("Reboot",)) == []  # whoever names a section names its gates


def test_a_run_of_a_part_says_so_everywhere_and_is_no_success_of_the_runbook(desk: Desk) -> None:
    ran = desk.opsbook("run", "book.ipynb", "--section", "Update the stack", "--skip-tags", "risky")
    record = check_agreement(desk, ran, status="succeeded", code=0)
    states = {cell["id"]: (cell["state"], cell["reason"]) for cell in record["cells"]}
    outside = ("skipped", "not under Update the stack")
    assert states == {
        "parameters": ("ok", ""),
        "load": ("ok", ""),
        "silence": outside,
        "gate": outside,
        "update": ("ok", ""),
        "reboot": ("skipped", "tagged risky"),
        "undo": ("skipped", "nothing had failed"),
        "verify": outside,
        "tidy": outside,
        "old": ("skipped", "tagged skip"),
    }
    assert record["selection"] == {"sections": ["Update the stack"], "only_tags": [], "skip_tags": ["risky"]}
    assert sorted(name for name in WORK if (desk.folder / name).exists()) == ["update"]
    assert desk.run().notebook["metadata"]["opsbook"]["part"] == record["selection"]
    assert "succeeded (part of the runbook)" in ran.out
    assert "succeeded (part of the runbook)" in desk.opsbook("runs").out
    shown = " ".join(desk.opsbook("show", "last").out.split())
    assert "section Update the stack · skip tags risky" in shown
    assert "not under Update the stack" in shown
    assert "last run" not in desk.opsbook("show", "book.ipynb").out


def test_a_gate_of_the_part_is_asked_though_its_code_is_left_out(desk: Desk) -> None:
    ran = desk.opsbook("run", "book.ipynb", "--only-tags", "patch")
    assert (ran.code, desk.runs()) == (3, [])
    assert '"Prepare" has to be confirmed' in ran.err
    assert answered(desk, "n\n", "run", "book.ipynb", "--only-tags", "patch").code == 3
    refused = desk.run()
    assert refused.states == {**refused.states, "gate": "skipped", "update": "not_run", "tidy": "ok"}
    assert not (desk.folder / "update").exists()
    assert answered(desk, "y\n", "run", "book.ipynb", "--only-tags", "patch,check").code == 0
    assert not (desk.folder / "gate").exists()
    assert (desk.folder / "verify").exists()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--only-tags", "patsh"), "did you mean 'patch'?"),
        (("--section", "Reboot", "--skip-tags", "risky,"), "--skip-tags names nothing"),
    ],
)
def test_a_part_that_is_none_starts_nothing(desk: Desk, flags: tuple[str, ...], said: str) -> None:
    ran = desk.opsbook("run", "book.ipynb", "--yes", *flags)
    assert (ran.code, ran.out, desk.runs(), desk.kernels()) == (2, "", [], [])
    assert said in ran.err


def test_what_is_left_out_needs_no_inventory_and_is_in_no_plan(desk: Desk) -> None:
    desk.notebook(
        LOAD,
        prose("## Here"),
        code("print('here')", cell_id="here"),
        prose("## There"),
        code("%%on web\ntrue", "far", cell_id="there"),
    )
    assert desk.opsbook("run", "book.ipynb").code == 2
    assert desk.opsbook("run", "book.ipynb", "--section", "Here").code == 0
    desk.write("hosts.ini", "[web]\nweb1\n")
    listed = desk.opsbook("run", "book.ipynb", "-i", "hosts.ini", "--skip-tags", "far", "--list-targets", "--json")
    assert json.loads(listed.out)["cells"] == []
