"""The mark `!!` at a cell's head (NII's convention): what the cell says is summed up, and the mark is no code.

IPython has a meaning of its own for `!!command`, which runs it in a shell. Of a cell of one line it keeps that meaning
where nothing else can be meant: a single word, or what is neither Python nor begins with `!` or `%`.
"""

from __future__ import annotations

import ast
import re

MARK = "!!"
_OF_IPYTHON = re.compile(r"(?:[\w, ]+=)?\s*[!%?]")
"""How lines begin that are IPython's: `!ls`, `%time`, `said = !ls`."""


def is_marked(source: str) -> bool:
    """Whether a cell begins with the mark."""
    return source.lstrip().startswith(MARK)


def without_mark(source: str, *, python: bool = True) -> str:
    r"""Return a cell's code; its lines stay where they were.

    >>> without_mark("!!for x in range(9):\n    print(x)"), without_mark("!!!ls -l"), without_mark("!!%%on web\ndf")
    ('for x in range(9):\n    print(x)', '!ls -l', '%%on web\ndf')
    >>> without_mark("!!docker ps"), without_mark("!!docker ps", python=False)
    ('!!docker ps', 'docker ps')
    """
    if not is_marked(source):
        return source
    before, _, code = source.partition(MARK)
    return source if python and _is_command(code.strip()) else before.replace(" ", "") + code


def _is_command(line: str) -> bool:
    """Whether some code can be nothing but one line for a shell."""
    if not line or "\n" in line or _OF_IPYTHON.match(line):
        return False
    try:
        ast.parse(line)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return True
    return line.isidentifier()
