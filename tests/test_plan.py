"""`opsbook plan`: what a run would need besides its targets, and what would keep it from starting."""

from __future__ import annotations

import pytest
from support import LOAD, Desk, code, finish, notebook_text, parameters, processes_with, prose, wait_for

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
        ([code("from opsbook import targets as chosen\nchosen('web1')")], "at most 4 targets"),
        ([code("targets('web1')\nlist(map(targets, names))")], "at most 4 targets"),
        ([code("targets('web1')"), code("x = " + "-" * 50_000 + "1")], "1 of 4 targets"),
    ],
)
def test_it_says_how_many_targets_its_cells_ask_for(desk: Desk, cells: list[dict], head: str) -> None:
    book(desk, *cells)
    assert desk.opsbook("plan", "book.ipynb").out.splitlines()[0] == f"would run book on {head}"


@pytest.mark.parametrize(
    "changing",
    [
        "def choose(stack):\n    return targets(stack)\nchoose('web4')",
        "choose = lambda *stack: targets('web4')",
        "try:\n    {}['web4']\nexcept KeyError as stack:\n    pass",
        "match ['web4']:\n    case [stack]:\n        pass",
        "match {'name': 'web4'}:\n    case {**stack}:\n        pass",
        "def stack():\n    pass",
        "import stack.web4",
        "del stack",
    ],
)
def test_a_parameter_that_python_may_give_another_value_is_not_known(desk: Desk, changing: str) -> None:
    book(desk, code(changing), code("%%on {stack}\ntrue", cell_id="on"), declared="stack: str = 'web1'")
    planned = desk.opsbook("plan", "book.ipynb", "--json").json
    (line,) = (cell for cell in planned["cells"] if cell["id"] == "on")
    assert line["targets"] == []
    assert line["open"].startswith("stack: ")
    assert desk.opsbook("plan", "book.ipynb").out.startswith("would run book on at most 4 targets\n")


def test_a_line_that_is_to_fail_keeps_nothing_from_running(desk: Desk) -> None:
    book(desk, code("%%on nobody\ntrue", "raises-exception"))
    planned = desk.opsbook("plan", "book.ipynb")
    assert "would fail  pattern 'nobody' names nothing in the inventory" in planned.out
    assert planned.code == desk.opsbook("run", "book.ipynb").code == 0


def test_a_kernel_that_is_not_there_is_refused_as_run_does(desk: Desk) -> None:
    desk.write("book.ipynb", notebook_text([LOAD, code("%%on web1\ntrue")], kernel="cobol"))
    planned, ran = desk.opsbook("plan", "book.ipynb"), desk.opsbook("run", "book.ipynb")
    assert (planned.code, planned.out, planned.err) == (ran.code, "", ran.err)
    assert "there is no kernel 'cobol'" in planned.err


def test_no_command_of_ssh_config_is_run_to_find_that_nothing_is_locked(desk: Desk) -> None:
    desk.write("ssh", f'Match exec "touch {desk.folder}/ran"\n  Port 22\n')
    desk.write("opsbook.toml", f'inventory = ["hosts.ini"]\n[ssh]\nconfig = "{desk.folder}/ssh"\n')
    book(desk, CHANGE)
    assert "locks       free" in desk.opsbook("plan", "book.ipynb").out
    assert not (desk.folder / "ran").exists()


def test_a_runbook_that_asks_for_no_target_is_planned_too(desk: Desk) -> None:
    book(desk, code("print('here')"))
    planned = desk.opsbook("plan", "book.ipynb")
    assert planned.out.startswith("would run book\n")
    assert "locks" not in planned.out


def test_gates_are_named_until_they_are_confirmed(desk: Desk) -> None:
    book(desk, prose("## Announce"), code("print('go')", "confirm"))
    assert '"Announce" asks for confirmation (--yes confirms it beforehand)' in desk.opsbook("plan", "book.ipynb").out
    planned = desk.opsbook("plan", "book.ipynb", "--json")
    assert planned.code == desk.opsbook("run", "book.ipynb").code == 3, "there is no terminal to ask on"
    assert planned.json["refused"].endswith("there is no terminal to ask on (give --yes to confirm it beforehand)")
    for flag in ("--yes", "--check"):
        confirmed = desk.opsbook("plan", "book.ipynb", flag, "--json")
        assert (confirmed.code, confirmed.json["gates"], confirmed.json["refused"]) == (0, [], "")


def test_a_dry_run_and_cells_for_failures_are_named_as_such(desk: Desk) -> None:
    book(desk, code("%%on web1\ntrue", "always"), code("%%on web2\ntrue", "on-failure"), code("targets()", "always"))
    lines = desk.opsbook("plan", "book.ipynb", "--check").out.splitlines()
    assert lines[1] == "a dry run (--check): only what is read-only would be sent"
    told = [line.split("  ")[-1] for line in lines if line.split()[:1] in (["changes"], ["Python"])]
    assert [line.strip() for line in told] == [
        "1 target, after a failure too, stops at the first failure",
        "1 target, only after a failure, stops at the first failure",
        "4 targets, after a failure too; what it sends them is known when it runs",
    ]


def test_a_parameter_that_its_own_cell_changes_is_not_known(desk: Desk) -> None:
    book(
        desk, code("%%on {a}\ntrue"), code("%%on {b}\ntrue"), declared="a: str = 'web1'\nb: str = 'web2'\na += ',web3'"
    )
    first, second = desk.opsbook("plan", "book.ipynb", "--json").json["cells"]
    assert first["open"].startswith("a: ")
    assert second["targets"] == ["web2"]


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
    assert (
        "missing: parameter 'typed': prompt:PIN has to be typed at a terminal, and there is nobody to ask here" in shown
    )
    assert "parameter 'made' from cmd:touch ran; echo hunter22 (asked for when it runs)" in shown
    assert "missing: parameter 'gone': the environment variable NOWHERE_SET is not set" in shown
    assert not (desk.folder / "ran").exists()
    assert desk.opsbook("plan", "book.ipynb", "-p", "gone=file:pin", "-p", "typed=file:pin").code == 0
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
