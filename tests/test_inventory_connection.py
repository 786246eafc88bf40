"""Connection variables as fields of a target, and files that are no inventory."""

import os
from pathlib import Path

import pytest

from opsbook.errors import InventoryError
from opsbook.inventory.load import load
from opsbook.model.target import Target


def read_host(folder: Path, variables: str) -> Target:
    file = folder / "hosts"
    file.write_text(f"w1 {variables}\n", encoding="utf-8")
    return load([file]).targets[0]


def test_without_variables_a_target_is_its_name_alone(tmp_path: Path) -> None:
    target = read_host(tmp_path, "")
    assert target == Target(name="w1", host="w1", groups=("ungrouped",))


@pytest.mark.parametrize(
    ("variables", "field", "value"),
    [
        ("ansible_host=10.0.0.1", "host", "10.0.0.1"),
        ("ansible_ssh_host=10.0.0.1", "host", "10.0.0.1"),
        ("ansible_host=10.0.0.1 ansible_ssh_host=10.0.0.2", "host", "10.0.0.2"),
        ("ansible_host=2001:db8::1", "host", "2001:db8::1"),
        ("ansible_host=[2001:db8::1]", "host", "2001:db8::1"),
        ("ansible_port=2222", "port", 2222),
        ("ansible_port=\"'2222'\"", "port", 2222),
        ("ansible_ssh_port=2222 ansible_port=1", "port", 2222),
        ("ansible_user=deploy", "user", "deploy"),
        ("ansible_user=1000", "user", "1000"),
        ("ansible_ssh_user=deploy ansible_user=other", "user", "deploy"),
        ("ansible_user=None", "user", None),
        ("ansible_ssh_private_key_file=/keys/id", "identity_files", ("/keys/id",)),
        ("ansible_private_key_file=/keys/id", "identity_files", ("/keys/id",)),
        ("ansible_ssh_common_args='-o UserKnownHostsFile=/k/h'", "known_hosts", "/k/h"),
        ("ansible_ssh_extra_args='-oUserKnownHostsFile=/k/h'", "known_hosts", "/k/h"),
        ("ansible_ssh_common_args='-o \"userknownhostsfile /k/h\"'", "known_hosts", "/k/h"),
        (
            "ansible_ssh_extra_args='-o UserKnownHostsFile=/b' ansible_ssh_common_args='-o UserKnownHostsFile=/a'",
            "known_hosts",
            "/a",
        ),
        (
            "ansible_ssh_common_args='-o IdentitiesOnly=yes -o BatchMode=yes -oStrictHostKeyChecking=yes'",
            "known_hosts",
            None,
        ),
        ("ansible_ssh_common_args=", "known_hosts", None),
        ("ansible_connection=ssh", "port", 22),
        ("ansible_connection=paramiko_ssh", "port", 22),
        ("ansible_connection=paramiko", "port", 22),
        ("ansible_connection=smart", "port", 22),
    ],
)
def test_a_connection_variable_becomes_a_field(tmp_path: Path, variables: str, field: str, value: object) -> None:
    assert getattr(read_host(tmp_path, variables), field) == value


def test_paths_are_relative_to_the_file_that_sets_them_and_know_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    hosts, more = Path("one/hosts"), Path("two/more.yml")
    hosts.write_text("[web]\nw1 ansible_ssh_private_key_file=keys/w1\nw2\nw3 ansible_ssh_private_key_file=~/.ssh/w3\n")
    more.write_text(
        "web: {vars: {ansible_ssh_private_key_file: keys/web, ansible_ssh_common_args: -o UserKnownHostsFile=known}}\n"
        "mine: {hosts: {w3: {ansible_ssh_common_args: -o UserKnownHostsFile=~/known}}}\n"
    )
    w1, w2, w3 = load([hosts, more]).targets
    assert w1.identity_files == (str(tmp_path / "one/keys/w1"),)
    assert w2.identity_files == (str(tmp_path / "two/keys/web"),)
    assert w3.identity_files == (str(tmp_path / "home/.ssh/w3"),)
    assert w1.known_hosts == str(tmp_path / "two/known")
    assert w3.known_hosts == str(tmp_path / "home/known")


