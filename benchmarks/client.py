"""One sample: a fresh process that imports one peer, and times what it does after that.

    python client.py JOB

Runs in whichever environment holds the peer, so it imports nothing but the standard library and that peer.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from job import FLOOD, FLOOD_BYTES, IN_A_ROW, SEQUENCE, SEQUENCE_CHARACTERS, TRUE, Job, NotOfferedError

MODULES = {
    "opsbook": "ours",
    "paramiko": "peer_paramiko",
    "asyncssh": "peer_asyncssh",
    "parallel-ssh": "peer_parallel_ssh",
    "ansible": "peer_commands",
    "opsbook exec": "peer_commands",
    "pyinfra": "peer_commands",
    "ssh": "peer_commands",
}


class Peer(Protocol):
    """One tool, holding its connections."""

    def run(self, command: str) -> list[tuple[int | None, int]]:
        """Run a command on all targets, connecting where that is to be done; return exit codes and characters said."""

    def put(self, local: str, remote: str) -> None:
        """Send a file to all targets."""

    def close(self) -> None:
        """Close all connections."""


class Talk:
    """The conversation with the parent, on what was standard output: what a library prints must not disturb it."""

    def __init__(self) -> None:
        self._out = os.fdopen(os.dup(1), "w", buffering=1)
        os.dup2(2, 1)

    def say(self, **words: Any) -> None:
        """Tell the parent something."""
        self._out.write(json.dumps(words) + "\n")

    def phase(self, name: str, work: Callable[[], dict[str, Any] | None]) -> None:
        """Do and time one phase."""
        self._ask(say="begin", name=name)
        cpu, begun = _cpu(), time.monotonic()
        facts = work()
        wall, used = time.monotonic() - begun, _cpu() - cpu
        self._ask(say="end", name=name, wall=wall, client=used, facts=facts or {})

    def _ask(self, **words: Any) -> None:
        self.say(**words)
        if not sys.stdin.readline():
            raise EOFError("the parent has gone")


def _cpu() -> float:
    """Return the CPU seconds of this process and of the children it has waited for."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def _checked(peer: Peer, job: Job, command: str, *, least: int = 0) -> None:
    """Run a command and make sure that every target did all of it: a fast failure is no result."""
    results = peer.run(command)
    bad = [result for result in results if result[0] != 0 or result[1] < least]
    if bad or len(results) != len(job.hosts):
        raise RuntimeError(f"{len(bad)} of {len(results)} targets did not do it: (exit code, characters) {bad[:1]}")


def _true(peer: Peer, job: Job, talk: Talk) -> None:
    talk.phase("cold", lambda: _checked(peer, job, TRUE))
    for _ in range(job.repeats):
        talk.phase("warm", lambda: _checked(peer, job, TRUE))

    def in_a_row() -> None:
        for _ in range(IN_A_ROW):
            _checked(peer, job, TRUE)

    if MODULES[job.peer] != "peer_commands":  # which start anew each time
        talk.phase("loop", in_a_row)
    if hasattr(peer, "change"):
        for _ in range(job.repeats):
            talk.phase("changing", lambda: peer.change(TRUE))
    talk.phase("close", peer.close)


def _put(peer: Peer, job: Job, talk: Talk) -> None:
    talk.phase("cold", lambda: peer.put(job.payload, "first"))
    for number in range(job.repeats):
        talk.phase("warm", lambda number=number: peer.put(job.payload, f"again{number}"))
    expected = Path(job.payload).stat().st_size
    for host in job.hosts:
        for name in ("first", *(f"again{number}" for number in range(job.repeats))):
            size = (Path(job.folder) / "received" / host / name).stat().st_size
            if size != expected:
                raise RuntimeError(f"{host} received {size} of {expected} bytes")


def _output(peer: Peer, job: Job, talk: Talk) -> None:
    _checked(peer, job, TRUE)
    for _ in range(job.repeats):
        talk.phase("warm", lambda: _checked(peer, job, SEQUENCE, least=SEQUENCE_CHARACTERS))


def _scale(peer: Peer, job: Job, talk: Talk) -> None:
    before, threads = _memory("VmRSS"), threading.active_count()

    def work() -> dict[str, Any]:
        _checked(peer, job, TRUE)
        return {"rss": _memory("VmRSS") - before, "threads": threading.active_count() - threads}

    talk.phase("cold", work)
    talk.phase("close", peer.close)


def _idle(peer: Peer, job: Job, talk: Talk) -> None:
    _checked(peer, job, TRUE)
    time.sleep(1)
    talk.phase("idle", lambda: time.sleep(job.seconds))


def _flood(peer: Peer, job: Job, talk: Talk) -> None:
    _checked(peer, job, TRUE)
    before = _memory("VmHWM")

    def work() -> dict[str, Any]:
        _checked(peer, job, FLOOD, least=1)
        return {"peak": _memory("VmHWM") - before, "sent": FLOOD_BYTES * len(job.hosts)}

    talk.phase("flood", work)


TASKS = {"true": _true, "put": _put, "output": _output, "scale": _scale, "idle": _idle, "flood": _flood}


def _memory(name: str) -> int:
    """Return one of the process's own sizes in bytes: VmRSS, or VmHWM for the peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1]) * 1024


def main() -> None:
    """Do the job on the command line."""
    job, talk = Job.decode(sys.argv[1]), Talk()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    begun = time.monotonic()
    try:
        peer: Peer = importlib.import_module(MODULES[job.peer]).open_peer(job)
        talk.say(say="ready", imported=time.monotonic() - begun)
        TASKS[job.task](peer, job, talk)
    except NotOfferedError:
        talk.say(say="not offered")
    except Exception as error:  # noqa: BLE001  whatever happened to a peer belongs in its cell
        talk.say(say="failed", why=f"{type(error).__name__}: {error}".partition("\n")[0][:120])


if __name__ == "__main__":
    main()
