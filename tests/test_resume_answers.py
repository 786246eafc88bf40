"""What a resumed call answers from before, what it asks again and what it hands out (SEMANTICS 17, 22)."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from conftest import Sshd
from rig import Rig, known_hosts, target_of

from opsbook.errors import FleetError, RefusedError
from opsbook.fleet.fleet import Fleet
from opsbook.fleet.reboot import BOOT_ID
from opsbook.model.event import Event, Intent, TargetEnded
from opsbook.model.message import Recall, Recalled
from opsbook.model.target import TargetState


@pytest.fixture
def replayed(sshd: Sshd, tmp_path: Path) -> Iterator[Rig]:
    """A session that resumes something: what is known is what a test says."""
    targets = tuple(target_of(sshd, name) for name in ("web1", "web2", "web3"))
    made = Rig(targets, tmp_path / "marks", known_hosts=(str(known_hosts(sshd, tmp_path)),))
    made.session.replaying = True
    yield made
    made.close()


def ended(name: str, state: TargetState, **how: Any) -> TargetEnded:
    return TargetEnded(call=1, cell_id=None, target=name, state=state, digest="d", **how)


def knows(rig: Rig, *answers: TargetEnded, **how: Any) -> None:
    def recalled(recall: Recall) -> Recalled:
        told = {one.target: one for one in answers if recall.digests.get(one.target)}
        return Recalled(ticket=recall.ticket, source="old", answers=told, **how)

    rig.journal.on_recall = recalled


def test_answers_count_as_the_results_did(replayed):
    knows(replayed, ended("web1", TargetState.FAILED, exit_code=3, stderr="no room\n"))
    with pytest.raises(FleetError, match="1 of 3 targets failed"):
        replayed.run(check=True, max_fail=0)
    assert [replayed.runs(name) for name in ("web1", "web2", "web3")] == [0, 0, 0]  # nothing new starts
    assert replayed.journal.ended("web1").replayed
    assert replayed.journal.ended("web2").state is TargetState.SKIPPED
    knows(replayed)
    again = replayed.run()
    assert again["web1"].reason == "an earlier change did not end well here"
    assert [replayed.runs(name) for name in ("web1", "web2", "web3")] == [0, 1, 1]


@pytest.mark.parametrize("how", [{"truncated": True}, {"masked": True}])
def test_text_that_is_not_whole_is_shown_and_never_handed_out(replayed, how):
    knows(
        replayed, ended("web1", TargetState.OK, exit_code=0, stdout="part of it", **how), ended("web2", TargetState.OK)
    )
    result = replayed.run()
    assert (result["web1"].ok, result["web1"].exit_code, result["web2"].stdout) == (True, 0, "")
    for name in ("stdout", "stderr"):
        with pytest.raises(FleetError, match=r"web1: what it said in old .* a change is not made again to hear it"):
            getattr(result["web1"], name)
    assert replayed.runs("web1") == 0
    assert result["web1"].shown.stdout == "part of it"
    assert "part of it" in repr(result)
    assert "part of it" in repr(result["web1"])
    assert any(group.truncated for group in result.groups())


@pytest.mark.parametrize("how", [{"truncated": True}, {"masked": True}])
def test_what_changes_nothing_is_asked_again_once_and_where_it_is_read(replayed, how):
    part = {"exit_code": 3, "stdout": "part of it", "read_only": True, **how}
    knows(replayed, ended("web1", TargetState.FAILED, **part), ended("web2", TargetState.OK))
    result = replayed.run("echo whole; exit 3", read_only=True)
    assert (result["web1"].exit_code, result["web1"].ok, replayed.runs("web1")) == (3, False, 0)
    assert "part of it" in repr(result), "to show it is not to read it"
    assert (result["web1"].stdout, result["web1"].stderr, result["web1"].stdout) == ("whole\n", "", "whole\n")
    assert replayed.runs("web1") == 1
    first, again = (
        event for event in replayed.journal.events if isinstance(event, TargetEnded) and event.target == "web1"
    )
    assert (first.replayed, first.counted, again.digest, again.counted) == (True, False, "", False)


def test_what_does_not_end_as_it_did_is_not_taken_for_what_was_said_then(replayed):
    knows(replayed, ended("web1", TargetState.OK, exit_code=0, stdout="then", truncated=True, read_only=True))
    result = replayed.run("echo now; exit 4", read_only=True)
    with pytest.raises(FleetError, match="asked again it does not end as it did then: exit 4"):
        _ = result["web1"].stdout
    assert result["web1"].ok


@pytest.mark.parametrize("booted", [True, False])
def test_a_reboot_is_settled_by_the_boot_id(replayed, booted, sshd, tmp_path):
    now = subprocess.run(["sh", "-c", BOOT_ID], capture_output=True, text=True, check=True).stdout.strip()
    before = "another" if booted else now
    intent = Intent(call=1, cell_id=None, target="web1", digest="d", kind="reboot", boot_id=before)
    knows(replayed, pending={"web1": intent})
    fleet = Fleet(replayed.session, replayed.targets[:1])
    done = fleet.reboot(command=f"touch {tmp_path}/rebooted", timeout="3s", check=False)["web1"]
    assert done.state is (TargetState.OK if booted else TargetState.TIMED_OUT)
    assert replayed.journal.intents("web1") == (0 if booted else 1)
    assert (tmp_path / "rebooted").exists() is not booted


def test_where_the_run_cannot_go_on_nothing_of_the_call_is_sent(replayed):
    replayed.journal.on_recall = lambda recall: Recalled(
        ticket=recall.ticket, blocked="nobody knows", hint="look there"
    )
    with pytest.raises(RefusedError, match="nobody knows"):
        replayed.run()
    assert [replayed.runs(name) for name in ("web1", "web2", "web3")] == [0, 0, 0]
    assert not any(isinstance(event, Intent) for event in replayed.journal.events)


def test_who_cancels_does_not_wait_for_a_runner_that_is_slow_to_listen(replayed):
    reached, go_on = threading.Event(), threading.Event()
    told = replayed.journal.report

    def report(event: Event) -> None:
        told(event)
        if isinstance(event, TargetEnded) and event.state is TargetState.SKIPPED:
            reached.set()
            go_on.wait(60)

    def call() -> None:
        with suppress(KeyboardInterrupt, FleetError):
            replayed.run("exit 1", parallel=1, check=True, max_fail=0)

    replayed.journal.report = report
    thread = threading.Thread(target=call)
    thread.start()
    assert reached.wait(60)
    begun = time.monotonic()
    assert replayed.session.cancel(hard=False)
    assert time.monotonic() - begun < 20
    go_on.set()
    thread.join(60)
    kinds = [type(event).__name__ for event in replayed.journal.events]
    assert kinds.count("TargetEnded") == 3
    assert kinds[-1] == "CallEnded"
