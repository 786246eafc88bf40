"""Prints what was measured: seconds and ratios, the goals, CPU for each target, and how it scales."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

import cpu
from job import Phase
from rows import LIMIT, OURS, WHOLE, Cells, Goal, Row
from sample import Sample

WIDTH = 16
EMPTY = "-"


def show(rows: Sequence[Row], cells: Cells, *, rounds: int) -> None:
    """Print all there is to say."""
    peers = [peer for peer in dict.fromkeys(peer for _, _, peer in cells) if peer != OURS]
    present = [row for row in rows if (row.task, row.count, OURS) in cells]
    if present:
        _seconds(present, cells, peers, rounds)
        _goals(present, cells)
        _cpu(present, cells, peers)
    _scale(cells)
    _idle(cells)
    _flood(cells)
    _failures(cells)


def _phases(cells: Cells, row: Row, peer: str) -> list[Phase]:
    samples = cells.get((row.task, row.count, peer), [])
    name = row.phase if peer == OURS else row.theirs or row.phase
    return [phase for sample in samples for phase in sample.phases if phase.name == name]


def _median(phases: Sequence[Phase], figure: Callable[[Phase], float]) -> float | None:
    return statistics.median(map(figure, phases)) if phases else None


def _limit(phases: Sequence[Phase], count: int) -> float | None:
    """Return the seconds the same work would take if no core ever waited; one client process fills one core at most.

    One target's work is one step after the other, and has no such limit.
    """
    if count == 1 or not any(phase.server for phase in phases):
        return None
    return _median(phases, lambda phase: max(phase.client, (phase.client + phase.server) / cpu.cores()))


def _wall(cells: Cells, row: Row, peer: str) -> float | None:
    """Return seconds: a peer's, or those of the limit of our own work."""
    if peer == LIMIT:
        return _limit(_phases(cells, row, OURS), row.count)
    return _median(_phases(cells, row, peer), lambda phase: phase.wall)


def _failed(cells: Cells, row: Row, peer: str) -> bool:
    return any(sample.failure for sample in cells.get((row.task, row.count, peer), []))


def _line(label: str, columns: Sequence[str]) -> None:
    print(f"{label:<26}{columns[0]:>9}{columns[1]:>9}" + "".join(f"{column:>{WIDTH}}" for column in columns[2:]))


def _seconds(rows: Sequence[Row], cells: Cells, peers: Sequence[str], rounds: int) -> None:
    plural = "" if rounds == 1 else "s"
    print(f"\nseconds, medians of {rounds} round{plural} (in brackets: ours as a share of theirs)")
    _line("", [OURS, LIMIT, *peers])
    for row in rows:
        ours = _wall(cells, row, OURS)
        columns = ["failed" if ours is None else f"{ours:.3f}", _number(_wall(cells, row, LIMIT))]
        for peer in peers:
            wall = _wall(cells, row, peer)
            if wall is None:
                columns.append("failed" if _failed(cells, row, peer) else EMPTY)
            else:
                share = f" ({ours / wall:.2f})" if ours and wall > 0 and peer != WHOLE else ""
                columns.append(f"{wall:.3f}{share}")
        _line(row.label, columns)
    print("limit: CPU of our client and of sshd within that time, shared by all cores")


def _goals(rows: Sequence[Row], cells: Cells) -> None:
    print("\ngoals")
    for row in rows:
        for goal in row.goals:
            print(f"  {row.label:<26}{_judge(row, goal, cells)}")


def _judge(row: Row, goal: Goal, cells: Cells) -> str:
    ours, theirs = _wall(cells, row, OURS), _wall(cells, row, goal.against)
    name = "the limit" if goal.against == LIMIT else goal.against
    if ours is None or not theirs:
        return f"{'?':>6}  of {name}, at most {goal.most:g}: not known"
    share = ours / theirs
    return f"{share:>6.2f}  of {name}, at most {goal.most:g}: {'met' if share <= goal.most else 'MISSED'}"


