"""`opsbook resume` (SEMANTICS 16-22) through the command line, on real targets that count what was done on them."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import pytest
from conftest import Sshd
from support import LOAD, Desk, JsonObject, Ran, Run, code, finish, parameters, wait_for

NAMES = {f"web{number}": f"127.0.0.{number + 30}" for number in range(1, 4)}


@dataclass(frozen=True)
class Bench:
    """A desk, targets, and the marks they leave."""

    desk: Desk
    marks: Path

    def count(self, what: str) -> dict[str, int]:
        """How often something was done, by target."""
        found = {}
        for file in sorted(self.marks.glob(f"{what}-*")):
            found[file.name.removeprefix(f"{what}-")] = len(file.read_text().splitlines())
        return found

    def touch(self, name: str) -> None:
        (self.marks / name).touch()

    def run(self, *args: str | Path, **options: Any) -> Ran:
        return self.desk.opsbook("run", "book.ipynb", *args, **options)

    def resume(self, *args: str | Path, run: str = "last", yes: bool = True, **options: Any) -> Ran:
        return self.desk.opsbook("resume", run, *(["--yes"] if yes else []), *args, **options)

    @property
    def newest(self) -> Run:
        return self.desk.runs()[-1]


@pytest.fixture
def bench(sshd: Sshd, tmp_path: Path) -> Bench:
    desk = Desk(tmp_path)
    sshd.inventory(NAMES, tmp_path / "hosts.ini")
    desk.write("opsbook.toml", 'inventory = ["hosts.ini"]\n[locks]\npath = "locks"\n')
    (tmp_path / "marks").mkdir()
    return Bench(desk=desk, marks=tmp_path / "marks")


def mark(bench: Bench, what: str) -> str:
    """A line of shell that counts its runs on a target."""
    return f'echo run >> {bench.marks}/{what}-"$OPSBOOK_TARGET"'


def on(bench: Bench, what: str, *flags: str, more: str = "", cell_id: str = "") -> JsonObject:
    return code(f"%%on web {' '.join(flags)}\n{mark(bench, what)}\n{more}", cell_id=cell_id or what)


def unless(bench: Bench, name: str, *, on_target: str = "") -> str:
    """A line of shell that fails until a mark is there, on one target or on all."""
    here = f'[ "$OPSBOOK_TARGET" != {on_target} ] || ' if on_target else ""
    return f"{here}[ -e {bench.marks}/{name} ]"


def test_what_is_done_is_not_sent_again_and_what_failed_is(bench):
    bench.desk.notebook(
        LOAD,
        on(bench, "patch"),
        on(bench, "check", "--max-fail 1", more=unless(bench, "mended", on_target="web2")),
        code("print('told')", cell_id="local"),
        on(bench, "stop", more=unless(bench, "mended", on_target="web1")),
        on(bench, "after"),
    )
    first = bench.run()
    assert first.code == 1
    assert bench.count("patch") == {"web1": 1, "web2": 1, "web3": 1}
    bench.touch("mended")
    second = bench.resume()
    assert second.code == 1, second.err  # web2 failed in a cell that ended ok, and that is answered too
    assert "answered from before" in second.err
    assert bench.count("patch") == {"web1": 1, "web2": 1, "web3": 1}
    assert bench.count("check") == {"web1": 1, "web2": 1, "web3": 1}
    assert bench.count("stop")["web1"] == 2
    assert bench.count("after") == {"web1": 1, "web3": 1}
    old, new = bench.desk.runs()
    assert new.record["resumed_from"] == old.record["run_id"]


def kill_once(bench: Bench, holds: Callable[[], Any], *args: str) -> None:
    """Start a run, and kill its process once something holds."""
    process = bench.desk.fork("run", "book.ipynb", *args)
    wait_for(holds, seconds=60)
    process.send_signal(signal.SIGKILL)
    finish(process)


def test_a_command_nobody_saw_the_end_of_is_not_sent_again_until_somebody_says_so(bench):
    hang = f"[ -e {bench.marks}/mended ] || sleep 60"
    bench.desk.notebook(LOAD, on(bench, "first"), on(bench, "step", more=hang), on(bench, "after"))
    kill_once(bench, lambda: len(bench.count("step")) == 3)
    bench.touch("mended")
    asked = bench.resume("--json")
    assert asked.code == 6, asked.err
    assert asked.json["status"] == "lost"
    assert "nobody knows how" in asked.json["reason"]
    assert "on web1-web3 ended, begun 20" in asked.json["reason"]
    assert "--resend-lost" in asked.json["reason"]
    assert set(bench.count("step").values()) == {1}
    done = bench.resume("--resend-lost")  # the newest run, which came no further: what it does not know, the first does
    assert done.code == 0, done.err
    assert [set(bench.count(what).values()) for what in ("first", "step", "after")] == [{1}, {2}, {1}]


def test_a_durable_command_is_asked_for_and_a_put_and_an_idempotent_one_are_done_again(bench):
    work = f"while [ ! -e {bench.marks}/mended ]; do sleep 0.2; done; echo said"
    bench.desk.notebook(
        LOAD,
        on(bench, "durable", "--durable", "--timeout 60s", more=work, cell_id="durable"),
        on(bench, "again", "--idempotent", more=f"[ -e {bench.marks}/over ] || sleep 60", cell_id="again"),
    )
    kill_once(bench, lambda: len(bench.count("durable")) == 3)
    bench.touch("mended")
    process = bench.desk.fork("resume", "last", "--yes")
    wait_for(lambda: len(bench.count("again")) == 3, seconds=60)
    process.send_signal(signal.SIGKILL)
    finish(process)
    bench.touch("over")
    done = bench.resume()
    assert done.code == 0, done.err
    assert set(bench.count("durable").values()) == {1}
    assert set(bench.count("again").values()) == {2}
    assert "said" in bench.newest.output("durable")


def test_a_run_is_resumed_at_most_once_and_only_when_there_is_something_to_go_on_with(bench):
    stopped = on(bench, "stop", more=unless(bench, "mended"))
    bench.desk.notebook(LOAD, code("seen = 1", cell_id="local"), stopped)
    assert bench.run("--check").code == 0
    assert "was a dry run" in bench.resume().err
    assert bench.run().code == 1
    (first,) = (run.record["run_id"] for run in bench.desk.runs() if not run.record["checking"])
    bare = bench.resume(run=first, yes=False)
    assert bare.code == 3
    assert "local Python runs again (before the stop: seen = 1)" in bare.err
    bench.touch("mended")
    before = bench.count("stop")
    racers = [bench.desk.fork("resume", first, "--yes") for _ in range(3)]
    ends = sorted(finish(racer).code for racer in racers)
    assert ends[0] == 0
    assert set(ends[1:]) <= {3, 75}
    assert bench.count("stop") == {name: before.get(name, 0) + 1 for name in NAMES}
    newer = bench.newest.record["run_id"]
    again = bench.resume(run=first)
    assert again.code == 3
    assert f"was resumed already, by {newer}" in again.err
    over = bench.resume(run=newer)
    assert (over.code, "succeeded: there is nothing to go on with" in over.err) == (2, True)
    assert f"run {newer} goes on with it" in bench.desk.opsbook("show", first).out
    assert first in bench.desk.opsbook("show", newer).out
    bench.desk.opsbook("exec", "web", "--", "false")
    assert "was one command" in bench.resume().err
    bench.desk.notebook(LOAD, on(bench, "some", "--max-fail 1", more=unless(bench, "never", on_target="web1")))
    assert bench.run().code == 1
    through = bench.resume()
    assert (through.code, "ended ok: there is nothing to go on with" in through.err) == (2, True)
    with (bench.newest.folder / "events.jsonl").open("rb+") as journal:  # as if it was killed before it could say so
        journal.truncate(len(journal.read().rpartition(b"\n{")[0]) + 1)
    record = bench.newest.folder / "run.json"
    record.write_bytes(record.read_bytes().replace(b'"status":"failed"', b'"status":"running"', 1))
    assert bench.resume().code == 1
    assert bench.count("some")["web2"] == 1


def test_what_was_changed_since_is_refused_before_the_stop_and_used_behind_it(bench, sshd):
    def book(first: str = "x = 1", last: str = "false") -> None:
        bench.desk.notebook(
            LOAD, code(first, cell_id="first"), on(bench, "done"), code(f"%%on web\n{last}", cell_id="last")
        )

    book()
    assert bench.run().code == 1
    old = bench.newest.record["run_id"]
    journal, record = bench.newest.folder / "events.jsonl", bench.newest.folder / "run.json"
    for file, sound, broken, why in (
        (journal, b'"web1"', b'"web9"', "the journal of run"),
        (record, b'"schema":1', b'"schema":2', "was written by a newer opsbook"),
        (record, b'"schema"', b"schema", "is damaged"),
    ):
        whole = file.read_bytes()
        file.write_bytes(whole.replace(sound, broken, 1))
        damaged = bench.resume(run=old)
        assert (damaged.code, why in damaged.err) == (2, True), damaged.err
        file.write_bytes(whole)
    journal.write_bytes(journal.read_bytes() + b'{"seq":')  # torn, as by a crash: what is before it holds
    book(first="x = 2")
    refused = bench.resume()
    assert refused.code == 3
    assert 'were changed: "x = 2"' in refused.err or 'were changed: "x = 1"' in refused.err
    sshd.inventory({**NAMES, "web2": "127.0.0.99"}, bench.desk.folder / "hosts.ini")
    book(last="true")
    moved = bench.resume()
    assert (moved.code, "another address for web2" in moved.err) == (3, True)
    sshd.inventory({name: place for name, place in NAMES.items() if name != "web2"}, bench.desk.folder / "hosts.ini")
    gone = bench.resume()
    assert (gone.code, "not in the inventory any more: web2" in gone.err) == (3, True)
    assert bench.resume("--drop-missing", run=old).code == 0
    assert bench.count("done") == {"web1": 1, "web2": 1, "web3": 1}
    notes = " ".join(bench.newest.record["notes"])
    assert "gone from the inventory (--drop-missing): web2" in notes
    assert "changed since" in notes


def test_a_text_that_varies_is_refused_before_anything_is_sent(bench):
    bench.desk.notebook(
        LOAD,
        code(
            f"""
            import os
            web = targets("web")
            web.run(f"echo run >> {bench.marks}/deploy-$OPSBOOK_TARGET; : {{os.getpid()}}")
            web.run("{unless(bench, "mended")}")
            """,
            cell_id="deploy",
        ),
    )
    assert bench.run().code == 1
    bench.touch("mended")
    refused = bench.resume("--json")
    assert (refused.code, refused.json["status"]) == (3, "refused")
    assert "line 3 of" in refused.json["reason"]
    assert set(bench.count("deploy").values()) == {1}
    assert bench.resume("--accept-changes").code == 0
    assert set(bench.count("deploy").values()) == {2}


def test_facts_functions_gates_and_secrets_are_as_they_were(bench):
    counter = bench.desk.folder / "called"
    bench.desk.notebook(
        LOAD,
        parameters('token: Secret = "env:TOKEN"\nstack: str = "dev"'),
        code("print('sure')", "confirm", cell_id="gate"),
        code(
            f"""
            web = targets("web")
            fact = web.run("date +%N", read_only=True)
            hidden = web.run('echo "is $T"', read_only=True, env={{"T": token}}, check=False)
            def count():
                with open({str(counter)!r}, "a") as file:
                    file.write("called ")
                return {{"ticket": 7}}
            ticket = once("ticket", count)
            print(stack, ticket, *(one.stdout.strip() for one in fact))
            """,
            cell_id="facts",
        ),
        code("if hidden['web1'].ok:\n    print(hidden['web1'].stdout)", cell_id="reads"),
        on(bench, "stop", more=unless(bench, "mended")),
    )
    secret = {**bench.desk.environment, "TOKEN": "swordfish"}
    first = bench.run("-p", "stack=prod", "--yes", env=secret)
    assert first.code == 1, first.err
    facts = bench.newest.output("facts")
    assert "prod {'ticket': 7} " in facts
    bench.touch("mended")
    second = bench.resume(env=secret)
    assert bench.newest.output("facts") == facts
    assert counter.read_text() == "called "
    answer = next(event for event in bench.newest.events("gate_answered"))
    assert answer["by"].startswith("run 2")
    assert second.code == 0, second.err
    assert bench.newest.output("reads").startswith("is ")  # asked again: what was masked is not what the target said
    assert sum(event.get("digest") == "" for event in bench.newest.events("target_ended")) == 1
    assert "swordfish" not in bench.newest.folder.joinpath("events.jsonl").read_text()


def test_a_cell_that_is_tried_again_does_again_only_what_failed(bench):
    twice = f'[ $(wc -l < {bench.marks}/flaky-"$OPSBOOK_TARGET") -ge 2 ]'
    work = f"""
    web = targets("web")
    fact = web.run("date +%N", read_only=True)["web1"].stdout.strip()
    web.run('''{mark(bench, "done")}''')
    print("asked", fact)
    web.run('''{mark(bench, "flaky")}; {twice}''', hard_stop=False, parallel=3)
    """
    bench.desk.notebook(LOAD, code(work, "retry:3", cell_id="work"), on(bench, "after"))
    ran = bench.run()
    assert ran.code == 0, ran.err
    assert set(bench.count("done").values()) == {1}
    assert set(bench.count("flaky").values()) == {2}
    assert set(bench.count("after").values()) == {1}  # nobody is left in quarantine
    attempts = len(bench.newest.events("cell_started")) - 2
    assert attempts > 1
    assert {event["replayed"] for event in bench.newest.events("target_ended")} == {True, False}


PROGRAMS = {
    "waves": """
        for wave in targets("web").waves("1,100%"):
            wave.run('''{mark}''')
            wave.run("true", read_only=True)
        """,
    "threads": """
        from concurrent.futures import ThreadPoolExecutor
        web = targets("web")
        with ThreadPoolExecutor(3) as pool:
            list(pool.map(lambda name: web.only([name]).run('''{mark}'''), web.names))
        """,
    "a tolerated failure": """
        web = targets("web")
        tried = web.run("exit 1", check=False)
        tried.failed.run('''{mark}''', include_failed=True)
        """,
}


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", PROGRAMS)
def test_runs_killed_at_any_moment_change_each_target_once(bench, name, seed):
    random = Random(seed)
    slow = f"{mark(bench, 'change')}; sleep 0.3; echo run >> {bench.marks}/ended-$OPSBOOK_TARGET"
    bench.desk.notebook(LOAD, code(PROGRAMS[name].format(mark=slow), cell_id="work"))
    flags, resent = list[str](), False
    for kills in range(12):
        begun = bool(bench.desk.runs())
        process = bench.desk.fork(*(["resume", "last", "--yes", *flags] if begun else ["run", "book.ipynb"]))
        with suppress(subprocess.TimeoutExpired):
            process.wait(random.uniform(1.0, 8.0) if kills < 6 else 60)
        process.send_signal(signal.SIGKILL)
        last = finish(process)
        if last.code == 0 or "nothing to go on with" in last.err:  # killed when all was said and done
            break
        flags = ["--resend-lost"] if last.code == 6 else []
        resent = resent or last.code == 6
    assert last.code == 0 or "succeeded: there is nothing" in last.err, last
    assert set(bench.count("change")) == set(NAMES)
    assert resent or set(bench.count("change").values()) == {1}
