"""Damaged runbooks: what editors, merges, bad disks and bad people make of one, from a seed.

The same seed makes the same mutants, so that one that broke something can be looked at again.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from typing import Any

ODD: list[Any] = [
    *(
        None,
        True,
        False,
        0,
        -1,
        1.5,
        10**30,
        -(10**400),
        1e308,
        "",
        " ",
        "\n",
        "\0",
        "\ufeff",
        "\u202e",
        "\x1b[2J",
        "../..",
    ),
    *(
        "{{",
        "a" * 5000,
        "%%on all",
        "%%on {stack} --max-fail 1",
        "${",
        "é\u0301",
        "\U0001f600",
        "-",
        "4",
        "code",
        "env:X",
    ),
    *([], {}, [[]], [None], [""], ["parameters"], {"": None}, {"tags": "x"}, {"a": {"b": {"c": []}}}, [1, "a", None]),
]
"""Values put where others belong."""
NAMES = ("cells", "metadata", "source", "outputs", "id", "cell_type", "tags", "nbformat", "papermill", "widgets", "")
_TAGS = (
    "parameters",
    "injected-parameters",
    "retry:3",
    "timeout:0s",
    "paramters",
    "always",
    "on-failure",
    "skip",
    "phase:",
    "confirm",
)
_SOURCES = (
    "x: int",
    "x: int = 'a'",
    "x: list[" * 30,
    "def (",
    "\tx = 1\n x = 2",
    "x = " + "(" * 300,
    "%%on\n",
    "%%on --max-fail\nid",
    "\\",
    "x: Literal[()]",
    "# -*- coding: nonsense -*-\nx = 1",
    "x: Annotated[str, '(']",
)


def valid_runbook() -> dict[str, Any]:
    """Return a runbook with some of everything, as an editor that ran it would have saved it."""
    outputs = [
        {"output_type": "stream", "name": "stdout", "text": ["one\n", "two\n"]},
        {"output_type": "display_data", "data": {"text/plain": "x", "image/png": "aGk="}, "metadata": {}},
        {"output_type": "execute_result", "data": {"text/plain": ["1"]}, "metadata": {}, "execution_count": 3},
        {"output_type": "error", "ename": "E", "evalue": "v", "traceback": ["\x1b[31mE\x1b[0m"]},
    ]
    papermill = {"status": "completed", "duration": 0.1, "start_time": "2026-11-20T11:39:58", "exception": False}

    def code(cell_id: str, source: Any, *tags: str, **more: Any) -> dict[str, Any]:
        metadata = {"tags": list(tags), "papermill": dict(papermill), "collapsed": False, **more}
        kept = json.loads(json.dumps(outputs))
        made = {"cell_type": "code", "id": cell_id, "source": source, "metadata": metadata}
        return {**made, "outputs": kept, "execution_count": 3}

    def text(cell_id: str, source: Any, kind: str = "markdown") -> dict[str, Any]:
        return {"cell_type": kind, "id": cell_id, "source": source, "metadata": {}}

    image = {"attachments": {"a.png": {"image/png": "aGk="}}}
    cells = [
        text("title", ["# Patch a stack\n", "\n", "**Purpose.** Apply updates.\n", "\n", "**Max fail.** 10%"]),
        code("load", "%load_ext opsbook"),
        code("params", ["stack: Literal['dev', 'prod'] = 'dev'  # Which\n", "waves: str = '1,25%'\n"], "parameters"),
        code("given", "stack = 'dev'\n", "injected-parameters"),
        text("step", "## Update") | image,
        code("update", "%%on {stack} --waves {waves}\nuptime", "confirm", "timeout:10m", "retry:2"),
        code("frozen", "1", run_through_control={"frozen": True}),
        text("raw", "raw", "raw"),
        code("last", ["record('a', 1)\n", "1"], "always", "phase:End"),
    ]
    widgets = {"application/vnd.jupyter.widget-state+json": {"state": {}, "version_major": 2, "version_minor": 0}}
    metadata = {
        "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
        "language_info": {"name": "python", "version": "3.12"},
        "papermill": {"parameters": {"stack": "dev"}, "version": "2.6.0", "default_parameters": {}},
        "widgets": widgets,
        "lc_notebook_meme": {"current": "0b1e2f3a-5b5e-11ee-8c99-0242ac120002"},
    }
    return {"nbformat": 4, "nbformat_minor": 5, "metadata": metadata, "cells": cells}


def mutants(seed: int, count: int) -> Iterator[bytes]:
    """Yield so many damaged runbooks, most of them damaged once, some of them several times."""
    source = random.Random(seed)
    whole = json.dumps(valid_runbook())
    for _ in range(count):
        document = json.loads(whole)
        for _ in range(source.choice((1, 1, 1, 2, 3))):
            source.choice(STRUCTURAL)(document, source)
        text = json.dumps(document, ensure_ascii=source.random() < 0.5)
        raw = text.encode("utf-8", "surrogatepass")
        if source.random() < 0.25:
            raw = source.choice(BINARY)(raw, source)
        yield raw


def places_in(value: Any) -> list[tuple[Any, Any]]:
    """List every container and key below a value."""
    found: list[tuple[Any, Any]] = []
    waiting = [value]
    while waiting:
        one = waiting.pop()
        keys = list(one) if isinstance(one, dict) else range(len(one)) if isinstance(one, list) else ()
        for key in keys:
            found.append((one, key))
            waiting.append(one[key])
    return found


def _pick(document: Any, source: random.Random) -> tuple[Any, Any]:
    places = places_in(document)
    return source.choice(places) if places else ({"": None}, "")


def _delete(document: Any, source: random.Random) -> None:
    place, key = _pick(document, source)
    del place[key]


def _retype(document: Any, source: random.Random) -> None:
    place, key = _pick(document, source)
    place[key] = json.loads(json.dumps(source.choice(ODD)))


def _duplicate(document: Any, source: random.Random) -> None:
    place, key = _pick(document, source)
    if isinstance(place, list):
        place[key:key] = [place[key]] * source.choice((1, 3, 40))
    else:
        place[f"{key}{source.choice(('', ' ', '2'))}"] = place[key]


def _rename(document: Any, source: random.Random) -> None:
    place, key = _pick(document, source)
    if isinstance(place, dict):
        place[source.choice(NAMES)] = place.pop(key)


def _swap(document: Any, source: random.Random) -> None:
    (one, key), (other, name) = _pick(document, source), _pick(document, source)
    copies = json.dumps(one[key]), json.dumps(other[name])
    one[key], other[name] = json.loads(copies[1]), json.loads(copies[0])


def _nest(document: Any, source: random.Random) -> None:
    place, key = _pick(document, source)
    for _ in range(source.choice((1, 2, 60, 300))):
        place[key] = [place[key]] if source.random() < 0.5 else {"a": place[key]}


def _spoil_text(document: Any, source: random.Random) -> None:
    places = [(place, key) for place, key in places_in(document) if isinstance(place[key], str)]
    if places:
        place, key = source.choice(places)
        cut = source.randrange(len(place[key]) + 1)
        odd = source.choice(
            ("\0", "\ud800", "\udfff\ud800", "\u2028", "\x1b]0;x\x07", "\r", "'", '"""', "{", "\U000e0041")
        )
        place[key] = place[key][:cut] + odd + place[key][cut:]


