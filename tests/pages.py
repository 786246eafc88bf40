"""Pages of runs, and what stands in them."""

from __future__ import annotations

import html
import re
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pytest
from browser import Listener
from msgspec.structs import replace
from past_runs import cell, write_run

from opsbook.archive.fold import decode_record
from opsbook.archive.history import read_run
from opsbook.fleet.fleet import Fleet
from opsbook.fleet.result import FleetResult, TargetResult
from opsbook.fleet.session import Session
from opsbook.model.message import RunOptions
from opsbook.model.run import CellError, CellRecord, CellState, RunState, RunTargets, TargetOutcome
from opsbook.model.target import Inventory, Target, TargetState
from opsbook.model.visible import visible
from opsbook.report.html import render_page
from opsbook.report.html_copy import read_copy

PNG = b"\x89PNG\r\n\x1a\n" + b"rest"
JPEG = b"\xff\xd8\xff" + b"rest"
SAFE = {
    *(
        "html",
        "head",
        "meta",
        "title",
        "style",
        "body",
        "main",
        "header",
        "section",
        "article",
        "div",
        "span",
        "p",
        "b",
    ),
    *("h1", "h2", "h3", "h4", "h5", "h6", "ul", "ol", "li", "dl", "dt", "dd", "hr", "br", "em", "code", "pre", "table"),
    *("thead", "tbody", "tr", "th", "td", "blockquote", "details", "summary", "a", "img"),
}
"""Elements of which none acts by itself."""
HARMLESS = {"class", "id", "href", "rel", "src", "alt", "open", "lang", "charset", "http-equiv", "content", "name"}


class Elements(HTMLParser):
    """What a page is made of, told by a parser that knows nothing of ours."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_comment(self, data: str) -> None:
        pytest.fail(f"a comment: {data}")

    def values(self, name: str) -> list[str]:
        return [value for known, value in self.attributes if known == name]


def check_inert(page: str, *, also: tuple[str, ...] = ()) -> Elements:
    """Check that nothing in some markup can act or load anything; return what it is made of."""
    found = Elements(page)
    assert page == visible(page)
    assert set(found.names) <= SAFE
    assert {name for name, _ in found.attributes} <= HARMLESS | set(also)
    for address in found.values("href"):
        assert re.match("#|https?://|mailto:", address, re.IGNORECASE)
    for source in found.values("src"):
        assert re.fullmatch(r"data:image/(?:png|jpeg);base64,[A-Za-z0-9+/=]+", source)
    return found


def hostile(listener: Listener | None = None) -> str:
    """Return text that does everything a page must not do, if it is taken for markup."""
    url = listener.url if listener else "http://127.0.0.1:1"
    return (
        "</title></style></textarea></pre><script>document.title='owned'</script>"
        f"<img src=x onerror=\"document.title='owned'\"><img src={url}/img><script src={url}/js></script>"
        f"<svg onload=\"document.title='owned'\"></svg><iframe src={url}/frame></iframe>"
        f"<style>@import '{url}/css'; main {{ display: none }}</style><link rel=stylesheet href={url}/link>"
        f"<base href={url}/><meta http-equiv=refresh content='0;url={url}/refresh'><b style=background:url({url}/b)>"
        f"'\" onmouseover=\"document.title='owned'\" x='--><!-- ]]> {{{{7*7}}}} \x1b]0;t\x07\u202e\x00"
    )


def page_of(folder, **more):
    run = read_run(folder)
    assert run.record is not None
    page = render_page(run.record, read_copy(folder), path=folder.copy, **more).decode()
    check_inert(page)
    return page


def shown(page):
    return html.unescape(re.sub(r"<[^>]+>", "", page.partition("<body>")[2]))


def display(**data):
    return {"output_type": "display_data", "metadata": {}, "data": data}


def said(*outputs, source="show()"):
    return {**cell(source), "outputs": list(outputs)}


def results(**answers: str) -> FleetResult:
    made = [TargetResult(target=name, state=TargetState.OK, stdout=text) for name, text in answers.items()]
    made.append(TargetResult(target=hostile(), state=TargetState.FAILED, exit_code=1, stderr=hostile()))
    known = tuple(Target(name=one.target, host="10.0.0.1", groups=(hostile(),)) for one in made)
    session = Session(inventory=Inventory(targets=known), selected=None, options=RunOptions(), channel=None)
    return FleetResult(Fleet(session, known), tuple(made), duration_s=1)


def failed_run(root: Path):
    outcomes = {
        "web1": TargetOutcome(state=TargetState.OK, cell_id="cell-2", duration_s=61),
        "db02": TargetOutcome(
            state=TargetState.FAILED, exit_code=100, reason="E: no <lock>", cell_id="cell-2", duration_s=5
        ),
        "web9": TargetOutcome(state=TargetState.SKIPPED, reason="the limit was reached"),
    }
    states = {1: CellState.OK, 2: CellState.FAILED, 4: CellState.NOT_RUN}
    labels = {1: "Parameters", 2: "Update", 4: "Reboot"}
    cells = tuple(
        CellRecord(
            id=f"cell-{index}",
            index=index,
            label=labels[index],
            state=state,
            tags=("parameters",) if index == 1 else (),
            duration_s=5.0,
            attempts=2 if index == 2 else 1,
            error=CellError(name="ValueError", text="no\nsuch & value") if index == 2 else None,
        )
        for index, state in states.items()
    )
    folder = write_run(
        root,
        cell("# Patch", kind="markdown"),
        cell("stack = 'dev'"),
        cell("%%on web\nuname -r", "1 ok · 1 failed\n"),
        cell("## Reboot", kind="markdown"),
        cell("reboot()"),
        status=RunState.FAILED,
        parameters={"stack": "prod & more"},
        reason='1 of 3 targets failed in "Update", limit 0',
        metrics={"packages": 312},
        notes=("new host key of web1: compare it", "env:TOKEN was written to x before it was known"),
    )
    targets = RunTargets(pattern="prod", selected=tuple(outcomes), results=outcomes)
    record = replace(decode_record(folder.record.read_bytes()), cells=cells, targets=targets)
    folder.record.write_bytes(msgspec.json.encode(record))
    return folder
