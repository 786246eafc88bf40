"""`opsbook search`: what was done, said and written, in the archive and in the runbook library."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import click

from opsbook.archive.index_items import BOOK, RUN
from opsbook.archive.query import QueryError
from opsbook.archive.search import Search, search
from opsbook.cli.indexing import ask, span
from opsbook.cli.prepare import archive_root
from opsbook.cli.screen import message_console, result_console, write_document
from opsbook.config import load_settings
from opsbook.report.search import found_document, print_found, print_place

_KINDS = {"archive": RUN, "library": BOOK, "all": ""}


EXAMPLES = """\b
Examples:
  opsbook search lock-frontend
  opsbook search output:libssl3 status:failed NOT param.stack:prod
  opsbook search '"held by process" (target:db02 OR target:web*)'
  opsbook search 'heading:verify started:[2026-01-01 TO 2026-02-01]'"""


@click.command("search", epilog=EXAMPLES)
@click.argument("words", metavar="QUERY", nargs=-1, required=True)
@click.option(
    "--in", "where", type=click.Choice(list(_KINDS)), default="all", show_default=True, help="What to search."
)
@click.option("--since", metavar="DATE", help="Runs begun since: 2026-11-20, yesterday, 30d.")
@click.option("--until", metavar="DATE", help="Runs begun until then, the day included.")
@click.option("--limit", type=click.IntRange(min=1), default=10, show_default=True, help="How many hits.")
@click.option("--archive", type=click.Path(path_type=Path), help="Where runs are kept.")
@click.option("--json", "as_json", is_flag=True, help="Print what was found as one JSON document.")
def command(
    words: tuple[str, ...],
    *,
    where: str,
    since: str | None,
    until: str | None,
    limit: int,
    archive: Path | None,
    as_json: bool,
) -> None:
    """Search code, prose, outputs, headings, parameters and errors of all runs and of the runbook library.

    Words side by side are all asked for, OR asks for one of several; a word stands for all that begin with it, *part*
    for all it stands in.
    """
    now = datetime.now(UTC).astimezone()
    settings = load_settings()
    root = archive_root(archive, settings)
    text = " ".join(words)
    asked = Search(text=text, kind=_KINDS[where], between=span(since, until, now=now), limit=limit)
    try:
        found = ask(root, settings, lambda index: search(index, asked, now=now))
    except QueryError as error:
        print_place(error, message_console())
        raise
    if as_json:
        write_document(found_document(found, query=text))
    else:
        print_found(found, result_console(), now=now)
    if not found.hits:
        message_console().print(f"nothing found in {root}", markup=False)
