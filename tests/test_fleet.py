"""Many hosts at once, against a real sshd: limits, waves, quarantine, results. No runner here: plain Python."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
from conftest import Sshd
from support import wait_for

from opsbook.errors import FleetError, InventoryError, UsageError
from opsbook.fleet.fleet import Fleet
from opsbook.fleet.session import Session
from opsbook.inventory.load import load
from opsbook.model.event import Event, Intent
from opsbook.model.message import RunOptions

NAMES = {f"web{number}": f"127.0.0.{number + 10}" for number in range(1, 7)}


class Notebook:
    """A session, and what it reported."""

    def __init__(self, path: Path, selected: tuple[str, ...] | None = None) -> None:
        self.events: list[Event] = []
        self.session = Session(
            inventory=load([path]),
            selected=selected,
            options=RunOptions(connect_timeout_s=5, command_timeout_s=20),
            channel=None,
        )
        self.session.report = self.events.append  # type: ignore[method-assign]
        self.session.intend = self.events.append  # type: ignore[method-assign,assignment]

    def fleet(self, pattern: str | None = None) -> Fleet:
        return Fleet(self.session, self.session.select(pattern))

    def states(self) -> dict[str, str]:
        return {event.target: event.state.value for event in self.events if type(event).__name__ == "TargetEnded"}


@pytest.fixture
def notebook(sshd: Sshd, tmp_path: Path):
    made = Notebook(sshd.inventory(NAMES, tmp_path / "hosts.ini"))
    yield made
    made.session.pool.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the targets (all this one machine) leave their marks."""
    made = tmp_path / "marks"
    made.mkdir()
    return made


def marks(folder: Path, what: str) -> list[str]:
    return sorted(file.name.removeprefix(f"{what}-") for file in folder.glob(f"{what}-*"))


def mark(folder: Path, what: str) -> str:
    """A script that counts its runs on a target."""
    return f'echo run >> {folder}/{what}-"$OPSBOOK_TARGET"'


def test_a_script_runs_on_every_target_and_each_knows_its_name(notebook):
    result = notebook.fleet().run('echo "$OPSBOOK_TARGET"', read_only=True)
    assert [one.stdout for one in result] == [f"{name}\n" for name in NAMES]
    assert len(result.ok) == 6
    assert not result.failed
    assert result["web3"].exit_code == 0


def test_targets_work_in_parallel_up_to_the_bound(notebook):
    notebook.fleet().run("true", read_only=True)
    begun = time.monotonic()
    notebook.fleet().run("sleep 0.5", read_only=True)
    assert time.monotonic() - begun < 2
    begun = time.monotonic()
    notebook.fleet().run("sleep 0.3", read_only=True, parallel=2)
    assert time.monotonic() - begun >= 0.9


def test_one_failure_more_than_the_limit_stops_the_rest(notebook, folder):
    with pytest.raises(FleetError, match=r"1 of 6 targets failed \(limit 0\)"):
        notebook.fleet().run(mark(folder, "a") + '; [ "$OPSBOOK_TARGET" != web2 ]', parallel=1)
    assert marks(folder, "a") == ["web1", "web2"]
    assert notebook.states() == {
        "web1": "ok",
        "web2": "failed",
        "web3": "skipped",
        "web4": "skipped",
        "web5": "skipped",
        "web6": "skipped",
    }


def test_as_many_failures_as_the_limit_let_the_call_go_on(notebook):
    result = notebook.fleet().run('[ "$OPSBOOK_TARGET" != web2 ]', parallel=1, max_fail=1)
    assert result.failed.names == ("web2",)
    assert len(result.ok) == 5


def test_a_percentage_is_of_the_fleet_that_is_asked(notebook):
    fleet = notebook.fleet()
    assert len(fleet.run('[ "$OPSBOOK_TARGET" \\< web3 ]', max_fail="67%", parallel=1, read_only=True).failed) == 4
    with pytest.raises(FleetError, match="4 of 6"):
        fleet.run('[ "$OPSBOOK_TARGET" \\< web3 ]', max_fail="50%", parallel=1, read_only=True)


