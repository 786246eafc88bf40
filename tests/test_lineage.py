"""MEMEs: their grammar, what a run writes into its copy, and what `mint` and `new-root` write into a file."""

from __future__ import annotations

import copy
import json
import uuid
from pathlib import Path
from typing import Any

import pytest
from support import JsonObject, code, notebook_text, prose

from opsbook.errors import RunbookError, UsageError
from opsbook.model.run import CellRecord
from opsbook.runbook.lineage import (
    Branching,
    Signature,
    branch_runbook,
    notebook_origin,
    read_lineage,
    weave,
)
from opsbook.runbook.meme import MOST_BRANCHES, Meme, derived_origin, new_origin, parse_meme
from opsbook.runbook.minting import mint, new_root
from opsbook.runbook.notebook import Runbook, compose_runbook, make_document, read_runbook

A, B, C = (f"7f9a0f6e-c1b4-11f0-8de9-0242ac12000{number}" for number in range(3))
HERE = Signature(signature_id=C, server_url="opsbook://here/", notebook_dir="/archive", notebook_path="copy.ipynb")
CELLS = (prose("# Patch"), code("update()", cell_id="update"), code("verify()", cell_id="verify"))


def memed(cell: JsonObject, current: object, **more: Any) -> JsonObject:
    """Return a cell that has a MEME, or what stands in the place of one."""
    return {**cell, "metadata": {**cell["metadata"], "lc_cell_meme": {"current": current, **more}}}


def written(folder: Path, *cells: JsonObject, name: str = "patch.ipynb", **metadata: Any) -> Path:
    file = folder / name
    text = json.loads(notebook_text(cells))
    text["metadata"] |= metadata
    file.write_text(json.dumps(text, indent=1) + "\n")
    return file


def book(folder: Path, *cells: JsonObject, **metadata: Any) -> Runbook:
    return read_runbook(written(folder, *cells, **metadata))


def branched(runbook: Runbook, **options: Any) -> tuple[JsonObject, Branching]:
    """Return a runbook's document as a run's copy has it, and what was decided for it."""
    branching = branch_runbook(runbook, **{"rule": "auto", "signature": HERE, **options})
    assert branching is not None
    document = json.loads(json.dumps(make_document(runbook)))
    weave(document, branching)
    return document, branching


def read_meme(text: str) -> Meme:
    """Return a MEME that has to be one."""
    meme = parse_meme(text)
    assert meme is not None, text
    return meme


def memes(document: JsonObject) -> list[JsonObject]:
    return [cell["metadata"]["lc_cell_meme"] for cell in document["cells"]]


def check_chain(entries: list[JsonObject]) -> None:
    """What NII's generator would append to no history: every cell knows its neighbours as they are called now."""
    currents = [entry["current"] for entry in entries]
    assert len(set(currents)) == len(currents)
    for number, entry in enumerate(entries):
        assert entry.get("previous") == (currents[number - 1] if number else None)
        assert entry.get("next") == (currents[number + 1] if number + 1 < len(currents) else None)


@pytest.mark.parametrize("text", [A, f"{A}-1-1a2b", f"{A}-3-1a2b-ffff-0000", f"{A}-12-{'-'.join(['abcd'] * 10)}"])
def test_a_meme_is_written_as_it_was_read(text: str) -> None:
    meme = parse_meme(text.upper())
    assert meme is not None
    assert meme.text == text
    assert meme.origin == A


@pytest.mark.parametrize(
    "text",
    [
        *(None, 7, [A], "", "patch", A[:-1], f" {A}", f"{A}\n", A.replace("7", "\u0667")),
        *(f"{A}-{end}" for end in ("1", "1-12", "x-1a2b", "1-1a2b-", f"{'9' * 99999}-1a2b", f"11{'-abcd' * 11}")),
    ],
)
def test_what_is_no_meme_is_none(text: object) -> None:
    assert parse_meme(text) is None


def test_of_many_branches_the_newest_are_kept_and_all_are_counted() -> None:
    meme = read_meme(A)
    for number in range(25):
        meme = meme.branched(f"{number:04x}")
    assert meme.count == 25
    assert meme.branches == tuple(f"{number:04x}" for number in range(25 - MOST_BRANCHES, 25))
    assert parse_meme(meme.text) == meme


def test_an_id_tells_nothing_of_the_machine_it_was_made_on() -> None:
    made = [uuid.UUID(new_origin()) for _ in range(20)]
    assert {one.version for one in made} == {1}, "as NII's tools make them"
    assert all(one.node >> 40 & 1 for one in made), "no network card has such an address"
    assert len({one.node for one in made}) == len(made)
    assert uuid.getnode() not in {one.node for one in made}


