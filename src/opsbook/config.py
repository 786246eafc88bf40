"""Settings: `opsbook.toml` found upwards from the working directory, `OPSBOOK_*` over it, flags over both.

Relative paths in the file are relative to the file. A key that is not known is an error: a setting that is silently
ignored is one somebody relied on.
"""

from __future__ import annotations

import difflib
import os
import re
import stat
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Struct

from opsbook.errors import UsageError
from opsbook.redaction import PROMPT, is_reference
from opsbook.token_patterns import why_refused

FILE = "opsbook.toml"
NOTES = "notes"
"""The folder of notes beside the file."""
LIBRARY = "runbooks"
"""The folder of runbooks beside the file."""
NO_CONFIG = "none"
"""The name of no ssh_config file."""
_TOP = (
    "archive",
    "archive_mode",
    "inventory",
    "runbooks",
    "parallel",
    "max_fail",
    "command_timeout",
    "idle_timeout",
    "run_timeout",
    "cell_timeout",
    "always_timeout",
    "meme",
)
_SSH = ("host_keys", "known_hosts", "connect_timeout", "keepalive", "password", "sudo_password")
_OUTPUT = ("cell_characters", "run_characters")
_VARIABLES = {
    **{f"OPSBOOK_{name.upper()}": (name,) for name in _TOP},
    **{f"OPSBOOK_{name.upper()}": ("ssh", name) for name in _SSH},
    **{f"OPSBOOK_OUTPUT_{name.upper()}": ("output", name) for name in _OUTPUT},
    "OPSBOOK_SSH_CONFIG": ("ssh", "config"),
    "OPSBOOK_LOCKS": ("locks", "path"),
}
"""Which setting each variable lays itself over."""
_SEVERAL = {("inventory",), ("runbooks",), ("trusted_scripts",), ("ssh", "known_hosts"), ("logs", "keywords")}
"""Settings that are lists: in a file one may stand alone, in a variable they are joined as a PATH is."""
_PATHS = {
    ("archive",),
    ("inventory",),
    ("runbooks",),
    ("trusted_scripts",),
    ("ssh", "known_hosts"),
    ("ssh", "config"),
    ("locks", "path"),
    ("notes", "path"),
}


class SshSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[ssh]`: how targets are reached."""

    host_keys: str = ""
    """`strict`, `accept-new` or `off`; empty: accept-new on a terminal, else strict."""
    known_hosts: tuple[str, ...] = ()
    config: str | None = None
    """The ssh_config file to read instead of the user's and the system's; `none` for none."""
    password: str | None = None
    """The reference of the password to log in with."""
    sudo_password: str | None = None
    """The reference of the password sudo asks for."""
    connect_timeout: str | float = "10s"
    keepalive: str | float = "15s"
    """Between questions to a silent connection; after three without an answer it is dead."""


_ENV = {"pass_": "pass", "set_": "set"}
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class EnvSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename=_ENV):
    """`[env]`: what a notebook sees of the environment besides what every notebook does."""

    pass_: tuple[str, ...] = ()
    """Variables to hand on: names, or patterns such as `AWS_*`."""
    set_: dict[str, str] = {}
    """Variables to set."""
    secrets: dict[str, str] = {}
    """Variables to set to what references stand for, once the notebook has loaded opsbook."""

    @property
    def references(self) -> dict[str, str]:
        """The references of those, by variable; what a person is asked for is told by the variable's name."""
        return {name: f"{PROMPT}{name}" if text == PROMPT else text for name, text in self.secrets.items()}


class OutputSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[output]`: how many characters of what cells say are kept, in the executed copy and in the journal each."""

    cell_characters: Annotated[int, msgspec.Meta(ge=1000)] = 10_000_000
    run_characters: Annotated[int, msgspec.Meta(ge=1000)] = 100_000_000


_LINES = re.compile(r"([0-9]{0,4}):([0-9]{0,4}):([0-9]{0,4}):([0-9]{0,4})")
_LINE_COUNTS = (50, 20, 1, 20)


class LogSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[logs]`: whether the executed copy sums long outputs up, which the journal has whole."""

    summarize: bool | str = False
    """Whether all cells are summed up, and not only those that begin with `!!`; or that they are, and by which numbers.

    NII's `s:h:e:f`: from more than s lines on, the first h, at most 2 h that match, the last f. What e says, lines
    while the cell runs, is done otherwise here.
    """
    keywords: tuple[str, ...] = ()
    """Words that make a line worth showing, besides the common ones for what goes wrong."""

    @property
    def lines(self) -> tuple[int, int, int]:
        """How many lines are shown whole, and of more than those how many of the beginning and of the end."""
        match = _LINES.fullmatch(self.summarize) if isinstance(self.summarize, str) else None
        texts = match.groups() if match is not None else ("",) * len(_LINE_COUNTS)
        shown, head, _, tail = (int(text or known) for text, known in zip(texts, _LINE_COUNTS, strict=True))
        return shown, head, tail


class RedactSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[redact]`: what is masked besides the secrets a run is given."""

    patterns: tuple[str, ...] = ()
    """Regular expressions, tried on each line; of a group called `secret` only that group is masked."""
    tokens: bool = True
    """Whether tokens are masked that are known by their format."""


class LockSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[locks]`: where runs meet that may want the same targets."""

    path: str | None = None
    """A folder; None for the user's own, `opsbook/locks` in XDG_STATE_HOME or ~/.local/state."""


class NoteSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[notes]`: where the notes on runbooks, cells and runs lie."""

    path: str = NOTES
    """A folder; where nothing is said, `notes` beside the file, or in the working directory without one."""


class RetentionSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[retention]`: how long `opsbook archive prune` keeps runs after their end; None for ever."""

    keep: str | float | None = None
    """Those that succeeded."""
    keep_failed: str | float | None = None
    """Those that did not, however they ended."""


class Settings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that can be set once for all runs."""

    archive: str = "archive"
    inventory: tuple[str, ...] = ()
    runbooks: tuple[str, ...] = ()
    """Folders of the runbook library; where nothing is said, `runbooks` beside the file, if it is there."""
    archive_mode: Literal["private", "group"] = "private"
    """Who may read and write new runs: nobody else, or the group of the archive's folder."""
    parallel: Annotated[int, msgspec.Meta(ge=1)] = 64
    max_fail: str | int = "0"
    command_timeout: str | float = "30m"
    idle_timeout: str | float | None = None
    """How long a command may say nothing; None for any time."""
    run_timeout: str | float | None = None
    """How long a run may take; None for any time."""
    cell_timeout: str | float | None = None
    """How long each cell may take whose own tag does not say; None for any time."""
    always_timeout: str | float = "60s"
    """How long each clean-up cell may take after a failure or a stop."""
    trusted_scripts: tuple[str, ...] = ()
    """Inventory scripts that may be run; any other executable inventory is refused."""
    ssh: SshSettings = SshSettings()
    env: EnvSettings = EnvSettings()
    output: OutputSettings = OutputSettings()
    logs: LogSettings = LogSettings()
    redact: RedactSettings = RedactSettings()
    locks: LockSettings = LockSettings()
    notes: NoteSettings = NoteSettings()
    retention: RetentionSettings = RetentionSettings()
    meme: Literal["auto", "keep", "off"] = "auto"
    """Whether executed copies have MEMEs: always, where their runbook has some, or just as it has them."""


def load_settings(start: Path | None = None, environ: Mapping[str, str] | None = None) -> Settings:
    """Return the settings that hold in a directory.

    Raises:
        UsageError: the file or a variable cannot be understood.
    """
    environ = os.environ if environ is None else environ
    folder = Path.cwd() if start is None else start
    file = next((place / FILE for place in (folder, *folder.parents) if (place / FILE).is_file()), None)
    values = _read(file) if file else {}
    library = (file.parent if file else folder) / LIBRARY
    if library.is_dir():
        values.setdefault("runbooks", [str(library)])
    if file and isinstance(notes := values.setdefault("notes", {}), dict):
        notes.setdefault("path", str(file.with_name(NOTES)))
    variables = _from_environ(values, environ)
    try:
        settings = msgspec.convert(values, Settings, strict=False)
    except msgspec.ValidationError as error:
        sources = ", ".join((*([str(file)] if file else []), *variables))
        raise UsageError(f"{sources}: {error}", _guess(str(error))) from None
    if settings.ssh.host_keys not in {"", "strict", "accept-new", "off"}:
        raise UsageError(f"host_keys is {settings.ssh.host_keys!r}", "strict, accept-new or off")
    if settings.ssh.config not in {None, NO_CONFIG} and not Path(str(settings.ssh.config)).is_file():
        raise UsageError(f"there is no ssh_config file {settings.ssh.config}", "none stands for no file")
    for name in ("password", "sudo_password"):
        given = getattr(settings.ssh, name)
        if given is not None and not is_reference(given):
            raise UsageError(f"{name} under [ssh] is given by reference, not by value", "such as env:NAME or file:PATH")
    _check_environment(settings.env)
    _check_logs(settings.logs)
    for pattern in settings.redact.patterns:
        if why := why_refused(pattern):
            raise UsageError(f"{file}: the pattern {pattern!r} under [redact]: {why}", "patterns are Python's")
    return settings


