"""What other people's tools make of an archive, and opsbook of what they wrote: each tool's own rule, and the tool.

The rules are stated here once more, independently of the code, and hold everywhere. Where the tools themselves are at
hand they judge as well: `OPSBOOK_ORACLES` names a Python that has them (NII's nbsearch and nblineage, whose sources are
on no registry under these names; scrapbook; Airbnb's knowledge-repo with an nbconvert it can use).
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePath
from typing import Any

import nbformat
import pytest
from support import Desk, JsonObject, Run, code, parameters, prose

ORACLES = os.environ.get("OPSBOOK_ORACLES", sys.executable)
MEME = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}(-[0-9]+(-[0-9a-fA-F]{4}){1,10})?")
"""A MEME, as sidestickies reads it."""
CELLS = (
    prose("# Patch\n\n## Operation Note\n\nAsk the owner of the stack first.\n\n**Purpose.** Keep all well."),
    parameters('stack: str = "dev"'),
    code("print('patching', stack)", cell_id="say"),
    code("assert stack != 'broken', 'it is broken'", cell_id="judge"),
    code("raise SystemExit('never')", cell_id="frozen", run_through_control={"frozen": True}),
)
PAPERMILL = """
import sys, papermill
papermill.execute_notebook(sys.argv[1], sys.argv[2], {"stack": "again"}, progress_bar=False)
try:
    papermill.execute_notebook(sys.argv[3], sys.argv[4], {"stack": "broken"}, progress_bar=False)
except papermill.PapermillExecutionError:
    print("failed as it should")
"""


@dataclass(frozen=True)
class Shop:
    """A desk where opsbook and papermill have run one runbook, and each what the other left."""

    desk: Desk
    well: Run
    failed: Run
    again: JsonObject
    """What papermill made of the copy of the run that went well."""
    over: Run
    """What opsbook made of a notebook papermill had failed in."""
    out: Path
    """The exports, by layout."""

    @property
    def runs(self) -> tuple[Run, ...]:
        return (self.well, self.failed, self.over)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    desk = Desk(tmp_path_factory.mktemp("shop"))
    desk.notebook(*CELLS, name="patch.ipynb")
    well = desk.run_of(desk.opsbook("run", "patch.ipynb", "-p", "stack=prod", "--json"))
    failed = desk.run_of(desk.opsbook("run", "patch.ipynb", "-p", "stack=broken", "--json"))
    bare = [cell for cell in CELLS if cell["id"] != "frozen"]  # papermill would run it
    desk.notebook(*bare, name="bare.ipynb")
    (desk.folder / "tidy.ipynb").write_text(without(well.copy.read_text(), "frozen"))
    line = [sys.executable, "-c", PAPERMILL, "tidy.ipynb", "again.ipynb", "bare.ipynb", "theirs.ipynb"]
    done = subprocess.run(line, cwd=desk.folder, check=True, capture_output=True, text=True, timeout=180)
    assert "failed as it should" in done.stdout
    over = desk.run_of(desk.opsbook("run", "theirs.ipynb", "-p", "stack=good", "--json"))
    layouts = ("nbsearch", "commuter", "knowledge-repo", "lc-wrapper")
    flags = [word for layout in layouts for word in (f"--{layout}", f"out/{layout}")]
    assert desk.opsbook("archive", "export", *flags).code == 0
    again = json.loads((desk.folder / "again.ipynb").read_text())
    return Shop(desk=desk, well=well, failed=failed, again=again, over=over, out=desk.folder / "out")


def without(notebook: str, cell_id: str) -> str:
    document = json.loads(notebook)
    return json.dumps({**document, "cells": [cell for cell in document["cells"] if cell["id"] != cell_id]})


@cache
def has(module: str) -> bool:
    """Whether the oracles' Python has a module."""
    done = subprocess.run([ORACLES, "-c", f"import {module}"], check=False, capture_output=True, timeout=120)
    return done.returncode == 0


