"""The main job as a user does it: the real command line, a real kernel, a real sshd. Every witness tells one story."""

from __future__ import annotations

import hashlib
import os
import secrets
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import msgspec
import nbformat
import pytest
from conftest import Sshd
from support import LOAD, Desk, Ran, Run, code, finish, parameters, processes_with, prose, wait_for

from opsbook.model.run import RunRecord

NAMES = {f"web{number}": f"127.0.1.{number}" for number in range(1, 4)}


@pytest.fixture
def desk(tmp_path: Path, sshd: Sshd) -> Desk:
    """A desk with three targets, which settings name."""
    made = Desk(tmp_path)
    sshd.inventory(NAMES, tmp_path / "hosts.ini")
    made.write("opsbook.toml", 'inventory = ["hosts.ini"]\n')
    return made


def sleeper() -> str:
    """A number of seconds nobody else sleeps."""
    return f"{900 + secrets.randbelow(90)}.{secrets.randbelow(10**9):09}1"


@pytest.fixture
def endings():
    """Ends what a failed test leaves asleep."""
    numbers: list[str] = []
    yield numbers
    for number in numbers:
        for pid in processes_with(f"sleep {number}"):
            os.kill(pid, signal.SIGKILL)


def check_agreement(desk: Desk, run: Run, ran: Ran) -> None:
    """Record, executed copy, screen, history and exit code say the same."""
    record = run.record
    typed = msgspec.json.decode((run.folder / "run.json").read_bytes(), type=RunRecord)
    assert msgspec.json.decode(msgspec.json.encode(typed)) == record
    nbformat.validate(nbformat.read(run.copy, as_version=nbformat.NO_CONVERT))
    kept = run.notebook["metadata"]["opsbook"]
    assert (kept["status"], kept["exit_code"], kept["run_id"]) == (record["status"], ran.code, run.folder.name)
    assert record["exit_code"] == ran.code
    (ended,) = run.events("run_ended")
    assert (ended["status"], ended["exit_code"], ended["reason"]) == (record["status"], ran.code, record["reason"])
    shown = desk.opsbook("show", run.folder.name, "--json").json
    assert {**shown, "copy": ""} == {**record, "copy": ""}
    assert Path(shown["copy"]).name == run.copy.name
    assert record in desk.opsbook("runs", "--json").json
    words = {"ok": "completed", "not_run": "pending", "skipped": "skipped"}
    marks = run.papermill
    assert {cell: words.get(state, "failed") for cell, state in run.states.items()} == {
        cell: marks[cell] for cell in run.states
    }


GOOD = (
    prose("# Say hello\n\n**Purpose.** Show that everything arrives."),
    LOAD,
    parameters(
        """
        from datetime import date
        stack: Literal["web", "db"]  # Whom to greet
        number: str = "1"
        day: date = "2026-01-01"
        names: list[str] = []
        count: int = 2
        """
    ),
    prose("## Look at the types"),
    code("print(type(day).__name__, day.year, repr(number), names, count + 1, stack)", cell_id="types"),
    prose("## Greet"),
    code('%%on {stack}\necho "$stack/$number/$day/$names/$count at $OPSBOOK_TARGET"', cell_id="greet"),
    code("record('greeted', len(targets(stack).run('true', read_only=True).ok))", cell_id="metric"),
)
GIVEN = ("-p", "stack=web", "-p", "number=007", "-p", "day=2026-11-20", "-p", 'names=["a b", "c"]')


