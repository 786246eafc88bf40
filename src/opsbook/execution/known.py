"""What is known of one cell's calls, call by call: from runs before, and from what the cell does now.

A call that is asked for again takes the place of the one it repeats, unless that one was sent and nothing yet shows how
it ended. Knows nothing of other cells.
"""

from __future__ import annotations

from collections import Counter, deque
from datetime import datetime

from msgspec import Struct
from msgspec.structs import replace

from opsbook.model import event as e
from opsbook.model.target import TargetState

ONCE = "once"
"""The kind of what `once` calls; it has no target."""


class Item(Struct, frozen=True, kw_only=True):
    """One thing that was done, or begun, on one target."""

    target: str
    digest: str
    kind: str = "run"
    line: int = 0
    text: str = ""
    read_only: bool = False
    at: datetime | None = None
    intent: e.Intent | None = None
    """What was on disk before it left."""
    ended: e.TargetEnded | e.OnceEnded | None = None
    settled: bool = False
    """Whether the cell it belongs to ended ok with it: it is answered as it is, a failure too."""

    @property
    def key(self) -> tuple[str, str]:
        """What it is found by, within its cell."""
        return self.target, self.digest

    @property
    def state(self) -> TargetState | None:
        """How it ended, as far as that is known."""
        if isinstance(self.ended, e.OnceEnded):
            return TargetState.FAILED if self.ended.error else TargetState.OK
        return None if self.ended is None else self.ended.state

    @property
    def is_replayed(self) -> bool:
        """Whether it was itself answered, and not done again."""
        return self.ended is not None and self.ended.replayed

    @property
    def is_open(self) -> bool:
        """Whether it was sent and nobody knows how it ended."""
        unseen = self.state in {None, TargetState.LOST} or self._runs_on
        return unseen and not self.read_only and not self.settled

    @property
    def _runs_on(self) -> bool:
        """Whether it was durable and given up, and its target never told of its end."""
        durable = self.intent is not None and self.intent.spool is not None
        unheard = isinstance(self.ended, e.TargetEnded) and self.ended.exit_code is None
        return durable and unheard and self.state in {TargetState.CANCELLED, TargetState.TIMED_OUT}

    @property
    def proves_its_end(self) -> bool:
        """Whether it settles what became of the same command sent earlier."""
        told = isinstance(self.ended, e.OnceEnded) or getattr(self.ended, "exit_code", None) is not None
        return self.intent is not None or self.state is TargetState.OK or (self.state is TargetState.FAILED and told)


def _after(before: Item | None, now: Item) -> Item:
    """Return what is known once something that was known has been asked for again."""
    if before is None:
        return now
    if now.is_replayed or (before.is_open and not now.proves_its_end):
        return before
    return replace(now, intent=now.intent or before.intent)


class KnownCell:
    """What is known of one cell: from before, and what it does now."""

    def __init__(self) -> None:
        self.attempt = 1
        self.runs_as_new = False
        """Whether only what nobody knows the end of was kept of it."""
        self._known: list[Item] = []
        self._alike: dict[tuple[str, str], list[Item]] = {}
        self._of: dict[str, list[Item]] = {}
        """What is known, by target."""
        self._own: dict[tuple[int, str], Item] = {}
        """What this attempt has done, in the order it ended."""
        self._used: Counter[tuple[str, str]] = Counter()

    def note(self, call: int, item: Item) -> None:
        """Take in what this attempt has begun or ended."""
        before = self._own.pop((call, item.target), None)
        if before is not None:
            item = replace(item, intent=before.intent or item.intent, at=before.at)
        self._own[call, item.target] = item

    def next_of(self, target: str, digest: str) -> Item | None:
        """Return what is known of something asked for now, and count it as used."""
        alike = self._alike.get((target, digest), [])
        number = self._used[target, digest]
        self._used[target, digest] += 1
        return alike[number] if number < len(alike) else None

    def unused(self, target: str | None = None) -> list[Item]:
        """List what is known, of all targets or of one, and was not asked for by this attempt."""
        seen: Counter[tuple[str, str]] = Counter()
        left = []
        for item in self._known if target is None else self._of.get(target, ()):
            seen[item.key] += 1
            if seen[item.key] > self._used[item.key]:
                left.append(item)
        return left

    def is_unknown(self, item: Item) -> bool:
        """Whether it may have been done, and what came of it decides what is next."""
        return item.is_open and (item.ended is None or self._is_last(item))

    def answers(self, item: Item, *, fresh: bool = False) -> bool:
        """Whether it is answered as it ended (SEMANTICS 17); a file is fetched again, what raised is called again."""
        if item.kind == ONCE:
            return item.state is TargetState.OK
        if item.read_only and (fresh or (item.kind == "get" and item.state is TargetState.OK)):
            return False
        return item.settled or item.state is TargetState.OK or not self._is_last(item)

    def _is_last(self, item: Item) -> bool:
        return self._of[item.target][-1] is item

    def settle(self) -> None:
        """The cell ended ok: what it did is what is known of it."""
        self.runs_as_new = False
        self._learn([replace(item, settled=item.state is not None) for item in self._own.values()])

    def stop(self, *, passed: bool = False) -> None:
        """The cell did not end ok; or it ran although an earlier one had not (`passed`), and is to run as new.

        What was not asked for again is still known.
        """
        before = {key: deque(items) for key, items in self._alike.items()}
        merged = []
        for item in sorted(self._own.values(), key=lambda item: item.ended is None):
            alike = before.get(item.key)
            now = _after(alike.popleft() if alike else None, item)
            if not passed or item.is_replayed or now.is_open:
                merged.append(now)
        left = {id(item) for items in before.values() for item in items}
        known = [*merged, *(item for item in self._known if id(item) in left)]
        if self._own:
            self.runs_as_new = passed and all(item.is_open for item in known)
        self._learn(known)

    def _learn(self, items: list[Item]) -> None:
        self._known, self._alike, self._of = items, {}, {}
        for item in items:
            self._alike.setdefault(item.key, []).append(item)
            self._of.setdefault(item.target, []).append(item)
        self._own.clear()
        self._used.clear()
