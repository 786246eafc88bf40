"""The flags that say what is run, how and on what: one set for `opsbook run` and for `opsbook plan`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from opsbook.cli.locking import locking_flags
from opsbook.cli.noted import ack_flag
from opsbook.cli.part import chosen_part
from opsbook.cli.prepare import file_parameters, given_parameters, request_for
from opsbook.cli.screen import is_terminal
from opsbook.execution.request import RunRequest
from opsbook.runbook.notebook import read_runbook

_FLAGS = (
    click.option("-p", "--param", "params", multiple=True, metavar="NAME=VALUE", help="Give a parameter."),
    click.option(
        "-f", "--params-file", "files", multiple=True, type=click.Path(path_type=Path), help="YAML or JSON file."
    ),
    click.option("-t", "--targets", "pattern", metavar="PATTERN", help="Limit the run to these targets."),
    click.option(
        "-i", "--inventory", "inventory_files", multiple=True, type=click.Path(path_type=Path), help="Ansible format."
    ),
    click.option("--archive", type=click.Path(path_type=Path), help="Where runs are kept."),
    click.option("--max-fail", metavar="N|N%", help="How many targets may fail before a change stops."),
    click.option("--parallel", type=click.IntRange(min=1), help="How many targets work at once."),
    click.option(
        "--host-keys", type=click.Choice(["strict", "accept-new", "off"]), help="What to do with a new host key."
    ),
    click.option("--failed-from", metavar="RUN", help="Only the targets that failed in that run."),
    click.option("--check", is_flag=True, help="Dry run: send read-only commands alone. Local Python runs."),
    click.option("--timeout", "run_timeout", metavar="TIME", help="For the whole run, such as 2h."),
    click.option("--cell-timeout", metavar="TIME", help="For each cell whose own tag does not say."),
    click.option("--always-timeout", metavar="TIME", help="For each clean-up cell after a failure or a stop (60s)."),
    click.option("--section", multiple=True, metavar="HEADING", help="Only the cells under this heading."),
    click.option("--only-tags", multiple=True, metavar="TAG,...", help="Only the cells with one of these tags."),
    click.option("--skip-tags", multiple=True, metavar="TAG,...", help="Leave out the cells with one of these tags."),
    locking_flags,
    ack_flag,
    click.option("--run-id", metavar="ID", help="Run at most once under this id; again, it prints the first result."),
    click.option("--yes", is_flag=True, help="Confirm every gate beforehand."),
    click.option("--reason", default="", help="Why; kept in the record."),
)


def run_flags(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the flags that `asked_for` takes."""
    for flag in reversed(_FLAGS):
        command = flag(command)
    return command


def asked_for(runbook: Path, **flags: Any) -> RunRequest:
    """Return what a command line asks to be run.

    Raises:
        OpsbookError: it cannot be run like that; nothing was started.
    """
    read = read_runbook(runbook)
    values, texts = file_parameters(flags.pop("files")), given_parameters(flags.pop("params"))
    part = chosen_part(**{name: flags.pop(name) for name in ("section", "only_tags", "skip_tags")})
    watched = is_terminal(sys.stderr) and is_terminal(sys.stdin)
    return request_for(read, values=values, texts=texts, terminal=watched, selection=part, **flags)
