"""What a run costs beside its peers, on the same notebooks, in turn: whole processes, medians, ratios.

python benchmarks/overhead.py [ROUNDS] [ROW…]

Wall time is what a user waits; CPU seconds, of the process and all it started, are what a loaded machine tells apart.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

HERE = Path(sys.executable).parent
NBCLIENT = """
import nbformat, sys
from nbclient import NotebookClient
book = nbformat.read("n.ipynb", as_version=4)
NotebookClient(book, timeout=None).execute()
nbformat.write(book, "out.ipynb")
"""
COMMANDS = {
    "opsbook": [str(HERE / "opsbook"), "run", "n.ipynb", "--quiet"],
    "papermill": [str(HERE / "papermill"), "n.ipynb", "out.ipynb", "--no-progress-bar"],
    "nbclient": [sys.executable, "-c", NBCLIENT],
    "opsbook --help": [str(HERE / "opsbook"), "--help"],
    "import click": [sys.executable, "-c", "import click"],
}


@dataclass(frozen=True)
class Spent:
    """What one process cost."""

    wall: float
    cpu: float
    peak: float
    """Megabytes of the process alone: what a kernel holds is the notebook's."""


@dataclass(frozen=True)
class Row:
    """Two commands on one notebook, and how much of the second's cost the first may have."""

    ours: str
    peer: str
    limit: float
    measure: Callable[[Spent], float]
    unit: str
    cells: tuple[str, ...] = ()


def by_wall(spent: Spent) -> float:
    return spent.wall


def by_peak(spent: Spent) -> float:
    return spent.peak


LINES = "for _ in range({n}): print('x' * 99)"
ROWS = {
    "no-op, 2 cells": Row("opsbook", "papermill", 0.45, by_wall, "s", ("pass", "pass")),
    "100 print cells": Row("opsbook", "papermill", 0.33, by_wall, "s", ("print('x')",) * 100),
    "50 cells, 20 MB": Row("opsbook", "papermill", 0.15, by_wall, "s", (LINES.format(n=200_000), "1", *(["1"] * 48))),
    "1,000 cells": Row("opsbook", "nbclient", 1.2, by_wall, "s", ("1",) * 1000),
    "100 MB in 20 cells": Row("opsbook", "papermill", 0.5, by_peak, "MB", (LINES.format(n=50_000),) * 20),
    "100 MB in 1 cell": Row("opsbook", "papermill", 0.5, by_peak, "MB", (LINES.format(n=1_000_000),)),
    "--help": Row("opsbook --help", "import click", 2.0, by_wall, "s"),
}


def notebook(cells: tuple[str, ...]) -> str:
    """Return a notebook's text."""
    code = [
        {"cell_type": "code", "execution_count": None, "id": f"c{n}", "metadata": {}, "outputs": [], "source": source}
        for n, source in enumerate(cells)
    ]
    kernel = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    return json.dumps({"cells": code, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5})


def spend(command: list[str], folder: Path) -> Spent:
    """Run a command and return what it cost."""
    begun = time.monotonic()
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    peak = 0.0
    while os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
        peak = max(peak, high_water(process.pid))
        time.sleep(0.01)
    wall = time.monotonic() - begun
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{command} ended with {process.returncode}")
    return Spent(wall=wall, cpu=used.ru_utime + used.ru_stime, peak=peak)


def high_water(pid: int) -> float:
    """Return the most memory a process has had, in megabytes; wait4 would tell that of its largest child."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), 0.0)


def measure(row: Row, rounds: int) -> tuple[list[Spent], list[Spent]]:
    """Run both commands in turn, each round."""
    ours: list[Spent] = []
    peers: list[Spent] = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "n.ipynb").write_text(notebook(row.cells))
        for _ in range(rounds):
            ours.append(spend(COMMANDS[row.ours], folder))
            peers.append(spend(COMMANDS[row.peer], folder))
    return ours, peers


def main() -> None:
    """Measure and print the table."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    names = sys.argv[2:] or list(ROWS)
    print(f"medians of {rounds}; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    print(f"{'':<20}{'ours':>9}{'peer':>9}{'':4}{'ratio':>7}{'CPU':>7}{'goal':>7}")
    for name in names:
        row = ROWS[name]
        ours, peers = measure(row, rounds)
        a, b = (statistics.median(map(row.measure, spent)) for spent in (ours, peers))
        cpu = statistics.median(s.cpu for s in ours) / statistics.median(s.cpu for s in peers)
        print(f"{name:<20}{a:>9.2f}{b:>9.2f} {row.unit:<3}{a / b:>7.2f}{cpu:>7.2f}{row.limit:>7.2f}   {row.peer}")


if __name__ == "__main__":
    main()
