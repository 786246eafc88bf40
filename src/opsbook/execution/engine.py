"""papermill and nbclient, driven: the engine that runs a document on a kernel that is starting already.

papermill reads the document through a handler of ours, injects the parameters and keeps its metadata; cells are run by
`CellClient`; saving is the runner's. Nothing outside this room sees an exception of theirs.
"""

from __future__ import annotations

import json
import logging
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from queue import Empty
from typing import Any

import zmq
from jupyter_client.blocking.client import BlockingKernelClient
from papermill.engines import Engine, NotebookExecutionManager, papermill_engines
from papermill.exceptions import PapermillException
from papermill.execute import (
    ERROR_ANCHOR_MSG,
    ERROR_MARKER_TAG,
    ERROR_MESSAGE_TEMPLATE,
    execute_notebook,
    remove_error_markers,
)
from papermill.iorw import papermill_io
from papermill.translators import papermill_translators

from opsbook.errors import RunbookError
from opsbook.execution.cells import CellClient
from opsbook.execution.kernel import END_S, OWN, Kernel
from opsbook.execution.literals import Literals, ParamLines
from opsbook.execution.run_state import RunInProgress
from opsbook.execution.terms import IN_FLIGHT
from opsbook.model.message import ATTEMPT_KEY
from opsbook.model.target import JsonValue
from opsbook.runbook.lineage import note_end, weave
from opsbook.runbook.notebook import Document
from opsbook.runbook.param_magic import KERNEL as SSH_KERNEL
from opsbook.runbook.tags import INJECTED_TAG

NAME = "opsbook"
SCHEME = "opsbook-run:"
START_S = 60.0

# papermill warns about parameters its own reading does not see; ours were checked already
logging.getLogger("papermill").setLevel(logging.CRITICAL + 1)

_documents: dict[str, str] = {}
"""Documents on their way into papermill, by path; each is taken once."""


class _Handler:
    """papermill's way to a document: ours, by run."""

    def read(self, path: str) -> str:
        return _documents.pop(path)

    def pretty_path(self, path: str) -> str:
        return path


class _Manager(NotebookExecutionManager):  # type: ignore[misc]  # papermill is not typed
    """papermill's bookkeeping, made truthful: what never ran stays pending, and saving is ours."""

    def __init__(self, nb: Document, save: Callable[[Document], None]) -> None:
        super().__init__(nb, output_path=None, progress_bar=False)
        self._save = save

    def notebook_start(self, **kwargs: Any) -> None:
        kept = {cell.id: cell.outputs for cell in self.nb.cells if _is_frozen(cell)}
        super().notebook_start(**kwargs)
        for cell in self.nb.cells:
            if cell.id in kept:
                cell.outputs = kept[cell.id]

    def save(self, **kwargs: Any) -> None:
        del kwargs
        self._save(self.nb)

    def autosave_cell(self) -> None:
        """Save nothing in the middle of a cell: the journal has its output."""

    def cell_complete(self, cell: Document, cell_index: int | None = None, **kwargs: Any) -> None:
        """Set the times; the state was set from evidence."""
        state = cell.metadata.papermill["status"]
        super().cell_complete(cell, cell_index=cell_index, **kwargs)
        cell.metadata.papermill["status"] = state
        note_end(cell)

    def notebook_complete(self, **kwargs: Any) -> None:
        """Set the times; papermill would mark every cell that never ran as completed."""
        del kwargs
        self.end_time = self.now()
        self.nb.metadata.papermill["end_time"] = self.end_time.isoformat()
        self.nb.metadata.papermill["duration"] = (self.end_time - self.start_time).total_seconds()


def _is_frozen(cell: Document) -> bool:
    return cell.cell_type == "code" and cell.metadata.get("run_through_control", {}).get("frozen") is True


class _Engine(Engine):  # type: ignore[misc]  # papermill is not typed
    """The engine papermill calls."""

    @classmethod
    def execute_notebook(cls, nb: Document, kernel_name: str, **options: Any) -> Document:
        run: RunInProgress = options["run"]
        manager = _Manager(nb, options["save"])
        _name_injected(nb)
        if run.branching is not None:
            weave(nb, run.branching)  # what papermill inserted has neighbours too
        options["holder"].append(nb)
        manager.notebook_start()
        try:
            client = CellClient(manager, run=run, kernel_name=kernel_name, record_timing=False)
            client.execute()
        finally:
            manager.notebook_complete()
        # papermill would look for errors and serialise the whole of it once more, to write it nowhere
        return type(nb)(cells=[], metadata=type(nb)(), nbformat=nb.nbformat, nbformat_minor=nb.nbformat_minor)


def _name_injected(nb: Document) -> None:
    """Give the cell papermill injected a name that is the same in every run."""
    for cell in nb.cells:
        if INJECTED_TAG in cell.metadata.get("tags", []):
            cell["id"] = INJECTED_TAG


papermill_engines.register(NAME, _Engine)
papermill_io.register(SCHEME, _Handler())
papermill_translators.register(OWN, Literals)  # by kernel: a notebook may name any language
papermill_translators.register(SSH_KERNEL, ParamLines)


