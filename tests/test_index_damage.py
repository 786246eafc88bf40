"""Whatever byte of an index is another than the one that was written, the answers are right: it is noticed."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest
from archived import make_record
from past_runs import NOON, cell, write_run
from searching import NOW

from opsbook.archive import index_seal as seal_module
from opsbook.archive.catch_up import ask_archive
from opsbook.archive.claimed import ClaimedRun
from opsbook.archive.index import Index, ask_index, index_folder
from opsbook.archive.index_seal import BESIDE, PAGE, file_seal
from opsbook.archive.journal import Journal
from opsbook.archive.layout import RunFolder, run_folder
from opsbook.archive.links import digest_of
from opsbook.archive.search import Found, Search, search
from opsbook.archive.selection import Selection, count_items, select_runs, total_up
from opsbook.model.event import RunStarted
from opsbook.model.run import RunState
from opsbook.redaction import Redactor

QUERIES = ("upgrade", "*bssl*", "status:failed", "heading:step NOT renew", "param.stack:prod", "output:web01", "証明書")
COMMAND = Path(sys.executable).parent / "opsbook"
HEAD = 128
"""Bytes of a seal before its checksums: eight of a number, then the stamp."""


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An archive with a dozen runs."""
    for number in range(12):
        said = "\n".join(f"web{host:02} | Setting up libssl{number} ({host}.{number}) ..." for host in range(20))
        write_run(
            tmp_path / "archive",
            cell(f"apt-get upgrade  # {number}", said),
            cell("certbot renew", "証明書の有効期限が切れています"),
            tail=number,
            at=NOON + timedelta(hours=7 * number),
            book="certs" if number % 3 else "patch",
            status=RunState.SUCCEEDED if number % 4 else RunState.FAILED,
            error="" if number % 4 else f"E: held by process {number}",
            parameters={"stack": "prod" if number % 2 else "dev"},
        )
    return tmp_path / "archive"


def answers(index: Index) -> tuple[object, ...]:
    found: list[Found] = [search(index, Search(text=text, limit=50), now=NOW) for text in QUERIES]
    every = Selection()
    return (*found, select_runs(index, every, limit=50), total_up(index, every), count_items(index))


def database(root: Path) -> Path:
    return max(index_folder(root).glob("*.sqlite"))


def flip(file: Path, place: int, bit: int) -> None:
    with file.open("r+b") as stream:
        stream.seek(place)
        (old,) = stream.read(1)
        stream.seek(place)
        stream.write(bytes([old ^ 1 << bit]))


