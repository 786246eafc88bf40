"""How a run stops: real signals, a real sshd. Whatever stops it, all that is told of it agrees."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import pytest
from agreement import check_run
from stopping import (
    LATER,
    PID,
    START_S,
    await_cell,
    await_file,
    await_sleepers,
    check_stopped,
    ends,
    python_waiting,
    seconds_to_end,
    started,
    times,
    waiting,
    written,
)
from support import LOAD, Desk, Ran, code, finish, processes_with, wait_for

NAMES = {f"web{number}": f"127.0.7.{number}" for number in range(1, 4)}


# ---------------------------------------------------------------- the kernel goes, or is told to


def test_a_kernel_killed_from_outside_in_a_fan_out_leaves_its_targets_lost(desk: Desk, asleep: str) -> None:
    tidy = code("open('later', 'w').close()", "always", cell_id="tidy")
    desk.notebook(LOAD, PID, code(f"%%on web1,web2\nsleep {asleep}", cell_id="on"), tidy, LATER)
    with started(desk) as process:
        await_sleepers(asleep, 2)
        os.kill(int((desk.folder / "kernel").read_text()), signal.SIGKILL)
        ran = finish(process)
    run = desk.run()
    record = check_run(run, status="lost", code=6)
    assert ran.code == 6, ran
    assert "SIGKILL" in record["reason"]
    assert run.targets == {"web1": "lost", "web2": "lost"}
    assert {result["cell_id"] for result in record["targets"]["results"].values()} == {"on"}
    assert run.states == {"load": "ok", "pid": "ok", "on": "lost", "tidy": "not_run", "later": "not_run"}
    assert any("always" in note and "did not run" in note for note in record["notes"])
    assert "web1" in ran.out
    assert "lost" in ran.out
    assert not (desk.folder / "later").exists()


def test_a_service_manager_that_signals_runner_and_kernel_at_once_ends_the_remote_commands(
    desk: Desk, asleep: str
) -> None:
    again = f"targets('web1').run('touch {desk.folder}/cleaned', include_failed=True)"
    desk.notebook(
        LOAD,
        PID,
        code(f"%%on web\nsleep {asleep}\ntouch {desk.folder}/later", cell_id="on"),
        LATER,
        code(again, "always", cell_id="tidy"),
    )
    with started(desk) as process:
        await_sleepers(asleep, 3)
        os.kill(int((desk.folder / "kernel").read_text()), signal.SIGTERM)
        process.send_signal(signal.SIGTERM)
        ran = finish(process)
    run = desk.run()
    check_stopped(desk, run, ran.code, signal.SIGTERM)
    assert processes_with(f"sleep {asleep}") == []
    assert ends(run, "on") == dict.fromkeys(NAMES, ("cancelled", "cancelled"))
    assert run.targets == dict.fromkeys(NAMES, "cancelled")
    assert run.states == {"load": "ok", "pid": "ok", "on": "interrupted", "later": "not_run", "tidy": "ok"}
    assert (desk.folder / "cleaned").exists()


def test_a_cell_that_does_not_end_costs_the_kernel_and_the_record_names_what_did_not_run(desk: Desk) -> None:
    stubborn = """
    import time
    while True:
        try:
            open("ready", "w").close()
            time.sleep(60)
        except KeyboardInterrupt:
            pass
    """
    tidy = code("open('later', 'w').close()", "always", cell_id="tidy")
    desk.notebook(code(stubborn, cell_id="stubborn"), tidy)
    with started(desk) as process:
        await_file(desk.folder / "ready")
        process.send_signal(signal.SIGTERM)
        ran = finish(process)
    run = desk.run()
    check_stopped(desk, run, ran.code, signal.SIGTERM)
    assert run.states == {"stubborn": "interrupted", "tidy": "not_run"}
    assert seconds_to_end(run) < 8
    assert any("always" in note and "did not run" in note for note in run.record["notes"])
    assert "did not run" in ran.out


# ---------------------------------------------------------------- nothing is over before it is


@pytest.mark.parametrize(("end", "exit_code"), [("true", 0), ("exit 7", 1)], ids=["ends well", "fails"])
def test_a_cell_is_not_over_before_the_call_its_own_thread_made(desk: Desk, end: str, exit_code: int) -> None:
    script = f"touch {desk.folder}/sent; {waiting(f'{desk.folder}/go')}; touch {desk.folder}/done; {end}"
    desk.notebook(
        LOAD,
        code(
            f"""
            import pathlib, threading, time
            def work():
                targets("web1").run({script!r}, check=True)
            threading.Thread(target=work).start()
            while not pathlib.Path("sent").exists():
                time.sleep(0.05)
            open("returned", "w").close()
            """,
            cell_id="thread",
        ),
    )
    with started(desk) as process:
        await_file(desk.folder / "returned")
        time.sleep(1)  # what would end too early gets its chance
        assert process.poll() is None
        assert not written(desk, '"cell_ended"', '"thread"')
        (desk.folder / "go").touch()
        ran = finish(process)
    run = desk.run()
    assert ran.code == exit_code, ran
    check_run(run, status="failed" if exit_code else "succeeded", code=exit_code)
    assert (desk.folder / "done").exists()
    assert run.targets == {"web1": "failed" if exit_code else "ok"}
    assert times(run, "target_ended")[0] <= times(run, "cell_ended", cell_id="thread")[0]


def test_a_signal_while_a_cell_is_being_announced_is_not_lost(desk: Desk) -> None:
    """The disk is slow: the signal comes after the cell's line was written and before that is known to be on disk."""
    site = desk.folder / "site/sitecustomize.py"
    slow = f"""
import os, time
def slowly(descriptor, sync=os.fsync):
    if os.path.exists({str(desk.folder / "slow")!r}):
        time.sleep(1)
    sync(descriptor)
os.fsync = slowly
"""
    site.write_text(site.read_text() + slow)
    desk.notebook(
        code("open('slow', 'w').close()", cell_id="first"),
        code("import time\nopen('begun', 'w').close()\ntime.sleep(50)", cell_id="work"),
        LATER,
    )
    with started(desk) as process:
        await_cell(desk, "work")
        process.send_signal(signal.SIGTERM)
        wait_for(lambda: written(desk, '"stop_requested"'))
        (desk.folder / "slow").unlink()
        ran = finish(process)
    run = desk.run()
    check_stopped(desk, run, ran.code, signal.SIGTERM)
    begun = (desk.folder / "begun").exists()  # on a machine busy enough it has
    assert run.states == {"first": "ok", "work": "interrupted" if begun else "not_run", "later": "not_run"}
    assert seconds_to_end(run) < 10


