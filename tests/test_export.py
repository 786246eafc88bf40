"""`opsbook archive export`: names, contents, being done again, and what is left alone."""

from __future__ import annotations

import fcntl
import json
import shutil
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from archived import mode, umask
from past_runs import NOON, cell, write_run
from support import Desk, code, prose

from opsbook.archive.export import MARK, Exported, Layout, export_runs
from opsbook.archive.query import Between
from opsbook.errors import UsageError
from opsbook.model.run import RunState

CELLS = (cell("# Patch\n\n**Purpose.** Keep *all* well.", kind="markdown"), cell("print(1)", "1\n"))
COPIES = [layout for layout in Layout if layout is not Layout.LC_WRAPPER]


def export(root: Path, folder: Path, layout: Layout = Layout.NBSEARCH, between: Between | None = None) -> Exported:
    return export_runs(root, folder, layout, between=between or Between())


def files(folder: Path) -> dict[str, bytes]:
    found = (place for place in folder.rglob("*") if place.is_file() and place.name != MARK)
    return {str(place.relative_to(folder)): place.read_bytes() for place in found}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "archive"


@pytest.mark.parametrize("layout", COPIES)
def test_every_run_has_a_file_of_its_own_and_nothing_is_hidden(root: Path, tmp_path: Path, layout: Layout) -> None:
    runs = [write_run(root, *CELLS, at=NOON - timedelta(days=days), tail=days) for days in range(3)]
    twin = write_run(root, *CELLS, tail=9)
    done = export(root, tmp_path / "out", layout)
    assert (done.written, done.unchanged, done.left) == (4, 0, ())
    there = files(tmp_path / "out")
    assert there.keys() == {str(run.copy.relative_to(root).parent.parent / run.copy.name) for run in (*runs, twin)}
    assert len({Path(name).name for name in there}) == 4, "no two names are alike, whatever folder they are in"
    assert not any(part.startswith(".") for name in there for part in Path(name).parts)
    again = export(root, tmp_path / "out", layout)
    assert (again.written, again.unchanged) == (0, 4)
    assert files(tmp_path / "out") == there


def test_a_copy_for_nbsearch_is_the_archives_own_byte_for_byte_and_as_old(root: Path, tmp_path: Path) -> None:
    run = write_run(root, *CELLS)
    export(root, tmp_path / "out")
    (file,) = (tmp_path / "out").rglob("*.ipynb")
    assert file.read_bytes() == run.copy.read_bytes()
    assert file.stat().st_mtime_ns == run.copy.stat().st_mtime_ns


def test_what_was_changed_meanwhile_or_lost_is_written_again(root: Path, tmp_path: Path) -> None:
    first, second = write_run(root, *CELLS), write_run(root, *CELLS, tail=2)
    export(root, tmp_path / "out")
    write_run(root, *CELLS, cell("print(2)"))
    (tmp_path / "out" / second.copy.relative_to(root).parent.parent / second.copy.name).unlink()
    assert export(root, tmp_path / "out").written == 2
    assert set(files(tmp_path / "out").values()) == {first.copy.read_bytes(), second.copy.read_bytes()}


