"""Locks (SEMANTICS 23): no two runs change one target at once, and what a run leaves in the middle stays marked."""

from __future__ import annotations

import fcntl
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from conftest import Sshd
from support import LOAD, Desk, code, finish, wait_for

from opsbook.config import load_settings
from opsbook.errors import RefusedError, UsageError
from opsbook.execution.locks import RunLocks
from opsbook.execution.marks import Marks, ancestors, clear_marks, refuse_marked, standing
from opsbook.fleet.channel import ChannelClient
from opsbook.locks.folder import LockFolder, lock_folder
from opsbook.locks.lock_file import Holder
from opsbook.model import message as m
from opsbook.model.event import Event
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


def wait_while_running(process: subprocess.Popen[str], holds: Callable[[], object]) -> None:
    wait_for(lambda: holds() or process.poll() is not None, seconds=60)
    assert process.poll() is None, process.communicate()


@contextmanager
def holding(desk: Desk, line: str) -> Iterator[subprocess.Popen[str]]:
    """A run that is in the middle of its first command; the caller lets it go, or kills it."""
    book = changing(desk, line, HOLD, name="holds")
    process = desk.start("run", book)
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
        stopping = desk.start("run", other, "--wait-lock", "10m")
        assert f"waiting: web3 {who}" in line_with(stopping, "waiting: ")
        stopping.send_signal(signal.SIGTERM)
        stopped = finish(stopping, seconds=30)
        assert stopped.code == 128 + signal.SIGTERM, stopped
        assert (reached(desk, "other"), reached(desk, "alias"), reached(desk, "late")) == (set(), set(), {"web4"})
        waiting = desk.start("run", other, "--wait-lock", "5m")
        assert f"waiting: web3 {who}" in line_with(waiting, "waiting: ")
        (desk.folder / "marks/go").touch()
        assert finish(holder).code == 0
        assert finish(waiting).code == 0
    assert [len(run.events("lock_awaited")) for run in desk.runs() if "-other-" in run.folder.name] == [0, 1, 1]
    assert reached(desk, "other") == {"web3"}
    assert not [name for name in NAMES if locks_of(desk).is_held(addresses[name])]
    assert list(locks_of(desk).named()) == [], "whoever ended well has left no mark"


def line_with(process: subprocess.Popen[str], text: str) -> str:
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
    head, row = desk.opsbook("locks").out.splitlines()
    assert (head.split()[:2], row.split()) == (["left", left], ["web1", addresses["web1"]])
    sentence = f"left in the middle by run {left}; resume it, or --acknowledge {left}"
    book = changing(desk, "web1:web2", name="again")
    kernels, runs = len(desk.kernels()), len(desk.runs())
    refused = desk.opsbook("run", book)
    assert refused.code == 3
    assert f"error: web1 was {sentence}" in refused.err
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
    first = desk.start("run", slow, "--lock", "nightly")
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
        stopping, waiting = desk.start(*waits), desk.start(*waits, "--run-id", "tonight")
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


def test_the_folder_of_the_locks_is_a_setting(tmp_path, monkeypatch):
    assert load_settings(tmp_path, {}).locks.path is None
    (tmp_path / "opsbook.toml").write_text('[locks]\npath = "shared"\n')
    assert load_settings(tmp_path, {}).locks.path == str(tmp_path / "shared")
    monkeypatch.chdir(tmp_path)
    assert load_settings(tmp_path, {"OPSBOOK_LOCKS": "here"}).locks.path == str(tmp_path / "here")
    (tmp_path / "opsbook.toml").write_text('[locks]\nfolder = "shared"\n')
    with pytest.raises(UsageError, match="unknown field `folder`"):
        load_settings(tmp_path, {})


# the locks alone, without kernels


def locks(folder: LockFolder, run_id: str, *, wait_s: float = 0, resumes: str | None = None, **more: Any) -> RunLocks:
    holder = Holder(
        run_id=run_id,
        archive=str(more.get("archive", folder.path)),
        user="maya",
        host="ops1",
        pid=1,
        since=datetime(2026, 11, 20, 11, 39, 58, tzinfo=UTC),
        place="",
    )
    report: Callable[[Event], None] = more.get("report", lambda _: None)
    mine = frozenset(filter(None, (resumes,)))
    return RunLocks(folder, holder=holder, ancestors=mine, wait_s=wait_s, report=report)


