"""What a reader is told of runs: which one is the last, who was left out, and what nobody knows."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from support import LOAD, Desk, code, wait_for

from opsbook.archive.files import make_folder, write_whole
from opsbook.archive.history import LAST, find_run, iter_runs
from opsbook.archive.layout import run_folder
from opsbook.model.run import CellRecord, CellState, Operator, RunbookRef, RunRecord, RunState
from opsbook.report.phase import fold_phases
from opsbook.report.summary import LONGEST_VALUE, show_value

NAMES = {f"web{number}": f"127.0.0.{number + 60}" for number in range(1, 4)}
SECOND = datetime(2026, 11, 20, 11, 39, 58, tzinfo=UTC)


def begun(root: Path, tail: str, after: float, *, damaged: bool = False) -> str:
    """Put a run into an archive that began so many seconds after a full one."""
    folder = run_folder(root, f"20261120T113958Z-patch-{tail}")
    record = RunRecord(
        run_id=folder.run_id,
        status=RunState.SUCCEEDED,
        runbook=RunbookRef(path="patch.ipynb", title="Patch", sha256="0" * 64),
        started_at=SECOND + timedelta(seconds=after),
        operator=Operator(user="maya", host="here", pid=1),
    )
    make_folder(folder.path)
    write_whole(folder.record, b"{" if damaged else msgspec.json.encode(record))
    return folder.run_id


def test_of_runs_that_began_in_one_second_the_last_is_the_one_that_began_last(tmp_path: Path) -> None:
    middle, last, first = begun(tmp_path, "0000cc", 0.5), begun(tmp_path, "0000bb", 0.9), begun(tmp_path, "0000dd", 0.1)
    broken = begun(tmp_path, "0000ff", 0.95, damaged=True)
    assert [run.folder.run_id for run in iter_runs(tmp_path)] == [last, middle, first, broken]
    assert find_run(tmp_path, LAST).folder.run_id == last


def test_a_target_left_out_of_one_change_is_not_ok_for_having_taken_another(desk: Desk) -> None:
    desk.notebook(
        LOAD,
        code("%%on web --waves 1\n[ $OPSBOOK_TARGET != web2 ]", cell_id="patch"),
        code("%%on web\ntrue", "always", cell_id="clean"),
    )
    assert desk.opsbook("run", "book.ipynb").code == 1
    assert desk.run().targets == {"web1": "ok", "web2": "failed", "web3": "skipped"}


def test_a_target_left_out_of_a_change_is_ok_once_it_has_taken_that_one_after_all(desk: Desk) -> None:
    change = """
    try:
        targets("web").run("[ $OPSBOOK_TARGET != web2 ]", parallel=1)
    except Exception:
        targets("web3").run("[ $OPSBOOK_TARGET != web2 ]")
    """
    desk.notebook(LOAD, code(change, cell_id="patch"))
    assert desk.opsbook("run", "book.ipynb").code == 1
    assert desk.run().targets == {"web1": "ok", "web2": "failed", "web3": "ok"}


def test_where_a_resumed_run_stops_because_nobody_knows_its_targets_are_lost(desk: Desk, asleep: str) -> None:
    began = desk.folder / "began"
    desk.notebook(
        LOAD,
        code("%%on web\ntrue", cell_id="first"),
        code(f"%%on web2,web3\necho >> {began}\nsleep {asleep}", cell_id="work"),
    )
    process = desk.fork("run", "book.ipynb")
    try:
        wait_for(lambda: began.exists() and len(began.read_text()) == 2, seconds=60)
    finally:
        process.kill()
        process.communicate()
    ran = desk.opsbook("resume", "last", "--yes", "--json")
    assert (ran.code, ran.json["status"]) == (6, "lost")
    assert desk.run_of(ran).targets == {"web1": "ok", "web2": "lost", "web3": "lost"}
    assert "nobody knows how it ended" in ran.json["targets"]["results"]["web2"]["reason"]


@pytest.mark.parametrize(("value", "shown"), [("x" * LONGEST_VALUE, "x" * LONGEST_VALUE), ([1, "a"], '[1, "a"]')])
def test_a_value_is_shown_as_it_is(value: object, shown: str) -> None:
    assert show_value(value) == shown


def test_of_a_value_as_long_as_a_book_the_beginning_is_shown() -> None:
    assert show_value("x" * 400_000) == "x" * LONGEST_VALUE + "…"


def test_a_phase_of_which_some_cells_ran_says_how_many_did_not() -> None:
    states = [CellState.OK, CellState.OK, CellState.NOT_RUN]
    cells = [CellRecord(id=str(n), index=n, label="Patch", state=state) for n, state in enumerate(states)]
    assert [(phase.state, phase.note) for phase in fold_phases(cells)] == [("not_run", "1 of 3 cells")]
    assert [phase.note for phase in fold_phases(cells[:2])] == ["2 cells"]


def test_a_target_a_cell_did_not_come_to_any_more_is_not_ok_for_what_it_was_asked_before(desk: Desk) -> None:
    desk.notebook(
        LOAD,
        code("%%on web --read-only\ntrue", cell_id="facts"),
        code(
            """
            for number, wave in enumerate(targets("web").waves("1")):
                wave.run("true")
                assert number < 1, "enough"
            """,
            cell_id="patch",
        ),
    )
    assert desk.opsbook("run", "book.ipynb").code == 1
    assert desk.run().targets == {"web1": "ok", "web2": "ok", "web3": "skipped"}


def test_a_target_that_a_cell_which_ended_well_did_not_come_to_is_as_it_was(desk: Desk) -> None:
    desk.notebook(
        LOAD,
        code("%%on web --read-only\ntrue", cell_id="facts"),
        code('for wave in targets("web").waves("1"):\n    wave.run("true")\n    break', cell_id="canary"),
    )
    assert desk.opsbook("run", "book.ipynb").code == 0
    assert desk.run().targets == {"web1": "ok", "web2": "ok", "web3": "ok"}


def test_whoever_claims_the_id_of_a_run_that_was_killed_hears_which_run_goes_on_with_it(
    desk: Desk, asleep: str
) -> None:
    began = desk.folder / "began"
    desk.notebook(LOAD, code(f"open({str(began)!r}, 'x')\nimport time\ntime.sleep({asleep})", cell_id="work"))
    process = desk.fork("run", "book.ipynb", "--run-id", "job 1")
    try:
        wait_for(began.exists, seconds=60)
    finally:
        process.kill()
        process.communicate()
    (first,) = desk.runs()
    again = desk.opsbook("run", "book.ipynb", "--run-id", "job 1")
    assert f"opsbook resume {first.folder.name}" in again.err
    assert desk.opsbook("resume", "last", "--yes").code == 1  # `began` is there already
    again = desk.opsbook("run", "book.ipynb", "--run-id", "job 1")
    newest = desk.runs()[-1].folder.name
    assert f"run {newest} goes on with it: opsbook show {newest}" in again.err
    assert len(desk.runs()) == 2
