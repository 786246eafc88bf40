"""Many runs that end at once in one archive: all are in the chain, all are found, and none is in another's way."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from archived import python
from support import Desk, code, finish

from opsbook.archive.catch_up import ask_archive
from opsbook.archive.selection import count_items
from opsbook.archive.verify import verify_archive

PROCESSES = 8
WRITERS = """
import os, sys
from pathlib import Path
import msgspec
from archived import make_record
from opsbook.archive.catch_up import ask_archive
from opsbook.archive.claimed import ClaimedRun
from opsbook.archive.journal import Journal
from opsbook.archive.layout import run_folder
from opsbook.archive.links import digest_of
from opsbook.archive.selection import Selection, select_runs
from opsbook.model import event as e
from opsbook.model.run import RunState
from opsbook.redaction import Redactor

def leave(root, run_id):
    folder = run_folder(root, run_id)
    files = ClaimedRun(folder, record=msgspec.json.encode(make_record(run_id)), runbook=b"{}")
    journal = Journal(folder.journal, Redactor())
    journal.append([e.RunStarted(run_id=run_id, title="Patch")], durable=True)
    folder.copy.write_bytes(b"{}")
    record = msgspec.json.encode(make_record(run_id, RunState.SUCCEEDED, exit_code=0))
    files.finish(record, journal=journal.head, copy=digest_of(b"{}"))
    journal.close()
    files.release()

root, many = Path(sys.argv[1]), int(sys.argv[2])
gate, opener = os.pipe()
children = []
for number in range(many):
    children.append(os.fork())
    if not children[-1]:
        os.close(opener)
        os.read(gate, 1)  # until all are there
        for turn in range(3):
            run_id = f"20261120T1139{turn:02}Z-patch-{number:06x}"
            leave(root, run_id)
            found = ask_archive(root, lambda index: select_runs(index, Selection(user="maya"), limit=1000))
            if run_id not in found:
                os._exit(1)
        os._exit(0)
os.close(opener)
sys.exit(max(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children))
"""


def test_runs_that_end_at_once_are_all_in_the_chain_and_in_the_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]))
    root = tmp_path / "archive"
    writers = python(WRITERS, root, PROCESSES)
    writers.communicate(timeout=120)
    assert writers.returncode == 0, "and each run is found at once by who left it"
    verified = verify_archive(root)
    assert (verified.findings, verified.runs, verified.lines) == ((), 3 * PROCESSES, 6 * PROCESSES)
    assert ask_archive(root, count_items) == (3 * PROCESSES, 0, {})


@pytest.mark.soak
def test_whole_runs_that_end_at_once_are_all_in_the_chain_and_in_the_index(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.notebook(code("print('marmot')"))
    for _ in range(3):
        every = [desk.fork("run", "book.ipynb", "--json") for _ in range(PROCESSES)]
        ended = [finish(process, seconds=300) for process in every]
        assert [ran.code for ran in ended] == [0] * PROCESSES, [ran.err for ran in ended]
        ids = {ran.json["run_id"] for ran in ended}
        found = desk.opsbook("runs", "--user", ended[0].json["operator"]["user"], "--limit", "100", "--json")
        assert ids <= {record["run_id"] for record in found.json}
    verified = desk.opsbook("archive", "verify", "--json").json
    assert (verified["well"], verified["runs"], verified["lines"]) == (True, 3 * PROCESSES, 6 * PROCESSES)
    (hit,) = desk.opsbook("search", "marmot", "--limit", "100", "--json").json["hits"]
    assert hit["also"] == 3 * PROCESSES - 1, "one hit, for all runs that said the same"
