"""What is said of targets that were left out, lost, cancelled, answered from before or locked: briefly and truly."""

from __future__ import annotations

import io
from datetime import UTC, datetime

import pytest
from rich.cells import cell_len
from rich.console import Console

from opsbook.fleet.result import TargetResult
from opsbook.model import event as e
from opsbook.model.lock import LockState, Standing
from opsbook.model.outcome import group_ended, telling_line
from opsbook.model.run import (
    CellRecord,
    CellState,
    Operator,
    RunbookRef,
    RunRecord,
    RunState,
    RunTargets,
    TargetOutcome,
)
from opsbook.model.target import TargetState
from opsbook.report.locks import print_locks
from opsbook.report.phase import fold_phases
from opsbook.report.state import Progress, count_targets
from opsbook.report.summary import group_targets, summarise
from opsbook.report.terminal import print_summary

AT = datetime(2026, 11, 20, 11, 39, 58, tzinfo=UTC)
OK, SKIPPED = TargetState.OK, TargetState.SKIPPED


def record_of(*cells: CellRecord) -> RunRecord:
    return RunRecord(
        run_id="20261120T113958Z-patch-7f3a2c",
        status=RunState.FAILED,
        runbook=RunbookRef(path="patch.ipynb", title="Patch", sha256="0" * 64),
        started_at=AT,
        operator=Operator(user="maya", host="ops1", pid=1),
        cells=cells,
        targets=RunTargets(),
    )


def cell(label: str, *tags: str, **targets: TargetState) -> CellRecord:
    return CellRecord(id=label, index=0, label=label, tags=tags, state=CellState.OK, targets=targets)


def test_a_step_that_went_well_because_nothing_was_done_says_so_and_has_no_check_mark() -> None:
    cells = (
        cell("Undo", "always", web1=SKIPPED, web2=SKIPPED),
        cell("Some", "always", web1=OK, web2=SKIPPED),
        cell("Well", "always", web1=OK),
    )
    assert [phase.did_nothing for phase in fold_phases(cells)] == [True, False, False]
    assert [phase.note for phase in summarise(record_of(*cells), copy=None).phases] == [
        "nothing was done: 2 skipped",
        "1 ok · 1 skipped",
        "",
    ]
    screen = io.StringIO()
    print_summary(summarise(record_of(*cells), copy=None), Console(file=screen, width=100))
    (undo,) = (line for line in screen.getvalue().splitlines() if "Undo" in line)
    assert "✓" not in undo
    assert "nothing was done" in undo


LOST = "the link was lost; the command may still be running, and what it says is kept in {}"
SPOOLS = ["/root/.local/state/opsbook/{}", "/var/tmp/opsbook-0/{}", "the spool {}"]


@pytest.mark.parametrize("place", SPOOLS)
def test_lost_durable_targets_are_one_group_and_a_single_one_names_its_spool(place: str) -> None:
    reasons = [LOST.format(place.format(f"{number:024x}")) for number in range(3)]
    state = TargetState.LOST
    (group,) = group_targets({f"web{n}": TargetOutcome(state=state, reason=why) for n, why in enumerate(reasons)})
    assert (group.names, group.reason) == (("web0", "web1", "web2"), LOST.format(place.format("…")))
    (alone,) = group_targets({"web0": TargetOutcome(state=state, reason=reasons[0])})
    assert alone.reason == reasons[0]
    results = [TargetResult(target=f"web{n}", state=state, reason=why) for n, why in enumerate(reasons)]
    (row,) = group_ended(results)
    assert (len(row.names), row.detail) == (3, LOST.format(place.format("…")))
    assert group_ended(results[:1])[0].detail == reasons[0]


def test_a_reason_that_only_repeats_its_state_is_none() -> None:
    assert telling_line(TargetState.CANCELLED, "cancelled", "") == ""
    assert telling_line(TargetState.CANCELLED, "cancelled; 1 process escaped", "") == "1 process escaped"
    assert telling_line(TargetState.TIMED_OUT, "timed out after 3 s", "") == "timed out after 3 s"


def test_what_was_answered_from_before_is_counted_apart_while_a_run_works() -> None:
    progress = Progress()
    names = ("web1", "web2", "web3")
    events = [
        e.CallStarted(call=1, cell_id="a", kind="run", text="id", targets=names),
        *(e.TargetEnded(call=1, cell_id="a", target=name, state=OK, replayed=True) for name in names[:2]),
    ]
    for event in events:
        progress.apply(e.Entry(seq=1, at=AT, prev="", event=event))
    shown = progress.call_shown()
    assert shown is not None
    assert count_targets([shown]) == "2 ok · 1 waiting (2 from before)"


def test_the_locks_fit_eighty_columns_with_every_word_on_one_line() -> None:
    run = {"archive": "/srv/archive", "user": "maya", "host": "ops1", "since": AT}
    first, second = "20261120T113958Z-patch-7f3a2c", "20261120T114211Z-patch-the-fleet-03b1ee"
    standings = [
        *(
            Standing(state=LockState.HELD, place=f"web{n}.example.org:22", targets=(f"web{n}",), run_id=first, **run)
            for n in (1, 2)
        ),
        Standing(state=LockState.HELD, place="nightly", run_id=first, **run),
        Standing(state=LockState.LEFT, place="[2001:db8::1]:2222", targets=("db", "db1"), run_id=second, **run),
    ]
    screen = io.StringIO()
    print_locks(standings, Console(file=screen, width=80))
    lines = screen.getvalue().splitlines()
    assert max(map(cell_len, lines)) <= 80
    assert lines == [
        f"held  {first}  maya@ops1  since 2026-11-20 11:39:58Z",
        "      web1     web1.example.org:22",
        "      web2     web2.example.org:22",
        "      --lock   nightly",
        "",
        f"left  {second}  maya@ops1",
        "since 2026-11-20 11:39:58Z",
        "      db, db1   [2001:db8::1]:2222",
        f"      go on  opsbook resume {second}",
        f"             opsbook run … --acknowledge {second}",
    ]
