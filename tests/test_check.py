"""Dry runs (SEMANTICS 24): what is not marked read-only is sent nowhere, and nothing takes the run for a success."""

from __future__ import annotations

import subprocess
import sys

from support import LOAD, code, parameters, prose

NAMES = {f"web{number}": f"127.0.6.{number}" for number in range(1, 5)}


BOOK = (
    prose("# Patch"),
    LOAD,
    parameters('marks: str\nstack: str = "web"'),
    prose("## Look"),
    code('%%on {stack} --read-only\ntouch "$marks/looked-$OPSBOOK_TARGET"', cell_id="looks"),
    prose("## Change"),
    code('%%on {stack} --waves 1,100% --sudo\n# first\ntouch "$marks/changed"\ntrue', "confirm", cell_id="changes"),
    prose("## Reboot"),
    code(
        """
        web = targets("web")
        for wave in web.waves("50%"):
            wave.reboot(timeout="1s")
            wave.wait_until(f"touch {marks}/waited; false", every="9s", timeout="10s")
        """,
        cell_id="reboots",
    ),
    prose("## Think"),
    code(
        """
        import opsbook
        from pathlib import Path
        Path(marks, "python").touch()
        calls = []
        assert wait_until(lambda: calls.append(1), every="60s", timeout="90s") is None and len(calls) == 1
        print("checking", opsbook.checking, web.run("true").ok.names, web.run("echo $USER", read_only=True).ok.names)
        """,
        cell_id="thinks",
    ),
)


def test_a_dry_run_sends_what_only_reads_and_shows_the_rest(desk, tmp_path):
    (tmp_path / "marks").mkdir()
    desk.notebook(*BOOK)
    ran = desk.opsbook("run", "book.ipynb", "-p", f"marks={tmp_path}/marks", "--check")
    assert ran.code == 0, ran
    made = {path.name for path in (tmp_path / "marks").iterdir()}
    assert made == {"python", *(f"looked-{name}" for name in NAMES)}
    run = desk.run()
    record = run.record
    assert (record["checking"], record["status"]) == (True, "succeeded")
    assert record["notes"] == ["a dry run (--check): only read-only commands were sent; local Python ran"]
    assert run.events("intent") == []
    assert set(run.targets.values()) == {"skipped"}
    sent = {(event["read_only"], event["state"], event["reason"]) for event in run.events("target_ended")}
    assert sent == {(True, "ok", ""), (False, "skipped", "dry run"), (True, "skipped", "dry run")}
    assert [event["by"] for event in run.events("gate_answered")] == ["--check"]
    changes = run.output("changes")
    assert 'dry run: would run on 1 target, wave 1 of 2: web1\n    touch "$marks/changed"' in changes
    assert 'dry run: would run on 3 targets, wave 2 of 2: web2-web4\n    touch "$marks/changed"' in changes
    assert "4 skipped" in changes
    assert "skipped  web1-web4" in changes
    assert "dry run: would reboot 2 targets, wave 1 of 2: web1, web2\n    reboot" in run.output("reboots")
    assert "dry run: would wait on 2 targets, wave 2 of 2: web3, web4" in run.output("reboots")
    assert run.output("thinks").endswith(f"checking True () {tuple(NAMES)}\n")
    assert run.notebook["metadata"]["opsbook"]["checking"] is True
    said = ran.err.splitlines()
    assert said[0] == "dry run (--check): only read-only commands are sent; local Python runs"
    assert ran.out.startswith("✓ book succeeded (dry run) in ")
    assert "note       a dry run (--check): only read-only commands were sent; local Python ran" in ran.out


def test_nothing_takes_a_dry_run_for_a_run(desk):
    desk.notebook(LOAD, code("%%on web\ntrue"))
    desk.notebook(LOAD, code("1/0"), name="bad.ipynb")
    assert desk.opsbook("run", "book.ipynb", "--check").code == 0
    dry = desk.run().folder.name
    assert "succeeded (dry run)" in desk.opsbook("runs").out
    assert "succeeded (dry run)" in desk.opsbook("show", "last").out
    assert dry not in desk.opsbook("show", "book.ipynb").out
    ran = desk.opsbook("run", "bad.ipynb", "--check")
    assert ran.code == 1
    assert "bad failed (dry run) after" in ran.out
    assert desk.opsbook("show", "last-failed").code == 2
    quiet = desk.opsbook("run", "book.ipynb", "--check", "--quiet")
    assert (quiet.out, quiet.err) == ("", "")


def test_a_failure_of_what_only_reads_fails_a_dry_run_as_it_would_fail_the_run(desk, tmp_path):
    desk.notebook(
        LOAD,
        code("%%on web --read-only\n[ $OPSBOOK_TARGET != web2 ]", cell_id="looks"),
        code(f"%%on web\ntouch {tmp_path}/changed", cell_id="changes"),
    )
    ran = desk.opsbook("run", "book.ipynb", "--check", "--json")
    assert (ran.code, ran.json["status"], ran.json["checking"]) == (1, "failed", True)
    assert desk.run().states == {"load": "ok", "looks": "failed", "changes": "not_run"}
    assert not (tmp_path / "changed").exists()


def test_one_command_can_be_tried_dry(desk, tmp_path):
    ran = desk.opsbook("exec", "web", "--check", f"touch {tmp_path}/changed")
    assert ran.code == 0
    assert ran.out == "4 skipped   web1-web4   dry run\n"
    assert "✓ exec succeeded (dry run) in" in ran.err
    assert not (tmp_path / "changed").exists()
    read = desk.opsbook("exec", "web", "--check", "--read-only", "echo there")
    assert read.out == "4 ok   web1-web4\n    there\n"


def test_an_intent_is_refused_in_a_dry_run_whoever_asks(desk, tmp_path):
    """The kernel's side is bypassed: its session is told that this is no dry run."""
    bypass = """
        from msgspec.structs import replace
        from opsbook.fleet.session import current
        current().options = replace(current().options, checking=False)
        targets().run("touch {0}/changed", check=False)
    """
    desk.notebook(LOAD, code(bypass.format(tmp_path), cell_id="forces"))
    ran = desk.opsbook("run", "book.ipynb", "--check", "--json")
    assert ran.code == 1
    assert "this is a dry run" in desk.run().output("forces")
    assert desk.run().events("intent") == []
    assert not (tmp_path / "changed").exists()


def test_outside_of_a_dry_run_nothing_is_checking(desk):
    looks = "import opsbook, sys\nprint(opsbook.checking, 'opsbook.config' in sys.modules)"
    assert subprocess.run(
        [sys.executable, "-c", looks], capture_output=True, text=True, check=True, cwd=desk.folder
    ).stdout.startswith("False")
    desk.notebook(code("import opsbook\nprint(opsbook.checking)", cell_id="first"), LOAD, code("%%on web1\ntrue"))
    assert desk.opsbook("run", "book.ipynb").code == 0
    assert desk.run().output("first") == "False\n"