def ask(module: str, program: str, *args: object) -> Any:
    """Return the JSON a program prints that has one of the tools say what it thinks; skip without the tool."""
    if not has(module):
        pytest.skip(f"{module} is not at hand: OPSBOOK_ORACLES names a Python that has it")
    line = [ORACLES, "-W", "ignore", "-c", program, *map(str, args)]
    done = subprocess.run(line, check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def memes(notebook: JsonObject) -> list[JsonObject]:
    return [cell["metadata"]["lc_cell_meme"] for cell in notebook["cells"]]


def texts(notebook: JsonObject, cell_id: str) -> str:
    (cell,) = (cell for cell in notebook["cells"] if cell["id"] == cell_id)
    return "".join("".join(output.get("text", "")) for output in cell["outputs"])


def injected(notebook: JsonObject) -> list[JsonObject]:
    return [cell for cell in notebook["cells"] if "injected-parameters" in cell["metadata"].get("tags", [])]


def test_every_copy_is_a_valid_notebook(shop: Shop) -> None:
    for run in shop.runs:
        nbformat.validate(nbformat.read(run.copy, as_version=4))
    for file in shop.out.rglob("*.ipynb"):
        nbformat.validate(nbformat.read(file, as_version=4))
    assert len(list(shop.out.rglob("*.ipynb"))) == 12


def test_the_next_save_by_nblineage_would_find_every_cell_in_its_place(shop: Shop) -> None:
    """T1: it writes history where a cell's neighbours are not those in its MEME, or a cell has none."""
    for run in shop.runs:
        held = memes(run.notebook)
        assert all(MEME.fullmatch(one["current"]) for one in held)
        places = [None, *(one["current"] for one in held), None]
        assert [(one["previous"], one["next"]) for one in held] == list(zip(places, places[2:], strict=False))
        assert len(set(places[1:-1])) == len(held)


NBLINEAGE = """
import json, sys
from nblineage.meme import MemeGenerator
counts = []
for name in sys.argv[1:]:
    before = json.load(open(name, encoding="utf-8"))
    after = MemeGenerator().from_filename(name)
    pairs = zip(before["cells"], after["cells"], strict=True)
    counts.append([len(b["metadata"]["lc_cell_meme"]["history"]) - len(a["metadata"]["lc_cell_meme"]["history"])
                   for b, a in pairs])
print(json.dumps(counts))
"""


def test_nblineage_adds_no_history_to_a_copy(shop: Shop) -> None:
    counts = ask("nblineage.meme", NBLINEAGE, *(run.copy for run in shop.runs))
    assert [set(one) for one in counts] == [{0}] * len(shop.runs)


NEW_ROOT = """
import json, sys
from nblineage.meme import NewRootMemeGenerator
print(json.dumps(NewRootMemeGenerator().from_filename(sys.argv[1])))
"""


def test_a_new_root_is_what_nblineage_makes_of_it(shop: Shop) -> None:
    """T5: but for the ids, which are new."""
    theirs = ask("nblineage.meme", NEW_ROOT, shop.well.copy)
    made = shop.desk.opsbook("lineage", "new-root", shop.well.copy, "root.ipynb")
    assert made.code == 0, made.err
    ours = json.loads((shop.desk.folder / "root.ipynb").read_text())
    assert lineage_of(ours) == lineage_of(theirs)


def lineage_of(notebook: JsonObject) -> JsonObject:
    """Return all MEMEs of a notebook, each new one named by when it comes first."""
    held = {"notebook": notebook["metadata"]["lc_notebook_meme"], "cells": memes(notebook)}
    names: dict[str, str] = {}
    return dict(
        json.loads(
            MEME.sub(lambda found: names.setdefault(found[0], f"id {len(names)}"), json.dumps(held, sort_keys=True))
        )
    )


def nbsearch_id(file: Path) -> str:
    """Return the id of a notebook by nbsearch's rule (T2): signature, MEME and the file's name, not its folder."""
    held = json.loads(file.read_text())["metadata"]["lc_notebook_meme"]
    return f"{held['lc_server_signature']['current']['signature_id']}_{held['current']}_{file.name}"


def test_ids_of_nbsearch_do_not_collide(shop: Shop) -> None:
    there = sorted((shop.out / "nbsearch").rglob("*.ipynb"))
    assert len({nbsearch_id(file) for file in there}) == len({file.name for file in there}) == len(shop.runs)


def test_nbsearch_is_told_when_a_cell_was_executed(shop: Shop) -> None:
    """T3: `execution_end_time` in the MEME is what it calls executed; papermill leaves it out."""
    for run in shop.runs:
        for cell in run.notebook["cells"]:
            ended = cell["metadata"]["papermill"].get("end_time") if cell["cell_type"] == "code" else None
            at = cell["metadata"]["lc_cell_meme"].get("execution_end_time")
            assert (at is not None) == (ended is not None and cell["metadata"]["papermill"]["status"] != "skipped")
            assert at is None or re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", at)
            assert at is None or at[:22] == ended[:22]


NBSEARCH = """
import json, sys
from nbsearch.solr import ipynb_to_documents
from nbsearch.source import LocalSource
source = LocalSource()
source.base_dir, source.server = sys.argv[1], "here"
print(json.dumps([ipynb_to_documents(one["path"], source.get_notebook("here", one["path"]), attr=one)
                  for one in source.get_files()]))
"""


def test_nbsearch_finds_every_run_with_its_note_and_its_times(shop: Shop) -> None:
    found = ask("nbsearch.solr", NBSEARCH, shop.out / "nbsearch")
    books = [document for one in found for document in one["jupyter-notebook"]]
    cells = [document for one in found for document in one["jupyter-cell"]]
    assert len(books) == len({book["id"] for book in books}) == len(shop.runs)
    assert len(cells) == len({cell["id"] for cell in cells})
    for book in books:
        assert book["lc_cell_meme__execution_end_time"]
        assert book["source__markdown__operation_note"] == "Ask the owner of the stack first.\nPurpose.  Keep all well."
    assert {"patching prod\n", "patching broken\n"} <= {cell.get("outputs__stdout") for cell in cells}


def test_the_logs_of_nii_s_wrapper_kernel_are_there_without_pickles(shop: Shop) -> None:
    """T6: the history of a cell lies under its origin; the log it names is there, and so is a link to it."""
    logs = shop.out / "lc-wrapper" / ".log"
    assert not list(logs.rglob("*.pkl"))
    (say,) = (one for one in memes(shop.well.notebook) if one["current"] == meme_of(shop.well, "say"))
    origin = "-".join(say["current"].split("-")[:5])
    entries = json.loads((logs / origin / f"{origin}.json").read_text())
    known = {"code", "path", "start", "end", "size", "server_signature", "uid", "gid", "notebook_path"}
    for entry in entries:
        assert entry.keys() == known | {"lc_notebook_meme", "execute_reply_status"}
        text = Path(entry["path"]).read_text()
        assert text.count("\n----\n") == 6 - 1, "MEME, code, header, output, footer, status"
        assert (logs / origin / PurePath(entry["path"]).name).resolve() == Path(entry["path"]).resolve()
        assert entry["size"] == len(text.encode())
    copy = json.loads((shop.out / "lc-wrapper" / shop.well.copy.name).read_text())
    (told,) = (cell["metadata"]["lc_wrapper"] for cell in copy["cells"] if cell["id"] == "say")
    assert told["log_history"] == [
        entry["path"] for entry in entries if "patching prod" in Path(entry["path"]).read_text()
    ]
    assert told["last_execution"]["lc_current_cell_meme"] == say["current"]


def meme_of(run: Run, cell_id: str) -> str:
    (cell,) = (cell for cell in run.notebook["cells"] if cell["id"] == cell_id)
    return str(cell["metadata"]["lc_cell_meme"]["current"])


def test_a_frozen_cell_is_not_executed_and_papermill_is_told(shop: Shop) -> None:
    """T7: only NII's browser extension honours it besides."""
    assert shop.well.states["frozen"] == "skipped"
    assert shop.well.papermill["frozen"] == "skipped"


def test_papermill_runs_an_archived_copy_again(shop: Shop) -> None:
    """T9: with other parameters, in the place of those opsbook injected."""
    assert texts(shop.again, "say") == "patching again\n"
    assert ["".join(cell["source"]) for cell in injected(shop.again)] == ['# Parameters\nstack = "again"\n']
    assert [cell["metadata"]["papermill"]["status"] for cell in shop.again["cells"]][1:] == ["completed"] * 4


def test_opsbook_runs_what_papermill_left_and_drops_its_error_marks(shop: Shop) -> None:
    """T9: the injected cell is replaced, and has the same origin in every run."""
    theirs = json.loads((shop.desk.folder / "theirs.ipynb").read_text())
    marks = [cell for cell in theirs["cells"] if "papermill-error-cell-tag" in cell["metadata"].get("tags", [])]
    assert marks, "papermill marks where it failed"
    assert shop.over.record["status"] == "succeeded"
    assert shop.over.output("say") == "patching good\n"
    assert len(shop.over.notebook["cells"]) == len(CELLS), "with one injected cell, and without a frozen one or marks"
    assert len(injected(shop.over.notebook)) == 1
    origins = {
        cell["metadata"]["lc_cell_meme"]["current"][:36]
        for run in (shop.well, shop.failed)
        for cell in injected(run.notebook)
    }
    assert len(origins) == 1


def test_commuter_can_show_every_copy(shop: Shop) -> None:
    """T11: its discovery page reads these, the tags without looking whether they are there."""
    shown = [run.notebook["metadata"] for run in shop.runs]
    shown += [json.loads(file.read_text())["metadata"] for file in (shop.out / "commuter").rglob("*.ipynb")]
    for metadata in shown:
        assert metadata["title"] == "Patch"
        assert [sorted(author) for author in metadata["authors"]] == [["name"]]
        assert metadata["nteract"]["description"] == "Keep all well."
        assert all(isinstance(tag, str) for tag in list(metadata["nteract"]["tags"]))


KNOWLEDGE = """
import json, os, sys, tempfile
os.chdir(tempfile.mkdtemp())
from knowledge_repo.post import KnowledgePost
posts = [KnowledgePost.from_file(name, format="ipynb") for name in sys.argv[1:]]
print(json.dumps([[post.is_valid(), {k: str(v) for k, v in post.headers.items()}, post.path, post.read(headers=False)]
                  for post in posts]))
"""


def test_the_knowledge_repo_takes_every_post(shop: Shop) -> None:
    files = sorted((shop.out / "knowledge-repo").rglob("*.ipynb"))
    found = ask("knowledge_repo.converters.ipynb", KNOWLEDGE, *files)
    assert all(valid for valid, *_ in found)
    assert len({path for *_, path, _ in found}) == len(shop.runs)
    for _, headers, _, body in found:
        assert headers["title"].startswith("Patch (")
        assert headers["tldr"] == "Keep all well."
        assert "Ask the owner of the stack first." in body


SCRAPBOOK = """
import json, sys, scrapbook
print(json.dumps([[book.parameters, book.execution_counts]
                  for book in map(scrapbook.read_notebook, sys.argv[1:])]))
"""


def test_scrapbook_reads_the_parameters_of_every_copy(shop: Shop) -> None:
    found = ask("scrapbook", SCRAPBOOK, *(run.copy for run in shop.runs))
    assert [values for values, _ in found] == [{"stack": value} for value in ("prod", "broken", "good")]
