"""A run that was stopped or killed is gone on with: by its time, by SIGTERM, by SIGKILL, with durable commands too."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import Sshd
from forks import Forked
from rig import Rig, known_hosts, target_of
from support import LOAD, Desk, Run, code, finish, wait_for

from opsbook.model.event import Intent
from opsbook.model.target import TargetState

NAMES = {"web1": "127.0.0.81", "web2": "127.0.0.82"}


def step(desk: Desk, name: str, *flags: str, more: str = "", pattern: str = "web") -> dict[str, object]:
    """A cell that counts what it does on each target."""
    return code(
        f'%%on {pattern} {" ".join(flags)}\necho run >> {desk.folder}/{name}-"$OPSBOOK_TARGET"\n{more}', cell_id=name
    )


def counts(desk: Desk, name: str) -> list[int]:
    """How often a cell's script began, on each target."""
    return [len(file.read_text().splitlines()) for file in sorted(desk.folder.glob(f"{name}-*"))]


def calling(desk: Desk) -> int:
    """How many runs have come to a call. One that is just being made has no record yet."""
    journals = desk.folder.glob("archive/*/*/*/*/events.jsonl")
    return sum(b'"call_started"' in journal.read_bytes() for journal in journals)


def spools(sshd: Sshd, *runs: Run) -> list[str]:
    """What is left on the target of the durable commands of some runs."""
    names = [event["spool"] for run in runs for event in run.events("intent") if event.get("spool")]
    assert names
    return [name for name in names if (sshd.folder / ".local/state/opsbook" / name).exists()]


@contextmanager
def started(desk: Desk, *args: str, name: str, on: int) -> Iterator[Forked]:
    """A command that has come to a cell's script on so many targets; what is left of it is killed."""
    process = desk.fork(*args)
    try:
        wait_for(lambda: len(counts(desk, name)) == on, seconds=60)
        yield process
    finally:
        process.kill()
        process.communicate()


def until(desk: Desk, name: str) -> str:
    return f"while [ ! -e {desk.folder}/{name} ]; do sleep 0.2; done"


def test_a_durable_command_that_is_stopped_leaves_nothing_and_is_sent_again_when_it_is_resumed(
    sshd: Sshd, desk: Desk
) -> None:
    desk.notebook(LOAD, step(desk, "first"), step(desk, "long", "--durable", more=until(desk, "go")))
    with started(desk, "run", "book.ipynb", name="long", on=2) as process:
        process.send_signal(signal.SIGTERM)
        stopped = finish(process)
    assert stopped.code == 128 + signal.SIGTERM
    assert spools(sshd, desk.run()) == []
    assert desk.run().targets == dict.fromkeys(NAMES, "cancelled")
    assert "target web1 cancelled exit 143\n" in stopped.err
    (desk.folder / "go").touch()
    done = desk.opsbook("resume", "last", "--yes")
    assert done.code == 0, done.err
    assert (counts(desk, "first"), counts(desk, "long")) == ([1, 1], [2, 2])
    assert spools(sshd, *desk.runs()) == []


def test_a_durable_command_goes_on_when_its_run_is_killed_and_is_waited_for_by_the_resumed_one(
    sshd: Sshd, desk: Desk
) -> None:
    desk.notebook(LOAD, step(desk, "long", "--durable", more=f"{until(desk, 'go')}; echo said", pattern="web1"))
    desk.notebook(LOAD, step(desk, "other", pattern="web1"), name="other.ipynb")
    with started(desk, "run", "book.ipynb", name="long", on=1):
        busy = desk.opsbook("resume", "last", "--yes")
        assert (busy.code, "still runs" in busy.err) == (75, True), busy.err
    with started(desk, "resume", "last", "--yes", name="long", on=1) as resumed:
        wait_for(lambda: calling(desk) == 2, seconds=60)
        other = desk.opsbook("run", "other.ipynb")
        assert (other.code, "web1 is held by run" in other.err + other.out) == (75, True), other
        (desk.folder / "go").touch()
        done = finish(resumed)
    assert done.code == 0, done.err
    assert (counts(desk, "long"), counts(desk, "other")) == ([1], [])
    first, second, _ = desk.runs()
    assert "said" in second.output("long")
    assert spools(sshd, first) == []
    assert second.events("intent") == []


def test_a_run_whose_time_was_over_goes_on_where_it_was_and_a_target_it_drops_stays_marked(
    sshd: Sshd, desk: Desk
) -> None:
    slow = step(desk, "slow", more=until(desk, "go"), pattern="web1")
    desk.notebook(LOAD, step(desk, "first", pattern="all"), slow, step(desk, "after", pattern="web1"))
    both = NAMES | {"old": "127.0.0.83"}
    sshd.inventory(both, desk.folder / "hosts.ini")
    ran = desk.opsbook("run", "book.ipynb", "--timeout", "12s")
    assert ran.code == 124, ran.err
    assert counts(desk, "slow") == [1], "the machine was too slow for this test"
    sshd.inventory(NAMES, desk.folder / "hosts.ini")
    (desk.folder / "go").touch()
    done = desk.opsbook("resume", "last", "--yes", "--timeout", "5m", "--drop-missing")
    assert done.code == 0, done.err
    assert [counts(desk, name) for name in ("first", "slow", "after")] == [[1, 1, 1], [2], [1]]
    (left,) = desk.opsbook("locks", "--json").json  # what was answered from before is settled, and what is done now
    assert (left["state"], left["targets"], left["run_id"]) == ("left", ["old"], desk.runs()[0].folder.name)
    refused = desk.opsbook("exec", "-i", sshd.inventory(both, desk.folder / "all.ini"), "old", "true")
    assert (refused.code, "went on with it and did not settle that; --acknowledge" in refused.err) == (3, True)


def test_a_run_whose_targets_somebody_took_over_is_resumed_only_when_that_is_insisted_on(desk: Desk) -> None:
    desk.notebook(LOAD, step(desk, "long", "--idempotent", more=until(desk, "go"), pattern="web1"))
    with started(desk, "run", "book.ipynb", name="long", on=1):
        pass
    left = desk.run().folder.name
    (desk.folder / "go").touch()
    assert desk.opsbook("exec", "web1", "--acknowledge", left, "true").code == 0
    refused = desk.opsbook("resume", left, "--yes")
    assert refused.code == 3
    assert f"acknowledged what run {left} left in the middle" in refused.err
    assert "--accept-changes goes on all the same" in refused.err
    assert desk.opsbook("archive", "verify").code == 0
    done = desk.opsbook("resume", left, "--yes", "--accept-changes")
    assert (done.code, counts(desk, "long")) == (0, [2]), done.err


def test_a_cancelled_durable_command_takes_its_spool_along(sshd: Sshd, tmp_path: Path) -> None:
    made = Rig((target_of(sshd, "web1"),), tmp_path / "marks", known_hosts=(str(known_hosts(sshd, tmp_path)),))
    made.journal.on_output = lambda _: made.session.cancel(hard=True)
    try:
        with pytest.raises(KeyboardInterrupt):
            made.run(made.linger(), durable=True)
    finally:
        made.close()
    (intent,) = (event for event in made.journal.events if isinstance(event, Intent))
    assert made.journal.ended("web1").state is TargetState.CANCELLED
    assert not (sshd.folder / ".local/state/opsbook" / str(intent.spool)).exists()
