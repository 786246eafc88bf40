"""The real processes that commands on one simulated machine started, until the last of each group is gone.

Every command leads its own session and process group. Each holds the write end of a pipe that its children inherit
(the life pipe): its end of file says that the group is gone, so that a group number is never signalled after the
kernel may have given it to somebody else. What left its group by `setsid` is found by its environment, where the
system shows it. Knows nothing of SSH.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from opsbook.demo.machine import has_tools

MARKER = "OPSBOOK_DEMO_HOST"
"""The environment variable every command carries: its machine's folder."""
LOGIN = "root"
"""The one user of a machine, as the simulation tells it."""
REAL_PATH = "/usr/local/bin:/usr/bin:/bin"
"""Where the tools of the machine the demo runs on are looked for, after the simulated ones."""
_STRAY_AFTER_S = 0.2
"""How long a killed group may hold its life pipe before somebody outside it is looked for."""


class ProcessTable:
    """Starts commands on one machine and ends them all."""

    def __init__(self, *, shell: str, folder: Path) -> None:
        self._shell = shell
        self._folder = folder
        self._lock = threading.Lock()
        self._groups: dict[subprocess.Popen[bytes], int] = {}  # the leader, and the read end of its life pipe
        self._open = True

    def start(self, command: bytes, *, extra: Mapping[str, str]) -> subprocess.Popen[bytes] | None:
        """Start `sh -c COMMAND` as a login would, or return None when the machine is down or nothing can be started.

        A machine that lost its simulated tools starts nothing more: `systemctl reboot` would be the real one.
        """
        with self._lock:
            self._forget_gone()
            if not self._open or not has_tools(self._folder):
                return None
            try:
                alive, held = os.pipe()
            except OSError:
                return None
            process = None
            try:
                process = self._popen(command, environment=self._login_environment() | dict(extra), held=held)
                self._groups[process] = alive
            except (OSError, ValueError):  # no process to be had; a zero byte in the command
                return None
            finally:
                os.close(held)
                if process is None:
                    os.close(alive)
            return process

    def _login_environment(self) -> dict[str, str]:
        """Return what a command finds in its environment: nothing of this process's own."""
        return {
            "PATH": f"{self._folder}/bin:{REAL_PATH}",
            "HOME": str(self._folder),
            "TMPDIR": str(self._folder / "tmp"),
            "SHELL": "/bin/sh",
            "USER": LOGIN,
            "LOGNAME": LOGIN,
            "LANG": "C.UTF-8",
            MARKER: str(self._folder),
        }

    def _popen(self, command: bytes, *, environment: Mapping[str, str], held: int) -> subprocess.Popen[bytes]:
        """Start the shell with three pipes, in a session and process group of its own."""
        return subprocess.Popen(  # noqa: S603 - to run what it is sent is what an SSH server is for
            [self._shell, "-c", command],
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=self._folder,
            env=environment,
            start_new_session=True,
            umask=0o022,
            pass_fds=(held,),
        )

    def kill(self, process: subprocess.Popen[bytes], number: int) -> bool:
        """Send a signal to a command's whole process group; say whether there was one to send it to."""
        with self._lock:
            self._forget_gone()
            if process not in self._groups:
                return False
            return _kill_group(process.pid, number)

    def reopen(self) -> None:
        """Let commands be started again after `end_all`."""
        with self._lock:
            self._open = True

    def settle(self) -> None:
        """Forget the groups that are gone. Called as soon as a leader was reaped, before its number is used again."""
        with self._lock:
            self._forget_gone()

    def end_all(self, *, deadline: float) -> None:
        """Kill every group, start nothing more, and return when all are gone or at `deadline` (monotonic seconds)."""
        with self._lock:
            self._open = False
            self._forget_gone()
            for process in self._groups:
                _kill_group(process.pid, signal.SIGKILL)
            groups = dict(self._groups)
            self._groups.clear()
        pipes = set(groups.values())
        left = _wait_for_end(pipes, deadline=min(deadline, time.monotonic() + _STRAY_AFTER_S))
        if left:  # something left its group and still holds the pipe
            kill_strays(self._folder)
            _wait_for_end(left, deadline=deadline)
        for process, alive in groups.items():
            os.close(alive)
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))

    def _forget_gone(self) -> None:
        """Drop each group whose leader was reaped and that has no process left. The lock is held."""
        for process, alive in list(self._groups.items()):
            if process.returncode is None:
                continue
            if not _wait_for_end({alive}, deadline=0) or not _kill_group(process.pid, 0):
                os.close(alive)
                del self._groups[process]


def _wait_for_end(pipes: set[int], *, deadline: float) -> set[int]:
    """Wait until all these life pipes are at their end, or `deadline` (monotonic seconds); return the others."""
    waiting = select.poll()
    for pipe in pipes:
        waiting.register(pipe, select.POLLIN)
    left = set(pipes)
    while left:
        remaining = max(0.0, deadline - time.monotonic())
        ended = [pipe for pipe, _ in waiting.poll(remaining * 1000)]
        if not ended:
            break
        for pipe in ended:
            waiting.unregister(pipe)
            left.discard(pipe)
    return left


def kill_strays(folder: Path) -> None:
    """Kill what carries the marker of a machine in this folder, wherever it went. Quietly nothing without `/proc`."""
    for _ in range(3):  # what a stray started while it was being killed is found by the next look
        found = list(_stray_pids(folder))
        for pid in found:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        if not found:
            return


def _stray_pids(folder: Path) -> Iterator[int]:
    """Yield the processes whose environment names this folder or a machine inside it, this process excepted."""
    marker = f"{MARKER}={folder}".encode()
    for entry in Path("/proc").glob("[0-9]*/environ"):
        pid = int(entry.parent.name)
        with suppress(OSError):
            for variable in entry.read_bytes().split(b"\0"):
                if pid != os.getpid() and (variable == marker or variable.startswith(marker + b"/")):
                    yield pid
                    break


def _kill_group(group: int, number: int) -> bool:
    """Send a signal to a process group; say whether it was there."""
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True