def test_a_good_run_tells_one_story_everywhere(desk):
    desk.notebook(*GOOD)
    ran = desk.opsbook("run", "book.ipynb", *GIVEN, "--reason", "because of Ünïcode", umask=0)
    run = desk.run()
    assert ran.code == 0, ran
    check_agreement(desk, run, ran)
    record = run.record
    assert record["status"] == "succeeded"
    assert record["reason"] == ""
    assert record["operator_reason"] == "because of Ünïcode"
    assert record["parameters"] == {
        "stack": "web",
        "number": "007",
        "day": "2026-11-20",
        "names": ["a b", "c"],
        "count": 2,
    }
    assert run.states == dict.fromkeys(("load", "parameters", "types", "greet", "metric"), "ok")
    assert run.targets == dict.fromkeys(NAMES, "ok")
    assert record["targets"]["selected"] == list(NAMES)
    assert record["metrics"] == {"greeted": 3}
    assert record["runbook"]["sha256"] == hashlib.sha256((desk.folder / "book.ipynb").read_bytes()).hexdigest()
    assert run.output("types") == "date 2026 '007' ['a b', 'c'] 3 web\n"
    assert "web/007/2026-11-20/a b c/2 at web1" in run.output("greet")
    assert (run.folder / "hosts/web2.log").read_text() == "web/007/2026-11-20/a b c/2 at web2\n"
    assert run.notebook["metadata"]["papermill"]["parameters"]["number"] == "007"
    injected = [cell for cell in run.notebook["cells"] if "injected-parameters" in cell["metadata"].get("tags", [])]
    assert [cell["id"] for cell in injected] == ["injected-parameters"]
    for words in ("✓ book succeeded", "3 of 3 targets", "Look at the types", "Greet", "greeted=3", str(run.copy.name)):
        assert words in ran.out
    assert "cell 4/5" in ran.err
    assert "target web3 ok" in ran.err
    check_private(desk)
    shown = desk.opsbook("show", "last").out
    assert all(words in shown for words in (run.folder.name, "because of Ünïcode", "number=007", "web3"))
    assert run.folder.name in desk.opsbook("runs").out


def check_private(desk: Desk) -> None:
    """Nobody else reads the archive, whatever the umask was."""
    modes = {
        path: path.lstat().st_mode & 0o777 for path in (desk.folder / "archive", *(desk.folder / "archive").rglob("*"))
    }
    assert {path: mode for path, mode in modes.items() if mode != (0o700 if path.is_dir() else 0o600)} == {}


def test_json_is_one_document_and_quiet_is_silent_when_it_succeeds(desk):
    desk.notebook(*GOOD)
    ran = desk.opsbook("run", "book.ipynb", *GIVEN, "--json")
    assert ran.code == 0
    assert ran.out.count("\n") == 1
    assert {**ran.json, "copy": ""} == {**desk.run().record, "copy": ""}
    assert Path(ran.json["copy"]) == desk.run().copy
    assert desk.opsbook("run", "book.ipynb", *GIVEN, "--quiet") == Ran(code=0, out="", err="")
    assert [one["run_id"] for one in desk.opsbook("runs", "--json").json] == [
        run.folder.name for run in sorted(desk.runs(), key=lambda run: run.record["started_at"], reverse=True)
    ]


def test_one_target_that_refuses_connections(desk, sshd):
    sshd.inventory({**NAMES, "web3": "127.0.1.3 ansible_port=1"}, desk.folder / "hosts.ini")
    desk.notebook(
        LOAD,
        parameters("limit: int\nbad: str = 'nobody'"),
        code('%%on web --max-fail {limit}\n[ "$OPSBOOK_TARGET" != "$bad" ]', cell_id="on"),
        code("print('later')", cell_id="later"),
    )
    within = desk.opsbook("run", "book.ipynb", "-p", "limit=1")
    run = desk.run()
    check_agreement(desk, run, within)
    assert within.code == 4, within
    assert run.record["status"] == "failed"
    assert run.targets == {"web1": "ok", "web2": "ok", "web3": "unreachable"}
    assert (run.states["on"], run.states["later"]) == ("ok", "ok")
    assert "within the limit" in run.record["reason"]
    assert "unreachable" in within.out
    assert "web3" in within.out

    beyond = desk.opsbook("run", "book.ipynb", "-p", "limit=0", "--json")
    run = desk.run_of(beyond)
    check_agreement(desk, run, beyond)
    assert beyond.code == 4, beyond
    assert run.targets.pop("web3") == "unreachable"
    assert set(run.targets.values()) <= {"ok", "skipped", "unreachable"}  # who was under way when it failed finished
    assert (run.states["on"], run.states["later"]) == ("failed", "not_run")
    assert "1 of 3 targets failed" in run.record["reason"]

    both = desk.opsbook("run", "book.ipynb", "-p", "limit=2", "-p", "bad=web2", "--json")
    run = desk.run_of(both)
    check_agreement(desk, run, both)
    assert both.code == 1, both
    assert run.targets == {"web1": "ok", "web2": "failed", "web3": "unreachable"}
    assert run.record["targets"]["results"]["web2"]["exit_code"] == 1


