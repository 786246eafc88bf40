"""What Ansible itself makes of an inventory is what opsbook makes of it: a check for development machines."""

import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from opsbook.inventory.load import load
from opsbook.inventory.pattern import select

ANSIBLE = shutil.which("ansible-inventory")
pytestmark = pytest.mark.skipif(ANSIBLE is None, reason="ansible-inventory is not on PATH: nothing to compare with")

INVENTORIES: dict[str, dict[str, str]] = {
    "a flat list": {"hosts": "web2\nweb1\n# a comment\n; another\n\ndb1 # behind\n"},
    "groups with inline variables": {
        "hosts.ini": (
            "lone ansible_port=2200\n[web]\nweb1 ansible_host=10.0.0.1 weight=3 on=True off=no ratio=1.5\n"
            "web2 motd='two words' path=\"a b\" list=[1,2,'x'] nothing=None empty= map=\"{'a': {80: (1, 2)}}\"\n"
            "[db]\ndb1 ansible_user=root tail=a#cut\nweb2 weight=4\n"
        )
    },
    "ranges and ports": {
        "hosts.ini": (
            "web[01:12].example.com\n[db]\ndb[a:c]:2222 role=store\nx[1:10:3]-[a:b]\n"
            "[2001:db8::1]:2022\n2001:db8::[2:4]\n"
        )
    },
    "children declared later": {
        "hosts.ini": (
            "[prod:children]\nweb\ndb\n[all:vars]\na=all\nb=all\nc=all\n[prod:vars]\nb=prod\nc=prod\n"
            "[web]\nweb[1:3]\n[db]\ndb1 d=host\n[web:vars]\nc=web # kept\nn=007\nz=1 # cut\ns= spaced out \n"
            "[db:vars]\nd=db\n"
        )
    },
    "children declared earlier, in another order": {
        "hosts.ini": "[web]\nweb1\nweb2\n[db]\ndb2\ndb1\n[cache]\nweb2\ndb1\n[prod:children]\ndb\nweb\n"
    },
    "same depth: the later name wins, unless a priority says otherwise": {
        "hosts.ini": (
            "[beta]\nh1\nh2\n[alpha]\nh1\nh2\n[gamma]\nh2\n[alpha:vars]\nx=alpha\ny=alpha\nansible_group_priority=10\n"
            "[beta:vars]\nx=beta\ny=beta\n[gamma:vars]\nx=gamma\n"
        )
    },
    "a group at two depths counts at the deeper one": {
        "hosts.ini": (
            "[leaf]\nh1\n[mid]\nh1\n[top]\nh1\n[mid:children]\nleaf\n[top:children]\nmid\nleaf\n[other:children]\nleaf\n"
            "[zoo]\nh1\n[leaf:vars]\nv=leaf\nw=leaf\n[mid:vars]\nv=mid\nw=mid\nu=mid\n[top:vars]\nu=top\nt=top\n"
            "[other:vars]\nu=other\nt=other\n[zoo:vars]\nv=zoo\nt=zoo\n"
        )
    },
    "hosts written into all and ungrouped": {
        "hosts.ini": (
            "[all]\na1\nb1\n[ungrouped]\nc1\nb1\n[web]\nb1\n[ungrouped:vars]\nalone=1\n[all:vars]\nx=1\nalone=0\n"
        )
    },
    "a YAML tree": {
        "hosts.yml": (
            "all:\n  vars: {a: all, b: all, when: 2026-11-20, flag: yes, octal: 010, mode: '0644', none: null}\n"
            "  hosts:\n    lone:\n  children:\n    prod:\n      vars: {b: prod}\n      children:\n"
            "        web:\n          hosts:\n            web[1:3].example.com: {ports: [80, 81], deep: {1: {x: y}}}\n"
            "            web2.example.com: {b: host}\n        db: {hosts: db1, vars: {b: db, c: [1]}}\n"
        )
    },
    "YAML groups named at several places": {
        "hosts.yaml": (
            "web:\n  hosts: {w1: {x: 1}, w2: }\nprod:\n  children: {web: , db: {hosts: {d1: , w2: {x: 2}}}}\n"
            "db:\n  vars: {y: db}\nbeta: {hosts: {w1: }, vars: {ansible_group_priority: 5, y: beta}}\n"
            "zeta: {hosts: {w1: }, vars: {y: zeta}}\n"
        )
    },
    "YAML anchors and merges": {
        "hosts.yml": (
            "web:\n  vars: &shared\n    user: deploy\n    opts: &opts [a, b]\n  hosts:\n"
            "    w1: {<<: *shared, more: *opts}\n    w2: {user: own, <<: *shared}\n"
            "    w3:\n      <<: [{k: first, user: x}, {k: second, j: 2}]\n      j: 3\n"
        )
    },
    "JSON": {
        "hosts.json": json.dumps(
            {"web": {"hosts": {"w[1:2]": {"é": "\u20ac"}}, "vars": {"n": 1.5, "s": 'a\n"b"'}}}, indent=1
        )
    },
    "several sources, the later one wins": {
        "a.ini": "[web]\nw1 x=a y=a ansible_port=1001\nw2\n[web:vars]\nz=a\nq=a\n",
        "b.yml": "web: {vars: {z: b}, hosts: {w1: {x: b}, w3: }}\ndb: {children: {web: }, vars: {q: db, r: db}}\n",
        "c": "w2 x=c\nw9\n[db]\nw9\n[web:vars]\nz=c\n",
    },
    "a host called like its group": {"hosts.ini": "[bastion]\nbastion ansible_host=10.0.0.9\n[web]\nw1\n"},
    "odd but valid names": {"hosts.ini": "[a-b.c]\nh_1\n1.2.3.4\nUPPER.example.com\n[gruppe-ä]\nh-2\n"},
    "numbers and quotes": {
        "hosts.ini": (
            "h1 a=0x10 b=1_000 c=1e3 d=-5 e='0644' f=\"'quoted'\" g=\"[1, {'x': None}]\" h=2+3j i=b'raw' j=yes\n"
            "h2 k=true l=...\n"
            "[g]\nh1\n[g:vars]\nm='text'\nn=\"x\" y\no=['a', 'b']\np = spaced\nq=a=b=c\nr=(1, 'two')\n"
        )
    },
}
VAULTED = "!vault |\n  $ANSIBLE_VAULT;1.1;AES256\n  6162\n"
TREES: dict[str, tuple[list[str], dict[str, str]]] = {
    "variables beside an inventory": (
        ["hosts.ini"],
        {
            "hosts.ini": (
                "[web]\nh1 a=host b=host\nh2\n[db]\nh2\n[prod:children]\nweb\ndb\n[all:vars]\nc=all\nd=all\ne=all\n"
                "[prod:vars]\nd=prod\ne=prod\nf=prod\n[web:vars]\ne=web\nf=web\ng=web\nh=web\ni=web\n"
            ),
            "group_vars/all.yml": "e: all file\nf: all file\ng: all file\nb: all file\nnone: null\n",
            "group_vars/prod.yaml": "f: prod file\ng: prod file\nansible_group_priority: 9\n",
            "group_vars/web": "g: web file\nh: web file\ndeep: {x: 1}\n",
            "group_vars/db.json": '{"g": "db file", "deep": {"y": 2}}',
            "group_vars/ungrouped.yml": "g: nobody\n",
            "host_vars/h1.yml": "b: host file\nw: [1, 2]\n",
            "host_vars/h2": "h: host file\n",
            "host_vars/h3.yml": "b: of nobody\n",
        },
    ),
    "several files of one name, and directories of them": (
        ["hosts"],
        {
            "hosts": "[web]\nw1\nw1.example.com\n[db]\nd1\n",
            "group_vars/all.yml": "a: yml\nz: yml\n",
            "group_vars/all.yaml": "a: yaml\nb: yaml\n",
            "group_vars/web/20.yml": "c: 20\nd: 20\n",
            "group_vars/web/10/deep.json": '{"c": 10, "e": 10}',
            "group_vars/web/30": "d: 30\n",
            "group_vars/web/40.yml~": "d: 40\n",
            "group_vars/web/.50.yml": "d: 50\n",
            "group_vars/web/60.txt": "d: 60\n",
            "group_vars/web/70.yml/x": "d: 70\n",
            "group_vars/web/80.ini": "d: 80\n",
            "group_vars/web/90.yml": "",
            "group_vars/web.yml": "f: beside\n",
            "group_vars/db/main.yml": "---\n# nothing\n",
            "host_vars/w1.example.com.yml": "g: 1\n",
            "host_vars/w1/x.yml": "g: 2\n",
        },
    ),
    "two folders of variables, a later source over an earlier one": (
        ["one/hosts", "two/hosts.yml", "one/more"],
        {
            "one/hosts": "[web]\nw1\n[prod:children]\nweb\n",
            "one/more": "w1 h=more\nw2\n",
            "one/group_vars/all.yml": "a: one all\nb: one all\nc: one all\n",
            "one/group_vars/web.yml": "b: one web\nd: one web\n",
            "one/host_vars/w1.yml": "x: one\ny: one\n",
            "two/hosts.yml": "web: {vars: {a: two source, e: two source}}\n",
            "two/group_vars/all.yml": "a: two all\nb: two all\nc: two all\n",
            "two/group_vars/prod.yml": "b: two prod\nd: two prod\nq: two prod\n",
            "two/host_vars/w1.yml": "x: two\nz: two\n",
        },
    ),
    "a directory of sources": (
        ["sources"],
        {
            "sources/10-hosts": "[web]\nw1 a=first b=first\nw2\n",
            "sources/20-more.yml": "web: {hosts: {w1: {a: more}, w3: }}\n",
            "sources/30/deep.ini": "[db]\nd1\n[web]\nw1 b=deep\n",
            "sources/30/group_vars/web.yml": "c: not beside a source\n",
            "sources/group_vars/web.yml": "c: beside\n",
            "sources/host_vars/d1.yml": "d: beside\n",
            **dict.fromkeys([f"sources/{name}" for name in (".x", "a.md", "a.txt", "a.cfg", "a~", "a.retry")], "[["),
        },
    ),
    "a script with _meta": (
        ["hosts.sh"],
        {
            "hosts.sh": '#!/bin/sh\ncat "${0%/*}/listing"\n',
            "listing": json.dumps(
                {
                    "_meta": {
                        "hostvars": {"w1": {"a": 1, "d": {"x": None}}, "nobody": {"b": 1}},
                        "profile": "inventory_legacy",
                    },
                    "web": {"hosts": ["w2", "w1"], "vars": {"a": "web", "c": 1.5, "ansible_group_priority": 3}},
                    "db": ["d1", "w1"],
                    "prod": {"children": ["web", "db", "later"], "vars": {"c": "prod", "e": "{{ c }}"}},
                    "all": {"hosts": ["lone"], "vars": {"z": True}},
                }
            ),
            "group_vars/db.yml": "a: db file\n",
        },
    ),
    "a script without _meta, among other sources": (
        ["sources"],
        {
            "sources/10.sh": (
                '#!/bin/sh\n[ "$1" = --host ] && { echo "{\\"me\\": \\"$2\\", \\"a\\": 2}"; exit; }\n'
                'echo \'{"web": {"hosts": ["w1", "w2"], "vars": {"a": 1, "b": 1}}}\'\n'
            ),
            "sources/20": "[web]\nw3\nw1 a=3\n[web:vars]\nb=2\n",
        },
    ),
    "encrypted and unsafe values": (
        ["hosts.yml"],
        {
            "hosts.yml": "all: {hosts: {h1: {a: !unsafe '{{ x }}', b: !unsafe '12', c: !unsafe {k: '{{ y }}'}}}}\n",
            "group_vars/all.yml": f"e: {VAULTED}f: [!vault '$ANSIBLE_VAULT;1.1;AES256']\n",
            "host_vars/h1.json": json.dumps(
                {"g": {"__ansible_vault": "$ANSIBLE_VAULT;1.1;AES256\n61\n"}, "h": {"__ansible_unsafe": "{{ q }}"}}
            ),
        },
    ),
}
"""Sources, and the files of a folder."""
PATTERNS = [
    "all", "*", "web", "web:db", "web,db", "web:&cache", "!web2", "&cache", "all:!web:!db1", "!web1:cache:&prod",
    "web*", "*2", "~(web|db)[12]$", "web[0]", "web[-1]", "web[0:1]", "web[1:]", "prod[0]", "db[0]", "prod[1:2]",
    "w?b1,db2",
]  # fmt: skip


