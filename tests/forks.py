"""Starts commands, each in a process forked from one that has imported what a command imports anyway.

Run as `python tests/forks.py DESCRIPTOR`: that end of a socket brings commands, each with the descriptors of its
streams and of a socket on which its process id and its exit code are told. A child is what `python -m opsbook` would be
in that folder and environment, but for the argument list and the first environment others see it with: where a test
looks at those, the command is a process of its own: `Desk.start`.
"""

from __future__ import annotations

import fcntl
import gc
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import termios
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, TextIO

LARGEST = 100_000
"""Bytes of a request: a socket takes no more for sure."""
LONGEST_S = 600.0
"""Seconds a command may take for which nobody says it."""
WAIT_S = 30.0
"""Seconds the process that forks may take for anything."""
REST_S = 30.0
"""Seconds a pipe may stay open behind a command that has ended, because of what it has left behind."""
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
        self._nothing = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)

    def close(self) -> None:
        """End the process; what it has forked goes on."""
        self._requests.close()
        os.close(self._nothing)
        try:
            self._process.wait(WAIT_S)
        except subprocess.TimeoutExpired:  # a test's own child may still hold the socket open
            self._process.kill()
            self._process.wait(WAIT_S)

    @staticmethod
    def can(args: Sequence[str], env: Mapping[str, str]) -> bool:
        """Whether a command needs no interpreter of its own."""
        return not any(name.startswith(READ_AT_START) for name in env if name != "PYTHONPATH") and (
            len(repr((args, env))) < LARGEST
        )

    def start(
        self,
        args: Sequence[str],
        *,
        cwd: Path,
        env: Mapping[str, str],
        streams: Mapping[str, int],
        start_new_session: bool = False,
        terminal: bool = False,
    ) -> Forked:
        """Start a command; a stream that is not given is nothing for `stdin`, and a pipe for `stdout` and `stderr`.

        A command with a terminal has the one on `stdin` as its session's own, so that Ctrl-C there is a signal to it.
        """
        session = {"session": start_new_session or terminal, "terminal": terminal}
        wanted = {"args": args, "cwd": str(cwd), "env": dict(env), **session}
        answers, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        pipes = {name: os.pipe() for name in ("stdout", "stderr") if name not in streams}
        passed = {"stdin": self._nothing, **streams, **{name: end for name, (_, end) in pipes.items()}}
        try:
            ends = [theirs.fileno(), *(passed[name] for name in ("stdin", "stdout", "stderr"))]
            socket.send_fds(self._requests, [json.dumps(wanted).encode()], ends)
        finally:
            theirs.close()
            for _, end in pipes.values():
                os.close(end)
        return Forked(args, answers, {name: end for name, (end, _) in pipes.items()})


class Forked:
    """A forked command: what a test needs of `subprocess.Popen`, by the names it has there."""

    def __init__(self, args: Sequence[str], answers: socket.socket, pipes: Mapping[str, int]) -> None:
        opened = {name: os.fdopen(end, encoding="utf-8") for name, end in pipes.items()}
        self.stdout, self.stderr = opened.get("stdout"), opened.get("stderr")
        answers.settimeout(WAIT_S)
        self.pid = int(answers.recv(20))
        self.returncode: int | None = None
        self._args, self._answers = list(args), answers
        self._said: list[Future[str] | None] = []

    def poll(self) -> int | None:
        return self._end(0)

    def wait(self, timeout: float = LONGEST_S) -> int:
        """Wait for the end, and return the exit code.

        Raises:
            TimeoutExpired: it did not end in time.
        """
        if (code := self._end(timeout)) is None:
            raise subprocess.TimeoutExpired(self._args, timeout)
        return code

    def communicate(self, timeout: float = LONGEST_S) -> tuple[str, str]:
        """Wait for the end, and return what it said on its pipes; as often as asked, also after TimeoutExpired.

        Raises:
            TimeoutExpired: it did not end in time, or what it has started holds a pipe open long after it.
        """
        if not self._said:
            self._said = [_reading(stream) if stream else None for stream in (self.stdout, self.stderr)]
        self.wait(timeout)
        try:
            out, err = (said.result(REST_S) if said else "" for said in self._said)
        except TimeoutError:
            raise subprocess.TimeoutExpired(self._args, REST_S) from None
        for stream in filter(None, (self.stdout, self.stderr)):
            stream.close()
        return out, err

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _end(self, timeout: float) -> int | None:
        if self.returncode is None:
            self._answers.settimeout(timeout)
            with suppress(TimeoutError, BlockingIOError):
                self.returncode = int(self._answers.recv(20))
                self._answers.close()
        return self.returncode


def _reading(stream: TextIO) -> Future[str]:
    """Read a stream to its end, on a thread that no end of this process waits for."""
    said: Future[str] = Future()

    def read() -> None:
        try:
            said.set_result(stream.read())
        except (OSError, ValueError) as error:
            said.set_exception(error)

    threading.Thread(target=read, daemon=True).start()
    return said


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
                code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                with answer, suppress(OSError):  # nobody may be left who wants to know
                    answer.send(b"%d" % code)
                continue
            request, descriptors, *_ = socket.recv_fds(requests, LARGEST, 4)
            if not request:
                sys.exit()
            pid = os.fork()
            if not pid:
                for one in (requests, *(answer for _, answer in answers.values())):
                    one.detach()  # they are closed by number
                command = dict(json.loads(request))
                _take(*descriptors, session=command["session"], terminal=command["terminal"])
                return command
            answer = socket.socket(fileno=descriptors[0])
            for descriptor in descriptors[1:]:
                os.close(descriptor)
            ended = os.pidfd_open(pid)
            answers[ended] = pid, answer
            waiting.register(ended, select.POLLIN)


def _take(answer: int, *streams: int, session: bool, terminal: bool) -> None:
    """Have the streams a command is to have, and no other descriptor; say who one is."""
    if session:
        os.setsid()
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    if terminal:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    os.write(answer, b"%d" % os.getpid())
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
    gc.disable()  # imports make hardly any garbage
    for name in IMPORTED:
        import_module(name)
    gc.freeze()
    gc.enable()
    become(serve(socket.socket(fileno=int(sys.argv[1]))))
