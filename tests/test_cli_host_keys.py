"""What a run tells of host keys and of ssh_config, through the real command line."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from conftest import Sshd
from support import Desk

NAMES = {f"web{number}": f"127.0.8.{number}" for number in range(1, 4)}


@pytest.fixture
def strangers(tmp_path: Path, sshd: Sshd) -> Desk:
    """Targets whose keys nobody has recorded yet."""
    made = Desk(tmp_path)
    made.write("opsbook.toml", 'inventory = ["hosts.ini"]\n[ssh]\nknown_hosts = ["known"]\nconfig = "ssh_config"\n')
    made.write("ssh_config", "")
    hosts = "".join(f"{name} ansible_host={address}\n" for name, address in NAMES.items())
    made.write(
        "hosts.ini",
        f"{hosts}[all:vars]\nansible_port={sshd.port}\nansible_user={sshd.user}\n"
        f"ansible_ssh_private_key_file={sshd.identity}\n",
    )
    return made


def test_a_key_that_a_run_has_recorded_is_told_with_its_fingerprint_and_kept_in_the_record(strangers, sshd):
    shown = subprocess.run(
        ["ssh-keygen", "-l", "-f", sshd.folder / "host.pub"], capture_output=True, text=True, check=True
    )
    fingerprint = shown.stdout.split()[1]
    known = strangers.folder / "known"
    ran = strangers.opsbook("exec", "web1,web2", "--host-keys", "accept-new", "--read-only", "--", "true")
    assert ran.code == 0, ran
    note = f"new host key of web1, web2: {fingerprint}, recorded in {known}; compare it"
    assert strangers.run().record["notes"] == [note]
    assert fingerprint in ran.err
    events = strangers.run().events("host_key_recorded")
    assert sorted((event["target"], event["address"], event["fingerprint"], event["file"]) for event in events) == [
        (name, f"{NAMES[name]}:{sshd.port}", fingerprint, str(known)) for name in ("web1", "web2")
    ]
    again = strangers.opsbook("exec", "all", "--host-keys", "accept-new", "--read-only", "--json", "--", "true; true")
    assert again.code == 0, again
    assert [event["target"] for event in strangers.runs()[-1].events("host_key_recorded")] == ["web3"]
    unchecked = strangers.opsbook("exec", "all", "--host-keys", "off", "--read-only", "--", "true")
    assert unchecked.code == 0, unchecked
    assert not strangers.runs()[-1].events("host_key_recorded")


def test_a_changed_key_is_told_with_the_line_it_is_known_by(strangers, sshd):
    key = (sshd.folder / "host.pub").read_text().split()[1]
    strangers.write("known", f"# ours\n[{NAMES['web1']}]:{sshd.port} ssh-ed25519 {key[:-8]}AAAAAAAA\n")
    ran = strangers.opsbook("exec", "web1", "--read-only", "--", "true")
    assert ran.code == 4, ran
    reason = strangers.run().record["targets"]["results"]["web1"]["reason"]
    assert f" in {strangers.folder}/known:2, shown SHA256:" in reason
    name = f"[{NAMES['web1']}]:{sshd.port}"
    assert f"ssh-keygen -f {strangers.folder}/known -R '{name}' forgets the known one" in reason


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("Host other\n  Prot 22\n", "2: bad configuration option: prot (did you mean port?)"),
        ("Port abc\n", "1: bad number: port 'abc'"),
    ],
)
def test_a_mistake_in_ssh_config_is_refused_before_anything_is_sent(strangers, text, what):
    strangers.write("ssh_config", text)
    for command in (("exec", "web1", "--", "true"), ("targets", "--ping"), ("targets", "--accept-keys")):
        ran = strangers.opsbook(*command)
        assert (ran.code, ran.out) == (2, ""), ran
        assert ran.err.startswith(f"error: {strangers.folder}/ssh_config:{what}")
    assert strangers.runs() == []
    assert strangers.opsbook("targets").code == 0
