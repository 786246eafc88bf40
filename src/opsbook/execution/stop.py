"""Stopping a run: from a signal, or the end of its time, to the end of what runs, in bounded time (SEMANTICS 12, 13).

Signal handlers never raise: they put a number into a queue. A thread of its own does the rest: it asks the notebook
over the channel; where no fan-out answers, it interrupts the kernel; and what does not end is killed. The same thread
watches the run's own time, which is up like a signal that nobody sent.
"""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from opsbook.errors import OpsbookError
from opsbook.execution.channel import ChannelServer
from opsbook.execution.kernel import Kernel
from opsbook.model.run import Operator, TimeLimits

_ENDING = 2
"""Stops that let what runs end by itself."""
_OVER, _TIME_IS_UP = 0, -1
"""What may come in place of a signal's number: that the run is over, and that its time is."""
_LONGEST_S = 3600.0
"""Seconds the time is left alone at once: the system's own clocks take no length that comes to mind."""
TIMEOUT = "timeout"
"""What is said to have stopped a run whose time was over."""
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PATIENCE_S = 30.0
"""Seconds running commands may take to finish after a first Ctrl-C on a terminal."""
ANSWER_S = 0.3
"""Seconds the notebook may take to say that it ends remote commands itself."""
REMOTE_S = 5.0
"""Seconds ending remote commands may take."""
KERNEL_S = 2.0
"""Seconds an interrupted kernel may take to end its cell."""