def test_a_copy_has_one_more_branch_of_every_meme_and_what_it_was_in_its_history(tmp_path: Path) -> None:
    source = book(
        tmp_path,
        memed(CELLS[0], A, next=f"{B}-1-aaaa", history=[]),
        memed(CELLS[1], f"{B}-1-aaaa", previous=A, next=C, history=[{"current": B}], execution_end_time="then"),
        memed(CELLS[2], C, previous=f"{B}-1-aaaa", next=None),
        lc_notebook_meme={
            "current": A,
            "history": [C],
            "lc_server_signature": {"current": {"signature_id": B}, "history": []},
        },
    )
    document, branching = branched(source)
    number = branching.number
    first, second, third = memes(document)
    assert [first["current"], third["current"]] == [f"{A}-1-{number}", f"{C}-1-{number}"]
    assert second["current"] == f"{B}-2-aaaa-{number}"
    assert first["history"] == [], "without the key of its neighbour an entry is not whole"
    assert second["history"] == [{"current": B}, {"current": f"{B}-1-aaaa", "previous": A, "next": C}]
    assert third["history"] == [{"current": C, "previous": f"{B}-1-aaaa", "next": None}]
    assert "execution_end_time" not in second, "it was not this run that executed it"
    check_chain(memes(document))
    notebook = document["metadata"]["lc_notebook_meme"]
    assert (notebook["current"], notebook["history"]) == (f"{A}-1-{number}", [C, A])
    signature = notebook["lc_server_signature"]
    assert signature["current"]["notebook_path"] == "copy.ipynb"
    assert signature["history"] == [{"signature_id": B}]


def test_cells_a_run_inserts_have_memes_of_their_own_and_nothing_is_written_twice(tmp_path: Path) -> None:
    document, branching = branched(
        book(tmp_path, *(memed(cell, at) for cell, at in zip(CELLS, (A, B, C), strict=True)))
    )
    before = copy.deepcopy(memes(document))
    document["cells"].insert(1, code("stack = 'prod'", "injected-parameters", cell_id="injected-parameters"))
    weave(document, branching)
    weave(document, branching)
    entries = memes(document)
    check_chain(entries)
    inserted = read_meme(entries[1]["current"])
    assert inserted.origin == derived_origin(notebook_origin("patch"), "injected-parameters"), "the same in every run"
    assert inserted.branches == (branching.number,)
    assert [entry["history"] for entry in (entries[0], *entries[2:])] == [entry["history"] for entry in before]
    notebook = document["metadata"]["lc_notebook_meme"]
    assert notebook["lc_server_signature"]["history"] == []


def test_runs_of_a_runbook_without_memes_meet_in_the_same_origins(tmp_path: Path) -> None:
    source = book(tmp_path, *CELLS)
    one, other = branched(source)[1], branched(source)[1]
    assert one.cells != other.cells
    origins = [{cell: read_meme(meme).origin for cell, meme in each.cells.items()} for each in (one, other)]
    assert origins[0] == origins[1]
    assert origins[0]["update"] == derived_origin(notebook_origin("patch"), "update")
    assert len(set(origins[0].values())) == len(CELLS)
    elsewhere = book(tmp_path, *CELLS, name="other.ipynb")
    assert read_lineage(elsewhere).origin_of("update") != origins[0]["update"]


def test_what_a_copy_gets_is_a_setting(tmp_path: Path) -> None:
    plain = book(tmp_path, *CELLS)
    some = book(tmp_path, memed(CELLS[0], A), *CELLS[1:], name="some.ipynb")
    assert branch_runbook(plain, rule="keep", signature=HERE) is None
    assert branch_runbook(some, rule="off", signature=HERE) is None
    kept = branch_runbook(some, rule="keep", signature=HERE)
    assert kept is not None
    assert len(kept.cells) == len(CELLS), "also the cells without one, so that the chain is whole"
    assert branch_runbook(compose_runbook("exec", [("", "1")]), rule="auto", signature=HERE) is None


def test_a_cell_that_was_copied_by_hand_is_told_from_the_first(tmp_path: Path) -> None:
    source = book(tmp_path, memed(CELLS[1], A), memed({**CELLS[1], "id": "again"}, A), memed(CELLS[2], A))
    document, branching = branched(source)
    check_chain(memes(document))
    assert {read_meme(entry["current"]).origin for entry in memes(document)} == {A}
    assert memes(document)[0]["current"] == f"{A}-1-{branching.number}"


