"""Notes on runbooks, cells and runs: one Markdown file each, in a folder that a team keeps in its repository.

A few lines of front matter (`key: value`, values in quotes where they have to be) say how much a note weighs and what
it is about: an origin, so that it goes along with every copy of a cell. What other people wrote is not to be trusted: a
file that cannot be read is a damaged note, which hides no other, and blocks unless it shows that it does not.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import stat
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from opsbook.errors import RunbookError, UsageError
from opsbook.model.note import Note, Severity
from opsbook.runbook.meme import parse_meme
from opsbook.runbook.source_file import create_file

MOST_BYTES = 256 * 1024
_FILE = re.compile(r"\d{8}-[a-z0-9][a-z0-9._-]{0,63}-[0-9a-f]{6}\.md")
"""What a note's file is called: a README beside them is none."""
_NOW_OR_LATER = datetime.max.replace(tzinfo=UTC)
_PLAIN = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9 ._@+/-]|:(?=[^ ]))*")
_FENCE = "---"


def read_notes(folder: Path) -> tuple[Note, ...]:
    """Return the notes of a folder, the newest first; where there is no folder there are none.

    Raises:
        RunbookError: the folder cannot be read: nobody knows what stands in it.
    """
    try:
        names = sorted(os.listdir(folder), reverse=True)  # noqa: PTH208  names alone, in one call
    except FileNotFoundError:
        return ()
    except OSError as error:
        hint = "[notes] path in opsbook.toml names their folder"
        raise RunbookError(f"the notes in {folder} cannot be read: {error.strerror}", hint) from error
    notes = [_read_note(folder / name) for name in names if _FILE.fullmatch(name)]
    return tuple(sorted(notes, key=lambda note: note.date or _NOW_OR_LATER, reverse=True))


def notes_on(notes: Iterable[Note], subjects: Collection[str]) -> tuple[Note, ...]:
    """Return those notes that are about any of these origins and runs, and those that may be; blocking ones first."""
    found = [note for note in notes if not note.subject or note.subject in subjects]
    return tuple(sorted(found, key=lambda note: not note.blocks))


def add_note(folder: Path, note: Note, *, name: str) -> Note:
    """Write a new note, and return it with its id; `name` is what it is about, for the file's name.

    Raises:
        UsageError: it says nothing, or what no file can hold.
        RunbookError: it could not be written.
    """
    if not note.text.strip():
        raise UsageError("the note says nothing", "-m TEXT")
    now = datetime.now(UTC)
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40].strip("-") or "note"
    made = Note(
        id=f"{now:%Y%m%d}-{slug}-{secrets.token_hex(3)}",
        severity=note.severity,
        subject=note.subject,
        target=note.target,
        author=note.author,
        date=now.replace(microsecond=0),
        text=note.text.strip(),
    )
    try:
        data = _write(made).encode()
    except UnicodeEncodeError:
        raise UsageError("the note is not valid Unicode", "write it again") from None
    if len(data) > MOST_BYTES:
        raise UsageError(f"the note is longer than {MOST_BYTES // 1024} KiB", "notes are short")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunbookError(f"cannot create {folder}: {error.strerror}", "[notes] path names another") from error
    create_file(note_file(folder, made), data)
    return made


def note_file(folder: Path, note: Note) -> Path:
    """Return the file of a note."""
    return folder / f"{note.id}.md"


def find_note(notes: Sequence[Note], text: str) -> Note:
    """Return the note a person means: its id, or the unique beginning or end of one.

    Raises:
        UsageError: no note, or more than one, is meant.
    """
    found = [note for note in notes if means(note, text)]
    if not found:
        raise UsageError(f"there is no note {text!r}", "opsbook note list")
    if len(found) > 1:
        raise UsageError(f"{len(found)} notes match {text!r}", f"among them {found[0].id} and {found[1].id}")
    return found[0]


def means(note: Note, text: str) -> bool:
    """Whether a text is a note's id, or the beginning or the end of it."""
    return bool(text) and (note.id.startswith(text) or note.id.endswith(f"-{text}"))


def remove_note(folder: Path, note: Note) -> None:
    """Take a note away.

    Raises:
        RunbookError: it could not be taken away.
    """
    try:
        note_file(folder, note).unlink()
    except OSError as error:
        raise RunbookError(f"cannot remove {note_file(folder, note)}: {error.strerror}") from error


def _write(note: Note) -> str:
    parsed = parse_meme(note.subject)
    rows = (
        ("severity", note.severity.value),
        ("origin" if parsed is not None else "run", note.subject),
        ("target", note.target),
        ("author", note.author),
        ("date", f"{note.date:%Y-%m-%dT%H:%M:%SZ}" if note.date is not None else ""),
    )
    lines = [f"{name}: {_quoted(value)}" for name, value in rows if value]
    return "\n".join((_FENCE, *lines, _FENCE, "", note.text, ""))


def _quoted(value: str) -> str:
    """Return a value that reads the same here and as YAML."""
    return value if _PLAIN.fullmatch(value) and not value.endswith(" ") else json.dumps(value, ensure_ascii=False)


def _read_note(file: Path) -> Note:
    note_id = file.name.removesuffix(".md")
    try:
        text = _read_text(file)
    except (OSError, ValueError) as error:
        why = (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
        return Note(id=note_id, problem=why)
    head, body, is_closed = _split(text)
    pairs = [(name.strip(), _value(value)) for name, _, value in (line.partition(":") for line in head)]
    times = Counter(name for name, _ in pairs)
    fields = {name: value for name, value in pairs if times[name] == 1}  # of two, which holds is anybody's guess
    severity = next((word for word in Severity if word.value == fields.get("severity")), None)
    origin = parse_meme(fields.get("origin"))
    subject = origin.origin if origin is not None else fields.get("run", "")
    missing = [
        what
        for what, is_there in (("front matter", is_closed), ("severity", severity), ("origin or run", subject))
        if not is_there
    ]
    return Note(
        id=note_id,
        severity=severity or Severity.BLOCK,
        subject=subject,
        target=fields.get("target", ""),
        author=fields.get("author", ""),
        date=_date(fields.get("date", "")),
        text=body.strip(),
        problem=f"it has no readable {', '.join(missing)}" if missing else "",
    )


def _read_text(file: Path) -> str:
    """Read a regular file, and nothing a name could lead to instead."""
    descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    with os.fdopen(descriptor, "rb") as opened:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("it is no regular file")
        if status.st_size > MOST_BYTES:
            raise ValueError(f"it is larger than {MOST_BYTES // 1024} KiB")
        return opened.read(MOST_BYTES).decode().replace("\r\n", "\n")


def _split(text: str) -> tuple[list[str], str, bool]:
    """Return the lines of the front matter, what follows it, and whether it is whole."""
    lines = text.split("\n")
    if lines[0].rstrip() != _FENCE:
        return [], text, False
    end = next((number for number, line in enumerate(lines[1:], start=1) if line.rstrip() == _FENCE), 0)
    return (lines[1:end], "\n".join(lines[end + 1 :]), True) if end else (lines[1:], "", False)


def _value(text: str) -> str:
    """Return a value without its quotes; one whose quotes are wrong is none."""
    text = text.strip()
    if not text.startswith('"'):
        return text
    try:
        value = json.loads(text)
        str(value).encode()  # it may spell out half a character
    except ValueError:
        return ""
    return value if isinstance(value, str) else ""


def _date(text: str) -> datetime | None:
    try:
        date = datetime.fromisoformat(text)
    except ValueError:
        return None
    return date.replace(tzinfo=UTC) if date.tzinfo is None else date
