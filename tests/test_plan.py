"""`opsbook plan`: what a run would need besides its targets, and what would keep it from starting."""

from __future__ import annotations

import pytest
from support import LOAD, Desk, code, finish, parameters, processes_with, prose, wait_for

NAMES = {f"web{number}": f"127.0.9.{number}" for number in range(1, 5)}
CHANGE = code("%%on web1,web2\ntouch {}/changed", cell_id="change")


def book(desk: Desk, *cells: dict, declared: str = "") -> None:
    desk.notebook(LOAD, *([parameters(declared)] if declared else []), *cells)


@pytest.mark.parametrize(
    ("cells", "head"),
    [
        ([code("%%on web1,web2\ntrue"), code("%%on web2,web4 --read-only\ntrue")], "3 of 4 targets"),
        ([code("%%on\ntrue")], "4 targets"),
        ([code("%%on web1\ntrue"), code("targets(name).run('true')")], "at most 4 targets"),
        ([code("targets('web1')"), code("opsbook.targets('web1:web2')")], "2 of 4 targets"),
        ([code("a, b = 'web1', 'web2'"), code("targets(f'{a}')")], "at most 4 targets"),
        ([code("targets('web1')"), code("targets()")], "4 targets"),
        ([code("targets('nobody') if False else targets('web1')")], "at most 4 targets"),
        ([code("targets('web1', *more)")], "at most 4 targets"),
        ([code("%time targets('web1')")], "at most 4 targets"),
        ([code("%%on {name}\ntrue")], "at most 4 targets"),
    ],
)
def test_it_says_how_many_targets_its_cells_ask_for(desk: Desk, cells: list[dict], head: str) -> None:
    book(desk, *cells)
    assert desk.opsbook("plan", "book.ipynb").out.splitlines()[0] == f"would run book on {head}"


def test_a_runbook_that_asks_for_no_target_is_planned_too(desk: Desk) -> None:
    book(desk, code("print('here')"))
    planned = desk.opsbook("plan", "book.ipynb")
    assert planned.out.startswith("would run book\n")
    assert "locks" not in planned.out


def test_gates_are_named_until_they_are_confirmed(desk: Desk) -> None:
    book(desk, prose("## Announce"), code("print('go')", "confirm"))
    assert '"Announce" asks for confirmation (--yes confirms it beforehand)' in desk.opsbook("plan", "book.ipynb").out
    for flag in ("--yes", "--check"):
        assert desk.opsbook("plan", "book.ipynb", flag, "--json").json["gates"] == []


def test_secrets_are_looked_for_and_neither_shown_nor_asked_for(desk: Desk) -> None:
    desk.write("pin", "hunter22\n")
    declared = """
    pin: Secret = "file:pin"
    typed: Secret = "prompt:PIN"
    made: Secret = "cmd:touch ran; echo hunter22"
    gone: Secret = "env:NOWHERE_SET"
    """
    book(desk, code("print('here')"), declared=declared)
    planned = desk.opsbook("plan", "book.ipynb")
    assert planned.code == 2
    shown = " ".join(planned.out.split())
    assert "parameter 'pin' from file:pin (set)" in shown
    assert "parameter 'typed' from prompt:PIN (asked for when it runs)" in shown
    assert "parameter 'made' from cmd:touch ran; echo hunter22 (asked for when it runs)" in shown
    assert "missing: parameter 'gone': the environment variable NOWHERE_SET is not set" in shown
    assert not (desk.folder / "ran").exists()
    assert desk.opsbook("plan", "book.ipynb", "-p", "gone=file:pin").code == 0
    assert desk.opsbook("run", "book.ipynb", "--yes").code == 2


def test_who_holds_what_it_would_change_is_said(desk: Desk, asleep: str) -> None:
    book(desk, code(f"%%on web1,web2\nsleep {asleep}", cell_id="on"))
    assert "locks       free" in desk.opsbook("plan", "book.ipynb").out
    process = desk.fork("run", "book.ipynb", "--lock", "nightly", start_new_session=True)
    wait_for(lambda: len(processes_with(f"sleep {asleep}")) >= 2, seconds=30)
    run_id = desk.run().folder.name
    held = desk.opsbook("plan", "book.ipynb", "--lock", "nightly")
    assert held.code == 0
    assert f"--lock nightly held by {run_id}" in " ".join(held.out.split())
    assert [one["state"] for one in desk.opsbook("plan", "book.ipynb", "--json").json["locks"]] == ["held", "held"]
    book(desk, code("%%on web3\ntrue"))
    assert desk.opsbook("plan", "book.ipynb", "--json").json["locks"] == []
    book(desk, code("targets(name).run('true')"))
    assert len(desk.opsbook("plan", "book.ipynb", "--json").json["locks"]) == 2, "it may choose them"
    process.kill()
    finish(process)


def test_what_was_left_in_the_middle_would_be_refused(desk: Desk, asleep: str) -> None:
    book(desk, code(f"%%on web1,web2\nsleep {asleep}", cell_id="on"))
    process = desk.fork("run", "book.ipynb", start_new_session=True)
    wait_for(lambda: len(processes_with(f"sleep {asleep}")) >= 2, seconds=30)
    process.kill()
    finish(process)
    run_id = desk.run().folder.name
    planned = desk.opsbook("plan", "book.ipynb")
    assert planned.code == 3
    shown = " ".join(planned.out.split())
    assert f"web1, web2 left in the middle by {run_id}" in shown
    assert f"refused: web1, web2 were left in the middle by run {run_id}; resume it, or --acknowledge {run_id}" in shown
    assert desk.opsbook("run", "book.ipynb").code == 3
    assert desk.opsbook("plan", "book.ipynb", "--acknowledge", run_id).code == 0
    assert len(desk.runs()) == 1


def test_it_takes_every_word_that_run_takes_and_refuses_what_run_refuses(desk: Desk) -> None:
    book(desk, CHANGE, declared="stack: str")
    for words in ((), ("-p", "stak=a"), ("-p", "stack=a", "-t", "nobody"), ("-p", "stack=a", "--timeout", "soon")):
        ran, planned = desk.opsbook("run", "book.ipynb", *words), desk.opsbook("plan", "book.ipynb", *words)
        assert (planned.code, planned.err) == (ran.code, ran.err) == (2, ran.err)
        assert planned.out == ""
