"""`opsbook runs`, `search` and `archive reindex` as they are typed, and how runs are named everywhere."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from past_runs import NOON, cell, write_run
from support import Desk, code, finish, notebook_text, prose

from opsbook.archive.history import LAST, LAST_FAILED, find_run
from opsbook.config import load_settings
from opsbook.errors import UsageError
from opsbook.model.run import RunState

LOCK = "E: Could not get lock /var/lib/dpkg/lock-frontend"


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    """A desk with an archive of four runs, one of them damaged, and a library."""
    root = tmp_path / "archive"
    write_run(root, cell("certbot renew"), book="certs", tail=1, parameters={"days": 30}, user="cron")
    write_run(root, cell("apt", LOCK), tail=2, at=NOON + timedelta(days=1), error=LOCK, status=RunState.FAILED)
    write_run(root, cell("apt"), tail=3, at=NOON + timedelta(days=2), parameters={"stack": "prod"})
    write_run(root, cell("1"), tail=4, at=NOON + timedelta(days=3)).record.write_text("{")
    (tmp_path / "runbooks").mkdir()
    made = Desk(tmp_path)
    made.write("runbooks/hostile.ipynb", notebook_text([prose("# A\n\n## Red \x1b[31m\x1b]0;owned\x07 needle")]))
    return made


def test_runs_are_listed_by_what_is_known_of_them(desk: Desk) -> None:
    ran = desk.opsbook("runs", "--status", "failed", "--json")
    assert [record["run_id"] for record in ran.json] == ["20261121T120000Z-patch-000002"]
    ran = desk.opsbook("runs", "--runbook", "patch", "--since", "2026-11-21", "--until", "2026-11-22", "--limit", "1")
    assert ran.code == 0
    assert "patch-000003" in ran.out
    assert "patch-000002" not in ran.out
    ran = desk.opsbook("runs", "-p", "days=31")
    assert (ran.code, ran.out, "no such runs" in ran.err) == (0, "", True)
    ran = desk.opsbook("runs", "--status", "damaged")
    assert (ran.out, "damaged: 20261123T120000Z-patch-000004: damaged record" in ran.err) == ("", True)
    ran = desk.opsbook("runs", "--since", "soon")
    assert (ran.code, "--since 'soon' is no date" in ran.err) == (2, True)


def test_statistics_tell_what_the_runs_come_to(desk: Desk) -> None:
    ran = desk.opsbook("runs", "--stats")
    assert [line.split()[:4] for line in ran.out.splitlines()] == [
        ["RUNBOOK", "RUNS", "SUCCEEDED", "MEDIAN"],
        ["certs", "1", "100%", "1:30"],
        ["patch", "2", "50%", "1:30"],
    ]
    (certs,) = desk.opsbook("runs", "--stats", "--json", "--user", "cron").json
    assert (certs["runbook"], certs["success_rate"], certs["operators"]) == ("certs", 1.0, ["cron"])


def test_a_search_shows_the_line_and_the_command_to_look_at_it(desk: Desk) -> None:
    ran = desk.opsbook("search", "lock-frontend", "status:failed")
    assert ran.code == 0
    first, line, look = ran.out.splitlines()[:3]
    assert first.startswith("patch · Step 0 ")
    assert "failed" in first
    assert line == f"  error    FleetError: {LOCK}"
    assert look == "  look     opsbook show 20261121T120000Z-patch-000002   (cell 1 of it)"
    document = desk.opsbook("search", "lock-frontend", "--json", "--in", "archive").json
    assert document["hits"][0]["place"]["name"] == "20261121T120000Z-patch-000002"
    nothing = desk.opsbook("search", "nothinghasthis")
    assert (nothing.code, nothing.out, "nothing found" in nothing.err) == (0, "", True)


def test_a_hostile_runbook_cannot_write_to_the_screen_through_a_search(desk: Desk) -> None:
    ran = desk.opsbook("search", "--in", "library", "needle")
    assert "needle" in ran.out
    assert not {letter for letter in ran.out + ran.err if letter != "\n" and not letter.isprintable()}


def test_a_query_with_wrong_syntax_is_shown_with_a_sign_under_the_place(desk: Desk) -> None:
    ran = desk.opsbook("search", "証明書 AND (lock")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.splitlines()[:3] == [
        "  証明書 AND (lock",
        "             ^",
        "error: this parenthesis is never closed, at character 9 of the query",
    ]


def test_the_index_is_made_anew_when_somebody_wants_it(desk: Desk) -> None:
    ran = desk.opsbook("archive", "reindex")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.strip().endswith("archive: 4 runs, 1 of them damaged, 1 runbooks of the library")
    assert list((desk.folder / "home/.cache/opsbook/index").glob("*/*.sqlite"))


def test_the_library_is_the_folders_that_are_named_else_the_one_beside_the_settings(tmp_path: Path) -> None:
    (tmp_path / "runbooks").mkdir()
    (tmp_path / "deeper").mkdir()
    assert load_settings(tmp_path, {}).runbooks == (str(tmp_path / "runbooks"),)
    file = tmp_path / "opsbook.toml"
    file.write_text("")
    assert load_settings(tmp_path / "deeper", {}).runbooks == (str(tmp_path / "runbooks"),)
    file.write_text('runbooks = ["books", "/srv/books"]')
    assert load_settings(tmp_path, {}).runbooks == (str(tmp_path / "books"), "/srv/books")
    assert load_settings(tmp_path, {"OPSBOOK_RUNBOOKS": "/a:/b"}).runbooks == ("/a", "/b")
    (tmp_path / "runbooks").rmdir()
    file.write_text("")
    assert load_settings(tmp_path, {}).runbooks == ()


def test_what_a_run_has_just_said_is_found(desk: Desk) -> None:
    desk.notebook(code("print('quick brown', 6 * 7)"), code("raise ValueError('lazy dog')"))
    assert desk.opsbook("run", "book.ipynb", "--quiet").code == 1
    (hit,) = desk.opsbook("search", '"brown 42"', "--json").json["hits"]
    assert (hit["place"]["runbook"], hit["place"]["cell"], hit["excerpt"]["part"]) == ("book", 1, "output")
    (hit,) = desk.opsbook("search", "error:lazy", "status:failed", "--json").json["hits"]
    assert (hit["place"]["cell"], hit["place"]["state"]) == (2, "failed")


@pytest.mark.soak
def test_of_eight_runs_that_end_at_once_all_are_found(desk: Desk) -> None:
    desk.notebook(code("print('quick brown')"))
    started = [desk.fork("run", "book.ipynb", "--quiet") for _ in range(8)]
    searched = [desk.fork("search", "brown", "--json") for _ in range(4)]
    assert [finish(process, seconds=300).code for process in [*started, *searched]] == [0] * 12
    (hit,) = desk.opsbook("search", "output:brown", "--json").json["hits"]
    assert hit["also"] == 7


def test_a_run_is_named_by_last_by_last_failed_and_by_what_of_its_id_is_unique(desk: Desk) -> None:
    root = desk.folder / "archive"
    for text, tail in {
        LAST_FAILED: "2",
        "20261120": "1",
        "20261121T12": "2",
        "000003": "3",
        "20261123T120000Z-patch-000004": "4",
        LAST: "4",
    }.items():
        assert find_run(root, text).folder.run_id[-1] == tail
    for text, what in {"202611": "4 runs match", "patch": "no run", "": "no run", "7": "no run"}.items():
        with pytest.raises(UsageError, match=what):
            find_run(root, text)
