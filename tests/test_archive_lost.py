"""An archive that is not ours, is taken away or replaced: refused before anything ran, or the record is saved."""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
import subprocess
from pathlib import Path

import msgspec
import pytest
from archived import RUN_ID, make_record
from support import Desk, code

from opsbook.archive.chain import CHAIN
from opsbook.archive.claimed import ClaimedRun
from opsbook.archive.history import iter_runs
from opsbook.archive.journal import Journal
from opsbook.archive.layout import run_folder
from opsbook.archive.reserve import Reserve
from opsbook.archive.spill import spill_record
from opsbook.archive.verify import verify_archive
from opsbook.errors import ArchiveError
from opsbook.model.run import RunState
from opsbook.redaction import Redactor

RECORD = msgspec.json.encode(make_record())
GONE = """
import pathlib, shutil
pathlib.Path("ran").touch()
shutil.rmtree("archive")
"""


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def begin(root: Path, *, shared: bool = False) -> ClaimedRun:
    return ClaimedRun(run_folder(root, RUN_ID), record=RECORD, runbook=b"{}", shared=shared)


def freeze(folder: Path) -> None:
    """Let nothing be made in a folder, not even by root."""
    done = subprocess.run(["chattr", "+i", str(folder)], check=False, capture_output=True)
    if done.returncode:
        pytest.skip("this file system has no immutable folders")


def thaw(folder: Path) -> None:
    subprocess.run(["chattr", "-i", str(folder)], check=False)


# taken away


def test_when_the_archive_is_deleted_the_record_is_in_the_state_folder(desk: Desk) -> None:
    desk.notebook(code(GONE), code("1"))
    ran = desk.opsbook("run", "book.ipynb", "--json", "--quiet")
    assert (ran.code, ran.json["exit_code"], ran.json["status"], ran.json["copy"]) == (5, 5, "failed", None)
    (spilled,) = (desk.folder / "home/.local/state/opsbook/spilled").iterdir()
    record = json.loads(spilled.read_bytes())
    assert record == {name: value for name, value in ran.json.items() if name != "copy"}
    assert f"it is in {spilled}" in ran.err
    assert stat.S_IMODE(spilled.stat().st_mode) == 0o600
    assert spilled.stem == record["run_id"]
    assert [cell["state"] for cell in record["cells"]] == ["ok", "not_run"]
    assert not (desk.folder / "archive").exists()


def test_when_nothing_takes_the_record_it_is_said(desk: Desk) -> None:
    desk.notebook(code(GONE))
    desk.write("taken", "a file in the place of a folder\n")
    ran = desk.opsbook("run", "book.ipynb", env={**desk.environment, "XDG_STATE_HOME": str(desk.folder / "taken")})
    assert ran.code == 5
    (line,) = (line for line in ran.err.splitlines() if line.startswith('{"schema"'))
    assert json.loads(line)["exit_code"] == 5


def test_a_run_folder_in_which_nothing_can_be_made_any_more_leaves_the_record_elsewhere(desk: Desk) -> None:
    (desk.folder / "probe").mkdir()
    freeze(desk.folder / "probe")
    thaw(desk.folder / "probe")
    desk.notebook(code('import glob, subprocess\nsubprocess.run(["chattr", "+i", *glob.glob("archive/*/*/*/*")])'))
    try:
        ran = desk.opsbook("run", "book.ipynb", "--json")
    finally:
        thaw(desk.run().folder)
    assert (ran.code, ran.json["exit_code"]) == (5, 5)
    (spilled,) = (desk.folder / "home/.local/state/opsbook/spilled").iterdir()
    assert str(spilled) in ran.err
    assert desk.run().record["status"] == "running"
    (shown,) = desk.opsbook("runs", "--json").json
    assert (shown["status"], shown["exit_code"]) == ("failed", 5), "the journal could still be written"


