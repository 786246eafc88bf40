"""A desk whose runs are killed: it starts them through `crash`, and says what must hold of what they left behind."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import crash
import nbformat
from canary import plant
from crash import How, Plan
from forks import WAIT_S
from support import JsonObject, Ran

from opsbook.archive.catch_up import ask_archive
from opsbook.archive.history import iter_runs
from opsbook.archive.index import Index
from opsbook.archive.index_text import Passage, unpack
from opsbook.archive.journal import read_journal
from opsbook.archive.layout import is_alive
from opsbook.archive.verify import verify_archive

GONE_S = 20
"""Seconds the kernel and its children may take to be gone on a machine that is busy; alone it is one."""
REFUSED = 3
TARGETS = {"web1": "127.0.3.1", "web2": "127.0.3.2", "web3": "127.0.3.3"}


class Bench:
    """The process that forks for every command; one command at a time."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", crash.__file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd="/"
        )

    def run(self, plan: Plan, scratch: Path) -> Ran:
        """Run a command; a code below zero is the signal that ended it."""
        out, err = scratch / "out", scratch / "err"
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(crash.request(plan, str(out), str(err)))
        self._process.stdin.flush()
        code = int(self._process.stdout.readline())
        return Ran(code=code, out=out.read_text(errors="replace"), err=err.read_text(errors="replace"))

    def close(self) -> None:
        with self._process as process:
            assert process.stdin is not None
            process.stdin.close()
            try:
                process.wait(WAIT_S)
            except subprocess.TimeoutExpired:
                process.kill()


@contextmanager
def bench() -> Iterator[Bench]:
    made = Bench()
    try:
        yield made
    finally:
        made.close()


@dataclass(frozen=True)
class Trace:
    """What the wrapped calls of one command left."""

    entries: tuple[JsonObject, ...]

    @property
    def sites(self) -> Counter[str]:
        """How often each site was passed."""
        return Counter(entry["site"] for entry in self.entries if entry["call"] != "told")

    def of(self, call: str, kind: str = "") -> list[JsonObject]:
        return [one for one in self.entries if one["call"] == call and (not kind or crash.kind(one["path"]) == kind)]

    def check_order(self) -> None:
        """Nobody is told before the journal is on disk, and nothing gets its name before its bytes are."""
        written: dict[int, int] = {}
        synced: dict[int, int] = {}
        waiting: set[str] = set()
        for entry in self.entries:
            if "error" in entry or "raised" in entry:
                continue
            inode = entry.get("inode", 0)
            if entry["call"] == "write" and entry["path"].endswith("events.jsonl"):
                written[inode] = written.get(inode, 0) + 1
            elif entry["call"] == "fsync":
                synced[inode] = written.get(inode, 0)
                waiting.discard(entry["path"])
            elif entry["call"] == "replace":
                assert inode in synced, f"{entry['path']} was given its name before it was on disk"
                if entry["to"].endswith("run.json"):
                    assert sum(synced.get(one, 0) for one in written) == sum(written.values()), "the record came first"
                waiting.add(str(Path(entry["to"]).parent))
            elif entry["call"] == "told":
                assert sum(synced.get(one, 0) for one in written) == sum(written.values()), f"told too early: {entry}"
                assert not waiting, f"{waiting} had a new entry that was not on disk"


