"""What the cells of a run say: taken from the kernel's messages, counted, capped, and kept in copy and journal.

Completeness comes by counts, never by arrival: our own kernel says with a cell's reply how many outputs it handed
over, and what has not come when the kernel says it is idle is recorded as lost. Of text the head is kept and the last
of the rest, with one line between them that says how much was cut. Knows nothing of cell states.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from itertools import groupby
from operator import itemgetter
from typing import Any

from msgspec import Struct
from nbclient.exceptions import CellExecutionComplete, CellExecutionError, CellTimeoutError, DeadKernelError
from papermill.clientwrap import PapermillNotebookClient

from opsbook.execution.cell_summary import CellSummary
from opsbook.execution.run_state import RunInProgress
from opsbook.execution.sockets import KernelSockets
from opsbook.execution.terms import COUNTED, OUTPUTS_KEY
from opsbook.model.event import CellOutput
from opsbook.runbook.mark import is_marked, without_mark
from opsbook.runbook.notebook import Document

MOST_OUTPUTS = 5000
"""Outputs a cell of the copy may have: each of them is a box in Jupyter, and costs whoever opens it."""
TAIL = 64 * 1024
"""Characters of the end of a text that are kept when its middle is cut."""
ERROR = 256 * 1024
"""Characters of an error that are kept, whatever the cell said before it."""
_IDLE_S = 60.0
"""Seconds the last outputs of a cell may take after the kernel's reply."""
_ALIVE_S = 1.0
"""Seconds of silence after which the kernel is looked at: it may be dead."""


class Loss(Struct, frozen=True, kw_only=True):
    """What of a cell's output is not there to be read."""

    cut: int = 0
    """Characters over the cap."""
    lost: int = 0
    """Outputs that never arrived."""

    def notes(self, label: str) -> list[str]:
        """Say it for a reader of the record."""
        cut = (
            f'{self.cut:,} characters of what "{label}" said were cut ([output] in opsbook.toml says how much is kept)'
        )
        lost = f'{self.lost:,} outputs of "{label}" were lost on their way'
        lost = f'1 output of "{label}" was lost on its way' if self.lost == 1 else lost
        return [note for holds, note in ((self.cut, cut), (self.lost, lost)) if holds]


def clip(text: str, most: int = ERROR) -> str:
    """Return a text, or its head and the note that it was cut.

    >>> clip("abcdef", 4)
    'abcd… (2 more characters)'
    """
    return text if len(text) <= most else f"{text[:most]}… ({len(text) - most} more characters)"


