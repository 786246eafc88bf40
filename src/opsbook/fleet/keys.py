"""Host keys recorded beforehand: every target shown once, by the way a run would take, without logging in.

A key nobody has seen is recorded in the known_hosts file in force; one that is not the recorded one is that target's
error, and nothing of it is written. Jump hosts on the way count too: they have to be logged in to.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from msgspec.structs import replace

from opsbook.errors import ConnectError
from opsbook.fleet.pool import Pool
from opsbook.model.message import RunOptions
from opsbook.model.reach import ShownKey
from opsbook.model.target import Target, TargetState


def accept_keys(targets: Sequence[Target], *, options: RunOptions) -> tuple[ShownKey, ...]:
    """Return what every target showed, in the order given, and after them the jump hosts whose keys are new."""
    pool = Pool(replace(options, host_keys="accept-new"))
    executor = ThreadPoolExecutor(options.parallel, thread_name_prefix="opsbook-keys")
    try:
        shown = list(executor.map(lambda target: _look(pool, target), targets))
        hops = [
            ShownKey(name=address, address=address, fingerprint=hop.fingerprint, new=True)
            for address, hop in pool.jump_hosts.items()
            if not hop.trusted
        ]
    finally:
        pool.close()  # first: after Ctrl-C nobody waits for those still connecting
        executor.shutdown(cancel_futures=True)
    return (*shown, *hops)


def _look(pool: Pool, target: Target) -> ShownKey:
    try:
        connection = pool.knock(target)
    except ConnectError as error:
        return ShownKey(name=target.name, address=target.address, state=TargetState(error.state), reason=str(error))
    connection.close()
    return ShownKey(
        name=target.name, address=target.address, fingerprint=connection.fingerprint, new=not connection.trusted
    )
