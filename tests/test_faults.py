"""Every fault of the link, the login and the command, made on purpose: which state, why, how soon, how often sent."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from conftest import Sshd
from faults import (
    DROPPED,
    SOUND,
    End,
    Fault,
    Network,
    Proxy,
    Way,
    another_sshd,
    cut_after,
    full_port,
    network,
    refusing_port,
)
from msgspec.structs import replace
from rig import Rig, Row, known_hosts, target_of, write_table
from support import LOAD, Desk, code, finish, wait_for

from opsbook.fleet.fleet import Fleet
from opsbook.fleet.result import TargetResult
from opsbook.model.event import TargetOutput
from opsbook.model.target import Target

DEADLINE_S = 3.0
"""What the connect phase may take where it cannot succeed."""
KEEPALIVE_S = 0.5
ROOM_S = 12.0
"""What a loaded machine may add to any deadline here."""
GARBAGE = b"HTTP/1.1 400 Bad Request\r\nServer: not-ssh\r\n\r\n" * 50

UNREACHABLE: dict[str, tuple[Fault | str, str]] = {
    "refused": ("refusing", "refused"),
    "backlog full": ("full", "no answer|timed out"),
    "accepts and says nothing": (Fault(at_once=End.FREEZE), "no answer|banner"),
    "reset at once": (Fault(at_once=End.RESET), "reset|ended|banner|end of stream|no answer"),
    "closed at once, every time": (DROPPED, "ended|banner|end of stream|no answer"),
    "one byte at a time": (Fault(drip_s=0.2), "no answer|banner"),
    "banner beyond the deadline": (Fault(delay_s=60), "no answer|banner"),
    "garbage for a banner": (Fault(says=GARBAGE), "banner|SSH|ended|no answer"),
    "closed in the key exchange": (Fault(cut_down=600, end=End.CLOSE), "ended|end of stream|no answer|reset"),
    "reset in the key exchange": (Fault(cut_down=600), "reset|ended|end of stream|no answer"),
    "frozen in the key exchange": (Fault(cut_down=600, end=End.FREEZE), "no answer"),
    "reset while it logs in": ("reset", "reset|ended|end of stream|no answer"),
    "frozen while it logs in": ("freeze", "no answer"),
    "no such name": ("nameless", "resolve"),
    "proxy command fails": ("echo no way there >&2; exit 1", "no way there"),
    "proxy command hangs": ("sleep 30", "no answer|banner"),
    "jump host refuses": ("jump", "refused"),
}
LOGIN: dict[str, tuple[str, str]] = {
    "wrong key": ("auth", "could not log in|log in"),
    "key file missing": ("auth", "no such file"),
    "wrong user": ("auth", "log in"),
    "host key changed": ("hostkey", "CHANGED"),
    "host key revoked": ("hostkey", "revoked"),
    "host key unknown": ("hostkey", "not known|unknown"),
}


def name_of(fault: str) -> str:
    return re.sub(r"[^a-z]+", "-", fault)


@pytest.fixture
def net() -> Iterator[Network]:
    with network() as made:
        yield made


@pytest.fixture
def rig(sshd: Sshd, tmp_path: Path) -> Iterator[Callable[..., Rig]]:
    """Makes rigs that know the server's key wherever a proxy puts it."""
    known = str(known_hosts(sshd, tmp_path))
    with ExitStack() as stack:

        def make(*targets: Target, **options: Any) -> Rig:
            folder = tmp_path / f"rig{len(list(tmp_path.glob('rig*')))}"
            made = Rig(targets, folder, **{"known_hosts": (known,), **options})
            stack.callback(made.close)
            return made

        yield make


def here(act: Callable[[], None]) -> Callable[[TargetOutput], None]:
    """What to do at the moment a target says `here`."""

    def listen(output: TargetOutput) -> None:
        if "here" in output.text:
            act()

    return listen


# the connect phase and the login: one fleet in which every target has a fault of its own


