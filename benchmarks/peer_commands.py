"""What is measured as a command: `opsbook exec`, `ansible -m raw`, `pyinfra exec`, and `ssh` started by xargs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from job import TRUE, Job, NotOfferedError


class Command:
    """A command that reaches all targets, started anew each time."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.ssh = [
            "-F", "none", "-o", "IdentitiesOnly=yes", "-o", f"IdentityFile={job.key}",
            "-o", f"UserKnownHostsFile={job.known_hosts}", "-o", "GlobalKnownHostsFile=none",
            "-o", "StrictHostKeyChecking=yes", "-o", "BatchMode=yes", "-o", "ConnectTimeout=30",
        ]  # fmt: skip

    def close(self) -> None:
        """Offer nothing: the masters of kept connections go when their sshd does."""
        raise NotOfferedError

    def _call(
        self, command: list[str], *, stdin: str = "", env: dict[str, str] | None = None, folder: Path | None = None
    ) -> str:
        done = subprocess.run(command, input=stdin, env=env, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            lines = (done.stderr + done.stdout).strip().splitlines() or ["it said nothing"]
            raise RuntimeError(f"exit code {done.returncode}: {lines[-1]}")
        return done.stdout


class Ansible(Command):
    """ansible-core's ad-hoc command. Connections are kept by ssh's ControlPersist, as Ansible does it by itself."""

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self._ansible = _installed("ansible")
        home = Path(job.folder) / "ansible"
        shutil.rmtree(home, ignore_errors=True)
        (home / "cp").mkdir(parents=True)
        options = " ".join(self.ssh)
        (home / "ansible.cfg").write_text(
            f"[defaults]\nhome={home}\nremote_user={job.user}\nhost_key_checking=true\ninterpreter_python=none\n"
            f"[ssh_connection]\nssh_args=-o ControlMaster=auto -o ControlPersist=60s {options}\n"
            f"control_path_dir={home}/cp\n"
        )
        self._inventory = home / "hosts"
        self._inventory.write_text("".join(f"{host} ansible_port={job.port}\n" for host in job.hosts))
        self._environment = {**os.environ, "ANSIBLE_CONFIG": str(home / "ansible.cfg")}

    def run(self, command: str) -> list[tuple[int | None, int]]:
        """See `client.Peer`."""
        if command != TRUE:
            raise NotOfferedError
        forks = str(self.job.parallel)
        call = [self._ansible, "all", "-i", str(self._inventory), "-m", "raw", "-a", command, "-f", forks]
        said = self._call(call, env=self._environment)
        return [(0, 0) for line in said.splitlines() if "rc=0" in line]


class OpsbookExec(Command):
    """opsbook's own command, from its start to its end: kernel, archive and journal included."""

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self._opsbook = _installed("opsbook")
        self._connected = False
        self._home = Path(job.folder) / "opsbook"
        shutil.rmtree(self._home, ignore_errors=True)
        self._home.mkdir()
        (self._home / "hosts").write_text(
            "".join(
                f"{host} ansible_port={job.port} ansible_user={job.user} ansible_ssh_private_key_file={job.key}\n"
                for host in job.hosts
            )
        )
        (self._home / "opsbook.toml").write_text(
            f'inventory = ["hosts"]\narchive = "archive"\n[ssh]\nknown_hosts = ["{job.known_hosts}"]\nconfig = "none"\n'
        )

    def run(self, command: str) -> list[tuple[int | None, int]]:
        """See `client.Peer`."""
        if self._connected or command != TRUE:
            raise NotOfferedError
        self._connected = True
        parallel = str(self.job.parallel)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("OPSBOOK_")}
        environment["XDG_STATE_HOME"] = str(self._home)  # locks and the like are no business of the user's
        call = [self._opsbook, "exec", "all", "--parallel", parallel, "--", command]
        self._call(call, folder=self._home, env=environment)
        return [(0, 0)] * len(self.job.hosts)


class Pyinfra(Command):
    """pyinfra's ad-hoc command. It keeps no connection for the next one."""

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self._pyinfra = _installed("pyinfra")
        self._connected = False
        self._home = Path(job.folder) / "pyinfra"
        self._home.mkdir(exist_ok=True)
        (self._home / "inventory.py").write_text(f"hosts = {job.hosts!r}\n")

    def run(self, command: str) -> list[tuple[int | None, int]]:
        """See `client.Peer`."""
        if self._connected or command != TRUE:
            raise NotOfferedError
        self._connected = True
        options = ["--user", self.job.user, "--port", str(self.job.port), "--key", self.job.key]
        options += ["--parallel", str(self.job.parallel), "-y", "--data", "ssh_strict_host_key_checking=yes"]
        options += ["--data", f"ssh_known_hosts_file={self.job.known_hosts}"]
        self._call([self._pyinfra, *options, "inventory.py", "exec", "--", command], folder=self._home)
        return [(0, 0)] * len(self.job.hosts)


class Ssh(Command):
    """OpenSSH's client, as many at once as the others have targets at work."""

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self._connected = False

    def run(self, command: str) -> list[tuple[int | None, int]]:
        """See `client.Peer`."""
        if self._connected or command != TRUE:
            raise NotOfferedError
        self._connected = True
        ssh = [shutil.which("ssh") or "ssh", *self.ssh, "-p", str(self.job.port), "-l", self.job.user, "{}", command]
        self._call(["xargs", "-P", str(self.job.parallel), "-I{}", *ssh], stdin="\n".join(self.job.hosts))
        return [(0, 0)] * len(self.job.hosts)


def open_peer(job: Job) -> Command:
    """Return the peer the job names."""
    return {"opsbook exec": OpsbookExec, "ansible": Ansible, "pyinfra": Pyinfra, "ssh": Ssh}[job.peer](job)


def _installed(name: str) -> str:
    """Return where a peer's command is, beside the interpreter that runs this."""
    file = Path(sys.executable).with_name(name)
    if not file.exists():
        raise FileNotFoundError(f"{name} is not installed in the benchmark environment")
    return str(file)
