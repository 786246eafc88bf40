"""How a run ended: every exit code, which one wins when several apply, and the sentence that says why."""

from __future__ import annotations

import itertools
import signal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opsbook.errors import ExitCode
from opsbook.model.outcome import Ending, Outcome, count_states, group_results, name_ranges, outcome
from opsbook.model.run import CellError, CellRecord, CellState, RunState, TargetOutcome
from opsbook.model.target import TargetState

FUZZ = settings(max_examples=200, deadline=None, database=None)


def cell(state: CellState, error: str = "", *, label: str = "Update", text: str = "2 of 3 failed") -> CellRecord:
    raised = CellError(name=error, text=text) if error else None
    return CellRecord(id=label.lower(), index=0, label=label, state=state, error=raised)


def ended(*cells: CellRecord, targets: dict[str, TargetState] | None = None, **ending: Any) -> Outcome:
    outcomes = {name: TargetOutcome(state=state, cell_id="update") for name, state in (targets or {}).items()}
    return outcome(cells, outcomes, Ending(**ending))


OK = cell(CellState.OK)
NOT_RUN = cell(CellState.NOT_RUN, label="Reboot")
SKIPPED = cell(CellState.SKIPPED, label="Old")
FLEET_ERROR = cell(CellState.FAILED, "FleetError")
FAILED = cell(CellState.FAILED, "ValueError", text="no such thing\nand more")
CELL_TIMED_OUT = cell(CellState.TIMED_OUT, "CellTimeoutError")


@pytest.mark.parametrize("cells", [(), (OK,), (OK, SKIPPED), (SKIPPED,)])
@pytest.mark.parametrize(
    "targets", [{}, {"a": TargetState.OK}, {"a": TargetState.OK, "b": TargetState.SKIPPED, "c": TargetState.NOT_RUN}]
)
def test_a_run_succeeds_when_every_cell_and_target_is_ok_or_skipped(
    cells: tuple[CellRecord, ...], targets: dict[str, TargetState]
) -> None:
    assert ended(*cells, targets=targets) == Outcome(status=RunState.SUCCEEDED, exit_code=0, reason="")


@pytest.mark.parametrize("state", [state for state in CellState if state not in {CellState.OK, CellState.SKIPPED}])
def test_a_cell_that_is_not_proven_well_never_ends_in_success(state: CellState) -> None:
    judged = ended(OK, cell(state))
    assert judged.exit_code != 0
    assert judged.status is not RunState.SUCCEEDED
    assert judged.reason


@pytest.mark.parametrize("state", [state for state in TargetState if state.is_failure])
def test_a_target_that_failed_never_ends_in_success_though_within_the_limit(state: TargetState) -> None:
    judged = ended(OK, targets={"a": state, "b": TargetState.OK})
    assert judged.status is (RunState.LOST if state is TargetState.LOST else RunState.FAILED)
    assert judged.exit_code != 0
    assert judged.reason


@pytest.mark.parametrize(
    ("ending", "status", "code", "reason"),
    [
        ({"signal": signal.SIGINT}, RunState.INTERRUPTED, 130, "stopped by SIGINT"),
        ({"signal": signal.SIGTERM}, RunState.INTERRUPTED, 143, "stopped by SIGTERM"),
        ({"signal": signal.SIGHUP}, RunState.INTERRUPTED, 129, "stopped by SIGHUP"),
        ({"timed_out": True}, RunState.TIMED_OUT, 124, "the run timed out"),
        ({"internal": "internal error: KeyError"}, RunState.FAILED, 70, "internal error: KeyError"),
        ({"archive": "cannot write"}, RunState.FAILED, 5, "cannot write"),
        ({"kernel_lost": "killed by SIGKILL"}, RunState.LOST, 6, "killed by SIGKILL"),
        ({"not_started": "no such kernel"}, RunState.FAILED, 2, "no such kernel"),
        ({"refused": "the gate said no"}, RunState.REFUSED, 3, "the gate said no"),
    ],
)
def test_each_ending_has_its_state_code_and_sentence(
    ending: dict[str, Any], status: RunState, code: int, reason: str
) -> None:
    assert ended(NOT_RUN, **ending) == Outcome(status=status, exit_code=code, reason=reason)


