"""Where a record goes that its archive did not take: the user's state folder."""

from __future__ import annotations

import os
from pathlib import Path

from opsbook.archive.files import make_folder, write_whole
from opsbook.errors import ArchiveError


def spill_record(run_id: str, data: bytes) -> Path | None:
    """Write a record outside of its archive and return where; None when there is no place for it either."""
    try:
        state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
        folder = Path(state) / "opsbook" / "spilled"
        make_folder(folder)
        file = folder / f"{run_id}.json"
        write_whole(file, data)
    except (ArchiveError, OSError, RuntimeError):  # no home is a RuntimeError
        return None
    return file