@pytest.mark.parametrize(
    "held",
    [
        None,
        7,
        "x",
        [],
        {},
        {"current": 5},
        {"current": [A]},
        {"current": "../../x"},
        {"current": A, "history": "x"},
        {"current": A, "history": {"a": 1}},
        {"current": A, "previous": [], "next": {}, "history": [5, None, {"current": []}]},
        {"history": [[[]]]},
    ],
)
def test_what_stands_in_the_place_of_a_meme_hurts_nobody(held: object, tmp_path: Path) -> None:
    cell = {**CELLS[1], "metadata": {"lc_cell_meme": held}}
    file = written(
        tmp_path, cell, CELLS[2], lc_notebook_meme={**held, "root_cells": 5} if isinstance(held, dict) else held
    )
    check_chain(memes(branched(read_runbook(file))[0]))
    mint(file)
    check_chain(memes(json.loads(file.read_bytes())))
    assert not mint(file).changed


def test_memes_nested_beyond_reading_count_as_missing(tmp_path: Path) -> None:
    source = book(tmp_path, *CELLS)
    deep = "[" * 5000 + "]" * 5000
    raw = source.raw.replace(b'"cells"', f'"x": 1, "lc_notebook_meme": {deep}, "cells"'.encode(), 1)
    raw = raw.replace(b'"metadata": {}', f'"metadata": {{"lc_cell_meme": {deep}}}'.encode(), 1)
    lineage = read_lineage(
        Runbook(**{**{name: getattr(source, name) for name in source.__struct_fields__}, "raw": raw})
    )
    assert not lineage.has_memes
    assert lineage.origin_of("update") == read_lineage(source).origin_of("update")


def without_memes(data: bytes) -> JsonObject:
    document: JsonObject = json.loads(data)
    for holder in (document, *document["cells"]):
        for key in ("lc_notebook_meme", "lc_cell_meme"):
            holder["metadata"].pop(key, None)
    return document


def dumped(document: JsonObject, style: str) -> bytes:
    """Write a notebook as some program would."""
    styles: dict[str, JsonObject] = {
        "jupyter": {"indent": 1, "sort_keys": True, "ensure_ascii": False},
        "escaped": {"indent": 2},
        "one line": {},
        "compact": {"separators": (",", ":")},
        "tabs": {"indent": "\t", "ensure_ascii": False},
        "windows": {"indent": 4, "ensure_ascii": False},
    }
    text = json.dumps(document, **styles[style])
    text = text.replace("\n", "\r\n") + "\r\n" if style == "windows" else text + "\n" * (style == "jupyter")
    return text.encode()


@pytest.mark.parametrize("style", ["jupyter", "escaped", "one line", "compact", "tabs", "windows"])
def test_minting_changes_the_memes_and_not_a_byte_besides(style: str, tmp_path: Path) -> None:
    file = tmp_path / "patch.ipynb"
    document = json.loads(notebook_text((prose("# Prüfung \u8a3c"), *CELLS)))
    document["metadata"] |= {"zz": 1.5, "kernelspec": {"name": "python3", "display_name": "P", "language": "python"}}
    file.write_bytes(dumped(document, style))
    before = file.read_bytes()
    assert mint(file).given == 4
    after = file.read_bytes()
    assert after != before
    check_chain(memes(json.loads(after)))
    assert dumped(without_memes(after), style) == before, "without its MEMEs it is what it was"
    assert dumped(json.loads(after), style) == after, "and it is written as that program would write it"


def test_minting_again_changes_nothing_and_writes_nothing(tmp_path: Path) -> None:
    file = written(tmp_path, *CELLS)
    file.chmod(0o640)
    link = tmp_path / "link.ipynb"
    link.symlink_to(file.name)
    origins = read_lineage(read_runbook(file))
    assert mint(file).changed
    assert file.stat().st_mode & 0o777 == 0o640
    before = (file.read_bytes(), file.stat().st_mtime_ns, file.stat().st_ino)
    assert not mint(file).changed
    assert not mint(link).changed
    assert (file.read_bytes(), file.stat().st_mtime_ns, file.stat().st_ino) == before
    minted = read_lineage(read_runbook(file))
    assert [cell.origin for cell in minted.cells] == [cell.origin for cell in origins.cells], "what ran stays its own"
    assert all(cell.meme for cell in minted.cells)
    moved = file.rename(tmp_path / "renamed.ipynb")
    assert read_lineage(read_runbook(moved)).origin == origins.origin
    assert [entry.name for entry in tmp_path.iterdir() if entry.name.startswith(".")] == []


