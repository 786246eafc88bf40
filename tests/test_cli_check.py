"""`opsbook check`: what would stop a run is found by looking at runbooks alone."""

from __future__ import annotations

import pytest
from support import LOAD, Desk, code, notebook_text, parameters, prose

NAMES = {f"web{number}": f"127.0.9.{number}" for number in range(1, 3)}
GOOD = (LOAD, parameters('stack: Literal["web", "edge"]\nmany: int = 3'), code("%%on {stack}\ntrue"))


def problems(desk: Desk, *words: str) -> list[str]:
    looked = desk.opsbook("check", *words, "--json")
    found = [problem["text"] for one in looked.json for problem in one["problems"]]
    assert looked.code == (2 if found else 0), looked
    return found


def test_a_good_runbook_is_said_to_be_one_and_nothing_runs(desk: Desk) -> None:
    desk.notebook(*GOOD, code("%time x = 1\n!ls\nx?"), code("await thing()"))
    looked = desk.opsbook("check", "book.ipynb")
    assert (looked.code, looked.out, looked.err) == (0, "✓ book.ipynb\n\n1 runbook, nothing found\n", "")
    assert desk.runs() == []
    assert desk.kernels() == []


@pytest.mark.parametrize(
    "source",
    [
        "said = {}\nsaid['all'] = !ls",
        "first, *rest = !ls",
        "said.out = %time 1",
        "    x = 1\n    print(x)",
        ">>> x = 1\n>>> print(x)",
        "pip install thing",
        "/len x",
        "x = '?'\nx?",
        "async with thing() as x:\n    await x",
    ],
)
def test_what_ipython_takes_is_no_problem(desk: Desk, source: str) -> None:
    desk.notebook(LOAD, {**code("1"), "source": source})
    assert problems(desk, "book.ipynb") == []


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("return 3", "Python cannot read line 1: 'return' outside function"),
        ("x = 1\nbreak", "Python cannot read line 2: 'break' outside loop"),
        ("# why?\ndef (", "Python cannot read line 2: invalid syntax"),
        ("print 'x'", "Python cannot read line 1: Missing parentheses"),
        ("x = [0]\nx[0] = = 'a'", "Python cannot read line 2: invalid syntax"),
    ],
)
def test_what_neither_python_nor_ipython_takes_is_told(desk: Desk, source: str, said: str) -> None:
    desk.notebook(LOAD, code(source, cell_id="wrong"))
    (found,) = problems(desk, "book.ipynb")
    assert found.startswith(said)
    assert desk.opsbook("run", "book.ipynb").code == 1
    assert desk.run().states["wrong"] == "failed"


def test_a_line_that_is_to_fail_is_no_problem(desk: Desk) -> None:
    desk.notebook(LOAD, code("%%on nobody\ntrue", "raises-exception"), code("%%on web --wave 1\n", "raises-exception"))
    assert problems(desk, "book.ipynb") == []


def test_no_problem_hides_another(desk: Desk) -> None:
    header = prose("# Book\n\n**Timeout.** soon\n\n**Max fail.** lots")
    desk.notebook(header, code("def ("), code("x = " + "-" * 50_000 + "1"), code("%%on nobody\ntrue"))
    assert [text.partition(":")[0] for text in problems(desk, "book.ipynb")] == [
        "the header's 'timeout'",
        "'lots' is neither a number nor a percentage",
        "Python cannot read line 1",
        "Python cannot read it",
        "pattern 'nobody' names nothing in the inventory",
    ]


def test_an_ssh_config_that_stops_every_run_is_told_at_once(desk: Desk) -> None:
    desk.write("ssh", "Port abc\n")
    desk.write("opsbook.toml", f'inventory = ["hosts.ini"]\n[ssh]\nconfig = "{desk.folder}/ssh"\n')
    desk.notebook(*GOOD)
    looked, ran = desk.opsbook("check", "book.ipynb"), desk.opsbook("run", "book.ipynb", "-p", "stack=web")
    assert (looked.code, looked.err) == (ran.code, ran.err)
    assert "bad number: port 'abc'" in looked.err


