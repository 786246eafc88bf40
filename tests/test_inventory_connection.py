"""Connection variables as fields of a target, and files that are no inventory."""

import os
from pathlib import Path

import pytest

from opsbook.errors import InventoryError
from opsbook.inventory.load import load
from opsbook.model.target import Become, Target


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
        ("ansible_ssh_common_args='-o ProxyJump=maya@bastion:2222,inner'", "jump", "maya@bastion:2222,inner"),
        ("ansible_ssh_common_args='-J bastion'", "jump", "bastion"),
        ("ansible_ssh_extra_args='-Jb1,[2001:db8::1]:22'", "jump", "b1,[2001:db8::1]:22"),
        ("ansible_ssh_common_args='-o ProxyJump=None'", "jump", "none"),
        ("ansible_ssh_common_args='-J b1 -o ProxyJump=b2' ansible_ssh_extra_args='-J b3'", "jump", "b1"),
        ("ansible_ssh_args='-o ProxyJump=b1' ansible_ssh_common_args='-o ProxyCommand=x'", "proxy_command", None),
        ("ansible_ssh_args='-o ProxyCommand=x' ansible_ssh_common_args='-o ProxyJump=b1'", "jump", None),
        (
            "ansible_ssh_common_args='-o ProxyCommand=\"ssh -W %h:%p -q bastion\"'",
            "proxy_command",
            "ssh -W %h:%p -q bastion",
        ),
        (
            """ansible_ssh_common_args="-o 'ProxyCommand ssh -i \\"my key\\" -W %h:%p b'\"""",
            "proxy_command",
            'ssh -i "my key" -W %h:%p b',
        ),
        ("ansible_ssh_common_args='-o ProxyCommand=none'", "proxy_command", "none"),
        ("ansible_ssh_common_args='-F /k/config'", "ssh_config", "/k/config"),
        ("ansible_ssh_args='-F /k/a' ansible_ssh_common_args='-F/k/b'", "ssh_config", "/k/b"),
        ("ansible_ssh_common_args='-F none'", "ssh_config", "none"),
        (
            "ansible_ssh_args='-C -o ControlMaster=auto -o ControlPersist=60s -o ControlPath=/x/%C -F /k/config'",
            "ssh_config",
            "/k/config",
        ),
        ("ansible_ssh_args='-q -o LogLevel=ERROR -o ForwardAgent=no -o StrictHostKeyChecking=true'", "jump", None),
        (
            "ansible_ssh_args='-o ConnectTimeout=5 -o ServerAliveInterval=30 -o ServerAliveCountMax=3 -J b1'",
            "jump",
            "b1",
        ),
        ("ansible_password=env:WEB_PASSWORD", "password", "env:WEB_PASSWORD"),
        ("ansible_password=cmd:'pass show web'", "password", "cmd:pass show web"),
        ("ansible_ssh_pass=hunter2!", "password", "inline:hunter2!"),
        ("ansible_password=env:", "password", "inline:env:"),
        ("ansible_password=inline:abc", "password", "inline:inline:abc"),
        ("ansible_password=12345678", "password", "inline:12345678"),
        ("ansible_password=", "password", None),
        ("ansible_password=a1 ansible_ssh_pass=b1", "password", "inline:b1"),
        ("ansible_ssh_pass=b1 ansible_ssh_password=c1", "password", "inline:c1"),
        ("ansible_become=yes", "become", Become(always=True)),
        ("ansible_become=True", "become", Become(always=True)),
        ("ansible_become=1", "become", Become(always=True)),
        ("ansible_become=off ansible_become_user=app", "become", Become(user="app")),
        ("ansible_become_user=app ansible_become_method=sudo", "become", Become(user="app")),
        ("ansible_become_password=env:SUDO", "become", Become(password="env:SUDO")),
        ("ansible_become_pass=abcd ansible_become_password=efgh", "become", Become(password="inline:abcd")),
        ("ansible_become_flags='-H -S -n' ansible_become_exe=sudo", "become", Become()),
        ("ansible_become_flags=-HSn", "become", Become()),
        ("ansible_become_flags=", "become", Become()),
        ("ansible_connection=ssh", "port", None),
        ("ansible_connection=paramiko_ssh", "port", None),
        ("ansible_connection=paramiko", "port", None),
        ("ansible_connection=smart", "port", None),
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
    target = read_host(tmp_path, "ansible_host=10.0.0.1 ansible_become=yes x='{{ y }}'")
    assert target.vars == {"ansible_host": "10.0.0.1", "ansible_become": "yes", "x": "{{ y }}"}


