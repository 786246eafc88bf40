"""Text that wants to be more than text: nothing of a notebook or a target acts on whoever reads what opsbook prints."""

from __future__ import annotations

import json
import unicodedata
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from support import LOAD, Desk, Ran, code, parameters, prose

from opsbook.cli.main import _run
from opsbook.cli.view import Questions
from opsbook.fleet.table import html_table, html_targets
from opsbook.model.outcome import ResultGroup
from opsbook.model.target import Target, TargetState
from opsbook.model.visible import plain_json

NAMES = {"web1": "127.0.0.11", "web2": "127.0.0.12"}
CURSOR = "\x1b[2A\x1b[2K\x1b]0;title\x07\x9b1;31m\x08\x0b\x0c\x7f"
FORGED = "\nforged: all targets ok\r\n::endgroup::\n  ::error::forged\n##[endgroup]\n##vso[task.setvariable]x\n"
HIDDEN = "\u202eko\u202c\u2066\u200b\u2028forged\u2029\u0085\ufeff\U000e0041"
HOSTILE = f"hostile{CURSOR}{HIDDEN}{FORGED}end"
INLINE = f"hostile{CURSOR}{HIDDEN}::endgroup::##[endgroup]end"
"""Without line breaks of its own, for where Markdown would end what it stands in."""
ACTS = {"Cc", "Cf", "Cs", "Zl", "Zp"}


def check_harmless(shown: str, *, rows: bool = False, in_ci: bool = True) -> None:
    """Look at every character and every line; `rows` where a line may begin with what a target or an author said."""
    acting = {char for char in shown if char != "\n" and unicodedata.category(char) in ACTS}
    assert not acting, (acting, shown)
    for line in shown.split("\n") if in_ci else ():
        assert not line.lstrip().startswith("::"), line
        assert "##[" not in line, line
        assert "##vso[" not in line, line
        assert rows or not line.startswith("forged"), shown


def check_ran(ran: Ran, *, rows: bool = False) -> None:
    check_harmless(ran.out, rows=rows)
    check_harmless(ran.err)


@pytest.fixture
def book(desk: Desk) -> Path:
    """A notebook of which everything is hostile, and which asks targets that are."""
    said = f"import sys; sys.stdout.write({HOSTILE!r}); sys.stderr.write({HOSTILE!r})"
    return desk.notebook(
        prose(f"# Title {INLINE}\n\n**Purpose.** {INLINE}\n\n## Step {INLINE}"),
        LOAD,
        parameters(f"text: str = {HOSTILE!r}  # {INLINE}\nwhich: Literal[{HOSTILE!r}, 'b'] = 'b'"),
        code(f"{said}\nprint('said')", "mine", cell_id="says"),
        code('%%on all --read-only --parallel 1\nprintf %s "$text"; printf %s "$text" >&2', cell_id="asks"),
        prose(f"## Another {INLINE}"),
        code(f"record({HOSTILE!r}, {HOSTILE!r})", f"phase:P{HOSTILE}", cell_id="records"),
        code('%%on web1 --read-only\nprintf %s "$text" >&2; exit 3', "raises-exception", cell_id="fails-there"),
        code(f"class E(Exception): pass\nE.__name__ = {HOSTILE!r}\nraise E({HOSTILE!r})", cell_id="raises"),
        name=f"b\x1b[31m\u202e{'##[group]'}ook.ipynb",
        metadata={"kernelspec": {"name": "python3", "display_name": HOSTILE, "language": HOSTILE}},
    )


