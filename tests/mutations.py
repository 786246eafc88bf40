"""Takes one guarantee after the other out of a copy of the product, and prints which test notices.

Run as `python tests/mutations.py [NAME…]`. Each mutation is a file, a text in it and what stands there instead; a text
that is not found is an error, because the guarantee may have moved away from under its test. What no test notices is
printed as SURVIVED, and makes the exit code 1. The tree this is started in is never touched.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
import venv
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent
COPIED = ("src", "tests", "runbooks", "pyproject.toml", "README.md", "docs", "Makefile")
LIMIT_S = 900.0
LANES = 2
SYNCED = """            if durable:
                os.fsync(self._descriptor)
"""
"""What puts the journal on disk."""
ARCHIVE, RECORDER = "tests/test_archive.py", "tests/test_recorder.py"
FOLD, HISTORY, JOURNAL = (f"tests/test_archive_{part}.py" for part in ("fold", "history", "journal"))
SAYS = "tests/test_kill.py::test_what_a_run_says_is_on_disk_when_it_says_it"
CUT = "tests/test_kill.py::test_a_power_cut_at_any_moment_takes_nothing_that_was_promised"
KILLED = "tests/test_kill.py::test_a_run_killed_at_any_write_leaves_the_truth"
FAILING = "tests/test_kill.py::test_when_the_disk_fails_in_the_middle_nothing_more_is_sent"
PART = "tests/test_kill.py::test_a_write_that_takes_a_part_is_gone_on_with"
STALLED = "tests/test_kill.py::test_while_an_intent_is_on_its_way_to_the_disk_its_command_is_not_sent"
GUARDED = "tests/test_kernels.py::test_a_killed_runner_leaves_no_kernel_no_child_of_it_and_no_folder"
DETACHED = "tests/test_isolation.py::test_nothing_a_notebook_started_outlives_its_run_however_it_detached"
STOPPED = "tests/test_cli_run.py::test_a_cell_that_raises_stops_the_rest_but_not_what_always_runs"
SETTLED = "tests/test_lock_requests.py::test_a_run_that_resumed_another_clears_the_marks_it_settled_and_no_others"
GRANTED = "tests/test_promises.py::test_an_intent_is_granted_by_the_runners_answer_and_by_nothing_less"


@dataclass(frozen=True, kw_only=True)
class Mutation:
    """One guarantee taken out, and the tests that ought to notice."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


