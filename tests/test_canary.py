"""The canary is heard: each form of it is found in files, streams and processes, and a broken redactor noticed.

That every process tells whom it hands it to, and what who follows a run is told, is looked at in test_canary_heard.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import canary
import pytest
from canary import FORMS, LEAKED, MOST, PLANTED, VALUE, VARIABLE, Watch, lies_in
from overhearing import Processes
from support import LOAD, Desk, code, finish

NAMES = {"web1": "127.0.0.2"}
SHOWS = f"""
    import base64, json, os, sys, urllib.parse
    held = os.environ[{VARIABLE!r}]
    print(held, json.dumps(held), held.encode().hex(), base64.b64encode(b'x' + held.encode()).decode())
    print(urllib.parse.quote(held), repr(held), file=sys.stderr)
    record('held', [held])
    display({{'text/markdown': held, 'text/plain': 'plain'}}, raw=True)
"""


@pytest.fixture
def apart(tmp_path: Path) -> Iterator[Desk]:
    """A desk that the suite's own watch leaves alone: what lies there is meant to be found."""
    yield Desk(tmp_path)
    PLANTED.remove(tmp_path)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_found_wherever_it_stands(form: bytes, tmp_path: Path) -> None:
    watch, file = Watch(), tmp_path / "deep" / "file"
    file.parent.mkdir()
    file.write_bytes(b"before " + form + b" after")
    assert lies_in(b"\xff" + form)
    assert watch.leaks([tmp_path]) == [file]
    assert watch.leaks([tmp_path]) == [], "what was told and is as it was is not told again"
    file.write_bytes(b"." * MOST + form)
    assert watch.leaks([tmp_path]) == [file]


@pytest.mark.parametrize("before", ["", "a", "ab"])
def test_it_is_found_in_a_longer_base64_text(before: str) -> None:
    assert lies_in(base64.b64encode(f"{before}{VALUE}and more".encode()))


def test_its_own_file_and_ordinary_text_are_no_leak(tmp_path: Path) -> None:
    canary.plant(tmp_path)
    (tmp_path / "other").write_text(f"{VARIABLE} canary tweet {json.dumps({'a': 'canary<'})}")
    assert Watch().leaks([tmp_path]) == []


def test_settings_that_a_test_writes_hand_it_on_as_well(apart: Desk) -> None:
    text = apart.write("opsbook.toml", "[env]\npass = ['A']\n").read_text()
    assert text.startswith("[env]\npass = ['A']\n")
    apart.notebook(LOAD, code(f"import os\nrecord('length', len(os.environ[{VARIABLE!r}]))"))
    assert apart.opsbook("run", "book.ipynb").code == 0
    assert apart.run().record["metrics"] == {"length": len(VALUE)}
    assert [use["used_for"] for use in apart.run().record["secret_uses"]] == [f"[env] {VARIABLE}"]


def test_a_notebook_that_shows_it_everywhere_leaks_nothing(desk: Desk) -> None:
    desk.notebook(
        LOAD,
        code(SHOWS, cell_id="shows"),
        code('%%on web --env HELD=held\necho "$HELD"; echo "$HELD" | base64 -w0 >&2', cell_id="there"),
        code("raise ValueError(held)", cell_id="fails"),
    )
    ran = desk.opsbook("run", "book.ipynb", "--json")
    assert ran.code == 1, ran
    assert "***" in desk.run().output("shows")
    assert Watch().leaks([desk.folder]) == []


BROKEN = """
import sys
from opsbook.redaction import Redactor
for name in ("text", "clean", "document"):
    setattr(Redactor, name, lambda self, value: value)
from opsbook.cli.main import main
sys.argv[0] = "opsbook"
main()
"""


