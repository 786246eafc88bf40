"""Logging in: which ways are tried, in which order, and when a password may be said.

At most `MOST_ATTEMPTS` are made. A password goes only to a host key that was known before this run (SEMANTICS 26), and
only when the server asks for one. What was refused is named in the error; no secret ever is.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeAlias

import paramiko
from paramiko.auth_handler import AuthOnlyHandler
from paramiko.common import cMSG_SERVICE_REQUEST

from opsbook.errors import ConnectError, SecretError
from opsbook.model.target import TargetState
from opsbook.ssh.agent import Agent, UnsignedError
from opsbook.ssh.fault import ended
from opsbook.ssh.keys import keys_for
from opsbook.ssh.reach import time_left

if TYPE_CHECKING:
    from opsbook.ssh.route import Route
    from opsbook.ssh.transport import FleetTransport

MOST_ATTEMPTS = 5
"""sshd allows six before it hangs up."""
PUBLIC_KEY, PASSWORD, PROMPT = "publickey", "password", "keyboard-interactive"


class _Handler(AuthOnlyHandler):
    """paramiko's, with one clock, and the server's answer kept.

    paramiko's own makes what it waits for after it has asked, and can so miss a quick answer.
    """

    def __init__(self, transport: FleetTransport, deadline: float) -> None:
        super().__init__(transport)
        self.deadline = deadline
        self.allowed: frozenset[str] | None = None
        """The ways to log in the server named last; None before it has named any."""
        self.partial = False
        """Whether the last attempt was right and another way is asked for as well."""
        self.auth_event = threading.Event()
        transport.on_service = self.auth_event.set

    def ask_for_service(self) -> None:
        """Say that somebody wants to log in, and wait until the server is ready to hear who."""
        message = paramiko.Message()
        message.add_byte(cMSG_SERVICE_REQUEST)
        message.add_string("ssh-userauth")
        self._exchange(message)

    def send_auth_request(
        self, username: str, method: str, finish_message: Callable[[paramiko.Message], None] | None = None
    ) -> list[str]:
        """Ask and wait for the answer, which `authenticated`, `allowed` and `partial` tell then."""
        self.auth_method, self.username, self.partial = method, username, False
        message = paramiko.Message()
        message.add_byte(paramiko.common.cMSG_USERAUTH_REQUEST)
        for text in (username, "ssh-connection", method):
            message.add_string(text)
        if finish_message is not None:
            finish_message(message)
        self._exchange(message)
        return []

    def _exchange(self, message: paramiko.Message) -> None:
        self.auth_event = answered = threading.Event()
        self.transport.on_service = answered.set  # type: ignore[attr-defined]
        if not self.transport.is_active():
            raise ended(self.transport)
        time_left(self.deadline)  # an agent may have used it up: no password is said then
        self.transport._send_message(message)  # type: ignore[attr-defined]  # noqa: SLF001
        if not answered.wait(max(0.0, self.deadline - time.monotonic())):
            raise TimeoutError
        if not self.transport.is_active():
            raise ended(self.transport)

    def _parse_userauth_failure(self, message: paramiko.Message) -> None:
        self.allowed = frozenset(message.get_list())
        self.partial = message.get_boolean()
        if self.auth_event is not None:
            self.auth_event.set()


Outcomes: TypeAlias = dict[tuple[str, str, str], bool]
"""Whether a password was taken, by the host's address, the user and the password's reference."""


class Login:
    """One login on one connection."""

    def __init__(
        self,
        transport: FleetTransport,
        route: Route,
        *,
        agent: Agent | None,
        reveal: Callable[[str], str],
        trusted: bool,
        outcomes: Outcomes,
    ) -> None:
        self._transport = transport
        self._route = route
        self._agent = agent
        self._reveal = reveal
        self._trusted = trusted
        self._outcomes = outcomes
        self._refused: list[str] = []
        self._tried = 0
        self._unsigned = False
        """Whether an agent let the time go by: that it ran out then is not the host's doing."""

    def run(self, deadline: float) -> None:
        """Log in by a deadline.

        Raises:
            ConnectError: nobody was let in (state `auth`), or the server took too long or hung up (`unreachable`).
        """
        handler = _Handler(self._transport, deadline)
        self._transport.auth_handler = handler
        try:
            handler.ask_for_service()
            if self._try_keys(handler) or self._try_password(handler):
                return
        except (paramiko.SSHException, EOFError, OSError) as error:
            late = isinstance(error, TimeoutError)
            if not self._unsigned and (late or not (self._tried and self._transport.farewell)):
                raise
            if self._transport.farewell and not late:
                self._refused.append(f"then it hung up: {self._transport.farewell}")
        raise ConnectError(f"{self._route.user} could not log in ({self._account()})", TargetState.AUTH)

    def _account(self) -> str:
        """Say what was tried, and what the server would have taken."""
        return f"tried: {', '.join(self._refused)}" if self._refused else "no key was found"

    def _may(self, method: str, handler: _Handler) -> bool:
        """Whether a way to log in is still worth a try."""
        return method in self._route.methods and (handler.allowed is None or method in handler.allowed)

    def _try_keys(self, handler: _Handler) -> bool:
        most = MOST_ATTEMPTS if self._route.password is None else MOST_ATTEMPTS - 1
        for name, key in self._keys(handler.deadline):
            if self._tried >= most or not self._may(PUBLIC_KEY, handler):
                break
            self._tried += 1
            try:
                handler.auth_publickey(self._route.user, key)
            except (paramiko.SSHException, ValueError) as error:
                if isinstance(error, UnsignedError):
                    self._unsigned = True
                elif not self._transport.is_active():
                    raise
                self._refused.append(f"{name}: {error}")
                self._tried -= 1  # nothing was sent: it could not sign
                continue
            if handler.is_authenticated():
                return True
            self._refused.append(f"{name} (more is asked for)" if handler.partial else name)
        return False

    def _keys(self, deadline: float) -> Iterator[tuple[str, paramiko.PKey]]:
        if PUBLIC_KEY not in self._route.methods:
            return iter(())
        return keys_for(self._route, self._agent, self._refused, deadline)

    def _try_password(self, handler: _Handler) -> bool:
        if self._route.password is None or not (self._may(PASSWORD, handler) or self._may(PROMPT, handler)):
            return False
        try:
            password = self._password(self._route.password)
        except SecretError as error:
            self._refused.append(str(error))
            return False
        if self._may(PASSWORD, handler):
            self._tried += 1
            handler.auth_password(self._route.user, password)
            self._keep_outcome(handler)
            if handler.is_authenticated():
                return True
            self._refused.append("password (more is asked for)" if handler.partial else "password")
            if not handler.partial and handler.allowed is not None and PASSWORD in handler.allowed:
                return False  # it was wrong, and would be in any other way
        return self._may(PROMPT, handler) and self._answer_prompt(handler, password)

    def _password(self, reference: str) -> str:
        """Return the password, if it may be said here.

        Raises:
            SecretError: it may not, or it cannot be had.
        """
        if not self._trusted:
            raise SecretError("no password is sent to a host key that was not known before this run")
        if not self._outcomes.get(self._login_by_password, True):
            raise SecretError("the password was refused here before and is not sent again")
        try:
            return self._reveal(reference)
        except SecretError as error:
            raise SecretError(f"the password: {error}") from None

    @property
    def _login_by_password(self) -> tuple[str, str, str]:
        return self._route.address, self._route.user, self._route.password or ""

    def _keep_outcome(self, handler: _Handler) -> None:
        """Keep whether the password was taken, the first time: a host that starts again may refuse what it took."""
        if not handler.partial:
            self._outcomes.setdefault(self._login_by_password, handler.is_authenticated())

    def _answer_prompt(self, handler: _Handler, password: str) -> bool:
        """Answer one hidden question with the password, once; anything else is not ours to answer."""
        given: list[str] = []

        def answer(_title: str, _text: str, prompts: list[tuple[str, bool]]) -> list[str]:
            if len(prompts) == 1 and not prompts[0][1] and not given:
                given.append("")
                return [password]
            return [""] * len(prompts)

        self._tried += 1
        handler.auth_interactive(self._route.user, answer)
        if given:
            self._keep_outcome(handler)
        if handler.is_authenticated():
            return True
        self._refused.append("password at a prompt" if given else "the server asked for more than a password")
        return False