MUTATIONS = (
    Mutation(
        name="fsync of the journal",
        file="archive/journal.py",
        old=SYNCED,
        new="",
        tests=(SAYS, CUT, RECORDER),
    ),
    Mutation(
        name="a failed fsync of the journal counts",
        file="archive/journal.py",
        old=SYNCED,
        new="""            if durable:
                try:
                    os.fsync(self._descriptor)
                except OSError:
                    os.fsync(self._descriptor)
""",
        tests=(FAILING,),
    ),
    Mutation(
        name="a write that takes a part is gone on with",
        file="archive/files.py",
        old="        left = left[os.write(descriptor, left) :]\n",
        new="        left = left[max(os.write(descriptor, left), len(left)) :]\n",
        tests=(PART,),
    ),
    Mutation(
        name="fsync of the record",
        file="archive/files.py",
        old="""                write_all(descriptor, data)
                os.fsync(descriptor)
""",
        new="""                write_all(descriptor, data)
""",
        tests=(SAYS, CUT, KILLED),
    ),
    Mutation(
        name="rename: the record written in place",
        file="archive/files.py",
        old="            draft.replace(file)\n",
        new="            file.write_bytes(data)\n            draft.unlink()\n",
        tests=(KILLED, CUT, ARCHIVE),
    ),
    Mutation(
        name="fsync of the folder",
        file="archive/files.py",
        old="        os.fsync(descriptor)\n    finally:",
        new="        pass\n    finally:",
        tests=(CUT, SAYS),
    ),
    Mutation(
        name="the guard of our kernel",
        file="execution/launch.py",
        old="    fork_guard(os.path.dirname(connection_file))",
        new="    os.path.dirname(connection_file)",
        tests=(GUARDED, DETACHED),
    ),
    Mutation(
        name="the guard of other kernels",
        file="execution/kernel.py",
        old='    return [*python, "opsbook.execution.guard", "{connection_file}", *spec]',
        new="    return spec",
        tests=(DETACHED,),
    ),
    Mutation(
        name="running and nobody there: interrupted",
        file="archive/history.py",
        old="status=RunState.INTERRUPTED",
        new="status=RunState.RUNNING",
        tests=(KILLED, HISTORY),
    ),
    Mutation(
        name="nothing makes not_run ok, in the record",
        file="archive/fold.py",
        old="            cells=self.cells,\n",
        new="            cells=tuple(replace(one, state=CellState.OK) for one in self.cells),\n",
        tests=(STOPPED, FOLD),
    ),
    Mutation(
        name="nothing makes not_run ok, in the copy",
        file="execution/engine.py",
        old="        del kwargs\n        self.end_time = self.now()\n",
        new="        super().notebook_complete(**kwargs)\n",
        tests=("tests/test_truth.py", STOPPED),
    ),
    Mutation(
        name="an intent is granted when it is on disk",
        file="execution/channel.py",
        old="        self._recorder.commit(request.intent, lambda why: self._answer(request.ticket, why))\n",
        new="""        self._recorder.submit(request.intent)
        self._answer(request.ticket, "")
""",
        tests=(STALLED,),
    ),
    Mutation(
        name="a command waits for its intent to be granted",
        file="fleet/channel.py",
        old="        answer = self._ask(lambda ticket: m.IntentRequest(ticket=ticket, intent=intent))\n",
        new="""        self._send(m.IntentRequest(ticket=0, intent=intent))
        answer = None
""",
        tests=(GRANTED, STALLED),
    ),
    Mutation(
        name="a torn last line is dropped",
        file="archive/journal.py",
        old="if body == line or not isinstance",
        new="if not isinstance",
        tests=(JOURNAL,),
    ),
    Mutation(
        name="the chain within the journal",
        file="archive/journal.py",
        old=' or raw.get("prev") != prev',
        new="",
        tests=(JOURNAL,),
    ),
    Mutation(
        name="the chain of heads",
        file="archive/links.py",
        old="    if link.prev != prev:\n",
        new='    if link.prev == "":\n',
        tests=("tests/test_archive_verify.py",),
    ),
    Mutation(
        name="room kept for the record",
        file="archive/claimed.py",
        old="            self._reserve = Reserve(folder.reserve, 2 * len(record) + LAST_WORDS)\n",
        new="",
        tests=("tests/test_disk_full.py",),
    ),
    Mutation(
        name="the lock on a target",
        file="locks/lock_file.py",
        old="                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)\n",
        new="                pass\n",
        tests=("tests/test_lock_folder.py",),
    ),
    Mutation(
        name="what no resume has settled stays marked",
        file="execution/locks.py",
        old="status in ORDERLY and not changed and well.isdisjoint(names)",
        new="False",
        tests=(SETTLED,),
    ),
    Mutation(
        name="no record claims what the journal lacks",
        file="archive/fold.py",
        old="""        if not isinstance(event, e.TargetEnded) or (event.call, event.target) not in self._sent:
            return event
""",
        new="        return event\n",
        tests=("tests/test_recorder_truth.py",),
    ),
    Mutation(
        name="one claim of a --run-id at a time",
        file="archive/identity.py",
        old="            if not lock(self._descriptor, fcntl.LOCK_EX, seconds=PATIENCE_S):\n",
        new="            if self._descriptor < 0:\n",
        tests=("tests/test_run_id.py",),
    ),
    Mutation(
        name="the cap of output",
        file="execution/outputs.py",
        old='        head = "" if self._tail or self.cut else text[: self._head_room]\n',
        new="        head = text\n",
        tests=("tests/test_output.py",),
    ),
    Mutation(
        name="the count of outputs",
        file="execution/outputs.py",
        old="        missing = max(0, (self._announced or 0) - self._arrived)\n",
        new="        missing = 0\n",
        tests=("tests/test_output.py",),
    ),
)