def test_a_cell_that_raises_stops_the_rest_but_not_what_always_runs(desk):
    frozen = {"deletable": False, "run_through_control": {"frozen": True}}
    kept = [{"output_type": "stream", "name": "stdout", "text": "from an earlier day\n"}]
    desk.notebook(
        LOAD,
        code("open('touched', 'w').close()", "skip", cell_id="skipped"),
        {**code("open('touched', 'w').close()", cell_id="frozen", **frozen), "outputs": kept},
        code("1 / 0", "raises-exception", cell_id="expected"),
        code("   \n", cell_id="blank"),
        prose("## The heart of it"),
        code("print('so far')\nraise ValueError('pipe 7 is broken\\nbeyond repair')", cell_id="boom"),
        code("open('touched', 'w').close()", cell_id="later"),
        code("print('tidy')", "always", cell_id="tidy"),
        code("open('touched', 'w').close()", cell_id="last"),
    )
    ran = desk.opsbook("run", "book.ipynb", "--quiet")
    run = desk.run()
    assert ran.code == 1, ran
    check_agreement(desk, run, ran)
    assert run.states == {
        "load": "ok",
        "skipped": "skipped",
        "frozen": "skipped",
        "expected": "ok",
        "boom": "failed",
        "later": "not_run",
        "tidy": "ok",
        "last": "not_run",
    }
    assert not (desk.folder / "touched").exists()
    assert run.output("frozen") == "from an earlier day\n"
    assert run.output("tidy") == "tidy\n"
    assert run.output("boom").startswith("so far\n")
    assert "ZeroDivisionError" in run.output("expected")
    (boom,) = [cell for cell in run.record["cells"] if cell["id"] == "boom"]
    assert boom["error"]["name"] == "ValueError"
    assert run.record["reason"] == 'cell "The heart of it" raised ValueError: pipe 7 is broken'
    assert ran.err == ""
    for words in ("✗ book failed", "The heart of it", "pipe 7 is broken", "beyond repair", "not run"):
        assert words in ran.out


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("import sys; sys.exit(3)", "SystemExit"),
        ("input('who? ')", "StdinNotImplementedError"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("def f(:", "SyntaxError"),
    ],
    ids=["exit", "input", "interrupt", "syntax"],
)
def test_a_cell_that_ends_in_an_odd_way_has_failed(desk, source, name):
    desk.notebook(code(source, cell_id="odd"), code("open('touched', 'w').close()", cell_id="later"))
    ran = desk.opsbook("run", "book.ipynb")
    run = desk.run()
    assert ran.code == 1, ran
    check_agreement(desk, run, ran)
    assert run.states == {"odd": "failed", "later": "not_run"}
    assert run.record["cells"][0]["error"]["name"] == name
    assert not (desk.folder / "touched").exists()


