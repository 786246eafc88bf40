"""The runner: one run from a runbook's bytes to its record.

    gates ► claim ► start kernel ► import papermill while it boots ► execute ► finalise

The claim is on disk before the kernel starts, the journal is ahead of every change, and whatever happens after the
claim the record is finished, truthfully, by this process; or, should it be killed, read as interrupted by the next.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime

import msgspec
from msgspec.structs import replace

from opsbook.archive.copy import CopyWriter
from opsbook.archive.files import write_whole
from opsbook.archive.fold import RecordFold
from opsbook.archive.layout import Claim, RunFolder, new_run_id, run_folder
from opsbook.errors import ArchiveError, OpsbookError, RunbookError
from opsbook.execution.channel import ChannelServer
from opsbook.execution.kernel import OWN, Kernel, start_kernel
from opsbook.execution.preflight import check_request
from opsbook.execution.recorder import Recorder
from opsbook.execution.request import FinishedRun, RunRequest, claimed_record
from opsbook.execution.run_state import RunInProgress
from opsbook.execution.stop import Stopper
from opsbook.model.event import RunEnded, RunStarted, StopRequested
from opsbook.model.message import Welcome
from opsbook.model.outcome import Ending
from opsbook.model.protocol import Observer, Prompter
from opsbook.model.run import RunRecord
from opsbook.redaction import Redactor
from opsbook.runbook.notebook import make_document
from opsbook.secrets.inline import inline_passwords
from opsbook.secrets.resolve import resolve


def run(request: RunRequest, *, observers: Iterable[Observer], prompter: Prompter | None) -> FinishedRun:
    """Run a runbook to its end. A runbook that fails is a result; what is raised means that nothing ran.

    Raises:
        RefusedError: a cell has to be confirmed, and there is nobody to ask.
        SecretError: a secret or a password is not where its reference says.
        RunbookError: there is no such kernel, or the document is not valid.
        ArchiveError: the run could not be recorded.
    """
    check_request(request, prompter)
    stopper = Stopper(patient=request.terminal)
    with stopper.listening():  # before the claim: a signal then finds somebody who finishes the record
        return _claim_and_run(request, stopper, observers, prompter)


def _claim_and_run(
    request: RunRequest, stopper: Stopper, observers: Iterable[Observer], prompter: Prompter | None
) -> FinishedRun:
    started_at = datetime.now(UTC)
    folder = run_folder(request.archive, new_run_id(request.runbook.name, started_at))
    redactor, given = Redactor(), frozenset(request.selected)
    known = request.inventory.targets if request.inventory is not None else ()
    redactor.add(*inline_passwords(target for target in known if target.name in given))
    claimed: RunRecord = redactor.clean(claimed_record(request, folder.run_id, started_at))  # as JSON can hold it
    claim = Claim(folder)
    try:
        write_whole(folder.record, msgspec.json.encode(claimed))
        asked = None if request.yes else prompter
        return _Run(request, folder, claimed, stopper, observers, asked, redactor).go()
    finally:
        claim.release()


class _Run:
    """A claimed run."""

    def __init__(
        self,
        request: RunRequest,
        folder: RunFolder,
        claimed: RunRecord,
        stopper: Stopper,
        observers: Iterable[Observer],
        prompter: Prompter | None,
        redactor: Redactor,
    ) -> None:
        self._request = request
        self._folder = folder
        self._claimed = claimed
        self._prompter = prompter
        self._redactor = redactor
        self._recorder = Recorder(folder, self._redactor, RecordFold(claimed), observers)
        self._stopper = stopper
        stopper.tell(lambda name: self._recorder.submit(StopRequested(signal=name)))
        self._copy = CopyWriter(folder.copy, self._redactor)
        self._state: RunInProgress | None = None

    def go(self) -> FinishedRun:
        """Run, and finalise whatever happens."""
        ending = Ending()
        try:
            self._recorder.commit_now(self._announcement())
            if self._stopper.signal is None:
                ending = Ending(kernel_lost=self._execute())
        except RunbookError as error:
            ending = Ending(not_started=f"{error}: {error.hint}" if error.hint else str(error))
        except ArchiveError as error:
            self._recorder.failure = self._recorder.failure or str(error)
        except OpsbookError as error:
            ending = Ending(internal=str(error))
        except Exception as error:  # noqa: BLE001  the border of a run: whatever breaks, the record is finished
            ending = Ending(internal=f"internal error: {type(error).__name__}: {error}")
        return self._finalise(ending)

    def _announcement(self) -> RunStarted:
        return RunStarted(
            run_id=self._claimed.run_id,
            title=self._claimed.runbook.title,
            runbook=self._claimed.runbook.path,
            parameters=self._claimed.parameters,
            pattern=self._request.pattern,
            selected=self._request.selected,
            cells=self._claimed.cells,
        )

    def _execute(self) -> str:
        """Start the kernel, run the document, end the kernel. Return why the kernel was lost, if it was."""
        runbook = self._request.runbook
        channel = ChannelServer(
            recorder=self._recorder, redactor=self._redactor, welcome=self._welcome(), resolve=resolve
        )
        try:
            kernel = start_kernel(runbook.kernel, channel=channel.theirs, cwd=runbook.path.resolve().parent)
            channel.theirs.close()
            self._stopper.watch(channel, kernel)
            return self._drive(kernel, channel)
        finally:
            channel.close()

    def _drive(self, kernel: Kernel, channel: ChannelServer) -> str:
        from opsbook.execution import engine  # noqa: PLC0415  papermill is imported while the kernel boots

        state = RunInProgress(
            runbook=self._request.runbook,
            recorder=self._recorder,
            kernel=kernel,
            channel=channel,
            stopper=self._stopper,
            prompter=self._prompter,
            injects=bool(self._request.binding.given),
            checking=self._request.options.checking,
        )
        self._state = state
        lost = ""
        try:
            document = make_document(self._request.runbook)
            engine.attach(state)
            executed = engine.execute(
                document,
                state,
                parameters=self._request.binding.given,
                kernel_name=self._request.runbook.kernel or OWN,
                save=self._copy.save_soon,
            )
            lost = "" if kernel.alive or self._stopper.signal else kernel.how_it_ended
            self._copy.keep(executed)
        finally:
            channel.stopping.set()  # nobody waits for what a thread of the author's would send now
            engine.finish(state)
        return lost

    def _welcome(self) -> Welcome:
        request = self._request
        return Welcome(
            ticket=0,
            run_id=self._claimed.run_id,
            inventory=request.inventory,
            selected=request.selected,
            limited=request.limited,
            parameters=request.binding.values,
            secrets=request.binding.secrets,
            options=request.options,
        )

    def _finalise(self, ending: Ending) -> FinishedRun:
        """Judge, and write the last event, the copy and the record, so that all of them say the same."""
        self._recorder.settle()
        self._recorder.fold.close()
        if self._copy.is_empty:  # nothing ran: the copy shows just that
            with suppress(RunbookError):
                self._copy.keep_unrun(make_document(self._request.runbook))
        ending = replace(
            ending,
            signal=self._stopper.signal,
            archive=self._recorder.failure,
            refused=self._state.refused if self._state else "",
        )
        record = self._judged(ending)
        try:
            self._copy.finish(record)
        except ArchiveError as error:  # the record is small: it may still fit where the copy did not
            record = self._judged(replace(ending, archive=str(error)))
        ended = RunEnded(status=record.status, exit_code=record.exit_code or 0, reason=record.reason)
        self._recorder.submit(ended)
        self._recorder.close()
        write_whole(self._folder.record, msgspec.json.encode(record))
        return FinishedRun(record=record, folder=self._folder)

    def _judged(self, ending: Ending) -> RunRecord:
        """Return the record of the run, ended like this, redacted."""
        fold = self._recorder.fold
        notes = (*self._claimed.notes, *(self._state.notes if self._state else ()), *self._recorder.notes)
        record = replace(fold.record(fold.judge(ending), datetime.now(UTC)), notes=notes)
        cleaned: RunRecord = self._redactor.clean(record)
        return cleaned
