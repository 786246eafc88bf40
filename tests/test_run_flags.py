"""What `run` and `%%on` may be asked for besides: silence, durability, the inventory's variables."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Sshd
from msgspec.structs import replace
from rig import Rig, known_hosts, target_of
from support import LOAD, Desk, code

from opsbook.errors import FleetError, UsageError
from opsbook.fleet.fleet import Fleet
from opsbook.model.target import TargetState

VARIABLES = {"plain": "it's", "templated": "{{ other }}", "sealed": "$ANSIBLE_VAULT;1.1;AES256\n6162", "port": 80}


@pytest.fixture
def rig(sshd: Sshd, tmp_path: Path) -> Iterator[Rig]:
    targets = (target_of(sshd, "web1", vars=VARIABLES), target_of(sshd, "web2", host="127.0.0.3"))
    made = Rig(targets, tmp_path / "marks", known_hosts=(str(known_hosts(sshd, tmp_path)),), idle_timeout_s=1.0)
    yield made
    made.close()


def test_variables_that_cannot_be_used_are_left_out_until_a_script_names_them(rig):
    fleet = Fleet(rig.session, rig.targets)
    result = fleet.run('echo "${plain-} ${port-}"; set | grep -c "^templated=\\|^sealed=" || true', vars=True)
    assert result["web1"].stdout == "it's 80\n0\n"
    for text in ('echo "$templated"', "echo ${templated:-x}", "echo $sealed$plain"):
        refused = fleet.run(text, vars=True, check=False)
        name = "sealed" if "sealed" in text else "templated"
        assert refused["web1"].state is TargetState.FAILED
        assert refused["web1"].reason.startswith(f"variable {name} is ")
        assert refused["web1"].reason.endswith("nothing was sent")
    assert fleet.run("echo ${templated_too-}$plain", vars=True, check=False)["web1"].stdout == "it's\n"
    assert "AES256" not in refused["web1"].reason
    assert rig.journal.intents("web1") == 2


def test_variables_of_a_file_that_is_encrypted_as_a_whole_are_handed_over_by_nobody(rig):
    sealed = [replace(target, sealed=("group_vars/web.yml",)) for target in rig.targets[:1]]
    fleet = Fleet(rig.session, [*sealed, *rig.targets[1:]])
    with pytest.raises(UsageError, match="variables of web1 are not known: group_vars/web"):
        fleet.run("true", vars=True, check=False)
    assert fleet.run("true", check=False).ok.names == ("web1", "web2")


def test_the_run_says_how_long_a_command_may_be_silent_unless_the_call_does(rig):
    begun = time.monotonic()
    with pytest.raises(FleetError):
        Fleet(rig.session, rig.targets).run("echo on; sleep 30.625", read_only=True)
    assert time.monotonic() - begun < 25
    assert {rig.journal.ended(name).state.value for name in ("web1", "web2")} == {"timed_out"}
    assert "idle" in rig.journal.ended("web1").reason
    assert Fleet(rig.session, rig.targets[:1]).run("sleep 1.5", idle_timeout="20s").ok


def test_a_cell_can_ask_for_durability_and_for_an_end_to_silence(sshd, tmp_path):
    sshd.inventory({"web1": "127.0.0.2", "web2": "127.0.0.3"}, tmp_path / "hosts.ini")
    desk = Desk(tmp_path)
    desk.write("opsbook.toml", 'inventory = ["hosts.ini"]\n')
    desk.notebook(
        LOAD,
        code(f"%%on web --durable\necho $OPSBOOK_TARGET >> {tmp_path}/count; echo said", cell_id="lasting"),
        code("%%on web1 --idle-timeout 1s --no-check\necho in; sleep 30.875", cell_id="silent"),
    )
    ran = desk.opsbook("run", "book.ipynb", seconds=100)
    run = desk.run()
    assert run.states == {**run.states, "lasting": "ok", "silent": "ok"}, ran.err
    ended = {event["target"]: event for event in run.events("target_ended") if event["cell_id"] == "lasting"}
    assert {name: event["stdout"] for name, event in ended.items()} == {"web1": "said\n", "web2": "said\n"}
    spools = [event.get("spool") for event in run.events("intent") if event["cell_id"] == "lasting"]
    assert len({*spools} - {None}) == 2
    assert not [name for name in spools if (sshd.folder / ".local/state/opsbook" / name).exists()]
    assert sorted((tmp_path / "count").read_text().split()) == ["web1", "web2"]
    (silent,) = (event for event in run.events("target_ended") if event["cell_id"] == "silent")
    assert (silent["state"], silent["stdout"]) == ("timed_out", "in\n")


def test_a_wholly_encrypted_file_of_variables_is_noted_and_refused_only_where_variables_are_handed_over(sshd, tmp_path):
    sshd.inventory({"web1": "127.0.0.2", "web2": "127.0.0.3"}, tmp_path / "hosts.ini")
    (tmp_path / "host_vars").mkdir()
    (tmp_path / "host_vars/web1.yml").write_text("$ANSIBLE_VAULT;1.1;AES256\n6162\n")
    desk = Desk(tmp_path)
    desk.write("opsbook.toml", 'inventory = ["hosts.ini"]\n')
    desk.notebook(
        LOAD,
        code("%%on web\ntrue"),
        code("%%on web2 --vars\ntrue"),
        code(f"%%on web --vars\ntouch {tmp_path}/ran", cell_id="vars"),
    )
    ran = desk.opsbook("run", "book.ipynb")
    assert ran.code == 1, ran
    file = f"{tmp_path}/host_vars/web1.yml"
    assert desk.run().record["notes"] == [f"{file} is encrypted by ansible-vault: what it sets is not known"]
    error = desk.run().record["cells"][-1]["error"]["text"]
    assert error.startswith(f"the inventory variables of web1 are not known: {file} is encrypted")
    assert list(desk.run().states.values()) == ["ok", "ok", "ok", "failed"]
    assert not (tmp_path / "ran").exists()
    assert desk.opsbook("run", "book.ipynb", "-t", "web2").code == 0
    assert desk.runs()[-1].record["notes"] == []
