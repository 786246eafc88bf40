"""How a script reaches a target's shell: on standard input, whole, and in no argument list.

The command line that sshd runs is constant but for a length. It picks the shell, reads exactly that many bytes from
standard input, and evaluates them as one command: the shell parses all of it before the first line runs, so a syntax
error stops everything, and no command of the script can eat the rest of it. That command

- keeps the channel's input on a descriptor that only a background watcher reads: on the line `stop` it sends TERM to
  everything in its session and KILL a second later, which works where sshd refuses signal requests (as root, under
  sudo), and it goes when the channel closes; it is nobody's child, so that a `wait` in the script does not wait for it;
- runs the script in the shell itself, with /dev/null as input, between two words (`then {` and `} fi`) that no single
  stray closing word in the script can match.

The script starts on line 2, so that line numbers in the shell's messages are those of an `%%on` cell.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping

from msgspec import Struct

from opsbook.errors import UsageError

STOP = b"stop\n"

_WATCH = (
    "{ exec 3<&0 </dev/null; "
    '( (trap "" HUP INT TERM; while IFS= read -r _l; do if [ "$_l" = stop ]; then '
    "pkill -TERM -s 0 || kill -TERM 0; sleep 1; pkill -KILL -s 0 || kill -KILL 0; kill -KILL 0; "
    "fi; done) <&3 >/dev/null 2>&1 3<&- & ); exec 3<&-; if :; then { "
)
_LEAVE = "\n} fi; }\n"
_PICK = "if command -v bash >/dev/null 2>&1; then set -- bash -euo pipefail; else set -- sh -eu; fi"
MOST_LINES = 10_000
"""bash crashes while it parses one command of some 25,000 lines."""
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class Script(Struct, frozen=True, kw_only=True):
    """What to run on a target, and as whom."""

    text: str
    variables: dict[str, str] = {}
    """Shell variables set before it starts; not exported."""
    environment: dict[str, str] = {}
    """Environment variables, exported; where secrets go."""
    directory: str | None = None
    sudo: bool | None = None
    """Whether it goes through sudo; None where nobody has said so yet, which counts as no."""
    as_user: str | None = None
    """The user sudo changes to; root when None."""
    shell: str | None = None
    """A shell's command line, such as `sh -eu`; None picks bash where there is one."""


class Prepared(Struct, frozen=True, kw_only=True):
    """A script made ready to send."""

    command: str
    """The command line for sshd; holds nothing of the script."""
    payload: bytes
    """What follows on standard input."""
    marker: str = ""
    """Printed on stderr once sudo has let the shell through; the payload waits for it."""


def prepare(script: Script, *, marker: str) -> Prepared:
    """Return the command line and the payload for a script.

    Raises:
        UsageError: the script holds a NUL or is not Unicode, or a variable's name is not one.
    """
    if "\0" in script.text:
        raise UsageError("the script holds a NUL character, which no shell can read")
    if script.text.count("\n") > MOST_LINES:
        raise UsageError(
            f"the script has more than {MOST_LINES:,} lines", "put it into a file on the target and run that"
        )
    try:
        payload = (_WATCH + _settings(script) + "\n" + script.text + _LEAVE).encode()
    except UnicodeEncodeError:
        raise UsageError("the script, or a variable in it, is not valid Unicode") from None
    pick = _PICK if script.shell is None else f"set -- {script.shell}"
    read = f'eval "$(head -c {len(payload)})"'
    if not script.sudo:
        return Prepared(command=_line(pick, read), payload=payload)
    user = shlex.quote(script.as_user or "root")
    inner = _line(pick, f'printf "%s\\n" {marker} >&2; {read}')
    return Prepared(
        command=f"exec sudo -n -H -u {user} -- {inner.removeprefix('exec ')}", payload=payload, marker=marker
    )


def _line(pick: str, read: str) -> str:
    """Compose a line that any login shell (csh and fish too) passes on unchanged: single quotes, no `!`."""
    # SHLVL: a bash that sshd started reads bashrc even for a script, and trips over it under -u; a deeper one does not
    return f"exec sh -c '{pick}; SHLVL=2; export SHLVL; exec \"$@\" -c \"$0\"' '{read}'"


def _settings(script: Script) -> str:
    """Set variables, environment and directory, all on the one line before the script's first."""
    parts = [*_assign(script.variables), *(f"export {line}" for line in _assign(script.environment))]
    if script.directory:
        parts.append(f"cd -- {shlex.quote(script.directory)}")
    return "; ".join(parts) or ":"


def _assign(values: Mapping[str, str]) -> list[str]:
    for name, value in values.items():
        if not _NAME.fullmatch(name):
            raise UsageError(f"{name!r} cannot be the name of a shell variable")
        if "\0" in value:
            raise UsageError(f"the value of {name!r} holds a NUL character, which no shell can hold")
    return [f"{name}={shlex.quote(value)}" for name, value in values.items()]
