"""Lineage as the command shows it: what a run leaves in its copy and record, and where else its cells are found."""

from __future__ import annotations

import json
from pathlib import Path

import nbformat
import pytest
from support import Desk, code, parameters, prose
from test_lineage import check_chain, memes, read_meme

from opsbook.runbook.lineage import derived_origin, notebook_origin
from opsbook.runbook.minting import mint

BOOK = (
    prose("# Patch"),
    parameters('stack: str = "dev"'),
    prose("## Update"),
    code("print(stack)", cell_id="update"),
    code("assert stack == 'prod'", cell_id="verify"),
)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    made = Desk(tmp_path)
    (tmp_path / "runbooks").mkdir()
    return made


def origins(document: dict[str, object]) -> dict[str, str]:
    """The origin of each cell of a notebook, by cell id."""
    found = {}
    for cell, entry in zip(document["cells"], memes(document), strict=True):
        found[cell["id"]] = read_meme(entry["current"]).origin
    return found


def test_a_run_branches_its_copy_and_never_touches_the_source(desk: Desk) -> None:
    file = desk.notebook(*BOOK, name="runbooks/patch.ipynb")
    mint(file)
    source = json.loads(file.read_bytes())
    before = (file.read_bytes(), file.stat().st_mtime_ns)
    desk.opsbook("run", file, "-p", "stack=test")  # it fails: papermill inserts its marks
    run = desk.run()
    document, entries = run.notebook, memes(run.notebook)
    assert (file.read_bytes(), file.stat().st_mtime_ns) == before
    nbformat.validate(nbformat.from_dict(document))
    check_chain(entries)
    ids = [cell["id"] for cell in document["cells"]]
    assert len(ids) == len(BOOK) + 3, "the values, and papermill's two marks"
    number = read_meme(document["metadata"]["lc_notebook_meme"]["current"]).branches[-1]
    assert all(entry["current"].endswith(f"-1-{number}") for entry in entries), "one branch, the same for all"
    was = {cell["id"]: cell["metadata"]["lc_cell_meme"] for cell in source["cells"]}
    for cell_id, entry in zip(ids, entries, strict=True):
        kept = {name: was[cell_id][name] for name in ("current", "previous", "next")} if cell_id in was else None
        assert entry["history"] == ([kept] if kept else [])
    metadata = {cell["id"]: cell["metadata"] for cell in document["cells"]}
    for cell_id in ("update", "injected-parameters", "verify"):
        ended = metadata[cell_id]["lc_cell_meme"]["execution_end_time"]
        assert ended.endswith("Z")
        assert metadata[cell_id]["papermill"]["end_time"].startswith(ended[:-1])
    assert {cell["meme"] for cell in run.record["cells"]} <= {entry["current"] for entry in entries}
    assert run.record["runbook"]["meme"] == document["metadata"]["lc_notebook_meme"]["current"]
    signature = document["metadata"]["lc_notebook_meme"]["lc_server_signature"]["current"]
    assert Path(signature["notebook_dir"], signature["notebook_path"]) == run.copy
    assert run.events("run_started")[0]["cells"][0]["meme"], "it is known before anything ran"


def test_runs_of_one_runbook_meet_however_they_came_about(desk: Desk) -> None:
    signature = desk.folder / "home/.local/share/jupyter/server_signature"
    signature.parent.mkdir(parents=True)
    signature.write_text("7F9A0F6E-C1B4-11F0-8DE9-0242AC120002\n")
    file = desk.notebook(*BOOK, name="runbooks/patch.ipynb")
    first = desk.run_of(desk.opsbook("run", file, "-p", "stack=test", "--json"))
    again = desk.run_of(desk.opsbook("run", first.copy, "-p", "stack=prod", "--json"))
    update = derived_origin(notebook_origin("patch"), "update")
    assert origins(first.notebook)["update"] == update
    shared = origins(again.notebook)
    assert shared.items() <= origins(first.notebook).items(), "what papermill inserts is the same again, too"
    assert "injected-parameters" in shared
    check_chain(memes(again.notebook))
    place = first.notebook["metadata"]["lc_notebook_meme"]["lc_server_signature"]["current"]
    assert place["signature_id"] == "7f9a0f6e-c1b4-11f0-8de9-0242ac120002", "the id NII's tools have made"

    found = desk.opsbook("lineage", "where", f"{file}#update", "--json").json
    assert found["origin"] == update
    places = [(place["kind"], Path(place["name"]).name, place["state"]) for place in found["places"]]
    assert set(places) == {
        ("run", again.folder.name, "ok"),
        ("run", first.folder.name, "ok"),
        ("book", "patch.ipynb", ""),
    }
    shown = desk.opsbook("lineage", f"{update}-4-1a2b-3c4d")
    assert "2 older 1a2b 3c4d" in shown.out
    assert "verify" not in shown.out
    assert [line.split()[1:3] for line in shown.out.splitlines() if "patch.ipynb" in line] == [["update", "ok"]]

    minted = desk.opsbook("lineage", "mint", file)
    assert "5 of 5 cells" in minted.err
    assert len(desk.opsbook("lineage", "where", update, "--json").json["places"]) == 3, "what ran before stays its own"
    told = desk.opsbook("lineage", file, "--json").json
    assert {run["name"] for run in told["runs"]} == {first.folder.name, again.folder.name}
    assert {cell["origin"] for cell in told["cells"]} <= {*origins(first.notebook).values()}
    assert update in desk.opsbook("lineage", "last").out


def test_new_root_prints_what_became_of_what(desk: Desk) -> None:
    file = desk.notebook(*BOOK, name="patch.ipynb")
    mint(file)
    olds = [entry["current"] for entry in memes(json.loads(file.read_bytes()))]
    made = desk.opsbook("lineage", "new-root", file, "new.ipynb", "--trim-history", "1", "--clear-server-signature")
    news = [entry["current"] for entry in memes(json.loads((desk.folder / "new.ipynb").read_bytes()))]
    assert made.out == "".join(f"{old}\t{new}\n" for old, new in zip(olds, news, strict=True))
    refused = desk.opsbook("lineage", "new-root", file, "new.ipynb")
    assert (refused.code, refused.out) == (2, "")
    assert f"before {olds[0]}" in desk.opsbook("lineage", "new.ipynb").out
    nothing = desk.opsbook("lineage", "where", "patch.ipynb#nothing")
    assert nothing.code == 2
    assert "no cell 'nothing'" in nothing.err


def test_copies_are_left_as_they_are_where_nobody_wants_memes(desk: Desk) -> None:
    desk.notebook(prose("# Patch"), code("print(1)", cell_id="one"))
    made = desk.opsbook("run", "book.ipynb", "--json", env={**desk.environment, "OPSBOOK_MEME": "off"})
    run = desk.run_of(made)
    assert "lc_" not in run.copy.read_text()
    assert [cell["meme"] for cell in run.record["cells"]] == [""]
