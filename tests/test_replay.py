"""What a resumed run answers and what it sends (SEMANTICS 16-19): the real `Replay`, programs crashed at every step."""

from __future__ import annotations

from collections.abc import Callable, Generator
from datetime import UTC, datetime
from typing import Any

import pytest
from fleet_model import TARGETS, Cell, Notebook, Trial, as_entries

from opsbook.errors import ExitCode
from opsbook.execution.replay import Replay
from opsbook.model import event as e
from opsbook.model.message import Recall, Recalled
from opsbook.model.run import CellRecord, CellState
from opsbook.model.target import TargetState

Program = Generator[None, None, object]


def straight(book: Notebook) -> Program:
    yield from book.run("download", line=1)
    yield from book.run("install", line=2)
    yield from book.run("restart", line=3)


def the_same_again(book: Notebook) -> Program:
    for _ in range(4):
        yield from book.run("rotate", line=2)


def branches(book: Notebook) -> Program:
    seen = yield from book.run("version", line=1, read_only=True)
    for name in TARGETS:
        even = int(seen[name].stdout) % 2 == 0
        yield from book.run("to-blue" if even else "to-green", [name], line=4 if even else 6)


def waves(book: Notebook) -> Program:
    for wave in (TARGETS[:1], TARGETS[1:3], TARGETS[3:]):
        yield from book.run("patch", wave, line=2, limit=1)
        yield from book.run("reboot", wave, line=3, limit=1)
        yield from book.run("is-up", wave, line=4, read_only=True)


def threads(book: Notebook) -> Program:
    def work(name: str) -> Program:
        for step in ("drain", "patch", "undrain"):
            yield from book.run(step, [name], line={"drain": 2, "patch": 3, "undrain": 4}[step])

    yield from book.together(*map(work, TARGETS))


def varies(book: Notebook) -> Program:
    yield from book.run("prepare", line=1)
    yield from book.run(f"deploy at {book.number}", line=2)


def fresh_membership(book: Notebook) -> Program:
    seen = yield from book.run("version", line=1, read_only=True, fresh=True)
    order = sorted(TARGETS, key=lambda name: (int(seen[name].stdout), name))
    for name in order:
        yield from book.run("patch", [name], line=4)


def tolerated(book: Notebook) -> Program:
    tried = yield from book.run("upgrade", line=1, check=False)
    broken = [name for name, result in tried.items() if result.state.is_failure]
    if broken:
        yield from book.run("repair", broken, line=4, check=False, include_failed=True)
    yield from book.run("restart", line=5, check=False, include_failed=True)


def loses(book: Notebook) -> Program:
    yield from book.run("first", line=1, check=False)
    yield from book.run("second", line=2, check=False)
    yield from book.run("third", line=3, check=False)


def then(program: Callable[[Notebook], Program]) -> list[Cell]:
    """The program, between cells of its own kind: what was done there has to stay done too."""

    def before(book: Notebook) -> Program:
        yield from book.run("set-up", line=1)

    def after(book: Notebook) -> Program:
        yield from book.run("clean-up", line=1)

    return [("before", before), ("middle", program), ("after", after)]


PROGRAMS: dict[str, tuple[list[Cell], float, float]] = {
    "straight": (then(straight), 0.05, 0.0),
    "the same again": (then(the_same_again), 0.05, 0.0),
    "branches on facts": (then(branches), 0.05, 0.0),
    "waves": (then(waves), 0.05, 0.0),
    "threads in the notebook": (then(threads), 0.0, 0.0),
    "text that varies": (then(varies), 0.0, 0.0),
    "membership from fresh facts": (then(fresh_membership), 0.0, 0.0),
    "a tolerated failure, then a fix": (then(tolerated), 0.3, 0.0),
    "lost links": (then(loses), 0.05, 0.1),
}
"""Each program, and how often a command of it fails, and how often its link is lost."""
MAY_DIVERGE = {"text that varies"}


