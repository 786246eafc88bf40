"""Inventories in Ansible's YAML format, and what is refused as unsafe."""

import time
from pathlib import Path

import pytest

from opsbook.errors import InventoryError
from opsbook.inventory.load import load
from opsbook.inventory.values import unusable
from opsbook.model.target import Inventory, Target


def read(folder: Path, text: str, name: str = "hosts.yml") -> Inventory:
    file = folder / name
    file.write_text(text, encoding="utf-8")
    return load([file])


def by_name(inventory: Inventory) -> dict[str, Target]:
    return {target.name: target for target in inventory.targets}


TREE = """\
all:
  vars: {stage: none, level: all}
  hosts:
    lone:
  children:
    prod:
      vars: {stage: prod}
      children:
        web:
          hosts:
            web[01:02].example.com: {weight: 1}
            web02.example.com: {weight: 2}
        db:
          hosts: db1
"""


def test_groups_nest_and_host_names_may_be_ranges(tmp_path: Path) -> None:
    inventory = read(tmp_path, TREE)
    assert inventory.groups == {
        "all": ("lone", "web01.example.com", "web02.example.com", "db1"),
        "ungrouped": ("lone",),
        "prod": ("web01.example.com", "web02.example.com", "db1"),
        "web": ("web01.example.com", "web02.example.com"),
        "db": ("db1",),
    }
    assert by_name(inventory)["web02.example.com"].vars == {"stage": "prod", "level": "all", "weight": 2}
    assert by_name(inventory)["db1"].groups == ("db", "prod")


def test_a_port_behind_a_name_works_in_yaml_too(tmp_path: Path) -> None:
    targets = by_name(read(tmp_path, 'web: {hosts: {"w1:2222": , "[2001:db8::1]:22": }}\n'))
    assert targets["w1"].port == 2222
    assert targets["2001:db8::1"].port == 22


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("yes", True),
        ("0644", 420),
        ("'0644'", "0644"),
        ("2026-11-20", "2026-11-20"),
        ("2026-11-20T10:00:00Z", "2026-11-20T10:00:00+00:00"),
        ("~", None),
        ("", None),
        ("1.5", 1.5),
        ("{80: a, true: b, null: c}", {"80": "a", "true": "b", "null": "c"}),
        ("{1.5: d, 2026-11-20: e}", {"1.5": "d", "2026-11-20": "e"}),
        ("[1, [a, {b: c}]]", [1, ["a", {"b": "c"}]]),
        ("'{{ later }}'", "{{ later }}"),
        ("|\n      two\n      lines\n", "two\nlines\n"),
    ],
)
def test_values_are_brought_to_the_types_of_json(tmp_path: Path, written: str, value: object) -> None:
    assert by_name(read(tmp_path, f"web:\n  hosts:\n    w1:\n     x: {written}\n"))["w1"].vars == {"x": value}


def test_anchors_and_merges_share_defaults_and_the_own_key_wins(tmp_path: Path) -> None:
    text = (
        "web:\n  vars: &base {a: 1, b: 1, c: [x]}\n  hosts:\n    w1: {b: 2, <<: *base}\n    w2: {<<: [{a: 3}, *base]}\n"
    )
    targets = by_name(read(tmp_path, text))
    assert targets["w1"].vars == {"a": 1, "b": 2, "c": ["x"]}
    assert targets["w2"].vars == {"a": 3, "b": 1, "c": ["x"]}


