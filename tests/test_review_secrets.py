"""Ways a secret got out that a hostile review has found: each is tried again here."""

from __future__ import annotations

import base64
import html
import json
import re
import shlex
import socket
from pathlib import Path
from urllib.parse import quote

import paramiko
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paramiko.common import MSG_CHANNEL_REQUEST
from support import LOAD, Desk, code, parameters

from opsbook.archive.copy import clean_document
from opsbook.errors import ParameterError
from opsbook.execution.outputs import Keeper
from opsbook.fleet.reboot import boot_id
from opsbook.fleet.table import html_table, text_table
from opsbook.masked_stream import MaskedStream
from opsbook.model.outcome import ResultGroup
from opsbook.model.target import TargetState
from opsbook.model.visible import ci_safe
from opsbook.redaction import MASK, Redactor
from opsbook.runbook.parameters import read_parameters
from opsbook.ssh.config import SshConfig
from opsbook.ssh.hearing import HANDLERS, UNKNOWN_SIGNAL, Hearer
from opsbook.ssh.transport import FleetTransport, ProxySocket

NAMES = {"web1": "127.0.8.31"}
VALUE = "Geheim/niß-7+wort & mehr davon; 0123456789"
TOKEN = "ghp_" + "a1B2" * 9


@pytest.fixture
def redactor() -> Redactor:
    made = Redactor()
    made.add(VALUE, name="env:TOKEN")
    return made


# what opsbook itself cuts short


@given(size=st.integers(4, len(VALUE) - 1))
@settings(max_examples=40, deadline=None, database=None)
def test_what_is_left_of_a_secret_on_either_side_of_a_cut_is_masked(size: int) -> None:
    redactor = Redactor()
    redactor.add(VALUE)
    for mark in ("…", "…\n", "\n… 70 characters of this cell's output were cut …\n", "\n[70 characters left out]\n"):
        cut = f"before {VALUE[:size]}{mark}{VALUE[-size:]} after"
        assert redactor.text(cut) == f"before {MASK}{mark}{MASK} after"
    coded = base64.b64encode(VALUE.encode()).decode()
    assert redactor.text(f"x {coded[: size + 4]}…") == f"x {MASK}…"
    plain = "… nothing of it is here … GehXim … 890 …"
    assert redactor.text(plain) == plain


def test_the_part_of_a_secret_the_cap_keeps_is_masked_in_what_streams_past(redactor: Redactor) -> None:
    keeper, stream = Keeper(400), MaskedStream(redactor)
    said = [("stdout", keeper.take("stdout", "x" * 290 + VALUE)), *keeper.rest()]
    assert keeper.cut == 0, "what fits is whole"
    keeper = Keeper(400)
    taken = keeper.take("stdout", "x" * 290 + VALUE * 20)
    said = [("stdout", taken), *keeper.rest()]
    assert {name for name, _ in said} == {"stdout"}
    shown = "".join(map(stream.feed, (text for _, text in said))) + stream.end()
    assert re.fullmatch(r"x{290}\*\*\*\n… [\d,]+ characters of this cell's output were cut …\n(\*\*\*)+", shown), shown
    keeper = Keeper(400)
    assert keeper.take("stdout", "x" * 290 + VALUE)
    assert keeper.take("stderr", VALUE * 20) == ""
    names = [(name, text[:1]) for name, text in keeper.rest()]
    assert names == [("stdout", "\n"), ("stderr", "…")], "each stream shows where it was cut"


def test_a_line_a_table_shortens_shows_no_part_of_a_secret(redactor: Redactor) -> None:
    for pad in ("." * 390, "." * 380, "\x1b[1m" * 495):  # colours are taken out after the first of two cuts
        line = f"{pad}{VALUE}{'.' * 2000}"
        group = ResultGroup(names=("web1",), state=TargetState.OK, detail="", stdout=line, stderr="")
        for shown in (text_table("", [group]), html_table("", [group])):
            assert not re.search("Geh[eimß/]", redactor.text(shown)), shown[:500]


