"""The `opsbook` command: finds the command asked for, and turns every error into two lines and an exit code.

Commands are imported when they are run, so that `--help` and a refused command line cost next to nothing.
"""

from __future__ import annotations

import atexit
import difflib
import errno
import gc
import os
import signal
import sys
import threading
from contextlib import suppress
from importlib import import_module
from typing import NoReturn

import click

import opsbook
from opsbook.errors import ExitCode, OpsbookError
from opsbook.model.visible import ci_safe, one_line, visible

_SHOWN = 60
"""Characters of a path nobody can have written."""
_GARBAGE = 20_000
"""Objects made between two searches for garbage: a command imports many, and makes hardly any garbage."""

COMMANDS = {
    "run": "Run a runbook.",
    "plan": "Show what a run would do, and run nothing.",
    "check": "Look through runbooks for what would stop a run.",
    "resume": "Go on with a run that stopped.",
    "exec": "Run one command on some targets.",
    "show": "Show a run, or what a runbook takes and does.",
    "report": "Write a run as one page.",
    "runs": "List the runs, newest first.",
    "logs": "Print what a run's cells and targets said.",
    "diff": "Compare two runs.",
    "search": "Search all runs and the runbook library.",
    "lineage": "Show where cells come from, and where else they are.",
    "note": "Keep notes on runbooks, cells and runs.",
    "targets": "List the targets a pattern names.",
    "stop": "Stop a run that is going on.",
    "locks": "List who holds which targets, and what was left in the middle.",
    "archive": "Verify, prune and hand on the archive.",
    "demo": "Start a small SSH fleet on this machine and patch it.",
}


class _Commands(click.Group):
    """The commands by name; each lives in the module of its name."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name not in COMMANDS:
            return None
        command = import_module(f"opsbook.cli.{cmd_name}").command
        return command if isinstance(command, click.Command) else None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            near = difflib.get_close_matches(args[0], COMMANDS, n=1)
            guess = f"did you mean '{near[0]}'?" if near else f"commands: {', '.join(COMMANDS)}"
            raise click.UsageError(f"no such command '{args[0]}'\n{guess}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.version_option(opsbook.__version__, "-V", "--version", message="opsbook %(version)s")
def cli(*, debug: bool) -> None:
    """Run Jupyter notebooks as operations runbooks."""
    del debug  # read from the command line by main(), where errors end up


def main() -> NoReturn:
    """Run the command line of this process, and exit with its code."""
    gc.set_threshold(_GARBAGE)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # it was closed before we began
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123, SIM115  for the process's life
    code = _run(sys.argv[1:] or ["--help"])
    for number, stream in ((1, sys.stdout), (2, sys.stderr)):
        try:
            stream.flush()
        except (OSError, ValueError):
            # whoever read this is gone: that is no failure of ours, and Python must not print one at its end
            os.dup2(os.open(os.devnull, os.O_WRONLY), number)
    _leave(code)


def _leave(code: int) -> NoReturn:
    """End the process without taking apart all it imported, which takes longer than a short run's cells."""
    here = threading.current_thread()
    if any(thread is not here and not thread.daemon for thread in threading.enumerate()):
        sys.exit(code)  # somebody is still at work: Python waits for them
    atexit._run_exitfuncs()  # noqa: SLF001  what is to be done at the end is done all the same
    os._exit(code)


def _run(args: list[str]) -> int:
    try:
        result = cli.main(args, prog_name="opsbook", standalone_mode=False)
    except click.exceptions.Exit as done:
        return done.exit_code
    except (BrokenPipeError, SystemExit):
        return 0  # whoever read our output has seen enough (click leaves by SystemExit then)
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001  the last border: a defect of ours is two lines too
        return _fail(*_explain(error, args), args)
    return int(result) if isinstance(result, int) else 0


def _explain(error: BaseException, args: list[str]) -> tuple[str, str, int]:
    """Return what went wrong, what to do about it, and the exit code."""
    match error:
        case OpsbookError():
            return str(error), error.hint, error.exit_code
        case click.UsageError():
            return *_misused(error), ExitCode.USAGE
        case click.Abort() | KeyboardInterrupt():
            return "interrupted", "", ExitCode.SIGNAL + signal.SIGINT
        case OSError(errno=errno.ENOSPC | errno.EDQUOT):
            return f"cannot write: {error.strerror}", "make room, or write elsewhere", ExitCode.FAILED
        case OSError(errno=errno.ENAMETOOLONG) | UnicodeEncodeError() if told := _odd_word(error, args):
            return *told, ExitCode.USAGE
    what = f"internal error: {type(error).__name__}: {error}"
    return what, "opsbook --debug … shows where", ExitCode.INTERNAL


def _misused(error: click.UsageError) -> tuple[str, str]:
    """Say in the way of all errors what click says of a command line, and what to do about it."""
    where = error.ctx.command_path if error.ctx else "opsbook"
    what, _, hint = error.format_message().partition("\n")
    match error:
        case click.exceptions.NoArgsIsHelpError(ctx=click.Context(command=click.Group() as group) as ctx):
            what, hint = f"{where} needs a command: {', '.join(group.list_commands(ctx))}", ""
    return f"{what[:1].lower()}{what[1:].removesuffix('.')}", hint or f"see {where} --help"


def _odd_word(error: Exception, args: list[str]) -> tuple[str, str] | None:
    """Say which word of a command line no file can be called, or no text can hold; None when it was none of them."""
    if isinstance(error, OSError):
        return f"{str(error.filename)[:_SHOWN]}… is too long for a path", "name a file, or a run"
    odd = next((arg for arg in args if arg.encode(errors="replace").decode() != arg), None)
    return None if odd is None else (f"{odd!r} is not valid Unicode", "write it in UTF-8")


def _fail(what: str, hint: str, code: int, args: list[str]) -> int:
    """Print an error as two lines on stderr, and return its exit code."""
    from opsbook.redaction import Redactor  # noqa: PLC0415  what goes well needs none here

    masked = Redactor().text
    if "--debug" in args:
        import traceback  # noqa: PLC0415

        trace = visible(masked(traceback.format_exc())).split("\n")
        sys.stderr.write("\n".join(map(ci_safe, trace)))
    said = [f"error: {one_line(masked(what))}", *([f"hint:  {one_line(masked(hint))}"] if hint else [])]
    lines = list(map(ci_safe, said))
    with suppress(OSError, ValueError):  # stderr may be gone too; the exit code still says it
        print("\n".join(lines), file=sys.stderr)  # noqa: T201  this is the command line
    return code
