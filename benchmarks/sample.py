"""Takes one sample: a fresh sshd, a fresh client process, a conversation by phases, and an end that always comes."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from job import Job, Phase
from server import Server

HERE = Path(__file__).parent
LIMIT_S = 180.0
"""Seconds a sample may take, whatever it does."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sample:
    """What came of one sample. What was measured before a failure counts."""

    phases: list[Phase]
    failure: str = ""
    imported: float = 0.0
    """Seconds its imports took; in no phase."""
    metered: str = ""
    """How the server's CPU was counted."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """Which sample to take."""

    peer: str
    task: str
    count: int
    python: str
    """The interpreter that can import the peer."""
    repeats: int
    payload: str = ""


def take(request: Request, folder: Path, *, limit_s: float = LIMIT_S) -> Sample:
    """Take a sample; whatever goes wrong is its result."""
    if not Path(request.python).exists():
        return Sample(phases=[], failure="not installed; `make bench` does that")
    try:
        return _take(request, folder, limit_s)
    except (OSError, subprocess.SubprocessError) as error:
        return Sample(phases=[], failure=f"{type(error).__name__}: {error}"[:120])


def _take(request: Request, folder: Path, limit_s: float) -> Sample:
    with Server(folder, request.count) as server, tempfile.TemporaryFile("w+") as errors:
        job = Job(
            peer=request.peer,
            task=request.task,
            hosts=server.hosts,
            port=server.port,
            user=server.user,
            key=str(server.key),
            known_hosts=str(server.known_hosts),
            folder=str(folder),
            payload=request.payload,
            repeats=request.repeats,
        )
        with _client(request.python, job, errors) as client, _bounded(client, limit_s) as expired:
            sample = _converse(client, server)
        if expired.is_set():
            return dataclasses.replace(sample, failure=f"no end within {limit_s:g} s")
        if sample.failure == "ended":
            errors.seek(0)
            last = next(reversed(errors.read().strip().splitlines()), "the client ended without a word")
            return dataclasses.replace(sample, failure=last[:120])
        return sample


@contextmanager
def _client(python: str, job: Job, errors: IO[str]) -> Iterator[subprocess.Popen[str]]:
    """Start the client in a process group of its own, and see to it that nothing of it is left."""
    environment = {name: value for name, value in os.environ.items() if name not in {"SSH_AUTH_SOCK", "SSH_ASKPASS"}}
    with subprocess.Popen(
        [python, str(HERE / "client.py"), job.encode()],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
        env=environment,
        start_new_session=True,
    ) as client:
        try:
            yield client
        finally:
            _kill_group(client)


@contextmanager
def _bounded(client: subprocess.Popen[str], limit_s: float) -> Iterator[threading.Event]:
    """End the client when its time is up; the event tells that this happened."""
    expired = threading.Event()

    def expire() -> None:
        expired.set()
        _kill_group(client)

    timer = threading.Timer(limit_s, expire)
    timer.start()
    try:
        yield expired
    finally:
        timer.cancel()
        timer.join()


def _kill_group(client: subprocess.Popen[str]) -> None:
    try:
        os.killpg(client.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return  # macOS refuses where only a zombie is left


def _converse(client: subprocess.Popen[str], server: Server) -> Sample:
    """Follow the client through its phases, and read the server's meter around each."""
    phases: list[Phase] = []
    imported, before, failure = 0.0, 0.0, "ended"
    assert client.stdout is not None
    for line in client.stdout:
        words: dict[str, Any] = json.loads(line)
        say = words.pop("say")
        if say == "ready":
            imported, failure = words["imported"], ""
        elif say == "failed":
            failure = words["why"]
        elif say == "not offered":
            failure = ""
        elif say == "begin":
            server.settle()
            before = server.meter.seconds()
            _answer(client)
        else:
            phases.append(Phase(server=server.meter.seconds() - before, **words))
            _answer(client)
    if not failure and client.wait() not in {0, -signal.SIGKILL}:
        failure = "ended"
    return Sample(phases=phases, failure=failure, imported=imported, metered=server.meter.label)


def _answer(client: subprocess.Popen[str]) -> None:
    assert client.stdin is not None
    try:
        client.stdin.write("go\n")
        client.stdin.flush()
    except BrokenPipeError:
        return  # it has ended; the loop will see that
