"""Commands that outlive their link: what is sent to start one, to follow it, to end it, and to forget it (SEMANTICS 9).

On the target a durable command has a spool: a folder (0700) under `$XDG_STATE_HOME` or `~/.local/state`, else under
/var/tmp, of the user it runs as, by the name its intent carries. It is claimed by making it, and whoever makes it
first decides: a launcher, which then starts the command, or a follower that finds nothing, after which a launch that
is still on its way can never start. What is to begin in it is claimed a second time in the same way (`begun`), so that
a launcher that was killed in between leaves no doubt either.

In it: `pid` (the leader of the command's own session), `out` and `err`, and `code` once it has ended, written under
another name first. The script itself is in no argument list and on no disk: it goes through a pipe. As every job in
the background of a shell, it ignores INT and QUIT, and HUP besides.

These are pure functions: text in, text out. Every script works in bash, dash and busybox's shell.
"""

from __future__ import annotations

import re
import shlex

from msgspec import Struct
from msgspec.structs import replace

from opsbook.ssh.script import COMMAND_VARIABLE, DEEPER, PICK, Script, compose, reading

KEEP_DAYS = 14
"""Days a spool nobody came back for is kept."""
_NAME = re.compile(r"[0-9a-f]{16,64}")
_PLACES = """\
set +eu
was=$(umask); umask 077
spool={spool}
nap() {{ sleep "$1" 2>/dev/null || sleep 1; }}
if [ -n "${{XDG_STATE_HOME-}}" ]; then set -- "$XDG_STATE_HOME/opsbook"
elif [ -d "${{HOME-}}" ]; then set -- "$HOME/.local/state/opsbook"
else set --; fi
set -- "$@" "/var/tmp/opsbook-$(id -u)"
claim() {{
  for b; do
    d=$b/$spool
    if [ -d "$d" ] && [ -O "$d" ]; then return 1; fi
  done
  for b; do
    mkdir -p "$b" 2>/dev/null
    if [ -O "$b" ] && [ ! -L "$b" ] && chmod 700 "$b" 2>/dev/null; then
      d=$b/$spool
      if mkdir "$d" 2>/dev/null; then return 0; fi
      if [ -d "$d" ]; then return 1; fi
    fi
  done
  return 2
}}
alive() {{
  p=; read -r p 2>/dev/null <"$1/pid"
  [ -n "$p" ] && kill -0 "$p" 2>/dev/null || return 1
  [ ! -r "/proc/$p/environ" ] || grep -qa "{variable}=${{1##*/}}" "/proc/$p/environ" 2>/dev/null
}}
"""
_LEADER = """\
d=$1; u=$2
mkdir "$d/begun" || exit
trap "" HUP; trap : TERM
: >"$d/out"; : >"$d/err"
echo 000 >"$d/code.new"
echo "$$" >"$d/pid.new" && mv "$d/pid.new" "$d/pid" || exit
umask "$u"
{pick}; {deeper}
(exec "$@" -c "$0") >"$d/out" 2>"$d/err"
c=$?
printf "%03d" "$c" 1<>"$d/code.new" && mv "$d/code.new" "$d/code"
"""
"""Leads the session. Room for the exit code is taken beforehand: the command may fill the disk."""
_LAUNCH = """\
claim "$@"
case $? in
  1) echo {marker} late >&2; exit 0 ;;
  2) echo {marker} nowhere >&2; exit 0 ;;
esac
if command -v setsid >/dev/null 2>&1; then detach() {{ exec setsid "$@"; }}
elif command -v perl >/dev/null 2>&1; then detach() {{ exec perl -e "use POSIX; setsid; exec @ARGV" "$@"; }}
else rmdir "$d"; echo {marker} alone >&2; exit 0; fi
start() {{ {variable}=$spool; export {variable}; detach sh -c {leader} {read} "$d" "$was"; }}
(printf %s {payload} | start >/dev/null 2>&1 &)
find "$b"/* -prune -type d -mtime +{days} 2>/dev/null | while IFS= read -r old; do
  case ${{old##*/}} in *[!0-9a-f]*) continue ;; ????????????????*) ;; *) continue ;; esac
  if [ -f "$old/code" ] || ! alive "$old"; then rm -rf -- "$old"; fi
done
"""
_FIND = """\
claim "$@"
case $? in
  0) echo {marker} never >&2; exit 0 ;;
  2) echo {marker} nowhere >&2; exit 0 ;;
esac
"""
_FOLLOW = """\
n=0
until [ -f "$d/pid" ]; do
  n=$((n+1)); nap 0.1
  if [ $n -eq 100 ] && mkdir "$d/begun" 2>/dev/null; then echo {marker} never >&2; exit 0; fi
  if [ $n -ge 200 ]; then echo {marker} gone >&2; exit 0; fi
done
{end}
exec 4<"$d/out" 5<"$d/err"
echo {marker}
echo "{marker} $d" >&2
exec 6>&2 2>/dev/null
{{ tail -c +{out} <&4 && tail -c +{err} <&5 >&6; }} || exit 1
n=0; over=
while [ -z "$over" ]; do
  n=$((n+1))
  if [ -f "$d/code" ]; then over=1; elif ! alive "$d"; then over=1; fi
  {{ cat <&4 && cat <&5 >&6; }} || exit 1
  if [ -z "$over" ]; then
    if [ $n -lt 20 ]; then nap 0.05; elif [ $n -lt 100 ]; then nap 0.2; else nap 0.5; fi
  fi
done
c=; read -r c <"$d/code"
echo "{marker} ${{c:-gone}}" >&6
kill "$tether"
exit 0
"""
_END = """\
still() {
  command -v pgrep >/dev/null 2>&1 || { kill -0 "-$p" 2>/dev/null; return; }
  for q in $(pgrep -s "$p"); do
    s=; read -r s 2>/dev/null <"/proc/$q/stat"
    case $s in *") Z "*) ;; *) return 0 ;; esac
  done
  return 1
}
if [ ! -f "$d/code" ] && alive "$d"; then
  pkill -TERM -s "$p" 2>/dev/null || kill -TERM "-$p" 2>/dev/null
  for w in 0.1 0.3 0.6; do if still; then nap $w; fi; done
  pkill -KILL -s "$p" 2>/dev/null || kill -KILL "-$p" 2>/dev/null
  for w in 0.05 0.1 0.2; do if still; then nap $w; fi; done
fi
"""
_REMOVE = """\
for b; do
  if [ -O "$b/$spool" ]; then rm -rf -- "$b/$spool"; fi
done
"""


