"""The layout of NII's enhanced logging kernel: read by its own rules, written twice without a change, no pickles."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from pathlib import Path

import pytest
from archived import write_journal
from past_runs import NOON, ORIGIN, cell, write_run
from support import code, notebook_text

from opsbook.archive.history import read_run
from opsbook.archive.lc_wrapper import write_lc_logs
from opsbook.archive.whole_output import reference
from opsbook.model import event as e
from opsbook.model.run import CellState

MEME = f"{ORIGIN}-2-1a2b-3c4d"
NOTEBOOK = "8f9a0f6e-c1b4-11f0-8de9-0242ac120002-1-ffff"
KEYS = (
    *("code", "path", "start", "end", "size", "server_signature", "uid", "gid"),
    *("notebook_path", "lc_notebook_meme", "execute_reply_status"),
)
RICH = {"output_type": "execute_result", "data": {"text/plain": "2"}, "metadata": {}, "execution_count": 1}


def make_run(root, **changes):
    folder = write_run(root, cell("!!print(1)\n1+1"), cell("1/0"), **changes)
    document = json.loads(folder.copy.read_text())
    signature = {"current": {"signature_id": "sig"}, "history": []}
    document["metadata"] = {"lc_notebook_meme": {"current": NOTEBOOK, "lc_server_signature": signature}}
    document["cells"][0]["outputs"] += [{"output_type": "stream", "name": "stdout", "text": "1\n"}, RICH]
    folder.copy.write_text(json.dumps(document))
    record = json.loads(folder.record.read_text())
    record["cells"][0] |= {"meme": MEME, "attempts": 2}
    record["cells"][1]["attempts"] = 1
    record["runbook"]["meme"] = NOTEBOOK
    folder.record.write_text(json.dumps(record))
    folder.source.write_text(notebook_text([code("!!print(1)\n1+1", cell_id="cell-0"), code("1/0", cell_id="cell-1")]))
    events = []
    for attempt in (1, 2):
        events += [
            e.CellStarted(cell_id="cell-0", attempt=attempt),
            e.CellOutput(cell_id="cell-0", stream="stdout", text=f"try {attempt}\n"),
            e.CellEnded(cell_id="cell-0", state=CellState.OK if attempt == 2 else CellState.FAILED, attempt=attempt),
        ]
    events += [
        e.CellStarted(cell_id="cell-1"),
        e.CellOutput(cell_id="cell-1", stream="error", text="ZeroDivisionError\n"),
        e.CellEnded(cell_id="cell-1", state=CellState.FAILED),
        e.CellStarted(cell_id="cell-1"),  # nobody saw the end of it
    ]
    write_journal(folder.journal, events)
    return read_run(folder)


def write(file, data):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)


def files(folder):
    found = (place for place in folder.rglob("*") if not place.is_dir())
    return {str(place.relative_to(folder)): (place.stat().st_mtime_ns, place.read_bytes()) for place in found}


def test_each_time_a_cell_ran_has_a_log_laid_out_as_theirs(tmp_path):
    run = make_run(tmp_path / "archive")
    assert write_lc_logs(run, tmp_path, write) == 3 + 1
    logs = sorted(place for place in (tmp_path / ".log").glob("[0-9]" * 8 + "/*.log"))
    assert [re.fullmatch(r"\d{8}-\d{6}-0\d{3}\.log", log.name) is not None for log in logs] == [True] * 3
    assert {log.parent.name for log in logs} == {log.name[:8] for log in logs}

    texts = {log: log.read_text().split("\n----\n") for log in logs}
    (last,) = (parts for parts in texts.values() if "try 2" in parts[3])
    assert json.loads(last[0]) == {"lc_cell_meme": {"current": MEME}}
    assert last[1] == "!!print(1)\n1+1"
    header = dict(line.split(": ", 1) for line in last[2].splitlines())
    assert list(header) == [
        *("path", "notebook_path", "lc_notebook_meme", "server_signature", "uid", "gid", "start time"),
    ]
    assert header["lc_notebook_meme"] == NOTEBOOK
    assert header["server_signature"] == "sig"
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\(\w+\)", header["start time"])
    assert last[3] == "try 2\n"
    assert last[4].splitlines()[0].startswith("end time: ")
    assert last[4].splitlines()[1] == "0 chunks with matched keywords or errors"
    result, status = last[5].splitlines()
    assert result == f"result: {header['path'].removesuffix('.log')}-0.json"
    assert status == "execute_reply_status: ok"
    assert json.loads((tmp_path / result.removeprefix("result: ")).read_bytes()) == RICH
    (first,) = (parts for parts in texts.values() if "try 1" in parts[3])
    assert first[5] == "execute_reply_status: error\n"  # the copy shows what the last try came to
    (other,) = (parts for parts in texts.values() if "ZeroDivisionError" in parts[2])
    assert other[0] == "1/0"
    assert other[-1] == "execute_reply_status: error\n"


def test_all_runs_of_a_cell_have_one_history_by_its_origin_with_links_to_the_logs(tmp_path):
    for tail, days in ((1, 0), (2, 1)):
        write_lc_logs(make_run(tmp_path / "archive", tail=tail, at=NOON + timedelta(days=days)), tmp_path, write)
    assert [place.name for place in (tmp_path / ".log").iterdir() if "-" in place.name] == [ORIGIN]
    history = json.loads((tmp_path / ".log" / ORIGIN / f"{ORIGIN}.json").read_bytes())
    assert len(history) == 4
    for entry in history:
        assert set(entry) == set(KEYS)
        log = tmp_path / ".log" / ORIGIN / entry["path"].rpartition("/")[2]
        assert log.is_symlink()
        assert not log.readlink().is_absolute()
        assert str(log.resolve()) == entry["path"]
        assert log.stat().st_size == entry["size"]
    assert sorted(entry["execute_reply_status"] for entry in history) == ["error", "error", "ok", "ok"]


def test_written_again_nothing_changes_and_a_log_of_the_same_moment_is_not_lost(tmp_path):
    run, twin = make_run(tmp_path / "archive"), make_run(tmp_path / "archive", tail=2)
    twin.folder.journal.write_bytes(run.folder.journal.read_bytes())
    twin.folder.source.write_text(twin.folder.source.read_text().replace("print(1)", "print(2)"))
    assert [write_lc_logs(one, tmp_path / "out", write) for one in (run, twin)] == [4, 3]
    before = files(tmp_path / "out")
    assert [write_lc_logs(one, tmp_path / "out", write) for one in (run, twin)] == [0, 0]
    assert files(tmp_path / "out") == before
    assert [name for name in before if name.endswith(".pkl")] == []
    for text in ("print(1)", "print(2)"):
        assert sum(
            text.encode() in data for name, (_, data) in before.items() if "/2" in name and name.endswith(".log")
        )


def test_the_cells_of_the_copy_name_their_logs_and_a_summary_names_the_last(tmp_path):
    run = make_run(tmp_path / "archive")
    document = json.loads(run.folder.copy.read_text())
    document["cells"][0]["metadata"]["lc_wrapper"] = {"log_history": ["/before.log"], "other": 1}
    document["cells"][1]["metadata"]["lc_wrapper"] = {"log_history": {"a": 1}}
    document["cells"][0]["outputs"][0]["text"] = [f"{reference('some-run', 1)}\n", "end time: now\n"]
    run.folder.copy.write_text(json.dumps(document))
    write_lc_logs(run, tmp_path, write)
    first, second = json.loads((tmp_path / run.folder.copy.name).read_text())["cells"]
    history = first["metadata"]["lc_wrapper"]["log_history"]
    assert [history[0], *("try 1" in Path(log).read_text() for log in history[1:])] == ["/before.log", True, False]
    assert first["metadata"]["lc_wrapper"]["other"] == 1
    assert first["metadata"]["lc_wrapper"]["last_execution"] == {
        "lc_current_cell_meme": MEME,
        "lc_current_notebook_meme": NOTEBOOK,
        "notebook_path": "runbooks/patch.ipynb",
    }
    assert first["outputs"][0]["text"] == f"path: {history[-1]}\nend time: now\n"
    (log,) = second["metadata"]["lc_wrapper"]["log_history"]
    assert "ZeroDivisionError" in Path(log).read_text()
    assert "lc_current_cell_meme" not in second["metadata"]["lc_wrapper"]["last_execution"]
    assert json.loads(run.folder.copy.read_text()) == document, "the archive's own copy is as it was"


@pytest.mark.parametrize("copy", ["{", "[]", '{"cells": 3}', '{"cells": [1, {"id": "cell-0"}]}', "[" * 100_000])
def test_a_copy_that_is_no_notebook_has_logs_all_the_same(tmp_path, copy):
    run = make_run(tmp_path / "archive")
    run.folder.copy.write_text(copy)
    write_lc_logs(run, tmp_path, write)
    assert len(list((tmp_path / ".log").glob("[0-9]" * 8 + "/*.log"))) == 3
