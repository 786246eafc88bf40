"""`once`: a function a resumed run does not call again (SEMANTICS 21)."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support import LOAD, Desk, code, finish, parameters, wait_for


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def steps(desk: Desk, *, idempotent: bool = False) -> None:
    """A notebook that opens a ticket and sends a mail, and says when it is about to."""
    desk.notebook(
        LOAD,
        code(
            """
            import pathlib, time
            def call(name, value):
                with open("called-" + name, "a") as file:
                    file.write(".")
                while name == "mail" and not pathlib.Path("mended").exists():
                    time.sleep(0.1)
                return value
            def fails():
                call("fails", None)
                raise OSError("no route")
            try:
                once("fails", fails)
            except OSError as error:
                print(error)
            try:
                once("odd", lambda: call("odd", object()))
            except ValueError as error:
                print("never", error)
            except Exception as error:
                print(type(error).__name__, error)
            """,
            cell_id="first",
        ),
        code('ticket = once("ticket", lambda: call("ticket", {"id": 7}))\nprint(ticket["id"])', cell_id="ticket"),
        code(f'once("mail", lambda: call("mail", None), idempotent={idempotent})', cell_id="mail"),
    )


def calls(desk: Desk) -> dict[str, int]:
    found = desk.folder.glob("called-*")
    return {file.name.removeprefix("called-"): len(file.read_text()) for file in found}


def test_what_returned_is_not_called_again_and_what_nobody_saw_the_end_of_stops_the_run(desk):
    steps(desk)
    process = desk.fork("run", "book.ipynb")
    wait_for(lambda: "mail" in calls(desk), seconds=60)
    process.send_signal(signal.SIGKILL)
    finish(process)
    assert calls(desk) == {"fails": 1, "odd": 1, "ticket": 1, "mail": 1}
    (desk.folder / "mended").touch()
    unsure = desk.opsbook("resume", "last", "--yes")
    assert unsure.code == 6, unsure.err
    assert "nobody knows how \"once('mail')\" ended, begun 20" in unsure.out
    assert calls(desk) == {"fails": 2, "odd": 1, "ticket": 1, "mail": 1}  # what raised is called again
    assert desk.runs()[-1].output("ticket") == "7\n"
    steps(desk, idempotent=True)
    sure = desk.opsbook("resume", "last", "--yes")
    assert sure.code == 0, sure.err
    assert calls(desk) == {"fails": 3, "odd": 1, "ticket": 1, "mail": 2}
    first, last = desk.runs()[0], desk.runs()[-1]
    said = "".join(event["text"] for event in first.events("cell_output"))
    assert "UsageError once('odd')" in said  # what JSON cannot hold is said at once
    assert "UsageError" not in last.output("first")
    assert [event["name"] for event in last.events("once_ended") if event["replayed"]] == ["odd", "ticket"]


def test_a_dry_run_calls_nothing_and_without_a_runner_it_is_called(desk):
    steps(desk)
    (desk.folder / "mended").touch()
    dry = desk.opsbook("run", "book.ipynb", "--check")
    assert "'NoneType' object is not subscriptable" in dry.out
    assert calls(desk) == {}
    alone = [sys.executable, "-c", "import opsbook; print(opsbook.once('x', lambda: [1, (2,)]))"]
    said = subprocess.run(alone, cwd=desk.folder, env=desk.environment, capture_output=True, text=True, check=True)
    assert said.stdout == "[1, [2]]\n"


def test_a_value_that_was_masked_is_not_handed_out_and_an_idempotent_function_is_called_again(desk):
    desk.notebook(
        LOAD,
        parameters('token: Secret = "env:TOKEN"'),
        code(
            """
            import pathlib
            def issue(name):
                with open("called-" + name, "a") as file:
                    file.write(".")
                return "key of " + token.reveal()
            print(len(once("again", lambda: issue("again"), idempotent=True)))
            try:
                once("kept", lambda: issue("kept"))
            except Exception as error:
                print(error)
            """,
            cell_id="issues",
        ),
        code('assert pathlib.Path("mended").exists()', cell_id="stops"),
    )
    secret = {**desk.environment, "TOKEN": "swordfish"}
    assert desk.opsbook("run", "book.ipynb", env=secret).code == 1
    (desk.folder / "mended").touch()
    resumed = desk.opsbook("resume", "last", "--yes", env=secret)
    assert resumed.code == 0, resumed.err
    assert calls(desk) == {"again": 2, "kept": 1}
    said = desk.runs()[-1].output("issues")
    assert said.startswith("16\nwhat once('kept') returned holds a secret and was masked; idempotent=True says")
