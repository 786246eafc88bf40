"""From flags and settings to a request: what several commands need to know before anything can run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from opsbook.archive.history import LAST, find_run, iter_runs
from opsbook.cli.locking import LOCKS, locking_for
from opsbook.cli.noted import noted_for
from opsbook.cli.part import TIMES, WHOLE, time_limits
from opsbook.config import Settings, load_settings
from opsbook.errors import ConnectError, InventoryError, UsageError
from opsbook.execution.request import RunRequest
from opsbook.inventory.pattern import select
from opsbook.model.amount import parse_duration
from opsbook.model.message import RunOptions
from opsbook.model.outcome import name_ranges
from opsbook.model.run import CellSelection, RunState
from opsbook.model.target import Inventory, JsonValue
from opsbook.runbook.notebook import Runbook
from opsbook.runbook.parameters import bind
from opsbook.runbook.selection import select_cells

NO_INVENTORY = "give one with -i, or set `inventory` in opsbook.toml"


def given_parameters(params: Any) -> dict[str, str]:
    """Read `-p name=value` flags.

    Raises:
        UsageError: one has no `=`, or a name is given twice.
    """
    given: dict[str, str] = {}
    for text in params:
        name, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"-p {text!r} is not name=value", "such as -p stack=prod")
        if name in given:
            raise UsageError(f"parameter {name!r} is given twice", "keep one -p of each name")
        given[name] = value
    return given


def file_parameters(files: Any) -> dict[str, JsonValue]:
    """Read `-f` files; a later one wins.

    Raises:
        UsageError: one cannot be read, or is not a mapping.
    """
    values: dict[str, JsonValue] = {}
    for file in files:
        from opsbook.inventory.load import read_values  # noqa: PLC0415  YAML is much to import for a run without files

        values |= read_values(file)
    return values


def archive_root(archive: Path | None, settings: Settings | None = None) -> Path:
    """Return where runs are kept, as a flag or the settings say: the same path from wherever it is looked at."""
    return (archive or Path((settings or load_settings()).archive)).absolute()


def read_inventory(settings: Settings, files: tuple[Path, ...]) -> Inventory | None:
    """Return the inventory of the flags, else of the settings; None when there is none."""
    sources = list(files) or [Path(source) for source in settings.inventory]
    trusted = [Path(script) for script in settings.trusted_scripts]
    if not sources:
        return None
    from opsbook.inventory.load import load  # noqa: PLC0415

    return load(sources, trusted=trusted)


def request_for(
    runbook: Runbook,
    *,
    values: dict[str, JsonValue],
    texts: dict[str, str],
    terminal: bool,
    pattern: str | None = None,
    failed_from: str | None = None,
    inventory_files: tuple[Path, ...] = (),
    archive: Path | None = None,
    selection: CellSelection = WHOLE,
    yes: bool = False,
    reason: str = "",
    check: bool = False,
    run_id: str | None = None,
    ack_notes: tuple[str, ...] = (),
    **flags: Any,
) -> RunRequest:
    """Decide everything that can be decided before a run starts; `flags` are those of `run_options` and time limits.

    Raises:
        UsageError: anything about it is wrong; nothing was started.
    """
    settings = load_settings()
    runbook = select_cells(runbook, selection)
    limits = time_limits(runbook, settings, **{name: flags.pop(name, None) for name in TIMES})
    binding = bind(runbook.parameters, texts, values, runbook=runbook.path.name)
    inventory = _usable_inventory(settings, inventory_files, why=_needs_inventory(runbook, pattern, failed_from))
    root = archive_root(archive, settings)
    parent, failed = (None, None) if failed_from is None else failed_targets(root, failed_from)
    return RunRequest(
        runbook=runbook,
        binding=binding,
        inventory=inventory,
        pattern=pattern,
        selected=selected_names(inventory, pattern, failed=failed),
        parent=parent,
        locking=locking_for(settings, root, checking=check, **{name: flags.pop(name, None) for name in LOCKS}),
        options=run_options(runbook, settings, terminal=terminal, check=check, **flags),
        archive=root,
        claim=run_id,
        noted=noted_for(settings, runbook, ack_notes),
        selection=selection,
        limits=limits,
        reason=reason,
        yes=yes,
        terminal=terminal,
        **as_always(settings),
    )


def as_always(settings: Settings) -> dict[str, Any]:
    """Return what is the same for every run."""
    return {
        "shared": settings.archive_mode == "group",
        "env": settings.env,
        "output": settings.output,
        "logs": settings.logs,
        "redact": settings.redact,
        "meme": settings.meme,
        "argv": tuple(sys.argv),
    }


def run_options(
    runbook: Runbook,
    settings: Settings,
    *,
    terminal: bool,
    parallel: int | None = None,
    max_fail: str | None = None,
    host_keys: str | None = None,
    check: bool = False,
    wait_lock: str | None = None,
) -> RunOptions:
    """Return how fleet calls behave: as the flags say, else the header, else the settings."""
    options = RunOptions.from_settings(
        settings,
        parallel=parallel,
        max_fail=max_fail or _header_limit(runbook),
        host_keys=host_key_rule(host_keys, settings, terminal=terminal),
    )
    return replace(options, checking=check, lock_wait_s=0.0 if wait_lock is None else parse_duration(wait_lock))


def check_ssh_config(settings: Settings) -> None:
    """Refuse an ssh_config that cannot be understood now, instead of on every target.

    Raises:
        UsageError: what is wrong, with its file and line.
    """
    try:
        from opsbook.ssh.config import SshConfig  # noqa: PLC0415

        SshConfig.of_user() if settings.ssh.config is None else SshConfig.of_file(settings.ssh.config)
    except ConnectError as error:
        raise UsageError(str(error), 'correct it; `config = "none"` under [ssh] reads none') from None


def host_key_rule(flag: str | None, settings: Settings, *, terminal: bool) -> str:
    """Return what to do with host keys: as a flag or the settings say, else by whether a person watches."""
    return flag or settings.ssh.host_keys or ("accept-new" if terminal else "strict")


def _usable_inventory(settings: Settings, files: tuple[Path, ...], *, why: str) -> Inventory | None:
    """Return the inventory; refuse to go on without one where one is needed, or with an unreadable ssh_config."""
    inventory = read_inventory(settings, files)
    if inventory is not None:
        check_ssh_config(settings)
    elif why:
        raise InventoryError(f"{why} and there is no inventory", NO_INVENTORY)
    return inventory


def _needs_inventory(runbook: Runbook, pattern: str | None, failed_from: str | None) -> str:
    """Say why there has to be an inventory; empty when there need not be one."""
    if failed_from is not None:
        return "--failed-from is given"
    if pattern is not None:
        return "targets are named" if runbook.in_memory else "-t is given"
    return f"{runbook.path.name} asks for targets" if runbook.asks_for_targets else ""


def _header_limit(runbook: Runbook) -> str | None:
    """Return the limit a runbook's header names: `**Max fail.** 10%`."""
    return runbook.header.section("max fail", "max_fail") or None


