"""The code of a run's cells, as it is kept with the run, whether or not the executed copy still has them."""

from __future__ import annotations

from opsbook.archive.layout import RunFolder
from opsbook.errors import UsageError
from opsbook.runbook.notebook import read_runbook


def cell_sources(folder: RunFolder) -> dict[str, str] | None:
    """Return the source of each cell by its id; None where the kept runbook cannot be read."""
    try:
        return {cell.id: cell.source for cell in read_runbook(folder.source).cells}
    except UsageError:
        return None
