"""Which targets a runbook's `%%on` cells would reach, in which waves, before anything runs.

Each line is read by the parser that reads it in the notebook, and selects in the same fleet. What Python cells choose
is not guessed at: they are named. Connects to nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec.structs import replace

from opsbook.errors import OpsbookError
from opsbook.fleet.fleet import Fleet
from opsbook.fleet.limit import Limit
from opsbook.fleet.magic import read_line, variables_in
from opsbook.fleet.session import Session
from opsbook.model.message import RunOptions
from opsbook.model.parameter import Binding
from opsbook.model.plan import Plan, PlannedCell
from opsbook.model.target import Inventory
from opsbook.redaction import Secret
from opsbook.runbook.notebook import Cell, Runbook
from opsbook.secrets.resolve import resolve


def plan_targets(
    runbook: Runbook,
    binding: Binding,
    *,
    inventory: Inventory | None,
    pattern: str | None,
    selected: tuple[str, ...],
    options: RunOptions,
) -> Plan:
    """Return what a run with these parameters would ask of which targets."""
    session = Session(inventory=inventory, selected=selected, options=options, channel=None)
    known = {
        name: Secret(str(value), resolve) if name in binding.secrets else value
        for name, value in binding.values.items()
    }
    cells = [cell for cell in runbook.code_cells if not cell.is_skipped]
    return Plan(
        runbook=runbook.name,
        pattern=pattern,
        selected=selected,
        cells=tuple(_planned(cell, session, known) for cell in cells if cell.fans_out),
        python=tuple(dict.fromkeys(cell.label for cell in cells if cell.asks_for_targets)),
    )


def _planned(cell: Cell, session: Session, known: Mapping[str, object]) -> PlannedCell:
    """Plan one `%%on` cell; what is wrong with its line is said, not raised: the others count too."""
    cell_alone = PlannedCell(id=cell.id, index=cell.index, label=cell.label, line=cell.line, changes=cell.changes)
    unknown = [name for name in variables_in(cell.line) if name not in known]
    if unknown:
        return replace(cell_alone, open=f"{', '.join(unknown)}: no parameter with a value, so a cell sets it")
    try:
        flags = read_line(cell.line, known)
        fleet = Fleet(session, session.select(flags["pattern"]))
        limit = Limit(session.options.max_fail if flags["max_fail"] is None else flags["max_fail"], fleet)
        waves = tuple(wave.names for wave in fleet.waves(flags["waves"])) if flags["waves"] else ()
    except OpsbookError as error:
        return replace(cell_alone, problem=str(error))
    return replace(cell_alone, targets=fleet.names, waves=waves, limit=limit.most)
