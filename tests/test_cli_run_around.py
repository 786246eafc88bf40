"""What a run is given and what listens to it: streams, environment, secrets, limits."""

from __future__ import annotations

import hashlib
import os
import secrets
import shlex
import signal
import subprocess
import sys
from itertools import pairwise

import pytest
from one_story import check_agreement
from support import LOAD, Desk, Ran, code, finish, parameters, processes_with, prose, wait_for

NAMES = {f"web{number}": f"127.0.1.{number}" for number in range(1, 4)}


def shell(desk: Desk, line: str, env: dict[str, str] | None = None) -> Ran:
    """Run a line of bash in which `opsbook` is the command."""
    command = shlex.join([sys.executable, "-m", "opsbook"])
    done = subprocess.run(
        ["bash", "-c", line.replace("opsbook", command, 1)],
        cwd=desk.folder,
        env=env or desk.environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
        check=False,
    )
    return Ran(code=done.returncode, out=done.stdout.decode(), err=done.stderr.decode())


@pytest.mark.parametrize(
    "line",
    [
        "opsbook run book.ipynb | head -n 1; exit ${PIPESTATUS[0]}",
        "opsbook run book.ipynb 2>&1 | head -n 1; exit ${PIPESTATUS[0]}",
        "opsbook run book.ipynb --json | true; exit ${PIPESTATUS[0]}",
        "opsbook run book.ipynb >&-",
        "opsbook run book.ipynb <&- >&- 2>&-",
        "opsbook run book.ipynb --json >&-",
        "opsbook run book.ipynb >/dev/full 2>&1",
    ],
)
def test_the_exit_code_is_the_runs_whoever_listens(desk, line):
    desk.notebook(code("print('x' * 100_000)", cell_id="says"), code("raise ValueError('y' * 5000)", cell_id="raises"))
    ran = shell(desk, line)
    assert ran.code == 1, ran
    assert "Traceback" not in ran.err
    assert "Exception ignored" not in ran.err
    assert desk.run().record["exit_code"] == 1
    assert desk.run().states == {"says": "ok", "raises": "failed"}


@pytest.mark.parametrize(
    "settings", ["LANG=C PYTHONUTF8=0 PYTHONCOERCECLOCALE=0", "PYTHONIOENCODING=ascii TERM=dumb COLUMNS=40"]
)
def test_a_bare_environment_is_enough(desk, settings):
    """No home, no locale: as cron starts it."""
    desk.notebook(LOAD, code("print('Größe ✓')", cell_id="says"), code("%%on web1\necho Größe", cell_id="on"))
    ran = shell(desk, f"exec env -i PATH={shlex.quote(os.environ['PATH'])} {settings} opsbook run book.ipynb")
    assert ran.code == 0, ran
    run = desk.run()
    assert run.states == {"load": "ok", "says": "ok", "on": "ok"}
    assert run.output("says") == "Größe ✓\n"
    assert "Größe" in (run.folder / "hosts/web1.log").read_text()
    assert "book succeeded" in ran.out
    assert "Traceback" not in ran.err


def test_a_secret_reaches_its_target_and_nothing_else(desk, asleep):
    canary = f"Zk{secrets.token_hex(12)}'\"$ q"
    desk.notebook(
        LOAD,
        parameters('token: Secret = "env:MY_TOKEN"'),
        code(
            '%%on web1 --env TOKEN=token\nprintf %s "$TOKEN" | sha256sum\n'
            'echo "said: $TOKEN"; echo "erred: $TOKEN" >&2\n'
            f"touch {desk.folder}/ready\nsleep {asleep} || true",
            cell_id="on",
        ),
        code("print(token)\nprint(token.reveal())\ntoken", cell_id="prints"),
        code("from IPython.display import HTML\nHTML(f'<b>{token.reveal()}</b>')", cell_id="shows"),
        code("record('token', token.reveal())", cell_id="records"),
        code("raise ValueError(token.reveal())", cell_id="raises"),
    )
    process = desk.start("run", "book.ipynb", env={**desk.environment, "MY_TOKEN": canary})
    wait_for(lambda: (desk.folder / "ready").exists() and processes_with(f"sleep {asleep}"), seconds=20)
    assert processes_with(canary[:20]) == []
    for pid in processes_with(f"sleep {asleep}"):
        os.kill(pid, signal.SIGTERM)
    ran = finish(process)
    run = desk.run()
    assert ran.code == 1, ran
    check_agreement(desk, run, ran)
    assert run.states["on"] == "ok"
    assert hashlib.sha256(canary.encode()).hexdigest() in run.output("on")
    assert (run.folder / "hosts/web1.log").read_text().count("***") == 2
    assert "***" in run.output("prints")
    assert run.record["parameters"] == {"token": "env:MY_TOKEN"}
    assert run.record["secrets"] == ["token"]
    core = canary[:20]
    for text in (ran.out, ran.err, desk.opsbook("show", "last").out, desk.opsbook("runs").out):
        assert core not in text
    files = [path for path in desk.folder.joinpath("archive").rglob("*") if path.is_file()]
    assert len(files) >= 4
    assert [path for path in files if core.encode() in path.read_bytes()] == []


def test_a_secret_that_cannot_be_resolved_fails_its_cell(desk):
    cell = code("secret('env:NO_SUCH').reveal()", cell_id="reveals")
    desk.notebook(LOAD, cell)
    ran = desk.opsbook("run", "book.ipynb")
    assert ran.code == 1, ran
    assert desk.run().states["reveals"] == "failed"
    assert "NO_SUCH is not set" in desk.run().record["reason"]


def test_the_limit_comes_from_the_call_else_the_flag_else_the_header(desk):
    failing = '[ "$OPSBOOK_TARGET" != web2 ]'
    header = prose("# Limits\n\n**Max fail.** 1")

    def state(script: str, *flags: str) -> str:
        desk.notebook(header, LOAD, code(f"%%on web {script}\n{failing}", cell_id="on"))
        return desk.run_of(desk.opsbook("run", "book.ipynb", "--json", *flags)).states["on"]

    assert state("") == "ok"
    assert state("", "--max-fail", "0") == "failed"
    assert state("--max-fail 34%", "--max-fail", "0") == "ok"


def test_the_flag_bounds_how_many_targets_work_at_once(desk):
    desk.notebook(LOAD, code("%%on web\ndate +%s%N\nsleep 0.4\ndate +%s%N", cell_id="on"))
    ran = desk.opsbook("run", "book.ipynb", "--json", "--parallel", "1")
    assert ran.code == 0, ran
    said = [event["stdout"].split() for event in desk.run().events("target_ended")]
    spans = sorted((int(begun), int(ended)) for begun, ended in said)
    assert len(spans) == 3
    assert all(before[1] <= after[0] for before, after in pairwise(spans))
