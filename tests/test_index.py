"""The index says what the files say: what is new, what has changed, what is gone, and whatever became of the index."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
from past_runs import NOON, cell, write_run

from opsbook.archive import catch_up as catch_up_module
from opsbook.archive import index as index_module
from opsbook.archive.catch_up import ask_archive
from opsbook.archive.history import iter_runs
from opsbook.archive.index import Index, ask_index, index_folder
from opsbook.archive.layout import Claim, RunFolder, run_folder
from opsbook.archive.reading import read_regular
from opsbook.archive.search import Search, search
from opsbook.archive.selection import Selection, count_items, select_runs
from opsbook.model.run import RunRecord, RunState


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An archive with two runs."""
    write_run(tmp_path / "archive", cell("apt-get upgrade", "Setting up libssl3"), tail=1)
    write_run(tmp_path / "archive", cell("certbot renew"), tail=2, book="certs", at=NOON + timedelta(days=1))
    return tmp_path / "archive"


def found(root: Path, text: str) -> list[str]:
    """The runs in which something is found, by the last letter of their ids."""
    hits = ask_archive(root, lambda index: search(index, Search(text=text, limit=50))).hits
    return sorted(hit.place.name[-1] for hit in hits)


def listed(root: Path, **meant: object) -> list[str]:
    selection = msgspec.convert(meant, Selection)
    return [name[-1] for name in ask_archive(root, lambda index: select_runs(index, selection, limit=50))]


def database(root: Path) -> Path:
    return max(index_folder(root).glob("*.sqlite"))


def end(folder: RunFolder) -> None:
    """Finish the record of a run."""
    record = msgspec.json.decode(folder.record.read_bytes(), type=RunRecord)
    folder.record.write_bytes(msgspec.json.encode(msgspec.structs.replace(record, status=RunState.SUCCEEDED)))


def test_a_new_run_is_found_at_once_and_one_that_is_gone_no_more(root: Path) -> None:
    assert found(root, "upgrade") == ["1"]
    folder = write_run(root, cell("apt-get upgrade  # again"), tail=3)
    assert found(root, "upgrade") == ["1", "3"]
    shutil.rmtree(folder.path)
    assert found(root, "upgrade") == ["1"]
    shutil.rmtree(folder.path.parent)
    assert found(root, "upgrade") == []
    assert found(root, "renew") == ["2"]


def test_a_day_that_has_long_settled_is_listed_again_when_it_changes(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catch_up_module, "_SETTLED_S", -10.0)
    assert found(root, "upgrade") == ["1"]
    write_run(root, cell("apt-get upgrade  # again"), tail=3)
    assert found(root, "upgrade") == ["1", "3"]


def test_a_run_made_within_one_tick_of_the_clock_after_a_look_is_found_too(root: Path) -> None:
    day = root / "2026/11/20"
    assert found(root, "upgrade") == ["1"]
    tick = day.stat().st_mtime_ns
    write_run(root, cell("apt-get upgrade  # again"), tail=3)
    os.utime(day, ns=(tick, tick))
    assert found(root, "upgrade") == ["1", "3"]


def test_what_has_not_changed_is_not_read_again(root: Path) -> None:
    assert found(root, "upgrade") == ["1"]
    (folder,) = (root / "2026/11/20").iterdir()
    (folder / "run.json").write_bytes(b"{")  # nobody ever does that: it shows that nobody looks
    assert found(root, "upgrade") == ["1"]


def test_a_run_is_looked_at_until_it_has_ended(root: Path) -> None:
    running = write_run(root, cell("apt-get dist-upgrade"), tail=3, status=RunState.RUNNING)
    shutil.rmtree(running.path)
    claim = Claim(running)
    written = write_run(root.parent / "other", cell("apt-get dist-upgrade"), tail=3, status=RunState.RUNNING)
    for file in (written.record, written.copy):
        shutil.copy(file, running.path)
    assert listed(root, statuses=["running"]) == ["3"]
    end(running)
    assert listed(root, statuses=["running"]) == []
    assert listed(root, statuses=["succeeded"]) == ["2", "3", "1"]
    claim.release()


def test_what_a_run_says_that_goes_on_is_in_no_file_of_the_index_as_it_may_yet_be_masked(root: Path) -> None:
    written = write_run(root.parent / "other", cell("print(1)", "knowntoolate"), tail=3, status=RunState.RUNNING)
    running = run_folder(root, written.run_id)
    claim = Claim(running)
    for file in (written.record, written.copy):
        shutil.copy(file, running.path)
    assert found(root, "patch") == ["1", "3"], "by its runbook's name"
    assert found(root, "knowntoolate") == []
    running.copy.write_bytes(running.copy.read_bytes().replace(b"knowntoolate", b"at last: ***"))
    end(running)
    claim.release()
    assert found(root, "last") == ["3"]
    for file in index_folder(root).iterdir():
        assert b"knowntoolate" not in file.read_bytes(), file


