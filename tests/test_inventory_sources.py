"""Sources other than one file: variables beside them, directories of them, and ssh's own configuration."""

from pathlib import Path

import pytest

from opsbook.errors import InventoryError
from opsbook.inventory.load import load
from opsbook.model.target import Inventory, Target


def write(folder: Path, texts: dict[str, str]) -> None:
    for name, text in texts.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")


def by_name(inventory: Inventory) -> dict[str, Target]:
    return {target.name: target for target in inventory.targets}


# group_vars and host_vars


def test_files_beside_an_inventory_override_its_groups_and_not_its_hosts(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "hosts": "[web]\nw1 d=host e=host\n[web:vars]\na=group\nb=group\nc=group\n",
            "group_vars/all.yml": "b: all file\nc: all file\nd: all file\n",
            "group_vars/web": "c: web file\nd: web file\n",
            "host_vars/w1.json": '{"e": "host file"}',
        },
    )
    target = load([tmp_path / "hosts"]).targets[0]
    assert target.vars == {"a": "group", "b": "all file", "c": "web file", "d": "host", "e": "host file"}


def test_of_several_files_of_one_name_the_first_counts_and_a_directory_is_read_in_order(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "hosts": "[web]\nw1\n",
            "group_vars/all.yml": "a: yml\n",
            "group_vars/all.yaml": "a: yaml\nb: yaml\n",
            "group_vars/web/20.yml": "c: 20\nd: 20\n",
            "group_vars/web/10/deep": "c: 10\ne: 10\n",
            "group_vars/web/30": "d: 30\n",
            "group_vars/web/40.yml~": "d: 40\n",
            "group_vars/web/.50.yml": "d: 50\n",
            "group_vars/web/60.txt": "d: 60\n",
            "group_vars/web/70.yml/x": "d: 70\n",
            "group_vars/web.yml": "f: beside the directory\n",
        },
    )
    assert load([tmp_path / "hosts"]).targets[0].vars == {"a": "yml", "c": 20, "d": 30, "e": 10}


def test_files_for_others_are_not_even_read(tmp_path: Path) -> None:
    write(tmp_path, {"hosts": "w1\n", "group_vars/db.yml": "a: [\n", "host_vars/w2": "}", "host_vars/w1.txt": "["})
    assert load([tmp_path / "hosts"]).targets[0].vars == {}


def test_an_empty_file_of_variables_sets_nothing(tmp_path: Path) -> None:
    write(tmp_path, {"hosts": "w1 a=1\n", "group_vars/all.yml": "", "host_vars/w1": "# nothing\n"})
    assert load([tmp_path / "hosts"]).targets[0].vars == {"a": 1}


def test_paths_in_a_file_of_variables_are_relative_to_it(tmp_path: Path) -> None:
    write(tmp_path, {"hosts": "w1\n", "group_vars/all/keys.yml": "ansible_ssh_private_key_file: id\n"})
    assert load([tmp_path / "hosts"]).targets[0].identity_files == (str(tmp_path / "group_vars/all/id"),)


def test_a_later_source_folder_overrides_an_earlier_one(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "one/hosts": "w1\n",
            "one/group_vars/all.yml": "a: one\nb: one\n",
            "two/hosts": "w1\n",
            "two/group_vars/all.yml": "a: two\n",
        },
    )
    one, two = tmp_path / "one/hosts", tmp_path / "two/hosts"
    assert load([one, two]).targets[0].vars == {"a": "two", "b": "one"}
    assert load([two, one]).targets[0].vars == {"a": "one", "b": "one"}
    assert load([one, two, one]).targets[0].vars == {"a": "one", "b": "one"}


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("group_vars/all.yml", "- a\n", "all.yml:1: this is not a mapping of variables"),
        ("group_vars/all.yml", "a: 1\na: 2\n", "all.yml:2: the key 'a' stands twice"),
        ("group_vars/all.yml", "'': 2\n", "all.yml:1: a variable has no name"),
        ("group_vars", "a: 1\n", "group_vars: the directory cannot be read: Not a directory"),
        ("host_vars/w1", "ansible_host: '{{ x }}'\n", "w1:1: target 'w1': ansible_host is a template"),
    ],
)
def test_a_file_of_variables_that_cannot_be_read_is_named(tmp_path: Path, name: str, text: str, words: str) -> None:
    write(tmp_path, {"hosts": "w1\n", name: text})
    with pytest.raises(InventoryError) as caught:
        load([tmp_path / "hosts"])
    assert words in str(caught.value)
    assert str(caught.value).startswith(str(tmp_path))


