"""What a person means by a runbook, a cell of one, a MEME or a run on the command line."""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct

from opsbook.archive.history import find_run
from opsbook.errors import UsageError
from opsbook.runbook.lineage import read_lineage
from opsbook.runbook.meme import parse_meme
from opsbook.runbook.notebook import Cell, Runbook, read_runbook

WHAT = "RUNBOOK|RUNBOOK#CELL|MEME|RUN"
_SHOWN = 8
"""Cells a hint names."""


class Subject(Struct, frozen=True, kw_only=True):
    """What is meant."""

    key: str
    """The origin of a runbook or a cell, or the id of a run."""
    words: str
    name: str
    """A short name for it."""


def subject_of(target: str, root: Path) -> Subject:
    """Return what is meant; a cell by its id, or by its number among the code cells, as runs count them.

    Raises:
        UsageError: there is no such thing.
    """
    path, reference = file_and_cell(target)
    if path is not None:
        runbook = read_runbook(path)
        lineage = read_lineage(runbook)
        if not reference:
            return Subject(key=lineage.origin, words=runbook.path.name, name=runbook.name)
        cell = _cell(runbook, reference)
        words = f'{runbook.path.name}#{cell.id} "{cell.label}"'
        return Subject(key=lineage.origin_of(cell.id), words=words, name=runbook.name)
    meme = parse_meme(target)
    if meme is not None:
        return Subject(key=meme.origin, words=meme.text, name="meme")
    run_id = find_run(root, target).folder.run_id
    return Subject(key=run_id, words=f"run {run_id}", name="run")


def file_and_cell(target: str) -> tuple[Path | None, str]:
    """Return the runbook a target names, if it does, and the cell behind its `#`."""
    name, mark, cell = target.rpartition("#")
    if mark and not Path(target).is_file() and (name.endswith(".ipynb") or Path(name).is_file()):
        return Path(name), cell
    return (Path(target), "") if target.endswith(".ipynb") or Path(target).is_file() else (None, "")


def _cell(runbook: Runbook, reference: str) -> Cell:
    """Return the cell of this id, or of this number among the code cells, as a run counts them."""
    by_id = next((cell for cell in runbook.cells if cell.id == reference), None)
    if by_id is not None:
        return by_id
    code = runbook.code_cells
    if reference.isascii() and reference.isdigit() and 0 < int(reference[:9]) <= len(code):
        return code[int(reference[:9]) - 1]
    known = ", ".join(cell.id for cell in code[:_SHOWN])
    raise UsageError(f"{runbook.path.name} has no cell {reference!r}", f"1 to {len(code)}, or by id: {known}")
