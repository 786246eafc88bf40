"""An sshd of our own on loopback that stands for a whole fleet: every address 127.0.X.Y is one more target.

Each sample gets a fresh one, so that nothing one peer left behind is paid for by the next.
"""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import Self

import cpu

SFTP_SERVERS = (
    "/usr/lib/openssh/sftp-server",
    "/usr/libexec/openssh/sftp-server",
    "/usr/lib/ssh/sftp-server",
    "/usr/libexec/sftp-server",
)


def hosts(count: int) -> list[str]:
    """Return the addresses of that many targets."""
    return [f"127.0.{1 + number // 250}.{1 + number % 250}" for number in range(count)]


class Server:
    """A running sshd with one client key, and known_hosts lines for its targets."""

    def __init__(self, folder: Path, count: int) -> None:
        self.user = getpass.getuser()
        self.key = folder / "client"
        self.known_hosts = folder / "known_hosts"
        self.hosts = hosts(count)
        self.port = _free_port()
        for name in ("host", "client"):
            if not (folder / name).exists():
                make_key = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
                subprocess.run(make_key, check=True, stdin=subprocess.DEVNULL)
        host_key = " ".join((folder / "host.pub").read_text().split()[:2])
        self.known_hosts.write_text("".join(f"[{host}]:{self.port} {host_key}\n" for host in self.hosts))
        self._received = folder / "received"
        for host in self.hosts:
            (self._received / host).mkdir(parents=True, exist_ok=True)
        self._configure(folder)
        self._process = subprocess.Popen(
            [shutil.which("sshd") or "/usr/sbin/sshd", "-D", "-f", str(folder / "sshd_config")],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self.meter = cpu.meter(self._process.pid)

    def __enter__(self) -> Self:
        try:
            self._await_port()
        except TimeoutError:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.meter.kill()
        self._process.kill()
        self._process.wait(10)
        shutil.rmtree(self._received, ignore_errors=True)

    def settle(self) -> None:
        """Return when it has nothing left to do, or after three seconds."""
        before = -1.0
        for _ in range(60):
            now = self.meter.seconds()
            if now - before < 0.001:  # noqa: PLR2004  a fiftieth of a core is quiet
                return
            before = now
            time.sleep(0.05)

    def _configure(self, folder: Path) -> None:
        """Write sshd_config. Files land in a folder for each target: one shared file would be no fleet."""
        sftp = next((path for path in SFTP_SERVERS if Path(path).exists()), "sftp-server")
        subsystem = folder / "sftp.sh"
        subsystem.write_text(f"set -- $SSH_CONNECTION\ncd {self._received}/$3 && exec {sftp}\n")
        (folder / "sshd_config").write_text(
            f"ListenAddress 0.0.0.0\nAllowUsers *@127.0.0.0/8\nPort {self.port}\nHostKey {folder}/host\nPidFile none\n"
            f"AuthorizedKeysFile {folder}/client.pub\nSetEnv HOME={folder}\nSubsystem sftp /bin/sh {subsystem}\n"
            "UsePAM no\nUseDNS no\nStrictModes no\nMaxStartups 2000:30:4000\n"
        )
        if os.getuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)

    def _await_port(self) -> None:
        for _ in range(200):
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            except OSError:
                time.sleep(0.02)
            else:
                return
        raise TimeoutError("sshd did not start")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
