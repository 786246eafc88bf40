"""Files to targets and from them: `put` and `get` against a real sshd."""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
import threading
from pathlib import Path

import paramiko
import pytest
from transfers import (
    BIG,
    ODD,
    ROOT,
    mode_of,
    names,
    opened,
    reason,
    sftp_server,
    state,
)

from opsbook.errors import FleetError, UsageError
from opsbook.fleet.content import Content, mode_bits
from opsbook.fleet.fleet import Fleet
from opsbook.fleet.transfer import GetFile, PutFile
from opsbook.model.target import Become, Target
from opsbook.redaction import Secret

pytest_plugins = ["sftp_desk"]


def test_a_file_arrives_whole_and_comes_back(notebook, there, tmp_path):
    (tmp_path / ODD).write_bytes(BIG)
    (tmp_path / ODD).chmod(0o775)
    result = notebook.fleet.put(tmp_path / ODD, there / ODD)
    assert (state(result), next(iter(result)).stdout) == ("ok", f"put {len(BIG):,} bytes\n")
    assert (there / ODD).read_bytes() == BIG
    assert mode_of(there / ODD) == 0o755
    assert names(there) == [ODD]
    got = notebook.fleet.get(there / ODD, tmp_path / "got")
    local = tmp_path / "got/web1" / ODD
    assert next(iter(got)).stdout == f"{local}\n{len(BIG):,} bytes\n"
    assert local.read_bytes() == BIG
    assert mode_of(local) == 0o600
    assert names(local.parent) == [ODD]


@pytest.mark.parametrize("size", [0, 1, 32_674, 32_675, 32_676, 261_119, 261_121, 524_288])
def test_sizes_around_those_of_the_pieces_arrive_whole(notebook, there, tmp_path, size):
    data = os.urandom(size)
    notebook.fleet.put(content=data, remote=there / "data")
    assert (there / "data").read_bytes() == data
    notebook.fleet.get(there / "data", tmp_path / "got")
    assert (tmp_path / "got/web1/data").read_bytes() == data


def test_a_hundred_megabytes_arrive_whole_and_come_back(notebook, there, tmp_path):
    data = os.urandom(1_000_000) * 100
    notebook.fleet.put(content=data, remote=there / "data")
    assert hashlib.sha256((there / "data").read_bytes()).digest() == hashlib.sha256(data).digest()
    notebook.fleet.get(there / "data", tmp_path / "got")
    assert hashlib.sha256((tmp_path / "got/web1/data").read_bytes()).digest() == hashlib.sha256(data).digest()


@pytest.mark.parametrize(
    "agreed",
    [
        "Ciphers aes256-gcm@openssh.com",
        "Ciphers aes128-ctr\nMACs hmac-sha2-256",
        "Ciphers aes256-ctr\nMACs hmac-sha2-512-etm@openssh.com",
        "RekeyLimit 1M",
        "ForceCommand internal-sftp -P limits",
    ],
)
def test_a_file_arrives_whole_whatever_the_server_agrees_to(sshd, tmp_path, there, agreed):
    with sftp_server(sshd, tmp_path, extra=agreed) as server, opened(server) as notebook:
        notebook.fleet.put(content=BIG, remote=there / "data")
    assert (there / "data").read_bytes() == BIG


def test_a_file_arrives_whole_when_this_side_asks_for_new_keys_on_the_way(notebook, there):
    notebook.fleet.put(content="1", remote=there / "data")
    connection, fresh = notebook.session.pool.connection(notebook.targets[0])
    assert not fresh
    connection.transport.packetizer.REKEY_BYTES = 1_000_000
    before = connection.transport.H
    notebook.fleet.put(content=BIG, remote=there / "data")
    assert (there / "data").read_bytes() == BIG
    assert before != connection.transport.H


def test_a_new_file_has_the_mode_it_is_given_and_an_old_one_keeps_its_own(notebook, there):
    notebook.fleet.put(remote=there / "new", content="text é\n")
    assert ((there / "new").read_text(), mode_of(there / "new")) == ("text é\n", 0o644)
    (there / "new").chmod(0o4710)
    if ROOT:
        os.chown(there / "new", 12345, 12346)
        (there / "new").chmod(0o4710)
    notebook.fleet.put(remote=there / "new", content="other\n")
    assert mode_of(there / "new") == 0o4710
    if ROOT:
        assert ((there / "new").stat().st_uid, (there / "new").stat().st_gid) == (12345, 12346)
    for mode in (0o640, "0640"):
        notebook.fleet.put(remote=there / "new", content=f"{mode!r}", mode=mode)
        assert mode_of(there / "new") == 0o640


