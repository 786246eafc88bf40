"""What all fleet calls of one notebook share: the inventory, the connections, the channel, and who is quarantined.

There is one session in a kernel, made when it is first needed: from the channel the runner handed down, or, in plain
Jupyter, from `opsbook.toml` and `OPSBOOK_*`. With a channel at the start there is never a way back to working without.
"""

from __future__ import annotations

import atexit
import itertools
import os
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

from msgspec.structs import replace

from opsbook.config import load_settings
from opsbook.errors import InventoryError
from opsbook.fleet.channel import ChannelClient
from opsbook.fleet.live import LiveOutput
from opsbook.fleet.operation import shell_value
from opsbook.fleet.pool import Pool
from opsbook.fleet.reveal import Revealer
from opsbook.fleet.standby import StandbyKeeper
from opsbook.inventory.pattern import select
from opsbook.locks.folder import LockFolder, lock_folder
from opsbook.model.event import Event, Intent, TargetOutput
from opsbook.model.message import CHANNEL_VARIABLE, RunOptions
from opsbook.model.protocol import Channel
from opsbook.model.target import Inventory, Target


class InFlight(Protocol):
    """A fan-out that is under way."""

    @property
    def changing(self) -> bool:
        """Whether it may change its targets."""

    def cancel(self, *, hard: bool) -> None:
        """Start nothing new; with `hard`, end what runs."""


