"""ssh_config files: read once, and what they say of one host.

Holds `Include`, `Host` and `Match` as OpenSSH does: the first value of an option counts, an `Include` inside a block
stays under that block's condition, and `Match exec` runs its command. What is not understood is an error that names
its file and line, never ignored, unless `IgnoreUnknown` says so. Knows nothing of targets or connections.
"""

from __future__ import annotations

import glob
import os
import pwd
import re
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from msgspec import Struct

from opsbook.errors import ConnectError
from opsbook.model.target import TargetState
from opsbook.ssh.keywords import WORDS, mistake, unknown

DEEPEST_INCLUDE = 16
EXEC_S = 5.0
"""Seconds the command of a `Match exec` may take."""
BLOCKS = {"host", "match"}
LISTS = {"identityfile", "certificatefile"}
"""Options that add up instead of the first one counting."""
WAYS = {"proxyjump", "proxycommand"}
"""Options of which together the first one counts."""
WHOLE_LINE = {"proxycommand", "localcommand", "remotecommand", "knownhostscommand"}
REFUSED = {
    "canonicalizehostname": {"no"},
    "knownhostscommand": {"none"},
    "revokedhostkeys": {"none"},
    "bindinterface": {"none"},
    "proxyusefdpass": {"no"},
}
"""Options that opsbook cannot honour and must not ignore, with the values that ask for nothing."""
WITHOUT_ARGUMENT = {"all", "canonical", "final"}
WITH_ARGUMENT = {"host", "originalhost", "user", "localuser", "exec"}
_LINE = re.compile(r"\s*(?P<name>\w+)(?:\s*=\s*|\s+|$)(?P<rest>.*?)\s*")
_WORD = re.compile(r"""(?P<quote>["'])(?P<quoted>.*?)(?P=quote)|(?P<plain>[^\s"']\S*)""")
_TOKEN = re.compile(r"%(.?)")
_VARIABLE = re.compile(r"\$\{(\w+)\}")
_SHELL_MARKS = set("'\"`$\\;&<>|(){}")

Options = dict[str, tuple[str, ...]]
"""Option name in lower case to its arguments; of a list, to all values there are."""


class _Header(Struct, frozen=True, kw_only=True):
    """A `Host` or `Match` line."""

    kind: str
    words: tuple[str, ...]
    place: str


class _Line(Struct, frozen=True, kw_only=True):
    """One option, and the headers that all have to hold for it."""

    headers: tuple[_Header, ...]
    name: str
    values: tuple[str, ...]
    place: str


class SshConfig:
    """The ssh_config files that hold, in their order; none for no file."""

    def __init__(self, files: Sequence[tuple[Path, Path]]) -> None:
        """Read files, each with the folder its relative includes start from.

        Raises:
            ConnectError: one cannot be understood.
        """
        self._lines = tuple(line for file, folder in files for line in _read(file, folder, (), 0))
        self._strange = [line for line in self._lines if unknown(line.name)]
        _check_names(self._lines)

    @classmethod
    def of_user(cls) -> SshConfig:
        """Read the user's own and the system's; one that is not there says nothing."""
        own, system = Path("~/.ssh").expanduser(), Path("/etc/ssh")
        files = ((own / "config", own), (system / "ssh_config", system))
        return cls([(file, folder) for file, folder in files if file.is_file()])

    @classmethod
    def of_file(cls, file: str) -> SshConfig:
        """Read one file instead of those (ssh's `-F`); `none` for no file."""
        if file == "none":
            return cls([])
        try:
            return cls([(Path(file).expanduser(), Path("~/.ssh").expanduser())])
        except RuntimeError as error:
            raise _error(file, f"cannot be read: {error}") from error

    def look_up(self, host: str, given: Mapping[str, str], *, withheld: Sequence[str] = ()) -> Options:
        """Return what holds for a host, under what is said already (its user, its port), which wins.

        The command of a `Match exec` has none of the variables that are `withheld`.

        Raises:
            ConnectError: it asks for what opsbook cannot do, or the command of a `Match exec` did not end.
        """
        found: Options = {name: (value,) for name, value in given.items()}
        if self._pass(found, host, host, final=False, withheld=withheld):
            name = expand(found.get("hostname", (host,))[0], {"h": host})
            found["hostname"] = (name,)
            self._pass(found, host, name, final=True, withheld=withheld)
        return found

    def _pass(self, found: Options, original: str, host: str, *, final: bool, withheld: Sequence[str]) -> bool:
        """Take what holds on one reading; whether a second one was asked for (`Match final`)."""
        holds: dict[int, bool] = {}
        again = False
        for line in self._lines:
            if line in self._strange:
                _check_ignored(line, found.get("ignoreunknown", ()))
            for header in line.headers:
                if id(header) not in holds:
                    again = again or (header.kind == "match" and "final" in map(_plain, header.words))
                    holds[id(header)] = _holds(header, found, original, host, final=final, withheld=withheld)
                if not holds[id(header)]:
                    break
            else:
                _take(found, line)
        return again


