"""Many targets at once: a tenth of them faulty in ten ways and each told right; one bastion; a thousand connections."""

from __future__ import annotations

import gc
import os
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pytest
from conftest import Sshd
from faults import DROPPED, Fault, Network, another_sshd, network, refusing_port
from rig import Rig, Row, known_hosts, target_of, write_table
from support import wait_for

from opsbook.fleet.fleet import Fleet
from opsbook.fleet.result import TargetResult
from opsbook.model.event import TargetOutput
from opsbook.model.target import Target

COMMAND_S = 8.0
KEEPALIVE_S = 1.0
ROOM_S = 15.0
"""What a loaded machine may add."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One way to be faulty, and what has to be told of it."""

    state: str
    exit_code: int | None = None
    signal: str | None = None
    runs: int = 0
    """How often the script began there."""


KINDS = {  # the slowest first, so that they do not come last
    "hanging": Kind(state="timed_out", runs=1),
    "late-banner": Kind(state="unreachable"),
    "frozen": Kind(state="lost", runs=1),
    "dropped-first": Kind(state="ok", exit_code=0, runs=1),
    "reset": Kind(state="lost", runs=1),
    "refused": Kind(state="unreachable"),
    "wrong-key": Kind(state="auth"),
    "changed-key": Kind(state="hostkey"),
    "exit-code": Kind(state="failed", exit_code=3, runs=1),
    "killed": Kind(state="failed", signal="KILL", runs=1),
}
HEALTHY = Kind(state="ok", exit_code=0, runs=1)
SCRIPT = """
case "$OPSBOOK_TARGET" in
exit-code-*) exit 3;;
killed-*) kill -KILL $$;;
hanging-*) sleep 45;;
reset-*|frozen-*) {linger};;
flood-*) seq 1 200000;;
*) echo well;;
esac"""


