"""What ssh_config says of a host: the same as ssh itself reads in it (`ssh -G`), and a route made of it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from opsbook.errors import ConnectError
from opsbook.model.message import RunOptions
from opsbook.model.target import Target
from opsbook.ssh import config
from opsbook.ssh.config import Options, SshConfig, expand, expand_path, local_user
from opsbook.ssh.keywords import KNOWN
from opsbook.ssh.route import Atlas, Route

TEXT = """
# a comment, and a setting for all

Host w1 "w2"
    HostName %h.internal
    Include {folder}/inc/a*.conf
    IdentityFile ~/k1
Match originalhost w3,w4 user {me}
    Port=2244
    IdentityFile "~/k two"
Host w5
   ProxyJump maya@b1:2222,b2
   ProxyCommand never this one
Host w6
   ProxyCommand nc %h %p   # ssh takes the whole line
   ProxyJump nor this one
Host !w7 w*
   StrictHostKeyChecking yes
   AddressFamily inet # and this is a comment
Match host *.internal
   HostKeyAlias al-%%
Match exec "test %n = w8" !originalhost w9
   User exec
Include {folder}/inc/b.conf {folder}/inc/no-such-file
Match final host *.internal
   BindAddress 127.0.0.9
Match !user {me}
   IdentitiesOnly yes
Host *
   CertificateFile ~/c1
   CertificateFile ~/c2
   UserKnownHostsFile {folder}/kh1 "{folder}/kh 2"
   PORT 2300
