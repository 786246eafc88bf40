"""How a script reaches a target's shell: on standard input, whole, and in no argument list.

The command line that sshd runs holds nothing of the script but its length. It picks the shell, reads exactly that many
bytes from standard input, and evaluates them as one command: the shell parses all of it before the first line runs, so
a syntax error stops everything, and no command of the script can eat the rest of it. That command

- keeps the channel's input on a descriptor that only a background watcher reads: on the line `stop` it sends TERM to
  everything in its session and KILL a second later, which works where sshd refuses signal requests (as root, under
  sudo), and it goes when the channel closes; a `wait` in the script does not wait for it;
- runs the script in the shell itself, with /dev/null as input, between two words (`then {` and `} fi`) that no single
  stray closing word in the script can match.

The script starts on line 2, so that line numbers in the shell's messages are those of an `%%on` cell.

Where the login shell is a bash as it comes, the script runs in it instead of starting another one, which halves what a
short command costs the target.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping

from msgspec import Struct

from opsbook.errors import UsageError

STOP = b"stop\n"
COMMAND_VARIABLE = "OPSBOOK_COMMAND"
"""The environment variable by which a command's processes are known, wherever they went."""

_LOOP = (
    'trap "" HUP INT TERM; while IFS= read -r _l; do if [ "$_l" = stop ]; then '
    "kill -TERM 0 || :; pkill -TERM -s 0 || :; sleep 1; pkill -KILL -s 0 || :; kill -KILL 0; "
    "fi; done"
)
_QUIET = "<&3 >/dev/null 2>&1 3<&- &"
_SET_WATCH = (
    f'exec 3<&0 </dev/null; if [ "${{BASH_VERSINFO-0}}" -gt 3 ]; then ({_LOOP}) {_QUIET} disown 2>/dev/null || :; '
    f"else ( ({_LOOP}) {_QUIET} ); fi; exec 3<&-"
)
"""The watcher is nobody's child; bash can forget one, for one process less."""
_WATCH = f"{{ unset REPLY; {_SET_WATCH}; if :; then {{ "
_TETHERED = (
    "{ unset REPLY; exec 3<&0 </dev/null; (while IFS= read -r _l; do :; done; kill $$) <&3 >/dev/null 2>&1 3<&- & "
    "tether=$!; exec 3<&-; if :; then { "
)
"""It ends with its channel."""
_ALONE = "{ unset REPLY; exec </dev/null; if :; then { "
_FINDABLE = f"{{ unset REPLY; if [ -r /proc/self/environ ]; then exec </dev/null; else {_SET_WATCH}; fi; if :; then {{ "
"""No watcher where a process is found by its environment."""
_LEAVE = "\n} fi; }\n"
_DIGITS = 8
MOST_AHEAD = 10**_DIGITS
"""Bytes from which on a waiting shell cannot be told how much will come."""
_LONGEST_WAIT_S = 86_400
"""Seconds a shell waits whatever `TMOUT` says, which may be readonly."""
PICK = "if command -v bash >/dev/null 2>&1; then set -- bash -euo pipefail; else set -- sh -eu; fi"
DEEPER = "SHLVL=2; export SHLVL"
"""A bash that sshd started reads bashrc even for a script, and trips over it under -u; a deeper one does not."""
MOST_LINES = 10_000
"""bash crashes while it parses one command of some 25,000 lines."""
SPARE_LINES = 200
"""Lines that what follows a durable script has around it."""
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_LOGIN_BASH = "/bin/bash"
_AS_IT_COMES = "cmdhist:extquote:force_fignore:hostcomplete:interactive_comments:progcomp:promptvars:sourcepath"
_BY_VERSION = ("checkwinsize", "complete_fullquote", "globasciiranges", "globskipdots", "patsub_replacement")
"""The options that are on in every bash as it comes, from 4.1 on, and those that are in some."""


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

    def __repr__(self) -> str:
        """Show no value of a variable: some are secrets, and a traceback may show this."""
        return f"Script({self.text[:60]!r}, variables={[*self.variables]}, environment={[*self.environment]})"


class Prepared(Struct, frozen=True, kw_only=True):
    """A script made ready to send."""

    command: str
    """The command line for sshd; holds nothing of the script."""
    payload: bytes
    """What follows on standard input."""
    ready: str = ""
    """Printed on stderr once sudo has let the shell through; the payload waits for it."""
    prompts: tuple[str, ...] = ()
    """What sudo prints on stderr when it wants the password: as it should, and where it leaves `%%` as it is."""
    watched: bool = True
    """Whether a watcher certainly waits for `STOP` there."""
    proof: str = ""
    """Printed on stderr before all else where our command line runs, in a shell that could have waited."""
    can_wait: bool = False
    """Whether a shell that already waits may run it."""

    def __repr__(self) -> str:
        """Show nothing of the payload: it holds secrets."""
        return f"Prepared({self.command[:60]!r}, {len(self.payload)} bytes)"


