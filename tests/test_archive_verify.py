"""`opsbook archive verify`: whatever is changed in an archive afterwards is named."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from archived import make_record
from chained import IDS, NOTEBOOK, chain_lines, edit, make_run, put_lines, wrong
from support import Desk, code

from opsbook.archive.chain import CHAIN, ChainKind, ChainLine, append_line
from opsbook.archive.claimed import ClaimedRun
from opsbook.archive.journal import Journal
from opsbook.archive.layout import Claim, run_folder
from opsbook.archive.links import digest_of
from opsbook.archive.verify import verify_archive
from opsbook.model import event as e
from opsbook.model.run import RunState
from opsbook.redaction import Redactor

pytest_plugins = ["chain_desk"]


def without_journal_line(root: Path, seq: int) -> None:
    journal = run_folder(root, IDS[1]).journal
    lines = journal.read_bytes().splitlines(keepends=True)
    put_lines(journal, lines[: seq - 1] + lines[seq:])


def rewritten_journal(root: Path) -> None:
    """Write a whole new journal that holds together."""
    folder = run_folder(root, IDS[1])
    folder.journal.unlink()
    journal = Journal(folder.journal, Redactor())
    journal.append([e.RunStarted(run_id=IDS[1], title="Patch")] * 6, durable=True)
    journal.close()


CUT = "was changed, or lines behind it were removed"
EDITED: dict[str, tuple[str, bytes, bytes, str]] = {
    "record": ("record", b"succeeded", b"failed", "run.json was changed"),
    "copy": ("copy", b"cells", b"calls", "patch--20261120T113951Z-7f3a21.ipynb was changed"),
    "runbook": ("source", b"cells", b"calls", "runbook.ipynb was changed"),
    "journal line": ("journal", b'"state":"ok"', b'"state":"failed"', "events.jsonl: line 3 was changed"),
    "first journal line": ("journal", b"Patch", b"Batch", "events.jsonl: line 1 was changed"),
    "last journal line": ("journal", b'"exit_code":0', b'"exit_code":1', f"events.jsonl: line 6 {CUT}"),
    "journal line made rubbish": ("journal", b'{"seq":4', b"{seq:4", "events.jsonl: line 4 is damaged"),
    "line added": ("journal", b'""}}\n', b'""}}\n{}', "events.jsonl: something was added behind line 6"),
    "lines added": ("journal", b'""}}\n', b'""}}\n{}\n', "events.jsonl: line 7 is damaged"),
}
"""What somebody changed in a run's folder: the file, the bytes, and what is said of it."""
DONE: dict[str, tuple[Callable[[Path], object], str]] = {
    "record gone": (lambda root: run_folder(root, IDS[1]).record.unlink(), "run.json is gone"),
    "copy gone": (
        lambda root: run_folder(root, IDS[1]).copy.unlink(),
        "patch--20261120T113951Z-7f3a21.ipynb is gone",
    ),
    "runbook gone": (lambda root: run_folder(root, IDS[1]).source.unlink(), "runbook.ipynb is gone"),
    "journal gone": (lambda root: run_folder(root, IDS[1]).journal.unlink(), "events.jsonl is gone"),
    "journal line removed": (lambda root: without_journal_line(root, 3), "events.jsonl: line 3 missing"),
    "last journal line removed": (lambda root: without_journal_line(root, 6), f"events.jsonl: line 5 {CUT}"),
    "journal rewritten": (rewritten_journal, f"events.jsonl: line 6 {CUT}"),
    "run gone": (lambda root: shutil.rmtree(run_folder(root, IDS[1]).path), "its folder is gone"),
}


@pytest.mark.parametrize("what", EDITED)
def test_whatever_was_edited_in_a_run_it_is_named_and_no_other(archive: Path, what: str) -> None:
    name, old, new, told = EDITED[what]
    edit(getattr(run_folder(archive, IDS[1]), name), old, new)
    assert wrong(archive) == [(IDS[1], told)]
    assert wrong(archive, only=IDS[0]) == []


@pytest.mark.parametrize("what", DONE)
def test_whatever_was_done_to_a_run_it_is_named_and_no_other(archive: Path, what: str) -> None:
    do, told = DONE[what]
    do(archive)
    assert wrong(archive) == [(IDS[1], told)]
    assert wrong(archive, only=IDS[1]) == [(IDS[1], told)]
    assert wrong(archive, only=IDS[0]) == []