class Session:
    """The shared state of a notebook's fleet calls. Safe to use from the author's own threads."""

    def __init__(
        self,
        *,
        inventory: Inventory | None,
        selected: tuple[str, ...] | None,
        options: RunOptions,
        channel: Channel | None,
        variables: Callable[[], dict[str, str]] = dict,
        parameters: frozenset[str] = frozenset(),
        locks: LockFolder | None = None,
        replaying: bool = False,
        environment: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self._inventory = inventory
        self._selected = None if selected is None else frozenset(selected)
        self.options = options = replace(options, withheld=tuple(environment))
        self.channel = channel
        self.secrets = Revealer(channel, environment, lambda: self.cell_id)
        self.pool = Pool(options, self.secrets.login_password, self.report)
        self.variables = variables
        """Gives the script variables: the parameters, as they are now where the extension is loaded."""
        self.parameters = parameters
        """The names of the runbook's parameters, as far as the runner told them."""
        self.cell_id: str | None = None
        self.attempt = 1
        """How often the cell was begun in this run."""
        self.replaying = replaying
        """Whether this run resumes another one."""
        self.show: Callable[[object], None] = _nowhere
        """Displays a value in the notebook."""
        self.live = LiveOutput()
        """Shows a call while it runs, where no runner does."""
        self.quarantined: set[str] = set()
        self._quarantined_before: frozenset[str] = frozenset()
        """Who was when the cell was first begun."""
        self.stopping = False
        self._standby = StandbyKeeper(lambda: self.pool.connections, lambda: self.stopping)
        self._numbers = itertools.count(1)
        self._lock = threading.Condition()
        self._in_flight: set[InFlight] = set()
        self._locks = locks
        """Where runs on this machine lock their targets; looked at where there is no runner."""
        self._locked: set[str] = set()
        if channel is not None:
            channel.on_cancel(self.cancel)
        atexit.register(self.pool.close)

    def select(self, pattern: str | None) -> tuple[Target, ...]:
        """Return the targets a pattern names, within what the run was given (SEMANTICS 4).

        Raises:
            InventoryError: there is no inventory, or the pattern names nothing in it.
        """
        if self._inventory is None:
            raise InventoryError("this runbook asks for targets and there is no inventory", "give one with -i")
        named = select(self._inventory, "all" if pattern is None else pattern)
        return tuple(target for target in named if self._selected is None or target.name in self._selected)

    def begin_cell(self, cell_id: str | None, attempt: int) -> None:
        """A cell begins. Another attempt finds the targets as the first one did: what failed in it is to be mended."""
        self.cell_id, self.attempt, self.stopping = cell_id, attempt, False
        if attempt == 1:
            self._quarantined_before = frozenset(self.quarantined)
        else:
            self.quarantined = set(self._quarantined_before)

    def next_call(self) -> int:
        """Return the number of the next fleet call, from 1."""
        return next(self._numbers)

    def report(self, event: Event) -> None:
        """Hand an event to the runner, if there is one; else show what a target says."""
        if isinstance(event, TargetOutput):
            event = _carried(event)
        if self.channel is not None:
            self.channel.report(event)
        elif isinstance(event, TargetOutput):
            self.live.said(event.target, event.text)

    def intend(self, intent: Intent) -> None:
        """Return when a changing command may leave."""
        if self.channel is not None:
            self.channel.intend(intent)

    def lock(self, targets: Iterable[Target]) -> None:
        """Return when targets are this run's alone, to its end (SEMANTICS 23). Without a runner there is no run.

        Raises:
            BusyError: another run holds one of them.
            RefusedError: a run that is over has left one of them in the middle.
            ChannelError: the runner is gone.
        """
        if self.options.checking:
            return
        wanted = {target.name: self.pool.address(target) for target in targets if target.name not in self._locked}
        if self.channel is None:
            self._warn_of_holders(wanted)
        elif wanted:
            self.channel.lock(self.cell_id, wanted, wait_s=self.options.lock_wait_s)
            self._locked.update(wanted)

    def _warn_of_holders(self, addresses: Mapping[str, str]) -> None:
        """Say which of these targets a run is changing; whoever works by hand decides."""
        for name, address in addresses.items():
            holder = self._locks.look(address) if self._locks is not None else None
            if holder is not None and self._locks is not None and self._locks.is_held(address):
                print(f"warning: {name} is held by {holder.sentence}", file=sys.stderr)  # noqa: T201  a notebook's way

    def settle(self) -> None:
        """Return when all that was reported is on disk, if there is a runner."""
        if self.channel is not None:
            self.channel.settle()

    def enter(self, call: InFlight) -> None:
        """A fan-out begins."""
        with self._lock:
            self._in_flight.add(call)
        self._standby.begin()

    def leave(self, call: InFlight) -> None:
        """A fan-out is over."""
        with self._lock:
            self._in_flight.discard(call)
            self._lock.notify_all()
        self._standby.end()

    def await_calls(self) -> None:
        """Return when no changing call is in flight: one of the author's own threads belongs to the cell it is in."""
        with self._lock:
            self._lock.wait_for(lambda: not any(call.changing for call in self._in_flight))

    def cancel(self, hard: bool) -> bool:  # noqa: FBT001  the channel's listener
        """Stop: start nothing new; with `hard` end what runs. Whether there was anything to end."""
        self.stopping = True
        with self._lock:
            calls = list(self._in_flight)
        for call in calls:
            call.cancel(hard=hard)
        if hard:
            self.pool.give_up()  # after the calls: those who connect are cancelled by then, not unreachable
        return bool(calls)


def _carried(said: TargetOutput) -> TargetOutput:
    """Return output that JSON can carry: text without surrogate escapes, and the bytes where it has any."""
    try:
        if said.text.isascii() or said.text.encode():
            return said
    except UnicodeEncodeError:
        pass
    raw = said.text.encode("utf-8", "surrogateescape")
    return replace(said, text=raw.decode("utf-8", "replace"), raw=raw)


def _nowhere(_: object) -> None:
    """Show nothing: there is no notebook."""


def current() -> Session:
    """Return this process's session, made at the first call; another thread that calls meanwhile waits for it.

    Raises:
        OpsbookError: the runner does not answer, or the settings or the inventory cannot be read.
    """
    with _MAKING:
        return _the_only_one()


_MAKING = threading.Lock()


@lru_cache(maxsize=1)
def _the_only_one() -> Session:
    descriptor = os.environ.get(CHANNEL_VARIABLE)
    if descriptor is None:
        return _from_settings()
    # the next call after a handshake that failed has to fail too, and the number may be another file's by then
    os.environ[CHANNEL_VARIABLE] = "-1"
    session = _from_runner(ChannelClient.on_descriptor(int(descriptor)))
    del os.environ[CHANNEL_VARIABLE]
    return session


def has_session() -> bool:
    """Whether this process has a session already, or a runner that waits for it to make one."""
    return CHANNEL_VARIABLE in os.environ or _the_only_one.cache_info().currsize > 0


def _from_runner(channel: ChannelClient) -> Session:
    welcome = channel.welcome
    plain = {name: value for name, value in welcome.parameters.items() if name not in welcome.secrets}
    return Session(
        inventory=welcome.inventory,
        selected=welcome.selected if welcome.limited else None,
        options=welcome.options,
        channel=channel,
        parameters=frozenset(plain),
        replaying=welcome.replaying,
        environment=welcome.environment,
        variables=lambda: {name: shell_value(value) for name, value in plain.items()},
    )


def _from_settings() -> Session:
    from opsbook.inventory.load import load  # noqa: PLC0415  under a runner the inventory comes over the channel

    settings = load_settings()
    sources = [Path(source) for source in settings.inventory]
    trusted = [Path(script) for script in settings.trusted_scripts]
    inventory = load(sources, trusted=trusted) if sources else None
    options, locks = RunOptions.from_settings(settings), lock_folder(settings.locks.path)
    os.environ.update(settings.env.set_)
    return Session(
        inventory=inventory,
        selected=None,
        options=options,
        channel=None,
        locks=locks,
        environment=settings.env.references,
    )