@pytest.mark.parametrize("place", ["home/..", "link"])
def test_the_archive_is_known_by_whatever_way_it_is_come_to(desk: Desk, place: str) -> None:
    (desk.folder / "link").symlink_to(".")
    desk.notebook(LOAD, code("1"))
    assert desk.opsbook("run", "book.ipynb").code == 0
    assert [one["path"] for one in desk.opsbook("check", place, "--json").json] == [f"{place}/book.ipynb"]


def test_every_problem_is_told_with_its_cell_as_runs_count_them(desk: Desk) -> None:
    desk.notebook(
        prose("# Patch"),
        LOAD,
        prose("## Count"),
        code("for x in range(3)\n    print(x)"),
        prose("## Update"),
        code("%%on nobody\ntrue"),
        code("%%on web --wave 1\ntrue"),
        code("def (", "skip"),
        code("def (", "raises-exception"),
    )
    looked = desk.opsbook("check", "book.ipynb")
    assert looked.code == 2
    shown = " ".join(looked.out.split())
    assert "✗ book.ipynb" in shown
    assert "cell 2 \"Count\": Python cannot read line 1: expected ':'" in shown
    assert "cell 3 \"Update\": pattern 'nobody' names nothing in the inventory" in shown
    assert 'cell 4 "Update": %%on: unrecognized arguments: --wave' in shown
    assert "skip" not in shown
    assert shown.endswith("1 of 1 runbook would not run")
    assert desk.opsbook("run", "book.ipynb").code == 2, "of the line"


@pytest.mark.parametrize(
    ("cells", "kernel", "said"),
    [
        ([parameters("many: int = 'a'")], "python3", "parameter 'many'"),
        ([parameters("def (")], "python3", "the parameters cell"),
        ([code("1", "retry:many")], "python3", "retry:many"),
        ([code("1")], "cobol", "cobol"),
        ([prose("# Book\n\n**Timeout.** soon"), code("1")], "python3", "the header's 'timeout'"),
    ],
)
def test_what_run_refuses_is_found(desk: Desk, cells: list[dict], kernel: str, said: str) -> None:
    desk.write("book.ipynb", notebook_text(cells, kernel=kernel))
    (found,) = problems(desk, "book.ipynb")
    assert said in found
    refused = desk.opsbook("run", "book.ipynb")
    assert (refused.code, found in refused.err) == (2, True), refused


def test_a_folder_is_looked_through_and_one_damaged_file_hides_no_other(desk: Desk) -> None:
    desk.notebook(*GOOD)
    (desk.folder / "runbooks").mkdir()
    desk.write("runbooks/good.ipynb", notebook_text([code("1")]))
    desk.write("runbooks/torn.ipynb", notebook_text([code("1")])[:80])
    looked = desk.opsbook("check", "runbooks")
    assert looked.code == 2
    assert looked.out.index("✗ runbooks/torn.ipynb") < looked.out.index("✓ runbooks/good.ipynb")
    assert looked.out.endswith("1 of 2 runbooks would not run\n")
    assert [one["path"] for one in desk.opsbook("check", "--json").json] == [
        str(desk.folder / "runbooks" / name) for name in ("good.ipynb", "torn.ipynb")
    ]
    assert "✓ runbooks/good.ipynb" in desk.opsbook("check").out
    desk.opsbook("run", "runbooks/good.ipynb")
    assert len(desk.opsbook("check", ".", "--json").json) == 3, "what the archive holds is no runbook"


def test_without_an_inventory_what_asks_for_targets_would_not_run(desk: Desk) -> None:
    desk.write("opsbook.toml", "")
    desk.notebook(*GOOD)
    assert problems(desk, "book.ipynb") == ["it asks for targets and there is no inventory"]
    assert problems(desk, "book.ipynb", "-i", "hosts.ini") == []
    assert desk.opsbook("check").err.startswith("error: there is no runbook to look at\n")
