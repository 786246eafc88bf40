"""One command on one connection, from its channel to the truth about how it ended.

Nothing waits without a deadline. Both streams are drained by one waiter. An exit code is reported only when the target
told it; a signal, a lost link, a deadline and a cancel are told apart. What was sent is never sent again here.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import paramiko
from paramiko.common import cMSG_CHANNEL_REQUEST

from opsbook.errors import ConnectError
from opsbook.model.target import TargetState
from opsbook.ssh.capture import Capture
from opsbook.ssh.connection import Connection
from opsbook.ssh.result import ChannelRefusedError, CommandResult
from opsbook.ssh.script import STOP, Prepared

CHANNEL_S = 15.0
"""Seconds a target may take to open a channel."""
STOP_S = 3.0
"""Seconds a command may take to end after it was told to: TERM, KILL a second later, and the way back."""
LINGER_S = 1.0
"""Seconds of silence after the exit code that end the waiting for more output."""
LINGER_MOST_S = 10.0
"""Seconds output may go on after the exit code."""
SUDO_S = 15.0
_READ = 64 * 1024


class _Wake:
    """What paramiko's buffers set when something arrives. Only the waiter clears it, so no arrival is missed."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def set(self) -> None:
        self._event.set()

    def clear(self) -> None:
        """Do nothing: a buffer that was read empty must not silence the other one."""

    def wait(self, seconds: float) -> None:
        self._event.wait(max(0.0, seconds))
        self._event.clear()


