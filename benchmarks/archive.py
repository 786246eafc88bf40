"""What the archive's index costs, on a generated archive: to build, to keep up, to ask in process and as a command.

python benchmarks/archive.py [--runs 10000] [--keep FOLDER]

The runs are made up and look like an operator's: a few runbooks run again and again, 20 cells each, package managers'
output, failures of a few targets; one run in twenty has a cell whose output is summed up, and whole in the journal.
Wall time and the CPU time of the process, as other work shares the machine.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import msgspec

from opsbook.archive.catch_up import ask_archive, catch_up
from opsbook.archive.index import Index, index_folder
from opsbook.archive.journal import Journal
from opsbook.archive.layout import RunFolder, run_folder
from opsbook.archive.search import Search, search
from opsbook.archive.selection import count_items
from opsbook.archive.whole_output import reference
from opsbook.config import LogSettings
from opsbook.execution.cell_summary import CellSummary, SummaryRules
from opsbook.model.event import CellOutput
from opsbook.model.run import (
    CellError,
    CellRecord,
    CellState,
    Operator,
    RunbookRef,
    RunRecord,
    RunState,
    RunTargets,
    TargetOutcome,
)
from opsbook.model.target import TargetState
from opsbook.redaction import Redactor

COMMAND = str(Path(sys.executable).parent / "opsbook")
EPOCH = datetime(2024, 1, 1, tzinfo=UTC)
BOOKS = (
    "patch",
    "certs",
    "backup-check",
    "disk-usage",
    "rotate-keys",
    "restart-web",
    "kernel",
    "dns",
    "users",
    "audit",
)
WORDS = (
    "libssl3",
    "openssl",
    "linux-image-amd64",
    "curl",
    "bash",
    "nginx",
    "postgresql-15",
    "systemd",
    "libc6",
    "tzdata",
)
TROUBLE = (
    "E: Could not get lock /var/lib/dpkg/lock-frontend. It is held by process {n} (unattended-upgr)",
    "CVE-2026-{n}: no fixed version for {word} yet",
    "ssh: connect to host 10.0.{n} port 22: Connection timed out",
    "証明書の有効期限が切れています ({word})",
)
STEPS = ("Check the errata", "Announce", "Update the packages", "Reboot what needs it", "Verify", "Silence off")
SMALL = 20_000
"""Runs up to which the stricter goals hold."""
FAILING = 5
"""The cell that fails in a run that does."""
LONG = 7
"""The cell that says much, in one run of `SELDOM`."""
SELDOM = 20
LINES = 3000
"""How much it says."""
MINUTE_S = 61.0
"""Seconds in which a folder that was changed is listed at each look."""
SEARCHES = (
    "lock-frontend",
    "/var/lib/dpkg/lock-frontend",
    "upgrade",
    "output:libssl3 AND status:failed",
    "CVE-2026-4711",
    "heading:verify NOT nginx",
    '"held by process" AND param.stack:prod',
    "証明書",
    "runbook:certs AND openssl AND started:[2024-02-01 TO 2024-03-01]",
    "target:web07 AND status:failed",
    "output:7fffff*",
    "nothinghasthisword",
)


def outputs_of(chance: random.Random, *, at: datetime, trouble: str) -> list[dict[str, object]]:
    """Return what one cell printed: a package manager's lines, and perhaps what went wrong."""
    lines = []
    for number in range(chance.randrange(2, 10)):
        word, version = chance.choice(WORDS), f"{chance.randrange(9)}.{chance.randrange(40)}-{chance.randrange(9)}"
        stamp = at + timedelta(seconds=number)
        lines.append(f"{stamp:%H:%M:%S} web{chance.randrange(1, 25):02} | Setting up {word} ({version}) ...\n")
    lines += [trouble + "\n"] if trouble else []
    return [{"output_type": "stream", "name": "stdout", "text": lines}]


def long_output(folder: RunFolder, chance: random.Random, cell_id: str) -> list[dict[str, object]]:
    """Write a journal in which a cell said much, and return what the copy shows of it."""
    lines = [f"row {n}: {chance.choice(WORDS)} {chance.randrange(16**8):08x} is up to date\n" for n in range(LINES)]
    journal = Journal(folder.journal, Redactor())
    said = [CellOutput(cell_id=cell_id, stream="stdout", text="".join(lines[n : n + 50])) for n in range(0, LINES, 50)]
    journal.append(said, durable=False)
    journal.close()
    rules = SummaryRules.from_settings(LogSettings())
    summary = CellSummary(rules, Redactor(), look=reference(folder.run_id, cell_id))
    summary.take("stdout", "".join(lines))
    return [{"output_type": "stream", "name": "stdout", "text": summary.text()}]


