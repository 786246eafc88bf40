"""What ends when its time is over: a cell, a run, a clean-up; what still runs then, and what everything says of it."""

from __future__ import annotations

import os
import secrets
import signal
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest
from agreement import answered, check_agreement, out_of_time
from conftest import Sshd
from support import LOAD, Desk, Run, code, finish, processes_with, prose, wait_for

from opsbook.cli.part import time_limits
from opsbook.config import Settings
from opsbook.errors import UsageError
from opsbook.runbook.notebook import read_runbook

SLEEP = "import time\ntime.sleep(120)"
LATER = code("open('later', 'w').close()", cell_id="later")
TIDY = code("open('tidied', 'w').close()", "always", cell_id="tidy")
DEAF = "import signal, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True:\n    time.sleep(1)"


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


@pytest.fixture
def asleep() -> Iterator[str]:
    """A number of seconds nobody else sleeps; what a failed test leaves asleep is ended."""
    number = f"{900 + secrets.randbelow(90)}.{secrets.randbelow(10**9):09}3"
    yield number
    for pid in processes_with(f"sleep {number}"):
        os.kill(pid, signal.SIGKILL)


def seconds_between(run: Run, first: str, last: str) -> float:
    """How long, by the journal, it was from the first event of a kind to the first of another."""
    at = {entry["event"]["type"]: datetime.fromisoformat(entry["at"]) for entry in reversed(run.journal)}
    return (at[last] - at[first]).total_seconds()


def test_a_cell_whose_time_is_over_is_ended_and_its_own_tag_wins(desk: Desk) -> None:
    desk.notebook(
        code("import time\ntime.sleep(3)", "timeout:2m", cell_id="long"),
        code(SLEEP, cell_id="slow"),
        LATER,
        code("open('undone', 'w').close()", "on-failure", cell_id="undo"),
        TIDY,
    )
    ran = desk.opsbook("run", "book.ipynb", "--cell-timeout", "2s")
    record = check_agreement(desk, ran, status="timed_out", code=124)
    assert desk.run().states == {
        "long": "ok",
        "slow": "timed_out",
        "later": "not_run",
        "undo": "ok",
        "tidy": "ok",
    }
    assert record["limits"] == {"run_s": None, "cell_s": 2.0, "always_s": 60.0}
    assert "did not end in time" in record["reason"]
    assert record["cells"][1]["duration_s"] >= 2
    assert not (desk.folder / "later").exists()
    assert (desk.folder / "undone").exists()


def test_a_slow_cell_may_be_tried_again_and_one_that_awaits_for_ever_leaves_its_kernel_alive(desk: Desk) -> None:
    slow = "import os, time\nif not os.path.exists('tried'):\n    open('tried', 'w').close()\n    time.sleep(120)"
    desk.notebook(
        code(slow, "timeout:3s", "retry:3", cell_id="again"),
        code("import asyncio\nmark = 5\nawait asyncio.sleep(120)", "timeout:1s", cell_id="waits"),
        code("print(mark)", "always", cell_id="tidy"),
    )
    check_agreement(desk, desk.opsbook("run", "book.ipynb"), status="timed_out", code=124)
    ends = [(event["cell_id"], event["state"]) for event in desk.run().events("cell_ended")]
    assert ends == [("again", "timed_out"), ("again", "ok"), ("waits", "timed_out"), ("tidy", "ok")]
    assert desk.run().output("tidy") == "5\n"


def test_a_cell_that_does_not_listen_takes_its_kernel_along_and_clean_up_is_said_to_be_missing(
    desk: Desk, asleep: str
) -> None:
    child = f"import subprocess\nsubprocess.Popen(['sleep', '{asleep}'])\n"
    desk.notebook(prose("## Deaf"), code(child + DEAF, "timeout:1s", "retry:3", cell_id="deaf"), prose("## Tidy"), TIDY)
    ran = desk.opsbook("run", "book.ipynb")
    record = check_agreement(desk, ran, status="timed_out", code=124)
    assert desk.run().states == {"deaf": "timed_out", "tidy": "not_run"}
    assert record["cells"][0]["attempts"] == 1
    assert record["notes"] == [
        '"Deaf" could not be ended: the kernel was killed',
        '"Tidy" (always) did not run: the kernel was gone',
    ]
    assert "did not run: the kernel was gone" in " ".join(ran.out.split())
    wait_for(lambda: not processes_with(f"sleep {asleep}"), what="the end of the kernel's child")


def test_a_run_whose_time_is_over_ends_its_remote_commands_and_still_cleans_up(
    desk: Desk, sshd: Sshd, asleep: str
) -> None:
    sshd.inventory({"web1": "127.0.9.1", "web2": "127.0.9.2"}, desk.folder / "hosts.ini")
    desk.notebook(
        LOAD,
        code(f"%%on web\nsleep {asleep}", "retry:3", cell_id="slow"),
        LATER,
        code("%%on web --include-failed\ntrue", "always", cell_id="tidy"),
    )
    args = ("run", "book.ipynb", "-i", "hosts.ini", "--timeout")
    ran = out_of_time(lambda run: len(run.events("intent")) > 2, lambda time: desk.opsbook(*args, time), desk)
    record = check_agreement(desk, ran, status="timed_out", code=124)
    run = desk.run()
    assert (record["reason"], record["cells"][1]["attempts"]) == ("the run timed out", 1)
    assert run.states == {"load": "ok", "slow": "timed_out", "later": "not_run", "tidy": "ok"}
    ends = [(event["cell_id"], event["state"]) for event in run.events("target_ended")]
    assert ends == [("slow", "cancelled")] * 2 + [("tidy", "ok")] * 2  # and nothing was tried again
    assert [event["signal"] for event in run.events("stop_requested")] == ["timeout"]
    assert seconds_between(run, "stop_requested", "run_ended") < 30
    assert not processes_with(f"sleep {asleep}")
    assert not (desk.folder / "later").exists()