def prepare(
    script: Script,
    *,
    marker: str,
    password: bool = False,
    watched: bool = True,
    tethered: bool = False,
    proving: bool = False,
) -> Prepared:
    """Return the command line and the payload for a script.

    `marker` is text that nobody else prints; `password` is whether there is one for sudo. Without `watched` no watcher
    is started where the processes can be found by `marker`. What is `tethered` has none either: it ends with its
    channel. What is `proving` says so when a shell can wait where it runs.

    Raises:
        UsageError: the script holds a NUL or is not Unicode, or a variable's name is not one.
    """
    direct = not script.sudo and script.shell is None
    watched = watched or not direct
    if tethered:
        payload = compose(script, _TETHERED, most_lines=MOST_LINES + SPARE_LINES)
    else:
        payload = compose(script, _WATCH if watched else _FINDABLE)
    pick = PICK if script.shell is None else f"set -- {script.shell}"
    if script.sudo:
        return _behind_sudo(script, pick, payload, marker=marker, password=password)
    if not direct:
        return Prepared(command=_line(pick, reading(len(payload))), payload=payload, watched=watched)
    prove = _saying(marker, "proof") if proving else ":; "
    within = _in_login_bash(marker, f"{prove}LC_ALL=C read -rN {len(payload)}")
    line = _line(pick, f'if [ "${{BASH_VERSINFO-0}}" -gt 3 ]; then {prove}fi; {reading(len(payload))}')
    return Prepared(
        command=within + line,
        payload=payload,
        watched=watched,
        proof=f"{marker}-proof" if proving else "",
        can_wait=not tethered and len(payload) < MOST_AHEAD,
    )


def awaiting(name: str) -> str:
    """Return the command line of a shell that waits for one script, sent as `ahead` says, and runs it.

    Only where a command has shown that this is a bash. An end without a script is told from every exit code.
    """
    reads = (f"LC_ALL=C read -t {_LONGEST_WAIT_S} -rN {size}" for size in (_DIGITS, '"$REPLY"'))
    read = " && ".join(reads) + " || kill -KILL $$"
    return _in_login_bash(name, read) + _line(PICK, f': {name}; {read}; eval "$REPLY"')


def ahead(payload: bytes) -> bytes:
    """Return what a waiting shell is sent."""
    return b"%0*d" % (_DIGITS, len(payload)) + payload


def compose(script: Script, opening: str = _ALONE, *, most_lines: int = MOST_LINES) -> bytes:
    """Return the one command that is the script: parsed whole, without its own text as input.

    Raises:
        UsageError: the script holds a NUL or is not Unicode, or a variable's name is not one.
    """
    if "\0" in script.text:
        raise UsageError("the script holds a NUL character, which no shell can read")
    if "\0" in (script.directory or ""):  # a shell passes it over, and would wait for as many bytes more
        raise UsageError("the directory holds a NUL character, which no path can hold")
    if script.text.count("\n") > most_lines:
        raise UsageError(
            f"the script has more than {MOST_LINES:,} lines", "put it into a file on the target and run that"
        )
    try:
        return (opening + _settings(script) + "\n" + script.text + _LEAVE).encode()
    except UnicodeEncodeError:
        raise UsageError("the script, or a variable in it, is not valid Unicode") from None


def reading(size: int) -> str:
    """Return shell text, without single quotes, that reads so many bytes of input and evaluates them.

    A bash reads them itself; other shells cannot count bytes, and start `head`.
    """
    read = f'if [ "${{BASH_VERSINFO-0}}" -gt 3 ]; then LC_ALL=C read -rN {size}; else REPLY="$(head -c {size})"; fi'
    return f'{read}; eval "$REPLY"'


def sudo_words(script: Script, prompt: str) -> str:
    """Return how sudo is called; without a prompt it asks for nothing and refuses where it would have to."""
    asking = f"-S -p {prompt}" if prompt else "-n"
    return f"sudo {asking} -H -u {shlex.quote(script.as_user or 'root')} --"


def _behind_sudo(script: Script, pick: str, payload: bytes, *, marker: str, password: bool) -> Prepared:
    line = _line(pick, _saying(marker, "ready") + reading(len(payload)))
    prompt = f"{marker}-pass%%word" if password else ""
    line = f"exec {sudo_words(script, prompt)} {line.removeprefix('exec ')}"
    prompts = (prompt.replace("%%", "%"), prompt) if password else ()
    return Prepared(command=line, payload=payload, ready=f"{marker}-ready", prompts=prompts)


def _saying(marker: str, word: str) -> str:
    """Say on stderr how far it is. Whoever only repeats the command line does not say the same."""
    return f'printf "%s-%s\\n" {marker} {word} >&2; '


def _line(pick: str, read: str) -> str:
    """Compose a line that any login shell (csh and fish too) passes on unchanged: single quotes, no `!`."""
    return f"exec sh -c '_r=$1; {pick}; {DEEPER}; exec \"$@\" -c \"$_r\"' sh '{read}'"


def _in_login_bash(marker: str, read: str) -> str:
    """Return what any login shell passes over unless it is a bash that bashrc has not changed: that runs the script.

    What bashrc exports reaches a script either way; shell options, functions and traps must not. (Red Hat's exports a
    function `which`.) There is no `!` in it, which csh would take for its own.
    """
    usual = " && ".join(
        f"_o=${{_o/:{name}:/:}}" for name in _BY_VERSION
    )  # a pattern for all of it would cost half a ms
    plain = f'[ "${{BASH_VERSINFO-0}}" -gt 3 ] && _o=:$BASHOPTS: && {usual} && [ "$-$_o" = hBc:{_AS_IT_COMES}: ]'
    changed = "{ shopt -qo posix || compgen -A function -X which; } >/dev/null"
    clean = "unset _o; trap - EXIT ERR DEBUG RETURN; IFS=$' \\t\\n'; set -euo pipefail"
    run = f'{clean}; {read}; eval "$REPLY"; exit'
    within = f": {marker}; if {plain}; then if {changed}; then :; else {run}; fi; fi"
    return f'test "$SHELL" = {_LOGIN_BASH} && eval {shlex.quote(within)}; '


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