def test_json_is_read_as_the_yaml_it_is(tmp_path: Path) -> None:
    text = '{\n  "web": {\n    "hosts": {"w1": {"x": "a\\/b\\u00e9"}}\n  }\n}\n'
    assert by_name(read(tmp_path, text, "hosts.json"))["w1"].vars == {"x": "a/bé"}


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("web:\n  hosts:\n    w1: {p: !vault abc}\n", 3, "is not encrypted"),
        ("web:\n  hosts:\n    w1: {p: !vault [a]}\n", 3, "the tag !"),
        ("web:\n  hosts:\n    w1: {!unsafe p: a}\n", 3, "a key has the tag !unsafe"),
        ("web:\n  hosts:\n    w1: {p: {__ansible_vault: abc}}\n", 3, "is not encrypted"),
        ("web:\n  hosts:\n    w1: {p: !!python/object/apply:os.system ['true']}\n", 3, "the tag !!python/object/apply"),
        ("web: !other {hosts: {w1: }}\n", 1, "the tag !"),
        ("web:\n  hosts: {w1: {x: !!str 1}}\n", 2, "the tag !!str"),
        ("web:\n  hosts: {w1: {x: ! 1}}\n", 2, "the tag !"),
        ("web:\n  hosts: {!!str w1: }\n", 2, "the tag !!str"),
        ("web:\n  hosts:\n    w1:\n    w1:\n", 4, "'w1' stands twice"),
        ("web: {hosts: {w1: }}\nweb: {hosts: {w2: }}\n", 2, "'web' stands twice"),
        ("web:\n  hosts: {w1: {x: {a: 1, a: 2}}}\n", 2, "'a' stands twice"),
        ("web:\n  hosts: {w1: {x: {1: 1, '1': 2}}}\n", 2, "'1' stands twice"),
        ("web:\n  hosts: {w1: {<<: {a: 1}, <<: {b: 1}}}\n", 2, "'<<' stands twice"),
        ("web:\n  hosts: {w1: {<<: 5}}\n", 2, "takes a mapping"),
        ("web:\n  hosts: {w1: {? [a] : 1}}\n", 2, "neither text nor a number"),
        ("web:\n  hosts: {w1: {x: .nan}}\n", 2, "nan"),
        ("web:\n  hosts: {w1: {x: -.inf}}\n", 2, "inf"),
        ("web:\n  hosts: {w1: {x: 2026-02-30}}\n", 2, "cannot be read"),
        (f"web:\n  hosts: {{w1: {{x: {'9' * 5000}}}}}\n", 2, "cannot be read"),
        ("web:\n  hosts: {w1: {x: =}}\n", 2, "cannot be read"),
        ("web:\n  hosts: [w1, w2]\n", 2, "hosts of group 'web' is not a mapping"),
        ("web:\n  hosts: {w1: text}\n", 2, "host 'w1' is not a mapping"),
        ("web:\n  hosts: {w1: }\n  vars: [a]\n", 3, "vars of group 'web' is not a mapping"),
        ("web:\n  hosts: {w1: }\n  vars: a\n", 3, "vars of group 'web' is not a mapping"),
        ("web:\n  host: {w1: }\n", 2, "unknown key 'host'"),
        ("web: [w1]\n", 1, "group 'web' is not a mapping"),
        ("web:\n  hosts: {1: }\n", 2, "the host 1 is not text"),
        ("web:\n  hosts: {yes: }\n", 2, "the host true is not text"),
        ("10: {hosts: {w1: }}\n", 1, "the group 10 is not text"),
        ("'we b': {hosts: {w1: }}\n", 1, "cannot be a group's name"),
        ("web:\n  hosts: {-w1: }\n", 2, "not a host name"),
        ("web:\n  children: {web: }\n", 2, "contain itself"),
        ("a: {children: {b: }, hosts: {w1: }}\nb:\n  children:\n    a:\n", 4, "contain itself"),
        ("a: {hosts: {w1: }, vars: {ansible_group_priority: [1]}}\n", 1, "not a whole number"),
        ("plugin: aws_ec2\n", 1, "inventory plugin"),
        ("- w1\n", 1, "mapping of groups"),
        ("just text\n", 1, "mapping of groups"),
        ("web: {hosts: {w1: }\n", 2, "not YAML"),
        ("web:\n\thosts: 1\n", 2, "not YAML"),
        ("web: {hosts: {w1: }}\n---\ndb: {hosts: {d1: }}\n", 2, "not YAML"),
        ("web: *nothing\n", 1, "not YAML"),
    ],
)
def test_what_is_unsafe_or_no_inventory_is_named_with_its_line(
    tmp_path: Path, text: str, line: int, words: str
) -> None:
    with pytest.raises(InventoryError) as caught:
        read(tmp_path, text)
    assert words in str(caught.value)
    assert str(caught.value).startswith(f"{tmp_path / 'hosts.yml'}:{line}: ")


