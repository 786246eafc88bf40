"""`opsbook archive export`: runs, laid out for other people's tools."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import click
import msgspec

from opsbook.archive.export import Exported, Layout, export_runs
from opsbook.cli.indexing import span
from opsbook.cli.prepare import archive_root
from opsbook.cli.screen import counted, message_console, result_console, write_document
from opsbook.config import load_settings
from opsbook.errors import UsageError
from opsbook.model.visible import one_line

_FOLDER = click.Path(path_type=Path, file_okay=False)


@click.command("export")
@click.option("--nbsearch", metavar="DIR", type=_FOLDER, help="For NII's nbsearch: executed copies by day.")
@click.option("--commuter", metavar="DIR", type=_FOLDER, help="For nteract's Commuter: with title, authors and tags.")
@click.option("--knowledge-repo", metavar="DIR", type=_FOLDER, help="For Airbnb's Knowledge Repo: posts with a header.")
@click.option("--lc-wrapper", metavar="DIR", type=_FOLDER, help="For readers of NII's wrapper kernel's logs.")
@click.option("--since", metavar="DATE", help="Runs begun since: 2026-11-20, yesterday, 30d.")
@click.option("--until", metavar="DATE", help="Runs begun until then, the day included.")
@click.option("--archive", type=click.Path(path_type=Path), help="Where runs are kept.")
@click.option("--json", "as_json", is_flag=True, help="Print what was exported as one JSON document.")
def export(
    *, since: str | None, until: str | None, archive: Path | None, as_json: bool, **folders: Path | None
) -> None:
    """Hand on the runs that have ended. A folder that was exported to before is brought up to date."""
    between = span(since, until, now=datetime.now(UTC).astimezone())
    root = archive_root(archive, load_settings())
    wanted = {layout: folders[layout.value.replace("-", "_")] for layout in Layout}
    with counted("exporting") as watch:
        done = [
            export_runs(root, folder, layout, between=between, watch=watch)
            for layout, folder in wanted.items()
            if folder is not None
        ]
    if not done:
        raise UsageError("nothing says what for", f"such as --{Layout.COMMUTER} DIR")
    if as_json:
        write_document(msgspec.json.encode(done) + b"\n")
    for one in done if not as_json else ():
        _print(one)


def _print(one: Exported) -> None:
    for left in one.left:
        message_console().print(f"left out: {left.run_id}: {one_line(left.why)}", markup=False, soft_wrap=True)
    line = f"{one.folder}: {one.written} written, {one.unchanged} there already, {len(one.left)} left out"
    result_console().print(one_line(line), markup=False, soft_wrap=True)