def crash(name: str, trials: int) -> dict[str, int]:
    """Crash and resume a program many times; return how that ended, and what was complained of."""
    cells, fails, lost = PROGRAMS[name]
    seen: dict[str, int] = {}
    for seed in range(trials):
        trial = Trial(cells=cells, seed=seed, fails=fails, lost=lost)
        world = trial.play()
        assert not world.complaints, (name, seed, world.complaints)
        seen[trial.ended] = seen.get(trial.ended, 0) + 1
        if name == "text that varies":
            deployed = [key for key in world.executed if key[2].startswith("deploy")]
            once = [key[1] for key in deployed]
            assert len(once) == len(set(once)), (seed, deployed)
    return seen


@pytest.mark.parametrize("name", PROGRAMS)
def test_no_finished_command_is_sent_twice_and_no_unknown_one_in_silence(name):
    seen = crash(name, 30)
    assert seen.get("through", 0) > 5, seen
    assert set(seen) <= ({"through", "diverged"} if name in MAY_DIVERGE else {"through"}), seen


@pytest.mark.soak
@pytest.mark.parametrize("name", PROGRAMS)
def test_thousands_of_crashes_send_nothing_finished_twice(name):
    seen = crash(name, 2000)
    assert set(seen) <= ({"through", "diverged"} if name in MAY_DIVERGE else {"through"}), seen


OK, FAILED, LOST, SKIPPED = TargetState.OK, TargetState.FAILED, TargetState.LOST, TargetState.SKIPPED


class Story:
    """A journal, told line by line."""

    def __init__(self, *cells: str) -> None:
        order = tuple(CellRecord(id=name, index=index, label=name) for index, name in enumerate(cells))
        self.events: list[e.Event] = [e.RunStarted(run_id="old", title="", cells=order)]
        self._calls = 0
        self._cell = ""

    def begins(self, cell: str) -> Story:
        self._cell = cell
        self.events.append(e.CellStarted(cell_id=cell))
        return self

    def ends(self, state: CellState = CellState.OK) -> Story:
        self.events.append(e.CellEnded(cell_id=self._cell, state=state))
        return self

    def did(self, text: str, state: TargetState | None, *, line: int = 1, **how: Any) -> Story:
        """Something was done on web1; `state` None: nobody saw its end."""
        self._calls += 1
        intent = {name: how.pop(name) for name in ("spool", "boot_id") if name in how}
        kind = how.pop("kind", "run")
        common: dict[str, Any] = {"call": self._calls, "cell_id": self._cell, "kind": kind}
        self.events.append(e.CallStarted(**common, text=text, targets=("web1",), line=line))
        if not how.get("read_only") and state is not SKIPPED:
            self.events.append(e.Intent(**common, target="web1", digest=text, **intent))
        if state is not None:
            self.events.append(e.TargetEnded(**common, target="web1", digest=text, state=state, **how))
        return self


def told(*stories: Story, **how: Any) -> Replay:
    replay = Replay(source="old", **how)
    for story in stories:
        replay.inherit(as_entries(story.events))
    return replay


def ask(replay: Replay, cell: str, text: str, *, line: int = 1, **how: Any) -> Recalled:
    kind = how.pop("kind", "run")
    return replay.ask(Recall(cell_id=cell, line=line, kind=kind, text=text, digests={"web1": text}, **how))


def state_of(known: Recalled) -> TargetState | None:
    assert not known.blocked
    return known.answers["web1"].state if known.answers else None


def test_a_cell_that_ended_ok_is_answered_with_its_failures_and_its_facts():
    story = Story("a", "b").begins("a").did("change", FAILED).did("left", SKIPPED).did("fact", OK, read_only=True)
    replay = told(story.did("bad fact", FAILED, read_only=True).ends().begins("b").ends(CellState.FAILED))
    assert [state_of(ask(replay, "a", text)) for text in ("change", "left")] == [FAILED, SKIPPED]
    assert state_of(ask(replay, "a", "fact", read_only=True)) is OK
    assert state_of(ask(replay, "a", "bad fact", read_only=True)) is FAILED
    assert state_of(ask(replay, "a", "fact", read_only=True)) is None  # it was asked once
    assert replay.answered == 4