def places(file: Path, count: int) -> list[tuple[int, int]]:
    """Places in a file, one in each stretch of the same length, and a bit of each."""
    chance, size = random.Random(20261121), file.stat().st_size
    edges = [size * number // count for number in range(count + 1)]
    return [(chance.randrange(a, b), chance.randrange(8)) for a, b in pairwise(edges) if a < b]


def seal_as_it_is(file: Path) -> None:
    """Give a file the stamp it has: what changed in it, no clock has seen."""
    with file.with_name(file.name + BESIDE).open("r+b") as seal:
        seal.seek(8)
        seal.write(file_seal(file).encode().ljust(HEAD - 8, b"\0"))


def check_flips(root: Path, name: Callable[[Path], Path], count: int, then: Callable[[Path], None]) -> int:
    """Flip bits of one file of an index, one after the other, and look for wrong answers; return how many were made."""
    right = ask_archive(root, answers)
    folder, good = index_folder(root), root.parent / "good"
    shutil.copytree(folder, good)
    anew = 0
    for place, bit in places(name(database(root)), count):
        shutil.rmtree(folder)
        shutil.copytree(good, folder)
        before = database(root)
        flip(name(before), place, bit)
        then(before)
        assert ask_archive(root, lambda index: (answers(index), index.note)) == (right, ""), (place, bit)
        anew += database(root) != before
    return anew


def test_a_bit_that_somebody_flips_anywhere_in_the_index_is_noticed(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seal_module, "_LEAST", 1)
    assert check_flips(root, lambda file: file, 200, lambda file: None) == 200


def test_a_bit_that_flips_with_no_trace_is_noticed_too(root: Path) -> None:
    assert check_flips(root, lambda file: file, 60, seal_as_it_is) == 60


def test_a_bit_that_flips_in_the_seal_makes_no_wrong_answer(root: Path) -> None:
    assert check_flips(root, lambda file: file.with_name(file.name + BESIDE), 60, lambda file: None) > 0


def test_of_a_file_that_nobody_touched_the_next_pages_are_compared_at_each_look(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = ask_archive(root, answers)
    monkeypatch.setattr(seal_module, "_LEAST", 1)
    before = database(root)
    pages = before.stat().st_size // PAGE
    assert 10 < pages < seal_module.LOOKS
    flip(before, before.stat().st_size - 1, 0)
    seal_as_it_is(before)
    looks = 1
    while database(root) == before and looks < 100:
        ask_archive(root, count_items)
        looks += 1
    assert pages / 2 < looks <= pages + 2
    assert ask_archive(root, answers) == right


def test_a_file_that_is_another_and_says_the_same_is_not_made_anew(root: Path) -> None:
    right = ask_archive(root, answers)
    before = database(root)
    copied = before.with_name("copy")
    shutil.copy(before, copied)
    copied.chmod(0o600)
    copied.rename(before)
    assert ask_archive(root, answers) == right
    assert database(root) == before


def test_what_another_program_writes_into_the_index_is_noticed(root: Path) -> None:
    right = ask_archive(root, answers)
    before = database(root)
    connection = sqlite3.connect(before)
    connection.execute("UPDATE items SET status = 'failed'")
    connection.commit()
    connection.close()
    assert ask_archive(root, answers) == right
    assert database(root) != before


def test_an_index_without_its_seal_is_made_anew(root: Path) -> None:
    right = ask_archive(root, answers)
    before = database(root)
    before.with_name(before.name + BESIDE).unlink()
    assert ask_archive(root, answers) == right
    assert database(root) != before


KILLED = """
import os, signal, sys
from pathlib import Path
from opsbook.archive import index_seal
from opsbook.archive.catch_up import ask_archive
from opsbook.archive.index_seal import Seal
where = sys.argv[2]
def kill(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)
if where == "sealing":
    calls = []
    write = Seal._write
    def write_until(self: Seal, stamp: str, *, sums: bool = False) -> None:
        calls.append(stamp)
        if len(calls) > int(sys.argv[3]):
            kill()
        write(self, stamp, sums=sums)
    Seal._write = write_until
ask_archive(Path(sys.argv[1]), kill if where == "asked" else lambda index: None)
"""


def kill_one(root: Path, *where: str) -> None:
    ended = subprocess.run([sys.executable, "-c", KILLED, str(root), *where], check=False, timeout=60)
    assert ended.returncode == -signal.SIGKILL


def test_what_a_killed_process_left_goes_on_where_it_was(root: Path) -> None:
    kill_one(root, "asked")
    assert database(root).with_name(database(root).name + "-wal").stat().st_size > 0
    read: list[int] = []
    right = ask_archive(root, answers, watch=lambda done, of: read.append(done))
    assert read == [], "what it had read is not read again"
    assert ask_archive(root, answers, fresh=True) == right


@pytest.mark.parametrize("calls", [0, 1])
def test_one_that_is_killed_while_it_seals_leaves_an_index_that_answers_rightly(root: Path, calls: int) -> None:
    kill_one(root, "sealing", str(calls))
    read: list[int] = []
    left = ask_archive(root, answers, watch=lambda done, of: read.append(done))
    assert read == [], "what it had read is not read again"
    assert left == ask_archive(root, answers, fresh=True)


def test_a_bit_that_flips_in_the_log_a_killed_process_left_makes_no_wrong_answer(root: Path) -> None:
    right = ask_archive(root, answers, fresh=True)
    shutil.rmtree(index_folder(root))
    kill_one(root, "asked")
    left = root.parent / "left"
    shutil.copytree(index_folder(root), left)
    log = database(root).with_name(database(root).name + "-wal")
    for place, bit in places(log, 80):
        shutil.rmtree(index_folder(root))
        shutil.copytree(left, index_folder(root))
        flip(log, place, bit)
        assert ask_archive(root, lambda index: (answers(index), index.note)) == (right, ""), (place, bit)
        assert ask_archive(root, answers) == right, (place, bit)


def test_a_truncated_seal_or_index_is_made_anew(root: Path) -> None:
    right = ask_archive(root, answers)
    for name in ("", BESIDE):
        before = database(root)
        file = before.with_name(before.name + name)
        os.truncate(file, file.stat().st_size - 4)
        assert ask_archive(root, answers) == right
        assert database(root) != before


def leave_run(root: Path, said: str, *, at: datetime) -> RunFolder:
    """Leave a run that says something as the runner does, so that it may be pruned."""
    folder = run_folder(root, f"{at:%Y%m%dT%H%M%SZ}-patch-000099")
    files = ClaimedRun(folder, record=msgspec.json.encode(make_record(folder.run_id)), runbook=b"{}")
    journal = Journal(folder.journal, Redactor())
    journal.append([RunStarted(run_id=folder.run_id, title="Patch")], durable=True)
    folder.copy.write_text(json.dumps({"cells": [cell("echo", said)]}))
    record = make_record(folder.run_id, RunState.SUCCEEDED)
    record = msgspec.structs.replace(record, started_at=at, ended_at=at)
    files.finish(msgspec.json.encode(record), journal=journal.head, copy=digest_of(folder.copy.read_bytes()))
    journal.close()
    files.release()
    return folder


def test_what_was_pruned_is_in_no_file_of_the_index_any_more(root: Path, tmp_path: Path) -> None:
    long = "".join(hashlib.sha256(bytes([number])).hexdigest() for number in range(256))
    old = leave_run(root, f"zqwxsecretword größenwahn {long}", at=NOON - timedelta(days=900))
    assert len(ask_archive(root, lambda index: search(index, Search(text="*xsecretw*")).hits)) == 1
    assert any(b"zqwxsecretword" in file.read_bytes() for file in index_folder(root).iterdir())
    before = database(root)
    pruned = subprocess.run(
        [str(COMMAND), "archive", "prune", "--keep", "800d", "--yes", "--archive", str(root)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (pruned.returncode, old.path.exists()) == (0, False), pruned.stderr
    for file in index_folder(root).iterdir():
        assert b"secretword" not in file.read_bytes(), file
        assert "größenwahn".encode() not in file.read_bytes(), file
    assert ask_index(root, lambda index: index.rows("PRAGMA freelist_count")) == [(0,)], "its room is given back"
    right = ask_archive(root, answers)
    assert database(root) == before
    assert right == ask_archive(root, answers, fresh=True)