def _refuse_planted(file: Path) -> None:
    """Refuse a file somebody else has left where everybody can leave one: it names what is run and where it goes."""
    owners = {file.lstat().st_uid, file.stat().st_uid}
    if owners - {0, os.geteuid()} and file.parent.stat().st_mode & stat.S_IWOTH:
        raise UsageError(
            f"{file} belongs to somebody else, in a folder everybody can write to",
            "work in another folder, or take the file away",
        )


def _check_logs(logs: LogSettings) -> None:
    """Refuse numbers of lines that are none."""
    if isinstance(logs.summarize, str) and not _LINES.fullmatch(logs.summarize):
        raise UsageError(f"summarize under [logs] is {logs.summarize!r}", "true, false or numbers: 50:20:1:20")


def _check_environment(env: EnvSettings) -> None:
    """Refuse a value where a reference belongs, a reference where a value belongs, and a name no variable can have."""
    for name, reference in env.secrets.items():
        if not _VARIABLE.fullmatch(name) or name.startswith("OPSBOOK_"):
            raise UsageError(f"{name!r} under [env] secrets cannot be a notebook's variable", "such as API_TOKEN")
        if not is_reference(reference):
            raise UsageError(f"{name} under [env] secrets is given by reference, not by value", "such as env:NAME")
    for name, value in env.set_.items():
        if is_reference(value) and not value.startswith("file:"):  # that may be an address
            raise UsageError(f"{name} under [env] set would be set to the reference itself", "write it under secrets")
    if both := sorted({*env.set_} & {*env.secrets}):
        raise UsageError(f"{both[0]} stands under [env] set and under [env] secrets", "keep one of them")


def _read(file: Path) -> dict[str, Any]:
    _refuse_planted(file)
    try:
        values = tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"{file}: {error}", 'it is a TOML file, such as: inventory = "hosts.ini"') from error
    except OSError as error:
        raise UsageError(f"cannot read {file}: {error.strerror}") from error
    for place in _SEVERAL | _PATHS:
        table = values.get(place[0]) if len(place) > 1 else values
        if not isinstance(table, dict) or place[-1] not in table:
            continue  # a table that is none is told as the mistake it is
        value = _listed(table[place[-1]]) if place in _SEVERAL else table[place[-1]]
        table[place[-1]] = _absolute(value, file.parent) if place in _PATHS and value != NO_CONFIG else value
    environment = values.get("env")
    _locate_references(values.get("ssh"), file.parent)
    _locate_references(environment.get("secrets") if isinstance(environment, dict) else None, file.parent)
    return values


def _locate_references(table: Any, folder: Path) -> None:
    """Make the files absolute that a table's references name."""
    for name, text in table.items() if isinstance(table, dict) else ():
        scheme, colon, place = text.partition(":") if isinstance(text, str) else ("", "", "")
        if scheme == "file" and place:
            table[name] = f"{scheme}{colon}{_absolute(place, folder)}"


def _from_environ(values: dict[str, Any], environ: Mapping[str, str]) -> list[str]:
    """Lay the variables over the file's values; return the names of those that are set."""
    names = [name for name in _VARIABLES if environ.get(name)]
    for name in names:
        place = _VARIABLES[name]
        table = values.setdefault(place[0], {}) if len(place) > 1 else values
        if not isinstance(table, dict):
            return []  # the file's own mistake is told first
        table[place[-1]] = environ[name].split(os.pathsep) if place in _SEVERAL else environ[name]
        if place == ("locks", "path"):
            table["path"] = _absolute(table["path"], Path.cwd())
    return names


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _absolute(value: Any, folder: Path) -> Any:
    if isinstance(value, list):
        return [_absolute(item, folder) for item in value]
    if not isinstance(value, str):
        return value
    if "\0" in value:
        raise UsageError(f"{value!r} is not a path")
    try:
        return str(folder / Path(value).expanduser())
    except RuntimeError as error:
        raise UsageError(f"{value}: {error}", "write the path out") from error


def _guess(sentence: str) -> str:
    """Offer the known key nearest to an unknown one."""
    _, marker, rest = sentence.partition("unknown field `")
    tables = (
        Settings,
        SshSettings,
        EnvSettings,
        OutputSettings,
        LogSettings,
        RedactSettings,
        LockSettings,
        NoteSettings,
        RetentionSettings,
    )
    known = [name for table in tables for name in table.__struct_encode_fields__]
    name = rest.partition("`")[0]
    if marker and name in SshSettings.__struct_fields__:
        return f"{name} belongs under [ssh]"
    near = difflib.get_close_matches(name, known, n=1) if marker else []
    return f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
