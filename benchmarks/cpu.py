"""How much CPU a process and everything it starts have used, on Linux. Knows nothing of SSH.

A control group of its own tells it to the nanosecond, and misses nobody. Where none can be made, the process tree is
summed up from /proc: to a clock tick for each process, and without those that detached themselves and were adopted.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Protocol

CGROUPS = Path("/sys/fs/cgroup")


class Meter(Protocol):
    """Counts one process and what it started."""

    label: str

    def seconds(self) -> float:
        """Return the CPU seconds used until now."""

    def kill(self) -> None:
        """End what is left of them, and stop counting."""


class CgroupMeter:
    """Counts by a control group: v1's `cpuacct`, or v2's own accounting."""

    def __init__(self, parent: Path, pid: int) -> None:
        self.label = f"cgroup ({'cpuacct.usage' if parent.name == 'cpuacct' else 'cpu.stat'})"
        self._folder = parent / f"bench-{os.getpid()}-{pid}"
        self._folder.mkdir()
        try:
            (self._folder / "cgroup.procs").write_text(str(pid))
            self.seconds()
        except (OSError, StopIteration):
            self._folder.rmdir()
            raise

    def seconds(self) -> float:
        """See `Meter.seconds`."""
        usage = self._folder / "cpuacct.usage"
        if usage.exists():
            return int(usage.read_text()) / 1e9
        lines = (self._folder / "cpu.stat").read_text().splitlines()
        return int(next(line.split()[1] for line in lines if line.startswith("usage_usec"))) / 1e6

    def kill(self) -> None:
        """See `Meter.kill`."""
        for _ in range(100):
            left = (self._folder / "cgroup.procs").read_text().split()
            for pid in left:
                _kill(int(pid))
            with suppress(OSError):  # the last of them is still on its way out
                self._folder.rmdir()
                return
            time.sleep(0.02)


class TreeMeter:
    """Counts by walking the process tree: own and reaped children's time of each that is alive."""

    label = "sum over the process tree in /proc"

    def __init__(self, pid: int) -> None:
        self._pid = pid

    def seconds(self) -> float:
        """See `Meter.seconds`."""
        ticks = sum(sum(int(field) for field in fields[11:15]) for fields in self._tree().values())
        return ticks / os.sysconf("SC_CLK_TCK")

    def kill(self) -> None:
        """See `Meter.kill`."""
        for pid in self._tree():
            _kill(pid)

    def _tree(self) -> dict[int, list[str]]:
        """Return the fields of /proc/PID/stat behind the name, of the process and its descendants."""
        stats = {}
        for file in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError):  # it has just ended
                stats[int(file.parent.name)] = file.read_text().rpartition(")")[2].split()
        tree, found = {}, {self._pid}
        while found:
            tree |= {pid: stats[pid] for pid in found if pid in stats}
            found = {pid for pid, fields in stats.items() if int(fields[1]) in found and pid not in tree}
        return tree


def meter(pid: int) -> Meter:
    """Return the best meter there is for a process that has started nothing yet."""
    for parent in _parents():
        with suppress(OSError, StopIteration):  # not ours to write, or not counting: the next one
            return CgroupMeter(parent, pid)
    return TreeMeter(pid)


def _parents() -> list[Path]:
    """Return the control groups a group of our own may be made in."""
    own = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    parents = [CGROUPS / "cpuacct" for _, names, _ in own if "cpuacct" in names.split(",")]
    parents += [CGROUPS / path.lstrip("/") for number, _, path in own if number == "0"]
    return [parent for parent in parents if (parent / "cgroup.procs").exists()]


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0))


def busy(seconds: float) -> float:
    """Watch the machine for some seconds; return how many cores were at work in the mean."""
    before = _at_work()
    time.sleep(seconds)
    return (_at_work() - before) / seconds


def _at_work() -> float:
    """Return the seconds all cores have worked since the start: user, nice, system, interrupts."""
    fields = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
    return sum(fields[index] for index in (0, 1, 2, 5, 6)) / os.sysconf("SC_CLK_TCK")


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
