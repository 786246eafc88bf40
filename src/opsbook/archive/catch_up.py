"""The index brought up to date with the files: what is new goes in, what is gone goes out, what ran is looked at again.

The folder of a day changes when a run is made in it or taken away, so that only the days that changed are listed, and
only their new runs are read. A run that has not ended is looked at each time, until it has.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import TypeVar

from opsbook.archive.index import Index, ask_index
from opsbook.archive.index_ahead import reading_ahead
from opsbook.archive.index_items import BOOK, RUN, Item, iter_books, read_book_item, read_run_item, seal_of
from opsbook.archive.index_seal import file_seal
from opsbook.archive.index_text import COLUMNS, DOC_BITS, Passage, pack, stamp_key, unpack, words_apart
from opsbook.archive.layout import RunFolder, is_run_id

BATCH = 500
"""Runs between two commits."""
_SETTLED_S = 60.0
"""A folder that changed this recently may change again within one tick of its clock: it is listed once more."""
_PARTS = ", ".join(COLUMNS)
_MARKS = ", ".join("?" * len(COLUMNS))
_INSERT = f"INSERT INTO passages (rowid, {_PARTS}) VALUES (?, {_MARKS})"  # noqa: S608  names of ours alone
_DELETE = f"INSERT INTO passages (passages, rowid, {_PARTS}) VALUES ('delete', ?, {_MARKS})"  # noqa: S608
_WORD = re.compile(r"[^\W_]+")
_LOWER = bytes(byte if byte > 127 or chr(byte).isalnum() else 32 for byte in bytes(range(256)).lower())  # noqa: PLR2004
"""Turns ASCII into small letters, digits and blanks."""
_WORD_LENGTHS = range(3, 41)
"""Characters of a word that parts are asked of: what is shorter or longer is none, nor is a number."""
_REMEMBERED = 50_000
"""Words that are remembered to be in the index."""

T = TypeVar("T")
Watch = Callable[[int, int], None]
"""Is told how many runs were read, of how many."""


def ask_archive(
    root: Path,
    work: Callable[[Index], T],
    *,
    library: Sequence[Path] = (),
    watch: Watch | None = None,
    fresh: bool = False,
) -> T:
    """Return what some work with the index of an archive comes to, once it is up to date with the archive's files.

    Raises:
        ArchiveError: there can be no index.
    """

    def work_up_to_date(index: Index) -> T:
        catch_up(index, root, library=library, watch=watch)
        return work(index)

    return ask_index(root, work_up_to_date, fresh=fresh)


def catch_up(index: Index, root: Path, *, library: Sequence[Path] = (), watch: Watch | None = None) -> None:
    """Bring the index up to date, unless another process is at that; `watch` is told how far it got."""
    if not index.is_ours:
        return
    settled = time.time() - _SETTLED_S
    days = dict(_days(root))
    known = dict(index.rows("SELECT place, seal FROM days"))
    changed = [place for place, (seal, _) in days.items() if known.get(place) != seal]
    todo = [(place, name) for place in changed for name in _new_runs(index, root, place)]
    _take_in(index, root, [*todo, *_open_runs(index, root)], watch=watch)
    with index.transaction():
        for place in known.keys() - days.keys():
            _remove_all(index, index.rows("SELECT key FROM items WHERE kind = ? AND place = ?", RUN, place))
            index.rows("DELETE FROM days WHERE place = ?", place)
        for place in changed:
            seal, when = days[place]
            seen = seal if when < settled else ""
            if known.get(place) != seen:
                index.rows("INSERT OR REPLACE INTO days VALUES (?, ?)", place, seen)
        _take_in_books(index, library)


def _days(root: Path) -> Iterator[tuple[str, tuple[str, float]]]:
    """Yield the folders of days, the oldest first: what changes when one does, and the second it did.

    Clocks go backwards, and times are set by hand: the count of links tells of a new run whatever they say.
    """
    for year in _numbered(root):
        for month in _numbered(root / year):
            for day in _numbered(root / year / month):
                place = f"{year}/{month}/{day}"
                try:
                    status = os.stat(f"{root}/{place}")  # noqa: PTH116  a thousand of them each time
                except OSError:
                    continue
                seal = f"{status.st_mtime_ns}:{status.st_ctime_ns}:{status.st_nlink}:{status.st_ino}"
                yield place, (seal, max(status.st_mtime, status.st_ctime))


def _numbered(place: Path) -> list[str]:
    try:
        with os.scandir(place) as entries:
            return sorted(entry.name for entry in entries if entry.name.isdecimal() and entry.is_dir())
    except OSError:
        return []


def _new_runs(index: Index, root: Path, place: str) -> list[str]:
    """Return the runs of a day that are not in the index, and take out of it those that are gone."""
    try:
        with os.scandir(root / place) as entries:
            there = {entry.name for entry in entries if is_run_id(entry.name) and entry.is_dir()}
    except OSError:
        there = set()
    known = dict(index.rows("SELECT name, key FROM items WHERE kind = ? AND place = ?", RUN, place))
    gone = [(known[name],) for name in known.keys() - there]
    if gone:
        with index.transaction():
            _remove_all(index, gone)
    return sorted(there - known.keys())


def _open_runs(index: Index, root: Path) -> list[tuple[str, str]]:
    """Return the runs that had not ended, and are not any more as they were."""
    rows = index.rows("SELECT place, name, seal FROM items WHERE open AND kind = ?", RUN)
    return [(place, name) for place, name, seal in rows if seal_of(_folder(root, place, name)) != seal]


def _folder(root: Path, place: str, name: str) -> RunFolder:
    return RunFolder(run_id=name, path=root / place / name)


def _take_in(index: Index, root: Path, todo: Sequence[tuple[str, str]], *, watch: Watch | None) -> None:
    """Read runs and put them in, some at a time: what was done stays done when it is stopped in the middle."""
    with closing(reading_ahead(_folder(root, place, name) for place, name in todo)) as folders:
        numbered = enumerate(folders)
        for _ in range(0, len(todo), BATCH):
            with index.transaction():
                for number, folder in islice(numbered, BATCH):
                    if watch is not None:
                        watch(number, len(todo))
                    _put(index, read_run_item(folder, todo[number][0]))


def _take_in_books(index: Index, library: Sequence[Path]) -> None:
    """Put the runbooks of the library in that are new or were changed, and take out those that are gone."""
    there = {str(file): (str(folder), file_seal(file)) for folder in library for file in iter_books(folder)}
    known = {
        name: (key, seal) for name, key, seal in index.rows("SELECT name, key, seal FROM items WHERE kind = ?", BOOK)
    }
    _remove_all(index, [(known[name][0],) for name in known.keys() - there.keys()])
    for name, (place, seal) in there.items():
        if seal and known.get(name, (0, ""))[1] != seal:
            _put(index, read_book_item(Path(name), place, seal))


def _put(index: Index, item: Item) -> None:
    """Put one item in; in the place of the one of that name, if there is one."""
    _remove_all(index, index.rows("SELECT key FROM items WHERE kind = ? AND name = ?", item.kind, item.name))
    key = _free_key(index, item.second)
    row = (
        *(key, item.kind, item.name, item.place, item.seal, item.open, item.second, item.status, item.runbook),
        *(item.path, item.user, item.duration, item.short, item.params, item.targets),
    )
    index.rows(f"INSERT INTO items VALUES ({', '.join('?' * len(row))})", *row)  # noqa: S608  marks alone
    index.rows("INSERT INTO texts VALUES (?, ?)", key, pack(item.passages))
    index.connection.executemany(_INSERT, _words(key, item.passages))
    origins = [(passage.origin, key << DOC_BITS | passage.number) for passage in item.passages if passage.origin]
    index.connection.executemany("INSERT OR IGNORE INTO origins VALUES (?, ?)", origins)
    index.connection.executemany("INSERT OR IGNORE INTO words VALUES (?)", _new_words(index, item.passages))


def _new_words(index: Index, passages: Sequence[Passage]) -> Iterator[tuple[str]]:
    """Yield the words of which parts may be asked for; those that went in a moment ago are left out."""
    text = "\n".join(text for passage in passages for text in passage.columns if text)
    plain = text.isascii()  # as a rule, and then this is twice as fast
    words = set(text.encode().translate(_LOWER).decode().split() if plain else _WORD.findall(text.lower()))
    words -= index.words
    if len(index.words) > _REMEMBERED:
        index.words.clear()
    index.words |= words
    for word in words:
        if len(word) in _WORD_LENGTHS and not word.isdecimal():
            yield (word,)


def _free_key(index: Index, second: int) -> int:
    key = stamp_key(second)
    for (taken,) in index.rows("SELECT key FROM items WHERE key >= ? AND key < ? ORDER BY key", key, key + 2**20):
        if taken != key:
            break
        key += 1
    return key


def _words(key: int, passages: Sequence[Passage]) -> Iterator[tuple[int | str, ...]]:
    for passage in passages:
        yield (key << DOC_BITS | passage.number, *map(words_apart, passage.columns))


def _remove_all(index: Index, keys: Sequence[tuple[int]]) -> None:
    for (key,) in keys:
        for (packed,) in index.rows("SELECT packed FROM texts WHERE key = ?", key):
            passages = unpack(packed)
            index.connection.executemany(_DELETE, _words(key, passages))
            docs = [(passage.origin, key << DOC_BITS | passage.number) for passage in passages if passage.origin]
            index.connection.executemany("DELETE FROM origins WHERE origin = ? AND doc = ?", docs)
        index.rows("DELETE FROM texts WHERE key = ?", key)
        index.rows("DELETE FROM items WHERE key = ?", key)


def forget_removed(index: Index) -> None:
    """Leave no trace in the index's file of what was taken out of it: for 10,000 runs that takes five seconds."""
    if not index.is_ours:
        return
    index.words.clear()
    with index.transaction():
        index.rows("INSERT INTO passages (passages) VALUES ('optimize')")
        index.rows("DELETE FROM words")
        for (packed,) in index.connection.execute("SELECT packed FROM texts"):
            index.connection.executemany("INSERT OR IGNORE INTO words VALUES (?)", _new_words(index, unpack(packed)))
        index.words.clear()
    index.rows("VACUUM")