def test_connection_variables_stay_among_the_variables(tmp_path: Path) -> None:
    target = read_host(tmp_path, "ansible_host=10.0.0.1 ansible_password='{{ later }}' x='{{ y }}'")
    assert target.vars == {"ansible_host": "10.0.0.1", "ansible_password": "{{ later }}", "x": "{{ y }}"}


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ("ansible_host=-oProxyCommand=x", "ansible_host is '-oProxyCommand=x'"),
        ("ansible_host=", "ansible_host is ''"),
        ("ansible_host='a b'", "ansible_host is"),
        ("ansible_host=\"'a\\\\nb'\"", "ansible_host is"),
        ("ansible_host=[1,2]", "ansible_host is not text"),
        ("ansible_host='{{ address }}'", "ansible_host is a template"),
        ("ansible_ssh_host=ok ansible_host='{{ address }}'", "ansible_host is a template"),
        ("ansible_user=-l", "ansible_user is '-l'"),
        ("ansible_user='a b'", "ansible_user is"),
        ("ansible_user=True", "ansible_user is not text"),
        ("ansible_user=1.5", "ansible_user is not text"),
        ("ansible_user='{{ who }}'", "ansible_user is a template"),
        ("ansible_port=0", "ansible_port is wrong"),
        ("ansible_port=65536", "ansible_port is wrong"),
        ("ansible_port=-22", "ansible_port is wrong"),
        ("ansible_port=ssh", "ansible_port is wrong"),
        ("ansible_port=22.0", "ansible_port is not text"),
        ("ansible_ssh_port=True", "ansible_ssh_port is not text"),
        ("ansible_port='{{ p }}'", "ansible_port is a template"),
        ("ansible_ssh_private_key_file=", "names no file"),
        ("ansible_ssh_private_key_file=~no-such-user-here/id", "home folder"),
        ("ansible_ssh_private_key_file='{{ k }}'", "is a template"),
        ("ansible_connection=local", "ansible_connection is 'local'"),
        ("ansible_connection=docker", "ansible_connection is 'docker'"),
        ("ansible_connection='{{ c }}'", "ansible_connection is a template"),
        ("ansible_ssh_common_args='-o ProxyJump=bastion'", "ansible_ssh_common_args has the option ProxyJump,"),
        (
            "ansible_ssh_extra_args='-o ProxyCommand=\"nc secret 1\"'",
            "ansible_ssh_extra_args has the option ProxyCommand,",
        ),
        ("ansible_ssh_args=-C", "ansible_ssh_args has the option '-C'"),
        ("ansible_ssh_common_args='-J bastion'", "has the option '-J'"),
        ("ansible_ssh_common_args='bastion'", "has the option 'bastion'"),
        ("ansible_ssh_common_args='-o StrictHostKeyChecking=no'", "StrictHostKeyChecking=no"),
        ("ansible_ssh_common_args='-o BatchMode=no'", "BatchMode=no"),
        ("ansible_ssh_common_args='-o IdentitiesOnly=no'", "IdentitiesOnly=no"),
        ("ansible_ssh_common_args='-o'", "not NAME=VALUE"),
        ("ansible_ssh_common_args='-o BatchMode'", "not NAME=VALUE"),
        ('ansible_ssh_common_args="-o \'open"', "cannot be split"),
        ("ansible_ssh_common_args='-o UserKnownHostsFile='", "not one known_hosts file|names no file"),
        ("ansible_ssh_common_args='-o \"UserKnownHostsFile=/a /b\"'", "not one known_hosts file"),
        ("ansible_ssh_common_args='-o UserKnownHostsFile=/a/%h'", "not one known_hosts file"),
        ("ansible_ssh_common_args='-o UserKnownHostsFile=none'", "not one known_hosts file"),
        ("ansible_ssh_common_args='-o {{ x }}'", "is a template"),
        ("ansible_ssh_common_args=[]", "is not text"),
    ],
)
def test_what_cannot_be_honoured_names_target_and_variable(tmp_path: Path, variables: str, words: str) -> None:
    with pytest.raises(InventoryError, match=words) as caught:
        read_host(tmp_path, variables)
    assert str(caught.value).startswith(f"{tmp_path / 'hosts'}:1: target 'w1': ansible_")
    assert "secret" not in str(caught.value)
    assert caught.value.hint


