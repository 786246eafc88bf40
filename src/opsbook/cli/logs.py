"""`opsbook logs`: what the cells and targets of a run said, whole, also while it goes on."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import click

from opsbook.archive.history import ArchivedRun, find_run, read_run
from opsbook.archive.layout import is_alive
from opsbook.archive.line_pattern import LinePattern, PatternError
from opsbook.archive.log_choice import choose
from opsbook.archive.logs import RunLog, follow_batches, read_batches
from opsbook.cli.prepare import archive_root
from opsbook.cli.screen import message_console, result_console
from opsbook.errors import ArchiveError, ExitCode, UsageError
from opsbook.model.visible import one_line
from opsbook.report.logs import JsonLog, RawLog, TextLog, found
from opsbook.report.search import print_place
from opsbook.report.summary import status_words

EXAMPLES = """\b
Examples:
  opsbook logs last --target db02
  opsbook logs last --cell 4 --grep 'error|fail'
  opsbook logs last -f"""


@click.command("logs", epilog=EXAMPLES)
@click.argument("what", metavar="RUN")
@click.option("--cell", metavar="N|ID|MEME", help="Only this cell, and what targets said to it.")
@click.option("--target", metavar="NAME|PATTERN", help="Only what these targets said.")
@click.option("--grep", metavar="RE", help="Only lines in which this regular expression finds something.")
@click.option("-f", "--follow", is_flag=True, help="Go on as long as the run does.")
@click.option("--raw", is_flag=True, help="Write the bytes as they are in the archive; never on a terminal.")
@click.option("--archive", type=click.Path(path_type=Path), help="Where runs are kept.")
@click.option("--json", "as_json", is_flag=True, help="Print the lines as one JSON document.")
def command(
    what: str,
    *,
    cell: str | None,
    target: str | None,
    grep: str | None,
    follow: bool,
    raw: bool,
    archive: Path | None,
    as_json: bool,
) -> int:
    """Print all that a run's cells and targets said, also where the executed copy shows less of it or no such cell.

    The exit code does not tell how the run went. Ctrl-C ends -f, and leaves the run alone.
    """
    _check_flags(follow=follow, raw=raw, as_json=as_json)
    run = find_run(archive_root(archive), what)
    if run.record is None:
        raise ArchiveError(run.unread)
    choice = choose(run.record, cell=cell, target=target)
    pattern = _pattern(grep)
    named = choice.has_several(run.record, run.folder, growing=follow and is_alive(run.folder))
    log = RunLog(run.folder, run.record, choice)
    sink = _sink(run, named=named, raw=raw, as_json=as_json)
    try:
        for batch in follow_batches(log, run.folder) if follow else read_batches(log):
            sink.write(found(batch, pattern))
    except KeyboardInterrupt:
        return ExitCode.SIGNAL + signal.SIGINT
    notes = list(log.notes)
    sink.end(notes)
    _say(notes, run, follow=follow)
    return ExitCode.SUCCEEDED


def _check_flags(*, follow: bool, raw: bool, as_json: bool) -> None:
    if as_json and (follow or raw):
        raise UsageError("--json goes with neither -f nor --raw", "it is one document, whole when it ends")
    if raw and sys.stdout.isatty():
        raise UsageError(
            "--raw is not for a terminal: it would do what the text says", "redirect it, or leave out --raw"
        )


def _pattern(text: str | None) -> LinePattern | None:
    try:
        return None if text is None else LinePattern(text)
    except PatternError as error:
        print_place(error, message_console())
        raise


def _sink(run: ArchivedRun, *, named: bool, raw: bool, as_json: bool) -> TextLog | RawLog | JsonLog:
    if as_json:
        return JsonLog(sys.stdout.buffer, run_id=run.folder.run_id)
    return RawLog(sys.stdout.buffer, named=named) if raw else TextLog(result_console(), named=named)


def _say(notes: list[str], run: ArchivedRun, *, follow: bool) -> None:
    """Say what is not there, and, to whoever followed it, how the run ended."""
    for note in notes:
        message_console().print(f"note: {note}", markup=False, soft_wrap=True)
    record = read_run(run.folder).record if follow else None
    if record is not None:
        why = f": {record.reason}" if record.reason else ""
        message_console().print(one_line(f"{record.run_id} {status_words(record)}{why}"), markup=False, soft_wrap=True)