class Ended(Struct, frozen=True, kw_only=True):
    """What a target says of a durable command."""

    how: str
    """`exit`; `gone`: it died without an exit code; `never`: it did not start and will not; `late`: its name was taken
    before; `nowhere`: there is no folder for a spool; `alone`: nothing there detaches a process."""
    code: int | None = None


def launch(script: Script, spool: str, *, marker: str) -> Script:
    """Return the script that starts a command as a durable one, and then follows it from the beginning.

    Raises:
        UsageError: the script holds a NUL or is not Unicode, or a variable's name is not one.
    """
    payload = compose(script)
    pick = PICK if script.shell is None else f"set -- {script.shell}"
    text = _LAUNCH.format(
        marker=marker,
        variable=COMMAND_VARIABLE,
        payload=shlex.quote(payload.decode()),
        leader=shlex.quote(_LEADER.format(pick=pick, deeper=DEEPER)),
        read=shlex.quote(reading(len(payload))),
        days=KEEP_DAYS,
    )
    return _plain(script, _places(spool) + text + _follow(marker, out=0, err=0, end=False))


def follow(script: Script, spool: str, *, marker: str, out: int, err: int, end: bool = False) -> Script:
    """Return the script that follows a durable command from these bytes of its two streams on, to its end.

    With `end` it ends it first: TERM to its whole session, KILL a second later. Where there is no spool it claims the
    name, so that the command will never start.
    """
    text = _FIND.format(marker=marker) + _follow(marker, out=out, err=err, end=end)
    return _plain(script, _places(spool) + text)


def remove(script: Script, spool: str) -> Script:
    """Return the script that removes a spool whose result was read."""
    return _plain(script, _places(spool) + _REMOVE)


def read_end(told: str) -> Ended | None:
    """Return what the words behind the marker say at the end of stderr; None for anything else.

    >>> read_end("003"), read_end("gone").how
    (Ended(how='exit', code=3), 'gone')
    """
    word = told.strip()
    if re.fullmatch(r"[0-9]{1,3}", word):
        return Ended(how="exit", code=int(word))
    return Ended(how=word) if word in {"gone", "never", "late", "nowhere", "alone"} else None


def _places(spool: str) -> str:
    if not _NAME.fullmatch(spool):
        raise ValueError(f"{spool!r} is not the name of a spool")
    return _PLACES.format(spool=spool, variable=COMMAND_VARIABLE)


def _follow(marker: str, *, out: int, err: int, end: bool) -> str:
    """`tail` begins to count at 1, and what it leaves the descriptor at is where `cat` goes on."""
    return _FOLLOW.format(marker=marker, out=out + 1, err=err + 1, end=_END if end else "")


def _plain(script: Script, text: str) -> Script:
    """Return a script of ours that runs as the same user."""
    return replace(script, text=text, variables={}, environment={}, directory=None, shell=None)