def ask_ansible(folder: Path, files: list[Path], *extra: str) -> dict[str, Any]:
    elsewhere = folder / "elsewhere"  # where Ansible runs it would read group_vars too
    elsewhere.mkdir()
    config = elsewhere / "ansible.cfg"
    config.write_text("", encoding="utf-8")
    command = [str(ANSIBLE), *(f"-i{file}" for file in files), "--list", *extra]
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "LC_ALL": "C.UTF-8",
        "ANSIBLE_CONFIG": str(config),
        "ANSIBLE_INVENTORY_ANY_UNPARSED_IS_FAILED": "true",
    }
    done = subprocess.run(
        command, cwd=elsewhere, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    listing: dict[str, Any] = json.loads(done.stdout, object_hook=unmark)
    return listing


def unmark(mapping: dict[str, Any]) -> Any:
    """The text that Ansible's JSON marks as encrypted or as no template."""
    return next(iter(mapping.values())) if list(mapping) in (["__ansible_vault"], ["__ansible_unsafe"]) else mapping


def write(folder: Path, texts: dict[str, str]) -> list[Path]:
    files = [folder / name for name in texts]
    for file, text in zip(files, texts.values(), strict=True):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        file.chmod(0o755 if text.startswith("#!") else 0o644)
    return files


def list_members(listing: dict[str, Any], group: str) -> list[str]:
    """The hosts of a group and then of its children, level by level, from the JSON of `ansible-inventory`."""
    members: list[str] = []
    level = [group]
    while level:
        members += [host for name in level for host in listing.get(name, {}).get("hosts", [])]
        level = [child for name in level for child in listing.get(name, {}).get("children", [])]
    return list(dict.fromkeys(members))


@pytest.mark.parametrize("name", INVENTORIES)
def test_hosts_groups_and_variables_are_those_that_ansible_sees(tmp_path: Path, name: str) -> None:
    compare(tmp_path, write(tmp_path, INVENTORIES[name]))


@pytest.mark.parametrize("name", TREES)
def test_folders_and_scripts_give_what_ansible_sees(tmp_path: Path, name: str) -> None:
    sources, texts = TREES[name]
    scripts = [file for file in write(tmp_path, texts) if file.suffix == ".sh"]
    compare(tmp_path, [tmp_path / source for source in sources], trusted=scripts)


def compare(folder: Path, sources: list[Path], *, trusted: Sequence[Path] = ()) -> None:
    theirs = ask_ansible(folder, sources)
    ours = load(sources, trusted=trusted)
    hostvars = {host: values for host, values in theirs["_meta"]["hostvars"].items() if values}
    assert {target.name for target in ours.targets} == set(list_members(theirs, "all"))
    assert {target.name: json.loads(json.dumps(target.vars)) for target in ours.targets if target.vars} == hostvars
    groups = {group: list_members(theirs, group) for group in theirs if group not in {"_meta", "all"}}
    assert {group: list(hosts) for group, hosts in ours.groups.items() if hosts and group != "all"} == groups
    for target in ours.targets:
        assert list(target.groups) == sorted(group for group, hosts in groups.items() if target.name in hosts)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_pattern_selects_what_ansible_selects(tmp_path: Path, pattern: str) -> None:
    files = write(tmp_path, INVENTORIES["children declared earlier, in another order"])
    theirs = ask_ansible(tmp_path, files, "--limit", pattern)
    chosen = {target.name for target in select(load(files), pattern)}
    assert chosen == set(list_members(theirs, "all"))