@pytest.fixture
def handshake(sshd: Sshd, net: Network, tmp_path: Path) -> dict[Way, int]:
    """Bytes each way from the first one to a login that is done."""
    proxy, known = net.proxy(sshd.port), (str(known_hosts(sshd, tmp_path)),)
    made = Rig((target_of(sshd, "web1", proxy=proxy),), tmp_path / "measured", known_hosts=known)
    sizes: dict[Way, int] = {}
    made.journal.on_intent = lambda _: sizes.update({way: proxy.carried(way) for way in Way})
    made.run("true")
    made.close()
    return sizes


def unreachable_target(stack: ExitStack, net: Network, sshd: Sshd, handshake: dict[Way, int], fault: str) -> Target:
    what, _ = UNREACHABLE[fault]
    name = name_of(fault)
    if what in set(End):
        what = Fault(cut_up=handshake[Way.UP] - 200, end=End(what))
    if isinstance(what, Fault):
        return target_of(sshd, name, proxy=net.proxy(sshd.port, then=what))
    if what == "nameless":
        return target_of(sshd, name, host="no-such-host.invalid")
    if fault.startswith("proxy command"):
        return target_of(sshd, name, proxy_command=what)
    port = stack.enter_context(full_port() if what == "full" else refusing_port())
    if what == "jump":
        return target_of(sshd, name, jump=f"{sshd.user}@127.0.0.1:{port}")
    return target_of(sshd, name, host="127.0.0.1", port=port)


def login_targets(sshd: Sshd, folder: Path) -> list[Target]:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / "other")], check=True)
    host, other = (" ".join(f.read_text().split()[:2]) for f in (sshd.folder / "host.pub", folder / "other.pub"))
    files = {"changed": f"[127.*]:* {other}\n", "revoked": f"[127.*]:* {host}\n@revoked * {host}\n", "unknown": ""}
    for name, text in files.items():
        (folder / name).write_text(text)
    changes: dict[str, dict[str, Any]] = {
        "wrong key": {"identity_files": (str(folder / "other"),)},
        "key file missing": {"identity_files": (str(folder / "missing"),)},
        "wrong user": {"user": "no-such-user"},
        **{f"host key {name}": {"known_hosts": str(folder / name)} for name in files},
    }
    return [target_of(sshd, name_of(fault), **changes[fault]) for fault in LOGIN]


def test_every_target_that_cannot_be_reached_says_why_within_the_deadline_and_nothing_is_sent(
    sshd: Sshd, net: Network, handshake: dict[Way, int], rig: Callable[..., Rig], tmp_path: Path
):
    known = str(known_hosts(sshd, tmp_path))
    with ExitStack() as stack:
        targets = [unreachable_target(stack, net, sshd, handshake, fault) for fault in UNREACHABLE]
        targets += login_targets(sshd, tmp_path)
        # the target whose key is unknown must not know the server, so what the others know is in a file of their own
        targets = [target if target.known_hosts else replace(target, known_hosts=known) for target in targets]
        made = rig(*targets, connect_timeout_s=DEADLINE_S, known_hosts=(str(tmp_path / "none"),))
        made.run("true")
    expected = {name_of(fault): ("unreachable", reason) for fault, (_, reason) in UNREACHABLE.items()}
    expected |= {name_of(fault): told for fault, told in LOGIN.items()}
    ended = {name: made.journal.ended(name) for name in expected}
    write_table([Row(name, e.state, e.duration_s, e.reason) for name, e in ended.items()], tmp_path / "faults.txt")
    for name, (state, reason) in expected.items():
        one = ended[name]
        assert (one.state, one.exit_code) == (state, None), one
        assert re.search(reason, one.reason, re.IGNORECASE), one
        assert one.duration_s < DEADLINE_S + ROOM_S, one
        assert (made.runs(name), made.journal.intents(name)) == (0, 0), one


def test_a_refused_login_is_tried_once(sshd: Sshd, net: Network, rig: Callable[..., Rig], tmp_path: Path):
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "other")], check=True)
    proxies = [net.proxy(sshd.port) for _ in range(2)]
    one = target_of(sshd, "wrong-key", proxy=proxies[0], identity_files=(str(tmp_path / "other"),))
    other = target_of(sshd, "changed", proxy=proxies[1], known_hosts=str(tmp_path / "changed"))
    key = " ".join((tmp_path / "other.pub").read_text().split()[:2])
    (tmp_path / "changed").write_text(f"[127.*]:* {key}\n")
    result = rig(one, other).run("true")
    assert [r.state for r in result] == ["auth", "hostkey"]
    assert [proxy.accepted for proxy in proxies] == [1, 1]