def test_runs_that_have_not_ended_or_began_at_another_time_are_not_exported(root: Path, tmp_path: Path) -> None:
    write_run(root, *CELLS, at=NOON - timedelta(days=2), tail=1)
    meant = write_run(root, *CELLS, at=NOON - timedelta(days=1), tail=2)
    write_run(root, *CELLS, tail=3)
    going_on = write_run(root, *CELLS, at=NOON - timedelta(hours=1), tail=4)
    day = Between(since=(NOON - timedelta(days=1)).timestamp(), until=NOON.timestamp())
    with (going_on.path / "lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert export(root, tmp_path / "out", between=day).written == 1
    assert [Path(name).name for name in files(tmp_path / "out")] == [meant.copy.name]


def test_damaged_runs_are_named_and_hide_no_other(root: Path, tmp_path: Path) -> None:
    cut, none, deep, odd, record = (write_run(root, *CELLS, tail=number) for number in range(1, 6))
    write_run(root, *CELLS, tail=9)
    cut.copy.write_bytes(cut.copy.read_bytes()[:40])
    none.copy.unlink()
    deep.copy.write_bytes(b'{"cells":' + b"[" * 100_000)
    odd.copy.write_text('{"cells": 3, "metadata": {}}')
    record.record.write_text("{")
    for layout in COPIES:
        done = export(root, tmp_path / layout, layout)
        assert done.written == 1
        assert {one.run_id: one.why for one in done.left} == {
            cut.run_id: "its executed copy is no notebook",
            none.run_id: "it has no executed copy",
            deep.run_id: "its executed copy is no notebook",
            odd.run_id: "its executed copy is no notebook",
            record.run_id: "damaged: damaged record: Input data was truncated",
        }


def test_a_folder_that_holds_anything_else_is_left_alone(root: Path, tmp_path: Path) -> None:
    write_run(root, *CELLS)
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("years of work")
    with pytest.raises(UsageError, match="is not empty"):
        export(root, foreign)
    export(root, tmp_path / "ours")
    with pytest.raises(UsageError, match="was exported to for nbsearch"):
        export(root, tmp_path / "ours", Layout.COMMUTER)
    for inside in (root, root / "2026", root / "new"):
        with pytest.raises(UsageError, match="lies in the archive itself"):
            export(root, inside)
    assert [place.name for place in foreign.iterdir()] == ["thesis.txt"]
    (foreign / "thesis.txt").unlink()
    assert export(root, foreign).written == 1


def test_an_export_is_as_open_as_its_folder(root: Path, tmp_path: Path) -> None:
    write_run(root, *CELLS)
    with umask(0o077):
        (tmp_path / "open").mkdir()
        (tmp_path / "open").chmod(0o2755)
        for name in ("open", "closed"):
            export(root, tmp_path / name)
    assert {mode(place) for place in (tmp_path / "open").rglob("*")} == {0o2755, 0o644}
    assert {mode(place) for place in [tmp_path / "closed", *(tmp_path / "closed").rglob("*")]} == {0o700, 0o600}


def shown(root: Path, folder: Path, layout: Layout) -> dict[str, Any]:
    shutil.rmtree(folder, ignore_errors=True)
    export(root, folder, layout)
    (data,) = files(folder).values()
    return dict(json.loads(data))


def test_commuter_is_given_what_its_discovery_page_shows(root: Path, tmp_path: Path) -> None:
    run = write_run(root, *CELLS)
    metadata = shown(root, tmp_path / "out", Layout.COMMUTER)["metadata"]
    assert (metadata["title"], metadata["authors"]) == ("Patch", [{"name": "maya"}])
    assert metadata["nteract"] == {"description": "Keep *all* well.", "tags": ["runbook", "patch", "succeeded"]}
    document = json.loads(run.copy.read_bytes())
    own = {"title": "Mine", "authors": [{"name": "Ann"}], "nteract": {"tags": ["mine"], "image": "x.png"}}
    document["metadata"] = own
    run.copy.write_text(json.dumps(document))
    metadata = shown(root, tmp_path / "out", Layout.COMMUTER)["metadata"]
    assert metadata == {**own, "nteract": {**own["nteract"], "description": "Keep *all* well."}}  # type: ignore[dict-item]
    document["metadata"] = {"title": 3, "authors": ["Ann"], "nteract": {"tags": "mine"}}
    run.copy.write_text(json.dumps(document))
    metadata = shown(root, tmp_path / "out", Layout.COMMUTER)["metadata"]
    assert metadata["nteract"]["tags"] == ["runbook", "patch", "succeeded"], "it breaks where they are no list"
    assert (metadata["title"], metadata["authors"]) == ("Patch", [{"name": "maya"}])


def test_a_post_for_the_knowledge_repo_begins_with_its_header(root: Path, tmp_path: Path) -> None:
    own = cell("---\ntitle: theirs\n---\n", kind="raw")
    write_run(root, own, *CELLS, status=RunState.FAILED, reason='it said "no"\n---\nevil: 1', user="maya\n---\n")
    first, second, *_ = shown(root, tmp_path / "out", Layout.KNOWLEDGE_REPO)["cells"]
    assert (first["cell_type"], second["cell_type"]) == ("raw", "markdown")
    lines = first["source"].splitlines()
    assert lines[0] == lines[-1] == "---"
    fields = dict(line.split(": ", 1) for line in lines[1:-1])
    assert json.loads(fields["title"]) == "Patch (2026-11-20, failed)"
    assert json.loads(fields["authors"]) == ["maya ---"], "nothing ends the header before its end"
    assert fields["created_at"] == "2026-11-20"
    assert json.loads(fields["path"]) == "runs/patch/20261120T120000Z-000001"


def test_the_command_exports_for_several_and_tells_what_it_did(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.notebook(prose("# Check"), code("print('well')"))
    assert desk.opsbook("run", "book.ipynb").code == 0
    flags = [word for layout in Layout for word in (f"--{layout}", f"out/{layout}")]
    done = desk.opsbook("archive", "export", *flags, "--since", "1d", "--json")
    assert [(one["layout"], one["written"], one["left"]) for one in done.json] == [(str(one), 1, []) for one in Layout]
    again = desk.opsbook("archive", "export", *flags)
    assert again.out.splitlines() == [f"out/{one}: 0 written, 1 there already, 0 left out" for one in Layout]
    assert list((tmp_path / "out" / Layout.LC_WRAPPER / ".log").rglob("*.log"))
    refused = desk.opsbook("archive", "export", "--nbsearch", "site")
    assert (refused.code, "is not empty" in refused.err) == (2, True)
    assert desk.opsbook("archive", "export").code == 2
    own = json.loads(desk.run().copy.read_bytes())["metadata"]
    assert (own["title"], own["nteract"]["tags"]) == ("Check", ["runbook", "book", "succeeded"])
    assert desk.opsbook("archive", "verify").code == 0
