"""A fleet call in this process, watched: what its runner was told, what reached the targets, and a table of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from conftest import Sshd
from faults import Proxy

from opsbook.fleet.fleet import Fleet
from opsbook.fleet.result import FleetResult
from opsbook.fleet.session import Session
from opsbook.model.event import Event, Intent, TargetEnded, TargetOutput
from opsbook.model.message import Recall, Recalled, RunOptions
from opsbook.model.target import Inventory, Target


def known_hosts(sshd: Sshd, folder: Path) -> Path:
    """A file that knows the server's key behind every loopback address and port: proxies have ports of their own."""
    file = folder / "known_everywhere"
    key = " ".join((sshd.folder / "host.pub").read_text().split()[:2])
    file.write_text(f"[127.*]:* {key}\n")
    return file


def target_of(sshd: Sshd, name: str, **changes: Any) -> Target:
    """A target behind the server; `proxy=` puts a proxy before it."""
    proxy: Proxy | None = changes.pop("proxy", None)
    place = {"host": proxy.host, "port": proxy.port} if proxy else {"host": "127.0.0.2", "port": sshd.port}
    return Target(name=name, **{"user": sshd.user, "identity_files": (str(sshd.identity),), **place, **changes})


@dataclass
class Journal:
    """A channel that keeps what it is told, and lets a test act at that very moment."""

    events: list[Event] = field(default_factory=list)
    on_intent: Callable[[Intent], None] = lambda _: None
    on_output: Callable[[TargetOutput], None] = lambda _: None
    on_settle: Callable[[], None] = lambda: None
    on_recall: Callable[[Recall], Recalled] = lambda recall: Recalled(ticket=recall.ticket)

    def report(self, event: Event) -> None:
        self.events.append(event)
        if isinstance(event, TargetOutput):
            self.on_output(event)

    def intend(self, intent: Intent) -> None:
        self.events.append(intent)
        self.on_intent(intent)

    def lock(self, cell_id: str | None, targets: dict[str, str], *, wait_s: float) -> None:
        """Nobody else is here."""

    def recall(self, recall: Recall) -> Recalled:
        return self.on_recall(recall)

    def reveal(self, reference: str, *, used_for: str, cell_id: str | None) -> str:
        return reference.removeprefix("test:")

    def close_cell(self, cell_id: str | None) -> None:
        """Nothing is behind."""

    def settle(self) -> None:
        self.on_settle()

    def on_cancel(self, listener: Callable[[bool], bool]) -> None:
        """Nobody cancels from here."""

    def intents(self, name: str) -> int:
        return sum(isinstance(event, Intent) and event.target == name for event in self.events)

    def ended(self, name: str) -> TargetEnded:
        (only,) = (event for event in self.events if isinstance(event, TargetEnded) and event.target == name)
        return only


class Rig:
    """A session in this process, what it told its runner, and where its targets count what reached them."""

    def __init__(self, targets: tuple[Target, ...], folder: Path, **options: Any) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.targets = targets
        self.journal = Journal()
        settings = {"connect_timeout_s": 10, "command_timeout_s": 30, "ssh_config": "none", **options}
        self.session = Session(
            inventory=Inventory(targets=targets), selected=None, options=RunOptions(**settings), channel=self.journal
        )

    def run(self, script: str = "", **how: Any) -> FleetResult:
        """Count, then run a script, on all targets; judge nothing."""
        counting = f'echo run >> {self.folder}/"$OPSBOOK_TARGET"\n'
        return Fleet(self.session, self.targets).run(counting + script, **{"check": False, **how})

    def runs(self, name: str) -> int:
        """How often a script of ours began on a target."""
        file = self.folder / name
        return len(file.read_text().splitlines()) if file.exists() else 0

    def release(self) -> None:
        """End the scripts that linger (see `linger`)."""
        (self.folder / "released").touch()

    def linger(self, seconds: int = 60) -> str:
        """A line that says `here`, and then waits for `release`: nothing of it outlives its test for long."""
        wait = f"[ -e {self.folder}/released ] || sleep 0.2"
        return f"echo here; for n in $(seq {seconds * 5}); do {wait}; done\n"

    def close(self) -> None:
        self.release()
        self.session.pool.close()


@dataclass(frozen=True)
class Row:
    """One line of the fault table."""

    fault: str
    state: str
    seconds: float
    reason: str = ""


def write_table(rows: list[Row], file: Path) -> None:
    """Write the fault table for people, and print it (pytest shows it with -s)."""
    wide = max(len(row.fault) for row in rows)
    lines = [f"{row.fault:<{wide}}  {row.state:<11}  {row.seconds:6.2f} s  {row.reason}".rstrip() for row in rows]
    file.write_text("\n".join(lines) + "\n")
    file.with_suffix(".json").write_text(json.dumps([vars(row) for row in rows]))
    print("\n" + "\n".join(lines))  # noqa: T201  what the table is for
