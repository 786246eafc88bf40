"""An archive shared by a group (SEMANTICS 28): two real users write, read, search, resume and prune in one folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from archived import make_record, mode, umask
from support import Ran, code, finish, notebook_text
from team import Member, Team, made_team

from opsbook.archive.claimed import ClaimedRun
from opsbook.archive.identity import Identity
from opsbook.archive.layout import run_folder
from opsbook.archive.prune import prune_runs
from opsbook.archive.retention import Candidate
from opsbook.archive.verify import verify_archive
from opsbook.model.run import RunState

RUN_ID = "20260101T000000Z-patch-7f3a2c"
SHARED = {("folder", "2770", True), ("file", "0660", True)}
BOOK = notebook_text(
    [
        code("print('marmot was here')", cell_id="say"),
        code(
            """
            from pathlib import Path
            assert Path("allowed").exists(), "not allowed yet"
            """,
            cell_id="ask",
        ),
    ]
)


@pytest.fixture(scope="module")
def team() -> Iterator[Team]:
    with made_team() as made:
        yield made


@pytest.mark.parametrize("bits", [0o000, 0o022, 0o077, 0o777])
@pytest.mark.parametrize("shared", [True, False])
def test_everything_has_the_modes_of_its_archive_whatever_the_umask(tmp_path: Path, bits: int, *, shared: bool) -> None:
    root = tmp_path / "archive"
    with umask(bits):
        folder = run_folder(root, RUN_ID)
        files = ClaimedRun(folder, record=msgspec.json.encode(make_record(RUN_ID)), runbook=b"{}", shared=shared)
        record = make_record(RUN_ID, RunState.REFUSED)
        files.finish(msgspec.json.encode(record), journal="", copy="")
        files.release()
        one = Candidate(run_id=RUN_ID, runbook="patch", status=record.status, ended_at=record.started_at, size=0)
        (folder.path / "lock").rename(folder.path / "kept")  # so that pruning has to make one
        seen = {(place.is_dir(), mode(place)) for place in [root, *root.rglob("*")]}
        prune_runs(root, [one], by="maya")
        seen |= {(place.is_dir(), mode(place)) for place in [root, *root.rglob("*")]}
    assert seen == ({(True, 0o2770), (False, 0o660)} if shared else {(True, 0o700), (False, 0o600)})
    assert verify_archive(root).pruned == 1


def test_one_member_who_keeps_runs_private_shuts_nobody_out(tmp_path: Path) -> None:
    root = tmp_path / "archive"
    root.mkdir()
    root.chmod(0o2770)
    folder = run_folder(root, RUN_ID)
    ClaimedRun(folder, record=msgspec.json.encode(make_record(RUN_ID)), runbook=b"{}", shared=False).release()
    Identity(root, "nightly", shared=False).release()
    prune_runs(root, [], by="maya")
    ours = {place.name: mode(place) for place in root.rglob("*") if place.is_dir() and place != folder.path / "hosts"}
    assert ours == {"2026": 0o2770, "01": 0o2770, folder.path.name: 0o700, "ids": 0o2770}
    assert {mode(place) for place in folder.path.rglob("*")} == {0o700, 0o600}
    assert mode(root / "chain.jsonl") == 0o660


def test_two_users_share_one_archive(team: Team) -> None:
    first, second = team.first, team.second
    for member in (first, second):
        member.write("book.ipynb", BOOK)
    second.write("allowed", "")
    started = [first.start("run", "book.ipynb", "--json", umask="0077"), second.start("run", "book.ipynb", "--json")]
    failed, well = (finish(process, seconds=120) for process in started)
    assert (failed.code, well.code) == (1, 0), f"{failed.err}{well.err}"
    assert team.modes == SHARED

    for member in (first, second):
        assert {record["run_id"] for record in team.records(member)} == {run_id(failed), run_id(well)}
        assert member.opsbook("search", "marmot", "--json").json["hits"][0]["also"] == 1, "in both runs"
    verified = second.opsbook("archive", "verify")
    assert (verified.code, "all is well" in verified.out) == (0, True), verified.out + verified.err
    assert {record["operator"]["user"] for record in team.records(first)} == {first.name, second.name}

    first.write("allowed", "")
    resumed = second.opsbook("resume", run_id(failed), "--yes", "--json", umask="0077")
    assert resumed.code == 0, resumed.err
    assert resumed.json["operator"]["user"] == second.name
    assert team.modes == SHARED

    old = ("--keep", "1ms", "--keep-failed", "1ms", "--json")
    place = run_folder(team.archive, run_id(failed)).path
    place.chmod(0o2750)
    kept = second.opsbook("archive", "prune", *old, "--dry-run").json["kept"]
    assert {one["run_id"]: one["why"] for one in kept}[run_id(failed)] == "its folder is somebody else's"
    place.chmod(0o2770)

    pruned = second.opsbook("archive", "prune", *old, "--yes")
    assert pruned.code == 0, pruned.err + pruned.out
    assert {one["run_id"] for one in pruned.json["pruned"]} == {run_id(failed), run_id(well), run_id(resumed)}
    assert team.modes == SHARED
    said = first.opsbook("archive", "verify").out
    assert "3 runs pruned on" in said
    assert f"by {second.name} on" in said
    assert team.records(first) == []


def test_a_private_run_in_the_archive_of_a_team_reads_as_what_it_is_and_hides_no_other(team: Team) -> None:
    first, second = team.first, team.second
    for member in (first, second):
        member.write("book.ipynb", BOOK)
        member.write("allowed", "")
    second.write("opsbook.toml", f'archive = "{team.archive}"\n')
    shared = run_id(first.opsbook("run", "book.ipynb", "--json"))
    private = run_id(second.opsbook("run", "book.ipynb", "--json"))
    why = f"its files are {second.name}'s alone"

    listed = first.opsbook("runs", "--json")
    assert [record["run_id"] for record in listed.json] == [shared]
    assert f"private: {private}: {why}" in listed.err
    shown = first.opsbook("show", private)
    assert (shown.code, f"error: run {private} is private: {why}" in shown.err) == (5, True), shown.err
    assert first.opsbook("show", "last", "--json").json["run_id"] == shared
    assert found_by(first, "marmot OR status:private") == {shared: "succeeded", private: "private"}
    only = first.opsbook("runs", "--status", "private", "--json")
    assert (only.json, private in only.err) == ([], True)
    totals = first.opsbook("runs", "--stats", "--json").json
    assert [(one["runbook"], one["runs"]) for one in totals] == [("book", 1)]
    verified = first.opsbook("archive", "verify", "--json")
    assert (verified.code, verified.json["well"]) == (0, True)
    assert [(one["verdict"], one["run_id"], one["what"]) for one in verified.json["findings"] if one["run_id"]] == [
        ("private", private, why)
    ]
    pruned = first.opsbook("archive", "prune", "--keep", "1d", "--keep-failed", "1d", "--dry-run", "--json")
    assert (pruned.json["damaged"], pruned.json["private"]) == ([], 1)

    assert {record["run_id"] for record in team.records(second)} == {shared, private}
    assert second.opsbook("archive", "verify").code == 0
    run_folder(team.archive, private).path.chmod(0o755)
    run_folder(team.archive, private).record.chmod(0o644)
    assert {record["run_id"] for record in team.records(first)} == {shared, private}
    assert found_by(first, f"run:{private}") == {private: "succeeded"}


def found_by(member: Member, query: str) -> dict[str, str]:
    """Return the runs a member finds, and how each is said to have ended."""
    hits = member.opsbook("search", query, "--in", "archive", "--json").json["hits"]
    return {hit["place"]["name"]: hit["place"]["status"] for hit in hits}


def run_id(ran: Ran) -> str:
    return str(ran.json["run_id"])
