"""The runbooks that ship, against the embedded fleet: headless, in nbclient as in Jupyter, and as `opsbook demo`."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from support import Ran, finish, forks

from opsbook.demo import DemoFleet

PATCH = Path(__file__).parent.parent / "runbooks" / "patch.ipynb"
PROD = {"web1", "web2", "web3", "db1", "db2"}


@pytest.fixture
def fleet(tmp_path: Path):
    with DemoFleet.start(tmp_path / "fleet") as started:
        yield started


def opsbook(*words: object, cwd: Path) -> Ran:
    plain = {name: os.environ[name] for name in ("PATH", "HOME")}
    return finish(forks().start(list(map(str, words)), cwd=cwd, env=plain, streams={}), seconds=100)


def boot_ids(fleet: DemoFleet) -> dict[str, str]:
    return {host.name: next(host.folder.rglob("boot_id")).read_text() for host in fleet.hosts}


def test_patching_prod_updates_reboots_and_verifies_and_a_second_time_there_is_nothing_to_do(fleet, tmp_path):
    before = boot_ids(fleet)
    done = opsbook("run", PATCH, "-p", "stack=prod", "-i", fleet.inventory, "--json", cwd=tmp_path)
    record = json.loads(done.out)
    assert done.code == 0, done.err
    assert record["status"] == "succeeded"
    assert set(record["targets"]["results"]) == PROD
    assert {cell["state"] for cell in record["cells"]} == {"ok"}
    metrics = record["metrics"]
    assert metrics["packages_pending"] > 0
    assert (metrics["reboots_needed"], metrics["kernels_changed"], metrics["patched"]) == (2, 2, 5)
    after = boot_ids(fleet)
    assert {name for name in after if after[name] != before[name]} == {"web2", "db1"}
    lines = Path(record["copy"]).with_name("events.jsonl").read_text().splitlines()
    journal = [json.loads(line)["event"] for line in lines]
    intents = {one["target"]: one["boot_id"] for one in journal if one["type"] == "intent" and one["kind"] == "reboot"}
    assert intents == {name: before[name].strip() for name in ("web2", "db1")}
    copy = nbformat.read(record["copy"], as_version=4)
    nbformat.validate(copy)
    assert "Setting up" in Path(record["copy"]).read_text()
    again = json.loads(opsbook("run", PATCH, "-p", "stack=prod", "-i", fleet.inventory, "--json", cwd=tmp_path).out)
    assert again["status"] == "succeeded"
    assert (again["metrics"]["packages_pending"], again["metrics"]["reboots_needed"]) == (0, 0)
    assert boot_ids(fleet) == after


def test_a_machine_whose_update_fails_is_left_alone_and_the_run_fails(fleet, tmp_path):
    web2 = next(host for host in fleet.hosts if host.name == "web2")
    (web2.folder / "fail-apt").touch()
    before = boot_ids(fleet)
    done = opsbook("run", PATCH, "-p", "stack=prod", "-p", "max_fail=1", "-i", fleet.inventory, cwd=tmp_path)
    assert done.code == 1
    assert "dpkg frontend lock" in " ".join(done.out.split())
    assert boot_ids(fleet)["web2"] == before["web2"]
    assert boot_ids(fleet)["db1"] != before["db1"]
    strict = opsbook("run", PATCH, "-p", "stack=prod", "-i", fleet.inventory, "--json", cwd=tmp_path)
    assert strict.code == 1
    states = {cell["label"]: cell["state"] for cell in json.loads(strict.out)["cells"]}
    assert (states["Update the packages"], states["Verify"]) == ("failed", "not_run")


def test_the_same_file_works_cell_by_cell_as_in_jupyter(fleet, tmp_path, monkeypatch):
    monkeypatch.setenv("OPSBOOK_INVENTORY", str(fleet.inventory))
    notebook = nbformat.read(PATCH, as_version=4)
    at = next(n for n, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", []))
    notebook.cells.insert(at + 1, nbformat.v4.new_code_cell('stack = "prod"'))
    client = NotebookClient(
        notebook, timeout=100, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()
    outputs = json.dumps(notebook.cells)
    assert "5 ok" in outputs
    assert "2 targets: web2, db1" in outputs
    assert not list(tmp_path.glob("archive"))


def test_the_demo_runs_the_main_job_and_leaves_only_its_archive(tmp_path):
    done = opsbook("demo", cwd=tmp_path)
    assert done.code == 0, done.err
    assert "✓ patch succeeded" in done.out
    assert "reboots_needed=2" in done.out
    assert {entry.name for entry in tmp_path.iterdir()} == {"archive", "canary", "opsbook.toml"}


def test_a_served_fleet_says_how_to_use_it_and_goes_when_it_is_told_to(tmp_path):
    server = subprocess.Popen(
        [sys.executable, "-m", "opsbook", "demo", "--serve"], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    )
    try:
        lines = [server.stdout.readline() for _ in range(4)]
        command = re.search(r"opsbook (run .* -p stack=prod)", "".join(lines))[1].split()
        inventory = Path(command[command.index("-i") + 1])
        assert f"inventory  {inventory}\n" in lines
        listed = opsbook("targets", "prod:&db", "-i", inventory, cwd=tmp_path)
        assert re.findall(r"^(db\d)\b", listed.out, re.MULTILINE) == ["db1", "db2"]
        assert opsbook(*command, "-p", "reboot=false", "--quiet", cwd=tmp_path).code == 0
    finally:
        server.send_signal(signal.SIGTERM)
        assert server.wait(10) == 0
        server.stdout.close()
    deadline = time.monotonic() + 5
    while inventory.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not inventory.exists()
    assert not inventory.parent.parent.exists()
