"""The archive: whole files, claims, the chained journal, the fold, and the history read back from damage."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opsbook.archive.copy import CopyWriter
from opsbook.archive.files import make_folder, write_whole
from opsbook.archive.fold import RecordFold, decode_record
from opsbook.archive.history import find_run, iter_runs, read_run
from opsbook.archive.journal import FIRST, Journal, read_journal
from opsbook.archive.layout import HOSTS, LOCK, Claim, RunFolder, is_alive, is_run_id, new_run_id, run_folder
from opsbook.archive.sweep import CLAIMING_S, sweep
from opsbook.errors import ArchiveError, BusyError, UsageError
from opsbook.model import event as e
from opsbook.model.outcome import Ending
from opsbook.model.run import CellError, CellRecord, CellState, Operator, RunbookRef, RunRecord, RunState
from opsbook.model.target import TargetState
from opsbook.redaction import MASK, Redactor

FUZZ = settings(max_examples=150, deadline=None, database=None)
NOW = datetime(2026, 11, 20, 11, 39, 58, tzinfo=UTC)
RUN_ID = "20261120T113958Z-patch-7f3a2c"
VALUE = "tr0ub4dor"


def make_record(run_id: str = RUN_ID, status: RunState = RunState.RUNNING, **more: Any) -> RunRecord:
    return RunRecord(
        run_id=run_id,
        status=status,
        runbook=RunbookRef(path="patch.ipynb", title="Patch", sha256="0" * 64),
        cells=(CellRecord(id="a", index=1, label="Update"), CellRecord(id="b", index=2, label="Reboot")),
        started_at=NOW,
        operator=Operator(user="maya", host="here", pid=1),
        **more,
    )


def put(root: Path, run_id: str, status: RunState = RunState.SUCCEEDED) -> RunFolder:
    folder = run_folder(root, run_id)
    make_folder(folder.path)
    write_whole(folder.record, msgspec.json.encode(make_record(run_id, status)))
    return folder


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@contextmanager
def umask(bits: int) -> Iterator[None]:
    before = os.umask(bits)
    try:
        yield
    finally:
        os.umask(before)


def python(code: str, *args: object, **how: Any) -> subprocess.Popen[str]:
    """Start another process of ours."""
    line = [sys.executable, "-c", code, *map(str, args)]
    return subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **how)


def said(process: subprocess.Popen[str], line: str = "") -> str:
    """Tell a process a line and return the next one it says."""
    assert process.stdin is not None
    assert process.stdout is not None
    if line:
        process.stdin.write(f"{line}\n")
        process.stdin.flush()
    return process.stdout.readline().strip()


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


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


# the journal

EVENTS: tuple[e.Event, ...] = (
    e.RunStarted(run_id=RUN_ID, title="Patch"),
    e.CellStarted(cell_id="a"),
    e.CellOutput(cell_id="a", stream="stdout", text="größer\n\U0001f427"),
    e.MetricRecorded(name="packages", value={"a": [1, 2.5, None, True]}),
    e.CellEnded(cell_id="a", state=CellState.FAILED, duration_s=1.5, error=CellError(name="ValueError", text="no")),
    e.RunEnded(status=RunState.FAILED, exit_code=1, reason="no"),
)


def write_journal(file: Path, events: Sequence[e.Event] = EVENTS, redactor: Redactor | None = None) -> list[e.Entry]:
    journal = Journal(file, redactor or Redactor())
    entries = [entry for event in events for entry in journal.append([event], durable=False)]
    journal.close()
    return entries


def test_a_journal_gives_back_what_was_recorded_numbered_and_chained(tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    entries = write_journal(file)
    assert list(read_journal(file)) == entries
    assert tuple(entry.event for entry in entries) == EVENTS
    assert [entry.seq for entry in entries] == list(range(1, len(EVENTS) + 1))
    lines = file.read_bytes().splitlines()
    assert [entry.prev for entry in entries] == [FIRST, *(hashlib.sha256(line).hexdigest() for line in lines[:-1])]
    assert all(entry.at.tzinfo is not None for entry in entries)


def test_events_appended_together_are_chained_as_those_appended_one_by_one(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j", Redactor())
    entries = journal.append(EVENTS[:3], durable=True) + journal.append([], durable=True)
    entries += journal.append(EVENTS[3:], durable=False)
    journal.close()
    assert list(read_journal(tmp_path / "j")) == entries


def test_a_journal_is_never_written_over(tmp_path: Path) -> None:
    write_journal(tmp_path / "j")
    with pytest.raises(ArchiveError, match="has lines already"):
        Journal(tmp_path / "j", Redactor())


def test_a_journal_torn_at_any_byte_gives_every_whole_line_before(tmp_path: Path) -> None:
    file, torn = tmp_path / "events.jsonl", tmp_path / "torn.jsonl"
    entries = write_journal(file)
    raw = file.read_bytes()
    for length in range(len(raw) + 1):
        torn.write_bytes(raw[:length])
        assert list(read_journal(torn)) == entries[: raw[:length].count(b"\n")], length


def test_a_journal_followed_by_rubbish_gives_every_line_before(tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    entries = write_journal(file)
    raw = file.read_bytes()
    junk = [
        b"\0" * 512,
        b"\xff\xfe\n",
        b'{"prev": "\xff"}\n',
        b"[]\n",
        b"null\n",
        b"\n",
        b"{}\n",
        b"[" * 100_000 + b"\n",
    ]
    for tail in junk:
        file.write_bytes(raw + tail)
        assert list(read_journal(file)) == entries, tail[:20]


def test_a_changed_removed_or_moved_line_ends_the_reading_there(tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    entries = write_journal(file)
    lines = file.read_bytes().splitlines(keepends=True)
    for place in range(len(lines) - 1):
        changed = lines[place].replace(b'"seq":', b'"seq": ')
        file.write_bytes(b"".join([*lines[:place], changed, *lines[place + 1 :]]))
        assert list(read_journal(file)) == entries[: place + 1]
        file.write_bytes(b"".join([*lines[:place], *lines[place + 1 :]]))
        assert list(read_journal(file)) == entries[:place]
        file.write_bytes(b"".join([*lines[: place + 1], *lines[place:]]))
        assert list(read_journal(file)) == entries[: place + 1]


def test_an_event_of_a_newer_kind_is_passed_over_and_an_unknown_field_or_state_is_read(tmp_path: Path) -> None:
    lines: list[bytes] = []
    for event in (
        {"type": "metric_recorded", "name": "a", "value": 1, "colour": "new"},
        {"type": "teleported", "to": "nowhere"},
        {"type": "cell_ended", "cell_id": "a", "state": "transcended"},
    ):
        prev = hashlib.sha256(lines[-1]).hexdigest() if lines else FIRST
        entry = {"seq": len(lines) + 1, "at": "2026-11-20T11:39:58Z", "prev": prev, "event": event, "new": 1}
        lines.append(json.dumps(entry).encode())
    (tmp_path / "j").write_bytes(b"\n".join(lines) + b"\n")
    assert [entry.event for entry in read_journal(tmp_path / "j")] == [
        e.MetricRecorded(name="a", value=1),
        e.CellEnded(cell_id="a", state=CellState.UNKNOWN),
    ]


def test_a_journal_that_is_not_there_is_empty(tmp_path: Path) -> None:
    assert list(read_journal(tmp_path / "none")) == []
    assert list(read_journal(tmp_path)) == []


def test_a_secret_is_masked_in_what_is_written_and_in_what_is_handed_on(tmp_path: Path) -> None:
    redactor = Redactor()
    redactor.add(VALUE)
    events = (
        e.CellOutput(cell_id="a", stream="stdout", text=f"token={VALUE}\n"),
        e.MetricRecorded(name="m", value={VALUE: [VALUE]}),
        e.CellEnded(cell_id="a", state=CellState.FAILED, error=CellError(name="E", text=VALUE)),
        e.RunStarted(run_id=RUN_ID, title=VALUE, parameters={"p": VALUE}, cells=make_record().cells),
    )
    entries = write_journal(tmp_path / "j", events, redactor)
    assert VALUE.encode() not in (tmp_path / "j").read_bytes()
    assert list(read_journal(tmp_path / "j")) == entries
    assert entries[0].event == e.CellOutput(cell_id="a", stream="stdout", text=f"token={MASK}\n")
    assert VALUE not in repr(entries)


@pytest.mark.parametrize(
    "value",
    ["2026", "0000", "type", "event", "prev", "metric_recorded", "state", "failed", "name", "cell_ended", "aaaa"],
)
def test_a_secret_that_looks_like_our_own_words_breaks_neither_chain_nor_states(tmp_path: Path, value: str) -> None:
    redactor = Redactor()
    redactor.add(value)
    pair: tuple[e.Event, ...] = (
        e.MetricRecorded(name="m", value=f"is {value}"),
        e.CellEnded(cell_id="a", state=CellState.FAILED),
    )
    events = pair * 40
    entries = write_journal(tmp_path / "j", events, redactor)
    assert list(read_journal(tmp_path / "j")) == entries
    assert entries[0].event == e.MetricRecorded(name="m", value=f"is {MASK}")
    assert entries[1].event == e.CellEnded(cell_id="a", state=CellState.FAILED)


def test_text_that_is_not_unicode_is_repaired_and_still_recorded(tmp_path: Path) -> None:
    entries = write_journal(tmp_path / "j", [e.CellOutput(cell_id="a", stream="stdout", text="a\ud800b"), EVENTS[1]])
    assert len(entries) == 2
    assert list(read_journal(tmp_path / "j")) == entries


# the fold


def fold(*events: e.Event, claimed: RunRecord | None = None) -> RecordFold:
    folded = RecordFold(claimed or make_record())
    for number, event in enumerate(events):
        folded.apply(e.Entry(seq=number + 1, at=NOW + timedelta(seconds=number), prev=FIRST, event=event))
    return folded


def results(*events: e.Event) -> dict[str, str]:
    folded = fold(*events)
    record = folded.record(folded.judge(Ending()), NOW)
    return {name: outcome.state.value for name, outcome in record.targets.results.items()}


def call(*names: str, counted: bool = True) -> e.CallStarted:
    return e.CallStarted(call=1, cell_id="a", kind="run", text="id", targets=names, counted=counted)


def target_end(name: str, state: TargetState, *, counted: bool = True, **more: Any) -> e.TargetEnded:
    return e.TargetEnded(call=1, cell_id="a", target=name, state=state, counted=counted, **more)


def test_a_cell_goes_from_not_run_through_running_to_its_end_and_no_other_cell_with_it() -> None:
    ending = e.CellEnded(cell_id="a", state=CellState.FAILED, duration_s=2.5, error=CellError(name="E", text="t"))
    assert [cell.state for cell in fold().cells] == [CellState.NOT_RUN, CellState.NOT_RUN]
    started = fold(e.CellStarted(cell_id="a")).cells
    assert [cell.state for cell in started] == [CellState.RUNNING, CellState.NOT_RUN]
    assert started[0].started_at == NOW
    ended = fold(e.CellStarted(cell_id="a"), ending, e.CellStarted(cell_id="elsewhere")).cells
    assert (ended[0].state, ended[0].duration_s, ended[0].error) == (CellState.FAILED, 2.5, ending.error)
    assert len(ended) == 2


@pytest.mark.parametrize(
    ("states", "comes_to"),
    [
        ("ok", "ok"),
        ("ok failed", "failed"),
        ("failed ok", "failed"),
        ("failed ok ok", "failed"),
        ("failed timed_out", "timed_out"),
        ("timed_out failed ok", "failed"),
        ("unreachable ok", "unreachable"),
        ("lost ok", "lost"),
        ("cancelled ok", "cancelled"),
        ("failed skipped", "failed"),
        ("ok skipped", "skipped"),
        ("skipped ok", "ok"),
        ("failed lost", "lost"),
        ("lost failed", "lost"),
        ("skipped", "skipped"),
        ("skipped skipped failed", "failed"),
        ("not_run skipped", "skipped"),
        ("unknown ok", "unknown"),
    ],
)
def test_of_what_happened_to_a_target_the_gravest_stays(states: str, comes_to: str) -> None:
    ends = [target_end("web1", TargetState(state)) for state in states.split()]
    assert results(call("web1"), *ends) == {"web1": comes_to}


def test_the_last_failure_keeps_its_own_reason_and_code_and_time_adds_up() -> None:
    folded = fold(
        target_end("web1", TargetState.OK, duration_s=1.0),
        target_end("web1", TargetState.FAILED, exit_code=7, reason="earlier", duration_s=2.0),
        target_end("web1", TargetState.FAILED, exit_code=8, stderr="first\n the reason \n\n", duration_s=3.0),
        target_end("web1", TargetState.OK, duration_s=1.0),
    )
    outcome = folded.record(folded.judge(Ending()), NOW).targets.results["web1"]
    assert (outcome.exit_code, outcome.reason, outcome.cell_id, outcome.duration_s) == (8, "the reason", "a", 7.0)


def test_a_target_that_was_asked_and_never_answered_is_not_run() -> None:
    assert results(call("web1", "web2"), target_end("web1", TargetState.OK)) == {"web1": "ok", "web2": "not_run"}
    assert results(e.WavesPlanned(cell_id="a", waves=(("web1",), ("web2", "web3")))) == dict.fromkeys(
        ("web1", "web2", "web3"), "not_run"
    )


def test_a_call_that_does_not_count_changes_no_target() -> None:
    assert results(call("web1", counted=False), target_end("web1", TargetState.FAILED, counted=False)) == {}


def test_metrics_keep_their_last_value_and_other_events_change_nothing() -> None:
    folded = fold(
        e.MetricRecorded(name="m", value=1),
        e.MetricRecorded(name="m", value=[2]),
        e.StopRequested(signal="SIGTERM"),
        e.TargetOutput(call=1, target="web1", stream="stdout", text="x"),
        e.GateAnswered(cell_id="a", granted=True, by="--yes"),
    )
    record = folded.record(folded.judge(Ending()), NOW + timedelta(seconds=90.1234))
    assert record.metrics == {"m": [2]}
    assert record.targets.results == {}
    assert (record.duration_s, record.ended_at) == (90.123, NOW + timedelta(seconds=90.1234))
    assert folded.last_at == NOW + timedelta(seconds=4)


def test_a_record_says_what_the_outcome_says_and_survives_its_file() -> None:
    folded = fold(e.CellEnded(cell_id="a", state=CellState.OK), e.CellEnded(cell_id="b", state=CellState.OK), call("w"))
    record = folded.record(folded.judge(Ending()), NOW)
    assert (record.status, record.exit_code, record.reason) == (RunState.SUCCEEDED, 0, "")
    assert decode_record(msgspec.json.encode(record)) == record
    assert json.loads(msgspec.json.encode(record))["schema"] == 1


# history


def test_runs_come_newest_first(tmp_path: Path) -> None:
    ids = [
        "20251231T235959Z-certs-000001",
        "20260101T000000Z-certs-000002",
        "20261120T113958Z-patch-7f3a2c",
        "20261120T120000Z-patch-7f3a2d",
    ]
    for run_id in (ids[2], ids[0], ids[3], ids[1]):
        put(tmp_path, run_id)
    assert [run.folder.run_id for run in iter_runs(tmp_path)] == ids[::-1]
    assert list(iter_runs(tmp_path / "nowhere")) == []


DAMAGE: dict[str, bytes | None] = {
    "empty folder": None,
    "empty record": b"",
    "half a record": msgspec.json.encode(make_record())[:100],
    "not json": b"hello",
    "another type": b"[]",
    "missing fields": b"{}",
    "wrong types": msgspec.json.encode(make_record()).replace(b'"run_id":"', b'"run_id":5,"x":"'),
    "not utf-8": msgspec.json.encode(make_record()).replace(b"Patch", b"\xff\xfe"),
    "too deep": b'{"parameters": ' + b"[" * 100_000,
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_run_says_so_and_hides_no_other(tmp_path: Path, damage: str) -> None:
    put(tmp_path, "20261120T100000Z-patch-000001")
    put(tmp_path, "20261120T120000Z-patch-000003")
    folder = run_folder(tmp_path, "20261120T110000Z-patch-000002")
    make_folder(folder.path)
    content = DAMAGE[damage]
    if content is not None:
        folder.record.write_bytes(content)
    runs = list(iter_runs(tmp_path))
    assert [run.folder.run_id[-1] for run in runs] == ["3", "2", "1"]
    assert [run.record is None for run in runs] == [False, True, False]
    assert runs[1].problem
    assert not runs[0].problem


def test_what_is_not_a_run_is_passed_over(tmp_path: Path) -> None:
    folder = put(tmp_path, RUN_ID)
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "2026" / "file").write_text("x")
    (folder.path.parent / "lost+found").mkdir()
    (folder.path.parent / f"{RUN_ID}.bak").mkdir()
    assert [run.folder.run_id for run in iter_runs(tmp_path)] == [RUN_ID]
    folder.record.unlink()
    folder.record.mkdir()
    assert read_run(folder).problem.startswith("no record")


RUNNER = """
import sys, msgspec
from pathlib import Path
from opsbook.archive.files import write_whole
from opsbook.archive.fold import decode_record
from opsbook.archive.journal import Journal
from opsbook.archive.layout import HOSTS, LOCK, Claim, run_folder
from opsbook.model import event as e
from opsbook.model.run import CellState
from opsbook.model.target import TargetState
from opsbook.redaction import Redactor
record = decode_record(sys.argv[2].encode())
folder = run_folder(Path(sys.argv[1]), record.run_id)
claim = Claim(folder)
write_whole(folder.record, msgspec.json.encode(record))
journal = Journal(folder.journal, Redactor())
journal.append([
    e.CellStarted(cell_id="a"),
    e.CellEnded(cell_id="a", state=CellState.OK, duration_s=1.0),
    e.CellStarted(cell_id="b"),
    e.CallStarted(call=1, cell_id="b", kind="run", text="id", targets=("web1", "web2")),
    e.TargetEnded(call=1, cell_id="b", target="web1", state=TargetState.OK),
    e.MetricRecorded(name="m", value=7),
], durable=True)
print("running", flush=True)
sys.stdin.readline()
"""


def test_a_run_whose_process_died_reads_as_interrupted_with_what_its_journal_proves(tmp_path: Path) -> None:
    folder = run_folder(tmp_path, RUN_ID)
    process = python(RUNNER, tmp_path, msgspec.json.encode(make_record()).decode())
    try:
        assert said(process) == "running"
        live = read_run(folder).record
        assert live is not None
        assert (live.status, live.exit_code, live.ended_at, live.duration_s) == (RunState.RUNNING, None, None, None)
        assert [cell.state for cell in live.cells] == [CellState.OK, CellState.RUNNING]
        assert live.metrics == {"m": 7}
    finally:
        end(process)
    with folder.journal.open("ab") as torn:
        torn.write(b'{"seq":7,"at":')
    dead = read_run(folder).record
    assert dead is not None
    assert (dead.status, dead.exit_code) == (RunState.INTERRUPTED, None)
    assert "process ended" in dead.reason
    assert [cell.state for cell in dead.cells] == [CellState.OK, CellState.INTERRUPTED]
    assert {name: found.state.value for name, found in dead.targets.results.items()} == {
        "web1": "ok",
        "web2": "not_run",
    }
    assert dead.ended_at == list(read_journal(folder.journal))[-1].at
    assert decode_record(folder.record.read_bytes()).status is RunState.RUNNING


def test_a_run_that_died_before_its_first_event_reads_as_interrupted(tmp_path: Path) -> None:
    record = read_run(put(tmp_path, RUN_ID, RunState.RUNNING)).record
    assert record is not None
    assert record.status is RunState.INTERRUPTED
    assert [cell.state for cell in record.cells] == [CellState.NOT_RUN, CellState.NOT_RUN]


def test_a_record_of_a_newer_opsbook_is_read_with_unknown_states_and_never_rewritten(tmp_path: Path) -> None:
    folder = put(tmp_path, RUN_ID)
    newer = json.loads(folder.record.read_bytes()) | {"schema": 9, "status": "levitating", "aura": {"colour": 1}}
    newer["cells"][0]["state"] = "transcended"
    newer["targets"]["results"] = {"web1": {"state": "beamed"}}
    folder.record.write_text(json.dumps(newer))
    before = folder.record.read_bytes()
    record = read_run(folder).record
    assert record is not None
    assert (record.schema_version, record.status) == (9, RunState.UNKNOWN)
    assert record.cells[0].state is CellState.UNKNOWN
    assert record.targets.results["web1"].state is TargetState.UNKNOWN
    assert folder.record.read_bytes() == before


def test_a_run_is_found_by_id_beginning_end_and_word(tmp_path: Path) -> None:
    first = put(tmp_path, "20261119T100000Z-certs-91bb02").run_id
    failed = put(tmp_path, "20261120T100000Z-patch-0c44de", RunState.FAILED).run_id
    last = put(tmp_path, "20261120T120000Z-patch-7f3a2c").run_id
    texts = {
        first: first,
        "20261119": first,
        "91bb02": first,
        "certs-91bb02": first,
        "20261120T10": failed,
        "last": last,
        "last-failed": failed,
    }
    for text, run_id in texts.items():
        assert find_run(tmp_path, text).folder.run_id == run_id, text


@pytest.mark.parametrize(
    "text", ["", "9", "nothing", "patch", "91bb0", "../..", "20261120T100000Z-patch-ffffff", "/", "*"]
)
def test_a_text_that_means_no_run_is_a_usage_error(tmp_path: Path, text: str) -> None:
    put(tmp_path, "20261119T100000Z-certs-91bb02")
    with pytest.raises(UsageError):
        find_run(tmp_path, text)


def test_a_text_that_means_several_runs_names_two(tmp_path: Path) -> None:
    ids = [put(tmp_path, f"20261120T10000{number}Z-patch-7f3a2c").run_id for number in range(3)]
    with pytest.raises(UsageError, match="3 runs match '7f3a2c'") as caught:
        find_run(tmp_path, "7f3a2c")
    assert ids[2] in caught.value.hint
    assert ids[1] in caught.value.hint


def test_without_any_run_last_and_last_failed_say_so(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no run yet"):
        find_run(tmp_path, "last")
    put(tmp_path, RUN_ID)
    with pytest.raises(UsageError, match="no run has failed"):
        find_run(tmp_path, "last-failed")


def test_the_last_failed_run_may_have_been_refused_lost_or_interrupted_but_not_still_run(tmp_path: Path) -> None:
    put(tmp_path, "20261120T100000Z-patch-000001", RunState.FAILED)
    run_id = ""
    for number, status in enumerate((RunState.REFUSED, RunState.TIMED_OUT, RunState.LOST, RunState.INTERRUPTED), 2):
        run_id = put(tmp_path, f"20261120T100000Z-patch-00000{number}", status).run_id
        assert find_run(tmp_path, "last-failed").folder.run_id == run_id
    put(tmp_path, "20261120T110000Z-patch-000009", RunState.SUCCEEDED)
    claim = Claim(run_folder(tmp_path, "20261120T120000Z-patch-00000a"))
    write_whole(claim.folder.record, msgspec.json.encode(make_record(claim.folder.run_id)))
    assert find_run(tmp_path, "last").folder.run_id == claim.folder.run_id
    assert find_run(tmp_path, "last-failed").folder.run_id == run_id
    claim.release()


# the executed copy


def notebook(source: str) -> dict[str, Any]:
    cell = {"cell_type": "code", "id": "a", "source": source, "metadata": {}, "outputs": [], "execution_count": 1}
    return {"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": [cell]}


def test_the_copy_says_what_the_run_came_to_and_holds_no_secret(tmp_path: Path) -> None:
    redactor = Redactor()
    redactor.add(VALUE)
    writer = CopyWriter(tmp_path / "copy.ipynb", redactor)
    writer.keep(notebook(f"print('{VALUE} größer')"))
    assert not (tmp_path / "copy.ipynb").exists()
    writer.finish(make_record(status=RunState.FAILED, exit_code=1, reason="no"))
    copy = json.loads((tmp_path / "copy.ipynb").read_bytes())
    assert copy["metadata"]["opsbook"] == {
        "run_id": RUN_ID,
        "status": "failed",
        "reason": "no",
        "exit_code": 1,
        "runbook_sha256": "0" * 64,
        "checking": False,
    }
    assert copy["metadata"]["papermill"]["exception"] is True
    assert copy["cells"][0]["source"] == f"print('{MASK} größer')"
    assert mode(tmp_path / "copy.ipynb") == 0o600


def test_the_copy_is_written_now_and_then_and_always_at_the_end(tmp_path: Path) -> None:
    file = tmp_path / "copy.ipynb"
    writer = CopyWriter(file, Redactor())
    for number in range(3):
        writer.save_soon(notebook(f"n = {number}"))
    assert json.loads(file.read_bytes())["cells"][0]["source"] == "n = 0"
    writer.finish(make_record(status=RunState.SUCCEEDED, exit_code=0))
    copy = json.loads(file.read_bytes())
    assert copy["cells"][0]["source"] == "n = 2"
    assert copy["metadata"]["papermill"]["exception"] is None


def test_a_copy_knows_what_its_file_holds_and_can_be_taken_away(tmp_path: Path) -> None:
    file = tmp_path / "copy.ipynb"
    writer = CopyWriter(file, Redactor())
    assert writer.head == ""
    writer.save_soon(notebook("1"))
    for number in range(2):
        assert writer.head == hashlib.sha256(file.read_bytes()).hexdigest()
        writer.finish(make_record(exit_code=number))
    writer.discard()
    writer.discard()
    assert (writer.head, list(tmp_path.iterdir())) == ("", [])


def test_a_copy_that_cannot_be_written_stops_nothing_until_the_end(tmp_path: Path) -> None:
    writer = CopyWriter(tmp_path / "nowhere" / "copy.ipynb", Redactor())
    writer.save_soon(notebook("1"))
    with pytest.raises(ArchiveError):
        writer.finish(make_record())
    CopyWriter(tmp_path / "none.ipynb", Redactor()).finish(make_record())
    assert not (tmp_path / "none.ipynb").exists()


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
