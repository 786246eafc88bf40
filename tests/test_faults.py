"""Every fault of the link, the login and the command, made on purpose: which state, why, how soon, how often sent."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from conftest import Sshd
from faults import (
    DROPPED,
    GARBAGE,
    KEEPALIVE_S,
    ROOM_S,
    End,
    Fault,
    Network,
    Proxy,
    Way,
    cut_after,
    full_port,
    here,
    refusing_port,
)
from msgspec.structs import replace
from rig import Rig, Row, known_hosts, target_of, write_table

from opsbook.model.event import TargetOutput
from opsbook.model.target import Target

pytest_plugins = ["links"]

DEADLINE_S = 3.0
"""What the connect phase may take where it cannot succeed."""

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
