"""The screens: summaries, tables and descriptions, printed onto a console that is handed in.

Every text from a record, a notebook or an inventory passes `one_line` or `visible` before it is laid out. Prints
whole lines and nothing else; whether there are colours, and how wide it is, the console knows.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.text import Text

from opsbook.model.outcome import name_ranges
from opsbook.model.parameter import ParameterSpec
from opsbook.model.run import CellState, RunRecord
from opsbook.model.target import Target
from opsbook.model.visible import one_line, visible
from opsbook.report.duration import format_duration, format_stamp, format_when
from opsbook.report.given import cell_words, given_fields, run_summary
from opsbook.report.layout import Piece, ends, flow, labelled, measure, row, show, table, width_of, wrap
from opsbook.report.outline import outline
from opsbook.report.phase import CELL_MARKS, RUN_MARKS, phase_words, style_of, words
from opsbook.report.summary import (
    ErrorExcerpt,
    Summary,
    TargetGroup,
    count_ok,
    runbook_name,
    show_value,
    status_words,
)
from opsbook.runbook.notebook import Runbook

if TYPE_CHECKING:
    from rich.console import Console

_MOST_GROUPS = 20
_INDENT = 6
_LABEL = 9
_NARROWEST_REASON = 22
_WIDEST = 110
"""Text set at both ends of a line is not torn further apart than this."""


def print_summary(summary: Summary, console: Console) -> None:
    """Print what to know about a run that has ended."""
    show(console, _summary_lines(summary, width=width_of(console), then=(summary.look, summary.go_on)))


def print_history(records: Sequence[RunRecord], console: Console, *, now: datetime) -> None:
    """Print runs as a table, in the order given. What a narrow screen has no room for goes under its run."""
    if not records:
        show(console, [Text("no runs")])
        return
    titles = ["RUN", "RUNBOOK", "STATUS", "STARTED", "TOOK", "TARGETS", "BY", "PARAMETERS"]
    rows = [_history_row(record, now) for record in records]
    width = width_of(console)
    aside: list[int] = []
    # the runbook's name is in the run's id; the others are moved below, the least telling last
    for number in (1, 7, 6, 5, 4, 3):
        if _natural(titles, rows, aside=aside) <= width:
            break
        aside.append(number)
    kept = [number for number in range(len(titles)) if number not in aside]
    widths = [max(cell_len(titles[n]), *(cell_len(cells[n][0]) for cells in rows)) for n in kept]
    lines = row([(titles[n], "bold") for n in kept], widths, gap=2)
    for cells in rows:
        lines += row([cells[n] for n in kept], widths, gap=2)
        below = [cells[n][0] for n in sorted(aside) if n != 1 and cells[n][0]]
        lines += [Text(f"  {part}", "dim") for part in flow(below, between=" · ", width=width - 2)]
    show(console, lines)


def print_run(record: RunRecord, console: Console, *, copy: Path | None, newer: str | None = None) -> None:
    """Print everything a record holds about one run: its summary, then what it was given, its cells and targets.

    `newer` is the run that goes on with it.
    """
    width = width_of(console)
    summary = run_summary(record, copy=copy, newer=newer)
    lines = _summary_lines(summary, width=width, then=("", summary.go_on))
    lines += [Text(), *_given_lines(record, width=width)]
    if record.cells:
        lines += [Text(), *_cell_lines(record, width=width)]
    if record.targets.results:
        lines += [Text(), *_target_lines(record, width=width)]
    show(console, lines)


def print_runbook(runbook: Runbook, console: Console, *, last: RunRecord | None) -> None:
    """Print what a runbook is for, what it takes and what it does; `last` is its latest run."""
    width = width_of(console)
    name, title = one_line(runbook.name), one_line(runbook.title)
    heading = name if title == name else f"{name} · {title}"
    lines = ends(heading, one_line(str(runbook.path)), width=min(width, _WIDEST))
    for label, names in (
        ("purpose", ("purpose",)),
        ("audience", ("audience",)),
        ("data", ("data sources", "data source", "data")),
        ("review by", ("review by", "review_by", "review-by")),
    ):
        text = one_line(runbook.header.section(*names))
        lines += labelled(label, wrap(text, width - _LABEL - 2), label_width=_LABEL) if text else []
    if runbook.parameters:
        rows = [_parameter_row(spec) for spec in runbook.parameters]
        lines += [Text(), *table(["PARAMETER", "TYPE", "DEFAULT", ""], rows, width=width)]
    steps = outline(runbook.code_cells)
    if steps:
        lines += [Text(), *map(Text, flow(steps, between=" · ", width=width))]
    if last is not None:
        lines += [Text(), *_last_lines(last, width=width)]
    show(console, lines)


def print_targets(targets: Sequence[Target], console: Console) -> None:
    """Print targets as a table, in the order given."""
    rows = [
        [
            (one_line(target.name), ""),
            (one_line(target.address if target.port else target.host), ""),
            (one_line(target.user or "-"), ""),
            (one_line(", ".join(target.groups)) or "-", ""),
        ]
        for target in targets
    ]
    if not rows:
        show(console, [Text("no targets")])
        return
    show(console, table(["TARGET", "ADDRESS", "USER", "GROUPS"], rows, width=width_of(console)))


def _summary_lines(summary: Summary, *, width: int, then: tuple[str, str]) -> list[Text]:
    """Lay a summary out; `then` are commands to look and to go on with, empty for somebody who already looks."""
    mark, style = RUN_MARKS[summary.status]
    headline = row([(mark, style), (one_line(summary.headline), "bold")], [1, width - 2], gap=1)
    blocks = [
        headline,
        _phase_lines(summary, width=width),
        _group_lines(summary.groups, width=width),
        _error_lines(summary.error, width=width) if summary.error else [],
        _field_lines(summary, width=width, then=then),
    ]
    lines: list[Text] = []
    for block in filter(None, blocks):
        lines += [Text(), *block] if lines else block
    return lines


def _phase_lines(summary: Summary, *, width: int) -> list[Text]:
    rows: list[list[Piece]] = []
    for phase in summary.phases:
        mark, style = CELL_MARKS[CellState.SKIPPED if phase.did_nothing else phase.state]
        took = format_duration(phase.duration_s) if phase.duration_s is not None else ""
        label = (one_line(phase.label), _label_style(phase.state))
        rows.append([(mark, style), label, (took, ""), (phase_words(phase), "")])
    if not rows:
        return []
    label_width = max(cell_len(cells[1][0]) for cells in rows)
    note_width = max(cell_len(cells[3][0]) for cells in rows)
    time_width = max(5, *(cell_len(cells[2][0]) for cells in rows))
    room = width - 2 - 2 - 3 - time_width - 3
    label_width = min(label_width, max(12, room - note_width, room // 2))
    note_width = max(10, room - label_width)
    lines: list[Text] = []
    for cells in rows:
        head, *rest = cells
        for number, line in enumerate(row(rest, [label_width, time_width, note_width], right=1)):
            start = Text.assemble("  ", head if number == 0 else " ", " ")
            lines.append(start.append_text(line))
    return lines


def _label_style(state: CellState) -> str:
    if state in {CellState.NOT_RUN, CellState.SKIPPED}:
        return "dim"
    return "" if state is CellState.OK else "bold"


def _group_lines(groups: Sequence[TargetGroup], *, width: int) -> list[Text]:
    """Show the targets that did not end well, the failed first."""
    rows: list[list[Piece]] = []
    for group in groups[:_MOST_GROUPS]:
        count, code, reason = group.told
        names = name_ranges(map(one_line, group.names))
        rows.append([(count, style_of(group.state)), (names, ""), (code, ""), (one_line(reason), "")])
    if not rows:
        return []
    if not any(cells[2][0] for cells in rows):
        rows = [[*cells[:2], cells[3]] for cells in rows]
    lines = _aligned(rows, width=width - _INDENT) or _stacked(rows, width=width - _INDENT)
    more = len(groups) - _MOST_GROUPS
    lines += [Text(f"… and {more} more, each for its own reason")] if more > 0 else []
    return [Text(" " * _INDENT).append_text(line) for line in lines]


def _aligned(rows: Sequence[Sequence[Piece]], *, width: int) -> list[Text]:
    """Set groups into columns; nothing when that would tear names apart or leave the reasons no room."""
    texts = [[text for text, _ in cells] for cells in rows]
    last = len(rows[0]) - 1
    widths = measure(texts, width=width, gap=2, keep=frozenset(range(last + 1)) - {1, last})
    longest = max(cell_len(word) for cells in texts for word in cells[1].split())
    widths[1] = max(widths[1], longest)
    natural = max(cell_len(cells[last]) for cells in texts)
    widths[last] = min(natural, width - sum(widths[:last]) - 2 * last)
    if widths[last] < min(natural, _NARROWEST_REASON):
        return []
    return [line for cells in rows for line in row(cells, widths, gap=2)]


def _stacked(rows: Sequence[Sequence[Piece]], *, width: int) -> list[Text]:
    """Set each group's reason under its names."""
    head = max(cell_len(cells[0][0]) for cells in rows)
    widths = [head, max(20, width - head - 2)]
    lines: list[Text] = []
    for cells in rows:
        why = " · ".join(text for text, _ in cells[2:] if text)
        lines += row(cells[:2], widths, gap=2)
        lines += row([("", ""), (why, "")], widths, gap=2) if why else []
    return lines