class Copy:
    """A copy of the tree that tests can be run in, with an interpreter that knows no other opsbook."""

    def __init__(self, place: Path) -> None:
        self.tree = place / "tree"
        self.tree.mkdir()
        for name in COPIED:
            source = HERE / name
            if source.is_dir():
                shutil.copytree(source, self.tree / name, ignore=shutil.ignore_patterns("__pycache__"))
            elif source.exists():
                shutil.copy2(source, self.tree / name)
        venv.create(place / "venv", symlinks=True)
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        paths = f"{self.tree / 'src'}\n{sysconfig.get_path('purelib')}\n"
        (place / "venv/lib" / version / "site-packages/tree.pth").write_text(paths)
        self._python = str(place / "venv/bin/python")
        self._place = place

    def first_red(self, tests: Iterable[str]) -> str:
        """Run tests, and return the first that fails; empty when none does."""
        where = f"--basetemp={self._place / 'tests'}"
        line = [self._python, "-m", "pytest", where, "-x", "-q", "-p", "no:cacheprovider", "--no-header", "--tb=no"]
        environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
        environment.pop("PYTHONPATH", None)
        try:
            done = subprocess.run(
                [*line, *tests],
                cwd=self.tree,
                env=environment,
                capture_output=True,
                text=True,
                timeout=LIMIT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return f"no end within {LIMIT_S:g} s"
        finally:
            self._end_survivors()
        if done.returncode == 0:
            return ""
        red = re.search(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.MULTILINE)
        return red[1] if red else f"pytest said {done.returncode}: {(done.stdout + done.stderr)[-300:]}"

    def _end_survivors(self) -> None:
        """End what a product without its guard has left running: it works in this copy's folder, or comes from it."""
        for place in Path("/proc").glob("[0-9]*"):
            try:
                about = [str((place / "cwd").readlink()).encode(), (place / "cmdline").read_bytes()]
                if any(str(self._place).encode() in text for text in about):
                    os.kill(int(place.name), signal.SIGKILL)
            except OSError:
                continue

    def with_out(self, mutation: Mutation) -> str:
        """Return what goes red without a guarantee; empty when nothing does."""
        file = self.tree / "src/opsbook" / mutation.file
        whole = file.read_text(encoding="utf-8")
        file.write_text(whole.replace(mutation.old, mutation.new), encoding="utf-8")
        try:
            return self.first_red(mutation.tests)
        finally:
            file.write_text(whole, encoding="utf-8")


def misplaced(mutations: Iterable[Mutation]) -> list[str]:
    """Name the mutations whose text does not stand where they say, exactly once."""
    texts = ((one, (HERE / "src/opsbook" / one.file).read_text(encoding="utf-8")) for one in mutations)
    return [f"{one.name}: {text.count(one.old)} times in {one.file}" for one, text in texts if text.count(one.old) != 1]


def main(names: list[str]) -> int:
    """Try the mutations of these names, or all; return the exit code."""
    chosen = [one for one in MUTATIONS if not names or one.name in names]
    wrong = misplaced(chosen)
    if wrong or not chosen:
        sys.exit("\n".join(["these do not fit the code:", *wrong]) if wrong else "no mutation has such a name")
    with tempfile.TemporaryDirectory(prefix="mutations-") as place:
        lanes = [Path(place) / f"lane{number}" for number in range(LANES)]
        for lane in lanes:
            lane.mkdir()
        with ThreadPoolExecutor(LANES) as pool:
            parts = pool.map(try_all, map(Copy, lanes), [chosen[number::LANES] for number in range(LANES)])
            survivors = sum(parts)
    print(f"{len(chosen)} taken out, {survivors} survived")  # noqa: T201
    return 1 if survivors else 0


def try_all(copy: Copy, mutations: list[Mutation]) -> int:
    """Try mutations one after the other and print what came of each; return how many survived."""
    tests = sorted({test for one in mutations for test in one.tests})
    red = copy.first_red(tests) if tests else ""
    if red:
        sys.exit(f"{red} fails although nothing was taken out")
    survived = 0
    for mutation in mutations:
        begun = time.monotonic()
        red = copy.with_out(mutation)
        survived += not red
        seconds = time.monotonic() - begun
        print(f"{mutation.name:45} {red or 'SURVIVED':90} {seconds:6.1f} s", flush=True)  # noqa: T201
    return survived


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
