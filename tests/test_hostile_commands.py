"""What commands are given besides runbooks: odd words, settings of others, notes, and secrets where they may show."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import Sshd
from support import LOAD, Desk, code, parameters, prose
from test_cli_gates import on_a_terminal
from test_hostile_screens import HOSTILE, check_harmless

from opsbook.cli.main import _run
from opsbook.cli.screen import PLAIN_WIDTH, result_console
from opsbook.config import load_settings
from opsbook.errors import UsageError
from opsbook.execution.origin import git_state
from opsbook.model.note import Severity
from opsbook.model.visible import LONGEST
from opsbook.runbook.lineage import notebook_origin
from opsbook.runbook.notes import read_notes

pytest_plugins = ["sftp_desk"]
NAMES = {"web1": "127.0.0.15"}
LONG = "a" * 300
NO_TEXT = "\udcff"
"""A byte that is no UTF-8, as Python has it on a command line."""
NOTE = "20261103-book-4f2a9c.md"
SECRET = "Zx9-qTweet-77"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with a runbook."""
    Desk(tmp_path).notebook(prose("# Book"), LOAD, code("print(1)", cell_id="a"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "args",
    [
        ["show", LONG],
        ["lineage", LONG],
        ["lineage", f"{LONG}#1"],
        ["lineage", "where", LONG],
        ["lineage", "new-root", "book.ipynb", f"{LONG}.ipynb"],
        ["note", "add", LONG, "-m", "x"],
        ["note", "list", LONG],
        ["archive", "prune", "--keep", "1d", "--archive", LONG],
        ["runs", "--user", NO_TEXT],
        ["runs", "--runbook", NO_TEXT, "--stats"],
        ["runs", "-p", f"a={NO_TEXT}"],
        ["run", "book.ipynb", "--lock", NO_TEXT],
        ["search", NO_TEXT],
        ["logs", NO_TEXT],
        ["note", "add", "book.ipynb", "-m", NO_TEXT],
    ],
    ids=" ".join,
)
def test_no_word_on_a_command_line_is_a_defect_of_ours(
    here: Path, args: list[str], capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    code = _run(args)
    out, err = (stream.decode() for stream in capfdbinary.readouterr())
    assert code in {0, 2}, err
    assert "internal error" not in err
    assert code == 0 or ("error: " in err and "hint: " in err)
    assert len(out + err) < 1000
    assert not (here / "archive").exists()


@pytest.mark.parametrize("columns", ["x", "-5", "", "٣"])
def test_a_width_that_is_none_is_no_width(columns: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert result_console().width in {PLAIN_WIDTH, 3}


@pytest.mark.parametrize(
    "text",
    [
        'archive = "\\u0000"',
        '[notes]\npath = "\\u0000"',
        "a = " + "[" * 100_000,
        f'"{LONG}" = 1',
        'archive = "~a\\u0000"',
    ],
)
def test_settings_that_mean_harm_are_refused_in_two_lines(here: Path, text: str) -> None:
    (here / "opsbook.toml").write_text(text)
    with pytest.raises(UsageError) as caught:
        load_settings()
    assert len(str(caught.value)) < 1000


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a file away")
@pytest.mark.parametrize("planted", ["file", "link"])
def test_settings_somebody_else_left_where_everybody_can_leave_them_are_refused(tmp_path: Path, planted: str) -> None:
    """They could name a script to run, or a command for a secret."""
    common = tmp_path / "common"
    mine = common / "mine"
    mine.mkdir(parents=True)
    common.chmod(0o1777)
    file = common / "opsbook.toml"
    if planted == "link":
        (tmp_path / "x.toml").write_text('archive = "x"\n')
        file.symlink_to(tmp_path / "x.toml")
    else:
        file.write_text('archive = "x"\n')
    os.chown(file, 12345, -1, follow_symlinks=False)
    with pytest.raises(UsageError, match="belongs to somebody else"):
        load_settings(mine, {})
    common.chmod(0o775)  # a team's own folder, in which its members leave files for each other
    assert load_settings(mine, {}).archive == str(common / "x")
    common.chmod(0o1777)
    os.chown(file, 0, -1, follow_symlinks=False)
    assert load_settings(mine, {}).archive == str(common / "x")


@pytest.mark.skipif(shutil.which("git") is None, reason="there is no git")
def test_asking_a_repository_runs_nothing_of_its(tmp_path: Path) -> None:
    def git(*words: str | bytes) -> None:
        subprocess.run(["git", "-C", str(tmp_path), *words], check=True, capture_output=True, env={**os.environ, **me})

    me = {f"GIT_{who}_{what}": "x@x" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    book = tmp_path / ":!*.ipynb"
    book.write_text("{}")
    hook = tmp_path / "hook"
    hook.write_text(f"#!/bin/sh\ntouch {tmp_path}/RAN\n")
    hook.chmod(0o755)
    git("init", "-q")
    git("add", "--all")
    git("commit", "-q", "-m", "x")
    git("tag", b"t\xff")
    git("config", "core.fsmonitor", str(hook))
    clean = git_state(book)
    assert clean is not None
    assert (clean.describe, clean.dirty) == ("t\ufffd", False)
    book.write_text("[]")
    changed = git_state(book)
    assert changed is not None
    assert changed.dirty
    assert not (tmp_path / "RAN").exists()


def note(here: Path, *lines: str, text: str = "Mind.") -> Path:
    (here / "notes").mkdir(exist_ok=True)
    origin = notebook_origin("book")
    file = here / "notes" / NOTE
    file.write_text("\n".join(("---", f"origin: {origin}", *lines, "---", "", text, "")))
    return file


@pytest.mark.parametrize(
    ("lines", "damaged"),
    [
        (["severity: block", "severity: info"], True),
        (["severity: info", "severity: info"], True),
        (["severity: info", "origin: x"], True),
        (["severity: info", 'author: "\\ud800"', 'target: "a#\\udfff"'], False),
        (["severity: info", f"author: {json.dumps(HOSTILE)}", f"target: {json.dumps('x#' + HOSTILE)}"], False),
        (["severity: info", "author: '!!python/object/apply:os.system [\"touch RAN\"]'", "target: &a [*a, *a]"], False),
        (["severity: info", "author: " + "a" * 200_000], False),
        (["severity: info", "date: 0001-01-01T00:00:00+23:59"], False),
        (["severity: info", *(f"a{number}:" for number in range(25_000))], False),
    ],
    ids=[
        "two weights",
        "one weight twice",
        "two origins",
        "half characters",
        "what acts",
        "YAML",
        "long",
        "early",
        "many",
    ],
)
def test_a_note_can_deceive_nobody_who_reads_it(
    here: Path, *, lines: list[str], damaged: bool, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    note(here, *lines, text=HOSTILE)
    (read,) = read_notes(here / "notes")
    assert bool(read.problem) is damaged
    assert read.severity is (Severity.INFO if "origin: x" in lines or not damaged else Severity.BLOCK)
    for args in (["note", "list"], ["note", "list", "--json"], ["note", "list", "book.ipynb"], ["show", "book.ipynb"]):
        assert _run(args) == 0
        out, err = (stream.decode() for stream in capfdbinary.readouterr())
        check_harmless(out + err, rows=True)
        assert "--json" in args or len(out) < 5000
        json.loads(out if "--json" in args else "0")
    assert not list(here.rglob("RAN"))


def test_a_note_of_many_pages_does_not_scroll_away_what_else_is_said(here: Path) -> None:
    note(here, "severity: block", text="Mind. " * 20_000)
    (read,) = read_notes(here / "notes")
    assert LONGEST - 10 < len(read.sentence) < LONGEST + 100
    assert "Mind.… (" in read.sentence  # cut between two words
    assert len(read.recorded) > 100_000  # the record has all of it


def test_a_gate_says_no_secret(tmp_path: Path) -> None:
    desk = Desk(tmp_path, {"TOKEN": SECRET})
    desk.notebook(
        LOAD,
        parameters('token: Secret = "env:TOKEN"'),
        prose(f"## With {SECRET}"),
        code("print('asked')", "confirm", cell_id="gate"),
    )
    exit_code, shown = on_a_terminal(desk, "run", "book.ipynb", answer=b"y\n")
    assert exit_code == 0, shown
    assert SECRET not in shown
    assert '"With ***" comes next' in shown


def test_a_secret_in_a_note_a_path_and_an_error_is_in_no_file_and_on_no_screen(
    tmp_path: Path, server: Sshd, there: Path
) -> None:
    desk = Desk(tmp_path, {"TOKEN": SECRET})
    server.inventory(NAMES, tmp_path / "hosts.ini")
    desk.write("opsbook.toml", 'inventory = ["hosts.ini"]\n')
    note(tmp_path, "severity: info", text=f"Use {SECRET}.")
    file = there / f"{SECRET}.conf"
    book = desk.notebook(
        prose(f"# Book {SECRET}\n\n## Step {SECRET}"),
        LOAD,
        parameters('token: Secret = "env:TOKEN"'),
        code("import pathlib\nvalue, web = token.reveal(), targets()", cell_id="reveals"),
        code(f"web.put(content='x', remote={str(there)!r} + f'/{{value}}.conf')", cell_id="puts"),
        code(f"web.get({str(there)!r} + f'/{{value}}.conf', 'got')", cell_id="gets"),
        code(f"web.get({str(there)!r} + f'/no/{{value}}', 'got')", "raises-exception", cell_id="misses"),
        code(f"web.put(content='x', remote={str(there)!r} + f'/no/{{value}}')", "raises-exception", cell_id="fails"),
        code("web.put(value, remote='/nowhere/x')", "raises-exception", cell_id="no-file"),
    )
    ran = desk.opsbook("run", book, "--yes", "--reason", f"because {SECRET}", "--quiet")
    assert ran.code == 1, ran
    assert file.read_text() == "x"
    assert (tmp_path / "got/web1" / file.name).read_text() == "x"
    assert SECRET not in ran.out + ran.err
    run = desk.run()
    held = [path for path in run.folder.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]
    assert held == []
    assert SECRET not in str(run.folder)
    assert "***" in str(run.record["notes"])
    for args in (["show", "last"], ["logs", "last"], ["runs"], ["show", "last", "--json"], ["search", "web1"]):
        after = desk.opsbook(*args)
        as_it_stands = after.out.replace(f"Use {SECRET}.", "")  # the note itself, which is a file of the team's
        assert SECRET not in as_it_stands + after.err, args
