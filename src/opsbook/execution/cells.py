"""The cells of one run, in order, through nbclient: which run, how often, and how each ended.

A cell's state comes from evidence: the kernel's reply, its death, a deadline, a signal. papermill's own loop marks what
never ran as completed when anything but a plain error happens; this one replaces it. When a cell has not ended well
only cells tagged `always` or `on-failure` still run.
"""

from __future__ import annotations

import subprocess
import time
from contextlib import suppress
from typing import Any

from msgspec import Struct
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from papermill.engines import NotebookExecutionManager

from opsbook.errors import ArchiveError
from opsbook.execution.kernel import END_S
from opsbook.execution.outputs import Loss, OutputClient, clip
from opsbook.execution.run_state import RunInProgress
from opsbook.execution.stop import REMOTE_S
from opsbook.model.event import CellEnded, CellStarted, GateAnswered
from opsbook.model.run import CellError, CellState
from opsbook.runbook.notebook import Cell, Document
from opsbook.runbook.tags import ALWAYS_TAG, INJECTED_TAG, ON_FAILURE_TAG, PARAMETERS_TAG, RAISES_TAG

_ASK_S = 0.5
"""Seconds between two questions to a kernel that is to be free again."""
_AGAIN = {CellState.FAILED, CellState.TIMED_OUT}
"""States after which `retry:N` tries again."""
_PAPERMILL = {
    CellState.OK: NotebookExecutionManager.COMPLETED,
    CellState.NOT_RUN: NotebookExecutionManager.PENDING,
    CellState.RUNNING: NotebookExecutionManager.RUNNING,
}
"""papermill knows four words; a state that is none of these three, and not skipped, is its `failed`."""


class _End(Struct, frozen=True, kw_only=True):
    """How a cell ended."""

    state: CellState
    error: CellError | None = None
    seconds: float = 0.0
    attempt: int = 1
    reason: str = ""
    """Why it was left out."""