@pytest.mark.parametrize(
    "source", ["import os; os.kill(os.getpid(), 9)", "import os; os._exit(0)"], ids=["killed", "left"]
)
def test_a_kernel_that_dies_leaves_the_outcome_unknown(desk, source):
    desk.notebook(
        code("print('before')", cell_id="before"),
        code(f"print('said', flush=True); import time; time.sleep(0.2); {source}", cell_id="dies"),
        code("open('touched', 'w').close()", cell_id="later"),
        code("open('touched', 'w').close()", "always", cell_id="tidy"),
    )
    begun = time.monotonic()
    ran = desk.opsbook("run", "book.ipynb")
    run = desk.run()
    assert ran.code == 6, ran
    assert time.monotonic() - begun < 15
    check_agreement(desk, run, ran)
    assert run.record["status"] == "lost"
    assert run.states == {"before": "ok", "dies": "lost", "later": "not_run", "tidy": "not_run"}
    assert run.output("dies") == "said\n"
    assert "kernel" in run.record["reason"]
    assert not (desk.folder / "touched").exists()


def test_a_kernel_that_dies_in_a_fan_out_leaves_its_targets_lost(desk, endings):
    endings.append(asleep := sleeper())
    desk.notebook(
        LOAD,
        code(
            f"""
            import os, pathlib, threading, time
            def die():
                while len(list(pathlib.Path("marks").iterdir())) < 2:
                    time.sleep(0.05)
                os.kill(os.getpid(), 9)
            threading.Thread(target=die).start()
            targets("web").run("touch {desk.folder}/marks/$OPSBOOK_TARGET; sleep {asleep}", parallel=2)
            """,
            cell_id="on",
        ),
    )
    (desk.folder / "marks").mkdir()
    ran = desk.opsbook("run", "book.ipynb")
    run = desk.run()
    assert (ran.code, run.record["status"]) == (6, "lost"), ran
    check_agreement(desk, run, ran)
    assert run.targets == {"web1": "lost", "web2": "lost", "web3": "not_run"}


@pytest.mark.parametrize("source", ["exit()", "get_ipython().ask_exit()"])
def test_a_kernel_that_is_told_to_leave_never_makes_a_success(desk, source):
    desk.notebook(code(source, cell_id="leaves"), code("open('touched', 'w').close()", cell_id="later"))
    ran = desk.opsbook("run", "book.ipynb")
    run = desk.run()
    check_agreement(desk, run, ran)
    assert (ran.code == 0) == (desk.folder / "touched").exists(), ran
    assert ran.code in {0, 1, 6}
    assert (run.states["later"] == "ok") == (desk.folder / "touched").exists()


def test_what_a_pattern_names(desk):
    desk.notebook(
        LOAD,
        code("%%on web1\ntouch one", cell_id="one"),
        code("print(len(targets()), targets('web1'))", cell_id="call"),
        code("%%on web2\ntrue", cell_id="two"),
    )
    ran = desk.opsbook("run", "book.ipynb", "-t", "web2")
    run = desk.run()
    assert ran.code == 0, ran
    check_agreement(desk, run, ran)
    assert "skipped" in run.output("one")
    assert run.output("call") == "1 no targets\n"
    assert run.targets == {"web2": "ok"}
    assert run.record["targets"]["pattern"] == "web2"
    assert run.record["targets"]["selected"] == ["web2"]

    desk.notebook(LOAD, code("%%on wbe\ntrue", cell_id="on"), code("1", cell_id="later"), name="other.ipynb")
    ran = desk.opsbook("run", "other.ipynb")
    (other,) = [one for one in desk.runs() if "-other-" in one.folder.name]
    assert ran.code == 1, ran
    check_agreement(desk, other, ran)
    assert other.states == {"load": "ok", "on": "failed", "later": "not_run"}
    assert other.record["cells"][1]["error"]["name"] == "InventoryError"
    assert "'wbe' names nothing" in other.record["reason"]
    assert other.targets == {}


