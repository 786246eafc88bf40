"""Runbooks nobody meant to write: damaged, endless, exchanged under our hands. A clean refusal or a clean run."""

from __future__ import annotations

import io
import json
import os
import random
import time
from pathlib import Path
from typing import Any

import nbformat
import pytest
from mutants import ODD, mutants, places_in, valid_runbook
from papermill.execute import prepare_notebook_metadata, remove_error_markers
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook
from rich.console import Console
from support import LOAD, Desk, code, finish, parameters, wait_for

from opsbook.archive.copy import clean_document
from opsbook.cli.part import time_limits
from opsbook.config import Settings
from opsbook.errors import RunbookError, UsageError
from opsbook.execution import engine
from opsbook.execution.kernel import OWN
from opsbook.model.run import CellSelection
from opsbook.redaction import Redactor
from opsbook.report.terminal import print_runbook
from opsbook.runbook.file import MAX_BYTES, MAX_CELLS, read_bytes
from opsbook.runbook.notebook import Runbook, make_document, read_runbook
from opsbook.runbook.parameters import bind
from opsbook.runbook.selection import select_cells

LONGEST_S = 1.0
"""Processor seconds one runbook may take, whatever is in it."""


def understand(file: Path, *, papermill: bool = True) -> Runbook:
    """Take a file as far as `show`, and a run before anything starts, take it; then as far as its copy goes."""
    runbook = read_runbook(file)
    print_runbook(runbook, Console(file=io.StringIO(), width=80), last=None)
    time_limits(runbook, Settings())
    if any("confirm" in cell.tags for cell in runbook.code_cells):
        select_cells(runbook, CellSelection(only_tags=("confirm",)))
    bind(runbook.parameters, {}, {}, runbook=file.name)
    try:
        document = make_document(runbook)
    except RunbookError as error:  # it would be found out when the run is claimed and its kernel boots
        raise AssertionError(f"nbformat does not take what was read: {error}") from error
    if papermill:
        document = papermill_takes(document)
    kept = json.dumps(clean_document(document, Redactor()), ensure_ascii=False).encode()
    nbformat.validate(nbformat.from_dict(json.loads(kept)))
    return runbook


def papermill_takes(document: Any) -> Any:
    """Take a document through what papermill does with one before the first cell."""
    path = f"{engine.SCHEME}mutant.ipynb"
    engine._documents[path] = json.dumps(document)
    handed = load_notebook_node(path)
    handed = parameterize_notebook(handed, {"stack": "dev"}, kernel_name=OWN, engine_name=engine.NAME)
    handed = remove_error_markers(prepare_notebook_metadata(handed, "in", "out", report_mode=False))
    manager = engine._Manager(handed, lambda _: None)
    manager.notebook_start()
    manager.notebook_complete()
    return handed


def try_mutants(folder: Path, seed: int, count: int, *, papermill_every: int = 1) -> dict[str, int]:
    file, ended = folder / "mutant.ipynb", {"clean": 0, "refused": 0}
    for number, raw in enumerate(mutants(seed, count)):
        file.write_bytes(raw)
        began = time.process_time()
        try:
            understand(file, papermill=number % papermill_every == 0)
            ended["clean"] += 1
        except UsageError:
            ended["refused"] += 1
        except Exception as error:
            raise AssertionError(f"mutant {number} of seed {seed}: {type(error).__name__}: {error}") from error
        assert time.process_time() - began < LONGEST_S, (seed, number)
    return ended


def test_the_runbook_all_mutants_come_from_is_fine(tmp_path: Path) -> None:
    file = tmp_path / "whole.ipynb"
    file.write_text(json.dumps(valid_runbook()))
    assert [spec.name for spec in understand(file).parameters] == ["stack", "waves"]


def test_a_thousand_damaged_runbooks_are_refused_or_understood(tmp_path: Path) -> None:
    ended = try_mutants(tmp_path, seed=20261120, count=1000, papermill_every=5)
    assert min(ended.values()) > 200, ended  # neither all harmless nor all hopeless


@pytest.mark.soak
@pytest.mark.timeout(3000)
def test_ten_thousand_damaged_runbooks_are_refused_or_understood(tmp_path: Path) -> None:
    try_mutants(tmp_path, seed=int(os.environ.get("OPSBOOK_SEED", "1")), count=10_000)


