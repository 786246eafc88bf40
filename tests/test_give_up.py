"""A stop reaches what is still on its way: those who connect, those who send, those who wait to try again."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import paramiko
import pytest
from conftest import Sshd
from faults import network
from rig import Rig, known_hosts, target_of
from servers import connect
from support import wait_for

from opsbook.errors import ConnectError
from opsbook.fleet.fleet import Fleet
from opsbook.fleet.pool import Pool
from opsbook.model.message import RunOptions
from opsbook.model.target import Target, TargetState
from opsbook.ssh import connection, reach
from opsbook.ssh.connection import LONGEST_BACK_OFF_S, Connection, Slots, pause_after
from opsbook.ssh.follow import Follow, Progress, Removal
from opsbook.ssh.hostkeys import HostKeyPolicy, KnownHosts
from opsbook.ssh.script import COMMAND_VARIABLE, Script
from opsbook.ssh.terms import Terms

LONG_S = 300
"""Longer than any test may take: what ends before it was ended."""


class Mute:
    """A server that says who it is, and then nothing; or hangs up on everybody at once."""

    def __init__(self, *, greets: bool = True) -> None:
        self._greets = greets
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.guests: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                guest = self._listener.accept()[0]
            except OSError:
                return
            self.guests.append(guest)
            if self._greets:
                guest.sendall(b"SSH-2.0-mute\r\n")
            else:
                guest.close()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for guest in self.guests:
            guest.close()


@contextmanager
def mute(**how: bool) -> Iterator[Mute]:
    made = Mute(**how)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def pool(sshd: Sshd) -> Iterator[Pool]:
    made = Pool(RunOptions(known_hosts=(str(sshd.known_hosts),), connect_timeout_s=LONG_S, ssh_config="none"))
    yield made
    made.close()


class Dialling:
    """A connection that is being made in a thread of its own."""

    def __init__(self, pool: Pool, where: Target) -> None:
        self.error = ""

        def dial() -> None:
            try:
                pool.connection(where)
            except ConnectError as error:
                self.error = str(error)

        self._thread = threading.Thread(target=dial)
        self._thread.start()

    def ended(self) -> str:
        """Why it ended."""
        self._thread.join(30)
        assert not self._thread.is_alive()
        return self.error


@pytest.mark.parametrize("end", [Pool.give_up, Pool.close])
@pytest.mark.parametrize("greets", [True, False], ids=["silent", "hanging up"])
def test_who_connects_while_all_is_given_up_ends_at_once(sshd, pool, end, greets):
    with mute(greets=greets) as server:
        dialling = Dialling(pool, target_of(sshd, "web1", host="127.0.0.1", port=server.port))
        wait_for(lambda: len(server.guests) > (0 if greets else 4), seconds=30)  # else it is about to try again
        end(pool)
        assert dialling.ended() == "it was given up while connecting; nothing was sent"
    assert pool.connection(target_of(sshd, "web1"))[0].alive


def test_a_jump_host_given_up_may_be_asked_again_at_once(sshd, pool, tmp_path):
    with mute() as server:
        behind = target_of(sshd, "web1", jump=f"127.0.0.1:{server.port}")
        dialling = Dialling(pool, behind)
        wait_for(lambda: server.guests, seconds=30)
        pool.give_up()
        assert dialling.ended().endswith("it was given up while connecting; nothing was sent")
        again = Dialling(pool, behind)
        wait_for(lambda: len(server.guests) > 1, seconds=30)
        pool.give_up()
        again.ended()


def test_a_connection_that_comes_about_while_the_pool_is_closed_is_not_left_open(sshd, pool):
    made: list[Connection] = []
    dialler = pool._equipped()[0]
    dial = dialler.dial

    def close_behind(*args: object, **how: object) -> Connection:
        made.append(dial(*args, **how))  # type: ignore[arg-type]
        pool.close()
        return made[0]

    dialler.dial = close_behind  # type: ignore[method-assign]
    with pytest.raises(ConnectError, match="the connections were closed meanwhile"):
        pool.connection(target_of(sshd, "web1"))
    assert not made[0].alive
    assert not pool._open


def test_a_hard_stop_ends_those_who_connect_as_cancelled(sshd, tmp_path):
    with mute() as server:
        where = target_of(sshd, "web1", host="127.0.0.1", port=server.port)
        made = Rig((where,), tmp_path / "marks", known_hosts=(str(sshd.known_hosts),), connect_timeout_s=LONG_S)

        def stop() -> None:
            wait_for(lambda: server.guests, seconds=30)
            made.session.cancel(True)  # noqa: FBT003  the channel's listener

        stopper = threading.Thread(target=stop)
        stopper.start()
        with pytest.raises(KeyboardInterrupt):
            Fleet(made.session, (where,)).run("true")
        stopper.join(30)
        ended = made.journal.ended("web1")
        assert (ended.state, ended.reason) == (TargetState.CANCELLED, "cancelled before it was sent")
        wait_for(lambda: not [one for one in threading.enumerate() if one.name.startswith("opsbook-call")], seconds=30)
        made.close()


# the pauses between attempts


def test_pauses_grow_and_are_nobody_elses(monkeypatch):
    longest = [0.2, 0.4, 0.8, 1.6, 2.0, 2.0, 2.0]
    for attempt, most in enumerate(longest, 1):
        pauses = {pause_after(attempt) for _ in range(200)}
        assert most / 2 <= min(pauses) < 0.6 * most
        assert 0.9 * most < max(pauses) <= most
        assert len(pauses) > 100
    assert pause_after(10**9) <= LONGEST_BACK_OFF_S


def test_those_who_were_turned_away_together_do_not_come_back_together(sshd, tmp_path):
    """Twenty targets at one endpoint that hangs up on all: how far apart their second attempts are."""
    came: dict[str, list[float]] = {}
    listener = socket.create_server(("0.0.0.0", 0), backlog=128)

    def turn_away() -> None:
        while True:
            try:
                guest, _ = listener.accept()
            except OSError:
                return
            with guest:
                came.setdefault(guest.getsockname()[0], []).append(time.monotonic())

    threading.Thread(target=turn_away, daemon=True).start()
    port = int(listener.getsockname()[1])
    targets = tuple(target_of(sshd, f"web{n}", host=f"127.0.7.{n}", port=port) for n in range(1, 21))
    made = Rig(targets, tmp_path / "marks", known_hosts=(str(sshd.known_hosts),), connect_timeout_s=2)
    made.run("true", read_only=True)
    made.close()
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    assert len(came) == 20
    gaps = sorted(times[1] - times[0] for times in came.values())
    assert gaps[0] > 0.1
    assert gaps[-1] - gaps[0] > 0.02


# what is being sent


class Full:
    """A connection whose link freezes when much is to be sent: a second later its socket is full."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.frozen = False
        self.on_full: Callable[[], object] = lambda: None