def test_check_false_leaves_the_judgement_to_the_author(notebook, folder):
    result = notebook.fleet().run("false", check=False)
    assert len(result.failed) == 6
    assert not notebook.session.quarantined
    notebook.fleet().run(mark(folder, "b"))
    assert len(marks(folder, "b")) == 6


def test_a_target_whose_change_failed_gets_no_further_change(notebook, folder):
    notebook.fleet().run('[ "$OPSBOOK_TARGET" != web2 ]', max_fail=1)
    result = notebook.fleet().run(mark(folder, "c"))
    assert "web2" not in marks(folder, "c")
    assert result["web2"].state == "skipped"
    assert "earlier change" in result["web2"].reason
    assert notebook.fleet().run("true", read_only=True)["web2"].ok
    notebook.fleet().run(mark(folder, "c"), include_failed=True)
    assert "web2" in marks(folder, "c")
    notebook.fleet().run(mark(folder, "d"))
    assert "web2" not in marks(folder, "d")


def test_a_failed_question_is_no_reason_for_quarantine(notebook, folder):
    notebook.fleet().run('[ "$OPSBOOK_TARGET" != web2 ]', max_fail=1, read_only=True)
    notebook.fleet().run(mark(folder, "e"))
    assert len(marks(folder, "e")) == 6


def test_hard_stop_also_ends_what_runs(notebook):
    begun = time.monotonic()
    with pytest.raises(FleetError):
        notebook.fleet().run('[ "$OPSBOOK_TARGET" != web2 ] || { sleep 0.5; exit 1; }; sleep 30', hard_stop=True)
    assert time.monotonic() - begun < 10
    assert sorted(notebook.states().values()) == ["cancelled"] * 5 + ["failed"]


def test_without_hard_stop_running_commands_finish(notebook, folder):
    notebook.fleet().run("true", read_only=True)
    script = f'[ "$OPSBOOK_TARGET" != web2 ] || {{ sleep 0.5; exit 1; }}; sleep 1; {mark(folder, "f")}'
    with pytest.raises(FleetError):
        notebook.fleet().run(script, parallel=3)
    assert marks(folder, "f") == ["web1", "web3"]


def test_waves_share_one_limit_and_later_waves_are_skipped(notebook, folder):
    reached = []
    with pytest.raises(FleetError, match="2 of 6"):
        for wave in notebook.fleet().waves("1,2,100%", max_fail=1):
            reached.append(wave.names)
            wave.run(mark(folder, "g") + '; [ "$OPSBOOK_TARGET" = web2 ]', parallel=1)
    assert reached == [("web1",), ("web2", "web3")]
    assert notebook.states() == {
        "web1": "failed",
        "web2": "ok",
        "web3": "failed",
        "web4": "skipped",
        "web5": "skipped",
        "web6": "skipped",
    }


def test_a_target_that_fails_twice_in_a_rolling_change_counts_once(notebook):
    for wave in notebook.fleet().waves("100%", max_fail=1):
        wave.run('[ "$OPSBOOK_TARGET" != web2 ]', read_only=True)
        result = wave.run('[ "$OPSBOOK_TARGET" != web2 ]', read_only=True)
        assert result.failed.names == ("web2",)


def test_unreachable_counts_as_failed(notebook, sshd, tmp_path):
    names = {"web1": "127.0.0.11", "gone": "127.0.0.12 ansible_port=1"}
    other = Notebook(sshd.inventory(names, tmp_path / "two.ini"))
    with pytest.raises(FleetError):
        other.fleet().run("true")
    assert other.states()["gone"] == "unreachable"
    assert other.fleet().run("true", max_fail=1, include_failed=True)["web1"].ok


def test_the_intent_is_handed_over_before_a_change_and_never_for_a_question(notebook, tmp_path):
    notebook.fleet("web1").run("true", read_only=True)
    assert not [event for event in notebook.events if isinstance(event, Intent)]
    seen: list[bool] = []
    marker = tmp_path / "touched"
    notebook.session.intend = lambda intent: seen.append(marker.exists())  # type: ignore[method-assign]
    notebook.fleet("web1").run(f"touch {marker}")
    assert seen == [False]
    assert marker.exists()


