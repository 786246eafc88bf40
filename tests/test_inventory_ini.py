"""Inventories in Ansible's INI format."""

from pathlib import Path

import pytest

from opsbook.errors import InventoryError
from opsbook.inventory.load import load
from opsbook.model.target import Inventory, Target


def read(folder: Path, text: str, name: str = "hosts.ini") -> Inventory:
    file = folder / name
    file.write_text(text, encoding="utf-8")
    return load([file])


def by_name(inventory: Inventory) -> dict[str, Target]:
    return {target.name: target for target in inventory.targets}


def test_hosts_stand_in_the_order_in_which_they_are_first_named(tmp_path: Path) -> None:
    inventory = read(tmp_path, "z\n[web]\nw2\nw1\n[db]\nd1\nw2\n[all]\na\n")
    assert [target.name for target in inventory.targets] == ["z", "w2", "w1", "d1", "a"]
    assert inventory.sources == (str(tmp_path / "hosts.ini"),)


def test_groups_hold_their_own_hosts_and_those_of_their_children(tmp_path: Path) -> None:
    inventory = read(
        tmp_path, "lone\n[site:children]\nprod\n[prod:children]\nweb # ours\ndb\n[web]\nw1\nw2\n[db]\nd1\n"
    )
    assert inventory.groups == {
        "all": ("lone", "w1", "w2", "d1"),
        "ungrouped": ("lone",),
        "site": ("w1", "w2", "d1"),
        "prod": ("w1", "w2", "d1"),
        "web": ("w1", "w2"),
        "db": ("d1",),
    }
    assert by_name(inventory)["w1"].groups == ("prod", "site", "web")
    assert by_name(inventory)["lone"].groups == ("ungrouped",)


def test_a_group_lists_hosts_and_children_in_its_own_order_so_that_positions_are_ansibles(tmp_path: Path) -> None:
    inventory = read(tmp_path, "[web]\nw1\nw2\n[db]\nd1\n[spare]\nw2\nw1\n[prod:children]\ndb\nweb\n")
    assert inventory.groups["spare"] == ("w2", "w1")
    assert inventory.groups["prod"] == ("d1", "w1", "w2")
    assert inventory.groups["all"] == ("w1", "w2", "d1")


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("x=1", 1),
        ("x=-1.5", -1.5),
        ("x=True", True),
        ("x=true", "true"),
        ("x=None", None),
        ("x=", ""),
        ("x=a=b", "a=b"),
        ("x='two words'", "two words"),
        ('x="two words"', "two words"),
        ('x="[1, 2]"', [1, 2]),
        ("x=(1,2)", [1, 2]),
        ("x=\"{'a': {1: None}}\"", {"a": {"1": None}}),
        ("x=\"{'b','a'}\"", ["a", "b"]),
        ("x=007", "007"),
        ("x=0x10", 16),
        ("x=1+2j", "(1+2j)"),
        ("x=...", "..."),
        ("x=\"b'raw'\"", "raw"),
        ("x=a#b", "a"),
        ("x=a\\ b", "a b"),
        ("x=é", "é"),
        ("x='{{ y }}'", "{{ y }}"),
    ],
)
def test_an_inline_value_is_a_python_literal_or_the_text_itself(tmp_path: Path, written: str, value: object) -> None:
    assert by_name(read(tmp_path, f"h1 {written}\n"))["h1"].vars == {"x": value}


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("x=1", 1),
        ("x = two words", "two words"),
        ("x = 'two words'", "two words"),
        ("x=text # kept", "text # kept"),
        ("x=1 # not kept", 1),
        ("x=a=b", "a=b"),
        ("x=", ""),
    ],
)
def test_a_value_in_a_vars_section_takes_the_whole_line(tmp_path: Path, written: str, value: object) -> None:
    assert by_name(read(tmp_path, f"[web]\nh1\n[web:vars]\n{written}\n"))["h1"].vars == {"x": value}


def test_a_range_gives_every_host_the_same_variables_and_port(tmp_path: Path) -> None:
    targets = by_name(read(tmp_path, "web[01:03].example.com:2222 role=front\n"))
    assert list(targets) == ["web01.example.com", "web02.example.com", "web03.example.com"]
    assert {(target.port, target.vars["role"]) for target in targets.values()} == {(2222, "front")}


PRECEDENCE = """\
[leaf]
h1 v5=host
[mid:children]
leaf
[top:children]
mid
[aside]
h1
[all:vars]
v0=all
v1=all
v2=all
v3=all
v4=all
v5=all
[top:vars]
v1=top
v2=top
v3=top
[aside:vars]
v1=aside
v2=aside
[mid:vars]
v2=mid
v3=mid
v4=mid
v5=mid
[leaf:vars]
v3=leaf
v5=leaf
"""


def test_deeper_groups_win_over_their_parents_and_the_host_over_all(tmp_path: Path) -> None:
    assert by_name(read(tmp_path, PRECEDENCE))["h1"].vars == {
        "v0": "all",
        "v1": "top",
        "v2": "mid",
        "v3": "leaf",
        "v4": "mid",
        "v5": "host",
    }