def test_what_passes_while_connecting_ends_well(sshd: Sshd, net: Network, rig: Callable[..., Rig]):
    faults: dict[str, tuple[Fault, ...]] = {
        "late-banner": (Fault(delay_s=1.5),),
        "first-three-closed": (DROPPED,) * 3,
        "first-reset": (Fault(at_once=End.RESET),),
        "first-cut-in-kex": (Fault(cut_down=600, end=End.CLOSE),),
        "dripping": (Fault(drip_s=0.0005),),
    }
    proxies = {name: net.proxy(sshd.port, *plan) for name, plan in faults.items()}
    made = rig(*(target_of(sshd, name, proxy=proxy) for name, proxy in proxies.items()), connect_timeout_s=20)
    result = made.run("true")
    assert {r.target: (r.state, r.reason) for r in result} == dict.fromkeys(faults, ("ok", ""))
    assert {name: made.runs(name) for name in faults} == dict.fromkeys(faults, 1)
    assert {name: proxy.accepted for name, proxy in proxies.items()} == {
        "late-banner": 1, "first-three-closed": 4, "first-reset": 2, "first-cut-in-kex": 2, "dripping": 1,
    }  # fmt: skip


def test_a_first_connection_cut_in_the_key_exchange_is_made_again_and_one_cut_in_the_login_is_not(
    sshd: Sshd, net: Network, handshake: dict[Way, int], rig: Callable[..., Rig]
):
    shares = {0: "ok", 0.02: "ok", 0.3: "ok", 0.5: "ok", 0.9: "unreachable", 0.97: "unreachable"}
    plans = [
        (cut_after(way, max(1, int(share * handshake[way])), end), state)
        for way in Way
        for (share, state), end in zip(shares.items(), (End.RESET, End.CLOSE) * 3, strict=True)
    ]
    proxies = [net.proxy(sshd.port, plan) for plan, _ in plans]
    targets = [target_of(sshd, f"cut{number}", proxy=proxy) for number, proxy in enumerate(proxies)]
    made = rig(*targets, connect_timeout_s=20)
    result = made.run("true")
    cases = list(zip(plans, proxies, result, strict=True))
    assert [(plan, one.reason) for (plan, state), _, one in cases if one.state != state] == []
    # who wants to log in was said once: an account is not locked by trying again
    assert [proxy.accepted for _, proxy, _ in cases] == [2 if state == "ok" else 1 for _, state in plans]
    assert [made.runs(one.target) for one in result] == [int(state == "ok") for _, state in plans]


# the command phase: again one fleet, in which every target's command ends in another way

LINGERS = ("reset", "close", "freeze-both", "freeze-up", "freeze-down", "half-up", "half-down")
OVER: dict[str, tuple[str, int | None, str | None]] = {
    **dict.fromkeys(LINGERS, ("lost", None, None)),
    "server-stopped": ("lost", None, None),
    "server-killed": ("lost", None, None),
    "exit-0": ("ok", 0, None),
    "exit-3": ("failed", 3, None),
    "exit-255": ("failed", 255, None),
    "killed": ("failed", None, "KILL"),
    "crashed": ("failed", None, "SEGV"),
    "silent-but-alive": ("ok", 0, None),
}
ENDS = """
case "$OPSBOOK_TARGET" in
server-stopped) echo "here $PPID"; {linger};;
server-killed) kill -KILL $PPID; {linger};;
exit-*) exit "${{OPSBOOK_TARGET#exit-}}";;
killed) kill -KILL $$;;
crashed) kill -SEGV $$;;
silent-but-alive) sleep 4;;
*) {linger};;
esac
"""


