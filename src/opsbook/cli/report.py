"""`opsbook report`: one run as one page, for whoever has a browser and no archive."""

from __future__ import annotations

import os
import secrets
import stat
import sys
from contextlib import suppress
from pathlib import Path

import click

from opsbook.archive.files import FILE_MODE, write_all
from opsbook.archive.history import find_run
from opsbook.archive.succession import successor
from opsbook.cli.noted import notes_for_run
from opsbook.cli.prepare import archive_root
from opsbook.config import load_settings
from opsbook.errors import ArchiveError, UsageError
from opsbook.report.html import render_page
from opsbook.report.html_copy import read_copy

_FORMATS = ["html"]
EXAMPLES = """\b
Examples:
  opsbook report last -o page.html
  opsbook report last-failed | mail …"""


@click.command("report", epilog=EXAMPLES)
@click.argument("what", metavar="RUN")
@click.option("--format", "form", type=click.Choice(_FORMATS), default="html", help="What to write; html is all.")
@click.option("-o", "--output", "file", metavar="FILE", type=click.Path(path_type=Path), help="Where; else stdout.")
@click.option("--force", is_flag=True, help="Replace FILE.")
@click.option("--archive", type=click.Path(path_type=Path), help="Where runs are kept.")
def command(what: str, *, form: str, file: Path | None, force: bool, archive: Path | None) -> None:
    """Write a run as one page that needs nothing else: how it went, its targets, its cells and what they said.

    Nothing in it runs or is loaded. FILE is readable by you alone, as the archive is.
    """
    del form  # there is one
    file = None if file == Path("-") else file
    if file is None and sys.stdout.isatty():
        raise UsageError("a page is not for a terminal", "-o FILE writes it to a file; or redirect it")
    run = find_run(archive_root(archive), what)
    if run.record is None:
        raise ArchiveError(run.unread)
    told = "\n".join(run.record.notes)
    notes = [note.sentence for note in notes_for_run(load_settings(), run.record) if note.id not in told]
    path = run.folder.copy if run.folder.copy.is_file() else None
    page = render_page(run.record, read_copy(run.folder), path=path, notes=notes, newer=successor(run.folder))
    if file is None:
        sys.stdout.buffer.write(page)
    else:
        _write(file, page, force=force)


def _write(file: Path, page: bytes, *, force: bool) -> None:
    """Write a file that is its owner's alone, whatever the umask; one that is there is replaced as a whole.

    A link is not followed, and what is no file is left alone.

    Raises:
        UsageError: it is there already, or cannot be written.
    """
    try:
        there = _mode_of(file)
        if there is not None and not (force and stat.S_ISREG(there)):
            what_to_do = "--force replaces it" if stat.S_ISREG(there) else "it is no regular file; name another"
            raise UsageError(f"{file} exists already", what_to_do)
        _put(page, file if there is None else file.with_name(f".{file.name}.{secrets.token_hex(4)}"), file)
    except OSError as error:
        raise UsageError(f"cannot write {file}: {error.strerror}", "-o names another file") from error


def _mode_of(file: Path) -> int | None:
    try:
        return file.lstat().st_mode
    except FileNotFoundError:
        return None


def _put(page: bytes, new: Path, file: Path) -> None:
    """Write a new file and put it in the place of another, or of itself; nothing of it stays when that fails."""
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, FILE_MODE)
    try:
        try:
            os.fchmod(descriptor, FILE_MODE)
            write_all(descriptor, page)
        finally:
            os.close(descriptor)
        if new != file:
            new.replace(file)
    except BaseException:
        with suppress(OSError):
            new.unlink()
        raise