def test_a_refused_intent_sends_nothing(notebook, folder):
    from opsbook.errors import RefusedError

    def refuse(intent: Intent) -> None:
        raise RefusedError("not now")

    notebook.session.intend = refuse  # type: ignore[method-assign]
    with pytest.raises(RefusedError, match="not now"):
        notebook.fleet().run(mark(folder, "h"))
    assert set(notebook.states().values()) == {"skipped"}
    assert marks(folder, "h") == []


def test_a_pattern_that_names_nothing_raises_and_one_outside_the_run_is_empty(sshd, tmp_path):
    limited = Notebook(sshd.inventory(NAMES, tmp_path / "hosts.ini"), selected=("web1", "web2"))
    with pytest.raises(InventoryError):
        limited.fleet("wbe1")
    assert limited.fleet().names == ("web1", "web2")
    empty = limited.fleet("web5")
    assert len(empty) == 0
    assert "skipped" in repr(empty.run("true"))
    assert list(empty.waves("1,100%")) == []


def test_inventory_variables_reach_the_script_when_asked_for(sshd, tmp_path):
    path = sshd.inventory({"web1": "127.0.0.11 role=edge rack='7 b'"}, tmp_path / "vars.ini")
    fleet = Notebook(path).fleet()
    assert fleet.run('echo "$role/$rack"', read_only=True, vars=True)["web1"].stdout == "edge/7 b\n"
    assert fleet["web1"].vars["role"] == "edge"
    assert fleet.run('echo "${role-unset}"', read_only=True)["web1"].stdout == "unset\n"


def test_the_table_groups_targets_that_ended_alike_and_escapes_what_they_said(notebook):
    result = notebook.fleet().run(
        'if [ "$OPSBOOK_TARGET" = web6 ]; then echo "<script>x</script>"; echo broken >&2; exit 100; fi; echo fine',
        max_fail=1,
    )
    lines = repr(result).splitlines()
    assert lines[0].startswith("5 ok · 1 failed · 0:")
    assert lines[1] == "failed  web6       exit 100   broken"
    assert lines[3:] == ["ok      web1-web5", "          fine"]
    assert "&lt;script&gt;x&lt;/script&gt;" in result._repr_html_()
    assert "<script>" not in result._repr_html_()


def cancel_when(notebook: Notebook, folder: Path, what: str, *, count: int, hard: bool) -> list[float]:
    """Cancel as soon as so many targets are in the middle of their command; return when that was, once it has been."""
    times: list[float] = []

    def cancel() -> None:
        wait_for(lambda: len(marks(folder, what)) == count, seconds=30)
        times.append(time.monotonic())
        notebook.session.cancel(hard=hard)

    threading.Thread(target=cancel, daemon=True).start()
    return times


def test_an_interrupt_ends_the_remote_commands_and_raises(notebook, folder):
    cancelled_at = cancel_when(notebook, folder, "s", count=3, hard=True)
    with pytest.raises(KeyboardInterrupt):
        notebook.fleet().run(f"{mark(folder, 's')}; sleep 60.125", parallel=3)
    assert time.monotonic() - cancelled_at[0] < 15
    assert sorted(notebook.states().values()) == ["cancelled"] * 3 + ["skipped"] * 3


def test_a_soft_stop_lets_running_commands_finish(notebook, folder):
    cancel_when(notebook, folder, "s", count=2, hard=False)
    with pytest.raises(KeyboardInterrupt):
        notebook.fleet().run(f"{mark(folder, 's')}; sleep 1.5; {mark(folder, 'i')}", parallel=2)
    assert marks(folder, "i") == ["web1", "web2"]
    assert sorted(notebook.states().values()) == ["ok"] * 2 + ["skipped"] * 4


def test_waiting_until_something_holds(notebook, folder):
    script = f'{mark(folder, "j")}; [ "$(wc -l < {folder}/j-"$OPSBOOK_TARGET")" -ge 3 ]'
    result = notebook.fleet("web1:web2").wait_until(script, every="0.1s", timeout="10s")
    assert len(result.ok) == 2
    with pytest.raises(FleetError):
        notebook.fleet("web1").wait_until("echo not yet; false", every="0.1s", timeout="0.5s")
    assert notebook.states()["web1"] == "timed_out"


