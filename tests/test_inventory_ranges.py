"""Names of hosts, ranges of names, ports behind them."""

import doctest
import importlib
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opsbook.errors import InventoryError
from opsbook.inventory.hosts import MAX_HOSTS, expand_range, read_hosts


@pytest.mark.parametrize("module", ["hosts", "values"])
def test_the_examples_in_the_docstrings_hold(module: str) -> None:
    result = doctest.testmod(importlib.import_module(f"opsbook.inventory.{module}"))
    assert result.attempted
    assert not result.failed


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("web", ["web"]),
        ("web[1:3]", ["web1", "web2", "web3"]),
        ("web[:2]", ["web0", "web1", "web2"]),
        ("web[08:11].example.com", [f"web{n:02}.example.com" for n in range(8, 12)]),
        ("web[1:10:4]", ["web1", "web5", "web9"]),
        ("web[9:10]", ["web9", "web10"]),
        ("web[001:003:2]", ["web001", "web003"]),
        ("db[a:c]", ["dba", "dbb", "dbc"]),
        ("db[a:e:2]", ["dba", "dbc", "dbe"]),
        ("db[Y:Z]", ["dbY", "dbZ"]),
        ("r[1:2]n[1:2]", ["r1n1", "r1n2", "r2n1", "r2n2"]),
        ("[5:5]", ["5"]),
        ("2001:db8::[1:2]", ["2001:db8::1", "2001:db8::2"]),
    ],
)
def test_a_range_stands_for_its_names_in_order(text: str, names: list[str]) -> None:
    assert expand_range(text) == names


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("web[1:3", "brackets"),
        ("web1:3]", "brackets"),
        ("web[[1:3]]", "brackets"),
        ("web[]", "not a range"),
        ("web[1]", "not a range"),
        ("web[1:2:3:4]", "not a range"),
        ("web[1:]", "not a range"),
        ("web[a:3]", "not a range"),
        ("web[ab:cd]", "not a range"),
        ("web[1:+3]", "not a range"),
        ("web[1:1_0]", "not a range"),
        ("web[1:٣]", "not a range"),
        ("web[01:100]", "different widths"),
        ("web[3:1]", "downwards"),
        ("web[c:a]", "downwards"),
        ("web[1:3:0]", "step"),
        ("web[1:3:-1]", "step"),
        ("web[1:3:]", "step"),
    ],
)
def test_a_malformed_range_is_refused_by_name(text: str, words: str) -> None:
    with pytest.raises(InventoryError, match=words) as caught:
        expand_range(text)
    assert text in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize("text", ["web[1:100001]", "web[1:999999999999]", "a[1:1000]b[1:1000]", "x[0:99999]" * 40])
def test_a_range_of_more_than_a_hundred_thousand_hosts_is_refused_at_once(text: str) -> None:
    started = time.monotonic()
    with pytest.raises(InventoryError, match="more than 100,000"):
        expand_range(text)
    assert time.monotonic() - started < 1


def test_a_range_of_exactly_the_cap_is_expanded() -> None:
    assert len(expand_range(f"web[1:{MAX_HOSTS}]")) == MAX_HOSTS


@given(first=st.integers(0, 200), count=st.integers(1, 50), step=st.integers(1, 9), width=st.integers(1, 5))
def test_a_range_counts_like_range_and_keeps_its_width(first: int, count: int, step: int, width: int) -> None:
    last = first + (count - 1) * step
    begin, end = str(first).zfill(width), str(last).zfill(width)
    names = expand_range(f"n[{begin}:{end}:{step}].x") if len(begin) == len(end) or begin == str(first) else []
    padded = len(begin) > 1 and begin.startswith("0")
    if names:
        assert names == [f"n{str(n).zfill(len(begin) if padded else 0)}.x" for n in range(first, last + 1, step)]
        assert len(set(names)) == len(names) == count


@given(st.text(alphabet="ab01:[]-.", max_size=14))
def test_any_text_is_expanded_or_refused_and_nothing_else(text: str) -> None:
    try:
        names = expand_range(text)
    except InventoryError:
        return
    assert names
    assert all("[" not in name and "]" not in name for name in names)


@pytest.mark.parametrize(
    ("text", "names", "port"),
    [
        ("web1", ["web1"], None),
        ("web1:2222", ["web1"], 2222),
        ("web[1:2]:65535", ["web1", "web2"], 65535),
        ("10.0.0.1:22", ["10.0.0.1"], 22),
        ("2001:db8::1", ["2001:db8::1"], None),
        ("::1", ["::1"], None),
        ("fe80::1%eth0", ["fe80::1%eth0"], None),
        ("[2001:db8::1]:22", ["2001:db8::1"], 22),
        ("[1:2]:22", ["1", "2"], 22),
        ("a_b.c-d", ["a_b.c-d"], None),
    ],
)
def test_a_host_entry_is_read_as_names_and_port(text: str, names: list[str], port: int | None) -> None:
    assert read_hosts(text) == (names, port)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not a host name"),
        ("-oProxyCommand=x", "not a host name"),
        ("--", "not a host name"),
        ("---", "not a host name"),
        ("web/1", "not a host name"),
        ("../x", "not a host name"),
        ("web 1", "not a host name"),
        ("web\t1", "not a host name"),
        ("web\n", "not a host name"),
        ("web\u200b", "not a host name"),
        ("wéb", "not a host name"),
        ("web;reboot", "not a host name"),
        ("$(id)", "not a host name"),
        ("w" * 251, "not a host name"),
        ("web:", "names no port"),
        ("web:0", "not a port"),
        ("web:65536", "not a port"),
        ("web:99999999999999999999", "not a port"),
        ("a:b:c", "neither a host name nor an IPv6"),
        ("web:x", "neither a host name nor an IPv6"),
        ("[2001:db8::1]", "not a range"),
    ],
)
def test_what_is_no_host_is_refused(text: str, words: str) -> None:
    with pytest.raises(InventoryError, match=words):
        read_hosts(text)
