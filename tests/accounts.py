"""A plain user of this machine with a password, an sshd of its own, and what sudo lets it do. Needs root."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import find_sshd, free_port
from servers import connect

from opsbook.model.target import Target
from opsbook.ssh.connection import Connection
from opsbook.ssh.hostkeys import HostKeyPolicy, KnownHosts

PASSWORD = "correct horse 'battery' $staple"


@dataclass(frozen=True)
class Account:
    """The user, and where it logs in; every address of 127.0.0.0/8 is another target."""

    name: str
    folder: Path
    port: int

    @property
    def sudoers(self) -> Path:
        return Path(f"/etc/sudoers.d/{self.name}")

    @property
    def home(self) -> Path:
        return Path(pwd.getpwnam(self.name).pw_dir)

    def allow(self, *lines: str) -> None:
        """Say what sudo lets the user do, in lines of sudoers in which USER is the user."""
        fresh = self.folder / "sudoers"
        fresh.write_text("".join(line.replace("USER", self.name) + "\n" for line in lines))
        fresh.chmod(0o440)
        subprocess.run(["visudo", "-cqf", str(fresh)], check=True)
        shutil.copy(fresh, f"{self.sudoers}~")  # sudo leaves such names alone
        Path(f"{self.sudoers}~").replace(self.sudoers)
        self.forget()

    def forget(self) -> None:
        """Let sudo ask for the password again."""
        for place in ("/run/sudo/ts", "/var/run/sudo/ts", "/var/db/sudo/ts"):
            (Path(place) / self.name).unlink(missing_ok=True)

    def target(self, name: str = "web1", host: str = "127.0.0.2", **changes: object) -> Target:
        keys = (str(self.folder / "client"),)
        return Target(name=name, host=host, port=self.port, user=self.name, identity_files=keys, **changes)

    def known_hosts(self) -> KnownHosts:
        return KnownHosts([self.folder / "known_hosts"])

    def connect(self) -> Connection:
        return connect(self.target(), self.known_hosts(), HostKeyPolicy.STRICT, timeout_s=20)


@contextmanager
def made_account() -> Iterator[Account]:
    """Make the user and its sshd, and take both away again."""
    if os.getuid() != 0 or not all(map(shutil.which, ("useradd", "userdel", "chpasswd", "visudo", "sudo"))):
        pytest.skip("making a user that sudo knows takes root, useradd and sudo")
    folder = Path(tempfile.mkdtemp(prefix="opsbook-account-"))
    made = Account(name=f"opsb{os.getpid()}{secrets.token_hex(2)}", folder=folder, port=free_port())
    server = None
    try:
        subprocess.run(["useradd", "-m", "-s", "/bin/bash", made.name], check=True, capture_output=True)
        subprocess.run(["chpasswd"], input=f"{made.name}:{PASSWORD}\n", text=True, check=True)
        server = _serve(made)
        yield made
    finally:
        if server is not None:
            server.terminate()
            server.wait(10)
        made.sudoers.unlink(missing_ok=True)
        made.forget()
        subprocess.run(["pkill", "-KILL", "-u", made.name], check=False)
        subprocess.run(["userdel", "-rf", made.name], check=False, capture_output=True)
        shutil.rmtree(folder)


def _serve(account: Account) -> subprocess.Popen[bytes]:
    folder = account.folder
    folder.chmod(0o755)  # sshd reads the key as the user
    for name in ("host", "client"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
    key = " ".join((folder / "host.pub").read_text().split()[:2])
    (folder / "known_hosts").write_text(f"[127.*]:{account.port} {key}\n")
    (folder / "config").write_text(
        f"ListenAddress 0.0.0.0\nAllowUsers {account.name}@127.0.0.0/8\nPort {account.port}\nHostKey {folder}/host\n"
        f"PidFile none\nAuthorizedKeysFile {folder}/client.pub\nUsePAM no\nUseDNS no\nStrictModes no\n"
        "PasswordAuthentication no\nMaxStartups 1000:30:2000\nPrintMotd no\n"
    )
    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [find_sshd(), "-D", "-e", "-f", str(folder / "config")], stdin=subprocess.DEVNULL, stderr=log
        )
    _await_greeting(account, server)
    return server


def _await_greeting(account: Account, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with socket.create_connection(("127.0.0.1", account.port), timeout=5):
                return
        except OSError:
            time.sleep(0.02)
    server.terminate()
    server.wait(10)
    pytest.fail(f"sshd did not start: {(account.folder / 'log').read_text()}")