def _check_names(lines: Sequence[_Line]) -> None:
    """Refuse an option that is not known, for whichever host it is, where no `IgnoreUnknown` before it may cover it."""
    ignored: tuple[str, ...] = ()
    for line in lines:
        if line.name == "ignoreunknown":
            ignored += line.values
        _check_ignored(line, ignored)


def _check_ignored(line: _Line, ignored: Sequence[str]) -> None:
    """Refuse an option that is neither known nor covered by what is to be ignored."""
    what = unknown(line.name)
    if what and not _matches(",".join(ignored).split(","), line.name):
        raise _error(line.place, what)


def _take(found: Options, line: _Line) -> None:
    """Lay a line's option under those that are there."""
    if line.name in REFUSED and line.values[0].lower() not in REFUSED[line.name]:
        raise _error(line.place, f"{line.name} is not supported")
    if line.name in LISTS:
        found[line.name] = tuple(dict.fromkeys((*found.get(line.name, ()), *line.values)))
    elif line.name in WAYS:
        if not WAYS & found.keys():
            found[line.name] = line.values
    else:
        found.setdefault(line.name, line.values)


def _holds(header: _Header, found: Options, original: str, host: str, *, final: bool, withheld: Sequence[str]) -> bool:
    """Whether a block is for this host."""
    if header.kind == "host":
        return _matches(header.words, host)
    words = list(header.words)
    while words:
        word = words.pop(0)
        kind = _plain(word)
        argument = words.pop(0) if kind in WITH_ARGUMENT else ""
        if kind == "exec":
            holds = _succeeds(_exec_command(argument, found, original, host), header.place, withheld=withheld)
        else:
            holds = _criterion(kind, argument, found, original, host, final=final)
        if holds == word.startswith("!"):
            return False
    return True


def _exec_command(argument: str, found: Options, original: str, host: str) -> str:
    """Return the command of a `Match exec`, with what is known of the host filled in."""
    name = expand(found.get("hostname", (host,))[0], {"h": host})
    user, port = found.get("user", (local_user(),))[0], found.get("port", ("22",))[0]
    return expand_command(argument, {"h": name, "n": original, "r": user, "p": port, **local_tokens()})


def _criterion(kind: str, argument: str, found: Options, original: str, host: str, *, final: bool) -> bool:
    """Whether one criterion of a `Match` holds, of those that run nothing."""
    me = local_user()
    name = expand(found.get("hostname", (host,))[0], {"h": host})
    user = found.get("user", (me,))[0]
    if kind in {"canonical", "final"}:
        return final
    asked = {"host": name, "originalhost": original, "user": user, "localuser": me}
    return kind == "all" or _matches(argument.split(","), asked[kind])


def _plain(criterion: str) -> str:
    return criterion.removeprefix("!").lower()


def _matches(patterns: Sequence[str], text: str) -> bool:
    """Whether one of the patterns covers a text, and no negated one does."""
    if any(_glob(pattern[1:]).fullmatch(text) for pattern in patterns if pattern.startswith("!")):
        return False
    return any(_glob(pattern).fullmatch(text) for pattern in patterns if not pattern.startswith("!"))


def _glob(pattern: str) -> re.Pattern[str]:
    """Return a pattern in which `*` and `?` alone are special."""
    return re.compile(re.escape(pattern).replace(r"\*", ".*").replace(r"\?", "."), re.IGNORECASE)


def _succeeds(command: str, place: str, *, withheld: Sequence[str]) -> bool:
    """Run the command of a `Match exec`, as ssh does: by the user's shell, without input."""
    shell = os.environ.get("SHELL", "/bin/sh")
    null = subprocess.DEVNULL
    process = subprocess.Popen(  # noqa: S603  the user's own configuration asks for it
        [shell, "-c", command],
        stdin=null,
        stdout=null,
        stderr=null,
        env={name: value for name, value in os.environ.items() if name not in withheld},
        start_new_session=True,
    )
    try:
        return process.wait(EXEC_S) == 0
    except subprocess.TimeoutExpired:
        raise _error(place, f"the command of Match exec did not end within {EXEC_S:g} s") from None
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _read(file: Path, folder: Path, outer: tuple[_Header, ...], depth: int) -> Iterator[_Line]:
    """Read one file and those it includes, in place."""
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise _error(str(file), "it is not UTF-8 text") from None
    except OSError as error:
        raise _error(str(file), f"cannot be read: {error.strerror}") from error
    headers = outer
    for number, raw in enumerate(text.splitlines(), 1):
        place = f"{file}:{number}"
        if not raw.strip() or raw.lstrip().startswith("#"):
            continue
        name, words = _option(raw, place)
        if name in BLOCKS:
            headers = (*outer, _Header(kind=name, words=words, place=place))
        elif name == "include":
            if depth >= DEEPEST_INCLUDE:
                raise _error(place, f"includes go deeper than {DEEPEST_INCLUDE} files")
            for included in _included(words, folder):
                yield from _read(included, folder, headers, depth + 1)
        else:
            wrong = mistake(name, words)
            if wrong:
                raise _error(place, wrong)
            values = (words[0].lower(),) if name in WORDS else words
            yield _Line(headers=headers, name=name, values=values, place=place)