def test_a_run_whose_process_died_is_interrupted_in_the_index_too(root: Path) -> None:
    write_run(root, cell("true"), tail=3, status=RunState.RUNNING)
    assert listed(root, statuses=["interrupted"]) == ["3"]
    assert listed(root, statuses=["running"]) == []


def test_a_damaged_run_hides_no_other_and_is_found_once_it_is_whole(root: Path) -> None:
    broken = write_run(root, cell("apt-get upgrade  # again"), tail=3)
    whole = broken.record.read_bytes()
    broken.record.write_bytes(whole[:-20])
    assert found(root, "upgrade") == ["1"]
    assert listed(root, statuses=["damaged"]) == ["3"]
    assert ask_archive(root, count_items) == (3, 0, {"damaged": 1})
    broken.record.write_bytes(whole)
    assert found(root, "upgrade") == ["1", "3"]
    assert listed(root, statuses=["damaged"]) == []


def put_a_pipe(file: Path) -> None:
    file.unlink(missing_ok=True)
    os.mkfifo(file)


def put_a_link(file: Path) -> None:
    aside = file.with_name(f"real-{file.name}")
    file.touch()
    file.rename(aside)
    file.symlink_to(aside)


@pytest.mark.parametrize("put", [put_a_pipe, put_a_link])
def test_what_is_no_file_to_be_read_is_not_waited_for_and_hides_nothing(
    root: Path, put: Callable[[Path], None]
) -> None:
    for number, name in enumerate(("run.json", "lock", "events.jsonl", "runbook.ipynb", "copy"), start=3):
        status = RunState.RUNNING if name in {"lock", "events.jsonl"} else RunState.SUCCEEDED
        folder = write_run(root, cell(f"dig {name}"), tail=number, status=status)
        put(folder.copy if name == "copy" else folder.path / name)
    assert found(root, "upgrade OR renew") == ["1", "2"]
    assert found(root, "dig") == ["4", "5", "6"]
    assert listed(root, statuses=["damaged"]) == ["3"]
    assert sorted(run.folder.run_id[-1] for run in iter_runs(root)) == ["1", "2", "3", "4", "5", "6", "7"]


def test_a_file_is_read_up_to_a_size(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"x" * 10)
    assert read_regular(file, most=10) == b"x" * 10
    with pytest.raises(OSError, match="more than"):
        read_regular(file, most=9)


def test_links_in_the_place_of_runs_and_days_are_not_followed(root: Path, tmp_path: Path) -> None:
    elsewhere = write_run(tmp_path / "elsewhere", cell("dig"), tail=3, at=NOON + timedelta(days=2))
    (root / "2026/11/20" / elsewhere.run_id).symlink_to(elsewhere.path)
    assert found(root, "dig") == []
    assert listed(root, statuses=["damaged"]) == ["3"]


def remove(file: Path) -> None:
    shutil.rmtree(file.parent)


def truncate(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def replace_by_text(file: Path) -> None:
    file.write_bytes(b"this is no database" * 1000)


def empty(file: Path) -> None:
    file.write_bytes(b"")


def scribble(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[4096:] = b"\xa5" * (len(data) - 4096)
    file.write_bytes(data)


def drop_a_table(file: Path) -> None:
    connection = sqlite3.connect(file)
    connection.execute("DROP TABLE texts")
    connection.close()


def forget_the_mark(file: Path) -> None:
    connection = sqlite3.connect(file)
    connection.execute("PRAGMA application_id = 7")
    connection.close()


def make_a_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


DAMAGE = (remove, truncate, replace_by_text, empty, scribble, drop_a_table, forget_the_mark, make_a_folder)


@pytest.mark.parametrize("damage", DAMAGE)
def test_an_index_that_is_damaged_is_made_anew(root: Path, damage: Callable[[Path], None]) -> None:
    assert found(root, "upgrade") == ["1"]
    before = database(root)
    damage(before)
    assert ask_archive(root, lambda index: (count_items(index), index.note)) == ((2, 0, {}), "")
    assert found(root, "upgrade") == ["1"]
    assert found(root, "upgrade OR renew") == ["1", "2"]
    assert (database(root) == before) == (damage is remove)


def test_one_that_was_stopped_in_the_middle_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catch_up_module, "BATCH", 20)
    root = tmp_path / "archive"
    for number in range(50):
        write_run(root, tail=number, at=NOON + timedelta(minutes=number))

    def stop(done: int, of: int) -> None:
        if done == 45:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ask_archive(root, count_items, watch=stop)
    told: list[tuple[int, int]] = []
    assert ask_archive(root, count_items, watch=lambda done, of: told.append((done, of))) == (50, 0, {})
    assert (len(told), told[-1]) == (10, (9, 10))


def test_words_of_runs_that_were_taken_back_go_in_with_the_next(root: Path) -> None:
    def stop(done: int, of: int) -> None:
        if done + 1 == of:
            raise KeyboardInterrupt

    def search_after_a_stop(index: Index) -> int:
        with pytest.raises(KeyboardInterrupt):
            catch_up_module.catch_up(index, root, watch=stop)
        catch_up_module.catch_up(index, root)
        return len(search(index, Search(text="*bssl*")).hits)

    assert ask_index(root, search_after_a_stop) == 1


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE texts SET packed = substr(packed, 1, 20)",
        "UPDATE texts SET packed = 'no bytes'",
        "UPDATE texts SET packed = zeroblob(9)",
        "DELETE FROM texts",
        "DELETE FROM items WHERE key = (SELECT max(key) FROM items)",
        "UPDATE items SET runbook = CAST(x'ff' AS TEXT)",
    ],
)
def test_an_index_that_sqlite_finds_whole_and_is_not_is_made_anew(root: Path, sql: str) -> None:
    whole = found(root, "upgrade")
    ask_index(root, lambda index: index.rows(sql))
    assert found(root, "upgrade") == whole


