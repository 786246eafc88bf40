"""Lines of a screen: columns, folding, and the one door to a console.

Everything is measured in terminal cells and nothing is cut unless it says so with `…`. Text arrives visible (see
`visible`); markup is never interpreted. Knows nothing of runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING

from rich.cells import cell_len, chop_cells, set_cell_size
from rich.text import Text

from opsbook.model.visible import ci_safe

if TYPE_CHECKING:
    from rich.console import Console

NARROWEST = 40
"""Below this a terminal folds our lines itself: columns of nothing help nobody."""

Piece = tuple[str, str]
"""Text and its style."""

_ASCII = str.maketrans({"✓": "+", "✗": "x", "●": "*", "○": "o", "\u2013": "-", "·": "|", "…": "~", "█": "#", "░": "."})


def width_of(console: Console) -> int:
    """Return the width to lay out for."""
    return max(console.width, NARROWEST)


def crop(text: str, width: int) -> str:
    """Cut `text` to `width` cells, ending in `…` when something is missing."""
    if cell_len(text) <= width:
        return text
    return f"{set_cell_size(text, max(0, width - 1)).rstrip()}…" if width > 0 else ""


def wrap(text: str, width: int) -> list[str]:
    """Fold `text` at its spaces into lines of at most `width` cells; a longer word is chopped."""
    lines = [""]
    for word in text.split():
        parts = chop_cells(word, max(2, width)) if cell_len(word) > width else [word]
        for part in parts:
            longer = f"{lines[-1]} {part}" if lines[-1] else part
            if cell_len(longer) <= width:
                lines[-1] = longer
            elif lines[-1]:
                lines.append(part)
            else:
                lines[-1] = part
    return lines


def row(
    pieces: Sequence[Piece], widths: Sequence[int], *, indent: int = 0, gap: int = 3, right: int = -1
) -> list[Text]:
    """Lay one row out, each piece folded within its column; the column numbered `right` is set to the right."""
    columns = [wrap(text, width) for (text, _), width in zip(pieces, widths, strict=True)]
    lines = []
    for parts in zip_longest(*columns, fillvalue=""):
        line = Text(" " * indent)
        for number, (part, (_, style), width) in enumerate(zip(parts, pieces, widths, strict=True)):
            space = " " * max(0, width - cell_len(part))
            line.append(" " * gap if number else "")
            line.append(space if number == right else "")
            line.append(part, style)
            line.append("" if number == right else space)
        line.rstrip()
        lines.append(line)
    return lines


def measure(
    rows: Iterable[Sequence[str]], *, width: int, gap: int = 3, keep: frozenset[int] = frozenset()
) -> list[int]:
    """Return column widths that fit into `width`: as wide as their texts, the widest shrunk first, `keep` never."""
    widths = [max(map(cell_len, column)) for column in zip(*rows, strict=True)]
    shortest = 8
    spare = width - gap * (len(widths) - 1)
    while sum(widths) > spare:
        number = max((n for n in range(len(widths)) if n not in keep), key=lambda n: widths[n], default=-1)
        if number < 0 or widths[number] <= shortest:
            break
        widths[number] -= 1
    return widths


def table(header: Sequence[str], rows: Sequence[Sequence[Piece]], *, width: int, indent: int = 0) -> list[Text]:
    """Lay a table out, its header first; the first column is never folded."""
    texts = [header, *([text for text, _ in cells] for cells in rows)]
    widths = measure(texts, width=width - indent, keep=frozenset({0}))
    lines = row([(title, "bold") for title in header], widths, indent=indent)
    for cells in rows:
        lines += row(cells, widths, indent=indent)
    return lines


def flow(chunks: Iterable[str], *, between: str, width: int) -> list[str]:
    """Set chunks one after the other into lines, none of them broken unless it is wider than a line."""
    lines: list[str] = []
    for chunk in chunks:
        longer = f"{lines[-1]}{between}{chunk}" if lines else chunk
        if lines and cell_len(longer) <= width:
            lines[-1] = longer
        elif lines:
            lines[-1] = f"{lines[-1]}{between}".rstrip()
            lines += wrap(chunk, width)
        else:
            lines = wrap(chunk, width)
    return lines


def labelled(label: str, texts: Sequence[str], *, indent: int = 0, label_width: int = 9) -> list[Text]:
    """Set a label before the first of some lines, and the others under it."""
    lines = []
    for number, text in enumerate(texts):
        head = set_cell_size("" if number else label, label_width)
        line = Text.assemble(" " * indent, (head, "dim"), "  ", text)
        line.rstrip()
        lines.append(line)
    return lines


def ends(left: str, right: str, *, width: int) -> list[Text]:
    """Set two texts at both ends of a line, or under each other when they do not fit."""
    space = width - cell_len(left) - cell_len(right)
    if not right:
        return [Text(left, "bold")]
    if space < 3:  # noqa: PLR2004  closer than that they read as one
        return [*(Text(part, "bold") for part in wrap(left, width)), *(Text(part) for part in wrap(right, width))]
    return [Text.assemble((left, "bold"), " " * space, right)]


def encodable(line: Text, console: Console) -> Text:
    """Return the line in characters the console's encoding has."""
    if not console.options.ascii_only:
        return line
    return Text(_in_ascii(line.plain))


def show(console: Console, lines: Iterable[Text]) -> None:
    """Print the lines, none of which can be a CI system's command."""
    if console.width < 1:  # as `COLUMNS=0` has it: rich would print nothing at all
        console.width = NARROWEST
    for line in lines:
        safe = ci_safe(line.plain)
        shown = line if safe == line.plain else Text(safe)
        console.print(encodable(shown, console), soft_wrap=True, highlight=False)


def show_plain(console: Console, lines: Iterable[str]) -> None:
    """Print lines that need no layout, by the same rules: laying megabytes out line by line takes seconds."""
    text = "".join(f"{ci_safe(line)}\n" for line in lines)
    console.file.write(_in_ascii(text) if console.options.ascii_only else text)


def _in_ascii(text: str) -> str:
    return text.translate(_ASCII).encode("ascii", "backslashreplace").decode()
