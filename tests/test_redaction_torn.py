"""A secret of which one part goes to one stream and the next to another: masked in both, wherever it is kept or shown.

What is looked at together is what arrived with nothing in between; each stream by itself is masked as it always was.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from recording import journalled, record_in
from support import LOAD, Desk, code, parameters
from test_redaction_properties import ANY, CUTS, FORMS, LONG, NAMED, OTHER, QUICK, knowing

from opsbook.archive.copy import clean_document
from opsbook.archive.layout import Claim, RunFolder, run_folder
from opsbook.config import LogSettings
from opsbook.execution.cell_summary import CellSummary, SummaryRules
from opsbook.execution.output_streams import OutputStreams
from opsbook.masked_stream import MOST_TORN, MaskedStreams
from opsbook.model import event as e
from opsbook.model.target import TargetState
from opsbook.redaction import MASK, Redactor

NAMES = {"web1": "127.0.8.17"}
VALUE = "Zaubernuss-7"
BOTH = ("stdout", "stderr")
TURNS = st.lists(st.sampled_from(BOTH), min_size=8, max_size=8)
Pieces = list[tuple[str, str]]


def in_turns(text: str, cuts: list[int], turns: list[str]) -> Pieces:
    edges = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts)})
    parts = [text[begin:end] for begin, end in pairwise(edges)]
    return [(turns[number % len(turns)], part) for number, part in enumerate(parts)]


def streamed(redactor: Redactor, pieces: Pieces) -> Pieces:
    streams = MaskedStreams(redactor)
    shown = [told for name, text in pieces for told in streams.feed(name, text)]
    return [*shown, *streams.end()]


def of(pieces: Pieces, *names: str) -> str:
    return "".join(text for name, text in pieces if name in (names or BOTH))


# any secret


def check_torn(value: str, form: str, before: str, after: str, cuts: list[int], turns: list[str]) -> None:
    if ("\0" in value and form == "two bytes each") or ("\x1b" in value + before and form == "coloured"):
        return  # see the streams that are alone
    redactor, shown = knowing(value), FORMS[form](value)
    pieces = in_turns(before + shown + after, cuts, turns)
    told = streamed(redactor, pieces)
    whole = redactor.pieces([text for _, text in pieces], [name for name, _ in pieces])
    for text in (of(told), "".join(whole), *(of(told, name) for name in BOTH)):
        left = text.split(MASK)
        assert not any(value in part for part in left)
        assert form.startswith("base64") or not any(shown in part for part in left)
    assert MASK in of(told)
    for name in BOTH:
        masked = (text for (stream, _), text in zip(pieces, whole, strict=True) if stream == name)
        assert of(told, name) == "".join(masked), "what came in pieces is masked as the whole"


def check_nothing_else(value: str, texts: tuple[str, str], cuts: list[int], turns: list[str]) -> None:
    said, pieces, streams = dict(zip(BOTH, texts, strict=True)), list[tuple[str, str]](), MaskedStreams(knowing(value))
    for number, cut in enumerate(cuts):
        name = turns[number % len(turns)]
        size = cut % (len(said[name]) + 1)
        pieces += streams.feed(name, said[name][:size])
        said[name] = said[name][size:]
    for name in BOTH:
        pieces += streams.feed(name, said[name])
    pieces += streams.end()
    assert tuple(of(pieces, name) for name in BOTH) == texts


@QUICK
@given(**ANY, cuts=CUTS, turns=TURNS)
def test_no_form_of_a_secret_is_left_however_its_pieces_are_spread_over_the_streams(**drawn):
    check_torn(**drawn)


@QUICK
@given(
    value=NAMED.filter(lambda value: all(any(letter not in " :" for letter in line) for line in value.split("\n"))),
    texts=st.tuples(OTHER, OTHER),
    cuts=st.lists(st.integers(0, 20), max_size=8),
    turns=TURNS,
)
def test_what_holds_no_form_keeps_every_byte_on_each_stream(value, texts, cuts, turns):
    check_nothing_else(value, texts, cuts, turns)


@pytest.mark.soak
def test_no_form_of_a_secret_is_left_in_thousands_of_spread_texts() -> None:
    LONG(given(**ANY, cuts=CUTS, turns=TURNS)(check_torn))()


@pytest.mark.parametrize("form", FORMS)
def test_a_secret_whose_letters_go_to_the_streams_in_turns_is_masked_in_each_form(form: str) -> None:
    value = "p<ss'w\"ö rd/7$"
    for cuts in ([9], list(range(0, 200, 2)), list(range(200))):
        check_torn(value, form, "ab ", " c\n", cuts, list(BOTH))


@settings(QUICK, max_examples=400)
@given(
    values=st.lists(st.text("abc", min_size=4, max_size=6), min_size=1, max_size=2),
    spread=st.lists(
        st.tuples(st.sampled_from(("a", "b", "c")), st.integers(0, 1), st.integers(0, 5), st.integers(1, 6)),
        max_size=14,
    ),
)
def test_parts_of_secrets_in_any_order_never_stand_side_by_side_as_a_whole(values, spread):
    """Also where what is held back is shown later than what followed it."""
    redactor = knowing(*values)
    pieces = [(name, values[which % len(values)][at : at + size]) for name, which, at, size in spread]
    told = streamed(redactor, pieces)
    for text in (of(told, "a", "b", "c"), of(told, "a"), of(told, "b"), of(told, "c")):
        assert not any(value in part for value in values for part in text.split(MASK))


def test_what_waited_and_comes_behind_several_texts_makes_no_secret_of_them() -> None:
    spread = "e:xba e:a e:b o:a e:aab o:ax e:ab e:a o:b o:baa e:bab o:b o:a e:aaaa"
    pieces = [(turn[0], turn[2:]) for turn in spread.split()]
    assert "baaaa" not in of(streamed(knowing("bbaabb", "baaaa"), pieces), "e", "o")


def test_what_only_a_mask_stands_between_in_pieces_is_looked_at_again() -> None:
    texts = ["first-se", "ab", "cretcd", "."]
    masked = knowing("first-secret", "abcd").pieces(texts, ("stdout", "stderr", "stdout", "stderr"))
    assert masked == [MASK, MASK, "", "."]


def test_a_character_of_which_each_stream_has_a_byte_is_part_of_a_secret_all_the_same() -> None:
    data = "x Schlüssel y".encode()
    pieces = [(BOTH[number % 2], bytes([byte]).decode("utf-8", "surrogateescape")) for number, byte in enumerate(data)]
    told = streamed(knowing("Schlüssel"), pieces)
    assert (of(told, "stdout"), of(told, "stderr")) == (f"x{MASK} ", f" {MASK}y")

    key = "abc\U0001f511".encode()
    for cut in range(len(key)):
        parts = [part.decode("utf-8", "surrogateescape") for part in (key[:cut], key[cut:] + b" and more")]
        told = streamed(knowing(key.decode()), list(zip(BOTH, parts, strict=True)))
        assert of(told).replace(MASK, "") == " and more"


# what is held back


def test_what_the_other_stream_interrupts_is_masked_as_before_and_the_interruption_is_shown_at_once() -> None:
    streams = MaskedStreams(knowing(VALUE))
    assert streams.feed("stdout", "a Zauber") == [("stdout", "a ")]
    assert streams.feed("stderr", "a line\nand Z") == [("stderr", "a line\nand ")]
    assert streams.feed("stdout", "nuss-7 b") == [("stdout", f"{MASK} b")]
    assert streams.end() == [("stderr", "Z")]


@pytest.mark.parametrize("between", [("stderr", "x"), ("stderr", "e")])
def test_what_came_before_an_interruption_is_no_part_of_what_is_looked_at_together(between: tuple[str, str]) -> None:
    pieces = [("stdout", "Zaub"), between, ("stdout", "er"), ("stderr", "nuss-7")]
    told = streamed(knowing(VALUE), pieces)
    assert (of(told, "stdout"), of(told, "stderr")) == (of(pieces, "stdout"), of(pieces, "stderr"))


def test_only_what_may_be_torn_waits_and_comes_in_its_order() -> None:
    streams = MaskedStreams(knowing(VALUE))
    assert streams.feed("stdout", "Zau") == []
    assert streams.feed("stderr", "ber") == [], "it may go on on either"
    assert streams.feed("stdout", "Uss") == [("stdout", "Zau"), ("stderr", "ber"), ("stdout", "Uss")]
    assert streams.feed("stderr", "Zau") == []
    assert streams.feed("stdout", "ber") == []
    assert streams.end() == [("stderr", "Zau"), ("stdout", "ber")]


def test_a_flood_that_could_go_on_for_ever_on_both_streams_is_not_held_back() -> None:
    streams = MaskedStreams(knowing("aaaa"))
    told = [streams.feed(BOTH[number % 2], "a" * 1000) for number in range(50)]
    assert told[0] == [("stdout", MASK)]
    assert sum(len(stream.kept) for stream in streams._streams.values()) < 20
    assert len(streams.torn) <= MOST_TORN + 10
    assert streams.feed("stdout", "b")[-1] == ("stdout", "b")


class Counting(Redactor):
    """Counts how much it looked at."""

    looked = 0

    def look(self, text: str, *, ends: bool) -> tuple[list[tuple[int, int]], int]:
        self.looked += len(text)
        return super().look(text, ends=ends)


@pytest.mark.parametrize("turns", [("stdout",), BOTH])
def test_whole_lines_are_looked_at_once_whoever_speaks(turns: tuple[str, ...]) -> None:
    redactor = Counting()
    redactor.add(VALUE)
    redactor.looked = 0
    pieces = [(turns[number % len(turns)], "nothing to see\n") for number in range(1000)]
    assert streamed(redactor, pieces) == pieces
    assert redactor.looked == len(of(pieces))


# through the recorder


def printed(stream: str, text: str) -> e.CellOutput:
    return e.CellOutput(cell_id="a", stream=stream, text=text)


def said(stream: str, data: bytes, call: int = 1) -> e.TargetOutput:
    text = data.decode("utf-8", "replace")
    return e.TargetOutput(
        call=call, target="web1", stream=stream, text=text, raw=data if text.encode() != data else b""
    )


def ended(stdout: str, stderr: str, *, truncated: bool = False) -> e.TargetEnded:
    return e.TargetEnded(
        call=1, cell_id="a", target="web1", state=TargetState.OK, stdout=stdout, stderr=stderr, truncated=truncated
    )


def result_of(*told: tuple[str, bytes], start: bytes = b"", end: str | None = None) -> e.TargetEnded:
    """How a call ends that said this, as far as it was kept."""
    both = {name: start + b"".join(data for stream, data in told if stream == name) for name in BOTH}
    texts = [data.decode("utf-8", "replace") for data in both.values()]
    streams = OutputStreams(knowing(VALUE))
    events = [said("stdout", start), said("stderr", start), *(said(name, data) for name, data in told)]
    streams.masked(events)
    result = streams.masked([ended(texts[0] if end is None else end, texts[1])])[-1]
    assert isinstance(result, e.TargetEnded)
    return result


def test_a_result_has_masks_where_both_streams_had_a_part_and_says_so() -> None:
    torn = (("stdout", b"sZaub s\nx Zaub"), ("stderr", b"ern\n"), ("stderr", b"x"))
    assert not result_of(*torn).masked, "there was something in between"
    result = result_of(("stdout", b"Zaub s\nx Zaub"), ("stderr", b"ernuss-7 y\nernuss-7"))
    assert (result.stdout, result.stderr, result.masked) == (f"Zaub s\nx {MASK}", f"{MASK} y\nernuss-7", True)


def test_a_result_that_keeps_the_end_alone_or_is_no_text_has_its_masks_too() -> None:
    told = (("stdout", b"a lot\nx Zaub"), ("stderr", b"ernuss-7\n"))
    cut = result_of(*told, end="[6 characters left out]\nx Zaub")
    assert cut.stdout == f"[6 characters left out]\nx {MASK}"
    broken = result_of(*told, start=b"\xe2\x98 \xf0\x9f\n")
    assert broken.stdout == f"\ufffd \ufffd\na lot\nx {MASK}"
    again = (*told, ("stdout", b"\nx \xe2\x98\n"))
    assert result_of(*again, start=b"\xe2\x98\n").stdout == f"\ufffd\na lot\nx {MASK}\nx \ufffd\n"
    assert result_of(*told, end="a l [9 characters left out]").stdout == "a l [9 characters left out]"


def test_of_a_result_with_more_torn_parts_than_are_remembered_nothing_is_kept() -> None:
    result = result_of(*[("stdout", b"Zaub"), ("stderr", b"ernuss-7\n")] * MOST_TORN)
    assert (result.stdout, result.stderr) == (MASK, MASK)
    streams = MaskedStreams(knowing(VALUE))
    for _ in range(MOST_TORN):
        streams.feed("stdout", "Zaub")
        streams.feed("stderr", "ernuss-7\n")
    assert len(streams.torn) <= MOST_TORN + 2


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[RunFolder]:
    claim = Claim(run_folder(tmp_path, "20261120T120000Z-book-000000"))
    yield claim.folder
    claim.release()


@pytest.mark.parametrize("late", [False, True])
def test_neither_journal_nor_host_log_has_a_part_of_what_was_torn_whenever_it_became_known(
    folder: RunFolder, *, late: bool
) -> None:
    redactor = Redactor() if late else knowing(VALUE)
    recorder = record_in(folder, redactor=redactor)
    for stream, part in (("stdout", "x Zaub"), ("stderr", "ernus"), ("stdout", "s-7 y\n")):
        recorder.submit(printed(stream, part))
        recorder.submit(said(stream, part.encode()))
    recorder.submit(ended("x Zaubs-7 y\n", "ernus"))
    recorder.submit(replace(ended("x Zaub", "ernuss-7 y\n"), call=2))
    recorder.submit(replace(ended("ernuss-7 y\n", "x Zaub"), call=3))
    recorder.settle()
    redactor.add(VALUE, name="env:TOKEN")
    recorder.scan()
    recorder.close()
    assert recorder.failure == ""
    events = journalled(folder)
    texts = [(event.stream, event.text) for event in events if isinstance(event, e.CellOutput)]
    assert (of(texts, "stdout"), of(texts, "stderr")) == (f"x {MASK} y\n", MASK)
    first, second, third = (event for event in events if isinstance(event, e.TargetEnded))
    assert (second.stdout, second.stderr, second.masked) == (f"x {MASK}", f"{MASK} y\n", True), "it may have been so"
    assert (third.stdout, third.stderr, third.masked) == (f"{MASK} y\n", f"x {MASK}", True)
    if not late:
        assert (first.stdout, first.stderr, first.masked) == (f"x {MASK} y\n", MASK, True)
    log = folder.host_log("web1").read_text()
    assert log == (f"x {MASK} y\n" if late else f"x {MASK}{MASK} y\n"), "a log holds one text"
    assert bool(recorder.incidents) is late


def test_the_copy_masks_what_two_outputs_of_a_cell_have_a_part_of() -> None:
    def stream(name: str, text: str) -> dict[str, object]:
        return {"output_type": "stream", "name": name, "text": text}

    outputs = [stream("stdout", "a Zaub"), stream("stderr", "ern"), stream("stdout", "uss-7 b"), stream("stderr", "c")]
    cell = {"cell_type": "code", "source": "", "metadata": {}, "outputs": outputs}
    (clean,) = clean_document({"metadata": {}, "cells": [cell]}, knowing(VALUE))["cells"]
    assert [output["text"] for output in clean["outputs"]] == ["a ***", "***", " b", "c"]


def test_a_summary_masks_what_is_torn_before_it_chooses_lines() -> None:
    summary = CellSummary(SummaryRules.from_settings(LogSettings()), knowing(VALUE), look="events.jsonl")
    for number in range(60):
        summary.take("stdout", f"row {number} Zauber")
        summary.take("stderr", "nuss-7 and an error\n")
        summary.take("stdout", "\n")
    text = summary.text()
    assert "Zauber" not in text
    assert "nuss" not in text
    assert f"row 0 {MASK}" in text


# real runs

PRINTS = """
import sys
value = open("value").read()
def say(text, stream):
    print(text, end="", file=stream, flush=True)
