"""What cells say arrives whole or is recorded as missing, and a cell that never stops saying it exhausts nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support import LOAD, Desk, Run, code

from opsbook.execution.outputs import Keeper, Loss, clip


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def journal_text(run: Run, cell_id: str) -> str:
    return "".join(event["text"] for event in run.events("cell_output") if event["cell_id"] == cell_id)


def missing(run: Run) -> dict[str, tuple[int, int]]:
    """What of each cell's output was cut and lost, as the record and the journal alike say."""
    said = {event["cell_id"]: (event["output_cut"], event["output_lost"]) for event in run.events("cell_ended")}
    assert said == {cell["id"]: (cell["output_cut"], cell["output_lost"]) for cell in run.record["cells"]}
    return said


@pytest.mark.parametrize("lines", [5_000, pytest.param(20_000, marks=pytest.mark.soak)])
def test_thousands_of_flushed_lines_arrive_in_order_and_none_is_missing(desk, lines):
    desk.notebook(code(f"for n in range({lines}): print(n, flush=True)", cell_id="says"))
    ran = desk.opsbook("run", "book.ipynb", seconds=110)
    assert ran.code == 0, ran
    run = desk.run()
    assert run.output("says") == journal_text(run, "says") == "".join(f"{n}\n" for n in range(lines))
    assert missing(run) == {"says": (0, 0)}


FORGETFUL = """
from ipykernel.iostream import IOPubThread
really = IOPubThread._really_send
dropped = []
def forget(self, message, *args, **named):
    if b"forget me" in b"".join(map(bytes, message)) and b"stream" in bytes(message[0]):
        dropped.append(1)
        return
    really(self, message, *args, **named)
IOPubThread._really_send = forget
"""


def test_an_output_that_never_arrives_is_recorded_as_lost(desk):
    desk.notebook(
        code(FORGETFUL, cell_id="spoils"),
        code(
            "print('before', flush=True)\nprint('forget ' + 'me', flush=True)\nprint('after', flush=True)", cell_id="a"
        ),
        code("print('whole')", cell_id="b"),
    )
    ran = desk.opsbook("run", "book.ipynb")
    assert ran.code == 0, ran
    run = desk.run()
    assert run.output("a") == "before\nafter\n"
    assert missing(run) == {"spoils": (0, 0), "a": (0, 1), "b": (0, 0)}
    (note,) = run.record["notes"]
    assert note == "1 output of \"print('before', flush=True)\" was lost on its way"
    assert "was lost on its way" in " ".join(ran.out.split())


CAPPED = "[output]\ncell_characters = 40_000\nrun_characters = 60_000\n"


def test_a_cell_keeps_the_head_and_the_end_of_what_it_says_and_says_how_much_was_cut(desk):
    desk.write("opsbook.toml", CAPPED)
    desk.notebook(
        code("for n in range(20_000): print(n)", cell_id="talks"),
        code("print('x' * 50_000)\n1 / 0", "raises-exception", cell_id="fails"),
    )
    ran = desk.opsbook("run", "book.ipynb")
    run = desk.run()
    whole = "".join(f"{n}\n" for n in range(20_000))
    cut = len(whole) - 40_000
    notice = f"\n… {cut:,} characters of this cell's output were cut …\n"
    assert run.output("talks") == whole[:30_000] + notice + whole[-10_000:]
    assert journal_text(run, "talks") == run.output("talks")
    assert missing(run)["talks"] == (cut, 0)
    said = run.output("fails")
    assert said.startswith("x" * 15_000 + "\n…")
    assert said.index("were cut") < said.index("ZeroDivisionError"), "the error is kept, and comes last"
    assert missing(run)["fails"] == (50_001 - 20_000, 0), "what the run has left is less than what a cell may"
    assert len(run.record["notes"]) == 2, ran


@pytest.mark.soak
def test_what_is_shown_is_bounded_in_size_and_in_number_and_what_replaces_itself_counts_once(desk):
    desk.write("opsbook.toml", "[output]\ncell_characters = 400_000\n")
    desk.notebook(
        code("from IPython.display import display, clear_output, HTML", cell_id="load"),
        code("for n in range(6_000): display(HTML('a'))", cell_id="many"),
        code("for n in range(40): display(HTML('b' * 20_000))", cell_id="large"),
        code(
            "h = display(HTML('c'), display_id=True)\nfor n in range(100): h.update(HTML('d' * 10_000))", cell_id="one"
        ),
        code("for n in range(100):\n    clear_output()\n    print(n, 'e' * 10_000)", cell_id="clears"),
        code("import sys\nfor n in range(6_000): print('f'); print('g', file=sys.stderr, flush=True)", cell_id="turns"),
    )
    ran = desk.opsbook("run", "book.ipynb")
    assert ran.code == 0, ran
    run = desk.run()
    cells = {cell["id"]: cell for cell in run.notebook["cells"]}
    assert len(cells["many"]["outputs"]) <= 5_001
    assert 10 <= len(cells["large"]["outputs"]) <= 20
    assert "d" * 10_000 in "".join(cells["one"]["outputs"][0]["data"]["text/html"])
    assert run.output("clears") == f"99 {'e' * 10_000}\n"
    assert len(cells["turns"]["outputs"]) <= 5_010
    cut = {name: pair[0] for name, pair in missing(run).items()}
    assert min(cut["many"], cut["large"]) > 0, cut
    assert cut["one"] == 0, cut