def ask(mine: RunLocks, targets: dict[str, str], *, ticket: int = 1) -> str:
    """Ask as a notebook does; return why not, or nothing."""
    answers: list[m.ToKernel] = []
    there = threading.Event()

    def answer(message: m.ToKernel) -> None:
        answers.append(message)
        there.set()

    mine.ask(m.LockRequest(ticket=ticket, cell_id=None, targets=targets), answer)
    assert there.wait(30)
    (only,) = answers
    return only.reason if isinstance(only, m.Refusal) else ""


@pytest.fixture
def folder(tmp_path: Path) -> LockFolder:
    return LockFolder(tmp_path / "locks")


def test_what_is_asked_for_is_granted_as_a_whole_or_not_at_all(folder):
    one, two = locks(folder, "one"), locks(folder, "two")
    assert ask(one, {"b": "b:22"}) == ""
    assert ask(two, {"a": "a:22", "b": "b:22", "c": "c:22"}).startswith("b is held by run one of maya on ops1, since ")
    assert not folder.is_held("a:22")
    assert ask(two, {"c": "c:22"}).startswith("b is held by"), "a run that has changed nothing is over then"
    assert (two.busy != "", two.refused) == (True, "")
    three = locks(folder, "three")
    three.note_change("z")
    assert "b is held by" in ask(three, {"b": "b:22"})
    assert (three.busy, ask(three, {"c": "c:22"})) == ("", "")
    assert folder.look("C:22").targets == ("c",)
    for run in (one, three):
        run.end(RunState.SUCCEEDED)
    wait_for(lambda: not any(folder.is_held(f"{name}:22") for name in "abc"), what="what nobody waits for any more")
    assert "the run is over" in ask(one, {"b": "b:22"})


@pytest.mark.parametrize("end", [RunState.FAILED, RunState.SUCCEEDED])
def test_a_run_that_resumed_another_clears_the_marks_it_settled_and_no_others(folder, end):
    left = locks(folder, "left")
    addresses = {name: f"{name}:22" for name in ("changed", "dropped", "skipped", "told")}
    assert ask(left, addresses) == ""
    for name in addresses:
        left.note_change(name)
    left.end(RunState.LOST)
    assert [one.targets for one in standing(folder)] == [(name,) for name in addresses]
    other = locks(folder, "other", wait_s=60)
    assert ask(other, {"a": "a:22", "told": "told:22"}).startswith("told was left in the middle by run left")
    assert other.refused.startswith("told was left")
    assert not folder.is_held("a:22")
    resumed = locks(folder, "resumed", resumes="left")
    assert ask(resumed, {name: f"{name}:22" for name in ("changed", "skipped", "told")}) == ""
    resumed.note_change("changed")
    resumed.end(end, well=frozenset({"told"}))  # answered from before
    assert [(one.targets, one.run_id) for one in standing(folder)] == [(("dropped",), "left"), (("skipped",), "left")]
    assert ask(locks(folder, "next"), {"changed": "changed:22", "told": "told:22"}) == ""
    assert ask(locks(folder, "again", resumes="left"), {"skipped": "skipped:22"}) == ""


def test_who_holds_what_is_asked_for_is_told_for_all_of_it(folder):
    one, two, three = locks(folder, "one"), locks(folder, "two"), locks(folder, "three")
    assert ask(one, {f"web{n}": f"{n}:22" for n in range(1, 5)}) == ""
    assert ask(two, {"db": "9:22"}) == ""
    why = ask(three, {**{f"web{n}": f"{n}:22" for n in range(1, 5)}, "db": "9:22", "free": "0:22"})
    assert why.startswith("web1-web4 are held by run one of maya on ops1, since ")
    assert "; db is held by run two of maya" in why
    assert "free" not in why
    four = locks(folder, "four")
    assert ask(four, {f"host{n}": f"1{n}:22" for n in range(0, 40, 2)}) == ""
    assert " and 10 more are held by run four" in ask(
        locks(folder, "five"), {f"host{n}": f"1{n}:22" for n in range(0, 40, 2)}
    )


