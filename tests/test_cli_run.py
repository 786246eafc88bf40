"""The main job as a user does it: the real command line, a real kernel, a real sshd. Every witness tells one story."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

import pytest
from one_story import check_agreement
from support import LOAD, Desk, Ran, code, finish, parameters, prose

NAMES = {f"web{number}": f"127.0.1.{number}" for number in range(1, 4)}

GOOD = (
    prose("# Say hello\n\n**Purpose.** Show that everything arrives."),
    LOAD,
    parameters(
        """
        from datetime import date
        stack: Literal["web", "db"]  # Whom to greet
        number: str = "1"
        day: date = "2026-01-01"
        names: list[str] = []
        count: int = 2
        """
    ),
    prose("## Look at the types"),
    code("print(type(day).__name__, day.year, repr(number), names, count + 1, stack)", cell_id="types"),
    prose("## Greet"),
    code('%%on {stack}\necho "$stack/$number/$day/$names/$count at $OPSBOOK_TARGET"', cell_id="greet"),
    code("record('greeted', len(targets(stack).run('true', read_only=True).ok))", cell_id="metric"),
)
GIVEN = ("-p", "stack=web", "-p", "number=007", "-p", "day=2026-11-20", "-p", 'names=["a b", "c"]')


def test_a_good_run_tells_one_story_everywhere(desk):
    desk.notebook(*GOOD)
    ran = desk.opsbook("run", "book.ipynb", *GIVEN, "--reason", "because of Ünïcode", umask=0)
    run = desk.run()
    assert ran.code == 0, ran
    check_agreement(desk, run, ran)
    record = run.record
    assert record["status"] == "succeeded"
    assert record["reason"] == ""
    assert record["operator_reason"] == "because of Ünïcode"
    assert record["parameters"] == {
        "stack": "web",
        "number": "007",
        "day": "2026-11-20",
        "names": ["a b", "c"],
        "count": 2,
    }
    assert run.states == dict.fromkeys(("load", "parameters", "types", "greet", "metric"), "ok")
    assert run.targets == dict.fromkeys(NAMES, "ok")
    assert record["targets"]["selected"] == list(NAMES)
    assert record["metrics"] == {"greeted": 3}
    assert record["runbook"]["sha256"] == hashlib.sha256((desk.folder / "book.ipynb").read_bytes()).hexdigest()
    assert run.output("types") == "date 2026 '007' ['a b', 'c'] 3 web\n"
    assert "web/007/2026-11-20/a b c/2 at web1" in run.output("greet")
    assert (run.folder / "hosts/web2.log").read_text() == "web/007/2026-11-20/a b c/2 at web2\n"
    assert run.notebook["metadata"]["papermill"]["parameters"]["number"] == "007"
    injected = [cell for cell in run.notebook["cells"] if "injected-parameters" in cell["metadata"].get("tags", [])]
    assert [cell["id"] for cell in injected] == ["injected-parameters"]
    for words in ("✓ book succeeded", "3 of 3 targets", "Look at the types", "Greet", "greeted=3", str(run.copy.name)):
        assert words in ran.out
    assert "cell 4/5" in ran.err
    assert "target web3 ok" in ran.err
    check_private(desk)
    shown = desk.opsbook("show", "last").out
    assert all(words in shown for words in (run.folder.name, "because of Ünïcode", "number=007", "web3"))
    assert run.folder.name in desk.opsbook("runs").out


def check_private(desk: Desk) -> None:
    """Nobody else reads the archive, whatever the umask was."""
    modes = {
        path: path.lstat().st_mode & 0o777 for path in (desk.folder / "archive", *(desk.folder / "archive").rglob("*"))
    }
    assert {path: mode for path, mode in modes.items() if mode != (0o700 if path.is_dir() else 0o600)} == {}


def test_json_is_one_document_and_quiet_is_silent_when_it_succeeds(desk):
    desk.notebook(*GOOD)
    ran = desk.opsbook("run", "book.ipynb", *GIVEN, "--json")
    assert ran.code == 0
    assert ran.out.count("\n") == 1
    assert {**ran.json, "copy": ""} == {**desk.run().record, "copy": ""}
    assert Path(ran.json["copy"]) == desk.run().copy
    assert desk.opsbook("run", "book.ipynb", *GIVEN, "--quiet") == Ran(code=0, out="", err="")
    assert [one["run_id"] for one in desk.opsbook("runs", "--json").json] == [
        run.folder.name for run in sorted(desk.runs(), key=lambda run: run.record["started_at"], reverse=True)
    ]


def test_one_target_that_refuses_connections(desk, sshd):
    sshd.inventory({**NAMES, "web3": "127.0.1.3 ansible_port=1"}, desk.folder / "hosts.ini")
    desk.notebook(
        LOAD,
        parameters("limit: int\nbad: str = 'nobody'"),
        code('%%on web --max-fail {limit}\n[ "$OPSBOOK_TARGET" != "$bad" ]', cell_id="on"),
        code("print('later')", cell_id="later"),
    )
    within = desk.opsbook("run", "book.ipynb", "-p", "limit=1")
    run = desk.run()
    check_agreement(desk, run, within)
    assert within.code == 4, within
    assert run.record["status"] == "failed"
    assert run.targets == {"web1": "ok", "web2": "ok", "web3": "unreachable"}
    assert (run.states["on"], run.states["later"]) == ("ok", "ok")
    assert "within the limit" in run.record["reason"]
    assert "unreachable" in within.out
    assert "web3" in within.out

    beyond = desk.opsbook("run", "book.ipynb", "-p", "limit=0", "--json")
    run = desk.run_of(beyond)
    check_agreement(desk, run, beyond)
    assert beyond.code == 4, beyond
    assert run.targets.pop("web3") == "unreachable"
    assert set(run.targets.values()) <= {"ok", "skipped", "unreachable"}  # who was under way when it failed finished
    assert (run.states["on"], run.states["later"]) == ("failed", "not_run")
    assert "1 of 3 targets failed" in run.record["reason"]

    both = desk.opsbook("run", "book.ipynb", "-p", "limit=2", "-p", "bad=web2", "--json")
    run = desk.run_of(both)
    check_agreement(desk, run, both)
    assert both.code == 1, both
    assert run.targets == {"web1": "ok", "web2": "failed", "web3": "unreachable"}
    assert run.record["targets"]["results"]["web2"]["exit_code"] == 1


def test_a_cell_that_raises_stops_the_rest_but_not_what_always_runs(desk):
    frozen = {"deletable": False, "run_through_control": {"frozen": True}}
    kept = [{"output_type": "stream", "name": "stdout", "text": "from an earlier day\n"}]
    desk.notebook(
        LOAD,
        code("open('touched', 'w').close()", "skip", cell_id="skipped"),
        {**code("open('touched', 'w').close()", cell_id="frozen", **frozen), "outputs": kept},
        code("1 / 0", "raises-exception", cell_id="expected"),
        code("   \n", cell_id="blank"),
        prose("## The heart of it"),
        code("print('so far')\nraise ValueError('pipe 7 is broken\\nbeyond repair')", cell_id="boom"),
        code("open('touched', 'w').close()", cell_id="later"),
        code("print('tidy')", "always", cell_id="tidy"),
        code("open('touched', 'w').close()", cell_id="last"),
    )
    ran = desk.opsbook("run", "book.ipynb", "--quiet")
    run = desk.run()
    assert ran.code == 1, ran
    check_agreement(desk, run, ran)
    assert run.states == {
        "load": "ok",
        "skipped": "skipped",
        "frozen": "skipped",
        "expected": "ok",
        "boom": "failed",
        "later": "not_run",
        "tidy": "ok",
        "last": "not_run",
    }
    assert not (desk.folder / "touched").exists()
    assert run.output("frozen") == "from an earlier day\n"
    assert run.output("tidy") == "tidy\n"
    assert run.output("boom").startswith("so far\n")
    assert "ZeroDivisionError" in run.output("expected")
    (boom,) = [cell for cell in run.record["cells"] if cell["id"] == "boom"]
    assert boom["error"]["name"] == "ValueError"
    assert run.record["reason"] == 'cell "The heart of it" raised ValueError: pipe 7 is broken'
    assert ran.err == ""
    for words in ("✗ book failed", "The heart of it", "pipe 7 is broken", "beyond repair", "not run"):
        assert words in ran.out


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("import sys; sys.exit(3)", "SystemExit"),
        ("input('who? ')", "StdinNotImplementedError"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("def f(:", "SyntaxError"),
    ],
    ids=["exit", "input", "interrupt", "syntax"],
)
def test_a_cell_that_ends_in_an_odd_way_has_failed(desk, source, name):
    desk.notebook(code(source, cell_id="odd"), code("open('touched', 'w').close()", cell_id="later"))
    ran = desk.opsbook("run", "book.ipynb")
    run = desk.run()
    assert ran.code == 1, ran
    check_agreement(desk, run, ran)
    assert run.states == {"odd": "failed", "later": "not_run"}
    assert run.record["cells"][0]["error"]["name"] == name
    assert not (desk.folder / "touched").exists()


@pytest.mark.parametrize(
    "source", ["import os; os.kill(os.getpid(), 9)", "import os; os._exit(0)"], ids=["killed", "left"]
)
def test_a_kernel_that_dies_leaves_the_outcome_unknown(desk, source):
    desk.notebook(
        code("print('before')", cell_id="before"),
        code(f"print('said', flush=True); import time; time.sleep(0.2); {source}", cell_id="dies"),
        code("open('touched', 'w').close()", cell_id="later"),
        code("open('touched', 'w').close()", "always", cell_id="tidy"),
    )
    begun = time.monotonic()
    ran = desk.opsbook("run", "book.ipynb")
    run = desk.run()
    assert ran.code == 6, ran
    assert time.monotonic() - begun < 15
    check_agreement(desk, run, ran)
    assert run.record["status"] == "lost"
    assert run.states == {"before": "ok", "dies": "lost", "later": "not_run", "tidy": "not_run"}
    assert run.output("dies") == "said\n"
    assert "kernel" in run.record["reason"]
    assert not (desk.folder / "touched").exists()


def test_a_kernel_that_dies_in_a_fan_out_leaves_its_targets_lost(desk, asleep):
    desk.notebook(
        LOAD,
        code(
            f"""
            import os, pathlib, threading, time
            def die():
                while len(list(pathlib.Path("marks").iterdir())) < 2:
                    time.sleep(0.05)
                os.kill(os.getpid(), 9)
            threading.Thread(target=die).start()
            targets("web").run("touch {desk.folder}/marks/$OPSBOOK_TARGET; sleep {asleep}", parallel=2)
            """,
            cell_id="on",
        ),
    )
    (desk.folder / "marks").mkdir()
    ran = desk.opsbook("run", "book.ipynb")
    run = desk.run()
    assert (ran.code, run.record["status"]) == (6, "lost"), ran
    check_agreement(desk, run, ran)
    assert run.targets == {"web1": "lost", "web2": "lost", "web3": "not_run"}


@pytest.mark.parametrize("source", ["exit()", "get_ipython().ask_exit()"])
def test_a_kernel_that_is_told_to_leave_never_makes_a_success(desk, source):
    desk.notebook(code(source, cell_id="leaves"), code("open('touched', 'w').close()", cell_id="later"))
    ran = desk.opsbook("run", "book.ipynb")
    run = desk.run()
    check_agreement(desk, run, ran)
    assert (ran.code == 0) == (desk.folder / "touched").exists(), ran
    assert ran.code in {0, 1, 6}
    assert (run.states["later"] == "ok") == (desk.folder / "touched").exists()


def test_what_a_pattern_names(desk):
    desk.notebook(
        LOAD,
        code("%%on web1\ntouch one", cell_id="one"),
        code("print(len(targets()), targets('web1'))", cell_id="call"),
        code("%%on web2\ntrue", cell_id="two"),
    )
    ran = desk.opsbook("run", "book.ipynb", "-t", "web2")
    run = desk.run()
    assert ran.code == 0, ran
    check_agreement(desk, run, ran)
    assert "skipped" in run.output("one")
    assert run.output("call") == "1 no targets\n"
    assert run.targets == {"web2": "ok"}
    assert run.record["targets"]["pattern"] == "web2"
    assert run.record["targets"]["selected"] == ["web2"]

    desk.notebook(LOAD, code("%%on wbe\ntrue", cell_id="on"), code("1", cell_id="later"), name="other.ipynb")
    ran = desk.opsbook("run", "other.ipynb")
    (other,) = [one for one in desk.runs() if "-other-" in one.folder.name]
    assert ran.code == 1, ran
    check_agreement(desk, other, ran)
    assert other.states == {"load": "ok", "on": "failed", "later": "not_run"}
    assert other.record["cells"][1]["error"]["name"] == "InventoryError"
    assert "'wbe' names nothing" in other.record["reason"]
    assert other.targets == {}


def test_a_target_whose_change_failed_is_left_alone_in_later_cells(desk):
    desk.notebook(
        LOAD,
        code(
            '%%on web --max-fail 1\n[ "$OPSBOOK_TARGET" != web2 ] || { echo "no lock" >&2; exit 7; }',
            cell_id="first",
        ),
        code(f'%%on web\necho x >> "{desk.folder}/second-$OPSBOOK_TARGET"', cell_id="second"),
        code(f'%%on web --read-only\necho x >> "{desk.folder}/look-$OPSBOOK_TARGET"', cell_id="look"),
    )
    ran = desk.opsbook("run", "book.ipynb")
    run = desk.run()
    assert ran.code == 1, ran
    check_agreement(desk, run, ran)
    assert set(run.states.values()) == {"ok"}
    assert sorted(path.name for path in desk.folder.glob("second-*")) == ["second-web1", "second-web3"]
    assert len(list(desk.folder.glob("look-*"))) == 3
    assert run.targets == {"web1": "ok", "web2": "failed", "web3": "ok"}
    result = run.record["targets"]["results"]["web2"]
    assert (result["exit_code"], result["reason"], result["cell_id"]) == (7, "no lock", "first")
    assert "skipped web2: an earlier change did not end well here" in ran.err
    assert all(words in ran.out for words in ("no lock", "exit 7", "web2"))


def test_two_runs_at_once_do_not_meet(desk):
    desk.notebook(*GOOD)
    both = [desk.fork("run", "book.ipynb", *GIVEN, "--wait-lock", "1m", "--json") for _ in range(2)]
    ended = [finish(process) for process in both]
    assert [ran.code for ran in ended] == [0, 0], ended
    assert len({ran.json["run_id"] for ran in ended}) == 2
    assert len(desk.runs()) == 2
    assert all(set(run.states.values()) == {"ok"} for run in desk.runs())
