"""One connection to one host: reached, its host key checked, logged in, all under one deadline.

Every way this can fail becomes a `ConnectError` whose state is one of unreachable, auth and hostkey: nothing was sent
to the target then, and no authentication is tried before the host key was accepted. What may pass is tried again, with
pauses, inside the same deadline. All that is under way can be given up at once; nobody logs in any more then.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import paramiko

from opsbook.errors import ConnectError
from opsbook.model.target import TargetState
from opsbook.ssh.agent import Agent
from opsbook.ssh.algorithms import restrict
from opsbook.ssh.fault import FEW, FaultError, ended, of_handshake, of_login, of_reaching
from opsbook.ssh.hostkeys import HostKeyPolicy, KnownHosts, fingerprint
from opsbook.ssh.keepalive import Watch, silence_s
from opsbook.ssh.login import Login, Outcomes
from opsbook.ssh.reach import reach, time_left
from opsbook.ssh.route import Route
from opsbook.ssh.standby import Standby
from opsbook.ssh.transport import FleetTransport, Wire

CHANNELS = 8
"""Commands on one connection at a time: sshd allows ten sessions."""
ENDING_S, ENDING_PAUSE_S = 5.0, 0.1
"""Seconds a session that has ended here may still be one at the server, and between two looks at it."""
AT_ONE_ENDPOINT = 8
"""Handshakes under way at one endpoint at a time: sshd drops more than ten by default."""
BACK_OFF_S, LONGEST_BACK_OFF_S = 0.1, 2.0
GIVEN_UP = "it was given up while connecting; nothing was sent"


class Slots:
    """How many commands may be under way on one connection; fewer once the server has refused one more."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._taken = 0
        self._refused = 0
        """How many of those that will be given back were of no use: nothing was opened with them."""
        self._ended_at = float("-inf")
        self._changed = threading.Condition()

    def take(self, timeout_s: float) -> bool:
        """Wait for a free slot and take it; whether one came free in time."""
        with self._changed:
            free = self._changed.wait_for(lambda: self._taken < self._most, timeout_s)
            self._taken += free
            return free

    def give_back(self) -> None:
        """Free a slot."""
        with self._changed:
            self._taken -= 1
            if self._refused:
                self._refused -= 1
            else:
                self._ended_at = time.monotonic()
            self._changed.notify()

    def shrink(self) -> bool:
        """Allow no more than are taken besides the caller's, which was refused; whether any may come free.

        What has just ended here may still be under way at the server, which is busy: that is waited for a little.
        """
        with self._changed:
            others = self._taken - 1
            self._most = max(1, min(self._most, others))
            self._refused += 1
            ending = time.monotonic() < self._ended_at + ENDING_S
        if ending and not others:
            time.sleep(ENDING_PAUSE_S)
        return others > 0 or ending


class Connection:
    """A logged-in connection, unless it was asked for without. Commands open their own channels on it."""

    def __init__(self, transport: FleetTransport, sock: Wire, *, trusted: bool, fingerprint: str) -> None:
        self.transport = transport
        self.slots = Slots(CHANNELS)
        self.standby = Standby()
        self.trusted = trusted
        """Whether the host key was known before this run, and was checked: only then may a password be said."""
        self.fingerprint = fingerprint
        """The host key's: `SHA256:…`."""
        self._sock = sock

    @property
    def alive(self) -> bool:
        """Whether the connection still stands, as far as this side knows."""
        return self.transport.is_active()

    @property
    def received(self) -> int:
        """A number that grows with whatever comes."""
        return self._sock.received

    def close(self) -> None:
        """End the connection at once."""
        self._sock.close()  # first: the reader thread would else wait for its next look at the connection
        self.transport.close()


@dataclass(frozen=True, kw_only=True)
class _Terms:
    """What one attempt goes by."""

    deadline: float
    within_s: float
    """The seconds all attempts have together, for people."""
    log_in: bool
    round: int
    """How often all that was under way had been given up when it began."""


