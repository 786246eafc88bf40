"""The history, read back from whole runs, damaged ones and those whose process died."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from archived import RUN_ID, end, make_record, put, python, said

from opsbook.archive.files import make_folder, write_whole
from opsbook.archive.fold import decode_record
from opsbook.archive.history import find_run, iter_runs, read_run
from opsbook.archive.journal import read_journal
from opsbook.archive.layout import Claim, run_folder
from opsbook.errors import UsageError
from opsbook.model.run import CellState, RunState
from opsbook.model.target import TargetState


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
