"""Files whose link is cut, freezes or is cancelled, and a server that knows less than OpenSSH."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import paramiko
import pytest
from conftest import Sshd
from support import wait_for
from transfers import (
    BIG,
    Proxy,
    freeze,
    mode_of,
    names,
    opened,
    proxied,
    reason,
    state,
)

pytest_plugins = ["sftp_desk"]


def test_a_link_that_is_cut_in_the_middle_changes_nothing_and_leaves_nothing(server, there):
    (there / "data").write_text("old")
    with proxied(server, after=1_000_000) as (notebook, _):
        result = notebook.fleet.put(remote=there / "data", content=BIG, check=False)
    assert state(result) == "unreachable"
    assert reason(result).startswith("the link was lost after ")
    assert reason(result).endswith("bytes; nothing is changed there")
    assert ((there / "data").read_text(), names(there)) == ("old", ["data"])


def test_a_link_that_freezes_ends_with_the_timeout(server, there):
    (there / "data").write_text("old")
    with proxied(server, freeze, after=1_000_000) as (notebook, _):
        begun = time.monotonic()
        result = notebook.fleet.put(remote=there / "data", content=BIG, check=False, timeout=1)
        assert 1 <= time.monotonic() - begun < 15
    assert (state(result), (there / "data").read_text(), names(there)) == ("timed_out", "old", ["data"])
    assert reason(result).startswith("timed out after 1 s after ")


def test_transfers_that_hang_in_a_full_socket_end_with_their_timeout(server, there):
    with proxied(server, freeze, after=200_000) as (notebook, _):
        results: list[str] = []

        def put(number: int) -> None:
            result = notebook.fleet.put(remote=there / f"data{number}", content=BIG * 3, check=False, timeout=2)
            results.append(state(result))

        threads = [threading.Thread(target=put, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert len(results) == 8
        assert set(results) <= {"timed_out", "unreachable"}
    assert not [name for name in names(there) if name.startswith("data")]


@pytest.mark.parametrize("frozen", [False, True])
def test_a_cancel_is_noticed_and_takes_back_what_was_written(server, there, frozen):
    (there / "data").write_text("old")
    fault = freeze if frozen else (lambda _: None)
    with proxied(server, fault, after=500_000, slow_s=0 if frozen else 0.01) as (notebook, proxy):
        seconds: list[float] = []

        def stop() -> None:
            wait_for(lambda: proxy.up > 500_000)
            time.sleep(0.2)
            seconds.append(time.monotonic())
            notebook.session.cancel(hard=True)

        stopper = threading.Thread(target=stop)
        stopper.start()
        with pytest.raises(KeyboardInterrupt):
            notebook.fleet.put(remote=there / "data", content=BIG * 4)
        assert time.monotonic() - seconds[0] < 8
        stopper.join(10)
        (ended,) = (event for event in notebook.events if type(event).__name__ == "TargetEnded")
    assert ended.state.value == "cancelled"
    assert (there / "data").read_text() == "old"
    left = [name for name in names(there) if name != "data"]
    assert len(left) == frozen
    assert all(ended.reason.endswith(f"; {there}/{name} may be left there") for name in left)


def test_a_link_that_is_cut_while_a_file_is_put_in_its_place_is_asked_about(server, there):
    """The same put twice: the first tells how many bytes it takes until the answer to the last request."""
    with proxied(server) as (notebook, proxy):
        notebook.fleet.put(remote=there / "data1", content=BIG[:50_000])
        whole = wait_for(lambda: stable(lambda: proxy.up))

    def cut_soon(proxy: Proxy) -> None:
        proxy.deaf.set()
        threading.Timer(0.5, proxy.cut).start()

    # what follows the request to move it: the end of the channel, in two small packets
    with proxied(server, cut_soon, after=whole - 100) as (notebook, _):
        result = notebook.fleet.put(remote=there / "data2", content=BIG[:50_000], check=False)
    assert (state(result), next(iter(result)).stdout) == ("ok", "put 50,000 bytes\n")
    assert (there / "data2").read_bytes() == BIG[:50_000]
    assert names(there) == ["data1", "data2"]


def stable(value: Callable[[], int]) -> int:
    """A value that does not change for a while; 0 while it does."""
    before = value()
    time.sleep(0.3)
    return before if value() == before else 0


def test_a_link_that_is_cut_while_a_file_is_fetched_leaves_nothing_here(server, there, tmp_path):
    (there / "data").write_bytes(BIG)
    with proxied(server) as (notebook, proxy):
        notebook.fleet.run("true", read_only=True)
        cutter = threading.Timer(0.0, lambda: (wait_for((tmp_path / "got/web1").exists), proxy.cut()))
        proxy._slow_s = 0.01
        cutter.start()
        result = notebook.fleet.get(there / "data", tmp_path / "got", check=False)
        cutter.join(10)
    assert state(result) == "unreachable"
    assert reason(result).endswith("bytes; nothing was written here")
    assert names(tmp_path / "got/web1") == []


class OldFiles(paramiko.SFTPServerInterface):
    """Files of this machine, over a server whose rename replaces nothing and that has no extensions."""

    def stat(self, path: str) -> object:
        try:
            return paramiko.SFTPAttributes.from_stat(Path(path).stat())
        except OSError as error:
            return paramiko.SFTPServer.convert_errno(error.errno)

    def open(self, path: str, flags: int, attr: object) -> object:
        try:
            descriptor = os.open(path, flags, 0o600)
        except OSError as error:
            return paramiko.SFTPServer.convert_errno(error.errno)
        handle = paramiko.SFTPHandle(flags)
        handle.readfile = handle.writefile = os.fdopen(descriptor, "wb")  # type: ignore[attr-defined]
        handle.stat = lambda: self.stat(path)  # type: ignore[method-assign]
        handle.chattr = lambda made: Path(path).chmod(made.st_mode) or 0  # type: ignore[method-assign,func-returns-value]
        return handle

    def rename(self, oldpath: str, newpath: str) -> int:
        if Path(newpath).exists():
            return int(paramiko.SFTP_FAILURE)
        Path(oldpath).rename(newpath)
        return int(paramiko.SFTP_OK)

    def remove(self, path: str) -> int:
        Path(path).unlink()
        return int(paramiko.SFTP_OK)


class Anybody(paramiko.ServerInterface):
    def check_auth_publickey(self, username: str, key: object) -> int:
        return int(paramiko.AUTH_SUCCESSFUL)

    def get_allowed_auths(self, username: str) -> str:
        return "publickey"

    def check_channel_request(self, kind: str, chanid: int) -> int:
        return int(paramiko.OPEN_SUCCEEDED)


@pytest.fixture
def old_server(sshd: Sshd) -> Iterator[int]:
    listener = socket.create_server(("127.0.0.1", 0))
    transports: list[paramiko.Transport] = []

    def serve() -> None:
        with suppress(OSError):
            transport = paramiko.Transport(listener.accept()[0])
            transports.append(transport)
            transport.add_server_key(paramiko.Ed25519Key.from_private_key_file(str(sshd.folder / "host")))
            transport.set_subsystem_handler("sftp", paramiko.SFTPServer, OldFiles)
            transport.start_server(server=Anybody())

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield int(listener.getsockname()[1])
    listener.close()
    for transport in transports:
        transport.close()
    thread.join(10)


def test_a_server_whose_rename_replaces_nothing_gets_the_old_file_out_of_the_way(server, old_server, there):
    with opened(server, port=old_server) as notebook:
        for data in (BIG[:100_000], BIG[:50_000]):
            result = notebook.fleet.put(remote=there / "data", content=data, mode=0o640)
            assert state(result) == "ok"
            assert (there / "data").read_bytes() == data
    assert mode_of(there / "data") == 0o640
    assert names(there) == ["data"]
