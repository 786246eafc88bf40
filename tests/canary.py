"""The canary: a secret every folder has that a notebook is run in, looked for wherever it must not be.

The settings there hand it to notebooks (`[env.secrets]`), so it is in the kernel's memory and in the
environment of what a notebook starts. It may be in no argument list, in no environment of opsbook's own processes, in
no stream and in no file but its own. The encodings looked for are made here, not by the redactor that is being watched.
"""

from __future__ import annotations

import base64
import html
import json
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import quote

VALUE = 'canary<7Qx&"9z/\u00e9>tweet'
VARIABLE = "CANARY"
FILE = "canary"
"""The file it is in, in each of these folders."""
PLANTED: list[Path] = []
"""The folders it was put into by this process, in this order."""
LEAKED = "canary-leaked"
"""Where a process says that it had it from the start."""
MOST = 4 * 1024 * 1024
"""Bytes looked at, at both ends of a file."""
TABLE = "\n[env.secrets]\n"
HANDED_ON = f"\n{VARIABLE} ="
"""What stands in settings that hand it to notebooks."""


def encodings(value: str) -> tuple[bytes, ...]:
    """Return the forms programs print a value in; of base64 what is the same wherever it begins and ends."""
    raw = value.encode()
    texts = {value, repr(value)[1:-1], quote(value, safe=""), quote(value), html.escape(value), raw.hex()}
    texts |= {json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1], raw.hex().upper()}
    for shift in range(3):
        coded = base64.b64encode(b"\0" * shift + raw).decode().rstrip("=")[4:-1]
        texts |= {coded, coded.translate(str.maketrans("+/", "-_"))}
    return tuple(sorted({text.encode() for text in texts}))


FORMS = encodings(VALUE)


def lies_in(data: bytes) -> bool:
    """Whether the canary can be read from these bytes."""
    return any(form in data for form in FORMS)


def settings(text: str, folder: Path) -> str:
    """Return an `opsbook.toml` that hands the canary to notebooks too."""
    if HANDED_ON in f"\n{text}":
        return text
    line = f"{VARIABLE} = {json.dumps(f'file:{folder / FILE}')}\n"
    before, table, after = f"\n{text}".partition(TABLE)
    return f"{before}{table or TABLE}{line}{after}".removeprefix("\n") if text else f"{TABLE}{line}"


def plant(folder: Path) -> None:
    """Put it into a folder and its settings, for whoever the folder belongs to. Harmless where that was done."""
    file, toml, owner = folder / FILE, folder / "opsbook.toml", folder.stat()
    if folder not in PLANTED:
        PLANTED.append(folder)
    if not file.exists():
        file.touch(0o600)
        file.write_text(f"{VALUE}\n")
        os.chown(file, owner.st_uid, owner.st_gid)
    known = toml.read_text() if toml.exists() else None
    if known is None or settings(known, folder) != known:
        toml.write_text(settings(known or "", folder))
        os.chown(toml, owner.st_uid, owner.st_gid)


def is_planted(folder: Path) -> bool:
    """Whether a command that is started in a folder finds settings that hand it on."""
    texts = (file.read_text() for place in (folder, *folder.parents) if (file := place / "opsbook.toml").exists())
    return HANDED_ON in next(texts, "")


class Watch:
    """Looks through folders for it, each file again only when it was changed."""

    def __init__(self) -> None:
        self._seen: dict[Path, tuple[int, int]] = {}

    def leaks(self, folders: Iterable[Path]) -> list[Path]:
        """Return the files it was found in."""
        changed = [file for folder in folders for file in self._changed(folder)]
        return [file for file in changed if file.name == LEAKED or lies_in(_ends_of(file))]

    def _changed(self, folder: Path) -> Iterator[Path]:
        for place, _, names in os.walk(folder):
            for name in names:
                file = Path(place, name)
                try:
                    status = file.lstat()
                except OSError:
                    continue  # it is gone
                state = status.st_mtime_ns, status.st_size
                if stat.S_ISREG(status.st_mode) and name != FILE and self._seen.get(file) != state:
                    self._seen[file] = state
                    yield file


def _ends_of(file: Path) -> bytes:
    """Return a file's bytes, or both ends of one that is too large to be looked through in every test."""
    try:
        with file.open("rb") as stream:
            data = stream.read(MOST)
            if stream.seek(0, 2) > MOST:
                stream.seek(-MOST, 2)
                data += b"\n" + stream.read()
            return data
    except OSError:
        return b""  # it may not be read, or is gone
