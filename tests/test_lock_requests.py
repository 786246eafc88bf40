"""What a run asks its locks for: all or nothing, who holds it, how long it waits, and what it settles."""

from __future__ import annotations

import signal
import socket
import threading
import time
from pathlib import Path

import msgspec
import pytest
from locking import ask, locks
from support import wait_for

from opsbook.execution.marks import standing
from opsbook.fleet.channel import ChannelClient
from opsbook.locks.folder import LockFolder
from opsbook.model import message as m
from opsbook.model.run import RunState


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
