"""A run killed at any moment, at any write, or refused by its disk, leaves the truth behind and needs no help.

The sites are found by a dry pass; what is drawn by chance is drawn from a seed, which every failure shows and which
`OPSBOOK_SEED` sets.
"""

from __future__ import annotations

import json
import os
import random
import re
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import crash
import pytest
from conftest import Sshd
from crash import How
from kills import TARGETS, Bench, KillDesk, Trace, Trial, bench, sample
from losses import check_cuts
from support import LOAD, JsonObject, code, notebook_text, parameters

SEED = int(os.environ.get("OPSBOOK_SEED", "1"))
LANES = 2
KILLS = 26
SOAK_KILLS = 1000
QUICK = 16
"""Sites taken by chance where all of them take too long; `make soak` takes all."""
QUICK_SOAK = 3000
CHAIN = 5
"""Kills between two runs that are left to go to their end."""
ENDS = (How.BEFORE, How.AFTER, How.TORN)
TRIAL = 'trial: str = "0"'
pytestmark = pytest.mark.timeout(300)


@pytest.fixture(autouse=True)
def seed() -> None:
    """Show with a failure how it is had again."""
    sys.stdout.write(f"OPSBOOK_SEED={SEED}\n")


@pytest.fixture(scope="module")
def engine() -> Iterator[Bench]:
    with bench() as made:
        yield made


@pytest.fixture
def runtime() -> Iterator[Path]:
    """A folder with a short path: a socket's is bounded."""
    place = Path(tempfile.mkdtemp(prefix="k", dir="/tmp"))
    yield place
    shutil.rmtree(place)


@pytest.fixture
def stillborn(tmp_path: Path, runtime: Path, engine: Bench) -> KillDesk:
    """A desk whose runbook asks for a kernel that cannot be started: all of a run but the kernel, in a moment."""
    spec = tmp_path / "home/.local/share/jupyter/kernels/stillborn"
    spec.mkdir(parents=True)
    argv = ["x" * 200_000]  # no system takes an argument that long: nothing is started at all
    (spec / "kernel.json").write_text(json.dumps({"argv": argv, "display_name": "stillborn", "language": "python"}))
    cells = [LOAD, parameters(TRIAL), code("print('never')")]
    (tmp_path / "book.ipynb").write_text(notebook_text(cells, kernel="stillborn"))
    return KillDesk(tmp_path, engine, runtime)


@pytest.fixture
def desk(tmp_path: Path, runtime: Path, engine: Bench, sshd: Sshd) -> KillDesk:
    """A desk whose runbook prints, starts a process, and changes three targets, each of which counts."""
    (tmp_path / "home").mkdir()
    sshd.inventory(TARGETS, tmp_path / "hosts.ini")
    (tmp_path / "opsbook.toml").write_text('inventory = ["hosts.ini"]\n')
    mark = f"8{secrets.randbelow(10**9)}.{secrets.randbelow(10**9)}"  # seconds nobody else sleeps
    count = f'cd {tmp_path}; echo "$trial" CELL "$OPSBOOK_TARGET" >> counter; echo done; sleep 0.1'
    cells = [
        LOAD,
        parameters(TRIAL),
        code(
            f"""
            import subprocess
            subprocess.Popen(["sleep", "{mark}"])
            subprocess.Popen(["sleep", "{mark}"], start_new_session=True, cwd="/")
            print("one", flush=True)
            """,
            cell_id="local",
        ),
        code(f"%%on web\n{count.replace('CELL', 'first')}", cell_id="first"),
        code("record('seen', len(targets('web').run('true', read_only=True).ok))", cell_id="asks"),
        code(f"%%on web --waves 1,2\n{count.replace('CELL', 'second')}", cell_id="second"),
        code("print('two')", cell_id="last"),
    ]
    (tmp_path / "book.ipynb").write_text(notebook_text(cells))
    return KillDesk(tmp_path, engine, runtime, mark=mark)


# without a kernel: every write there is


def dry_pass(desk: KillDesk) -> Trace:
    """Return what a run does in a home it knows and an archive that is not there."""
    desk.trial()
    desk.forget()
    return desk.trial().trace


def test_what_a_run_says_is_on_disk_when_it_says_it(stillborn: KillDesk) -> None:
    trial = stillborn.trial()
    assert trial.trace.of("told"), trial
    assert trial.trace.of("replace", "run.json"), trial
    trial.check()


def test_a_run_killed_at_any_write_leaves_the_truth(stillborn: KillDesk) -> None:
    points = sample(dry_pass(stillborn).sites, ENDS, random.Random(SEED))
    assert len(points) > 60
    for number, point in enumerate(points[:QUICK]):
        stillborn.forget()
        trial = stillborn.trial(**point)
        assert trial.killed, trial
        trial.check()
        if number % CHAIN == 0:
            trial.check_shown()


def test_a_disk_that_fails_at_any_write_is_never_trusted_again(stillborn: KillDesk) -> None:
    points = sample(dry_pass(stillborn).sites, (How.FULL, How.BROKEN), random.Random(SEED))
    assert len(points) > 40
    for point in points[:QUICK]:
        stillborn.forget()
        trial = stillborn.trial(**point)
        check_failed(trial, otherwise=2)


def test_a_write_that_takes_a_part_is_gone_on_with(stillborn: KillDesk) -> None:
    whole = dry_pass(stillborn)
    for point in sample(whole.sites, (How.SHORT,), random.Random(SEED))[:QUICK]:
        stillborn.forget()
        trial = stillborn.trial(**point)
        trial.check()
        assert (trial.ran.code, trial.trace.sites.keys()) == (2, whole.sites.keys()), trial


