"""Further sshd processes for a test, each with a configuration of its own, and users who log in with a password."""

from __future__ import annotations

import os
import secrets
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from conftest import Sshd, _await_port, find_sshd, free_port
from support import wait_for

from opsbook.model.message import RunOptions
from opsbook.model.target import Target
from opsbook.secrets.resolve import resolve
from opsbook.ssh.connection import Connection, Dialer
from opsbook.ssh.hostkeys import HostKeyPolicy, KnownHosts
from opsbook.ssh.route import Atlas

PLAIN = {
    "UsePAM": "no",
    "UseDNS": "no",
    "StrictModes": "no",
    "PasswordAuthentication": "no",
    "KbdInteractiveAuthentication": "no",
    "PermitRootLogin": "yes",
    "PrintMotd": "no",
    "MaxStartups": "1000:30:2000",
    "LogLevel": "VERBOSE",
}


@dataclass(frozen=True)
class Server:
    """One sshd on loopback, with the host key and the client key of the one all tests share."""

    sshd: Sshd
    folder: Path
    port: int
    process: subprocess.Popen[bytes]

    @property
    def known_hosts(self) -> Path:
        return self.folder / "known_hosts"

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")

    def children(self) -> list[int]:
        """The processes that serve its connections."""
        listing = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
        pairs = [tuple(map(int, line.split())) for line in listing.splitlines()]
        return [pid for pid, parent in pairs if parent == self.process.pid]


@contextmanager
def serve(sshd: Sshd, folder: Path, *lines: str, **options: str) -> Iterator[Server]:
    """Start an sshd with these options over the usual ones, and with lines (such as a `Match` block) behind them."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    key = " ".join((sshd.folder / "host.pub").read_text().split()[:2])
    (folder / "known_hosts").write_text(f"[127.*]:{port} {key}\n")
    usual = {
        "ListenAddress": "0.0.0.0",
        "AllowUsers": "*@127.0.0.0/8",
        "Port": str(port),
        "HostKey": f"{sshd.folder}/host",
        "PidFile": "none",
        "AuthorizedKeysFile": f"{sshd.folder}/authorized",
        **PLAIN,
    }
    text = "".join(f"{name} {value}\n" for name, value in {**usual, **options}.items())
    (folder / "config").write_text(text + "".join(f"{line}\n" for line in lines))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [find_sshd(), "-D", "-e", "-f", str(folder / "config")], stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
        try:
            _await_port(process, port, folder / "log")
            yield Server(sshd=sshd, folder=folder, port=port, process=process)
        finally:
            process.terminate()
            process.wait(10)


@dataclass(frozen=True)
class User:
    """A user of this machine, for the time of a test."""

    name: str
    password: str

    def authorize(self, key: Path) -> None:
        """Let a key log in as this user."""
        folder = Path(f"~{self.name}").expanduser() / ".ssh"
        folder.mkdir(exist_ok=True)
        folder.chmod(0o755)
        (folder / "authorized_keys").write_bytes(Path(f"{key}.pub").read_bytes())
        (folder / "authorized_keys").chmod(0o644)


@contextmanager
def new_user() -> Iterator[User]:
    """Create a user with a password; only root can."""
    user = User(name=f"ob{os.getpid()}x{secrets.token_hex(2)}", password=f"Pw-{secrets.token_hex(8)}")
    subprocess.run(["useradd", "--create-home", "--shell", "/bin/sh", user.name], check=True, capture_output=True)
    try:
        subprocess.run(["chpasswd"], input=f"{user.name}:{user.password}\n".encode(), check=True)
        yield user
    finally:
        _remove(user.name)


def _remove(name: str) -> None:
    """Remove a user, once nothing of his runs any more."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        subprocess.run(["pkill", "-KILL", "-u", name], check=False)
        done = subprocess.run(["userdel", "--remove", name], check=False, capture_output=True)
        if done.returncode != 8:  # still in use
            return
        time.sleep(0.1)


def make_key(file: Path, *how: str, kind: str = "ed25519") -> Path:
    """Make a key pair without a passphrase."""
    subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", "", *how, "-C", file.name, "-f", str(file)], check=True)
    return file


@contextmanager
def agent(socket: Path, *keys: Path) -> Iterator[Path]:
    """Start an agent that holds keys."""
    process = subprocess.Popen(["ssh-agent", "-D", "-a", str(socket)], stdout=subprocess.DEVNULL)
    try:
        environ = {**os.environ, "SSH_AUTH_SOCK": str(socket)}
        # 2: nobody answers there yet
        wait_for(
            lambda: subprocess.run(["ssh-add", "-l"], env=environ, check=False, capture_output=True).returncode < 2
        )
        for key in keys:
            subprocess.run(["ssh-add", "-q", str(key)], env=environ, check=True, capture_output=True)
        yield socket
    finally:
        process.terminate()
        process.wait(10)


def connect(target: Target, known: KnownHosts, policy: HostKeyPolicy, *, timeout_s: float) -> Connection:
    """Connect to one target outside of any pool, by what it says itself: no ssh_config is asked."""
    route = Atlas(RunOptions(ssh_config="none")).route(target)
    dialer = Dialer(policy=policy, keepalive_s=15.0, reveal=resolve)
    dialer._known[(*route.known_hosts, *route.system_known_hosts)] = known
    return dialer.dial(route, timeout_s=timeout_s)
