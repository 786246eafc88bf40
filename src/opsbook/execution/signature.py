"""Where an executed copy lies, in the words NII's tools have for it: which server, which folder, which path.

The server's id is the one their tools made, where they did; a run makes no file outside of the archive.
"""

from __future__ import annotations

import os
import platform
import socket
import stat
from collections.abc import Mapping
from pathlib import Path

from opsbook.archive.layout import DEPTH, RunFolder
from opsbook.runbook.lineage import Signature
from opsbook.runbook.meme import derived_origin, parse_meme

VARIABLE = "lc_nblineage_server_signature_path"
"""The environment variable by which NII's tools name the file of their id."""
_MOST = 100
"""Bytes of that file that are read: it holds a UUID."""


def copy_signature(folder: RunFolder) -> Signature:
    """Return where a run's copy will lie."""
    root = folder.path.parents[DEPTH - 1]
    host = socket.gethostname()
    return Signature(
        signature_id=_server_id(os.environ) or derived_origin("server", host),
        server_url=f"opsbook://{host}/",
        notebook_dir=os.fsencode(root).decode("utf-8", "replace"),
        notebook_path=str(folder.copy.relative_to(root)),
    )


def _server_id(environ: Mapping[str, str]) -> str:
    """Return the id of this user's Jupyter server; empty where none was ever made."""
    try:
        named = environ.get(VARIABLE)
        descriptor = os.open(named or _data_folder(environ) / "server_signature", os.O_RDONLY | os.O_NONBLOCK)
    except (OSError, RuntimeError, ValueError):
        return ""
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return ""
        meme = parse_meme(file.read(_MOST).decode("ascii", "replace").strip())
    return meme.origin if meme is not None else ""


def _data_folder(environ: Mapping[str, str]) -> Path:
    """Return where Jupyter keeps a user's data."""
    if named := environ.get("JUPYTER_DATA_DIR"):
        return Path(named)
    if platform.system() == "Darwin":
        return Path.home() / "Library/Jupyter"
    return Path(environ.get("XDG_DATA_HOME") or Path.home() / ".local/share") / "jupyter"
