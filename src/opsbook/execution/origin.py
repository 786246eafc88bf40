"""Where a run comes from: who, on which machine, with which versions, from which commit."""

from __future__ import annotations

import getpass
import os
import platform
import shutil
import socket
import subprocess
from importlib.metadata import version
from pathlib import Path

import opsbook
from opsbook.execution.stop import process_start
from opsbook.model.run import GitState, Operator

_GIT_S = 5.0
_PLAIN = ("--literal-pathspecs", "-c", "core.fsmonitor=false")
"""A file's name is a name, and a repository may name no program to be run when somebody asks it something."""
_NAMED = ("papermill", "nbclient", "nbformat", "ipykernel", "paramiko")


def operator_here(*, terminal: bool) -> Operator:
    """Return who runs this process; under sudo, who asked for it."""
    user = os.environ.get("SUDO_USER") or _user()
    pid = os.getpid()
    return Operator(
        user=user, host=socket.gethostname(), pid=pid, process_started=process_start(pid), terminal=terminal
    )


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return str(os.getuid())  # a user the system has no name for


def versions() -> dict[str, str]:
    """Return the versions that decide how a run behaves."""
    return {"opsbook": opsbook.__version__, "python": platform.python_version()} | {
        name: version(name) for name in _NAMED
    }


def git_state(path: Path) -> GitState | None:
    """Return the commit a file's repository is at, and whether the file differs from it; None outside of one."""
    if shutil.which("git") is None:
        return None
    commit = _git(path, "rev-parse", "HEAD")
    if not commit:
        return None
    return GitState(
        commit=commit,
        describe=_git(path, "describe", "--tags", "--always") or commit[:12],
        dirty=_git(path, "status", "--porcelain", "--", path.name) != "",
    )


def _git(path: Path, *words: str) -> str:
    """Ask git about the folder a file is in; empty when it does not answer."""
    command = ["git", *_PLAIN, "-C", str(path.resolve().parent), *words]
    try:
        done = subprocess.run(  # noqa: S603
            command, capture_output=True, timeout=_GIT_S, check=False, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode(errors="replace").strip() if done.returncode == 0 else ""
