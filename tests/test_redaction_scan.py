"""The last scan: a secret that becomes known after it was written is masked everywhere, and the record says where."""

from __future__ import annotations

import json

from support import LOAD, Desk, code

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
