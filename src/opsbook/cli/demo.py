"""`opsbook demo`: the main job, on machines that exist only for this minute."""

from __future__ import annotations

import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import click

from opsbook.cli.prepare import request_for
from opsbook.cli.run import run_and_show
from opsbook.cli.screen import is_terminal, message_console, short_path
from opsbook.demo import DemoFleet
from opsbook.errors import RunbookError
from opsbook.runbook.notebook import read_runbook

RUNBOOK = "patch.ipynb"


@click.command("demo")
@click.option("--serve", is_flag=True, help="Leave the fleet up until Ctrl-C, and say how to use it.")
@click.option("--archive", type=click.Path(path_type=Path), help="Where the run is kept.")
@click.option("--json", "as_json", is_flag=True, help="Print the record as one JSON document.")
def command(*, serve: bool, archive: Path | None, as_json: bool) -> int:
    """Start an SSH fleet on loopback and run the patch runbook against it.

    Real SSH, eight simulated machines: a package manager, a service manager, reboots. Nothing on this machine changes.
    """
    runbook = shipped_runbook(RUNBOOK)
    with _fleet() as fleet:
        if serve:
            _serve(fleet, runbook)
            return 0
        note = f"a fleet of {len(fleet.hosts)} simulated machines listens on 127.0.0.1, for this run only"
        message_console().print(note, markup=False)
        request = request_for(
            read_runbook(runbook),
            values={},
            texts={"stack": "prod"},
            inventory_files=(fleet.inventory,),
            archive=archive,
            terminal=is_terminal(sys.stderr) and is_terminal(sys.stdin),
            yes=True,
        )
        return run_and_show(request, as_json=as_json, quiet=False)


def shipped_runbook(name: str) -> Path:
    """Return where a runbook that comes with opsbook lies: in the package, or beside a checkout's sources.

    Raises:
        RunbookError: it is in neither place.
    """
    package = Path(__file__).parent.parent
    for folder in (package / "runbooks", package.parent.parent / "runbooks"):
        if (folder / name).is_file():
            return folder / name
    raise RunbookError(f"the runbook {name} did not come with this installation", "reinstall opsbook")


@contextmanager
def _fleet() -> Iterator[DemoFleet]:
    """Start the fleet in a folder of its own, and leave nothing behind."""
    folder = Path(tempfile.mkdtemp(prefix="opsbook-demo-"))
    try:
        with DemoFleet.start(folder / "fleet") as fleet:
            yield fleet
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _serve(fleet: DemoFleet, runbook: Path) -> None:
    """Say how to use the fleet, and wait for Ctrl-C or a signal."""
    over = threading.Event()

    def end(number: int, frame: FrameType | None) -> None:
        del number, frame
        over.set()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, end)
    names = ", ".join(host.name for host in fleet.hosts)
    for line in (
        f"the fleet is up: {names}",
        f"inventory  {fleet.inventory}",
        f"run        opsbook run {short_path(runbook)} -i {fleet.inventory} -p stack=prod",
        "Ctrl-C ends it",
    ):
        sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
    over.wait()
