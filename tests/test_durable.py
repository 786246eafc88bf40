"""Durable commands (SEMANTICS 9), against a real sshd: lost links, a killed controller, launches that come too late."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest
from accounts import PASSWORD, Account, made_account
from conftest import Sshd
from faults import Network, Way, network
from rig import Rig, known_hosts, target_of
from servers import connect
from support import processes_with, wait_for

from opsbook.errors import FleetError, RefusedError, UsageError
from opsbook.fleet.fleet import Fleet
from opsbook.fleet.operation import RunScript, Work
from opsbook.model.event import Intent
from opsbook.model.target import Become, Target, TargetState
from opsbook.ssh.connection import Connection
from opsbook.ssh.durable import KEEP_DAYS
from opsbook.ssh.follow import Follow, Progress
from opsbook.ssh.hostkeys import HostKeyPolicy, KnownHosts
from opsbook.ssh.result import CommandResult
from opsbook.ssh.script import COMMAND_VARIABLE, Script
from opsbook.ssh.terms import Terms

LINES = 3000
PATIENT_S = 60


@pytest.fixture(scope="module")
def account() -> Iterator[Account]:
    with made_account() as made:
        yield made


@pytest.fixture
def net() -> Iterator[Network]:
    with network() as made:
        yield made


@pytest.fixture
def connection(sshd: Sshd) -> Iterator[Connection]:
    made = connect(target_of(sshd, "web1"), KnownHosts([sshd.known_hosts]), HostKeyPolicy.STRICT, timeout_s=20)
    yield made
    made.close()


def spools(home: Path) -> Path:
    return home / ".local/state/opsbook"


def rig(sshd: Sshd, folder: Path, *targets: object, **options: object) -> Rig:
    return Rig(targets, folder / "marks", known_hosts=(str(known_hosts(sshd, folder)),), **options)  # type: ignore[arg-type]


def follow(
    connection: Connection,
    text: str = "",
    *,
    spool: str,
    starting: bool = False,
    terms: Terms | None = None,
    timeout_s: float = PATIENT_S,
    idle_s: float | None = None,
    **how: object,
) -> CommandResult:
    """Start a command on this connection, or find it again."""
    progress = Progress(lambda *_: None, timeout_s=timeout_s, idle_s=idle_s)
    script = Script(text=text, environment={COMMAND_VARIABLE: spool}, **how)
    job = Follow(connection, script, progress, spool=spool, terms=terms or Terms(), starting=starting)
    return job.run(lambda: None)


@pytest.mark.parametrize("shell", [None, "sh -eu", "bash -eu"])
def test_a_durable_command_ends_as_any_other(sshd, tmp_path, shell):
    made = rig(sshd, tmp_path, target_of(sshd, "web1"))
    try:
        how = {"durable": True, "shell": shell, "directory": str(tmp_path), "env": {"GIVEN": "it's here"}}
        result = made.run('echo "$GIVEN"; pwd; umask; cat; echo two >&2; exit 3', **how)["web1"]
        assert (result.state, result.exit_code, result.reason) == (TargetState.FAILED, 3, "")
        assert (result.stdout, result.stderr) == (f"it's here\n{tmp_path}\n0022\n", "two\n")
        assert made.run("kill -KILL $$", durable=True, shell=shell)["web1"].reason.endswith("killed by signal KILL")
        broken = made.run("echo a\nif true; then", durable=True, shell=shell)["web1"]
        assert (broken.exit_code, broken.stdout) == (2, "")
    finally:
        made.close()
    names = [event.spool for event in made.journal.events if isinstance(event, Intent)]
    assert len(set(names)) == 3
    assert not [name for name in names if (spools(sshd.folder) / str(name)).exists()]


def test_the_target_keeps_what_it_knows_until_the_result_is_on_disk(sshd, tmp_path):
    made = rig(sshd, tmp_path, target_of(sshd, "web1"))
    kept = []

    def look_and_refuse() -> None:
        (intent,) = (event for event in made.journal.events if isinstance(event, Intent))
        made.journal.ended("web1")  # it was reported before
        kept.append(spools(sshd.folder) / str(intent.spool))
        raise RefusedError("the disk is full")

    made.journal.on_settle = look_and_refuse
    try:
        assert made.run("exit 3", durable=True)["web1"].exit_code == 3
        assert (kept[0] / "code").read_text() == "003\n"
    finally:
        made.close()


def test_a_cut_link_loses_and_doubles_nothing(sshd, net, tmp_path):
    proxy = net.proxy(sshd.port)
    made = rig(sshd, tmp_path, target_of(sshd, "web1", proxy=proxy))
    cuts = threading.Event()

    def cut() -> None:
        for _ in range(3):
            proxy.cut(Way.DOWN, 20_000)
            if cuts.wait(0.5):
                return

    cutter = threading.Thread(target=cut)
    made.journal.on_intent = lambda _: cutter.start()
    text = f"for n in $(seq {LINES}); do echo line $n; echo error $n >&2; [ $((n % 300)) -ne 0 ] || sleep 0.2; done"
    try:
        result = made.run(text, durable=True, timeout=PATIENT_S)["web1"]
    finally:
        cuts.set()
        cutter.join(10)
        made.close()
    assert (result.state, result.reason) == (TargetState.OK, "")
    assert result.stdout == "".join(f"line {n}\n" for n in range(1, LINES + 1))
    assert result.stderr == "".join(f"error {n}\n" for n in range(1, LINES + 1))
    assert (made.runs("web1"), made.journal.intents("web1")) == (1, 1)
    assert proxy.accepted > 1


def test_a_launch_that_is_lost_on_its_way_never_starts(sshd, net, tmp_path):
    proxy = net.proxy(sshd.port)
    made = rig(sshd, tmp_path, target_of(sshd, "web1", proxy=proxy))
    made.run("true", read_only=True)
    before = made.runs("web1")
    made.journal.on_intent = lambda _: proxy.cut(Way.UP, 0)
    try:
        result = made.run("echo never", durable=True, timeout=PATIENT_S)["web1"]
    finally:
        made.close()
    assert result.state is TargetState.UNREACHABLE
    assert "never started and will not" in result.reason
    assert made.runs("web1") == before


def test_a_launch_that_arrives_after_it_was_asked_for_does_not_start(connection, tmp_path):
    spool = secrets.token_hex(12)
    asked = follow(connection, spool=spool)
    assert (asked.state, asked.exit_code) == (TargetState.UNREACHABLE, None)
    late = follow(connection, f"touch {tmp_path}/started", spool=spool, starting=True)
    assert late.state is TargetState.UNREACHABLE
    assert "never started and will not" in late.reason
    time.sleep(0.3)
    assert not (tmp_path / "started").exists()


CONTROLLER = """
import sys
from opsbook.fleet.fleet import Fleet
from opsbook.fleet.session import current
session = current()
session.intend = lambda intent: print(intent.spool, flush=True)
session.report = lambda event: None
Fleet(session, session.select("web")).run(sys.argv[1], durable=True)
"""


def test_a_killed_controller_ends_nothing_and_the_spool_tells_how_it_went(sshd, connection, tmp_path):
    inventory = sshd.inventory({"web1": "127.0.0.2"}, tmp_path / "hosts.ini")
    text = f"echo run >> {tmp_path}/count; echo begun; sleep 1.5; echo done; echo bad >&2; exit 5"
    controller = subprocess.Popen(
        [sys.executable, "-c", CONTROLLER, text],
        env={**os.environ, "OPSBOOK_INVENTORY": str(inventory)},
        stdout=subprocess.PIPE,
        text=True,
    )
    spool = controller.stdout.readline().strip()
    wait_for((tmp_path / "count").exists, seconds=30)
    controller.kill()
    controller.communicate()
    folder = spools(sshd.folder) / spool
    wait_for((folder / "code").exists, seconds=30)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {file.name: file.stat().st_mode & 0o077 for file in folder.iterdir()}.keys() >= {"out", "err", "code"}
    assert (folder / "code").read_text() == "005\n"
    asked = follow(connection, spool=spool)
    assert (asked.state, asked.exit_code) == (TargetState.FAILED, 5)
    assert (asked.stdout, asked.stderr) == ("begun\ndone\n", "bad\n")
    assert (tmp_path / "count").read_text() == "run\n"


class Again(msgspec.Struct, frozen=True, kw_only=True):
    """What a resume does: ask for a command that an earlier run started."""

    spool: str
    script: Script = Script(text="never started again")
    kind: str = "run"
    text: str = ""
    read_only: bool = True

    def digest(self, target: Target) -> str:
        return ""

    def perform(self, work: Work) -> CommandResult:
        return work.run_durable(self.script, timeout_s=PATIENT_S, spool=self.spool)


def test_a_command_of_an_earlier_life_is_found_again_and_its_spool_removed(sshd, connection, tmp_path):
    spool = secrets.token_hex(12)
    other = threading.Thread(
        target=follow,
        args=(connection, "echo begun; sleep 1; echo done; exit 6"),
        kwargs={"spool": spool, "starting": True},
    )
    other.start()
    folder = spools(sshd.folder) / spool
    wait_for((folder / "pid").exists, seconds=20)
    made = rig(sshd, tmp_path, target_of(sshd, "web1"))
    try:
        fleet = Fleet(made.session, made.targets)
        options = fleet._options(None, check=False, include_failed=False, hard_stop=False)
        found = fleet._call(Again(spool=spool), options, None)["web1"]
        missed = fleet._call(Again(spool=secrets.token_hex(12)), options, None)["web1"]
    finally:
        made.close()
        other.join(30)
    assert (found.exit_code, found.stdout) == (6, "begun\ndone\n")
    assert not folder.exists()
    assert missed.state is TargetState.UNREACHABLE
    assert made.journal.intents("web1") == 0


def test_a_login_that_runs_nothing_is_not_asked_for_ever(account, tmp_path):
    subprocess.run(["usermod", "-s", shutil.which("nologin") or "/bin/false", account.name], check=True)
    made = Rig((account.target(),), tmp_path / "marks", known_hosts=(str(account.folder / "known_hosts"),))
    try:
        result = made.run("true", durable=True, timeout=PATIENT_S)["web1"]
    finally:
        made.close()
        subprocess.run(["usermod", "-s", "/bin/bash", account.name], check=True, capture_output=True)
    assert result.state is TargetState.LOST
    assert "before it told of the command" in result.reason


def test_a_command_that_died_without_a_word_is_failed(connection):
    result = follow(connection, "echo in; kill -KILL $PPID; kill -KILL $$", spool=secrets.token_hex(12), starting=True)
    assert (result.state, result.exit_code, result.stdout) == (TargetState.FAILED, None, "in\n")
    assert "died without an exit code" in result.reason


def test_a_deadline_and_silence_end_its_whole_session(connection, asleep):
    spool = secrets.token_hex(12)
    text = f"echo in; trap '' TERM; sleep {asleep} & sleep {asleep}; sleep {asleep}"
    result = follow(connection, text, spool=spool, starting=True, timeout_s=1)
    assert (result.state, result.stdout) == (TargetState.TIMED_OUT, "in\n")
    assert result.reason == "timed out after 1 s"
    wait_for(lambda: not processes_with(f"sleep {asleep}"), seconds=20)
    result = follow(connection, f"echo in; sleep {asleep}", spool=secrets.token_hex(12), starting=True, idle_s=0.7)
    assert (result.state, result.exit_code) == (TargetState.TIMED_OUT, 143)
    assert "idle" in result.reason
    assert not processes_with(f"sleep {asleep}")


def test_a_deadline_that_passes_while_the_link_is_down_says_where_its_output_is(sshd, net, tmp_path, asleep):
    proxy = net.proxy(sshd.port)
    made = rig(sshd, tmp_path, target_of(sshd, "web1", proxy=proxy), connect_timeout_s=0.5)
    made.journal.on_output = lambda _: (setattr(proxy, "_upstream", ("127.0.0.1", 1)), proxy.end())
    try:
        result = made.run(f"echo in; sleep {asleep}", durable=True, timeout=2)["web1"]
    finally:
        made.close()
    (intent,) = (event for event in made.journal.events if isinstance(event, Intent))
    assert (result.state, result.stdout) == (TargetState.LOST, "in\n")
    assert f"{spools(sshd.folder)}/{intent.spool}" in result.reason
    assert "may still be running" in result.reason
    assert processes_with(f"sleep {asleep}")


def test_old_spools_go_and_those_in_use_stay(sshd, connection):
    place = spools(sshd.folder)
    old, young, busy = (place / secrets.token_hex(12) for _ in range(3))
    runner = threading.Thread(
        target=follow, args=(connection, "sleep 2"), kwargs={"spool": busy.name, "starting": True}
    )
    runner.start()
    wait_for((busy / "pid").exists, seconds=20)
    for folder in (old, young):
        folder.mkdir()
        (folder / "code").write_text("000\n")
    past = time.time() - (KEEP_DAYS + 2) * 86400
    for folder in (old, busy):
        os.utime(folder, (past, past))
    follow(connection, "true", spool=secrets.token_hex(12), starting=True)
    wait_for(lambda: not old.exists(), seconds=20)
    assert young.exists()
    assert busy.exists()
    runner.join(30)


def test_the_script_is_in_no_argument_list_and_on_no_disk(sshd, connection):
    word = "needle-8a2d"
    text = (
        f"# {word}\nps -eo args | grep -c needle-8a2[d] || true\ngrep -rl needle-8a2[d] {spools(sshd.folder)} || true"
    )
    assert follow(connection, text, spool=secrets.token_hex(12), starting=True).stdout == "0\n"


def test_without_a_home_the_spool_is_under_var_tmp(connection):
    spool = secrets.token_hex(12)
    result = follow(connection, "id -un", spool=spool, starting=True, sudo=True, as_user="nobody")
    assert (result.state, result.stdout) == (TargetState.OK, "nobody\n"), result
    (folder,) = Path("/var/tmp").glob(f"opsbook-*/{spool}")
    assert folder.parent.stat().st_mode & 0o777 == 0o700
    shutil.rmtree(folder)
    with suppress(OSError):
        folder.parent.rmdir()


def test_durable_and_read_only_exclude_each_other_and_durability_is_no_part_of_the_digest(sshd, tmp_path):
    made = rig(sshd, tmp_path, target_of(sshd, "web1"))
    with pytest.raises(UsageError, match="durable"):
        made.run("true", durable=True, read_only=True)
    made.close()
    plain = RunScript(script=Script(text="true"), timeout_s=1)
    durable = msgspec.structs.replace(plain, durable=True, idle_s=3)
    assert plain.digest(made.targets[0]) == durable.digest(made.targets[0])


def test_a_plain_user_has_its_own_spools_also_under_sudo(account, asleep, tmp_path, monkeypatch):
    monkeypatch.setenv("SUDO_PASSWORD", PASSWORD)
    account.allow("USER ALL=(ALL:ALL) ALL")
    target = account.target(become=Become(password="env:SUDO_PASSWORD"))
    made = Rig((target,), tmp_path / "marks", known_hosts=(str(account.folder / "known_hosts"),))
    made.journal.reveal = lambda _, **__: PASSWORD
    fleet = Fleet(made.session, made.targets)
    try:
        own = fleet.run("id -un; ls -d $HOME/.local/state/opsbook/$OPSBOOK_COMMAND", durable=True)["web1"]
        assert own.stdout.startswith(f"{account.name}\n{account.home}/.local")
        begun = time.monotonic()
        text = f"id -un; setsid sleep {asleep} & sleep {asleep}"
        sudo = fleet.run(text, durable=True, sudo=True, check=False, timeout=2)["web1"]
        assert time.monotonic() - begun < 30
    finally:
        made.close()
        with suppress(OSError):
            spools(Path("/root")).rmdir()  # it stays where root has other commands
    assert (sudo.state, sudo.stdout) == (TargetState.TIMED_OUT, "root\n")
    assert "1 process escaped: sleep (pid" in sudo.reason
    wait_for(lambda: len(processes_with(f"sleep {asleep}")) == 1, seconds=20)


def test_a_failure_counts_before_what_it_left_is_tidied_up(sshd, tmp_path):
    """The limit holds while a target that failed is slow to let go of its spool."""
    names = [f"web{number}" for number in range(1, 7)]
    made = rig(sshd, tmp_path, *(target_of(sshd, name, host=f"127.0.9.{n}") for n, name in enumerate(names, 1)))
    made.journal.on_settle = lambda: time.sleep(1.5)
    try:
        with pytest.raises(FleetError):
            made.run('[ "$OPSBOOK_TARGET" != web1 ]', durable=True, parallel=1, check=True)
    finally:
        made.close()
    assert [name for name in names if made.runs(name)] == ["web1"]


def test_an_old_folder_that_is_no_spool_stays(sshd, connection):
    folder = spools(sshd.folder) / "notes of mine"
    folder.mkdir(parents=True, exist_ok=True)
    long_ago = time.time() - (KEEP_DAYS + 1) * 86400
    os.utime(folder, (long_ago, long_ago))
    assert follow(connection, "true", spool=secrets.token_hex(12), starting=True).state is TargetState.OK
    time.sleep(0.5)
    assert folder.is_dir()
