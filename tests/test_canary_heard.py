"""Who hands the canary to a program is heard, however short that lives, and who follows a run is told it masked."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import pytest
from canary import HANDED_ON, VALUE, VARIABLE, lies_in
from overhearing import Processes, ears, heard_by, news
from recording import Seen, full_disk, metric, output, record_in
from support import LOAD, Desk, code, finish, notebook_text, parameters

from opsbook.archive.layout import RunFolder
from opsbook.redaction import Redactor

pytest_plugins = ["recorder_desk"]

NAMES = {"web1": "127.0.0.2"}
OTHER = f"yet-another-canary<{os.getpid()}>"
"""What the suite's own listeners do not listen for."""
PLAIN_KERNEL = "from jupyter_client.manager import start_new_kernel\nstart_new_kernel()[0].shutdown_kernel(now=True)"
PLAIN_SHELL = """
from IPython.core.interactiveshell import InteractiveShell
InteractiveShell.instance().run_line_magic("load_ext", "opsbook")
"""
CELL = "exec(compile({source!r}, '<ipython-input-1>', 'exec'))"
OPSBOOK = "import opsbook.fleet.extension\n"
RESOLVE = "from opsbook.secrets.resolve import resolve\nresolve('cmd:echo long-enough')"
HELD = "os.environ['HELD'] = held\n"


