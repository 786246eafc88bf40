"""The page says what the terminal says, of any copy, and is written where it was asked for."""

from __future__ import annotations

import base64
import json
import os
import re
import socket

import pytest
from archived import FUZZ, mode
from hypothesis import given, settings
from hypothesis import strategies as st
from pages import (
    PNG,
    Elements,
    display,
    failed_run,
    page_of,
    said,
    shown,
)
from past_runs import cell, write_run
from rich.console import Console
from support import code, notebook_text, prose

from opsbook.archive.history import read_run
from opsbook.report import html_cells, html_prose
from opsbook.report.terminal import print_run

NAMES = {"web1": "127.0.0.11", "web2": "127.0.0.12"}


def test_the_page_says_what_the_terminal_says_and_the_failed_thing_first(tmp_path):
    folder = failed_run(tmp_path)
    record = read_run(folder).record
    page = shown(page_of(folder))
    console = Console(width=400, file=(file := (tmp_path / "said").open("w+")))
    print_run(record, console, copy=folder.copy)
    file.seek(0)
    told = re.split(r"\s{2,}|\n", file.read())
    file.close()

    missing = [text for text in told if not text.isdigit() and text.strip(" ✓✗\u2013").lower() not in page.lower()]
    assert missing == ['ValueError in "Update": no', "packages=312", "LABEL"]  # set in another way
    order = ["patch failed after 1:30", "1 failed", "1 ok", 'ValueError in "Update"', "new host key", "packages"]
    order += ["stack=prod & more", "db02failed100", "web1ok", "Cells", "stack = 'dev'", "%%on web", "reboot()"]
    places = [page.index(text) for text in order]
    assert places == sorted(places)


def test_what_was_written_and_done_since_is_said(tmp_path):
    folder = failed_run(tmp_path)
    text = shown(page_of(folder, notes=["note (warn): look <here>"], newer="20261121-later"))
    assert "note (warn): look <here>" in text
    assert "run 20261121-later goes on with it" in text
    assert "opsbook resume" not in text


def test_steps_and_targets_lead_to_their_cells(tmp_path):
    page = Elements(page_of(failed_run(tmp_path)))
    places = [address.removeprefix("#") for address in page.values("href")]
    assert places == ["cell-2", "cell-3", "cell-2"]  # of the targets the one that failed: what went well did in many
    assert set(places) <= set(page.values("id"))


def test_the_banners_papermill_writes_into_a_copy_are_not_shown_and_code_always_is(tmp_path):
    tagged = {"tags": ["papermill-error-cell-tag"]}
    banner = {"id": "b", "cell_type": "markdown", "source": "<span>An Exception</span>", "metadata": tagged}
    page = page_of(write_run(tmp_path, banner, cell("work()", **tagged)))
    assert "An Exception" not in page
    assert "work()" in page


def test_code_nobody_asked_to_see_is_folded(tmp_path):
    cells = [cell("setup()", tags=["remove-input"]), cell("work()"), cell("")]
    page = page_of(write_run(tmp_path, *cells))
    assert '<details><summary>code</summary><pre class="code">\nsetup()</pre></details>' in page
    assert page.count("<details>") == 1
    assert page.count("<pre") == 2


def test_prose_is_laid_out_and_its_html_is_text():
    text = (
        "# One\nwords *here* and **there**,\n`code <b>` [a](https://x.org/a_b) [b](b.ipynb) ![c](c.png) <i>raw</i>\n\n"
        "- item\n  more of it\n* other\n\n1. first\n2) second\n\n> said\n> so\n\n~~~sh\n# no heading\n- no item\n~~~\n"
        "\n    indented\n\n| a | `b` |\n|:--|---|\n| <i> |\n---\n<https://y.org>\n"
    )
    assert html_prose.prose(text).markup == (
        "<h3>One</h3><p>words <em>here</em> and <b>there</b>,\n<code>code &lt;b&gt;</code> "
        '<a href="https://x.org/a_b" rel="noopener noreferrer">a</a> b (b.ipynb) '
        '<span class="aside">(picture, not shown: c)</span> &lt;i&gt;raw&lt;/i&gt;</p>'
        "<ul><li>item\nmore of it</li><li>other</li></ul><ol><li>first</li><li>second</li></ol>"
        '<blockquote>said so</blockquote><pre class="code">\n# no heading\n- no item</pre>'
        '<pre class="code">\nindented</pre><div class="wide"><table><tr><td>a</td><td>'
        "<code>b</code></td></tr><tr><td>&lt;i&gt;</td></tr></table></div><hr>"
        '<p><a href="https://y.org" rel="noopener noreferrer">https://y.org</a></p>'
    )


