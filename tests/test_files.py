"""Files to targets and from them: `put` and `get` against a real sshd, and through a proxy that cuts and freezes."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import paramiko
import pytest
from conftest import Sshd, _await_port, find_sshd, free_port
from support import wait_for

from opsbook.errors import FleetError, UsageError
from opsbook.fleet import destination, transfer
from opsbook.fleet.content import Content, mode_bits
from opsbook.fleet.fleet import Fleet
from opsbook.fleet.session import Session
from opsbook.fleet.transfer import GetFile, PutFile
from opsbook.model.event import Event
from opsbook.model.message import RunOptions
from opsbook.model.target import Become, Inventory, Target
from opsbook.redaction import Secret

ODD = "a file ünïcode ☃ 'quoted' \"$HOME\" -n.txt"
BIG = os.urandom(1_000_000) * 6
ROOT = os.getuid() == 0
LIMITED = """
import os, resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
os.execv(sys.argv[2], sys.argv[2:])
"""
"""Becomes another program, whose files do not grow beyond a size."""


@contextmanager
def sftp_server(keys: Sshd, folder: Path, *, limit: int | None = None, extra: str = "") -> Iterator[Sshd]:
    """A real sshd with SFTP; with a limit no file it writes may grow larger."""
    port = free_port()
    key = " ".join((keys.folder / "host.pub").read_text().split()[:2])
    (folder / "known_hosts").write_text(f"[127.*]:* {key}\n")
    shutil.copy(keys.identity, folder / "client")
    (folder / "client").chmod(0o600)
    (folder / "config").write_text(
        f"ListenAddress 0.0.0.0\nAllowUsers *@127.0.0.0/8\nPort {port}\nHostKey {keys.folder}/host\nPidFile none\n"
        f"AuthorizedKeysFile {keys.folder}/authorized\nUsePAM no\nUseDNS no\nStrictModes no\n"
        f"PasswordAuthentication no\nSubsystem sftp internal-sftp\nSetEnv HOME={folder}\n{extra}\n"
    )

    command = [find_sshd(), "-D", "-f", str(folder / "config")]
    server = subprocess.Popen(
        command if limit is None else [sys.executable, "-c", LIMITED, str(limit), *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _await_port(server, port, folder / "config")
        yield Sshd(folder=folder, port=port, pid=server.pid)
    finally:
        server.terminate()
        server.wait(10)


@pytest.fixture(scope="module")
def server(sshd: Sshd, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with sftp_server(sshd, tmp_path_factory.mktemp("sftp")) as made:
        yield made


class Notebook:
    """A session on targets of one server, and what it reported."""

    def __init__(self, keys: Sshd, *, port: int | None = None, count: int = 1, become: Become | None = None) -> None:
        self.events: list[Event] = []
        targets = tuple(
            Target(
                name=f"web{number}",
                host=f"127.0.0.{number + 20}" if port is None else "127.0.0.1",
                port=port or keys.port,
                user=keys.user,
                identity_files=(str(keys.identity),),
                become=become or Become(),
            )
            for number in range(1, count + 1)
        )
        self.session = Session(
            inventory=Inventory(targets=targets),
            selected=None,
            options=RunOptions(known_hosts=(str(keys.known_hosts),), connect_timeout_s=10, command_timeout_s=60),
            channel=None,
        )
        self.session.report = self.events.append  # type: ignore[method-assign]
        self.session.intend = self.events.append  # type: ignore[method-assign,assignment]
        self.targets = targets
        self.fleet = Fleet(self.session, targets)

    def sent(self) -> list[str]:
        """The kinds of what was announced before it left."""
        return [event.kind for event in self.events if type(event).__name__ == "Intent"]


@contextmanager
def opened(keys: Sshd, **how: object) -> Iterator[Notebook]:
    made = Notebook(keys, **how)
    try:
        yield made
    finally:
        made.session.pool.close()


@pytest.fixture
def notebook(server: Sshd) -> Iterator[Notebook]:
    with opened(server) as made:
        yield made


@pytest.fixture
def there(tmp_path: Path) -> Path:
    """A folder on the target, which is this machine."""
    made = tmp_path / "there"
    made.mkdir()
    return made


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def reason(result: object) -> str:
    (one,) = result  # type: ignore[misc]
    return one.reason


def state(result: object) -> str:
    (one,) = result  # type: ignore[misc]
    return one.state.value


class Proxy:
    """Passes one connection after the other on to the server; the first one meets a fault."""

    def __init__(self, port: int, *, after: int = 0, slow_s: float = 0.0) -> None:
        self._port = port
        self._after = after
        """Bytes to the server after which the fault comes; 0 for never."""
        self._slow_s = slow_s
        self.fault: Callable[[Proxy], None] = Proxy.cut
        self.up = 0
        """Bytes of the first connection that went to the server."""
        self.frozen = threading.Event()
        self.deaf = threading.Event()
        """Nothing of what the server says comes through any more."""
        self._first = True
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024)  # so that a frozen link is soon full
        self.port = int(self._listener.getsockname()[1])
        self._start(self._accept)

    def _start(self, work: Callable[[], None]) -> None:
        thread = threading.Thread(target=work, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client = self._listener.accept()[0]
            except OSError:
                return
            to = socket.create_connection(("127.0.0.1", self._port))
            self._sockets += [client, to]
            first, self._first = self._first, False
            self._start(partial(self._pass, client, to, first=first, up=True))
            self._start(partial(self._pass, to, client, first=first, up=False))

    def _pass(self, source: socket.socket, to: socket.socket, *, first: bool, up: bool) -> None:
        with suppress(OSError):
            while data := source.recv(16 * 1024):
                if first and self.frozen.is_set():
                    return
                if first and up:
                    self.up += len(data)
                    time.sleep(self._slow_s)
                if first and not up and self.deaf.is_set():
                    continue
                if first and up and self._after and self.up >= self._after:
                    self.fault(self)
                to.sendall(data)
        if not (first and self.frozen.is_set()):
            for end in (source, to):
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def cut(self) -> None:
        """End everything that stands."""
        for sock in self._sockets:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        for thread in self._threads:
            thread.join(10)
        for sock in self._sockets:
            sock.close()


@contextmanager
def proxied(server: Sshd, fault: Callable[[Proxy], None] = Proxy.cut, **how: float) -> Iterator[tuple[Notebook, Proxy]]:
    proxy = Proxy(server.port, **how)  # type: ignore[arg-type]
    proxy.fault = fault
    try:
        with opened(server, port=proxy.port) as notebook:
            yield notebook, proxy
    finally:
        proxy.close()


def freeze(proxy: Proxy) -> None:
    proxy.frozen.set()


# what arrives


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


# what is refused


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


# as somebody else


def needs_sudo() -> None:
    usable = ROOT and shutil.which("sudo") is not None
    if not usable or subprocess.run(["sudo", "-n", "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs root and sudo")


@pytest.fixture
def public(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder other users can look into, and in it one to stage files that no other test uses."""
    with tempfile.TemporaryDirectory(dir=transfer.STAGING) as made:
        for name in (".", "there", "staging"):
            (Path(made) / name).mkdir(exist_ok=True)
            (Path(made) / name).chmod(0o755)
        monkeypatch.setattr(transfer, "STAGING", f"{made}/staging")
        yield Path(made)


