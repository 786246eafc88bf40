"""The memory of a run's processes: a crash puts none of it on a disk, and runner and guard cannot be traced."""

from __future__ import annotations

import json
import os
import pwd
import resource
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import LOAD, Desk, Ran, code, finish, notebook_text
from team import FOUND, python_for

LIMITS = """
    import os, subprocess
    from pathlib import Path
    child = subprocess.Popen(["sleep", "60"])
    pids = {"child": child.pid, "kernel": os.getpid(), "guard": os.getppid()}
    pids["runner"] = int(Path(f"/proc/{os.getppid()}/stat").read_text().rpartition(")")[2].split()[1])
    lines = {name: Path(f"/proc/{pid}/limits").read_text().splitlines() for name, pid in pids.items()}
    record("cores", {name: next(line.split()[4] for line in of if "core file" in line) for name, of in lines.items()})
    record("filters", {name: Path(f"/proc/{pid}/coredump_filter").read_text().strip() for name, pid in pids.items()})
    record("owners", {name: os.stat(f"/proc/{pid}/environ").st_uid for name, pid in pids.items()})
    child.kill()
    child.wait()
"""
"""A process that may not be dumped, and so not be traced by its user, has its files in /proc owned by root."""
STRANGER = "nobody"


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def run_where_cores_are_wanted(desk: Desk) -> Ran:
    """Run the runbook as from a shell in which every crash leaves a core file."""
    hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
    allow: Callable[[], None] = lambda: resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))  # noqa: E731
    return finish(desk.start("run", "book.ipynb", preexec_fn=allow))


def test_every_process_of_a_run_is_kept_from_leaving_a_core_and_what_a_collector_gets_is_empty(desk: Desk) -> None:
    desk.notebook(LOAD, code(LIMITS, cell_id="limits"))
    assert run_where_cores_are_wanted(desk).code == 0
    found = desk.run().record["metrics"]
    of_all = {"child", "kernel", "guard", "runner"}
    assert found["cores"] == dict.fromkeys(of_all, "0")
    assert found["filters"] == dict.fromkeys(of_all, "00000000")


@pytest.mark.parametrize("act", ["os.abort()", "os.kill(os.getppid(), 6)"], ids=["kernel", "guard"])
def test_a_kernel_or_guard_that_aborts_leaves_no_core_file(desk: Desk, act: str) -> None:
    desk.notebook(LOAD, code(f"import os\n{act}\nimport time\ntime.sleep(30)", cell_id="aborts"))
    ran = run_where_cores_are_wanted(desk)
    assert ran.code == 6, ran
    assert "SIGABRT" in desk.run().record["reason"]
    assert [file.name for file in desk.folder.rglob("*core*") if file.is_file()] == []


def test_a_runner_that_aborts_leaves_no_core_file(desk: Desk) -> None:
    desk.notebook(LOAD, code("import os\nos.kill(int(open(f'/proc/{os.getppid()}/stat').read().split()[3]), 6)"))
    assert run_where_cores_are_wanted(desk).code == -signal.SIGABRT
    assert [file.name for file in desk.folder.rglob("*core*") if file.is_file()] == []


@pytest.fixture
def own() -> Iterator[Path]:
    """A folder of a plain user's; pytest's are closed to others."""
    with tempfile.TemporaryDirectory(prefix="opsbook-own-") as folder:
        shutil.chown(folder, STRANGER)
        yield Path(folder)


@pytest.mark.skipif(os.getuid() != 0 or not shutil.which("runuser"), reason="root alone can be somebody else")
def test_a_plain_user_cannot_look_into_runner_and_guard_and_can_into_the_notebook(own: Path) -> None:
    (own / "book.ipynb").write_text(notebook_text([LOAD, code(LIMITS, cell_id="limits")]))
    shutil.chown(own / "book.ipynb", STRANGER)
    line = ["runuser", "-u", STRANGER, "--", "env", "-i", f"PATH={os.environ['PATH']}", f"HOME={own}"]
    ran = subprocess.run(
        [*line, f"PYTHONPATH={FOUND}", python_for(STRANGER), "-m", "opsbook", "run", "book.ipynb", "--json"],
        cwd=own, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran
    owners, mine = json.loads(ran.stdout)["metrics"]["owners"], pwd.getpwnam(STRANGER).pw_uid
    assert owners == {"child": mine, "kernel": mine, "guard": 0, "runner": 0}