def test_a_target_whose_change_failed_is_left_alone_in_later_cells(desk):
    desk.notebook(
        LOAD,
        code(
            '%%on web --max-fail 1\n[ "$OPSBOOK_TARGET" != web2 ] || { echo "no lock" >&2; exit 7; }',
            cell_id="first",
        ),
        code(f'%%on web\necho x >> "{desk.folder}/second-$OPSBOOK_TARGET"', cell_id="second"),
        code(f'%%on web --read-only\necho x >> "{desk.folder}/look-$OPSBOOK_TARGET"', cell_id="look"),
    )
    ran = desk.opsbook("run", "book.ipynb")
    run = desk.run()
    assert ran.code == 1, ran
    check_agreement(desk, run, ran)
    assert set(run.states.values()) == {"ok"}
    assert sorted(path.name for path in desk.folder.glob("second-*")) == ["second-web1", "second-web3"]
    assert len(list(desk.folder.glob("look-*"))) == 3
    assert run.targets == {"web1": "ok", "web2": "failed", "web3": "ok"}
    result = run.record["targets"]["results"]["web2"]
    assert (result["exit_code"], result["reason"], result["cell_id"]) == (7, "no lock", "first")
    assert "skipped web2: an earlier change did not end well here" in ran.err
    assert all(words in ran.out for words in ("no lock", "exit 7", "web2"))


# ---------------------------------------------------------------- stopping


def stopping(desk: Desk, cell: Callable[[str], object], number: str) -> subprocess.Popen[str]:
    """Start a run that sleeps in its middle."""
    desk.notebook(
        LOAD,
        code("print('before')", cell_id="before"),
        cell(number),
        code("open('touched', 'w').close()", cell_id="later"),
        code("targets('web1').run('echo tidy', read_only=True)", "always", cell_id="tidy"),
    )
    return desk.start("run", "book.ipynb", start_new_session=True)


def remote(number: str):
    return code(f"%%on web\nsleep {number}", cell_id="sleeps")


def local(number: str):
    return code(f"import time\nprint('asleep', flush=True)\ntime.sleep({number})", cell_id="sleeps")


def begun(desk: Desk, cell_id: str) -> bool:
    """Whether a cell has been started; the last line of a growing journal may be torn."""
    mark = f'"type":"cell_started","cell_id":"{cell_id}"'
    return any(mark in file.read_text() for file in desk.folder.glob("archive/*/*/*/*/events.jsonl"))


def check_stopped(desk: Desk, ran: Ran, number: signal.Signals, *, seconds: float) -> Run:
    run = desk.run()
    assert ran.code == 128 + number, ran
    assert seconds < 10, f"it took {seconds} s"
    check_agreement(desk, run, ran)
    assert (run.record["status"], run.record["reason"]) == ("interrupted", f"stopped by {number.name}")
    assert run.states == {"load": "ok", "before": "ok", "sleeps": "interrupted", "later": "not_run", "tidy": "ok"}
    assert not (desk.folder / "touched").exists()
    assert "Traceback" not in ran.err
    assert "interrupted" in ran.out
    return run


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP], ids=lambda number: number.name)
def test_a_signal_ends_remote_commands_and_the_record_is_whole(desk, endings, number):
    endings.append(asleep := sleeper())
    process = stopping(desk, remote, asleep)
    wait_for(lambda: len(processes_with(f"sleep {asleep}")) >= 3, seconds=20)
    since = time.monotonic()
    process.send_signal(number)
    ran = finish(process, seconds=30)
    run = check_stopped(desk, ran, number, seconds=time.monotonic() - since)
    assert processes_with(f"sleep {asleep}") == []
    ended = [event for event in run.events("target_ended") if event["cell_id"] == "sleeps"]
    assert [event["state"] for event in ended] == ["cancelled"] * 3


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_a_signal_ends_a_local_cell_too(desk, number):
    process = stopping(desk, local, sleeper())
    wait_for(lambda: begun(desk, "sleeps"), seconds=20)
    time.sleep(0.3)
    since = time.monotonic()
    process.send_signal(number)
    ran = finish(process, seconds=30)
    check_stopped(desk, ran, number, seconds=time.monotonic() - since)


