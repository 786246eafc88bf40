"""The archive: whole files, names of runs, and their claims."""

from __future__ import annotations

import fcntl
import os
import signal
import stat
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from archived import FUZZ, NOW, RUN_ID, end, mode, python, said, umask
from hypothesis import given
from hypothesis import strategies as st

from opsbook.archive.files import make_folder, write_whole
from opsbook.archive.history import read_run
from opsbook.archive.journal import Journal, read_journal
from opsbook.archive.layout import HOSTS, LOCK, Claim, RunFolder, is_alive, is_run_id, new_run_id, run_folder
from opsbook.archive.sweep import CLAIMING_S, sweep
from opsbook.errors import ArchiveError, BusyError
from opsbook.model import event as e
from opsbook.redaction import Redactor

# files


@pytest.mark.parametrize("bits", [0o000, 0o022, 0o077, 0o777])
def test_files_and_folders_are_private_whatever_the_umask(tmp_path: Path, bits: int) -> None:
    with umask(bits):
        make_folder(tmp_path / "a" / "b")
        write_whole(tmp_path / "a" / "b" / "file", b"data")
        folder = run_folder(tmp_path / "archive", RUN_ID)
        Claim(folder).release()
        Journal(folder.journal, Redactor()).close()
    for place in (tmp_path / "a", tmp_path / "a" / "b", *folder.path.parents[:4], folder.path, folder.path / "hosts"):
        assert mode(place) == 0o700, place
    for file in (tmp_path / "a" / "b" / "file", folder.journal, folder.path / "lock"):
        assert mode(file) == 0o600, file


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    for data in (b"first", b"", b"third" * 100_000):
        write_whole(file, data)
        assert file.read_bytes() == data
    assert [entry.name for entry in tmp_path.iterdir()] == ["run.json"]


def test_a_file_and_then_its_folder_are_on_disk_before_the_call_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        synced.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    write_whole(tmp_path / "x", b"data")
    assert synced == ["file", "folder"]


def test_a_file_that_cannot_be_replaced_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "inside").write_text("x")
    for file in (tmp_path / "taken", tmp_path / "nowhere" / "x", tmp_path / ("x" * 300)):
        with pytest.raises(ArchiveError, match="cannot write"):
            write_whole(file, b"data")
    assert [entry.name for entry in tmp_path.rglob("*")] == ["taken", "inside"]


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from opsbook.archive.files import write_whole
from opsbook.archive.journal import Journal
from opsbook.errors import ArchiveError
from opsbook.model.event import MetricRecorded
from opsbook.redaction import Redactor
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
folder = Path(sys.argv[1])
journal = Journal(folder / "events.jsonl", Redactor())
journal.append([MetricRecorded(name="a", value=number) for number in range(3)], durable=True)
before = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
try:
    write_whole(folder / "run.json", b"n" * 5000)
except ArchiveError as error:
    print("record:", error)
for attempt in (1, 2):
    try:
        journal.append([MetricRecorded(name="big", value="x" * 300)] * 10, durable=True)
    except ArchiveError as error:
        print("journal:", error)
resource.setrlimit(resource.RLIMIT_FSIZE, before)
journal.append([MetricRecorded(name="after", value=1)], durable=True)
"""


def test_when_the_disk_is_full_the_old_record_stays_and_the_journal_ends_where_it_was_whole(tmp_path: Path) -> None:
    write_whole(tmp_path / "run.json", b"old")
    process = python(FULL_DISK, tmp_path)
    out, _ = process.communicate(timeout=20)
    assert process.returncode == 0
    assert [line.partition(":")[0] for line in out.splitlines()] == ["record", "journal", "journal"]
    assert (tmp_path / "run.json").read_bytes() == b"old"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["events.jsonl", "run.json"]
    events = [entry.event for entry in read_journal(tmp_path / "events.jsonl")]
    assert events[:3] == [e.MetricRecorded(name="a", value=number) for number in range(3)]
    assert events[3:] == [e.MetricRecorded(name="after", value=1)]


WRITER = """
import sys
from pathlib import Path
from opsbook.archive.files import write_whole
print("ready", flush=True)
while True:
    for byte in (b"a", b"b"):
        write_whole(Path(sys.argv[1]), byte * 300_000)
