"""The guard: a process between runner and kernel that ends everything the notebook started when the run is over.

It holds one end of a pipe. When the kernel ends, when the runner says so, or when the runner is gone, however it went,
every process the kernel left is killed, those included that made themselves a session of their own; then the guard
ends as the kernel did. Imports next to nothing, because it stands at the start of every kernel.

Run as `python -P -m opsbook.execution.guard CONNECTION_FILE COMMAND…` before a kernel that is not ours; ours forks it
itself.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from contextlib import suppress
from types import FrameType

from opsbook.execution.own_memory import ask_kernel, close_memory
from opsbook.execution.terms import GUARD_VARIABLE, LEFT

_KILL_S = 2.0
"""Seconds killed processes may take to be gone."""
_SUBREAPER, _DEATH_SIGNAL = 36, 1
_SIGNALS = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD}


def fork_guard(folder: str) -> None:
    """Put a guard between this process and its runner, if there is one: only the child returns."""
    descriptor = int(os.environ.pop(GUARD_VARIABLE, "-1"))
    if descriptor < 0:
        return
    os.set_inheritable(descriptor, False)  # noqa: FBT003  the standard library's signature
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    guard = os.getpid()
    kernel = os.fork()
    if kernel == 0:
        os.close(descriptor)
        os.setsid()
        ask_kernel(_DEATH_SIGNAL, signal.SIGKILL)
        if os.getppid() != guard:
            os._exit(1)
        os.environ["JPY_PARENT_PID"] = str(guard)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        return
    os._exit(_Guard(kernel, descriptor, folder).watch())


class _Guard:
    """Watches one kernel."""

    def __init__(self, kernel: int, descriptor: int, folder: str) -> None:
        self._kernel = kernel
        self._descriptor = descriptor
        self._folder = folder
        self._status: int | None = None
        os.closerange(3, descriptor)  # the runner must see when the kernel's end of the channel closes
        os.closerange(descriptor + 1, 256)
        self._woken, self._wake = os.pipe()
        os.set_blocking(self._wake, False)
        os.set_blocking(self._woken, False)
        signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        for number in _SIGNALS:
            signal.signal(number, _pass)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        ask_kernel(_SUBREAPER, 1)
        close_memory()

    def watch(self) -> int:
        """Wait for the end, end what is left, and return the kernel's exit code; when a signal killed it, die of it."""
        asked: bytes | None = None
        while self._status is None and asked is None:
            ready, _, _ = select.select([self._descriptor, self._woken], [], [])
            if self._woken in ready:
                self._take_signals()
            if self._descriptor in ready:
                asked = os.read(self._descriptor, 1)
        self._end_all()
        if asked == b"":
            self._remove_folder()
        code = os.waitstatus_to_exitcode(self._status or 0)
        if code < 0:
            _die_of(-code)
        return code

    def _take_signals(self) -> None:
        """Hand an interrupt on to the kernel; take note of its end."""
        with suppress(BlockingIOError):
            if signal.SIGINT in os.read(self._woken, 4096):
                os.kill(self._kernel, signal.SIGINT)
        self._reap()

    def _reap(self) -> bool:
        """Take note of what has ended; whether any process of ours is left."""
        while True:
            try:
                number, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if number == self._kernel:
                self._status = status
            if number == 0:
                return True

    def _end_all(self) -> None:
        """Kill the kernel and all it left, generation after generation: each becomes ours when the one before dies."""
        deadline = time.monotonic() + _KILL_S
        if self._status is None:
            with suppress(ProcessLookupError):
                os.killpg(self._kernel, signal.SIGKILL)
        spared: set[int] = set()
        while self._reap():
            children = _children()
            for number in children - spared:
                try:
                    os.kill(number, signal.SIGKILL)
                except PermissionError:
                    spared.add(number)
                except ProcessLookupError:
                    pass
            if (children and children <= spared) or time.monotonic() > deadline:
                self._tell(children)
                return
            select.select([self._woken], [], [], 0.05)
            with suppress(BlockingIOError):
                os.read(self._woken, 4096)

    def _tell(self, left: set[int]) -> None:
        with suppress(OSError), open(os.path.join(self._folder, LEFT), "w", encoding="ascii") as file:  # noqa: PTH118, PTH123  pathlib costs more than all the rest
            file.write(" ".join(map(str, sorted(left))))

    def _remove_folder(self) -> None:
        import shutil  # noqa: PLC0415  nobody waits for it here

        shutil.rmtree(self._folder, ignore_errors=True)


def _children() -> set[int]:
    """Return this process's children; none where the system does not tell, and there the group has to do."""
    own = os.getpid()
    with suppress(OSError), open(f"/proc/{own}/task/{own}/children", encoding="ascii") as file:  # noqa: PTH123
        return set(map(int, file.read().split()))
    return set()


def _die_of(number: int) -> None:
    """End by a signal, as the kernel did."""
    if number != signal.SIGKILL:
        signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    time.sleep(1)


def _pass(number: int, frame: FrameType | None) -> None:
    """The wake-up descriptor carries the number; a service manager's SIGTERM is the runner's to answer."""
    del number, frame


if __name__ == "__main__":
    fork_guard(os.path.dirname(sys.argv[1]))  # noqa: PTH120
    try:
        os.execvp(sys.argv[2], sys.argv[2:])  # noqa: S606  the kernelspec's own command line
    except OSError as error:
        print(f"{sys.argv[2]}: {error.strerror}", file=sys.stderr)  # noqa: T201  the kernel's log
    os._exit(127)