class Load:
    """A fleet of which a tenth is faulty, each fault as often as any other."""

    def __init__(self, sshd: Sshd, net: Network, folder: Path, count: int) -> None:
        self._sshd, self._net, self._folder = sshd, net, folder
        self._stack = ExitStack()
        self._refusing = self._stack.enter_context(refusing_port())
        self.proxies = {f"{kind}-{n}": self._proxy(kind) for kind in KINDS for n in range(count // 100)}
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / "other")], check=True)
        other = " ".join((folder / "other.pub").read_text().split()[:2])
        (folder / "changed").write_text(f"[127.*]:* {other}\n")
        faulty = [self._faulty(name) for name in self.proxies]
        healthy = [
            target_of(sshd, f"{'flood' if n % 100 == 0 else 'web'}-{n}", host=f"127.1.{n // 250}.{n % 250 + 1}")
            for n in range(count - len(faulty))
        ]
        self.targets = tuple(  # one faulty target after every nine sound ones
            one for n, bad in enumerate(faulty) for one in (*healthy[n * 9 : n * 9 + 9], bad)
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _proxy(self, kind: str) -> Any:
        faults = {"late-banner": (Fault(delay_s=600),) * 99, "dropped-first": (DROPPED,) * 3}
        return self._net.proxy(self._sshd.port, *faults.get(kind, ()))

    def _faulty(self, name: str) -> Target:
        changes: dict[str, Any] = {"proxy": self.proxies[name]}
        if name.startswith("refused"):
            changes = {"host": "127.0.0.1", "port": self._refusing}
        elif name.startswith("wrong-key"):
            changes["identity_files"] = (str(self._folder / "other"),)
        elif name.startswith("changed-key"):
            changes["known_hosts"] = str(self._folder / "changed")
        return target_of(self._sshd, name, **changes)

    def act(self, output: TargetOutput) -> None:
        """Break the link of a target at the moment its command says that it runs."""
        if "here" in output.text and output.target.startswith("reset"):
            self.proxies[output.target].end()
        if "here" in output.text and output.target.startswith("frozen"):
            self.proxies[output.target].freeze()


def kind_of(name: str) -> Kind:
    return KINDS.get(name.rpartition("-")[0], HEALTHY)


def check_load(sshd: Sshd, net: Network, folder: Path, *, count: int, connect_s: float, parallel: int) -> None:
    """Send a changing command to such a fleet, and hold what is told of every target against its fault."""
    known = str(known_hosts(sshd, folder))
    with Load(sshd, net, folder, count) as load:
        rig = Rig(
            load.targets,
            folder / "rig",
            known_hosts=(known,),
            connect_timeout_s=connect_s,
            keepalive_s=KEEPALIVE_S,
            parallel=parallel,
        )
        rig.journal.on_output = load.act
        try:
            result = rig.run(SCRIPT.format(linger=rig.linger().strip()), timeout=COMMAND_S)
        finally:
            rig.close()
    worst: dict[str, TargetResult] = {}
    for one in result:
        kind = one.target.rpartition("-")[0]
        worst[kind] = max(worst.get(kind, one), one, key=lambda r: r.duration_s)
    rows = [Row(kind, one.state, one.duration_s, one.reason) for kind, one in sorted(worst.items())]
    write_table([*rows, Row(f"all {count} targets", "", result.duration_s)], folder / "faults.txt")
    assert len(result) == count
    assert {one.target: one for one in result if told(one, rig) != kind_of(one.target)} == {}
    assert {one.target for one in result if rig.journal.intents(one.target) != kind_of(one.target).runs} == set()
    limit = connect_s + COMMAND_S + ROOM_S
    assert {one.target: one.duration_s for one in result if one.duration_s > limit} == {}
    assert result.duration_s < limit * (1 + count / 100 * 10 / parallel)


def told(one: TargetResult, rig: Rig) -> Kind:
    """What a result says; the signal that a deadline's own end came by does not count."""
    late = one.state == "timed_out"
    return Kind(
        state=one.state,
        exit_code=None if late else one.exit_code,
        signal=None if late else one.signal,
        runs=rig.runs(one.target),
    )


@pytest.fixture
def net() -> Iterator[Network]:
    with network() as made:
        yield made


def test_a_tenth_of_a_hundred_targets_is_faulty_and_every_one_is_told_right(sshd: Sshd, net: Network, tmp_path: Path):
    check_load(sshd, net, tmp_path, count=100, connect_s=8, parallel=32)


@pytest.mark.soak
def test_a_tenth_of_five_hundred_targets_is_faulty_and_every_one_is_told_right(
    sshd: Sshd, net: Network, tmp_path: Path
):
    check_load(sshd, net, tmp_path, count=500, connect_s=15, parallel=64)


# many behind one door: sshd drops who comes while ten others have not logged in yet

DOOR = "MaxStartups 10:30:100"


def check_all_reached(rig: Rig) -> None:
    result = rig.run("true")
    assert {one.target: one.reason for one in result if not one.ok} == {}
    assert sum(rig.runs(target.name) for target in rig.targets) == len(rig.targets)


@pytest.fixture
def rig(sshd: Sshd, tmp_path: Path) -> Iterator[Callable[..., Rig]]:
    known = str(known_hosts(sshd, tmp_path))
    with ExitStack() as stack:

        def make(*targets: Target, **options: Any) -> Rig:
            made = Rig(targets, tmp_path / "rig", **{"known_hosts": (known,), "connect_timeout_s": 60, **options})
            stack.callback(made.close)
            return made

        yield make


def test_a_hundred_targets_behind_one_bastion_are_all_reached(sshd: Sshd, rig: Callable[..., Rig], tmp_path: Path):
    with another_sshd(sshd, tmp_path, DOOR) as port:
        config = tmp_path / "ssh_config"
        config.write_text(
            f"Host bastion\nHostName 127.0.0.9\nPort {port}\nUser {sshd.user}\n"
            f"IdentityFile {sshd.identity}\nUserKnownHostsFile {tmp_path}/known_everywhere\n"
        )
        way = {"port": port, "jump": "bastion", "ssh_config": str(config)}
        check_all_reached(rig(*(target_of(sshd, f"web{n}", host=f"127.0.4.{n}", **way) for n in range(1, 101))))


def test_a_hundred_names_of_one_server_are_all_reached(sshd: Sshd, rig: Callable[..., Rig], tmp_path: Path):
    with another_sshd(sshd, tmp_path, DOOR) as port:
        check_all_reached(rig(*(target_of(sshd, f"web{n}", port=port) for n in range(100))))


@pytest.mark.soak
def test_a_hundred_addresses_of_one_server_are_all_reached(sshd: Sshd, rig: Callable[..., Rig], tmp_path: Path):
    with another_sshd(sshd, tmp_path, DOOR) as port:
        check_all_reached(rig(*(target_of(sshd, f"web{n}", host=f"127.0.4.{n}", port=port) for n in range(1, 101))))


# a thousand healthy ones: what one more target costs


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a cold call on some targets took, and what its connections hold while they are kept."""

    count: int
    seconds: float
    cpu_s: float
    threads: int
    bytes_held: int
    idle_cpu_s: float

    def __str__(self) -> str:
        each = f"{self.seconds / self.count * 1000:.1f} ms, {self.cpu_s / self.count * 1000:.1f} ms CPU"
        held = f"{self.threads} threads, {self.bytes_held / self.count / 1000:.0f} kB each"
        return f"{self.count:>5} targets  {each} each  {held}  idle {self.idle_cpu_s:.2f} s CPU in {IDLE_S} s"


IDLE_S = 3


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def cost_of(sshd: Sshd, folder: Path, count: int) -> Cost:
    targets = (target_of(sshd, f"t{n}", host=f"127.2.{n // 250}.{n % 250 + 1}") for n in range(count))
    known = (str(known_hosts(sshd, folder)),)
    gc.collect()
    held, threads = resident(), threading.active_count()
    made = Rig(tuple(targets), folder / f"rig{count}", known_hosts=known, connect_timeout_s=60)
    try:
        begun, busy = time.monotonic(), time.process_time()
        assert all(one.ok for one in Fleet(made.session, made.targets).run("true", read_only=True, check=False))
        seconds, cpu_s = time.monotonic() - begun, time.process_time() - busy
        wait_for(lambda: threading.active_count() <= threads + count + 4, seconds=30)
        idle = time.process_time()
        time.sleep(IDLE_S)
        return Cost(
            count=count,
            seconds=seconds,
            cpu_s=cpu_s,
            threads=threading.active_count() - threads,
            bytes_held=resident() - held,
            idle_cpu_s=time.process_time() - idle,
        )
    finally:
        begun = time.monotonic()
        made.close()
        assert time.monotonic() - begun < 10
        wait_for(lambda: threading.active_count() <= threads + 2, seconds=30)


@pytest.mark.soak
def test_a_thousand_targets_cost_a_hundred_times_what_ten_do(sshd: Sshd, tmp_path: Path):
    cost_of(sshd, tmp_path, 4)  # paramiko's import, the key, the host keys
    few = [cost_of(sshd, tmp_path, 10) for _ in range(5)]
    some, many = cost_of(sshd, tmp_path, 100), cost_of(sshd, tmp_path, 1000)
    print("\n".join(map(str, ("", *few, some, many))))  # noqa: T201  the figures, shown with -s
    assert many.threads <= 1000 + 4
    assert many.bytes_held / 1000 < 200_000
    assert many.idle_cpu_s < IDLE_S * 0.1
    ten = statistics.median(cost.cpu_s / 10 for cost in few)
    assert many.cpu_s / 1000 < 2 * ten
    assert some.cpu_s / 100 < 2 * ten
    assert many.seconds / 1000 < 2 * statistics.median(cost.seconds / 10 for cost in few)


def test_no_more_than_eight_shake_hands_with_one_server_however_late_it_greets(sshd: Sshd, tmp_path: Path):
    with network() as net:
        proxy = net.proxy(sshd.port, then=Fault(delay_s=3))
        targets = tuple(target_of(sshd, f"t{number}", proxy=proxy) for number in range(20))
        files = (str(known_hosts(sshd, tmp_path)),)
        made = Rig(targets, tmp_path / "marks", known_hosts=files, connect_timeout_s=30)
        try:
            with ThreadPoolExecutor(1) as thread:
                call = thread.submit(made.run, read_only=True)
                wait_for(lambda: proxy.accepted >= 8)
                time.sleep(0.7)
                at_once = proxy.accepted
                assert all(one.ok for one in call.result(60))
        finally:
            made.close()
    assert (at_once, proxy.accepted) == (8, 20)
