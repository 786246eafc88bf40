"""What the text of a runbook shows to be wrong before anything runs: code that Python cannot read.

What is IPython's own (`%time`, `!ls`, `%%on`) is left to it: a cell with any of that is not judged.
"""

from __future__ import annotations

import ast
import warnings
from collections.abc import Iterator

from opsbook.model.checkup import Problem
from opsbook.runbook.mark import OF_IPYTHON
from opsbook.runbook.notebook import Cell, Runbook
from opsbook.runbook.tags import RAISES_TAG


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
    if any(OF_IPYTHON.match(line.strip()) or line.rstrip().endswith("?") for line in cell.code.splitlines()):
        return ""
    try:
        with warnings.catch_warnings(action="ignore"):
            compile(cell.code, "cell", "exec", flags=ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    except SyntaxError as error:
        return f"Python cannot read line {error.lineno or 1}: {error.msg}"
    except (ValueError, RecursionError, MemoryError) as error:
        return f"Python cannot read it: {error}"
    return ""
