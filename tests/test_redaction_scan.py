"""The last scan: a secret that becomes known after it was written is masked everywhere, and the record says where.

What little was written is looked through when it becomes known, so that a run that is killed has it masked by then.
What cannot be masked at the end is told.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from recording import journalled, output, record_in
from support import LOAD, Desk, code, finish, wait_for

from opsbook.archive.layout import RunFolder
from opsbook.execution import recorder as recording_side
from opsbook.model.event import CellOutput, MetricRecorded
from opsbook.redaction import Redactor

NAMES = {"web1": "127.0.8.13"}
VALUE = "known-too-late-77"


def late(desk: Desk, *, ends: str = "") -> dict[str, str]:
    desk.write("value", VALUE)
    desk.notebook(
        LOAD,
        code(f"%%on web --read-only\ncat {desk.folder}/value", cell_id="on"),
        code("first = open('value').read()\nprint('early', first)\nx = 'known-too-late-77'", cell_id="early"),
        code("from opsbook import secret\nlater = secret('env:LATE').reveal()", cell_id="reveal"),
        code(f"print('late', later)\n{ends}", cell_id="late"),
    )
    return {**desk.environment, "LATE": VALUE}


def test_a_secret_revealed_after_it_was_printed_stands_in_no_file_and_is_an_incident(desk: Desk) -> None:
    ran = desk.opsbook("run", "book.ipynb", "--json", env=late(desk))
    assert ran.code == 0, ran
    run = desk.run()
    for file in run.folder.rglob("*"):
        assert not file.is_file() or VALUE.encode() not in file.read_bytes(), file
    assert VALUE not in ran.out
    record = run.record
    assert {incident["file"] for incident in record["incidents"]} == {"runbook.ipynb", "events.jsonl", "hosts/web1.log"}
    assert {incident["secret"] for incident in record["incidents"]} == {"env:LATE"}
    assert any("env:LATE was written to hosts/web1.log (line 1)" in note for note in record["notes"])
    assert record["runbook"]["masked"] is True
    assert str(len(VALUE)) not in json.dumps([record["incidents"], record["notes"]])
    assert run.output("early") == "early ***\n"
    assert (run.folder / "hosts/web1.log").read_text() == "***"
    (ended,) = run.events("target_ended")
    assert (ended["stdout"], ended["masked"]) == ("***", True)
    verified = desk.opsbook("archive", "verify", "--json")
    assert verified.code == 0, verified


def test_a_run_whose_journal_was_masked_again_can_be_resumed(desk: Desk) -> None:
    env = late(desk, ends=f"import pathlib\nassert pathlib.Path({str(desk.folder / 'fixed')!r}).exists()")
    assert desk.opsbook("run", "book.ipynb", env=env).code == 1
    (desk.folder / "fixed").touch()
    ran = desk.opsbook("resume", "last", "--yes", env=env)
    assert ran.code == 0, ran
    for run in desk.runs():
        assert VALUE not in (run.folder / "events.jsonl").read_text()
    assert desk.opsbook("archive", "verify").code == 0


def test_a_secret_is_masked_in_journal_and_logs_when_it_becomes_known_and_a_killed_run_says_what_may_be_left(
    desk: Desk,
) -> None:
    env = late(
        desk,
        ends="import pathlib, time\nup = pathlib.Path('up')\nwas = up.exists()\nup.touch()\nwas or time.sleep(60)",
    )
    process = desk.start("run", "book.ipynb", env=env)
    wait_for((desk.folder / "up").exists)
    process.kill()
    finish(process)
    run = desk.run()
    assert run.record["status"] == "running", "it had no time for last words"
    wait_for(lambda: desk.opsbook("runs", "--json").json[0]["status"] == "interrupted")
    for name in ("events.jsonl", "hosts/web1.log"):
        assert VALUE not in (run.folder / name).read_text()
    assert VALUE in (run.folder / "runbook.ipynb").read_text(), "the chain vouches for it until the end"
    sentence = "killed before its last scan: what it wrote before it knew env:LATE may stand in its files in clear"
    assert sentence in desk.opsbook("show", "last", "--json").json["notes"]
    ((left,),) = [one["left"] for one in desk.opsbook("archive", "export", "--commuter", "out", "--json", env=env).json]
    assert left == {"run_id": run.folder.name, "why": sentence}, "it is not handed on"
    assert "nothing found" in desk.opsbook("search", VALUE, env=env).err
    for command in (("show", "last"), ("logs", "last"), ("archive", "verify"), ("resume", "last", "--yes", "--json")):
        ran = desk.opsbook(*command, env=env | {"QUICK": "1"})
        assert ran.code == 0, ran
        assert sentence in " ".join(f"{ran.out} {ran.err}".split()), command


def test_a_run_that_was_stopped_was_looked_through_and_nothing_else_is_said_of_it(desk: Desk) -> None:
    waits = "import pathlib, time\nup = pathlib.Path('up')\nwas = up.exists()\nup.touch()\nwas or time.sleep(60)"
    env = late(desk, ends=waits)
    process = desk.start("run", "book.ipynb", env=env)
    wait_for((desk.folder / "up").exists)
    process.terminate()
    assert finish(process).code == 143
    for command in (("logs", "last"), ("resume", "last", "--yes", "--json")):
        ran = desk.opsbook(*command, env=env)
        assert ran.code == 0, ran
        assert "before its last scan" not in f"{ran.out} {ran.err}", command


def test_what_is_too_much_to_be_looked_through_at_once_is_masked_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "hosts").mkdir()
    folder, redactor = RunFolder(run_id="r", path=tmp_path), Redactor()
    monkeypatch.setattr(recording_side, "_SCANNED", 0)
    recorder = record_in(folder, redactor=redactor)
    recorder.submit(CellOutput(cell_id="a", stream="stdout", text=VALUE))
    recorder.submit(output(f"{VALUE}\n"))
    recorder.settle()
    redactor.add(VALUE, name="env:LATE")
    recorder.submit(MetricRecorded(name="m", value=1))
    recorder.settle()
    assert VALUE in folder.journal.read_text()
    assert VALUE in folder.host_log("web1").read_text()
    recorder.scan()
    assert VALUE not in folder.journal.read_text()
    assert VALUE not in folder.host_log("web1").read_text()
    assert [one.file for one in recorder.incidents] == ["events.jsonl", "hosts/web1.log"]
    recorder.close()
    assert len(journalled(folder)) == 2


def test_a_value_that_becomes_known_between_its_two_pieces_is_masked_at_the_end(tmp_path: Path) -> None:
    (tmp_path / "hosts").mkdir()
    folder, redactor = RunFolder(run_id="r", path=tmp_path), Redactor()
    recorder = record_in(folder, redactor=redactor)
    for piece in (VALUE[:9], VALUE[9:]):
        recorder.submit(CellOutput(cell_id="a", stream="stdout", text=piece))
        recorder.submit(output(piece))
        recorder.settle()
        redactor.add(VALUE, name="env:LATE")
    recorder.scan()
    recorder.close()
    assert folder.host_log("web1").read_text() == "***"
    assert "".join(event.text for event in journalled(folder) if isinstance(event, CellOutput)) == "***"


needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can mount something")
FILL = """import contextlib
with open("archive/other", "wb", buffering=0) as other, contextlib.suppress(OSError):
    while other.write(b"x" * 4096):
        pass