@pytest.mark.parametrize("user", [None, "nobody"])
def test_sudo_puts_a_file_in_its_place_whole_and_leaves_nothing_behind(notebook, public, user):
    needs_sudo()
    there = public / "there"
    if user:
        shutil.chown(there, user)
    name = there / ODD
    result = notebook.fleet.put(remote=name, content=BIG, sudo=True, as_user=user, mode=0o640)
    assert (state(result), next(iter(result)).stdout) == ("ok", f"put {len(BIG):,} bytes\n")
    assert (name.read_bytes(), mode_of(name), name.owner()) == (BIG, 0o640, user or "root")
    again = notebook.fleet.put(remote=name, content=BIG, sudo=True, as_user=user)
    assert next(iter(again)).stdout == "unchanged\n"
    notebook.fleet.put(remote=name, content="short", sudo=True, as_user=user)
    assert (name.read_text(), mode_of(name)) == ("short", 0o640)
    missing = notebook.fleet.put(remote=there / "none/x", content="1", sudo=True, as_user=user, check=False)
    assert (state(missing), next(iter(missing)).stderr) == ("failed", f"there is no folder {there}/none\n")
    assert reason(notebook.fleet.put(remote=there, content="1", sudo=True, check=False)).endswith("is a folder")
    assert names(there) == [ODD]
    assert names(public / "staging") == []
    assert notebook.sent() == ["put"] * 3  # the folder is found missing by what was sent


