"""`opsbook lineage`: where cells come from, where else they are, and the ids by which that is known."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import click

from opsbook.archive.history import find_run
from opsbook.archive.search import Place, cells_of_origin
from opsbook.cli.indexing import ask
from opsbook.cli.prepare import archive_root
from opsbook.cli.screen import message_console, result_console, write_document
from opsbook.cli.subject import file_and_cell, subject_of
from opsbook.config import load_settings
from opsbook.errors import UsageError
from opsbook.model.run import RunRecord
from opsbook.report.lineage import lineage_document, places_document, print_lineage, print_places
from opsbook.runbook.lineage import read_lineage
from opsbook.runbook.meme import Meme, parse_meme
from opsbook.runbook.minting import mint as mint_file
from opsbook.runbook.minting import new_root as write_new_root
from opsbook.runbook.notebook import Runbook, read_runbook

_ARCHIVE = click.option("--archive", type=click.Path(path_type=Path), help="Where runs are kept.")
_JSON = click.option("--json", "as_json", is_flag=True, help="Print it as one JSON document.")


class _Lineage(click.Group):
    """Shows what is named by none of its commands; a file of a command's name is meant by ./NAME."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in {*self.commands, "-h", "--help"}:
            args = ["show", *args]
        return super().parse_args(ctx, args)


@click.group("lineage", cls=_Lineage, subcommand_metavar="FILE|RUN|MEME | COMMAND [ARGS]...")
def command() -> None:
    """Show where the cells of a notebook, a run, or a MEME come from, and where else they are.

    A MEME is the id of a cell that every copy keeps (NII's lc_cell_meme). Executed copies have them; what has none is
    known by its runbook's name and its own id.
    """


@command.command("show")
@click.argument("what", metavar="FILE|RUN|MEME")
@_ARCHIVE
@_JSON
def show(what: str, *, archive: Path | None, as_json: bool) -> None:
    """Show the cells of FILE, or of RUN's executed copy, with their origins; or everything of a MEME's origin."""
    meme = parse_meme(what)
    if meme is not None and not Path(what).is_file():
        _show_places(meme, archive, as_json=as_json)
        return
    runbook, run = _notebook(what, archive)
    lineage = read_lineage(runbook)
    held_by = _places(lineage.origin, archive)
    if as_json:
        write_document(lineage_document(runbook, lineage, held_by))
    else:
        print_lineage(runbook, lineage, held_by, result_console(), run=run, now=datetime.now(UTC))


@command.command("where")
@click.argument("what", metavar="MEME|FILE|FILE#CELL")
@_ARCHIVE
@_JSON
def where(what: str, *, archive: Path | None, as_json: bool) -> None:
    """List every runbook of the library and every run that holds a cell of this origin, and how it went there."""
    meme = parse_meme(what)
    if meme is None and file_and_cell(what)[0] is None:
        raise UsageError(f"{what!r} is neither a MEME nor a cell of a file", "such as patch.ipynb#3")
    meme = meme or Meme(origin=subject_of(what, archive_root(archive)).key)
    _show_places(meme, archive, as_json=as_json)


@command.command("mint")
@click.argument("file", type=click.Path(path_type=Path))
def mint(file: Path) -> None:
    """Write MEMEs into FILE where they are missing, in place. Copies of its cells are known from then on."""
    minted = mint_file(file)
    said = f"{minted.given} of {minted.cells} cells" if minted.changed else "nothing was missing"
    message_console().print(f"{file}: {said}", markup=False, soft_wrap=True)


@command.command("new-root")
@click.argument("source", metavar="SRC", type=click.Path(path_type=Path))
@click.argument("to", metavar="DST", type=click.Path(path_type=Path))
@click.option("--trim-history", type=click.IntRange(min=0), metavar="N", help="Keep so many entries of each history.")
@click.option("--clear-server-signature", "clear_signature", is_flag=True, help="Leave out which server it was on.")
def new_root(source: Path, to: Path, *, trim_history: int | None, clear_signature: bool) -> None:
    """Write a copy of SRC to DST whose cells begin a new line; print the old and the new MEME of each."""
    made = write_new_root(source, to, trim_history=trim_history, clear_signature=clear_signature)
    for old, new in made.renamed:
        click.echo(f"{old}\t{new}")


def _notebook(what: str, archive: Path | None) -> tuple[Runbook, RunRecord | None]:
    """Return the notebook that is meant: a file, or a run's executed copy, and then its record.

    Raises:
        UsageError: there is no such run, or it has no copy.
    """
    if what.endswith(".ipynb") or Path(what).is_file():
        return read_runbook(Path(what)), None
    run = find_run(archive_root(archive), what)
    if run.record is None or not run.folder.copy.is_file():
        raise UsageError(f"run {run.folder.run_id} has no executed copy", f"opsbook show {run.folder.run_id}")
    return read_runbook(run.folder.copy), run.record


def _show_places(meme: Meme, archive: Path | None, *, as_json: bool) -> None:
    held_by = _places(meme.origin, archive)
    if as_json:
        write_document(places_document(meme, held_by))
    elif held_by:
        print_places(meme, held_by, result_console(), now=datetime.now(UTC))
    else:
        message_console().print(f"no runbook and no run holds {meme.origin}", markup=False)


def _places(origin: str, archive: Path | None) -> list[Place]:
    """Return every place of an origin that the archive's index knows."""
    settings = load_settings()
    return ask(archive_root(archive, settings), settings, lambda index: cells_of_origin(index, origin))