"""


@pytest.fixture
def mounted(desk: Desk) -> Iterator[Desk]:
    """A desk whose archive is taken off whatever is mounted in it."""
    yield desk
    for place in sorted((desk.folder / "archive").rglob("*"), reverse=True):
        if place.is_mount():
            subprocess.run(["umount", "-l", str(place)], check=True)
    subprocess.run(["umount", "-l", str(desk.folder / "archive")], check=False, capture_output=True)


def mount(*words: str | Path) -> None:
    done = subprocess.run(["mount", *map(str, words)], check=False, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")


@needs_root
@pytest.mark.parametrize("long", [f"# {'much text ' * 110_000}", "print('y' * 900_000)"], ids=["runbook", "copy"])
def test_on_a_full_disk_files_are_masked_in_their_own_bytes_and_the_incident_is_recorded(
    mounted: Desk, long: str
) -> None:
    desk = mounted
    (desk.folder / "archive").mkdir()
    mount("-t", "tmpfs", "-o", "size=8m,mode=700", "tmpfs", desk.folder / "archive")
    desk.write("value", f"{VALUE}\n" * 20_000)
    desk.notebook(
        LOAD,
        code(f"%%on web --read-only\ncat {desk.folder}/value", cell_id="on"),
        code(f"{long}\nx = '{VALUE}'", cell_id="long"),
        code(long, cell_id="more"),
        code("print(open('value').read())", cell_id="early"),
        code(f"{FILL}\nfrom opsbook import secret\nsecret('env:LATE').reveal()", cell_id="reveal"),
    )
    ran = desk.opsbook("run", "book.ipynb", "--json", env={**desk.environment, "LATE": VALUE})
    assert ran.code == 5, ran
    run = desk.run()
    for file in run.folder.rglob("*"):
        assert not file.is_file() or VALUE.encode() not in file.read_bytes(), file
    assert not run.copies, "there was no room for another one"
    incidents = run.record["incidents"]
    assert {one["file"] for one in incidents} == {"runbook.ipynb", "events.jsonl", "hosts/web1.log"}
    assert {one["masked"] for one in incidents} == {True}
    assert "No space left" in run.record["reason"]
    assert desk.opsbook("archive", "verify").code == 0


PIN = """import pathlib, subprocess
(run,) = pathlib.Path("archive").glob("*/*/*/*Z-*")
for file in (run / "runbook.ipynb", run / "hosts/web1.log"):
    subprocess.run(["mount", "--bind", file, file], check=True)
    subprocess.run(["mount", "-o", "remount,ro,bind", file], check=True)
"""


@needs_root
def test_what_cannot_be_masked_is_named_in_the_record_and_by_the_exit_code(mounted: Desk) -> None:
    desk = mounted
    (desk.folder / "archive").mkdir()
    mount("-t", "tmpfs", "-o", "size=8m,mode=700", "tmpfs", desk.folder / "archive")
    env = late(desk)
    book = json.loads((desk.folder / "book.ipynb").read_text())
    book["cells"][-2:] = reversed(book["cells"][-2:])  # the files are fixed first, and the secret is known then
    book["cells"][-2]["source"] = PIN
    desk.write("book.ipynb", json.dumps(book))
    ran = desk.opsbook("run", "book.ipynb", "--json", env=env)
    assert ran.code == 5, ran
    run = desk.run()
    told = {one["file"]: one["masked"] for one in run.record["incidents"]}
    assert told == {"events.jsonl": True, "runbook.ipynb": False, "hosts/web1.log": False}
    assert {name for name in told if VALUE in (run.folder / name).read_text()} == {"runbook.ipynb", "hosts/web1.log"}
    assert run.record["runbook"]["masked"] is False
    assert run.record["reason"].startswith("cannot write ")
    for where in ("hosts/web1.log (line 1)", "runbook.ipynb"):
        left = f"was written to {where} before it was known to be a secret; it could not be masked and still stands"
        assert any(left in note for note in run.record["notes"])
    assert desk.opsbook("archive", "verify").code == 0
