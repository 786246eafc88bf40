"""What a call gives back: results grouped and shown, whatever targets say; and all of it on disk, up to a limit."""

from __future__ import annotations

import hashlib
import html
import json
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import nbformat
import pytest
from conftest import Sshd
from rich.pretty import pretty_repr
from support import LOAD, Desk, code, wait_for

from opsbook.archive.layout import RunFolder
from opsbook.errors import ArchiveError
from opsbook.execution.host_logs import HostLogs
from opsbook.fleet.channel import ChannelClient
from opsbook.fleet.fleet import Fleet
from opsbook.fleet.result import FleetResult, TargetResult
from opsbook.fleet.session import Session
from opsbook.inventory.load import load
from opsbook.model.event import TargetEnded, TargetOutput
from opsbook.model.message import Cancel, RunOptions, Welcome
from opsbook.model.outcome import count_alike, explain, group_ended, telling_line
from opsbook.model.target import Become, Inventory, Target, TargetState

NAMES = {f"web{number}": f"127.0.0.{number + 10}" for number in range(1, 7)}
OK, FAILED = TargetState.OK, TargetState.FAILED
EVERY_BYTE = r'for n in $(seq 0 255); do printf "\\$(printf %03o "$n")"; done'
HUGE = 50 * 1024 * 1024


def targets(count: int) -> tuple[Target, ...]:
    return tuple(
        Target(name=f"web{number}", host=f"10.0.0.{number}", groups=("web",)) for number in range(1, count + 1)
    )


def session_of(*known: Target) -> Session:
    return Session(inventory=Inventory(targets=known), selected=None, options=RunOptions(), channel=None)


def results(*made: TargetResult) -> FleetResult:
    known = tuple(Target(name=one.target, host="10.0.0.1") for one in made)
    return FleetResult(Fleet(session_of(*known), known), made, duration_s=61)


def said(name: str, stdout: str, state: TargetState = OK, **more: object) -> TargetResult:
    return TargetResult(target=name, state=state, stdout=stdout, **more)


@pytest.fixture
def fleet(sshd: Sshd, tmp_path: Path) -> Iterator[Fleet]:
    inventory = load([sshd.inventory(NAMES, tmp_path / "hosts.ini")])
    session = Session(inventory=inventory, selected=None, options=RunOptions(), channel=None)
    yield Fleet(session, session.select(None))
    session.pool.close()


def test_targets_that_said_the_same_are_one_group_the_failed_first_then_the_largest(fleet: Fleet) -> None:
    result = fleet.run(
        'case "$OPSBOOK_TARGET" in web6) echo no such package >&2; exit 100;; web1|web3) echo 6.0;; *) echo 6.1;; esac',
        read_only=True,
        max_fail=1,
    )
    groups = [(group.names, group.state.value, group.detail, group.stdout) for group in result.groups()]
    assert groups == [
        (("web6",), "failed", "exit 100   no such package", ""),
        (("web2", "web4", "web5"), "ok", "", "6.1"),
        (("web1", "web3"), "ok", "", "6.0"),
    ]
    assert repr(result).splitlines()[0].endswith("· 3 hosts alike, 2 differ")
    assert "3 hosts alike, 2 differ" in result._repr_html_()


def test_events_of_a_journal_are_grouped_like_results() -> None:
    events = [TargetEnded(call=1, cell_id=None, target=name, state=OK, stdout="6.1\n") for name in ("web1", "web2")]
    events.append(TargetEnded(call=1, cell_id=None, target="db1", state=FAILED, exit_code=2, stderr="a\nb\n"))
    first, second = group_ended(events)
    assert (first.names, first.detail, first.stderr) == (("db1",), "exit 2   b", "a\nb")
    assert (second.names, second.stdout) == (("web1", "web2"), "6.1")


@pytest.mark.parametrize(
    ("outputs", "text"),
    [
        (["6.1", "6.1"], ""),
        (["6.1", "6.1", "6.0"], "2 hosts alike, 1 differs"),
        (["6.1", "6.1", "6.1 ", "6.0", "5.9"], "3 hosts alike, 2 differ"),
        (["6.1", "6.0", "5.9"], "3 hosts, no two alike"),
        ([], ""),
    ],
)
def test_the_headline_says_how_many_are_alike(outputs: list[str], text: str) -> None:
    made = [said(f"web{number}", output) for number, output in enumerate(outputs)]
    assert count_alike(group_ended(made)) == text
    assert count_alike(group_ended([*made, said("db1", "else", FAILED)])) == text