ENDLESS = "import itertools\nfor n in itertools.count(): print(n, 'x' * 200{flush})"


@pytest.mark.parametrize(
    ("flush", "seconds"),
    [("", 3), pytest.param("", 20, marks=pytest.mark.soak), pytest.param(", flush=True", 6, marks=pytest.mark.soak)],
)
def test_a_cell_that_prints_without_end_is_stopped_and_has_filled_neither_memory_nor_disk(desk, flush, seconds):
    desk.write("opsbook.toml", "[output]\ncell_characters = 20_000\n")
    watch = "import resource\nprint(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    desk.notebook(
        code(ENDLESS.format(flush=flush), f"timeout:{seconds}s", cell_id="endless"),
        code(watch, "always", cell_id="measures"),
    )
    measured = [sys.executable, "-c", MEASURE, sys.executable, "-m", "opsbook", "run", "book.ipynb", "--quiet"]
    done = subprocess.run(
        measured, cwd=desk.folder, env=desk.environment, capture_output=True, text=True, timeout=90, check=False,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    run = desk.run()
    assert run.states == {"endless": "timed_out", "measures": "ok"}, done
    assert missing(run)["endless"][0] > 20_000
    assert int(done.stdout.splitlines()[-1]) < 300_000, "the runner, in kB"
    assert int(run.output("measures")) < 300_000, "the kernel, in kB"
    assert sum(file.stat().st_size for file in run.folder.rglob("*") if file.is_file()) < 20_000_000


MEASURE = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


STANDS_STILL = """
import os, resource, subprocess, time
guard = os.getppid()
runner = int(open(f"/proc/{guard}/stat").read().rpartition(")")[2].split()[1])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
awaker = subprocess.Popen(["sh", "-c", f"sleep 3; kill -CONT {runner}"])
os.kill(runner, 19)
begun = time.monotonic()
for _ in range(200): print("x" * 1_000_000)
record("stood_s", time.monotonic() - begun)
record("grown", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.soak
def test_a_notebook_waits_for_a_runner_that_stands_still_and_keeps_little_meanwhile(desk):
    desk.notebook(LOAD, code(STANDS_STILL, cell_id="floods"))
    ran = desk.opsbook("run", "book.ipynb", seconds=110)
    assert ran.code == 0, ran
    metrics = desk.run().record["metrics"]
    assert metrics["stood_s"] > 2.5
    assert metrics["grown"] < 120_000, "the kernel kept all it said, in kB"
    assert missing(desk.run())["floods"][1] == 0


@pytest.mark.soak
def test_a_fault_of_many_megabytes_is_cut_wherever_it_is_kept(desk):
    desk.notebook(code("raise ValueError('y' * 3_000_000)", cell_id="raises"))
    desk.opsbook("run", "book.ipynb")
    run = desk.run()
    (cell,) = run.record["cells"]
    assert len(cell["error"]["text"]) < 300_000
    assert "more characters)" in cell["error"]["text"]
    assert max(len(line) for line in (run.folder / "events.jsonl").read_bytes().splitlines()) < 1_000_000
    assert run.copy.stat().st_size < 1_000_000


def test_a_keeper_cuts_the_middle_and_nothing_that_fits():
    keeper = Keeper(100)
    head = [keeper.take("stdout", text) for text in ("a" * 60, "b" * 30, "c" * 10)]
    assert "".join(head) + "".join(text for _, text in keeper.rest()) == "a" * 60 + "b" * 30 + "c" * 10
    assert (keeper.cut, keeper.kept) == (0, 100)
    keeper = Keeper(100)
    head = [keeper.take("stdout", "a" * 200), keeper.take("stderr", "b" * 20)]
    assert head == ["a" * 75, ""]
    assert list(keeper.rest()) == [
        ("stdout", "\n… 120 characters of this cell's output were cut …\n" + "a" * 5),
        ("stderr", "b" * 20),
    ]
    assert list(keeper.rest()) == []
    assert Keeper(0).take("stdout", "a") == ""


def test_a_loss_is_told_in_a_sentence():
    assert Loss().notes("A") == []
    assert clip("abc", 3) == "abc"
    assert Loss(cut=1200).notes("A")[0].startswith('1,200 characters of what "A" said were cut')