def test_two_runs_that_want_what_the_other_has_both_end(folder):
    one, two = locks(folder, "one", wait_s=1), locks(folder, "two", wait_s=1)
    assert (ask(one, {"a": "a:22"}), ask(two, {"b": "b:22"})) == ("", "")
    one.note_change("a")
    two.note_change("b")
    said: dict[str, str] = {}
    begun = time.monotonic()
    threads = [
        threading.Thread(target=lambda: said.update(one=ask(one, {"b": "b:22"}))),
        threading.Thread(target=lambda: said.update(two=ask(two, {"a": "a:22"}))),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert 0.9 < time.monotonic() - begun < 20
    assert (said["one"][:19], said["two"][:19]) == ("b is held by run tw", "a is held by run on")
    two.end(RunState.FAILED)
    assert ask(one, {"b": "b:22"}, ticket=2) == "", "who gave up holds nothing of it back"
    one.end(RunState.SUCCEEDED)


def test_a_further_name_of_what_is_held_already_counts_too(folder):
    mine = locks(folder, "mine")
    assert ask(mine, {"a": "a:22"}) == ""
    assert ask(mine, {"alias": "a:22", "b": "b:22"}) == ""
    mine.note_change("alias")
    mine.end(RunState.TIMED_OUT)
    assert [(one.state, one.targets) for one in standing(folder)] == [("left", ("a", "alias"))], "and b is as it was"


def test_who_only_looks_at_a_lock_makes_nobody_busy(folder, monkeypatch):
    monkeypatch.setattr("opsbook.execution.locks.GRACE_S", 30.0)  # the machine may be slow
    before, mine = locks(folder, "before"), locks(folder, "mine")
    assert ask(before, {"a": "a:22"}) == ""
    before.end(RunState.SUCCEEDED)
    (file,) = folder.path.iterdir()
    with file.open("rb") as looking:
        said: list[str] = []
        asking = threading.Thread(target=lambda: said.append(ask(mine, {"a": "a:22"})))
        fcntl.flock(looking, fcntl.LOCK_SH | fcntl.LOCK_NB)
        asking.start()
        wait_for(lambda: any(thread.name == "opsbook-lock" for thread in threading.enumerate()))
        assert said == []
    asking.join(30)
    assert said == [""]
    mine.end(RunState.SUCCEEDED)


def test_who_waits_no_more_gets_nothing(folder):
    one, seen = locks(folder, "one"), []
    assert ask(one, {"a": "a:22", "alias": "a:22"}) == ""
    two = locks(folder, "two", wait_s=600, report=seen.append)
    said: list[str] = []
    asking = threading.Thread(target=lambda: said.append(ask(two, {"a": "a:22"}, ticket=7)))
    asking.start()
    wait_for(lambda: seen)
    assert seen[0].holder.startswith("a is held by run one of maya on ops1")
    two.give_up(8)
    two.give_up(7)
    asking.join(10)
    assert said[0].startswith("a is held by")
    assert two.busy == "", "it was not the lock that ended it"
    one.end(RunState.SUCCEEDED)
    wait_for(lambda: not folder.is_held("a:22"))
    assert ask(two, {"a": "a:22"}, ticket=9) == ""
    two.end(RunState.SUCCEEDED)


def test_a_call_that_is_interrupted_while_it_waits_gives_its_wait_up():
    """The kernel's end of the channel, without a kernel: it is interrupted while the runner is silent."""
    ours, theirs = socket.socketpair()
    welcome = m.Welcome(ticket=1, run_id="run", inventory=None, selected=(), limited=False)
    seen: list[m.FromKernel] = []
    raised = threading.Event()

    def interrupt(*_: object) -> None:
        if not raised.is_set():
            raised.set()
            raise KeyboardInterrupt

    def serve() -> None:
        for line in lines:
            seen.append(msgspec.json.decode(line, type=m.FromKernel))
            if isinstance(seen[-1], m.Hello):
                ours.sendall(msgspec.json.encode(welcome) + b"\n")
            while isinstance(seen[-1], m.LockRequest) and not raised.wait(0.1):  # one alone could come too early
                signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)

    lines = ours.makefile("rb")
    serving = threading.Thread(target=serve, daemon=True)
    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        serving.start()
        client = ChannelClient(theirs)
        with pytest.raises(KeyboardInterrupt):
            client.lock(None, {"web1": "web1:22"}, wait_s=600)
        wait_for(lambda: len(seen) == 3)
    finally:
        raised.set()
        signal.signal(signal.SIGUSR1, before)
    asked, given_up = seen[1:]
    assert isinstance(asked, m.LockRequest)
    assert given_up == m.LockGivenUp(ticket=asked.ticket)
    ours.shutdown(socket.SHUT_RDWR)
    serving.join(10)
    lines.close()
    ours.close()


def test_a_program_that_outlives_a_run_holds_none_of_its_locks(folder):
    mine = locks(folder, "mine")
    assert ask(mine, {"a": "a:22"}) == ""
    child = subprocess.Popen(["sleep", "60"], close_fds=False)
    try:
        mine.end(RunState.SUCCEEDED)
        assert not folder.is_held("a:22")
    finally:
        child.kill()
        child.wait()


