"""Fan-out over SSH beside its peers: one run, interleaved rounds, medians, ratios, and the limit of the machine.

    python benchmarks/fanout.py [--quick] [--rounds N] [--only TASK] [--peers PYTHON]

It needs Linux, where all of 127.0.0.0/8 is loopback; `make bench` installs the peers. A library is measured after its
imports, a command with its start; closing connections is in nobody's time. See `table` for what is printed.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import cpu
import table
from rows import LIBRARIES, ROWS, TASKS, Cells, Task
from sample import Request, Sample, take

PAYLOAD_BYTES = 10_000_000
BUSY = 0.1
"""Cores at work before the start from which on the seconds are not to be trusted."""
OWN = {"opsbook", "opsbook exec", "paramiko", "ssh"}
"""Peers that run in the project's own environment: paramiko is then the very same one that opsbook speaks through."""
ROOT = Path(__file__).parent.parent


def main() -> None:
    """Measure and print."""
    options = _options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # unwinds, so that no sshd is left behind
    others = cpu.busy(1)
    print(f"{cpu.cores()} cores, {others:.2f} of them busy before the start", end="")
    print(": NOT QUIET, trust ratios and CPU alone" if others > BUSY else "")
    rounds = options.rounds or (2 if options.quick else 5)
    cells: Cells = {}
    imports: dict[str, list[float]] = {}
    metered = ""
    begun = time.monotonic()
    for task, peer, sample in _samples(options, rounds):
        cells.setdefault((task.name, task.count, peer), []).append(sample)
        imports.setdefault(peer, []).append(sample.imported)
        metered = sample.metered or metered
    table.show(ROWS, cells, rounds=rounds)
    spent = ", ".join(f"{peer} {statistics.median(imports[peer]):.2f}" for peer in LIBRARIES if peer in imports)
    print(f"\nnot in any time: imports in seconds ({spent}), and closing connections")
    print("between two phases opsbook has shells wait for the next call, in nobody's time; five in a row pay for all")
    print(f"server CPU: {metered}; client CPU: getrusage, without ssh's kept masters; {time.monotonic() - begun:.0f} s")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="two rounds, nothing that needs more than 250 targets")
    parser.add_argument("--rounds", type=int, default=0, help="how often everything is measured (default 5)")
    parser.add_argument("--only", default="", help="one task alone: " + ", ".join(dict.fromkeys(t.name for t in TASKS)))
    default = ROOT / ".venv-bench" / "bin" / "python"
    parser.add_argument("--peers", default=str(default), help="the Python that has the peers (default %(default)s)")
    return parser.parse_args()


def _samples(options: argparse.Namespace, rounds: int) -> Iterator[tuple[Task, str, Sample]]:
    """Take every sample, peers in turn; each round begins with another one, so that being first is nobody's lot."""
    tasks = [
        task
        for task in TASKS
        if options.only in {"", task.name} and not (options.quick and task.count > 250)  # noqa: PLR2004
    ]
    with tempfile.TemporaryDirectory(prefix="bench-") as place:
        payload = Path(place) / "payload"
        payload.write_bytes(os.urandom(PAYLOAD_BYTES))
        for number in range(rounds):
            for task in tasks:
                if number >= task.most_rounds:
                    continue
                start = number % len(task.peers)
                for peer in (*task.peers[start:], *task.peers[:start]):
                    _tell(f"round {number + 1} of {rounds}: {task.name}, {task.count} targets, {peer}")
                    request = Request(
                        peer=peer,
                        task=task.name,
                        count=task.count,
                        python=sys.executable if peer in OWN else options.peers,
                        repeats=1 if options.quick else 3,
                        payload=str(payload),
                    )
                    yield task, peer, take(request, Path(place))
    _tell("")


def _tell(text: str) -> None:
    """Say where it is, on a terminal."""
    if sys.stderr.isatty():
        print(f"\r{text}\x1b[K", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
