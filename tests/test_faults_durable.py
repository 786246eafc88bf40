"""A link that breaks under a durable command, or under a file: once, or not at all, and it is said which."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import Sshd
from faults import (
    DROPPED,
    KEEPALIVE_S,
    ROOM_S,
    SOUND,
    End,
    Network,
    Way,
    another_sshd,
    here,
)
from rig import Rig, target_of

from opsbook.fleet.fleet import Fleet
from opsbook.fleet.result import TargetResult
from opsbook.model.event import TargetOutput
from opsbook.model.target import Target

pytest_plugins = ["links"]


def test_a_durable_command_outlives_cuts_of_the_link(sshd: Sshd, net: Network, rig: Callable[..., Rig]):
    proxies = {end: net.proxy(sshd.port) for end in (End.RESET, End.CLOSE, End.FREEZE)}
    made = rig(
        *(target_of(sshd, end, proxy=proxy) for end, proxy in proxies.items()),
        keepalive_s=KEEPALIVE_S,
        command_timeout_s=40,
    )
    cut: set[tuple[str, str]] = set()

    def listen(output: TargetOutput) -> None:
        for word in ("two", "four"):
            if word in output.text and (output.target, word) not in cut:
                cut.add((output.target, word))
                proxies[End(output.target)].end(End(output.target))

    made.journal.on_output = listen
    result = made.run("for word in one two three four five; do echo $word; sleep 0.3; done; exit 4", durable=True)
    for one in result:
        assert (one.state, one.exit_code) == ("failed", 4), one
        assert one.stdout == "one\ntwo\nthree\nfour\nfive\n"
        assert made.runs(one.target) == 1
        assert made.journal.intents(one.target) == 1
        assert proxies[End(one.target)].accepted >= 2


@pytest.mark.parametrize("way", Way)
def test_a_durable_command_cut_at_any_byte_runs_once_or_not_at_all_and_says_which(
    sshd: Sshd, net: Network, rig: Callable[..., Rig], way: Way
):
    offsets = [1, 60, 140, 300, 700, 1300, 2600, 5000] if way is Way.UP else [1, 40, 80, 120, 160, 240, 320, 480]
    proxies = {f"at{offset}": (net.proxy(sshd.port), offset) for offset in offsets}
    made = rig(*(target_of(sshd, name, proxy=proxy) for name, (proxy, _) in proxies.items()), command_timeout_s=30)
    made.journal.on_intent = lambda intent: proxies[intent.target][0].cut(way, proxies[intent.target][1])
    result = made.run("sleep 0.3; echo well", durable=True)
    for one in result:
        shown = (way, one, made.runs(one.target))
        assert made.journal.intents(one.target) == 1, shown
        assert (one.state, made.runs(one.target)) in {("ok", 1), ("unreachable", 0)}, shown
        assert one.state != "ok" or one.stdout == "well\n", shown


def test_a_durable_command_that_arrives_after_it_was_given_up_never_starts(
    sshd: Sshd, net: Network, rig: Callable[..., Rig]
):
    proxy = net.proxy(sshd.port)
    made = rig(target_of(sshd, "web1", proxy=proxy), keepalive_s=KEEPALIVE_S)
    made.journal.on_intent = lambda _: proxy.freeze(Way.UP)
    (result,) = made.run("true", durable=True)
    assert result.state == "unreachable", result
    proxy.thaw()  # what was on its way arrives now
    time.sleep(2)
    assert (made.runs("web1"), made.journal.intents("web1")) == (0, 1)


def test_a_durable_command_on_a_target_that_stays_away_is_lost_and_says_where_to_look(
    sshd: Sshd, net: Network, rig: Callable[..., Rig]
):
    proxy = net.proxy(sshd.port, SOUND, then=DROPPED)
    made = rig(target_of(sshd, "web1", proxy=proxy), connect_timeout_s=2)
    made.journal.on_output = here(proxy.end)
    (result,) = made.run(made.linger(), durable=True, timeout=5)
    assert result.state == "lost", result
    assert "opsbook" in result.reason, "it names the folder on the target"
    assert result.duration_s < 5 + ROOM_S
    assert (made.runs("web1"), made.journal.intents("web1")) == (1, 1)


@pytest.mark.parametrize("way", Way)
def test_a_file_whose_link_breaks_at_any_byte_is_the_old_one_or_the_new_one_and_whole(
    sshd: Sshd, net: Network, rig: Callable[..., Rig], tmp_path: Path, way: Way
):
    old, new = b"old\n" * 10, os.urandom(600_000)
    offsets = {
        Way.UP: [1, 200, 700, 1500, 5000, 90_000, 500_000, 598_000, 601_000, 604_000, 10_000_000],
        Way.DOWN: [1, 60, 200, 400, 700, 1000, 1300, 1600, 2000, 10_000_000],
    }
    cuts = {f"at{left}": (left, end) for left, end in zip(offsets[way], list(End) * 4, strict=False)}
    with another_sshd(sshd, tmp_path, "Subsystem sftp internal-sftp") as port:
        proxies = {name: net.proxy(port) for name in cuts}
        made = rig(*(target_of(sshd, n, proxy=p) for n, p in proxies.items()), keepalive_s=KEEPALIVE_S)
        files = {name: made.folder / f"file-{name}" for name in cuts}
        for file in files.values():
            file.write_bytes(old)
        made.journal.on_intent = lambda intent: proxies[intent.target].cut(way, *cuts[intent.target])

        def put(target: Target) -> TargetResult:
            """Every target is this machine, so each gets a path of its own."""
            return Fleet(made.session, [target]).put(content=new, remote=files[target.name], check=False)[target.name]

        with ThreadPoolExecutor(len(cuts)) as side_by_side:
            results = list(side_by_side.map(put, made.targets))
    for one in results:
        shown, now = (cuts[one.target], one), files[one.target].read_bytes()
        assert now in {old, new}, shown
        assert one.state in {"ok", "lost", "unreachable"}, shown
        assert (one.state, now) not in {("ok", old), ("unreachable", new)}, shown
        assert made.journal.intents(one.target) <= 1, shown
    assert results[-1].ok
    assert not results[0].ok