def write_run(root: Path, chance: random.Random, *, at: datetime) -> str:
    """Write one run into an archive, and return its id."""
    book = chance.choice(BOOKS)
    run_id = f"{at:%Y%m%dT%H%M%SZ}-{book}-{chance.randrange(16**6):06x}"
    folder = run_folder(root, run_id)
    folder.path.mkdir(parents=True, mode=0o700)
    failed = chance.random() < 0.15  # noqa: PLR2004  about as often as runs fail
    word, number = chance.choice(WORDS), chance.randrange(1000, 9999)
    trouble = chance.choice(TROUBLE).format(n=number, word=word) if failed else ""
    cells: list[dict[str, object]] = []
    records: list[CellRecord] = []
    for index in range(20):
        step = STEPS[index // 2 % len(STEPS)]
        identity = f"{book}-{index}"
        meme = str(hashlib.sha256(identity.encode()).hexdigest())
        origin = f"{meme[:8]}-{meme[8:12]}-{meme[12:16]}-{meme[16:20]}-{meme[20:32]}"
        metadata = {"lc_cell_meme": {"current": f"{origin}-1-{chance.randrange(16**4):04x}"}}
        cell: dict[str, object] = {"id": identity, "metadata": metadata}
        if index % 2 == 0:
            text = (
                f"## {step}\n\nFor {book}, {step.lower()} on every host of the stack; look out for {WORDS[index % 10]}."
            )
            cells.append({**cell, "cell_type": "markdown", "source": text})
            continue
        error = CellError(name="FleetError", text=trouble) if trouble and index == FAILING else None
        state = CellState.FAILED if error else CellState.OK
        code = f"%%on {{stack}} --waves 1,25%,100% --sudo\napt-get -q update && apt-get -qy upgrade  # {step} {index}\n"
        said = outputs_of(chance, at=at, trouble=trouble if error else "")
        if index == LONG and not chance.randrange(SELDOM):
            said = long_output(folder, chance, identity)
        cells.append({**cell, "cell_type": "code", "source": code, "execution_count": index, "outputs": said})
        records.append(CellRecord(id=identity, index=index, label=step, state=state, error=error, duration_s=4.2))
    stack = chance.choice(("dev", "staging", "prod"))
    names = [f"web{n:02}" for n in range(1, 25)]
    results = {name: TargetOutcome(state=TargetState.OK, exit_code=0, duration_s=60.0) for name in names}
    if failed:
        loser = chance.choice(names)
        results[loser] = TargetOutcome(state=TargetState.FAILED, exit_code=100, reason=trouble, cell_id=f"{book}-5")
    record = RunRecord(
        run_id=run_id,
        status=RunState.FAILED if failed else RunState.SUCCEEDED,
        reason="1 of 24 targets failed" if failed else "",
        exit_code=int(failed),
        runbook=RunbookRef(path=f"runbooks/{book}.ipynb", title=book.title(), sha256="0" * 64),
        parameters={"stack": stack, "waves": "1,25%,100%"},
        targets=RunTargets(pattern=stack, selected=tuple(names), results=results),
        cells=tuple(records),
        started_at=at,
        ended_at=at + timedelta(seconds=432),
        duration_s=chance.uniform(20, 900),
        operator=Operator(user=chance.choice(("maya", "leo", "cron")), host="ops1", pid=4711),
    )
    document = {"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": cells}
    folder.copy.write_bytes(msgspec.json.encode(document))
    folder.record.write_bytes(msgspec.json.encode(record))
    return run_id


def write_archive(root: Path, *, runs: int) -> None:
    """Write so many runs, about thirty a day."""
    chance = random.Random(20261120)
    at = EPOCH
    for _ in range(runs):
        at += timedelta(seconds=chance.randrange(60, 5700))
        write_run(root, chance, at=at)


def spent(work: Callable[[], object], *, times: int = 1) -> tuple[float, float]:
    """Return the median wall and CPU seconds of some work in this process."""
    walls, cpus = [], []
    for _ in range(times):
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    return statistics.median(walls), statistics.median(cpus)


def spent_by_command(arguments: list[str], folder: Path, *, times: int = 5) -> tuple[float, float]:
    """Return the median wall and CPU seconds of a command."""
    walls, cpus = [], []
    for _ in range(times):
        before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        subprocess.run([COMMAND, *arguments], cwd=folder, check=False, capture_output=True)
        walls.append(time.perf_counter() - begun)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpus.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return statistics.median(walls), statistics.median(cpus)


def in_process(index: Index, root: Path, *, runs: int) -> Iterator[tuple[str, tuple[float, float], float | None]]:
    """Measure what an open index answers."""
    yield "look for new runs, there is none", spent(lambda: catch_up(index, root), times=5), None
    chance, now = random.Random(7), datetime.now(UTC)
    added = []
    for extra in range(7):
        write_run(root, chance, at=now + timedelta(seconds=extra))
        added.append(spent(lambda: catch_up(index, root)))
    yield (
        "add one new run",
        (statistics.median(wall for wall, _ in added), statistics.median(cpu for _, cpu in added)),
        0.02,
    )
    goal = 0.05 if runs <= SMALL else 1.0
    for text in SEARCHES:
        yield f"search {text}", spent(partial(search, index, Search(text=text)), times=7), goal


def touch_and_ask(root: Path, database: Path) -> None:
    """Ask an index that is compared as a whole first."""
    os.utime(database)
    ask_archive(root, count_items)


def forget_files(root: Path) -> None:
    """Have the system forget what it read: all of it where this process may ask for that, else the files' contents."""
    os.sync()
    try:
        Path("/proc/sys/vm/drop_caches").write_text("3\n")
    except OSError:
        for file in filter(Path.is_file, root.rglob("*")):
            with file.open("rb") as stream:
                os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def settle(root: Path) -> None:
    """Wait until the folders of days are as old as they are in an archive that was not made a moment ago."""
    time.sleep(max(0.0, max(day.stat().st_ctime for day in root.glob("*/*/*")) + MINUTE_S - time.time()))
    ask_archive(root, count_items)


def rows(folder: Path, *, runs: int) -> Iterator[tuple[str, tuple[float, float], float | None]]:
    """Measure everything: what, wall and CPU seconds, and the goal for a number of seconds."""
    root = folder / "archive"
    forget_files(root)
    yield "build the index, the disk being cold", spent(lambda: ask_archive(root, count_items, fresh=True)), runs / 500
    yield "build the index", spent(lambda: ask_archive(root, count_items, fresh=True)), runs / 500
    settle(root)
    yield "open the index and look for new runs", spent(lambda: ask_archive(root, count_items), times=7), None
    database = max(index_folder(root).glob("*.sqlite"))
    yield "the same, somebody having touched its file", spent(lambda: touch_and_ask(root, database), times=3), None
    measured: list[tuple[str, tuple[float, float], float | None]] = []
    ask_archive(root, lambda index: measured.extend(in_process(index, root, runs=runs)))
    yield from measured
    goal = 0.3 if runs <= SMALL else 1.0
    yield "opsbook search lock-frontend", spent_by_command(["search", "lock-frontend"], folder), goal
    yield "opsbook search upgrade", spent_by_command(["search", "upgrade"], folder), goal
    yield "opsbook runs --limit 20", spent_by_command(["runs", "--limit", "20"], folder), goal
    arguments = ["runs", "--limit", "20", "--status", "failed", "--param", "stack=prod"]
    yield f"opsbook {' '.join(arguments)}", spent_by_command(arguments, folder), goal
    yield "opsbook runs --stats", spent_by_command(["runs", "--stats"], folder), None


def main() -> None:
    """Make the archive, measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--keep", type=Path, help="make the archive here, or take the one that is here")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = asked.keep or Path(place)
        os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
        if not (folder / "archive").is_dir():
            wall, _ = spent(lambda: write_archive(folder / "archive", runs=asked.runs))
            print(f"making {asked.runs} runs: {wall:.1f} s")
        print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores; seconds")
        print(f"{'':<66}{'wall':>9}{'CPU':>9}{'goal':>9}")
        for what, (wall, cpu), goal in rows(folder, runs=asked.runs):
            print(f"{what[:65]:<66}{wall:>9.3f}{cpu:>9.3f}{'' if goal is None else f'{goal:.2f}':>9}")
        size = sum(file.stat().st_size for file in (folder / "cache").rglob("*") if file.is_file())
        print(f"the index takes {size / 2**20:.0f} MiB")


if __name__ == "__main__":
    main()
