"""`opsbook archive prune`: what goes, what stays and why, what the archive says after, and being stopped in it."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from archived import make_record, mode, python, said
from support import Desk, code

from opsbook.archive import chain as chaining
from opsbook.archive.catch_up import ask_archive
from opsbook.archive.claimed import ClaimedRun
from opsbook.archive.history import iter_runs
from opsbook.archive.journal import Journal
from opsbook.archive.layout import LOCK, RunFolder, run_folder
from opsbook.archive.prune import TRASH, prune_runs
from opsbook.archive.retention import Judgement, Keep, judge_runs
from opsbook.archive.selection import count_items
from opsbook.archive.succession import note_acknowledged, succeeding
from opsbook.archive.verify import Verdict, Verification, verify_archive
from opsbook.errors import ArchiveError, BusyError
from opsbook.locks.lock_file import Holder
from opsbook.model import event as e
from opsbook.model.run import RunState
from opsbook.redaction import Redactor

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
DAY = 86400.0
KEEP = Keep(succeeded_s=14 * DAY, failed_s=90 * DAY)
STOPPED = RunState.INTERRUPTED


def leave(
    root: Path, days: float, status: RunState = RunState.SUCCEEDED, *, changed: str = "", **more: Any
) -> RunFolder:
    """Leave a run that ended so many days ago as the runner does; `changed` is a target it sent a change to."""
    at = NOW - timedelta(days=days)
    run_id = f"{at:%Y%m%dT%H%M%SZ}-patch-{len(list(iter_runs(root))):06x}"
    folder = run_folder(root, run_id)
    files = ClaimedRun(folder, record=msgspec.json.encode(make_record(run_id)), runbook=b"{}")
    journal = Journal(folder.journal, Redactor())
    journal.append([e.RunStarted(run_id=run_id, title="Patch")], durable=True)
    if changed:
        intent = e.Intent(call=1, cell_id="a", target=changed, digest="0", kind="run")
        journal.append([intent], durable=True)
    folder.copy.write_bytes(b"{}")
    record = msgspec.structs.replace(make_record(run_id, status, **more), started_at=at, ended_at=at)
    files.finish(msgspec.json.encode(record), journal=journal.head, copy=chaining.digest_of(b"{}"))
    journal.close()
    files.release()
    return folder


def judge(root: Path, keep: Keep = KEEP, held: Mapping[str, str] | None = None) -> Judgement:
    return judge_runs(root, keep, now=NOW, held=held or {})


def leaving(root: Path, keep: Keep = KEEP) -> list[str]:
    return [one.run_id for one in judge(root, keep).leaving]


def prune(root: Path, keep: Keep = KEEP) -> list[str]:
    return [one.problem for one in prune_runs(root, judge(root, keep).leaving, by="maya on ops1")]


def there(root: Path) -> set[str]:
    return {run.folder.run_id for run in iter_runs(root)}


def told(found: Verification) -> list[tuple[str, str]]:
    return [(one.verdict.value, one.what) for one in found.findings]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "archive"


# what goes and what stays


def test_runs_go_when_they_are_older_than_they_are_kept_and_each_kind_by_its_own_rule(root: Path) -> None:
    old, young = leave(root, 15), leave(root, 13)
    ends = [status for status in RunState if status not in {RunState.RUNNING, RunState.SUCCEEDED, RunState.UNKNOWN}]
    old_failed = [leave(root, 91 + number, status) for number, status in enumerate(ends)]
    young_failed = [leave(root, 89 - number, status) for number, status in enumerate(ends)]
    assert set(leaving(root)) == {old.run_id, *(one.run_id for one in old_failed)}
    assert leaving(root) == sorted(leaving(root)), "the oldest first"
    assert leaving(root, Keep()) == []
    assert leaving(root, Keep(succeeded_s=DAY)) == [old.run_id, young.run_id]
    assert len(leaving(root, Keep(failed_s=DAY))) == 2 * len(ends)
    assert prune(root) == [""] * (1 + len(ends))
    assert there(root) == {young.run_id, *(one.run_id for one in young_failed)}


def test_a_run_that_lives_stays(root: Path) -> None:
    folder = leave(root, 100)
    holder = python(
        "import fcntl, sys; f = open(sys.argv[1]); fcntl.flock(f, fcntl.LOCK_EX); print('held', flush=True); input()",
        folder.path / LOCK,
    )
    assert said(holder) == "held"
    assert [one.stays for one in judge(root).staying] == ["it is running"]
    holder.communicate("\n")
    assert leaving(root) == [folder.run_id]


def test_a_run_that_comes_to_life_after_it_was_judged_stays(root: Path) -> None:
    folder = leave(root, 100, RunState.FAILED)
    judged = judge(root).leaving
    with succeeding(folder, "20261120T115900Z-patch-abcdef"):
        (done,) = prune_runs(root, judged, by="maya")
        assert done.problem == "it is running, or is being resumed"
    newer = leave(root, 0, RunState.FAILED, resumed_from=folder.run_id)
    (folder.path / "resumed-by").write_text(newer.run_id)
    (done,) = prune_runs(root, judged, by="maya")
    assert done.problem == "another run took up what it left meanwhile"
    assert there(root) == {folder.run_id, newer.run_id}
    assert told(verify_archive(root)) == []


def test_what_a_run_left_in_the_middle_keeps_it_until_somebody_settles_it(root: Path) -> None:
    harmless = leave(root, 99, STOPPED)
    for status in (STOPPED, RunState.TIMED_OUT, RunState.LOST):
        leave(root, 98, status, changed="db1")
    failed = leave(root, 97, RunState.FAILED, changed="db1")
    dry = leave(root, 96, STOPPED, changed="db1", checking=True)
    judged = judge(root)
    assert [one.run_id for one in judged.leaving] == [harmless.run_id, failed.run_id, dry.run_id]
    assert {one.stays for one in judged.staying} == {
        "it was stopped in the middle of db1: resume it, or --acknowledge it in a run"
    }
    (first, *_) = judged.staying
    by = leave(root, 95)
    note_acknowledged(run_folder(root, first.run_id), by.run_id)
    assert first.run_id in leaving(root)


def test_a_resumed_run_that_was_stopped_again_stays_for_what_the_first_one_changed(root: Path) -> None:
    first = leave(root, 99, STOPPED, changed="db1")
    second = leave(root, 98, STOPPED, resumed_from=first.run_id)
    (first.path / "resumed-by").write_text(second.run_id)
    stays = {one.run_id: one.stays for one in judge(root).staying}
    assert stays[second.run_id].startswith("it was stopped in the middle of db1")
    assert stays[first.run_id] == f"run {second.run_id}, which stays, goes on from it"


def test_what_a_run_that_can_be_resumed_goes_on_from_stays_with_it(root: Path) -> None:
    line = [leave(root, 93, RunState.FAILED)]
    for days in (92, 91, 1):
        line.append(leave(root, days, RunState.FAILED, resumed_from=line[-1].run_id))
        (line[-2].path / "resumed-by").write_text(line[-1].run_id)
    assert leaving(root) == []
    assert leaving(root, Keep(failed_s=DAY / 2)) == [one.run_id for one in line]
    well = leave(root, 0.5, resumed_from=line[-1].run_id)
    (line[-1].path / "resumed-by").write_text(well.run_id)
    assert leaving(root, Keep(failed_s=DAY / 2)) == [one.run_id for one in line], "nobody resumes what went well"


def test_a_run_that_took_up_what_another_left_stays_with_it_or_it_could_be_resumed_twice(root: Path) -> None:
    failed = leave(root, 30, RunState.FAILED)
    well = leave(root, 29, resumed_from=failed.run_id)
    (failed.path / "resumed-by").write_text(well.run_id)
    (stays,) = judge(root).staying
    assert (stays.run_id, stays.stays) == (
        well.run_id,
        f"it took up what run {failed.run_id}, which stays, had left",
    )
    keep = Keep(succeeded_s=DAY, failed_s=DAY)
    assert leaving(root, keep) == [failed.run_id, well.run_id], "both, the one that was taken up first"


def test_what_somebody_holds_stays_and_so_does_what_cannot_be_read_or_was_altered(root: Path) -> None:
    held, altered, damaged, newer, linked = (leave(root, 100 + number) for number in range(5))
    record = msgspec.json.decode(newer.record.read_bytes())
    altered.copy.write_bytes(b'{"other": 1}')
    damaged.record.write_bytes(b"{")
    newer.record.write_bytes(msgspec.json.encode({**record, "schema": 99}))
    linked.path.rename(root.parent / "elsewhere")
    linked.path.symlink_to(root.parent / "elsewhere")
    judged = judge(root, held={held.run_id: "note 1 is about it"})
    assert judged.leaving == ()
    assert {one.run_id: one.stays for one in judged.staying} == {
        held.run_id: "note 1 is about it",
        newer.run_id: "a newer opsbook wrote it: prune with that one",
    }
    problems = {one.run_id: one.problem for one in judged.damaged}
    assert problems.keys() == {altered.run_id, damaged.run_id, linked.run_id}
    assert problems[altered.run_id] == f"{altered.copy.name} was changed"
    assert problems[linked.run_id] == "its folder is a link"


def test_no_link_is_followed_to_what_is_taken_away(root: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    (outside / "kept").mkdir(parents=True)
    first, second = leave(root, 100), leave(root, 200)
    (first.path / "hosts/leads").symlink_to(outside)
    (first.path / "events").symlink_to(outside / "kept")
    judged = judge(root).leaving
    second.path.parent.rename(tmp_path / "day")
    second.path.parent.symlink_to(tmp_path / "day")
    assert "a folder above it is a link" in {one.stays for one in judge(root).staying}
    done = {one.run_id: one.problem for one in prune_runs(root, judged, by="maya")}
    assert done[first.run_id] == ""
    assert done[second.run_id], "though it was judged before there was a link"
    assert (outside / "kept").is_dir()
    assert (tmp_path / "day" / second.run_id / "run.json").is_file()


# what the archive says of it


def test_the_chain_says_who_pruned_what_and_when_and_the_archive_is_well(root: Path) -> None:
    gone = [leave(root, days) for days in (40, 41, 42)]
    stays = leave(root, 1)
    prune(root)
    found = verify_archive(root)
    assert found.is_well
    assert (found.runs, found.pruned) == (1, 3)
    ((verdict, what),) = told(found)
    assert (verdict, bool(re.fullmatch(r"3 runs pruned on \d{4}-\d\d-\d\d by maya on ops1", what))) == ("pruned", True)
    assert told(verify_archive(root, only=gone[0].run_id)) == [("pruned", what.removeprefix("3 runs "))]
    shutil.rmtree(stays.path)
    assert (Verdict.WRONG.value, "its folder is gone") in told(verify_archive(root)), "nobody pruned that one"


def test_a_pruned_run_that_is_put_back_is_told_and_one_put_back_otherwise_is_wrong(root: Path, tmp_path: Path) -> None:
    folder = leave(root, 40)
    shutil.copytree(folder.path, tmp_path / "kept")
    prune(root)
    shutil.copytree(tmp_path / "kept", folder.path)
    ((verdict, what),) = told(verify_archive(root))
    assert verdict == Verdict.INTERRUPTED
    assert what.endswith("and is still there, or there again")
    folder.copy.write_bytes(b"{1}")
    assert not verify_archive(root).is_well


def test_the_index_forgets_pruned_runs_and_empty_days_go(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = leave(root, 40)
    leave(root, 1)
    assert ask_archive(root, count_items)[0] == 2
    prune(root)
    assert ask_archive(root, count_items)[0] == 1
    assert not folder.path.parents[1].exists()
    assert [one.name for one in (root / TRASH).iterdir()] == [LOCK]
    assert mode(root / TRASH) == 0o700


# being stopped

STOPPER = """
import os, signal, sys
from datetime import UTC, datetime
from pathlib import Path
from opsbook.archive import prune
from opsbook.archive.retention import Keep, judge_runs
root, place = Path(sys.argv[1]), sys.argv[2]
def stop(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)
real = os.rename
def rename(*a, **k):
    if place == "before the move":
        stop()
    real(*a, **k)
    if place == "after the move":
        stop()
