"""`opsbook targets`: what a pattern names, and whether it can be reached."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click
import msgspec

from opsbook.cli.prepare import NO_INVENTORY, check_ssh_config, host_key_rule, read_inventory
from opsbook.cli.screen import is_terminal, message_console, result_console, write_document
from opsbook.cli.view import UNCHECKED_WARNING, ask_hidden, counting
from opsbook.config import Settings, load_settings
from opsbook.errors import ExitCode, InventoryError, UsageError
from opsbook.fleet.keys import accept_keys as accept_keys_of
from opsbook.fleet.ping import ping
from opsbook.inventory.pattern import select
from opsbook.model.message import RunOptions
from opsbook.model.reach import Reach, ShownKey
from opsbook.model.target import Target
from opsbook.report.reach import print_keys, print_reach, reach_document, reached
from opsbook.report.terminal import print_targets
from opsbook.secrets.inline import masked
from opsbook.secrets.resolve import Resolver

if TYPE_CHECKING:
    from rich.console import Console

_Found = TypeVar("_Found", Reach, ShownKey)


@click.command("targets")
@click.argument("pattern", default="all")
@click.option("-i", "--inventory", "files", multiple=True, type=click.Path(path_type=Path), help="Ansible format.")
@click.option("--ping", "is_ping", is_flag=True, help="Log in to each of them and run `true`.")
@click.option("--accept-keys", is_flag=True, help="Record their host keys; no login is tried.")
@click.option("--parallel", type=click.IntRange(min=1), help="How many targets are asked at once.")
@click.option("--host-keys", type=click.Choice(["strict", "accept-new", "off"]), help="What to do with a new host key.")
@click.option("--json", "as_json", is_flag=True, help="Print the targets as one JSON document.")
def command(
    pattern: str,
    *,
    files: tuple[Path, ...],
    is_ping: bool,
    accept_keys: bool,
    parallel: int | None,
    host_keys: str | None,
    as_json: bool,
) -> int:
    """List the targets PATTERN names: web, web:&prod, 'web*:!web3', all.

    --accept-keys trusts every key that is shown and not known yet: compare the fingerprints. A key that is not the one
    that is known is an error and changes nothing. With it and with --ping the exit code is 0 when all went well, 4 when
    some cannot be reached or logged in to, and 1 for anything else.
    """
    settings = load_settings()
    inventory = read_inventory(settings, files)
    if inventory is None:
        raise InventoryError("there is no inventory", NO_INVENTORY)
    targets = select(inventory, pattern)
    if is_ping and accept_keys:
        raise UsageError("--ping and --accept-keys are two steps", "record the keys first, then ping")
    if host_keys is not None and not is_ping:
        raise UsageError("--host-keys means nothing without --ping")
    if parallel is not None and not (is_ping or accept_keys):
        raise UsageError("--parallel means nothing without --ping or --accept-keys")
    if is_ping or accept_keys:
        check_ssh_config(settings)
    if accept_keys:
        return _accept(targets, settings, as_json=as_json, parallel=parallel)
    if is_ping:
        return _ping(targets, settings, as_json=as_json, parallel=parallel, host_keys=host_keys)
    if as_json:
        write_document(msgspec.json.encode(masked(targets)) + b"\n")
    else:
        print_targets(targets, result_console())
    return ExitCode.SUCCEEDED


def _accept(targets: Sequence[Target], settings: Settings, *, as_json: bool, parallel: int | None) -> int:
    """Record the host keys of all targets, and print them."""
    shown = accept_keys_of(targets, options=RunOptions.from_settings(settings, parallel=parallel))
    return _told(shown, print_keys, as_json=as_json)


def _ping(
    targets: Sequence[Target], settings: Settings, *, as_json: bool, parallel: int | None, host_keys: str | None
) -> int:
    """Ask every target whether it is there, and print how they answered."""
    watched = is_terminal(sys.stderr) and is_terminal(sys.stdin)
    rule = host_key_rule(host_keys, settings, terminal=watched)
    options = RunOptions.from_settings(settings, parallel=parallel, host_keys=rule)
    screen = message_console()
    if rule == "off":
        screen.print(UNCHECKED_WARNING, markup=False)
    resolver = Resolver(ask_hidden if watched else None)
    resolver.ask_now(options.password, options.sudo_password)
    for target in targets:
        resolver.ask_now(target.password, target.become.password)
    with counting(screen, of=len(targets)) as note:
        answers = ping(targets, options=options, watch=lambda ended: note(ended.state), resolver=resolver)
    return _told(reached(targets, answers), print_reach, as_json=as_json)


def _told(found: Sequence[_Found], show: Callable[[Sequence[_Found], Console], None], *, as_json: bool) -> int:
    """Print what was found, and return the exit code it comes to."""
    with suppress(OSError, ValueError):  # nobody reads it: the exit code still says it
        if as_json:
            write_document(reach_document(found))
        else:
            show(found, result_console())
        sys.stdout.flush()
    bad = [one.state for one in found if one.state.is_failure]
    if not bad:
        return ExitCode.SUCCEEDED
    return ExitCode.UNREACHABLE if all(state.is_unreachable for state in bad) else ExitCode.FAILED