class Breaker:
    """Brings about what a target's name says at the moment its command says `here`."""

    def __init__(self, proxies: dict[str, Proxy]) -> None:
        self._proxies = proxies
        self.stopped: list[int] = []

    def __call__(self, output: TargetOutput) -> None:
        if "here" not in output.text:
            return
        if output.target == "server-stopped":
            if not self.stopped:
                self.stopped.append(int(output.text.split()[1]))
                os.kill(self.stopped[0], signal.SIGSTOP)
            return
        proxy, (how, _, way) = self._proxies[output.target], output.target.partition("-")
        if how == "half":
            proxy.half_close(Way(way))
        elif how == "freeze":
            proxy.freeze(*(Way if way == "both" else [Way(way)]))
        else:
            proxy.end(End(how))

    def release(self) -> None:
        for server in self.stopped:
            os.kill(server, signal.SIGCONT)


def test_how_a_command_ended_is_told_apart_and_nothing_is_sent_twice(
    sshd: Sshd, net: Network, rig: Callable[..., Rig], tmp_path: Path
):
    proxies = {name: net.proxy(sshd.port) for name in OVER}
    made = rig(*(target_of(sshd, n, proxy=p) for n, p in proxies.items()), keepalive_s=KEEPALIVE_S)
    made.journal.on_output = breaker = Breaker(proxies)
    try:
        result = made.run(ENDS.format(linger=made.linger().strip()))
    finally:
        breaker.release()
    rows = [Row(one.target, one.state, one.duration_s, one.reason) for one in result]
    write_table(rows, tmp_path / "faults.txt")
    assert {one.target: (one.state, one.exit_code, one.signal) for one in result} == OVER
    for one in result:
        counts = (made.runs(one.target), made.journal.intents(one.target), proxies[one.target].accepted)
        assert counts == (1, 1, 1), one
        assert one.duration_s < 4 * KEEPALIVE_S + ROOM_S, one
        assert ("may still be running" in one.reason) == (one.state == "lost"), one
    assert all(result[name].stdout == "here\n" for name in LINGERS)


def test_a_command_that_says_nothing_for_too_long_is_ended(sshd: Sshd, rig: Callable[..., Rig]):
    targets = [target_of(sshd, name, host=f"127.0.3.{n}") for n, name in enumerate(("silent", "talking"), 1)]
    script = '[ "$OPSBOOK_TARGET" = talking ] || { echo a; sleep 45; }\nfor n in $(seq 6); do echo $n; sleep 0.5; done'
    result = rig(*targets, idle_timeout_s=2.0).run(script)
    silent = result["silent"]
    assert (silent.state, silent.stdout) == ("timed_out", "a\n"), silent
    assert "said nothing" in silent.reason
    assert silent.duration_s < 2 + ROOM_S
    assert (result["talking"].state, result["talking"].exit_code) == ("ok", 0)


def test_a_deadline_that_passes_says_whether_the_command_was_ended(sshd: Sshd, net: Network, rig: Callable[..., Rig]):
    proxies = {name: net.proxy(sshd.port) for name in ("sound", "frozen")}
    made = rig(*(target_of(sshd, n, proxy=p) for n, p in proxies.items()))  # with keepalives that come much later
    made.journal.on_output = here(proxies["frozen"].freeze)
    result = made.run('[ "$OPSBOOK_TARGET" = sound ] && exec sleep 45\n' + made.linger(), timeout=2)
    assert {(one.state, one.exit_code) for one in result} == {("timed_out", None)}
    assert result["sound"].reason == "timed out after 2 s"
    assert "may still be running" in result["frozen"].reason
    assert result.duration_s < 2 + ROOM_S


def test_a_stop_is_not_held_up_by_a_frozen_link(sshd: Sshd, net: Network, rig: Callable[..., Rig]):
    proxy = net.proxy(sshd.port)
    made = rig(target_of(sshd, "web1", proxy=proxy))
    stop = threading.Timer(0.2, lambda: made.session.cancel(True))  # noqa: FBT003  as the runner's channel calls it

    def freeze() -> None:
        proxy.freeze()
        stop.start()

    made.journal.on_output = here(freeze)
    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        made.run(made.linger())
    ended = made.journal.ended("web1")
    assert ended.state == "cancelled", ended
    assert "may still" in ended.reason
    assert time.monotonic() - begun < 5 + ROOM_S


# between the intent and the end, at any byte


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


# a jump host that many share


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


# durable


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


# files


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


# through the command line: record, journal, exit code


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
        process = desk.start("run", "book.ipynb", "--json")
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