def test_a_relative_path_starts_in_the_home_folder(notebook, server):
    notebook.fleet.put(remote="~/at home", content="1")
    home = Path(notebook.fleet.run("pwd -P", read_only=True)["web1"].stdout.strip())
    try:
        assert (home / "at home").read_text() == "1"
    finally:
        (home / "at home").unlink()


def test_a_link_at_the_destination_is_replaced_and_what_it_leads_to_stays(notebook, there):
    (there / "real").write_text("kept")
    (there / "link").symlink_to("real")
    notebook.fleet.put(remote=there / "link", content="new")
    assert not (there / "link").is_symlink()
    assert ((there / "link").read_text(), (there / "real").read_text()) == ("new", "kept")


def test_the_same_content_is_not_sent_again(notebook, there):
    notebook.fleet.put(remote=there / "data", content=b"x" * 100_000)
    before = (there / "data").stat().st_ino
    notebook.events.clear()
    result = notebook.fleet.put(remote=there / "data", content=b"x" * 100_000)
    assert (state(result), next(iter(result)).stdout, notebook.sent()) == ("ok", "unchanged\n", [])
    assert (there / "data").stat().st_ino == before
    assert "put" in next(iter(notebook.fleet.put(remote=there / "data", content=b"y" * 100_000))).stdout
    assert (there / "data").read_bytes() == b"y" * 100_000
    assert "put" in next(iter(notebook.fleet.put(remote=there / "data", content=b"y" * 100_000, mode=0o600))).stdout
    assert mode_of(there / "data") == 0o600


def test_a_put_is_announced_before_it_leaves_and_a_get_never(notebook, there, tmp_path):
    notebook.fleet.put(remote=there / "data", content="1")
    assert notebook.sent() == ["put"]
    notebook.fleet.get(there / "data", tmp_path / "got")
    assert notebook.sent() == ["put"]


