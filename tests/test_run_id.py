"""`--run-id`: at most one run of an archive has an id, and whoever asks again gets its result (SEMANTICS 15)."""

from __future__ import annotations

import signal
from pathlib import Path

import msgspec
import pytest
from archived import make_record, write_journal
from conftest import Sshd
from support import LOAD, Desk, code, finish, parameters, wait_for

from opsbook.archive import identity as ids
from opsbook.archive.claimed import ClaimedRun
from opsbook.archive.identity import Identity
from opsbook.archive.layout import Claim, run_folder
from opsbook.errors import ArchiveError, BusyError, UsageError
from opsbook.model.run import RunState

RUN_ID = "20261120T113958Z-book-7f3a2c"
COUNT = "open('count', 'a').write('x')"


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def counted(desk: Desk) -> int:
    """How often the notebook ran."""
    file = desk.folder / "count"
    return len(file.read_text()) if file.exists() else 0


def test_a_second_use_prints_the_first_runs_result_and_runs_nothing(desk: Desk) -> None:
    desk.notebook(parameters("n: int = 1"), code(COUNT), code("raise ValueError('no')"))
    first = desk.opsbook("run", "book.ipynb", "--run-id", "order 7", "--json")
    again = desk.opsbook("run", "book.ipynb", "--run-id", "order 7", "--json")
    shown = desk.opsbook("run", "book.ipynb", "--run-id", "order 7")
    assert (first.code, again.code, shown.code) == (1, 1, 1)
    assert again.json == first.json
    assert first.json["claim"] == desk.run().record["claim"] == "order 7"
    assert "ValueError: no" in shown.out
    assert f"run {desk.run().folder.name} has the id 'order 7' already" in again.err
    assert counted(desk) == 1


def test_a_command_runs_once_under_its_id_and_again_prints_what_was_said_then(sshd: Sshd, desk: Desk) -> None:
    sshd.inventory({"web1": "127.0.0.2"}, desk.folder / "hosts.ini")
    desk.write("opsbook.toml", 'inventory = ["hosts.ini"]\n')
    once = ("exec", "web1", "--run-id", "order 8", f"echo x >> {desk.folder}/count; date +%N; exit 3")
    first, again = desk.opsbook(*once, "--json"), desk.opsbook(*once, "--json")
    assert (first.code, again.code, counted(desk)) == (1, 1, 2)  # one x, and the end of its line
    assert again.json == first.json
    other = desk.opsbook("exec", "web1", "--run-id", "order 8", "true")
    assert (other.code, len(desk.runs())) == (2, 1), other.err


def test_of_eight_at_the_same_moment_one_runs(desk: Desk) -> None:
    desk.notebook(code(f"import time; {COUNT}; time.sleep(1)"))
    every = [desk.fork("run", "book.ipynb", "--run-id", "one", "--json") for _ in range(8)]
    ran = [finish(process, seconds=90) for process in every]
    assert counted(desk) == 1
    assert len(desk.runs()) == 1
    assert {one.code for one in ran} <= {0, 75}
    for one in ran:
        if one.code:
            assert "still runs" in one.err or "is claiming" in one.err
        else:
            assert one.json["run_id"] == desk.run().folder.name
    assert sum(one.code == 0 for one in ran) >= 1


def test_while_the_first_runs_it_is_busy_and_when_it_was_killed_its_truth_is_told(sshd: Sshd, desk: Desk) -> None:
    sshd.inventory({"web1": "127.0.0.2"}, desk.folder / "hosts.ini")
    desk.write("opsbook.toml", 'inventory = ["hosts.ini"]\n')
    desk.notebook(LOAD, code("%%on web\ntrue"), code(f"import time; {COUNT}; time.sleep(60)"))
    process = desk.fork("run", "book.ipynb", "--run-id", "nightly")
    try:
        wait_for(lambda: counted(desk), seconds=40)
        busy = desk.opsbook("run", "book.ipynb", "--run-id", "nightly", "--json")
        assert (busy.code, busy.out) == (75, "")
        assert f"run {desk.run().folder.name} has the id 'nightly' and still runs" in busy.err
    finally:
        process.kill()
        process.communicate()
    killed = desk.opsbook("run", "book.ipynb", "--run-id", "nightly", "--json", "--quiet")
    assert (killed.code, killed.json["exit_code"], killed.json["status"]) == (6, 6, "interrupted")
    assert f"opsbook resume {desk.run().folder.name}" in killed.err
    assert counted(desk) == 1


def test_a_killed_run_that_sent_nothing_failed_and_nobodys_outcome_is_unknown(desk: Desk) -> None:
    desk.notebook(code(f"import time; {COUNT}; time.sleep(60)"))
    process = desk.fork("run", "book.ipynb", "--run-id", "x")
    wait_for(lambda: counted(desk), seconds=40)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    again = desk.opsbook("run", "book.ipynb", "--run-id", "x", "--json")
    assert (again.code, again.json["status"]) == (1, "interrupted")


