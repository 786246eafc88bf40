"""How long a resumed run may take: as the run before, unless it is told otherwise."""

from __future__ import annotations

import pytest
from support import LOAD, Desk, code

NAMES = {"web1": "127.0.0.71"}


def test_a_run_that_timed_out_is_gone_on_with_in_the_time_it_is_given_then(desk: Desk) -> None:
    slow = f"import pathlib, time\ntime.sleep(0 if pathlib.Path({str(desk.folder / 'fast')!r}).exists() else 300)"
    desk.notebook(LOAD, code(slow, cell_id="slow"))
    limits = ("--timeout", "4s", "--cell-timeout", "200s", "--always-timeout", "7s")
    assert desk.opsbook("run", "book.ipynb", *limits).code == 124
    before = {"run_s": 4.0, "cell_s": 200.0, "always_s": 7.0}
    assert desk.runs()[0].record["limits"] == before
    again = desk.opsbook("resume", "last", "--yes", "--json")
    assert (again.code, again.json["limits"]) == (124, before)
    (desk.folder / "fast").touch()
    longer = desk.opsbook("resume", "last", "--yes", "--json", "--timeout", "2m", "--always-timeout", "9s")
    assert longer.code == 0, longer
    assert longer.json["limits"] == {"run_s": 120.0, "cell_s": 200.0, "always_s": 9.0}


@pytest.mark.parametrize("flag", ["--timeout", "--cell-timeout", "--always-timeout"])
def test_a_limit_that_is_no_length_of_time_is_refused_by_its_flag(desk: Desk, flag: str) -> None:
    desk.notebook(code("raise SystemError", cell_id="fails"))
    assert desk.opsbook("run", "book.ipynb").code == 1
    ran = desk.opsbook("resume", "last", "--yes", flag, "soon")
    assert (ran.code, f"error: {flag}: 'soon' is not a duration" in ran.err) == (2, True)
