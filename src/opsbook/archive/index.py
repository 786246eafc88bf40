"""The index of an archive: a SQLite file on local disk that says what the archive's files say, only faster.

It is a cache. One process at a time writes it, under a lock; others read meanwhile. A file that is damaged, or not
ours, is never repaired: the next one, of a new name, takes its place, and whoever still reads the old one is not
disturbed. Nothing here knows what a run is.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import sqlite3
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from opsbook.archive.files import FILE_MODE, FOLDER_MODE, lock
from opsbook.archive.index_seal import BESIDE, PAGE, Seal
from opsbook.archive.index_text import COLUMNS
from opsbook.errors import ArchiveError

SCHEMA = 3
"""Part of every index's name: an opsbook that lays its index out differently makes one of its own."""
PATIENCE_S = 60.0
"""Seconds to wait for another process that brings the index up to date."""
_LOG = 64 * 2**20
"""Bytes SQLite's log may have between two transactions."""
_APPLICATION = 0x4F505342
_NAME = re.compile(rf"v{SCHEMA}-(\d{{6}})\.sqlite")
_DAMAGE = (sqlite3.DatabaseError, UnicodeDecodeError)
"""What reading a damaged index raises: sqlite3 itself cannot read its own error where a name in it is no text."""
_PRAGMAS = (
    *(f"page_size = {PAGE}", "journal_mode = WAL", "wal_autocheckpoint = 0", "synchronous = NORMAL"),
    *("cache_size = -32768", "trusted_schema = OFF", "secure_delete = ON"),
)
_PIECES = ("", "-wal", "-shm", "-journal", BESIDE)
_TABLES = f"""
CREATE TABLE items (
    key INTEGER PRIMARY KEY, kind TEXT NOT NULL, name TEXT NOT NULL, place TEXT NOT NULL, seal TEXT NOT NULL,
    open INTEGER NOT NULL, second INTEGER NOT NULL, status TEXT NOT NULL, runbook TEXT NOT NULL, path TEXT NOT NULL,
    user TEXT NOT NULL, duration REAL, short INTEGER NOT NULL, params TEXT NOT NULL, targets TEXT NOT NULL
);
CREATE UNIQUE INDEX items_by_name ON items (kind, name);
CREATE INDEX items_by_place ON items (place);
CREATE INDEX items_open ON items (key) WHERE open;
CREATE INDEX items_by_status ON items (status, key);
CREATE TABLE texts (key INTEGER PRIMARY KEY, packed BLOB NOT NULL);
CREATE TABLE origins (origin TEXT NOT NULL, doc INTEGER NOT NULL, PRIMARY KEY (origin, doc)) WITHOUT ROWID;
CREATE TABLE words (word TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE days (place TEXT PRIMARY KEY, seal TEXT NOT NULL) WITHOUT ROWID;
CREATE VIRTUAL TABLE passages USING fts5 (
    {", ".join(COLUMNS)}, content='', tokenize="unicode61 remove_diacritics 2"
);
"""
T = TypeVar("T")


def index_folder(root: Path) -> Path:
    """Return where the index of an archive lies: in the user's cache, in a folder of its own.

    Raises:
        ArchiveError: there is no such place.
    """
    try:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError as error:
        raise ArchiveError(f"there is no place for the index: {error}", "set XDG_CACHE_HOME") from error
    key = hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:32]
    return cache / "opsbook" / "index" / key