os.rename = rename
if place == "before the line":
    prune.append_line = stop
if place == "in the middle of deleting":
    def unlink(*a, **k):
        stop()
    os.unlink = unlink
now = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
prune.prune_runs(root, judge_runs(root, Keep(succeeded_s=1.0), now=now, held={}).leaving, by="maya on ops1")
"""


@pytest.mark.parametrize("place", ["before the line", "before the move", "after the move", "in the middle of deleting"])
def test_wherever_pruning_is_killed_the_archive_is_well_and_the_next_one_finishes(root: Path, place: str) -> None:
    for days in (40, 41):
        leave(root, days)
    killed = subprocess.run([sys.executable, "-c", STOPPER, str(root), place], check=False, timeout=60)
    assert killed.returncode == -signal.SIGKILL
    assert verify_archive(root).is_well
    left = 2 if place.startswith("before") else 1
    assert len(there(root)) == left
    assert prune(root) == [""] * left
    assert there(root) == set()
    assert [one.name for one in (root / TRASH).iterdir()] == [LOCK]
    found = verify_archive(root)
    assert (found.is_well, found.pruned) == (True, 2)


def test_two_do_not_prune_at_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leave(root, 40)
    judged = judge(root).leaving
    prune_runs(root, (), by="maya")
    (root / TRASH).mkdir(mode=0o700)
    holder = python(
        "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.flock(f, 2); print('held', flush=True); input()",
        root / TRASH / LOCK,
    )
    assert said(holder) == "held"
    monkeypatch.setattr("opsbook.archive.prune._GLANCE_S", 0.05)
    with pytest.raises(BusyError, match="somebody else is pruning"):
        prune_runs(root, judged, by="maya")
    holder.communicate("\n")
    assert len(there(root)) == 1


def test_where_the_chain_cannot_be_written_nothing_goes(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leave(root, 40)

    def fail(*_: object, **__: object) -> None:
        raise ArchiveError("the disk is full")

    monkeypatch.setattr("opsbook.archive.prune.append_line", fail)
    with pytest.raises(ArchiveError, match="disk is full"):
        prune(root)
    assert len(there(root)) == 1


# the command


def test_the_command_says_what_goes_asks_and_takes_it_away(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.notebook(code("print('well')"), name="well.ipynb")
    assert desk.opsbook("run", "well.ipynb").code == 0
    run = desk.run()
    nothing = desk.opsbook("archive", "prune")
    assert (nothing.code, "--keep 14d" in nothing.err) == (2, True)
    young = desk.opsbook("archive", "prune", "--keep", "1h", "--keep-failed", "1h", "--json")
    assert (young.code, young.json["pruned"], young.json["young"]) == (0, [], 1)
    desk.write("opsbook.toml", '[retention]\nkeep = "1ms"\n')
    dry = desk.opsbook("archive", "prune", "--dry-run")
    assert (dry.code, run.folder.name in dry.out, "1 run to prune" in dry.out) == (0, True, True)
    asked = desk.opsbook("archive", "prune")
    assert (asked.code, "--yes agrees" in asked.err, run.folder.exists()) == (3, True, True)
    noted = desk.opsbook("note", "add", run.folder.name, "-m", "evidence of incident 4711")
    assert noted.code == 0, noted.err
    kept = desk.opsbook("archive", "prune", "--yes", "--json").json
    assert (kept["pruned"], "is about it" in kept["kept"][0]["why"]) == ([], True)
    (note,) = (desk.folder / "notes").iterdir()
    note.unlink()
    place = desk.folder / "home/.local/state/opsbook/locks"
    place.mkdir(parents=True)
    holder = Holder(run_id=run.folder.name, user="maya", host="ops1", pid=1, since=NOW, place="db1:22")
    (place / "target-0.lock").write_bytes(msgspec.json.encode(holder))
    assert "a lock names it" in desk.opsbook("archive", "prune", "--yes").out
    (place / "target-0.lock").unlink()
    done = desk.opsbook("archive", "prune", "--yes")
    assert (done.code, "pruned 1 run" in done.out, run.folder.exists()) == (0, True, False)
    verified = desk.opsbook("archive", "verify")
    assert (verified.code, "1 run pruned on" in verified.out, "0 runs, 1 pruned," in verified.out) == (0, True, True)
    (desk.folder / "notes" / "20261120-broken-abcdef.md").write_text("no front matter")
    assert desk.opsbook("archive", "prune", "--yes").code == 3
