"""What the text of a runbook shows to be wrong before anything runs: code that Python cannot read.

What is IPython's own (`%time`, `!ls`, `%%on`, `pip install`) is left to it: a cell with any of that is not judged.
"""

from __future__ import annotations

import ast
import keyword
import re
import warnings
from collections.abc import Iterator

from opsbook.model.checkup import Problem
from opsbook.runbook.notebook import Cell, Runbook
from opsbook.runbook.tags import RAISES_TAG

_OF_IPYTHON = re.compile(r"[!%?/,;]|>>>|In \[|(?:[\w ,.*]|\[[^\]]*\])+=\s*[!%]|[^#]*\?$")
"""How lines look that are IPython's: `!ls`, `%time`, `,f a`, a pasted prompt, `said[0] = !ls`, `x?`."""
_COMMAND = re.compile(r"(?!print\b)([A-Za-z]\w*) +[^\s=(]")
"""How a cell of one line begins that may be a magic without its `%`: `pip install thing`."""


def code_problems(runbook: Runbook) -> Iterator[Problem]:
    """Yield the cells that would fail for how they are written; of a kernel that is not Python's, none."""
    if not runbook.kernel.startswith("python") and runbook.kernel:
        return
    for number, cell in enumerate(runbook.code_cells, start=1):
        said = "" if cell.is_skipped or RAISES_TAG in cell.tags else _misread(cell)
        if said:
            yield Problem(text=said, cell=number, label=cell.label)


def _misread(cell: Cell) -> str:
    """Say why Python cannot read a cell; nothing when it can, or when that is not to be judged."""
    if _is_ipythons(cell.code):
        return ""
    try:
        with warnings.catch_warnings(action="ignore"):
            compile(_outdented(cell.code), "cell", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
    except SyntaxError as error:
        return f"Python cannot read line {error.lineno or 1}: {error.msg}"
    except (ValueError, RecursionError, MemoryError) as error:
        return f"Python cannot read it: {error}"
    return ""


def _is_ipythons(code: str) -> bool:
    """Whether code looks as if IPython made something else of it."""
    if any(_OF_IPYTHON.match(line.strip()) for line in code.splitlines()):
        return True
    begun = _COMMAND.match(code.strip()) if "\n" not in code.strip() else None
    return begun is not None and not keyword.iskeyword(begun[1])


def _outdented(code: str) -> str:
    """Return code without the indentation of its first line: IPython takes cells that were pasted so."""
    first = re.match(r"(?:[ \t]*\n)*([ \t]*)", code)
    return re.sub(f"^{first[1]}", "", code, flags=re.MULTILINE) if first is not None and first[1] else code
