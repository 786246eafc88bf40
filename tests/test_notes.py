"""Notes: what people write about cells is shown to whoever runs them, and what blocks stops a run until it is heard."""

from __future__ import annotations

import os
import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import Desk, code, parameters, prose

from opsbook.config import load_settings
from opsbook.errors import RunbookError, UsageError
from opsbook.execution.request import Noted
from opsbook.model.note import Note, Severity
from opsbook.runbook.lineage import notebook_origin
from opsbook.runbook.minting import mint
from opsbook.runbook.notes import MOST_BYTES, add_note, find_note, notes_on, read_notes

ORIGIN = "7f9a0f6e-c1b4-11f0-8de9-0242ac120002"
ID = "20261103-patch-4f2a9c"
GOOD = f"---\nseverity: warn\norigin: {ORIGIN}\nauthor: maya\ndate: 2026-11-03T10:00:00Z\n---\n\nIt hangs.\n"
WORDS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60)
BOOK = (
    prose("# Patch"),
    parameters('stack: str = "dev"'),
    prose("## Update"),
    code("print('updating')", cell_id="update"),
    prose("## Reboot"),
    code("print('rebooting')", "risky", cell_id="reboot"),
)


def asked(text: str = "It hangs.", **fields: object) -> Note:
    return Note(**{"id": "", "severity": Severity.WARN, "subject": ORIGIN, "author": "maya", "text": text, **fields})


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    made = Desk(tmp_path)
    made.notebook(*BOOK, name="patch.ipynb")
    return made


def test_a_note_is_a_markdown_file_a_person_can_write(tmp_path: Path) -> None:
    (tmp_path / f"{ID}.md").write_text(GOOD)
    (note,) = read_notes(tmp_path)
    assert (note.id, note.severity, note.subject, note.text) == (ID, Severity.WARN, ORIGIN, "It hangs.")
    assert note.date == datetime(2026, 11, 3, 10, tzinfo=UTC)
    assert note.sentence == "note (warn, maya, 3 Nov 2026): It hangs."
    made = add_note(tmp_path, asked(author="maya", target="patch.ipynb"), name="Patch Day")
    lines = (tmp_path / f"{made.id}.md").read_text().splitlines()
    assert lines[:4] == ["---", "severity: warn", f"origin: {ORIGIN}", "target: patch.ipynb"]
    assert lines[-3:] == ["---", "", "It hangs."]
    assert "patch-day" in made.id


@given(text=WORDS, author=WORDS, target=WORDS, severity=st.sampled_from(Severity))
@settings(max_examples=60, deadline=None)
def test_what_was_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, text: str, author: str, target: str, severity: Severity
) -> None:
    folder = tmp_path_factory.mktemp("notes")
    if not text.strip():
        with pytest.raises(UsageError, match="says nothing"):
            add_note(folder, asked(text), name="x")
        return
    made = add_note(folder, asked(text, author=author, target=target, severity=severity), name=target)
    (read,) = read_notes(folder)
    newlines = {name: getattr(made, name).replace("\r\n", "\n").strip() for name in ("text",)}
    assert read.text == newlines["text"]
    assert (read.author, read.target, read.severity, read.subject) == (author, target, severity, ORIGIN)
    assert read.date == made.date
    assert not read.problem


def test_notes_go_by_date_and_the_blocking_ones_stand_first() -> None:
    notes = [asked(id="a"), asked(id="b", severity=Severity.BLOCK), asked(id="c", subject="other")]
    assert [note.id for note in notes_on(notes, {ORIGIN})] == ["b", "a"]


