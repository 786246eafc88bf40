"""The cells of one run, in order, through nbclient: which run, what each said, and how each ended.

A cell's state comes from evidence: the kernel's reply, its death, a deadline, a signal. papermill's own loop marks what
never ran as completed when anything but a plain error happens; this one replaces it. When a cell has not ended well
only cells tagged `always` still run.
"""

from __future__ import annotations

import time
from queue import Empty
from typing import Any

from jupyter_core.utils import run_sync
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import NotebookExecutionManager

from opsbook.errors import ArchiveError
from opsbook.execution.run_state import RunInProgress
from opsbook.execution.stop import REMOTE_S
from opsbook.model.event import CellEnded, CellOutput, CellStarted, GateAnswered
from opsbook.model.run import CellError, CellState
from opsbook.runbook.notebook import INJECTED_TAG, PARAMETERS_TAG, Document

ALWAYS_S = 60
"""Seconds an `always` cell may take after a failure or a stop."""
_SKIP_TAGS = {"skip", "skip-execution"}
_PAPERMILL = {
    CellState.OK: NotebookExecutionManager.COMPLETED,
    CellState.NOT_RUN: NotebookExecutionManager.PENDING,
    CellState.RUNNING: NotebookExecutionManager.RUNNING,
}
"""papermill knows four words; a state that is none of these three, and not skipped, is its `failed`."""


