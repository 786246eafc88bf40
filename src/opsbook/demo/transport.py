"""The server's side of one SSH connection: who may come in, and what may be asked for.

One key, one user, `exec` alone: no password, no terminal, no shell, no subsystem, no forwarding. Owns what paramiko's
server side leaves out (the `signal` request, `exit-signal`, when a command may start talking) and drops the link
without a word when told to.
"""

from __future__ import annotations

import hmac
import logging
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress

import paramiko
from paramiko.common import (
    AUTH_FAILED,
    AUTH_SUCCESSFUL,
    MSG_CHANNEL_CLOSE,
    MSG_CHANNEL_FAILURE,
    MSG_CHANNEL_REQUEST,
    MSG_CHANNEL_SUCCESS,
    OPEN_FAILED_ADMINISTRATIVELY_PROHIBITED,
    OPEN_SUCCEEDED,
)

from opsbook.demo.processes import LOGIN, ProcessTable
from opsbook.demo.session import Session

_LOCALE_NAME = re.compile(rb"LANG|LC_[A-Z]+")
_LOG_NAME = "opsbook.demo.ssh"
_DROP_S = 1.0
"""How long a dropped connection's thread may take to notice."""


class Gatekeeper(paramiko.ServerInterface):
    """Answers what a client asks of one connection."""

    def __init__(
        self, *, client_key: bytes, accept: Callable[[paramiko.Channel, bytes, Mapping[str, str]], bool]
    ) -> None:
        self._client_key = client_key
        self._accept = accept
        self._extra: dict[int, dict[str, str]] = {}

    def get_allowed_auths(self, username: str) -> str:
        """A key is the only way in."""
        del username
        return "publickey"

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        """Know the one key and the one user. paramiko checks the signature."""
        known = username == LOGIN and hmac.compare_digest(key.asbytes(), self._client_key)
        return AUTH_SUCCESSFUL if known else AUTH_FAILED

    def check_channel_request(self, kind: str, chanid: int) -> int:
        """Allow sessions; forward nothing."""
        del chanid
        return OPEN_SUCCEEDED if kind == "session" else OPEN_FAILED_ADMINISTRATIVELY_PROHIBITED

    def check_channel_env_request(self, channel: paramiko.Channel, name: bytes, value: bytes) -> bool:
        """Take the language of the client's terminal, and no other variable."""
        if not _LOCALE_NAME.fullmatch(name) or b"\0" in value:
            return False
        self._extra.setdefault(channel.get_id(), {})[name.decode("ascii")] = value.decode("utf-8", "replace")
        return True

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        """Start the command, when this channel has none yet and the machine is up."""
        return self._accept(channel, command, self._extra.pop(channel.get_id(), {}))