def test_what_a_failed_target_said_on_stderr_is_shown() -> None:
    why = "reading\nE: lock is held\nE: giving up\n"
    result = results(said("web1", "begin", FAILED, exit_code=100, stderr=why), said("web2", "fine", stderr="a warning"))
    text = repr(result)
    assert "failed  web1  exit 100   E: giving up" in text
    assert "          begin\n          stderr | reading\n          stderr | E: lock is held" in text
    assert "a warning" not in text
    assert "stderr | E: lock is held" in result._repr_html_()


def test_a_group_whose_members_differ_on_stderr_says_whose_it_shows() -> None:
    made = [said(name, "", FAILED, exit_code=1, stderr=f"pid {name}\nno\n") for name in ("web1", "web2")]
    (group,) = group_ended(made)
    assert (group.names, group.stderr_alike) == (("web1", "web2"), False)
    assert "web1 stderr | pid web1" in repr(results(*made))


def test_a_target_that_is_ok_and_spoke_on_stderr_alone_is_heard() -> None:
    made = [said("web1", "", stderr="syntax is ok\n"), said("web2", "", stderr="syntax is ok\n"), said("web3", "")]
    text = repr(results(*made))
    assert "ok  web1, web2\n      stderr | syntax is ok" in text
    assert "2 hosts alike, 1 differs" in text


def test_one_result_shows_itself_briefly() -> None:
    one = said("web1", "x\n" * 5000, FAILED, exit_code=3, stderr="no\n", duration_s=1.26)
    lines = repr(one).splitlines()
    assert lines[0] == "web1: failed  exit 3   no  1.3 s"
    assert len(lines) == 14
    assert "    … 4988 lines …" in lines
    assert repr(said("web1", "6.1\n")) == "web1: ok  0.0 s\n    6.1"


def test_what_acts_on_a_terminal_is_spelled_out_in_a_table() -> None:
    nasty = "\x1b[31mred\x1b[0m \x1b]0;title\x07 \u202ereversed\r\n<b>bold</b>\x00\r50%\r60%\n"
    result = results(said("we\x1bb1", nasty, FAILED, reason="why\x07\x1b[2J"))
    for shown in (repr(result), result._repr_html_(), repr(result["we\x1bb1"])):
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", shown)
    assert r"red \x1b]0;title\a \u202ereversed" in repr(result)
    assert r"&lt;b&gt;bold&lt;/b&gt;\x00\r50%\r60%" in result._repr_html_()


def test_a_table_stays_small_however_many_say_however_much() -> None:
    made = [said(f"web{number}", f"{number} {'x' * 50_000}\n" * 2) for number in range(200)]
    result = results(*made)
    assert "what 150 more targets said is not shown here" in repr(result)
    assert "web199" in repr(result)
    assert len(repr(result)) + len(result._repr_html_()) < 400_000


def test_long_output_is_folded_and_what_few_say_differently_is_compared() -> None:
    plain = [f"setting{number} yes" for number in range(40)]
    other = ["setting7 no" if line == "setting7 yes" else line for line in plain]
    made = [said(f"web{number}", "\n".join(plain)) for number in range(3)]
    shown = results(*made, said("web9", "\n".join(other)))._repr_html_()
    assert shown.count("<details><summary>40 lines</summary>") == 2
    assert "<summary>differs from most</summary>" in shown
    assert "-setting7 yes\n+setting7 no\n" in html.unescape(shown)
    assert "differs from most" not in results(said("web1", "6.1"), said("web2", "6.0"))._repr_html_()


def test_a_result_says_when_more_was_said_than_is_kept() -> None:
    result = results(said("web1", "a\n" * 50, truncated=True))
    assert "(more was said than is kept here: only its beginning and its end)" in repr(result)
    assert "more was said than is kept" in result._repr_html_()
    assert "38 lines" not in repr(result)


def test_last_words_that_are_a_book_are_cut() -> None:
    book = said("web1", "", FAILED, exit_code=1, stderr="x" * 2_000_000)
    assert len(telling_line(FAILED, "", book.stderr)) < 600
    assert len(explain(book)) < 600


