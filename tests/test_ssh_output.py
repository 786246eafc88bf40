"""What targets say, on its way: every byte, in every cipher, through new keys and full windows; and bounded memory."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import paramiko
import pytest
from conftest import Sshd
from paramiko import Channel
from servers import connect, serve
from support import wait_for

from opsbook.errors import ConnectError
from opsbook.model.target import Target, TargetState
from opsbook.ssh.channel import CalledOffError, session
from opsbook.ssh.command import Command
from opsbook.ssh.connection import Connection
from opsbook.ssh.exchange import Wake, opened
from opsbook.ssh.hostkeys import HostKeyPolicy, KnownHosts
from opsbook.ssh.result import ChannelRefusedError, CommandResult
from opsbook.ssh.script import Script
from opsbook.ssh.transfer import Term, Transfer

_WINDOW_ADJUST = Channel._window_adjust
NUMBERS = "seq 1 200000"
SAID = "".join(f"{number}\n" for number in range(1, 200_001))


def target(sshd: Sshd, port: int) -> Target:
    return Target(name="web1", host="127.0.0.2", port=port, user=sshd.user, identity_files=(str(sshd.identity),))


@contextmanager
def connected(sshd: Sshd, *, port: int = 0, known_hosts: Path | None = None) -> Iterator[Connection]:
    known = KnownHosts([known_hosts or sshd.known_hosts])
    made = connect(target(sshd, port or sshd.port), known, HostKeyPolicy.STRICT, timeout_s=20)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def connection(sshd: Sshd) -> Iterator[Connection]:
    with connected(sshd) as made:
        yield made


def command(
    connection: Connection, text: str, *, on_output: Callable[[str, str], None] | None = None, timeout_s: float = 60
) -> Command:
    return Command(
        connection,
        Script(text=text),
        marker=f"mark-{os.urandom(8).hex()}",
        timeout_s=timeout_s,
        on_output=on_output or (lambda *_: None),
    )


def run(connection: Connection, text: str, **how: object) -> CommandResult:
    return command(connection, text, **how).run(lambda: None)


# every byte


@pytest.mark.parametrize("cipher", ["aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "aes256-ctr"])
def test_every_byte_arrives_in_every_cipher_on_both_streams_at_once(sshd, tmp_path, cipher):
    data = os.urandom(400_000)
    (tmp_path / "data").write_bytes(data)
    both = f"cat {tmp_path}/data & cat {tmp_path}/data >&2; wait"
    with (
        serve(sshd, tmp_path / "server", Ciphers=cipher) as server,
        connected(sshd, port=server.port, known_hosts=server.known_hosts) as made,
    ):
        assert made.transport.local_cipher == cipher
        result = run(made, both)
    assert result.state is TargetState.OK
    assert result.stdout == data.decode("utf-8", "replace")
    assert result.stderr == data.decode("utf-8", "replace")


def test_keys_are_changed_in_the_middle_of_a_stream_and_nothing_is_lost(connection):
    packets, begun = connection.transport.packetizer, []
    packets.REKEY_BYTES = 900_000
    negotiate = connection.transport._send_kex_init
    connection.transport._send_kex_init = lambda: (begun.append(1), negotiate())[1]
    pieces: list[str] = []
    result = run(connection, "seq 1 700000", on_output=lambda _, text: pieces.append(text))
    assert result.state is TargetState.OK
    assert "".join(pieces) == "".join(f"{number}\n" for number in range(1, 700_001))
    assert len(begun) > 2
    assert run(connection, NUMBERS).stdout == SAID


def test_keys_are_changed_in_the_middle_of_a_long_script(connection):
    connection.transport.packetizer.REKEY_BYTES = 250_000
    word = "x" * 1_000_000
    result = run(connection, f"cat <<'END' | wc -c\n{word}\nEND\n")
    assert (result.state, result.stdout.strip()) == (TargetState.OK, "1000001")


def test_more_than_fits_into_the_window_arrives_however_slowly_it_is_taken(connection):
    sizes: list[int] = []

    def slowly(_: str, text: str) -> None:
        sizes.append(len(text))
        time.sleep(0.002)

    result = run(connection, "head -c 12000000 /dev/zero | tr '\\0' x", on_output=slowly)
    assert result.state is TargetState.OK
    assert sum(sizes) == 12_000_000


def test_what_is_said_before_a_silence_is_heard_in_the_silence(connection):
    heard = threading.Event()
    tail: list[str] = []

    def hear(_: str, text: str) -> None:
        tail.append(text)
        if "last words" in text:
            heard.set()

    asked = command(connection, "seq 1 50000; echo last words; sleep 50.5", on_output=hear)
    box: list[CommandResult] = []
    worker = threading.Thread(target=lambda: box.append(asked.run(lambda: None)))
    worker.start()
    assert heard.wait(20)
    asked.cancel()
    worker.join(20)
    assert box[0].state is TargetState.CANCELLED
    assert box[0].stdout.endswith("50000\nlast words\n")


class _Watched(Wake):
    """Remembers each wait: the seconds, and how much had to come to end it."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[tuple[float, int]] = []
        self.enough: Callable[[], int] = lambda: 0

    def wait(self, seconds: float) -> None:
        self.waits.append((seconds, self.enough()))
        super().wait(seconds)


