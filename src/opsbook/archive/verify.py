"""Whether the archive still is what its runs left: the chain from end to end, and every run's files against it.

It proves that nothing was changed, put in between or taken away since it was written, as long as nobody rewrote the
chain itself from there on: its last hash, kept elsewhere, is what a rewritten or shortened chain cannot show again. Of
a run that was killed the claim alone is proven. What targets said (`hosts/`) is not covered. Changes nothing.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from enum import StrEnum
from io import BytesIO
from itertools import pairwise
from pathlib import Path

import msgspec
from msgspec import Struct

from opsbook.archive.chain import CHAIN, ChainKind, ChainLine, Heads, read_chain
from opsbook.archive.fold import decode_record
from opsbook.archive.history import iter_folders, why_private
from opsbook.archive.journal import has_started, unscanned
from opsbook.archive.layout import RunFolder, is_alive, is_run_id, run_folder
from opsbook.archive.links import FIRST, digest_of, inspect_lines
from opsbook.model.run import RunState


class Verdict(StrEnum):
    """What was found of a run, or of a line of the chain."""

    WELL = "well"
    RUNNING = "running"
    INTERRUPTED = "interrupted"
    """Its process was killed; what it left until then is no problem of the archive."""
    PRIVATE = "private"
    """Its files are somebody else's alone: only they can look at them."""
    PRUNED = "pruned"
    """It was taken away as retention has it, and the chain says by whom."""
    WRONG = "wrong"


class Finding(Struct, frozen=True, kw_only=True):
    """One thing a reader should know."""

    verdict: Verdict
    what: str
    run_id: str = ""
    """Empty where it is about the chain itself."""


class Verification(Struct, frozen=True, kw_only=True):
    """What became of looking through an archive."""

    runs: int
    """How many runs were looked at."""
    pruned: int = 0
    """How many more there were before they were pruned."""
    lines: int
    """How many lines the chain has."""
    head: str
    """The hash of its last line: kept elsewhere, it shows later whether the chain was cut or rewritten."""
    findings: tuple[Finding, ...] = ()

    @property
    def is_well(self) -> bool:
        """Whether nothing is wrong."""
        return all(finding.verdict is not Verdict.WRONG for finding in self.findings)


class _Chain:
    """The chain as it was read: its lines by run, and what is wrong with it."""

    def __init__(self, data: bytes) -> None:
        self.claims: dict[str, Heads] = {}
        self.ends: dict[str, list[ChainLine]] = {}
        self.prunings: dict[str, ChainLine] = {}
        """Of each run that was pruned the last line that says so."""
        self.hashes: set[str] = set()
        self.findings: list[Finding] = []
        self.lines = 0
        self.head = FIRST
        decoder = msgspec.json.Decoder(ChainLine)
        for line in inspect_lines(BytesIO(data)):
            if line.torn:
                self._say(f"{CHAIN}: a torn line stands at the end; the next run drops it", Verdict.INTERRUPTED)
                break
            self.lines, self.head = line.number, line.hash
            self.hashes.add(line.hash)
            if line.problem:
                self._say(f"{CHAIN}: {line.problem}")
            try:
                self._take(decoder.decode(line.body))
            except (msgspec.MsgspecError, UnicodeDecodeError):
                if not line.problem:
                    self._say(f"{CHAIN}: line {line.number} cannot be read")

    def _take(self, line: ChainLine) -> None:
        if line.dropped:
            text = f"{CHAIN}: {line.dropped} bytes of a torn line were dropped before line {line.seq}"
            self._say(text, Verdict.INTERRUPTED)
        if line.kind is ChainKind.CLAIMED:
            if line.run_id in self.claims:
                self._say(f"claimed once more in line {line.seq} of {CHAIN}", run_id=line.run_id)
            self.claims.setdefault(line.run_id, line.heads)
        elif line.kind is ChainKind.ENDED:
            self.ends.setdefault(line.run_id, []).append(line)
        elif line.kind is ChainKind.PRUNED:
            self.prunings[line.run_id] = line

    def _say(self, what: str, verdict: Verdict = Verdict.WRONG, *, run_id: str = "") -> None:
        self.findings.append(Finding(verdict=verdict, what=what, run_id=run_id))

    @property
    def run_ids(self) -> set[str]:
        """The runs it knows."""
        return {*self.claims, *self.ends, *self.prunings}


