"""Inventories nobody should read for long: bombs of every kind, and damage. Refused with their place, or understood."""

from __future__ import annotations

import random
import re
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opsbook.errors import InventoryError
from opsbook.inventory import draft
from opsbook.inventory.hosts import expand_range
from opsbook.inventory.load import load, read_values
from opsbook.inventory.pattern import select
from opsbook.model.target import unstorable

LONGEST_S = 2.0
"""Processor seconds any of these may take."""
SAFE = re.compile(r"[A-Za-z0-9_.:%][A-Za-z0-9_.:%-]{0,249}")
FUZZ = settings(max_examples=60, deadline=None, database=None)
VALID = {
    "hosts.ini": "[web]\nweb[01:03] ansible_port=2222 x='a b'\n[db]\ndb1:22\n"
    "[prod:children]\nweb\ndb\n[prod:vars]\ny=[1, 2]\n",
    "hosts.yml": "all:\n  vars: &v {a: 1, b: [x, 2.5, yes]}\n  children:\n    web:\n      hosts:\n        web[1:3]:\n"
    "        w9: {<<: *v, ansible_host: 10.0.0.1}\n    db:\n      hosts: db1\n",
    "hosts.json": '{"all": {"hosts": {"web1": {"a": [1, null, true]}}, "children": {"db": {"hosts": {"db1": {}}}}}}',
}
PIECES = [
    *(
        "\0",
        "\x1b[2J",
        "\u202e",
        "\ufeff",
        "\r",
        "\t",
        "&a",
        "*a",
        "!!python/object:os.system",
        "!!binary",
        "<<: *v",
        "{",
        "[",
    ),
    *(
        "]",
        "}",
        "[1:9]",
        "[1:",
        ":",
        ": ",
        "\n",
        "\n  ",
        "- ",
        "? ",
        "'",
        '"',
        "\\",
        "|",
        ">",
        "%",
        "@",
        "`",
        "#",
        "9" * 400,
    ),
    *(
        "-oProxyCommand=x",
        "../../etc",
        "~",
        "0x",
        "1:1:1",
        "2026-13-40",
        ".inf",
        ".nan",
        "null",
        "hosts",
        "children",
        "vars",
    ),
]


def check(path: Path) -> bool:
    """Read an inventory; whether it was understood."""
    began = time.process_time()
    try:
        inventory = load([path])
    except InventoryError:
        return False
    finally:
        assert time.process_time() - began < LONGEST_S
    for target in inventory.targets:
        assert SAFE.fullmatch(target.name)
        assert not target.host.startswith("-")
        assert target.host.isprintable()
        assert not unstorable(target.vars)
        assert target.proxy_command is None
    return True


@pytest.mark.parametrize("name", VALID)
def test_damaged_inventories_are_refused_or_understood(tmp_path: Path, name: str) -> None:
    source, file = random.Random(5), tmp_path / name
    understood = 0
    for _ in range(120):
        text = VALID[name]
        for _ in range(source.choice((1, 1, 2, 4))):
            place, end = (source.randrange(len(text) + 1) for _ in range(2))
            cut = end if source.random() < 0.3 else place
            text = text[: min(place, cut)] + source.choice(PIECES) + text[max(place, cut) :]
        file.write_bytes(text.encode("utf-8", "surrogatepass"))
        understood += check(file)
    assert 5 < understood < 115


SHARED = [(f"&a{i}", ",".join([f"*a{i - 1}"] * 9)) for i in range(1, 12)]
BOMBS = {
    "aliases": ("yml", "a0: &a0 {h: }\n" + "".join(f"{name[1:]}: {name} [{many}]\n" for name, many in SHARED)),
    "merges": ("yml", "a0: &a0 {h: }\n" + "".join(f"{name[1:]}: {name}\n  <<: [{many}]\n" for name, many in SHARED)),
    "an alias of itself": ("yml", "all: &a\n  hosts: *a\n"),
    "flow": ("yml", "{" * 50_000),
    "lists": ("yml", "- " * 50_000),
    "keys": ("yml", "? " * 50_000),
    "parts of sixty": ("yml", "all: {vars: {x: " + ":".join(["1"] * 500_000) + "}}"),
    "digits": ("yml", "all: {vars: {x: " + "9" * 500_000 + "}}"),
    "python": ("yml", "all: {vars: {x: !!python/object/apply:os.system [id]}}"),
    "python's name": ("yml", "all: {vars: {x: !!python/name:os.system }}"),
    "binary": ("yml", "all: {vars: {x: !!binary aGk=}}"),
    "a range": ("ini", "[web]\nweb[1:999999999]\n"),
    "ranges of ranges": ("ini", "[web]\nweb[1:1000][1:1000]\n"),
    "ranges without end": ("ini", "[web]\nweb[0:99999]" + "[0:0]" * 100_000),
    "a name in each of many": ("ini", "[web]\n" + "w" * 1_000_000 + "[0:99999]\n"),
    "a literal": ("ini", "[web]\nw1 x='" + "-" * 100_000 + "1'\n"),
    "a sum": ("ini", "[web]\nw1 x='" + "1+" * 50_000 + "1j'\n"),
    "json": ("json", '{"all": ' * 5000),
}  # fmt: skip


