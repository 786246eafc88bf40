"""The flags about locks that several commands share, and what is refused for the locks' sake before anything starts."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from opsbook.archive.history import find_run
from opsbook.archive.layout import is_run_id
from opsbook.config import Settings
from opsbook.errors import BusyError, ConnectError, UsageError
from opsbook.execution.marks import Marks, ancestors, refuse_marked, standing
from opsbook.execution.request import Locking, RunRequest
from opsbook.locks.folder import lock_folder
from opsbook.locks.lock_file import is_held
from opsbook.model.lock import Standing
from opsbook.model.target import Target

if TYPE_CHECKING:
    from opsbook.model.plan import Plan
    from opsbook.ssh.route import Atlas

LOCKS = ("lock", "acknowledge")
"""The flags `locking_for` takes; the third is the run's options'."""
_OPTIONS = (
    click.option("--wait-lock", metavar="TIME", help="How long to wait for locks another run holds."),
    click.option("--lock", metavar="NAME", help="Hold a lock of this name for the whole run; for cron."),
    click.option("--acknowledge", metavar="RUN", help="Go on where that run left targets in the middle."),
)


def locking_flags(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the flags about locks."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def locking_for(
    settings: Settings, archive: Path, *, lock: str | None, acknowledge: str | None, checking: bool
) -> Locking:
    """Return what a run locks, as flags and settings say.

    Raises:
        UsageError: the lock has no name, or no such run is known to be acknowledged.
        BusyError: that run still runs.
    """
    path = settings.locks.path
    if lock is not None and not lock.strip():
        raise UsageError("--lock needs a name", "such as --lock nightly-patch")
    if acknowledge is not None:
        if checking:
            raise UsageError("a dry run cannot --acknowledge anything", "it changes nothing: leave out one of the two")
        acknowledge = _acknowledged(acknowledge, archive, path)
    return Locking(path=path, name=lock, acknowledge=acknowledge)


def _acknowledged(text: str, archive: Path, path: str | None) -> str:
    """Return the id of the run that is meant: it need not be in an archive any more."""
    run_id = text if is_run_id(text) else find_run(archive, text).folder.run_id
    if any(holder.run_id == run_id and is_held(lock.file) for lock, holder in lock_folder(path).named()):
        raise BusyError(f"run {run_id} still runs", f"opsbook stop {run_id} ends it")
    return run_id


def refuse_what_is_marked(request: RunRequest) -> None:
    """Refuse a run whose `%%on` lines name targets to change that a run has left in the middle (SEMANTICS 23).

    What Python cells choose is not known yet: they are refused when they ask.

    Raises:
        RefusedError: one of them was.
    """
    folder = lock_folder(request.locking.path)
    if request.options.checking or not any(holder.targets for _, holder in folder.named()):
        return
    from opsbook.cli.plan import plan_of  # noqa: PLC0415  few runs find anything marked

    perhaps = {cell.id for cell in request.runbook.code_cells if "on-failure" in cell.tags}
    certain = [cell for cell in plan_of(request).cells if cell.changes and not cell.python and cell.id not in perhaps]
    addresses = _addresses(request, {name for cell in certain for name in cell.targets})
    before = request.resumed.folder.run_id if request.resumed is not None else None
    mine = ancestors(request.archive, before) | frozenset(filter(None, (request.locking.acknowledge,)))
    refuse_marked(folder, addresses, Marks(mine))


def locks_in_the_way(request: RunRequest, plan: Plan) -> tuple[Standing, ...]:
    """Return the locks of what a run would change, and of `--lock`, where another run has to do with them.

    Targets that its Python cells would choose are not known: the locks of all that it may choose count then.
    """
    found = standing(lock_folder(request.locking.path))
    if not found:
        return ()  # ways are worked out for no other reason: ssh_config may run a command for each (`Match exec`)
    perhaps = {name for cell in plan.cells if cell.changes or cell.python for name in cell.targets}
    names = perhaps if plan.reached is not None else set(request.selected)
    places = {*_addresses(request, names).values(), request.locking.name}
    return tuple(one for one in found if one.place in places and one.run_id != request.locking.acknowledge)


def _addresses(request: RunRequest, names: Collection[str]) -> dict[str, str]:
    """Return the addresses of some targets by name."""
    from opsbook.ssh.route import Atlas  # noqa: PLC0415

    atlas, targets = Atlas(request.options), request.inventory.targets if request.inventory is not None else ()
    return {target.name: _address(atlas, target) for target in targets if target.name in names}


def _address(atlas: Atlas, target: Target) -> str:
    try:
        return atlas.route(target).endpoint
    except ConnectError:
        return target.address
