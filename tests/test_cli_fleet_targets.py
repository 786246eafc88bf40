"""What a run would reach (`opsbook plan`) and what can be reached (`targets --ping`)."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from conftest import Sshd
from support import LOAD, Desk, code, parameters, prose

NAMES = {f"web{number}": f"127.0.7.{number}" for number in range(1, 9)}
MORE_HOSTS = "\n[edge]\nweb[1:2]\n"


BOOK = (
    prose("# Patch"),
    LOAD,
    parameters('stack: Literal["web", "edge"]\nwaves: str = "1,25%,100%"\ntoken: Secret = "env:HOME"'),
    prose("## Check"),
    code("%%on {stack} --read-only\ntrue"),
    prose("## Update"),
    code("%%on {stack} --waves {waves} --max-fail 25% --sudo --env T=token\ntrue"),
    prose("## Later"),
    code("%%on {chosen} --waves {waves}\ntrue"),
    code("%%on web\ntrue", "skip"),
    prose("## Reboot"),
    code("for wave in targets(f'{stack}:&edge').waves(): wave.reboot()"),
    prose("## Tell"),
    code("targets(chosen).run('true')"),
)


def test_the_targets_of_a_run_are_listed_in_their_waves_and_nothing_runs(desk):
    desk.notebook(*BOOK)
    words = ("book.ipynb", "-p", "stack=web", "-t", "all:!web8")
    ran = desk.opsbook("plan", *words)
    assert (ran.code, ran.err) == (0, ""), ran
    assert ran.out.startswith(
        """\
would run book on at most 7 targets of all:!web8

  Check · %%on {stack} --read-only
      read-only   7 targets, stops at the first failure
      targets     web1-web7

  Update · %%on {stack} --waves {waves} --max-fail 25% --sudo --env T=token
      changes     7 targets, 3 waves (1, 1, 5), stops when more than 1 has failed
      wave 1      web1
      wave 2      web2
      wave 3      web3-web7

  Later · %%on {chosen} --waves {waves}
      not known   chosen: no parameter with a value, so a cell sets it

  Reboot · targets: web:&edge
      Python      2 targets; what it sends them is known when it runs
      targets     web1, web2

  chosen in Python, known when it runs: "Tell"

      locks       free
      secrets     parameter 'token' from env:HOME (set)
