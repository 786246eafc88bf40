"""A link that breaks after the intent, between two cells, under several commands, or at a jump host many share."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Sshd
from faults import (
    DROPPED,
    GARBAGE,
    KEEPALIVE_S,
    ROOM_S,
    SOUND,
    End,
    Fault,
    Network,
    Proxy,
    Way,
)
from rig import Rig, target_of

from opsbook.fleet.fleet import Fleet
from opsbook.model.event import TargetOutput

pytest_plugins = ["links"]


@pytest.mark.parametrize("way", Way)
def test_a_link_cut_at_any_byte_after_the_intent_never_sends_twice(
    sshd: Sshd, net: Network, rig: Callable[..., Rig], way: Way
):
    offsets = [1, 20, 60, 100, 140, 180, 220, 300, 400, 600, 1000, 2000] if way is Way.UP else [*range(1, 340, 28)]
    proxies = {f"at{offset}": (net.proxy(sshd.port), offset) for offset in offsets}
    made = rig(*(target_of(sshd, name, proxy=proxy) for name, (proxy, _) in proxies.items()), command_timeout_s=10)
    made.journal.on_intent = lambda intent: proxies[intent.target][0].cut(way, proxies[intent.target][1])
    result = made.run("true")
    for one in result:
        shown = (way, one.target, one.state, one.reason)
        assert one.state in {"lost", "ok"}, shown
        assert made.journal.intents(one.target) == 1, shown
        assert proxies[one.target][0].accepted == 1, shown
        assert made.runs(one.target) <= 1, shown
        assert one.state == "lost" or made.runs(one.target) == 1, shown
    assert result[f"at{offsets[0]}"].state == "lost"


def test_a_link_frozen_right_after_the_intent_is_lost_by_keepalive(sshd: Sshd, net: Network, rig: Callable[..., Rig]):
    proxies = {way: net.proxy(sshd.port) for way in Way}
    made = rig(*(target_of(sshd, way, proxy=proxy) for way, proxy in proxies.items()), keepalive_s=KEEPALIVE_S)
    made.journal.on_intent = lambda intent: proxies[Way(intent.target)].freeze(Way(intent.target))
    result = made.run("sleep 1")
    assert {r.target: r.state for r in result} == {"up": "lost", "down": "lost"}
    assert [proxy.accepted for proxy in proxies.values()] == [1, 1]
    for proxy in proxies.values():
        proxy.thaw()  # what was held up arrives now, as after a network's recovery
    time.sleep(1)
    assert all(made.runs(way) <= 1 for way in Way)


# between two cells


@pytest.mark.parametrize("end", End)
def test_a_connection_that_dies_between_two_cells_is_replaced_in_silence(
    sshd: Sshd, net: Network, rig: Callable[..., Rig], end: End
):
    proxy = net.proxy(sshd.port)
    made = rig(target_of(sshd, "web1", proxy=proxy), keepalive_s=KEEPALIVE_S)
    assert made.run("true")["web1"].ok
    proxy.end(end)
    (result,) = made.run("true")
    assert (result.state, result.reason) == ("ok", ""), result
    assert result.duration_s < 4 * KEEPALIVE_S + ROOM_S
    assert (made.runs("web1"), made.journal.intents("web1"), proxy.accepted) == (2, 2, 2)


def test_a_connection_dead_for_good_between_two_cells_is_unreachable(sshd: Sshd, net: Network, rig: Callable[..., Rig]):
    proxy = net.proxy(sshd.port, SOUND, then=DROPPED)
    made = rig(target_of(sshd, "web1", proxy=proxy), connect_timeout_s=2)
    made.run("true")
    proxy.end()
    (result,) = made.run("true")
    assert result.state == "unreachable", result
    assert (made.runs("web1"), made.journal.intents("web1")) == (1, 1)


# several commands on one connection: the author's own threads


def side_by_side(made: Rig, script: str, count: int) -> list[str]:
    """Run a script so many times at once on the one target; return how each ended."""
    states: list[str] = []

    def run() -> None:
        states.extend(one.state for one in made.run(script, include_failed=True))

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return states


def test_all_commands_on_a_link_that_is_cut_are_lost_and_the_next_ones_share_a_new_link(
    sshd: Sshd, net: Network, rig: Callable[..., Rig]
):
    proxy = net.proxy(sshd.port)
    made = rig(target_of(sshd, "web1", proxy=proxy))
    said: list[str] = []

    def listen(output: TargetOutput) -> None:
        said.append(output.text)
        if len(said) == 5:
            proxy.end()

    made.journal.on_output = listen
    assert side_by_side(made, made.linger(), 5) == ["lost"] * 5
    made.release()
    assert side_by_side(made, "true", 5) == ["ok"] * 5
    assert (made.runs("web1"), made.journal.intents("web1"), proxy.accepted) == (10, 10, 2)


@pytest.mark.parametrize("end", [End.CLOSE, End.FREEZE])
def test_a_dead_connection_is_replaced_once_however_many_find_it_dead(
    sshd: Sshd, net: Network, rig: Callable[..., Rig], end: End
):
    proxy = net.proxy(sshd.port)
    made = rig(target_of(sshd, "web1", proxy=proxy), keepalive_s=KEEPALIVE_S)
    made.run("true")
    proxy.end(end)
    assert side_by_side(made, "true", 6) == ["ok"] * 6
    assert (made.runs("web1"), made.journal.intents("web1"), proxy.accepted) == (7, 7, 2)


def test_what_cannot_be_reached_yet_is_waited_for(sshd: Sshd, net: Network, rig: Callable[..., Rig]):
    proxy = net.proxy(sshd.port, *[Fault(says=GARBAGE)] * 2)
    made = rig(target_of(sshd, "web1", proxy=proxy))
    result = Fleet(made.session, made.targets).wait_until("true", every=0.2, timeout=45, check=False)
    assert result["web1"].ok
    assert proxy.accepted == 3


def jump_config(sshd: Sshd, folder: Path, proxy: Proxy) -> dict[str, str]:
    """What sends targets through a jump host that is behind a proxy."""
    config = folder / f"ssh_config_{proxy.port}"
    config.write_text(
        f"Host bastion\nHostName {proxy.host}\nPort {proxy.port}\nUser {sshd.user}\n"
        f"IdentityFile {sshd.identity}\nUserKnownHostsFile {folder}/known_everywhere\n"
    )
    return {"jump": "bastion", "ssh_config": str(config)}


def test_a_silent_jump_host_costs_all_behind_it_one_deadline(
    sshd: Sshd, net: Network, rig: Callable[..., Rig], tmp_path: Path
):
    proxy = net.proxy(sshd.port, then=Fault(at_once=End.FREEZE))
    way = jump_config(sshd, tmp_path, proxy)
    made = rig(*(target_of(sshd, f"web{n}", host=f"127.0.6.{n}", **way) for n in range(1, 31)), connect_timeout_s=2)
    result = made.run("true")
    assert {one.state for one in result} == {"unreachable"}
    assert all("jump host" in one.reason for one in result)
    assert result.duration_s < 2 + ROOM_S
    assert proxy.accepted <= 2


def test_dead_hosts_behind_a_jump_host_do_not_hold_up_the_others(
    sshd: Sshd, net: Network, rig: Callable[..., Rig], tmp_path: Path
):
    way = jump_config(sshd, tmp_path, net.proxy(sshd.port))
    silent = [net.proxy(sshd.port, then=Fault(at_once=End.FREEZE)) for _ in range(10)]  # eight at a time wait at each
    dead = [target_of(sshd, f"dead{n}", host="127.0.0.1", port=silent[n % 10].port, **way) for n in range(80)]
    well = [target_of(sshd, f"well{n}", host=f"127.0.6.{n}", **way) for n in range(1, 9)]
    made = rig(*dead, *well, connect_timeout_s=3, parallel=100)
    result = made.run("true")
    assert {one.state for one in result if one.target.startswith("dead")} == {"unreachable"}
    assert {one.target: one.reason for one in result if one.target.startswith("well") and not one.ok} == {}
    assert result.duration_s < 3 + ROOM_S / 2


@pytest.mark.parametrize("end", [End.RESET, End.FREEZE])
def test_a_jump_host_whose_link_dies_loses_all_behind_it_and_is_reached_again_once(
    sshd: Sshd, net: Network, rig: Callable[..., Rig], tmp_path: Path, end: End
):
    proxy = net.proxy(sshd.port)
    way = jump_config(sshd, tmp_path, proxy)
    names = [f"web{n}" for n in range(1, 6)]
    made = rig(*(target_of(sshd, n, host=f"127.0.5.{n[3:]}", **way) for n in names), keepalive_s=KEEPALIVE_S)
    said: list[str] = []

    def listen(output: TargetOutput) -> None:
        said.append(output.target)
        if len(said) == len(names):
            proxy.end(end)

    made.journal.on_output = listen
    result = made.run(made.linger())
    assert {one.target: one.state for one in result} == dict.fromkeys(names, "lost")
    assert all(one.duration_s < 4 * KEEPALIVE_S + ROOM_S for one in result)
    made.release()
    made.journal.on_output = lambda _: None
    again = made.run("true", include_failed=True)
    assert {one.target: (one.state, one.reason) for one in again} == dict.fromkeys(names, ("ok", ""))
    assert [made.runs(name) for name in names] == [2] * len(names)
    assert proxy.accepted == 2