class Index:
    """An open index. Used by one thread."""

    def __init__(
        self, connection: sqlite3.Connection, *, seal: Seal | None = None, is_ours: bool = True, note: str = ""
    ) -> None:
        self.connection = connection
        self._seal = seal
        self.is_ours = is_ours
        """Whether this process may write it."""
        self.note = note
        """What a person should know about it; empty as a rule."""
        self.words: set[str] = set()
        """Words that are in it already, as far as somebody remembers: they need not be put in again."""

    def rows(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        """Return what a statement finds."""
        return self.connection.execute(sql, values).fetchall()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Write all of it or nothing."""
        self.connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self.words.clear()
            with suppress(sqlite3.Error):
                self.connection.execute("ROLLBACK")
            raise
        self.connection.execute("COMMIT")
        if self._seal is not None:
            self._seal.settle_much(self.connection, most=_LOG)


def ask_index(root: Path, work: Callable[[Index], T], *, fresh: bool = False) -> T:
    """Return what some work with an archive's index comes to; one that turns out to be damaged is made anew first.

    An index that cannot be kept is made in memory, and forgotten. With `fresh` it is made anew in any case. What else
    the work raises (a pipe nobody reads any more) says nothing of the index.

    Raises:
        ArchiveError: there can be no index.
    """
    why = ""
    for anew in (fresh, True):
        with ExitStack() as stack:
            try:
                index = stack.enter_context(_kept(index_folder(root), fresh=anew))
            except (*_DAMAGE, OSError) as error:
                why = str(error)
                continue
            try:
                return work(index)
            except _DAMAGE as error:
                why = str(error)
    try:
        with closing(_connect(":memory:")) as connection:
            _lay_out(connection)
            return work(Index(connection, note=f"the index cannot be kept ({why}): it was made in memory"))
    except sqlite3.DatabaseError as error:
        raise ArchiveError(
            f"the archive cannot be indexed: {error}", "is there memory, and room on the disk?"
        ) from error


@contextmanager
def _kept(folder: Path, *, fresh: bool) -> Iterator[Index]:
    """Open the index that is kept in a folder; to write it, unless another process goes on doing that."""
    _make_private(folder)
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, FILE_MODE)
    try:
        if lock(descriptor, fcntl.LOCK_EX, seconds=PATIENCE_S):
            connection, seal = _current(folder, fresh=fresh)
            with closing(connection):
                try:
                    yield Index(connection, seal=seal)
                finally:
                    with suppress(sqlite3.Error, OSError):  # then the next one compares it as a whole
                        seal.settle(connection)
            return
        numbers = _numbers(folder)
        with closing(_connect(str(_file(folder, numbers[-1])) if numbers else ":memory:")) as connection:
            yield Index(connection, is_ours=False, note="another process is building the index: newer runs are missing")
    finally:
        os.close(descriptor)


def _current(folder: Path, *, fresh: bool) -> tuple[sqlite3.Connection, Seal]:
    """Return the newest index of a folder that is whole, or a new one, with its seal; older ones go."""
    numbers = _numbers(folder)
    newest = numbers[-1] if numbers else 0
    current = None if fresh or not numbers else _whole(_file(folder, newest))
    if current is None:
        newest += 1
        file = _file(folder, newest)
        os.close(os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, FILE_MODE))
        current = _connect(str(file)), Seal.of_new(file)
        _lay_out(current[0])
    for number in numbers:
        if number != newest:
            _remove(_file(folder, number))
    return current


def _whole(file: Path) -> tuple[sqlite3.Connection, Seal] | None:
    """Open an index and its seal; None when it is none, was never finished, or is not as it was written."""
    connection, seal = None, Seal(file)
    try:
        if not stat.S_ISREG(file.lstat().st_mode):
            return None
        connection = _connect(str(file))
        seal.check(connection)
        (found,) = connection.execute("PRAGMA application_id").fetchone()
        connection.execute("SELECT 1 FROM items, passages LIMIT 1").fetchone()
    except (*_DAMAGE, OSError):
        found = None
    if connection is not None and found == _APPLICATION:
        return connection, seal
    if connection is not None:
        connection.close()
    return None


def _connect(file: str) -> sqlite3.Connection:
    connection = sqlite3.connect(file, timeout=PATIENCE_S, isolation_level=None)
    connection.create_function("has_line", 2, _has_line, deterministic=True)
    try:
        for pragma in _PRAGMAS:
            connection.execute(f"PRAGMA {pragma}")
    except sqlite3.DatabaseError:
        connection.close()
        raise
    return connection


def _has_line(lines: str, pattern: str) -> bool:
    """Whether one of some lines is as a pattern says, in which `*` stands for anything."""
    return bool(re.search("\n" + ".*".join(map(re.escape, pattern.split("*"))) + "\n", lines))


def _lay_out(connection: sqlite3.Connection) -> None:
    """Make the tables; the mark comes with them or not at all."""
    connection.executescript(f"BEGIN; {_TABLES} PRAGMA application_id = {_APPLICATION}; COMMIT;")


def _numbers(folder: Path) -> list[int]:
    """List the numbers of the indexes in a folder, in order."""
    matches = (_NAME.fullmatch(name) for name in os.listdir(folder))  # noqa: PTH208  names are all it takes
    return sorted(int(match[1]) for match in matches if match)


def _file(folder: Path, number: int) -> Path:
    return folder / f"v{SCHEMA}-{number:06}.sqlite"


def _remove(file: Path) -> None:
    for piece in _PIECES:
        with suppress(OSError):
            file.with_name(file.name + piece).unlink()


def _make_private(folder: Path) -> None:
    """Make a folder only its owner may look into, whatever the umask."""
    folder.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
    folder.chmod(FOLDER_MODE)