"""
    )
    assert ran.out.endswith("\n\nnothing was run\n")
    assert desk.opsbook("run", *words, "--list-targets") == ran
    assert desk.runs() == []
    assert desk.kernels() == []


def test_the_list_is_one_json_document_too(desk):
    desk.notebook(*BOOK)
    ran = desk.opsbook("plan", "book.ipynb", "-p", "stack=edge", "--json", "--max-fail", "50%")
    assert ran.code == 0
    first, second, later, python = ran.json["cells"]
    assert (ran.json["runbook"], ran.json["pattern"], ran.json["python"]) == ("book", None, ["Tell"])
    assert ran.json["selected"] == list(NAMES)
    assert (first["targets"], first["waves"], first["changes"], first["limit"]) == (["web1", "web2"], [], False, 1)
    assert (second["waves"], second["changes"], second["limit"]) == ([["web1"], ["web2"]], True, 0)
    assert later["targets"] == []
    assert (python["python"], python["targets"]) == (True, ["web1", "web2"])
    assert later["open"].startswith("chosen: ")


def test_what_a_cell_would_fail_for_is_listed_and_not_a_plan_that_holds(desk):
    desk.notebook(
        LOAD,
        parameters('token: Secret = "env:HOME"'),
        prose("## A"),
        code("%%on nobody\ntrue"),
        prose("## B"),
        code("%%on web --wave 1\ntrue"),
        prose("## C"),
        code("%%on {token}\ntrue"),
        prose("## D"),
        code("%%on edge\ntrue"),
    )
    ran = desk.opsbook("plan", "book.ipynb", "-t", "web7,web8")
    assert ran.code == 2
    assert "would fail  pattern 'nobody' names nothing in the inventory" in ran.out
    assert "would fail  %%on: unrecognized arguments: --wave" in ran.out
    assert "would fail  %%on: 'token' is a secret and cannot stand in the line" in ran.out
    assert "skipped     no target of this run is asked for here" in ran.out
    assert desk.runs() == []


def test_every_target_is_asked_whether_it_is_there(desk, sshd):
    ran = desk.opsbook("targets", "web", "--ping", "--parallel", "4")
    assert (ran.code, ran.err) == (0, ""), ran
    rows = ran.out.splitlines()
    assert rows[0].split() == ["TARGET", "ADDRESS", "STATE", "TOOK", "REASON"]
    assert [row.split()[:3] for row in rows[1:9]] == [
        [name, f"{address}:{sshd.port}", "ok"] for name, address in NAMES.items()
    ]
    assert rows[-1] == "8 ok"
    assert desk.runs() == []
    asked = desk.opsbook("targets", "edge", "--ping", "--json")
    assert [(one["name"], one["state"], one["reason"]) for one in asked.json] == [
        ("web1", "ok", ""),
        ("web2", "ok", ""),
    ]


def test_targets_that_do_not_answer_come_first_and_set_the_exit_code(desk, sshd, tmp_path):
    strangers = desk.write("known", "")
    sshd.inventory({"web1": "127.0.7.1"}, desk.folder / "hosts.ini")
    with (desk.folder / "hosts.ini").open("a") as hosts:
        hosts.write("[more]\ngone ansible_host=127.0.7.9 ansible_port=1\n")
        hosts.write(f"new ansible_host=127.0.7.8 ansible_ssh_common_args='-o UserKnownHostsFile={strangers}'\n")
        hosts.write("nokey ansible_host=127.0.7.7 ansible_ssh_private_key_file=/nowhere\n")
    ran = desk.opsbook("targets", "--ping", "--json")
    assert ran.code == 4
    assert {one["name"]: one["state"] for one in ran.json} == {
        "new": "hostkey",
        "nokey": "auth",
        "gone": "unreachable",
        "web1": "ok",
    }
    assert ran.json[-1]["name"] == "web1"
    off = desk.opsbook("targets", "new", "--ping", "--host-keys", "off")
    assert off.code == 0
    assert off.err.startswith("warning: host keys are not checked (--host-keys off)")
    assert strangers.read_bytes() == b""


def test_a_target_that_fails_otherwise_is_no_matter_of_reach(desk, sshd, tmp_path):
    desk.write("opsbook.toml", 'inventory = ["hosts.ini"]\ncommand_timeout = "1s"\n[ssh]\nsudo_password = "env:NO"\n')
    with (desk.folder / "hosts.ini").open("a") as hosts:
        hosts.write("[all:vars]\nansible_become=yes\nansible_become_user=nobody-of-this-name\n")
    ran = desk.opsbook("targets", "web1", "--ping", "--json")
    assert ran.code == 1, ran
    assert ran.json[0]["state"] in {"become", "failed"}


def test_flags_of_a_ping_mean_nothing_without_it(desk):
    ran = desk.opsbook("targets", "web", "--host-keys", "off")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("error: --host-keys means nothing without --ping")


def test_a_list_of_targets_shows_no_password(desk):
    with (desk.folder / "hosts.ini").open("a") as hosts:
        hosts.write(
            "[all:vars]\nansible_password=Zaubernuss7\nansible_become_password=abc\nnote=is Zaubernuss7 there\n"
        )
        hosts.write("[edge:vars]\nansible_become_password=env:HOME\n")
    ran = desk.opsbook("targets", "--json")
    assert ran.code == 0, ran
    by_name = {target["name"]: target for target in json.loads(ran.out)}
    assert "Zaubernuss7" not in ran.out
    assert by_name["web8"]["password"] == "inline:***"
    assert by_name["web8"]["become"]["password"] == "inline:***"
    assert by_name["web8"]["vars"]["note"] == "is *** there"
    assert by_name["web1"]["become"]["password"] == "env:HOME"
    assert "Zaubernuss7" not in desk.opsbook("targets").out


def stranger(desk: Desk, sshd: Sshd, *, more: str = "") -> Path:
    """Settings and an inventory by which no target's key is known yet; return the known_hosts file in force."""
    desk.write("opsbook.toml", 'inventory = ["hosts.ini"]\n[ssh]\nknown_hosts = ["known"]\nconfig = "ssh_config"\n')
    desk.write("ssh_config", more)
    hosts = "".join(f"{name} ansible_host={address}\n" for name, address in list(NAMES.items())[:3])
    desk.write("hosts.ini", f"[web]\n{hosts}[all:vars]\nansible_port={sshd.port}\nansible_user={sshd.user}\n")
    with (desk.folder / "hosts.ini").open("a") as file:
        file.write(f"ansible_ssh_private_key_file={sshd.identity}\n")
    return desk.folder / "known"