@dataclass
class KillDesk:
    """A folder with a runbook, an inventory and an archive, and the runs that were killed in it."""

    folder: Path
    bench: Bench
    runtime: Path
    """A folder with a short path: the kernel's sockets lie in it."""
    args: tuple[str, ...] = ("run", "book.ipynb", "--json", "--run-id", "nightly-TRIAL")
    mark: str = "\0"
    """What stands in the argument list of every process that a cell starts."""
    trials: int = 0

    def __post_init__(self) -> None:
        plant(self.folder)

    @property
    def archive(self) -> Path:
        return self.folder / "archive"

    @property
    def environment(self) -> dict[str, str]:
        path = {"PYTHONPATH": os.environ["PYTHONPATH"]} if "PYTHONPATH" in os.environ else {}
        places = {"HOME": str(self.folder / "home"), "XDG_RUNTIME_DIR": str(self.runtime), "TMPDIR": str(self.runtime)}
        return {"PATH": os.environ["PATH"], **places, **path}

    def plan(self, *args: str, **changes: Any) -> Plan:
        return Plan(args=list(args), cwd=str(self.folder), environment=self.environment, **changes)

    def opsbook(self, *args: str) -> Ran:
        """Run a command that nobody watches."""
        return self.bench.run(self.plan(*args), self.folder)

    def forget(self) -> None:
        """Begin anew, without an archive."""
        shutil.rmtree(self.archive, ignore_errors=True)

    def trial(self, **changes: Any) -> Trial:
        """Run the runbook once, watched, with something happening to it; go on where a killed run left targets."""
        trial = self._attempt(**changes)
        left = re.search(r"left in the middle by run (\S+);", trial.ran.err) if trial.ran.code == REFUSED else None
        if left is None:
            return trial
        before = next(run.record for run in iter_runs(self.archive) if run.folder.run_id == left[1])
        assert before is not None, trial
        assert before.status == "interrupted", trial
        return self._attempt("--acknowledge", left[1], **changes)

    def _attempt(self, *flags: str, **changes: Any) -> Trial:
        self.trials += 1
        trace = self.folder / "trace"
        trace.unlink(missing_ok=True)
        before = {run.folder.run_id for run in iter_runs(self.archive)}
        watched: dict[str, Any] = {"trace": str(trace), "roots": [str(self.folder), str(self.runtime)]}
        words = [word.replace("TRIAL", f"t{self.trials}") for word in (*self.args, *flags, "-p", "trial=TRIAL")]
        plan = self.plan(*words, **watched, **changes)
        ran = self.bench.run(plan, self.folder)
        lines = trace.read_text().splitlines() if trace.exists() else []
        made = [run.folder.path for run in iter_runs(self.archive) if run.folder.run_id not in before]
        assert len(made) <= 1
        entries = tuple(map(json.loads, lines))
        return Trial(
            desk=self, name=f"t{self.trials}", plan=plan, ran=ran, trace=Trace(entries), run=made[0] if made else None
        )


