"""Locks (SEMANTICS 23): no two runs change one target at once, and what a run leaves in the middle stays marked."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import Sshd
from forks import Forked
from locking import ask, locks
from support import LOAD, Desk, code, finish, wait_for

from opsbook.errors import RefusedError
from opsbook.execution.marks import Marks, ancestors, clear_marks, refuse_marked
from opsbook.locks.folder import LockFolder, lock_folder
from opsbook.model.run import RunState

NAMES = {f"web{number}": f"127.0.7.{number}" for number in range(1, 5)} | {"twin": "127.0.7.1"}
HOLD = 'touch "$marks/begun-$OPSBOOK_TARGET"; until [ -e "$marks/go" ]; do sleep 0.1; done'
"""A command that says that it is there, and waits to be let go."""


@pytest.fixture
def desk(tmp_path: Path, sshd: Sshd) -> Desk:
    sshd.inventory(NAMES, tmp_path / "hosts.ini")
    (tmp_path / "marks").mkdir()
    made = Desk(tmp_path)
    made.write("opsbook.toml", 'inventory = ["hosts.ini"]\n')
    return made


@pytest.fixture
def addresses(sshd: Sshd) -> dict[str, str]:
    return {name: f"{host}:{sshd.port}" for name, host in NAMES.items()}


def locks_of(desk: Desk) -> LockFolder:
    return lock_folder(None, desk.environment)


def changing(desk: Desk, line: str, *script: str, name: str) -> Path:
    """A runbook of one change; every target it reaches is noted under `marks`."""
    body = "\n".join((f'marks={desk.folder}/marks; touch "$marks/{name}-$OPSBOOK_TARGET"', *script))
    return desk.notebook(LOAD, code(f"%%on {line}\n{body}", cell_id="changes"), name=f"{name}.ipynb")


def reached(desk: Desk, name: str) -> set[str]:
    return {path.name.removeprefix(f"{name}-") for path in (desk.folder / "marks").glob(f"{name}-*")}


def wait_while_running(process: Forked, holds: Callable[[], object]) -> None:
    wait_for(lambda: holds() or process.poll() is not None, seconds=60)
    assert process.poll() is None, process.communicate()


@contextmanager
def holding(desk: Desk, line: str) -> Iterator[Forked]:
    """A run that is in the middle of its first command; the caller lets it go, or kills it."""
    book = changing(desk, line, HOLD, name="holds")
    process = desk.fork("run", book)
    try:
        wait_while_running(process, lambda: reached(desk, "begun"))
        yield process
    finally:
        (desk.folder / "marks/go").touch()
        process.kill()
        process.communicate()


def test_a_target_is_one_runs_alone(desk, addresses):
    """One run holds what its waves will reach; others are told by whom, wait, or leave it, as they were asked to."""
    alias, other = changing(desk, "twin", name="alias"), changing(desk, "web3", name="other")
    late = desk.notebook(
        LOAD,
        code(f"%%on web4\ntouch {desk.folder}/marks/late-$OPSBOOK_TARGET"),
        code("%%on web1 --read-only\ntrue", cell_id="looks"),
        code(f"%%on web1\ntouch {desk.folder}/marks/late-$OPSBOOK_TARGET", cell_id="changes"),
        name="late.ipynb",
    )
    with holding(desk, "web1:web2:web3 --waves 1,100%") as holder:
        held = desk.runs()[0]
        assert {name for name in NAMES if locks_of(desk).is_held(addresses[name])} == {*NAMES} - {"web4"}
        who = f"is held by run {held.folder.name} of "
        busy = desk.opsbook("run", alias, "--json")
        assert (busy.code, busy.json["status"]) == (75, "refused"), "two names of one machine are one lock"
        assert f"twin {who}" in busy.json["reason"]
        failed = desk.opsbook("run", late, "--json")
        assert (failed.code, failed.json["status"]) == (1, "failed"), failed
        assert f'cell "%%on web1" raised BusyError: web1 {who}' in failed.json["reason"]
        assert desk.run_of(failed).states["looks"] == "ok"
        assert desk.opsbook("run", other, "--check").code == 0
        assert by_hand(desk).stderr.startswith(f"warning: web1 {who}")
        listed = json.loads(desk.opsbook("locks", "--json").out)
        assert [(one["state"], one["targets"]) for one in listed] == [("held", [f"web{n}"]) for n in (1, 2, 3)]
        stopping = desk.fork("run", other, "--wait-lock", "10m")
        assert f"waiting: web3 {who}" in line_with(stopping, "waiting: ")
        stopping.send_signal(signal.SIGTERM)
        stopped = finish(stopping, seconds=30)
        assert stopped.code == 128 + signal.SIGTERM, stopped
        assert (reached(desk, "other"), reached(desk, "alias"), reached(desk, "late")) == (set(), set(), {"web4"})
        waiting = desk.fork("run", other, "--wait-lock", "5m")
        assert f"waiting: web3 {who}" in line_with(waiting, "waiting: ")
        (desk.folder / "marks/go").touch()
        assert finish(holder).code == 0
        assert finish(waiting).code == 0
    assert [len(run.events("lock_awaited")) for run in desk.runs() if "-other-" in run.folder.name] == [0, 1, 1]
    assert reached(desk, "other") == {"web3"}
    assert not [name for name in NAMES if locks_of(desk).is_held(addresses[name])]
    assert list(locks_of(desk).named()) == [], "whoever ended well has left no mark"


def line_with(process: Forked, text: str) -> str:
    """Read what a command says on stderr up to the line that has a text in it."""
    assert process.stderr is not None
    return next(line for line in process.stderr if text in line)


def by_hand(desk: Desk) -> subprocess.CompletedProcess[str]:
    """A notebook without a runner changes something."""
    script = f"from opsbook import targets\nprint(targets('web1').run('touch {desk.folder}/marks/hand').ok.names)"
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=desk.folder,
        env=desk.environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "('web1',)\n"
    return done


def test_a_killed_run_frees_its_targets_and_leaves_its_mark(desk, addresses, tmp_path):
    with holding(desk, "web1:web2 --waves 1") as process:
        left = desk.run().folder.name
        assert desk.opsbook("exec", "web2", "--acknowledge", left, "true").code == 75, "it still runs"
        process.kill()
        process.wait(30)
        wait_for(lambda: not locks_of(desk).is_held(addresses["web1"]), seconds=5)
    head, row, *ways = desk.opsbook("locks").out.splitlines()
    assert [way.split()[-3:] for way in ways] == [["opsbook", "resume", left], ["…", "--acknowledge", left]]
    assert (head.split()[:2], row.split()) == (["left", left], ["web1", addresses["web1"]])
    sentence = f"left in the middle by run {left}; resume it, or --acknowledge {left}"
    book = changing(desk, "web1:web2", name="again")
    kernels, runs = len(desk.kernels()), len(desk.runs())
    refused = desk.opsbook("run", book)
    assert refused.code == 3
    assert f"error: web1 was {sentence}\nhint:  opsbook locks" in refused.err
    assert (len(desk.kernels()), len(desk.runs())) == (kernels, runs), "its line says so before anything starts"
    python = desk.notebook(LOAD, code('targets("twin").run("true")', cell_id="asks"), name="python.ipynb")
    asked = desk.opsbook("run", python, "--json")
    assert (asked.code, asked.json["status"]) == (3, "refused")
    assert asked.json["reason"] == f"twin was {sentence}"
    assert desk.run_of(asked).events("intent", "call_started") == []
    assert desk.opsbook("exec", "web2", "true").code == 0, "nothing had been sent there"
    assert desk.opsbook("run", book, "--check", "--acknowledge", left).code == 2
    assert desk.opsbook("run", book, "--acknowledge", desk.runs()[-1].folder.name).code == 3, "that is not the run"
    assert desk.opsbook("run", book, "--acknowledge", "nobody").code == 2
    resumed_run_takes_its_ancestors_marks(locks_of(desk), addresses, tmp_path / "archive", left)
    on = desk.opsbook("run", book, "--acknowledge", left, "--json")
    assert on.code == 0, on
    assert f"what run {left} left in the middle was acknowledged (--acknowledge)" in on.json["notes"]
    assert [event["targets"] for event in desk.run_of(on).events("marks_cleared")] == [["web1"]]
    assert reached(desk, "again") == {"web1", "web2"}
    assert list(locks_of(desk).named()) == []


def resumed_run_takes_its_ancestors_marks(
    folder: LockFolder, addresses: dict[str, str], archive: Path, left: str
) -> None:
    """A run that resumes the killed one may change its targets; while it does not end well, they stay marked."""
    assert ancestors(archive, left) == {left}
    wanted = {"web1": addresses["web1"]}
    for run_id, end in (("a", RunState.REFUSED), ("b", RunState.INTERRUPTED), ("c", RunState.UNKNOWN)):
        mine = locks(folder, run_id, archive=archive, resumes=left)
        assert ask(mine, wanted) == ""
        mine.end(end)
        ((_, holder),) = folder.named()
        assert (holder.run_id, holder.inherited) == (run_id, left)
        with pytest.raises(RefusedError, match=f"web1 was left in the middle by run {run_id}, which cannot be read in"):
            refuse_marked(folder, wanted, Marks())
        refuse_marked(folder, wanted, Marks(frozenset({left})))
    assert "left in the middle" in ask(locks(folder, "stranger", archive=archive), wanted)


def test_a_run_that_was_stopped_leaves_a_mark_and_one_that_failed_leaves_none(desk, addresses):
    failing = changing(desk, "web2", "false", name="fails")
    assert desk.opsbook("run", failing).code == 1
    assert list(locks_of(desk).named()) == []
    with holding(desk, "web1") as process:
        left = desk.runs()[-1].folder
        process.terminate()
        assert process.wait(40) == 128 + signal.SIGTERM
    refused = desk.opsbook("exec", "web1", "true")
    assert refused.code == 3
    assert f"web1 was left in the middle by run {left.name}; resume it" in refused.err
    shutil.rmtree(left)
    refused = desk.opsbook("exec", "web1", "true")
    assert refused.code == 3
    assert f"by run {left.name}, which cannot be read in {desk.folder}/archive any more; --ack" in refused.err
    assert clear_marks(locks_of(desk), frozenset({left.name})) == ("web1",)
    refuse_marked(locks_of(desk), addresses, Marks())


def test_a_named_lock_is_held_for_a_whole_run_and_a_run_left_out_is_recorded(desk):
    wait = """
        import pathlib, time
        pathlib.Path("marks/here").touch()
        while not pathlib.Path("marks/go").exists():
            time.sleep(0.1)
    """
    slow = desk.notebook(code(wait), name="slow.ipynb")
    book = desk.notebook(code("1"), name="quick.ipynb")
    first = desk.fork("run", slow, "--lock", "nightly")
    try:
        wait_while_running(first, (desk.folder / "marks/here").exists)
        kernels = len(desk.kernels())
        (holder,) = desk.runs()
        skipped = desk.opsbook("run", book, "--lock", "nightly", "--quiet", "--run-id", "tonight")
        assert (skipped.code, skipped.out, len(desk.kernels())) == (75, "", kernels)
        who = f"lock 'nightly' is held by run {holder.folder.name} of "
        (line,) = skipped.err.splitlines()
        assert line.startswith(f"error: {who}")
        (run,) = (run for run in desk.runs() if run.folder != holder.folder)
        assert (run.record["status"], run.record["exit_code"]) == ("refused", 75)
        assert run.record["reason"].startswith(who)
        assert set(run.states.values()) == {"not_run"}
        assert "refused" in desk.opsbook("runs").out
        assert desk.opsbook("run", book, "--lock", "nightly", "--check").code == 0
        waits = ("run", book, "--lock", "nightly", "--wait-lock", "5m")
        stopping, waiting = desk.fork(*waits), desk.fork(*waits, "--run-id", "tonight")
        assert f"waiting: {who}" in line_with(stopping, "waiting: ")
        stopping.terminate()
        assert finish(stopping).code == 128 + signal.SIGTERM
        assert f"waiting: {who}" in line_with(waiting, "waiting: ")
        (desk.folder / "marks/go").touch()
        assert finish(first).code == 0
        assert finish(waiting).code == 0
    finally:
        first.kill()
        finish(first)


def test_nothing_a_notebook_starts_inherits_a_lock(desk, addresses):
    looks = """
        import json, os, pathlib, subprocess
        def locks(pid):
            links = (os.readlink(link) for link in pathlib.Path(f"/proc/{pid}/fd").iterdir() if link.is_symlink())
            return sum(link.endswith(".lock") for link in links)
        (record,) = pathlib.Path("archive").glob("*/*/*/*/run.json")
        runner = json.loads(record.read_bytes())["operator"]["pid"]
        targets("web1").run("true")
        child = subprocess.Popen(["sleep", "30"])
        print("held", locks(runner), locks(os.getpid()), locks(child.pid))
        targets("web1:web2").run("true")
        print("held", locks(runner))
        child.kill()
    """
    desk.notebook(LOAD, code(looks, cell_id="looks"))
    ran = desk.opsbook("run", "book.ipynb")
    assert ran.code == 0, ran
    assert desk.run().output("looks") == "held 1 0 0\nheld 2\n"
    assert not locks_of(desk).is_held(addresses["web1"])
