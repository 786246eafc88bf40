"""The runner: one run from a runbook's bytes to its record.

    gates ► claim ► start kernel ► import papermill while it boots ► execute ► finalise

The claim is on disk before the kernel starts, the journal is ahead of every change, and whatever happens after the
claim the record is finished, truthfully, by this process; or, should it be killed, read as interrupted by the next.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import nullcontext, suppress
from datetime import UTC, datetime

import msgspec
from msgspec.structs import replace

from opsbook.archive.claimed import ClaimedRun
from opsbook.archive.copy import CopyWriter
from opsbook.archive.fold import RecordFold
from opsbook.archive.layout import new_run_id, run_folder
from opsbook.archive.succession import succeeding
from opsbook.errors import ArchiveError, BusyError, OpsbookError, RunbookError
from opsbook.execution.cell_summary import Summaries
from opsbook.execution.channel import ChannelServer
from opsbook.execution.deferred import choose_validator, put_off
from opsbook.execution.identity import RequestIdentity
from opsbook.execution.kernel import OWN, Kernel, start_kernel
from opsbook.execution.locks import RunLocks
from opsbook.execution.named_lock import named_lock
from opsbook.execution.own_memory import close_memory, keep_memory_off_disks
from opsbook.execution.preflight import check_request
from opsbook.execution.publish import LastScan, publish, scan_again, unrecorded
from opsbook.execution.recorder import Recorder
from opsbook.execution.request import FinishedRun, RunRequest, claimed_record
from opsbook.execution.resumption import retrying
from opsbook.execution.run_state import RunInProgress
from opsbook.execution.signature import copy_signature
from opsbook.execution.stop import Stopper
from opsbook.model.event import RunStarted, StopRequested
from opsbook.model.message import Welcome
from opsbook.model.outcome import Ending
from opsbook.model.protocol import Observer, Prompter
from opsbook.model.run import RunRecord, RunState
from opsbook.model.target import TargetState
from opsbook.redaction import Redactor
from opsbook.runbook.lineage import Branching, branch_runbook, weave
from opsbook.runbook.notebook import Document, make_document
from opsbook.secrets.inline import inline_passwords
from opsbook.secrets.resolve import Resolver


def run(
    request: RunRequest,
    *,
    observers: Iterable[Observer],
    prompter: Prompter | None,
    ask: Callable[[str], str] | None = None,
) -> FinishedRun:
    """Run a runbook to its end. A runbook that fails is a result; what is raised means that nothing ran.

    `ask` puts a question to the person at the terminal and returns what was typed, unseen; only before anything starts.

    Raises:
        RefusedError: a cell has to be confirmed, and there is nobody to ask.
        SecretError: a secret or a password is not where its reference says.
        RunbookError: there is no such kernel, or the document is not valid.
        ArchiveError: the run could not be recorded.
        BusyError: another run holds the lock this one was given a name for; that it was left out is recorded. Or the
            run with this one's id still runs.
    """
    keep_memory_off_disks()
    close_memory()
    identity = RequestIdentity(request)
    try:
        first = identity.first_result()
        if first is not None:
            return first
        redactor = Redactor(request.redact.patterns, tokens=request.redact.tokens)
        resolver = Resolver(ask)
        checked = check_request(request, prompter, resolver)
        redactor.add(*checked.values)  # the runbook itself may hold one, and is kept
        stopper = Stopper(patient=request.terminal, limits=request.limits)
        with stopper.listening():  # before the claim: a signal then finds somebody who finishes the record
            request = replace(request, exposed=checked.exposed)
            return _claim_and_run(request, identity, stopper, observers, prompter, redactor, resolver)
    finally:
        identity.release()


def _claim_and_run(
    request: RunRequest,
    identity: RequestIdentity,
    stopper: Stopper,
    observers: Iterable[Observer],
    prompter: Prompter | None,
    redactor: Redactor,
    resolver: Resolver,
) -> FinishedRun:
    started_at = datetime.now(UTC)
    folder = run_folder(request.archive, new_run_id(request.runbook.name, started_at))
    given = frozenset(request.selected)
    known = request.inventory.targets if request.inventory is not None else ()
    redactor.add(*inline_passwords(target for target in known if target.name in given))
    kept = redactor.document(request.runbook.raw)
    branching = branch_runbook(request.runbook, rule=request.meme, signature=copy_signature(folder))
    masked = kept != request.runbook.raw
    record_now = claimed_record(request, folder.run_id, started_at, masked=masked, branching=branching)
    claimed: RunRecord = redactor.clean(record_now)  # as JSON can hold it
    asked, watching = None if request.yes else prompter, list(observers)
    with named_lock(request, claimed, bell=stopper.bell, observers=watching) as busy:
        identity.give_to(folder.run_id)
        record = msgspec.json.encode(claimed)
        before = request.resumed.folder if request.resumed is not None else None
        with nullcontext() if before is None else succeeding(before, folder.run_id):
            files = ClaimedRun(folder, record=record, runbook=kept, shared=request.shared)
        try:
            identity.release()
            try:
                observing = [] if busy else watching
                run = _Run(request, files, claimed, stopper, observing, asked, redactor, resolver, branching)
            except ArchiveError as error:
                files.finish(unrecorded(claimed, error), journal="", copy="", insist=True)
                raise
            finished = run.go(busy=busy)
        finally:
            files.release()
    if busy:
        raise BusyError(busy)
    return finished


class _Run:
    """A claimed run."""

    def __init__(
        self,
        request: RunRequest,
        files: ClaimedRun,
        claimed: RunRecord,
        stopper: Stopper,
        observers: Iterable[Observer],
        prompter: Prompter | None,
        redactor: Redactor,
        resolver: Resolver,
        branching: Branching | None,
    ) -> None:
        self._request = request
        self._branching = branching
        self._files = files
        self._claimed = claimed
        self._prompter = prompter
        self._redactor, self._knew = redactor, redactor.known
        self._resolver = resolver
        self._recorder = Recorder(
            files.folder, self._redactor, RecordFold(claimed), observers, make_room=files.make_room
        )
        self._stopper = stopper
        stopper.tell(lambda name: self._recorder.submit(StopRequested(signal=name)))
        self._copy = CopyWriter(files.folder.copy, self._redactor)
        self._state: RunInProgress | None = None
        self._replay = request.resumed.replay if request.resumed is not None else retrying(request.runbook)
        self._locks = RunLocks.of_run(
            claimed,
            request.archive,
            path=request.locking.path,
            wait_s=request.options.lock_wait_s,
            report=self._recorder.submit,
        )

    def go(self, *, busy: str) -> FinishedRun:
        """Run, unless somebody is `busy`, and finalise whatever happens."""
        ending = Ending(busy=busy)
        try:
            self._recorder.commit_now(self._announcement())
            if not (busy or self._stopper.stops):
                self._locks.acknowledge(self._request.locking.acknowledge)
                ending = Ending(kernel_lost=self._execute())
        except RunbookError as error:
            ending = Ending(not_started=f"{error}: {error.hint}" if error.hint else str(error))
        except ArchiveError as error:
            self._recorder.failure = self._recorder.failure or str(error)
        except OpsbookError as error:
            ending = Ending(internal=str(error))
        except Exception as error:  # noqa: BLE001  the border of a run: whatever breaks, the record is finished
            ending = Ending(internal=f"internal error: {type(error).__name__}: {error}")
        ended, well = RunState.UNKNOWN, frozenset[str]()
        try:
            finished = self._finalise(ending)
            ended, results = finished.record.status, finished.record.targets.results
            well = frozenset(name for name, result in results.items() if result.state is TargetState.OK)
        finally:
            self._locks.end(ended, well=well)
        return finished

    def _announcement(self) -> RunStarted:
        return RunStarted(
            run_id=self._claimed.run_id,
            title=self._claimed.runbook.title,
            runbook=self._claimed.runbook.path,
            parameters=self._claimed.parameters,
            pattern=self._request.pattern,
            selected=self._request.selected,
            cells=self._claimed.cells,
            resumed_from=self._claimed.resumed_from,
        )

    def _execute(self) -> str:
        """Start the kernel, run the document, end the kernel. Return why the kernel was lost, if it was."""
        runbook = self._request.runbook
        channel = ChannelServer(
            recorder=self._recorder,
            redactor=self._redactor,
            welcome=self._welcome(),
            resolve=self._resolver.resolve,
            locks=self._locks,
            replay=self._replay,
        )
        try:
            cwd = runbook.path.resolve().parent
            kernel = start_kernel(runbook.kernel, channel=channel.theirs, cwd=cwd, settings=self._request.env)
            channel.theirs.close()
            self._stopper.watch(channel, kernel)
            return self._drive(kernel, channel)
        finally:
            channel.close()

    def _drive(self, kernel: Kernel, channel: ChannelServer) -> str:
        put_off("requests")  # papermill's way to notebooks on the web
        choose_validator(len(self._request.runbook.cells))
        from opsbook.execution import engine  # noqa: PLC0415  papermill is imported while the kernel boots

        state = RunInProgress(
            runbook=self._request.runbook,
            recorder=self._recorder,
            kernel=kernel,
            channel=channel,
            stopper=self._stopper,
            prompter=self._prompter,
            mask=self._redactor.text,
            injects=bool(self._request.binding.given),
            checking=self._request.options.checking,
            replay=self._replay,
            output=self._request.output,
            summaries=self._summaries(),
            limits=self._request.limits,
            branching=self._branching,
        )
        self._state = state
        lost = ""
        try:
            document = self._document()
            engine.attach(state)
            executed = engine.execute(
                document,
                state,
                parameters=self._request.binding.given,
                kernel_name=self._request.runbook.kernel or OWN,
                save=self._copy.save_soon,
            )
            self._stopper.forget_time()  # every cell is over: what is left is ours
            ended = kernel.alive or state.kernel_is_done or self._stopper.stops
            lost = "" if ended else kernel.how_it_ended
            self._copy.keep(executed)
        finally:
            channel.stopping.set()  # nobody waits for what a thread of the author's would send now
            engine.finish(state)
        return lost

    def _summaries(self) -> Summaries:
        numbers = {cell.id: number for number, cell in enumerate(self._claimed.cells, start=1)}
        return Summaries(self._request.logs, self._redactor, run_id=self._claimed.run_id, numbers=numbers)

    def _document(self) -> Document:
        """Return the runbook as a document, with the MEMEs of this run's copy."""
        document = make_document(self._request.runbook)
        if self._branching is not None:
            weave(document, self._branching)
        return document

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
            environment=request.env.references,
            options=request.options,
            replaying=request.resumed is not None,
        )

    def _finalise(self, ending: Ending) -> FinishedRun:
        """Judge, and write the last event, the copy and the record, so that all of them say the same."""
        self._recorder.settle()
        self._recorder.fold.close()
        scan = scan_again(self._recorder, self._files, self._redactor, knew=self._knew)
        if self._copy.is_empty:  # nothing ran: the copy shows just that
            with suppress(RunbookError):
                self._copy.keep_unrun(self._document())
        ending = replace(
            ending,
            signal=self._stopper.signal,
            timed_out=self._stopper.timed_out,
            archive=self._recorder.failure,
            refused=(self._state.refused if self._state else "") or self._locks.refused or self._replay.refusal,
            unknown=self._replay.unknown,
            busy=ending.busy or self._locks.busy,
        )
        record = self._judged(ending, scan)
        try:
            self._copy.finish(record)
        except ArchiveError as error:  # there is room for the record where there is none for the copy
            ending = replace(ending, archive=str(error))
            record = self._judged(ending, scan)
            if self._redactor.known != self._knew:
                self._copy.discard()  # what it was while it ran may hold what nobody knew then
        return publish(
            record,
            scan=scan,
            judge_again=lambda why, scan: self._judged(replace(ending, archive=why), scan),
            recorder=self._recorder,
            files=self._files,
            copy=self._copy,
        )

    def _judged(self, ending: Ending, scan: LastScan) -> RunRecord:
        """Return the record of the run, ended like this, redacted."""
        fold = self._recorder.fold
        notes = (*self._claimed.notes, *(self._state.notes if self._state else ()), *self._recorder.notes)
        notes = (*notes, *self._replay.notes(fold.cells))
        record = fold.record(fold.judge(ending), datetime.now(UTC))
        failed = (ending.archive,) if ending.archive and ending.archive not in record.reason else ()
        told = scan.told(replace(record, notes=(*notes, *self._files.notes, *failed)))
        cleaned: RunRecord = self._redactor.clean(told)
        return cleaned