def test_an_encrypted_value_beside_an_inventory_fails_only_where_it_is_used(tmp_path: Path) -> None:
    cipher = "!vault |\n  $ANSIBLE_VAULT;1.1;AES256\n  6162\n"
    write(tmp_path, {"hosts": "w1\n", "group_vars/all.yml": f"database: {cipher}"})
    assert load([tmp_path / "hosts"]).targets[0].vars == {"database": "$ANSIBLE_VAULT;1.1;AES256\n6162\n"}
    write(tmp_path, {"host_vars/w1": f"ansible_become_password: {cipher}"})
    with pytest.raises(InventoryError, match="target 'w1': ansible_become_password is encrypted by ansible-vault"):
        load([tmp_path / "hosts"])


def test_a_wholly_encrypted_file_beside_an_inventory_is_named_and_fails_nothing_else(tmp_path: Path) -> None:
    cipher = "$ANSIBLE_VAULT;1.1;AES256\n6162\n"
    write(
        tmp_path,
        {
            "hosts": "[web]\nw1\nw2\n[db]\nd1\n",
            "group_vars/web/vault.yml": cipher,
            "group_vars/web/vars.yml": "a: 1\n",
            "host_vars/w2": cipher,
        },
    )
    targets = {target.name: target for target in load([tmp_path / "hosts"]).targets}
    group, host = str(tmp_path / "group_vars/web/vault.yml"), str(tmp_path / "host_vars/w2")
    assert {name: target.sealed for name, target in targets.items()} == {"w1": (group,), "w2": (group, host), "d1": ()}
    assert targets["w2"].vars == {"a": 1}


# directories


def test_a_directory_is_its_sources_in_order_without_what_ansible_passes_over(tmp_path: Path) -> None:
    skipped = [".hidden", "readme.md", "a.txt", "old.bak", "x.cfg", "h.retry", "h~", "h.orig", "vars_plugins", "p.pyc"]
    write(
        tmp_path,
        {
            **dict.fromkeys(skipped, "[not an inventory\n"),
            "20-more.yml": "web: {hosts: {w1: {a: more}, w3: }}\n",
            "10-hosts": "[web]\nw1 a=first b=first\nw2\n",
            "30/deep.ini": "[db]\nd1\n[web]\nw1 b=deep\n",
            "group_vars/web.yml": "c: beside\n",
            "host_vars/w2.yml": "d: beside\n",
            "30/group_vars/web.yml": "c: not a source's folder\n",
        },
    )
    inventory = load([tmp_path])
    assert [target.name for target in inventory.targets] == ["w1", "w2", "w3", "d1"]
    assert by_name(inventory)["w1"].vars == {"a": "more", "b": "deep", "c": "beside"}
    assert by_name(inventory)["w2"].vars == {"c": "beside", "d": "beside"}
    assert inventory.sources == (str(tmp_path),)


def test_a_broken_source_in_a_directory_fails_the_load(tmp_path: Path) -> None:
    write(tmp_path, {"a": "w1\n", "b.yml": "["})
    with pytest.raises(InventoryError, match=r"b\.yml:1: this is not YAML|b\.yml:2: this is not YAML"):
        load([tmp_path])


