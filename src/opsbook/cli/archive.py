"""`opsbook archive`: the archive as a whole."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from opsbook.archive.history import find_run
from opsbook.archive.layout import is_run_id
from opsbook.archive.selection import count_items
from opsbook.archive.verify import Finding, Verdict, Verification, verify_archive
from opsbook.cli.export import export
from opsbook.cli.indexing import ask
from opsbook.cli.prepare import archive_root
from opsbook.cli.prune import prune
from opsbook.cli.screen import is_terminal, message_console, result_console, write_document
from opsbook.config import load_settings
from opsbook.errors import ExitCode
from opsbook.model.visible import visible

if TYPE_CHECKING:
    from rich.console import Console

_EVERY = 50
"""Runs between two looks at the screen."""


@click.group("archive")
def command() -> None:
    """Look after the archive."""


command.add_command(prune)
command.add_command(export)


@command.command("verify")
@click.argument("what", metavar="[RUN]", required=False)
@click.option("--head", metavar="HASH", default="", help="A hash that an earlier verify printed: it must be there.")
@click.option("--archive", type=click.Path(path_type=Path), help="Where runs are kept.")
@click.option("--json", "as_json", is_flag=True, help="Print what was found as one JSON document.")
def verify(what: str | None, *, head: str, archive: Path | None, as_json: bool) -> int:
    """Compare every run (or RUN) with what the archive's chain says of it, and name what was changed or taken away.

    The exit code is 0 when all is well, 1 when something is wrong. A run that was killed is no fault of the archive.
    """
    root = archive_root(archive)
    only = _run_id(root, what)
    with _progress(message_console()) as watch:
        found = verify_archive(root, only=only, head=head, watch=watch)
    if as_json:
        write_document(msgspec.json.encode({"well": found.is_well, **msgspec.to_builtins(found)}) + b"\n")
    else:
        _print(found, root)
    return ExitCode.SUCCEEDED if found.is_well else ExitCode.FAILED


@command.command("reindex")
@click.option("--archive", type=click.Path(path_type=Path), help="Where runs are kept.")
def reindex(*, archive: Path | None) -> None:
    """Make the index anew from the archive's files. It is a cache, and is made by itself when it is missing."""
    settings = load_settings()
    root = archive_root(archive, settings)
    runs, books, unread = ask(root, settings, count_items, fresh=True)
    more = "".join(f", {count} of them {status}" for status, count in unread.items())
    line = f"{root}: {runs} runs{more}, {books} runbooks of the library"
    result_console().print(line, markup=False, soft_wrap=True)


def _run_id(root: Path, what: str | None) -> str:
    """Return the id of the run that is meant; of one that is there no more, the id as it was given."""
    return "" if what is None else what if is_run_id(what) else find_run(root, what).folder.run_id


@contextmanager
def _progress(console: Console) -> Iterator[Callable[[int, int], None] | None]:
    """Show on a terminal how far it got."""
    if not is_terminal(sys.stderr):
        yield None
        return
    with console.status("reading the chain") as shown:
        yield lambda done, of: shown.update(f"{done} of {of} runs") if done % _EVERY == 0 else None


def _print(found: Verification, root: Path) -> None:
    screen = result_console()
    for finding in found.findings:
        screen.print(_line(finding), markup=False, soft_wrap=True)
    wrong = sum(finding.verdict is Verdict.WRONG for finding in found.findings)
    verdict = "all is well" if found.is_well else f"{wrong} wrong"
    pruned = f", {found.pruned} pruned" if found.pruned else ""
    runs, lines = (f"{n} {noun}{'' if n == 1 else 's'}" for n, noun in ((found.runs, "run"), (found.lines, "line")))
    line = f"{root}: {runs}{pruned}, {lines} in the chain: {verdict}"
    screen.print(line, markup=False, soft_wrap=True)
    if found.lines:
        screen.print(f"head {found.head}", markup=False, soft_wrap=True)


def _line(finding: Finding) -> str:
    return visible("  ".join(filter(None, (f"{finding.verdict.value:<11}", finding.run_id, finding.what))))
