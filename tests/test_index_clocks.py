"""New runs are found at once whatever clocks said: ahead of time, behind it, or the same as before."""

from __future__ import annotations

import os
import shutil
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from past_runs import cell, write_run

from opsbook.archive import catch_up as catch_up_module
from opsbook.archive.catch_up import ask_archive
from opsbook.archive.layout import RunFolder
from opsbook.archive.search import Search, search
from opsbook.archive.selection import Selection, count_items, select_runs

NOW = datetime.now(UTC)
DAY = timedelta(days=1)


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(catch_up_module, "_SETTLED_S", -10.0)  # no folder is listed again as it changed just now


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_run(tmp_path / "archive", cell("apt-get upgrade"), at=NOW, tail=1)
    return tmp_path / "archive"


def found(root: Path, text: str = "upgrade", library: tuple[Path, ...] = ()) -> list[str]:
    """What is found, by the last letter of its name."""
    hits = ask_archive(root, lambda index: search(index, Search(text=text, limit=50)), library=library).hits
    return sorted(hit.place.name[-1] for hit in hits)


def add(root: Path, tail: int, *, at: datetime = NOW) -> Path:
    return write_run(root, cell(f"apt-get upgrade  # {tail}"), at=at, tail=tail).path


def set_time(place: Path, when: float) -> None:
    os.utime(place, (when, when))


def settle(root: Path) -> None:
    """Let all folders be of two days ago, when nothing in them changes any more."""
    for place in root.rglob("*"):
        set_time(place, time.time() - 2 * 86400)


def test_a_run_of_a_clock_two_days_ahead_is_found_and_so_are_those_after_it(root: Path) -> None:
    ahead = add(root, 2, at=NOW + 2 * DAY)
    for place in (ahead, ahead.parent, *ahead.iterdir()):
        set_time(place, time.time() + 2 * 86400)
    assert found(root) == ["1", "2"]
    add(root, 3)
    add(root, 4, at=NOW + 2 * DAY)
    assert found(root) == ["1", "2", "3", "4"]
    set_time(ahead.parent, time.time() - 3600)
    add(root, 5, at=NOW + 2 * DAY)
    assert found(root) == ["1", "2", "3", "4", "5"]
    newest = ask_archive(root, lambda index: select_runs(index, Selection(), limit=3))
    assert [name[-1] for name in newest] == ["5", "4", "2"]


@pytest.mark.parametrize("days", [-400, -1, 0, 1, 400])
def test_a_day_that_changes_has_a_new_run_whatever_time_it_then_has(root: Path, days: int) -> None:
    day = next(root.glob("*/*/*"))
    settle(root)
    assert found(root) == ["1"]
    add(root, 2)
    set_time(day, time.time() - 2 * 86400 + days * 86400)
    assert found(root) == ["1", "2"]


def test_a_day_that_has_the_time_it_had_before_is_listed_again_when_it_changed(root: Path) -> None:
    day = next(root.glob("*/*/*"))
    settle(root)
    seen = day.stat()
    assert found(root) == ["1"]
    add(root, 2)
    os.utime(day, ns=(seen.st_atime_ns, seen.st_mtime_ns))
    assert found(root) == ["1", "2"]


def test_a_day_in_the_place_of_another_with_its_time_is_listed(root: Path) -> None:
    day = next(root.glob("*/*/*"))
    settle(root)
    seen = day.stat()
    assert found(root) == ["1"]
    other = day.with_name("other")
    shutil.copytree(day, other)
    shutil.rmtree(day)
    other.rename(day)
    shutil.move(add(root.parent / "elsewhere", 2), day)
    os.utime(day, ns=(seen.st_atime_ns, seen.st_mtime_ns))
    assert found(root) == ["1", "2"]


@pytest.mark.parametrize("hours", [-480, 480])
def test_a_run_that_is_damaged_is_read_again_when_its_files_are_older_or_newer_than_those_seen(
    root: Path, hours: int
) -> None:
    folder = add(root, 2)
    record = folder / "run.json"
    whole = record.read_bytes()
    record.write_bytes(b"{")
    settle(root)
    assert found(root) == ["1"]
    record.write_bytes(whole)
    set_time(record, time.time() + hours * 3600)
    assert found(root) == ["1", "2"]


def test_a_runbook_put_back_from_a_backup_is_read_again_although_it_is_older(root: Path, tmp_path: Path) -> None:
    book = tmp_path / "library" / "disk-1.ipynb"
    book.parent.mkdir()
    folder = add(root.parent / "elsewhere", 2)
    (copy,) = folder.glob("*.ipynb")
    book.write_bytes(copy.read_bytes().replace(b"upgrade", b"upgrxxx"))
    assert found(root, "upgrxxx", (book.parent,)) == ["b"]
    book.write_bytes(copy.read_bytes())
    set_time(book, time.time() - 400 * 86400)
    assert found(root, "upgrxxx", (book.parent,)) == []
    assert found(root, "upgrade", (book.parent,)) == ["1", "b"]


@pytest.mark.parametrize("stamp", ["99991231T235959Z", "00010101T000000Z", "19691231T235959Z", "20380119T031408Z"])
def test_a_clock_that_is_wrong_by_centuries_hides_nothing(root: Path, stamp: str) -> None:
    there = add(root, 2)
    name = f"{stamp}-patch-00000a"
    wrong = root / stamp[:4] / stamp[4:6] / stamp[6:8] / name
    wrong.parent.mkdir(parents=True)
    (there / "run.json").write_bytes((there / "run.json").read_bytes().replace(there.name.encode(), name.encode()))
    there.rename(wrong)
    (copy,) = wrong.glob("patch--*.ipynb")
    copy.rename(RunFolder(run_id=name, path=wrong).copy)
    assert found(root) == ["1", "a"]
    assert ask_archive(root, count_items)[0] == 2


@pytest.mark.parametrize("stamp", ["00000000T000000Z", "20261399T996199Z"])
def test_a_folder_named_by_a_time_that_never_was_hides_nothing(root: Path, stamp: str) -> None:
    (root / "2026/11/20").mkdir(parents=True, exist_ok=True)
    (root / "2026/11/20" / f"{stamp}-patch-00000a").mkdir()
    assert found(root) == ["1"]
    assert ask_archive(root, count_items) == (2, 0, {"damaged": 1})