def test_a_groups_variable_is_refused_with_its_own_line(tmp_path: Path) -> None:
    file = tmp_path / "hosts"
    file.write_text("[web]\nw1\n\n[web:vars]\nansible_ssh_common_args=-o ProxyJump=b\n")
    with pytest.raises(InventoryError, match=r"hosts:5: target 'w1': ansible_ssh_common_args"):
        load([file])


def test_no_source_is_an_error() -> None:
    with pytest.raises(InventoryError, match="no inventory was given"):
        load([])


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InventoryError, match="there is no such file"):
        load([tmp_path / "nowhere"])


def test_a_file_below_a_file_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text("w1\n")
    with pytest.raises(InventoryError, match="cannot be read: Not a directory"):
        load([tmp_path / "hosts" / "x"])


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_an_unreadable_file_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "hosts"
    file.write_text("w1\n")
    file.chmod(0)
    with pytest.raises(InventoryError, match="cannot be read: Permission denied"):
        load([file])


def test_a_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InventoryError, match="is a directory"):
        load([tmp_path])


@pytest.mark.parametrize("name", ["hosts.sh", "hosts.yml"])
def test_an_executable_file_is_refused_and_not_run(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    file.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    file.chmod(0o755)
    with pytest.raises(InventoryError, match="is executable"):
        load([file])
    assert not (tmp_path / "ran").exists()


def test_a_pipe_is_refused_without_waiting_for_a_writer(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "hosts")
    with pytest.raises(InventoryError, match="not a regular file"):
        load([tmp_path / "hosts"])


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("hosts", "", "is empty"),
        ("hosts", " \n\n", "is empty"),
        ("hosts.yml", "", "is empty"),
        ("hosts.yml", "# nothing\n", "is empty"),
        ("hosts.yml", "---\n", "is empty"),
        ("hosts", "# nothing\n", "names no host"),
        ("hosts", "[web]\n", "names no host"),
        ("hosts.yml", "web: {vars: {x: 1}}\n", "names no host"),
        ("hosts", "$ANSIBLE_VAULT;1.1;AES256\n6162\n", "encrypted"),
        ("hosts.yml", "$ANSIBLE_VAULT;1.1;AES256\n6162\n", "encrypted"),
    ],
)
def test_an_inventory_without_a_host_is_an_error(tmp_path: Path, name: str, text: str, words: str) -> None:
    file = tmp_path / name
    file.write_text(text)
    with pytest.raises(InventoryError, match=words) as caught:
        load([file])
    assert str(file) in str(caught.value)


def test_a_file_that_is_not_utf8_is_named_with_the_line(tmp_path: Path) -> None:
    file = tmp_path / "hosts"
    file.write_bytes(b"w1\nw2\n# caf\xe9\n")
    with pytest.raises(InventoryError, match=r"hosts:3: the file is not UTF-8"):
        load([file])


@pytest.mark.parametrize("name", ["hosts", "hosts.yml"])
def test_a_file_of_more_than_16_mib_is_refused_unread(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    with file.open("wb") as out:
        out.truncate(16 * 1024 * 1024 + 1)
        out.write(b"w1")
    with pytest.raises(InventoryError, match="larger than 16 MiB"):
        load([file])
