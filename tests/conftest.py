"""What every test shares: a clean environment, and a real sshd on loopback."""

from __future__ import annotations

import faulthandler
import gc
import getpass
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # so that tests can share `support`
from canary import PLANTED, Watch
from overhearing import Processes, ears, overhear
from support import Desk, processes_with

gc.disable()  # until all tests are known: what is made till then stays, and need not be looked through again and again
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    # whoever starts the tests in the background may have them ignored, and every command in them would inherit that
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


SCREEN = pytest.StashKey[int]()
"""Where what a process says at its end is seen."""
HANG_S = 180.0
"""Seconds beyond its time-out a test may take, and the session's end: that alarm rings once, and a clean-up may wait
again for what has not come."""


def pytest_configure(config: pytest.Config) -> None:
    with config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        config.stash[SCREEN] = os.dup(2)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    end_a_hang(item)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> None:
    end_a_hang(item)  # whoever tells of a failure calls it off


def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workerinput"):  # it waits for the others now, as long as they take
        faulthandler.cancel_dump_traceback_later()
    else:
        faulthandler.dump_traceback_later(HANG_S, exit=True, file=session.config.stash[SCREEN])


def end_a_hang(item: pytest.Item) -> None:
    """Have this process say where its threads are, and end, if it does nothing else in all this time."""
    mark = item.get_closest_marker("timeout")
    limit = mark.args[0] if mark else item.config.getoption("timeout") or item.config.getini("timeout")
    faulthandler.dump_traceback_later(float(limit) + HANG_S, exit=True, file=item.config.stash[SCREEN])


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


@dataclass(frozen=True)
class Sshd:
    """A real OpenSSH server. Every address of 127.0.0.0/8 is another target behind the same port."""

    folder: Path
    port: int
    pid: int

    @property
    def identity(self) -> Path:
        return self.folder / "client"

    @property
    def known_hosts(self) -> Path:
        return self.folder / "known_hosts"

    @property
    def user(self) -> str:
        return getpass.getuser()

    def inventory(self, names: dict[str, str], path: Path, *, extra: str = "") -> Path:
        """Write an inventory of `name: address` targets, all in the group `web`."""
        hosts = "\n".join(f"{name} ansible_host={address}" for name, address in names.items())
        path.write_text(
            f"[web]\n{hosts}\n\n[all:vars]\nansible_port={self.port}\nansible_user={self.user}\n"
            f"ansible_ssh_private_key_file={self.identity}\n"
            f"ansible_ssh_common_args='-o UserKnownHostsFile={self.known_hosts}'\n{extra}"
        )
        return path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def find_sshd() -> str:
    found = shutil.which("sshd") or ("/usr/sbin/sshd" if Path("/usr/sbin/sshd").exists() else "")
    if not found:
        pytest.fail("these tests need a real sshd: install the package openssh-server")
    return found


@pytest.fixture(scope="session")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    folder = tmp_path_factory.mktemp("sshd")
    for name in ("host", "client"):
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(folder / name)], check=True
        )
    port = free_port()
    (folder / "authorized").write_bytes((folder / "client.pub").read_bytes())
    key = " ".join((folder / "host.pub").read_text().split()[:2])
    (folder / "known_hosts").write_text(f"[127.*]:{port} {key}\n")
    (folder / "config").write_text(
        # it has to listen everywhere to be all of 127.0.0.0/8, and lets nobody in from anywhere else
        f"ListenAddress 0.0.0.0\nAllowUsers *@127.0.0.0/8\nPort {port}\nHostKey {folder}/host\nPidFile none\n"
        f"AuthorizedKeysFile {folder}/authorized\nUsePAM no\nUseDNS no\nStrictModes no\nPasswordAuthentication no\n"
        "PermitRootLogin prohibit-password\nMaxStartups 1000:30:2000\nMaxSessions 1000\nPrintMotd no\n"
        f"SetEnv HOME={folder}\n"
    )
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    log = (folder / "log").open("wb")
    server = subprocess.Popen(
        [find_sshd(), "-D", "-e", "-f", str(folder / "config")], stdin=subprocess.DEVNULL, stdout=log, stderr=log
    )
    try:
        _await_port(server, port, folder / "log")
        yield Sshd(folder=folder, port=port, pid=server.pid)
    finally:
        server.terminate()
        server.wait(10)
        log.close()


def _await_port(server: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            if server.poll() is not None:
                break
            time.sleep(0.02)
        else:
            return
    pytest.fail(f"sshd did not start: {log.read_text()}")


@pytest.fixture
def desk(request: pytest.FixtureRequest, tmp_path: Path, sshd: Sshd) -> Desk:
    """A desk whose inventory holds the targets a module names in `NAMES`, and the lines in `MORE_HOSTS` behind them."""
    sshd.inventory(request.module.NAMES, tmp_path / "hosts.ini", extra=getattr(request.module, "MORE_HOSTS", ""))
    made = Desk(tmp_path)
    made.write("opsbook.toml", 'inventory = ["hosts.ini"]\n')
    return made


@pytest.fixture
def asleep() -> Iterator[str]:
    """A number of seconds nobody else sleeps; what a failed test leaves asleep is ended."""
    number = f"{900 + secrets.randbelow(90)}.{secrets.randbelow(10**9):09}7"
    yield number
    for pid in processes_with(f"sleep {number}"):
        os.kill(pid, signal.SIGKILL)


@pytest.fixture
def syncs(monkeypatch: pytest.MonkeyPatch) -> list[os.stat_result]:
    """The real fsync, and what each file or folder was when it was synced, in order."""
    seen: list[os.stat_result] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        real(descriptor)
        seen.append(os.fstat(descriptor))

    monkeypatch.setattr(os, "fsync", fsync)
    return seen


@pytest.fixture(scope="session")
def watch() -> Iterator[Watch]:
    """Looks for the canary in the folders of each test that runs a notebook, and in all of them at the end."""
    made = Watch()
    yield made
    assert made.leaks(PLANTED) == []


@pytest.fixture(scope="session")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    """Looks for the canary in the processes of the machine, and hears of those that the tests start."""
    root = tmp_path_factory.getbasetemp()
    listener = ears(root / "ears")
    overhear(listener)
    made = Processes(root, heard=Path(listener.file))
    made.start()
    yield made
    made.close()
    assert made.leaks == []


@pytest.fixture(autouse=True)
def no_leak(watch: Watch, processes: Processes) -> Iterator[None]:
    """The secret every notebook has is in no file but its own, and in no process that was not to have it."""
    before, known = len(PLANTED), len(processes.leaks)
    yield
    processes.take_in()
    assert watch.leaks(PLANTED[before:]) == []
    assert processes.leaks[known:] == []


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No setting of the developer's reaches a test."""
    for name in list(os.environ):
        if name.startswith("OPSBOOK_") or name in {"NO_COLOR", "FORCE_COLOR", "CI", "SSH_AUTH_SOCK"}:
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