def failed_targets(root: Path, text: str) -> tuple[str, tuple[str, ...]]:
    """Return the id of the run that is meant, and the targets that failed in it.

    Raises:
        UsageError: no such run, or none has failed in it, or it still runs.
    """
    run = find_run(root, text)
    if text == LAST and run.record is not None and run.record.checking:
        meant = (one for one in iter_runs(root) if one.record is not None and not one.record.checking)
        run = next(meant, run)
    if run.record is None:
        raise UsageError(run.unread, "name its targets with -t")
    if run.record.status is RunState.RUNNING:
        raise UsageError(f"run {run.folder.run_id} still runs", "what failed in it is known when it has ended")
    names = tuple(name for name, result in run.record.targets.results.items() if result.state.is_failure)
    if not names:
        raise UsageError(f"no target failed in {run.folder.run_id}", f"opsbook show {run.folder.run_id}")
    return run.folder.run_id, names


def selected_names(
    inventory: Inventory | None, pattern: str | None, *, failed: tuple[str, ...] | None = None
) -> tuple[str, ...]:
    """Return the names of the targets a run is given: all, those of a pattern, of these those that `failed` before.

    Raises:
        InventoryError: one that failed is not there any more, or nothing is left.
    """
    if inventory is None:
        return ()
    chosen = inventory.targets if pattern is None else select(inventory, pattern)
    if failed is None:
        return tuple(target.name for target in chosen)
    there = {target.name for target in inventory.targets}
    gone = [name for name in failed if name not in there]
    if gone:
        raise InventoryError(
            f"not in the inventory any more: {name_ranges(gone)}", "name the others with -t, without --failed-from"
        )
    names = tuple(target.name for target in chosen if target.name in failed)
    if not names:
        raise InventoryError(f"{pattern!r} names none of those that failed: {name_ranges(failed)}")
    return names