class CellClient(PapermillNotebookClient):  # type: ignore[misc]  # papermill is not typed
    """Executes the cells of one run."""

    def __init__(self, nb_man: Any, *, run: RunInProgress, **options: Any) -> None:
        super().__init__(nb_man, km=run.kernel_manager, **options)
        self._run = run
        self.kc = run.kernel_client
        self._stream: Document | None = None
        self._pieces: list[str] = []
        self._cell_id = ""
        self.timeout_func = lambda _: ALWAYS_S if self._run.broken or self._run.stopped else None

    def execute(self, **options: Any) -> Any:
        """Run all cells (papermill's entry). The kernel is asked for its language first: later it may be dead."""
        self.reset_execution_trackers()
        with self.setup_kernel(**options):
            info = self.wait_for_reply(self.kc.kernel_info())
            self.nb.metadata["language_info"] = info["content"]["language_info"]
            self.papermill_execute_cells()
            self.set_widgets_metadata()
        return self.nb

    def papermill_execute_cells(self) -> None:
        """Go through the cells (papermill's hook)."""
        for index, cell in enumerate(self.nb.cells):
            if cell.cell_type != "code" or not cell.source.strip():
                continue
            tags = cell.metadata.get("tags", [])
            self._cell_id = self._run.parameters_cell if INJECTED_TAG in tags else cell.id
            if _SKIP_TAGS & set(tags) or self._run.is_frozen(cell.id):
                self._end(cell, CellState.SKIPPED, 0.0, None)
                continue
            # busy first, questions after: a signal that came between would find nothing to stop, and the cell would run
            with self._run.stopper.cell():
                if self._may_run(tags):
                    self._run.broken = not self._execute(cell, index, tags) or self._run.broken

    def _may_run(self, tags: list[str]) -> bool:
        """Whether a cell may start now; after a failure or a stop only an `always` cell may."""
        if not (self._run.broken or self._run.stopped):
            return True
        if "always" not in tags:
            return False
        gone = "the journal cannot be written" if self._run.recorder.failure else ""
        gone = gone or ("" if self._run.kernel.alive else "the kernel was gone")
        if gone:
            self._run.notes.append(f'"{self._run.labels[self._cell_id]}" (always) did not run: {gone}')
        return not gone

    def _execute(self, cell: Document, index: int, tags: list[str]) -> bool:
        """Run one cell; whether the next may run."""
        if "confirm" in tags and not self._confirm(cell):
            return False
        if INJECTED_TAG not in tags:
            self._run.recorder.commit_now(CellStarted(cell_id=self._cell_id))
        if not self._may_run(tags):
            self._end(cell, CellState.NOT_RUN, 0.0, None)
            return False
        if "always" in tags:
            self._run.channel.stopping.clear()  # its fleet calls work, until the next signal
        self.nb_man.cell_start(cell, cell_index=index)
        begun = time.monotonic()
        state, error = self._evidence(cell, index)
        # the parameters cell is over when the injected one, which gives it its values, is
        to_come = state is CellState.OK and PARAMETERS_TAG in tags and self._run.injects
        self._end(cell, state, time.monotonic() - begun, error, report=not to_come)
        self.nb_man.cell_complete(cell, cell_index=index)
        return state is CellState.OK

    def _evidence(self, cell: Document, index: int) -> tuple[CellState, CellError | None]:
        """Run a cell in the kernel and say how it ended."""
        self._run.kernel_client.cell_id = self._cell_id
        try:
            self.execute_cell(cell, index)
        except CellExecutionError as error:
            raised = CellError(name=str(error.ename), text=str(error.evalue) + self._hint(str(error.evalue)))
            return CellState.INTERRUPTED if self._run.stopped else CellState.FAILED, raised
        except CellTimeoutError:
            self._end_overdue()
            return CellState.TIMED_OUT, None
        except DeadKernelError:
            return CellState.INTERRUPTED if self._run.stopped else CellState.LOST, None
        finally:
            self._close_stream()
        return CellState.OK, None

    def _end_overdue(self) -> None:
        """End what a cell left running when its time was over: as a stop does, and the kernel with it if it must be."""
        self._run.stopper.end_running()
        if not run_sync(self._answers)(self.kc.kernel_info(), time.monotonic() + REMOTE_S):
            self._run.kernel.kill()

    async def _answers(self, request: str, deadline: float) -> bool:
        """Whether the kernel answers a request in time: it does when no cell keeps it busy any more."""
        while (left := deadline - time.monotonic()) > 0:
            try:
                message = await self.kc.shell_channel.get_msg(timeout=left)
            except Empty:
                return False
            if message["parent_header"].get("msg_id") == request:
                return True
        return False

    def _hint(self, raised: str) -> str:
        """Say what to do when the notebook's kernel is a Python that has no opsbook."""
        if raised != "No module named 'opsbook'":
            return ""
        return f": the kernel {self._run.kernel_name!r} is another Python; install opsbook there, or choose python3"

    def _end(
        self, cell: Document, state: CellState, seconds: float, error: CellError | None, *, report: bool = True
    ) -> None:
        """Note a cell's state: in the document always, in the journal when `report`."""
        ended = CellEnded(cell_id=self._cell_id, state=state, duration_s=round(seconds, 3), error=error)
        word = "skipped" if state is CellState.SKIPPED else _PAPERMILL.get(state, NotebookExecutionManager.FAILED)
        cell.metadata.papermill["status"] = word
        cell.metadata.papermill["exception"] = word == NotebookExecutionManager.FAILED
        if not report:
            return
        try:
            self._run.recorder.commit_now(ended)
        except ArchiveError:
            self._run.broken = True  # the run ends with 5; the recorder keeps the reason

    def _confirm(self, cell: Document) -> bool:
        """Ask whether to go on with a cell tagged `confirm` (SEMANTICS 25)."""
        label = self._run.labels.get(cell.id, "this cell")
        granted, by = self._run.confirm(label)
        by = "signal" if self._run.stopped else by
        self._run.recorder.commit_now(GateAnswered(cell_id=cell.id, granted=granted, by=by))
        if not granted and not self._run.stopped:
            self._run.refused = f'"{label}" was not confirmed'
        return granted and not self._run.stopped

    def process_message(self, msg: dict[str, Any], cell: Document, cell_index: int) -> Any:
        """Take one message of the kernel (nbclient's hook), and record the text in it."""
        kind, content = msg["msg_type"], msg["content"]
        if kind == "stream":
            self._record_output(content["name"], content["text"])
        elif kind == "error":
            self._record_output("error", "\n".join(content["traceback"]) + "\n")
        elif kind in {"execute_result", "display_data"}:
            self._record_output("stdout", str(content["data"].get("text/plain", "")) + "\n")
        return super().process_message(msg, cell, cell_index)

    def _record_output(self, stream: str, text: str) -> None:
        self._run.recorder.submit(CellOutput(cell_id=self._cell_id, stream=stream, text=text))

    def output(self, outs: list[Document], msg: dict[str, Any], display_id: str | None, cell_index: int) -> Any:
        """Add an output to the cell (nbclient's hook); text of one stream goes into one output as it arrives."""
        content = msg["content"]
        if msg["msg_type"] == "stream" and not self.clear_before_next_output:
            if self._stream is not None and outs and outs[-1] is self._stream and self._stream.name == content["name"]:
                self._pieces.append(content["text"])
                return None
            self._close_stream()
            self._stream, self._pieces = super().output(outs, msg, display_id, cell_index), [content["text"]]
            return self._stream
        self._close_stream()
        return super().output(outs, msg, display_id, cell_index)

    def _close_stream(self) -> None:
        """Join the pieces of the stream output that has been growing."""
        if self._stream is not None:
            self._stream.text = "".join(self._pieces)
        self._stream, self._pieces = None, []