@pytest.mark.parametrize("what", BOMBS)
def test_a_bomb_is_refused_before_it_costs_anything(tmp_path: Path, what: str) -> None:
    ending, text = BOMBS[what]
    file = tmp_path / f"hosts.{ending}"
    file.write_text(text)
    assert not check(file)
    assert not list(tmp_path.glob("RAN"))


@pytest.mark.parametrize(
    "text",
    [
        "\n".join(f"[g{i}:children]\ng{i + 1}" for i in range(400)) + "\n[g400]\nh\n",
        "[g400]\nh\n" + "\n".join(f"[g{i}:children]\ng{i + 1}" for i in reversed(range(400))),
        "[web]\n" + "h[1:1000]\n" * 40,
        "[web]\nh[1:1000] " + " ".join(f"x{i}=1" for i in range(40)),
        "\n".join(f"[g{i}]\nh[1:500]" for i in range(30)),
    ],
    ids=["a chain of groups", "a chain from its end", "one range often", "variables of many", "groups of many"],
)
def test_few_lines_cannot_stand_for_endless_work(tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "hosts.ini"
    file.write_text(text)
    assert check(file)
    monkeypatch.setattr(draft, "MAX_STEPS", 25_000)  # a hundredth of what there is, for a hundredth of the time
    with pytest.raises(InventoryError, match="comes to more than 25,000"):
        load([file])


NO_NAMES = [
    *("-oProxyCommand=touch RAN", "--help", "a b", "../../etc/passwd", "a/b", "a\x1b[2J", "a\u202eb", "a;id", "$(id)"),
    *("`id`", "a@b", "*", "é"),
]


@pytest.mark.parametrize("name", NO_NAMES)
def test_a_name_that_could_be_more_than_a_name_is_none(tmp_path: Path, name: str) -> None:
    for ending, text in (
        ("ini", f'[web]\n"{name}"\n'),
        ("yml", f"all:\n  hosts:\n    {name!r}:\n"),
        ("ini", f'[web]\nw1 ansible_host="{name}"\n'),
    ):
        file = tmp_path / f"hosts.{ending}"
        file.write_text(text)
        try:
            targets = load([file]).targets
        except InventoryError:
            continue
        assert "ansible_host" in text
        assert not targets[0].host.startswith("-")
        assert not any(char.isspace() or not char.isprintable() for char in targets[0].host)


@FUZZ
@given(st.text(max_size=80) | st.lists(st.sampled_from(PIECES), max_size=10).map("".join))
def test_any_text_is_an_inventory_or_none(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    folder = tmp_path_factory.getbasetemp()
    for ending in ("ini", "yml", "json"):
        file = folder / f"any.{ending}"
        file.write_bytes(text.encode("utf-8", "surrogatepass"))
        check(file)
        try:
            assert not unstorable(read_values(file))
        except InventoryError:
            continue


@pytest.mark.parametrize("text", ["w" * 600 + "[1:2]", "w" + "[0:0]" * 200])
def test_how_long_a_name_is_counts_before_what_it_stands_for(text: str) -> None:
    with pytest.raises(InventoryError, match="longer than any host's name"):
        expand_range(text)


def test_values_of_a_json_file_may_hold_any_character(tmp_path: Path) -> None:
    file = tmp_path / "values.json"
    file.write_text('{"a": "\\ud83d\\ude00", "b": "\\u0000"}')
    assert read_values(file) == {"a": "\U0001f600", "b": "\0"}
    for text in (
        '{"a": 1, "a": 2}',
        '{"a": "\\ud800"}',
        '{"a": NaN}',
        "[1]",
        '{"a": ' * 5000,
        '{"a": ' + "[" * 150 + "]" * 150 + "}",
    ):
        file.write_text(text)
        with pytest.raises(InventoryError, match=r"values\.json"):
            read_values(file)


def test_a_pattern_is_data_too(tmp_path: Path) -> None:
    file = tmp_path / "hosts.ini"
    file.write_text("[web]\nweb[1:50]\n")
    inventory = load([file])
    for pattern in (
        "~" + "(" * 500,
        "~(?P<",
        "[" * 9999,
        "web" * 9999,
        "!" * 999,
        "~\\",
        "web[" + "9" * 3000 + "]",
        "\0",
        "*" * 2000 + "x",
    ):
        began = time.process_time()
        with pytest.raises(InventoryError):
            select(inventory, pattern)
        assert time.process_time() - began < LONGEST_S
