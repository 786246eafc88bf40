"""What a killed run was about to write, taken away by the next one: drafts, reserved room, a claim it never finished.

Only the newest runs are looked at, and only those nobody holds: a draft is never read, so one that stays harms nobody.
"""

from __future__ import annotations

import re
import shutil
import time
from contextlib import suppress
from itertools import islice
from pathlib import Path

from opsbook.archive.history import is_unbegun, iter_folders
from opsbook.archive.layout import RESERVE, is_alive

NEWEST = 20
"""Runs that are looked at."""
CLAIMING_S = 60.0
"""Seconds after which a folder without a lock is none that somebody is just making."""
_DRAFT = re.compile(r"\..+\.[0-9a-f]{8}")


def sweep(root: Path) -> None:
    """Remove what killed runs left half written. What cannot be removed stays."""
    for folder in islice(iter_folders(root), NEWEST):
        if folder.path.is_symlink() or is_alive(folder):
            continue
        with suppress(OSError):
            for file in list(folder.path.iterdir()):
                if file.name == RESERVE or _DRAFT.fullmatch(file.name):
                    file.unlink(missing_ok=True)
            if is_unbegun(folder) and time.time() - folder.path.stat().st_mtime > CLAIMING_S:
                shutil.rmtree(folder.path, ignore_errors=True)