def test_what_else_goes_wrong_while_it_is_asked_leaves_it_as_it_is(root: Path) -> None:
    def break_off(index: Index) -> None:
        raise BrokenPipeError(errno.EPIPE, "nobody reads it")

    ask_archive(root, count_items)
    before = [file.name for file in index_files(root)]
    with pytest.raises(BrokenPipeError):
        ask_archive(root, break_off)
    assert [file.name for file in index_files(root)] == before


def index_files(root: Path) -> list[Path]:
    return sorted(index_folder(root).glob("*.sqlite"))


def test_making_it_anew_forgets_what_was_wrong_in_it(root: Path) -> None:
    assert found(root, "upgrade") == ["1"]
    ask_index(root, lambda index: index.rows("UPDATE items SET status = 'failed'"))
    assert listed(root, statuses=["failed"]) == ["2", "1"]
    ask_archive(root, count_items, fresh=True)
    assert listed(root, statuses=["failed"]) == []
    assert listed(root, statuses=["succeeded"]) == ["2", "1"]
    assert len(list(index_folder(root).glob("*.sqlite"))) == 1


def test_it_lies_in_the_users_cache_closed_to_others_and_nothing_is_written_into_the_archive(root: Path) -> None:
    before = sorted(root.rglob("*"))
    mask = os.umask(0)
    try:
        assert found(root, "upgrade") == ["1"]
    finally:
        os.umask(mask)
    assert sorted(root.rglob("*")) == before
    folder = index_folder(root)
    assert folder.is_relative_to(root.parent / "cache" / "opsbook")
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {file.stat().st_mode & 0o777 for file in folder.iterdir()} == {0o600}


def test_an_index_that_cannot_be_kept_is_made_in_memory_and_says_so(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    runs, note = ask_archive(root, lambda index: (count_items(index)[0], index.note))
    assert runs == 2
    assert "cannot be kept" in note


def test_while_another_process_writes_it_what_is_there_is_read(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_module, "PATIENCE_S", 0.05)
    assert found(root, "upgrade") == ["1"]

    def meanwhile(_: object) -> tuple[int, str]:
        write_run(root, tail=3)
        return ask_archive(root, lambda index: (count_items(index)[0], index.note))

    runs, note = ask_archive(root, meanwhile)
    assert runs == 2
    assert "newer runs are missing" in note
    assert ask_archive(root, count_items)[0] == 3


FINISH = """
import sys
from datetime import timedelta
from pathlib import Path
from past_runs import NOON, cell, write_run
from opsbook.archive.catch_up import ask_archive
from opsbook.archive.selection import count_items
root, number = Path(sys.argv[1]), int(sys.argv[2])
for extra in range(5):
    write_run(root, cell("true"), tail=number * 16 + extra)
    assert ask_archive(root, lambda index: (count_items(index)[0], index.note))[0] > extra
"""


def test_of_eight_processes_that_finish_runs_at_once_all_runs_are_in_the_index(tmp_path: Path) -> None:
    root = tmp_path / "archive"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    processes = [
        subprocess.Popen([sys.executable, "-c", FINISH, str(root), str(number)], env=environment)
        for number in range(1, 9)
    ]
    assert [process.wait(timeout=100) for process in processes] == [0] * 8
    assert ask_archive(root, count_items) == (40, 0, {})
