"""How many targets may fail before a change stops (SEMANTICS 1): counted by target, over all calls that share it."""

from __future__ import annotations

from collections.abc import Iterable

from opsbook.model.amount import parse_share
from opsbook.model.target import Target


class Limit:
    """Counts the targets that failed; one more than `most` and nothing new starts."""

    def __init__(self, most: int | str, targets: Iterable[Target]) -> None:
        self._ahead = {target.name: target for target in targets}
        self.of = len(self._ahead)
        self.most = parse_share(most, of=self.of)
        self.failed: set[str] = set()

    def begin(self, names: Iterable[str]) -> None:
        """A call reaches these targets now: they are no longer ahead."""
        for name in names:
            self._ahead.pop(name, None)

    @property
    def ahead(self) -> tuple[Target, ...]:
        """The targets no call has reached yet."""
        return tuple(self._ahead.values())

    def note(self, name: str) -> None:
        """Count a failed target, once however often it fails."""
        self.failed.add(name)

    @property
    def passed(self) -> bool:
        """Whether more have failed than may."""
        return len(self.failed) > self.most

    @property
    def sentence(self) -> str:
        """Say how many have failed."""
        return f"{len(self.failed)} of {self.of} targets failed (limit {self.most})"

    def give_up(self) -> tuple[Target, ...]:
        """Return the targets no call has reached, and forget them: nobody will reach them now."""
        left, self._ahead = tuple(self._ahead.values()), {}
        return left