def _error_lines(error: ErrorExcerpt, *, width: int) -> list[Text]:
    """Show what a cell raised, its own line breaks and indentation kept."""
    first, *rest = [visible(line).expandtabs(4) for line in error.lines] or [""]
    name = one_line(error.name)
    where = f'{name} in "{one_line(error.cell)}"'
    room = width - _INDENT - _LABEL - 2
    shown = wrap(f"{where}: {first}" if first else where, room)
    for line in rest:
        start = line[: min(len(line) - len(line.lstrip()), room // 2)]
        shown += [line] if cell_len(line) <= room else [start + part for part in wrap(line, room - len(start))]
    if error.more:
        shown.append(f"… {error.more} more line{'' if error.more == 1 else 's'}")
    return labelled("error", shown, indent=_INDENT, label_width=_LABEL)


def _field_lines(summary: Summary, *, width: int, then: tuple[str, str]) -> list[Text]:
    room = width - _INDENT - _LABEL - 2
    both = (summary.parameters, summary.metrics)
    parameters, metrics = ([f"{one_line(name)}={one_line(value)}" for name, value in pairs] for pairs in both)
    fields = [
        *(("check", wrap(one_line(check), room)) for check in summary.failed_checks),
        *(("note", wrap(one_line(note), room)) for note in summary.notes),
        ("with", flow(parameters, between="  ", width=room)),
        ("metrics", flow(metrics, between="  ", width=room)),
        # a path is there to be copied: it is never folded
        ("copy", [visible(summary.copy).replace("\n", "\\n")] if summary.copy else []),
        *(
            (label, [one_line(command)] if command else [])
            for label, command in zip(("look", "go on"), then, strict=True)
        ),
    ]
    lines = [labelled(label, texts, indent=_INDENT, label_width=_LABEL) for label, texts in fields]
    return [line for block in lines for line in block]


def _natural(titles: Sequence[str], rows: Sequence[Sequence[Piece]], *, aside: Sequence[int]) -> int:
    """Return how wide a table is without the columns set aside."""
    kept = [number for number in range(len(titles)) if number not in aside]
    widths = [max(cell_len(titles[n]), *(cell_len(cells[n][0]) for cells in rows)) for n in kept]
    return sum(widths) + 2 * (len(widths) - 1)


def _history_row(record: RunRecord, now: datetime) -> list[Piece]:
    values = [f"{one_line(name)}={one_line(show_value(value))}" for name, value in record.parameters.items()]
    if not Path(record.runbook.path).suffix:  # no file, but a command: it is what tells such runs apart
        values.append(one_line(record.runbook.title))
    _, style = RUN_MARKS[record.status]
    return [
        (one_line(record.run_id), ""),
        (one_line(runbook_name(record)), ""),
        (status_words(record), style),
        (format_when(record.started_at, now), ""),
        (format_duration(record.duration_s) if record.duration_s is not None else "", ""),
        ("" if record.checking else count_ok(record.targets.results, between="/"), ""),
        (one_line(record.operator.user), ""),
        (" ".join(values), ""),
    ]


def _given_lines(record: RunRecord, *, width: int) -> list[Text]:
    """Show who ran what, with what, when and why."""
    room = width - _INDENT - 12
    return [
        line
        for field in given_fields(record)
        for line in labelled(
            field.label,
            flow(map(one_line, field.texts), between=field.between, width=room),
            indent=_INDENT,
            label_width=10,
        )
    ]


def _cell_lines(record: RunRecord, *, width: int) -> list[Text]:
    """Show every cell: its number in the run, as commands take it, and what became of it."""
    rows: list[list[Piece]] = []
    for number, cell in enumerate(record.cells, 1):
        took = format_duration(cell.duration_s) if cell.duration_s is not None else ""
        state = (words(cell.state), CELL_MARKS[cell.state][1])
        rows.append([(str(number), ""), state, (took, ""), (one_line(cell_words(cell)), "")])
    return table(["CELL", "STATE", "TOOK", "LABEL"], rows, width=width - 2, indent=2)


def _target_lines(record: RunRecord, *, width: int) -> list[Text]:
    """Show every target, in the order they were asked."""
    rows: list[list[Piece]] = []
    for name, result in record.targets.results.items():
        code = str(result.exit_code) if result.exit_code is not None else ""
        state = (words(result.state), style_of(result.state))
        took = format_duration(result.duration_s)
        rows.append([(one_line(name), ""), state, (code, ""), (took, ""), (one_line(result.reason), "")])
    return table(["TARGET", "STATE", "EXIT", "TOOK", "REASON"], rows, width=width - 2, indent=2)


def _parameter_row(spec: ParameterSpec) -> list[Piece]:
    default = "required" if spec.default is None else one_line(_plain_default(spec.default))
    style = "bold" if spec.is_required else ""
    return [(one_line(spec.name), ""), (one_line(spec.type_label), ""), (default, style), (one_line(spec.help), "")]


def _plain_default(source: str) -> str:
    """Return a default as a person would give it: text without its quotes."""
    try:
        value = ast.literal_eval(source)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return source
    return value if isinstance(value, str) and value else source


def _last_lines(last: RunRecord, *, width: int) -> list[Text]:
    """Say how the latest run went, and how to see more of it."""
    details: Iterable[str] = (
        format_duration(last.duration_s) if last.duration_s is not None else "",
        f"{count_ok(last.targets.results, between=' of ')} targets" if last.targets.results else "",
        f"by {one_line(last.operator.user)}",
    )
    text = f"{status_words(last)} {format_stamp(last.started_at)} ({', '.join(filter(None, details))})"
    return [
        *labelled("last run", wrap(text, width - _LABEL - 2), label_width=_LABEL),
        *labelled("look", [f"opsbook show {one_line(last.run_id)}"], label_width=_LABEL),
    ]
