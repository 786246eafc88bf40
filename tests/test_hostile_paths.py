"""Links, names and modes laid out to have opsbook write, or show, something elsewhere: it never does."""

from __future__ import annotations

import json
import os
import stat
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import LOAD, Desk, code

from opsbook.archive.files import append, create, open_or_create, write_whole
from opsbook.archive.history import iter_runs
from opsbook.archive.identity import Identity
from opsbook.archive.layout import Claim, new_run_id, run_folder
from opsbook.errors import ArchiveError, OpsbookError, UsageError

NAMES = {"web1": "127.0.0.13"}
NOW = datetime(2026, 11, 20, 11, 39, 58, tzinfo=UTC)
FUZZ = settings(max_examples=40, deadline=None, database=None)
PATHS = st.lists(st.sampled_from(["..", "/", "\\", "\0", "\n", "~", "%2e", "a", ".", " ", "-", "\u2215"]), max_size=8)
NAME = st.text(max_size=300) | PATHS.map("".join)


def everything(folder: Path) -> dict[str, bytes]:
    return {str(file): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@FUZZ
@given(NAME, NAME)
def test_whatever_runbook_and_target_are_called_all_files_lie_in_the_run(name: str, target: str) -> None:
    root = Path("/archive")
    folder = run_folder(root, new_run_id(name, NOW))
    for file in (folder.copy, folder.record, folder.journal, folder.source, folder.reserve, folder.host_log(target)):
        assert Path(os.path.normpath(file)) == file
        assert file.is_relative_to(folder.path)
        assert folder.path.parent == root / "2026/11/20"
        assert all(len(part.encode()) < 200 for part in file.parts)
        assert file.name.isascii()
        assert file.name.isprintable()
    assert folder.host_log(target).parent == folder.path / "hosts"


@FUZZ
@given(name=NAME)
def test_whatever_id_a_run_is_given_its_claim_lies_in_the_archive(
    tmp_path_factory: pytest.TempPathFactory, name: str
) -> None:
    place = tmp_path_factory.mktemp("place")
    try:
        Identity(place / "archive", name, shared=False).release()
    except UsageError:
        return
    (claim,) = (file for file in place.rglob("*") if file.is_file())
    assert claim.parent == place / "archive/ids"
    assert claim.name.removesuffix(".json").isalnum()


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder somebody wants to have written to, with files that should stay as they are."""
    folder = tmp_path / "outside"
    folder.mkdir()
    for name in ("file", "web1.log", "run.json", "events.jsonl", "lock"):
        (folder / name).write_bytes(b"precious\n")
    return folder


@pytest.mark.parametrize("place", ["2026", "2026/11", "2026/11/20"])
def test_a_folder_of_a_day_that_is_a_link_takes_no_run(tmp_path: Path, outside: Path, place: str) -> None:
    root = tmp_path / "archive"
    link = root / place
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(outside)
    before = everything(outside)
    with pytest.raises(ArchiveError, match="is a link"):
        Claim(run_folder(root, new_run_id("patch", NOW)))
    assert everything(outside) == before


def test_the_folder_of_ids_may_be_no_link(tmp_path: Path, outside: Path) -> None:
    (tmp_path / "archive").mkdir()
    (tmp_path / "archive/ids").symlink_to(outside)
    with pytest.raises(ArchiveError, match="is a link"):
        Identity(tmp_path / "archive", "nightly", shared=False)
    assert len(everything(outside)) == 5


def test_no_file_of_a_run_is_written_through_a_link(tmp_path: Path, outside: Path) -> None:
    before = everything(outside)
    link = tmp_path / "link"
    link.symlink_to(outside / "file")
    for write in (
        lambda: os.close(create(link)),
        lambda: os.close(open_or_create(link)),
        lambda: append(link, b"more"),
    ):
        with pytest.raises(OSError):  # noqa: PT011  which of two says it depends on the system
            write()
    assert everything(outside) == before
    write_whole(link, b"new")
    assert everything(outside) == before
    assert not link.is_symlink()
    assert link.read_bytes() == b"new"


def test_a_link_in_the_place_of_the_host_logs_is_not_followed(tmp_path: Path, outside: Path) -> None:
    folder = run_folder(tmp_path / "archive", new_run_id("patch", NOW))
    claim = Claim(folder)
    append(folder.host_log("web1"), b"one\n")
    append(folder.host_log("web1"), b"two\n")
    assert folder.host_log("web1").read_bytes() == b"one\ntwo\n"
    (folder.path / "hosts").rename(tmp_path / "moved")
    (folder.path / "hosts").symlink_to(outside)
    before = everything(outside)
    for name in ("web1", "web2"):
        with pytest.raises(OSError):  # noqa: PT011  a link, or no folder
            append(folder.host_log(name), b"three\n")
    assert everything(outside) == before
    claim.release()


def test_all_of_a_run_is_private_where_the_umask_allows_everything(desk: Desk) -> None:
    """Also what a folder was before: the archive is made by the run."""
    state = desk.folder / "state"
    book = desk.notebook(LOAD, code("%%on all\necho said", cell_id="on"), code("record('a', 1)"))
    ran = desk.opsbook("run", book, "--run-id", "x", umask=0, env={**desk.environment, "XDG_STATE_HOME": str(state)})
    assert ran.code == 0, ran.err
    places = [desk.folder / "archive", state / "opsbook/locks"]
    found = [entry for place in places for entry in (place, *place.rglob("*"))]
    assert any(entry.name == "web1.log" for entry in found)
    modes = {str(entry): stat.S_IMODE(entry.stat().st_mode) for entry in found}
    assert {mode for path, mode in modes.items() if Path(path).is_dir()} == {0o700}, modes
    assert {mode for path, mode in modes.items() if Path(path).is_file()} == {0o600}, modes


@pytest.mark.parametrize(
    "planted",
    [
        b"",
        b"null",
        b"[" * 100_000,
        b'{"schema": 1, "x": ' + b"[" * 5000,
        b"\xff\xfe",
        b"cos\nsystem\n(S'touch RAN'\ntR.",
        json.dumps({"schema": 1, "run_id": "../../../outside", "status": "succeeded"}).encode(),
    ],
    ids=["nothing", "null", "depth", "depth inside", "no text", "a pickle", "a path"],
)
@pytest.mark.parametrize("file", ["run.json", "events.jsonl"])
def test_planted_files_of_a_run_are_read_as_damage_and_run_nothing(
    tmp_path: Path, outside: Path, file: str, planted: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "archive"
    folder = run_folder(root, new_run_id("patch", NOW))
    Claim(folder).release()
    (folder.path / file).write_bytes(planted + b"\n")
    before = everything(outside)
    try:
        found = list(iter_runs(root))
    except OpsbookError:
        found = []
    assert all(run.folder.path == folder.path for run in found)
    assert everything(outside) == before
    assert not list(tmp_path.rglob("RAN"))