def test_a_cell_is_named_by_whole_words_so_that_no_token_is_shown_in_part(desk: Desk) -> None:
    desk.notebook(
        code(f'client = connect("https://api.example.com/v1", token="{TOKEN}") if False else 1', cell_id="one")
    )
    ran = desk.opsbook("run", "book.ipynb", env={**desk.environment, "CI": "true"})
    assert ran.code == 0, ran
    (cell,) = desk.run().record["cells"]
    assert cell["label"] == 'client = connect("https://api.example.com/v1", token=…'
    for file in desk.run().folder.rglob("*"):
        assert not file.is_file() or b"ghp_" not in file.read_bytes(), file
    assert "ghp_" not in ran.out + ran.err


# what programs print past Python


def test_what_programs_print_is_masked_wherever_a_read_ends_and_lies_in_no_file(desk: Desk) -> None:
    desk.write("value", VALUE)
    desk.notebook(
        LOAD,
        parameters('token: Secret = "file:value"'),
        code("import os, pathlib, time\nvalue = token.reveal()", cell_id="reveal"),
        code(
            "for size in (9_993, 65_526, 65_527, 65_530):\n"
            "    os.write(1, ('.' * size + value + '\\n').encode())\n    print('from Python')\n"
            "data = value.encode()\nos.write(1, data[:10])\ntime.sleep(0.3)\n_ = os.write(1, data[10:] + b'\\n')",
            cell_id="write",
        ),
        code(
            "folder = pathlib.Path(os.environ['JUPYTER_RUNTIME_DIR'])\n"
            "files = [file for file in folder.rglob('*') if file.is_file()]\n"
            "held = [file.name for file in files if value.encode() in file.read_bytes()]\n"
            "held, 'kernel.json' in [file.name for file in files]",
            cell_id="look",
        ),
    )
    ran = desk.opsbook("run", "book.ipynb")
    assert ran.code == 0, ran
    run = desk.run()
    assert run.output("write").count(".***") == 4
    assert run.output("look") == "([], True)"
    journal = (run.folder / "events.jsonl").read_text()
    for text in (run.copy.read_text(), journal):
        assert "wort & mehr" not in text
        assert "eheim" not in text


# who inherits what


def test_a_program_that_is_started_to_reach_a_target_has_no_secret_of_the_notebooks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEAM_TOKEN", VALUE)
    monkeypatch.setenv("ORDINARY", "yes")
    wire = ProxySocket("env", withheld=("TEAM_TOKEN",))
    said = b""
    try:
        while piece := wire.recv(65536):
            said += piece
    finally:
        wire.close()
    assert b"ORDINARY=yes" in said
    assert b"TEAM_TOKEN" not in said
    (tmp_path / "config").write_text(f"Match exec 'env > {tmp_path}/seen'\n User right\n")
    assert SshConfig.of_file(str(tmp_path / "config")).look_up("w1", {}, withheld=("TEAM_TOKEN",))["user"] == ("right",)
    assert "ORDINARY=yes" in (tmp_path / "seen").read_text()
    assert "TEAM_TOKEN" not in (tmp_path / "seen").read_text()


def test_a_proxy_command_of_a_run_gets_none_of_the_teams_secrets(desk: Desk) -> None:
    seen = desk.folder / "seen"
    desk.write("hosts.ini", f"web1 ansible_ssh_common_args='-o ProxyCommand=\"env>{seen}\"'\n")
    desk.notebook(
        LOAD, code("import os\nassert os.environ['CANARY']\ntargets().run('true', read_only=True, check=False)")
    )
    desk.opsbook("run", "book.ipynb")
    assert "PATH=" in seen.read_text()
    assert "CANARY" not in seen.read_text()


# where it may stand


