"""Nothing in a page runs and nothing is loaded, whatever a run holds: seen in a browser, and in the markup."""

from __future__ import annotations

import base64
import json
import re

import msgspec
import pytest
from archived import FUZZ
from browser import Listener, listening, opened
from hypothesis import given
from hypothesis import strategies as st
from pages import (
    JPEG,
    PNG,
    SAFE,
    Elements,
    check_inert,
    display,
    failed_run,
    hostile,
    page_of,
    results,
    said,
    shown,
)
from past_runs import write_run
from support import LOAD, Desk, code, parameters, prose

from opsbook.fleet.live import LiveOutput
from opsbook.model.visible import visible
from opsbook.report import html_prose
from opsbook.report.html_markup import element, jump, link, picture

NAMES = {"web1": "127.0.0.11", "web2": "127.0.0.12"}


@pytest.fixture
def listener():
    with listening() as made:
        yield made


def hostile_run(desk: Desk, listener: Listener) -> bytes:
    """Run a notebook of which everything is hostile on targets that are, and return its page."""
    text = hostile(listener)
    prints = f"print({text!r})\nfrom IPython.display import HTML, SVG, Javascript, Markdown, display"
    shows = f"display(HTML({text!r}), Markdown({text!r}), Javascript({text!r}), SVG('<svg>' + {text!r} + '</svg>'))"
    book = desk.notebook(
        prose(
            f"# Title {text}\n\n[link](javascript:document.title='owned') [x]({listener.url}/rel\"onclick='a')\n{text}"
        ),
        LOAD,
        parameters(f"text: str = {text!r}  # {text[:20]!r}"),
        code(f"{prints}\n{shows}", cell_id="shows"),
        code('%%on all --read-only\nprintf %s "$text"; printf %s "$text" >&2', cell_id="asks"),
        code(f"record({text!r}, {text!r})", cell_id="records"),
        code(f"raise ValueError({text!r})", cell_id="raises"),
    )
    assert desk.opsbook("run", book).code == 1
    file = desk.run().folder / "run.json"
    record = json.loads(file.read_bytes())
    record["runbook"]["title"] += text
    record["targets"]["results"][text] = {"state": "failed", "reason": text}
    record["parameters"][text] = text
    record["notes"] = [text]
    file.write_bytes(msgspec.json.encode(record))
    assert desk.opsbook("report", "last", "-o", "page.html").code == 0
    return (desk.folder / "page.html").read_bytes()


def test_a_hostile_run_does_nothing_in_a_browser(desk, listener, tmp_path):
    page = hostile_run(desk, listener)
    found = check_inert(page.decode())
    assert found.text.count("document.title='owned'") > 20  # it is shown, everywhere
    assert [found.names.count(name) for name in ("style", "meta", "title", "img")] == [1, 5, 1, 0]

    seen = opened(page, tmp_path)
    dom = Elements(seen)
    assert set(dom.names) - {"html", "head", "body"} <= SAFE
    title = re.search("<title>(.*?)</title>", seen, re.DOTALL)
    assert title is not None
    assert title[1].startswith("book failed after")
    assert listener.asked == []


INJECTED = (
    "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
    "<svg onload=\"document.title='owned'\"></svg><img src={0}/img><script src={0}/js></script>"
    "<style>@import '{0}/css'; html {{ background: url({0}/style) }}</style><link rel=stylesheet href={0}/link>"
    "<iframe src={0}/frame></iframe><b style='background:url({0}/attribute)'>x</b><object data={0}/object></object>"
    "<a ping={0}/ping href=x>x</a>"
)


@pytest.mark.parametrize("policed", [True, False], ids=["with-our-policy", "without"])
def test_the_policy_alone_stops_what_was_injected(tmp_path, listener, policed):
    page = page_of(failed_run(tmp_path)).replace("<main>", INJECTED.format(listener.url) + "<main>")
    if not policed:  # what this test would see if the policy stopped nothing
        page = re.sub("<meta http-equiv=.Content-Security-Policy.*?>", "", page)
    title = re.search("<title>(.*?)</title>", opened(page.encode(), tmp_path))
    assert title is not None
    assert (title[1] == "owned", bool(listener.asked)) == (not policed, not policed)


def test_the_policy_names_the_page_s_own_style_and_nothing_else(tmp_path):
    page = page_of(failed_run(tmp_path))
    (policy,) = re.findall('<meta http-equiv="Content-Security-Policy" content="([^"]*)">', page)
    assert re.fullmatch(
        "default-src 'none'; style-src 'sha256-[A-Za-z0-9+/=]{44}'; img-src data:; base-uri 'none'; form-action 'none'",
        policy,
    )
    assert page.index(policy) < page.index("<title>") < page.index("<style>")


