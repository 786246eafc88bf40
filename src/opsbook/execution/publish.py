"""The last words of a run: the journal's last line, the record, and the line in the archive's chain, in this order.

Before them stands the last scan: what was written before all secrets were known is masked, and the record says so.
What cannot be written makes the run one whose archive failed, and the record says so; a record the archive does not
take goes to the user's state folder, and where that does not take it either, to whoever reads the messages.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from opsbook.archive.claimed import ClaimedRun
from opsbook.archive.copy import CopyWriter
from opsbook.archive.spill import spill_record
from opsbook.errors import ArchiveError, ExitCode
from opsbook.execution.recorder import Recorder
from opsbook.execution.request import MASKED, FinishedRun
from opsbook.model.event import RunEnded
from opsbook.model.run import Incident, RunRecord, RunState
from opsbook.redaction import Redactor


class LastScan(Struct, frozen=True, kw_only=True):
    """What the last scan came to."""

    incidents: tuple[Incident, ...] = ()
    runbook: bytes | None = None
    """The kept runbook, masked; None where it stays as it is."""

    def told(self, record: RunRecord) -> RunRecord:
        """Return a record that tells of it."""
        if not self.incidents:
            return record
        ref, said = record.runbook, tuple(dict.fromkeys(incident.sentence for incident in self.incidents))
        if self.runbook is not None and not ref.masked:
            ref, said = replace(ref, masked=True), (MASKED, *said)
        return replace(record, runbook=ref, incidents=self.incidents, notes=(*record.notes, *said))

    def leaving(self, name: str) -> LastScan:
        """Return what it came to where the kept runbook, which has this name, could not be masked."""
        told = (replace(one, masked=False) if one.file == name else one for one in self.incidents)
        return replace(self, incidents=tuple(told), runbook=None)


def scan_again(recorder: Recorder, files: ClaimedRun, redactor: Redactor, *, knew: int) -> LastScan:
    """Mask what was written before all secrets were known; at the claim so many were (SEMANTICS 27)."""
    if redactor.known == knew:
        return LastScan()
    recorder.scan()
    incidents = recorder.incidents
    try:
        kept = files.folder.source.read_bytes()
    except OSError:
        return LastScan(incidents=incidents)  # it is gone, and `archive verify` says so
    masked = redactor.document(kept)
    if masked == kept:
        return LastScan(incidents=incidents)
    names = [name for name, _ in redactor.places(kept.decode("utf-8", "replace"))] or ["a secret"]
    own = tuple(Incident(secret=name, file=files.folder.source.name, line=0) for name in names)
    return LastScan(incidents=(*own, *incidents), runbook=masked)


def publish(
    record: RunRecord,
    *,
    scan: LastScan,
    judge_again: Callable[[str, LastScan], RunRecord],
    recorder: Recorder,
    files: ClaimedRun,
    copy: CopyWriter,
) -> FinishedRun:
    """Write how a run ended, and return what could be written; the executed copy has been written already.

    `judge_again` returns the record of the run when the archive failed for the reason given, and the scan came to this.
    """
    files.use_room()
    said = ""
    try:
        _write(record, recorder, files, copy=copy.head, scan=scan, insist=False)
    except ArchiveError as error:
        scan = _mask_at_once(files, scan)
        record = judge_again(str(error), scan)
        try:
            copy.finish(record)
        except ArchiveError:
            copy.discard()  # it says that the run ended otherwise; what the cells printed is in the journal
        try:
            _write(record, recorder, files, copy=copy.head, scan=scan, insist=True)
        except ArchiveError as again:
            said = _spill(record, why=str(again))
    recorder.close()
    return FinishedRun(record=record, folder=files.folder, said=(said,) if said else ())


def _mask_at_once(files: ClaimedRun, scan: LastScan) -> LastScan:
    """Mask the kept runbook whatever the chain takes, and return what was done: the record must not wait for that."""
    if scan.runbook is not None:
        try:
            files.mask_runbook(scan.runbook)
        except ArchiveError:
            return scan.leaving(files.folder.source.name)
    return scan


def unrecorded(claimed: RunRecord, error: ArchiveError) -> bytes:
    """Return the record of a run whose journal could not be begun: nothing ran."""
    why, code = str(error), int(ExitCode.ARCHIVE)
    ended = replace(claimed, status=RunState.FAILED, reason=why, exit_code=code, ended_at=datetime.now(UTC))
    return msgspec.json.encode(ended)


def _write(
    record: RunRecord, recorder: Recorder, files: ClaimedRun, *, copy: str, scan: LastScan, insist: bool
) -> None:
    """Write everything; with `insist` only the record has to be written."""
    ended = RunEnded(status=record.status, exit_code=record.exit_code or 0, reason=record.reason)
    try:
        recorder.end(ended)
    except ArchiveError:
        if not insist:
            raise
    data = msgspec.json.encode(record)
    files.finish(data, journal=recorder.head, copy=copy, runbook=scan.runbook, insist=insist)


def _spill(record: RunRecord, *, why: str) -> str:
    """Put the record somewhere else, and say where."""
    data = msgspec.json.encode(record)
    place = spill_record(record.run_id, data)
    where = f"it is in {place}" if place is not None else f"it follows:\n{data.decode()}"
    return f"the archive did not take the record of {record.run_id} ({why}); {where}"
