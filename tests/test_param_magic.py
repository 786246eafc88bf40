"""T10: notebooks of NII's SSH kernel declare parameters with `%param`, and are given their values by it, or refused.

With `OPSBOOK_ORACLES` naming a Python that has NII's sshkernel, that kernel itself says what it understood.
"""

from __future__ import annotations

import ast
import json
import string
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from patch_cell import FUZZ, read
from support import Desk, code, parameters
from test_interoperability import ask
from test_kernels import install_kernel

from opsbook.errors import ParameterError
from opsbook.runbook.param_magic import param_line

FITTING = f"{string.ascii_letters}{string.digits} -%,./:=_@"
SAYING = ["1.10", "007", "8080", "0x10", "a  b", " edge ", "", "1,2", "True", "None", "--x", "%login y", "{A}", "e1-2j"]
DEFINES_PARAM = """
from IPython.core.magic import register_line_magic
@register_line_magic
def param(line):
    name, _, value = line.partition(" ")
    get_ipython().user_ns[name] = value
"""


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    install_kernel(tmp_path, "ssh", "")
    made = Desk(tmp_path, extra={"JUPYTER_DATA_DIR": str(tmp_path / "jupyter")})
    made.notebook(
        code(DEFINES_PARAM, cell_id="magic"),
        parameters("%param HOST_A 127.0.0.1\n%param WHERE east wing\nLIST=[]"),
        code("print(HOST_A, WHERE)", cell_id="say"),
        kernel="ssh",
    )
    return made


def test_param_lines_declare_texts() -> None:
    found = read('%param HOST_A 127.0.0.1\n%param VERSION "1.10"\n%param PORT 8080\n%login {HOST_A}')
    assert {name: (spec.default, spec.type_label) for name, spec in found.items()} == {
        "HOST_A": ("'127.0.0.1'", "text"),
        "VERSION": ("'1.10'", "text"),
        "PORT": ("'8080'", "text"),
    }


def test_the_injected_cell_has_param_lines_and_nothing_else(desk: Desk) -> None:
    run = desk.run_of(desk.opsbook("run", "book.ipynb", "-p", "HOST_A=10.0.0.10", "--json"))
    (cell,) = (cell for cell in run.notebook["cells"] if "injected-parameters" in cell["metadata"].get("tags", []))
    assert "".join(cell["source"]) == '%param HOST_A "10.0.0.10"\n'
    assert run.output("say") == '"10.0.0.10" east wing\n'
    assert run.record["parameters"] == {"HOST_A": "10.0.0.10", "WHERE": "east wing", "LIST": []}


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ("HOST_A=a;reboot", "no ';' in a value"),
        ("LIST=[1]", "one text, not [1]"),
        ("HOST_A=$(id)", "no '$' in a value"),
    ],
)
def test_what_the_kernel_does_not_take_is_refused_before_anything_starts(desk: Desk, given: str, why: str) -> None:
    ran = desk.opsbook("run", "book.ipynb", "-p", given)
    assert (ran.code, desk.runs()) == (2, [])
    assert f"ssh kernel takes {why}" in ran.err
    assert "hint:" in ran.err


SCALARS = (
    st.text() | st.text(FITTING) | st.booleans() | st.integers() | st.floats() | st.none() | st.lists(st.integers())
)


@FUZZ
@given(value=SCALARS)
@example(value="a\n%login b")
@example(value='a"')
@example(value="a;b")
@example(value="\u0663")
def test_a_value_is_said_as_one_line_that_means_it_or_is_refused(value: Any) -> None:
    try:
        line = param_line("NAME", value)
    except ParameterError:
        assert value is None or isinstance(value, list) or set(str(value)) - set(FITTING)
        return
    assert len(line.splitlines()) == 1
    text = {True: "true", False: "false"}[value] if isinstance(value, bool) else str(value)
    assert set(text) <= set(FITTING)
    assert ast.literal_eval(line.removeprefix("%param NAME ")) == text
    assert ast.literal_eval(read(line)["NAME"].default or "") == text


SSHKERNEL = """
import asyncio, json, sys
from sshkernel.kernel import SSHKernel
kernel = SSHKernel()
kernel.send_response = lambda *args, **named: None
reply = asyncio.run(kernel.do_execute(sys.argv[1], False))
print(json.dumps([reply["status"], kernel.get_params()]))
"""


def test_the_kernel_itself_understands_each_value_as_it_was_given() -> None:
    values = {f"P{number}": value for number, value in enumerate([*SAYING, FITTING]) if "{" not in value}
    status, known = ask("sshkernel.kernel", SSHKERNEL, "".join(param_line(*one) + "\n" for one in values.items()))
    assert (status, known) == ("ok", values)


def test_the_kernel_itself_refuses_what_is_refused_here() -> None:
    for value in ("{A}", "a;b", 'a"b', "a'b", "a+b", "é", "a\\b", "~"):
        with pytest.raises(ParameterError):
            param_line("NAME", value)
        status, known = ask("sshkernel.kernel", SSHKERNEL, f"%param NAME {json.dumps(value, ensure_ascii=False)}\n")
        assert (status, known) == ("error", {}), value