class Dialer:
    """Makes connections, and holds what they share: gates, agents, host keys, the watch. Safe to share."""

    def __init__(self, *, policy: HostKeyPolicy, keepalive_s: float, reveal: Callable[[str], str]) -> None:
        self._policy = policy
        self._keepalive_s = keepalive_s
        self._reveal = reveal
        self._lock = threading.Lock()
        self._gates: dict[str, threading.BoundedSemaphore] = {}
        self._agents: dict[str, Agent] = {}
        self._outcomes: Outcomes = {}
        self._known: dict[tuple[str, ...], KnownHosts] = {}
        self._first_seen: set[tuple[str, str]] = set()
        self._watch = Watch(keepalive_s)
        self._given_up = threading.Condition()
        self._round = 0
        self._wires: set[Wire] = set()
        """What is being shaken hands over."""

    def dial(
        self, route: Route, *, timeout_s: float, via: Callable[[], Connection] | None = None, log_in: bool = True
    ) -> Connection:
        """Connect and log in. `via` gives a live connection to the jump host, where there is one.

        Without `log_in` it ends with the host key: whoever asks for that means to record it, whatever ssh_config says.
        `timeout_s` counts from the first attempt on: waiting while others shake hands is not the host's fault.

        Raises:
            ConnectError: with the target state it comes to.
        """
        seconds = min(timeout_s, route.connect_timeout_s or timeout_s)
        with self._lock:
            gate = self._gates.setdefault(route.endpoint, threading.BoundedSemaphore(AT_ONE_ENDPOINT))
        deadline, attempt, begun = float("inf"), 0, self._round
        told: ConnectError | None = None
        while True:
            hop = None if via is None else via()
            attempt += 1
            with gate:
                deadline = min(deadline, time.monotonic() + seconds)
                terms = _Terms(deadline=deadline, within_s=seconds, log_in=log_in, round=begun)
                try:
                    self._check(begun)
                    made = self._attempt(route, hop, terms)
                except FaultError as fault:
                    now = time.monotonic()
                    if now < deadline or told is None:
                        told = fault.error  # an attempt that had no time left has nothing to say
                    pause = pause_after(attempt)
                    if attempt >= fault.attempts or now + pause >= deadline:
                        raise _told(told, attempt) from fault
                else:
                    self._watch.add(made)
                    return made
            with self._given_up:
                self._given_up.wait_for(lambda: self._round != begun, pause)
            self._check(begun)

    @property
    def given_up(self) -> int:
        """How often all that was under way was given up."""
        return self._round

    def give_up(self) -> list[Wire]:
        """Let nobody who is connecting now log in any more; return what has to be closed for them to notice at once."""
        with self._given_up:
            self._round += 1
            wires, self._wires = list(self._wires), set()
            self._given_up.notify_all()
        return wires

    def _check(self, begun: int) -> None:
        if self._round != begun:
            raise ConnectError(GIVEN_UP, TargetState.UNREACHABLE)

    @contextmanager
    def _under_way(self, wire: Wire, begun: int) -> Iterator[None]:
        """Shake hands over a wire, unless that is given up: then all that fails, fails for this."""
        try:
            with self._given_up:
                self._check(begun)
                self._wires.add(wire)
            yield
            self._check(begun)
        except Exception:
            self._check(begun)  # a wire that was closed breaks in any way
            raise
        finally:
            with self._given_up:
                self._wires.discard(wire)

    def close(self) -> None:
        """Look after connections no more, and hang up the agents."""
        self._watch.clear()
        with self._lock:
            agents, self._agents = list(self._agents.values()), {}
        for agent in agents:
            agent.close()

    def _attempt(self, route: Route, via: Connection | None, terms: _Terms) -> Connection:
        """Try once."""
        hop = None if via is None else via.transport
        try:
            wire = reach(route, hop, terms.deadline, silence_s=silence_s(self._keepalive_s))
        except (paramiko.SSHException, EOFError, OSError) as error:
            fault = of_reaching(error, route.address, within_s=terms.within_s)
            if hop is not None and not hop.is_active():
                fault.attempts = FEW  # over another connection to the jump host
            raise fault from error
        try:
            with self._under_way(wire, terms.round):
                return self._greet(route, wire, terms)
        except BaseException:
            wire.close()
            raise

    def _greet(self, route: Route, wire: Wire, terms: _Terms) -> Connection:
        """Exchange keys, check the host's, and log in."""
        known = self._known_hosts(route)
        transport = FleetTransport(wire, keepalive_s=self._keepalive_s)
        try:
            restrict(transport, route.algorithms)
        except ConnectError as error:
            raise FaultError(error.message) from error
        _prefer_known_kinds(transport, known.kinds(route.host, route.port, alias=route.key_name))
        try:
            _handshake(transport, terms.deadline)
            key = transport.get_remote_server_key()
        except (paramiko.SSHException, EOFError, OSError) as error:
            raise of_handshake(error, route.address, wire, within_s=terms.within_s) from error
        try:
            policy = HostKeyPolicy.STRICT if route.strict and terms.log_in else self._policy
            name, left = route.key_name, terms.deadline - time.monotonic()
            shown = key.get_name(), key.asbytes()
            trusted = known.check(route.host, route.port, *shown, policy, alias=name, within_s=left)
            if terms.log_in:
                agent, outcomes = self._agent(route), self._outcomes
                login = Login(transport, route, agent=agent, reveal=self._reveal, trusted=trusted, outcomes=outcomes)
                login.run(terms.deadline)
        except ConnectError as error:
            raise FaultError(error.message, state=error.state) from error
        except (paramiko.SSHException, EOFError, OSError) as error:
            raise of_login(error, route.address, within_s=terms.within_s) from error
        return Connection(transport, wire, trusted=trusted, fingerprint=fingerprint(key.asbytes()))

    def _agent(self, route: Route) -> Agent | None:
        if route.agent is None:
            return None
        with self._lock:
            return self._agents.setdefault(route.agent, Agent(route.agent))

    def _known_hosts(self, route: Route) -> KnownHosts:
        own, system = route.known_hosts, route.system_known_hosts
        files = (*(own or ("none",)), *system)
        with self._lock:
            if files not in self._known:
                self._known[files] = KnownHosts(map(Path, own), map(Path, system), first_seen=self._first_seen)
            return self._known[files]


def pause_after(attempt: int) -> float:
    """Return the seconds to wait after so many attempts: longer each time, and for nobody the same."""
    longest: float = min(LONGEST_BACK_OFF_S, BACK_OFF_S * 2 ** min(attempt, 8))
    return longest * random.uniform(0.5, 1)  # noqa: S311  no secret


def _told(error: ConnectError, attempts: int) -> ConnectError:
    """Return an error that says how often it was tried."""
    return ConnectError(f"{error}, {attempts} times", error.state) if attempts > 1 else error


def _prefer_known_kinds(transport: paramiko.Transport, kinds: Sequence[str]) -> None:
    """Ask for the host key types that are known, so that a known host is not taken for a changed one."""
    options = transport.get_security_options()
    rsa = ("rsa-sha2-512", "rsa-sha2-256") if "ssh-rsa" in kinds else ()
    wanted = [kind for kind in options.key_types if kind in kinds or kind in rsa]
    options.key_types = (*wanted, *(kind for kind in options.key_types if kind not in wanted))


def _handshake(transport: paramiko.Transport, deadline: float) -> None:
    done = threading.Event()
    transport.start_client(event=done)
    if not done.wait(time_left(deadline)):
        raise TimeoutError
    if not transport.is_active():
        raise ended(transport)