say("once " + value[:5], sys.stdout); say(value[5:], sys.stderr); say("\\n", sys.stdout)
for number, letter in enumerate("x" + value + "y"):
    say(letter, (sys.stdout, sys.stderr)[number % 2])
say(value[:5], sys.stderr); say(" between ", sys.stdout); say(value[5:], sys.stderr)
"""


def kept_and_told(desk: Desk, *told: str) -> Iterator[tuple[str, str]]:
    for file in (desk.folder / "archive").rglob("*"):
        if file.is_file():
            yield file.name, file.read_bytes().decode("utf-8", "surrogateescape")
    yield from (("told", text) for text in told)


def test_what_a_kernel_says_in_turns_on_its_streams_is_in_no_file_and_on_no_screen(desk: Desk) -> None:
    desk.write("value", VALUE)
    desk.notebook(LOAD, parameters('token: Secret = "env:TOKEN"'), code(PRINTS, cell_id="says"))
    ran = desk.opsbook("run", "book.ipynb", "--json", env={**desk.environment, "TOKEN": VALUE})
    assert ran.code == 0, ran
    run = desk.run()
    for where, text in kept_and_told(desk, ran.out, ran.err):
        assert VALUE not in text, where
        assert VALUE[:5] not in text, where
        assert VALUE[5:] not in text, where
    events = [(event["stream"], event["text"]) for event in run.events("cell_output")]
    assert of(events, "stdout") == f"once {MASK}\nx{MASK} between "
    assert of(events, "stderr") == f"{MASK}{MASK}y{MASK}"
    (cell,) = (cell for cell in run.notebook["cells"] if cell["id"] == "says")
    outputs = [(output["name"], "".join(output["text"])) for output in cell["outputs"]]
    assert of(outputs, "stdout") == of(events, "stdout")
    assert of(outputs, "stderr") == of(events, "stderr")


@pytest.mark.parametrize("how", [(), ("--durable",)])
def test_what_a_target_says_in_turns_on_its_streams_is_in_no_file_and_on_no_screen(
    desk: Desk, how: tuple[str, ...]
) -> None:
    hosts = (desk.folder / "hosts.ini").read_text()
    desk.write("hosts.ini", f"{hosts}ansible_become_password={VALUE}\n")
    script = f"echo begins; printf {VALUE[:5]}; sleep 0.3; printf {VALUE[5:]} >&2"
    ran = desk.opsbook("exec", "web1", *how, "--json", "--", "sh", "-c", script)
    assert ran.code == 0, ran
    shown = desk.opsbook("logs", "last")
    for where, text in kept_and_told(desk, ran.out, ran.err, shown.out):
        # the command itself is what somebody typed: it holds the parts, and no secret
        said = text.replace(script, "").replace(json.dumps(script)[1:-1], "")
        assert VALUE not in said, where
    (result,) = desk.run().events("target_ended")
    assert (result["stdout"], result["stderr"], result["masked"]) == (f"begins\n{MASK}", MASK, True)
    assert json.loads(ran.out)["output"]["web1"] == {"stdout": f"begins\n{MASK}", "stderr": MASK, "truncated": False}
    assert (desk.run().folder / "hosts/web1.log").read_text() == f"begins\n{MASK}{MASK}"
    assert MASK in shown.out