def verify_archive(
    root: Path, *, only: str = "", head: str = "", watch: Callable[[int, int], None] | None = None
) -> Verification:
    """Look through an archive, or through one run of it; `watch` is told how far it got.

    `head` is a hash of the chain that was kept elsewhere.

    Raises:
        ArchiveError: the chain cannot be read.
    """
    there = {folder.run_id for folder in iter_folders(root)}  # before the chain: a run that begins now is in neither
    chain = _Chain(read_chain(root))
    findings = list(chain.findings)
    if head and head not in chain.hashes:
        what = f"{CHAIN}: no line has the hash {head}: it was cut or rewritten"
        findings.append(Finding(verdict=Verdict.WRONG, what=what))
    ids = [only] if only else sorted(there | chain.run_ids)
    found: dict[str, Finding | None] = {}
    for done, run_id in enumerate(ids):
        if watch is not None:
            watch(done, len(ids))
        found[run_id] = _verify_run(root, run_id, chain)
    wrong = [run_id for run_id, finding in found.items() if finding is not None and finding.verdict is Verdict.WRONG]
    if wrong:  # what ended while we looked is in the chain by now
        newer = _Chain(read_chain(root))
        found |= {run_id: _verify_run(root, run_id, newer) for run_id in wrong if newer.lines > chain.lines}
        chain.prunings |= newer.prunings
    said = [finding for finding in found.values() if finding is not None]
    pruned = [finding.run_id for finding in said if finding.verdict is Verdict.PRUNED]
    if not only:
        said = [finding for finding in said if finding.verdict is not Verdict.PRUNED]
        said += _prunings(chain.prunings[run_id] for run_id in pruned)
    return Verification(
        runs=len(ids) - len(pruned),
        pruned=len(pruned),
        lines=chain.lines,
        head=chain.head,
        findings=(*findings, *said),
    )


def run_verifier(root: Path) -> Callable[[str], Finding | None]:
    """Read the chain, and return what tells of a run, by its id, what is to be said of it; nothing when all is well.

    Raises:
        ArchiveError: the chain cannot be read.
    """
    chain = _Chain(read_chain(root))
    return lambda run_id: _verify_run(root, run_id, chain)


def _prunings(lines: Iterable[ChainLine]) -> Iterator[Finding]:
    """Say who pruned how many runs, and when: one sentence for each day."""
    for said, count in sorted(Counter(map(_pruning, lines)).items()):
        yield Finding(verdict=Verdict.PRUNED, what=f"{count} run{'s' * (count > 1)} {said}")


def _pruning(line: ChainLine) -> str:
    return f"pruned on {line.at:%F} by {line.by}"


def _verify_run(root: Path, run_id: str, chain: _Chain) -> Finding | None:
    """Return what is to be said of one run; nothing when all is well."""
    claim, ends = chain.claims.get(run_id), chain.ends.get(run_id, [])
    if not is_run_id(run_id):
        return Finding(verdict=Verdict.WRONG, what=f"{CHAIN} names what is no run", run_id=run_id)
    folder, pruning = run_folder(root, run_id), chain.prunings.get(run_id)
    if pruning is not None and not os.path.lexists(folder.path):
        return Finding(verdict=Verdict.PRUNED, what=_pruning(pruning), run_id=run_id)
    verdict, what = next(_verdicts(folder, claim, ends), (Verdict.WELL, ""))
    if verdict is Verdict.WELL and pruning is not None:
        verdict, what = Verdict.INTERRUPTED, f"it was {_pruning(pruning)}, and is still there, or there again"
    return None if verdict is Verdict.WELL else Finding(verdict=verdict, what=what, run_id=run_id)