def test_connections_are_kept_between_calls(notebook):
    notebook.fleet().run("true", read_only=True)
    first = dict(notebook.session.pool._open)
    notebook.fleet().run("true", read_only=True)
    assert notebook.session.pool._open == first


def test_a_kept_connection_that_died_meanwhile_is_replaced(notebook, folder):
    notebook.fleet("web1").run("true", read_only=True)
    notebook.session.pool._open["web1"]._sock._sock.shutdown(2)
    assert notebook.fleet("web1").run(mark(folder, "k"))["web1"].ok
    assert (folder / "k-web1").read_text() == "run\n"


def test_nonsense_is_refused_before_anything_runs(notebook):
    for flags in ({"parallel": 0}, {"max_fail": "many"}, {"timeout": "soon"}):
        with pytest.raises(UsageError):
            notebook.fleet().run("true", **flags)
    with pytest.raises(UsageError):
        notebook.fleet().run("echo \0")


def test_a_child_that_keeps_talking_does_not_hold_the_call(notebook):
    begun = time.monotonic()
    result = notebook.fleet("web1").run("(for n in $(seq 60); do echo tick; sleep 0.4; done) & exit 0", timeout="3s")
    assert result["web1"].ok
    assert "left behind" in result["web1"].reason
    assert time.monotonic() - begun < 15


def test_text_that_is_no_unicode_is_refused_before_anything_starts(notebook):
    with pytest.raises(UsageError, match="Unicode"):
        notebook.fleet().run("echo '\udcff'")
    assert notebook.events == []


def test_a_target_that_is_still_connecting_when_the_limit_is_passed_gets_nothing(notebook, sshd, folder):
    slow = notebook.session.pool.connection

    def connect(target, *, timeout_s=None):
        if target.name == "web2":
            time.sleep(1.5)
        return slow(target, timeout_s=timeout_s)

    notebook.session.pool.connection = connect  # type: ignore[method-assign]
    with pytest.raises(FleetError):
        notebook.fleet("web1:web2").run(f'{mark(folder, "l")}; [ "$OPSBOOK_TARGET" != web1 ]')
    assert marks(folder, "l") == ["web1"]
    assert notebook.states()["web2"] == "skipped"


def test_an_author_who_swallows_the_error_still_sends_nothing_more_in_that_change(notebook, folder):
    for wave in notebook.fleet().waves("1,2,100%"):
        with pytest.raises(FleetError):
            wave.run(f'{mark(folder, "m")}; [ "$OPSBOOK_TARGET" != web1 ]')
    assert marks(folder, "m") == ["web1"]


def test_waves_inside_a_wave_keep_the_limit_above_them(notebook, folder):
    with pytest.raises(FleetError, match="1 of 6"):
        for outer in notebook.fleet().waves("3,100%", max_fail=0):
            for inner in outer.waves("1,100%", max_fail=1):
                inner.run(f'{mark(folder, "n")}; [ "$OPSBOOK_TARGET" != web1 ]')
    assert marks(folder, "n") == ["web1"]


def test_a_call_made_while_the_run_stops_sends_nothing_whoever_is_quarantined(notebook, folder):
    notebook.fleet().run('[ "$OPSBOOK_TARGET" != web2 ]', max_fail=1)
    notebook.session.stopping = True
    with pytest.raises(KeyboardInterrupt):
        notebook.fleet().run(mark(folder, "o"))
    assert marks(folder, "o") == []


def test_calls_from_several_threads_share_a_connection_without_losing_commands(notebook):
    results: list[str] = []

    def ask(number: int) -> None:
        result = notebook.fleet("web1").run(f"sleep 0.5; echo {number}", read_only=True)
        results.append(result["web1"].stdout.strip())

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(results, key=int) == [str(number) for number in range(12)]


def test_a_reboot_command_is_run_as_it_was_written(notebook, folder):
    command = f"touch '{folder}/with blank'"
    with pytest.raises(FleetError):
        notebook.fleet("web1").reboot(command=command, timeout="4s")
    assert (folder / "with blank").exists()
    assert "it never went down" in next(e.reason for e in notebook.events if type(e).__name__ == "TargetEnded")
    with pytest.raises(UsageError):
        notebook.fleet("web1").reboot(command=" ")
