"""A model of a fleet, a notebook and its runner, without SSH: what the real `Replay` is driven through crashes with.

A program is a list of cells; a cell is a generator that stops wherever a crash may come. A crash loses what was not on
disk yet: of the events behind the last one that was waited for, a random number. The world counts what was executed,
and complains when something finished is executed again, or something unknown in silence.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from random import Random

from opsbook.errors import ExitCode
from opsbook.execution.replay import Replay
from opsbook.model import event as e
from opsbook.model.message import Recall
from opsbook.model.run import CellRecord, CellState
from opsbook.model.target import TargetState

Steps = Generator[None, None, "Results"]
Results = dict[str, e.TargetEnded]
Key = tuple[str, str, str, int]
"""Cell, target, text, how often that was asked for before in the same run."""
TARGETS = tuple(f"web{number}" for number in range(1, 5))


class CallFailedError(Exception):
    """More targets failed than may."""


class BlockedError(Exception):
    """The run cannot go on."""


@dataclass
class World:
    """The targets, over all runs of a trial."""

    random: Random
    executed: Counter[Key] = field(default_factory=Counter)
    finished: set[Key] = field(default_factory=set)
    """What a journal that has survived shows as ok."""
    unknown: set[Key] = field(default_factory=set)
    """What was sent and no surviving journal shows the end of."""
    versions: dict[str, int] = field(default_factory=dict)
    """What facts tell: it changes with every change."""
    answered: list[Key] = field(default_factory=list)
    """What the last run took for done."""
    complaints: list[str] = field(default_factory=list)

    def execute(self, key: Key, *, may_repeat: bool) -> None:
        if key in self.finished:
            self.complaints.append(f"finished, and executed again: {key}")
        if key in self.unknown and not may_repeat:
            self.complaints.append(f"unknown, and executed again: {key}")
        self.executed[key] += 1
        self.versions[key[1]] = self.versions.get(key[1], 0) + 1


Cell = tuple[str, Callable[["Notebook"], Generator[None, None, object]]]


class Notebook:
    """One run of a program."""

    def __init__(
        self, world: World, number: int, replay: Replay | None, *, resends: bool, fails: float, lost: float
    ) -> None:
        self.world = world
        self.number = number
        """Which run of the trial this is: what a timestamp would come from."""
        self.replay = replay
        self.resends = resends
        self.fails = fails
        self.lost = lost
        self.journal: list[e.Event] = []
        self.on_disk = 0
        """How many events have surely survived."""
        self.cell = ""
        self.quarantined: set[str] = set()
        self._calls = 0
        self._asked: Counter[tuple[str, str, str]] = Counter()

    def commit(self, event: e.Event) -> None:
        self.journal.append(event)
        self.on_disk = len(self.journal)

    def run(
        self,
        text: str,
        targets: Iterable[str] = TARGETS,
        *,
        line: int = 1,
        read_only: bool = False,
        fresh: bool = False,
        idempotent: bool = False,
        check: bool = True,
        limit: int = 0,
        include_failed: bool = False,
    ) -> Steps:
        """Do what a fan-out does."""
        names = tuple(targets)
        self._calls += 1
        call, cell = self._calls, self.cell
        places = {name: self._asked[cell, name, text] for name in names}
        self._asked.update((cell, name, text) for name in names)
        started = e.CallStarted(
            call=call, cell_id=cell, kind="run", text=text, targets=names, read_only=read_only, line=line
        )
        self.journal.append(started)
        yield
        results: Results = {}
        if self.replay is not None:
            digests = dict.fromkeys(names, text)
            recall = Recall(
                cell_id=cell, line=line, kind="run", text=text, read_only=read_only, fresh=fresh, idempotent=idempotent,
                digests=digests,
            )  # fmt: skip
            known = self.replay.ask(recall)
            if known.blocked:
                self.journal.append(e.ReplayBlocked(cell_id=cell, exit_code=1, reason=known.blocked))
                raise BlockedError
            for name, ended in known.answers.items():
                results[name] = e.TargetEnded(**{**fields(ended), "call": call, "replayed": True})
                self.journal.append(results[name])
                self._judge(results[name], check=check)
                yield

        def one(name: str) -> Generator[None, None, object]:
            ended = e.TargetEnded(
                call=call, cell_id=cell, target=name, state=TargetState.OK, digest=text, read_only=read_only
            )
            failed = sum(result.state.is_failure for result in results.values()) > limit and check
            if failed or (name in self.quarantined and not read_only and not include_failed):
                ended = e.TargetEnded(**{**fields(ended), "state": TargetState.SKIPPED})
            elif read_only:
                ended = e.TargetEnded(
                    **{**fields(ended), "stdout": str(self.world.versions.get(name, 0)), "exit_code": 0}
                )
            else:
                key = (cell, name, text, places[name])
                self.commit(e.Intent(call=call, cell_id=cell, target=name, digest=text, kind="run"))
                yield
                self.world.execute(key, may_repeat=idempotent or self.resends)
                yield
                dice = self.world.random.random()
                state = (
                    TargetState.LOST
                    if dice < self.lost
                    else TargetState.FAILED
                    if dice < self.lost + self.fails
                    else TargetState.OK
                )
                code = None if state is TargetState.LOST else int(state is TargetState.FAILED)
                ended = e.TargetEnded(**{**fields(ended), "state": state, "exit_code": code})
            results[name] = ended
            self.journal.append(ended)
            self._judge(ended, check=check)
            yield

        yield from self.together(*(one(name) for name in names if name not in results))
        if check and sum(result.state.is_failure for result in results.values()) > limit:
            raise CallFailedError(text)
        return results

    def _judge(self, ended: e.TargetEnded, *, check: bool) -> None:
        if check and ended.state.is_failure and not ended.read_only:
            self.quarantined.add(ended.target)

    def together(self, *jobs: Generator[None, None, object]) -> Generator[None, None, None]:
        """Do several things at once: who comes next is left to chance, as with threads."""
        waiting = list(jobs)
        while waiting:
            job = self.world.random.choice(waiting)
            try:
                next(job)
            except StopIteration:
                waiting.remove(job)
                continue
            yield

    def go(self, cells: list[Cell]) -> Generator[None, None, bool]:
        """Run all cells; whether they all ended ok."""
        order = tuple(CellRecord(id=name, index=index, label=name) for index, (name, _) in enumerate(cells))
        self.commit(e.RunStarted(run_id=f"run-{self.number}", title="", cells=order))
        for name, program in cells:
            self.cell = name
            self.commit(e.CellStarted(cell_id=name))
            try:
                yield from program(self)
            except (CallFailedError, BlockedError):
                self.commit(e.CellEnded(cell_id=name, state=CellState.FAILED))
                return False
            self.commit(e.CellEnded(cell_id=name, state=CellState.OK))
            yield
        return True


def fields(event: e.TargetEnded) -> dict[str, object]:
    return {name: getattr(event, name) for name in event.__struct_fields__}


@dataclass
class Trial:
    """A program, crashed and resumed until it is through, or cannot go on."""

    cells: list[Cell]
    seed: int
    fails: float = 0.0
    lost: float = 0.0
    most_runs: int = 40
    ended: str = ""
    runs: int = 0

    def play(self) -> World:
        random = Random(self.seed)
        world = World(random)
        journals: list[list[e.Event]] = []
        resend = False
        for number in range(self.most_runs):
            self.runs += 1
            replay = None
            if journals:
                replay = Replay(source="before", resend=resend)
                for journal in journals:
                    replay.inherit(as_entries(journal))
            calm = number > self.most_runs // 2
            notebook = Notebook(
                world, number, replay, resends=resend,
                fails=0.0 if calm else self.fails, lost=0.0 if calm else self.lost,
            )  # fmt: skip
            over = self._crash_somewhere(notebook, calm=calm)
            journals.append(notebook.journal)
            world.answered = []
            self._note(world, notebook)
            resend = False
            if over:
                self.ended = "through"
                left_out = set(world.answered) - set(world.executed)
                world.complaints += [f"taken for done, and never executed: {key}" for key in left_out]
                return world
            if replay is not None and replay.blocked is not None:
                if replay.blocked.exit_code is ExitCode.REFUSED:
                    self.ended = "diverged"
                    return world
                resend = True  # somebody has looked, and says so
        self.ended = "given up"
        return world

    def _crash_somewhere(self, notebook: Notebook, *, calm: bool) -> bool:
        """Run, and crash at a random step; whether it came to its end."""
        random = notebook.world.random
        left = 10**9 if calm or random.random() < 0.2 else random.randint(0, 60)
        steps = notebook.go(self.cells)
        try:
            for _ in range(left):
                next(steps)
        except StopIteration as end:
            return bool(end.value)
        steps.close()
        kept = random.randint(notebook.on_disk, len(notebook.journal))
        del notebook.journal[kept:]
        return False

    def _note(self, world: World, notebook: Notebook) -> None:
        """What the journals show now, said anew by this one for all that it speaks of."""
        asked: Counter[tuple[str, str, str]] = Counter()
        places: dict[tuple[int, str], Key] = {}
        for event in notebook.journal:
            if isinstance(event, e.CallStarted) and not event.read_only:
                for name in event.targets:
                    what = str(event.cell_id), name, event.text
                    places[event.call, name] = (*what, asked[what])
                    asked[what] += 1
            if isinstance(event, e.Intent):
                world.unknown.add(places[event.call, event.target])
            if isinstance(event, e.TargetEnded) and not event.read_only and event.state is not TargetState.SKIPPED:
                key = places[event.call, event.target]
                if event.state is not TargetState.LOST:
                    world.unknown.discard(key)
                if event.state is TargetState.OK:
                    world.finished.add(key)
                    world.answered.append(key)


def as_entries(journal: list[e.Event]) -> list[e.Entry]:
    at = datetime(2026, 11, 20, tzinfo=UTC)
    return [e.Entry(seq=number, at=at, prev="", event=event) for number, event in enumerate(journal, start=1)]
