"""What a command left running, asked of the target after it was stopped.

Every command carries its own random id in its environment (`OPSBOOK_COMMAND`), which its children inherit, so what
left its session is still found where there is a /proc; elsewhere nothing is found, and nothing is claimed.
"""

from __future__ import annotations

import re

from msgspec import Struct

from opsbook.ssh.script import COMMAND_VARIABLE

LOOK_S = 3.0
"""Seconds the question what escaped may take."""
_MOST_NAMED = 5
_LINE = re.compile(r"opsbook-left (\d+) (.*)")
_LIST = """\
list() {
  for f in $(found); do
    p=${f#/proc/}; p=${p%%/*}
    if read -r n 2>/dev/null <"/proc/$p/comm"; then echo "opsbook-left $p $n"; fi
  done
}
"""
_LOOKED = "if [ -r /proc/self/environ ]; then echo opsbook-looked; fi\n"
"""Nobody has looked where there is nothing to look at."""
_END = """\
signal() { for f in $(found); do p=${f#/proc/}; kill "-$1" "${p%%/*}" 2>/dev/null || true; done; }
signal TERM
for w in 0.1 0.3 0.6; do if [ -n "$(list)" ]; then sleep $w 2>/dev/null || sleep 1; fi; done
signal KILL
if [ -n "$(list)" ]; then sleep 0.1 2>/dev/null || sleep 1; fi
list
"""


class Left(Struct, frozen=True, kw_only=True):
    """A process that is still there."""

    pid: int
    name: str


def look_for(command_id: str, *, twice: bool = False) -> str:
    """Return a script that lists what a command left running; it changes nothing.

    `twice`: what is there is looked for again after a second, because the command's watcher may be about to kill it.
    """
    look = 'if [ -n "$(list)" ]; then sleep 1; list; fi\n' if twice else "list\n"
    return _finder(f"{COMMAND_VARIABLE}={command_id}", "/proc/[0-9]*/environ") + _LIST + look + _LOOKED


def end_all(command_id: str, shell: str = "") -> str:
    """Return a script that ends every process that names the command, also in its arguments, and lists what is left.

    `shell` is the name of the shell that runs it, where that is another one.
    """
    return _finder(command_id, "/proc/[0-9]*/environ /proc/[0-9]*/cmdline", shell) + _LIST + _END + _LOOKED


def read_left(answer: str) -> tuple[Left, ...] | None:
    r"""Return what an answer lists; None when it is not a whole answer.

    >>> read_left("opsbook-left 4711 sleep\nopsbook-looked\n")
    (Left(pid=4711, name='sleep'),)
    """
    if not answer.endswith("opsbook-looked\n"):
        return None
    found = {int(match[1]): match[2] for match in map(_LINE.fullmatch, answer.splitlines()) if match}
    return tuple(Left(pid=pid, name=name) for pid, name in sorted(found.items()))


def tell(left: tuple[Left, ...]) -> str:
    """Say what escaped, to be put behind a reason: empty when nothing did.

    >>> tell((Left(pid=4711, name="sleep"),))
    '; 1 process escaped: sleep (pid 4711)'
    """
    if not left:
        return ""
    named = ", ".join(f"{one.name} (pid {one.pid})" for one in left[:_MOST_NAMED])
    more = f" and {len(left) - _MOST_NAMED} more" if len(left) > _MOST_NAMED else ""
    return f"; {len(left)} process{'' if len(left) == 1 else 'es'} escaped: {named}{more}"


def _finder(word: str, places: str, other: str = "") -> str:
    """Define what lists the files a word stands in; the patterns do not match the text of this script itself."""
    patterns = " ".join(f"-e '{one[:-1]}[{one[-1]}]'" for one in (word, other) if one)
    return f"found() {{ grep -la {patterns} {places} 2>/dev/null || true; }}\n"