@pytest.mark.parametrize(
    ("cells", "targets", "code"),
    [
        ((FAILED, NOT_RUN), {}, 1),
        ((FAILED, NOT_RUN), {"a": TargetState.UNREACHABLE}, 1),
        ((FLEET_ERROR, NOT_RUN), {"a": TargetState.FAILED}, 1),
        ((FLEET_ERROR, NOT_RUN), {"a": TargetState.FAILED, "b": TargetState.UNREACHABLE}, 1),
        ((FLEET_ERROR, NOT_RUN), {"a": TargetState.TIMED_OUT}, 1),
        ((FLEET_ERROR, NOT_RUN), {"a": TargetState.BECOME}, 1),
        ((FLEET_ERROR, NOT_RUN), {"a": TargetState.UNREACHABLE, "b": TargetState.SKIPPED}, 4),
        ((FLEET_ERROR, NOT_RUN), {"a": TargetState.AUTH, "b": TargetState.HOSTKEY, "c": TargetState.OK}, 4),
        ((OK,), {"a": TargetState.UNREACHABLE, "b": TargetState.OK}, 4),
        ((OK,), {"a": TargetState.FAILED, "b": TargetState.OK}, 1),
        ((FLEET_ERROR,), {"a": TargetState.LOST}, 6),
        ((OK,), {"a": TargetState.LOST, "b": TargetState.FAILED}, 6),
        ((CELL_TIMED_OUT, NOT_RUN), {}, 124),
        ((CELL_TIMED_OUT, NOT_RUN), {"a": TargetState.FAILED}, 124),
    ],
)
def test_cells_and_targets_alone_give_the_code(
    cells: tuple[CellRecord, ...], targets: dict[str, TargetState], code: int
) -> None:
    assert ended(*cells, targets=targets).exit_code == code


CAUSES: list[tuple[int, tuple[CellRecord, ...], dict[str, TargetState], dict[str, Any]]] = [
    (143, (), {}, {"signal": signal.SIGTERM}),
    (124, (), {}, {"timed_out": True}),
    (124, (CELL_TIMED_OUT,), {}, {}),
    (70, (), {}, {"internal": "internal error"}),
    (5, (), {}, {"archive": "cannot write"}),
    (6, (), {}, {"kernel_lost": "gone"}),
    (6, (), {"lost1": TargetState.LOST}, {}),
    (1, (FAILED,), {}, {}),
    (4, (), {"away": TargetState.UNREACHABLE}, {}),
]
"""What can go wrong, in the order in which it wins (SEMANTICS 15)."""


@pytest.mark.parametrize(("first", "second"), list(itertools.combinations(CAUSES, 2)))
def test_where_two_codes_apply_the_one_named_first_wins(first: Any, second: Any) -> None:
    code, cells, targets, ending = first
    _, more_cells, more_targets, more_ending = second
    assert ended(*cells, *more_cells, targets=targets | more_targets, **(more_ending | ending)).exit_code == code


def test_the_sentence_names_the_cell_and_the_first_line_of_what_it_raised() -> None:
    assert ended(FAILED, NOT_RUN).reason == 'cell "Update" raised ValueError: no such thing'
    assert ended(cell(CellState.FAILED, "KeyError", text="")).reason == 'cell "Update" raised KeyError'


def test_the_sentence_of_a_fleet_error_is_its_own_and_says_where() -> None:
    assert ended(FLEET_ERROR, targets={"a": TargetState.FAILED}).reason == '2 of 3 failed in "Update"'


def test_the_sentence_of_a_run_within_its_limit_counts_and_places() -> None:
    failed = ended(OK, targets={"a": TargetState.FAILED, "b": TargetState.OK})
    assert failed.reason == '1 of 2 targets failed in "Update", within the limit'
    away = ended(OK, targets={"a": TargetState.AUTH})
    assert away.reason == '1 of 1 targets could not be reached in "Update", within the limit'


