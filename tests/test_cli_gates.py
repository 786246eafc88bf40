"""A gate: refused without a terminal, opened beforehand, and asked for on a terminal."""

from __future__ import annotations

import os
import pty
import select
import signal
import time
from pathlib import Path

import pytest
from refusals import check_refused
from support import Desk, code


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def gated(desk: Desk) -> Path:
    return desk.notebook(
        code("print('before')", cell_id="before"),
        code("print('announced')", "confirm", cell_id="gate"),
        code("open('after', 'w').close()", cell_id="after"),
    )


def test_a_gate_without_a_terminal_is_refused_before_anything_starts(desk):
    check_refused(desk, desk.opsbook("run", gated(desk)), "confirm", "--yes", exit_code=3)
    assert not (desk.folder / "after").exists()


def test_a_gate_is_open_when_yes_was_said_beforehand(desk):
    ran = desk.opsbook("run", gated(desk), "--yes")
    assert ran.code == 0, ran
    (answer,) = desk.run().events("gate_answered")
    assert (answer["cell_id"], answer["granted"], answer["by"]) == ("gate", True, "--yes")
    assert (desk.folder / "after").exists()


def on_a_terminal(desk: Desk, *args: str, answer: bytes, signal_number: int = 0) -> tuple[int, str]:
    """Run on a terminal of its own, answer its question, and return the exit code and what was shown."""
    ours, theirs = pty.openpty()
    process = desk.fork(*args, env={**desk.environment, "TERM": "xterm"}, terminal=theirs)
    os.close(theirs)
    shown, deadline, answered = b"", time.monotonic() + 20, False
    try:
        while time.monotonic() < deadline:
            if not select.select([ours], [], [], 0.2)[0]:
                continue
            try:
                shown += os.read(ours, 65536)
            except OSError:
                break  # the last process at the terminal has gone
            if b"[y/N]" in shown and not answered:
                if signal_number:
                    process.send_signal(signal_number)
                os.write(ours, answer)
                answered = True
        return process.wait(5), shown.decode(errors="replace")
    finally:
        process.kill()
        process.wait()
        os.close(ours)


@pytest.mark.parametrize(("answer", "number"), [(b"\x03", 0), (b"", signal.SIGTERM)], ids=["Ctrl-C", "SIGTERM"])
def test_a_stop_at_the_question_of_a_gate_ends_the_run(desk, answer, number):
    gated(desk)
    exit_code, shown = on_a_terminal(desk, "run", "book.ipynb", answer=answer, signal_number=number)
    assert exit_code == 128 + (number or signal.SIGINT), shown
    run = desk.run()
    assert run.record["status"] == "interrupted"
    assert run.states == {"before": "ok", "gate": "not_run", "after": "not_run"}
    assert not (desk.folder / "after").exists()


def test_a_gate_on_a_terminal_asks_and_a_yes_goes_on(desk):
    gated(desk)
    exit_code, shown = on_a_terminal(desk, "run", "book.ipynb", answer=b"y\n")
    assert exit_code == 0, shown
    assert "[y/N]" in shown
    (answer,) = desk.run().events("gate_answered")
    assert (answer["granted"], answer["by"]) == (True, "terminal")
    assert (desk.folder / "after").exists()


@pytest.mark.parametrize("answer", [b"n\n", b"\n", b"\x04"], ids=["no", "nothing", "end of input"])
def test_a_gate_on_a_terminal_asks_and_anything_else_refuses(desk, answer):
    gated(desk)
    exit_code, shown = on_a_terminal(desk, "run", "book.ipynb", answer=answer)
    assert exit_code == 3, shown
    run = desk.run()
    assert (run.record["status"], run.record["exit_code"]) == ("refused", 3)
    assert run.states == {"before": "ok", "gate": "not_run", "after": "not_run"}
    assert run.papermill == {"before": "completed", "gate": "pending", "after": "pending"}
    assert "refused" in shown
    assert not (desk.folder / "after").exists()
