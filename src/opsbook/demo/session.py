"""One command on one SSH channel: its bytes both ways, and how it ended.

Three threads: one carries the channel to stdin, one carries stdout and stderr to the channel, one waits for the end.
Each blocks while its reader does not take more, so nothing is buffered here. The way of OpenSSH's server is kept:
the exit status follows the process, the channel is closed only when nothing holds its output any more, and a link that
is lost closes the command's pipes and leaves the command alone.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import IO

import paramiko

from opsbook.demo.processes import ProcessTable

_CHUNK = 32 * 1024
_LINK_ERRORS = (OSError, EOFError, paramiko.SSHException)
_READABLE = select.POLLIN | select.POLLHUP | select.POLLERR


class Session:
    """Joins a started process to its channel, from `start` to the end of both."""

    def __init__(
        self,
        channel: paramiko.Channel,
        process: subprocess.Popen[bytes],
        *,
        processes: ProcessTable,
        tell_signal: Callable[[paramiko.Channel, str], None],
    ) -> None:
        self._channel = channel
        self._process = process
        self._processes = processes
        self._tell_signal = tell_signal
        self._lock = threading.Lock()
        # Its read end becomes readable, for good and for every thread, when the link is gone.
        self._gone, self._link = os.pipe()
        self._linked = True
        name = f"demo-{process.pid}"
        self._reader = threading.Thread(target=self._carry_input, name=f"{name}-in", daemon=True)
        self._writer = threading.Thread(target=self._carry_output, name=f"{name}-out", daemon=True)
        self._waiter = threading.Thread(target=self._wait, name=f"{name}-end", daemon=True)

    def start(self) -> None:
        """Let the bytes flow. The client has been told that its command was accepted."""
        for thread in (self._reader, self._writer, self._waiter):
            thread.start()

    def leave(self) -> None:
        """The channel is closed or its link lost: let go of the command's pipes, and of nothing else."""
        with self._lock:
            if self._linked:
                self._linked = False
                os.close(self._link)

    def signal(self, name: str) -> bool:
        """Send the signal of this name (`TERM`) to the command's process group; say whether that could be done."""
        number = signal.Signals.__members__.get(f"SIG{name}")
        return number is not None and self._processes.kill(self._process, number)

    def _wait(self) -> None:
        """Tell how the process ended, and close the channel when its output has ended too."""
        code = self._process.wait()
        self._processes.settle()
        with suppress(*_LINK_ERRORS):
            if code >= 0:
                self._channel.send_exit_status(code)
            else:
                self._tell_signal(self._channel, _signal_name(-code))
        self._writer.join()
        with suppress(*_LINK_ERRORS):
            self._channel.close()
        self.leave()
        self._reader.join()
        os.close(self._gone)

    def _carry_input(self) -> None:
        """Carry the channel's bytes to stdin, and its end of file; drop what nobody reads any more."""
        stdin = _pipe(self._process.stdin)
        os.set_blocking(stdin.fileno(), False)
        wanted = True
        while data := self._receive():
            wanted = wanted and self._feed(stdin, data)
            if not wanted:
                stdin.close()
        stdin.close()

    def _receive(self) -> bytes:
        """Return the next bytes of the channel; none at its end."""
        try:
            return self._channel.recv(_CHUNK)
        except _LINK_ERRORS:
            return b""

    def _feed(self, stdin: IO[bytes], data: bytes) -> bool:
        """Write all of `data` to stdin as it is taken; say whether anybody still reads there."""
        waiting = select.poll()
        waiting.register(stdin, select.POLLOUT)
        waiting.register(self._gone, _READABLE)
        view = memoryview(data)
        while view:
            if any(fd == self._gone for fd, _ in waiting.poll()):
                return False
            try:
                view = view[os.write(stdin.fileno(), view) :]
            except BlockingIOError:
                continue
            except OSError:
                return False
        return True

    def _carry_output(self) -> None:
        """Carry stdout and stderr to the channel until both ended or the link is gone."""
        stdout, stderr = _pipe(self._process.stdout), _pipe(self._process.stderr)
        senders = {stdout.fileno(): self._channel.sendall, stderr.fileno(): self._channel.sendall_stderr}
        waiting = select.poll()
        for descriptor in (*senders, self._gone):
            waiting.register(descriptor, _READABLE)
        with stdout, stderr, suppress(*_LINK_ERRORS):
            while senders:
                ready = [fd for fd, _ in waiting.poll()]
                if self._gone in ready:
                    return
                for descriptor in ready:
                    if data := os.read(descriptor, _CHUNK):
                        senders[descriptor](data)
                    else:
                        waiting.unregister(descriptor)
                        del senders[descriptor]
            self._channel.shutdown_write()


def _pipe(stream: IO[bytes] | None) -> IO[bytes]:
    """Return a pipe of the process, which was started with all three."""
    if stream is None:
        raise RuntimeError("the process was started without a pipe")
    return stream


def _signal_name(number: int) -> str:
    """Return the name SSH gives a signal: `KILL`, not `SIGKILL`."""
    try:
        return signal.Signals(number).name.removeprefix("SIG")
    except ValueError:
        return f"{number}@opsbook"
