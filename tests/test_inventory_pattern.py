"""Ansible's host patterns."""

import functools
import operator
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opsbook.errors import InventoryError
from opsbook.inventory.load import load
from opsbook.inventory.pattern import select
from opsbook.model.target import Inventory, Target


def make(hosts: str, **groups: str) -> Inventory:
    names = tuple(hosts.split())
    return Inventory(
        targets=tuple(Target(name=name, host=name) for name in names),
        groups={"all": names, "ungrouped": (), **{group: tuple(text.split()) for group, text in groups.items()}},
    )


FLEET = make(
    "web1 web2 web3 db1 db2 mail.example.com www.example.com 2001:db8::1 10.0.0.1",
    web="web1 web2 web3",
    db="db2 db1",
    prod="web1 web2 db1",
    mail_servers="mail.example.com",
    six="2001:db8::1",
)


def names(pattern: str, inventory: Inventory = FLEET) -> str:
    return " ".join(target.name for target in select(inventory, pattern))


ALL = "web1 web2 web3 db1 db2 mail.example.com www.example.com 2001:db8::1 10.0.0.1"


@pytest.mark.parametrize(
    ("pattern", "chosen"),
    [
        ("all", ALL),
        ("*", ALL),
        ("web", "web1 web2 web3"),
        ("db2", "db2"),
        ("db:web", "web1 web2 web3 db1 db2"),
        ("db,web", "web1 web2 web3 db1 db2"),
        (" db , web1 ", "web1 db1 db2"),
        ("web1:web1:web", "web1 web2 web3"),
        ("web:&prod", "web1 web2"),
        ("&prod:web", "web1 web2"),
        ("web:db:&prod", "web1 web2 db1"),
        ("web:db:&prod:&web", "web1 web2"),
        ("web:!web3", "web1 web2"),
        ("!web3:web", "web1 web2"),
        ("!web3,web,&prod", "web1 web2"),
        ("web,! web3", "web1 web2"),
        ("all:!web:!db:!*.example.com", "2001:db8::1 10.0.0.1"),
        ("!web", "db1 db2 mail.example.com www.example.com 2001:db8::1 10.0.0.1"),
        ("&prod", "web1 web2 db1"),
        ("!web1:&prod", "web2 db1"),
        ("all:!ungrouped", ALL),
        ("web*", "web1 web2 web3"),
        ("*1", "web1 db1 2001:db8::1 10.0.0.1"),
        ("*.example.com", "mail.example.com www.example.com"),
        ("?b", "db1 db2"),
        ("web[!1]", "web2 web3"),
        ("web[a1]", "web1"),
        ("mail*", "mail.example.com"),
        ("~web[12]$", "web1 web2"),
        ("~(web|db)1", "web1 db1"),
        ("~.*\\.example\\.com", "mail.example.com www.example.com"),
        ("~d", "db1 db2"),
        ("web[0]", "web1"),
        ("web[2]", "web3"),
        ("web[-1]", "web3"),
        ("web[-3]", "web1"),
        ("web[0:1]", "web1 web2"),
        ("web[0:2]", "web1 web2 web3"),
        ("web[1:]", "web2 web3"),
        ("web[0:0]", "web1"),
        ("web[1:99]", "web2 web3"),
        ("db[0]", "db2"),
        ("all[3]", "db1"),
        ("web*[-1]", "web3"),
        ("web1[0]", "web1"),
        ("web[0:1]:db[0]", "web1 web2 db2"),
        ("web:!web[0]", "web2 web3"),
        ("web:&prod[0:1]", "web1 web2"),
        ("2001:db8::1", "2001:db8::1"),
        ("2001:db8::1,web1", "web1 2001:db8::1"),
        ("all,!2001:db8::1,!web,!db", "mail.example.com www.example.com 10.0.0.1"),
        ("10.0.0.1", "10.0.0.1"),
        ("10.0.0.*", "10.0.0.1"),
    ],
)
def test_a_pattern_names_targets_in_inventory_order(pattern: str, chosen: str) -> None:
    assert names(pattern) == chosen


def test_an_excluded_address_with_colons_is_one_term() -> None:
    assert "2001:db8::1" not in names("!2001:db8::1").split()


@pytest.mark.parametrize(
    ("pattern", "term"),
    [
        ("wbe", "wbe"),
        ("web:dv", "dv"),
        ("web:!wbe3", "wbe3"),
        ("web:!web4", "web4"),
        ("web:&prd", "prd"),
        ("!web3:!nothing*", "nothing*"),
        ("web:!~zzz", "~zzz"),
        ("web[3]", "web[3]"),
        ("web[-4]", "web[-4]"),
        ("web[5:7]", "web[5:7]"),
        ("web[2:1]", "web[2:1]"),
        ("web:!web[9]", "web[9]"),
        ("ungrouped[0]", "ungrouped[0]"),
        ("nothing[0]", "nothing[0]"),
        ("Web", "Web"),
        ("web db", "web db"),
        ("web:db,mail_servers", "web:db"),
        ("2001:db8::2", "2001:db8::2"),
        ("web1:2222", "2222"),
        ("@failed", "@failed"),
    ],
)
def test_a_term_that_names_nothing_is_refused_whatever_its_sign(pattern: str, term: str) -> None:
    with pytest.raises(InventoryError) as caught:
        select(FLEET, pattern)
    assert str(caught.value) == f"pattern {term!r} names nothing in the inventory"
    assert caught.value.hint


