"""`opsbook logs` as people use it: on a run that goes on, that is killed, and on one that has failed."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from support import LOAD, Desk, code, finish, wait_for

NAMES = {"web1": "127.0.5.1", "web2": "127.0.5.2"}


@pytest.fixture
def loner(tmp_path):
    """A desk without targets."""
    return Desk(tmp_path)


def journals(desk):
    return desk.folder.glob("archive/*/*/*/*/events.jsonl")


def first_line(process):
    assert process.stdout is not None
    return process.stdout.readline()


def test_who_follows_a_run_sees_it_to_its_end_however_that_comes_and_may_leave_before(loner):
    loner.notebook(
        code("print('first', flush=True)"),
        code(
            "import time; from pathlib import Path\nwhile not Path('go').exists():\n    time.sleep(0.05)\nprint('on')"
        ),
        code("time.sleep(60)"),
    )
    run = loner.fork("run", "book.ipynb", "--quiet")
    wait_for(lambda: b"cell_output" in b"".join(map(Path.read_bytes, journals(loner))), seconds=60)
    follower, leaver = (loner.fork("logs", "last", "-f") for _ in range(2))
    assert first_line(follower) == first_line(leaver) == "cell 1 | first\n"

    os.kill(leaver.pid, signal.SIGINT)
    left = finish(leaver)
    assert (left.code, left.out, left.err) == (130, "", "")
    loner.write("go", "")
    assert first_line(follower) == "cell 2 | on\n"
    assert follower.poll() is None

    os.kill(run.pid, signal.SIGKILL)
    run.communicate()
    ended = finish(follower)
    assert (ended.code, ended.out) == (0, "")
    assert ended.err == f"{loner.run().folder.name} interrupted: its process ended without finishing the record\n"
    again = loner.opsbook("logs", "last", "--grep", "o")
    assert (again.code, again.out, again.err) == (0, "cell 2 | on\n", "")


LONG = "!!for i in range(300):\n    print('row', i, 'ERROR: no lock' if i == 150 else '')"


def test_the_copy_keeps_a_summary_and_the_log_has_all_of_it_and_of_what_a_target_said(desk):
    desk.notebook(
        LOAD,
        code(LONG, cell_id="long"),
        code(
            "!!%%on web --max-fail 1 --read-only\nseq 100; echo no lock >&2; [ $OPSBOOK_TARGET != web2 ]", cell_id="on"
        ),
        code("!!print('short')", cell_id="short"),
    )
    ran = desk.opsbook("run", "book.ipynb")
    run = desk.run()
    assert ran.code == 1
    assert f"look       opsbook logs {run.folder.name} --target web2\n" in ran.out
    assert run.states == {"load": "ok", "long": "ok", "on": "ok", "short": "ok"}
    assert run.output("short") == "short\n"

    header, body = run.output("long").split("----\n")
    assert header.splitlines()[0] == f"path: events.jsonl (opsbook logs {run.folder.name} --cell 2)"
    assert [line.partition(":")[0] for line in header.splitlines()[1:4]] == ["start time", "end time", "output size"]
    assert header.splitlines()[4] == "1 chunks with matched keywords or errors"
    rows = [line.rstrip() for line in body.splitlines()]
    assert rows[:20] == [f"row {number}" for number in range(20)]
    assert rows[20:23] == ["...", "row 150 ERROR: no lock", "..."]
    assert rows[23:] == [f"row {number}" for number in range(280, 300)]
    assert run.notebook["cells"][1]["source"] in (LONG, LONG.splitlines(keepends=True))

    whole = desk.opsbook("logs", "last", "--cell", "long").out
    assert [line.split()[1] for line in whole.splitlines()] == [str(number) for number in range(300)]
    for target in ("web1", "web2"):
        one = desk.opsbook("logs", "last", "--target", target)
        assert sorted(one.out.splitlines()) == sorted([*map(str, range(1, 101)), "no lock"])
        assert one.err == ""
    both = desk.opsbook("logs", "last", "--cell", "3", "--target", "web*", "--grep", "^(99|no lock)$").out
    assert sorted(both.splitlines()) == ["web1 | 99", "web1 | no lock", "web2 | 99", "web2 | no lock"]


MEANINGLESS = (
    (("--grep", "(a"), "  (a\n  ^\nerror: --grep: missing ), unterminated subpattern, at character 1\n"),
    (("--json", "-f"), "error: --json goes with neither -f nor --raw\n"),
    (("--cell", "9"), "has no cell '9'\nhint:  1 to 1, or by id: say"),
)


def test_a_command_line_that_means_nothing_is_refused(loner):
    loner.notebook(code("print('a')", cell_id="say"))
    assert loner.opsbook("run", "book.ipynb", "--quiet").code == 0
    for args, words in MEANINGLESS:
        ran = loner.opsbook("logs", "last", *args)
        assert (ran.code, ran.out) == (2, ""), args
        assert words in ran.err