def heard_of(folder: Path, source: str) -> list[str]:
    """Run a program in a folder, and return what is heard of it by those who listen for the other one alone."""
    listener = ears(folder / "ears", (OTHER.encode(),))
    program = f"import os, subprocess\nheld = {OTHER!r}\n{source}"
    line = ["env", f"PYTHONPATH={folder / 'ears'}", f"HOME={folder}", sys.executable, "-"]
    done = subprocess.run(line, input=program, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    text = Path(listener.file).read_text()
    assert OTHER not in text
    leaks = (leak.partition(" by ")[0].removesuffix(", started") for leak in text.splitlines())
    return list(dict.fromkeys(leaks))  # a program is looked for, and so started, in one folder after the other


@pytest.mark.parametrize(
    "source",
    [
        "subprocess.run(['true', held])",
        "subprocess.run(f'true {held!r}', shell=True)",
        "subprocess.run(['true', 'x' + held.encode().decode() + 'x'], env={})",
        "os.waitpid(os.posix_spawnp('true', ['true', held], os.environ), 0)",
        "if os.fork():\n    os.wait()\nelse:\n    os.execvp('true', ['true', held])",
        "os.spawnvp(os.P_WAIT, 'true', ['true', held])",
        "os.system(f'true {held!r}')",
    ],
)
def test_a_program_that_is_over_at_once_is_heard_of_with_it_in_its_argument_list(tmp_path: Path, source: str) -> None:
    heard = heard_of(tmp_path, source)
    assert heard
    assert all(leak.startswith("the canary is in the argument list of ") for leak in heard)


@pytest.mark.parametrize(
    "source",
    [
        "subprocess.run(['true'], env={'HELD': held})",
        "subprocess.run(['true'], env={b'HELD': held.encode()})",
        f"{HELD}subprocess.run(['true'])",
        f"{HELD}if os.fork():\n    os.wait()\nelse:\n    os.execvp('true', ['true'])",
        f"{HELD}os.posix_spawnp('true', ['true'], os.environ)",
    ],
)
def test_a_program_that_is_over_at_once_is_heard_of_with_it_in_its_environment(tmp_path: Path, source: str) -> None:
    assert heard_of(tmp_path, source) == ["the canary is in the environment of true"]


def test_nothing_is_heard_of_a_program_that_has_nothing_of_it(tmp_path: Path) -> None:
    assert heard_of(tmp_path, "subprocess.run(['true', held[:-1]], env={'HELD': held[1:]})") == []


def test_what_is_heard_fails_the_session_once(tmp_path: Path) -> None:
    watch = Processes(Path("/nowhere"), heard=tmp_path / "ears/heard")
    listener = ears(tmp_path / "ears")
    for leaks in (["one"], ["two\nlines", "three"]):
        listener.tell(leaks)
        watch.take_in()
        watch.take_in()
    assert watch.leaks == ["one", "two lines", "three"]


def test_where_the_kernel_tells_what_is_executed_other_programs_are_seen_that_are_over_at_once() -> None:
    told = news()
    if told is None:
        pytest.skip("the kernel tells only root")
    with told:
        told.settimeout(5)
        subprocess.run(["true"], check=True)
        try:
            told.recv(4096)
        except TimeoutError:
            pytest.skip("this kernel does not tell of executed programs alone")
    seen = Processes(Path("/nowhere"), [OTHER.encode()])
    seen.start()
    often = 'read held; for n in $(seq 300); do env true "$held"; done'
    subprocess.run(["sh", "-c", often], input=f"{OTHER}\n", text=True, check=True, timeout=60)
    seen.close()
    assert len(seen.leaks) > 60, "looking every tenth of a second, it would be a few"


def test_a_notebooks_cell_may_hand_it_to_a_program_but_to_no_opsbook_and_opsbook_itself_to_none(tmp_path: Path) -> None:
    starts = {
        "cell": CELL.format(source="import subprocess\nsubprocess.run(['true'])"),
        "thread": "import threading\nthreading.Thread(target=subprocess.run, args=(['true'],)).start()",
        "child": CELL.format(source="import subprocess, sys\nsubprocess.run([sys.executable, '-c', "
                             "'import os; os.system(\"true\")'])"),
        "within": CELL.format(source="import opsbook, subprocess\n"
                              "opsbook.once('x', lambda: subprocess.run(['true']).returncode)"),
        "own": CELL.format(source="import subprocess\nsubprocess.run(['true', '-m opsbook'])"),
        "opsbook": RESOLVE,
        "called": CELL.format(source=RESOLVE),
    }  # fmt: skip
    heard = {}
    for name, source in starts.items():
        (tmp_path / name).mkdir()
        heard[name] = heard_of(tmp_path / name, f"{OPSBOOK}{HELD}{source}")
    wrong = "the canary is in the environment of"
    nothing: list[str] = []
    assert heard == {
        "cell": nothing,
        "thread": nothing,
        "child": nothing,
        "within": nothing,
        "own": [f"{wrong} true"],
        "opsbook": [f"{wrong} echo"],
        "called": [f"{wrong} echo"],
    }


@pytest.mark.parametrize("source", [PLAIN_KERNEL, PLAIN_SHELL])
def test_a_notebook_in_plain_jupyter_without_it_is_heard_of(tmp_path: Path, source: str) -> None:
    for name in ("without", "with"):
        (tmp_path / name).mkdir()
    (tmp_path / "with" / "opsbook.toml").write_text(f"[env.set]{HANDED_ON} 'something'\n")
    assert heard_of(tmp_path / "with", source) == []
    assert heard_of(tmp_path / "without", source) == [
        f"a notebook is run without the canary in {tmp_path / 'without'},"
    ]


def test_a_run_without_it_is_heard_of() -> None:
    with TemporaryDirectory() as place:  # in the suite's own folder the suite's own watch would see it as well
        (Path(place) / "book.ipynb").write_text(notebook_text([LOAD]))
        run = "import sys\nsubprocess.run([sys.executable, '-m', 'opsbook', 'run', 'book.ipynb'], capture_output=True)"
        assert heard_of(Path(place), run) == [f"a notebook is run without the canary in {place},"]


def test_every_python_process_that_is_started_listens_before_all_else_on_its_path(tmp_path: Path) -> None:
    listener = ears(tmp_path / "ears")
    path = {"PYTHONPATH": "/somewhere"}
    assert heard_by(listener, path) == {"PYTHONPATH": f"{tmp_path / 'ears'}:/somewhere"}
    assert heard_by(listener, heard_by(listener, path)) == heard_by(listener, path)
    asks = "import sys; print('canary_listener' in dir(sys), any('ears' in place for place in sys.path))"
    for env in (None, {}, path):
        done = subprocess.run([sys.executable, "-c", asks], env=env, capture_output=True, text=True, check=True)
        assert done.stdout == "True False\n"
    (tmp_path / "sitecustomize.py").write_text("print('here too')")
    env = {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", asks], env=env, capture_output=True, text=True, check=True)
    assert done.stdout == "here too\nTrue False\n"


def test_a_plain_kernel_that_is_started_in_a_test_has_it(tmp_path: Path) -> None:
    from jupyter_client.manager import start_new_kernel

    manager, client = start_new_kernel(cwd=str(tmp_path))
    try:
        client.execute_interactive("%load_ext opsbook", timeout=30)
        asks = f"open('length', 'w').write(str(len(__import__('os').environ.get({VARIABLE!r}, ''))))"
        client.execute_interactive(asks, timeout=30)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    assert (tmp_path / "length").read_text() == str(len(VALUE))


FOLLOWED = """
import sys
import msgspec
from opsbook.cli import run
from opsbook.cli.main import main

class Follower:
    def observe(self, entry):
        with open("followed", "ab") as file:
            file.write(msgspec.json.encode(entry) + b"\\n")
    def close(self):
        pass

def execute(request, *, observers, real=run.execute, **options):
    finished = real(request, observers=[*observers, Follower()], **options)
    with open("finished", "wb") as file:
        file.write(msgspec.json.encode(finished.record))
    return finished

run.execute = execute
sys.argv[0] = "opsbook"
main()
"""
LATE = "known-too-late-78"
TELLS = f"""
import os
from opsbook import secret
held = os.environ[{VARIABLE!r}]
print("early", open("late.txt").read())
"""
AFTER = """
print("late", later, held)
record("told", [later, held])
raise ValueError(later + held)
"""


def test_whoever_follows_a_run_is_told_what_is_masked_and_given_a_masked_record(desk: Desk) -> None:
    (desk.folder / "late.txt").write_text(LATE)
    script = desk.write("followed.py", FOLLOWED)
    on = '%%on web --env HELD=held --env LATER=later\necho "<$LATER>"; echo "$HELD" >&2; echo "$LATER" | base64'
    desk.notebook(
        LOAD,
        parameters('given: str = ""'),
        code(TELLS, cell_id="early"),
        code("later = secret('file:late.txt').reveal()", cell_id="reveal"),
        code(on, cell_id="on"),
        code(AFTER, cell_id="after"),
    )
    line = [sys.executable, str(script), "run", "book.ipynb", "--quiet", "-p", f"given={LATE}"]
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    ran = finish(subprocess.Popen(line, cwd=desk.folder, env=desk.environment, text=True, **streams))
    assert ran.code == 1, ran
    told = (desk.folder / "followed").read_bytes()
    finished = (desk.folder / "finished").read_bytes()
    assert not lies_in(told + finished)
    assert LATE.encode() not in finished
    events = [json.loads(one)["event"] for one in told.splitlines()]
    known = next(number for number, event in enumerate(events) if event.get("reference", "").endswith("late.txt"))
    before, after = str(events[:known]), str(events[known:])
    assert f"early {LATE}" in before, "what was told before it was known cannot be taken back"
    assert LATE not in after
    kinds = {event["type"] for event in events[known:] if "***" in str(event)}
    assert {"cell_output", "target_output", "target_ended", "metric_recorded", "cell_ended", "run_ended"} <= kinds
    assert json.loads(finished)["metrics"] == {"told": ["***", "***"]}
    assert json.loads(finished)["parameters"] == {"given": "***"}


def test_whoever_follows_a_run_is_told_what_is_masked_also_when_nothing_can_be_recorded(folder: RunFolder) -> None:
    redactor, follower = Redactor(), Seen()
    redactor.add(VALUE, name="env:HELD")
    recorder = record_in(folder, follower, redactor=redactor)
    with full_disk(recorder, folder):
        recorder.submit(metric(VALUE))
        recorder.submit(output(f"{VALUE}\n"))
        recorder.settle()
        recorder.submit(metric([VALUE]))
        recorder.settle()
    assert recorder.failure
    recorder.close()
    told = msgspec.json.encode(follower.entries)
    assert not lies_in(told)
    assert told.count(b"***") == 3