@pytest.mark.parametrize(
    ("pattern", "hint"),
    [
        ("wbe", "did you mean 'web'?"),
        ("web:!wbe3", "did you mean 'web3'"),
        ("prdo", "did you mean 'prod'?"),
        ("xyzzy", "groups: db, mail_servers, prod, six, ungrouped, web"),
        ("nope", "groups: db, mail_servers"),
        ("web[7]", "'web' has 3 hosts, counted from 0"),
    ],
)
def test_the_hint_says_what_was_perhaps_meant(pattern: str, hint: str) -> None:
    with pytest.raises(InventoryError) as caught:
        select(FLEET, pattern)
    assert caught.value.hint.startswith(hint)


@pytest.mark.parametrize("pattern", ["web:!web", "web:&six", "ungrouped", "!all", "&ungrouped", "web1:!web*"])
def test_a_pattern_that_leaves_no_target_is_refused(pattern: str) -> None:
    with pytest.raises(InventoryError, match="leaves no target"):
        select(FLEET, pattern)


@pytest.mark.parametrize("pattern", ["", "  ", ",", ":", "web,", "web::db", ":&web", "web:!", "web:&", "!", "web,!,db"])
def test_an_empty_term_is_refused_because_it_may_be_a_lost_parameter(pattern: str) -> None:
    with pytest.raises(InventoryError, match="empty term"):
        select(FLEET, pattern)


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("web[0", "brackets"),
        ("web]0[", "brackets"),
        ("web:db]", "brackets"),
        ("~(web", "not a regular expression"),
        ("~", "empty regular expression"),
        ("web:!~", "empty regular expression"),
        ("web[0-2]", "subscript with '-'"),
    ],
)
def test_a_malformed_term_is_refused(pattern: str, words: str) -> None:
    with pytest.raises(InventoryError, match=words):
        select(FLEET, pattern)


def test_a_name_of_both_a_host_and_a_group_with_others_is_ambiguous() -> None:
    fleet = make("db db2 bastion", db="db db2", bastion="bastion")
    assert names("bastion", fleet) == "bastion"
    for pattern in ("db", "all:!db", "all:&db"):
        with pytest.raises(InventoryError, match="a host and also a group"):
            select(fleet, pattern)


def test_targets_come_back_as_the_inventory_has_them(tmp_path: Path) -> None:
    file = tmp_path / "hosts"
    file.write_text("[web]\nw2 ansible_port=2222\nw1\n")
    inventory = load([file])
    assert select(inventory, "w1,w2") == inventory.targets


HOSTS = [f"h{n}" for n in range(8)]
GROUPS = st.dictionaries(
    st.sampled_from(["a", "b", "c", "d"]), st.lists(st.sampled_from(HOSTS), unique=True), min_size=1
)


@given(groups=GROUPS, data=st.data())
def test_union_intersection_and_exclusion_are_set_algebra_in_any_order(
    groups: dict[str, list[str]], data: st.DataObject
) -> None:
    known = {**{name: set(hosts) for name, hosts in groups.items()}, **{host: {host} for host in HOSTS}}
    fleet = make(" ".join(HOSTS), **{name: " ".join(hosts) for name, hosts in groups.items()})
    terms = data.draw(st.lists(st.tuples(st.sampled_from(["", "&", "!"]), st.sampled_from(sorted(known))), min_size=1))
    separator = data.draw(st.sampled_from([",", ":"]))
    plain, both, without = ([known[name] for sign, name in terms if sign == s] for s in ("", "&", "!"))
    union = functools.reduce(operator.or_, plain, set()) if plain else set(HOSTS)
    expected = functools.reduce(operator.and_, both, union) - functools.reduce(operator.or_, without, set())
    pattern = separator.join(sign + name for sign, name in terms)
    if expected:
        assert [target.name for target in select(fleet, pattern)] == [host for host in HOSTS if host in expected]
    else:
        with pytest.raises(InventoryError, match="leaves no target"):
            select(fleet, pattern)


@given(count=st.integers(1, 12), first=st.integers(0, 14), last=st.integers(0, 14))
def test_a_subscript_is_an_inclusive_slice(count: int, first: int, last: int) -> None:
    hosts = [f"w{n}" for n in range(count)]
    fleet = make(" ".join(hosts), g=" ".join(hosts))
    expected = hosts[first : last + 1]
    if expected:
        assert names(f"g[{first}:{last}]", fleet).split() == expected
    else:
        with pytest.raises(InventoryError, match=re.escape(f"'g[{first}:{last}]' names nothing")):
            select(fleet, f"g[{first}:{last}]")


@given(st.text(alphabet="web13*?[]!&~:,-(. ", max_size=16))
def test_any_text_selects_targets_or_is_refused(pattern: str) -> None:
    try:
        chosen = select(FLEET, pattern)
    except InventoryError:
        return
    assert chosen
    assert list(chosen) == [target for target in FLEET.targets if target in chosen]