def host_key(sshd: Sshd) -> tuple[str, str]:
    """The server's key, as known_hosts has it, and its fingerprint."""
    shown = subprocess.run(
        ["ssh-keygen", "-l", "-f", sshd.folder / "host.pub"], capture_output=True, text=True, check=True
    )
    return " ".join((sshd.folder / "host.pub").read_text().split()[:2]), shown.stdout.split()[1]


def test_host_keys_are_recorded_beforehand_and_a_changed_one_is_not(desk, sshd):
    known, (key, fingerprint) = stranger(desk, sshd), host_key(sshd)
    other = key[:-8] + "AAAAAAAA"
    known.write_text(f"[127.0.7.2]:{sshd.port} {other}\n")
    ran = desk.opsbook("targets", "web", "--accept-keys")
    assert ran.code == 4, ran
    rows = ran.out.splitlines()
    assert rows[1].split()[:3] == ["web2", f"127.0.7.2:{sshd.port}", "hostkey"]
    assert "CHANGED" in ran.out
    assert [row.split() for row in rows[-4:-2]] == [
        [name, f"{NAMES[name]}:{sshd.port}", "new", fingerprint] for name in ("web1", "web3")
    ]
    assert rows[-1] == "2 new · 1 failed"
    assert sorted(known.read_text().splitlines()) == sorted(
        [f"[127.0.7.2]:{sshd.port} {other}", *(f"[127.0.7.{n}]:{sshd.port} {key}" for n in (1, 3))]
    )
    before = known.read_bytes()
    again = desk.opsbook("targets", "web1,web3", "--accept-keys", "--json", "--parallel", "1")
    assert again.code == 0
    assert [(one["name"], one["new"], one["fingerprint"]) for one in again.json] == [
        ("web1", False, fingerprint),
        ("web3", False, fingerprint),
    ]
    assert known.read_bytes() == before
    assert desk.opsbook("targets", "web1,web3", "--ping", "--host-keys", "strict").code == 0


def test_keys_behind_a_jump_host_are_recorded_with_its_own_and_no_login_is_needed(desk, sshd):
    jump = f"Host 127.0.7.2\n  ProxyJump {sshd.user}@127.0.7.9:{sshd.port}\n"
    known = stranger(desk, sshd, more=f"{jump}Host 127.0.7.9\n  IdentityFile {sshd.identity}\n")
    with (desk.folder / "hosts.ini").open("a") as file:
        file.write("[web:vars]\nansible_user=nobody-of-this-name\n")
    ran = desk.opsbook("targets", "web1,web2", "--accept-keys", "--json")
    assert ran.code == 0, ran
    fingerprint = host_key(sshd)[1]
    assert [(one["name"], one["new"], one["fingerprint"]) for one in ran.json] == [
        ("web1", True, fingerprint),
        ("web2", True, fingerprint),
        (f"127.0.7.9:{sshd.port}", True, fingerprint),
    ]
    assert sorted(line.split()[0] for line in known.read_text().splitlines()) == [
        f"[127.0.7.{number}]:{sshd.port}" for number in (1, 2, 9)
    ]