class Keeper:
    """Decides what of one cell's output one place keeps."""

    def __init__(self, most: int) -> None:
        self._tail_room = min(TAIL, most // 4)
        self._head_room = most - self._tail_room
        self._tail: deque[tuple[str, str]] = deque()
        self._tail_size = 0
        self._told = 0
        self._last = "stderr"
        """The stream the head ends with."""
        self.kept = 0
        """Characters that were kept, without those of the tail that is still open."""
        self.cut = 0
        """Characters that were not."""

    def admits(self, size: int) -> bool:
        """Take something that is kept whole or not at all; what takes less room than before gives some back."""
        if size > self._head_room:
            self.cut += size
            return False
        self._head_room -= size
        self.kept += size
        return True

    def fill(self) -> None:
        """Let the head be full, whatever room it has left: there may be no more outputs."""
        self._head_room = 0

    def take(self, name: str, text: str) -> str:
        """Return the part of a text that belongs to the head; of what comes after, the last is remembered."""
        head = "" if self._tail or self.cut else text[: self._head_room]
        self._head_room -= len(head)
        self.kept += len(head)
        self._last = name if head else self._last
        if len(head) < len(text):
            self._remember(name, text[len(head) :])
        return head

    def _remember(self, name: str, text: str) -> None:
        self._tail.append((name, text))
        self._tail_size += len(text)
        while self._tail_size > self._tail_room:
            first, oldest = self._tail.popleft()
            dropped = min(self._tail_size - self._tail_room, len(oldest))
            if dropped < len(oldest):
                self._tail.appendleft((first, oldest[dropped:]))
            self._tail_size -= dropped
            self.cut += dropped

    def rest(self) -> Iterator[tuple[str, str]]:
        """Yield what follows the head: one line that says how much was cut, if it was, and the tail.

        The line stands between both parts of the stream that was cut: the redactor knows by it what is cut short.
        """
        said = [(name, "".join(text for _, text in pieces)) for name, pieces in groupby(self._tail, key=itemgetter(0))]
        if self.cut > self._told:
            notice = f"\n… {self.cut:,} characters of this cell's output were cut …\n"
            if said and said[0][0] == self._last:
                said[0] = self._last, notice + said[0][1]
            else:
                said = [(self._last, notice), *((name, f"…{text}") for name, text in said[:1]), *said[1:]]
        self._told = self.cut
        yield from said
        self._tail.clear()
        self.kept += self._tail_size
        self._tail_size = 0


class OutputClient(PapermillNotebookClient):  # type: ignore[misc]  # papermill is not typed
    """Takes the messages of one run's kernel."""

    def __init__(self, nb_man: Any, *, run: RunInProgress, **options: Any) -> None:
        super().__init__(nb_man, km=run.kernel_manager, **options)
        self._run = run
        self.kc = run.kernel_client
        self._sockets = KernelSockets(self.kc)
        self._cell_id = ""
        self._request = ""
        """The id of the request that runs the cell."""
        self._room = run.output.run_characters
        """Characters the run may still keep."""
        self._loss = Loss()
        """What of the last cell's output is missing, until its end is recorded."""
        self._begin_outputs()

    def _begin_outputs(self) -> None:
        """Forget what the cell before said."""
        self._stream: Document | None = None
        self._pieces: list[str] = []
        self._most = min(self._run.output.cell_characters, self._room)
        self._copy, self._journal = Keeper(self._most), Keeper(self._most)
        self._summary: CellSummary | None = None
        self._shown: dict[str, int] = {}
        self._arrived = 0
        self._announced: int | None = None
        self._idle = self._replied = False

    def execute_cell(self, cell: Document, cell_index: int, **options: Any) -> Document:
        """Run a cell, and return when the kernel has replied and is idle: all that the cell said has come.

        nbclient would do it with three tasks of an event loop for each cell, which cost more than the cell.

        Raises:
            CellExecutionError: the reply says so.
            CellTimeoutError: there was no reply in time; what the cell says from now on is still to be listened to.
            DeadKernelError: the kernel is gone.
        """
        cell.outputs = []
        self.clear_before_next_output = False
        self.code_cells_executed += 1
        self._request = self.kc.execute(self._begun(cell), **options)
        reply = self._reply(cell, cell_index)
        self._take_reply(reply)
        if reply["content"]["status"] != "ok":
            raise CellExecutionError.from_cell_and_msg(cell, reply["content"])
        return cell

    def _begun(self, cell: Document) -> str:
        """Return a cell's code, and see whether what it says is to be summed up."""
        language = self.nb.metadata.get("language_info", {}).get("name")
        self._summary = self._run.summaries.of(self._cell_id, marked=is_marked(cell.source))
        return without_mark(cell.source, python=language == "python")

    def _reply(self, cell: Document, index: int) -> dict[str, Any]:
        """Listen until the kernel has replied and is idle; once it has replied, what does not come is lost."""
        limit = self._get_timeout(cell)
        deadline = None if limit is None else time.monotonic() + limit
        reply: dict[str, Any] | None = None
        while reply is None or not self._idle:
            left = _ALIVE_S if deadline is None else deadline - time.monotonic()
            if left <= 0 and reply is not None:
                break
            if left <= 0:
                raise CellTimeoutError.error_from_timeout_and_cell("Cell execution timed out", limit, cell)
            if not self._listen(cell, index, min(left, _ALIVE_S)) and not self._run.kernel.alive:
                raise DeadKernelError("Kernel died")
            if reply is None and (reply := self._answer({self._request})) is not None:
                deadline = time.monotonic() + _IDLE_S
        return reply

    def _listen(self, cell: Document, index: int, seconds: float) -> bool:
        """Take what the cell says, or wait so long for it or a reply; whether anything had come."""
        come = self._sockets.wait(seconds)
        for message in self._sockets.outputs():
            if message["parent_header"].get("msg_id") == self._request:
                with suppress(CellExecutionComplete):
                    self.process_message(message, cell, index)
        return come

    def _answer(self, requests: set[str]) -> dict[str, Any] | None:
        """Return the reply to one of these requests, if it has come."""
        mine = (reply for reply in self._sockets.replies() if reply["parent_header"].get("msg_id") in requests)
        return next(mine, None)

    def _take_reply(self, reply: dict[str, Any]) -> None:
        """Read how many outputs the kernel handed over."""
        self._replied = True
        self._announced = reply["metadata"].get(OUTPUTS_KEY)

    def process_message(self, msg: dict[str, Any], cell: Document, cell_index: int) -> Any:
        """Take one message of the kernel (nbclient's hook), and record the text in it."""
        kind, content = msg["msg_type"], msg["content"]
        self._arrived += kind in COUNTED
        if kind == "stream":
            self._tell(content["name"], content["text"])
        elif kind == "error":
            content["traceback"] = [clip("\n".join(content["traceback"]))]
            content["evalue"] = clip(content["evalue"])
            self._tell_rest()
            self._say("error", content["traceback"][0] + "\n")
        elif kind in {"execute_result", "display_data"}:
            self._tell("stdout", str(content["data"].get("text/plain", "")) + "\n")
        elif kind == "status":
            self._idle = content["execution_state"] == "idle" or self._idle
        elif kind == "clear_output" and not content.get("wait"):
            self._clear()
        elif (kind == "update_display_data" or kind.startswith("comm")) and not self._fits(msg):
            return None
        return super().process_message(msg, cell, cell_index)

    def _tell(self, stream: str, text: str) -> None:
        """Record what the journal keeps of a text."""
        self._say(stream, self._journal.take(stream, text))

    def _tell_rest(self) -> None:
        for stream, text in self._journal.rest():
            self._say(stream, text)

    def _say(self, stream: str, text: str) -> None:
        if text:
            self._run.recorder.submit(CellOutput(cell_id=self._cell_id, stream=stream, text=text))

    def _clear(self) -> None:
        """Begin the copy's outputs again: what the author took away counts no more."""
        self._stream, self._pieces = None, []
        self._copy = Keeper(self._most)
        self._summary = self._summary and self._run.summaries.of(self._cell_id, marked=True)
        self._shown.clear()

    def _fits(self, msg: dict[str, Any]) -> bool:
        """Whether the copy has room for something that is no text. What replaces itself counts once."""
        size = _characters(msg["content"]) + sum(map(len, msg.get("buffers", ())))
        shown = (msg["content"].get("transient") or {}).get("display_id", "")
        fits = self._copy.admits(size - self._shown.get(shown, 0))
        if fits and shown:
            self._shown[shown] = size
        return fits

    def output(self, outs: list[Document], msg: dict[str, Any], display_id: str | None, cell_index: int) -> Any:
        """Add an output to the cell (nbclient's hook); text of one stream goes into one output as it arrives."""
        if self.clear_before_next_output:
            self._clear()
            outs[:] = []
        if len(outs) >= MOST_OUTPUTS:
            self._copy.fill()
        hooked = bool(self.output_hook_stack.get(msg["parent_header"].get("msg_id")))
        if msg["msg_type"] == "stream" and not hooked:
            self._add_text(outs, msg["content"]["name"], msg["content"]["text"], cell_index)
            return None
        if msg["msg_type"] == "error":
            self._add_rest(outs, cell_index)
        elif not self._fits(msg):
            return None
        self._close_stream()
        return super().output(outs, msg, display_id, cell_index)

    def _add_text(self, outs: list[Document], name: str, text: str, cell_index: int) -> None:
        if self._summary is not None:
            self._summary.take(name, text)
            if self._summary.is_long:
                self._hold_place(outs, cell_index)
                return
        kept = self._copy.take(name, text)
        if kept:
            self._append(outs, name, kept, cell_index)

    def _add_rest(self, outs: list[Document], cell_index: int) -> None:
        for name, text in self._copy.rest():
            self._append(outs, name, text, cell_index)

    def _append(self, outs: list[Document], name: str, text: str, cell_index: int) -> None:
        """Add text to the stream output that is growing, or begin another."""
        if self._stream is None or not outs or outs[-1] is not self._stream or self._stream.name != name:
            self._close_stream()
            kind = {"msg_type": "stream"}
            begun = {**kind, "header": kind, "parent_header": {}, "content": {"name": name, "text": ""}}
            self._stream = super().output(outs, begun, None, cell_index)
        self._pieces.append(text)

    def _hold_place(self, outs: list[Document], cell_index: int) -> None:
        """Make sure that there is an output the summary can stand in."""
        if not any(out.output_type == "stream" for out in outs):
            self._append(outs, "stdout", "", cell_index)

    def _sum_up(self, outs: list[Document]) -> None:
        """Let the summary stand for all text; outputs stay in their places, which later messages may name."""
        if self._summary is None or not self._summary.is_long:
            return
        texts = (out for out in outs if out.output_type == "stream")
        for number, out in enumerate(texts):
            out.name, out.text = ("stdout", self._summary.text()) if not number else (out.name, "")

    def _close_stream(self) -> None:
        """Join the pieces of the stream output that has been growing."""
        if self._stream is not None:
            self._stream.text = "".join(self._pieces)
        self._stream, self._pieces = None, []

    def _end_outputs(self, cell: Document, index: int) -> Loss:
        """Close what the cell said, and say what of it is missing."""
        self._add_rest(cell.outputs, index)
        self._close_stream()
        self._sum_up(cell.outputs)
        self._tell_rest()
        self._room = max(0, self._room - max(self._copy.kept, self._journal.kept))
        missing = max(0, (self._announced or 0) - self._arrived)
        lost = missing + (not self._idle) if self._replied else 0  # without a reply the cell's state says it already
        return Loss(cut=max(self._copy.cut, self._journal.cut), lost=lost)


def _characters(value: Any) -> int:
    """Count the characters of text in a message."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return sum(map(_characters, value.values()))
    return sum(map(_characters, value)) if isinstance(value, list) else 8
