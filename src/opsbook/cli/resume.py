"""`opsbook resume`: go on with a run that stopped."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click
import msgspec
from msgspec.structs import replace

from opsbook.archive.history import find_run
from opsbook.cli.locking import locking_for
from opsbook.cli.noted import ack_flag, noted_for
from opsbook.cli.part import TIMES, limits_again
from opsbook.cli.prepare import archive_root, as_always, check_ssh_config, host_key_rule, read_inventory
from opsbook.cli.run import run_and_show
from opsbook.cli.screen import is_terminal, message_console
from opsbook.config import Settings, load_settings
from opsbook.errors import RefusedError, UsageError
from opsbook.execution.request import RunRequest
from opsbook.execution.resumption import LocalCells, go_on, local_cells, resumable, targets_to_use
from opsbook.model.amount import parse_duration
from opsbook.model.message import RunOptions
from opsbook.model.parameter import Binding
from opsbook.model.run import RunRecord
from opsbook.model.target import Inventory
from opsbook.model.visible import one_line
from opsbook.redaction import MASK
from opsbook.runbook.notebook import Runbook
from opsbook.runbook.parameters import bind
from opsbook.runbook.selection import select_cells


@click.command("resume")
@click.argument("what", metavar="RUN")
@click.option(
    "-i", "--inventory", "inventory_files", multiple=True, type=click.Path(path_type=Path), help="Ansible format."
)
@click.option("--archive", type=click.Path(path_type=Path), help="Where runs are kept.")
@click.option("--accept-changes", is_flag=True, help="Go on although cells, addresses, texts or targets were changed.")
@click.option("--drop-missing", is_flag=True, help="Go on without targets that are gone from the inventory.")
@click.option("--resend-lost", is_flag=True, help="Do again what was sent and nobody knows the end of.")
@click.option("--timeout", "run_timeout", metavar="TIME", help="For this run; else as before.")
@click.option("--cell-timeout", metavar="TIME", help="For each cell whose own tag does not say; else as before.")
@click.option("--always-timeout", metavar="TIME", help="For each clean-up cell; else as before.")
@click.option("--wait-lock", metavar="TIME", help="How long to wait for locks another run holds.")
@ack_flag
@click.option("--yes", is_flag=True, help="Run local Python again without asking, and confirm every gate.")
@click.option("--reason", default="", help="Why; kept in the record.")
@click.option("--json", "as_json", is_flag=True, help="Print the record as one JSON document.")
@click.option("--quiet", is_flag=True, help="Print nothing when it succeeds.")
def command(what: str, *, archive: Path | None, as_json: bool, quiet: bool, **flags: Any) -> int:
    """Go on with RUN (its id, a unique part of it, or 'last') where it stopped.

    The notebook is executed again from the top; what the journal shows as done on a target is answered from there and
    not sent again. What was sent and has no known end is not sent again either: the run ends with 6 and names it.
    """
    watched = is_terminal(sys.stderr) and is_terminal(sys.stdin)
    request = resume_request(archive_root(archive), what, terminal=watched, **flags)
    _agree(request)
    return run_and_show(request, as_json=as_json, quiet=quiet)


def _agree(request: RunRequest) -> None:
    """Have somebody agree that local Python runs again.

    Raises:
        RefusedError: nobody does.
    """
    resumed = request.resumed
    cells = LocalCells() if resumed is None else local_cells(request.runbook, resumed.replay)
    rows = (("before the stop", cells.before), ("where it stopped", cells.at), ("after the stop", cells.after))
    named = [f"{place}: {', '.join(labels)}" for place, labels in rows if labels]
    if not named or request.yes:
        return
    if not request.terminal:
        raise RefusedError(f"local Python runs again ({'; '.join(named)})", "--yes agrees to that")
    screen = message_console()
    screen.print("\n  ".join(["local Python runs again:", *map(one_line, named)]), markup=False)
    try:
        agreed = click.confirm("Go on?", err=True)
    except click.Abort:
        agreed = False
    if not agreed:
        raise RefusedError("it was not agreed that local Python runs again", "--yes agrees beforehand")


def resume_request(
    root: Path,
    what: str,
    *,
    terminal: bool,
    inventory_files: tuple[Path, ...] = (),
    accept_changes: bool = False,
    drop_missing: bool = False,
    resend_lost: bool = False,
    wait_lock: str | None = None,
    ack_notes: tuple[str, ...] = (),
    **said: Any,
) -> RunRequest:
    """Decide everything that can be decided before a run is gone on with: nearly all of it, its record says.

    Raises:
        UsageError: it is no run to be resumed, or something it needs is not there.
        RefusedError: something was changed meanwhile, and nobody insists.
        BusyError: it still runs.
    """
    settings, run = load_settings(), find_run(root, what)
    record = resumable(run, insist=accept_changes)
    runbook, resumed = go_on(run, record, insist=accept_changes, resend=resend_lost)
    inventory = _inventory(settings, record, inventory_files)
    selected, moved = targets_to_use(record, inventory, insist=accept_changes, drop=drop_missing)
    runbook = select_cells(runbook, record.selection)
    return RunRequest(
        runbook=runbook,
        noted=noted_for(settings, runbook, ack_notes),
        binding=_binding(runbook, record),
        inventory=inventory,
        pattern=record.targets.pattern,
        selected=selected,
        parent=record.parent,
        options=_options(settings, record, terminal=terminal, wait_lock=wait_lock),
        locking=locking_for(settings, root, lock=_lock_name(record), acknowledge=None, checking=False),
        archive=root,
        selection=record.selection,
        limits=limits_again(record.limits, **{name: said.pop(name, None) for name in TIMES}),
        resumed=replace(resumed, notes=(*resumed.notes, *moved)),
        terminal=terminal,
        **as_always(settings),
        **said,
    )


def _inventory(settings: Settings, record: RunRecord, files: tuple[Path, ...]) -> Inventory | None:
    """Return the inventory as it is now: from the files given, else from those the run had."""
    before = () if record.shape is None else tuple(map(Path, record.shape.inventory))
    inventory = read_inventory(settings, files or before)
    if inventory is not None:
        check_ssh_config(settings)
    return inventory


def _binding(runbook: Runbook, record: RunRecord) -> Binding:
    """Return the parameters as they were; secrets are references, resolved again.

    Raises:
        UsageError: one was masked in the record, so that nobody knows it any more.
    """
    masked = [name for name, value in record.parameters.items() if MASK.encode() in msgspec.json.encode(value)]
    if masked:
        raise UsageError(f"parameter {masked[0]!r} holds a secret and was masked in the record", "run it anew")
    return bind(runbook.parameters, {}, record.parameters, runbook=runbook.path.name)


def _lock_name(record: RunRecord) -> str | None:
    """Return the lock the run held: who takes turns by it must not begin in the middle of what is gone on with."""
    return None if record.shape is None else record.shape.lock


def _options(settings: Settings, record: RunRecord, *, terminal: bool, wait_lock: str | None) -> RunOptions:
    """Return how fleet calls behaved, and with the settings of today how targets are reached."""
    shape = record.shape
    if shape is None:  # of an older opsbook
        options = RunOptions.from_settings(settings, host_keys=host_key_rule(None, settings, terminal=terminal))
    else:
        options = replace(
            RunOptions.from_settings(
                settings, host_keys=shape.host_keys, max_fail=shape.max_fail, parallel=shape.parallel
            ),
            command_timeout_s=shape.command_timeout_s,
            idle_timeout_s=shape.idle_timeout_s,
        )
    return replace(options, lock_wait_s=0.0 if wait_lock is None else parse_duration(wait_lock))