class Command:
    """A command that is about to run. `cancel` may be called from any thread at any time."""

    def __init__(
        self,
        connection: Connection,
        prepared: Prepared,
        *,
        timeout_s: float,
        on_output: Callable[[str, str], None],
    ) -> None:
        self._connection = connection
        self._prepared = prepared
        self._deadline = time.monotonic() + timeout_s
        self._timeout_s = timeout_s
        self._wake = _Wake()
        self._cancelled = threading.Event()
        self._stdout = Capture(lambda lines: on_output("stdout", lines))
        self._stderr = Capture(lambda lines: on_output("stderr", lines))

    def cancel(self) -> None:
        """Ask for its end: the remote processes get TERM, then KILL."""
        self._cancelled.set()
        self._wake.set()

    def run(self, before_send: Callable[[], None]) -> CommandResult:
        """Open a channel, call `before_send` (whatever it raises is raised, and nothing was sent), run, return.

        Raises:
            ConnectError: no channel could be opened: nothing was sent, and trying again is safe.
        """
        slots = self._connection.slots
        while True:
            if not slots.take(max(0.1, self._deadline - time.monotonic())):
                raise ChannelRefusedError("it was busy with other commands of this run", TargetState.UNREACHABLE)
            try:
                return self._run_on_channel(before_send)
            except ChannelRefusedError:
                if not slots.shrink():
                    raise  # there is none of ours to wait for
            finally:
                slots.give_back()

    def _run_on_channel(self, before_send: Callable[[], None]) -> CommandResult:
        channel = self._open()
        listeners, number = self._connection.transport.on_exit, channel.get_id()
        listeners[number] = self._wake.set
        try:
            channel.in_buffer.set_event(self._wake)  # type: ignore[arg-type]
            channel.in_stderr_buffer.set_event(self._wake)  # type: ignore[arg-type]
            before_send()
            if self._cancelled.is_set():
                return CommandResult(state=TargetState.CANCELLED, reason="cancelled before it was sent")
            return self._converse(channel)
        finally:
            channel.close()
            listeners.pop(number, None)

    def _open(self) -> paramiko.Channel:
        seconds = min(CHANNEL_S, max(0.1, self._deadline - time.monotonic()))
        try:
            return self._connection.transport.open_session(timeout=seconds)
        except paramiko.ChannelException as error:
            raise ChannelRefusedError(f"one more command was refused: {error.text}", TargetState.UNREACHABLE) from error
        except (paramiko.SSHException, EOFError, OSError) as error:
            message = f"no channel could be opened: {str(error) or 'the connection ended'}"
            raise ConnectError(message, TargetState.UNREACHABLE) from error

    def _converse(self, channel: paramiko.Channel) -> CommandResult:
        try:
            self._send_request(channel)
            barred = self._await_marker(channel) if self._prepared.marker else None
            if barred is not None:
                return self._finish(channel, *barred)
            channel.settimeout(max(0.1, self._deadline - time.monotonic()))
            channel.sendall(self._prepared.payload)
        except TimeoutError:
            reason = f"timed out after {self._timeout_s:g} s while it was being sent; nothing ran"
            return self._finish(channel, TargetState.TIMED_OUT, reason)
        except (OSError, EOFError, paramiko.SSHException) as error:
            if not channel.exit_status_ready():
                return self._finish(channel, TargetState.LOST, f"the link was lost while sending: {error}")
        return self._await_end(channel)

    def _send_request(self, channel: paramiko.Channel) -> None:
        """Send `exec` without asking for a reply: paramiko waits for one without any deadline."""
        message = paramiko.Message()
        message.add_byte(cMSG_CHANNEL_REQUEST)
        message.add_int(channel.remote_chanid)
        message.add_string("exec")
        message.add_boolean(False)  # noqa: FBT003  paramiko's signature
        message.add_string(self._prepared.command)
        self._connection.transport._send_user_message(message)  # type: ignore[attr-defined]  # noqa: SLF001

    def _await_marker(self, channel: paramiko.Channel) -> tuple[TargetState, str] | None:
        """Wait until the shell behind sudo says that it is there; what is said before is kept. Return why it is not."""
        marker = f"{self._prepared.marker}\n".encode()
        patience, seen = min(self._deadline, time.monotonic() + SUDO_S), b""
        while True:
            while channel.recv_stderr_ready():
                seen += channel.recv_stderr(_READ)
            if marker in seen:
                self._stderr.feed(seen.replace(marker, b"", 1))
                return None
            why = self._barred(channel, patience)
            if why is not None:
                self._stderr.feed(seen)
                return why
            self._wake.wait(patience - time.monotonic())

    def _barred(self, channel: paramiko.Channel, patience: float) -> tuple[TargetState, str] | None:
        """Say why the command will not get behind sudo, if that is certain now. Nothing of it was sent yet."""
        if self._cancelled.is_set():
            return TargetState.CANCELLED, "cancelled before it was sent"
        if channel.closed or channel.exit_status_ready():
            if self._connection.alive:
                return TargetState.BECOME, "sudo did not let the command through"
            return TargetState.LOST, "the link was lost before the command was sent"
        if time.monotonic() < patience:
            return None
        if patience < self._deadline:
            return TargetState.BECOME, f"sudo did not answer within {SUDO_S:g} s"
        return TargetState.TIMED_OUT, f"timed out after {self._timeout_s:g} s; sudo had not let it through"

    def _await_end(self, channel: paramiko.Channel) -> CommandResult:
        stopping: TargetState | None = None
        patience, again = self._deadline, float("inf")
        while True:
            self._drain(channel)
            if channel.closed or channel.exit_status_ready() or self._signalled(channel):
                break
            now = time.monotonic()
            if stopping is None and (self._cancelled.is_set() or now >= self._deadline):
                stopping = TargetState.CANCELLED if self._cancelled.is_set() else TargetState.TIMED_OUT
                patience, again = now + STOP_S, now + 1
                self._tell_to_stop(channel)
            if now >= again:  # busybox's `head` may have read the first one along with the script
                again = patience
                self._tell_to_stop(channel)
            if now >= patience:
                break
            self._wake.wait(min(patience, again) - now)
        held = not self._drain_rest(channel, LINGER_S if stopping is None else STOP_S)
        return self._judge(channel, stopping, held=held)

    def _signalled(self, channel: paramiko.Channel) -> bool:
        """Whether the target has told which signal ended the command."""
        return channel.get_id() in self._connection.transport.exit_signals

    def _drain_rest(self, channel: paramiko.Channel, silence_s: float) -> bool:
        """Take the output that is still on its way when the end is known; whether that came to an end too.

        A child left behind may hold the streams open for ever, silent or not: the waiting has an end of its own.
        """
        limit = time.monotonic() + LINGER_MOST_S
        quiet = time.monotonic() + silence_s
        while not (channel.closed or channel.eof_received):
            now = time.monotonic()
            if now >= min(quiet, limit):
                return False
            self._wake.wait(min(quiet, limit) - now)
            if self._drain(channel):
                quiet = time.monotonic() + silence_s
        self._drain(channel)
        return True

    def _drain(self, channel: paramiko.Channel) -> bool:
        """Take all that has arrived on both streams; whether there was any."""
        arrived = False
        while channel.recv_ready():
            self._stdout.feed(channel.recv(_READ))
            arrived = True
        while channel.recv_stderr_ready():
            self._stderr.feed(channel.recv_stderr(_READ))
            arrived = True
        return arrived

    def _tell_to_stop(self, channel: paramiko.Channel) -> None:
        try:
            channel.settimeout(1.0)
            channel.sendall(STOP)
        except (OSError, EOFError, paramiko.SSHException):
            self._wake.set()  # the link is gone: the loop will see that

    def _judge(self, channel: paramiko.Channel, stopping: TargetState | None, *, held: bool) -> CommandResult:
        """Say how it ended, from what the target told."""
        code = channel.exit_status if channel.exit_status_ready() and channel.exit_status >= 0 else None
        signal = self._connection.transport.exit_signals.pop(channel.get_id(), None)
        ended = code is not None or signal is not None
        if stopping is not None:
            how = f"timed out after {self._timeout_s:g} s" if stopping is TargetState.TIMED_OUT else "cancelled"
            left = "; a process it started still holds its output" if held else ""
            left = left if ended else "; it did not end when it was told to and may still be running"
            return self._finish(channel, stopping, how + left, code=code, signal=signal)
        if signal is not None:
            return self._finish(channel, TargetState.FAILED, f"killed by signal {signal}", signal=signal)
        if code is None:
            reason = "the link was lost; the command may still be running"
            return self._finish(channel, TargetState.LOST, reason)
        reason = "a process it left behind still holds its output" if held and code == 0 else ""
        return self._finish(channel, TargetState.OK if code == 0 else TargetState.FAILED, reason, code=code)

    def _finish(
        self,
        channel: paramiko.Channel,
        state: TargetState,
        reason: str,
        *,
        code: int | None = None,
        signal: str | None = None,
    ) -> CommandResult:
        self._drain(channel)
        self._stdout.close()
        self._stderr.close()
        return CommandResult(
            state=state,
            exit_code=code,
            signal=signal,
            reason=reason,
            stdout=self._stdout.text,
            stderr=self._stderr.text,
            truncated=bool(self._stdout.dropped or self._stderr.dropped),
        )