def test_a_page_in_a_ci_log_gives_no_command(tmp_path):
    lines = "::set-env name=PATH::x\n  ::group::x\n##[group]x\na ##vso[x]\n--- x\n+++ x\n~~~ x\n^^^ x"
    page = page_of(write_run(tmp_path, cell(f"# {lines}", kind="markdown"), cell(lines, lines)))
    for line in page.splitlines():
        assert not line.lstrip().startswith("::")
        assert "##[" not in line
        assert "##vso[" not in line
        assert not re.match(r"(?:---|\+\+\+|~~~|\^\^\^)\s", line)
    assert shown(page).count("::set-env name=PATH::x\n  ::group::x\n##[group]x\na ##vso[x]\n--- x") == 2


def test_a_page_is_bounded_and_says_what_it_leaves_out(tmp_path, monkeypatch):
    monkeypatch.setattr(html_cells, "ROOM", 500_000)
    monkeypatch.setattr(html_cells, "PICTURES", 10)
    figure = display(**{"image/png": base64.b64encode(PNG).decode()})
    loud = [cell("loud()", "<&>" * 200_000) for _ in range(8)]
    many = said(*[{"output_type": "stream", "name": "stdout", "text": "x"}] * 5000)
    cells = [cell("# Last", kind="markdown"), cell("raises()", "its last words", *["x"] * 5000)]
    folder = write_run(tmp_path, said(figure), *loud, *[many] * 20, *cells, error="no")
    page = page_of(folder)
    assert len(page) < 3_000_000
    text = shown(page)
    assert "500000 characters are not shown" in text
    assert f"the page is full: opsbook logs {folder.run_id} --cell 29 has the rest" in text
    assert "the page is full: the executed copy has the rest" in text
    assert text.count("picture output, not shown; open the copy in Jupyter") == 1
    assert "its last words" in text


def test_thousands_of_targets_are_counted_and_the_failed_are_shown(tmp_path):
    folder = write_run(tmp_path, cell("x"), targets=tuple(f"web{number}" for number in range(1500)))
    record = json.loads(folder.record.read_bytes())
    record["targets"]["results"]["zzz"] = {"state": "failed", "reason": "no room"}
    folder.record.write_text(json.dumps(record))
    page = page_of(folder)
    assert "zzzfailed" in shown(page)
    assert "… and 501 more, which the record has" in shown(page)
    assert "<details open>" not in page


@pytest.mark.parametrize("damage", ["missing", "link", "fifo", "no-json", "no-notebook", "deep"])
def test_without_a_copy_the_page_has_the_runbook_s_cells_and_says_why(tmp_path, damage):
    folder = failed_run(tmp_path)
    folder.source.write_text(notebook_text([prose("# Kept <b>"), code("kept()", cell_id="cell-2")]))
    data = folder.copy.read_bytes()
    folder.copy.unlink()
    if damage == "link":
        (tmp_path / "elsewhere").write_bytes(data)
        folder.copy.symlink_to(tmp_path / "elsewhere")
    elif damage == "fifo":
        os.mkfifo(folder.copy)
    elif damage != "missing":
        folder.copy.write_bytes({"no-json": b"\xff", "no-notebook": b"[]", "deep": b"[" * 100_000}[damage])
    text = shown(page_of(folder))
    assert "the executed copy " in text or "there is no executed copy" in text
    assert "opsbook logs" in text
    assert "kept()" in text
    assert "Kept <b>" in text
    assert "1 ok · 1 failed" not in text.partition("Cells")[2]
    for number in (1, 2, 3):  # no cell is lost
        assert f" {number} " in text.partition("Cells")[2]