def test_in_the_cell_that_stopped_only_a_last_failure_is_sent():
    story = Story("a").begins("a").did("change", FAILED).did("fix", OK).did("fact", OK, read_only=True)
    assert state_of(ask(told(story), "a", "change")) is FAILED
    story.did("last", FAILED, line=3).ends(CellState.FAILED)
    replay = told(story)
    assert [state_of(ask(replay, "a", text)) for text in ("change", "fix")] == [FAILED, OK]
    assert state_of(ask(replay, "a", "last")) is None


def test_a_fresh_question_is_asked_again_and_a_file_is_fetched_again():
    story = Story("a", "b").begins("a").did("fact", OK, read_only=True).did("file", OK, read_only=True, kind="get")
    replay = told(story.ends().begins("b"))
    assert state_of(ask(replay, "a", "fact", read_only=True, fresh=True)) is None
    assert state_of(ask(replay, "a", "file", read_only=True, kind="get")) is None


def test_cells_behind_the_stop_run_as_new_unless_nobody_knows_how_something_ended_there():
    story = Story("a", "report", "clean").begins("a").ends(CellState.FAILED).begins("report").did("mail", OK).ends()
    story.begins("clean").did("tidy", OK).did("halfway", None).ends(CellState.INTERRUPTED)
    replay = told(story)
    assert replay.stopped_in == "a"
    assert state_of(ask(replay, "report", "mail")) is None
    assert state_of(ask(replay, "clean", "tidy")) is None
    assert 'nobody knows how "halfway" on web1 ended' in ask(replay, "clean", "halfway").blocked
    assert replay.blocked is not None
    assert replay.blocked.exit_code is ExitCode.UNKNOWN


@pytest.mark.parametrize("state", [None, LOST])
def test_what_nobody_knows_the_end_of_stops_the_run_unless_something_settles_it(state):
    def story(**how: Any) -> Story:
        return Story("a").begins("a").did("step", state, **how)

    assert ask(told(story()), "a", "step").blocked
    assert not ask(told(story()), "a", "step", idempotent=True).blocked
    assert not ask(told(story(), resend=True), "a", "step").blocked
    assert not ask(told(story(kind="put")), "a", "step", kind="put").blocked
    assert ask(told(story(spool="s1")), "a", "step").pending["web1"].spool == "s1"
    assert ask(told(story(boot_id="b1"), resend=True), "a", "step").pending["web1"].boot_id == "b1"


@pytest.mark.parametrize("state", [TargetState.CANCELLED, TargetState.TIMED_OUT])
def test_a_durable_command_that_was_given_up_is_asked_for_unless_its_target_told_of_its_end(state):
    def asked(**how: Any) -> Recalled:
        return ask(told(Story("a").begins("a").did("step", state, **how)), "a", "step")

    assert asked(spool="s1").pending["web1"].spool == "s1"
    assert not asked(spool="s1", exit_code=143).pending
    assert state_of(asked()) is None  # it was ended with its link: that it is sent again is what resuming is for


def test_what_is_unknown_stays_so_until_its_end_is_seen():
    first = Story("a").begins("a").did("step", None, spool="s1")
    second = Story("a").begins("a").did("step", SKIPPED).ends(CellState.INTERRUPTED)  # it was not even asked
    assert ask(told(first, second), "a", "step").pending["web1"].spool == "s1"
    third = Story("a").begins("a")
    third.events.append(e.TargetEnded(call=1, cell_id="a", target="web1", digest="step", state=FAILED, exit_code=3))
    assert not ask(told(first, third), "a", "step").pending


