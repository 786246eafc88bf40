"""A resumed run takes turns by the same named lock as the run it goes on with."""

from __future__ import annotations

from support import LOAD, Desk, code, wait_for

NAMES = {"web1": "127.0.0.70"}


def stopped(desk: Desk) -> None:
    """A run under a lock that has stopped, and would wait in the middle when it is gone on with."""
    marks = desk.folder
    work = f"""
    import pathlib, time
    assert pathlib.Path({str(marks / "fixed")!r}).exists(), "broken"
    pathlib.Path({str(marks / "here")!r}).touch()
    while not pathlib.Path({str(marks / "go")!r}).exists():
        time.sleep(0.05)
    """
    desk.notebook(LOAD, code(work, cell_id="work"))
    desk.notebook(code("print('mine')", cell_id="mine"), name="other.ipynb")
    assert desk.opsbook("run", "book.ipynb", "--lock", "nightly").code == 1
    (marks / "fixed").touch()


def test_a_resumed_run_holds_the_lock_the_run_before_had(desk: Desk) -> None:
    stopped(desk)
    resumed = desk.fork("resume", "last", "--yes")
    try:
        wait_for((desk.folder / "here").exists, seconds=60)
        other = desk.opsbook("run", "other.ipynb", "--lock", "nightly")
        assert (other.code, "lock 'nightly' is held by run" in other.err) == (75, True)
    finally:
        (desk.folder / "go").touch()
        out, err = resumed.communicate(timeout=60)
    assert resumed.returncode == 0, (out, err)
    assert desk.opsbook("run", "other.ipynb", "--lock", "nightly").code == 0


def test_a_run_that_could_not_be_gone_on_with_for_its_lock_can_be_resumed_later(desk: Desk) -> None:
    stopped(desk)
    (first,) = desk.runs()
    waits = f"import pathlib, time\nwhile not pathlib.Path({str(desk.folder / 'go')!r}).exists():\n    time.sleep(0.05)"
    desk.notebook(code(f"open('begun', 'w').close()\n{waits}", cell_id="mine"), name="other.ipynb")
    other = desk.fork("run", "other.ipynb", "--lock", "nightly")
    try:
        wait_for((desk.folder / "begun").exists, seconds=60)
        assert desk.opsbook("resume", first.folder.name, "--yes").code == 75
    finally:
        (desk.folder / "go").touch()
        other.communicate(timeout=60)
    # the run that was left out goes on with it by now, and has changed nothing
    assert desk.opsbook("resume", "last", "--yes").code == 0
    assert (desk.folder / "here").exists()