class Stopper:
    """Watches for signals, and the time, during one run.

    Every step names the cell it is meant for: one that ends by itself meanwhile must not hand its stop on to the next.
    """

    def __init__(self, *, patient: bool, limits: TimeLimits) -> None:
        self._patient = patient
        self._limits = limits
        self._deadline = None if limits.run_s is None else time.monotonic() + limits.run_s
        self._arrived: queue.SimpleQueue[tuple[int, int]] = queue.SimpleQueue()
        """Signals, each with the cell it came in; a zero at the end."""
        self._channel: ChannelServer | None = None
        self._kernel: Kernel | None = None
        self._cells = threading.Condition()
        self._begun = 0
        self._running = 0
        """The number of the cell that runs, from 1; 0 while none does."""
        self._cleans_up = False
        """Whether the cell that runs is a clean-up."""
        self._listener: Callable[[str], None] | None = None
        self._untold: list[str] = []
        self.signal: int | None = None
        """The first signal that asked the run to stop."""
        self.timed_out = False
        """Whether the run's time was over before it was."""
        self._signals = 0
        self._bell, self._ring = os.pipe()
        os.set_blocking(self._ring, False)

    def tell(self, listener: Callable[[str], None]) -> None:
        """Call `listener` with the name of each signal, those that came before included."""
        with self._cells:
            self._listener = listener
            untold, self._untold = self._untold, []
        for name in untold:
            listener(name)

    def _tell(self, name: str) -> None:
        with self._cells:
            listener = self._listener
            if listener is None:
                self._untold.append(name)
        if listener is not None:
            listener(name)

    @property
    def stops(self) -> int:
        """How many times the run was asked to stop, by signals and by its time."""
        return self._signals + self.timed_out

    def forget_time(self) -> None:
        """The run's own time counts no more: what is still to come has a bound of its own, or nothing is."""
        self._deadline = None

    @contextmanager
    def cell(self, *, cleans_up: bool = False) -> Iterator[None]:
        """A cell is about to be run, or about to be asked about."""
        with self._cells:
            self._begun += 1
            self._running, self._cleans_up = self._begun, cleans_up
        try:
            yield
        finally:
            with self._cells:
                self._running = 0
                self._cells.notify_all()

    @property
    def bell(self) -> int:
        """A descriptor that becomes readable when a signal has come: what a question at a gate waits for too."""
        return self._bell

    def watch(self, channel: ChannelServer, kernel: Kernel) -> None:
        """Name what is to be stopped."""
        self._channel, self._kernel = channel, kernel

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take the signals for as long as the run lasts. One that was ignored at the start (nohup) stays ignored."""
        before = {}
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    before[number] = signal.signal(number, self._take)
            # written to when the signal arrives, not when Python gets to the handler: whoever waits is sure to wake
            signal.set_wakeup_fd(self._ring, warn_on_full_buffer=False)
        worker = threading.Thread(target=self._work, name="opsbook-stopper", daemon=True)
        worker.start()
        try:
            yield
        finally:
            self._arrived.put((_OVER, 0))
            worker.join(1)
            with suppress(ValueError):  # not the main thread
                signal.set_wakeup_fd(-1)
            for number, handler in before.items():
                # the run is over: a signal while its result is printed must not take its exit code away
                by_default = handler in {signal.SIG_DFL, signal.default_int_handler}
                signal.signal(number, _pass if by_default else handler)
            os.close(self._bell)
            os.close(self._ring)

    def _take(self, number: int, frame: FrameType | None) -> None:
        del frame
        self._signals += 1
        if self.signal is None:
            self.signal = number
        self._arrived.put((number, self._running))

    def _work(self) -> None:
        """Answer one stop after the other: the first two end what runs, any further one kills the kernel at once."""
        stops = 0
        while (arrived := self._next())[0] != _OVER:
            number, cell = arrived
            stops += 1
            self._tell(TIMEOUT if number == _TIME_IS_UP else signal.Signals(number).name)
            if number == _TIME_IS_UP and self._cleans_up and self._wait(cell, self._limits.always_s):
                continue
            if self._channel is not None:
                self._channel.stopping.set()
            if stops == 1 and self._patient and number == signal.SIGINT and self._finish(cell):
                continue
            if stops > _ENDING or not self._end(cell, hurried=stops == _ENDING):
                self._kill()

    def _next(self) -> tuple[int, int]:
        """Return the next stop, when there is one. A run that was asked to stop has no time of its own any more."""
        while True:
            left = None if self._deadline is None else min(_LONGEST_S, max(0, self._deadline - time.monotonic()))
            try:
                arrived = self._arrived.get(timeout=left)
            except queue.Empty:
                if self._deadline is None or time.monotonic() < self._deadline:
                    continue
                arrived = (_TIME_IS_UP, self._running)
                self.timed_out = True
                with suppress(OSError):  # it is full: whoever waits for it wakes all the same
                    os.write(self._ring, b"\0")
            self._deadline = None
            return arrived

    def _over(self, cell: int, seconds: float) -> bool:
        """Wait until a cell is over; whether it is."""
        with self._cells:
            return self._cells.wait_for(lambda: self._running != cell or not cell, seconds)

    def _finish(self, cell: int) -> bool:
        """Let running commands finish; whether that is done with: they did, or the next signal has come."""
        if self._channel is None or not self._channel.cancel(hard=False, answer_s=ANSWER_S):
            return False
        return self._wait(cell, PATIENCE_S)

    def _wait(self, cell: int, seconds: float) -> bool:
        """Wait until a cell is over or the next stop has come; whether one of them was in time."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self._over(cell, 0.1) or not self._arrived.empty():
                return True
        return False

    def _end(self, cell: int, *, hurried: bool) -> bool:
        """End what a cell runs, and wait until it is over; when hurried, only until the next signal. Whether it is."""
        if self._over(cell, 0):
            return True
        deadline = time.monotonic() + self.end_running(cell)
        while not self._over(cell, 0.05):
            if time.monotonic() > deadline or (hurried and not self._arrived.empty()):
                return False
        return True

    def end_running(self, cell: int | None = None) -> float:
        """End what a cell runs (the one that runs now); return the seconds that may take."""
        cell = self._running if cell is None else cell
        if self._channel is not None and self._channel.cancel(hard=True, answer_s=ANSWER_S):
            return REMOTE_S
        if self._kernel is not None and cell and self._running == cell:
            self._kernel.interrupt()
        return KERNEL_S

    def _kill(self) -> None:
        if self._kernel is not None:
            self._kernel.kill()


def _pass(number: int, frame: FrameType | None) -> None:
    """Nothing is left to stop."""
    del number, frame


def process_start(pid: int) -> str:
    """Return what tells a process from a later one of the same number; empty when there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        if Path("/proc/self/stat").exists():
            return ""
    line = ["ps", "-o", "lstart=", "-p", str(pid)]  # where there is no /proc
    return subprocess.run(line, capture_output=True, text=True, check=False).stdout.strip()  # noqa: S603


def stop_run(run_id: str, operator: Operator, *, here: str, alive: Callable[[], bool], wait_s: float) -> bool:
    """Ask the process of a run to stop, and wait until it has; whether it has.

    Raises:
        OpsbookError: it cannot be asked: it is over, on another machine, or somebody else's.
    """
    if operator.host != here:
        raise OpsbookError(f"the run's process is on {operator.host}", "stop it from there")
    if not alive() or process_start(operator.pid) != operator.process_started:
        raise OpsbookError(f"run {run_id} is over already", f"opsbook show {run_id} says how it ended")
    try:
        os.kill(operator.pid, signal.SIGTERM)
    except ProcessLookupError:
        return True
    except PermissionError:
        raise OpsbookError(f"the run belongs to {operator.user}", "only its owner can stop it") from None
    deadline = time.monotonic() + wait_s
    while alive():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)  # the end of a process that is not our child cannot be waited for
    return True
