"""Nothing leaves for a target that is not on disk: intents, the journal's chain, a runner that dies, a full disk."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import Sshd
from support import LOAD, Desk, Run, code, finish, parameters, wait_for

from opsbook.archive.journal import FIRST, read_journal

NAMES = {f"web{number}": f"127.0.2.{number}" for number in range(1, 9)}
INTENT = r"""grep -c '"type":"intent".*"target":"'"$OPSBOOK_TARGET"'"' "$archive"/*/*/*/*/events.jsonl"""
"""Run on a target (which is this machine): how many intents for it the run's journal holds at this moment."""


@pytest.fixture
def desk(tmp_path: Path, sshd: Sshd) -> Desk:
    sshd.inventory(NAMES, tmp_path / "hosts.ini")
    made = Desk(tmp_path)
    made.write("opsbook.toml", 'inventory = ["hosts.ini"]\n')
    (tmp_path / "marks").mkdir()
    return made


def marks(desk: Desk) -> list[str]:
    return sorted(path.name for path in (desk.folder / "marks").iterdir())


def mark(desk: Desk) -> str:
    """A line of a script that leaves a mark of its target."""
    return f'echo x >> {shlex.quote(str(desk.folder))}/marks/"$OPSBOOK_TARGET"'


def check_chain(run: Run) -> None:
    """Every line is numbered and carries the hash of the one before; opsbook's own reader takes all of them."""
    lines = (run.folder / "events.jsonl").read_bytes().splitlines()
    previous = FIRST
    for number, line in enumerate(lines, start=1):
        entry = json.loads(line)
        assert (entry["seq"], entry["prev"]) == (number, previous)
        previous = hashlib.sha256(line).hexdigest()
    assert len(list(read_journal(run.folder / "events.jsonl"))) == len(lines)


def check_intents(run: Run) -> None:
    """A change that was sent was announced, once and before; what was skipped or only asked never was."""
    announced: dict[tuple[int, str], str] = {}
    for event in run.events("intent", "target_ended"):
        key = (event["call"], event["target"])
        if event["type"] == "intent":
            assert key not in announced
            announced[key] = event["digest"]
        elif event["read_only"] or event["state"] in {"skipped", "unreachable"}:
            assert key not in announced
        else:
            assert announced[key] == event["digest"]


def test_an_intent_is_on_disk_before_its_command_and_the_journal_is_a_chain(desk, sshd):
    names = {**dict(list(NAMES.items())[:4]), "gone": "127.0.2.9 ansible_port=1"}
    sshd.inventory(names, desk.folder / "hosts.ini")
    desk.notebook(
        LOAD,
        parameters("archive: str"),
        code(f"%%on web --max-fail 1\n{INTENT}", cell_id="first"),
        code(f"%%on web --max-fail 1 --waves 1,2,100%\n{INTENT}", cell_id="waves"),
        code(f"%%on web --read-only --max-fail 1\n{INTENT}", cell_id="asks"),
        code("%%on web --max-fail 1\n[ $OPSBOOK_TARGET != web2 ]", cell_id="fails"),
        code("targets('web1').reboot(command='true', timeout='1s', check=False)", cell_id="reboots"),
    )
    ran = desk.opsbook("run", "book.ipynb", "-p", f"archive={desk.folder}/archive")
    assert ran.code == 1, ran
    run = desk.run()
    check_chain(run)
    check_intents(run)
    said = {(event["cell_id"], event["target"]): event for event in run.events("target_ended")}
    for name in list(names)[:4]:
        assert said["first", name]["stdout"] == "1\n"
        assert said["waves", name]["stdout"] == "2\n"
        assert said["asks", name]["stdout"] == "2\n"
    assert said["first", "gone"]["state"] == "unreachable"
    assert said["waves", "gone"]["state"] == "skipped"
    intents = [(event["cell_id"], event["target"]) for event in run.events("intent")]
    assert [name for cell, name in intents if cell == "waves"] == [
        "web1",
        *sorted(["web2", "web3"], key=intents_order(intents)),
        "web4",
    ]
    (reboot,) = [event for event in run.events("intent") if event["kind"] == "reboot"]
    assert reboot["boot_id"] == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert said["reboots", "web1"]["state"] == "timed_out"
    kinds = [entry["event"]["type"] for entry in run.journal]
    assert (kinds[0], kinds[-1]) == ("run_started", "run_ended")
    assert kinds.count("cell_started") == kinds.count("cell_ended") == 7
    check_brackets(run)


def intents_order(intents: list[tuple[str, str]]):
    """Two targets of one wave may come in either order."""
    names = [name for cell, name in intents if cell == "waves"]
    return names.index


def check_brackets(run: Run) -> None:
    """What a cell reported stands between its start and its end."""
    current = None
    for event in (entry["event"] for entry in run.journal):
        if event["type"] == "cell_started":
            assert current is None
            current = event["cell_id"]
        elif event["type"] == "cell_ended":
            assert current == event["cell_id"]
            current = None
        elif event.get("cell_id"):
            assert event["cell_id"] == current


def test_when_the_runner_is_killed_nothing_more_is_sent(desk):
    desk.notebook(
        LOAD,
        code(f"%%on web --parallel 1\n{mark(desk)}\nsleep 0.5", cell_id="on"),
        code(f"%%on web --parallel 1\n{mark(desk)}-again", cell_id="again"),
    )
    process = desk.fork("run", "book.ipynb")
    wait_for(lambda: len(marks(desk)) >= 2, seconds=60)
    process.kill()
    seen = len(marks(desk))
    finish(process)
    time.sleep(2.5)  # five commands long: there is nothing to wait for
    assert len(marks(desk)) <= seen + 1
    assert len(marks(desk)) < len(NAMES)
    run = desk.run()
    check_chain(run)
    assert len(run.events("intent")) >= len(marks(desk))
    (shown,) = desk.opsbook("runs", "--json").json
    assert shown["status"] == "interrupted"


def test_a_notebook_that_catches_everything_sends_nothing_more_either(desk):
    desk.notebook(
        LOAD,
        code(
            f"""
            import threading, time
            web = targets("web")
            def go():
                for _ in range(40):
                    try:
                        web.run({mark(desk)!r} + "\\nsleep 0.3", parallel=1, max_fail="100%")
                    except BaseException:
                        time.sleep(0.1)
            workers = [threading.Thread(target=go) for _ in range(2)]
            [worker.start() for worker in workers]
            [worker.join() for worker in workers]
            """,
            cell_id="on",
        ),
    )
    process = desk.fork("run", "book.ipynb")
    wait_for(lambda: len(marks(desk)) >= 2, seconds=60)
    process.kill()
    finish(process)
    time.sleep(0.6)  # what had its intent on disk may still run
    before = sum(len(path.read_bytes()) for path in (desk.folder / "marks").iterdir())
    time.sleep(2)
    assert sum(len(path.read_bytes()) for path in (desk.folder / "marks").iterdir()) == before


def test_a_journal_that_cannot_grow_lets_no_command_leave(desk):
    """A file size limit stands in for a full disk: the journal is full when the change is about to leave."""
    desk.notebook(
        LOAD,
        code("for n in range(40): print(str(n) * 4000, flush=True)", cell_id="fills"),
        code(f"%%on web\n{mark(desk)}", cell_id="on"),
        code(f"targets().run({mark(desk)!r}, check=False)", "always", cell_id="always"),
    )
    line = f"ulimit -f 100; exec {shlex.join([sys.executable, '-m', 'opsbook', 'run', 'book.ipynb'])}"
    done = subprocess.run(
        ["bash", "-c", line],
        cwd=desk.folder,
        env=desk.environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert marks(desk) == []
    assert done.returncode == 5, done
    assert "Traceback" not in done.stderr
    run = desk.run()
    assert run.record["status"] == "failed"
    assert run.record["exit_code"] == 5
    assert run.states["on"] == "not_run"


@pytest.fixture
def small_disk(desk):
    """An archive on a file system with room for next to nothing."""
    place = desk.folder / "archive"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=128k,mode=700", "none", str(place)], check=False, capture_output=True
    )
    if mounted.returncode != 0:
        pytest.skip("mounting a small file system takes root and a kernel that lets it")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_full_disk_in_the_middle_of_a_run_lets_no_command_leave(desk, small_disk):
    desk.notebook(
        LOAD,
        code(f"%%on web1\n{mark(desk)}", cell_id="fits"),
        code(
            """
            import os
            with open("archive/ballast", "wb") as file:
                try:
                    while True:
                        os.write(file.fileno(), bytes(512))
                except OSError as error:
                    print(error.errno)
            print("x" * 5000)  # what room the journal's last page has left
            """,
            cell_id="fills",
        ),
        code(f"%%on web2\n{mark(desk)}", cell_id="on"),
        code(f"%%on web3\n{mark(desk)}", "always", cell_id="always"),
    )
    ran = desk.opsbook("run", "book.ipynb")
    assert marks(desk) == ["web1"], ran
    assert ran.code == 5, ran
    assert "Traceback" not in ran.err
    (shown,) = desk.opsbook("runs", "--json").json
    assert shown["status"] in {"failed", "interrupted"}
    assert {cell["id"]: cell["state"] for cell in shown["cells"]}["on"] != "ok"


def test_a_full_disk_at_the_start_runs_nothing(desk, small_disk):
    desk.notebook(LOAD, code(f"%%on web1\n{mark(desk)}", cell_id="on"))
    with (small_disk / "ballast").open("wb") as file, pytest.raises(OSError, match="No space"):
        while True:
            os.write(file.fileno(), bytes(512))
    ran = desk.opsbook("run", "book.ipynb")
    assert (ran.code, marks(desk)) == (5, []), ran
    assert desk.kernels() == []
    assert ran.err.startswith("error: ")
    assert len(ran.err.splitlines()) <= 3
    assert [one["status"] for one in desk.opsbook("runs", "--json").json] in ([], ["interrupted"])


def test_a_kernel_whose_runner_does_not_answer_never_works_without_one(tmp_path):
    (tmp_path / "hosts.ini").write_text("web1 ansible_host=127.0.0.2\n")
    (tmp_path / "opsbook.toml").write_text('inventory = "hosts.ini"\n')
    asks = (
        "import opsbook\nfrom opsbook.errors import ChannelError\n"
        "for attempt in range(3):\n    try:\n        print(opsbook.targets())\n"
        "    except ChannelError as error:\n        print('refused')\n"
    )
    ours, theirs = socket.socketpair()
    ours.close()
    with theirs:
        ran = subprocess.run(
            [sys.executable, "-c", asks],
            cwd=tmp_path,
            env={**os.environ, "OPSBOOK_CHANNEL": str(theirs.fileno())},
            pass_fds=[theirs.fileno()],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert (ran.stdout, ran.stderr) == ("refused\n" * 3, "")
