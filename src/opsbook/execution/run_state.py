"""What the parts of one run share while it lasts: its kernel, recorder, gates and stopper. Imports nothing slow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

from opsbook.config import OutputSettings
from opsbook.execution.cell_summary import Summaries
from opsbook.execution.channel import ChannelServer
from opsbook.execution.kernel import OWN, Kernel
from opsbook.execution.recorder import Recorder
from opsbook.execution.replay import Replay
from opsbook.execution.stop import TIMEOUT, Stopper
from opsbook.model.protocol import Prompter
from opsbook.model.run import CellState, TimeLimits
from opsbook.runbook.lineage import Branching
from opsbook.runbook.notebook import Cell, Runbook
from opsbook.runbook.tags import INJECTED_TAG, CellRules


class RunInProgress:
    """One run, as the engine sees it."""

    def __init__(
        self,
        *,
        runbook: Runbook,
        recorder: Recorder,
        kernel: Kernel,
        channel: ChannelServer,
        stopper: Stopper,
        prompter: Prompter | None,
        mask: Callable[[str], str],
        injects: bool,
        checking: bool,
        replay: Replay,
        output: OutputSettings,
        summaries: Summaries,
        limits: TimeLimits,
        branching: Branching | None,
    ) -> None:
        self.recorder = recorder
        self.kernel = kernel
        self.kernel_name = runbook.kernel or OWN
        self.channel = channel
        self.stopper = stopper
        self._prompter = prompter
        self._mask = mask
        self._checking = checking
        self._replay = replay
        self.output = output
        """How much of what cells say is kept."""
        self.summaries = summaries
        self.injects = injects
        """Whether papermill adds a cell with the parameters' values."""
        self._limits = limits
        self.branching = branching
        """The MEMEs the cells of the copy have; None where they are the runbook's own."""
        self._cells = {cell.id: cell for cell in runbook.cells}
        self._parameters = runbook.parameters_cell
        self.kernel_client: Any = None
        self.kernel_manager: Any = None
        self.broken = False
        """Whether a cell did not end well, or a gate said no."""
        self.broken_at = ""
        """The id of the first cell that did not end well."""
        self.kernel_is_done = False
        """Whether the kernel ends, or was killed, for a reason that its last cell tells: it is not lost."""
        self.notes: list[str] = []
        """What a reader of the record should know besides."""
        self.refused = ""
        """What a gate said, when it said no."""

    @property
    def stops(self) -> int:
        """How many times the run was asked to stop, or had to: signals, its time, a journal that cannot be written."""
        return self.stopper.stops + bool(self.recorder.failure)

    @property
    def stopped(self) -> bool:
        """Whether nothing more is to start but what cleans up."""
        return self.stops > 0

    @property
    def cleans_up(self) -> bool:
        """Whether only clean-up cells are to start."""
        return self.broken or self.stopped

    @property
    def has_failed(self) -> bool:
        """Whether there is something for an `on-failure` cell to do: a gate that says no is no failure."""
        return bool(self.broken_at) or self.stopped

    @property
    def cut_off(self) -> CellState:
        """The state of a cell that was ended because the run is to stop."""
        by_time = self.stopper.timed_out and self.stopper.signal is None
        return CellState.TIMED_OUT if by_time else CellState.INTERRUPTED

    @property
    def stopped_by(self) -> str:
        """Who answers for a gate when the run is to stop."""
        return TIMEOUT if self.stopper.signal is None and self.stopper.timed_out else "signal"

    def cell(self, cell_id: str, *, injected: bool) -> Cell:
        """Return what is known of a cell of the document; the injected one goes under the parameters cell's name."""
        if injected and self._parameters is not None:
            return replace(self._parameters, tags=(INJECTED_TAG,), left_out="", rules=CellRules())
        return self._cells[cell_id]

    def limit(self, cell: Cell) -> float | None:
        """Return how many seconds a cell may take now; None for any time."""
        own = cell.rules.timeout_s or self._limits.cell_s
        bound = self._limits.always_s
        return min(own or bound, bound) if self.cleans_up else own

    @property
    def blocked(self) -> bool:
        """Whether a resumed run cannot go on, whatever the cell made of that."""
        return self._replay.blocked is not None

    def confirm(self, cell: Cell) -> tuple[bool, str]:
        """Ask about a gate; return the answer and who gave it. What changes nothing needs nobody's leave."""
        if self._checking:
            return True, "--check"
        if cell.id in self._replay.granted:
            return True, f"run {self._replay.source}"
        if self._prompter is None:
            return True, "--yes"
        question = self._mask(f'"{cell.label}" comes next. Go on?')
        return self._prompter.confirm(question, bell=self.stopper.bell), "terminal"