def test_a_run_that_was_put_into_the_archive_is_named(archive: Path) -> None:
    folder = run_folder(archive, "20261120T120000Z-patch-000000")
    shutil.copytree(run_folder(archive, IDS[0]).path, folder.path)
    assert wrong(archive) == [
        (folder.run_id, f"its claim is in no line of {CHAIN}: it was put there, or the line was removed")
    ]


def test_a_link_in_the_place_of_a_run_is_not_followed(archive: Path, tmp_path: Path) -> None:
    folder = run_folder(archive, IDS[1])
    folder.path.rename(tmp_path / "elsewhere")
    folder.path.symlink_to(tmp_path / "elsewhere")
    assert wrong(archive) == [(IDS[1], "its folder is a link")]


def test_a_line_removed_from_the_middle_of_the_chain_or_changed_is_named(archive: Path) -> None:
    lines = chain_lines(archive)
    put_lines(archive / CHAIN, lines[:3] + lines[4:])
    assert ("", f"{CHAIN}: line 4 missing") in wrong(archive)
    put_lines(archive / CHAIN, lines[:1] + lines[3:])
    assert ("", f"{CHAIN}: lines 2 to 3 missing") in wrong(archive)
    put_lines(archive / CHAIN, [*lines[:3], lines[3].replace(b'"at":"2', b'"at":"3'), *lines[4:]])
    assert wrong(archive) == [("", f"{CHAIN}: line 4 was changed")]
    put_lines(archive / CHAIN, [*lines[:3], b"rubbish\n", *lines[4:]])
    assert ("", f"{CHAIN}: line 4 is damaged") in wrong(archive)
    put_lines(archive / CHAIN, [*lines[:2], lines[3], lines[2], *lines[4:]])
    assert ("", f"{CHAIN}: line 3 missing") in wrong(archive)


def test_a_chain_cut_at_its_end_shows_by_the_runs_it_no_longer_knows(archive: Path) -> None:
    lines = chain_lines(archive)
    put_lines(archive / CHAIN, lines[:4])
    assert wrong(archive) == [
        (IDS[2], f"its claim is in no line of {CHAIN}: it was put there, or the line was removed")
    ]
    put_lines(archive / CHAIN, lines[:5])
    assert wrong(archive) == [(IDS[2], "run.json was changed")]
    (archive / CHAIN).unlink()
    assert [run_id for run_id, _ in wrong(archive)] == IDS


def test_a_chain_cut_together_with_its_runs_shows_by_a_hash_that_was_kept_elsewhere(archive: Path) -> None:
    head = verify_archive(archive).head
    lines = chain_lines(archive)
    assert digest_of(lines[-1][:-1]) == head
    make_run(archive, "20261120T120000Z-patch-7f3a2f")
    assert wrong(archive, head=head) == []
    put_lines(archive / CHAIN, lines[:4])
    shutil.rmtree(run_folder(archive, IDS[2]).path)
    shutil.rmtree(run_folder(archive, "20261120T120000Z-patch-7f3a2f").path)
    assert wrong(archive) == []
    assert wrong(archive, head=head) == [("", f"{CHAIN}: no line has the hash {head}: it was cut or rewritten")]


def test_a_run_whose_end_stands_twice_in_the_chain_was_rewritten(archive: Path) -> None:
    folder = run_folder(archive, IDS[1])
    edit(folder.record, b"succeeded", b"failed")
    heads = msgspec.json.decode(chain_lines(archive)[3], type=ChainLine).heads
    forged = msgspec.structs.replace(heads, record=digest_of(folder.record.read_bytes()))
    append_line(archive, run_id=IDS[1], kind=ChainKind.ENDED, heads=forged)
    assert wrong(archive) == [(IDS[1], f"it was rewritten: {CHAIN} has its end 2 times")]
    append_line(archive, run_id=IDS[0], kind=ChainKind.CLAIMED, heads=forged)
    assert wrong(archive)[0] == (IDS[0], f"claimed once more in line 8 of {CHAIN}")


def test_a_line_of_a_newer_kind_is_passed_over(archive: Path) -> None:
    lines = chain_lines(archive)
    newer = {"seq": 7, "at": "2026-11-20T12:00:00Z", "run_id": IDS[0], "kind": "pruned", "heads": {"record": ""}}
    prev = digest_of(lines[-1][:-1])
    put_lines(archive / CHAIN, [*lines, json.dumps({**newer, "prev": prev, "colour": 1}).encode() + b"\n"])
    assert wrong(archive) == []


# what is no fault of the archive


def others(root: Path) -> list[tuple[str, str]]:
    return [(one.run_id, one.verdict.value) for one in verify_archive(root).findings]


