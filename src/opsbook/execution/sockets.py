"""The two sockets a kernel answers on, read as they are: a cell's outputs on one, its reply on the other.

Nothing is lost between two looks, and a look takes a bounded number of messages. Whoever waits wakes for a message, a
signal, or the end of its time. Knows nothing of cells.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import zmq

if TYPE_CHECKING:
    from jupyter_client.client import KernelClient

_TURN = 100
"""Messages that are taken before anything else has its turn: a deadline, the kernel's death."""


class KernelSockets:
    """The shell and the IOPub socket of one client whose channels are started."""

    def __init__(self, client: KernelClient) -> None:
        self._session = client.session
        self._shell: zmq.Socket[bytes] = client.shell_channel.socket
        self._iopub: zmq.Socket[bytes] = client.iopub_channel.socket
        self._poller = zmq.Poller()
        for socket in (self._shell, self._iopub):
            self._poller.register(socket, zmq.POLLIN)

    def wait(self, seconds: float) -> bool:
        """Wait until something has come, so many seconds at most; whether it has."""
        return bool(self._poller.poll(math.ceil(max(0, seconds) * 1000)))

    def outputs(self) -> Iterator[dict[str, Any]]:
        """Yield what has come on IOPub, up to a turn's worth."""
        return self._taken(self._iopub)

    def replies(self) -> Iterator[dict[str, Any]]:
        """Yield what has come on the shell socket, up to a turn's worth."""
        return self._taken(self._shell)

    def _taken(self, socket: zmq.Socket[bytes]) -> Iterator[dict[str, Any]]:
        for _ in range(_TURN):
            try:
                frames = socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            yield self._session.deserialize(self._session.feed_identities(frames)[1])
