"""What a kernel is given and what it is kept from: variables, start-up files, sockets; and what is left of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support import LOAD, Desk, code, finish, notebook_text, processes_with, wait_for

from opsbook.config import EnvSettings
from opsbook.execution.environment import is_passed, kernel_environment

SETTINGS = '[env]\npass = ["WANTED", "TEAM_*"]\nset = {GREETING = "hello"}\n'


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def metrics(desk: Desk, *cells, env=None, **options):
    """Run a notebook and return what it recorded."""
    desk.notebook(LOAD, *cells)
    ran = desk.opsbook("run", "book.ipynb", env=env, **options)
    assert ran.code == 0, ran
    return desk.run().record["metrics"]


def test_a_kernel_sees_what_is_allowed_and_what_the_settings_hand_on(desk):
    desk.write("opsbook.toml", SETTINGS)
    given = {"WANTED": "1", "TEAM_NAME": "ops", "API_TOKEN": "hush-hush", "LC_TIME": "C", "OPSBOOK_PARALLEL": "3"}
    given |= {"PYTHONSTARTUP": "/nowhere", "SSH_AUTH_SOCK": "/nowhere", "KRB5CCNAME": "FILE:/nowhere"}
    seen = metrics(desk, code("import os\nrecord('seen', dict(os.environ))"), env={**desk.environment, **given})["seen"]
    expected = {name: given[name] for name in ("WANTED", "TEAM_NAME", "LC_TIME", "SSH_AUTH_SOCK", "KRB5CCNAME")}
    assert {name: seen.get(name) for name in expected} == expected
    assert seen["GREETING"] == "hello"
    assert {"HOME", "PATH"} <= set(seen)
    assert {"API_TOKEN", "PYTHONSTARTUP", "OPSBOOK_PARALLEL", "OPSBOOK_GUARD"} & set(seen) == set()


def test_a_notebook_that_misses_a_variable_is_told_how_to_get_it(desk):
    desk.notebook(code("import os\nos.environ['API_TOKEN']"))
    ran = desk.opsbook("run", "book.ipynb", env={**desk.environment, "API_TOKEN": "hush-hush"})
    assert ran.code == 1
    assert "name it under [env] pass in opsbook.toml" in " ".join(ran.out.split())
    assert "hush-hush" not in desk.run().copy.read_text()


def test_looking_for_the_place_of_temporary_files_leaves_nothing_that_a_kill_could_strand(desk):
    folder = desk.folder / "temporary"
    folder.mkdir()
    places = {"XDG_RUNTIME_DIR": "/tmp", "TMPDIR": str(folder)}
    before = folder.stat().st_mtime_ns
    asked = code("import tempfile\nrecord('place', tempfile.gettempdir())")
    assert metrics(desk, asked, env={**desk.environment, **places}) == {"place": str(folder)}
    assert folder.stat().st_mtime_ns == before, "a file was made there, if only for a moment"


def test_opsbooks_own_variables_are_never_handed_on():
    settings = EnvSettings(pass_=("*",))
    assert is_passed("ANYTHING", settings)
    assert not is_passed("OPSBOOK_ARCHIVE", settings)
    made = kernel_environment({"IPYTHONDIR": "/mine", "A": "1"}, settings, folder=Path("/f"), cwd=Path("/c"))
    assert (made["IPYTHONDIR"], made["A"], made["PWD"]) == ("/f/ipython", "1", "/c")


HOSTILE = "import pathlib\npathlib.Path({mark!r}).touch()\n"


@pytest.mark.parametrize("kernel", ["python3", "other"])
def test_no_start_up_file_and_no_configuration_of_the_users_runs(desk, kernel):
    home, mark = desk.folder / "home", desk.folder / "ran"
    profile = home / ".ipython/profile_default"
    places = [profile / "startup/x.py", profile / "startup/y.ipy", profile / "ipython_config.py"]
    places += [profile / "ipython_kernel_config.py", home / ".jupyter/jupyter_config.py"]
    places += [home / ".jupyter/jupyter_notebook_config.py", home / ".config/jupyter/jupyter_config.py"]
    places += [desk.folder / "ipython_config.py", desk.folder / "ipython_kernel_config.py", desk.folder / "start.py"]
    places += [desk.folder / "profile_default/startup/x.py", desk.folder / "jupyter_config.py"]
    for number, place in enumerate(places):
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(HOSTILE.format(mark=f"{mark}{number}"))
    spec = desk.folder / "data/kernels/other"
    spec.mkdir(parents=True)
    argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (spec / "kernel.json").write_text(json.dumps({"argv": argv, "display_name": "o", "language": "python"}))
    env = {
        **desk.environment,
        "PYTHONSTARTUP": str(desk.folder / "start.py"),
        "JUPYTER_DATA_DIR": f"{desk.folder}/data",
    }
    desk.write("book.ipynb", notebook_text([code("print('clean')", cell_id="says")], kernel=kernel))
    ran = desk.opsbook("run", "book.ipynb", env=env)
    assert ran.code == 0, ran
    assert desk.run().output("says") == "clean\n"
    assert [places[int(made.name.removeprefix("ran"))] for made in desk.folder.glob("ran*")] == []


LISTENERS = """
import os, pathlib
mine = {os.readlink(f"/proc/self/fd/{n}") for n in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{n}")}
rows = [row.split() for name in ("tcp", "tcp6") for row in open(f"/proc/self/net/{name}").readlines()[1:]]
record("listening", [row[1] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in mine])
folder = pathlib.Path(os.environ["IPYTHONDIR"]).parent
record("modes", [oct(folder.stat().st_mode & 0o777), oct((folder / "kernel.json").stat().st_mode & 0o777)])
"""


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_a_kernel_listens_on_no_port_and_its_sockets_lie_in_a_private_folder(desk, umask):
    seen = metrics(desk, code(LISTENERS), umask=umask)
    assert seen == {"listening": [], "modes": ["0o700", "0o600"]}


def test_what_forked_children_print_arrives_without_a_port(desk):
    forks = """
    import os, sys
    if (child := os.fork()) == 0:
        print("from the child", flush=True)
        os._exit(0)
    os.waitpid(child, 0)
    import time; time.sleep(1)
    """
    desk.notebook(code(forks, cell_id="forks"), code("print('on')", cell_id="on"))
    ran = desk.opsbook("run", "book.ipynb")
    assert ran.code == 0, ran
    assert desk.run().output("forks") == "from the child\n"


@pytest.mark.parametrize("extra", [{}, {"LANG": "C", "TMPDIR": "/tmp/" + "long" * 40}])
def test_it_runs_from_cron_without_a_home_a_terminal_or_an_input(desk, extra):
    desk.notebook(code("print('grüße')", cell_id="says"))
    command = ["/bin/sh", "-c", 'exec "$0" -m opsbook run book.ipynb <&-', sys.executable]
    done = subprocess.run(
        command, cwd=desk.folder, env=extra, capture_output=True, timeout=60, check=False, start_new_session=True
    )
    assert done.returncode == 0, done
    assert desk.run().output("says") == "grüße\n"


DETACHED = "import subprocess\nsubprocess.Popen(['setsid', '-f', 'sleep', '{nap}'])\n"


def install(desk: Desk) -> None:
    spec = desk.folder / "data/kernels/other"
    spec.mkdir(parents=True)
    argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (spec / "kernel.json").write_text(json.dumps({"argv": argv, "display_name": "o", "language": "python"}))


@pytest.mark.parametrize("kernel", ["python3", "other"])
@pytest.mark.parametrize("ends", ["by itself", "killed"])
def test_nothing_a_notebook_started_outlives_its_run_however_it_detached(desk, kernel, ends):
    nap = f"47{os.getpid()}.{len(kernel)}{len(ends)}"
    install(desk)
    env = {**desk.environment, "JUPYTER_DATA_DIR": f"{desk.folder}/data", "XDG_RUNTIME_DIR": str(desk.folder)}
    wait = "" if ends == "by itself" else "import time\ntime.sleep(600)"
    cells = [
        code(DETACHED.format(nap=nap), cell_id="starts"),
        code(f"open('up', 'w').close()\n{wait}", cell_id="waits"),
    ]
    desk.write("book.ipynb", notebook_text(cells, kernel=kernel))
    process = desk.start("run", "book.ipynb", env=env)
    if ends == "killed":
        wait_for(lambda: (desk.folder / "up").exists() and processes_with(nap), seconds=40)
        process.send_signal(signal.SIGKILL)
    ran = finish(process)
    assert ran.code == (-signal.SIGKILL if ends == "killed" else 0), ran
    wait_for(lambda: not processes_with(nap) and not processes_with(str(desk.folder / "opsbook-")), seconds=20)
    wait_for(lambda: list(desk.folder.glob("opsbook-*")) == [], seconds=20)


def test_a_kernel_that_holds_the_interpreter_ends_with_its_runner_too(desk):
    stuck = "import ctypes\nopen('up', 'w').close()\nctypes.PyDLL(None).sleep(600)"
    desk.notebook(code(stuck))
    process = desk.start("run", "book.ipynb", env={**desk.environment, "XDG_RUNTIME_DIR": str(desk.folder)})
    wait_for((desk.folder / "up").exists, seconds=40)
    process.kill()
    finish(process)
    wait_for(lambda: not processes_with(str(desk.folder / "opsbook-")), seconds=20)


def test_a_kernel_whose_guard_is_killed_dies_with_it_and_the_run_says_so(desk):
    desk.notebook(LOAD, code("import os, signal, time\nos.kill(os.getppid(), signal.SIGKILL)\ntime.sleep(600)"))
    ran = desk.opsbook("run", "book.ipynb")
    assert ran.code == 6, ran
    assert "killed by SIGKILL" in desk.run().record["reason"]


@pytest.mark.parametrize(("how", "said"), [("SIGSEGV", "killed by SIGSEGV"), ("SIGKILL", "killed by SIGKILL")])
def test_the_guard_ends_as_the_kernel_did(desk, how, said):
    desk.notebook(LOAD, code(f"import os, signal\nos.kill(os.getpid(), signal.{how})"))
    ran = desk.opsbook("run", "book.ipynb")
    assert ran.code == 6, ran
    assert said in desk.run().record["reason"]