def _cpu(rows: Sequence[Row], cells: Cells, peers: Sequence[str]) -> None:
    print("\nCPU in ms for each target, client + server")
    print(f"{'':<26}" + "".join(f"{peer:>{WIDTH}}" for peer in (OURS, *peers)))
    for row in rows:
        columns = []
        for peer in (OURS, *peers):
            phases = _phases(cells, row, peer)
            client, server = _median(phases, lambda p: p.client), _median(phases, lambda p: p.server)
            known = client is not None and server is not None
            columns.append(f"{client * 1e3 / row.count:.1f} + {server * 1e3 / row.count:.1f}" if known else EMPTY)
        print(f"{row.label:<26}" + "".join(f"{column:>{WIDTH}}" for column in columns))


def _of(cells: Cells, task: str, peer: str, name: str) -> dict[int, list[Phase]]:
    """Return the phases of a task by count."""
    found: dict[int, list[Phase]] = {}
    for (kind, count, who), samples in cells.items():
        if (kind, who) == (task, peer):
            phases = [phase for sample in samples for phase in sample.phases if phase.name == name]
            found |= {count: phases} if phases else {}
    return found


def _scale(cells: Cells) -> None:
    found = _of(cells, "scale", OURS, "cold")
    if not found:
        return
    titles = ("targets", "wall ms", "limit ms", "of it", "client ms", "server ms", "kB", "threads")
    print("\ncold `true` on more and more targets, all connections kept: for each target")
    print("".join(f"{title:>11}" for title in titles))
    for count, phases in found.items():
        wall = (_median(phases, lambda phase: phase.wall) or 0) * 1e3 / count
        limit = (_limit(phases, count) or 0) * 1e3 / count
        client, server, memory, threads = (
            (_median(phases, figure) or 0) / count
            for figure in (
                lambda phase: phase.client * 1e3,
                lambda phase: phase.server * 1e3,
                lambda phase: phase.facts["rss"] / 1000,
                lambda phase: phase.facts["threads"],
            )
        )
        share = f"{wall / limit:.2f}" if limit else EMPTY
        figures = (f"{wall:.1f}", f"{limit:.1f}", share, f"{client:.2f}", f"{server:.1f}", f"{memory:.0f}")
        print("".join(f"{figure:>11}" for figure in (str(count), *figures, f"{threads:.2f}")))


def _idle(cells: Cells) -> None:
    peers = dict.fromkeys(peer for task, _, peer in cells if task == "idle")
    for peer in peers:
        for count, phases in _of(cells, "idle", peer, "idle").items():
            used, seconds = _median(phases, lambda p: p.client), _median(phases, lambda p: p.wall)
            print(f"{peer}: {used:.3f} s of CPU in {seconds:.0f} s with {count} idle connections")


def _flood(cells: Cells) -> None:
    for count, phases in _of(cells, "flood", OURS, "flood").items():
        peak, sent = (_median(phases, lambda p, key=key: p.facts[key] / 1e6) for key in ("peak", "sent"))
        wall = _median(phases, lambda p: p.wall)
        print(
            f"{count} targets print {sent:.0f} MB in all: client's memory grows by {peak:.0f} MB at most, {wall:.1f} s"
        )


def _failures(cells: Cells) -> None:
    """Name each way a sample failed, once."""
    failed: dict[tuple[str, int, str, str], list[Sample]] = {}
    for (task, count, peer), samples in cells.items():
        for sample in samples:
            if sample.failure:
                failed.setdefault((task, count, peer, sample.failure), []).append(sample)
    for (task, count, peer, why), samples in failed.items():
        times = len(samples)
        print(f"failed: {peer}, {task} on {count}, {times} {'time' if times == 1 else 'times'}: {why}")


def _number(value: float | None) -> str:
    return EMPTY if value is None else f"{value:.3f}"
