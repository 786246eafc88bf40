"""What a fan-out costs beside stock paramiko, against a real sshd on loopback, in turn: medians, ratios.

python benchmarks/fanout.py [ROUNDS]
"""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import paramiko

from opsbook.fleet.fleet import Fleet
from opsbook.fleet.session import Session
from opsbook.model.message import RunOptions
from opsbook.model.target import Inventory, Target


def serve(folder: Path) -> tuple[subprocess.Popen[bytes], int]:
    """Start an sshd of our own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    for name in ("host", "client"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
    (folder / "known_hosts").write_text(f"[127.*]:{port} {' '.join((folder / 'host.pub').read_text().split()[:2])}\n")
    (folder / "config").write_text(
        f"ListenAddress 0.0.0.0\nAllowUsers *@127.0.0.0/8\nPort {port}\nHostKey {folder}/host\nPidFile none\n"
        f"AuthorizedKeysFile {folder}/client.pub\nSetEnv HOME={folder}\n"
        "UsePAM no\nUseDNS no\nStrictModes no\nMaxStartups 1000:30:2000\n"
    )
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    server = subprocess.Popen(
        [shutil.which("sshd") or "/usr/sbin/sshd", "-D", "-f", str(folder / "config")], stderr=subprocess.DEVNULL
    )
    for _ in range(200):
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.02)
        else:
            break
    return server, port


def ours(targets: tuple[Target, ...], folder: Path) -> tuple[float, float]:
    """Return the seconds of a cold and of a warm `true` on all targets."""
    options = RunOptions(known_hosts=(str(folder / "known_hosts"),))
    session = Session(inventory=Inventory(targets=targets), selected=None, options=options, channel=None)
    times = []
    for _ in range(2):
        begun = time.monotonic()
        Fleet(session, targets).run("true", read_only=True)
        times.append(time.monotonic() - begun)
    session.pool.close()
    return times[0], times[1]


def stock(targets: tuple[Target, ...], folder: Path) -> tuple[float, float]:
    """Do the same with paramiko's own client as it comes, a thread to each target."""

    def client(target: Target) -> paramiko.SSHClient:
        made = paramiko.SSHClient()
        made.load_host_keys(str(folder / "known_hosts"))
        made.set_missing_host_key_policy(paramiko.AutoAddPolicy())
        key = paramiko.PKey.from_path(folder / "client")
        made.connect(target.host, target.port, target.user, pkey=key, allow_agent=False, look_for_keys=False)
        return made

    def true(made: paramiko.SSHClient) -> int:
        return made.exec_command("true")[1].channel.recv_exit_status()

    with ThreadPoolExecutor(64) as pool:
        begun = time.monotonic()
        clients = list(pool.map(client, targets))
        list(pool.map(true, clients))
        cold = time.monotonic() - begun
        begun = time.monotonic()
        list(pool.map(true, clients))
        warm = time.monotonic() - begun
        list(pool.map(lambda made: made.close(), clients))
    return cold, warm


def main() -> None:
    """Measure and print the table."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    print(f"{'`true` on':<12}{'':<6}{'opsbook':>10}{'paramiko':>11}{'ratio':>8}   (medians of {rounds}, seconds)")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        server, port = serve(folder)
        try:
            for count in (1, 20, 100):
                targets = tuple(
                    Target(
                        name=f"t{n}", host=f"127.0.1.{n}", port=port, user=getpass.getuser(),
                        identity_files=(str(folder / "client"),),
                    )
                    for n in range(1, count + 1)
                )  # fmt: skip
                pairs = [(ours(targets, folder), stock(targets, folder)) for _ in range(rounds)]
                for index, how in enumerate(("cold", "warm")):
                    a = statistics.median(pair[0][index] for pair in pairs)
                    b = statistics.median(pair[1][index] for pair in pairs)
                    print(f"{count:>4} targets  {how:<5}{a:>10.3f}{b:>11.3f}{a / b:>8.2f}")
        finally:
            server.terminate()
            server.wait(10)


if __name__ == "__main__":
    main()
