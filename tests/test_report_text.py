"""Text, times and layout: what makes any text safe to show and fit to read."""

import doctest
import importlib
import io
import time
import unicodedata
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from opsbook.model.visible import ci_safe, one_line, visible
from opsbook.report.duration import format_duration, format_seconds, format_when
from opsbook.report.layout import crop, flow, show, wrap

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _in_utc(monkeypatch):
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()


@pytest.mark.parametrize("name", ["report.duration", "model.visible"])
def test_the_examples_in_the_docstrings_hold(name):
    assert doctest.testmod(importlib.import_module(f"opsbook.{name}")).failed == 0


def test_no_control_character_passes():
    seen = visible("".join(map(chr, range(0xA0))))

    assert {ch for ch in seen if unicodedata.category(ch) == "Cc"} == {"\n", "\t"}
    assert "\\x1b" in seen
    assert "\\x9b" in seen


@given(st.text(alphabet=st.characters()))
def test_what_is_visible_stays_as_it_is(text):
    once = visible(text)

    assert visible(once) == once
    assert not any(unicodedata.category(ch) in {"Cs", "Zl", "Zp"} for ch in once)
    once.encode()


def test_colours_go_and_other_sequences_are_spelled_out():
    assert visible("\x1b[1;31mred\x1b[0m \x9b32mgreen") == "red green"
    assert visible("\x1b[2J\x1b]8;;http://x\x07") == r"\x1b[2J\x1b]8;;http://x\a"
    assert visible("\x1b\x1b[0m[2J") == r"\x1b[2J"


def test_text_that_would_be_reversed_or_hidden_is_spelled_out():
    assert visible("a\u202eb\u200bc\ufeffd\ud800") == r"a\u202eb\u200bc\ufeffd\ud800"


def test_line_ends_of_other_systems_are_line_ends_and_a_lone_return_is_not():
    assert visible("a\r\nb\rc") == "a\nb\\rc"
    assert one_line(" a\r\n\tb  c ") == "a b c"


@pytest.mark.parametrize(
    ("line", "safe"),
    [
        ("::set-env name=PATH::/tmp", ": :set-env name=PATH::/tmp"),
        ("   ::error::x", "   : :error::x"),
        ("12:00 ##vso[task.setvariable variable=x]y", "12:00 # #vso[task.setvariable variable=x]y"),
        ("##[group]x ##teamcity[y]", "# #[group]x # #teamcity[y]"),
        ("a::b ## heading std::string", "a::b ## heading std::string"),
    ],
)
def test_no_line_is_a_command_to_a_ci_system(line, safe):
    assert ci_safe(line) == safe


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00"), (4.1, "0:04"), (59.6, "1:00"), (432, "7:12"), (3723, "1:02:03"), (360000, "100:00:00"), (-5, "0:00")],
)
def test_a_duration_is_minutes_and_seconds(seconds, text):
    assert format_duration(seconds) == text


def test_seconds_have_tenths_while_they_matter():
    assert [format_seconds(s) for s in (0, 4.12, 9.97, 127.4, -1)] == ["0.0s", "4.1s", "10s", "127s", "0.0s"]


@pytest.mark.parametrize(
    ("then", "text"),
    [
        (NOW - timedelta(minutes=21), "today 11:39"),
        (NOW - timedelta(hours=18), "Thu 18:00"),
        (NOW - timedelta(days=6), "Sat 12:00"),
        (NOW - timedelta(days=17), "3 Nov"),
        (NOW - timedelta(days=400), "2025-10-16"),
        (NOW + timedelta(days=3), "2026-11-23"),
    ],
)
def test_a_point_of_time_is_as_brief_as_it_stays_clear(then, text):
    assert format_when(then, NOW) == text


def test_a_point_of_time_is_told_in_local_time(monkeypatch):
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()

    assert format_when(datetime(2026, 11, 19, 16, 0, tzinfo=UTC), NOW) == "today 01:00"


@given(st.text(), st.integers(2, 30))
def test_folded_text_keeps_its_words_and_its_width(text, width):
    lines = wrap(one_line(text), width)

    assert all(cell_len(line) <= width for line in lines)
    assert "".join("".join(lines).split()) == "".join(one_line(text).split())


@given(st.text(), st.integers(1, 30))
def test_cut_text_says_that_it_is_cut(text, width):
    shown = crop(one_line(text), width)

    assert cell_len(shown) <= width
    assert shown == one_line(text) or shown.endswith("…")


def test_chunks_stay_whole():
    assert flow(["1 Check it", "2 Update", "3 Verify"], between=" · ", width=22) == [
        "1 Check it · 2 Update ·",
        "3 Verify",
    ]


def test_a_console_without_our_marks_gets_plain_ones():
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, "ascii", write_through=True)
    show(Console(file=file), [Text("✓ Prüfen · 1 ok")])

    assert raw.getvalue() == b"+ Pr\\xfcfen | 1 ok\n"


def test_markup_and_emoji_codes_in_data_are_shown_as_they_are():
    file = io.StringIO()
    show(Console(file=file), [Text("[bold]x[/bold] :smile: [link=http://x]y[/link]")])

    assert file.getvalue() == "[bold]x[/bold] :smile: [link=http://x]y[/link]\n"