KEYS = st.sampled_from(["output_type", "data", "text", "name", "traceback", "text/plain", "image/png", "tags"])
WORDS = st.sampled_from(["stream", "error", "display_data", "code", "markdown"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | WORDS,
    lambda inner: st.lists(inner) | st.dictionaries(KEYS | st.text(), inner),
    max_leaves=5,
)
CELL = st.fixed_dictionaries({}, optional=dict.fromkeys(("cell_type", "id", "source", "metadata", "outputs"), JSON))


@settings(FUZZ, max_examples=40)
@given(st.lists(CELL | JSON, max_size=4))
def test_a_copy_of_any_shape_makes_a_page(tmp_path_factory, cells):
    folder = write_run(tmp_path_factory.getbasetemp() / "any", cell("x"))
    folder.copy.write_text(json.dumps({"cells": cells}))
    page_of(folder)


def test_a_page_is_its_owner_s_alone_and_replaces_nothing_unasked(desk):
    failed_run(desk.folder / "archive")
    file = desk.folder / "page.html"
    ran = desk.opsbook("report", "last", "-o", "page.html")
    assert (ran.code, ran.out, ran.err) == (0, "", "")
    assert mode(file) == 0o600
    first = file.read_bytes()
    for args in ([], ["-o", "-", "--format", "html"]):
        assert first == desk.opsbook("report", "last", *args).out.encode()

    file.write_text("mine")
    file.chmod(0o644)
    ran = desk.opsbook("report", "last", "-o", "page.html")
    assert (ran.code, file.read_text()) == (2, "mine")
    assert ran.err == "error: page.html exists already\nhint:  --force replaces it\n"
    assert desk.opsbook("report", "last", "-o", "page.html", "--force", umask=0o777).code == 0
    assert (mode(file), file.read_bytes()) == (0o600, first)
    assert [one.name for one in desk.folder.glob(".page*")] == []


@pytest.mark.parametrize("there", ["link", "dangling", "folder", "fifo", "socket"])
def test_what_is_no_file_is_left_alone(desk, there):
    failed_run(desk.folder / "archive")
    file, other = desk.folder / "page.html", desk.folder / "other"
    sock = socket.socket(socket.AF_UNIX)
    if there in {"link", "dangling"}:
        file.symlink_to(other)
        if there == "link":
            other.write_text("mine")
    elif there == "folder":
        file.mkdir()
    elif there == "fifo":
        os.mkfifo(file)
    else:
        sock.bind(str(file))
    before = file.lstat()
    for force in ([], ["--force"]):
        ran = desk.opsbook("report", "last", "-o", "page.html", *force)
        assert ran.code == 2
        assert "it is no regular file; name another" in ran.err
    sock.close()
    assert file.lstat().st_ino == before.st_ino
    assert (other.read_text() if other.exists() else "") == ("mine" if there == "link" else "")


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["nobody"], "no run 'nobody'"),
        (["last", "-o", "no/such/folder.html"], "cannot write no/such/folder.html"),
        (["last", "-o", "hosts.ini/page.html"], "cannot write hosts.ini/page.html"),
        (["last", "--format", "pdf"], "pdf"),
    ],
)
def test_a_page_that_cannot_be_is_refused(desk, args, words):
    failed_run(desk.folder / "archive")
    ran = desk.opsbook("report", *args)
    assert (ran.code, ran.out) == (2, "")
    assert words in ran.err
    assert ran.err.startswith("error: ")


def test_a_terminal_gets_no_page(desk):
    failed_run(desk.folder / "archive")
    ours, theirs = os.openpty()
    ran = desk.opsbook("report", "last", stdout=theirs)
    os.close(theirs)
    os.close(ours)
    assert ran.code == 2
    assert ran.err == "error: a page is not for a terminal\nhint:  -o FILE writes it to a file; or redirect it\n"