@pytest.mark.parametrize(
    "text", ["!S3cret", "!!s3cret", "*S3cret", "2026-02-30S3cret: [", "@S3cret", "%S3cret", "&S3cret &S3cret"]
)
def test_a_value_without_its_quotes_is_not_shown(tmp_path: Path, text: str) -> None:
    with pytest.raises(InventoryError) as caught:
        read(tmp_path, f"web: {{hosts: {{w1: {{ansible_password: {text}}}}}}}\n")
    assert "s3cret" not in str(caught.value).lower() + caught.value.hint.lower()


def test_encrypted_values_stay_as_they_are_and_unsafe_ones_are_plain(tmp_path: Path) -> None:
    cipher = "$ANSIBLE_VAULT;1.1;AES256\n6162\n"
    inventory = read(
        tmp_path,
        "web:\n  hosts:\n    w1:\n"
        "      a: !vault |\n        $ANSIBLE_VAULT;1.1;AES256\n        6162\n"
        "      b: [!unsafe '{{ x }}', !unsafe '12', !unsafe {k: !unsafe }]\n"
        '      c: {"__ansible_vault": "$ANSIBLE_VAULT;1.1;AES256\\n6162\\n"}\n'
        '      d: {"__ansible_unsafe": "{{ y }}"}\n',
    )
    values = by_name(inventory)["w1"].vars
    assert values == {"a": cipher, "b": ["{{ x }}", 12, {"k": None}], "c": cipher, "d": "{{ y }}"}


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("plain {x} 5 %", ""),
        (["a", {"b": 1, "c": None}], ""),
        ("a {{ b }}", "is a template"),
        ("{% if a %}", "is a template"),
        ("{# a #}", "is a template"),
        ({"a": ["b", "{{ c }}"]}, "is a template"),
        ("$ANSIBLE_VAULT;1.1;AES256\n6162\n", "is encrypted"),
        ([{"a": "$ANSIBLE_VAULT;1.2;AES256;prod\n6162"}], "is encrypted"),
    ],
)
def test_what_cannot_be_used_as_it_stands_says_why(value: object, words: str) -> None:
    why = unusable(value)
    assert why.startswith(words)
    assert bool(why) is bool(words)


def test_a_control_character_makes_it_no_yaml(tmp_path: Path) -> None:
    with pytest.raises(InventoryError, match="not YAML"):
        read(tmp_path, "web: {hosts: {w\x01: }}\n")


LAUGHS = "a0: &a0 [lol, lol]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 30))
MERGES = "a0: &a0 {k: 1}\n" + "".join(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}\n" for n in range(1, 30))
CHAIN = "".join(f"a{n}: &a{n} [{f'*a{n - 1}' if n else ''}]\n" for n in range(3000))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (LAUGHS, "repeated values"),
        (MERGES, "repeated values"),
        (CHAIN, "nest more than 100 deep"),
        ("web: &w {hosts: *w}\n", "contains itself"),
        ("web: {hosts: {w1: {x: &x [*x]}}}\n", "contains itself"),
        ("web: {hosts: {w1: {x: " + "[" * 5000 + "]" * 5000 + "}}}\n", "nested more than 100 deep"),
        ("web: {hosts: {w1: {x: " + "{a: " * 5000 + "}" * 5000 + "}}}\n", "nested more than 100 deep"),
    ],
)
def test_alias_bombs_and_deep_nesting_are_refused_quickly(tmp_path: Path, text: str, words: str) -> None:
    started = time.monotonic()
    with pytest.raises(InventoryError, match=words):
        read(tmp_path, text)
    assert time.monotonic() - started < 2


def test_defaults_shared_by_a_thousand_hosts_are_no_bomb(tmp_path: Path) -> None:
    hosts = "".join(f"    w{n}: {{<<: *base}}\n" for n in range(1000))
    inventory = read(tmp_path, f"web:\n  vars: &base {{a: 1, b: 2, c: 3, d: [1, 2, 3]}}\n  hosts:\n{hosts}")
    assert by_name(inventory)["w999"].vars == {"a": 1, "b": 2, "c": 3, "d": [1, 2, 3]}