class Connection(paramiko.Transport):
    """One client's connection to one machine; ends when the client does, or when it is dropped."""

    # Declared because the types leave them out: paramiko's table of handlers, its door for messages that must not
    # go out in the middle of a new key exchange, and how often an idle reader wakes.
    _channel_handler_table: dict[int, Callable[[paramiko.Channel, paramiko.Message], None]]
    _send_user_message: Callable[[paramiko.Message], None]
    _active_check_timeout = 1.0

    def __init__(
        self, sock: socket.socket, *, host_key: paramiko.PKey, client_key: bytes, processes: ProcessTable
    ) -> None:
        super().__init__(sock)
        self.set_log_channel(_quiet_logger().name)
        self.add_server_key(host_key)
        self._raw = sock
        self._processes = processes
        self._peer = " ".join(str(part) for part in (*sock.getpeername(), *sock.getsockname()))
        self._channels_held: dict[int, paramiko.Channel] = {}  # paramiko itself holds them weakly
        self._sessions: dict[int, Session] = {}
        self._accepted: Session | None = None
        handlers = dict(self._channel_handler_table)
        self._on_request = handlers[MSG_CHANNEL_REQUEST]
        self._on_close = handlers[MSG_CHANNEL_CLOSE]
        self._channel_handler_table = handlers | {
            MSG_CHANNEL_REQUEST: self._handle_request,
            MSG_CHANNEL_CLOSE: self._handle_close,
        }
        self._gatekeeper = Gatekeeper(client_key=client_key, accept=self._accept_command)
        self.opened_at = time.monotonic()

    def serve(self) -> None:
        """Start talking to the client, on a thread of its own."""
        self.start_server(event=threading.Event(), server=self._gatekeeper)

    def cut(self) -> None:
        """Cut the link, and leave its thread to notice. Commands keep running."""
        with suppress(OSError):
            self._raw.shutdown(socket.SHUT_RDWR)

    def drop(self) -> None:
        """Cut the link and wait for its thread, a second at most."""
        self.cut()
        self.join(_DROP_S)
        self.close()

    def run(self) -> None:
        """Serve until the link ends, then let the commands go on without it."""
        try:
            super().run()
        finally:
            self.packetizer.complete_handshake()  # ends its timer, which would outlive a client that never spoke
            for session in self._sessions.values():
                session.leave()

    def _queue_incoming_channel(self, channel: paramiko.Channel) -> None:
        """Hold a new channel until it is closed: paramiko's hook for servers that accept channels one by one."""
        self._channels_held[channel.get_id()] = channel

    def _accept_command(self, channel: paramiko.Channel, command: bytes, extra: Mapping[str, str]) -> bool:
        """Start the command of a channel that has none yet. It begins to talk when the client has its answer."""
        if channel.get_id() in self._sessions:
            return False
        process = self._processes.start(command, extra={**extra, "SSH_CONNECTION": self._peer})
        if process is None:
            return False
        try:
            session = Session(channel, process, processes=self._processes, tell_signal=self._tell_signal)
        except OSError:  # no descriptors left
            self._processes.kill(process, signal.SIGKILL)
            with process:
                return False
        self._sessions[channel.get_id()] = self._accepted = session
        return True

    def _handle_request(self, channel: paramiko.Channel, message: paramiko.Message) -> None:
        """Answer a channel request: `signal` here, all others as paramiko does."""
        if message.get_text() == "signal":
            wants_reply = message.get_boolean()
            session = self._sessions.get(channel.get_id())
            done = session is not None and session.signal(message.get_text())
            if wants_reply:
                reply = paramiko.Message()
                reply.add_byte(bytes([MSG_CHANNEL_SUCCESS if done else MSG_CHANNEL_FAILURE]))
                reply.add_int(channel.remote_chanid)
                self._send_user_message(reply)
            return
        message.rewind()
        message.get_int()  # the channel's number, which paramiko's own handler does not expect
        try:
            self._on_request(channel, message)
        finally:  # also when the client went before it had its answer: the command has started
            accepted, self._accepted = self._accepted, None
            if accepted is not None:
                accepted.start()

    def _handle_close(self, channel: paramiko.Channel, message: paramiko.Message) -> None:
        """The client closed a channel: its command goes on without it."""
        self._on_close(channel, message)
        self._channels_held.pop(channel.get_id(), None)
        session = self._sessions.pop(channel.get_id(), None)
        if session is not None:
            session.leave()

    def _tell_signal(self, channel: paramiko.Channel, name: str) -> None:
        """Send `exit-signal`: the command was ended by a signal."""
        message = paramiko.Message()
        message.add_byte(bytes([MSG_CHANNEL_REQUEST]))
        message.add_int(channel.remote_chanid)
        message.add_string("exit-signal")
        message.add_byte(b"\0")  # no reply wanted
        message.add_string(name)
        message.add_byte(b"\0")  # no core file
        message.add_string("")
        message.add_string("")
        self._send_user_message(message)


def _quiet_logger() -> logging.Logger:
    """Return the logger the server's talk goes to, which without a handler of its own would land on stderr."""
    logger = logging.getLogger(_LOG_NAME)
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())
    return logger
