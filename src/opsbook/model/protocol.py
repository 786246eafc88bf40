"""The three roles that rooms hand to one another, so that none of them has to import the other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from opsbook.model.event import Entry, Event, Intent
from opsbook.model.message import Recall, Recalled


class Observer(Protocol):
    """Follows a run: a screen, a CI log, a notifier. Called on its own thread, in the order of the journal."""

    def observe(self, entry: Entry) -> None:
        """See one recorded, redacted event. An exception here never reaches the run."""

    def close(self) -> None:
        """The run is over; nothing follows."""


class Channel(Protocol):
    """What a fleet needs of its runner. A fleet in plain Jupyter has none."""

    def report(self, event: Event) -> None:
        """Hand an event over, in order, without waiting.

        Raises:
            ChannelError: the runner is gone.
        """

    def intend(self, intent: Intent) -> None:
        """Return when the intent is on disk.

        Raises:
            ChannelError: the runner is gone, or did not answer within the deadline.
            RefusedError: the runner does not want this command sent.
        """

    def recall(self, recall: Recall) -> Recalled:
        """Return what is known of a call from an earlier run, or attempt.

        Raises:
            ChannelError: the runner is gone, or did not answer within the deadline.
        """

    def lock(self, cell_id: str | None, targets: dict[str, str], *, wait_s: float) -> None:
        """Return when targets, given with their addresses, are this run's alone; waits so long for others to let go.

        Raises:
            ChannelError: the runner is gone, or did not answer within the deadline.
            BusyError: somebody else holds one of them.
            RefusedError: a run that is over has left one of them in the middle.
        """

    def reveal(self, reference: str, *, used_for: str, cell_id: str | None) -> str:
        """Return the value a secret's reference stands for; what it is used for is recorded (`SecretUsed`).

        Raises:
            SecretError: the reference cannot be resolved.
            ChannelError: the runner is gone.
        """

    def close_cell(self, cell_id: str | None) -> None:
        """Return when everything reported so far is recorded."""

    def settle(self) -> None:
        """Return when everything reported so far is on disk.

        Raises:
            ChannelError: the runner is gone, or did not answer within the deadline.
            RefusedError: it could not be written.
        """

    def on_cancel(self, listener: Callable[[bool], bool]) -> None:
        """Call `listener(hard)` when the run is to stop; it returns whether it ends remote commands itself."""


class Prompter(Protocol):
    """Asks the person at the terminal. A run without a terminal has none."""

    def confirm(self, question: str, *, bell: int) -> bool:
        """Whether the answer was yes. End of input is a no, and so is anything on the descriptor `bell`."""
