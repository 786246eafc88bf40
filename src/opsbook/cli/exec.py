"""`opsbook exec`: one command on some targets, archived like any run."""

from __future__ import annotations

import shlex
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from opsbook.archive.journal import read_journal
from opsbook.cli.locking import locking_flags
from opsbook.cli.prepare import request_for
from opsbook.cli.run import run_and_watch
from opsbook.cli.screen import is_terminal, message_console, result_console, write_document
from opsbook.errors import UsageError
from opsbook.execution.request import FinishedRun
from opsbook.fleet.fleet import check_flags
from opsbook.report.document import answers_document
from opsbook.report.said import last_answers, print_answers, print_verdict
from opsbook.report.summary import summarise
from opsbook.runbook.notebook import Runbook, compose_runbook

NAME = "exec"
EXAMPLES = """\b
  opsbook exec web -- systemctl status nginx     several words are quoted and joined
  opsbook exec web 'uptime; df -h | tail -3'     one word is a line of shell
  opsbook exec web - < script.sh                 - reads the script from stdin
"""
LINE = ("sudo", "as_user", "read_only", "waves", "timeout", "idle_timeout", "durable")
"""The flags that stand in the cell's line; the others are the run's."""
_LABEL = 60


class _Command(click.Command):
    """Tells who forgot `--` that the command's own flags were taken for ours."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            message = f"{error.format_message()}\nput -- before the command: opsbook exec PATTERN -- COMMAND"
            raise click.UsageError(message, ctx) from error


@click.command(NAME, cls=_Command, epilog=EXAMPLES)
@click.argument("pattern")
@click.argument("words", metavar="COMMAND...", nargs=-1, required=True)
@click.option(
    "-i", "--inventory", "inventory_files", multiple=True, type=click.Path(path_type=Path), help="Ansible format."
)
@click.option("--sudo/--no-sudo", default=None, help="Through sudo; else as the inventory says.")
@click.option("--as-user", metavar="NAME", help="As this user, through sudo.")
@click.option("--read-only", is_flag=True, help="It changes nothing.")
@click.option("--waves", metavar="SIZES", help="Wave after wave, such as 1,25%,100%.")
@click.option("--max-fail", metavar="N|N%", help="How many targets may fail before nothing new starts.")
@click.option("--parallel", type=click.IntRange(min=1), help="How many targets work at once.")
@click.option("--timeout", metavar="TIME", help="For the command on each target, such as 90s.")
@click.option("--idle-timeout", metavar="TIME", help="How long it may say nothing.")
@click.option("--durable", is_flag=True, help="It survives a lost link.")
@click.option("--failed-from", metavar="RUN", help="Only the targets that failed in that run.")
@click.option("--host-keys", type=click.Choice(["strict", "accept-new", "off"]), help="What to do with a new host key.")
@click.option("--check", is_flag=True, help="Dry run: send nothing that is not --read-only.")
@locking_flags
@click.option("--run-id", metavar="ID", help="Run at most once under this id; again, it prints the first result.")
@click.option("--archive", type=click.Path(path_type=Path), help="Where runs are kept.")
@click.option("--reason", default="", help="Why; kept in the record.")
@click.option("--json", "as_json", is_flag=True, help="Print the record and what was said as one JSON document.")
@click.option("--quiet", is_flag=True, help="Print nothing when it succeeds.")
def command(pattern: str, words: tuple[str, ...], *, as_json: bool, quiet: bool, **flags: Any) -> int:
    """Run COMMAND on the targets PATTERN names, and print what they said, the same only once.

    It is a runbook of one cell: the same rules, archive and exit codes as those of `opsbook run`. After the first
    failure nothing new starts, unless --max-fail allows it.
    """
    line = {name: flags.pop(name) for name in LINE}
    check_flags(**line)
    runbook = one_command(pattern, script_of(words), **line)
    watched = is_terminal(sys.stderr) and is_terminal(sys.stdin)
    request = request_for(runbook, values={}, texts={}, pattern=pattern, terminal=watched, **flags)
    finished = run_and_watch(request, quiet=quiet)
    code = finished.record.exit_code or 0
    silent = quiet and code == 0
    if as_json or not silent:
        _print_answers(finished, as_json=as_json)
    if not silent:
        print_verdict(summarise(finished.record, copy=finished.copy), message_console())
    return code


def script_of(words: tuple[str, ...]) -> str:
    """Return the script a command line means.

    Raises:
        UsageError: there is nothing in it.
    """
    try:
        script = sys.stdin.read() if words == ("-",) else words[0] if len(words) == 1 else shlex.join(words)
    except (UnicodeDecodeError, ValueError) as error:
        raise UsageError(f"the script on stdin cannot be read: {error}") from None
    if not script.strip():
        raise UsageError("there is no command to run", "opsbook exec PATTERN -- COMMAND")
    return script


def one_command(pattern: str, script: str, **flags: Any) -> Runbook:
    """Return the runbook of one `%%on` cell that runs a script on what a pattern names.

    Raises:
        RunbookError: the script cannot be kept in a notebook.
    """
    words = ["%%on"]
    for name, value in flags.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            words += [f"--{flag}"] if value else [f"--no-{flag}"] if name == "sudo" else []
        elif value is not None:
            words.append(shlex.quote(f"--{flag}={value}"))
    words += ["--", shlex.quote(" ".join(pattern.split()))]
    label = next(line.strip() for line in script.splitlines() if line.strip())[:_LABEL]
    # what nobody wrote has no label of its own: whoever looks sees the command alone
    return compose_runbook(NAME, [(label, "%load_ext opsbook"), ("", f"{' '.join(words)}\n{script}")], title=label)


def _print_answers(finished: FinishedRun, *, as_json: bool) -> None:
    """Print what the targets said: the result."""
    record, copy = finished.record, finished.copy
    answers = last_answers(read_journal(finished.folder.journal), record.targets.selected)
    with suppress(OSError, ValueError):  # nobody reads it, or there is no room for it: not the run's failure
        if as_json:
            write_document(answers_document(record, answers, copy=copy))
        else:
            logs = {name: finished.folder.host_log(name) for name in answers}
            print_answers(answers, result_console(), logs=logs)
        sys.stdout.flush()