def test_minting_through_a_link_leaves_the_link(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    file = written(tmp_path / "there", *CELLS)
    link = tmp_path / "patch.ipynb"
    link.symlink_to(file)
    assert mint(link).changed
    assert link.is_symlink()
    check_chain(memes(json.loads(file.read_bytes())))


def test_minting_mends_a_chain_and_remembers_what_it_was(tmp_path: Path) -> None:
    moved = memed(CELLS[1], A, previous=C, next=B, history=[])
    file = written(tmp_path, moved, memed(CELLS[2], B, previous=A), CELLS[0], lc_notebook_meme={"current": C})
    mint(file)
    first, second, third = entries = memes(json.loads(file.read_bytes()))
    check_chain(entries)
    assert first["history"] == [{"current": A, "previous": C, "next": B}]
    assert second["history"] == [], "NII's rule: what lacks a neighbour is not whole"
    assert third["current"] == derived_origin(C, CELLS[0]["id"] + "-2")


def test_ends_without_a_neighbours_key_are_as_good_as_null(tmp_path: Path) -> None:
    file = written(
        tmp_path, memed(CELLS[1], A, next=B), memed(CELLS[2], B, previous=A), lc_notebook_meme={"current": C}
    )
    assert not mint(file).changed


def test_a_new_root_begins_a_new_line_and_keeps_the_old_as_history(tmp_path: Path) -> None:
    signature = {"current": {"signature_id": C}, "history": []}
    old = [{"current": C, "previous": None, "next": B}]
    source = written(
        tmp_path,
        memed(CELLS[1], A, previous=None, next=B, history=old),
        memed(CELLS[2], B, previous=A, next=None, history=[]),
        lc_notebook_meme={
            "current": A,
            "history": [B],
            "root_cells": [C],
            "root_cells_history": [[[B, C]]],
            "lc_server_signature": signature,
        },
    )
    before = source.read_bytes()
    made = new_root(source, tmp_path / "new.ipynb")
    document = json.loads((tmp_path / "new.ipynb").read_bytes())
    entries, notebook = memes(document), document["metadata"]["lc_notebook_meme"]
    check_chain(entries)
    currents = [entry["current"] for entry in entries]
    assert made.renamed == ((A, currents[0]), (B, currents[1]))
    assert not {A, B, C} & {*currents, notebook["current"]}
    assert entries[0]["history"] == [*old, {"current": A, "previous": None, "next": B}]
    assert entries[1]["history"] == [{"current": B, "previous": A, "next": None}]
    assert notebook["root_cells"] == currents
    assert notebook["root_cells_history"] == [[[B, C]], [[A, currents[0]], [B, currents[1]]]]
    assert notebook["history"] == [B, A]
    assert notebook["lc_server_signature"] == signature
    assert source.read_bytes() == before
    assert without_memes((tmp_path / "new.ipynb").read_bytes()) == without_memes(before)


def test_a_new_root_may_forget(tmp_path: Path) -> None:
    old = [{"current": C, "previous": None, "next": B}] * 3
    meme = {"current": A, "history": [B, C], "lc_server_signature": {"current": {}, "history": []}}
    source = written(tmp_path, memed(CELLS[1], A, previous=None, next=None, history=old), lc_notebook_meme=meme)
    new_root(source, tmp_path / "one.ipynb", trim_history=1, clear_signature=True)
    new_root(source, tmp_path / "none.ipynb", trim_history=0)
    one, none = (json.loads((tmp_path / name).read_bytes()) for name in ("one.ipynb", "none.ipynb"))
    assert memes(one)[0]["history"] == [{"current": A, "previous": None, "next": None}]
    assert one["metadata"]["lc_notebook_meme"]["history"] == [A]
    assert "lc_server_signature" not in one["metadata"]["lc_notebook_meme"]
    assert memes(none)[0]["history"] == []
    assert none["metadata"]["lc_notebook_meme"]["history"] == []


def test_a_new_root_takes_nobodys_place(tmp_path: Path) -> None:
    source = written(tmp_path, *CELLS)
    (tmp_path / "dangling.ipynb").symlink_to("nowhere")
    for name in ("patch.ipynb", "dangling.ipynb"):
        with pytest.raises(UsageError, match="there already"):
            new_root(source, tmp_path / name)
    with pytest.raises(RunbookError, match="cannot write"):
        new_root(source, tmp_path / "no" / "such.ipynb")
    assert not (tmp_path / "nowhere").exists()


def test_records_of_an_older_opsbook_have_no_memes() -> None:
    assert CellRecord(id="a", index=0, label="a").meme == ""