RACE = """
import os, sys, threading, time
sys.path.insert(0, {tests!r})
from pathlib import Path
from test_locks import ask, locks
from opsbook.locks.folder import LockFolder
from opsbook.model.run import RunState
log = os.open({log!r}, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
children = []
for number in range(20):
    child = os.fork()
    if not child:
        mine = locks(LockFolder(Path({folder!r})), f"run{{number}}", wait_s=60)
        why = ask(mine, {{"a": "a:22"}})
        os.write(log, f"{{number}} begins {{why}}\\n".encode())
        time.sleep(0.02)
        os.write(log, f"{{number}} ends\\n".encode())
        mine.end(RunState.SUCCEEDED)
        os._exit(0)
    children.append(child)
for child in children:
    os.waitpid(child, 0)
"""


def test_twenty_runs_that_want_one_target_have_it_one_at_a_time(folder, tmp_path):
    log = tmp_path / "log"
    script = RACE.format(tests=str(Path(__file__).parent), log=str(log), folder=str(folder.path))
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
    lines = log.read_text().splitlines()
    assert len(lines) == 40
    for begins, ends in zip(lines[::2], lines[1::2], strict=True):
        number = begins.split()[0]
        assert (begins, ends) == (f"{number} begins ", f"{number} ends")
    assert {line.split()[0] for line in lines} == {str(number) for number in range(20)}
    assert not folder.is_held("a:22")


def test_a_lock_whose_file_was_cleaned_away_is_the_file_that_is_there_now(folder):
    one, two = locks(folder, "one"), locks(folder, "two", wait_s=30)
    assert ask(one, {"a": "a:22"}) == ""
    said: list[str] = []
    asking = threading.Thread(target=lambda: said.append(ask(two, {"a": "a:22"})))
    seen: list[Event] = []
    two._report = seen.append
    asking.start()
    wait_for(lambda: seen)
    (old,) = folder.path.iterdir()
    old.unlink()
    three = locks(folder, "three")
    assert ask(three, {"a": "a:22"}) == ""
    one.end(RunState.SUCCEEDED)
    time.sleep(0.2)
    assert said == [], "what two got from one is nobody's lock any more"
    three.end(RunState.SUCCEEDED)
    asking.join(10)
    assert said == [""]
    assert folder.look("a:22").run_id == "two"
    two.end(RunState.SUCCEEDED)


def test_locks_lie_where_all_of_a_users_runs_meet(tmp_path, monkeypatch):
    monkeypatch.setattr("opsbook.locks.folder.TEMPORARY", tmp_path)
    home = {"HOME": "/home/maya"}
    assert lock_folder("/srv/locks", home).path == Path("/srv/locks")
    assert lock_folder(None, {**home, "XDG_STATE_HOME": "/state"}).path == Path("/state/opsbook/locks")
    assert lock_folder(None, {**home, "XDG_STATE_HOME": "state"}).path == Path("/home/maya/.local/state/opsbook/locks")
    home_of_account = pwd.getpwuid(os.geteuid()).pw_dir
    if os.access(home_of_account, os.W_OK | os.X_OK):  # cron need not say HOME, and has to meet who does
        assert lock_folder(None, {}).path == lock_folder(None, {"HOME": home_of_account}).path
    own = lock_folder(None, {}, account=str(tmp_path / "gone"))
    assert own.path == tmp_path / f"opsbook-{os.geteuid()}-locks"
    own.of_target("a:22")
    assert own.path.stat().st_mode & 0o777 == 0o700
    own.path.rmdir()
    own.path.symlink_to(tmp_path)
    with pytest.raises(RefusedError, match="is somebody else's"):
        own.of_target("a:22")
    (tmp_path / "file").touch()
    unusable = LockFolder(tmp_path / "file/locks")
    assert "cannot use the folder of locks" in ask(locks(unusable, "one"), {"a": "a:22"})


@pytest.mark.parametrize(("mode", "wanted"), [(0o700, 0o600), (0o2770, 0o660), (0o755, 0o644)])
def test_a_locks_mode_follows_its_folders(tmp_path, mode, wanted):
    place = tmp_path / "locks"
    place.mkdir()
    place.chmod(mode)
    before = os.umask(0o077)
    try:
        mine = locks(LockFolder(place), "one")
        assert ask(mine, {"a": "a:22"}) == ""
    finally:
        os.umask(before)
    (file,) = place.iterdir()
    assert file.stat().st_mode & 0o777 == wanted
    mine.end(RunState.SUCCEEDED)
