"""Whose words of a run are asked for: cells by number, id or MEME, targets by name or pattern.

A run knows its targets by name alone: the groups they were in are the inventory's, and no part of its record.
"""

from __future__ import annotations

from contextlib import suppress

import msgspec
from msgspec import Struct

from opsbook.archive.layout import RunFolder
from opsbook.archive.reading import open_regular
from opsbook.errors import InventoryError, UsageError
from opsbook.inventory.pattern import select
from opsbook.model.outcome import name_ranges
from opsbook.model.run import CellRecord, RunRecord
from opsbook.model.target import Inventory, Target
from opsbook.runbook.lineage import cell_origin
from opsbook.runbook.meme import parse_meme

_SHOWN = 8
"""Cells a hint names."""
_CALL = b'"call_started"'


class _Call(Struct, frozen=True):
    cell_id: str | None = None
    targets: tuple[str, ...] = ()


class _Line(Struct, frozen=True):
    event: _Call = _Call()


_DECODER = msgspec.json.Decoder(_Line)


class Choice(Struct, frozen=True, kw_only=True):
    """What is asked for."""

    cells: frozenset[str] | None = None
    """The ids of the cells; None for all, and for what is no cell's."""
    targets: tuple[str, ...] = ()
    cells_speak: bool = True
    """Whether what cells said themselves is asked for, besides what targets said to them."""

    @property
    def is_whole_run(self) -> bool:
        """Whether nothing is left out because of its cell."""
        return self.cells is None

    def has_cell(self, cell_id: str | None) -> bool:
        """Whether what was said in a cell is asked for."""
        return self.cells is None or cell_id in self.cells

    def has_several(self, record: RunRecord, folder: RunFolder, *, growing: bool) -> bool:
        """Whether more than one may speak: then each line needs a name. One that is `growing` may get more."""
        cells = sum(self.has_cell(cell.id) for cell in record.cells) if self.cells_speak else 0
        called = frozenset(self.targets) if growing or self.is_whole_run else self._called(folder)
        targets = sum(name in called and (growing or folder.host_log(name).is_file()) for name in self.targets)
        return cells + targets > 1

    def _called(self, folder: RunFolder) -> frozenset[str]:
        """Return the targets that the chosen cells gave something to do; only such lines of the journal are read."""
        names: set[str] = set()
        with suppress(OSError), open_regular(folder.journal) as stream:
            for line in stream:
                if _CALL in line:
                    with suppress(msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                        call = _DECODER.decode(line).event
                        names.update(call.targets if self.has_cell(call.cell_id) else ())
        return frozenset(names)


def choose(record: RunRecord, *, cell: str | None = None, target: str | None = None) -> Choice:
    """Return what is asked for; where a target is, cells do not speak themselves.

    Raises:
        UsageError: the run has no such cell, or no such target.
    """
    known = dict.fromkeys((*record.targets.selected, *record.targets.results))
    return Choice(
        cells=None if cell is None else frozenset(one.id for one in _cells(record, cell)),
        targets=tuple(known) if target is None else _targets(tuple(known), target, record.run_id),
        cells_speak=target is None,
    )


def _cells(record: RunRecord, text: str) -> list[CellRecord]:
    """Return the cell of this id or number, or the cells of this MEME or its origin."""
    meme = parse_meme(text)
    found = [one for one in record.cells if one.id == text or (meme is not None and one.meme == meme.text)]
    if not found and meme is not None:
        found = [one for one in record.cells if cell_origin(record, one) == meme.origin]
    if not found and text.isascii() and text.isdigit() and 0 < int(text[:9]) <= len(record.cells):
        found = [record.cells[int(text[:9]) - 1]]
    if not found:
        ids = ", ".join(one.id for one in record.cells[:_SHOWN])
        hint = f"1 to {len(record.cells)}, or by id: {ids}" if record.cells else "it has no code cells"
        raise UsageError(f"run {record.run_id} has no cell {text!r}", hint)
    return found


def _targets(known: tuple[str, ...], pattern: str, run_id: str) -> tuple[str, ...]:
    if pattern in known:
        return (pattern,)
    inventory = Inventory(targets=tuple(Target(name=name, host=name) for name in known), groups={"all": known})
    try:
        return tuple(target.name for target in select(inventory, pattern))
    except InventoryError:
        hint = f"its targets: {name_ranges(known[:_SHOWN])}" + (" and others" if len(known) > _SHOWN else "")
        raise UsageError(
            f"run {run_id} has no target {pattern!r}", hint if known else "it was given no targets"
        ) from None
