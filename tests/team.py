"""Two plain users of this machine in one group, an archive they share, and the command as each of them runs it."""

from __future__ import annotations

import os
import secrets
import shutil
import site
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from support import JsonObject, Ran, finish

import opsbook

_TOOLS = ("useradd", "userdel", "groupadd", "groupdel", "runuser")
FOUND = ":".join([str(Path(opsbook.__file__).parents[1]), *site.getsitepackages()])
_NEEDED = "import opsbook.cli.main, msgspec; from importlib.util import find_spec as f; f('papermill').name"


@dataclass(frozen=True)
class Member:
    """One user, working in a folder of their own."""

    name: str
    desk: Path
    python: str

    def start(self, *args: str, umask: str = "0022") -> subprocess.Popen[str]:
        """Start the command as this user; whoever calls waits for it."""
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.desk), "PYTHONPATH": FOUND, "USER": self.name}
        words = [f"{name}={value}" for name, value in environment.items()]
        line = ["runuser", "-u", self.name, "--", "env", "-i", *words]
        shell = ["sh", "-c", f'umask {umask}; exec "$@"', "sh", self.python, "-m", "opsbook", *args]
        streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen([*line, *shell], cwd=self.desk, text=True, **streams)

    def opsbook(self, *args: str, umask: str = "0022") -> Ran:
        return finish(self.start(*args, umask=umask), seconds=120)

    def write(self, name: str, text: str) -> None:
        (self.desk / name).write_text(text)
        shutil.chown(self.desk / name, self.name)


@dataclass(frozen=True)
class Team:
    """The group, its two users, and what they share."""

    group: str
    first: Member
    second: Member
    archive: Path

    @property
    def modes(self) -> set[tuple[str, str, bool]]:
        """The modes of all there is in the archive: of folders and of files; and whether they are the group's."""
        found = set()
        for place in self.archive.rglob("*"):
            seen = place.lstat()
            kind = "folder" if stat.S_ISDIR(seen.st_mode) else "file"
            found.add((kind, f"{stat.S_IMODE(seen.st_mode):04o}", place.group() == self.group))
        return found

    def records(self, by: Member) -> list[JsonObject]:
        return list(by.opsbook("runs", "--json").json)


@contextmanager
def made_team() -> Iterator[Team]:
    """Make the users, their group and their archive, and take all of it away again."""
    if os.getuid() != 0 or not all(map(shutil.which, _TOOLS)):
        pytest.skip("making two users takes root, useradd and runuser")
    mark = f"{os.getpid()}{secrets.token_hex(2)}"
    group, names = f"opsg{mark}", (f"opsm{mark}", f"opsr{mark}")
    folder = Path(tempfile.mkdtemp(prefix="opsbook-team-"))
    try:
        folder.chmod(0o755)
        subprocess.run(["groupadd", group], check=True, capture_output=True)
        for name in names:
            subprocess.run(["useradd", "-M", "-G", group, name], check=True, capture_output=True)
        archive = folder / "archive"
        archive.mkdir()
        shutil.chown(archive, group=group)
        archive.chmod(0o2770)
        python = python_for(names[0])
        yield Team(group, *(_seat(folder, name, python) for name in names), archive)
    finally:
        for name in names:
            subprocess.run(["userdel", "-f", name], check=False, capture_output=True)
        subprocess.run(["groupdel", "-f", group], check=False, capture_output=True)
        shutil.rmtree(folder, ignore_errors=True)


def _seat(folder: Path, name: str, python: str) -> Member:
    desk = folder / name
    desk.mkdir()
    shutil.chown(desk, name)
    member = Member(name, desk, python)
    member.write("opsbook.toml", f'archive = "{folder / "archive"}"\narchive_mode = "group"\n')
    return member


def python_for(user: str) -> str:
    """Return an interpreter of this version that a plain user may run."""
    system = shutil.which(f"python{sys.version_info.major}.{sys.version_info.minor}", path="/usr/bin:/usr/local/bin")
    for python in filter(None, (sys.executable, system)):
        line = ["runuser", "-u", user, "--", "env", f"PYTHONPATH={FOUND}", python, "-c", _NEEDED]
        if subprocess.run(line, check=False, capture_output=True, cwd="/").returncode == 0:
            return python
    return pytest.skip("no interpreter with opsbook's libraries that a plain user may run")