def test_tags_and_the_names_of_metadata_show_no_secret(desk: Desk) -> None:
    desk.write("value", VALUE)
    desk.notebook(
        LOAD,
        parameters('token: Secret = "file:value"'),
        code(
            "from IPython.display import display\nvalue = token.reveal()\n"
            "display({'text/plain': 'x', value: 'y'}, raw=True, metadata={value: 1, 'image/png': {'width': 9}})",
            f"phase:{VALUE}",
            "team-tag",
            cell_id="show",
            **{VALUE: 1},
        ),
    )
    ran = desk.opsbook("run", "book.ipynb")
    assert ran.code == 0, ran
    run, shown = desk.run(), desk.opsbook("show", "last")
    for text in (*map(Path.read_text, (run.copy, run.folder / "run.json", run.folder / "events.jsonl")), shown.out):
        assert "wort & mehr" not in text
    assert run.record["cells"][2]["tags"] == [f"phase:{MASK}", "team-tag"]
    cell = run.notebook["cells"][-1]
    assert cell["metadata"][MASK] == 1
    assert cell["outputs"][0]["data"].keys() == {"text/plain", MASK}
    assert cell["outputs"][0]["metadata"] == {MASK: 1, "image/png": {"width": 9}}


def test_a_resumed_run_masks_what_the_run_before_was_given_before_it_asks_for_it_itself(desk: Desk) -> None:
    desk.write("value", VALUE)
    early = code("import pathlib\nif pathlib.Path('again').exists():\n    print(open('value').read())", cell_id="early")
    late = code("secret('file:value').reveal()\npathlib.Path('again').touch()\n1 / 0", cell_id="late")
    stops = code("if pathlib.Path('again').exists():\n    1 / 0", cell_id="stops")
    desk.notebook(LOAD, early, stops, late)
    assert desk.opsbook("run", "book.ipynb").code == 1
    again = desk.opsbook("resume", "last", "--yes")
    assert again.code == 1, again
    first, second = desk.runs()
    assert second.states == {"load": "ok", "early": "ok", "stops": "failed", "late": "not_run"}
    assert second.output("early") == f"{MASK}\n"
    assert [use["used_for"] for use in first.record["secret_uses"]] == ["[env] CANARY", "notebook"]
    assert [use["used_for"] for use in second.record["secret_uses"]] == ["[env] CANARY"], "masking is no use of it"
    assert second.record["incidents"] == []


# forms


@pytest.mark.parametrize(
    "spelled",
    [
        *(base64.b32encode(b"x" * shift + VALUE.encode() + b"yz").decode() for shift in range(5)),
        VALUE.encode().hex("-"),
        VALUE.encode().hex("-").upper(),
        "".join(f"\\u{ord(letter):04x}" for letter in VALUE),
        "".join(f"\\u{ord(letter):04X}" for letter in VALUE),
    ],
)
def test_base32_dashed_hex_and_escapes_of_every_letter_are_masked(redactor: Redactor, spelled: str) -> None:
    shown = redactor.text(f"a {spelled} b")
    assert MASK in shown
    assert len(shown) < 24, "only what its neighbours have a part in is left"


@pytest.mark.parametrize("around", ["{}\n", " {}\t\n\n", "{}\nanother line\n", "first line\r\n  {}\r\n"])
def test_a_line_of_a_secret_is_masked_in_every_form_also_without_the_blanks_around_it(around: str) -> None:
    redactor = Redactor()
    redactor.add(around.format('pa"ss w/ord<1>'), name="file:value")
    line = 'pa"ss w/ord<1>'
    spelled = [line, json.dumps(line), quote(line), html.escape(line), line.encode().hex(), shlex.quote(line)]
    for text in (*spelled, base64.b64encode(line.encode()).decode()):
        shown = redactor.text(text)
        assert len(shown.replace(MASK, "")) <= 4, "only what its neighbours have a part in is left"