class CellClient(OutputClient):
    """Executes the cells of one run."""

    def __init__(self, nb_man: Any, *, run: RunInProgress, **options: Any) -> None:
        # what a cell may raise is judged here: nbclient would not tell that it did
        super().__init__(nb_man, run=run, force_raise_errors=True, **options)
        self._known: Cell | None = None
        self._awaits_values = False
        """Whether the parameters cell was run, and the injected one, which belongs to it, comes next."""
        self._leaves = False
        """Whether the cell asked the kernel to end, as `exit()` does."""
        self.timeout_func = self._limit

    def execute(self, **options: Any) -> Any:
        """Run all cells (papermill's entry). The kernel is asked for its language first: later it may be dead."""
        del options  # the kernel runs already
        self.reset_execution_trackers()
        info = self.wait_for_reply(self.kc.kernel_info())
        self.nb.metadata["language_info"] = info["content"]["language_info"]
        self.papermill_execute_cells()
        self.set_widgets_metadata()
        return self.nb

    def _limit(self, _: Document) -> float | None:
        return None if self._known is None else self._run.limit(self._known)

    def papermill_execute_cells(self) -> None:
        """Go through the cells (papermill's hook)."""
        for index, cell in enumerate(self.nb.cells):
            if cell.cell_type != "code" or not cell.source.strip():
                continue
            injected = INJECTED_TAG in cell.metadata.get("tags", [])
            known = self._run.cell(cell.id, injected=injected)
            self._known, self._cell_id = known, known.id
            # busy first, questions after: a signal that came between would find nothing to stop, and the cell would run
            with self._run.stopper.cell(cleans_up=known.is_cleanup):
                self._take_turn(cell, index, known)

    def _take_turn(self, cell: Document, index: int, known: Cell) -> None:
        """Run a cell if it is to run now, and note what that means for those to come."""
        idle = ON_FAILURE_TAG in known.tags and not self._run.has_failed
        left_out = known.left_out or ("nothing had failed" if idle else "")
        runs = not left_out and self._may_run(known)
        if known.asks and (runs or (known.still_asks and not self._run.cleans_up)) and not self._confirm(known):
            self._run.broken, runs = True, False
        if left_out:
            self._end(cell, _End(state=CellState.SKIPPED, reason=left_out))
        elif runs and not self._execute(cell, index, known):
            self._run.broken = True
        elif not runs and self._awaits_values:  # what the parameters cell was begun for did not come about
            self._end(cell, _End(state=self._run.cut_off if self._run.stopped else CellState.LOST))
        self._awaits_values = self._awaits_values and PARAMETERS_TAG in known.tags
        if self._run.broken:
            self._run.stopper.forget_time()  # what cleans up has a bound of its own

    def _may_run(self, known: Cell) -> bool:
        """Whether a cell may start now: while all is well, and with a kernel to run in."""
        if self._run.cleans_up and not known.is_cleanup:
            return False
        gone = "the journal cannot be written" if self._run.recorder.failure else ""
        has_kernel = self._run.kernel.alive and not self._run.kernel_is_done
        gone = gone or ("" if has_kernel else "the kernel was gone")
        if gone:
            tag = next((f" ({tag})" for tag in (ALWAYS_TAG, ON_FAILURE_TAG) if tag in known.tags), "")
            self._run.notes.append(f'"{known.label}"{tag} did not run: {gone}')
            self._run.broken = True
        return not gone

    def _execute(self, cell: Document, index: int, known: Cell) -> bool:
        """Run one cell, again where its tags say so; whether the next may run."""
        end = _End(state=CellState.NOT_RUN)
        for attempt in range(1, 2 + known.rules.retries):
            if INJECTED_TAG not in known.tags:
                with suppress(ArchiveError):  # then it may not run
                    self._run.recorder.write_now(CellStarted(cell_id=known.id, attempt=attempt))
            if not self._may_run(known):
                self._end(cell, end)
                return False
            end = self._attempt(cell, index, known, attempt)
            if end.state not in _AGAIN or self._run.stopped or self._run.refused or not self._run.kernel.alive:
                break
            if self._run.blocked:
                break
        if end.state is not CellState.OK or self._run.blocked:
            self._run.broken_at = self._run.broken_at or cell.id
        return end.state is CellState.OK and not self._run.blocked

    def _attempt(self, cell: Document, index: int, known: Cell, attempt: int) -> _End:
        """Run one cell once."""
        if known.is_cleanup:
            self._run.channel.stopping.clear()  # its fleet calls work, until the next signal
        self.nb_man.cell_start(cell, cell_index=index)
        begun = time.monotonic()
        state, error = self._evidence(cell, index, known, attempt)
        end = _End(state=state, error=error, seconds=time.monotonic() - begun, attempt=attempt)
        # the parameters cell is over when the injected one, which gives it its values, is
        to_come = state is CellState.OK and PARAMETERS_TAG in known.tags and self._run.injects
        self._awaits_values = to_come
        self._end(cell, end, report=not to_come)
        self.nb_man.cell_complete(cell, cell_index=index)
        return end

    def _evidence(self, cell: Document, index: int, known: Cell, attempt: int) -> tuple[CellState, CellError | None]:
        """Run a cell in the kernel and say how it ended."""
        self._run.kernel_client.cell_id, self._run.kernel_client.attempt = known.id, attempt
        self._begin_outputs()
        self._leaves, stops = False, self._run.stops
        error: CellError | None = None
        try:
            self.execute_cell(cell, index)
        except CellExecutionError as raised:
            text = str(raised.evalue)
            error = CellError(name=str(raised.ename), text=clip(text) + self._hint(str(raised.ename), text))
        except CellTimeoutError:
            self._end_overdue(cell, index, known)
            return CellState.TIMED_OUT, None
        except DeadKernelError:
            return self._run.cut_off if self._run.stops > stops else CellState.LOST, None
        finally:
            self._loss = self._end_outputs(cell, index)
            self._run.notes += self._loss.notes(known.label)
        if self._leaves:
            self._await_its_end()
            error = CellError(name="SystemExit", text="the cell asked the kernel to end")
        if error is None:
            return CellState.OK, None
        if self._run.stops > stops:
            return self._run.cut_off, error
        return CellState.OK if RAISES_TAG in known.tags and not self._leaves else CellState.FAILED, error

    def _take_reply(self, reply: dict[str, Any]) -> None:
        """See also whether the cell asked for the kernel's end: the reply says ok all the same."""
        super()._take_reply(reply)
        self._leaves = any(part.get("source") == "ask_exit" for part in reply["content"].get("payload", ()))

    def _await_its_end(self) -> None:
        """Wait for a kernel that was told to end by the notebook itself: nothing more is to be run in it."""
        self._run.kernel_is_done = True
        with suppress(subprocess.TimeoutExpired):
            self._run.kernel.process.wait(END_S)

    def _end_overdue(self, cell: Document, index: int, known: Cell) -> None:
        """End what a cell left running when its time was over: as a stop does, and the kernel with it if it must be."""
        self._run.stopper.end_running()
        if not self._settles(cell, index, deadline=time.monotonic() + REMOTE_S):
            self._run.kernel.kill()
            self._run.kernel_is_done = True
            self._run.notes.append(f'"{known.label}" could not be ended: the kernel was killed')

    def _settles(self, cell: Document, index: int, *, deadline: float) -> bool:
        """Whether the kernel is free again in time, with all that the cell said taken in.

        It is asked again and again: only that wakes some that await.
        """
        asked, ask_at, answers = set[str](), 0.0, False
        while not (answers and self._idle) and time.monotonic() < deadline and self._run.kernel.alive:
            if not answers and time.monotonic() >= ask_at:
                asked.add(self.kc.kernel_info())
                ask_at = time.monotonic() + _ASK_S
            self._listen(cell, index, min(_ASK_S, deadline - time.monotonic()))
            answers = answers or self._answer(asked) is not None
        return answers

    def _hint(self, name: str, raised: str) -> str:
        """Say what to do when the kernel was not given a variable, or is a Python that has no opsbook."""
        if name == "KeyError" and raised.strip("'") in self._run.kernel.withheld:
            place = "name it under [env] pass in opsbook.toml, or a secret under [env.secrets]"
            return f": it is set here and not handed to notebooks; {place}"
        if raised != "No module named 'opsbook'":
            return ""
        return f": the kernel {self._run.kernel_name!r} is another Python; install opsbook there, or choose python3"

    def _end(self, cell: Document, end: _End, *, report: bool = True) -> None:
        """Note how a cell ended: in the document always, in the journal when `report`."""
        loss, self._loss = self._loss, Loss()
        ended = CellEnded(
            cell_id=self._cell_id,
            state=end.state,
            duration_s=round(end.seconds, 3),
            error=end.error,
            attempt=end.attempt,
            reason=end.reason,
            output_cut=loss.cut,
            output_lost=loss.lost,
        )
        word = (
            "skipped" if end.state is CellState.SKIPPED else _PAPERMILL.get(end.state, NotebookExecutionManager.FAILED)
        )
        cell.metadata.papermill["status"] = word
        cell.metadata.papermill["exception"] = word == NotebookExecutionManager.FAILED
        if not report:
            return
        self._run.recorder.submit(ended)  # no cell is begun before it is written

    def _confirm(self, known: Cell) -> bool:
        """Ask whether to go on with a cell tagged `confirm` (SEMANTICS 25)."""
        granted, by = self._run.confirm(known)
        by = self._run.stopped_by if self._run.stopped else by
        self._run.recorder.commit_now(GateAnswered(cell_id=known.id, granted=granted, by=by))
        if not granted and not self._run.stopped:
            self._run.refused = f'"{known.label}" was not confirmed'
        return granted and not self._run.stopped
