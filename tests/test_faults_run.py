"""Faults of the link through the command line: record, journal, exit code."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import Sshd
from faults import (
    GARBAGE,
    Fault,
    Network,
    refusing_port,
)
from rig import known_hosts
from support import LOAD, Desk, code, finish, wait_for

pytest_plugins = ["links"]


@pytest.fixture
def desk(tmp_path: Path, sshd: Sshd) -> Desk:
    made = Desk(tmp_path)
    made.write("opsbook.toml", 'inventory = ["hosts.ini"]\n[ssh]\nkeepalive = "500ms"\nconnect_timeout = "15s"\n')
    return made


def inventory_line(name: str, port: int) -> str:
    return f"{name} ansible_host=127.0.0.1 ansible_port={port}\n"


def write_inventory(desk: Desk, sshd: Sshd, ports: dict[str, int]) -> None:
    known = known_hosts(sshd, desk.folder)
    desk.write(
        "hosts.ini",
        "[web]\n" + "".join(inventory_line(*pair) for pair in ports.items())
        + f"[all:vars]\nansible_user={sshd.user}\nansible_ssh_private_key_file={sshd.identity}\n"
        f"ansible_ssh_common_args='-o UserKnownHostsFile={known}'\n",
    )  # fmt: skip


def test_a_run_tells_lost_from_unreachable_and_exits_accordingly(desk: Desk, sshd: Sshd, net: Network):
    cut, frozen = net.proxy(sshd.port), net.proxy(sshd.port)
    with refusing_port() as refusing:
        ports = {"good": sshd.port, "cut": cut.port, "frozen": frozen.port, "refused": refusing}
        write_inventory(desk, sshd, ports)
        marks = desk.folder / "marks"
        marks.mkdir()
        script = (
            f'echo run >> {marks}/"$OPSBOOK_TARGET"\n'
            f'[ "$OPSBOOK_TARGET" = good ] || for n in $(seq 200); do [ -e {marks}/released ] || sleep 0.2; done'
        )
        desk.notebook(LOAD, code(f"%%on web --max-fail 4\n{script}", cell_id="change"))
        process = desk.fork("run", "book.ipynb", "--json")
        try:
            wait_for(
                lambda: process.poll() is not None or {"cut", "frozen"} <= {m.name for m in marks.iterdir()}, seconds=40
            )
        finally:
            cut.end()
            frozen.freeze()
            ran = finish(process)
            (marks / "released").touch()
    run = desk.run()
    assert ran.code == 6
    assert run.targets == {"good": "ok", "cut": "lost", "frozen": "lost", "refused": "unreachable"}
    assert sorted(intent["target"] for intent in run.events("intent")) == ["cut", "frozen", "good"]
    assert [(marks / name).read_text() for name in ("good", "cut", "frozen")] == ["run\n"] * 3
    assert "may still be running" in run.record["targets"]["results"]["cut"]["reason"]


def test_a_run_that_failed_only_because_nobody_could_be_reached_exits_4(desk: Desk, sshd: Sshd, net: Network):
    garbled = net.proxy(sshd.port, then=Fault(says=GARBAGE))
    with refusing_port() as refusing:
        write_inventory(desk, sshd, {"good": sshd.port, "garbled": garbled.port, "refused": refusing})
        desk.notebook(LOAD, code("%%on web\ntrue", cell_id="change"))
        ran = desk.opsbook("run", "book.ipynb", "--max-fail", "2", "--json")
    assert ran.code == 4
    assert {name: state for name, state in desk.run().targets.items() if name != "good"} == {
        "garbled": "unreachable", "refused": "unreachable",
    }  # fmt: skip
    assert [intent["target"] for intent in desk.run().events("intent")] in ([], ["good"])
