"""What the executed copy keeps of long outputs, and the mark that asks for it; in process, and in plain IPython."""

from __future__ import annotations

import subprocess
import sys

import pytest

from opsbook.config import LogSettings, load_settings
from opsbook.errors import UsageError
from opsbook.execution.cell_summary import CellSummary, SummaryRules
from opsbook.redaction import Redactor
from opsbook.runbook.mark import is_marked, without_mark
from opsbook.runbook.notebook import Cell


def summary(*, redactor=None, **settings):
    rules = SummaryRules.from_settings(LogSettings(**settings))
    return CellSummary(rules, redactor or Redactor(), look="events.jsonl")


def body(made):
    return made.text().partition("----\n")[2].splitlines()


def rows(first, last):
    return [f"row {number}" for number in range(first, last)]


def text_of(lines):
    return "".join(f"{line}\n" for line in lines)


def test_an_output_is_long_from_more_lines_on_than_are_shown_whole_or_from_much_text():
    made = summary()
    made.take("stdout", text_of(rows(0, 50)))
    assert not made.is_long
    made.take("stderr", "one more\n")
    assert made.is_long
    wide = summary()
    wide.take("stdout", "x" * 70_000)
    assert wide.is_long
    assert [len(line) for line in body(wide)] == [2000]


def test_the_numbers_say_how_many_lines_of_each_part_are_kept():
    made = summary(summarize="9:2:1:3")
    lines = rows(0, 30)
    for number in (10, 11, 12, 13, 14, 15, 28):
        lines[number] += " failed"
    made.take("stdout", text_of(lines))
    assert body(made) == [
        *("row 0", "row 1", "..."),
        *("row 10 failed", "row 11 failed", "row 12 failed", "row 13 failed", "… 2 more such lines …", "..."),
        *("row 27", "row 28 failed", "row 29"),
    ]
    assert "7 chunks with matched keywords or errors" in made.text()


def test_stderr_and_the_settings_words_count_as_matches_wherever_the_pieces_are_cut():
    made = summary(summarize=":1::1", keywords=("flux+",))
    for piece in ("a\nb has fl", "ux+ in it\nc\n", "d\n"):
        made.take("stdout", piece)
    made.take("stderr", "from stderr\n")
    made.take("stdout", "fluxx\ne")
    assert body(made) == ["a", "...", "b has flux+ in it", "from stderr", "...", "e"]


def test_a_secret_of_which_only_some_lines_are_chosen_is_masked_as_a_whole():
    redactor = Redactor()
    redactor.add("first half\nsecond half")
    made = summary(redactor=redactor, summarize="2:1:1:1")
    made.take("stdout", "start\nfirst ha")
    made.take("stdout", f"lf\nsecond half\n{text_of(rows(0, 9))}first half\nsecond half")
    assert body(made) == ["start", "...", "***"]


def test_memory_is_bounded_however_long_an_output_is():
    made = summary(summarize=True)
    for _ in range(200):
        made.take("stdout", "error " * 2000)
        made.take("stderr", "fatal\n" * 500)
    kept = [*made._head, *made._found, *(line for line, _ in made._tail), *made._open.values()]
    assert sum(map(len, kept)) < 100 * 2000
    assert "100001 chunks" in made.text()


def test_settings_are_read_from_the_file(tmp_path):
    file = tmp_path / "opsbook.toml"
    file.write_text('[logs]\nsummarize = "9::1:"\nkeywords = "flux"\n')
    logs = load_settings(tmp_path, {}).logs
    assert (logs.lines, logs.keywords) == ((9, 20, 20), ("flux",))
    file.write_text("[logs]\nsummarize = true\n")
    assert SummaryRules.from_settings(load_settings(tmp_path, {}).logs).always
    assert not SummaryRules.from_settings(LogSettings()).always
    file.write_text('[logs]\nsummarize = "many"\n')
    with pytest.raises(UsageError, match=r"summarize under \[logs\] is 'many'"):
        load_settings(tmp_path, {})


@pytest.mark.parametrize(
    ("source", "code"),
    [
        ("!!1+1", "1+1"),
        ("\n  !!x = 1\ny = 2", "\nx = 1\ny = 2"),
        ("!!\nimport os", "\nimport os"),
        ("!!!ls -l", "!ls -l"),
        ("!!%%on web\ndocker ps", "%%on web\ndocker ps"),
        ("!!docker ps", "!!docker ps"),
        ("!!uptime", "!!uptime"),
        ("!!said = !df", "said = !df"),
        ("!!", ""),
        ("x = 1\n!!ls", "x = 1\n!!ls"),
    ],
)
def test_the_mark_is_no_code_and_a_command_for_a_shell_is_one_still(source, code):
    assert without_mark(source) == code
    assert is_marked(source) == source.lstrip().startswith("!!")
    assert without_mark(source, python=False) in (code, source.replace("!!", "", 1))


def test_a_marked_cell_is_understood_as_what_it_runs():
    cell = Cell(id="a", index=0, kind="code", source="!!%%on web --sudo\nreboot")
    assert (cell.fans_out, cell.line, cell.changes) == (True, "web --sudo", True)
    assert Cell(id="a", index=0, kind="code", source="!!for t in targets('web'):\n    t").asks_for_targets


PLAIN = """
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
shell.run_line_magic("load_ext", "opsbook")
shell.run_cell("!!x = 41\\nx += 1")
shell.run_cell("!!said = !echo as ever")
shell.run_cell("!!print('value', x, list(said))")
shell.run_cell("!!echo shell words")
"""


def test_in_plain_ipython_the_mark_is_taken_off_once_opsbook_is_loaded(tmp_path):
    environ = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "IPYTHONDIR": str(tmp_path / "ipython")}
    line = [sys.executable, "-c", PLAIN]
    done = subprocess.run(line, cwd=tmp_path, env=environ, capture_output=True, text=True, check=True)
    assert "value 42 ['as ever']" in done.stdout
    assert "['shell words']" in done.stdout