@pytest.fixture
def full(sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Full]:
    """See `Full`."""
    tune = reach._tune

    def tune_small(sock: socket.socket, silence_s: float) -> None:
        tune(sock, silence_s)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)

    monkeypatch.setattr(reach, "_tune", tune_small)
    with network() as net:
        proxy = net.proxy(sshd.port)

        def window(channel: paramiko.Channel, size: int) -> int:
            if size > 10_000 and not full.frozen:
                full.frozen = True
                proxy.freeze()
                threading.Timer(1, full.on_full).start()
            return 0 if channel.closed else min(size, 32_000)

        # else the window may be what is used up first, and that is noticed without closing
        monkeypatch.setattr(paramiko.Channel, "_wait_for_send_window", window)
        where = target_of(sshd, "web1", proxy=proxy)
        made = connect(where, KnownHosts([known_hosts(sshd, tmp_path)]), HostKeyPolicy.STRICT, timeout_s=20)
        full = Full(made)
        yield full
        made.close()


def test_a_durable_script_that_hangs_in_a_full_socket_hides_no_cancel(full, tmp_path):
    spool = "ab" * 12
    script = Script(text=f"touch {tmp_path}/ran\n: " + "x" * 8_000_000, environment={COMMAND_VARIABLE: spool})
    progress = Progress(lambda *_: None, timeout_s=LONG_S, idle_s=None)
    job = Follow(full.connection, script, progress, spool=spool, terms=Terms(), starting=True)
    full.on_full = job.cancel
    begun = time.monotonic()
    result = job.run(lambda: None)
    assert time.monotonic() - begun < 30
    assert (result.state, result.reason) == (TargetState.CANCELLED, "cancelled while it was being sent; nothing ran")
    assert not (tmp_path / "ran").exists()


def test_the_removal_of_a_spool_that_hangs_in_a_full_socket_ends_in_its_own_time_though_it_is_cancelled(full):
    script = Script(text=": " + "x" * 8_000_000)
    job = Removal(full.connection, script, terms=Terms(), seconds=2)
    full.on_full = job.cancel
    begun = time.monotonic()
    assert job.run(lambda: None).state is TargetState.FAILED
    assert time.monotonic() - begun < 30


# what is told of it


def test_an_attempt_that_had_no_time_left_does_not_hide_what_the_others_met(sshd, tmp_path):
    """It speaks no SSH, at first; then it says nothing more until the time is over."""
    listener = socket.create_server(("127.0.0.1", 0))
    guests: list[socket.socket] = []

    def greet() -> None:
        while True:
            try:
                guest = listener.accept()[0]
            except OSError:
                return
            guests.append(guest)
            if len(guests) < 3:
                guest.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                guest.shutdown(socket.SHUT_RDWR)

    threading.Thread(target=greet, daemon=True).start()
    where = target_of(sshd, "web1", host="127.0.0.1", port=int(listener.getsockname()[1]))
    pool = Pool(msgspec.structs.replace(RunOptions(ssh_config="none"), connect_timeout_s=2.5))
    with pytest.raises(ConnectError, match=r"HTTP/1\.1 400 Bad Request.*, \d times"):
        pool.connection(where)
    pool.close()
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    for guest in guests:
        guest.close()


# what a server refuses for the moment


def test_a_session_that_is_still_ending_at_the_server_is_waited_for():
    slots = Slots(8)
    assert slots.take(0)
    assert not slots.shrink()  # refused, and nothing of ours has ever been there
    slots.give_back()
    assert slots.take(0)
    slots.give_back()  # this one was used
    for _ in range(3):
        assert slots.take(0)
        assert slots.shrink()
        slots.give_back()


def test_a_refusal_that_lasts_is_told_in_the_end(monkeypatch):
    monkeypatch.setattr(connection, "ENDING_S", 0.3)
    slots = Slots(8)
    assert slots.take(0)
    slots.give_back()
    deadline = time.monotonic() + 30
    while slots.take(0) and slots.shrink():
        slots.give_back()
        assert time.monotonic() < deadline
