"""Bad input through the real command line: two lines, the right exit code, no kernel, and no run that seems to run."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from conftest import Sshd
from refusals import check_refused
from support import LOAD, Desk, JsonObject, code, notebook_text, parameters

PNG = bytes.fromhex("89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c489")

TYPED = parameters('stack: Literal["dev", "prod"]  # Which\nn: int = 3\nname: str = ""\n')
HELLO = code("print('hello')")
ON = code("%%on web\ntrue")


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_what_starts_a_kernel_is_seen_by_these_tests(desk):
    ran = desk.opsbook("run", desk.notebook(HELLO))
    assert ran.code == 0
    assert len(desk.kernels()) == 1
    assert len(desk.runs()) == 1


def edited(**changes: object) -> bytes:
    return notebook_text([HELLO], **changes).encode()


FILES = {
    "text": (b"just some notes\n", "is not a notebook"),
    "an image": (PNG, "is not a notebook"),
    "an empty file": (b"", "is not a notebook"),
    "blanks": (b" \n\n", "is not a notebook"),
    "truncated": (edited()[:-40], "is not a notebook"),
    "a list": (b"[]", "is not a notebook"),
    "an empty object": (b"{}", "is not a notebook"),
    "null": (b"null", "is not a notebook"),
    "format 3": (edited(nbformat=3, nbformat_minor=0), "format 3"),
    "format 3 as it was written": (
        b'{"metadata": {}, "nbformat": 3, "nbformat_minor": 0, "worksheets": []}',
        "format 3",
    ),
    "format 99": (edited(nbformat=99), "format 99"),
    "cells that are no list": (edited(cells={}), "is not a notebook"),
    "a cell of no known kind": (
        edited(cells=[{"cell_type": "query", "metadata": {}, "source": ""}]),
        "is not a notebook",
    ),
    "a cell without a source": (edited(cells=[{"cell_type": "code", "metadata": {}}]), "is not a notebook"),
    "nested too deeply": (b"[" * 100_000, "is not a notebook"),
    "bytes that are no UTF-8": (edited().replace(b"hello", b"h\xe9llo"), "is not a notebook"),
    "a wrong byte order mark": (edited().decode().encode("utf-16"), "is not a notebook"),
}


@pytest.mark.parametrize(("data", "word"), FILES.values(), ids=FILES)
def test_a_file_that_is_no_notebook_is_refused(desk, data, word):
    desk.write("book.ipynb", data)
    check_refused(desk, desk.opsbook("run", "book.ipynb"), "book.ipynb", word)


BROKEN = {
    "a tag with a comma": code("1", "a,b"),
    "one tag twice": code("1", "a", "a"),
    "a key nobody knows": {**code("1"), "surprise": 1},
    "a name of nothing": code("1", name=""),
    "attachments that are none": {"cell_type": "markdown", "metadata": {}, "source": "", "id": "m", "attachments": 3},
    "outputs that are kept and are none": {**code("1", run_through_control={"frozen": True}), "outputs": [{"a": 1}]},
}


@pytest.mark.parametrize("cell", BROKEN.values(), ids=BROKEN)
def test_a_notebook_nbformat_does_not_accept_is_refused_before_it_is_claimed(desk, cell):
    desk.notebook(HELLO, cell)
    check_refused(desk, desk.opsbook("run", "book.ipynb"), "not a valid notebook", "cell 1")


def test_outputs_of_an_earlier_day_are_cleared_whatever_they_are(desk):
    desk.notebook({**HELLO, "outputs": [{"output_type": "smell"}], "id": "says"})
    ran = desk.opsbook("run", "book.ipynb", "--quiet")
    assert ran.code == 0, ran
    assert desk.run().output("says") == "hello\n"


def test_a_missing_file_a_directory_and_a_pipe_are_refused(desk):
    desk.notebook(HELLO, name="other.ipynb")
    check_refused(desk, desk.opsbook("run", "book.ipynb"), "no such runbook", "other.ipynb")
    desk.folder.joinpath("processes").unlink()
    check_refused(desk, desk.opsbook("run", "."), "not a regular file")
    desk.folder.joinpath("processes").unlink()
    os.mkfifo(desk.folder / "pipe.ipynb")
    check_refused(desk, desk.opsbook("run", "pipe.ipynb", seconds=10), "not a regular file")


def test_a_file_that_may_not_be_read_is_refused(desk):
    path = desk.notebook(HELLO)
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read everything")
    check_refused(desk, desk.opsbook("run", path), "Permission denied")


def test_a_kernel_that_is_not_there_is_refused(desk):
    ran = desk.opsbook("run", desk.notebook(HELLO, kernel="cobol"))
    check_refused(desk, ran, "no kernel 'cobol'", "python3")


PARAMETERS: dict[str, tuple[list[str], list[str]]] = {
    "unknown": (["-p", "stak=prod"], ["unknown parameter 'stak'", "did you mean 'stack'?", "stack (dev|prod)"]),
    "missing": ([], ["missing parameter 'stack'", "-p stack="]),
    "no number": (["-p", "stack=dev", "-p", "n=abc"], ["'n'", "'abc'", "whole number"]),
    "no whole number": (["-p", "stack=dev", "-p", "n=1.5"], ["'n'", "'1.5'"]),
    "not among the choices": (["-p", "stack=qa"], ["'stack'", "'qa'", "dev, prod"]),
    "an empty choice": (["-p", "stack="], ["'stack'"]),
    "no identifier": (["-p", "my-stack=dev"], ["'my-stack' is not an identifier"]),
    "no name": (["-p", "=dev"], ["is not an identifier"]),
    "a keyword": (["-p", "class=dev"], ["is not an identifier"]),
    "no equals sign": (["-p", "stack"], ["'stack' is not name=value"]),
    "twice": (["-p", "stack=dev", "-p", "stack=prod"], ["twice"]),
    "no file": (["-f", "nothing.yaml"], ["nothing.yaml"]),
    "a limit that is none": (["-p", "stack=dev", "--max-fail", "some"], ["some"]),
    "a limit below zero": (["-p", "stack=dev", "--max-fail", "-1"], ["-1"]),
    "no parallel": (["-p", "stack=dev", "--parallel", "0"], ["parallel"]),
    "text that is no Unicode": (["-p", "stack=dev", "-p", os.fsdecode(b"name=\xff")], ["name"]),
}


@pytest.mark.parametrize(("flags", "words"), PARAMETERS.values(), ids=PARAMETERS)
def test_wrong_flags_are_refused(desk, flags, words):
    desk.notebook(TYPED, HELLO)
    check_refused(desk, desk.opsbook("run", "book.ipynb", *flags), *words)


DECLARATIONS = {
    "a syntax error": ("stack: str = = 1", "not valid Python"),
    "an unknown type": ("stack: Server = 1", "does not know the type Server"),
    "a default of another type": ('n: int = "many"', "'n'"),
    "a name of the shell": ("PATH: str", "'PATH'"),
    "a secret by value": ('token: Secret = "hunter2hunter2"', "reference"),
}


@pytest.mark.parametrize(("source", "word"), DECLARATIONS.values(), ids=DECLARATIONS)
def test_declarations_nobody_can_read_are_refused(desk, source, word):
    desk.notebook(parameters(source), HELLO)
    ran = desk.opsbook("run", "book.ipynb")
    check_refused(desk, ran, word)
    assert "hunter2" not in ran.err


def test_a_file_name_that_is_no_unicode_is_run_or_refused_but_never_half_claimed(desk):
    path = desk.notebook(HELLO).rename(desk.folder / os.fsdecode(b"b\xff.ipynb"))
    ran = desk.opsbook("run", path)
    assert ran.code in {0, 2}, ran
    assert "Traceback" not in ran.err
    assert [run.record["status"] for run in desk.runs()] == (["succeeded"] if ran.code == 0 else [])


def test_a_temporary_folder_with_a_long_path_is_no_obstacle(desk):
    place = desk.folder / ("t" * 90)
    place.mkdir()
    ran = desk.opsbook("run", desk.notebook(HELLO), env={**desk.environment, "TMPDIR": str(place)})
    assert ran.code in {0, 2}, ran
    assert "internal error" not in ran.out + ran.err


def test_two_parameters_cells_are_refused(desk):
    desk.notebook(TYPED, {**TYPED, "id": "other"}, HELLO)
    check_refused(desk, desk.opsbook("run", "book.ipynb", "-p", "stack=dev"), "2 cells tagged 'parameters'")


VALUE_FILES = {
    "no YAML": ("stack: [dev\n", "values.yaml"),
    "no mapping": ("- stack\n- dev\n", "not a mapping"),
    "a word": ("dev\n", "not a mapping"),
    "empty": ("", "empty"),
    "a name too many": ("stack: dev\nsatck: prod\n", "unknown parameter 'satck'"),
    "another type": ("stack: dev\nn: many\n", "'n'"),
    "text for a number": ('stack: dev\nn: "3"\n', "'n'"),
    "an object": ("stack: !!python/object/apply:os.system ['touch broken']\n", "values.yaml"),
}


@pytest.mark.parametrize(("text", "word"), VALUE_FILES.values(), ids=VALUE_FILES)
def test_parameter_files_nobody_can_read_are_refused(desk, text, word):
    desk.notebook(TYPED, HELLO)
    desk.write("values.yaml", text)
    check_refused(desk, desk.opsbook("run", "book.ipynb", "-f", "values.yaml"), word)
    assert not (desk.folder / "broken").exists()


ASKING = {
    "a cell": ON,
    "a call": code("web = targets('web')"),
    "a call by its long name": code("import opsbook\nopsbook.targets()"),
    "a call beside a magic": code("%time x = 1\nfor host in targets('web'): print(host)"),
}


@pytest.mark.parametrize("cell", ASKING.values(), ids=ASKING)
def test_targets_without_an_inventory_are_refused(desk, cell: JsonObject):
    desk.notebook(LOAD, cell)
    check_refused(desk, desk.opsbook("run", "book.ipynb"), "no inventory", "-i")


def test_a_runbook_that_asks_for_no_targets_needs_no_inventory_but_a_pattern_does(desk):
    desk.notebook(LOAD, HELLO)
    check_refused(desk, desk.opsbook("run", "book.ipynb", "-t", "web"), "-t", "no inventory")


INVENTORIES = {
    "nobody": ("[web]\n", "no host"),
    "broken": ("[web\nweb1\n", "hosts.ini:1"),
    "an unknown child": ("[web]\nweb1\n[all_web:children]\nwbe\n", "hosts.ini"),
    "empty": ("", "empty"),
}


@pytest.mark.parametrize(("text", "word"), INVENTORIES.values(), ids=INVENTORIES)
def test_inventories_nobody_can_read_are_refused(desk, text, word):
    desk.notebook(LOAD, ON)
    desk.write("hosts.ini", text)
    check_refused(desk, desk.opsbook("run", "book.ipynb", "-i", "hosts.ini"), word)


def test_an_inventory_that_is_not_there_or_has_nothing_in_it_is_refused(desk):
    desk.notebook(LOAD, ON)
    check_refused(desk, desk.opsbook("run", "book.ipynb", "-i", "hosts.ini"), "hosts.ini")
    desk.folder.joinpath("processes").unlink()
    desk.folder.joinpath("empty").mkdir()
    check_refused(desk, desk.opsbook("run", "book.ipynb", "-i", "empty"), "empty: the inventory names no host")


@pytest.mark.parametrize("pattern", ["wbe", "web:!web", "", "web[", "web[7]", "~("])
def test_a_limit_that_names_nothing_is_refused(desk, pattern):
    desk.notebook(LOAD, ON)
    desk.write("hosts.ini", "[web]\nweb1 ansible_host=127.0.0.2\n")
    check_refused(desk, desk.opsbook("run", "book.ipynb", "-i", "hosts.ini", "-t", pattern), "pattern")


SETTINGS = {
    "an unknown key": ('archiv = "x"\n', "archiv"),
    "no TOML": ("archive = \n", "opsbook.toml"),
    "another type": ("parallel = 'many'\n", "parallel"),
    "an unknown key of a section": ("[ssh]\nhost_key = 'off'\n", "host_key"),
    "an unknown choice": ("[ssh]\nhost_keys = 'sometimes'\n", "sometimes"),
    "no duration": ("command_timeout = 'soon'\n", "soon"),
    "an inventory that is gone": ("inventory = ['gone.ini']\n", "gone.ini"),
    "nobody in parallel": ("parallel = 0\n", "parallel"),
}


@pytest.mark.parametrize(("text", "word"), SETTINGS.values(), ids=SETTINGS)
def test_settings_nobody_can_read_are_refused(desk, text, word):
    desk.notebook(HELLO)
    desk.write("opsbook.toml", text)
    check_refused(desk, desk.opsbook("run", "book.ipynb"), word)


@pytest.mark.parametrize(
    ("variable", "value", "word"),
    [
        ("OPSBOOK_PARALLEL", "many", "parallel"),
        ("OPSBOOK_COMMAND_TIMEOUT", "soon", "soon"),
        ("OPSBOOK_MAX_FAIL", "x", "'x'"),
    ],
)
def test_variables_nobody_can_read_are_refused(tmp_path, variable, value, word):
    desk = Desk(tmp_path, {variable: value})
    desk.notebook(HELLO)
    check_refused(desk, desk.opsbook("run", "book.ipynb"), word)


def test_an_archive_that_cannot_be_made_is_said_before_anything_starts(desk):
    desk.notebook(HELLO)
    desk.write("archive", "a file in its place\n")
    check_refused(desk, desk.opsbook("run", "book.ipynb"), "archive", exit_code=5)


COMMANDS = {
    "an unknown command": (["rnu", "book.ipynb"], ["'rnu'", "did you mean 'run'?"]),
    "an unknown flag": (["run", "book.ipynb", "--jason"], ["--jason"]),
    "an unknown choice": (["run", "book.ipynb", "--host-keys", "maybe"], ["maybe"]),
    "no runbook": (["run"], ["RUNBOOK"]),
    "one argument too many": (["run", "book.ipynb", "again.ipynb"], ["again.ipynb"]),
    "a flag without its value": (["run", "book.ipynb", "-p"], ["-p"]),
    "a run that is not there": (["show", "nosuchrun"], ["'nosuchrun'"]),
    "no last run": (["show", "last"], ["no run"]),
    "nothing to stop": (["stop", "last"], ["no run"]),
    "a runbook that is not there": (["show", "nothing.ipynb"], ["nothing.ipynb"]),
    "no inventory": (["targets"], ["no inventory"]),
    "no number": (
        ["runs", "--limit", "few"],
        ["error: invalid value for '--limit': 'few' is not a valid integer range\n"],
    ),
    "a group of commands alone": (
        ["archive"],
        ["error: opsbook archive needs a command: ", "prune", "hint:  see opsb"],
    ),
    "a runbook as a record": (
        ["show", "book.ipynb", "--json"],
        ["book.ipynb is no run", "hint:  opsbook show book.ipynb"],
    ),
}


@pytest.mark.parametrize(("args", "words"), COMMANDS.values(), ids=COMMANDS)
def test_command_lines_that_mean_nothing_are_refused(desk, args, words):
    desk.notebook(HELLO)
    check_refused(desk, desk.opsbook(*args), *words)


def test_an_empty_archive_is_no_error(desk):
    ran = desk.opsbook("runs")
    assert (ran.code, ran.out) == (0, "")
    assert "no runs yet" in ran.err
    ran = desk.opsbook("runs", "--json")
    assert (ran.code, ran.json) == (0, [])
    assert not (desk.folder / "archive").exists()


def test_debug_shows_where_an_error_comes_from(desk):
    ran = desk.opsbook("--debug", "run", "book.ipynb")
    assert ran.code == 2
    assert "Traceback" in ran.err
    assert "error: no such runbook" in ran.err


def test_an_unreachable_target_and_a_cell_that_raises_are_results_not_refusals(desk, sshd: Sshd):
    sshd.inventory({"web1": "127.0.0.2", "gone": "127.0.0.3 ansible_port=1"}, desk.folder / "hosts.ini")
    desk.notebook(LOAD, code("%%on web --max-fail 1\ntrue", cell_id="on"), code("1/0", cell_id="raises"))
    ran = desk.opsbook("run", "book.ipynb", "-i", "hosts.ini")
    assert ran.code == 1, ran
    assert "Traceback" not in ran.err
    assert desk.run().states == {"load": "ok", "on": "ok", "raises": "failed"}
    assert desk.run().targets == {"web1": "ok", "gone": "unreachable"}
    assert json.loads(desk.run().folder.joinpath("run.json").read_text())["status"] == "failed"


@pytest.mark.parametrize(("tag", "word"), [("confrim", "'confirm'"), ("Parameters", "'parameters'")])
def test_a_tag_that_would_mean_nothing_is_refused(desk, tag, word):
    desk.notebook(HELLO, code("print('on')", tag))
    check_refused(desk, desk.opsbook("run", "book.ipynb"), tag, word)


def test_a_secret_that_is_not_there_is_refused_before_anything_starts(desk):
    desk.notebook(LOAD, parameters('token: Secret = "env:NOT_SET_ANYWHERE"'), HELLO)
    check_refused(desk, desk.opsbook("run", "book.ipynb"), "'token'", "NOT_SET_ANYWHERE", "-p token=")


def test_the_bare_command_shows_its_help(desk):
    ran = desk.opsbook()
    assert ran.code == 0
    assert ran.out.startswith("Usage: opsbook")