def test_many_transfers_share_a_connection_within_its_sessions(notebook, there):
    failed: list[object] = []

    def put(number: int) -> None:
        try:
            notebook.fleet.put(remote=there / f"data{number}", content=BIG[: 100_000 + number])
        except FleetError as error:
            failed.append(error)

    threads = [threading.Thread(target=put, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failed
    assert [(there / f"data{n}").stat().st_size for n in range(20)] == [100_000 + n for n in range(20)]
    assert len(names(there)) == 20


def test_transfers_wait_for_a_server_that_takes_one_session_at_a_time(sshd, tmp_path, there):
    with sftp_server(sshd, tmp_path, extra="MaxSessions 1") as server, opened(server) as notebook:
        notebook.fleet.put(remote=there / "first", content="1")
        states: list[str] = []

        def put(number: int) -> None:
            (one,) = notebook.fleet.put(remote=there / f"data{number}", content="1", check=False)
            states.append(f"{one.state.value} {one.reason}".strip())

        threads = [threading.Thread(target=put, args=(number,)) for number in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert states == ["ok"] * 12


def test_a_file_reaches_every_target_and_comes_from_each_into_a_folder_of_its_own(server, there, tmp_path):
    with opened(server, count=3) as notebook:
        assert len(notebook.fleet.put(remote=there / "data", content="1").ok) == 3
        assert len(notebook.fleet.get(there / "data", tmp_path / "got").ok) == 3
    assert names(tmp_path / "got") == ["web1", "web2", "web3"]


def test_a_file_that_does_not_know_its_size_is_read_to_its_end(notebook, tmp_path):
    notebook.fleet.get("/proc/cpuinfo", tmp_path)
    assert (tmp_path / "web1/cpuinfo").read_bytes().startswith(Path("/proc/cpuinfo").read_bytes()[:20])


def test_what_is_wrong_here_is_said_before_anything_is_sent(notebook, tmp_path):
    (tmp_path / "file").write_text("1")
    put = notebook.fleet.put
    wrong = [
        (lambda: put(tmp_path / "none", "/x"), "No such file"),
        (lambda: put(tmp_path, "/x"), "is a folder"),
        (lambda: put("/dev/null", "/x"), "not a regular file"),
        (lambda: put(tmp_path / "file", "/tmp/"), "not the path of a file"),
        (lambda: put(tmp_path / "file", "a/.."), "not the path of a file"),
        (lambda: put(tmp_path / "file"), "not the path of a file"),
        (lambda: put(tmp_path / "file", "~maya/x"), "not the path of a file"),
        (lambda: put(tmp_path / "file", "/a\0b"), "not the path of a file"),
        (lambda: put(tmp_path / "file", "/a\udcff"), "not valid Unicode"),
        (lambda: put("/a\0b", "/x"), "cannot read"),
        (lambda: put(remote="/x"), "one of them"),
        (lambda: put(tmp_path / "file", "/x", content="1"), "one of them"),
        (lambda: put(content="\udcff", remote="/x"), "not valid Unicode"),
        (lambda: put(content=Secret("env:X", str), remote="/x"), "neither text nor bytes"),
        (lambda: put(content="1", remote="/x", mode=644), "mode 644"),
        (lambda: put(content="1", remote="/x", mode="rw"), "mode 'rw'"),
        (lambda: put(content="1", remote="/x", owner="-R root"), "owner '-R root'"),
        (lambda: notebook.fleet.get("/etc/", tmp_path), "not the path of a file"),
    ]
    for call, words in wrong:
        with pytest.raises(UsageError, match=words):
            call()
    assert not notebook.events


def test_what_is_wrong_there_is_that_targets_result(notebook, there, tmp_path):
    put = lambda path: reason(notebook.fleet.put(remote=path, content="1", check=False))  # noqa: E731
    get = lambda path: reason(notebook.fleet.get(path, tmp_path / "got", check=False))  # noqa: E731
    (there / "folder").mkdir()
    (there / "link").symlink_to("folder")
    assert put(there / "none/x") == f"there is no folder {there}/none"
    assert put(there / "folder") == f"{there}/folder is a folder"
    assert put(there / "link") == f"{there}/link is a folder"
    assert put("/dev/null") == "/dev/null is not a regular file"
    assert put("/sys/fs/x").startswith("cannot write in /sys/fs: ")
    assert get(there / "none") == f"{there}/none: no such file"
    assert get(there / "folder") == f"{there}/folder is a folder"
    assert get("/dev/null") == "/dev/null is not a regular file"
    assert names(there) == ["folder", "link"]
    assert not (tmp_path / "got").exists()


def test_a_server_without_sftp_says_so(sshd, tmp_path):
    with opened(sshd) as notebook:
        result = notebook.fleet.put(remote=tmp_path / "x", content="1", check=False)
        assert state(result) == "failed"
        assert "there is no SFTP" in reason(result)
        assert not notebook.sent()
        assert notebook.fleet.run("true", read_only=True).ok


def test_a_login_that_may_do_nothing_but_sftp_is_sent_the_file(sshd, tmp_path, there):
    with sftp_server(sshd, tmp_path, extra="ForceCommand internal-sftp") as server, opened(server) as notebook:
        for _ in range(2):
            assert next(iter(notebook.fleet.put(remote=there / "data", content="1"))).stdout == "put 1 bytes\n"


def test_a_login_script_that_prints_is_named_as_the_reason(sshd, tmp_path, there):
    with sftp_server(sshd, tmp_path, extra="ForceCommand echo welcome; sleep 5") as server, opened(server) as notebook:
        result = notebook.fleet.put(remote=there / "data", content="1", check=False)
    assert state(result) == "failed"
    assert "does a login script print something" in reason(result)


def test_a_target_that_takes_no_more_says_so_and_nothing_is_left_behind(sshd, tmp_path, there):
    with sftp_server(sshd, tmp_path, limit=300_000) as server, opened(server) as notebook:
        (there / "data").write_text("old")
        result = notebook.fleet.put(remote=there / "data", content=BIG, check=False)
    assert state(result) == "failed"
    assert reason(result).startswith(f"writing in {there} failed: ")
    assert reason(result).endswith("bytes; nothing is changed there")
    assert names(there) == ["data"]
    assert (there / "data").read_text() == "old"


@pytest.mark.skipif(not ROOT, reason="mounts a small disk")
def test_a_full_disk_is_named(notebook, there):
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(there)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("nothing may be mounted here")
    try:
        result = notebook.fleet.put(remote=there / "data", content=BIG, check=False)
        assert state(result) == "failed"
        assert reason(result).startswith(f"no space left in {there} (0 bytes free) after 1,0")
        assert names(there) == []
    finally:
        subprocess.run(["umount", "--lazy", there], check=True)


def test_a_place_here_that_cannot_be_written_is_named(notebook, there, tmp_path):
    (there / "data").write_text("1")
    (tmp_path / "file").write_text("1")
    result = notebook.fleet.get(there / "data", tmp_path / "file", check=False)
    assert state(result) == "failed"
    assert reason(result) == f"cannot write {tmp_path}/file/web1/data here: Not a directory"


@pytest.mark.parametrize("name", ["..", "a/../../b", "."])
def test_a_targets_name_does_not_lead_out_of_the_folder(server, there, tmp_path, name):
    (there / "data").write_text("1")
    target = Target(name=name, host="127.0.0.21", port=server.port, user=server.user)
    with opened(server) as notebook:
        result = Fleet(notebook.session, [target]).get(there / "data", tmp_path / "got", check=False)
    assert reason(result) == "its name cannot be that of a folder"
    assert names(tmp_path) == ["there"]


def test_a_digest_tells_puts_apart_by_what_they_do_and_not_by_how_long_they_may_take():
    target = Target(name="web1", host="127.0.0.1")
    plain = {"content": Content(b"1"), "remote": "/x", "timeout_s": 1.0}
    changes: list[dict[str, object]] = [
        {},
        {"content": Content(b"2")},
        {"remote": "/y"},
        {"mode": 0o600},
        {"owner": "maya"},
        {"sudo": True},
        {"sudo": True, "as_user": "maya"},
    ]
    digests = {PutFile(**plain | change).digest(target) for change in changes}  # type: ignore[arg-type]
    assert len(digests) == len(changes)
    assert PutFile(**plain | {"timeout_s": 2.0}).digest(target) in digests  # type: ignore[arg-type]
    through_sudo = Target(name="web1", host="127.0.0.1", become=Become(always=True))
    assert PutFile(**plain).digest(through_sudo) in digests  # type: ignore[arg-type]
    assert GetFile(remote="/x", folder="a", timeout_s=1).digest(target) not in digests


def test_what_is_put_where_is_said_in_one_line_and_the_content_never():
    put = PutFile(content=Content(b"secret", name="site.conf"), remote="/etc/site.conf", timeout_s=1)
    assert put.text == "site.conf to /etc/site.conf (6 bytes)"
    assert "secret" not in repr(put)


def test_a_mode_is_a_number_or_its_digits():
    assert [mode_bits(mode) for mode in (None, 0o644, "644", "0755", "4755")] == [None, 0o644, 0o644, 0o755, 0o4755]


def test_the_names_of_paramiko_that_transfers_use_still_stand():
    channel = paramiko.Channel(1)
    assert callable(channel.in_buffer.set_event)
    assert not channel.eof_received
    assert {"remote_chanid", "out_window_size", "out_max_packet_size"} <= set(
        paramiko.Channel._set_remote_channel.__code__.co_names
    )
    assert "lock" in paramiko.Channel._window_adjust.__code__.co_names
    assert not channel.closed
    assert not channel.eof_sent
    assert callable(paramiko.Transport._send_user_message)
    assert issubclass(paramiko.Transport, threading.Thread)


def test_the_names_of_paramiko_that_a_burst_is_sealed_with_still_stand():
    packets = paramiko.packet.Packetizer(socket.socket())
    with packets._Packetizer__write_lock:
        nonce = bytes(4) + (2**64 - 2).to_bytes(8, "big")
        assert packets._inc_iv_counter(nonce) == nonce[:-1] + b"\xff"
    used = {"block_engine_out", "compress_engine_out", "aead_out", "iv_out", "sequence_number_out"}
    used |= {"sent_bytes", "sent_packets", "received_bytes_overflow", "received_packets_overflow"}
    assert {f"_Packetizer__{name}" for name in used} <= set(vars(packets))
    assert {f"_Packetizer__{name}" for name in used} <= set(paramiko.packet.Packetizer.send_message.__code__.co_names)
    assert callable(packets._trigger_rekey)
    assert packets.REKEY_BYTES <= 2**29
    assert packets.REKEY_PACKETS <= 2**29
    packets.close()
