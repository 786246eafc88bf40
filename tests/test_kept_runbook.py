"""The runbook kept with a run: byte for byte what ran, unless a secret known at the claim stands in it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import Sshd
from support import LOAD, Desk, Run, code, parameters

from opsbook.redaction import Redactor

NAMES = {"web1": "127.0.0.2"}
TOKEN = "in-the-text-by-mistake"


def broken(desk: Desk, *, text: str = TOKEN) -> Path:
    """A runbook that holds a password of the inventory, and stops in its second cell."""
    counter = desk.folder / "counter"
    desk.notebook(
        LOAD,
        code(f"%%on web\necho {text} >> {counter}", cell_id="change"),
        code(f"import pathlib\nassert pathlib.Path({str(desk.folder / 'fixed')!r}).exists()", cell_id="stop"),
    )
    return counter


@pytest.fixture
def leaky(desk: Desk, sshd: Sshd) -> Desk:
    sshd.inventory(NAMES, desk.folder / "hosts.ini", extra=f"ansible_become_password={TOKEN}\n")
    return desk


def kept(run: Run) -> bytes:
    return (run.folder / "runbook.ipynb").read_bytes()


def test_a_runbook_without_a_secret_is_kept_byte_for_byte(leaky: Desk) -> None:
    broken(leaky, text="harmless")
    assert leaky.opsbook("run", "book.ipynb").code == 1
    run = leaky.run()
    assert kept(run) == (leaky.folder / "book.ipynb").read_bytes()
    assert run.record["runbook"]["masked"] is False


def test_a_password_that_stands_in_a_runbook_is_masked_where_it_is_kept_and_the_record_says_so(leaky: Desk) -> None:
    broken(leaky)
    assert leaky.opsbook("run", "book.ipynb").code == 1
    run = leaky.run()
    assert TOKEN.encode() not in kept(run)
    assert b"echo *** >>" in kept(run)
    json.loads(kept(run))
    assert run.record["runbook"]["masked"] is True
    assert any("kept with that masked" in note for note in run.record["notes"])
    assert leaky.opsbook("archive", "verify").code == 0


def test_a_run_whose_kept_runbook_is_masked_goes_on_with_the_file_as_long_as_it_is_the_same(leaky: Desk) -> None:
    counter = broken(leaky)
    assert leaky.opsbook("run", "book.ipynb").code == 1
    (leaky.folder / "fixed").touch()
    assert leaky.opsbook("resume", "last", "--yes").code == 0
    assert counter.read_text() == f"{TOKEN}\n"
    assert all(TOKEN.encode() not in kept(run) for run in leaky.runs())
    assert leaky.opsbook("archive", "verify").code == 0


@pytest.mark.parametrize("change", ["edited", "gone"])
def test_masked_bytes_never_run_in_the_place_of_a_file_that_is_another_one_by_now(leaky: Desk, change: str) -> None:
    counter = broken(leaky)
    assert leaky.opsbook("run", "book.ipynb").code == 1
    book = leaky.folder / "book.ipynb"
    if change == "gone":
        book.unlink()
    else:
        book.write_bytes(book.read_bytes() + b"\n")
    ran = leaky.opsbook("resume", "last", "--yes", "--accept-changes")
    assert ran.code == 3, ran
    assert "a secret was masked in the runbook kept with run" in ran.err
    assert counter.read_text() == f"{TOKEN}\n"
    assert len(leaky.runs()) == 1


@pytest.mark.parametrize("written", ["Käse/Loch", r"K\u00e4se/Loch", r"K\u00E4se\/Loch", r"\u004bäse/L\u006fch"])
def test_a_value_is_masked_however_a_document_spells_it(written: str) -> None:
    redactor = Redactor()
    redactor.add("Käse/Loch")
    masked = redactor.document(f'{{"source": "login -p {written}", "{written}": ["{written}"]}}'.encode())
    assert json.loads(masked) == {"source": "login -p ***", "***": ["***"]}


def test_a_document_without_a_known_value_keeps_every_byte() -> None:
    redactor, document = Redactor(), b'{ "source" : "n\\u006fthing", "source":1 }\n'
    redactor.add("Käse/Loch")
    assert redactor.document(document) == document


def test_what_is_no_document_is_masked_as_text() -> None:
    redactor = Redactor()
    redactor.add("hidden-value")
    assert redactor.document(b"{ hidden-value") == b"{ ***"


@pytest.mark.parametrize("scheme", ["env", "file"])
def test_a_secret_parameter_whose_value_stands_in_the_runbook_is_masked_where_it_is_kept(
    desk: Desk, scheme: str
) -> None:
    (desk.folder / "token").write_text(f"{TOKEN}\n")
    reference = {"env": "env:TOKEN", "file": f"file:{desk.folder}/token"}[scheme]
    desk.notebook(LOAD, parameters(f'token: Secret = "{reference}"'), code(f"print({TOKEN!r})", cell_id="say"))
    ran = desk.opsbook("run", "book.ipynb", env={**desk.environment, "TOKEN": TOKEN})
    assert ran.code == 0, ran
    for file in desk.run().folder.rglob("*"):
        assert not file.is_file() or TOKEN.encode() not in file.read_bytes(), file
    assert desk.run().record["runbook"]["masked"] is True
