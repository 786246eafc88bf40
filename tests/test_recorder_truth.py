"""What the journal cannot hold: no record claims it as done, and how a run ended is shown once, as it is in the end."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from recording import Seen, folded, full_disk, journalled, metric, record_in

from opsbook.archive.layout import RunFolder
from opsbook.errors import ArchiveError
from opsbook.execution.replay import Replay
from opsbook.model import event as e
from opsbook.model.message import Recall
from opsbook.model.run import RunState
from opsbook.model.target import TargetState

pytest_plugins = ["recorder_desk"]


def ended(name: str, state: TargetState, *, digest: str = "d") -> e.TargetEnded:
    return e.TargetEnded(call=1, cell_id="a", target=name, state=state, digest=digest, exit_code=0)


@pytest.mark.parametrize("state", [TargetState.OK, TargetState.FAILED])
def test_a_change_whose_end_cannot_be_recorded_is_lost_for_the_record_too(
    folder: RunFolder, state: TargetState
) -> None:
    seen = Seen()
    recorder = record_in(folder, seen)
    names = ("done", "told", "asked", "left")
    recorder.submit(e.CallStarted(call=1, cell_id="a", kind="run", text="id", targets=names))
    for name in ("done", "told"):
        recorder.commit_now(e.Intent(call=1, cell_id="a", target=name, digest="d", kind="run"))
    recorder.submit(ended("told", TargetState.OK))
    with full_disk(recorder, folder):
        recorder.submit(ended("done", state))
        recorder.submit(ended("asked", TargetState.OK))  # without an intent: it changed nothing
        recorder.submit(ended("left", TargetState.SKIPPED))
        recorder.settle()
    recorder.fold.close()
    recorder.close()
    results = folded(recorder).targets.results
    assert [results[name].state.value for name in names] == ["lost", "ok", "ok", "skipped"]
    assert results["done"].reason.startswith(f"it ended as {state.value}, and that could not be recorded")
    told = [entry.event for entry in seen.entries if isinstance(entry.event, e.TargetEnded)]
    assert [event.state for event in told if event.target == "done"] == ["lost"]
    replay = Replay(source="old")
    replay.inherit(
        e.Entry(seq=number, at=datetime.now(UTC), prev="", event=event)
        for number, event in enumerate(journalled(folder))
    )
    asked = Recall(cell_id="a", kind="run", text="id", digests={"done": "d"})
    assert "nobody knows how" in replay.ask(asked).blocked, "a resumed run says the same"


def test_how_a_run_ended_is_shown_once_and_as_it_was_said_last(folder: RunFolder) -> None:
    seen = Seen()
    recorder = record_in(folder, seen)
    recorder.commit_now(metric("good"))
    recorder.end(e.RunEnded(status=RunState.SUCCEEDED, exit_code=0))
    recorder.settle()
    failed = e.RunEnded(status=RunState.FAILED, exit_code=5, reason="the record could not be written")
    recorder.end(failed)
    recorder.close()
    assert [entry.event for entry in seen.entries] == [metric("good"), failed]


def test_how_a_run_ended_is_shown_also_where_the_journal_does_not_take_it(folder: RunFolder) -> None:
    seen = Seen()
    recorder = record_in(folder, seen)
    recorder.commit_now(metric("good"))
    failed = e.RunEnded(status=RunState.FAILED, exit_code=5, reason="full")
    with full_disk(recorder, folder), pytest.raises(ArchiveError):
        recorder.end(failed)
    recorder.close()
    assert [entry.event for entry in seen.entries] == [metric("good"), failed]