def check_failed(trial: Trial, *, otherwise: int) -> None:
    """The run says that the archive failed, and the archive says so too; what had nothing to lose may fail unheard."""
    trial.check()
    failed = [number for number, entry in enumerate(trial.trace.entries) if "error" in entry]
    if not failed:
        return  # it never came to that write
    entry, before = trial.trace.entries[failed[0]], trial.trace.entries[: failed[0]]
    is_ours = entry["path"].startswith(str(trial.desk.archive))
    if re.search(r":(is_held|release) ", entry["site"]):
        return  # another run, which counts as living when nobody can tell; room that nobody needed more of
    if is_ours and not is_of_copy(entry, before) and not was_synced(entry, before):
        assert trial.ran.code in {5, otherwise or 5}, trial  # of a run that could not start either is true
        assert "error" in trial.ran.err or "cannot" in trial.ran.out, trial
    elif is_ours:
        assert trial.ran.code in {5, otherwise}, trial


def is_of_copy(entry: JsonObject, before: Sequence[JsonObject]) -> bool:
    """Whether a call was for the executed copy, which is written again at the end."""
    named = [crash.kind(one["to"]) for one in before if one["call"] == "replace" and "to" in one]
    return "copy" in {crash.kind(entry["path"]), *(named[-1:] if "sync_folder" in entry["site"] else [])}


def was_synced(entry: JsonObject, before: Sequence[JsonObject]) -> bool:
    """Whether a sync came after another, with nothing written between."""
    calls = [one["call"] for one in before if one.get("path") == entry["path"] and one["call"] in {"write", "fsync"}]
    return entry["call"] == "fsync" and calls[-1:] == ["fsync"]


def test_a_power_cut_at_any_moment_takes_nothing_that_was_promised(stillborn: KillDesk, tmp_path: Path) -> None:
    stillborn.trial()
    stillborn.forget()
    trial = stillborn.trial(keep=True)
    assert check_cuts(trial.trace, stillborn.archive, tmp_path, ended_as=trial.truth) > 50


def test_a_power_cut_at_any_moment_of_a_real_run_takes_nothing_that_was_promised(
    desk: KillDesk, tmp_path: Path
) -> None:
    trial = desk.trial(keep=True)
    trial.check()
    assert check_cuts(trial.trace, desk.archive, tmp_path, ended_as="succeeded") > 100


@pytest.mark.parametrize("lane", range(LANES))
def test_a_run_killed_at_any_moment_leaves_the_truth_and_the_next_one_needs_no_help(desk: KillDesk, lane: int) -> None:
    kill(desk, KILLS // LANES, random.Random(SEED + lane))


@pytest.mark.parametrize("nth", [1, 2])
def test_while_an_intent_is_on_its_way_to_the_disk_its_command_is_not_sent(desk: KillDesk, nth: int) -> None:
    trial = desk.trial(site="write events.jsonl", text='"type":"intent"', nth=nth, how=How.STALL)
    assert trial.killed, trial
    trial.check()


FAULTS = [
    ("fsync events.jsonl", 2, How.BROKEN),
    ("fsync events.jsonl", 3, How.BROKEN),
    ("write events.jsonl", 7, How.FULL),
]


@pytest.mark.parametrize(("site", "nth", "how"), FAULTS)
def test_when_the_disk_fails_in_the_middle_nothing_more_is_sent(desk: KillDesk, site: str, nth: int, how: How) -> None:
    trial = desk.trial(site=site, nth=nth, how=how)
    assert [one for one in trial.trace.entries if "error" in one], trial
    check_failed(trial, otherwise=0)
    counter = desk.folder / "counter"
    assert not counter.exists() or "second" not in counter.read_text()
    desk.trial().check_swept()


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_thousands_of_kills_at_a_write_or_at_any_moment_leave_the_truth(stillborn: KillDesk) -> None:
    moments = random.Random(SEED)
    points = sample(dry_pass(stillborn).sites, ENDS, moments)
    for number in range(QUICK_SOAK):
        stillborn.forget()
        point = points[number] if number < len(points) else {"kill_after_s": moments.uniform(0, 0.1)}
        stillborn.trial(**point).check()
    for point in sample(dry_pass(stillborn).sites, (How.FULL, How.BROKEN), moments):
        stillborn.forget()
        check_failed(stillborn.trial(**point), otherwise=2)


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_a_disk_that_fails_at_any_write_of_a_real_run_is_never_trusted_again(desk: KillDesk) -> None:
    for point in sample(desk.trial().trace.sites, (How.FULL, How.BROKEN, How.STALL), random.Random(SEED)):
        trial = desk.trial(**point)
        if trial.killed:
            trial.check()
        else:
            check_failed(trial, otherwise=0)
        desk.trial().check_swept()


@pytest.mark.soak
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("lane", range(LANES))
def test_a_thousand_kills_leave_the_truth(desk: KillDesk, lane: int) -> None:
    kill(desk, SOAK_KILLS // LANES, random.Random(SEED + lane))


def kill(desk: KillDesk, times: int, moments: random.Random) -> None:
    """Kill runs, half of them at a moment and half of them at a write, and let one in a while go to its end."""
    begun = time.monotonic()
    whole = desk.trial()
    took = time.monotonic() - begun
    whole.check()
    assert whole.ran.code == 0, whole
    points = sample(whole.trace.sites, (*ENDS, How.STALL), moments)
    for number in range(times):
        at_a_write = number % 2
        how = points.pop() if at_a_write and points else {"kill_after_s": moments.uniform(0, took * 1.1)}
        trial = desk.trial(**how)
        trial.check()
        if number % CHAIN == 0:
            trial.check_shown()
        if number % CHAIN == CHAIN - 1 or number == times - 1:
            last = desk.trial()
            last.check()
            last.check_swept()