def test_while_output_flows_nobody_is_woken_for_a_little_of_it(connection):
    wake, said = _Watched(), bytearray()
    with opened(connection, deadline=time.monotonic() + 30, wake=wake) as exchange:
        wake.enough = lambda: exchange._hearer.enough
        exchange.on_stdout = said.extend
        exchange.request("echo one; sleep 0.3; seq 1 200000")
        while not exchange.ended:
            exchange.pump()
            exchange.rest(20)
        assert exchange.drain(silence_s=5, most_s=10)
        assert exchange._hearer.enough == 1
    assert said.decode() == f"one\n{SAID}"
    assert {enough for seconds, enough in wake.waits if seconds > 1} == {1}
    short = {enough for seconds, enough in wake.waits if seconds <= 0.2}
    assert short == {1024 * 1024}


FLOOD = """
import resource, sys
sys.path.insert(0, {tests!r})
from test_ssh_output import *
from conftest import Sshd
sshd = Sshd(folder=Path({folder!r}), port={port}, pid=0)
with connected(sshd) as made:
    assert run(made, {numbers!r}).state == "ok"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    size = [0]
    def hear(_, text): size[0] += len(text)
    both = "head -c 20000000 /dev/zero | tr '\\\\0' x & head -c 20000000 /dev/zero | tr '\\\\0' y >&2; wait"
    result = run(made, both, on_output=hear)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(result.state, size[0], after - before)
"""


def test_a_flood_on_both_streams_costs_no_memory(sshd):
    text = FLOOD.format(tests=str(Path(__file__).parent), folder=str(sshd.folder), port=sshd.port, numbers=NUMBERS)
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=120, check=True)
    state, size, grown = done.stdout.split()
    assert (state, size) == ("ok", "40000000")
    assert int(grown) < 16 * 1024  # kilobytes: two windows and what is kept of two streams


# the script on its way


def test_a_script_that_is_too_long_for_one_packet_arrives_whole(connection):
    word = os.urandom(150_000).hex()
    result = run(connection, f"sha256sum <<'END'\n{word}\nEND\n")
    assert result.stdout.split()[0] == hashlib.sha256(f"{word}\n".encode()).hexdigest()


def test_while_keys_are_exchanged_the_reader_sends_nothing_and_goes_on_reading(connection):
    left = threading.Event()
    with opened(connection, deadline=time.monotonic() + 30, wake=Wake()) as exchange:
        said = bytearray()
        exchange.on_stdout = said.extend
        exchange.request("echo on; read -r line; echo got $line")
        connection.transport.clear_to_send.clear()
        worker = threading.Thread(target=lambda: exchange.post(b"word\n", left=left.set))
        worker.start()
        try:
            wait_for(lambda: exchange.pump() and said == b"on\n")
        finally:
            connection.transport.clear_to_send.set()
        connection.transport._ask_for_life()  # its answer is something to read
        while not exchange.ended:
            exchange.pump()
            exchange.rest(1)
        worker.join(10)
        assert left.is_set()
        assert exchange.drain(silence_s=5, most_s=10)
        assert (bytes(said), exchange.code) == (b"on\ngot word\n", 0)


