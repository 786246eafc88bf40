"""The kernel in opsbook's own interpreter: ipykernel with nothing of the user's set-up in it, and nothing lost.

It counts what it hands over for each cell and says the count with the reply. It waits for a reader that is slower than
the notebook, in bounded memory. It listens on Unix sockets in its private folder alone, also for processes it forks.
"""

# mypy: allow-untyped-calls
from __future__ import annotations

import asyncio
import codecs
import gc
import os
import select
import signal
import sys
import tempfile
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import Any

import zmq
from ipykernel.iostream import IOPubThread, OutStream
from ipykernel.ipkernel import IPythonKernel
from ipykernel.kernelapp import IPKernelApp
from ipykernel.zmqshell import ZMQInteractiveShell
from jupyter_client.session import Session, extract_header
from zmq.eventloop.zmqstream import ZMQStream

from opsbook.execution.terms import COUNTED, IN_FLIGHT, OUTPUTS_KEY

_PORTION = 256 * 1024
"""Characters a stream gathers before it hands them over, whenever the next flush is due."""
_FULL = 64 * 1024
"""Bytes a pipe holds."""
_REST_MS = 500
"""Milliseconds somebody who waits for room in a pipe may take to write on."""
_QUEUED = 200
"""Messages of other threads that may wait to be sent."""


