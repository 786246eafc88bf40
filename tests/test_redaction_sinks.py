"""Every place a run writes to, and every stream it speaks on: none of them shows a secret the run was given."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from support import LOAD, Desk, Ran, code, parameters, prose

NAMES = {"web1": "127.0.8.11"}
VALUE = "Zauber/Nuß&7 eins\nzweite-Zeile"
LINE = "zweite-Zeile"
CODED = base64.b64encode(VALUE.encode()).decode()
TOKEN = "ghp_" + "a1B2" * 9

SAY = f"""
import base64, sys, IPython.display as shown
from opsbook import record
value = open("value", newline="").read()
for stream in (sys.stdout, sys.stderr):
    for letter in value + "\\n":
        print(letter, end="", flush=True, file=stream)
print(value[:9], end="", flush=True)
shown.display(shown.Markdown("between"))
print(value[9:], flush=True)
print(base64.encodebytes(("x" * 50 + value * 3).encode()).decode())
shown.display({{"text/plain": value, "text/html": value.split("\\n"), "application/json": {{value: [value]}}}},
    metadata={{"about": value}}, raw=True)
record("measured", value)
record(value, 1)
clear = "{TOKEN}"
print("letter by letter, and", clear)
"""
ON = "cat value; printf zweite-; sleep 0.3; echo Zeile; base64 -w 10 value; sed 's/^/x/' value >&2; printf 'zweite-'"
LEFT = [*VALUE.split("\n"), TOKEN, CODED, CODED[:24], VALUE.encode().hex(), "hunter22"]


def leaky(desk: Desk) -> None:
    """A runbook that tells its secret wherever a runbook can."""
    picture = {"picture.png": {"image/png": CODED}}
    desk.notebook(
        {**prose(f"# A book\n\n![x](attachment:picture.png) {LINE} {TOKEN}"), "attachments": picture},
        LOAD,
        parameters('token: Secret = "env:TOKEN"\nother: str = ""'),
        code(SAY, cell_id="say", note=LINE),
        code(f"%%on web --read-only\ncd {desk.folder}; {ON}", cell_id="on"),
        code("raise ValueError(value)", "raises-exception", cell_id="raise"),
        code("assert False, clear + value", cell_id="stop"),
    )
    desk.write("value", VALUE)


def texts(desk: Desk, *told: Ran) -> Iterator[tuple[str, str]]:
    """Everything a person could read afterwards, and where."""
    for file in (desk.folder / "archive").rglob("*"):
        if file.is_file():
            yield file.name, file.read_bytes().decode("utf-8", "surrogateescape")
    for file in (desk.folder / "home").rglob("*"):
        if file.is_file():
            yield str(file), file.read_bytes().decode("utf-8", "surrogateescape")
    for ran in told:
        yield "stdout", ran.out
        yield "stderr", ran.err


def unfolded(text: str) -> str:
    """A text as somebody reads it who puts what was folded together again, also inside JSON."""
    return text.replace("\\n", "").replace("\n", "").replace('",  "', "")


def test_no_file_and_no_stream_of_a_run_shows_its_secret(desk: Desk) -> None:
    leaky(desk)
    env = {**desk.environment, "TOKEN": VALUE}
    given = ("-p", f"other=https://me:hunter22@host/{LINE}", "--reason", f"because {LINE}")
    ran = desk.opsbook("run", "book.ipynb", *given, env=env)
    assert ran.code == 1, ran
    run = desk.run()
    told = [
        ran,
        *(desk.opsbook(*words, env=env) for words in (("show", "last"), ("show", "last", "--json"), ("runs",))),
    ]
    for where, text in texts(desk, *told):
        for secret in LEFT:
            assert secret not in text, where
            assert secret not in unfolded(text), where
    # each of them had something to hide
    record, log = run.record, (run.folder / "hosts/web1.log").read_text()
    assert record["metrics"] == {"measured": "***", "***": 1}
    assert record["parameters"]["other"] == "https://me:***@host/***"
    assert record["operator_reason"] == "because ***"
    assert "because ***" in record["argv"]
    assert record["runbook"]["masked"] is True
    assert log.startswith("******\n***")  # one end of line belongs to the value
    assert log.endswith("\nx***\nx***zweite-")
    assert "***" in run.output("raise")
    assert "***" in ran.err
    assert "***" in ran.out
    (ended,) = run.events("target_ended")
    assert ended["masked"] is True
    assert run.output("say").startswith("***\n***")
    (said,) = (cell for cell in run.notebook["cells"] if cell["id"] == "say")
    assert said["metadata"]["note"] == "***"
    assert 'clear = "***"' in "".join(said["source"])
    nbformat.validate(nbformat.read(run.copy, as_version=4))
    nbformat.validate(nbformat.reads((run.folder / "runbook.ipynb").read_text(), as_version=4))
    assert desk.opsbook("archive", "verify").code == 0


@pytest.mark.parametrize("flags", [(), ("--json",)])
def test_what_a_command_says_is_masked_when_it_comes_in_pieces(desk: Desk, flags: tuple[str, ...]) -> None:
    desk.write("hosts.ini", (desk.folder / "hosts.ini").read_text() + f"ansible_become_password={LINE}\n")
    script = "printf zwei; sleep 0.3; printf te-Ze; sleep 0.3; echo ile; printf 'zweite-Zei' >&2; echo ok"
    ran = desk.opsbook("exec", "web1", *flags, "--", "sh", "-c", script)
    assert ran.code == 0, ran
    shown = ran.out + ran.err
    assert LINE not in shown
    log = (desk.run().folder / "hosts/web1.log").read_text()
    assert sorted(log.split()) in (["***", "ok", "zweite-Zei"], ["***", "zweite-Zeiok"])


def test_the_texts_of_errors_and_tracebacks_hide_what_is_known_by_its_format(desk: Desk) -> None:
    ran = desk.opsbook("--debug", "run", f"{TOKEN}.ipynb")
    assert ran.code == 2, ran
    assert "Traceback" in ran.err
    assert TOKEN not in ran.err
    assert "***" in ran.err


def test_a_plan_shows_no_token(desk: Desk) -> None:
    desk.notebook(prose(f"# Use {TOKEN}"), LOAD, code("%%on web\ntrue", cell_id="on"), name="plan.ipynb")
    assert TOKEN not in json.dumps(desk.opsbook("run", "plan.ipynb", "--list-targets", "--json").out)
    assert not Path(desk.folder / "archive").exists()