def test_an_archive_in_which_nothing_can_be_made_is_refused_before_anything_runs(desk: Desk) -> None:
    desk.notebook(code("open('ran', 'w')"))
    (desk.folder / "archive").mkdir()
    freeze(desk.folder / "archive")
    try:
        ran = desk.opsbook("run", "book.ipynb", "--json")
    finally:
        thaw(desk.folder / "archive")
    assert (ran.code, ran.out) == (5, "")
    assert ran.err.startswith(f"error: cannot create {desk.folder}/archive/")
    assert "hint:  the folder is not yours: --archive names another" in ran.err
    assert not (desk.folder / "ran").exists()
    assert desk.kernels() == []


def test_the_state_folder_is_the_one_of_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    assert spill_record(RUN_ID, RECORD) == tmp_path / f"state/opsbook/spilled/{RUN_ID}.json"
    monkeypatch.setenv("XDG_STATE_HOME", "/dev/null")
    assert spill_record(RUN_ID, RECORD) is None


# replaced


def test_a_run_folder_replaced_during_the_run_is_not_written_to(tmp_path: Path) -> None:
    files = begin(tmp_path)
    chain = (tmp_path / CHAIN).read_bytes()
    files.folder.path.rename(tmp_path / "elsewhere")
    for put in (files.folder.path.mkdir, lambda: files.folder.path.symlink_to(tmp_path / "elsewhere")):
        put()
        with pytest.raises(ArchiveError, match="is not the folder this run made"):
            files.finish(b"new", journal="", copy="", insist=True)
        files.folder.path.unlink() if files.folder.path.is_symlink() else shutil.rmtree(files.folder.path)
    with pytest.raises(ArchiveError, match="cannot find"):
        files.finish(b"new", journal="", copy="")
    assert (tmp_path / "elsewhere" / "run.json").read_bytes() == RECORD
    assert (tmp_path / CHAIN).read_bytes() == chain
    files.release()


def test_a_link_in_the_place_of_a_run_is_damaged_and_hides_no_other(tmp_path: Path) -> None:
    begin(tmp_path / "archive").release()
    folder = run_folder(tmp_path / "archive", RUN_ID)
    other = folder.path.with_name("20261120T100000Z-patch-000001")
    folder.path.rename(tmp_path / "elsewhere")
    other.symlink_to(tmp_path / "elsewhere")
    (run,) = iter_runs(tmp_path / "archive")
    assert (run.record, run.problem) == (None, "its folder is a link")


def test_an_archive_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "archive").symlink_to(tmp_path / "real")
    begin(tmp_path / "archive").release()
    assert (tmp_path / "real" / CHAIN).is_file()
    assert verify_archive(tmp_path / "archive").is_well
    assert len(list(iter_runs(tmp_path / "archive"))) == 1


# the claim


def test_a_claim_keeps_the_runbooks_bytes_and_goes_into_the_chain(desk: Desk) -> None:
    book = desk.notebook(code("1"))
    hosts = "web1 ansible_host=192.0.2.1 ansible_port=2222", "web2 ansible_host=192.0.2.2"
    desk.write("hosts.ini", "\n".join(["[web]", *hosts, "[db]", "db1", ""]))
    ran = desk.opsbook("run", "book.ipynb", "-i", "hosts.ini", "-t", "web", "--json")
    assert (desk.run().folder / "runbook.ipynb").read_bytes() == book.read_bytes()
    assert ran.json["targets"]["addresses"] == {"web1": "192.0.2.1:2222", "web2": "192.0.2.2:22"}
    assert not (desk.run().folder / ".reserve").exists()


@pytest.mark.parametrize("broken", ["chain", "reserve"])
def test_a_claim_that_cannot_be_completed_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    if broken == "chain":
        (tmp_path / CHAIN).mkdir()
    else:
        monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(ArchiveError):
        begin(tmp_path)
    assert list(iter_runs(tmp_path)) == []


