"""Which kernel runs a notebook: opsbook's own interpreter, another Python that has opsbook, and one that has not."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from support import processes_with, wait_for

HAS_NO_OPSBOOK = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name == "opsbook":
            raise ModuleNotFoundError("No module named 'opsbook'", name=name)
sys.meta_path.insert(0, Missing())
"""


def write_notebook(path: Path, cells: list[str], kernel: str) -> Path:
    code = [
        {"cell_type": "code", "id": f"c{n}", "metadata": {}, "source": text, "outputs": [], "execution_count": None}
        for n, text in enumerate(cells)
    ]
    kernelspec = {"name": kernel, "display_name": kernel, "language": "python"}
    path.write_text(
        json.dumps({"nbformat": 4, "nbformat_minor": 5, "metadata": {"kernelspec": kernelspec}, "cells": code})
    )
    return path


def install_kernel(home: Path, name: str, prelude: str) -> None:
    """Install a kernelspec that runs `prelude` and then ipykernel."""
    folder = home / "jupyter" / "kernels" / name
    folder.mkdir(parents=True)
    start = (
        f"{prelude}\nimport sys\nfrom ipykernel.kernelapp import launch_new_instance\nlaunch_new_instance(sys.argv[1:])"
    )
    argv = [sys.executable, "-c", start, "-f", "{connection_file}"]
    (folder / "kernel.json").write_text(json.dumps({"argv": argv, "display_name": name, "language": "python"}))


@pytest.fixture
def run(tmp_path: Path):
    def call(kernel: str, cells: list[str]) -> tuple[int, dict, str]:
        notebook = write_notebook(tmp_path / "book.ipynb", cells, kernel)
        done = subprocess.run(
            [sys.executable, "-P", "-m", "opsbook", "run", str(notebook), "--json"],
            cwd=tmp_path,
            env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "JUPYTER_DATA_DIR": str(tmp_path / "jupyter")},
            capture_output=True,
            text=True,
            timeout=60,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        return done.returncode, json.loads(done.stdout) if done.stdout else {}, done.stderr

    return call


def test_python3_is_the_interpreter_opsbook_itself_runs_in(run):
    code, record, _ = run("python3", ["import sys, opsbook\nopsbook.record('exe', sys.executable)"])
    assert (code, record["metrics"]["exe"]) == (0, sys.executable)


def test_another_python_with_opsbook_is_joined_to_its_runner_too(run, tmp_path):
    install_kernel(tmp_path, "other", "import os\nos.environ['WHO'] = 'other'")
    code, record, error = run("other", ["%load_ext opsbook", "import os\nrecord('who', os.environ['WHO'])"])
    assert (code, record["metrics"]) == (0, {"who": "other"}), error


def test_another_python_without_opsbook_is_told_from_a_missing_extension(run, tmp_path):
    install_kernel(tmp_path, "bare", HAS_NO_OPSBOOK)
    code, record, _ = run("bare", ["1 + 1", "%load_ext opsbook"])
    assert code == 1
    assert [cell["state"] for cell in record["cells"]] == ["ok", "failed"]
    assert "the kernel 'bare' is another Python; install opsbook there" in record["reason"]


def test_a_notebook_beside_a_file_called_opsbook_still_gets_the_package_and_its_neighbours(run, tmp_path):
    (tmp_path / "opsbook.py").write_text("raise SystemExit('the wrong one')")
    (tmp_path / "neighbour.py").write_text("answer = 42")
    code, record, error = run("python3", ["%load_ext opsbook", "import neighbour\nrecord('answer', neighbour.answer)"])
    assert (code, record["metrics"]) == (0, {"answer": 42}), error


def test_a_killed_runner_leaves_no_kernel_no_child_of_it_and_no_folder(tmp_path):
    place = tmp_path / "tmp"
    place.mkdir()
    cell = "import subprocess, pathlib\nsubprocess.Popen(['sleep', '4716.5'])\npathlib.Path('up').touch()"
    notebook = write_notebook(tmp_path / "book.ipynb", [cell, "import time\ntime.sleep(60)"], "python3")
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "XDG_RUNTIME_DIR": "/tmp"}
    before = set(Path("/tmp").glob("opsbook-*"))
    runner = subprocess.Popen(
        [sys.executable, "-P", "-m", "opsbook", "run", str(notebook)], cwd=tmp_path, env=environment,
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    wait_for((tmp_path / "up").exists)
    folder = next(
        made for made in set(Path("/tmp").glob("opsbook-*")) - before if processes_with(str(made / "kernel.json"))
    )
    runner.kill()
    runner.wait()
    wait_for(lambda: not processes_with("4716.5") and not processes_with(str(folder)))
    wait_for(lambda: not folder.exists())


def test_a_cell_that_may_raise_leaves_no_mark_of_a_stop_in_the_copy(run, tmp_path):
    notebook = tmp_path / "raising.ipynb"
    write_notebook(notebook, ["1 / 0", "print('on')"], "python3")
    cells = json.loads(notebook.read_text())
    cells["cells"][0]["metadata"]["tags"] = ["raises-exception"]
    notebook.write_text(json.dumps(cells))
    done = subprocess.run(
        [sys.executable, "-P", "-m", "opsbook", "run", str(notebook), "--json"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    copy = Path(json.loads(done.stdout)["copy"]).read_text()
    assert "ZeroDivisionError" in copy
    assert "papermill-error-cell-tag" not in copy


def test_a_parameter_without_an_annotation_reaches_a_script_too(run, tmp_path):
    source = "%load_ext opsbook\nfrom opsbook.fleet.session import current\nrecord('seen', current().variables())"
    notebook = write_notebook(tmp_path / "plain.ipynb", ["%load_ext opsbook", "answer = 42", source], "python3")
    cells = json.loads(notebook.read_text())
    cells["cells"][1]["metadata"]["tags"] = ["parameters"]
    notebook.write_text(json.dumps(cells))
    done = subprocess.run(
        [sys.executable, "-P", "-m", "opsbook", "run", str(notebook), "-p", "answer=43", "--json"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    assert json.loads(done.stdout)["metrics"]["seen"] == {"answer": "43"}, done.stderr


def test_what_a_killed_runner_left_is_swept_away_and_nothing_else(run, tmp_path, request):
    place = Path(tempfile.mkdtemp(dir="/tmp"))  # a socket's path may not be long
    request.addfinalizer(lambda: shutil.rmtree(place))
    for name, inside in (("opsbook-kernel-leftover", "kernel.json"), ("opsbook-kernel-examples", "my.txt")):
        (place / name).mkdir()
        (place / name / inside).touch()
    held = place / "opsbook-kernel-occupied"
    held.mkdir()
    descriptor = os.open(held, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    notebook = write_notebook(tmp_path / "book.ipynb", ["print('on')"], "python3")
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(place)}
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "opsbook", "run", str(notebook)], cwd=tmp_path, env=environment,
            stdin=subprocess.DEVNULL, capture_output=True, check=False,
        )  # fmt: skip
    finally:
        os.close(descriptor)
    assert done.returncode == 0, done
    assert {left.name for left in place.iterdir()} == {"opsbook-kernel-examples", "opsbook-kernel-occupied"}
