"""Runbooks as read from disk: their cells, header and bytes, and what is refused before anything runs."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import nbformat
import pytest

from opsbook.errors import ParameterError, RunbookError
from opsbook.runbook.header import headings, read_header
from opsbook.runbook.notebook import Runbook, make_document, read_runbook


def code(source: Any, *tags: str, **more: Any) -> dict[str, Any]:
    return {
        "cell_type": "code",
        "source": source,
        "metadata": {"tags": list(tags)},
        "outputs": [],
        "execution_count": None,
    } | more


def prose(source: str) -> dict[str, Any]:
    return {"cell_type": "markdown", "source": source, "metadata": {}}


def write(folder: Path, *cells: dict[str, Any], name: str = "patch.ipynb", **more: Any) -> Path:
    file = folder / name
    document = {"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": list(cells)} | more
    file.write_text(json.dumps(document), encoding="utf-8")
    return file


def read(folder: Path, *cells: dict[str, Any], **more: Any) -> Runbook:
    return read_runbook(write(folder, *cells, **more))


def test_a_runbook_is_its_bytes_its_header_its_cells_and_its_parameters(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        prose("# Patch a stack\n\n**Purpose.** Apply\nupdates."),
        code("stack: str  # Which", "parameters", id="params"),
        code(["%%on web\n", "id\n"], "confirm"),
        metadata={"kernelspec": {"name": "python3", "language": "python", "display_name": "P"}},
    )
    runbook = read_runbook(file)
    assert (runbook.name, runbook.title, runbook.kernel) == ("patch", "Patch a stack", "python3")
    assert runbook.raw == file.read_bytes()
    assert runbook.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    assert runbook.header.section("purpose") == "Apply updates."
    assert [(cell.index, cell.kind, cell.tags) for cell in runbook.cells] == [
        (0, "markdown", ()),
        (1, "code", ("parameters",)),
        (2, "code", ("confirm",)),
    ]
    assert runbook.cells[2].source == "%%on web\nid\n"
    assert [spec.name for spec in runbook.parameters] == ["stack"]
    assert runbook.parameters_cell is runbook.cells[1]


def test_a_bare_notebook_is_a_runbook_named_after_its_file(tmp_path: Path) -> None:
    runbook = read(tmp_path)
    assert (runbook.title, runbook.kernel, runbook.parameters, runbook.code_cells) == ("patch", "", (), ())
    assert runbook.parameters_cell is None
    assert not runbook.asks_for_targets


def test_reading_runs_and_writes_nothing(tmp_path: Path) -> None:
    file = write(tmp_path, code(f"open({str(tmp_path / 'ran')!r}, 'w')", "parameters"))
    before = (file.read_bytes(), file.stat().st_mtime_ns)
    read_runbook(file)
    assert (file.read_bytes(), file.stat().st_mtime_ns) == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["patch.ipynb"]


def test_empty_raw_and_injected_cells_are_not_executed(tmp_path: Path) -> None:
    runbook = read(
        tmp_path,
        code(""),
        code("  \n\t"),
        {"cell_type": "raw", "source": "raw", "metadata": {}},
        code("stack = 'old'", "injected-parameters"),
        code("1"),
    )
    assert [cell.index for cell in runbook.code_cells] == [4]


def test_a_cell_frozen_by_run_through_control_is_known(tmp_path: Path) -> None:
    frozen = code("1") | {"metadata": {"run_through_control": {"frozen": True}}}
    thawed = code("2") | {"metadata": {"run_through_control": {"frozen": False, "other": 1}}}
    assert [cell.frozen for cell in read(tmp_path, frozen, thawed, code("3")).cells] == [True, False, False]


@pytest.mark.parametrize(
    ("source", "fans_out", "changes"),
    [
        ("%%on web\nid", True, True),
        ("\n  %%on web --sudo\nid", True, True),
        ("%%on web --read-only\nid", True, False),
        ("%%on web --read-only --sudo\nid", True, False),
        ("%%on web\necho --read-only", True, True),
        ("%%on", True, True),
        ("%%once x\nid", False, False),
        ("%%bash\nid", False, False),
        ("# %%on web", False, False),
        ("targets('web').run('id')", False, False),
    ],
)
def test_a_cell_that_fans_out_is_known_by_its_first_word(
    tmp_path: Path, *, source: str, fans_out: bool, changes: bool
) -> None:
    (cell,) = read(tmp_path, code(source)).cells
    assert (cell.fans_out, cell.changes) == (fans_out, changes)


@pytest.mark.parametrize(
    "source",
    [
        "%%on web\nid",
        "targets()",
        "opsbook.targets('web')",
        "await targets('a').run('x')",
        "x = [f for f in targets('a')]",
        "%time 1\ntargets()",
        "%%time\ntargets()",
        "for f in targets():\n    !echo {f}",
        "files = !ls\ntargets('web')",
        "thing?\ntargets('web')",
    ],
)
def test_a_runbook_whose_text_asks_for_targets_is_known(tmp_path: Path, source: str) -> None:
    assert read(tmp_path, code("1"), code(source)).asks_for_targets


@pytest.mark.parametrize(
    "source", ["1", "# targets()", "'targets()'", "targets = 5", "my_targets()", "import opsbook", "%targets"]
)
def test_a_runbook_whose_text_asks_for_none_is_known(tmp_path: Path, source: str) -> None:
    assert not read(
        tmp_path, prose("targets()"), code(source), code("targets()", "injected-parameters")
    ).asks_for_targets


def test_cells_are_labelled_by_phase_heading_or_first_line(tmp_path: Path) -> None:
    runbook = read(
        tmp_path,
        prose("# Title\n\n## Opening"),
        code("a = 1"),
        prose("no heading here"),
        code("b = 1"),
        code("c = 1", "phase:Roll out"),
        code("d: int = 1", "parameters"),
        prose("## Verify\n\n```\n## not this\n```\n\n### Closely"),
        code("e = 1"),
    )
    assert [cell.label for cell in runbook.code_cells] == ["Opening", "Opening", "Roll out", "Parameters", "Closely"]
    plain = read(tmp_path, code("%load_ext opsbook"), code("%load_ext opsbook\nx = 1"), prose("## Now"), code("y = 1"))
    assert [cell.label for cell in plain.code_cells] == ["Set up", "%load_ext opsbook", "Now"]
    (bare,) = read(tmp_path, code("\n  first_line = " + "1" * 80 + "\nsecond")).cells
    assert bare.label == "first_line =…", "cut at the end of a word: no token is shown in part"


def test_a_cells_own_id_is_kept_and_a_missing_one_is_stable(tmp_path: Path) -> None:
    cells = [
        code("1", id="mine"),
        code("2"),
        code("2"),
        code("3", id="mine"),
        code("4", id="a b"),
        code("5", id="x" * 65),
    ]
    first, second = read(tmp_path, *cells), read(tmp_path, *cells)
    ids = [cell.id for cell in first.cells]
    assert ids == [cell.id for cell in second.cells]
    assert ids[0] == "mine"
    assert len(set(ids)) == len(ids)
    moved = [cell.id for cell in read(tmp_path, *cells[:1], code("2 ")).cells]
    assert moved[1] != ids[1]
    for cell_id in ids:
        assert len(cell_id) <= 64
        assert cell_id.replace("-", "").replace("_", "").isalnum()


def test_two_parameters_cells_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RunbookError, match="has 2 cells tagged 'parameters'"):
        read(tmp_path, code("a = 1", "parameters"), code("b = 1", "parameters"))


def test_a_parameters_cell_that_cannot_be_read_is_a_parameter_error(tmp_path: Path) -> None:
    with pytest.raises(ParameterError):
        read(tmp_path, code("a: int = 'x'", "parameters"))


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "truncated"),
        (b"hello", "is not a notebook"),
        (b"[]", "is not a notebook"),
        (b"{}", "is not a notebook"),
        (b'{"nbformat": 4}', "is not a notebook"),
        (b'{"nbformat": "4"}', "is not a notebook"),
        (b'{"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": [', "truncated"),
        (b'{"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": [{}]}', r"\$\.cells\[0\]"),
        (b'{"nbformat": 3, "worksheets": []}', "is in notebook format 3; opsbook runs format 4"),
        (b'{"nbformat": 5}', "is in notebook format 5"),
        (b'{"nbformat": 4, "x": "\xff"}', "is not a notebook"),
        (b'{"nbformat": 4, "x": "\\ud800"}', "is not a notebook"),
        (b'{"nbformat": 4, "x": ' + b"[" * 100_000, "is not a notebook"),
    ],
)
def test_what_is_no_notebook_is_refused_with_what_is_wrong(tmp_path: Path, content: bytes, what: str) -> None:
    file = tmp_path / "x.ipynb"
    file.write_bytes(content)
    with pytest.raises(RunbookError, match=what) as caught:
        read_runbook(file)
    assert caught.value.hint


def test_every_cut_of_a_notebook_is_refused(tmp_path: Path) -> None:
    raw = write(tmp_path, prose("# Täst"), code("x: int = 1", "parameters", id="a")).read_bytes()
    file = tmp_path / "cut.ipynb"
    for length in range(len(raw)):
        file.write_bytes(raw[:length])
        with pytest.raises(RunbookError):
            read_runbook(file)


def test_a_missing_runbook_is_answered_with_those_that_are_there(tmp_path: Path) -> None:
    write(tmp_path, name="certs.ipynb")
    with pytest.raises(RunbookError, match="no such runbook") as caught:
        read_runbook(tmp_path / "cert.ipynb")
    assert "certs.ipynb" in caught.value.hint
    with pytest.raises(RunbookError, match="no such runbook"):
        read_runbook(tmp_path / "nowhere" / "x.ipynb")


def test_only_a_regular_file_is_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.ipynb")
    for path in (tmp_path, tmp_path / "pipe.ipynb", Path("/dev/zero")):
        with pytest.raises(RunbookError, match="is not a regular file"):
            read_runbook(path)
    for path in (Path("a\0b.ipynb"), Path("a" * 5000)):
        with pytest.raises(RunbookError, match="cannot read"):
            read_runbook(path)


# the document


def test_the_document_is_valid_current_and_has_our_cell_ids(tmp_path: Path) -> None:
    runbook = read(tmp_path, prose("# T"), code(["a\n", "b"], "x"), code("c"), nbformat_minor=2)
    document = make_document(runbook)
    nbformat.validate(document)
    assert (document.nbformat, document.nbformat_minor) == (4, 5)
    assert [cell.id for cell in document.cells] == [cell.id for cell in runbook.cells]
    assert "".join(document.cells[1].source) == "a\nb"
    assert document.metadata["kernelspec"]["name"] == "python3"


def test_the_document_keeps_what_the_author_wrote(tmp_path: Path) -> None:
    spec = {"name": "other", "display_name": "Other", "language": "python"}
    runbook = read(
        tmp_path,
        code("1", "x", id="one") | {"metadata": {"tags": ["x"], "lc_cell_meme": {"current": "abc"}}},
        metadata={"kernelspec": spec, "own": {"deep": [1, None]}},
    )
    document = make_document(runbook)
    assert document.metadata.kernelspec == spec
    assert document.metadata.own.deep == [1, None]
    assert document.cells[0].metadata.lc_cell_meme.current == "abc"
    assert document.cells[0].id == "one"


def test_each_document_is_a_new_one(tmp_path: Path) -> None:
    runbook = read(tmp_path, code("1"))
    make_document(runbook).cells[0]["source"] = "changed"
    assert make_document(runbook).cells[0]["source"] == "1"


def test_what_an_earlier_run_said_is_gone_but_not_what_a_frozen_cell_said(tmp_path: Path) -> None:
    said = {"execution_count": 7, "outputs": [{"output_type": "stream", "name": "stdout", "text": "old"}]}
    frozen = {"metadata": {"run_through_control": {"frozen": True}}}
    document = make_document(read(tmp_path, code("1") | said, code("2") | said | frozen))
    assert [(cell.execution_count, len(cell.outputs)) for cell in document.cells] == [(None, 0), (7, 1)]


def test_a_byte_order_mark_is_read_over(tmp_path: Path) -> None:
    file = write(tmp_path, code("1"))
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert [cell.source for cell in read_runbook(file).cells] == ["1"]


@pytest.mark.parametrize(
    "cells",
    [
        [prose("x") | {"outputs": []}],
        [code("1") | {"surprise": 1}],
        [code("1") | {"metadata": {"tags": ["a", "a"]}}],
    ],
)
def test_a_document_nbformat_does_not_accept_is_refused_in_one_line(
    tmp_path: Path, cells: list[dict[str, Any]]
) -> None:
    with pytest.raises(RunbookError, match="is not a valid notebook: cell 0") as caught:
        read(tmp_path, *cells)
    assert "\n" not in str(caught.value)


# the header


def test_a_header_has_sections_by_heading_and_by_bold_word() -> None:
    header = read_header(
        [
            "# Patch *now*\n\nintro\n\n**Purpose.** Apply\nupdates.\n\n**Audience**: ops",
            "## Review by\n2027-03-01\n\n# Second",
        ]
    )
    assert header.title == "Patch *now*"
    assert header.sections == {
        "purpose": "Apply\nupdates.",
        "audience": "ops",
        "review by": "2027-03-01",
        "second": "",
    }
    assert header.section("goal", "purpose") == "Apply updates."
    assert header.section("nothing") == ""


def test_only_the_prose_before_the_first_code_is_the_header(tmp_path: Path) -> None:
    runbook = read(tmp_path, prose("intro"), code("1"), prose("# Late"))
    assert runbook.title == "patch"
    assert (
        read(tmp_path, prose("# Early"), code(""), prose("**Purpose.** P"), code("1")).header.section("purpose") == "P"
    )


def test_what_stands_in_a_code_fence_is_no_heading() -> None:
    fenced = "```sh\n# a comment\n**Purpose.** no\n```\n# Real"
    assert headings(fenced) == [(1, "Real")]
    assert read_header([fenced]).title == "Real"
    assert "purpose" not in read_header([fenced]).sections
    assert headings("~~~\n# a\n~~~\n## b ##\n#nospace\n####### seven") == [(2, "b")]


def test_an_empty_header_is_empty() -> None:
    assert read_header([]).title == ""
    assert read_header(["just words"]).sections == {}