def test_another_runbook_parameter_pattern_or_dry_run_under_the_same_id_is_refused(desk: Desk) -> None:
    desk.notebook(parameters("n: int = 1"), code(COUNT))
    assert desk.opsbook("run", "book.ipynb", "--run-id", "x").code == 0
    desk.notebook(parameters("n: int = 1"), code(COUNT), code("2"), name="other.ipynb")
    for line in (["book.ipynb", "-p", "n=2"], ["book.ipynb", "--check"], ["other.ipynb"]):
        ran = desk.opsbook("run", *line, "--run-id", "x", "--json")
        assert (ran.code, ran.out) == (2, ""), line
        assert "which was asked for something else" in ran.err
    assert desk.opsbook("run", "book.ipynb", "-p", "n=1", "--run-id", "x").code == 0, "its default, given"
    assert counted(desk) == 1


def test_an_id_that_came_out_empty_is_refused_before_anything_runs(desk: Desk) -> None:
    desk.notebook(code(COUNT))
    ran = desk.opsbook("run", "book.ipynb", "--run-id", "")
    assert (ran.code, counted(desk)) == (2, 0)
    assert "cannot be an id" in ran.err
    assert not (desk.folder / "archive").exists()


@pytest.mark.parametrize("text", ["", "  ", "a\nb", "\x1b[31m", "x" * 201, "half \ud800"])
def test_what_cannot_be_an_id_leaves_no_trace(tmp_path: Path, text: str) -> None:
    with pytest.raises(UsageError, match="cannot be an id"):
        Identity(tmp_path / "archive", text, shared=False)
    assert list(tmp_path.iterdir()) == []


# when an id is free again


def claimed(root: Path, text: str = "x", run_id: str = RUN_ID, asked: bytes = b"asked") -> Identity:
    identity = Identity(root, text, shared=False)
    assert identity.first_run(asked) is None
    identity.give_to(run_id, asked)
    return identity


def first_run(root: Path, text: str = "x") -> object:
    identity = Identity(root, text, shared=False)
    try:
        return identity.first_run(b"asked")
    finally:
        identity.release()


def test_an_id_is_free_again_when_its_run_was_killed_before_it_started(tmp_path: Path) -> None:
    claimed(tmp_path).release()
    assert first_run(tmp_path) is None, "its folder never came to be"
    claim = Claim(run_folder(tmp_path, RUN_ID))
    assert first_run(tmp_path) is not None, "it is about to start"
    claim.release()
    assert first_run(tmp_path) is None, "its folder is there and nothing in it"
    claim.abandon()
    files = ClaimedRun(run_folder(tmp_path, RUN_ID), record=b"{}", runbook=b"{}")
    files.release()
    assert first_run(tmp_path) is None, "it is in the chain, and its journal does not say that it started"


def test_an_id_whose_run_was_taken_out_of_the_archive_is_never_free(tmp_path: Path) -> None:
    claimed(tmp_path).release()
    files = ClaimedRun(run_folder(tmp_path, RUN_ID), record=b"{}", runbook=b"{}")
    files.abandon()
    with pytest.raises(ArchiveError, match="in the archive no more"):
        first_run(tmp_path)


def test_an_id_that_was_being_written_when_its_process_died_is_free(tmp_path: Path) -> None:
    identity = claimed(tmp_path)
    (file,) = (tmp_path / ids.IDS).iterdir()
    whole = file.read_bytes()
    identity.release()
    for length in range(len(whole)):
        file.write_bytes(whole[:length])
        assert first_run(tmp_path) is None
    for rubbish in (b"{}\n", b"\0" * 64 + b"\n", whole.replace(b'"x"', b'"y"'), whole.replace(b"2026", b"../.")):
        file.write_bytes(rubbish)
        with pytest.raises(ArchiveError, match="damaged"):
            first_run(tmp_path)


def test_whoever_holds_an_id_too_long_is_said_to_be_claiming_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ids, "PATIENCE_S", 0.2)
    identity = Identity(tmp_path, "x", shared=False)
    with pytest.raises(BusyError, match="is claiming the run id 'x'"):
        Identity(tmp_path, "x", shared=False)
    Identity(tmp_path, "other", shared=False).release()
    identity.release()
    identity.release()
    Identity(tmp_path, "x", shared=False).release()


def test_an_id_belongs_to_one_request(tmp_path: Path) -> None:
    identity = claimed(tmp_path)
    claim = Claim(run_folder(tmp_path, RUN_ID))
    with pytest.raises(UsageError, match="asked for something else"):
        identity.first_run(b"another")
    identity.release()
    claim.release()


@pytest.mark.parametrize(("code", "is_free"), [(75, True), (3, False), (0, False)])
def test_only_a_run_that_was_told_to_come_again_later_leaves_its_id_free(
    tmp_path: Path, code: int, *, is_free: bool
) -> None:
    claimed(tmp_path).release()
    record = make_record(RUN_ID, RunState.REFUSED, exit_code=code)
    files = ClaimedRun(run_folder(tmp_path, RUN_ID), record=msgspec.json.encode(record), runbook=b"{}")
    write_journal(files.folder.journal)
    files.release()
    assert (first_run(tmp_path) is None) is is_free