@pytest.mark.parametrize(
    ("earlier", "value"),
    [
        ("alpha-1234", "alpha-1234-beta-5678"),
        ("beta-5678", "alpha-1234-beta-5678"),
        ("5678", 'alpha "1234"\nbeta 5678 & more'),
        ("", "https://me:alpha1234@host/path?key=beta5678"),
    ],
)
def test_what_is_left_of_a_secret_is_masked_where_a_part_of_it_was_masked_before_it_was_known(
    earlier: str, value: str
) -> None:
    redactor = Redactor()
    redactor.add(*filter(None, [earlier]))
    spelled = [value, json.dumps(value)[1:-1], html.escape(value), value.encode().hex()]
    written = [redactor.text(f"a {text} b") for text in spelled]
    assert written[0] != f"a {value} b"
    redactor.add(value, name="env:LATE")
    for text in written:
        shown = redactor.text(text).replace(MASK, "").split()
        assert {"a", "b"} >= set(shown), shown
        assert ("env:LATE", 1) in redactor.places(text)
    assert redactor.text(f"a {MASK} b") == f"a {MASK} b"


def test_what_an_output_says_it_is_shows_no_secret_and_stays_a_word_of_the_format(redactor: Redactor) -> None:
    redactor.add("text/plain", "application/x-geheim", name="env:TOKEN")
    data = {"text/plain": "x", "application/x-geheim": "y"}
    output = {"output_type": "display_data", "data": data, "metadata": {}}
    cell = {"cell_type": "code", "source": "", "metadata": {}, "outputs": [output]}
    (clean,) = clean_document({"metadata": {}, "cells": [cell]}, redactor)["cells"]
    assert clean["outputs"][0]["data"] == {"text/plain": "x", MASK: "y"}


# what a target says where a record keeps it letter by letter


def test_what_a_target_says_instead_of_a_boot_id_is_kept_as_a_hash() -> None:
    known = "6f1d3b5c-0a1e-4c8e-9a53-2f4f0e5b7c11"
    assert [boot_id(f" {known}\n"), boot_id("\n")] == [known, ""]
    kept, other = (boot_id(f"{{ sec = {number} }} {VALUE}\n") for number in (1, 2))
    assert re.fullmatch("[0-9a-f]{64}", kept)
    assert kept != other, "another boot is told from this one"


@pytest.mark.parametrize(("told", "kept"), [("SEGV", "SEGV"), (VALUE, UNKNOWN_SIGNAL), ("\x1b[2J", UNKNOWN_SIGNAL)])
def test_what_a_target_says_instead_of_a_signals_name_is_not_kept(told: str, kept: str) -> None:
    message = paramiko.Message()
    message.add_string("exit-signal")
    message.add_boolean(False)  # noqa: FBT003  paramiko's signature
    message.add_string(told)
    message.rewind()
    here, there = socket.socketpair()
    with here, there:
        transport, channel, hearer = FleetTransport(here), paramiko.Channel(1), Hearer(lambda: None)
        channel._set_transport(transport)
        transport.hearers[1] = hearer
        HANDLERS[MSG_CHANNEL_REQUEST](channel, message)
    assert hearer.signal == kept


# hostile declarations, hostile lines


@pytest.mark.parametrize("pattern", ["(a+)+", r"(\\w+\\s?)*x", "(x|(a|aa)+)$"])
def test_a_parameters_pattern_that_would_hang_on_its_default_is_refused_with_the_reason(pattern: str) -> None:
    with pytest.raises(ParameterError, match="takes too long on a line such as"):
        read_parameters(f'x: Annotated[str, "{pattern}"] = "{"a" * 60}!"')


def test_an_ordinary_pattern_is_taken_and_looks_at_no_text_without_end() -> None:
    assert read_parameters('tag: Annotated[str, "v[0-9.]+"] = "v1.2"')[0].type_label == "text (v[0-9.]+)"
    with pytest.raises(ParameterError, match="is not a text"):
        read_parameters(f'tag: Annotated[str, "[0-9]+"] = "{"1" * 5000}"')


@pytest.mark.parametrize(
    ("line", "safe"), [("--- title", "- -- title"), ("+++ up", "+ ++ up"), ("^^^ +++", "^ ^^ +++")]
)
def test_no_line_opens_a_group_in_a_log_of_buildkites(line: str, safe: str) -> None:
    assert ci_safe(line) == safe
    assert ci_safe(f" {line}") == f" {line}", "only at the beginning of a line"
    assert ci_safe("-----") == "-----"