@pytest.mark.skipif(not ROOT, reason="gives files away")
def test_a_file_is_given_to_an_owner_and_stays_with_its_own(notebook, there):
    notebook.fleet.put(remote=there / "data", content="1", owner="nobody")
    assert (there / "data").owner() == "nobody"
    put = notebook.fleet.put(remote=there / "data", content="2")
    assert ((there / "data").owner(), (there / "data").read_text()) == ("nobody", "2")
    assert next(iter(notebook.fleet.put(remote=there / "data", content="2", owner="nobody"))).stdout == "unchanged\n"
    notebook.fleet.put(remote=there / "data", content="2", owner="12345:12346")
    assert ((there / "data").stat().st_uid, (there / "data").stat().st_gid) == (12345, 12346)
    wrong = notebook.fleet.put(remote=there / "data", content="3", owner="no-such-user", check=False)
    assert state(wrong) == "failed"
    assert ((there / "data").read_text(), names(there)) == ("2", ["data"])
    assert put.ok


EXCHANGE = """\
{0}() {{
  command {0} "$@"
  find "$folder" -maxdepth 1 -name '.opsbook-*' ! -type l -exec sh -c 'mv "$1" "$1-old"; ln -s {1} "$1"' sh {{}} ';' >&2
}}
"""
"""What the owner of the destination's folder can do behind the back of one command of the script."""


@pytest.mark.skipif(not ROOT, reason="gives files away")
@pytest.mark.parametrize(("behind", "led_to"), [("wc", "secret"), ("mkdir", "others"), ("wc", "others")])
def test_whoever_owns_the_folder_cannot_have_the_files_of_others_given_away(
    notebook, there, monkeypatch, behind, led_to
):
    secret, others, data = there.parent / "secret", there.parent / "others", there / "data"
    secret.write_text("secret")
    secret.chmod(0o600)
    others.mkdir(mode=0o700)
    data.write_text("old")
    install = EXCHANGE.format(behind, there.parent / led_to) + destination.INSTALL
    monkeypatch.setattr(destination, "INSTALL", install)
    result = notebook.fleet.put(remote=data, content="new", owner="nobody", mode=0o666, check=False)
    assert (secret.owner(), mode_of(secret), secret.read_text()) == ("root", 0o600, "secret")
    assert (others.owner(), mode_of(others), names(others)) == ("root", 0o700, [])
    if behind == "wc":
        assert (state(result), data.read_text(), data.owner(), mode_of(data)) == ("ok", "new", "nobody", 0o666)
    else:
        assert (state(result), data.read_text(), data.owner()) == ("failed", "old", "root")
        assert next(iter(result)).stderr.endswith(f" was exchanged in {there}\n")


@pytest.mark.skipif(not ROOT, reason="gives files away")
def test_a_path_that_leads_elsewhere_after_the_look_keeps_no_owner_and_no_mode(notebook, there, monkeypatch):
    (there / "his").mkdir()
    (there / "his" / "data").write_text("his")
    (there / "his" / "data").chmod(0o666)
    shutil.chown(there / "his" / "data", "nobody")
    (there / "roots").mkdir()
    (there / "roots" / "data").write_text("old")
    exchange = 'mv "$folder" "$folder-old"; ln -s roots "$folder"\n'
    monkeypatch.setattr(destination, "INSTALL", exchange + destination.INSTALL)
    result = notebook.fleet.put(remote=there / "his" / "data", content="new", owner=":root", check=False)
    assert (state(result), names(there / "roots")) == ("failed", ["data"])
    assert next(iter(result)).stderr == f"somebody else changed {there}/his/data meanwhile\n"
    assert ((there / "roots" / "data").read_text(), (there / "roots" / "data").owner()) == ("old", "root")


@pytest.mark.skipif(not ROOT, reason="gives files away")
def test_what_ends_while_it_is_put_in_its_place_leaves_nothing_behind(notebook, there, monkeypatch):
    (there / "data").write_text("old")
    monkeypatch.setattr(destination, "INSTALL", "chown() { sleep 50; }\n" + destination.INSTALL)
    result = notebook.fleet.put(remote=there / "data", content="new", owner="nobody", timeout=2, check=False)
    assert (state(result), names(there), (there / "data").read_text()) == ("timed_out", ["data"], "old"), reason(result)


UNTIDY = "trap() {{ :; }}\nchown() {{ echo $$ > {0}-part; mv {0}-part {0}; sleep {1}; }}\n"
"""A script that tidies nothing up, as one that is killed, and says which process it is when it is in the middle."""