def test_a_run_that_was_killed_is_said_to_be_interrupted_and_nothing_is_wrong(tmp_path: Path) -> None:
    files = make_run(tmp_path, IDS[0], ends=False)
    with files.folder.journal.open("ab") as torn:
        torn.write(b'{"seq":6,"at":')
    assert others(tmp_path) == [(IDS[0], "interrupted")]
    edit(files.folder.record, b"running", b"failed")
    assert wrong(tmp_path) == [(IDS[0], "run.json was changed")]


def test_a_run_that_goes_on_is_said_to_be_running(tmp_path: Path) -> None:
    folder = run_folder(tmp_path, IDS[0])
    files = ClaimedRun(folder, record=msgspec.json.encode(make_record(IDS[0])), runbook=NOTEBOOK)
    assert others(tmp_path) == [(IDS[0], "running")]
    files.release()
    files = Claim(run_folder(tmp_path, IDS[1]))
    assert others(tmp_path)[1:] == [(IDS[1], "running")], "it is on its way into the chain"
    files.release()
    assert others(tmp_path)[1:] == [(IDS[1], "interrupted")], "it was killed on its way into the chain"


def test_a_run_killed_before_its_record_took_its_place_is_vouched_for_by_its_journal(archive: Path) -> None:
    record = run_folder(archive, IDS[1]).record
    record.write_bytes(msgspec.json.encode(make_record(IDS[1])))
    assert others(archive) == [(IDS[1], "interrupted")]
    edit(run_folder(archive, IDS[1]).journal, b'"exit_code":0', b'"exit_code":1')
    assert wrong(archive) != []


def test_a_run_that_ends_while_the_archive_is_looked_through_is_well(archive: Path) -> None:
    """It is in the list of folders, and its end comes into the chain after that was read."""
    run_id = "20261120T100000Z-patch-000000"  # before all others
    files = ClaimedRun(run_folder(archive, run_id), record=msgspec.json.encode(make_record(run_id)), runbook=NOTEBOOK)
    journal = Journal(files.folder.journal, Redactor())

    def end(done: int, of: int) -> None:
        if done == 0:
            journal.append([e.RunEnded(status=RunState.SUCCEEDED, exit_code=0)], durable=True)
            record = msgspec.json.encode(make_record(run_id, RunState.SUCCEEDED, exit_code=0))
            files.finish(record, journal=journal.head, copy="")
            files.release()

    found = verify_archive(archive, watch=end)
    assert found.findings == ()
    journal.close()


def test_an_archive_that_is_not_there_is_well(tmp_path: Path) -> None:
    found = verify_archive(tmp_path / "nowhere")
    assert (found.runs, found.lines, found.is_well) == (0, 0, True)


# the command


def test_the_command_names_what_is_wrong_and_says_it_with_its_exit_code(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.notebook(code("1"))
    assert desk.opsbook("run", "book.ipynb").code == 0
    run = desk.run()
    well = desk.opsbook("archive", "verify", "last", "--json")
    assert (well.code, well.json["well"], well.json["runs"], well.json["lines"]) == (0, True, 1, 2)
    assert desk.opsbook("archive", "verify", "--head", well.json["head"]).code == 0
    edit(run.folder / "runbook.ipynb", b"1", b"2")
    told = desk.opsbook("archive", "verify")
    assert told.code == 1
    assert f"wrong        {run.folder.name}  runbook.ipynb was changed" in told.out
    assert "archive: 1 run, 2 lines in the chain: 1 wrong" in told.out
    assert told.err == ""
    shutil.rmtree(run.folder)
    gone = desk.opsbook("archive", "verify", run.folder.name, "--json")
    assert (gone.code, gone.json["findings"][0]["what"]) == (1, "its folder is gone")
    assert desk.opsbook("archive", "verify", "nothing").code == 2


@pytest.mark.soak
@pytest.mark.timeout(1200)
def test_ten_thousand_runs_are_verified_in_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)
    for number in range(10_000):
        make_run(tmp_path, f"20261120T{number // 3600:02}{number // 60 % 60:02}{number % 60:02}Z-patch-{number:06x}")
    began = time.monotonic()
    found = verify_archive(tmp_path)
    sys.stdout.write(f"{found.runs} runs in {time.monotonic() - began:.1f} s\n")
    assert (found.runs, found.is_well) == (10_000, True)
    assert time.monotonic() - began < 60
    (tmp_path / CHAIN).unlink()
    assert len(verify_archive(tmp_path).findings) == 10_000
    assert time.monotonic() - began < 120
