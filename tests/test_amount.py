"""Durations, shares and waves, as people write them."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opsbook.errors import UsageError
from opsbook.model.amount import parse_duration, parse_share, wave_sizes

FUZZ = settings(max_examples=200, deadline=None, database=None)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90.0),
        ("10m", 600.0),
        ("1h30m", 5400.0),
        ("1m30s", 90.0),
        ("1.5h", 5400.0),
        ("250ms", 0.25),
        ("2d", 172800.0),
        ("45", 45.0),
        ("0.5", 0.5),
        (" 5s ", 5.0),
        (7, 7.0),
        (0.25, 0.25),
    ],
)
def test_a_duration_is_read_as_seconds(text: str | float, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text",
    ["", " ", ".", "m", "ten", "1x", "1 m", "1e3", "-5", "-5s", "1..5s", "5s!", "5M", "nan", "inf", "²", "²s", "1m-3s"],
)
def test_what_is_no_duration_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_duration(text)
    assert "is not a duration" in str(caught.value)


@pytest.mark.parametrize("text", ["0", "0s", "0ms", 0, 0.0, -1, float("nan"), float("inf"), "9" * 400])
def test_a_duration_is_above_zero_and_finite(text: str | float) -> None:
    with pytest.raises(UsageError, match="is not a duration above zero"):
        parse_duration(text)


@FUZZ
@given(st.text(max_size=12) | st.from_regex(r"[0-9.smhd]{1,8}", fullmatch=True))
def test_any_text_is_a_duration_above_zero_or_a_usage_error(text: str) -> None:
    with suppress(UsageError):
        assert 0 < parse_duration(text) < float("inf")


@pytest.mark.parametrize(
    ("text", "of", "share"),
    [
        ("2", 24, 2),
        (2, 24, 2),
        ("0", 24, 0),
        ("25%", 24, 6),
        (" 25 % ", 24, 6),
        ("10%", 24, 2),
        ("10%", 5, 0),
        ("100%", 7, 7),
        ("0%", 7, 0),
        ("50%", 0, 0),
    ],
)
def test_a_share_is_a_number_or_a_percentage_rounded_down(text: str | int, of: int, share: int) -> None:
    assert parse_share(text, of=of) == share


@pytest.mark.parametrize("text", ["", "%", "-1", -1, "1.5", "5%%", "half", "1 2"])
def test_what_is_no_share_is_refused(text: str | int) -> None:
    with pytest.raises(UsageError, match="more than all"):
        parse_share("101%", of=24)
    with pytest.raises(UsageError, match="neither a number nor a percentage"):
        parse_share(text, of=24)


@pytest.mark.parametrize(
    ("text", "of", "sizes"),
    [
        ("1,25%,100%", 24, [1, 6, 17]),
        ("1,25%,100%", 3, [1, 1, 1]),
        ("10", 24, [10, 10, 4]),
        ("1,2", 6, [1, 2, 2, 1]),
        ("1%", 3, [1, 1, 1]),
        ("100%", 5, [5]),
        ("50", 5, [5]),
        ("1", 0, []),
    ],
)
def test_waves_take_every_target_and_the_last_size_repeats(text: str, of: int, sizes: list[int]) -> None:
    assert wave_sizes(text, of=of) == sizes


@pytest.mark.parametrize("text", ["", "1,", ",", "1;2", "one", "0", "1,0%", "101%"])
def test_waves_that_cannot_be_read_are_refused_even_for_no_targets(text: str) -> None:
    for of in (0, 5):
        with pytest.raises(UsageError):
            wave_sizes(text, of=of)


@FUZZ
@given(
    st.lists(
        st.integers(1, 300).flatmap(lambda n: st.sampled_from([f"{n}", f"{min(n, 100)}%"])), min_size=1, max_size=5
    ),
    st.integers(0, 500),
)
def test_no_wave_is_empty_and_no_target_is_left_out_or_taken_twice(parts: list[str], of: int) -> None:
    sizes = wave_sizes(",".join(parts), of=of)
    assert sum(sizes) == of
    assert all(size >= 1 for size in sizes)
