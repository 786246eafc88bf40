"""Whether targets can be reached and logged in to: `true` run on each, outside of any run.

Nothing is changed and nothing is archived. What was found is handed on as it comes, with every password masked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from opsbook.errors import RefusedError
from opsbook.fleet.fleet import Fleet
from opsbook.fleet.session import Session
from opsbook.model.event import Event, Intent, TargetEnded
from opsbook.model.message import Recall, Recalled, RunOptions
from opsbook.model.target import Target
from opsbook.redaction import Redactor
from opsbook.secrets.inline import inline_passwords
from opsbook.secrets.resolve import Resolver


def ping(
    targets: Sequence[Target], *, options: RunOptions, watch: Callable[[TargetEnded], None], resolver: Resolver
) -> dict[str, TargetEnded]:
    """Return how each target answered, by name, in the order given; `watch` sees each answer when it comes."""
    listener = _Listener(targets, watch, resolver)
    session = Session(inventory=None, selected=None, options=options, channel=listener)
    try:
        Fleet(session, targets).run("true", read_only=True, check=False)
    finally:
        session.pool.close()
    return {target.name: listener.ended[target.name] for target in targets}


class _Listener:
    """Implements the `Channel` role where there is no runner."""

    def __init__(self, targets: Sequence[Target], watch: Callable[[TargetEnded], None], resolver: Resolver) -> None:
        self.ended: dict[str, TargetEnded] = {}
        self._watch = watch
        self._resolver = resolver
        self._redactor = Redactor()
        self._redactor.add(*inline_passwords(targets))

    def report(self, event: Event) -> None:
        """Keep how a target answered."""
        if isinstance(event, TargetEnded):
            self.ended[event.target] = self._redactor.clean(event)
            self._watch(self.ended[event.target])

    def intend(self, intent: Intent) -> None:
        """Let nothing leave that changes a target."""
        raise RefusedError(f"nothing is changed on {intent.target} here")

    def lock(self, cell_id: str | None, targets: dict[str, str], *, wait_s: float) -> None:
        """Nothing is changed, and nothing is locked for it."""

    def recall(self, recall: Recall) -> Recalled:
        """Nothing is known from before."""
        return Recalled(ticket=recall.ticket)

    def reveal(self, reference: str, *, used_for: str, cell_id: str | None) -> str:
        """Return a password, masked from then on. Nothing is recorded here."""
        del used_for, cell_id
        value = self._resolver.resolve(reference)
        self._redactor.add(value)
        return value

    def close_cell(self, cell_id: str | None) -> None:
        """There is no cell."""

    def settle(self) -> None:
        """Nothing goes to disk."""

    def on_cancel(self, listener: Callable[[bool], bool]) -> None:
        """Nobody but Ctrl-C stops this."""
