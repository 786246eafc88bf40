"""`opsbook archive prune`: runs that were kept long enough are taken away."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import click

from opsbook.archive.catch_up import forget_removed
from opsbook.archive.index import index_folder
from opsbook.archive.prune import prune_runs
from opsbook.archive.retention import Judgement, Keep, judge_runs
from opsbook.cli.indexing import ask
from opsbook.cli.noted import notes_folder
from opsbook.cli.prepare import archive_root
from opsbook.cli.screen import counted, is_terminal, result_console, write_document
from opsbook.config import Settings, load_settings
from opsbook.errors import ExitCode, RefusedError, UsageError
from opsbook.execution.origin import operator_here
from opsbook.locks.folder import lock_folder
from opsbook.model.amount import parse_duration
from opsbook.report.pruning import print_judgement, print_pruned, pruning_document
from opsbook.runbook.notes import read_notes


@click.command("prune")
@click.option("--keep", metavar="TIME", help="How long runs that succeeded are kept, such as 14d.")
@click.option("--keep-failed", metavar="TIME", help="How long all others are kept, such as 90d.")
@click.option("--dry-run", is_flag=True, help="Say what would go and what would stay, and do nothing.")
@click.option("--yes", is_flag=True, help="Agree beforehand.")
@click.option("--archive", type=click.Path(path_type=Path), help="Where runs are kept.")
@click.option("--json", "as_json", is_flag=True, help="Print what went and what stays as one JSON document.")
def prune(
    *, keep: str | None, keep_failed: str | None, dry_run: bool, yes: bool, archive: Path | None, as_json: bool
) -> int:
    """Take away the runs that ended longer ago than they are kept; where nothing is said, they are kept for ever.

    What is still needed stays: a run that is going on, that left targets in the middle, that a note is about, and what
    a run that stays goes on from. Damaged runs stay. The chain keeps who pruned a run, and when.
    """
    now, settings = datetime.now(UTC).astimezone(), load_settings()
    root = archive_root(archive, settings)
    judged = judge_runs(root, _keep(settings, keep, keep_failed), now=now, held=dict(_held(settings)))
    if not as_json:
        print_judgement(judged, result_console(), now=now)
    if not dry_run:
        _agree(judged, yes=yes)
    who = operator_here(terminal=False)
    by = f"{who.user} on {who.host}"
    with counted("pruning") as watch:
        done = () if dry_run else prune_runs(root, judged.leaving, by=by, watch=watch)
    if done and index_folder(root).is_dir():
        ask(root, settings, forget_removed)
    if as_json:
        write_document(pruning_document(judged, done, dry=dry_run))
    elif not dry_run:
        print_pruned(done, judged, result_console())
    return ExitCode.ARCHIVE if any(one.problem for one in done) else ExitCode.SUCCEEDED


def _keep(settings: Settings, keep: str | None, keep_failed: str | None) -> Keep:
    """Return how long runs are kept, as flags and settings say.

    Raises:
        UsageError: nobody says, or one is no length of time.
    """
    succeeded = settings.retention.keep if keep is None else keep
    failed = settings.retention.keep_failed if keep_failed is None else keep_failed
    if succeeded is None and failed is None:
        raise UsageError("nothing says how long runs are kept", "--keep 14d --keep-failed 90d, or [retention] keep")
    return Keep(
        succeeded_s=None if succeeded is None else parse_duration(succeeded),
        failed_s=None if failed is None else parse_duration(failed),
    )


def _held(settings: Settings) -> Iterator[tuple[str, str]]:
    """Yield the runs that somebody holds, and why.

    Raises:
        RefusedError: a note cannot be read, and may be about any run.
    """
    for _, holder in lock_folder(settings.locks.path).named():
        yield holder.run_id, "a lock names it: --acknowledge it in a run"
        if holder.inherited:
            yield holder.inherited, "a lock names it: --acknowledge it in a run"
    for note in read_notes(notes_folder(settings)):
        if not note.subject:
            raise RefusedError(f"note {note.id} cannot be read, and may be about any run", "repair it, or remove it")
        yield note.subject, f"note {note.id} is about it"


def _agree(judged: Judgement, *, yes: bool) -> None:
    """Have somebody agree.

    Raises:
        RefusedError: nobody does.
    """
    if yes or not judged.leaving:
        return
    if not (is_terminal(sys.stderr) and is_terminal(sys.stdin)):
        raise RefusedError(f"{len(judged.leaving)} runs would be taken away for good", "--yes agrees to that")
    try:
        agreed = click.confirm(f"Take {len(judged.leaving)} runs away for good?", err=True)
    except click.Abort:
        agreed = False
    if not agreed:
        raise RefusedError("nothing was pruned", "--yes agrees beforehand")