"""
INNER = "Host w* !w9\n  Port 2201\nHost *\n  User incl\n"
LATER = "Match host *.internal\n  Port 2299\nMatch all\n ConnectTimeout 7\n"
ASKED = (
    *("hostname", "user", "port", "identityfile", "certificatefile", "proxyjump", "proxycommand", "bindaddress"),
    *("identitiesonly", "connecttimeout", "addressfamily", "hostkeyalias", "userknownhostsfile"),
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "inc").mkdir()
    (tmp_path / "inc/a1.conf").write_text(INNER)
    (tmp_path / "inc/b.conf").write_text(LATER)
    made = tmp_path / "config"
    made.write_text(TEXT.format(folder=tmp_path, me=local_user()))
    return made


def read_by_ssh(file: Path, host: str) -> Options:
    done = subprocess.run(["ssh", "-T", "-G", "-F", str(file), host], capture_output=True, text=True, check=True)
    found: Options = {}
    for line in done.stdout.splitlines():
        name, _, value = line.partition(" ")
        found[name] = (*found.get(name, ()), value)
    return found


@pytest.mark.parametrize("host", [*(f"w{number}" for number in range(1, 11)), "x.internal", "other"])
def test_a_host_is_read_as_ssh_reads_it(file, host):
    ours, theirs = SshConfig.of_file(str(file)).look_up(host, {}), read_by_ssh(file, host)
    ours.setdefault("hostname", (host,))
    ours["hostname"] = (expand(ours["hostname"][0], {"h": host}),)
    ours["userknownhostsfile"] = (" ".join(ours["userknownhostsfile"]),)
    unset = {"identityfile", "addressfamily", "connecttimeout", "identitiesonly", "user"}
    for name in ASKED:
        if name in ours or name not in unset:  # ssh fills in what is not said
            assert ours.get(name) == theirs.get(name), name
    assert ("stricthostkeychecking" in ours) == (theirs["stricthostkeychecking"] == ("true",))


def wrong(tmp_path: Path, text: str, host: str = "web1") -> str:
    file = tmp_path / "config"
    file.write_text(text)
    with pytest.raises(ConnectError) as caught:
        Atlas(RunOptions(ssh_config=str(file))).route(Target(name=host, host=host))
    assert caught.value.state == "unreachable"
    return str(caught.value).replace(str(tmp_path), "")


def test_what_cannot_be_understood_is_named_by_file_and_line(tmp_path):
    assert wrong(tmp_path, "Host *\n  = 5\n") == "/config:2: is no option: '= 5'"
    assert wrong(tmp_path, "\nUser\n") == "/config:2: User says nothing"
    assert wrong(tmp_path, 'IdentityFile "open\n') == "/config:1: a quote is not closed"
    assert wrong(tmp_path, "Match version 9\n") == "/config:1: Match version is not supported"
    assert wrong(tmp_path, "Match all user me\n") == "/config:1: Match all stands alone"
    assert wrong(tmp_path, "Match user\n") == "/config:1: Match user says nothing"
    assert wrong(tmp_path, "CanonicalizeHostname yes\n") == "/config:1: canonicalizehostname is not supported"
    assert wrong(tmp_path, f"Include {tmp_path}/config\n") == "/config:1: includes go deeper than 16 files"
    assert "%z is not known there" in wrong(tmp_path, "IdentityFile ~/%z\n")
    assert "NO_SUCH is not set" in wrong(tmp_path, "CertificateFile ${NO_SUCH}/x\n")
    (tmp_path / "config").unlink()
    with pytest.raises(ConnectError, match="cannot be read: No such file"):
        Atlas(RunOptions(ssh_config=str(tmp_path / "config"))).route(Target(name="a", host="a"))


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("prot 22\n", "1: bad configuration option: prot (did you mean port?)"),
        ("Host other\n  Usr maya\n", "2: bad configuration option: usr (did you mean user?)"),
        ("qqqq 1\nIgnoreUnknown qqqq\n", "1: bad configuration option: qqqq"),
        ("Host other\n IgnoreUnknown qqqq\nHost *\n qqqq 1\n", "4: bad configuration option: qqqq"),
        ("Host other\n  Port abc\n", "2: bad number: port 'abc'"),
        ("Port 65536\n", "1: bad number: port '65536'"),
        ("Port 0\n", "1: bad number: port '0'"),
        ("Port 22 23\n", "1: port has more than one argument: 22 23"),
        ("IdentityFile a b\n", "1: identityfile has more than one argument: a b"),
        ("ConnectTimeout 1.5\n", "1: bad number: connecttimeout '1.5'"),
        ("AddressFamily inet4\n", "1: addressfamily is 'inet4', not one of any, inet, inet6"),
        ("StrictHostKeyChecking maybe\n", "1: stricthostkeychecking is 'maybe', not one of"),
    ],
)
def test_what_ssh_refuses_is_refused_wherever_it_stands(tmp_path, text, what):
    said = wrong(tmp_path, text)
    assert said.startswith(f"/config:{what}")
    asked = ["ssh", "-G", "-F", str(tmp_path / "config"), "web1"]
    theirs = subprocess.run(asked, capture_output=True, text=True, check=False)
    assert theirs.returncode == 255
    assert f"line {what.partition(':')[0]}" in theirs.stderr


@pytest.mark.parametrize(
    "text",
    [
        "IgnoreUnknown UseKeychain,qq*\nqqqq yes please\nQQx 1\n",
        "Host w*\n IgnoreUnknown qqqq\nHost *\n qqqq 1\n",
        "Port ssh\nConnectTimeout 1m30s\nIdentitiesOnly YES\nSendEnv LANG LC_*\nUserKnownHostsFile a b\n",
        "ConnectTimeout none\nPubkeyAuthentication host-bound\nForwardAgent yes\nLocalForward 8080 localhost:80\n",
    ],
)
def test_what_ssh_takes_is_taken(tmp_path, text):
    file = tmp_path / "config"
    file.write_text(text)
    route = Atlas(RunOptions(ssh_config=str(file))).route(Target(name="web1", host="web1"))
    theirs = read_by_ssh(file, "web1")
    assert (str(route.port), route.identities_only) == (theirs["port"][0], theirs["identitiesonly"] == ("yes",))
    assert (route.connect_timeout_s is None) == (theirs["connecttimeout"] == ("none",))


def test_every_option_that_ssh_here_knows_is_known():
    assert {name.lower() for name in read_by_ssh(Path("/dev/null"), "web1")} <= KNOWN


def test_a_file_that_the_inventory_names_for_one_target_is_named_with_what_is_wrong(tmp_path):
    (tmp_path / "broken").write_text("Prt 22\n")
    atlas = Atlas(RunOptions(ssh_config="none"))
    for name, why in (("broken", ":1: bad configuration option: prt"), ("none/there", ": cannot be read: No such")):
        with pytest.raises(ConnectError) as caught:
            atlas.route(Target(name="web1", host="web1", ssh_config=str(tmp_path / name)))
        assert str(caught.value).startswith(
            f"the ssh_config file that the inventory names for it: {tmp_path / name}{why}"
        )
    with pytest.raises(ConnectError, match="~no-such-user/x: cannot be read"):
        atlas.route(Target(name="web1", host="web1", ssh_config="~no-such-user/x"))


def test_a_command_of_match_exec_has_a_deadline_and_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(config, "EXEC_S", 0.3)
    said = wrong(tmp_path, "Match exec false\n User x\nMatch exec 'sleep 60.625 & sleep 60.625'\n User never\n")
    assert said == "/config:3: the command of Match exec did not end within 0.3 s"
    listing = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert "sleep 60.625" not in listing


def test_names_that_a_shell_would_run_stand_in_no_command(tmp_path):
    for host in ("$(reboot)", "a;b", "-oProxyCommand=x", "a b", "`x`"):
        assert "cannot stand in the command" in wrong(tmp_path, "ProxyCommand nc %h %p\n", host=host)
        assert "cannot stand in the command" in wrong(tmp_path, 'Match exec "test %n"\nUser x\n', host=host)


def test_jump_hosts_in_a_circle_are_told(tmp_path):
    assert "go in a circle" in wrong(tmp_path, "Host *\n  ProxyJump bastion\n")
    assert "is no jump host" in wrong(tmp_path, "ProxyJump a:b:c\n")


@pytest.fixture
def routes(tmp_path: Path) -> tuple[Path, Atlas]:
    file = tmp_path / "config"
    return file, Atlas(RunOptions(ssh_config=str(file)))


def chain(route: Route) -> list[str]:
    return [*([] if route.via is None else chain(route.via)), f"{route.user}@{route.address}"]


def test_the_inventorys_word_wins_and_its_keys_come_first(routes):
    file, atlas = routes
    file.write_text("Host web1\n HostName 10.0.0.1\n User cfg\n Port 2200\n IdentityFile /cfg\n ProxyJump gate\n")
    plain = atlas.route(Target(name="web1", host="web1"))
    assert (plain.host, plain.user, plain.port, plain.identity_files) == ("10.0.0.1", "cfg", 2200, ("/cfg",))
    given = Target(name="web1", host="web1", user="inv", port=22, identity_files=("/inv",), jump="none")
    said = atlas.route(given)
    assert (said.host, said.user, said.port, said.identity_files) == ("10.0.0.1", "inv", 22, ("/inv", "/cfg"))
    assert said.via is None
    assert plain.via is not None


def test_jump_hosts_are_looked_up_themselves_and_equal_ones_are_the_same(routes):
    file, atlas = routes
    file.write_text("Host gate\n HostName 10.9.9.9\n Port 2222\n ProxyJump outer\nHost outer\n User out\n")
    one, other = (
        atlas.route(Target(name=name, host=name, user="me", jump="maya@gate,[::1]:24")) for name in ("w1", "w2")
    )
    me = local_user()
    assert chain(one) == ["out@outer:22", "maya@10.9.9.9:2222", f"{me}@::1:24", "me@w1:22"]
    assert one.via == other.via
    assert one.via is not None
    assert one.endpoint == f"w1:22 behind {one.via.endpoint}" != other.endpoint
    assert one.via.endpoint.endswith("behind outer:22")


def test_tokens_and_variables_work_where_ssh_has_them(routes, monkeypatch):
    file, atlas = routes
    monkeypatch.setenv("PLACE", "/keys")
    file.write_text("IdentityFile ${PLACE}/%r-%h-%p-%n-%u-%%\nProxyCommand relay %h %p %r %n\nHostName %h.net\n")
    route = atlas.route(Target(name="web1", host="web1", user="maya", port=2022))
    assert route.identity_files == (f"/keys/maya-web1.net-2022-web1-{local_user()}-%",)
    assert route.proxy_command == "relay web1.net 2022 maya web1"
    assert expand_path("~/x", {}) == str(Path("~/x").expanduser())


def test_host_keys_only_ever_get_stricter(routes):
    file, atlas = routes
    file.write_text("Host a\n StrictHostKeyChecking yes\nHost *\n StrictHostKeyChecking no\n UserKnownHostsFile none\n")
    assert atlas.route(Target(name="a", host="a")).strict
    assert not atlas.route(Target(name="b", host="b")).strict
    assert atlas.route(Target(name="b", host="b")).known_hosts == ()
    assert atlas.route(Target(name="b", host="b", known_hosts="/own")).known_hosts == ("/own",)
    runs = Atlas(RunOptions(ssh_config=str(file), known_hosts=("~/team",)))
    assert runs.route(Target(name="b", host="b")).known_hosts == (str(Path("~/team").expanduser()),)


def test_the_users_own_file_is_read_unless_none_is_wanted():
    own = Path("~/.ssh").expanduser()
    own.mkdir(parents=True)
    (own / "config").write_text("Include more\nUser from-config\n")
    (own / "more").write_text("Port 2244\n")
    here = Target(name="a", host="a")
    route = Atlas(RunOptions()).route(here)
    assert (route.user, route.port) == ("from-config", 2244)
    assert Atlas(RunOptions(ssh_config="none")).route(here).port == 22
