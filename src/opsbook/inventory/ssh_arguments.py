"""What an inventory hands to ssh's command line: the few arguments that opsbook understands.

Invariant: an argument is honoured, changes nothing here, or is refused by name, so that no target is reached in
another way than its inventory says. No value is ever shown. This module knows neither hosts nor files.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

from msgspec import Struct

from opsbook.errors import InventoryError

OPTION = re.compile(r"\s*(?P<name>[A-Za-z0-9]+)(?:\s*=\s*|\s+)(?P<value>.*?)\s*")
JUMP = re.compile(r"[\w.:@%/\[\]-]+")
ASSUMED = {
    **dict.fromkeys(("identitiesonly", "batchmode", "stricthostkeychecking"), "yes"),
    **dict.fromkeys(("forwardagent", "forwardx11", "gssapiauthentication", "checkhostip"), "no"),
}
"""Options that ask for what opsbook does anyway."""
SETTLED = {
    *("controlmaster", "controlpath", "controlpersist"),
    *("compression", "loglevel", "connecttimeout", "serveraliveinterval", "serveralivecountmax", "tcpkeepalive"),
}
"""Options with any value: connections are kept anyway, and how long to wait is for opsbook's own settings to say."""
SETTLED_FLAGS = {"-C", "-q", "-a", "-x"}
TRUTH = {"true": "yes", "false": "no"}
HINTS = {
    "stricthostkeychecking": "opsbook has --host-keys, or host_keys under [ssh] in opsbook.toml",
    "identityfile": "set ansible_ssh_private_key_file",
    "user": "set ansible_user",
    "port": "set ansible_port",
}
HINT = (
    "known are ProxyJump, ProxyCommand, UserKnownHostsFile, -J, -F, and options that change nothing here; "
    "write others into an ssh_config file and name it with -F"
)


class Arguments(Struct, frozen=True, kw_only=True):
    """What arguments ask for; of a jump and a command, the one that was named first."""

    known_hosts: str | None = None
    jump: str | None = None
    proxy_command: str | None = None
    config: str | None = None

    @property
    def has_proxy(self) -> bool:
        """Whether it is settled what the connection goes through."""
        return self.jump is not None or self.proxy_command is not None

    def before(self, other: Arguments) -> Arguments:
        """Return these arguments followed by others: ssh takes an option's first value, and the last `-F`."""
        proxy = self if self.has_proxy else other
        return Arguments(
            known_hosts=other.known_hosts if self.known_hosts is None else self.known_hosts,
            jump=proxy.jump,
            proxy_command=proxy.proxy_command,
            config=self.config if other.config is None else other.config,
        )


def read_arguments(text: str) -> Arguments:
    """Return what a string of ssh arguments asks for, paths as they are written.

    >>> read_arguments("-C -o ProxyJump=bastion -F ~/.ssh/prod").jump
    'bastion'

    Raises:
        InventoryError: it cannot be split, or an argument cannot be honoured; the message begins with its verb.
    """
    found = Arguments()
    for name, value in _options(text):
        found = found.before(_read_option(name, value))
    return found


def _options(text: str) -> Iterator[tuple[str, str]]:
    """Yield options as NAME and VALUE, `-J` as ProxyJump and `-F` as itself."""
    try:
        tokens = shlex.split(text)
    except ValueError as error:
        raise InventoryError(f"cannot be split: {error}", "close every quote") from None
    while tokens:
        token = tokens.pop(0)
        flag, rest = token[:2], token[2:]
        if not flag.startswith("-"):
            raise InventoryError("has a word that belongs to no option", "quote an option's value as a whole")
        if flag in {"-o", "-J", "-F"}:
            rest = rest or (tokens.pop(0) if tokens else "")
            yield _split_option(rest) if flag == "-o" else ("ProxyJump" if flag == "-J" else "-F", rest)
        elif token not in SETTLED_FLAGS:
            raise InventoryError(f"has the option '{flag}', which opsbook does not know", HINT)


def _split_option(text: str) -> tuple[str, str]:
    match = OPTION.fullmatch(text)
    if match is None:
        raise InventoryError("has an option that is not NAME=VALUE", "write -o NAME=VALUE")
    return match["name"], match["value"]


def _read_option(name: str, value: str) -> Arguments:
    """Return what one option asks for."""
    match name.lower():
        case "userknownhostsfile":
            if value.lower() == "none" or re.search(r"[\s\"%$]", value):
                raise InventoryError("names not one known_hosts file", "write one path, without % and $")
            return Arguments(known_hosts=value)
        case "proxyjump":
            return Arguments(jump=_check_jump(value))
        case "proxycommand":
            if not value or "\0" in value:
                raise InventoryError("has a ProxyCommand that cannot be run", "write the command, or none")
            return Arguments(proxy_command="none" if value.lower() == "none" else value)
        case "-f":
            return Arguments(config="none" if value.lower() == "none" else value)
        case lowered:
            known = ASSUMED.get(lowered)
            if lowered in SETTLED or (known is not None and TRUTH.get(value.lower(), value.lower()) == known):
                return Arguments()
            shown = name if known is None else f"{name}={value}"
            what = "which opsbook does not know" if known is None else f"and opsbook works with {name}={known}"
            raise InventoryError(f"has the option {shown}, {what}", HINTS.get(lowered, HINT))


def _check_jump(value: str) -> str:
    """Return hosts to go through that cannot be taken for options."""
    if value.lower() == "none":
        return "none"
    for hop in value.split(","):
        if hop.startswith("-") or JUMP.fullmatch(hop) is None:
            raise InventoryError("has a ProxyJump that is no list of hosts", "such as maya@bastion:2222,inner")
    return value