class CountingSession(Session):
    """Counts the outputs of the cell that runs."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._counting = threading.RLock()
        self._cell = ""
        self._count = 0

    def begin(self, cell: str) -> None:
        """Count for the request of this id from now on."""
        with self._counting:
            self._cell, self._count = cell, 0

    @property
    def count(self) -> int:
        """How many outputs of the cell are on their way: each of them before whatever is sent from now on."""
        with self._counting:
            return self._count

    def send(
        self, stream: Any, msg_or_type: Any, content: Any = None, parent: Any = None, *rest: Any, **named: Any
    ) -> Any:
        """Send a message (jupyter_client's)."""
        whole = isinstance(msg_or_type, dict)
        kind = msg_or_type["header"]["msg_type"] if whole else msg_or_type
        if kind not in COUNTED:
            return super().send(stream, msg_or_type, content, parent, *rest, **named)
        about = msg_or_type["parent_header"] if whole else extract_header(parent) if parent else {}
        with self._counting:
            self._count += about.get("msg_id") == self._cell
            return super().send(stream, msg_or_type, content, parent, *rest, **named)


class Publisher(IOPubThread):
    """The thread that sends output: whoever is far ahead of it waits."""

    def __init__(self, socket: Any, folder: Path, session: CountingSession) -> None:
        self._folder = folder
        super().__init__(socket, pipe=True, session=session)

    def send_multipart(self, *args: Any, **named: Any) -> None:
        """Hand a message to the thread (ipykernel's)."""
        if len(self._events) > _QUEUED and threading.current_thread() is not self.thread and self.thread.is_alive():
            sent = threading.Event()
            self.schedule(sent.set)
            while not sent.wait(1) and self.thread.is_alive():
                pass
        super().send_multipart(*args, **named)

    def _setup_pipe_in(self) -> None:
        """Listen to forked children in our folder; ipykernel would on TCP."""
        self._pipe_uuid = os.urandom(16)
        pipe = self.socket.context.socket(zmq.PULL)
        pipe.linger = 0
        pipe.bind(self._children)
        self._pipe_in = ZMQStream(pipe, self.io_loop)
        self._pipe_in.on_recv(self._handle_pipe_msg)

    def _setup_pipe_out(self) -> tuple[Any, Any]:
        context = zmq.Context()
        pipe = context.socket(zmq.PUSH)
        pipe.linger = 3000
        pipe.connect(self._children)
        return context, pipe

    @property
    def _children(self) -> str:
        return f"ipc://{self._folder}/children"


class Stream(OutStream):
    """What a notebook prints to: never far ahead of the reader."""

    flush_timeout = 24 * 3600
    _gathered = 0

    def write(self, string: str) -> int:
        """Gather text; once it is a portion, wait until it is handed over."""
        super().write(string)
        self._gathered += len(string)
        if self._gathered > _PORTION:
            self.flush()
        return len(string)

    def close(self) -> None:
        """Hand over what was gathered first: ipykernel would forget it."""
        if not self.closed:
            self.flush()
        super().close()

    def _flush(self) -> None:
        self._gathered = 0
        super()._flush()

    def _watch_pipe_fd(self) -> None:
        """Take what programs write where the process's own output goes (ipykernel's hook).

        What is there already is taken as one, so that what other threads print does not come in between, and a
        character whose bytes come apart waits for its end. It goes nowhere else: nobody masks it there.
        """
        if (pipe := self._fid) is None:
            return
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        try:
            while (data := _all_there_is(pipe)) and self._should_watch:
                self.write(decoder.decode(data))
        except OSError:
            self._exc = sys.exc_info()


def _all_there_is(pipe: int) -> bytes:
    """Wait for something to read, and return it with all that is there behind it, or comes as soon as there is room."""
    waiting = select.poll()
    waiting.register(pipe, select.POLLIN)
    data = piece = os.read(pipe, _PORTION)
    while piece and len(data) < _PORTION:
        come = waiting.poll(_REST_MS if len(piece) >= _FULL else 0)  # who filled it waits to write on
        piece = os.read(pipe, _PORTION) if any(event & select.POLLIN for _, event in come) else b""
        data += piece
    return data


class _Forgotten(defaultdict[int, list[Any]]):
    """Keeps nothing that is put into it."""

    def __init__(self) -> None:
        super().__init__(list)

    def __missing__(self, key: int) -> list[Any]:
        return []


class Shell(ZMQInteractiveShell):
    """IPython, without a second copy of all that is printed and shown: it would keep it to the end."""

    def init_history(self) -> None:
        """Set the history up (IPython's hook)."""
        super().init_history()
        if self.history_manager is not None:
            self.history_manager.outputs = _Forgotten()

    @contextmanager
    def _tee(self, channel: str) -> Iterator[None]:
        """Write to no second place (IPython's hook)."""
        del channel
        yield


class Kernel(IPythonKernel):
    """Says with the reply to a cell how many outputs it handed over."""

    session: CountingSession
    shell_class = Shell

    def init_metadata(self, parent: dict[str, Any]) -> dict[str, Any]:
        """Begin a cell (ipykernel's hook)."""
        self.session.begin(parent["header"]["msg_id"])
        metadata: dict[str, Any] = super().init_metadata(parent)
        return metadata

    def finish_metadata(
        self, parent: dict[str, Any], metadata: dict[str, Any], reply_content: dict[str, Any]
    ) -> dict[str, Any]:
        """End a cell: its output is flushed (ipykernel's hook)."""
        finished: dict[str, Any] = super().finish_metadata(parent, metadata, reply_content)
        return {**finished, OUTPUTS_KEY: self.session.count}

    async def _progressively_terminate_all_children(self) -> None:
        """Ask programs the notebook left to end (ipykernel's hook); looking for them costs more than all the rest."""
        if _may_have_children():
            await super()._progressively_terminate_all_children()

    @contextmanager
    def _cancel_on_sigint(self, future: Any) -> Iterator[None]:
        """Wake the loop as well (ipykernel's hook): a cell that only awaits would sleep on after an interrupt."""
        with super()._cancel_on_sigint(future):
            cancel, loop = signal.getsignal(signal.SIGINT), asyncio.get_running_loop()

            def cancel_and_wake(number: int, frame: FrameType | None) -> None:
                if callable(cancel):
                    cancel(number, frame)
                loop.call_soon_threadsafe(int)

            signal.signal(signal.SIGINT, cancel_and_wake)
            yield


class Application(IPKernelApp):
    """ipykernel, without anybody's configuration or start-up files."""

    kernel_class = Kernel
    outstream_class = f"{__name__}.Stream"

    def _session_default(self) -> Session:
        """Make what all messages go through (jupyter_client's hook)."""
        return CountingSession(parent=self)

    def init_config_files(self) -> None:
        """Stage nothing (IPython's hook)."""

    def load_config_file(self, *_: Any, **__: Any) -> None:
        """Read nothing (IPython's hook): neither the system's, nor the environment's, nor the user's."""

    def _run_startup_files(self) -> None:
        """Run nothing (IPython's hook): a runbook is what its cells say."""

    def init_iopub(self, context: zmq.Context[Any]) -> None:
        """Make the socket outputs leave on (ipykernel's hook): by default it drops what a slow reader cannot take."""
        socket = context.socket(zmq.XPUB)
        socket.linger = 1000
        socket.sndhwm = IN_FLIGHT
        socket.setsockopt(zmq.XPUB_NODROP, 1)
        self.iopub_port = self._bind_socket(socket, self.iopub_port)
        self.configure_tornado_logger()
        self.iopub_thread = Publisher(socket, Path(self.connection_file).parent, self.session)
        self.iopub_thread.start()
        self.iopub_socket = self.iopub_thread.background_socket

    def close(self) -> None:
        """End the process (ipykernel's last exit handler, so the notebook's own have run).

        ipykernel would now wait for threads of its own that, at times, wait for each other for ten seconds.
        """
        os._exit(0)


def _leave_it_to_the_runner(number: int, frame: FrameType | None) -> None:
    """Go on after a SIGTERM. A service manager sends it to runner and kernel at once, and the kernel is needed.

    It ends the remote commands, and the runner ends the kernel. A handler: what is ignored, children would ignore too.
    """
    del number, frame


def _may_have_children() -> bool:
    """Whether this process has children, or the system does not tell."""
    threads = list(Path("/proc/self/task").glob("*/children"))
    return not threads or any(thread.read_text(encoding="ascii") for thread in threads)


def _leave_out_the_debugger() -> None:
    """Let ipykernel find no debugpy: it is half of a kernel's start, and nobody attaches. A notebook may import it."""
    sys.modules["debugpy"] = None  # type: ignore[assignment]  # Python's own way to say that there is none
    try:
        import_module("ipykernel.debugger")
    finally:
        del sys.modules["debugpy"]


def _settle_on_a_temporary_folder() -> None:
    """Find the place of temporary files by asking: Python tries it with a file, which stays when a kill comes then."""
    named = [os.environ.get(name, "") for name in ("TMPDIR", "TEMP", "TMP")]
    places = (*named, "/tmp", "/var/tmp")  # noqa: S108  Python's own list
    usable = (place for place in places if place and os.access(place, os.R_OK | os.W_OK | os.X_OK))
    tempfile.tempdir = next(map(os.path.abspath, usable), None)


def serve(connection_file: str) -> None:
    """Be a kernel until the runner says that it is enough."""
    _leave_out_the_debugger()
    _settle_on_a_temporary_folder()
    signal.signal(signal.SIGTERM, _leave_it_to_the_runner)
    sys.path.insert(0, "")  # a notebook may import its neighbours, now that they cannot take opsbook's place
    application = Application.instance()
    application.initialize(["-f", connection_file, "--HistoryManager.enabled=False"])
    gc.enable()
    application.start()