def test_a_chain_that_cannot_be_written_is_an_archive_that_failed(desk: Desk) -> None:
    desk.notebook(code("import pathlib\nchain = pathlib.Path('archive/chain.jsonl')\nchain.unlink(); chain.mkdir()"))
    ran = desk.opsbook("run", "book.ipynb", "--json")
    assert (ran.code, ran.json["exit_code"], ran.json["status"]) == (5, 5, "failed")
    assert ran.json["reason"].startswith("cannot append to ")
    assert desk.run().record["reason"] == ran.json["reason"]
    assert desk.run().events("run_ended")[-1]["exit_code"] == 5
    assert desk.run().notebook["metadata"]["opsbook"]["exit_code"] == 5
    assert desk.opsbook("archive", "verify").code == 5


def test_the_record_is_written_even_where_the_chain_cannot_be(tmp_path: Path) -> None:
    files = begin(tmp_path)
    (tmp_path / CHAIN).rename(tmp_path / "aside")
    (tmp_path / CHAIN).mkdir()
    with pytest.raises(ArchiveError, match="cannot append"):
        files.finish(b"first", journal="", copy="")
    assert files.folder.record.read_bytes() == RECORD
    files.finish(b"second", journal="", copy="", insist=True)
    assert files.folder.record.read_bytes() == b"second"
    assert {entry.name for entry in files.folder.path.iterdir()} == {
        *("run.json", "runbook.ipynb", "events.jsonl", "lock", "hosts", ".reserve")
    }
    files.release()


# the reserve


def full(descriptor: int, offset: int, length: int) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def unable(descriptor: int, offset: int, length: int) -> None:
    raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))


@pytest.mark.parametrize("means", ["the system's", "written"])
def test_a_reserve_takes_blocks_grows_and_gives_them_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, means: str
) -> None:
    if means == "written":
        monkeypatch.setattr(os, "posix_fallocate", unable)
    file = tmp_path / ".reserve"
    reserve = Reserve(file, 100_000)
    assert file.stat().st_blocks * 512 >= 100_000
    reserve.grow(1)
    before = file.stat().st_blocks
    reserve.grow(1_000_000)
    assert file.stat().st_blocks * 512 >= 1_100_001
    assert before < file.stat().st_blocks
    reserve.release()
    reserve.release()
    assert not file.exists()


def test_a_reserve_there_is_no_room_for_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(ArchiveError, match="cannot reserve room"):
        Reserve(tmp_path / ".reserve", 1)
    assert list(tmp_path.iterdir()) == []


# who may read it


def modes(root: Path) -> dict[str, int]:
    every = {path: stat.S_IMODE(path.lstat().st_mode) for path in (root, *root.rglob("*"))}
    return {str(path.relative_to(root)): mode for path, mode in every.items() if mode not in {0o600, 0o700}}


def test_an_archive_may_be_shared_with_a_group(desk: Desk) -> None:
    desk.write("opsbook.toml", 'archive_mode = "group"\n')
    desk.notebook(code("1"))
    before = os.umask(0o077)
    try:
        assert desk.opsbook("run", "book.ipynb", "--run-id", "x").code == 0
    finally:
        os.umask(before)
    root = desk.folder / "archive"
    for path in (root, *root.rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) == (0o2770 if path.is_dir() else 0o660), path
    desk.write("opsbook.toml", 'archive_mode = "everybody"\n')
    refused = desk.opsbook("run", "book.ipynb")
    assert refused.code == 2
    assert "archive_mode" in refused.err


def test_a_private_run_in_a_shared_archive_stays_private(tmp_path: Path) -> None:
    shared = begin(tmp_path / "archive", shared=True)
    shared.release()
    folder = run_folder(tmp_path / "archive", "20261120T120000Z-patch-7f3a2f")
    files = ClaimedRun(folder, record=RECORD, runbook=b"{}")
    Journal(folder.journal, Redactor()).close()
    files.finish(msgspec.json.encode(make_record(status=RunState.SUCCEEDED)), journal="", copy="")
    files.release()
    assert modes(folder.path) == {}
    assert stat.S_IMODE(shared.folder.record.stat().st_mode) == 0o660
