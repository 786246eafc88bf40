"""A mistake in a later `%%on` line is found before the first cell runs, as far as text can tell."""

from __future__ import annotations

import pytest
from support import LOAD, code, parameters, prose

NAMES = {"web1": "127.0.7.1"}
FIRST = code("open('ran', 'w').close()", cell_id="first")


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("web --wave 1", "%%on: unrecognized arguments: --wave 1"),
        ("web --waves 0", "%%on: a wave of '0' has no target"),
        ("web --timeout soon", "%%on: 'soon' is not a duration"),
        ("web --max-fail some", "%%on: 'some' is neither a number nor a percentage"),
        ("web --parallel 0", "%%on: --parallel takes a number from 1 on"),
        ("web --durable --read-only", "%%on: a read-only script cannot be durable"),
        ("web --env TOKEN", "%%on: --env 'TOKEN' is not NAME=parameter"),
        ("'web", "%%on: No closing quotation"),
        ("web --timeout {limit}", "%%on: 'never' is not a duration"),
        ("{token}", "%%on: 'token' is a secret and cannot stand in the line"),
    ],
)
def test_a_line_that_cannot_be_understood_refuses_the_run(desk, line, what):
    declared = parameters('limit: str = "never"\ntoken: Secret = "env:HOME"')
    desk.notebook(LOAD, declared, FIRST, prose("## Update"), code(f"%%on {line}\ntrue"))
    ran = desk.opsbook("run", "book.ipynb")
    assert ran.code == 2, ran
    assert ran.err.startswith(f'error: "Update": {what}')
    assert desk.runs() == []
    assert not (desk.folder / "ran").exists()
    assert desk.kernels() == []


def test_all_mistakes_are_counted_and_listed_by_the_plan(desk):
    desk.notebook(LOAD, prose("## A"), code("%%on web --a\ntrue"), prose("## B"), code("%%on web --b\ntrue"))
    ran = desk.opsbook("run", "book.ipynb", "--check")
    assert ran.err.startswith('error: "A": %%on: unrecognized arguments: --a; 1 more like it: opsbook plan shows them')
    listed = desk.opsbook("run", "book.ipynb", "--list-targets")
    assert listed.code == 2
    assert "unrecognized arguments: --b" in listed.out


@pytest.mark.parametrize(
    "setting", ["limit = '9s'", "%time limit = '9s'", "for limit in ['9s']: pass", "import os as limit"]
)
def test_what_a_cell_may_set_is_not_judged(desk, setting):
    desk.notebook(
        LOAD,
        parameters('limit: str = "never"'),
        FIRST,
        code(setting),
        code("%%on {chosen} --timeout {limit}\ntrue", cell_id="work"),
    )
    ran = desk.opsbook("run", "book.ipynb")
    assert ran.code == 1, ran
    assert (desk.folder / "ran").exists()
    assert "there is no variable 'chosen'" in str(desk.run().record["cells"][-1]["error"])
    assert "limit: no parameter with a value" in desk.opsbook("run", "book.ipynb", "--list-targets").out.replace(
        "chosen, limit", "limit"
    )


def test_a_cell_that_is_to_raise_and_one_that_is_left_out_may_say_what_they_like(desk):
    desk.notebook(
        LOAD,
        code("%%on web --wave 1\ntrue", "raises-exception"),
        code("%%on web --wave 2\ntrue", "skip"),
        FIRST,
    )
    assert desk.opsbook("run", "book.ipynb").code == 0
    assert (desk.folder / "ran").exists()
