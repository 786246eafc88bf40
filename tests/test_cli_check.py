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
    desk.opsbook("run", "runbooks/good.ipynb")
    assert len(desk.opsbook("check", ".", "--json").json) == 3, "what the archive holds is no runbook"


def test_without_an_inventory_what_asks_for_targets_would_not_run(desk: Desk) -> None:
    desk.write("opsbook.toml", "")
    desk.notebook(*GOOD)
    assert problems(desk, "book.ipynb") == ["it asks for targets and there is no inventory"]
    assert problems(desk, "book.ipynb", "-i", "hosts.ini") == []
    assert desk.opsbook("check").err.startswith("error: there is no runbook to look at\n")
