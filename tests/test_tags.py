"""Cell tags: what each does to its cell and the others, and that a misspelt one is refused before anything starts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from agreement import answered, check_agreement
from conftest import Sshd
from support import LOAD, Desk, code, finish, prose, wait_for

from opsbook.errors import RunbookError
from opsbook.runbook.notebook import read_runbook
from opsbook.runbook.tags import CellRules, read_tags

COUNT = "with open({file!r}, 'a') as file:\n    file.write('x')\n"
FAILS_TWICE = COUNT.format(file="tries") + "assert len(open('tries').read()) > 2, 'not yet'\nprint('done')"
MARK = "papermill-error-cell-tag"


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def attempts(desk: Desk, cell_id: str) -> list[tuple[str, int, str]]:
    """What the journal says of a cell: the kind of event, the attempt and the state."""
    events = desk.run().events("cell_started", "cell_ended")
    return [(e["type"][5:], e["attempt"], e.get("state", "")) for e in events if e["cell_id"] == cell_id]


@pytest.mark.parametrize(
    ("tag", "meant"),
    [
        ("Always", "always"),
        ("on_failure", "on-failure"),
        ("onfailure", "on-failure"),
        ("confrim", "confirm"),
        ("raises_exception", "raises-exception"),
        ("summarry", "summary"),
        ("retries:3", "retry:3"),
        ("time-out:30s", "timeout:30s"),
        ("phases:Update", "phase:Update"),
        ("paramaters", "parameters"),
    ],
)
def test_a_misspelt_tag_is_refused_with_the_one_that_is_meant(tag: str, meant: str) -> None:
    with pytest.raises(RunbookError) as caught:
        read_tags([tag], cell="Update")
    assert str(caught.value) == f'unknown tag {tag!r} (cell "Update")'
    assert caught.value.hint == f"did you mean {meant!r}?"


@pytest.mark.parametrize(
    ("tags", "why"),
    [
        (["retry:x"], "'x' is not a number from 1 to 100"),
        (["retry"], "'' is not a number"),
        (["retry:0"], "'0' is not a number from 1"),
        (["retry:101"], "'101' is not a number"),
        (["retry:-1"], "'-1' is not a number"),
        (["retry:²"], "'²' is not a number"),
        (["timeout:banana"], "'banana' is not a duration"),
        (["timeout"], "'' is not a duration"),
        (["timeout:0s"], "not a duration above zero"),
        (["phase:"], "the phase has no name"),
        (["always:yes"], "takes no value"),
        (["confirm:no"], "takes no value"),
        (["always", "on-failure"], "contradict each other"),
        (["timeout:1s", "timeout:2s"], "contradict each other"),
        (["raises-exception", "retry:2"], "contradict each other"),
    ],
)
def test_a_tag_with_a_value_it_cannot_have_is_refused(tags: list[str], why: str) -> None:
    with pytest.raises(RunbookError, match='cell "Update"') as caught:
        read_tags(tags, cell="Update")
    assert why in str(caught.value)
    assert caught.value.hint


def test_tags_of_the_author_and_of_other_tools_mean_nothing_here() -> None:
    theirs = ["mine", "remove-input", "hide-input", "remove-cell", "page:3", "env:prod", "papermill-error-cell-tag"]
    assert read_tags(theirs, cell="Update") == CellRules()
    assert read_tags(["retry:2", "timeout:1m30s", "phase:Go on", *theirs], cell="Update") == CellRules(
        retries=2, timeout_s=90.0, phase="Go on"
    )


def test_a_refused_tag_starts_nothing(desk: Desk) -> None:
    desk.notebook(prose("## Update"), code("open('ran', 'w')"), code("2", "timeout:banana"))
    ran = desk.opsbook("run", "book.ipynb")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err == (
        "error: the tag 'timeout:banana' (cell \"Update\"): 'banana' is not a duration\n"
        "hint:  such as timeout:90s, timeout:10m\n"
    )
    assert (desk.runs(), desk.kernels()) == ([], [])
    assert not (desk.folder / "ran").exists()


def test_a_tag_on_prose_is_nobodys_business(desk: Desk) -> None:
    tagged = {**prose("text"), "metadata": {"tags": ["retry:x"]}}
    assert read_runbook(desk.notebook(tagged, code("1"))).cells[0].rules == CellRules()


def test_a_cell_is_tried_again_until_it_ends_well(desk: Desk) -> None:
    desk.notebook(code(FAILS_TWICE, "retry:5", cell_id="again"), code("print('after')", cell_id="after"))
    ran = desk.opsbook("run", "book.ipynb")
    record = check_agreement(desk, ran, status="succeeded", code=0)
    assert attempts(desk, "again") == [
        *(("started", 1, ""), ("ended", 1, "failed")),
        *(("started", 2, ""), ("ended", 2, "failed")),
        *(("started", 3, ""), ("ended", 3, "ok")),
    ]
    assert [(cell["state"], cell["attempts"], cell["error"]) for cell in record["cells"]] == [
        ("ok", 3, None),
        ("ok", 1, None),
    ]
    assert desk.run().output("again") == "done\n"
    assert "again (attempt 3)" in ran.err
    assert "3 attempts" in ran.out


def test_a_cell_that_never_ends_well_fails_after_its_last_attempt(desk: Desk) -> None:
    desk.notebook(
        code(COUNT.format(file="tries") + "1/0", "retry:2", cell_id="again"),
        code("open('later', 'w')", cell_id="later"),
        code(COUNT.format(file="tidied") + "1/0", "always", "retry:1", cell_id="tidy"),
    )
    record = check_agreement(desk, desk.opsbook("run", "book.ipynb"), status="failed", code=1)
    assert [cell["attempts"] for cell in record["cells"]] == [3, 0, 2]
    assert ((desk.folder / "tries").read_text(), (desk.folder / "tidied").read_text()) == ("xxx", "xx")
    assert record["cells"][0]["error"]["name"] == "ZeroDivisionError"
    assert not (desk.folder / "later").exists()


def test_nothing_is_tried_again_after_a_stop(desk: Desk) -> None:
    waits = COUNT.format(file="tries") + "import asyncio\nawait asyncio.sleep(120)"
    desk.notebook(code(waits, "retry:3", cell_id="again"), code("1", "always", cell_id="tidy"))
    process = desk.fork("run", "book.ipynb")
    wait_for((desk.folder / "tries").exists, seconds=40, what="the first attempt")
    process.terminate()
    record = check_agreement(desk, finish(process), status="interrupted", code=143)
    assert desk.run().states == {"again": "interrupted", "tidy": "ok"}  # the kernel only awaited, and lives on
    assert (desk.folder / "tries").read_text() == "x"
    assert record["cells"][0]["attempts"] == 1


def test_a_gate_is_asked_once_for_all_attempts_and_its_no_is_final_and_no_failure(desk: Desk) -> None:
    desk.notebook(
        code(FAILS_TWICE, "retry:5", "confirm", cell_id="again"),
        code("open('undone', 'w')", "on-failure", cell_id="undo"),
        code("open('tidied', 'w')", "always", "confirm", cell_id="tidy"),
        code("1", "always", cell_id="tell"),
    )
    assert answered(desk, "n\nn\n", "run", "book.ipynb").code == 3
    assert desk.run().states == {"again": "not_run", "undo": "skipped", "tidy": "not_run", "tell": "ok"}
    assert not [name for name in ("tries", "undone", "tidied") if (desk.folder / name).exists()]
    ran = answered(desk, "y\ny\n", "run", "book.ipynb")
    assert ran.code == 0, ran.out
    last = desk.runs()[-1]
    assert len(last.events("gate_answered")) == 2
    assert [cell["attempts"] for cell in last.record["cells"]] == [3, 0, 1, 1]


def test_a_target_that_is_ok_when_its_cell_is_tried_again_is_no_failure_of_the_run(desk: Desk, sshd: Sshd) -> None:
    sshd.inventory({"web1": "127.0.8.1", "web2": "127.0.8.2"}, desk.folder / "hosts.ini")
    mark, count = desk.folder / "mark", desk.folder / "count"
    script = f"""
    echo $OPSBOOK_TARGET >> {count}
    test $OPSBOOK_TARGET = web1 || test -e {mark} || {{ touch {mark}; exit 7; }}
    """
    desk.notebook(LOAD, code(f"%%on web\n{script}", "retry:1", cell_id="again"))
    ran = desk.opsbook("run", "book.ipynb", "-i", "hosts.ini")
    record = check_agreement(desk, ran, status="succeeded", code=0)
    assert desk.run().targets == {"web1": "ok", "web2": "ok"}
    assert record["cells"][1]["targets"] == {"web1": "ok", "web2": "ok"}
    assert sorted(count.read_text().split()) == ["web1", "web2", "web2"]  # what was done is not done again


def test_clean_up_runs_in_the_notebooks_order_and_the_copy_marks_what_ended_the_run(desk: Desk) -> None:
    says = "with open('order', 'a') as file:\n    file.write({!r})"
    desk.notebook(
        code("[][0]", "raises-exception", cell_id="raises"),
        code(says.format("a"), "on-failure", cell_id="early"),
        code("1/0", cell_id="broken"),
        code(says.format("b"), cell_id="later"),
        code(says.format("c"), "on-failure", cell_id="undo"),
        code(says.format("d") + "\nint('x')", "always", cell_id="tidy"),
        code(says.format("e"), "on-failure", cell_id="tell"),
        code(says.format("f"), "always", cell_id="last"),
    )
    record = check_agreement(desk, desk.opsbook("run", "book.ipynb"), status="failed", code=1)
    assert (desk.folder / "order").read_text() == "cdef"
    assert desk.run().states == {
        "raises": "ok",
        "early": "skipped",
        "broken": "failed",
        "later": "not_run",
        "undo": "ok",
        "tidy": "failed",
        "tell": "ok",
        "last": "ok",
    }
    assert record["cells"][1]["reason"] == "nothing had failed"
    assert "ZeroDivisionError" in record["reason"]
    cells = desk.run().notebook["cells"]
    marked = [place for place, cell in enumerate(cells) if MARK in cell["metadata"].get("tags", [])]
    assert (marked, cells[4]["id"]) == ([0, 3], "broken")
    assert "In [2]" in "".join(cells[0]["source"])


def test_a_run_goes_well_whatever_may_raise_in_it_or_is_left_out_of_it(desk: Desk) -> None:
    said = {"output_type": "stream", "name": "stdout", "text": "from before\n"}
    frozen = code("open('ran', 'w')", cell_id="frozen", run_through_control={"frozen": True})
    desk.notebook(
        code("1/0", "raises-exception", cell_id="raises"),
        code("print('calm')", "raises-exception", cell_id="calm"),
        {**frozen, "outputs": [said], "execution_count": 7},
        code("open('ran', 'w')", "skip", "retry:2", "confirm", cell_id="off"),
        code("open('ran', 'w')", "on-failure", cell_id="undo"),
        code("print('after')", "always", cell_id="tidy"),
    )
    ran = desk.opsbook("run", "book.ipynb")
    record = check_agreement(desk, ran, status="succeeded", code=0)
    told = [(cell["state"], cell["reason"], cell["attempts"]) for cell in record["cells"]]
    assert told == [
        *(("ok", "", 1), ("ok", "", 1), ("skipped", "frozen", 0), ("skipped", "tagged skip", 0)),
        *(("skipped", "nothing had failed", 0), ("ok", "", 1)),
    ]
    errors = [cell["error"] and cell["error"]["name"] for cell in record["cells"]]
    assert errors == ["ZeroDivisionError", *[None] * 5]
    assert "error" not in ran.out
    assert "raised ZeroDivisionError" in ran.err
    assert MARK not in json.dumps(desk.run().notebook)
    assert desk.run().output("frozen") == "from before\n"
    assert not (desk.folder / "ran").exists()