def test_no_password_is_shown_with_a_target() -> None:
    target = Target(
        name="web1",
        host="10.0.0.1",
        user="ops",
        password="inline:hunter22",
        become=Become(always=True, password="inline:hunter23"),
        groups=("web",),
        vars={"role": "edge", "token": "hunter24"},
    )
    shown = Fleet(session_of(target), [target])
    texts = (repr(target), str(target), f"{target}", pretty_repr(target), repr([target.become]), shown._repr_html_())
    assert not [text for text in texts if "hunter2" in text]
    assert repr(target) == (
        "Target(name='web1', host='10.0.0.1', user='ops', password='***',"
        " become=Become(always=True, password='***'), groups=('web',), vars=('role', 'token'))"
    )
    assert repr(Target(name="web1", host="10.0.0.1")) == "Target(name='web1', host='10.0.0.1')"
    assert msgspec.json.decode(msgspec.json.encode(target), type=Target) == target


def test_a_fleet_shows_where_its_targets_are() -> None:
    known = targets(23)
    shown = Fleet(session_of(*known), known)._repr_html_()
    assert "<p>23 targets</p>" in shown
    assert "10.0.0.20:22" in shown
    assert "10.0.0.21:22" not in shown
    assert "… and 3 more" in shown
    assert Fleet(session_of(), [])._repr_html_().startswith("<p>no targets</p>")


@pytest.fixture(scope="module")
def loud(sshd: Sshd, tmp_path_factory: pytest.TempPathFactory) -> Desk:
    """One run: a target that says every byte there is, and one that says 50 MB."""
    desk = Desk(tmp_path_factory.mktemp("loud"))
    inventory = sshd.inventory(NAMES, desk.folder / "hosts.ini")
    peak = "import resource; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    book = desk.notebook(
        LOAD,
        code(f'%%on web1,web3 --read-only\n[ "$OPSBOOK_TARGET" = web1 ] || exec >&2\n{EVERY_BYTE}', cell_id="bytes"),
        code(peak, cell_id="before"),
        code(f"%%on web2 --read-only\nseq -f '%063.0f' {HUGE // 64}", cell_id="huge"),
        code(peak, cell_id="after"),
    )
    done = desk.opsbook("run", book, "-i", inventory)
    assert done.code == 0, done.err
    return desk


def test_every_byte_survives_in_the_log_and_as_text_wherever_else_it_goes(loud: Desk) -> None:
    run = loud.run()
    expected = bytes(range(256)).decode("utf-8", "replace")
    ended = {event["target"]: event for event in run.events("target_ended")}
    assert ended["web1"]["stdout"] == ended["web3"]["stderr"] == expected
    for name in ("web1", "web3"):
        assert (run.folder / f"hosts/{name}.log").read_bytes() == bytes(range(256))
    assert run.record["status"] == "succeeded"
    nbformat.validate(nbformat.reads(run.copy.read_text(), as_version=4))
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", run.output("bytes"))
    assert r"\x00\x01" in run.output("bytes")