def test_a_run_that_cannot_go_on_stays_so_and_its_cell_has_not_ended_ok():
    story = Story("a", "b").begins("a").did("step", None)
    replay = told(story)
    assert ask(replay, "a", "step").blocked
    assert ask(replay, "a", "other", line=9).blocked  # its code caught the error
    assert replay.unknown
    assert not replay.refusal
    caught = Story("a", "b").begins("a")
    caught.events.append(e.ReplayBlocked(cell_id="a", exit_code=6, reason="…"))
    caught.ends().begins("b").ends(CellState.FAILED)
    again = told(story, caught)
    assert again.stopped_in == "a"
    assert ask(again, "a", "step").blocked


def test_another_text_from_the_same_line_has_diverged_and_says_how():
    def story() -> Story:
        return Story("a").begins("a").did("deploy 1", OK, line=3)

    replay = told(story())
    blocked = ask(replay, "a", "deploy 2", line=3)
    assert 'line 3 of "a" does not do on web1 what it did before: then "deploy 1", now "deploy 2"' in blocked.blocked
    assert replay.refusal
    assert not replay.unknown
    assert not ask(told(story()), "a", "deploy 2", line=4).blocked
    assert not ask(told(story()), "a", "deploy 2", line=3, read_only=True).blocked
    assert not ask(told(story(), insist=True), "a", "deploy 2", line=3).blocked
    failed = Story("a").begins("a").did("deploy 1", FAILED, line=3).ends(CellState.FAILED)
    assert not ask(told(failed), "a", "deploy 2", line=3).blocked  # mended: that is what resuming is for


def test_what_a_cell_that_ends_ok_no_longer_asks_for_is_noted():
    replay = told(Story("a", "b").begins("a").did("kept", OK).did("dropped", OK, line=2).ends().begins("b"))
    ask(replay, "a", "kept")
    cells = [CellRecord(id="a", index=0, label="Patch", state=CellState.OK)]
    notes = replay.notes(cells)
    assert (notes[0][:21], notes[0][-11:]) == ("1 result was answered", "sent for it")
    assert notes[-1] == '"Patch" no longer asks for what was sent before: "dropped" on web1'
    ask(replay, "a", "dropped", line=2)
    (note,) = replay.notes(cells)
    assert (note[:23], note[-13:]) == ("2 results were answered", "sent for them")


def test_a_second_attempt_is_answered_from_the_first_of_the_same_run():
    replay = Replay(retried=["a"])
    for event in Story("a").begins("a").did("change", OK).did("flaky", FAILED, line=2).events:
        replay.note(event, datetime.now(UTC))
    assert state_of(ask(replay, "a", "change", attempt=2)) is OK
    assert state_of(ask(replay, "a", "flaky", attempt=2, line=2)) is None
    assert ask(replay, "a", "change", attempt=2).source == ""


def test_a_run_that_was_killed_before_its_first_line_has_done_nothing():
    replay = Replay(source="old")
    replay.inherit([], [CellRecord(id="a", index=0, label="a")])
    assert replay.stopped_in == "a"
    assert state_of(ask(replay, "a", "change")) is None


def test_a_gate_that_was_confirmed_is_not_asked_about_again_once_its_cell_ended_ok():
    story = Story("a", "b").begins("a").ends().begins("b")
    story.events += [e.GateAnswered(cell_id=name, granted=True, by="terminal") for name in ("a", "b")]
    assert told(story).granted == {"a"}


def test_a_function_called_once_is_answered_and_one_that_raised_is_called_again():
    def once(name: str, **how: Any) -> list[e.Event]:
        begun = e.OnceBegun(cell_id="a", name=name, digest=name)
        return [begun, e.OnceEnded(cell_id="a", name=name, digest=name, **how)]

    story = Story("a").begins("a")
    story.events += [*once("ticket", value=[7]), *once("mail", error="OSError: no"), *once("half")[:1]]
    replay = told(story)

    def asked(name: str, **how: Any) -> Recalled:
        return replay.ask(Recall(cell_id="a", kind="once", text=f"once({name!r})", digests={"": name}, **how))

    known = asked("ticket").once
    assert known is not None
    assert known.value == [7]
    assert asked("mail").once is None
    assert asked("half").blocked.startswith("nobody knows how \"once('half')\" ended")
    assert not asked("other", idempotent=True).once
