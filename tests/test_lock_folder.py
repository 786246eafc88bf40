"""The folder of the locks: where it lies, who may use it, and that a file in it has one holder at a time."""

from __future__ import annotations

import fcntl
import os
import pwd
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from locking import ask, locks
from support import wait_for

from opsbook.config import load_settings
from opsbook.errors import RefusedError, UsageError
from opsbook.locks.folder import LockFolder, lock_folder
from opsbook.model.event import Event
from opsbook.model.run import RunState


@pytest.fixture
def folder(tmp_path: Path) -> LockFolder:
    return LockFolder(tmp_path / "locks")


def test_the_folder_of_the_locks_is_a_setting(tmp_path, monkeypatch):
    assert load_settings(tmp_path, {}).locks.path is None
    (tmp_path / "opsbook.toml").write_text('[locks]\npath = "shared"\n')
    assert load_settings(tmp_path, {}).locks.path == str(tmp_path / "shared")
    monkeypatch.chdir(tmp_path)
    assert load_settings(tmp_path, {"OPSBOOK_LOCKS": "here"}).locks.path == str(tmp_path / "here")
    (tmp_path / "opsbook.toml").write_text('[locks]\nfolder = "shared"\n')
    with pytest.raises(UsageError, match="unknown field `folder`"):
        load_settings(tmp_path, {})


def test_locks_lie_where_all_of_a_users_runs_meet(tmp_path, monkeypatch):
    monkeypatch.setattr("opsbook.locks.folder.TEMPORARY", tmp_path)
    home = {"HOME": "/home/maya"}
    assert lock_folder("/srv/locks", home).path == Path("/srv/locks")
    assert lock_folder(None, {**home, "XDG_STATE_HOME": "/state"}).path == Path("/state/opsbook/locks")
    assert lock_folder(None, {**home, "XDG_STATE_HOME": "state"}).path == Path("/home/maya/.local/state/opsbook/locks")
    home_of_account = pwd.getpwuid(os.geteuid()).pw_dir
    if os.access(home_of_account, os.W_OK | os.X_OK):  # cron need not say HOME, and has to meet who does
        assert lock_folder(None, {}).path == lock_folder(None, {"HOME": home_of_account}).path
    own = lock_folder(None, {}, account=str(tmp_path / "gone"))
    assert own.path == tmp_path / f"opsbook-{os.geteuid()}-locks"
    own.of_target("a:22")
    assert own.path.stat().st_mode & 0o777 == 0o700
    own.path.rmdir()
    own.path.symlink_to(tmp_path)
    with pytest.raises(RefusedError, match="is somebody else's"):
        own.of_target("a:22")
    (tmp_path / "file").touch()
    unusable = LockFolder(tmp_path / "file/locks")
    assert "cannot use the folder of locks" in ask(locks(unusable, "one"), {"a": "a:22"})


@pytest.mark.parametrize(("mode", "wanted"), [(0o700, 0o600), (0o2770, 0o660), (0o755, 0o644)])
def test_a_locks_mode_follows_its_folders(tmp_path, mode, wanted):
    place = tmp_path / "locks"
    place.mkdir()
    place.chmod(mode)
    before = os.umask(0o077)
    try:
        mine = locks(LockFolder(place), "one")
        assert ask(mine, {"a": "a:22"}) == ""
    finally:
        os.umask(before)
    (file,) = place.iterdir()
    assert file.stat().st_mode & 0o777 == wanted
    mine.end(RunState.SUCCEEDED)


def test_who_only_looks_at_a_lock_makes_nobody_busy(folder, monkeypatch):
    monkeypatch.setattr("opsbook.execution.locks.GRACE_S", 30.0)  # the machine may be slow
    before, mine = locks(folder, "before"), locks(folder, "mine")
    assert ask(before, {"a": "a:22"}) == ""
    before.end(RunState.SUCCEEDED)
    (file,) = folder.path.iterdir()
    with file.open("rb") as looking:
        said: list[str] = []
        asking = threading.Thread(target=lambda: said.append(ask(mine, {"a": "a:22"})))
        fcntl.flock(looking, fcntl.LOCK_SH | fcntl.LOCK_NB)
        asking.start()
        wait_for(lambda: any(thread.name == "opsbook-lock" for thread in threading.enumerate()))
        assert said == []
    asking.join(30)
    assert said == [""]
    mine.end(RunState.SUCCEEDED)


def test_a_program_that_outlives_a_run_holds_none_of_its_locks(folder):
    mine = locks(folder, "mine")
    assert ask(mine, {"a": "a:22"}) == ""
    child = subprocess.Popen(["sleep", "60"], close_fds=False)
    try:
        mine.end(RunState.SUCCEEDED)
        assert not folder.is_held("a:22")
    finally:
        child.kill()
        child.wait()


RACE = """
import os, sys, threading, time
sys.path.insert(0, {tests!r})
from pathlib import Path
from locking import ask, locks
from opsbook.locks.folder import LockFolder
from opsbook.model.run import RunState
log = os.open({log!r}, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
children = []
for number in range(20):
    child = os.fork()
    if not child:
        mine = locks(LockFolder(Path({folder!r})), f"run{{number}}", wait_s=60)
        why = ask(mine, {{"a": "a:22"}})
        os.write(log, f"{{number}} begins {{why}}\\n".encode())
        time.sleep(0.02)
        os.write(log, f"{{number}} ends\\n".encode())
        mine.end(RunState.SUCCEEDED)
        os._exit(0)
    children.append(child)
for child in children:
    os.waitpid(child, 0)
"""


def test_twenty_runs_that_want_one_target_have_it_one_at_a_time(folder, tmp_path):
    log = tmp_path / "log"
    script = RACE.format(tests=str(Path(__file__).parent), log=str(log), folder=str(folder.path))
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
    lines = log.read_text().splitlines()
    assert len(lines) == 40
    for begins, ends in zip(lines[::2], lines[1::2], strict=True):
        number = begins.split()[0]
        assert (begins, ends) == (f"{number} begins ", f"{number} ends")
    assert {line.split()[0] for line in lines} == {str(number) for number in range(20)}
    assert not folder.is_held("a:22")


def test_a_lock_whose_file_was_cleaned_away_is_the_file_that_is_there_now(folder):
    one, two = locks(folder, "one"), locks(folder, "two", wait_s=30)
    assert ask(one, {"a": "a:22"}) == ""
    said: list[str] = []
    asking = threading.Thread(target=lambda: said.append(ask(two, {"a": "a:22"})))
    seen: list[Event] = []
    two._report = seen.append
    asking.start()
    wait_for(lambda: seen)
    (old,) = folder.path.iterdir()
    old.unlink()
    three = locks(folder, "three")
    assert ask(three, {"a": "a:22"}) == ""
    one.end(RunState.SUCCEEDED)
    time.sleep(0.2)
    assert said == [], "what two got from one is nobody's lock any more"
    three.end(RunState.SUCCEEDED)
    asking.join(10)
    assert said == [""]
    assert folder.look("a:22").run_id == "two"
    two.end(RunState.SUCCEEDED)