"""


def test_a_reader_never_sees_half_a_file_nor_does_a_killed_writer_leave_one(tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    write_whole(file, b"a" * 300_000)
    for wait in (0.05, 0.12, 0.2):
        process = python(WRITER, file)
        assert said(process) == "ready"
        deadline = time.monotonic() + wait
        while time.monotonic() < deadline:
            assert file.read_bytes() in {b"a" * 300_000, b"b" * 300_000}
        end(process)
        assert file.read_bytes() in {b"a" * 300_000, b"b" * 300_000}


# names and claims


@FUZZ
@given(st.text(max_size=120))
def test_any_name_makes_a_run_id_that_is_one_and_stays_in_its_folder(name: str) -> None:
    run_id = new_run_id(name, NOW)
    assert is_run_id(run_id)
    assert run_id != new_run_id(name, NOW)
    folder = run_folder(Path("/root"), run_id)
    assert folder.path == Path("/root/2026/11/20") / run_id
    assert folder.copy.parent == folder.path
    assert "/" not in run_id
    assert len(folder.copy.name.encode()) < 255


def test_run_ids_sort_by_time_and_are_in_utc() -> None:
    east = datetime(2026, 11, 20, 13, 39, 58, tzinfo=UTC) - timedelta(hours=2)
    assert new_run_id("Patch Day!", east).startswith("20261120T113958Z-patch-day-")
    assert run_folder(Path("r"), RUN_ID).copy.name == "patch--20261120T113958Z-7f3a2c.ipynb"


@pytest.mark.parametrize(
    "text",
    ["", "last", "../x", RUN_ID + "\n", RUN_ID.upper(), RUN_ID[:-1], f"x{RUN_ID}", "20261120T113958Z-../..-7f3a2c"],
)
def test_what_is_no_run_id_leads_nowhere(text: str) -> None:
    assert not is_run_id(text)
    with pytest.raises(ValueError) as caught:  # noqa: PT011  it carries the text itself, whatever that is
        run_folder(Path("r"), text)
    assert caught.value.args == (text,)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("web1", "WEB1"),
        ("a b", "a-b"),
        ("東京", "大阪"),
        ("2001:db8::1:2", "2001:db8:1::2"),
        ("x" * 100 + "1", "x" * 100 + "2"),
        ("../../etc/passwd", "etc/passwd"),
        (".", ".."),
    ],
)
def test_every_target_has_a_host_log_of_its_own_inside_the_run(one: str, other: str) -> None:
    folder = run_folder(Path("/r"), RUN_ID)
    first, second = folder.host_log(one), folder.host_log(other)
    assert first != second
    assert first == folder.host_log(one)
    for log in (first, second):
        assert log.parent == folder.path / "hosts"
        assert len(log.name.encode()) < 255
    assert folder.host_log("web1.example.org").name == "web1.example.org.log"


CLAIMER = """
import sys
from pathlib import Path
from opsbook.archive.layout import HOSTS, LOCK, Claim, run_folder
from opsbook.errors import BusyError
print("ready", flush=True)
sys.stdin.readline()
try:
    claim = Claim(run_folder(Path(sys.argv[1]), sys.argv[2]))
    print("mine", flush=True)
except BusyError as error:
    print(f"busy {error.exit_code}", flush=True)
sys.stdin.readline()
"""


def test_of_two_processes_that_claim_a_run_one_gets_it_and_holds_it_while_it_lives(tmp_path: Path) -> None:
    folder = run_folder(tmp_path, RUN_ID)
    both = [python(CLAIMER, tmp_path, RUN_ID) for _ in range(2)]
    try:
        assert [said(process) for process in both] == ["ready", "ready"]
        for process in both:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        answers = [said(process) for process in both]
        assert sorted(answers) == ["busy 75", "mine"]
        owner, loser = both if answers[0] == "mine" else reversed(both)
        end(loser)
        assert is_alive(folder)
        owner.send_signal(signal.SIGKILL)
        owner.wait(10)
        assert not is_alive(folder)
    finally:
        for process in both:
            end(process)


def test_a_claim_is_once_and_for_all_and_is_alive_until_it_is_released(tmp_path: Path) -> None:
    folder = run_folder(tmp_path, RUN_ID)
    assert not is_alive(folder)
    claim = Claim(folder)
    assert is_alive(folder)
    with pytest.raises(BusyError, match="exists already"):
        Claim(folder)
    assert is_alive(folder)
    claim.release()
    assert not is_alive(folder)
    with pytest.raises(BusyError):
        Claim(folder)


def test_somebody_else_who_looks_at_the_same_time_is_not_taken_for_the_run(tmp_path: Path) -> None:
    folder = run_folder(tmp_path, RUN_ID)
    Claim(folder).release()
    looking = os.open(folder.path / "lock", os.O_RDONLY)
    fcntl.flock(looking, fcntl.LOCK_SH)
    assert not is_alive(folder)
    os.close(looking)


def test_an_archive_that_cannot_be_made_is_an_archive_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ArchiveError, match="cannot create"):
        Claim(run_folder(tmp_path / "file", RUN_ID))


def test_a_claim_that_was_killed_before_it_began_is_said_to_be_that_and_goes_when_it_is_old(tmp_path):
    def leave(run_id: str, *, age_s: float, journal: str = "") -> RunFolder:
        folder = run_folder(tmp_path, run_id)
        make_folder(folder.path / HOSTS)
        (folder.path / LOCK).touch()
        folder.journal.write_text(journal)
        os.utime(folder.path, (time.time() - age_s,) * 2)
        return folder

    old = leave("20261120T113958Z-patch-000001", age_s=2 * CLAIMING_S)
    new = leave("20261120T113958Z-patch-000002", age_s=0)
    damaged = leave("20261120T113958Z-patch-000003", age_s=2 * CLAIMING_S, journal="{}\n")
    assert read_run(old).problem == "it was killed before it began: nothing ran"
    assert read_run(damaged).problem.startswith("no record")
    sweep(tmp_path)
    assert [folder.path.exists() for folder in (old, new, damaged)] == [False, True, True]