def everything_nbformat_knows() -> dict[str, Any]:
    """Return a notebook with a value in every place that nbformat's schema says something of."""
    data = {"text/plain": "x", "application/json": {"a": 1}, "application/x+json": [1]}
    outputs = [
        {"output_type": "stream", "name": "stdout", "text": ["a"]},
        {"output_type": "display_data", "data": data, "metadata": {}},
        {"output_type": "execute_result", "data": {"text/plain": ["1"]}, "metadata": {}, "execution_count": 3},
        {"output_type": "error", "ename": "E", "evalue": "v", "traceback": ["x"]},
    ]
    known = {"name": "n", "tags": ["a", "b"], "jupyter": {"source_hidden": True}}
    kept = {**known, "run_through_control": {"frozen": True}, "collapsed": True, "scrolled": "auto"}
    language = {"name": "python", "codemirror_mode": {"name": "ipython"}, "file_extension": ".py", "mimetype": "text/x"}
    return {
        "nbformat": 4,
        "nbformat_minor": 5,
        "metadata": {
            "kernelspec": {"name": "python3", "display_name": "Python"},
            "language_info": {**language, "pygments_lexer": "ipython3"},
            "orig_nbformat": 4,
            "title": "t",
            "authors": [{"name": "x"}],
        },
        "cells": [
            {"cell_type": "markdown", "id": "m", "source": "", "metadata": known, "attachments": {"a.png": data}},
            {"cell_type": "raw", "id": "r", "source": ["x"], "metadata": {**known, "format": "x"}, "attachments": {}},
            {
                **code("1", cell_id="c"),
                "metadata": {**kept, "execution": {"iopub.status.busy": "x"}},
                "outputs": outputs,
            },
        ],
    }


def theirs_take(document: Any) -> bool:
    """Whether nbformat takes a notebook as it is."""
    try:
        nbformat.validate(nbformat.from_dict(document))  # type: ignore[no-untyped-call]
    except Exception:  # noqa: BLE001  what it raises on the worst is not the question
        return False
    return True


def test_we_refuse_what_nbformat_would_and_nothing_else(tmp_path: Path) -> None:
    source, file, seen = random.Random(20261121), tmp_path / "x.ipynb", set[tuple[bool, bool]]()
    for number in range(200):
        document = json.loads(json.dumps(everything_nbformat_knows()))
        document["nbformat_minor"] = source.choice((5, 5, 5, 6))
        place, key = source.choice(places_in(document))
        wrong = source.choice([..., "a,b", ["a", "a"], {"a": 1}, 1.0, {"text/plain": 1}, "auto", *ODD])
        if wrong is ...:
            del place[key]
        elif source.random() < 0.8 or isinstance(place, list):
            place[key] = wrong
        else:
            place[source.choice(("format", "outputs", "attachments", "tags", "execution_count", "more"))] = wrong
        file.write_text(json.dumps(document))
        ours = ""
        try:
            runbook = read_runbook(file)
        except UsageError as error:
            ours = str(error)
        else:
            make_document(runbook)  # raises where nbformat takes less
        by_its_shape = "not a valid notebook" in ours
        taken = theirs_take(document)
        assert not (by_its_shape and taken), (number, ours)
        seen.add((bool(ours), by_its_shape or taken))  # what has no id that can be one is mended
    assert len(seen) == 4


def odd(**changes: Any) -> bytes:
    return json.dumps({**valid_runbook(), **changes}).encode()


def one_cell(**changes: Any) -> bytes:
    """Return a runbook of one code cell, changed; a change to `...` takes the key away."""
    cell = {**code("1", cell_id="a"), **changes}
    return odd(cells=[{name: value for name, value in cell.items() if value is not ...}])


def output(**parts: Any) -> bytes:
    return one_cell(outputs=[parts])


