"""Some threads that do one thing to many, side by side, in bounded time: one that hangs holds none of the others."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import TypeVar

T = TypeVar("T")


def side_by_side(do: Callable[[T], object], things: Iterable[T], *, threads: int, deadline: float) -> None:
    """Do it to each; return when all is done or at the deadline, by the monotonic clock. `do` raises nothing."""
    waiting: SimpleQueue[T] = SimpleQueue()
    for thing in things:
        waiting.put(thing)

    def work(until: float = float("inf")) -> None:
        with suppress(Empty):
            while time.monotonic() < until:
                do(waiting.get_nowait())

    crew = []
    try:
        for _ in range(min(threads, waiting.qsize())):
            thread = threading.Thread(target=work, daemon=True)
            thread.start()
            crew.append(thread)
    except RuntimeError:  # at exit Python 3.12 starts none
        work(deadline)
    for thread in crew:
        thread.join(max(0.0, deadline - time.monotonic()))