def test_a_second_signal_ends_what_always_runs_too(desk):
    desk.notebook(
        code("import time\nopen('asleep', 'w').close()\ntime.sleep(55)", cell_id="sleeps"),
        code("open('tidying', 'w').close()\ntime.sleep(55)", "always", cell_id="tidy"),
    )
    process = desk.start("run", "book.ipynb", start_new_session=True)
    wait_for((desk.folder / "asleep").exists, seconds=20)
    process.send_signal(signal.SIGTERM)
    wait_for((desk.folder / "tidying").exists, seconds=10)
    since = time.monotonic()
    process.send_signal(signal.SIGTERM)
    ran = finish(process, seconds=20)
    run = desk.run()
    assert (ran.code, run.record["status"]) == (143, "interrupted"), ran
    assert time.monotonic() - since < 10
    assert run.states == {"sleeps": "interrupted", "tidy": "interrupted"}


def test_a_run_is_stopped_from_outside(desk, endings):
    endings.append(asleep := sleeper())
    process = stopping(desk, remote, asleep)
    wait_for(lambda: len(processes_with(f"sleep {asleep}")) >= 3, seconds=20)
    since = time.monotonic()
    asked = desk.opsbook("stop", "last")
    assert asked.code == 0, asked
    assert "has stopped" in asked.err
    ran = finish(process, seconds=30)
    check_stopped(desk, ran, signal.SIGTERM, seconds=time.monotonic() - since)
    assert processes_with(f"sleep {asleep}") == []
    again = desk.opsbook("stop", "last")
    assert again.code == 1
    assert "over already" in again.err


def test_a_runner_that_is_killed_takes_its_kernel_along_and_reads_as_interrupted(desk, endings):
    endings.append(asleep := sleeper())
    process = stopping(desk, remote, asleep)
    wait_for(lambda: len(processes_with(f"sleep {asleep}")) >= 3, seconds=20)
    children = [pid for pid in processes_with("opsbook.execution.launch") if parent(pid) == process.pid]
    assert len(children) == 1
    assert [one["status"] for one in desk.opsbook("runs", "--json").json] == ["running"]
    process.kill()
    finish(process)
    wait_for(
        lambda: not Path(f"/proc/{children[0]}").exists() or state(children[0]) == "Z",
        seconds=6,
        what="the kernel's end",
    )
    (seen,) = desk.opsbook("runs", "--json").json
    assert seen["status"] == "interrupted"
    assert {cell["id"]: cell["state"] for cell in seen["cells"]} == {
        "load": "ok",
        "before": "ok",
        "sleeps": "interrupted",
        "later": "not_run",
        "tidy": "not_run",
    }
    assert {name: result["state"] for name, result in seen["targets"]["results"].items()} == dict.fromkeys(
        NAMES, "lost"
    )
    assert "interrupted" in desk.opsbook("runs").out
    assert "interrupted" in desk.opsbook("show", "last").out
    assert not (desk.folder / "touched").exists()


def status_field(pid: int, name: str) -> str:
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return ""
    return next(line.split()[1] for line in text.splitlines() if line.startswith(f"{name}:"))


def parent(pid: int) -> int:
    return int(status_field(pid, "PPid") or 0)


def state(pid: int) -> str:
    return status_field(pid, "State")


# ---------------------------------------------------------------- surroundings


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


def test_two_runs_at_once_do_not_meet(desk):
    desk.notebook(*GOOD)
    both = [desk.start("run", "book.ipynb", *GIVEN, "--json") for _ in range(2)]
    ended = [finish(process) for process in both]
    assert [ran.code for ran in ended] == [0, 0], ended
    assert len({ran.json["run_id"] for ran in ended}) == 2
    assert len(desk.runs()) == 2
    assert all(set(run.states.values()) == {"ok"} for run in desk.runs())


def test_a_secret_reaches_its_target_and_nothing_else(desk, endings):
    canary = f"Zk{secrets.token_hex(12)}'\"$ q"
    endings.append(asleep := sleeper())
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