def test_results_in_a_notebook_do_nothing_in_a_browser(tmp_path, listener):
    result = results(web1=hostile(listener), web2=f"{hostile(listener)}\nmore", web3=f"{hostile(listener)}\nother")
    markups = [result._repr_html_(), result.ok._repr_html_(), result.failed._repr_html_()]
    live = LiveOutput()
    live.attach(lambda value, **_: markups.append(value["text/html"]))
    live._put({"text/plain": "", "text/html": ""})
    live._tail.append((hostile(listener), hostile(listener)))
    live._fill("\n".join(live._lines()))

    for markup in markups:
        found = check_inert(markup, also=("style",))
        assert all(re.fullmatch(r"[a-z:;0#-9-]+", style) for style in found.values("style"))
    page = f"<!DOCTYPE html><title>mine</title>{''.join(markups)}"
    assert "<title>mine</title>" in opened(page.encode(), tmp_path)
    assert listener.asked == []


@FUZZ
@given(st.text(alphabet=st.characters(exclude_categories=()), max_size=200) | st.just(hostile()))
def test_no_text_becomes_anything_but_text(text):
    found = check_inert(element("p", text, kind=text, anchor=text).markup)
    assert (found.names, found.text) == (["p"], visible(text))
    assert check_inert(jump(text, text).markup).text == visible(text)
    assert set(check_inert(link(text, text).markup).names) <= {"a"}
    check_inert(html_prose.prose(text).markup)
    check_inert(html_prose.prose(f"[{text}]({text}) **{text}** `{text}` <https://{text}>\n# {text}").markup)


@pytest.mark.parametrize(
    "address",
    [
        *("javascript:alert(1)", "JaVaScRiPt:x", "java\tscript:x", "vbscript:x", "data:text/html,x", "opsbook:run"),
        *("file:///etc/passwd", "//host/x", "x.ipynb", "https:x", " https://x.org", "https://x.org/a b"),
        "https://x.org/\u202egnp",
    ],
)
def test_no_other_address_becomes_a_link(address):
    assert "<a" not in link(address, "text").markup
    assert "<a" not in html_prose.prose(f"[text]({address}) <{address}>").markup


def test_an_address_keeps_within_its_attribute():
    found = check_inert(link("https://x.org/'\"><script>", "x").markup)
    assert found.names == ["a"]
    assert found.values("href") == ["https://x.org/'\"><script>"]
    assert found.values("rel") == ["noopener noreferrer"]


def test_a_picture_is_shown_if_it_is_one(tmp_path):
    encoded = {kind: base64.b64encode(data).decode() for kind, data in {"png": PNG, "jpeg": JPEG}.items()}
    folded = "\n".join(encoded["png"][at : at + 4] for at in range(0, len(encoded["png"]), 4))
    script = base64.b64encode(b"<script>x</script>").decode()
    folder = write_run(
        tmp_path,
        said(
            display(**{"image/png": folded, "text/plain": "<Figure 'a'>"}),
            display(**{"image/jpeg": [encoded["jpeg"]]}),
            display(**{"image/png": encoded["jpeg"]}),
            display(**{"image/png": script}),
            display(**{"image/png": "\" onerror='x'"}),
            display(**{"image/svg+xml": "<svg onload='x'/>"}),
        ),
    )
    page = page_of(folder)
    found = Elements(page)
    assert found.values("src") == [f"data:image/{kind};base64,{data}" for kind, data in encoded.items()]
    assert found.values("alt") == ["<Figure 'a'>", ""]
    assert shown(page).count("PNG output, not shown; open the copy in Jupyter") == 3
    assert "SVG output, not shown" in shown(page)
    with pytest.raises(ValueError, match="image/png"):
        picture("image/png", JPEG, says="")


def test_markup_of_an_output_is_never_handed_on(tmp_path):
    markup = "<b onclick='x'>bold</b>"
    kinds = ["text/html", "image/svg+xml", "application/javascript", "text/markdown", "application/x\"'<"]
    folder = write_run(
        tmp_path,
        said(*(display(**{kind: markup}) for kind in kinds)),
        said(*(display(**{kind: markup, "text/plain": "as text"}) for kind in kinds)),
        said(display(**{"text/html": markup, "text/plain": "<IPython.core.display.HTML object>"})),
        said({"output_type": "stream", "name": "stderr", "text": ["\x1b[31mred", "\x1b[0m <b>\x07"]}),
        said({"output_type": "error", "ename": "E", "evalue": "<b>", "traceback": []}),
        said({"output_type": "error", "ename": "E", "evalue": "", "traceback": ["\x1b[1mE\x1b[0m", "<i>"]}),
    )
    page = page_of(folder)
    assert "bold" not in page
    text = shown(page)
    assert text.count("as text") == len(kinds)
    for name, count in {"HTML": 2, "SVG": 1, "JavaScript": 1, "Markdown": 1, "other": 1}.items():
        assert text.count(f"{name} output, not shown; open the copy in Jupyter") == count
    assert '<pre class="said stderr">\nred &lt;b&gt;\\a</pre>' in page
    assert '<pre class="said error">\nE: &lt;b&gt;</pre>' in page
    assert '<pre class="said error">\nE\n&lt;i&gt;</pre>' in page