def test_a_broken_redactor_is_noticed_in_files_and_streams(apart: Desk) -> None:
    apart.notebook(LOAD, code(SHOWS, cell_id="shows"), code("raise ValueError(held)", cell_id="fails"))
    script = apart.write("broken.py", BROKEN)
    process = subprocess.Popen(
        [sys.executable, str(script), "run", "book.ipynb"],
        cwd=apart.folder,
        env=apart.environment,
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with pytest.raises(AssertionError, match="the canary was printed"):
        finish(process)
    leaks = {file.name.partition("--")[0] for file in Watch().leaks([apart.folder])}
    assert {"run.json", "events.jsonl", "book"} <= leaks


def test_a_kernel_that_was_given_it_at_its_start_is_noticed(apart: Desk) -> None:
    apart.write("opsbook.toml", f'[env.set]\n{VARIABLE} = "from-the-start"\n')
    apart.notebook(LOAD)
    assert apart.opsbook("run", "book.ipynb").code == 0
    assert "opsbook.execution" in (apart.folder / LEAKED).read_text()
    assert [file.name for file in Watch().leaks([apart.folder])] == [LEAKED]


OTHER = f"another-canary<{os.getpid()}>"
"""What the suite's own watch does not look for: it is planted where the canary may not be."""


def leaks_of(*words: str, **environment: str) -> list[str]:
    """What a watch for the other one says of a process; which of them says it is left out."""
    watch = Processes(Path("/nowhere"), [OTHER.encode()])
    env = {"PATH": os.environ["PATH"], **environment}
    with subprocess.Popen(words, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        watch.look()
        process.kill()
    return [leak.partition(" of ")[0] for leak in watch.leaks]


def test_a_secret_in_an_argument_list_or_environment_is_noticed() -> None:
    waits = ["sh", "-c", "echo; read line"]
    assert leaks_of(*waits, OTHER) == ["the canary is in the argument list"]
    assert leaks_of(*waits, HELD=OTHER) == ["the canary is in the environment"]
    assert leaks_of(*waits) == []


def test_a_program_may_have_it_that_a_notebook_has_started_and_a_kernel_may_not() -> None:
    starts = "HELD= sh -c 'echo; read line'"
    runs = f"HELD='{OTHER[:3]}''{OTHER[3:]}' sh -c 'echo; read line'; true"
    assert leaks_of("sh", "-c", runs) == ["the canary is in the environment"]
    assert leaks_of("sh", "-c", runs, "opsbook.execution.launch") == []
    assert leaks_of("sh", "-c", starts, "opsbook.execution.launch", HELD=OTHER) == ["the canary is in the environment"]


def test_what_a_notebook_has_started_may_have_it_when_the_kernel_is_gone_and_what_opsbook_has_may_not() -> None:
    waits = ["sh", "-c", "echo; read line"]
    kernels = {"HELD": OTHER, "IPYTHONDIR": "/run/user/0/opsbook-x/ipython"}
    assert leaks_of(*waits, **kernels) == []
    assert leaks_of(*waits, HELD=OTHER, OPSBOOK_TARGET="web1") == []
    assert leaks_of(*waits, HELD=OTHER, IPYTHONDIR="/root/.ipython") == ["the canary is in the environment"]
    assert leaks_of(*waits, "opsbook.execution.launch", **kernels) == ["the canary is in the environment"]


def test_a_notebook_that_is_run_without_it_is_noticed(apart: Desk) -> None:
    assert canary.is_planted(apart.folder / "deep")
    (apart.folder / "opsbook.toml").write_text("")
    assert not canary.is_planted(apart.folder)


def test_what_a_command_prints_is_looked_at_whoever_starts_it(tmp_path: Path) -> None:
    (tmp_path / "said").write_text(VALUE)
    for text in (True, False):
        with pytest.raises(AssertionError, match="the canary was printed"):
            subprocess.run(["cat", "said"], cwd=tmp_path, check=True, capture_output=True, text=text)


def test_a_command_that_runs_a_notebook_finds_it_where_it_is_started(tmp_path: Path) -> None:
    (tmp_path / "opsbook.toml").write_text("[env]\n")
    run = [sys.executable, "-m", "opsbook", "run", "nothing.ipynb"]
    subprocess.run(run, cwd=tmp_path, check=False, capture_output=True)
    assert canary.is_planted(tmp_path)
    assert PLANTED[-1] == tmp_path
