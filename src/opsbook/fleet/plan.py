"""Which targets a runbook's cells would reach, and those of `%%on` in which waves, before anything runs.

Each line is read by the parser that reads it in the notebook, and selects in the same fleet. Of Python, `targets(...)`
is read where its pattern is a text, or made of parameters; else nothing is guessed at: such a cell is named, and a
variable that a cell may set is not known. Connects to nothing.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
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
from opsbook.runbook.tags import ALWAYS_TAG, ON_FAILURE_TAG, RAISES_TAG
from opsbook.secrets.resolve import resolve

_TIDIES = {ALWAYS_TAG: "after a failure too", ON_FAILURE_TAG: "only after a failure"}


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
        elif not cell.is_skipped and (cell.asks_for_targets or (inventory is not None and _hands_on(cell))):
            patterns = _patterns(cell, known)
            if patterns is None:
                unread.append(cell.label)
            else:
                planned.append(_asked(cell, session, patterns))
    cells, python = tuple(planned), tuple(dict.fromkeys(unread))
    return Plan(
        runbook=runbook.name,
        pattern=pattern,
        checking=options.checking,
        selected=selected,
        cells=cells,
        python=python,
    )


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
    changed |= _set_again(declaring.code) if declaring is not None else set()
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
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            names.update(re.findall(r"[^\W\d]\w*", source))
        else:
            names.update(name for node in nodes if (name := _bound(node)) is not None)
    return names


def _set_again(source: str) -> set[str]:
    """Return the names that the cell of the parameters gives a value besides declaring them."""
    try:
        nodes = list(ast.walk(ast.parse(source)))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return set()
    bound = Counter(filter(None, map(_bound, nodes)))
    return {name for name, times in bound.items() if times > 1}


def _bound(node: ast.AST) -> str | None:
    """Return the name that one node of Python may give a value, in whatever scope."""
    match node:
        case ast.Name(id=name, ctx=ast.Store() | ast.Del()) | ast.arg(arg=name):
            return name
        case ast.alias(name=name, asname=other):
            return other or name.partition(".")[0]
        case (
            ast.FunctionDef(name=name)
            | ast.AsyncFunctionDef(name=name)
            | ast.ClassDef(name=name)
            | ast.ExceptHandler(name=name)
            | ast.MatchAs(name=name)
            | ast.MatchStar(name=name)
            | ast.MatchMapping(rest=name)
        ):
            return name
    return None


def _hands_on(cell: Cell) -> bool:
    """Whether Python gives `targets` another name, or hands it to something that may call it."""
    try:
        nodes = list(ast.walk(ast.parse(cell.code))) if "targets" in cell.code else []
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    called = [node.func for node in nodes if isinstance(node, ast.Call)]
    for node in nodes:
        match node:
            case ast.alias(name="targets", asname=str()):
                return True
            case ast.Name(id="targets", ctx=ast.Load()) if node not in called:
                return True
    return False


def _open(cell: Cell, known: Mapping[str, object]) -> list[str]:
    """List the variables of a cell's line whose value is not known yet."""
    return [name for name in variables_in(cell.line) if name not in known]


def _alone(cell: Cell, line: str) -> PlannedCell:
    """Return what a cell shows whatever targets there are."""
    tidies = next((said for tag, said in _TIDIES.items() if tag in cell.tags), "")
    known = {name: getattr(cell, name) for name in ("id", "index", "label", "changes")}
    return PlannedCell(**known, line=line, may_fail=RAISES_TAG in cell.tags, tidies=tidies)


def _planned(cell: Cell, session: Session, known: Mapping[str, object]) -> PlannedCell:
    """Plan one `%%on` cell; what is wrong with its line is said, not raised: the others count too."""
    cell_alone = _alone(cell, cell.line)
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
    alone = replace(_alone(cell, ", ".join(dict.fromkeys(patterns))), python=True)
    try:
        names = {target.name: None for pattern in patterns for target in session.select(pattern)}
    except OpsbookError as error:
        return replace(alone, open=str(error))
    return replace(alone, targets=tuple(names))


def _patterns(cell: Cell, known: Mapping[str, object]) -> list[str] | None:
    """Return what a cell of Python calls `targets` with; None when that is not to be read from its text."""
    if _hands_on(cell):
        return None
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