def test_what_the_runner_refuses_to_send_ends_the_cell(desk: Desk) -> None:
    """The journal cannot grow any more, as on a full disk: nothing is sent that nobody could record."""
    change = f"""
    record("big", "x" * 400_000)
    targets("web1").run("touch {desk.folder}/sent")
    open("later", "w").close()
    """
    desk.notebook(LOAD, code(change, cell_id="work"), code("open('later', 'w').close()", cell_id="after"))
    command = shlex.join([sys.executable, "-m", "opsbook", "run", "book.ipynb"])
    process = subprocess.Popen(
        ["bash", "-c", f"ulimit -f 300; exec {command}"],
        cwd=desk.folder,
        env=desk.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    ran = finish(process)
    assert ran.code == 5, ran
    record = desk.run().record
    assert (record["status"], record["exit_code"]) == ("failed", 5)
    assert "running" not in {cell["state"] for cell in record["cells"]}
    assert desk.run().states["work"] != "ok"
    assert not (desk.folder / "sent").exists()
    assert not (desk.folder / "later").exists()


# ---------------------------------------------------------------- early, ignored, and from outside


def folder_appears(desk: Desk) -> bool:
    return any(desk.folder.glob("archive/*/*/*/*Z-book-*"))


def kernel_boots(desk: Desk) -> bool:
    return bool(desk.kernels())


@pytest.mark.parametrize("moment", [folder_appears, kernel_boots], ids=["the run's folder", "the kernel"])
def test_a_stop_while_the_kernel_boots_runs_no_cell(desk: Desk, moment: Callable[[Desk], bool]) -> None:
    desk.notebook(LOAD, code("open('later', 'w').close()", cell_id="first"), LATER)
    with started(desk) as process:
        deadline = time.monotonic() + START_S
        while not moment(desk):
            assert time.monotonic() < deadline
            time.sleep(0.001)
        process.send_signal(signal.SIGTERM)
        ran = finish(process)
    run = desk.run()
    assert ran.code == 143, ran
    check_stopped(desk, run, ran.code, signal.SIGTERM)
    assert set(run.states.values()) == {"not_run"}
    assert run.events("cell_started") == []
    assert "Traceback" not in ran.err


def test_a_hangup_that_was_ignored_at_the_start_stays_ignored(desk: Desk) -> None:
    desk.notebook(
        LOAD,
        code(f"%%on web1\ntouch {desk.folder}/sent\n{waiting(f'{desk.folder}/go')}", cell_id="on"),
        code("import signal\nprint(signal.getsignal(signal.SIGHUP) is signal.SIG_IGN)", cell_id="last"),
    )
    process = subprocess.Popen(
        ["nohup", sys.executable, "-m", "opsbook", "run", "book.ipynb"],
        cwd=desk.folder,
        env=desk.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        await_file(desk.folder / "sent")
        process.send_signal(signal.SIGHUP)
    finally:
        (desk.folder / "go").touch()
        ran = finish(process)
    run = desk.run()
    assert ran.code == 0, ran
    check_run(run, status="succeeded", code=0)
    assert run.events("stop_requested") == []
    assert run.states == {"load": "ok", "on": "ok", "last": "ok"}
    assert run.output("last") == "True\n"


def stop(desk: Desk, *what: str) -> Ran:
    return desk.opsbook("stop", *what)


def test_stop_ends_the_run_that_is_meant_and_no_other(desk: Desk) -> None:
    for name in ("alpha", "beta"):
        desk.notebook(
            code(f"open('{name}', 'w').close()\n{python_waiting('never')}", cell_id="work"), name=f"{name}.ipynb"
        )
    with started(desk, "alpha.ipynb") as first:
        await_file(desk.folder / "alpha")
        with started(desk, "beta.ipynb") as second:
            await_file(desk.folder / "beta")
            alpha, beta = sorted(desk.runs(), key=lambda run: "-beta-" in run.folder.name)
            many = stop(desk, alpha.folder.name[:4])
            assert (many.code, "2 runs match" in many.err) == (2, True), many
            suffix = alpha.folder.name.rpartition("-")[2]
            asked = stop(desk, suffix)
            assert asked.code == 0, asked
            assert f"{alpha.folder.name} has stopped" in asked.err
            check_stopped(desk, alpha, finish(first).code, signal.SIGTERM)
            assert second.poll() is None
            record = (alpha.folder / "run.json").read_bytes()
            over = stop(desk, suffix)
            said = f"error: run {alpha.folder.name} is over already\nhint:  opsbook show {alpha.folder.name} says"
            assert (over.code, over.err[: len(said)]) == (1, said), over
            assert (alpha.folder / "run.json").read_bytes() == record
            assert second.poll() is None
            asked = stop(desk, "last")
            assert (asked.code, beta.folder.name in asked.err) == (0, True), asked
            check_stopped(desk, beta, finish(second).code, signal.SIGTERM)
    assert stop(desk, "last").code == 1
    nobody = stop(desk, "nobody")
    assert (nobody.code, "'nobody'" in nobody.err) == (2, True), nobody
