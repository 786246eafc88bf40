"""The record, folded from events."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from archived import NOW, make_record

from opsbook.archive.fold import RecordFold, decode_record
from opsbook.archive.journal import FIRST
from opsbook.model import event as e
from opsbook.model.outcome import Ending
from opsbook.model.run import CellError, CellState, RunRecord, RunState
from opsbook.model.target import TargetState


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
