"""`%%on PATTERN [flags]`: a cell that is a shell script, run on every target the pattern names.

`{name}` in the line is replaced by the notebook's variable, after the line was split into words, so that a value can
neither add a flag nor a word.
"""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Mapping
from typing import Any, NoReturn

from opsbook.errors import UsageError
from opsbook.fleet.api import targets
from opsbook.fleet.fleet import Fleet, check_flags
from opsbook.fleet.operation import shell_value
from opsbook.fleet.result import FleetResult
from opsbook.fleet.session import current
from opsbook.model.amount import parse_share
from opsbook.redaction import Secret

_FIELD = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")


class _Parser(argparse.ArgumentParser):
    """Raises instead of ending the kernel."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"%%on: {message}", self.format_usage().strip().replace("\n", " "))


def _parser() -> _Parser:
    parser = _Parser(prog="%%on", add_help=False, allow_abbrev=False)
    parser.add_argument("pattern", nargs="?", help="which targets; without it, all that this run was given")
    parser.add_argument("--waves")
    parser.add_argument("--max-fail")
    parser.add_argument("--parallel", type=int)
    parser.add_argument("--timeout")
    parser.add_argument("--idle-timeout")
    parser.add_argument("--durable", action="store_true")
    parser.add_argument("--sudo", action=argparse.BooleanOptionalAction)
    parser.add_argument("--as-user")
    parser.add_argument("--shell")
    parser.add_argument("--dir", dest="directory")
    parser.add_argument("--vars", action="store_true")
    parser.add_argument("--env", action="append", default=[], metavar="NAME=parameter")
    parser.add_argument("--read-only", action="store_true")
    parser.add_argument("--no-check", dest="check", action="store_false")
    parser.add_argument("--include-failed", action="store_true")
    parser.add_argument("--hard-stop", action="store_true")
    parser.add_argument("--idempotent", action="store_true")
    parser.add_argument("--fresh", action="store_true")
    return parser


def on(line: str, cell: str, namespace: Mapping[str, object]) -> None:
    """Run a cell's script as its line says, and show the results.

    Raises:
        UsageError: the line cannot be understood.
        FleetError: more targets failed than the limit allows.
    """
    flags = read_line(line, namespace)
    pattern, waves = flags.pop("pattern"), flags.pop("waves")
    flags["env"] = {name: _named(name, source, namespace) for name, source in map(_pair, flags["env"])}
    fleet = targets(pattern)
    result = _in_waves(fleet, cell, waves, flags) if waves else fleet.run(cell, **flags)
    current().show(result)


def read_line(line: str, namespace: Mapping[str, object]) -> dict[str, Any]:
    """Return the flags of a line by name, `pattern` among them, with its variables filled in.

    Raises:
        UsageError: the line cannot be understood, or names a variable that is not there.
    """
    try:
        words = [_filled(word, namespace) for word in shlex.split(line)]
    except ValueError as error:
        raise UsageError(f"%%on: {error} in {line!r}") from error
    flags = vars(_parser().parse_args(words))
    try:
        check_flags(**flags)
        _check_bounds(flags["max_fail"], flags["parallel"])
    except UsageError as error:
        raise UsageError(f"%%on: {error}", error.hint) from error
    for text in flags["env"]:
        _pair(text)
    return flags


def _check_bounds(max_fail: str | None, parallel: int | None) -> None:
    if max_fail is not None:
        parse_share(max_fail, of=1)
    if parallel is not None and parallel < 1:
        raise UsageError("--parallel takes a number from 1 on")


def variables_in(line: str) -> tuple[str, ...]:
    """List the names of the variables a line asks for."""
    return tuple(dict.fromkeys(_FIELD.findall(line)))


def _in_waves(fleet: Fleet, cell: str, waves: str, flags: dict[str, object]) -> FleetResult:
    """Run a script wave by wave under one limit, and return all results as one."""
    flags = dict(flags)
    limit, seconds, results = flags.pop("max_fail"), 0.0, []
    for wave in fleet.waves(waves, max_fail=limit):  # type: ignore[arg-type]  # argparse gives text or None
        part = wave.run(cell, **flags)  # type: ignore[arg-type]  # the flags are run()'s own parameters
        results += list(part)
        seconds += part.duration_s
    return FleetResult(fleet, tuple(results), duration_s=seconds)


def _filled(word: str, namespace: Mapping[str, object]) -> str:
    return _FIELD.sub(lambda match: shell_value(_value(match[1], namespace)), word)


def _value(name: str, namespace: Mapping[str, object]) -> object:
    if name not in namespace:
        raise UsageError(f"%%on: there is no variable {name!r}", "declare it as a parameter, or set it in a cell above")
    value = namespace[name]
    if isinstance(value, Secret):
        raise UsageError(f"%%on: {name!r} is a secret and cannot stand in the line", f"use --env NAME={name}")
    return value


def _pair(text: str) -> tuple[str, str]:
    name, equals, source = text.partition("=")
    if not equals or not name.isidentifier():
        raise UsageError(f"%%on: --env {text!r} is not NAME=parameter")
    return name, source


def _named(name: str, source: str, namespace: Mapping[str, object]) -> str | Secret:
    if source not in namespace:
        raise UsageError(f"%%on: --env {name}={source}: there is no variable {source!r}")
    value = namespace[source]
    return value if isinstance(value, Secret) else shell_value(value)
