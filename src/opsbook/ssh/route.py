"""The way to one host: what the inventory and ssh_config together say of how to reach it, as one value.

The inventory's word wins, as it does when it is handed to ssh as options. Two equal routes are the same way, so that a
jump host's connection is shared by all who go through it. Opens nothing.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from threading import Lock

import msgspec
from msgspec import Struct

from opsbook.errors import ConnectError
from opsbook.model.message import RunOptions
from opsbook.model.target import Target, TargetState
from opsbook.ssh.algorithms import LISTS
from opsbook.ssh.config import (
    Options,
    SshConfig,
    expand,
    expand_command,
    expand_path,
    local_tokens,
    local_user,
)
from opsbook.ssh.keywords import port_number, seconds

LONGEST_CHAIN = 8
PORT = 22
KNOWN_HOSTS = ("~/.ssh/known_hosts", "~/.ssh/known_hosts2")
SYSTEM_KNOWN_HOSTS = ("/etc/ssh/ssh_known_hosts", "/etc/ssh/ssh_known_hosts2")
_JUMP = re.compile(r"(?:ssh://)?(?:(?P<user>[^@]+)@)?(?:\[(?P<six>[^\]]+)\]|(?P<host>[^:\[\]]+))(?::(?P<port>\d+))?/?")


class Route(Struct, frozen=True, kw_only=True):
    """How to reach and log in to one host."""

    host: str
    port: int = PORT
    user: str
    key_name: str | None = None
    """What the host is called in known_hosts, where that is not its name and port (HostKeyAlias)."""
    known_hosts: tuple[str, ...] = ()
    """known_hosts files; a new key is written to the first."""
    system_known_hosts: tuple[str, ...] = ()
    strict: bool = False
    """Whether ssh_config asks for known host keys alone."""
    identity_files: tuple[str, ...] = ()
    """The keys to log in with, those named first first."""
    certificate_files: tuple[str, ...] = ()
    identities_only: bool = False
    agent: str | None = None
    """The agent's socket; None for no agent."""
    methods: frozenset[str] = frozenset({"publickey", "password", "keyboard-interactive"})
    """The ways to log in that may be tried."""
    password: str | None = None
    """The reference of the password to log in with."""
    algorithms: tuple[tuple[str, str], ...] = ()
    """What ssh_config says of `Ciphers` and the like: option and value."""
    connect_timeout_s: float | None = None
    bind_address: str | None = None
    family: str = "any"
    """`inet`, `inet6` or `any`."""
    via: Route | None = None
    """The jump host this one is behind."""
    proxy_command: str | None = None
    withheld: tuple[str, ...] = ()
    """Variables the proxy command does not have."""

    @property
    def address(self) -> str:
        """`host:port`."""
        return f"{self.host}:{self.port}"

    @property
    def endpoint(self) -> str:
        """Whose sshd counts the handshakes: the host's own, where it is reached from."""
        behind = self.via.endpoint if self.via is not None else self.proxy_command
        return f"{self.address} behind {behind}" if behind else self.address


