"""Which targets a runbook's cells would reach, and those of `%%on` in which waves, before anything runs.

Each line is read by the parser that reads it in the notebook, and selects in the same fleet. Of Python, `targets(...)`
is read where its pattern is a text, or made of parameters; else nothing is guessed at: such a cell is named, and a
variable that a cell may set is not known. Connects to nothing.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Mapping

from msgspec.structs import replace

from opsbook.errors import OpsbookError, UsageError
from opsbook.fleet.fleet import Fleet
from opsbook.fleet.limit import Limit
from opsbook.fleet.magic import read_line, variables_in
from opsbook.fleet.session import Session
from opsbook.model.message import RunOptions
from opsbook.model.parameter import Binding
from opsbook.model.plan import Plan, PlannedCell
from opsbook.model.target import Inventory
from opsbook.redaction import Secret
from opsbook.runbook.notebook import Cell, Runbook, is_targets
from opsbook.runbook.tags import RAISES_TAG
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
    known = _known(runbook, binding)
    planned, unread = list[PlannedCell](), list[str]()
    for cell in runbook.code_cells:
        if cell.fans_out and not cell.is_skipped:
            planned.append(_planned(cell, session, known))
        elif cell.asks_for_targets and not cell.is_skipped:
            patterns = _patterns(cell, known)
            if patterns is None:
                unread.append(cell.label)
            else:
                planned.append(_asked(cell, session, patterns))
    cells, python = tuple(planned), tuple(dict.fromkeys(unread))
    return Plan(runbook=runbook.name, pattern=pattern, selected=selected, cells=cells, python=python)


def check_lines(runbook: Runbook, binding: Binding) -> None:
    """Refuse a runbook with an `%%on` line that its cell would fail for, as far as text can tell.

    What a line names in the inventory is left to the cell, and so is a line whose cell is to raise.

    Raises:
        UsageError: a line cannot be understood.
    """
    known = _known(runbook, binding)
    wrong: list[tuple[Cell, UsageError]] = []
    for cell in runbook.code_cells:
        if not cell.fans_out or cell.is_skipped or RAISES_TAG in cell.tags or _open(cell, known):
            continue
        try:
            read_line(cell.line, known)
        except UsageError as error:
            wrong.append((cell, error))
    if wrong:
        cell, first = wrong[0]
        more = f"; {len(wrong) - 1} more like it: opsbook plan shows them" if len(wrong) > 1 else ""
        raise UsageError(f'"{cell.label}": {first}{more}', first.hint) from first


def _known(runbook: Runbook, binding: Binding) -> dict[str, object]:
    """Return the parameters that have the same value in every cell."""
    declaring = runbook.parameters_cell
    others = [cell for cell in runbook.code_cells if not cell.fans_out and cell != declaring]
    changed = _names_set(cell.source for cell in others)
    return {
        name: Secret(str(value), resolve) if name in binding.secrets else value
        for name, value in binding.values.items()
        if name not in changed
    }


def _names_set(sources: Iterable[str]) -> set[str]:
    """Return the names that code may set; where it is not Python alone, all that it speaks of."""
    names: set[str] = set()
    for source in sources:
        try:
            nodes = list(ast.walk(ast.parse(source)))
        except (SyntaxError, ValueError):
            names.update(re.findall(r"[A-Za-z_]\w*", source))
        else:
            names.update(node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store))
            names.update(
                alias.asname or alias.name
                for node in nodes
                if isinstance(node, ast.Import | ast.ImportFrom)
                for alias in node.names
            )
    return names


def _open(cell: Cell, known: Mapping[str, object]) -> list[str]:
    """List the variables of a cell's line whose value is not known yet."""
    return [name for name in variables_in(cell.line) if name not in known]


def _planned(cell: Cell, session: Session, known: Mapping[str, object]) -> PlannedCell:
    """Plan one `%%on` cell; what is wrong with its line is said, not raised: the others count too."""
    cell_alone = PlannedCell(id=cell.id, index=cell.index, label=cell.label, line=cell.line, changes=cell.changes)
    unknown = _open(cell, known)
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


def _asked(cell: Cell, session: Session, patterns: Iterable[str]) -> PlannedCell:
    """Plan one cell of Python that asks for these patterns; one that names nothing may never be asked for."""
    line = ", ".join(dict.fromkeys(patterns))
    alone = PlannedCell(id=cell.id, index=cell.index, label=cell.label, line=line, python=True, changes=cell.changes)
    try:
        names = {target.name: None for pattern in patterns for target in session.select(pattern)}
    except OpsbookError as error:
        return replace(alone, open=str(error))
    return replace(alone, targets=tuple(names))


def _patterns(cell: Cell, known: Mapping[str, object]) -> list[str] | None:
    """Return what a cell of Python calls `targets` with; None when that is not to be read from its text."""
    try:
        nodes = [node for node in ast.walk(ast.parse(cell.code)) if isinstance(node, ast.Call) and is_targets(node)]
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    texts = [_text(node.args[0], known) if node.args else "all" for node in nodes]
    plain = all(len(node.args) <= 1 and not node.keywords for node in nodes)
    return [text for text in texts if text is not None] if plain and None not in texts else None


def _text(node: ast.expr, known: Mapping[str, object]) -> str | None:
    """Return the text an expression is, when it is a text, a parameter, or an f-string of both."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.Name(id=name) if isinstance(known.get(name), str):
            return str(known[name])
        case ast.JoinedStr(values=values):
            parts = [_text(value, known) for value in values]
            return None if None in parts else "".join(map(str, parts))
        case ast.FormattedValue(value=value, conversion=-1, format_spec=None):
            return _text(value, known)
    return None