def _verdicts(folder: RunFolder, claim: Heads | None, ends: list[ChainLine]) -> Iterator[tuple[Verdict, str]]:
    """Yield what is to be said of a run's folder, the gravest first; `ends` are the ends the chain has of it."""
    if folder.path.is_symlink():
        yield Verdict.WRONG, "its folder is a link"
    if not folder.path.is_dir():
        yield Verdict.WRONG, "its folder is gone"
    if private := why_private(folder):
        yield Verdict.PRIVATE, private
    if not ends and is_alive(folder):
        yield Verdict.RUNNING, "it is running"
    if any(line.replaces != before.seq for before, line in pairwise(ends)):
        yield Verdict.WRONG, f"it was rewritten: {CHAIN} has its end {len(ends)} times"
    if claim is None:
        if not ends and _never_started(folder):
            yield Verdict.INTERRUPTED, "it was killed before it started"
        yield Verdict.WRONG, f"its claim is in no line of {CHAIN}: it was put there, or the line was removed"
    else:
        end = ends[-1].heads if ends else None
        for what in _differences(folder, claim, end):
            yield Verdict.WRONG, what
        for what in _interruptions(folder, ends):
            yield Verdict.INTERRUPTED, what


def _interruptions(folder: RunFolder, ends: list[ChainLine]) -> Iterator[str]:
    """Yield what kept a run from coming to its end as it should have."""
    if not ends:
        said = unscanned(folder.journal)
        yield f"its process was killed: {CHAIN} has its claim alone" + (said and f"; {said}")
    elif _digest(folder.record) != ends[-1].heads.record and not is_alive(folder):
        yield "it was killed before its record was finished: the journal tells how it ended"
    elif len(ends) > 1:
        yield "its end could not be put in its place at first: the last of those in the chain holds"


def _never_started(folder: RunFolder) -> bool:
    """Whether a folder is what a run leaves that was killed on its way into the chain."""
    try:
        running = decode_record(folder.record.read_bytes()).status is RunState.RUNNING
    except FileNotFoundError:
        running = True
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return False
    return running and not has_started(folder.journal)


def _differences(folder: RunFolder, claim: Heads, end: Heads | None) -> Iterator[str]:
    """Yield what is not as the chain says."""
    # killed in its last moment a run leaves the record of its claim; its journal has all of it then
    record, records = _digest(folder.record), {claim.record, *([end.record] if end is not None else [])}
    if record not in records:
        yield _changed(folder.record, record)
    # a secret that became known later is masked in the kept runbook at the end, in the line's eyes too
    runbook, runbooks = _digest(folder.source), {claim.runbook, *([end.runbook] if end is not None else [])}
    if runbook not in runbooks:
        yield _changed(folder.source, runbook)
    yield from _journal_problems(folder.journal, end)
    if end is not None and end.copy:
        copy = _digest(folder.copy)
        if copy != end.copy:
            yield _changed(folder.copy, copy)


def _changed(file: Path, found: str) -> str:
    return f"{file.name} was changed" if found else f"{file.name} is gone"


def _digest(file: Path) -> str:
    """Return the hash of a file's bytes; empty when it cannot be read."""
    try:
        return digest_of(file.read_bytes())
    except OSError:
        return ""


def _journal_problems(file: Path, end: Heads | None) -> Iterator[str]:
    """Yield what is wrong with a journal, the first thing first."""
    last, seen_end = FIRST, False
    try:
        stream = file.open("rb")
    except OSError:
        if end is None or end.journal:
            yield f"{file.name} is gone"
        return
    with stream:
        number = 0
        for line in inspect_lines(stream):
            if line.problem:
                yield f"{file.name}: {line.problem}"
                return
            if line.torn and end is None:
                return  # it was killed while it wrote
            if line.torn or seen_end:
                yield f"{file.name}: something was added behind line {number}"
                return
            number, last = line.number, line.hash
            seen_end = end is not None and line.hash == end.journal
    if end is not None and end.journal and last != end.journal:
        yield f"{file.name}: line {number} was changed, or lines behind it were removed"