def test_all_that_a_target_said_is_in_its_log(loud: Desk) -> None:
    expected = hashlib.sha256(b"".join(b"%063d\n" % number for number in range(1, HUGE // 64 + 1)))
    with (loud.run().folder / "hosts/web2.log").open("rb") as log:
        assert hashlib.file_digest(log, "sha256").hexdigest() == expected.hexdigest()


def test_of_much_output_little_is_kept_elsewhere(loud: Desk) -> None:
    run = loud.run()
    sizes = {
        file.name: file.stat().st_size for file in (run.folder / "run.json", run.folder / "events.jsonl", run.copy)
    }
    assert sizes.pop("events.jsonl") < 3_000_000
    assert max(sizes.values()) < 50_000
    assert "more was said than is kept here" in run.output("huge")
    (ended,) = (event for event in run.events("target_ended") if event["target"] == "web2")
    assert ended["truncated"] is True
    assert int(run.output("after")) - int(run.output("before")) < 64 * 1024  # KiB


def test_host_logs_end_at_the_limit_of_a_run_and_the_record_says_so(sshd: Sshd, tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    limit = "import opsbook.execution.host_logs as logs\nlogs.HOST_LOGS = 200 * 1024\n"
    notice = desk.folder / "site/sitecustomize.py"
    notice.write_text(f"{notice.read_text()}\n{limit}")
    book = desk.notebook(LOAD, code("%%on web1 --read-only\nseq -f '%063.0f' 5000", cell_id="on"))
    inventory = sshd.inventory(NAMES, tmp_path / "hosts.ini")
    done = desk.opsbook("run", book, "-i", inventory)
    assert done.code == 0
    run = desk.run()
    sentence = "the host logs of this run have reached 200 KiB"
    assert run.record["notes"] == [f"{sentence}: what web1 said after that is not kept"]
    assert sentence in done.out + done.err
    log = (run.folder / "hosts/web1.log").read_text().splitlines()
    assert log[-1] == f"[opsbook: {sentence}; what came from here on is not kept]"
    assert log[:-1] == [f"{number:063d}" for number in range(1, 3201)]


def test_the_limit_of_host_logs_is_one_for_all_of_them(tmp_path: Path) -> None:
    folder = RunFolder(run_id="20261120T113958Z-patch-7f3a2c", path=tmp_path)
    (tmp_path / "hosts").mkdir()
    logs = HostLogs(folder, most=100)

    def say(target: str, text: str) -> None:
        logs.append([TargetOutput(call=1, target=target, stream="stdout", text=text)])

    say("web1", "ä" * 39 + "\n")
    assert logs.note == ""
    say("web2", "one\n" + "x" * 40 + "\n")
    say("web2", "later\n")
    say("web1", "again\n")
    say("web3", "new\n")
    cut = "[opsbook: the host logs of this run have reached 100 B; what came from here on is not kept]\n"
    assert folder.host_log("web1").read_text() == "ä" * 39 + "\n" + cut
    assert folder.host_log("web2").read_text() == "one\n" + cut
    assert folder.host_log("web3").read_text() == cut
    assert logs.note == "the host logs of this run have reached 100 B: what web1-web3 said after that is not kept"


def test_a_host_log_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    logs = HostLogs(RunFolder(run_id="20261120T113958Z-patch-7f3a2c", path=tmp_path), most=100)
    with pytest.raises(ArchiveError, match="host log"):
        logs.append([TargetOutput(call=1, target="web1", stream="stdout", text="x\n")])


def test_a_runner_that_reads_slowly_holds_up_the_targets_and_costs_no_memory() -> None:
    ours, theirs = socket.socketpair()
    welcome = Welcome(ticket=1, run_id="r", inventory=None, selected=(), limited=False)
    with ours, ours.makefile("rb") as lines:
        greeter = threading.Thread(
            target=lambda: (lines.readline(), ours.sendall(msgspec.json.encode(welcome) + b"\n"))
        )
        greeter.start()
        client = ChannelClient(theirs)
        greeter.join(10)
        reported: list[int] = []
        cancelled: list[bool] = []

        def report() -> None:
            for number in range(1000):
                client.report(TargetOutput(call=1, target="web1", stream="stdout", text=f"{number:<63}\n" * 1024))
                reported.append(number)

        reporter = threading.Thread(target=report)
        reporter.start()
        wait_for(lambda: len(reported) > 100, what="the queue to fill")
        stopped_at = -1
        while stopped_at != len(reported):
            stopped_at = len(reported)
            reporter.join(0.5)
        assert stopped_at < 170  # of 64 KiB each: 8 MiB that wait, 1 MiB on its way, and what the socket takes
        client.on_cancel(lambda hard: cancelled.append(hard) or True)
        ours.sendall(msgspec.json.encode(Cancel(hard=True)) + b"\n")
        wait_for(lambda: cancelled, what="the cancel")
        reporter.join(0.5)
        messages = [json.loads(lines.readline()) for _ in range(1001)]
        answer = next(number for number, message in enumerate(messages) if message["type"] == "cancelling")
        assert answer < 60  # ahead of all that was not on its way already
        del messages[answer]
        assert [int(message["event"]["text"][:63]) for message in messages] == list(range(1000))
        reporter.join(10)
        assert len(reported) == 1000
        ours.shutdown(socket.SHUT_RDWR)
        wait_for(lambda: client._lost, what="the end of the channel")
    client._sock.close()
