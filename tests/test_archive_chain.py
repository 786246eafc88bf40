"""The chain of heads: two lines of every run, one after the other, on disk, whoever writes and whatever is torn."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import msgspec
import pytest
from archived import python, said
from chained import IDS, chain_lines, make_run, wrong

from opsbook.archive import chain as chaining
from opsbook.archive.chain import CHAIN, ChainKind, ChainLine, Heads, append_line, read_chain, was_claimed
from opsbook.archive.layout import run_folder
from opsbook.archive.links import FIRST, digest_of, inspect_lines
from opsbook.archive.verify import Verdict, verify_archive
from opsbook.errors import ArchiveError

pytest_plugins = ["chain_desk"]


def test_every_run_has_its_two_lines_and_each_carries_the_hash_of_the_one_before(archive: Path) -> None:
    lines = [msgspec.json.decode(line, type=ChainLine) for line in chain_lines(archive)]
    assert [(line.run_id, line.kind.value) for line in lines] == [
        (run_id, kind) for run_id in IDS for kind in ("claimed", "ended")
    ]
    bodies = [line.removesuffix(b"\n") for line in chain_lines(archive)]
    assert [line.prev for line in lines] == [FIRST, *map(digest_of, bodies[:-1])]
    assert [line.seq for line in lines] == [1, 2, 3, 4, 5, 6]
    folder = run_folder(archive, IDS[0])
    assert lines[1].heads == Heads(
        record=digest_of(folder.record.read_bytes()),
        runbook=digest_of(folder.source.read_bytes()),
        journal=digest_of(folder.journal.read_bytes().splitlines()[-1]),
        copy=digest_of(folder.copy.read_bytes()),
    )
    assert wrong(archive) == []


APPENDER = """
import sys
from pathlib import Path
from opsbook.archive.chain import ChainKind, Heads, append_line
print("ready", flush=True)
sys.stdin.readline()
for number in range(int(sys.argv[2])):
    append_line(Path(sys.argv[1]), run_id=f"{sys.argv[3]}-{number}", kind=ChainKind.CLAIMED, heads=Heads(record="0"))
"""


@pytest.mark.parametrize("writers", [2, 12])
def test_any_number_who_append_at_once_keep_one_chain(tmp_path: Path, writers: int) -> None:
    every = [python(APPENDER, tmp_path, 10, number) for number in range(writers)]
    assert {said(process) for process in every} == {"ready"}
    for process in every:
        process.communicate("go\n", timeout=60)
    assert [process.returncode for process in every] == [0] * writers
    lines = list(inspect_lines(chain_lines(tmp_path)))
    assert [line.problem for line in lines] == [""] * (10 * writers)
    assert {msgspec.json.decode(line.body)["seq"] for line in lines} == set(range(1, 10 * writers + 1))


def test_a_line_is_on_disk_before_the_call_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        real(descriptor)
        synced.append(os.fstat(descriptor).st_size)

    monkeypatch.setattr(os, "fsync", fsync)
    for number in range(3):
        append_line(tmp_path, run_id=IDS[number], kind=ChainKind.CLAIMED, heads=Heads(record="0"))
        assert synced[-1] == (tmp_path / CHAIN).stat().st_size
    assert len(synced) == 4, "the folder with the new file in it, and each line"


def test_a_torn_last_line_is_dropped_said_and_gone_on_after(archive: Path) -> None:
    whole = (archive / CHAIN).read_bytes()
    last = chain_lines(archive)[-1]
    for torn in (last[:1], last[:-1], b"\0" * 5000):
        (archive / CHAIN).write_bytes(whole + torn)
        assert wrong(archive) == []
        assert "a torn line stands at the end" in verify_archive(archive).findings[0].what
        line = append_line(archive, run_id=IDS[0], kind=ChainKind.UNKNOWN, heads=Heads(record="0"))
        assert (line.seq, line.dropped, line.prev) == (7, len(torn), digest_of(last[:-1]))
        assert wrong(archive) == []
        found = verify_archive(archive).findings[0]
        assert (found.verdict, found.what) == (
            Verdict.INTERRUPTED,
            f"{CHAIN}: {len(torn)} bytes of a torn line were dropped before line 7",
        )


def test_a_run_says_that_it_found_the_chain_torn(archive: Path) -> None:
    with (archive / CHAIN).open("ab") as stream:
        stream.write(b'{"seq":7,')
    files = make_run(archive, "20261120T120000Z-patch-7f3a2f")
    assert files.notes == ["the end of the archive's chain was torn: 9 bytes were dropped"]


FULL = """
import resource, sys
from pathlib import Path
from opsbook.archive.chain import CHAIN, ChainKind, Heads, append_line
from opsbook.errors import ArchiveError
root = Path(sys.argv[1])
before = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, ((root / CHAIN).stat().st_size + 100, before[1]))
try:
    append_line(root, run_id="x", kind=ChainKind.CLAIMED, heads=Heads(record="0"))
except ArchiveError as error:
    print(error, "|", error.hint)
"""


def test_a_chain_that_cannot_grow_stays_as_it_was(archive: Path) -> None:
    before = (archive / CHAIN).read_bytes()
    out, _ = python(FULL, archive).communicate(timeout=20)
    assert "cannot append to" in out
    assert "make room" in out
    assert (archive / CHAIN).read_bytes() == before


def test_a_chain_somebody_holds_for_ever_is_an_error_and_no_wait_without_end(
    archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chaining, "LOCK_S", 0.2)
    holder = subprocess.Popen(["flock", str(archive / CHAIN), "-c", "echo held; sleep 60"], stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(ArchiveError, match="held by another process"):
            append_line(archive, run_id=IDS[0], kind=ChainKind.CLAIMED, heads=Heads(record="0"))
    finally:
        subprocess.run(["pkill", "-P", str(holder.pid)], check=False)
        holder.kill()
        holder.communicate()


def test_a_chain_in_whose_place_something_else_lies_is_not_written(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(b"")
    (tmp_path / CHAIN).symlink_to(tmp_path / "elsewhere")
    for write in (append_line, lambda root, **_: read_chain(root)):
        with pytest.raises(ArchiveError):
            write(tmp_path, run_id=IDS[0], kind=ChainKind.CLAIMED, heads=Heads(record="0"))
    assert (tmp_path / "elsewhere").read_bytes() == b""


def test_the_chain_remembers_who_was_claimed(archive: Path) -> None:
    assert was_claimed(archive, IDS[1])
    assert not was_claimed(archive, IDS[1][:-1])
    assert not was_claimed(archive / "nowhere", IDS[1])
