"""What the parts of one run share while it lasts: its kernel, recorder, gates and stopper. Imports nothing slow."""

from __future__ import annotations

from typing import Any

from opsbook.execution.channel import ChannelServer
from opsbook.execution.kernel import OWN, Kernel
from opsbook.execution.recorder import Recorder
from opsbook.execution.stop import Stopper
from opsbook.model.protocol import Prompter
from opsbook.runbook.notebook import Runbook


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
        injects: bool,
        checking: bool,
    ) -> None:
        self.recorder = recorder
        self.kernel = kernel
        self.kernel_name = runbook.kernel or OWN
        self.channel = channel
        self.stopper = stopper
        self._prompter = prompter
        self._checking = checking
        self.injects = injects
        """Whether papermill adds a cell with the parameters' values."""
        self.labels = {cell.id: cell.label for cell in runbook.cells}
        self.parameters_cell = runbook.parameters_cell.id if runbook.parameters_cell else ""
        self._frozen = {cell.id for cell in runbook.cells if cell.frozen}
        self.kernel_client: Any = None
        self.kernel_manager: Any = None
        self.broken = False
        """Whether a cell did not end well."""
        self.notes: list[str] = []
        """What a reader of the record should know besides."""
        self.refused = ""
        """What a gate said, when it said no."""

    @property
    def stopped(self) -> bool:
        """Whether nothing more is to start: a signal came, or the journal cannot be written."""
        return self.stopper.signal is not None or bool(self.recorder.failure)

    def is_frozen(self, cell_id: str) -> bool:
        """Whether a cell is marked not to run any more."""
        return cell_id in self._frozen

    def confirm(self, label: str) -> tuple[bool, str]:
        """Ask about a gate; return the answer and who gave it. What changes nothing needs nobody's leave."""
        if self._checking:
            return True, "--check"
        if self._prompter is None:
            return True, "--yes"
        return self._prompter.confirm(f'"{label}" comes next. Go on?', bell=self.stopper.bell), "terminal"