def test_a_hostile_runbook_acts_on_no_screen(
    desk: Desk, book: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    ran = desk.opsbook("run", book, "-p", f"text={HOSTILE}")
    assert ran.code == 1, ran.err
    assert "hostile" in ran.out
    check_ran(ran)
    assert desk.run().record["metrics"] == {HOSTILE: HOSTILE}
    monkeypatch.chdir(desk.folder)
    for args in (
        ["show", "last"],
        ["show", "last", "--json"],
        ["show", str(book)],
        ["runs"],
        ["runs", "--json"],
        ["plan", str(book), "-p", f"text={HOSTILE}"],
        ["plan", str(book), "--json"],
        ["check", str(book)],
        ["check", str(book), "--json"],
        ["archive", "verify"],
        ["logs", "last"],
        ["logs", "last", "--json"],
        ["logs", "last", "--target", "web1"],
        ["diff", "last", "last"],
        ["search", "ook", "--json"],
        ["search", "hostile"],
        ["lineage", "last"],
        ["lineage", str(book), "--json"],
        ["lineage", "where", f"{book}#1"],
        ["note", "add", "last", "-m", f"ook {HOSTILE}"],
        ["note", "list"],
        ["locks"],
    ):
        assert _run(args) in {0, 1}, args
        out, err = (stream.decode() for stream in capfdbinary.readouterr())
        assert "ook" in out or "hostile" in out or args[0] in {"archive", "locks", "diff"}
        check_harmless(
            out, rows=args == ["show", str(book)] or args[0] == "logs"
        )  # a step that is folded begins a line
        check_harmless(err)


def test_a_hostile_target_acts_on_no_screen(desk: Desk) -> None:
    quoted = HOSTILE.encode().hex()
    script = f"python3 -c 'import sys; sys.stdout.buffer.write(bytes.fromhex(\"{quoted}\") + bytes([255, 254, 10]))'"
    ran = desk.opsbook("exec", "all", "--", f"{script}; {script} >&2; exit 3")
    assert ran.code == 1, ran.err
    assert "hostile" in ran.out
    check_ran(ran, rows=True)


@pytest.mark.parametrize(
    "args",
    [
        ["run", f"{HOSTILE}.ipynb"],
        ["run", "book.ipynb", "-p", HOSTILE],
        ["run", "book.ipynb", "-p", f"{HOSTILE}=1"],
        ["run", "book.ipynb", "-p", f"count={HOSTILE}"],
        ["run", "book.ipynb", "-f", HOSTILE],
        ["run", "book.ipynb", "-t", HOSTILE],
        ["run", "book.ipynb", "-i", HOSTILE],
        ["run", "book.ipynb", "--section", HOSTILE],
        ["run", "book.ipynb", "--max-fail", HOSTILE],
        ["show", HOSTILE],
        ["targets", HOSTILE],
        ["stop", HOSTILE],
        [HOSTILE],
        [f"--{HOSTILE}"],
        ["--debug", "targets", f"~{HOSTILE}("],
    ],
    ids=lambda args: " ".join(word for word in args if "hostile" not in word) or "alone",
)
def test_an_error_is_two_lines_whatever_it_repeats(
    desk: Desk, args: list[str], monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    desk.notebook(LOAD, parameters("count: int = 1"), code("targets()"))
    monkeypatch.chdir(desk.folder)
    assert _run(args) == 2
    out, err = (stream.decode() for stream in capfdbinary.readouterr())
    assert out == ""
    check_harmless(err)
    lines = err.splitlines()
    assert [line for line in lines if line.startswith("error: ")] == lines[-2:-1] or len(lines) == 1
    assert "hostile" in err


def test_an_inventory_repeats_nothing_that_acts(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    for text in (
        f"{INLINE} a=1\n",
        f"[web]\nw1 ansible_host={INLINE!r}\n",
        f"[{INLINE}]\nw1\n",
        f"[web]\nw1 x='{INLINE}\n",
    ):
        desk.write("hosts.ini", text)
        monkeypatch.chdir(desk.folder)
        _run(["targets"])
        out, err = (stream.decode() for stream in capfdbinary.readouterr())
        check_harmless(out)
        check_harmless(err)


def test_a_gate_asks_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []

    class Screen:
        def print(self, text: str, **_: Any) -> None:
            shown.append(text)
            raise EOFError

    with pytest.raises(EOFError):
        Questions(Screen(), None).confirm(f'"{HOSTILE * 50}" comes next. Go on?', bell=0)  # type: ignore[arg-type]
    check_harmless("".join(shown), in_ci=False)  # it is asked on a terminal alone
    assert "\n" not in shown[0]
    assert len(shown[0]) < 320
    assert shown[0].endswith('end" comes next. Go on? [y/N] ')


def test_a_document_is_the_same_one_when_nothing_in_it_acts() -> None:
    said = {HOSTILE: [HOSTILE, "é😀", "a\\", "\\u202e"], "##[": "\\##[x"}
    raw = json.dumps(said, ensure_ascii=False).encode()
    shown = plain_json(raw)
    assert json.loads(shown) == said
    assert "é😀" in shown.decode()
    check_harmless(shown.decode())


class Seen(HTMLParser):
    """What a browser would make of a page: elements, what they carry, and text."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_comment(self, data: str) -> None:
        self.elements.add("comment")


SCRIPTS = (
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    '"><svg/onload=alert(1)>',
    "</pre></details></td></table><iframe srcdoc='x'>",
    "<!-- ",
    "&lt;script&gt;",
    "<style>*{display:none}</style>",
    "javascript:alert(1)",
)


@pytest.mark.parametrize("script", SCRIPTS)
def test_no_markup_of_a_target_is_markup_of_the_results(script: str) -> None:
    def group(state: TargetState, **said: Any) -> ResultGroup:
        return ResultGroup(state=state, names=(f"web{script}",), **said)

    long = "\n".join([script] * 40)
    groups = [
        group(TargetState.FAILED, stdout=script, stderr=f"{HOSTILE}{script}", detail=script),
        group(TargetState.OK, stdout=long, stderr="", detail=""),
        group(TargetState.OK, stdout=long + f"\n{script}2", stderr="", detail=script),
    ]
    target = Target(name=script, host=script, groups=(script,))
    for page in (html_table(f"headline {script}", groups), html_targets([target])):
        seen = Seen(page)
        assert seen.elements <= {"p", "table", "tr", "td", "b", "details", "summary", "pre"}
        assert seen.attributes <= {"style", "open"}
        assert script in seen.text
        check_harmless(seen.text, in_ci=False)
