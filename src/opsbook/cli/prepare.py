"""From flags and settings to a request: what several commands need to know before anything can run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from opsbook.config import Settings, load_settings
from opsbook.errors import InventoryError, UsageError
from opsbook.execution.runner import RunRequest
from opsbook.inventory.load import load, read_values
from opsbook.inventory.pattern import select
from opsbook.model.message import RunOptions
from opsbook.model.target import Inventory, JsonValue
from opsbook.runbook.notebook import Runbook
from opsbook.runbook.parameters import bind


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
        values |= read_values(file)
    return values


def archive_root(archive: Path | None, settings: Settings | None = None) -> Path:
    """Return where runs are kept, as a flag or the settings say: the same path from wherever it is looked at."""
    return (archive or Path((settings or load_settings()).archive)).absolute()


def read_inventory(settings: Settings, files: tuple[Path, ...]) -> Inventory | None:
    """Return the inventory of the flags, else of the settings; None when there is none."""
    sources = list(files) or [Path(source) for source in settings.inventory]
    return load(sources) if sources else None


def request_for(
    runbook: Runbook,
    *,
    values: dict[str, JsonValue],
    texts: dict[str, str],
    terminal: bool,
    pattern: str | None = None,
    inventory_files: tuple[Path, ...] = (),
    archive: Path | None = None,
    max_fail: str | None = None,
    parallel: int | None = None,
    host_keys: str | None = None,
    yes: bool = False,
    reason: str = "",
) -> RunRequest:
    """Decide everything that can be decided before a run starts.

    Raises:
        UsageError: anything about it is wrong; nothing was started.
    """
    settings = load_settings()
    binding = bind(runbook.parameters, texts, values, runbook=runbook.path.name)
    inventory = read_inventory(settings, inventory_files)
    if inventory is None and (pattern is not None or runbook.asks_for_targets):
        raise InventoryError(
            f"{runbook.path.name} asks for targets and there is no inventory"
            if pattern is None
            else "-t is given and there is no inventory",
            "give one with -i, or set `inventory` in opsbook.toml",
        )
    chosen_keys = host_keys or settings.ssh.host_keys or ("accept-new" if terminal else "strict")
    return RunRequest(
        runbook=runbook,
        binding=binding,
        inventory=inventory,
        pattern=pattern,
        selected=selected_names(inventory, pattern),
        options=RunOptions.from_settings(
            settings, parallel=parallel, max_fail=max_fail or _header_limit(runbook), host_keys=chosen_keys
        ),
        archive=archive_root(archive, settings),
        argv=tuple(sys.argv),
        reason=reason,
        yes=yes,
        terminal=terminal,
    )


def _header_limit(runbook: Runbook) -> str | None:
    """Return the limit a runbook's header names: `**Max fail.** 10%`."""
    return runbook.header.section("max fail", "max_fail") or None


def selected_names(inventory: Inventory | None, pattern: str | None) -> tuple[str, ...]:
    """Return the names of the targets a run is given."""
    if inventory is None:
        return ()
    chosen = inventory.targets if pattern is None else select(inventory, pattern)
    return tuple(target.name for target in chosen)
