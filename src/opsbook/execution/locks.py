"""The locks of one run, held by its runner: a target is this run's alone from its first change to the run's end.

All targets of a call are locked at once, in sorted order, before anything is sent to any of them; what is asked for is
granted as a whole or not at all (SEMANTICS 23). A run that has changed nothing yet and cannot have what it asks for is
over: nothing else is granted to it either. Knows no notebook.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from opsbook.errors import BusyError, OpsbookError, RefusedError
from opsbook.execution.marks import ORDERLY, Marks, acknowledge, ancestors, leaves
from opsbook.locks.folder import LockFolder, lock_folder
from opsbook.locks.lock_file import Holder, LockFile
from opsbook.locks.wait import GRACE_S, Wait
from opsbook.model import message as m
from opsbook.model.event import Event, LockAwaited, MarksCleared
from opsbook.model.outcome import name_ranges
from opsbook.model.run import RunRecord, RunState

_SYNCERS = 16
_MOST_BUSY = 3
"""How many runs are named that hold what is asked for."""
_MOST_NAMED = 10
"""How many targets of each are named, where a range does not say it."""


class _Held(Struct, frozen=True, kw_only=True):
    """A lock of this run's."""

    lock: LockFile
    holder: Holder
    """What is written in it."""
    before: Holder | None
    """Whose mark stood in it, where a run that this one resumes had left its target in the middle."""


