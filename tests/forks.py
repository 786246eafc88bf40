"""Runs commands to their end, each in a process forked from one that has imported what a command imports anyway.

Run as `python tests/forks.py DESCRIPTOR`: that end of a socket brings commands, each with the descriptors of its output
and of a socket on which its process id and its exit code are told. A child is what `python -m opsbook` would be in that
folder and environment. A command that a test signals, or watches, is a process of its own: `Desk.start`.
"""

from __future__ import annotations

import gc
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

LARGEST = 100_000
"""Bytes of a request: a socket takes no more for sure."""
READ_AT_START = ("PYTHON", "LC_", "LANG")
"""How the names of variables begin that an interpreter reads when it starts, and not again."""
IMPORTED = (
    *("nbformat", "papermill.execute", "paramiko", "rich.live", "yaml", "zmq.asyncio", "opsbook.execution.engine"),
    *(f"opsbook.cli.{name}" for name in ("exec", "locks", "resume", "run", "runs", "show", "targets")),
)


class Forks:
    """The process that forks, as tests see it; any thread may ask it for a command."""

    def __init__(self) -> None:
        self._requests, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                env={"PATH": os.environ["PATH"], "HOME": "/"},
                pass_fds=(theirs.fileno(),),
                cwd="/",
            )

    def close(self) -> None:
        """End the process; what it has forked goes on."""
        self._requests.close()
        self._process.wait()

    @staticmethod
    def can(args: Sequence[str], env: Mapping[str, str]) -> bool:
        """Whether a command needs no interpreter of its own."""
        return not any(name.startswith(READ_AT_START) for name in env if name != "PYTHONPATH") and (
            len(repr((args, env))) < LARGEST
        )

    def run(self, args: Sequence[str], *, cwd: Path, env: Mapping[str, str], seconds: float) -> tuple[int, str, str]:
        """Run a command to its end, and return its exit code and what it said on each stream.

        Raises:
            TimeoutExpired: it did not end in time, and was killed.
        """
        request = json.dumps({"args": args, "cwd": str(cwd), "env": dict(env)}).encode()
        answers, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        pipes = [os.pipe(), os.pipe()]
        try:
            socket.send_fds(self._requests, [request], [theirs.fileno(), *(end for _, end in pipes)])
        finally:
            theirs.close()
            for _, end in pipes:
                os.close(end)
        with answers, ThreadPoolExecutor(len(pipes)) as readers:
            said = [readers.submit(_read, end) for end, _ in pipes]
            pid = int(answers.recv(20))
            answers.settimeout(seconds)
            try:
                code = int(answers.recv(20))
            except TimeoutError:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                raise subprocess.TimeoutExpired(list(args), seconds) from None
            return code, said[0].result(), said[1].result()


def _read(descriptor: int) -> str:
    with open(descriptor, encoding="utf-8") as stream:
        return stream.read()


def serve(requests: socket.socket) -> dict[str, Any]:
    """Fork for every command that comes in; return in the child, with what it is to be."""
    waiting = select.poll()
    waiting.register(requests, select.POLLIN)
    answers: dict[int, tuple[int, socket.socket]] = {}
    while True:
        for ready, _ in waiting.poll():
            if ready != requests.fileno():
                waiting.unregister(ready)
                pid, answer = answers.pop(ready)
                os.close(ready)
                _tell(answer, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
                answer.close()
                continue
            request, descriptors, *_ = socket.recv_fds(requests, LARGEST, 3)
            if not request:
                sys.exit()
            pid = os.fork()
            if not pid:
                for one in (requests, *(answer for _, answer in answers.values())):
                    one.detach()  # they are closed by number
                _take(*descriptors[1:])
                return dict(json.loads(request))
            answer = socket.socket(fileno=descriptors[0])
            _tell(answer, pid)
            for descriptor in descriptors[1:]:
                os.close(descriptor)
            ended = os.pidfd_open(pid)
            answers[ended] = pid, answer
            waiting.register(ended, select.POLLIN)


def _tell(answer: socket.socket, number: int) -> None:
    with suppress(OSError):  # nobody may be left who wants to know
        answer.send(b"%d" % number)


def _take(out: int, err: int) -> None:
    """Have the streams a command is to have, and no other descriptor."""
    os.dup2(out, 1)
    os.dup2(err, 2)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))


def become(command: dict[str, Any]) -> None:
    """Be the command, as an interpreter that starts with it."""
    os.chdir(command["cwd"])
    kept = {name: value for name, value in os.environ.items() if name == "LC_CTYPE"}  # Python itself has set it
    os.environ.clear()
    os.environ.update(kept | command["env"])
    sys.orig_argv = [sys.executable, "-m", "opsbook", *command["args"]]
    sys.argv = ["opsbook", *command["args"]]
    folders = [folder for folder in os.environ.get("PYTHONPATH", "").split(os.pathsep) if folder]
    sys.path[:1] = [command["cwd"], *folders]
    for folder in folders:
        with suppress(FileNotFoundError):
            runpy.run_path(f"{folder}/sitecustomize.py")
    runpy.run_module("opsbook", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    for name in IMPORTED:
        import_module(name)
    gc.freeze()
    become(serve(socket.socket(fileno=int(sys.argv[1]))))
