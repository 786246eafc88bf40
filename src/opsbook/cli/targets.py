"""`opsbook targets`: what a pattern names."""

from __future__ import annotations

import sys
from pathlib import Path

import click
import msgspec

from opsbook.cli.prepare import read_inventory
from opsbook.cli.screen import result_console
from opsbook.config import load_settings
from opsbook.errors import InventoryError
from opsbook.inventory.pattern import select
from opsbook.report.terminal import print_targets


@click.command("targets")
@click.argument("pattern", default="all")
@click.option("-i", "--inventory", "files", multiple=True, type=click.Path(path_type=Path), help="Ansible format.")
@click.option("--json", "as_json", is_flag=True, help="Print the targets as one JSON document.")
def command(pattern: str, *, files: tuple[Path, ...], as_json: bool) -> None:
    """List the targets PATTERN names: web, web:&prod, 'web*:!web3', all."""
    inventory = read_inventory(load_settings(), files)
    if inventory is None:
        raise InventoryError("there is no inventory", "give one with -i, or set `inventory` in opsbook.toml")
    targets = select(inventory, pattern)
    if as_json:
        sys.stdout.buffer.write(msgspec.json.encode(targets) + b"\n")
    else:
        print_targets(targets, result_console())