def test_among_groups_of_one_depth_the_later_name_wins_unless_a_priority_says_otherwise(tmp_path: Path) -> None:
    text = "[b]\nh1\n[a]\nh1\n[b:vars]\nx=b\n[a:vars]\nx=a\n"
    assert by_name(read(tmp_path, text))["h1"].vars == {"x": "b"}
    assert by_name(read(tmp_path, text + "ansible_group_priority=2\n"))["h1"].vars == {"x": "a"}


def test_a_later_source_adds_to_and_overrides_an_earlier_one(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second.yml"
    first.write_text("[web]\nw1 x=1 y=1\n[web:vars]\nz=1\n")
    second.write_text("web: {hosts: {w1: {x: 2}, w2: }, vars: {z: 2}}\nnew: {children: {web: }}\n")
    inventory = load([first, second])
    assert by_name(inventory)["w1"].vars == {"x": 2, "y": 1, "z": 2}
    assert inventory.groups["new"] == ("w1", "w2")
    assert inventory.sources == (str(first), str(second))
    assert by_name(load([second, first]))["w1"].vars == {"x": 1, "y": 1, "z": 1}


def test_a_host_called_like_a_group_keeps_its_own_variables(tmp_path: Path) -> None:
    targets = by_name(read(tmp_path, "[bastion]\nbastion ansible_host=10.0.0.9\nbastion2\n"))
    assert targets["bastion"].host == "10.0.0.9"
    assert targets["bastion2"].host == "bastion2"


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("[web\nw1\n", 1, "not a section"),
        ("w[eb\nw1\n", 1, "brackets"),
        ("w1\n[we b]\n", 2, "not a section"),
        ("w1\n[]\n", 2, "not a section"),
        ("w1\n[web:hots]\n", 2, "unknown kind"),
        ("w1\n[web:vars:x]\n", 2, "not a section"),
        ("w1\n\n# c\n[web:vars]\nx=1\n", 4, "no section declares"),
        ("w1\n[prod:children]\nweb\n", 3, "no section declares"),
        ("w1\n[web]\n[prod:children]\nweb db\n", 4, "not a group's name"),
        ("[web]\nw1\n[web:vars]\nnonsense\n", 4, "not name=value"),
        ("[web]\nw1\n[web:vars]\n = 1\n", 4, "no name"),
        ("w1 x\n", 1, "not name=value"),
        ("w1 x = 1\n", 1, "not name=value"),
        ("w1 =1\n", 1, "no name"),
        ("w1 x='open\n", 1, "quotes"),
        ("w1\n-x\n", 2, "not a host name"),
        ("w1\n''\n", 2, "not a host name"),
        ("---\nall:\n", 1, "not a host name"),
        ("all:\n  hosts:\n", 1, "names no port"),
        ("w1\nw[3:1]\n", 2, "downwards"),
        ("w1:0\n", 1, "not a port"),
        ("w1\n[web]\nw1:2222\n", 3, "named before"),
        ("w1:22\n[web]\nw1:2222\n", 3, "named before"),
        ("[a]\nw1\n[a:children]\na\n", 4, "contain itself"),
        ("[a]\nw1\n[b:children]\na\n[a:children]\nb\n", 6, "contain itself"),
        ("[a]\nw1\n[a:children]\nall\n", 4, "'all' cannot be a child"),
        ("w1\n[!web]\nw2\n", 2, "cannot be a group's name"),
        ("w1\n[-web]\nw2\n", 2, "cannot be a group's name"),
        ("w1\n[we*b]\nw2\n", 2, "cannot be a group's name"),
        ("[a]\nw1\n[a:vars]\nansible_group_priority=high\n", 4, "not a whole number"),
        ("w1 x=1e999\n", 1, "JSON"),
        ("w1 x=\"{1: 1, '1': 2}\"\n", 1, "stands twice"),
        ("w1 x='{[]: 1}'\n", 1, "literal"),
        ("w1 x=\"'\\ud800'\"\n", 1, "surrogate"),
        (f"w1 x=0x{'f' * 2000}\n", 1, "too large"),
    ],
)
def test_a_line_that_cannot_be_understood_is_named_with_its_number(
    tmp_path: Path, text: str, line: int, words: str
) -> None:
    with pytest.raises(InventoryError, match=words) as caught:
        read(tmp_path, text)
    assert str(caught.value).startswith(f"{tmp_path / 'hosts.ini'}:{line}: ")
    assert caught.value.exit_code == 2


def test_the_same_port_may_be_repeated(tmp_path: Path) -> None:
    targets = by_name(read(tmp_path, "w1:2222\nw2 ansible_port=2200\n[web]\nw1:2222\nw2:2200\n"))
    assert (targets["w1"].port, targets["w2"].port) == (2222, 2200)


def test_more_hosts_than_any_fleet_has_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InventoryError, match=r":2: the inventory names more than 100,000 hosts"):
        read(tmp_path, "a[1:60000]\nb[1:60000]\n")


def test_windows_line_ends_and_a_byte_order_mark_are_no_part_of_a_name(tmp_path: Path) -> None:
    inventory = read(tmp_path, "\ufeff[web]\r\nw1 x=1\r\n")
    assert by_name(inventory)["w1"].vars == {"x": 1}