@pytest.mark.parametrize("place", ["sub", "group_vars/all"])
def test_a_directory_that_contains_itself_is_refused(tmp_path: Path, place: str) -> None:
    write(tmp_path, {"hosts": "w1\n", f"{place}/x.yml": "all: {hosts: {w1: }}\n"})
    (tmp_path / place / "again").symlink_to(tmp_path / place)
    with pytest.raises(InventoryError, match="nest more than 20 deep"):
        load([tmp_path])


def test_a_toml_inventory_is_refused(tmp_path: Path) -> None:
    write(tmp_path, {"hosts.toml": "[web.hosts]\nw1 = {}\n"})
    with pytest.raises(InventoryError, match="no TOML"):
        load([tmp_path / "hosts.toml"])


# ssh's own configuration

CONFIG = """
# mine
Host web1 web2 *.example.com !web3
  HostName 10.0.0.1
hOsT="db1" "db 2"   # behind
Include extra/*.conf missing
Match host web9
  User nobody
Host= web1 odd+name 2001:db8::1
Host *
  User maya
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "home"
    write(
        folder,
        {
            ".ssh/config": CONFIG,
            ".ssh/extra/20.conf": "Host inner2\nInclude deeper\n",
            ".ssh/extra/10.conf": "Host inner1\n",
            ".ssh/deeper": "Host deepest\n",
            ".ssh/extra/30.conf/x": "Host not-a-file\n",
        },
    )
    monkeypatch.setenv("HOME", str(folder))
    return folder


NAMES = ["web1", "web2", "db1", "inner1", "inner2", "deepest", "2001:db8::1"]


@pytest.mark.parametrize("source", [".ssh/config", "ssh_config:~/.ssh/config", "/somewhere/ssh_config:~/.ssh/config"])
def test_the_plain_names_of_the_users_ssh_config_are_targets(home: Path, source: str) -> None:
    inventory = load([Path(source) if ":" in source else home / source])
    assert [target.name for target in inventory.targets] == NAMES
    assert by_name(inventory)["web1"] == Target(name="web1", host="web1", groups=("ungrouped",))
    assert inventory.groups["ungrouped"] == tuple(NAMES)


def test_another_ssh_config_is_named_by_its_targets(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(home, {"team.ssh_config": "Host t1 t2\nInclude deeper\n", "plain": "Host p1\n"})
    monkeypatch.chdir(home)
    targets = by_name(load([Path("team.ssh_config"), Path("ssh_config:plain")]))
    assert {name: target.ssh_config for name, target in targets.items()} == {
        "t1": str(home / "team.ssh_config"),
        "t2": str(home / "team.ssh_config"),
        "deepest": str(home / "team.ssh_config"),
        "p1": str(home / "plain"),
    }
    assert targets["t1"].port is None


def test_an_inventory_may_put_the_names_of_an_ssh_config_into_groups(home: Path) -> None:
    write(home, {"hosts": "[web]\nweb1 ansible_user=deploy\n"})
    inventory = load([home / ".ssh/config", home / "hosts"])
    assert by_name(inventory)["web1"].groups == ("web",)
    assert by_name(inventory)["web1"].user == "deploy"
    assert "web1" not in inventory.groups["ungrouped"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Host a\nInclude loop.ssh_config\n", "more than 16 deep"),
        ("Host a\nInclude ${SOMEWHERE}/x\n", "ssh_config:2: opsbook does not expand"),
        ("Host 'a\n", "ssh_config:1: the quotes do not match"),
        ("Host *\n", "names no host"),
    ],
)
def test_an_ssh_config_that_cannot_be_followed_is_refused(home: Path, text: str, words: str) -> None:
    write(home, {".ssh/loop.ssh_config": text})
    with pytest.raises(InventoryError) as caught:
        load([home / ".ssh/loop.ssh_config"])
    assert words in str(caught.value)


def test_a_missing_ssh_config_is_an_error(home: Path) -> None:
    (home / ".ssh/config").unlink()
    with pytest.raises(InventoryError, match="there is no such file"):
        load([Path("ssh_config:~/.ssh/config")])