class _Client(BlockingKernelClient):
    """A client of our own kernel: it knows whether the process lives, and says which cell it sends, how often."""

    def __init__(self, kernel: Kernel) -> None:
        context: zmq.Context[Any] = zmq.Context()
        # our own kernel waits for us; another drops what we have no room for
        context.setsockopt(zmq.RCVHWM, IN_FLIGHT if kernel.is_own else 0)
        context.setsockopt(zmq.RECONNECT_IVL, 5)  # the kernel's sockets are about to appear
        super().__init__(context=context)
        self._kernel = kernel
        self.cell_id = ""
        self.attempt = 1
        self.load_connection_file(str(kernel.connection_file))

    def is_alive(self) -> bool:
        return self._kernel.alive

    def execute(self, code: str, **options: Any) -> str:  # type: ignore[override]  # nbclient passes two of them
        """Send code to run, with the cell's id, which nbclient leaves out, and which attempt this is."""
        content = {
            "code": code,
            "silent": False,
            "store_history": options.get("store_history", True),
            "user_expressions": {},
            "allow_stdin": False,
            "stop_on_error": options.get("stop_on_error", True),
        }
        message = self.session.msg(
            "execute_request", content, metadata={"cellId": self.cell_id, ATTEMPT_KEY: self.attempt}
        )
        self.shell_channel.send(message)
        return str(message["header"]["msg_id"])


class _Owner:
    """What nbclient asks of a kernel manager, for a kernel that is not its own."""

    has_kernel = True

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    def interrupt_kernel(self) -> None:
        self._kernel.interrupt()


def attach(run: RunInProgress) -> None:
    """Connect to the kernel and return when it is ready.

    Raises:
        RunbookError: it ended, or was not ready in time.
    """
    try:
        client = _Client(run.kernel)
        client.start_channels(stdin=False, hb=False)
    except zmq.ZMQError as error:
        raise RunbookError(f"the kernel's sockets cannot be reached: {error}") from error
    except FileNotFoundError:  # its folder went with it, and its guard is about to
        with suppress(subprocess.TimeoutExpired):
            run.kernel.process.wait(END_S)
        raise RunbookError(f"{run.kernel.how_it_ended} before it was ready", run.kernel.last_words) from None
    run.kernel_client, run.kernel_manager = client, _Owner(run.kernel)
    _ready(client, run)


def _ready(client: _Client, run: RunInProgress) -> None:
    """Wait for the first message on IOPub: the kernel welcomes a subscriber; one that does not is asked something."""
    deadline = time.monotonic() + START_S
    asked = ""
    while not run.stopped:
        try:
            client.iopub_channel.get_msg(timeout=0.2)
        except Empty:
            if not run.kernel.alive:
                words = run.kernel.last_words
                raise RunbookError(f"{run.kernel.how_it_ended} before it was ready", words) from None
            if time.monotonic() > deadline:
                raise RunbookError(f"the kernel was not ready within {START_S:g} s") from None
            asked = asked or client.kernel_info()
        else:
            return


def execute(
    document: Document,
    run: RunInProgress,
    *,
    parameters: Mapping[str, JsonValue],
    kernel_name: str,
    save: Callable[[Document], None],
) -> Document:
    """Run a document to its end, however that is, and return the executed one."""
    path = f"{SCHEME}{id(run)}.ipynb"
    _documents[path] = json.dumps(document)
    holder: list[Document] = []
    with suppress(PapermillException):  # it found an error output, of which all is known already; or no language
        execute_notebook(
            path,
            None,
            parameters=dict(parameters),
            engine_name=NAME,
            kernel_name=kernel_name or None,
            progress_bar=False,
            run=run,
            save=save,
            holder=holder,
        )
    if not holder:
        raise RunbookError(f"papermill knows no language of the kernel {kernel_name!r}", "correct it in the notebook")
    executed = _marked(remove_error_markers(holder[0]), run.broken_at)
    if run.branching is not None:
        weave(executed, run.branching)
    return executed


def _marked(document: Document, broken_at: str) -> Document:
    """Mark the cell that ended the run in papermill's way; its own marks go by the last error, whoever may raise it."""
    index = next((index for index, cell in enumerate(document.cells) if cell.id == broken_at), None)
    if index is not None:
        number = document.cells[index].execution_count or " "
        for place, name, text in ((index, "here", ERROR_ANCHOR_MSG), (0, "where", ERROR_MESSAGE_TEMPLATE % number)):
            mark = {"id": f"{ERROR_MARKER_TAG}-{name}", "cell_type": "markdown", "source": text}
            document.cells.insert(place, type(document)(mark, metadata={"tags": [ERROR_MARKER_TAG]}))
    return document


def finish(run: RunInProgress) -> None:
    """Ask the kernel to end if it lives, and end it."""
    asked = run.kernel_client is not None and run.kernel.alive
    if run.kernel_client is not None:
        if asked:
            run.kernel_client.shutdown()
        run.kernel_client.stop_channels()
    run.kernel.end(asked=asked)
    if run.kernel.left:
        run.notes.append(f"the notebook left processes that cannot be ended: {', '.join(map(str, run.kernel.left))}")