class Atlas:
    """Makes routes. Every ssh_config file is read once; safe to use from several threads."""

    def __init__(self, options: RunOptions) -> None:
        self._options = options
        self._lock = Lock()
        self._read: dict[str | None, SshConfig | ConnectError] = {}

    def route(self, target: Target) -> Route:
        """Return the way to a target.

        Raises:
            ConnectError: what ssh_config says of it cannot be understood or honoured.
        """
        config = self._config_of(target)
        given = {"port": str(target.port)} if target.port is not None else {}
        if target.user is not None:
            given["user"] = target.user
        return self._route(target.host, given, config, target=target, chain=())

    def _config_of(self, target: Target) -> SshConfig:
        """Return what holds for a target: the file the inventory names for it, else the run's."""
        if target.ssh_config is None:
            return self._config(self._options.ssh_config)
        try:
            return self._config(target.ssh_config)
        except ConnectError as error:
            raise _unusable(f"the ssh_config file that the inventory names for it: {error}") from error

    def _config(self, file: str | None) -> SshConfig:
        """Return a file's contents, or the user's and the system's; what was wrong once stays wrong."""
        with self._lock:
            if file not in self._read:
                try:
                    self._read[file] = SshConfig.of_user() if file is None else SshConfig.of_file(file)
                except ConnectError as error:
                    self._read[file] = error
            known = self._read[file]
        if isinstance(known, ConnectError):
            raise ConnectError(known.message, known.state)
        return known

    def _route(
        self, host: str, given: dict[str, str], config: SshConfig, *, target: Target | None, chain: tuple[str, ...]
    ) -> Route:
        said = config.look_up(host, given, withheld=self._options.withheld)
        name = expand(_first(said, "hostname") or host, {"h": host})
        user, port = _first(said, "user") or local_user(), _port(_first(said, "port"))
        tokens = {"h": name, "n": host, "p": str(port), "r": user, **local_tokens()}
        own = None if target is None else target.known_hosts
        via, command = self._way(said, tokens, config, target=target, chain=chain)
        alias = _first(said, "hostkeyalias")
        return Route(
            host=name,
            port=port,
            user=user,
            key_name=alias,
            known_hosts=self._known_hosts(own, said, {**tokens, "k": alias or host}),
            system_known_hosts=(
                _paths(said, "globalknownhostsfile", tokens) if "globalknownhostsfile" in said else SYSTEM_KNOWN_HOSTS
            ),
            strict=_first(said, "stricthostkeychecking") in {"yes", "true"},
            identity_files=(*(target.identity_files if target else ()), *_paths(said, "identityfile", tokens)),
            certificate_files=_paths(said, "certificatefile", tokens),
            identities_only=_first(said, "identitiesonly") in {"yes", "true"},
            agent=_agent(_first(said, "identityagent"), tokens),
            methods=_methods(said),
            # a jump host gets none: the password is the targets', and a machine on the way would learn it
            password=None if target is None else target.password or self._options.password,
            algorithms=tuple((name, said[name][0]) for name in LISTS if name in said),
            connect_timeout_s=seconds(_first(said, "connecttimeout") or "none"),
            bind_address=_first(said, "bindaddress"),
            family=_first(said, "addressfamily") or "any",
            via=via,
            proxy_command=command,
            withheld=self._options.withheld,
        )

    def _known_hosts(self, own: str | None, said: Options, tokens: dict[str, str]) -> tuple[str, ...]:
        """Return whose known_hosts count: the target's, else the run's, else ssh_config's, else the usual ones."""
        given = (own,) if own else self._options.known_hosts
        if given:
            return tuple(str(Path(file).expanduser()) for file in given)
        if "userknownhostsfile" in said:
            return _paths(said, "userknownhostsfile", tokens)
        return tuple(str(Path(file).expanduser()) for file in KNOWN_HOSTS)

    def _way(
        self,
        said: Options,
        tokens: dict[str, str],
        config: SshConfig,
        *,
        target: Target | None,
        chain: tuple[str, ...],
    ) -> tuple[Route | None, str | None]:
        """Return the jump host and the proxy command on the way, one of them at most."""
        jump, command = (target.jump, target.proxy_command) if target is not None else (None, None)
        if jump is None and command is None:
            jump, command = _first(said, "proxyjump"), _first(said, "proxycommand")
        if command is not None and command.lower() != "none":
            return None, expand_command(command, {key: tokens[key] for key in "hnpr"})
        if jump is None or jump.lower() == "none":
            return None, None
        chain = (*chain, f"{tokens['r']}@{tokens['h']}:{tokens['p']}")
        via: Route | None = None
        for hop in expand(jump, {key: tokens[key] for key in "hnpr"}).split(","):
            via = self._hop(hop.strip(), config, behind=via, chain=chain)
        return via, None

    def _hop(self, hop: str, config: SshConfig, *, behind: Route | None, chain: tuple[str, ...]) -> Route:
        """Return the way to a jump host: behind the one named before it, else as ssh_config says."""
        match = _JUMP.fullmatch(hop)
        if match is None:
            raise _unusable(f"{hop!r} is no jump host")
        given = {key: match[key] for key in ("user", "port") if match[key]}
        if behind is not None:
            given["proxyjump"] = "none"
        if len(chain) > LONGEST_CHAIN:
            raise _unusable(f"jump hosts go in a circle: {' behind '.join(chain[:3])} ...")
        made = self._route(match["host"] or match["six"], given, config, target=None, chain=chain)
        return made if behind is None else msgspec.structs.replace(made, via=behind)


def _first(said: Options, name: str) -> str | None:
    values = said.get(name)
    return values[0] if values else None


def _paths(said: Options, name: str, tokens: dict[str, str]) -> tuple[str, ...]:
    """Return the files an option names; `none` for none."""
    values = said.get(name, ())
    return () if "none" in values else tuple(expand_path(value, tokens) for value in values)


def _port(text: str | None) -> int:
    """Return the port; what an ssh_config file says was looked at when it was read, but not what a jump host's does."""
    port = PORT if text is None else port_number(text)
    if port is None:
        raise _unusable(f"{text!r} is no port")
    return port


def _agent(said: str | None, tokens: dict[str, str]) -> str | None:
    """Return the agent's socket: the one ssh_config names, else the environment's."""
    if said is None or said == "SSH_AUTH_SOCK":
        return os.environ.get("SSH_AUTH_SOCK") or None
    if said == "none":
        return None
    if said.startswith("$") and not said.startswith("${"):
        return os.environ.get(said[1:]) or None
    return expand_path(said, tokens)


def _methods(said: Options) -> frozenset[str]:
    """Return the ways to log in that ssh_config leaves."""
    switches = {
        "publickey": ("pubkeyauthentication",),
        "password": ("passwordauthentication",),
        "keyboard-interactive": ("kbdinteractiveauthentication", "challengeresponseauthentication"),
    }
    return frozenset(
        method for method, names in switches.items() if not any(_first(said, name) == "no" for name in names)
    )


def _unusable(what: str) -> ConnectError:
    return ConnectError(what, TargetState.UNREACHABLE)
