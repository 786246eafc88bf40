"""How results look in a notebook: rows of targets that ended alike, as text and as HTML, the failed first.

Text and HTML say the same; HTML folds long output away, and adds in what a few targets differ from most. What targets
said is cut where it is long and made harmless everywhere: a result still holds it as it came. Its size is bounded,
however many targets say however much.
"""

from __future__ import annotations

import difflib
import html
from collections.abc import Iterable, Sequence

from msgspec import Struct

from opsbook.model.outcome import ResultGroup, name_ranges
from opsbook.model.target import Target, TargetState
from opsbook.model.visible import LONGEST, one_line, visible

_SHOWN_LINES = 12
_LONGEST_LINE = 400
_MOST_SAID = 50
"""Rows that show what was said; the rows after them name their targets alone."""
_MOST_TARGETS = 20
_DIFF_LINES = 20
_DIFF_OF = 20_000
"""Characters up to which two outputs are compared."""
_COLOURS = {TargetState.OK: "#1a7f37", TargetState.SKIPPED: "#6e7781", TargetState.NOT_RUN: "#6e7781"}


class _Row(Struct, frozen=True, kw_only=True):
    """One group, ready to be shown."""

    state: TargetState
    names: str
    detail: str
    said: tuple[str, ...] = ()
    lines: int = 0
    """How many lines they said, where that is more than a glance takes."""
    difference: tuple[str, ...] = ()
    """In what it differs from what most said."""


def text_table(headline: str, groups: Sequence[ResultGroup]) -> str:
    """Return results as text."""
    rows = _rows(groups)
    wide = max((len(_word(row.state)) for row in rows), default=0)
    names_wide = min(30, max((len(row.names) for row in rows), default=0))
    lines = [headline]
    for row in rows:
        lines.append(f"{_word(row.state):<{wide}}  {row.names:<{names_wide}}  {row.detail}".rstrip())
        lines += [f"{'':<{wide}}    {line}".rstrip() for line in row.said]
    return "\n".join([*lines, *_unsaid(groups)])


def html_table(headline: str, groups: Sequence[ResultGroup]) -> str:
    """Return results as HTML."""
    body = "".join(_html_row(row) for row in _rows(groups, compare=True))
    rest = "".join(f"<p>{html.escape(line)}</p>" for line in _unsaid(groups))
    return f"<p>{html.escape(headline)}</p><table>{body}</table>{rest}"


def text_result(group: ResultGroup, *, seconds: float) -> str:
    """Return one target's result as text."""
    (row,) = _rows([group])
    head = "  ".join(part for part in (f"{row.names}: {_word(row.state)}", row.detail, f"{seconds:.1f} s") if part)
    return "\n".join([head, *(f"    {line}".rstrip() for line in row.said)])


def html_targets(targets: Sequence[Target]) -> str:
    """Return targets as HTML: where they are and what groups they are in."""
    cells = [(one.name, one.address, ", ".join(one.groups)) for one in targets[:_MOST_TARGETS]]
    body = "".join(f"<tr>{''.join(_cell(html.escape(one_line(text))) for text in row)}</tr>" for row in cells)
    more = len(targets) - len(cells)
    rest = f"<p>… and {more} more</p>" if more else ""
    count = f"{len(targets)} target{'' if len(targets) == 1 else 's'}" if targets else "no targets"
    return f"<p>{count}</p><table>{body}</table>{rest}"


def _rows(groups: Sequence[ResultGroup], *, compare: bool = False) -> list[_Row]:
    most = next((group.stdout for group in groups if group.state is TargetState.OK), "")
    rows = []
    for number, group in enumerate(groups):
        said, count = _said(group) if number < _MOST_SAID else ([], 0)
        differs = compare and group.state is TargetState.OK and number < _MOST_SAID
        row = _Row(
            state=group.state,
            names=name_ranges(map(one_line, group.names)),
            detail=_detail(group.detail),
            said=tuple(said),
            lines=0 if group.state.is_failure or count <= _SHOWN_LINES else count,
            difference=tuple(_difference(most, group.stdout)) if differs else (),
        )
        rows.append(row)
    return rows


def _said(group: ResultGroup) -> tuple[list[str], int]:
    """Return the lines to show of what a group said, and how many there are of what is longest."""
    lines, count = _shortened(group.stdout, whole=not group.truncated)
    if group.state.is_failure or not group.stdout:
        errors, more = _shortened(group.stderr, whole=not group.truncated)
        if not (group.state.is_failure and len(errors) == 1 and errors[0].strip() in group.detail):
            whose = "stderr" if group.stderr_alike else f"{one_line(group.names[0])} stderr"
            lines += [f"{whose} | {line}" for line in errors]
            count = max(count, more)
    if group.truncated:
        lines.append("(more was said than is kept here: only its beginning and its end)")
    return lines, count


def _shortened(text: str, *, whole: bool) -> tuple[list[str], int]:
    """Keep a table readable: return the first and the last lines of a long text, and how many there are in all."""
    if not text.strip():
        return [], 0
    lines = text.replace("\r\n", "\n").rstrip().split("\n")
    half = _SHOWN_LINES // 2
    left_out = len(lines) - 2 * half
    if left_out <= 0:
        return [_line(line) for line in lines], len(lines)
    shown = [_line(line) for line in (*lines[:half], *lines[-half:])]
    return [*shown[:half], f"… {left_out} lines …" if whole else "…", *shown[half:]], len(lines)


def _line(text: str) -> str:
    shown = visible(text[:LONGEST])
    return shown if len(shown) <= _LONGEST_LINE and len(text) <= LONGEST else f"{shown[:_LONGEST_LINE]}…"


def _detail(text: str) -> str:
    """Return `text` harmless and in one line, the blanks that set its parts apart kept."""
    return "   ".join(one_line(part) for part in text.split("   ") if part.strip())


def _difference(most: str, other: str) -> list[str]:
    """Return in what `other` differs from what most said, if that can be said briefly."""
    if max(len(most), len(other)) > _DIFF_OF or min(most.count("\n"), other.count("\n")) == 0:
        return []
    texts = (most.replace("\r\n", "\n").split("\n"), other.replace("\r\n", "\n").split("\n"))
    found = list(difflib.unified_diff(*texts, n=1, lineterm=""))[2:]
    return [_line(line) for line in found] if len(found) <= _DIFF_LINES else []


def _unsaid(groups: Sequence[ResultGroup]) -> list[str]:
    left_out = sum(len(group.names) for group in groups[_MOST_SAID:])
    return [f"what {left_out} more targets said is not shown here: result['NAME'].stdout has it"] if left_out else []


def _html_row(row: _Row) -> str:
    folds = [_fold(f"{row.lines} lines" if row.lines else "output", row.said, is_open=not row.lines)]
    folds.append(_fold("differs from most", row.difference, is_open=False))
    colour = _COLOURS.get(row.state, "#cf222e")
    cells = (
        _cell(f"<b>{_word(row.state)}</b>", f";color:{colour}"),
        _cell(html.escape(row.names)),
        _cell(html.escape(row.detail) + "".join(folds)),
    )
    return f"<tr>{''.join(cells)}</tr>"


def _cell(content: str, style: str = "") -> str:
    return f'<td style="text-align:left;vertical-align:top{style}">{content}</td>'


def _fold(title: str, lines: Iterable[str], *, is_open: bool) -> str:
    text = html.escape("\n".join(lines))
    opened = " open" if is_open else ""
    shown = f'<details{opened}><summary>{title}</summary><pre style="margin:0">{text}</pre></details>'
    return shown if text else ""


def _word(state: TargetState) -> str:
    return state.value.replace("_", " ")
