"""`opsbook check`: what would stop a run, found by looking at runbooks alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click
import msgspec

from opsbook.archive.index_items import iter_books
from opsbook.cli.noted import notes_for_runbook
from opsbook.cli.part import time_limits
from opsbook.cli.prepare import (
    NO_INVENTORY,
    archive_root,
    check_ssh_config,
    read_inventory,
    run_options,
    selected_names,
)
from opsbook.cli.screen import result_console, write_document
from opsbook.config import Settings, load_settings
from opsbook.errors import ExitCode, OpsbookError, UsageError
from opsbook.execution.kernel import kernel_command
from opsbook.fleet.plan import plan_targets
from opsbook.model.checkup import Checkup, Problem
from opsbook.model.message import RunOptions
from opsbook.model.note import Note
from opsbook.model.target import Inventory
from opsbook.report.check import print_checkups
from opsbook.runbook.lint import code_problems
from opsbook.runbook.notebook import Runbook, read_runbook
from opsbook.runbook.parameters import bind_defaults


@click.command("check")
@click.argument("paths", metavar="[PATH...]", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "-i", "--inventory", "inventory_files", multiple=True, type=click.Path(path_type=Path), help="Ansible format."
)
@click.option("--json", "as_json", is_flag=True, help="Print what was found as one JSON document.")
def command(paths: tuple[Path, ...], *, inventory_files: tuple[Path, ...], as_json: bool) -> int:
    """Look through runbooks, or all in a folder, for what would stop a run. It connects to nothing and runs nothing.

    PATH is the runbook library when none is given. Looked at are the notebook, its header, tags and parameters, what
    Python cannot read, and the %%on lines as far as defaults tell, against the inventory. Notes are shown. The exit
    code is 2 when any runbook would not run.
    """
    settings = load_settings()
    inventory = read_inventory(settings, inventory_files)
    if inventory is not None:
        check_ssh_config(settings)
    found = [_checkup(file, settings, inventory) for file in _runbooks(paths, settings)]
    if not found:
        raise UsageError("there is no runbook to look at", "name one, or a folder of them")
    if as_json:
        write_document(msgspec.json.encode(found) + b"\n")
    else:
        print_checkups(found, result_console())
    return ExitCode.USAGE if any(one.problems for one in found) else ExitCode.SUCCEEDED


def _runbooks(paths: tuple[Path, ...], settings: Settings) -> Iterator[Path]:
    """Yield the files that are meant; of a folder the notebooks in it, without the copies in the archive."""
    root = archive_root(None, settings).resolve()
    for path in paths or map(Path, settings.runbooks):
        if path.is_dir():
            place = path.resolve()
            yield from (file for file in iter_books(path) if not (place / file.relative_to(path)).is_relative_to(root))
        else:
            yield path


def _checkup(file: Path, settings: Settings, inventory: Inventory | None) -> Checkup:
    problems, noted = list[Problem](), tuple[Note, ...]()
    try:
        runbook = read_runbook(file)
        problems += [*_as_a_whole(runbook, settings, inventory), *code_problems(runbook)]
        problems += _line_problems(runbook, inventory)
        noted = notes_for_runbook(settings, runbook)
    except OpsbookError as error:
        problems.append(_problem(error))
    return Checkup(path=str(file), problems=tuple(problems), noted=noted)


def _problem(error: OpsbookError) -> Problem:
    return Problem(text=str(error), hint=error.hint)


def _as_a_whole(runbook: Runbook, settings: Settings, inventory: Inventory | None) -> Iterator[Problem]:
    """Yield what is wrong with a runbook's kernel and the limits in its header, and whether it lacks an inventory."""
    for look in (
        lambda: kernel_command(runbook.kernel),
        lambda: time_limits(runbook, settings),
        lambda: run_options(runbook, settings, terminal=False),
    ):
        try:
            look()
        except OpsbookError as error:
            yield _problem(error)
    if inventory is None and runbook.asks_for_targets:
        yield Problem(text="it asks for targets and there is no inventory", hint=NO_INVENTORY)


def _line_problems(runbook: Runbook, inventory: Inventory | None) -> Iterator[Problem]:
    """Yield the `%%on` cells that would fail for their line; what only a run is told is left open."""
    if inventory is None:
        return
    plan = plan_targets(
        runbook,
        bind_defaults(runbook.parameters),
        inventory=inventory,
        pattern=None,
        selected=selected_names(inventory, None),
        options=RunOptions(),
    )
    numbers = {cell.id: number for number, cell in enumerate(runbook.code_cells, start=1)}
    for cell in plan.cells:
        if cell.problem and not cell.may_fail:
            yield Problem(text=cell.problem, cell=numbers[cell.id], label=cell.label)