def _spoil_cell(document: Any, source: random.Random) -> None:
    cells = document.get("cells")
    cell = source.choice(cells) if isinstance(cells, list) and cells else None
    if isinstance(cell, dict):
        if source.random() < 0.5:
            cell["source"] = source.choice(_SOURCES)
        elif isinstance(cell.get("metadata"), dict):
            cell["metadata"]["tags"] = source.choices(_TAGS, k=source.choice((1, 2)))


def _truncate(raw: bytes, source: random.Random) -> bytes:
    return raw[: source.randrange(len(raw) + 1)]


def _flip(raw: bytes, source: random.Random) -> bytes:
    spoiled = bytearray(raw)
    for _ in range(source.choice((1, 1, 4))):
        place = source.randrange(len(spoiled))
        spoiled[place] ^= 1 << source.randrange(8)
    return bytes(spoiled)


def _insert(raw: bytes, source: random.Random) -> bytes:
    place = source.randrange(len(raw) + 1)
    odd = (b"\xef\xbb\xbf", b"\0", b"\xff\xfe", b"\xed\xa0\x80", b"NaN", b"1" * 5000, b"[" * 5000, b"<<<<<<< ours\n")
    return raw[:place] + source.choice(odd) + raw[place:]


def _recode(raw: bytes, source: random.Random) -> bytes:
    return raw.decode("utf-8", "replace").encode(source.choice(("utf-16", "utf-32", "utf-8-sig", "cp037")), "replace")


STRUCTURAL: list[Callable[[Any, random.Random], None]] = [
    *(_delete, _retype, _retype, _duplicate, _rename, _swap, _nest, _spoil_text, _spoil_cell)
]
BINARY: list[Callable[[bytes, random.Random], bytes]] = [_truncate, _flip, _insert, _recode]
