"""What takes minutes: a run killed at any moment leaves the truth, and nothing else, behind."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
from conftest import Sshd
from faults import End, Way, cut_after, network
from rig import Rig, known_hosts, target_of
from support import LOAD, code, notebook_text, wait_for

KILLS = 100
CUTS = 100
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
    (tmp_path / "opsbook.toml").write_text('[locks]\npath = "locks"\n')
    moments = random.Random()
    for _ in range(KILLS):
        shutil.rmtree(tmp_path / "locks", ignore_errors=True)  # or what was left in the middle keeps the next one out
        run = opsbook("run", "book.ipynb", "-i", inventory, "--quiet", cwd=tmp_path)
        time.sleep(moments.uniform(0.1, 2.5))
        finished = run.poll() is not None
        run.kill()
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
    shutil.rmtree(tmp_path / "locks")
    last = opsbook("run", "book.ipynb", "-i", inventory, "--quiet", cwd=tmp_path)
    last.communicate()
    assert last.returncode == 0


@pytest.mark.soak
def test_a_link_that_breaks_at_any_moment_never_doubles_a_command_nor_makes_it_a_success(sshd: Sshd, tmp_path: Path):
    moments, names = random.Random(), [f"web{number}" for number in range(8)]
    known = (str(known_hosts(sshd, tmp_path)),)
    for cut in range(CUTS):
        with network() as net:
            bytes_left = {name: (moments.choice(list(Way)), moments.randrange(1, 6000)) for name in names}
            plans = {name: cut_after(way, left, moments.choice(list(End))) for name, (way, left) in bytes_left.items()}
            targets = tuple(target_of(sshd, n, proxy=net.proxy(sshd.port, plans[n])) for n in names)
            rig = Rig(targets, tmp_path / f"cut{cut}", known_hosts=known, connect_timeout_s=5, keepalive_s=0.5)
            try:
                result = rig.run(f'sleep 0.1; echo done >> {rig.folder}/done-"$OPSBOOK_TARGET"')
            finally:
                rig.close()
        for one in result:
            shown = (plans[one.target], one)
            finished = rig.runs(f"done-{one.target}")
            assert rig.runs(one.target) <= 1, shown
            assert rig.journal.intents(one.target) == (one.state in {"ok", "lost"}), shown
            assert one.state in {"ok", "lost", "unreachable"}, shown
            assert one.state != "ok" or (rig.runs(one.target), finished) == (1, 1), shown
            assert one.state != "unreachable" or rig.runs(one.target) == 0, shown


@pytest.mark.soak
def test_a_durable_command_whose_links_break_at_any_moment_runs_once_and_all_it_said_arrives(
    sshd: Sshd, tmp_path: Path
):
    moments, names = random.Random(), [f"web{number}" for number in range(8)]
    known = (str(known_hosts(sshd, tmp_path)),)
    lines = "".join(f"{n}\n" for n in range(1, 41))
    for cut in range(CUTS):
        with network() as net:
            ways, ends = list(Way), list(End)
            plans = {
                name: [
                    cut_after(moments.choice(ways), moments.randrange(1500, 9000), moments.choice(ends))
                    for _ in range(3)
                ]
                for name in names
            }
            targets = tuple(target_of(sshd, n, proxy=net.proxy(sshd.port, *plans[n])) for n in names)
            rig = Rig(targets, tmp_path / f"durable{cut}", known_hosts=known, connect_timeout_s=5, keepalive_s=0.5)
            try:
                result = rig.run("for n in $(seq 40); do echo $n; sleep 0.05; done", durable=True, timeout=60)
            finally:
                rig.close()
        for one in result:
            shown = (plans[one.target], one, rig.runs(one.target))
            assert (one.state, rig.runs(one.target)) in {("ok", 1), ("unreachable", 0)}, shown
            assert one.state != "ok" or one.stdout == lines, shown


@pytest.mark.soak
def test_a_controller_that_was_asleep_takes_nobody_for_dead(sshd: Sshd, tmp_path: Path):
    inventory = sshd.inventory({"web1": "127.0.0.11", "web2": "127.0.0.12"}, tmp_path / "hosts.ini")
    (tmp_path / "opsbook.toml").write_text('[ssh]\nkeepalive = "500ms"\n')
    (tmp_path / "book.ipynb").write_text(
        notebook_text([LOAD, code(f"%%on\ntouch {tmp_path}/begun-$OPSBOOK_TARGET; sleep 12")])
    )
    run = opsbook("run", "book.ipynb", "-i", inventory, "--quiet", cwd=tmp_path)
    wait_for(lambda: len(list(tmp_path.glob("begun-*"))) == 2, seconds=60)
    asleep = [int(pid) for pid in processes_in(tmp_path)]
    for number in (signal.SIGSTOP, signal.SIGCONT):
        for pid in asleep:
            os.kill(pid, number)
        time.sleep(6)  # much longer than a silent peer has
    run.communicate(timeout=60)
    assert run.returncode == 0