class RunLocks:
    """The locks of one run."""

    def __init__(
        self,
        folder: LockFolder,
        *,
        holder: Holder,
        ancestors: frozenset[str],
        wait_s: float,
        report: Callable[[Event], None],
    ) -> None:
        """Hold nothing yet; `holder` is this run, `ancestors` are the runs it resumes."""
        self._folder, self._holder = folder, holder
        self._wait_s = wait_s
        self._report = report
        self._marks = Marks(ancestors)
        self._turn = threading.Lock()
        """One request is served at a time."""
        self._held: dict[str, _Held] = {}
        self._guard = threading.Lock()
        self._waits: dict[int, Wait] = {}
        self._changed: set[str] = set()
        self._is_over = False
        self.refusal: OpsbookError | None = None
        """Why this run, which had changed nothing, is to end."""

    @classmethod
    def of_run(
        cls, claimed: RunRecord, archive: Path, *, path: str | None, wait_s: float, report: Callable[[Event], None]
    ) -> RunLocks:
        """Return the locks of a claimed run; `path` is their folder as the settings name it."""
        return cls(
            lock_folder(path),
            holder=holder_of(claimed, archive),
            ancestors=ancestors(archive, claimed.resumed_from),
            wait_s=wait_s,
            report=report,
        )

    def acknowledge(self, run_id: str | None) -> None:
        """Take back the marks of a run, if one is named, and report whose targets may be changed again."""
        if run_id is not None:
            archive, by = Path(self._holder.archive), self._holder.run_id
            self._report(MarksCleared(run_id=run_id, targets=acknowledge(self._folder, run_id, archive, by=by)))

    @property
    def busy(self) -> str:
        """Who holds what this run, which has changed nothing, would have changed."""
        return str(self.refusal) if isinstance(self.refusal, BusyError) else ""

    @property
    def refused(self) -> str:
        """Why this run, which has changed nothing, may not change what it would have."""
        return "" if self.refusal is None or self.busy else str(self.refusal)

    def ask(self, request: m.LockRequest, answer: Callable[[m.ToKernel], None]) -> None:
        """Serve a request on a thread of its own; `answer` is told what came of it."""
        wait = Wait(max(self._wait_s, GRACE_S))
        with self._guard:
            self._waits[request.ticket] = wait
        threading.Thread(target=self._serve, args=(request, wait, answer), name="opsbook-locks", daemon=True).start()

    def give_up(self, ticket: int | None = None) -> None:
        """Nobody waits any more for what was asked with a ticket; without one, for anything."""
        with self._guard:
            waits = [wait for number, wait in self._waits.items() if ticket in {None, number}]
        for wait in waits:
            wait.give_up()

    def note_change(self, target: str) -> None:
        """A changing command is about to leave for a target."""
        self._changed.add(target)

    def end(self, status: RunState, *, well: frozenset[str] = frozenset()) -> None:
        """Let go of everything, and leave a mark where this run has left a target in the middle.

        One that it found in the middle keeps the mark of the run before, unless this run has sent a change there, or
        the target is among those that ended `well`. What it never asked for it does not touch.
        """
        self.give_up()
        with self._turn:
            self._is_over = True
            held, self._held = list(self._held.values()), {}
            for one in held:
                names = frozenset(one.holder.targets)
                changed = not self._changed.isdisjoint(names)
                with suppress(OSError):  # who finds the name will see that this run has ended well
                    if one.before is not None and status in ORDERLY and not changed and well.isdisjoint(names):
                        one.lock.write(one.before)
                    elif not leaves(status, changed=changed, inherited=one.before is not None):
                        one.lock.write(None)
                one.lock.close()

    def _serve(self, request: m.LockRequest, wait: Wait, answer: Callable[[m.ToKernel], None]) -> None:
        ticket = request.ticket
        try:
            self._take(request, wait)
        except OpsbookError as error:
            why = f"{error}; {error.hint}" if error.hint else str(error)
            answer(m.Refusal(ticket=ticket, reason=why, code=error.exit_code))
        except Exception as error:  # noqa: BLE001  the notebook waits for an answer, whatever breaks here
            answer(m.Refusal(ticket=ticket, reason=f"cannot lock: {type(error).__name__}: {error}"))
        else:
            answer(m.Ack(ticket=ticket))
        finally:
            with self._guard:
                self._waits.pop(ticket, None)

    def _take(self, request: m.LockRequest, wait: Wait) -> None:
        """Lock what is not ours yet, all of it or nothing.

        Raises:
            BusyError: somebody else holds one of them.
            RefusedError: somebody has left one of them in the middle, or there are no locks to be had.
        """
        with self._turn:
            if self.refusal is not None:
                raise self.refusal
            if self._is_over:
                raise RefusedError("the run is over")
            try:
                self._take_all(request, wait)
            except OSError as error:
                self._refuse(RefusedError(f"cannot lock in {self._folder.path}: {error.strerror or error}"), wait)
            except (BusyError, RefusedError) as error:
                self._refuse(error, wait)

    def _refuse(self, error: OpsbookError, wait: Wait) -> None:
        """Raise; a run that has changed nothing has then come to its end."""
        if not self._changed and not wait.given_up:
            self.refusal = error
        raise error

    def _take_all(self, request: m.LockRequest, wait: Wait) -> None:
        names: dict[str, list[str]] = {}
        for name, address in request.targets.items():
            names.setdefault(address, []).append(name)
        locks: list[LockFile] = []
        taken: dict[str, _Held] = {}
        try:
            for address in sorted(names.keys() - self._held.keys()):
                lock = self._folder.of_target(address)
                self._await(lock, address, names, request, wait)
                locks.append(lock)
                taken[address] = self._signed(lock, address, names[address])
            self._sign(list(taken.values()))
        except BaseException:
            for lock in locks:
                lock.close()
            raise
        self._held |= taken
        self._add_names(names)

    def _await(
        self, lock: LockFile, address: str, names: Mapping[str, list[str]], request: m.LockRequest, wait: Wait
    ) -> None:
        """Take a lock; where somebody holds it, say so and wait as long as is allowed."""
        if lock.take():
            return
        if self._wait_s:
            holder, targets = self._who(address, names)
            self._report(LockAwaited(cell_id=request.cell_id, targets=targets, holder=holder))
        if not lock.take(wait):
            raise BusyError(self._who(address, names)[0])

    def _who(self, address: str, names: Mapping[str, list[str]]) -> tuple[str, tuple[str, ...]]:
        """Say who holds an address and others of those that are asked for; return also what they are called here."""
        held = [
            other
            for other in sorted(names.keys() - self._held.keys())
            if other == address or (other > address and self._folder.is_held(other))  # those before it are taken by us
        ]
        by_run: dict[str, list[str]] = {}
        for other in held:
            holder = self._folder.look(other)
            sentence = "another run" if holder is None else holder.sentence
            by_run.setdefault(sentence, []).extend(names[other])
        said = [f"{_some(called)} held by {sentence}" for sentence, called in by_run.items()]
        if len(said) > _MOST_BUSY:
            said[_MOST_BUSY:] = [f"and {len(said) - _MOST_BUSY} more runs hold others"]
        return "; ".join(said), tuple(name for called in by_run.values() for name in called)

    def _signed(self, lock: LockFile, address: str, names: list[str]) -> _Held:
        """Return a lock just taken as this run's, unless another one's mark is in the way."""
        before = lock.read()
        mine = replace(self._holder, place=address, targets=tuple(names), since=datetime.now(UTC))
        if before is None or not self._marks.is_mark(before):
            return _Held(lock=lock, holder=mine, before=None)
        problem = self._marks.problem(before, names)
        if problem:
            raise RefusedError(problem)
        return _Held(lock=lock, holder=replace(mine, inherited=before.inherited or before.run_id), before=before)

    def _sign(self, taken: list[_Held]) -> None:
        """Say in every lock who holds it, and return when that is on disk: a mark has to outlive a power cut."""
        from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415  a run that changes nothing needs none

        if not taken:
            return
        for one in taken:
            one.lock.write(one.holder)
        with ThreadPoolExecutor(min(_SYNCERS, len(taken))) as syncers:  # side by side a disk does many in one go
            for _ in syncers.map(lambda one: one.lock.sync(), taken):
                pass
        self._folder.sync()

    def _add_names(self, names: Mapping[str, list[str]]) -> None:
        """Note further names of addresses that are ours already."""
        for address, called in names.items():
            one = self._held[address]
            added = tuple(name for name in called if name not in one.holder.targets)
            if added:
                holder = replace(one.holder, targets=(*one.holder.targets, *added))
                one.lock.write(holder)
                one.lock.sync()
                self._held[address] = replace(one, holder=holder)


def holder_of(claimed: RunRecord, archive: Path) -> Holder:
    """Return what a claimed run writes into the locks it holds."""
    by = claimed.operator
    return Holder(
        run_id=claimed.run_id,
        archive=str(archive),
        user=by.user,
        host=by.host,
        pid=by.pid,
        since=claimed.started_at,
        place="",
    )


def _some(names: list[str]) -> str:
    """Name targets, the first of them where they are many, with the verb that fits.

    >>> _some(["db1"]), _some([f"host{number * 2}" for number in range(12)])[-21:]
    ('db1 is', 'host18 and 2 more are')
    """
    if len(names) == 1:
        return f"{names[0]} is"
    parts = name_ranges(names).split(", ")
    if len(parts) <= _MOST_NAMED:
        return f"{', '.join(parts)} are"
    return f"{', '.join(names[:_MOST_NAMED])} and {len(names) - _MOST_NAMED} more are"


def busy(lock: LockFile, what: str) -> str:
    """Say who holds a lock."""
    holder = lock.read()
    return f"{what} is held by {'another run' if holder is None else holder.sentence}"
