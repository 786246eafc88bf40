"""The kernel's side of its start: ipykernel in opsbook's own interpreter, with nothing lost on the way out.

Run as `python -P -m opsbook.execution.launch -f CONNECTION_FILE`. `-P` keeps the working directory off the path until
opsbook is imported, so that an `opsbook.py` beside the notebook cannot take its place.
"""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType
from typing import Any

import zmq
from ipykernel.kernelapp import IPKernelApp

import opsbook  # noqa: F401  before the notebook's folder is on the path


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


def _leave_it_to_the_runner(number: int, frame: FrameType | None) -> None:
    """Go on after a SIGTERM. A service manager sends it to runner and kernel at once, and the kernel is needed.

    It ends the remote commands, and the runner ends the kernel. A handler: what is ignored, children would ignore too.
    """
    del number, frame


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _leave_it_to_the_runner)
    sys.path.insert(0, "")  # a notebook may import its neighbours, now that they cannot take opsbook's place
    KernelApp.launch_instance(sys.argv[1:])