PASSWORDS = (
    "ansible_password",
    "ansible_ssh_pass",
    "ansible_ssh_password",
    "ansible_become_password",
    "ansible_become_pass",
)


@pytest.mark.parametrize("name", PASSWORDS)
def test_a_password_is_no_variable_of_its_target(tmp_path: Path, name: str) -> None:
    target = read_host(tmp_path, f"x=1 {name}=hunter2")
    assert target.vars == {"x": 1}
    assert "inline:hunter2" in (target.password, target.become.password)


@pytest.mark.parametrize("name", PASSWORDS)
@pytest.mark.parametrize(
    "value",
    [
        "='{{ S3cret }}'",
        "=\"[1, 'S3cret']\"",
        "='$ANSIBLE_VAULT;1.1;AES256 S3cret'",
        "=\"'a\\\\nS3cret'\"",
        "=my S3cret",
        "='S3cret",
    ],
)
def test_a_password_that_cannot_be_used_is_not_shown(tmp_path: Path, name: str, value: str) -> None:
    with pytest.raises(InventoryError) as caught:
        read_host(tmp_path, f"{name}{value}")
    assert "S3cret" not in str(caught.value) + caught.value.hint
    assert str(caught.value).startswith(f"{tmp_path / 'hosts'}:1: ")


@pytest.mark.parametrize(
    "text", ["[web]\nansible_password=S3cret\n", "[web]\nw1\n[web:vars]\nansible_password S3cret\n"]
)
def test_a_password_in_the_wrong_place_is_not_shown(tmp_path: Path, text: str) -> None:
    (tmp_path / "hosts").write_text(text)
    with pytest.raises(InventoryError) as caught:
        load([tmp_path / "hosts"])
    assert "S3cret" not in str(caught.value) + caught.value.hint


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
        ("ansible_ssh_common_args='-o ProxyJump=-x'", "has a ProxyJump that is no list of hosts"),
        ("ansible_ssh_common_args='-o ProxyJump=b1,'", "has a ProxyJump that is no list of hosts"),
        ("ansible_ssh_common_args='-J'", "has a ProxyJump that is no list of hosts"),
        ("ansible_ssh_common_args='-o \"ProxyJump=a b\"'", "has a ProxyJump that is no list of hosts"),
        ("ansible_ssh_common_args='-o ProxyCommand='", "has a ProxyCommand that cannot be run"),
        ("ansible_ssh_common_args='-o ProxyCommand=nc secret 1'", "has a word that belongs to no option"),
        ("ansible_ssh_common_args='-o ProxyCommand=sshpass -psecret ssh'", "has the option '-p'"),
        ("ansible_ssh_common_args='bastion'", "has a word that belongs to no option"),
        ("ansible_ssh_common_args='-tt'", "has the option '-t'"),
        ("ansible_ssh_common_args='-Cv'", "has the option '-C'"),
        ("ansible_ssh_common_args='-F '", "names no file"),
        ("ansible_ssh_common_args='-o PreferredAuthentications=publickey'", "has the option PreferredAuthentications,"),
        ("ansible_ssh_common_args='-o ForwardAgent=yes'", "has the option ForwardAgent=yes"),
        ("ansible_ssh_common_args='-o IdentityFile=/secret'", "has the option IdentityFile,"),
        ("ansible_become=maybe", "ansible_become is neither true nor false"),
        ("ansible_become='{{ b }}'", "ansible_become is a template"),
        ("ansible_become_user='a b'", "ansible_become_user is"),
        ("ansible_become_method=su", "ansible_become_method is 'su'"),
        ("ansible_become_flags='-H -i'", "ansible_become_flags has other flags"),
        ("ansible_become_exe=/opt/sudo", "ansible_become_exe is not sudo"),
        ("ansible_sudo=yes", "ansible_sudo is an old spelling"),
        ("ansible_sudo_pass=secret", "ansible_sudo_pass is an old spelling"),
        ("ansible_su_user=app", "ansible_su_user is an old spelling"),
        ("ansible_ssh_private_key=secret", "ansible_ssh_private_key holds a key"),
        ("ansible_private_key_passphrase=secret", "ansible_private_key_passphrase holds a key"),
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
    file.write_text("[web]\nw1\n\n[web:vars]\nansible_ssh_common_args=-o Ciphers=b\n")
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


def test_an_empty_directory_names_no_host(tmp_path: Path) -> None:
    with pytest.raises(InventoryError, match="names no host"):
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