def hold(monkeypatch: pytest.MonkeyPatch, there: Path, *, seconds: int = 50, more: str = "") -> Path:
    """Let what puts a file in its place hang before its end; return the file that has its process's number then."""
    begun = there.parent / "begun"
    monkeypatch.setattr(destination, "INSTALL", UNTIDY.format(begun, seconds) + more + destination.INSTALL)
    return begun


def while_held(begun: Path, work: Callable[[], object]) -> threading.Thread:
    """Do something in a thread as soon as a script hangs."""
    thread = threading.Thread(target=lambda: (wait_for(begun.exists, seconds=30), work()))
    thread.start()
    return thread


def kill_script(begun: Path) -> None:
    """Kill the script that hangs, and all it started."""
    os.killpg(os.getpgid(int(begun.read_text())), signal.SIGKILL)


@pytest.mark.skipif(not ROOT, reason="gives files away")
def test_what_a_killed_script_left_is_taken_back(notebook, there, monkeypatch):
    (there / "data").write_text("old")
    begun = hold(monkeypatch, there)
    killer = while_held(begun, lambda: kill_script(begun))
    result = notebook.fleet.put(remote=there / "data", content="new", owner="nobody", check=False)
    killer.join(30)
    assert (state(result), reason(result)) == ("failed", "killed by signal KILL")
    assert ((there / "data").read_text(), names(there)) == ("old", ["data"])


@pytest.mark.skipif(not ROOT, reason="gives files away")
def test_what_a_killed_script_left_is_named_when_somebody_exchanged_it(notebook, there, monkeypatch):
    others = there.parent / "others"
    others.mkdir(mode=0o700)
    (others / "new").write_text("secret")
    begun = hold(monkeypatch, there, more=EXCHANGE.format("wc", others))
    killer = while_held(begun, lambda: kill_script(begun))
    result = notebook.fleet.put(remote=there / "data", content="new", owner="nobody", check=False)
    killer.join(30)
    (link,) = (path for path in there.iterdir() if path.is_symlink())
    assert (state(result), reason(result)) == ("failed", f"killed by signal KILL; {link} may be left there")
    assert (names(others), (others / "new").read_text()) == (["new"], "secret")


@pytest.mark.skipif(not ROOT, reason="gives files away")
def test_what_a_cancelled_script_left_is_named(notebook, there, monkeypatch):
    begun = hold(monkeypatch, there)
    stopper = while_held(begun, lambda: notebook.session.cancel(hard=True))
    with pytest.raises(KeyboardInterrupt):
        notebook.fleet.put(remote=there / "data", content="new", owner="nobody")
    stopper.join(30)
    (ended,) = (event for event in notebook.events if type(event).__name__ == "TargetEnded")
    (part,) = names(there)
    assert (ended.state.value, ended.reason.endswith(f"; {there}/{part} may be left there")) == ("cancelled", True)


@pytest.mark.skipif(not ROOT, reason="gives files away")
def test_a_script_whose_link_was_lost_can_put_nothing_in_its_place_any_more(server, there, monkeypatch):
    (there / "data").write_text("old")
    begun = hold(monkeypatch, there, seconds=4)
    with proxied(server) as (notebook, proxy):
        cutter = while_held(begun, proxy.cut)
        result = notebook.fleet.put(remote=there / "data", content="new", owner="nobody", check=False)
        cutter.join(30)
    assert (state(result), names(there)) == ("lost", ["data"])
    wait_for(lambda: not Path("/proc", begun.read_text().strip()).exists(), seconds=30)
    assert ((there / "data").read_text(), names(there)) == ("old", ["data"])


@pytest.mark.skipif(not ROOT, reason="gives files away")
def test_a_staged_file_is_taken_back_over_a_slow_link_after_a_cancel(server, there, public, monkeypatch):
    begun = hold(monkeypatch, there)
    with proxied(server) as (notebook, proxy):

        def stop() -> None:
            assert names(public / "staging")
            proxy._slow_s = 0.25
            notebook.session.cancel(hard=True)

        stopper = while_held(begun, stop)
        with pytest.raises(KeyboardInterrupt):
            notebook.fleet.put(remote=there / "data", content="new", owner="nobody")
        stopper.join(30)
    (ended,) = (event for event in notebook.events if type(event).__name__ == "TargetEnded")
    left = [f"{public}/staging/{name}" for name in names(public / "staging")]
    assert (left, "staging" in ended.reason) == ([], False)


# when the link fails


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


# a server that knows less


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


# values


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
