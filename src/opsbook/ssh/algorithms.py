"""Which algorithms a connection may agree on: this side's own, narrowed by what ssh_config allows.

`Ciphers` and its like only ever take away or put in order here: nothing weak that is not offered anyway comes in by
them, and nothing that they leave out is used.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from opsbook.errors import ConnectError
from opsbook.model.target import TargetState

if TYPE_CHECKING:
    import paramiko

LISTS = {"ciphers": "ciphers", "macs": "digests", "kexalgorithms": "kex", "hostkeyalgorithms": "key_types"}
"""ssh_config's option to paramiko's name for the list."""
_ALIASES = {"curve25519-sha256": "curve25519-sha256@libssh.org"}


def restrict(transport: paramiko.Transport, wishes: Sequence[tuple[str, str]]) -> None:
    """Offer only what every wish, an option of ssh_config with its value, leaves.

    Raises:
        ConnectError: it leaves nothing that this side knows.
    """
    offered = transport.get_security_options()
    for option, value in wishes:
        left = narrowed(tuple(getattr(offered, LISTS[option])), value)
        if not left:
            raise ConnectError(f"{option} in ssh_config leaves nothing opsbook knows: {value}", TargetState.UNREACHABLE)
        setattr(offered, LISTS[option], left)


def narrowed(ours: tuple[str, ...], wish: str) -> tuple[str, ...]:
    """Return what is left of our algorithms, in the order wished for.

    >>> narrowed(("a1", "a2", "b"), "b,a1,other"), narrowed(("a1", "a2", "b"), "-a*"), narrowed(("a", "b"), "^b")
    (('b', 'a1'), ('b',), ('b', 'a'))
    """
    patterns = [_glob(_ALIASES.get(name, name)) for name in wish.lstrip("+-^").split(",")]
    named = tuple(dict.fromkeys(name for pattern in patterns for name in ours if pattern.fullmatch(name)))
    others = tuple(name for name in ours if name not in named)
    return {"+": ours, "-": others, "^": (*named, *others)}.get(wish[:1], named)


def _glob(pattern: str) -> re.Pattern[str]:
    return re.compile(re.escape(pattern).replace(r"\*", ".*").replace(r"\?", "."))