def test_a_question_nobody_answers_ends_with_the_runs_time(desk: Desk) -> None:
    desk.notebook(code("open('later', 'w').close()", "confirm", cell_id="gate"), TIDY)
    args = ("run", "book.ipynb", "--timeout")
    ran = out_of_time(lambda run: bool(run.events("gate_answered")), lambda time: answered(desk, "", *args, time), desk)
    record = check_agreement(desk, ran, status="timed_out", code=124)
    (answer,) = desk.run().events("gate_answered")
    assert (answer["granted"], answer["by"]) == (False, "timeout")
    assert [cell["state"] for cell in record["cells"]] == ["not_run", "ok"]
    assert not (desk.folder / "later").exists()


def test_clean_up_that_runs_when_the_runs_time_is_over_is_let_finish(desk: Desk) -> None:
    slow = "import time\nwhile time.monotonic() < begun + 6:\n    time.sleep(0.1)"
    desk.notebook(
        code("import time\nbegun = time.monotonic()", cell_id="one"), code(slow, "always", cell_id="tidy"), LATER
    )
    args = ("run", "book.ipynb", "--timeout")
    holds = ("timed_out", "ok")
    ran = out_of_time(
        lambda run: (run.record["status"], run.states["one"]) == holds, lambda time: desk.opsbook(*args, time), desk
    )
    check_agreement(desk, ran, status="timed_out", code=124)
    assert desk.run().states == {"one": "ok", "tidy": "ok", "later": "not_run"}


def test_clean_up_after_a_failure_has_a_bound_of_its_own_and_says_nothing_of_how_the_run_ended(desk: Desk) -> None:
    desk.notebook(
        code("1/0", cell_id="broken"),
        code(DEAF, "always", "timeout:30m", cell_id="deaf"),
        code("1", "always", cell_id="b"),
    )
    args = ("run", "book.ipynb", "--always-timeout", "1s", "--timeout")
    ran = out_of_time(lambda run: run.states["broken"] == "failed", lambda time: desk.opsbook(*args, time), desk)
    record = check_agreement(desk, ran, status="failed", code=1)
    assert desk.run().states == {"broken": "failed", "deaf": "timed_out", "b": "not_run"}
    assert "ZeroDivisionError" in record["reason"]


def test_a_signal_weighs_more_than_a_time_that_was_over(desk: Desk) -> None:
    slow = code("open('tidying', 'w').close()\nimport time\ntime.sleep(120)", "always", cell_id="tidy")
    desk.notebook(code(SLEEP, cell_id="slow"), slow)
    process = desk.fork("run", "book.ipynb", "--timeout", "5s")
    wait_for((desk.folder / "tidying").exists, seconds=60, what="the clean-up")
    process.terminate()
    check_agreement(desk, finish(process), status="interrupted", code=143)
    assert desk.run().states["tidy"] == "interrupted"
    assert desk.run().states["slow"] in {"timed_out", "not_run"}  # on a busy machine its time is over before it begins
    assert [event["signal"] for event in desk.run().events("stop_requested")] == ["timeout", "SIGTERM"]


def test_flags_win_over_the_header_and_the_header_over_the_settings(desk: Desk) -> None:
    desk.write("opsbook.toml", 'run_timeout = "3h"\ncell_timeout = "2h"\nalways_timeout = "7s"\n')
    header = "# T\n\n**Timeout.** 99999999999d\n\n**Cell timeout.** 10m"  # longer than any clock can count
    desk.notebook(prose(header), code("1", "timeout:99999999999d"))
    environment = {**desk.environment, "OPSBOOK_ALWAYS_TIMEOUT": "8s"}
    ran = desk.opsbook("run", "book.ipynb", "--cell-timeout", "30s", env=environment)
    record = check_agreement(desk, ran, status="succeeded", code=0)
    assert record["limits"] == {"run_s": 99999999999.0 * 86400, "cell_s": 30.0, "always_s": 8.0}


@pytest.mark.parametrize(
    ("settings", "header", "flags", "said"),
    [
        ({}, "", {"run_timeout": "banana"}, "--timeout: 'banana' is not a duration"),
        ({}, "", {"cell_timeout": "0s"}, "--cell-timeout: '0s' is not a duration above zero"),
        ({}, "", {"always_timeout": "-1s"}, "--always-timeout: '-1s' is not a duration"),
        ({}, "**Timeout.** when it is done", {}, "the header's 'timeout': 'when it is done' is not a duration"),
        ({"cell_timeout": "soon"}, "", {}, "cell_timeout: 'soon' is not a duration"),
    ],
)
def test_a_time_that_is_none_is_refused(
    desk: Desk, settings: dict[str, str], header: str, flags: dict[str, str], said: str
) -> None:
    book = read_runbook(desk.notebook(prose(f"# T\n\n{header}"), code("1")))
    with pytest.raises(UsageError) as caught:
        time_limits(book, Settings(**settings), **flags)
    assert str(caught.value) == said
    assert caught.value.hint or "above zero" in said


def test_a_refused_time_starts_nothing(desk: Desk) -> None:
    desk.notebook(code("1"))
    ran = desk.opsbook("run", "book.ipynb", "--timeout", "banana")
    assert (ran.code, ran.out, desk.runs(), desk.kernels()) == (2, "", [], [])
