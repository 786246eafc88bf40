"""The place of one file on a target: what is there, how a staged file gets there, and what is taken back.

Scripts for whoever owns the place, and what their answers mean. Whatever somebody else may exchange meanwhile, nothing
here follows a link of theirs, and nothing is removed but what a script of ours has made. Knows no connection.
"""

from __future__ import annotations

import posixpath

from msgspec import Struct
from msgspec.structs import replace

from opsbook.ssh.script import Script

_LOOK = """\
set -f
export LC_ALL=C
if [ -d "$target" ]; then echo folder
elif [ -f "$target" ]; then
  set -- $(ls -ldnL -- "$target"); echo "file $1 $3 $4"
  set -- $(ls -ldL -- "$target"); echo "$3:$4"
  if [ "$(($(wc -c < "$target")))" -eq "$size" ]; then
    { sha256sum || shasum -a 256 || sha256 -q || openssl sha256 -r; } < "$target" 2>/dev/null || :
  fi
elif [ -e "$target" ]; then echo other
else echo nothing
fi
"""
INSTALL = """\
set -f
umask 077
[ -d "$folder" ] || { echo "there is no folder $folder" >&2; exit 1; }
within=
leave() {
  trap '' HUP INT TERM
  if [ -n "$within" ]; then rm -f ./new ./whole; cd -P ..; fi
  rmdir -- "$part" 2>/dev/null || :
}
trap 'exit 143' HUP INT TERM
case $folder in /*) cd -P -- "$folder" ;; *) cd -P -- "./$folder" ;; esac
trap leave EXIT
mkdir -m 700 -- "$part"
cd -P -- "./$part"
case $(pwd -P) in */"$part") ;; *) echo "$part was exchanged in $folder" >&2; exit 1 ;; esac
[ -O . ] || { echo "$part was exchanged in $folder" >&2; exit 1; }
within=yes
cat < "$staged" > ./new
[ "$(($(wc -c < ./new)))" -eq "$size" ] || { echo "not all of it arrived" >&2; exit 1; }
now=
if [ -e "../$name" ]; then set -- $(ls -ldnL -- "../$name"); now="$1 $3 $4"; fi
[ "$now" = "$seen" ] || { echo "somebody else changed $target meanwhile" >&2; exit 1; }
if [ -n "$owner" ]; then chown -- "$owner" ./new
elif [ -n "$kept" ]; then chown -- "$kept" ./new 2>/dev/null || :
fi
chmod -- "$mode" ./new
if mv -fT -- ./new ./whole 2>/dev/null; then mv -fT -- ./whole "../$name"
elif [ -d "../$name" ]; then echo "$target is a folder" >&2; exit 1
else mv -f -- ./new "../$name"
fi
"""
"""Whoever owns the destination's folder can exchange what is in it, so it is written in a folder of our own there.

Nobody else can enter that, so nothing here follows a link of somebody else's. Once inside, `..` is where it was made,
whatever became of the path: what is at the destination there is looked at again, for its owner and mode to be kept.
"""
_TAKE_BACK = """\
set -f
case $folder in /*) cd -P -- "$folder" ;; *) cd -P -- "./$folder" ;; esac
if [ -e "$part" ] || [ -L "$part" ]; then
  cd -P -- "./$part"
  case $(pwd -P) in */"$part") ;; *) exit 1 ;; esac
  [ -O . ] || exit 1
  rm -f ./new ./whole
  cd -P ..
  rmdir -- "$part"
fi
"""
"""What the script above made, should it have been killed before it had tidied up."""


class There(Struct, frozen=True, kw_only=True):
    """What is at the destination."""

    kind: str
    """`file`, `folder`, `other` or `nothing`."""
    seen: str = ""
    """Its mode and ids as `ls` writes them."""
    mode: int = 0
    ids: str = ""
    """User and group by number: `0:0`."""
    names: str = ""
    sha256: str = ""
    """Empty where its size is another one."""

    def is_owned_by(self, owner: str) -> bool:
        """Whether it belongs to whom chown's word names, by name or by number."""
        for wanted, id_, name in zip(owner.split(":"), self.ids.split(":"), self.names.split(":"), strict=False):
            if wanted and wanted not in {id_, name}:
                return False
        return True


class Place(Struct, frozen=True, kw_only=True):
    """Where a file goes, as whom, and what the folder is called in which it is made ready beside its place."""

    remote: str
    part: str
    became: Script
    """As whom: the scripts run as this one does."""

    def look(self, *, size: int) -> Script:
        """Return what tells what is there, for `read_look`."""
        return replace(self.became, text=_LOOK, variables={"target": self.remote, "size": str(size)})

    def install(self, there: There, *, staged: str, size: int, mode: int, owner: str | None) -> Script:
        """Return what puts a staged file there, whole or not at all, if there still is what was seen."""
        variables = {
            "target": self.remote,
            "folder": self._folder,
            "name": posixpath.basename(self.remote),
            "part": posixpath.basename(self.part),
            "seen": there.seen,
            "staged": staged,
            "size": str(size),
            "mode": f"{mode:04o}",
            "owner": owner or "",
            "kept": there.ids,
        }
        return replace(self.became, text=INSTALL, variables=variables)

    def take_back(self) -> Script:
        """Return what removes all that a killed `install` has left; it ends with 0 when nothing is left."""
        variables = {"folder": self._folder, "part": posixpath.basename(self.part)}
        return replace(self.became, text=_TAKE_BACK, variables=variables)

    @property
    def _folder(self) -> str:
        return posixpath.dirname(self.remote) or "."


def read_look(said: str) -> There:
    """Read what `Place.look` prints."""
    lines = said.splitlines() or ["nothing"]
    kind, *fields = lines[0].split()
    if kind != "file" or len(fields) != 3:  # noqa: PLR2004  letters, user, group
        return There(kind=kind)
    return There(
        kind=kind,
        seen=" ".join(fields),
        mode=_mode_of(fields[0]),
        ids=f"{fields[1]}:{fields[2]}",
        names=lines[1] if len(lines) > 1 else "",
        sha256=lines[2].split()[0] if len(lines) > 2 else "",  # noqa: PLR2004  its line is the third
    )


def _mode_of(letters: str) -> int:
    """Read the permissions as `ls` writes them.

    >>> oct(_mode_of("-rwsr-x---"))
    '0o4750'
    """
    bits = 0
    for place, letter in enumerate(letters[1:10]):
        bits |= (letter not in "-ST") << (8 - place)
        bits |= (letter in "sStT") << (11 - place // 3)
    return bits
