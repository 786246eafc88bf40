"""The kernel's side of its start: ipykernel in opsbook's own interpreter, with nothing lost on the way out.

Run as `python -P -m opsbook.execution.launch -f CONNECTION_FILE`. `-P` keeps the working directory off the path until
opsbook is imported, so that an `opsbook.py` beside the notebook cannot take its place.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any

import zmq
from ipykernel.kernelapp import IPKernelApp

from opsbook.execution.kernel import GUARD_VARIABLE  # ours, before the notebook's folder is on the path


class KernelApp(IPKernelApp):
    """ipykernel, publishing without a limit: by default it drops output when the reader is slower than the writer."""

    def init_iopub(self, context: zmq.Context[Any]) -> None:
        """Make the socket outputs leave on (ipykernel's hook)."""
        context.setsockopt(zmq.SNDHWM, 0)
        super().init_iopub(context)  # type: ignore[no-untyped-call]

    def close(self) -> None:
        """End the process (ipykernel's last exit handler, so the notebook's own have run).

        ipykernel would now wait for threads of its own that, at times, wait for each other for ten seconds.
        """
        os._exit(0)


def _follow_the_runner(descriptor: int, folder: Path) -> None:
    """Wait for the runner's end, and go with it: with every process of this group, and the folder of the sockets."""
    os.read(descriptor, 1)
    shutil.rmtree(folder, ignore_errors=True)
    os.killpg(0, signal.SIGKILL)


def _guard() -> None:
    """Watch the descriptor the runner handed down; programs the notebook starts do not inherit it."""
    descriptor = int(os.environ.pop(GUARD_VARIABLE, "-1"))
    if descriptor < 0:
        return
    fcntl.fcntl(descriptor, fcntl.F_SETFD, fcntl.FD_CLOEXEC)
    folder = Path(sys.argv[sys.argv.index("-f") + 1]).parent
    threading.Thread(target=_follow_the_runner, args=(descriptor, folder), name="opsbook-guard", daemon=True).start()


def _leave_it_to_the_runner(number: int, frame: FrameType | None) -> None:
    """Go on after a SIGTERM. A service manager sends it to runner and kernel at once, and the kernel is needed.

    It ends the remote commands, and the runner ends the kernel. A handler: what is ignored, children would ignore too.
    """
    del number, frame


if __name__ == "__main__":
    _guard()
    signal.signal(signal.SIGTERM, _leave_it_to_the_runner)
    sys.path.insert(0, "")  # a notebook may import its neighbours, now that they cannot take opsbook's place
    KernelApp.launch_instance(sys.argv[1:])
