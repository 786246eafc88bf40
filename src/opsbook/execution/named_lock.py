"""A lock by a name somebody chose (`--lock`), held for a whole run and taken before anything of the run is there.

Knows nothing of targets.
"""

from __future__ import annotations

import select
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime

import msgspec

from opsbook.errors import BusyError, RefusedError
from opsbook.execution.locks import busy, holder_of
from opsbook.execution.request import RunRequest
from opsbook.locks.folder import LockFolder, lock_folder
from opsbook.locks.lock_file import Holder, LockFile
from opsbook.locks.wait import GRACE_S, Wait
from opsbook.model.event import Entry, LockAwaited
from opsbook.model.protocol import Observer
from opsbook.model.run import RunRecord


@contextmanager
def named_lock(request: RunRequest, claimed: RunRecord, *, bell: int, observers: Iterable[Observer]) -> Iterator[str]:
    """Hold the lock a run was given a name for, as long as the block lasts; give why it cannot be had, or nothing.

    A dry run holds none. Observers are shown whom it waits for; there is no journal yet that could say so.

    Raises:
        RefusedError: there are no locks to be had.
    """
    name = request.locking.name
    if name is None or request.options.checking:
        yield ""
        return

    def tell(whom: str) -> None:
        entry = Entry(seq=0, at=datetime.now(UTC), prev="", event=LockAwaited(cell_id=None, holder=whom))
        for observer in observers:
            with suppress(Exception):  # an observer's error is its own
                observer.observe(entry)

    folder, holder = lock_folder(request.locking.path), holder_of(claimed, request.archive)
    try:
        lock = take_name(folder, name, holder=holder, wait_s=request.options.lock_wait_s, bell=bell, tell=tell)
    except BusyError as error:
        for observer in observers:
            with suppress(Exception):
                observer.close()
        yield str(error)
        return
    try:
        yield ""
    finally:
        if lock is not None:
            with suppress(OSError):
                lock.write(None)
            lock.close()


def take_name(
    folder: LockFolder, name: str, *, holder: Holder, wait_s: float, bell: int, tell: Callable[[str], None]
) -> LockFile | None:
    """Return the lock, taken; None when `bell` could be read before it was: the run is to stop.

    `tell` is told whom it waits for.

    Raises:
        BusyError: somebody else holds it.
        RefusedError: there are no locks to be had.
    """
    lock = folder.of_name(name)
    try:
        if not lock.take():
            if wait_s:
                tell(busy(lock, f"lock {name!r}"))
            wait = _until(bell, max(wait_s, GRACE_S))
            if not lock.take(wait):
                if wait.given_up:
                    return None
                raise BusyError(busy(lock, f"lock {name!r}"))
        lock.write(msgspec.structs.replace(holder, place=name))
    except OSError as error:
        lock.close()
        raise RefusedError(f"cannot take lock {name!r} in {folder.path}: {error.strerror or error}") from error
    return lock


def _until(bell: int, seconds: float) -> Wait:
    """Return a wait that is over as soon as the bell can be read."""
    wait = Wait(seconds)

    def listen() -> None:
        if select.select([bell], [], [], seconds)[0]:
            wait.give_up()

    threading.Thread(target=listen, name="opsbook-lock-bell", daemon=True).start()
    return wait
