"""Notices dead peers: one thread for all connections of a pool, none while there are none.

Every transport asks its silent peer for a sign of life by itself (see transport); here is seen whether anything comes
at all. Any byte counts. Silence is counted in looks, not read off a clock, so that a controller that was asleep takes
nobody for dead.
"""

from __future__ import annotations

import threading
from typing import Protocol

LOOKS = 4
"""Looks in each keepalive interval."""
PATIENCE = 14
"""Looks without a byte after which a peer is dead: three and a half intervals, with at least two questions in them."""


def silence_s(keepalive_s: float) -> float:
    """Return the seconds after which a silent peer is dead."""
    return keepalive_s * PATIENCE / LOOKS


class Peer(Protocol):
    """A connection, as far as its life is concerned."""

    @property
    def alive(self) -> bool:
        """Whether it still stands."""

    @property
    def received(self) -> int:
        """A number that grows with whatever comes."""

    def close(self) -> None:
        """End it; whoever waits on it is woken."""


class Watch:
    """Looks after connections."""

    def __init__(self, keepalive_s: float) -> None:
        self._period_s = keepalive_s / LOOKS
        self._changed = threading.Condition()
        self._peers: dict[Peer, tuple[int, int]] = {}
        self._running = False

    def add(self, peer: Peer) -> None:
        """Look after a connection until it ends."""
        with self._changed:
            self._peers[peer] = (peer.received, 0)
            if not self._running:
                self._running = True
                threading.Thread(target=self._look, name="opsbook-keepalive", daemon=True).start()

    def clear(self) -> None:
        """Look after nobody any more."""
        with self._changed:
            self._peers.clear()
            self._changed.notify_all()

    def _look(self) -> None:
        while True:
            with self._changed:
                if self._peers:
                    self._changed.wait_for(lambda: not self._peers, self._period_s)
                if not self._peers:
                    self._running = False
                    return
                dead = self._count()
            for peer in dead:
                # a thread to each: the way to say goodbye may be through another dead connection
                threading.Thread(target=peer.close, daemon=True).start()

    def _count(self) -> list[Peer]:
        """Count one more look at each; return those that were silent for too many."""
        dead = []
        for peer, (received, before) in list(self._peers.items()):
            silent = before + 1 if peer.received == received else 0
            if not peer.alive or silent >= PATIENCE:
                del self._peers[peer]
                dead += [peer] if peer.alive else []
            else:
                self._peers[peer] = (peer.received, silent)
        return dead