DAMAGED = {
    "no bytes at all": b"",
    "white space": b" \n\t ",
    "another encoding": json.dumps(valid_runbook()).encode("utf-16"),
    "a byte that is no utf-8 where nobody looks": odd(more="X").replace(b'"X"', b'"\xff"'),
    "half a character as bytes": odd(more="X").replace(b'"X"', b'"\xed\xa0\x80"'),
    "half a character in an output": output(output_type="stream", name="stdout", text="\ud800"),
    "half a character as a key": one_cell(metadata={"\ud800": 1}),
    "a number beyond all bounds": odd(more=1).replace(b'"more": 1', b'"more": ' + b"9" * 5000),
    "an infinity": odd(more=1).replace(b'"more": 1', b'"more": Infinity'),
    "not a number": odd(more=1).replace(b'"more": 1', b'"more": NaN'),
    "a conflict nobody resolved": b"<<<<<<< ours\n" + odd() + b"\n=======\n" + odd() + b"\n>>>>>>> theirs\n",
    "two documents": odd() + odd(),
    "depth without end": odd(more=1).replace(b'"more": 1', b'"more": ' + b"[" * 100_000),
    "more depth than anything needs": odd(more=json.loads("[" * 400 + "]" * 400)),
    "metadata as deep": one_cell(metadata=json.loads('{"a":' * 150 + "1" + "}" * 150)),
    "a list": b"[]",
    "format 3": odd(nbformat=3, worksheets=[]),
    "format 5": odd(nbformat=5),
    "a format as text": odd(nbformat="4"),
    "an endless format": odd(nbformat=1).replace(b'"nbformat": 1', b'"nbformat": ' + b"1" * 4000),
    "no minor format": json.dumps({k: v for k, v in valid_runbook().items() if k != "nbformat_minor"}).encode(),
    "cells as a mapping": odd(cells={}),
    "a cell of nothing": odd(cells=[None]),
    "an unknown kind of cell": one_cell(cell_type="heading"),
    "a kind of cell of no name": one_cell(cell_type=...),
    "a source that is a number": one_cell(source=1),
    "a source of lists": one_cell(source=[["1"]]),
    "no source": one_cell(source=...),
    "no metadata": one_cell(metadata=...),
    "tags as text": one_cell(metadata={"tags": "parameters"}),
    "tags of numbers": one_cell(metadata={"tags": [1]}),
    "one tag twice": one_cell(metadata={"tags": ["mine", "mine"]}),
    "an id that is a number": one_cell(id=1),
    "a key nobody knows": one_cell(surprise=1),
    "a kernel that is none": odd(metadata={"kernelspec": None}),
    "a kernel without a name to show": odd(metadata={"kernelspec": {"name": "python3"}}),
    "a language that is no mapping": odd(metadata={"language_info": "python"}),
    "attachments that are none": odd(cells=[{**valid_runbook()["cells"][0], "attachments": {"a.png": "x"}}]),
}
"""Kinds of damage found in notebooks of the wild, and what is wrong with each: all of them refused."""
MENDED = {
    "a mark of utf-8 in front": b"\xef\xbb\xbf" + odd(),
    "no outputs": one_cell(outputs=...),
    "no count": one_cell(execution_count=...),
    "a count that is text": one_cell(execution_count="3"),
    "an output of no kind": output(text="x"),
    "an output of an unknown kind": output(output_type="pyout", data={}),
    "a stream without a name": output(output_type="stream", text="x"),
    "an error without a traceback": output(output_type="error", ename="E", evalue="v"),
    "a traceback that is text": output(output_type="error", ename="E", evalue="v", traceback="x"),
    "data that is a list": output(output_type="display_data", data=[], metadata={}),
    "no id": one_cell(id=...),
    "an id of nothing": one_cell(id=""),
    "an id as long as a book": one_cell(id="a" * 5000),
    "an id that is a path": one_cell(id="../../x"),
    "the same id twice": odd(cells=[code("1", cell_id="a"), code("2", cell_id="a")]),
    "a zero byte in the source": one_cell(source="a = '\0'"),
    "a name twice": odd().replace(b'"nbformat": 4,', b'"nbformat": 3, "nbformat": 4,'),
    "an older minor format, with ids": odd(nbformat_minor=4),
    "a newer minor format": odd(nbformat_minor=6),
    "marks of papermill that are none": one_cell(metadata={"papermill": 1}),
    "papermill's own that is none": odd(metadata={"papermill": []}),
    "a cell that was injected before": one_cell(metadata={"tags": ["injected-parameters"]}),
    "a cell of an error of papermill's": odd(cells=[code("1", cell_id="papermill-error-cell")]),
    "no kernel and no language": odd(metadata={}),
    "no cells": odd(cells=[]),
}
"""Damage that a run does not depend on: understood, and whole in the copy."""


def run_as_valid(file: Path, raw: bytes) -> None:
    file.write_bytes(raw)
    understand(file)


@pytest.mark.parametrize("what", DAMAGED)
def test_what_is_no_runbook_is_refused_and_nothing_else(tmp_path: Path, what: str) -> None:
    with pytest.raises(UsageError) as caught:
        run_as_valid(tmp_path / "x.ipynb", DAMAGED[what])
    assert 10 < len(str(caught.value)) < 500