def test_the_sentence_of_a_lost_link_warns_of_what_may_still_run() -> None:
    reason = ended(OK, targets=dict.fromkeys(("db1", "db2", "db3"), TargetState.LOST)).reason
    assert reason == "the link to db1-db3 was lost; what was sent may still be running there"


def test_the_sentence_names_the_cell_without_proof_and_never_a_skipped_one() -> None:
    assert ended(SKIPPED, OK, NOT_RUN).reason == 'cell "Reboot" did not end well'


def test_every_failing_target_state_is_a_failure_but_skipped_and_not_run_are_not() -> None:
    fine = {state for state in TargetState if not state.is_failure}
    assert fine == {TargetState.OK, TargetState.SKIPPED, TargetState.NOT_RUN}
    assert {state for state in TargetState if state.is_unreachable} == {
        TargetState.UNREACHABLE,
        TargetState.AUTH,
        TargetState.HOSTKEY,
    }


@FUZZ
@given(
    cells=st.lists(st.sampled_from(CellState), max_size=5),
    targets=st.lists(st.sampled_from(TargetState), max_size=5),
    stopped=st.sampled_from([None, signal.SIGINT]),
    timed_out=st.booleans(),
)
def test_nothing_but_proof_gives_success(
    *, cells: list[CellState], targets: list[TargetState], stopped: int | None, timed_out: bool
) -> None:
    made = [cell(state, label=f"c{number}") for number, state in enumerate(cells)]
    judged = ended(
        *made, targets={f"t{n}": state for n, state in enumerate(targets)}, signal=stopped, timed_out=timed_out
    )
    proven = all(state in {CellState.OK, CellState.SKIPPED} for state in cells)
    well = proven and not any(state.is_failure for state in targets) and stopped is None and not timed_out
    assert (judged.exit_code == ExitCode.SUCCEEDED) is well
    assert (judged.status is RunState.SUCCEEDED) is well
    assert bool(judged.reason) is not well


def test_results_are_grouped_by_state_and_detail_the_failed_first() -> None:
    rows = [
        ("a", TargetState.OK, ""),
        ("b", TargetState.SKIPPED, "limit"),
        ("c", TargetState.FAILED, "exit 2"),
        ("d", TargetState.OK, ""),
        ("e", TargetState.FAILED, "exit 1"),
    ]
    groups = [(group.state.value, group.detail, group.names) for group in group_results(rows)]
    assert groups == [
        ("failed", "exit 1", ("e",)),
        ("failed", "exit 2", ("c",)),
        ("ok", "", ("a", "d")),
        ("skipped", "limit", ("b",)),
    ]


def test_counts_say_the_good_first_and_then_the_worst() -> None:
    states = [TargetState.SKIPPED, TargetState.FAILED, TargetState.OK, TargetState.NOT_RUN, TargetState.FAILED]
    assert count_states(states) == "1 ok · 2 failed · 1 skipped · 1 not run"
    assert count_states([]) == ""


@pytest.mark.parametrize(
    ("names", "text"),
    [
        ([], ""),
        (["web1"], "web1"),
        (["web1", "web2"], "web1, web2"),
        (["web1", "web2", "web3"], "web1-web3"),
        (["web09", "web10", "web11"], "web09-web11"),
        (["web99", "web100", "web101"], "web99-web101"),
        (["web1", "web3", "web5"], "web1, web3, web5"),
        (["web3", "web2", "web1"], "web3, web2, web1"),
        (["a", "b", "c"], "a, b, c"),
        (["web1", "web2", "web3", "db1", "db2", "db3"], "web1-web3, db1-db3"),
        (["1", "2", "3"], "1-3"),
    ],
)
def test_names_that_count_upwards_are_folded_from_three_on(names: list[str], text: str) -> None:
    assert name_ranges(names) == text