DAMAGED = {
    "empty": ("", True),
    "no front matter": ("It hangs.", True),
    "cut in the middle": (GOOD[:30], False),
    "cut before the severity": (GOOD[:8], True),
    "another severity": (GOOD.replace("warn", "urgent"), True),
    "another origin": (GOOD.replace(ORIGIN, "somewhere"), False),
    "a conflict of git's": (GOOD.replace("severity: warn", "<<<<<<< ours\n=======\nseverity: block\n>>>>>>>"), True),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_note_blocks_unless_it_shows_that_it_does_not_and_hides_no_other(kind: str, tmp_path: Path) -> None:
    text, blocks = DAMAGED[kind]
    (tmp_path / f"{ID}.md").write_text(text)
    (tmp_path / "20261101-other-4f2a9c.md").write_text(GOOD)
    (tmp_path / "README.md").write_text("These are our notes.")
    damaged, whole = read_notes(tmp_path)
    assert whole.text == "It hangs."
    assert damaged.blocks is blocks
    assert damaged in notes_on([damaged], {ORIGIN}), "it may be about anything"
    assert bool(damaged.problem) is (kind != "a conflict of git's")


def test_what_is_no_file_of_ours_is_damaged_and_never_waited_for(tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    notes.mkdir()
    (tmp_path / "whole.md").write_text(GOOD)
    os.mkfifo(notes / "20261102-fifo-4f2a9c.md")
    (notes / "20261102-link-4f2a9c.md").symlink_to(tmp_path / "whole.md")
    (notes / "20261102-folder-4f2a9c.md").mkdir()
    (notes / "20261102-bytes-4f2a9c.md").write_bytes(b"---\nseverity: info\xff\n---\n")
    (notes / "20261102-large-4f2a9c.md").write_text(GOOD + "x" * MOST_BYTES)
    found = {note.id.split("-")[1]: note for note in read_notes(notes)}
    assert len(found) == 5
    assert all(note.problem and note.blocks and not note.subject for note in found.values())
    assert found["fifo"].problem == "it is no regular file"
    assert "larger" in found["large"].problem


def test_a_folder_that_cannot_be_read_is_told_and_one_that_is_not_there_is_empty(tmp_path: Path) -> None:
    assert read_notes(tmp_path / "none") == ()
    (tmp_path / "file").write_text("")
    with pytest.raises(RunbookError, match="cannot be read"):
        read_notes(tmp_path / "file")


def test_notes_lie_beside_the_settings_unless_these_say_where(tmp_path: Path) -> None:
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    assert load_settings(below, {}).notes.path == "notes"
    (tmp_path / "opsbook.toml").write_text("")
    assert load_settings(below, {}).notes.path == str(tmp_path / "notes")
    (tmp_path / "opsbook.toml").write_text('[notes]\npath = "team/notes"\n')
    assert load_settings(below, {}).notes.path == str(tmp_path / "team/notes")
    for wrong in ('notes = "here"', "[notes]\npth = 'x'", 'meme = "never"'):
        (tmp_path / "opsbook.toml").write_text(wrong)
        with pytest.raises(UsageError):
            load_settings(below, {})


def test_a_note_is_meant_by_its_id_or_a_unique_part_of_it() -> None:
    notes = [asked(id="20261103-patch-4f2a9c"), asked(id="20261103-patch-aaaaaa")]
    assert find_note(notes, "4f2a9c") is notes[0]
    assert find_note(notes, notes[1].id) is notes[1]
    for text, said in (("20261103", "2 notes match"), ("nothing", "there is no note"), ("", "there is no note")):
        with pytest.raises(UsageError, match=said):
            find_note(notes, text)


def test_only_what_is_acknowledged_by_name_no_longer_blocks() -> None:
    one, two, calm = asked(id="one", severity=Severity.BLOCK), asked(id="two", severity=Severity.BLOCK), asked(id="w")
    noted = Noted(found=(one, two, calm), acknowledged=("one", "w"))
    assert noted.blocking == (two,)
    assert [row.note for row in noted.overruled("leo")] == ["one"]


def test_a_blocking_note_stops_a_run_before_its_kernel_starts_until_it_is_acknowledged(desk: Desk) -> None:
    added = desk.opsbook("note", "add", "patch.ipynb#2", "-m", "hangs on \x1b[2Jheld kernels", "--severity", "block")
    file = Path(added.out.strip())
    desk.opsbook("note", "add", "patch.ipynb", "-m", "ask maya first")
    refused = desk.opsbook("run", "patch.ipynb")
    assert refused.code == 3
    assert "hangs on \\x1b[2Jheld kernels" in refused.err
    assert f"--ack-note {file.stem}" in refused.err
    assert desk.kernels() == []
    assert desk.runs() == []

    ran = desk.opsbook("run", "patch.ipynb", "--ack-note", file.stem.rpartition("-")[2])
    assert ran.code == 0
    assert "ask maya first" in ran.err, "said before it starts"
    assert "ask maya first" in ran.out, "and in the summary"
    assert "\x1b" not in ran.out + ran.err + refused.err
    record = desk.run().record
    (acknowledged,) = record["acknowledged"]
    assert acknowledged["note"] == file.stem
    assert acknowledged["by"] == record["operator"]["user"]
    assert any(file.stem in note and "acknowledged" in note for note in record["notes"])
    silent = desk.opsbook("run", "patch.ipynb", "--ack-note", file.stem, "--quiet")
    assert (silent.code, silent.out, silent.err) == (0, "", "")

    shown = desk.opsbook("show", "last", "--json").json
    assert {row["severity"] for row in shown["noted"]} == {"block", "info"}
    removed = desk.opsbook("note", "rm", file.stem)
    assert removed.code == 0
    assert not file.exists()
    assert desk.opsbook("run", "patch.ipynb", "--quiet").code == 0


def test_notes_are_shown_wherever_the_cells_are_and_go_along_with_copies(desk: Desk) -> None:
    mint(desk.folder / "patch.ipynb")
    shutil.copy(desk.folder / "patch.ipynb", desk.folder / "copied.ipynb")
    desk.opsbook("note", "add", "patch.ipynb#reboot", "-m", "not on mondays", "--severity", "block")
    for word, exit_code in (("show", 0), ("plan", 3), ("check", 0), ("note list", 0)):
        shown = desk.opsbook(*word.split(), "copied.ipynb")
        assert (shown.code, "not on mondays" in shown.out) == (exit_code, True), shown
    plan = desk.opsbook("plan", "copied.ipynb", "--json").json
    assert [row["text"] for row in plan["noted"]] == ["not on mondays"]
    assert plan["refused"].startswith("this run is blocked: note on patch.ipynb#")
    acknowledged = desk.opsbook("plan", "copied.ipynb", "--ack-note", plan["noted"][0]["id"])
    assert (acknowledged.code, acknowledged.out.endswith("nothing was run\n")) == (0, True)
    assert desk.opsbook("run", "copied.ipynb").code == 3
    assert desk.opsbook("note", "list", "copied.ipynb#update", "--json").json == []
    part = desk.opsbook("run", "copied.ipynb", "--skip-tags", "risky", "--json")
    assert part.code == 0, "the cell it is about does not run"
    assert part.json["acknowledged"] == []


def test_notes_are_about_runs_and_memes_too(desk: Desk) -> None:
    desk.opsbook("run", "patch.ipynb", "--quiet")
    run_id = desk.run().folder.name
    desk.opsbook("note", "add", "last", "-m", "leo watched this one")
    desk.opsbook("note", "add", notebook_origin("patch"), "-m", "about all of it")
    shown = desk.opsbook("show", "last").out
    assert "leo watched this one" in shown
    assert "about all of it" in shown
    listed = {row["text"]: row for row in desk.opsbook("note", "list", run_id, "--json").json}
    assert listed["leo watched this one"]["subject"] == run_id
    assert listed["about all of it"]["subject"] == notebook_origin("patch")
    other = desk.opsbook("show", "patch.ipynb").out
    assert "leo watched this one" not in other
    assert "about all of it" in other


def test_a_damaged_note_is_listed_and_keeps_a_run_from_starting(desk: Desk) -> None:
    desk.write("opsbook.toml", '[notes]\npath = "team"\n')
    desk.opsbook("note", "add", "patch.ipynb", "-m", "ask maya first")
    (desk.folder / "team" / f"{ID}.md").write_text("---\n")
    listed = desk.opsbook("note", "list").out
    assert "damaged" in listed
    assert "ask maya first" in listed
    refused = desk.opsbook("run", "patch.ipynb")
    assert refused.code == 3
    assert ID in refused.err
    assert desk.opsbook("run", "patch.ipynb", "--ack-note", ID, "--quiet").code == 0
