"""The pieces of a wire: its room, its packets, who is woken, and the names of paramiko's they stand on."""

from __future__ import annotations

import inspect
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import paramiko
import pytest

from opsbook.ssh.hearing import STDERR, STDOUT, Hearer, data_of
from opsbook.ssh.packets import LONGEST, Packets
from opsbook.ssh.transport import QuickSocket


@contextmanager
def link() -> Iterator[tuple[socket.socket, socket.socket]]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname())
        theirs, _ = listener.accept()
    with ours, theirs:
        yield ours, theirs


def test_a_wires_room_grows_with_what_comes_and_is_given_back_in_silence():
    with link() as (ours, theirs):
        wire = QuickSocket(ours)
        wire.settimeout(0.05)
        least = len(wire._room)
        taken = 0
        sender = threading.Thread(target=theirs.sendall, args=(b"x" * 1_000_000,))
        sender.start()
        most = 0
        while taken < 1_000_000:
            if not wire.waiting:
                wire.fill(1)
            most = max(most, len(wire._room))
            assert bytes(wire.waiting) == b"x" * len(wire.waiting)
            taken += len(wire.waiting)
            wire.take(len(wire.waiting))
        sender.join(10)
        assert most > least
        with pytest.raises(TimeoutError):
            wire.fill(1)
        assert len(wire._room) == least
        theirs.sendall(b"ab")
        assert (wire.recv(1), wire.recv(9)) == (b"a", b"b")
        wire.close()
        assert wire.recv(1) == b""


def test_a_wire_keeps_what_is_waiting_when_more_comes():
    with link() as (ours, theirs):
        wire = QuickSocket(ours)
        wire.settimeout(5)
        sent = os.urandom(200_000)
        sender = threading.Thread(target=theirs.sendall, args=(sent,))
        sender.start()
        wire.fill(len(sent))
        wire.take(1000)
        while len(wire.waiting) < len(sent) - 1000:
            assert wire.fill(len(sent))
        sender.join(10)
        assert bytes(wire.waiting) == sent[1000:]


def test_a_full_socket_ends_a_write_when_its_time_is_up():
    with link() as (ours, _):
        wire = QuickSocket(ours)
        wire.settimeout(0.05)
        with pytest.raises(TimeoutError):
            while True:
                assert wire.send(b"x" * 100_000)


def test_a_length_nobody_sends_is_no_ssh():
    with link() as (ours, theirs):
        wire = QuickSocket(ours)
        packets = Packets(wire)
        vars(packets)["_Packetizer__aead_in"] = True
        theirs.sendall((LONGEST + 1).to_bytes(4, "big"))
        with pytest.raises(paramiko.SSHException, match="no SSH packet"):
            packets.read_message()


def test_only_data_is_taken_straight_from_its_packet():
    def packet(kind: int, *fields: int, text: bytes) -> bytes:
        numbers = b"".join(field.to_bytes(4, "big") for field in (*fields, len(text)))
        return bytes((5, kind)) + numbers + text + b"noise"

    stdout, stderr = data_of(packet(94, 7, text=b"one")), data_of(packet(95, 7, 1, text=b"two"))
    assert stdout is not None
    assert stderr is not None
    assert (stdout[0], bytes(stdout[1]), stderr[0], bytes(stderr[1])) == (STDOUT, b"one", STDERR, b"two")
    assert data_of(packet(95, 7, 2, text=b"other")) is None
    assert data_of(packet(98, 7, text=b"exit-status")) is None


def test_a_waiter_is_woken_when_as_much_as_it_wants_is_there():
    woken: list[int] = []
    hearer = Hearer(lambda: woken.append(hearer.waiting))
    hearer.put(STDOUT, b"12")
    hearer.tell()
    hearer.enough = 6
    hearer.put(STDERR, b"345")
    hearer.tell()
    assert woken == [2]
    hearer.put(STDOUT, b"6")
    hearer.tell()
    assert woken == [2, 6]
    assert (hearer.take(STDOUT, most=1), hearer.take(STDOUT, most=9), hearer.take(STDERR, most=9)) == (
        b"12",
        b"6",
        b"345",
    )
    assert hearer.waiting == 0


def test_the_private_names_of_paramiko_by_which_packets_are_read_still_stand():
    packets = paramiko.packet.Packetizer(socket.socket())
    used = {"aead_in", "compress_engine_in", "block_engine_in", "iv_in", "sequence_number_in", "need_rekey"}
    used |= {f"received_{what}" for what in ("bytes", "packets", "bytes_overflow", "packets_overflow")}
    names = {f"_Packetizer__{name}" for name in used}
    assert names <= set(vars(packets))
    assert names <= set(paramiko.packet.Packetizer.read_message.__code__.co_names)
    assert "_Packetizer__remainder" in paramiko.packet.Packetizer.read_all.__code__.co_names
    assert callable(packets._check_keepalive)
    assert packets.REKEY_BYTES_OVERFLOW_MAX >= packets.REKEY_BYTES
    packets.close()
    for name in ("_feed", "_feed_extended", "_window_adjust", "_handle_close", "_check_add_window"):
        assert callable(getattr(paramiko.Channel, name))
    assert "in_window_threshold" in paramiko.Channel._check_add_window.__code__.co_names
    assert "_expected_packet" in inspect.getsource(paramiko.Transport.run)
    assert "NeedRekeyException" in inspect.getsource(paramiko.Transport.run)
    kinds = {paramiko.common.MSG_CHANNEL_DATA, paramiko.common.MSG_CHANNEL_EXTENDED_DATA}
    assert kinds <= set(paramiko.Transport._channel_handler_table)