def test_a_script_that_has_room_only_in_pieces_is_sent_in_pieces(connection, monkeypatch):
    monkeypatch.setattr(Channel, "_window_adjust", _little_room)
    word = "x" * 5000
    result = run(connection, f"wc -c <<'END'\n{word}\nEND\n")
    assert (result.state, result.stdout.strip()) == (TargetState.OK, "5001")


def _little_room(channel: Channel, message: paramiko.Message) -> None:
    """Take the room a target gives a thousand bytes at a time, as a small machine gives it."""
    room = message.get_int()
    first, second, rest = (paramiko.Message(size.to_bytes(4, "big")) for size in (1000, 1000, room - 2000))
    _WINDOW_ADJUST(channel, first)
    threading.Timer(0.1, _WINDOW_ADJUST, (channel, second)).start()
    threading.Timer(0.2, _WINDOW_ADJUST, (channel, rest)).start()


def test_what_was_posted_can_be_taken_back_until_it_leaves(connection):
    with opened(connection, deadline=time.monotonic() + 30, wake=Wake()) as exchange:
        left = threading.Event()
        exchange.post(b"one", left=left.set)
        assert exchange.unpost() == b"one"
        assert exchange.unpost() == b""
        exchange.request("cat")
        exchange.post(b"two", left=left.set)
        assert left.wait(20)
        assert exchange.unpost() == b""


def test_a_command_that_is_stopped_before_its_script_could_leave_says_that_nothing_ran(
    connection, tmp_path, monkeypatch
):
    monkeypatch.setattr(Channel, "_window_adjust", lambda *_: None)  # there is never room
    result = run(connection, f"touch {tmp_path}/ran", timeout_s=1)
    assert result.state is TargetState.TIMED_OUT
    assert result.reason == "timed out after 1 s while it was being sent; nothing ran"
    time.sleep(0.3)
    assert not (tmp_path / "ran").exists()


# a channel's slot


class _Nothing(Transfer):
    def do(self, *_: object) -> CommandResult:
        raise AssertionError


def waiting_jobs(connection: Connection) -> list[Command | Transfer]:
    return [command(connection, "true"), _Nothing(connection, term=Term.of(60))]


@pytest.mark.parametrize("number", [0, 1])
def test_a_job_that_is_cancelled_while_it_waits_for_a_slot_never_begins(connection, number):
    while connection.slots.take(0):
        pass
    job = waiting_jobs(connection)[number]
    box: list[CommandResult] = []
    worker = threading.Thread(target=lambda: box.append(job.run(lambda: None)))
    worker.start()
    job.cancel()
    worker.join(20)
    assert box
    assert (box[0].state, box[0].reason) == (TargetState.CANCELLED, "cancelled before it was sent")


def test_a_slot_that_never_comes_free_is_told_from_a_cancel(connection):
    while connection.slots.take(0):
        pass
    with (
        pytest.raises(ChannelRefusedError, match="busy with other commands"),
        session(connection, deadline=time.monotonic() + 0.2),
    ):
        raise AssertionError
    with pytest.raises(CalledOffError), session(connection, deadline=time.monotonic() + 20, cancelled=lambda: True):
        raise AssertionError


def test_every_way_out_of_a_channel_gives_its_slot_back(connection):
    for error in (KeyError("x"), ConnectError("x", "unreachable"), CalledOffError()):
        for _ in range(10):  # more than there are
            with pytest.raises(type(error)), session(connection, deadline=time.monotonic() + 20):
                raise error
    assert run(connection, "echo on").stdout == "on\n"