def _option(line: str, place: str) -> tuple[str, tuple[str, ...]]:
    """Return the name in lower case and the arguments of a line that says something."""
    match = _LINE.fullmatch(line)
    if match is None:
        raise _error(place, f"is no option: {line.strip()!r}")
    name = match["name"].lower()
    words = (match["rest"],) if name in WHOLE_LINE else _words(match["rest"], place)
    if not words or not words[0]:
        raise _error(place, f"{match['name']} says nothing")
    return name, _checked(words, place) if name == "match" else words


def _words(text: str, place: str) -> tuple[str, ...]:
    """Split a line's arguments: quotes hold one together, and `#` begins a comment."""
    words, position = [], 0
    while text := text[position:].lstrip():
        if text.startswith("#"):
            break
        match = _WORD.match(text)
        if match is None:
            raise _error(place, "a quote is not closed")
        words.append(match["plain"] or match["quoted"])
        position = match.end()
    return tuple(words)


def _checked(words: tuple[str, ...], place: str) -> tuple[str, ...]:
    """Return a `Match` line's words, if each is known and has its argument."""
    rest, kinds = list(words), []
    while rest:
        kind = _plain(rest.pop(0))
        kinds.append(kind)
        if kind not in WITHOUT_ARGUMENT | WITH_ARGUMENT:
            raise _error(place, f"Match {kind} is not supported")
        if kind in WITH_ARGUMENT:
            if not rest:
                raise _error(place, f"Match {kind} says nothing")
            rest.pop(0)
    if "all" in kinds and set(kinds) - WITHOUT_ARGUMENT:
        raise _error(place, "Match all stands alone")
    return words


def _included(words: Sequence[str], folder: Path) -> Iterator[Path]:
    """Return the files that an `Include` names, each pattern's sorted; one that is not there says nothing."""
    for word in words:
        pattern = str(folder / Path(word).expanduser())
        yield from sorted(Path(name) for name in glob.glob(pattern) if Path(name).is_file())  # noqa: PTH207  as in C


def _error(place: str, what: str) -> ConnectError:
    return ConnectError(f"{place}: {what}", TargetState.UNREACHABLE)


def local_user() -> str:
    """Return who runs this, as ssh sees it: by the process's user id, whatever the environment says."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return os.environ.get("USER", str(os.getuid()))


def local_tokens() -> dict[str, str]:
    """Return the tokens that say where and as whom this runs."""
    name = socket.gethostname()
    home = str(Path("~").expanduser())
    return {"u": local_user(), "d": home, "i": str(os.getuid()), "l": name, "L": name.partition(".")[0]}


def expand(text: str, tokens: Mapping[str, str]) -> str:
    """Replace `%h` and the like.

    Raises:
        ConnectError: a token is not known there.
    """

    def replaced(match: re.Match[str]) -> str:
        if match[1] == "%":
            return "%"
        if match[1] not in tokens:
            raise ConnectError(f"{text!r} in ssh_config: {match[0]} is not known there", TargetState.UNREACHABLE)
        return tokens[match[1]]

    return _TOKEN.sub(replaced, text)


def expand_command(text: str, tokens: Mapping[str, str]) -> str:
    """Replace tokens in a command that a shell will read.

    Raises:
        ConnectError: a token is not known, or what it stands for would be more to a shell than a word.
    """
    for token in set(_TOKEN.findall(text)) & {"h", "n", "r"}:
        value = tokens.get(token, "")
        if _SHELL_MARKS & set(value) or value.startswith("-") or any(char.isspace() for char in value):
            raise ConnectError(f"{value!r} cannot stand in the command {text!r}", TargetState.UNREACHABLE)
    return expand(text, tokens)


def expand_path(text: str, tokens: Mapping[str, str]) -> str:
    """Replace tokens and `${NAME}` in a path, and `~` at its start.

    Raises:
        ConnectError: a token, a variable or a home folder is not known.
    """

    def variable(match: re.Match[str]) -> str:
        if match[1] not in os.environ:
            raise ConnectError(f"{text!r} in ssh_config: {match[1]} is not set", TargetState.UNREACHABLE)
        return os.environ[match[1]]

    expanded = _VARIABLE.sub(variable, expand(text, tokens))
    try:
        return str(Path(expanded).expanduser())
    except RuntimeError as error:
        raise ConnectError(f"{text!r} in ssh_config: {error}", TargetState.UNREACHABLE) from error