@dataclass(frozen=True, kw_only=True, repr=False)
class Trial:
    """One watched run, and what is left of it."""

    desk: KillDesk
    name: str
    plan: Plan
    ran: Ran
    trace: Trace
    run: Path | None
    """Its folder in the archive; None when it never came to be."""

    @property
    def killed(self) -> bool:
        return self.ran.code == -signal.SIGKILL

    def __repr__(self) -> str:
        what = f"{self.plan.how} {self.plan.site} #{self.plan.nth} after {self.plan.kill_after_s}"
        said = f"{self.ran.code}: {self.ran.out[:300]}… {self.ran.err[-300:]}"
        return f"{self.name}: {what}; {said}; {self.run}"

    @property
    def events(self) -> list[JsonObject]:
        """The whole lines of the journal."""
        if self.run is None or not (self.run / "events.jsonl").exists():
            return []
        lines = (self.run / "events.jsonl").read_bytes().split(b"\n")[:-1]
        return [json.loads(line)["event"] for line in lines]

    @property
    def truth(self) -> str:
        """What the run must be told as: how it said that it ended, or that it did not."""
        if self.run is None:
            return ""
        with_record = (self.run / "run.json").exists()
        status = str(json.loads((self.run / "run.json").read_bytes())["status"]) if with_record else ""
        ended = [event["status"] for event in self.events if event["type"] == "run_ended"]
        return status if status not in {"running", ""} else ended[0] if ended else "interrupted"

    def check(self) -> None:
        """Every invariant, of what is left when everything of it has ended."""
        self.check_gone()
        self.trace.check_order()
        self.check_journal()
        self.check_copies()
        self.check_told()
        self.check_sent()
        self.check_left()
        self.check_chain()
        self.check_index()

    def check_journal(self) -> None:
        """I1: what was on disk is there, byte for byte, and our own reader takes every whole line."""
        for entry in self.trace.of("fsync", "events.jsonl"):
            if "sha" in entry and Path(entry["path"]).exists():
                data = Path(entry["path"]).read_bytes()[: entry["size"]]
                assert hashlib.sha256(data).hexdigest() == entry["sha"], self
        if self.run is not None and (self.run / "events.jsonl").exists():
            assert len(list(read_journal(self.run / "events.jsonl"))) == len(self.events), self

    def check_copies(self) -> None:
        """I2: every notebook of the archive is one."""
        for copy in self.desk.archive.rglob("*.ipynb"):
            if not copy.name.startswith("."):
                nbformat.validate(json.loads(copy.read_bytes()))

    def check_told(self) -> None:
        """I3, I6: the history tells the truth, the same each time, and the command says it in its words."""
        read = {run.folder.run_id: run for run in iter_runs(self.desk.archive)}
        assert read == {run.folder.run_id: run for run in iter_runs(self.desk.archive)}
        if self.run is None:
            return
        mine = read[self.run.name]
        if mine.record is None:  # it was killed before it had written down what it is
            assert not self.trace.of("told"), self
            assert not self.events, self
            return
        assert mine.record.status == self.truth, self
        states = {cell.state for cell in mine.record.cells}
        assert "running" not in states, self
        if mine.record.status == "succeeded":
            assert states <= {"ok", "skipped"}, self
        if not self.killed:
            assert self.ran.code == mine.record.exit_code, self

    def check_shown(self) -> None:
        """I3 by the commands themselves."""
        listed = self.desk.opsbook("runs", "--json", "--limit", "1000")
        assert listed.code == 0, listed
        told = {record["run_id"]: record["status"] for record in listed.json}
        assert not self.run or told.get(self.run.name, "interrupted") == self.truth, self
        if self.run and self.run.name in told:
            shown = self.desk.opsbook("show", self.run.name, "--json")
            assert (shown.code, shown.json["status"]) == (0, self.truth), (self, shown)

    def check_gone(self) -> None:
        """I4: nothing that the run started lives."""
        left: list[str] = []

        def is_gone() -> bool:
            left[:] = survivors(self.desk)
            return not left

        deadline = time.monotonic() + GONE_S
        while not is_gone():
            assert time.monotonic() < deadline, (left, self)
            time.sleep(0.05)

    def check_sent(self) -> None:
        """I8: nothing reached a target without its intent in the journal."""
        counter = self.desk.folder / "counter"
        lines = counter.read_text().splitlines() if counter.exists() else []
        sent = Counter(line for line in lines if line.split()[0] == self.name)
        intents = [event for event in self.events if event["type"] == "intent"]
        meant = Counter(f"{self.name} {intent['cell_id']} {intent['target']}" for intent in intents)
        assert not sent - meant, (self, sent, meant)

    def check_left(self) -> None:
        """I5: no lock is held any more."""
        assert not any(is_alive(run.folder) for run in iter_runs(self.desk.archive)), self

    def check_chain(self) -> None:
        """What a kill leaves is no archive that was tampered with."""
        found = verify_archive(self.desk.archive)
        assert found.is_well, (self, found)

    def check_index(self) -> None:
        """I9: the index kept since the runs before says what one made anew says, and both hold every run."""
        kept = ask_archive(self.desk.archive, indexed)
        assert kept == ask_archive(self.desk.archive, indexed, fresh=True), self
        assert [name for name, *_ in kept] == sorted(run.folder.run_id for run in iter_runs(self.desk.archive)), self

    def check_swept(self) -> None:
        """I5, I7: the run went through without help, and nothing is left of those before it."""
        assert (self.ran.code, self.truth) == (0, "succeeded"), self
        assert not list(self.desk.runtime.iterdir()), ([*self.desk.runtime.rglob("*")], self)
        assert not leftovers(self.desk.archive), self


def indexed(index: Index) -> list[tuple[str, str, tuple[Passage, ...]]]:
    """List what an index holds of each run."""
    rows = index.rows("SELECT name, status, packed FROM items JOIN texts USING (key) ORDER BY name")
    return [(name, status, unpack(packed)) for name, status, packed in rows]


def survivors(desk: KillDesk) -> list[str]:
    """List the processes of a desk: by their working directory, or by what stands in their argument list."""
    found = []
    for number in filter(str.isdecimal, os.listdir("/proc")):  # noqa: PTH208  hundreds of them, again and again
        try:
            line = Path("/proc", number, "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            where = os.readlink(f"/proc/{number}/cwd")  # noqa: PTH115
        except OSError:
            continue
        if where == str(desk.folder) or str(desk.runtime) in line or desk.mark in line:
            found.append(f"{number} {line}")
    return found


def leftovers(archive: Path) -> list[Path]:
    """List what was being written when its writer was killed."""
    return [path for path in archive.rglob(".*") if path.is_file()]


def sample(sites: Counter[str], ways: tuple[How, ...], moments: random.Random) -> list[dict[str, Any]]:
    """Return every site with the first three calls and the last, each in every way, in an order of chance."""
    points = [
        {"site": site, "nth": nth, "how": how}
        for site, times in sorted(sites.items())
        for nth in sorted({1, 2, 3, times} & set(range(1, times + 1)))
        for how in ways
        if how not in {How.TORN, How.SHORT} or " write " in site
    ]
    moments.shuffle(points)
    return points