@pytest.mark.parametrize("what", MENDED)
def test_damage_that_does_not_matter_is_mended(tmp_path: Path, what: str) -> None:
    run_as_valid(tmp_path / "x.ipynb", MENDED[what])


def test_a_runbook_has_a_size_and_a_number_of_cells_it_may_not_pass(tmp_path: Path) -> None:
    file = tmp_path / "x.ipynb"
    file.write_bytes(odd(cells=[code("1", cell_id=f"c{number}") for number in range(MAX_CELLS + 1)]))
    with pytest.raises(RunbookError, match="more than 10,000 cells"):
        read_runbook(file)
    with file.open("wb") as hole:
        hole.truncate(MAX_BYTES + 1)
    with pytest.raises(RunbookError, match="larger than 256 MiB"):
        read_runbook(file)


def test_a_long_line_of_blanks_takes_no_time(tmp_path: Path) -> None:
    blanks = " " * 200_000
    lines = [f"# a{blanks}b", f"#{blanks}b", f"**a**{blanks}b", "#" * 100_000]
    prose = [{"id": f"p{n}", "cell_type": "markdown", "metadata": {}, "source": text} for n, text in enumerate(lines)]
    tags = ["timeout:" + "9" * 100_000], ["retry:" + "9" * 100_000]
    file = tmp_path / "x.ipynb"
    began = time.process_time()
    file.write_bytes(odd(cells=[*prose, parameters(f"x:a{blanks}b")]))
    with pytest.raises(UsageError):
        understand(file)
    file.write_bytes(odd(cells=prose))
    understand(file)
    for wrong in tags:
        file.write_bytes(one_cell(metadata={"tags": wrong}))
        with pytest.raises(RunbookError):
            understand(file)
    assert time.process_time() - began < 4 * LONGEST_S


def test_a_pipe_that_takes_the_place_of_a_runbook_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "x.ipynb"
    file.write_bytes(odd())
    status = file.stat()
    file.unlink()
    os.mkfifo(file)
    monkeypatch.setattr(Path, "stat", lambda *_, **__: status)  # it was exchanged after the look
    with pytest.raises(RunbookError, match="is not a regular file"):
        read_bytes(file)


@pytest.fixture
def bench(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_the_bytes_that_were_read_are_those_that_run_and_are_kept(bench: Desk) -> None:
    """The file is another one by the time the first cell runs; a later cell of the first one runs all the same."""
    began, go = bench.folder / "began", bench.folder / "go"
    waits = f"""
        import pathlib, time
        pathlib.Path({str(began)!r}).touch()
        while not pathlib.Path({str(go)!r}).exists(): time.sleep(0.02)
        """
    book = bench.notebook(code(waits, cell_id="waits"), code("print('first')", cell_id="says"))
    first = book.read_bytes()
    running = bench.start("run", book)
    try:
        wait_for(began.exists, seconds=60)
        elsewhere = bench.notebook(code("print('second')", cell_id="says"), name="elsewhere.ipynb")
        book.unlink()
        book.symlink_to(elsewhere)
    finally:
        go.touch()
        ended = finish(running)
    assert ended.code == 0, ended.err
    run = bench.run()
    assert run.output("says") == "first\n"
    assert (run.folder / "runbook.ipynb").read_bytes() == first
    assert "second" not in run.copy.read_text()


def test_damaged_runbooks_end_the_whole_command_cleanly(bench: Desk) -> None:
    file = bench.folder / "book.ipynb"
    refused = random.Random(7).sample(list(mutants(5, 60)), 2)
    for raw in (
        *refused,
        DAMAGED["half a character in an output"],
        DAMAGED["one tag twice"],
        MENDED["no kernel and no language"],
    ):
        file.write_bytes(raw)
        ran = bench.opsbook("run", file, "--yes")
        assert ran.code in {0, 1, 2}
        assert "Traceback" not in ran.out + ran.err
        assert "internal error" not in ran.out + ran.err
        assert ran.code != 2 or "error: " in ran.err or "not a valid notebook" in ran.out + ran.err


def test_a_parameter_is_python_whatever_language_the_notebook_claims(bench: Desk) -> None:
    """papermill goes by the notebook's word: `stack <- TRUE` and no Python at all."""
    book = bench.notebook(
        LOAD, parameters("on: bool"), code("print(on)", cell_id="says"), metadata={"language_info": {"name": "R"}}
    )
    assert bench.opsbook("run", book, "-p", "on=yes").code == 0
    assert bench.run().output("says") == "True\n"
