"""Promises nothing else held the code to: each of these tests fails when one rule is broken on purpose."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
from conftest import Sshd
from faults import network
from rig import Rig, known_hosts, target_of
from support import processes_with, wait_for

from opsbook.fleet.channel import ChannelClient
from opsbook.fleet.fleet import Fleet
from opsbook.fleet.session import Session
from opsbook.model import message as m
from opsbook.model.event import TargetEnded, TargetOutput
from opsbook.model.message import RunOptions
from opsbook.model.target import Inventory
from opsbook.ssh.capture import Capture


@contextmanager
def rigged(sshd: Sshd, folder: Path, count: int = 1, **options: Any) -> Iterator[Rig]:
    """A rig of targets `web1` and so on, whose keys are known unless the options say otherwise."""
    targets = tuple(target_of(sshd, f"web{number}", host=f"127.0.0.{number + 1}") for number in range(1, count + 1))
    rig = Rig(targets, folder / "rig", **{"known_hosts": (str(known_hosts(sshd, folder)),), **options})
    try:
        yield rig
    finally:
        rig.close()


@contextmanager
def meanwhile(work: Callable[[], Any], *, release: Callable[[], None]) -> Iterator[Future[Any]]:
    """Work on another thread; `release` is called at the end, whatever happens, so that it can come to its own."""
    with ThreadPoolExecutor(1) as pool:
        try:
            yield pool.submit(work)
        finally:
            release()


def fleet_of(rig: Rig) -> Fleet:
    return Fleet(rig.session, rig.targets)


@pytest.mark.parametrize(("line", "state"), [("StrictHostKeyChecking yes\n", "hostkey"), ("", "ok")])
def test_ssh_config_can_forbid_what_accept_new_would_take_in(sshd, tmp_path, line, state):
    known, config = tmp_path / "known", tmp_path / "ssh_config"
    known.touch()
    config.write_text(f"Host *\n  UserKnownHostsFile {known}\n{line}")
    with rigged(sshd, tmp_path, host_keys="accept-new", ssh_config=str(config), known_hosts=()) as rig:
        assert rig.run()["web1"].state == state
        assert rig.runs("web1") == (state == "ok")
        assert bool(known.read_text()) == (state == "ok")


def test_an_unwatched_question_that_ignores_term_is_gone_after_its_timeout(sshd, tmp_path):
    nap = f"61.{secrets.randbelow(10**9):09}"
    with rigged(sshd, tmp_path) as rig:
        assert fleet_of(rig).run("true", read_only=True)["web1"].ok  # connected: the time is the script's alone
        try:
            script = f"trap '' TERM; echo here; sleep {nap}; sleep {nap}"
            result = fleet_of(rig).run(script, read_only=True, check=False, timeout=2)["web1"]
            assert (result.state, result.stdout) == ("timed_out", "here\n")
            wait_for(lambda: not processes_with(nap), what="the end of the question's process")
        finally:
            for pid in processes_with(nap):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def test_after_a_reboot_was_sent_the_next_question_goes_over_a_new_connection(sshd, tmp_path):
    with network() as net:
        proxy = net.proxy(sshd.port)
        keys = (str(known_hosts(sshd, tmp_path)),)
        rig = Rig((target_of(sshd, "web1", proxy=proxy),), tmp_path / "rig", known_hosts=keys)
        try:
            assert rig.run()["web1"].ok
            assert rig.run()["web1"].ok
            assert proxy.accepted == 1
            result = fleet_of(rig).reboot(command="true", timeout=4, sudo=False, check=False)["web1"]
            assert (result.state, rig.journal.intents("web1")) == ("timed_out", 3)
            assert proxy.accepted > 1
        finally:
            rig.close()


def test_whatever_pieces_a_stream_comes_in_only_whole_lines_are_handed_on():
    said = "first\nzweite Zeile: ä€😀\n\nlast line\n"
    for size in range(1, len(said.encode()) + 1):
        heard: list[str] = []
        capture = Capture(heard.append)
        data = said.encode() + b"no end"
        for start in range(0, len(data), size):
            capture.feed(data[start : start + size])
            assert all(lines.endswith("\n") for lines in heard)
        assert "".join(heard) == said
        capture.close()
        assert heard[-1] == "no end"
        assert capture.text == "".join(heard) == said + "no end"


def test_targets_that_say_half_a_line_each_are_never_mixed_within_a_line(sshd, tmp_path):
    with rigged(sshd, tmp_path, 2) as rig:
        met = f"{rig.folder}/met-$n-"
        script = (
            "for n in 1 2 3; do\n"
            'printf "<%s %s " "$OPSBOOK_TARGET" "$n"\n'
            f'touch "{met}$OPSBOOK_TARGET"\n'
            f'until [ -e "{met}web1" ] && [ -e "{met}web2" ]; do sleep 0.05; done\n'  # both have said a half now
            'sleep 0.2; echo "$OPSBOOK_TARGET>"\n'
            "done\n"
        )
        assert all(result.ok for result in rig.run(script))
        texts = [event.text for event in rig.journal.events if isinstance(event, TargetOutput)]
    assert all(text.endswith("\n") for text in texts)
    whole = [f"<{name} {n} {name}>" for name in ("web1", "web2") for n in (1, 2, 3)]
    assert sorted("".join(texts).splitlines()) == whole


def test_within_a_wave_nobody_waits_for_a_slow_target(sshd, tmp_path):
    with rigged(sshd, tmp_path, 5) as rig:
        (wave,) = fleet_of(rig).waves("100%")
        script = f'if [ "$OPSBOOK_TARGET" = web1 ]; then\n{rig.linger()}fi\n'

        def ended() -> set[str]:
            return {event.target for event in list(rig.journal.events) if isinstance(event, TargetEnded)}

        with meanwhile(lambda: wave.run(script, parallel=2), release=rig.release) as call:
            wait_for(lambda: len(ended()) == 4, seconds=20, what="the end of all but the slow one")
            assert "web1" not in ended()
            assert not call.done()
            rig.release()
            assert call.result(30)["web1"].ok


def test_nothing_reaches_a_target_before_its_intent_was_granted(sshd, tmp_path):
    asked, granted = threading.Event(), threading.Event()
    with rigged(sshd, tmp_path, 2) as rig:

        def hold(intent: Any) -> None:
            if intent.target == "web1":
                asked.set()
                assert granted.wait(60)

        rig.journal.on_intent = hold
        with meanwhile(rig.run, release=granted.set) as call:
            assert asked.wait(20)
            wait_for(lambda: rig.runs("web2"), seconds=20)  # whose own was granted: a command is as quick as that
            for _ in range(3):  # what leaves after these could have been there before them
                assert fleet_of(rig).run("sleep 0.1", read_only=True)["web1"].ok
            assert rig.runs("web1") == 0
            granted.set()
            assert all(result.ok for result in call.result(30))
        assert rig.runs("web1") == 1


def test_an_intent_is_granted_by_the_runners_answer_and_by_nothing_less(sshd, tmp_path):
    kernel, runner = socket.socketpair()
    asked: list[m.IntentRequest] = []
    target, marker = target_of(sshd, "web1"), tmp_path / "ran"
    options = RunOptions(known_hosts=(str(known_hosts(sshd, tmp_path)),), ssh_config="none", command_timeout_s=30)
    welcome = {"run_id": "r", "inventory": Inventory(targets=(target,)), "selected": ("web1",), "limited": False}

    def answer(message: m.ToKernel) -> None:
        runner.sendall(msgspec.json.encode(message) + b"\n")

    def serve() -> None:
        """What the runner does, but for its word on intents."""
        decoder: msgspec.json.Decoder[m.FromKernel] = msgspec.json.Decoder(m.FromKernel)
        with runner.makefile("rb") as lines:
            for message in map(decoder.decode, lines):
                if isinstance(message, m.Hello):
                    answer(m.Welcome(ticket=message.ticket, options=options, **welcome))
                elif isinstance(message, m.LockRequest):
                    answer(m.Ack(ticket=message.ticket))
                elif isinstance(message, m.IntentRequest):
                    asked.append(message)

    def hang_up() -> None:
        for end in (kernel, runner):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    with kernel, runner, meanwhile(serve, release=hang_up):
        client = ChannelClient(kernel)
        session = Session(inventory=client.welcome.inventory, selected=None, options=options, channel=client)
        fleet = Fleet(session, (target,))
        try:
            assert fleet.run("true", read_only=True)["web1"].ok
            with meanwhile(lambda: fleet.run(f"touch {marker}"), release=hang_up) as call:
                wait_for(lambda: asked, seconds=20)
                for _ in range(3):  # as much time as it takes to get there, and more
                    assert fleet.run("sleep 0.1", read_only=True)["web1"].ok
                assert not marker.exists()
                answer(m.Ack(ticket=asked[0].ticket))
                assert call.result(30)["web1"].ok
            assert marker.exists()
        finally:
            session.pool.close()
