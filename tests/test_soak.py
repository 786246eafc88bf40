"""What takes minutes: a run killed at any moment leaves the truth, and nothing else, behind."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
from conftest import Sshd
from support import LOAD, code, notebook_text, wait_for

KILLS = 100
CELLS = [LOAD, *(code(f"%%on\nsleep 0.05\necho {number}") for number in range(20))]


def opsbook(*words: object, cwd: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "opsbook", *map(str, words)],
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )


def processes_in(folder: Path) -> list[str]:
    """List the processes that work in a folder: a run and its kernel."""
    found = []
    for place in Path("/proc").glob("[0-9]*/cwd"):
        try:
            if place.readlink() == folder:
                found.append(place.parent.name)
        except OSError:
            continue
    return found


@pytest.mark.soak
def test_a_run_killed_at_any_moment_is_never_told_as_a_success(sshd: Sshd, tmp_path: Path):
    inventory = sshd.inventory({"web1": "127.0.0.11", "web2": "127.0.0.12"}, tmp_path / "hosts.ini")
    (tmp_path / "book.ipynb").write_text(notebook_text(CELLS))
    moments = random.Random()
    for _ in range(KILLS):
        run = opsbook("run", "book.ipynb", "-i", inventory, "--quiet", cwd=tmp_path)
        time.sleep(moments.uniform(0.1, 2.5))
        finished = run.poll() is not None
        os.kill(run.pid, signal.SIGKILL)
        run.communicate()
        wait_for(lambda: not processes_in(tmp_path), seconds=10, what="the end of every process")
        if finished:
            continue
        listed = opsbook("runs", "--json", "--limit", 1, cwd=tmp_path)
        records = json.loads(listed.communicate()[0])
        assert listed.returncode == 0
        assert not records or records[0]["status"] in {"interrupted", "succeeded"}
        for record in records:
            folder = next(tmp_path.glob(f"archive/*/*/*/{record['run_id']}"))
            done = json.loads((folder / "run.json").read_text())["status"] == "succeeded"
            assert (record["status"] == "succeeded") == done  # it was over before the kill came
            for copy in folder.glob("*.ipynb"):
                nbformat.validate(nbformat.read(copy, as_version=4))
    last = opsbook("run", "book.ipynb", "-i", inventory, "--quiet", cwd=tmp_path)
    last.communicate()
    assert last.returncode == 0
