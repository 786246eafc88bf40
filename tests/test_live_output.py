"""What a notebook without a runner shows of a call while it runs: seen on a real kernel's wire, driven by nbclient."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import nbformat
import pytest
from conftest import Sshd
from nbclient import NotebookClient
from support import LOAD, Desk, code, wait_for

from opsbook.errors import FleetError
from opsbook.fleet.fleet import Fleet
from opsbook.fleet.live import EVERY_S, FIRST_S, LINES, LiveOutput
from opsbook.fleet.session import Session
from opsbook.inventory.load import load
from opsbook.model.event import Event, TargetEnded
from opsbook.model.message import RunOptions

NAMES = {f"web{number}": f"127.0.0.{number + 10}" for number in range(1, 4)}
ESCAPES = r'printf "\033[31m%s says %s\033[0m\033]0;title\007\n" "$OPSBOOK_TARGET" "$n"'
UNTIL_SEEN = "until [ -e {gate} ]; do sleep 0.05; done"
"""Ends when the test has seen the call's live output: without any, the call would run into its time-out."""
CELLS = {
    "load": '%load_ext opsbook\nconnected = targets().run("true", read_only=True)',
    "short": 'quick = targets("web1").run("echo quick", read_only=True)\nquick',
    "took": "print(quick.duration_s)",
    "long": f"""
        kernel = targets().run('for n in $(seq 14); do {ESCAPES}; done; {UNTIL_SEEN}')
        print(kernel["web2"].stdout.count("says"))
    """,
    "on": f"%%on web --waves 1,100%\n{UNTIL_SEEN}; echo well",
    "last": f"targets('web1').run('{UNTIL_SEEN}; echo well')",
    "failed": f"targets().run('{UNTIL_SEEN}; echo working; echo oops >&2; exit 3')",
    "stopped": """
        import os, signal, threading, time
        def stop():
            while not os.path.exists("{gate}"):
                time.sleep(0.05)
            os.kill(os.getpid(), signal.SIGINT)
        threading.Thread(target=stop).start()
        targets("web1").run("sleep 20.375", include_failed=True)
    """,
}


class Client(NotebookClient):
    """nbclient, and everything the kernel published, by cell, with the time it was sent."""

    def __init__(self, *args: Any, folder: Path, **options: Any) -> None:
        super().__init__(*args, **options)
        self.folder = folder
        self.published: dict[str, list[tuple[float, str, str]]] = {}

    def process_message(self, msg: Any, cell: Any, cell_index: int) -> Any:
        kind, data = msg["msg_type"], msg["content"].get("data")
        text = data.get("text/plain", "") if isinstance(data, dict) else ""
        self.published.setdefault(cell["id"], []).append((msg["header"]["date"].timestamp(), kind, text))
        if "running" in text and (cell["id"] != "long" or "says 14" in text):
            (self.folder / f"seen-{cell['id']}").touch()
        return super().process_message(msg, cell, cell_index)


@pytest.fixture(scope="module")
def ran(sshd: Sshd, tmp_path_factory: pytest.TempPathFactory) -> Client:
    """A notebook that ran as it would in Jupyter: no runner, no channel."""
    folder = tmp_path_factory.mktemp("plain")
    cells = [code(text.replace("{gate}", f"{folder}/seen-{name}"), cell_id=name) for name, text in CELLS.items()]
    notebook = nbformat.from_dict({"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": cells})
    options = {"timeout": 90, "allow_errors": True, "resources": {"metadata": {"path": str(folder)}}}
    client = Client(notebook, folder=folder, **options)
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "OPSBOOK_INVENTORY": str(sshd.inventory(NAMES, folder / "hosts.ini")),
    }
    client.execute(env=environment)
    return client


def outputs(client: Client, cell_id: str) -> list[Any]:
    (cell,) = (cell for cell in client.nb.cells if cell.id == cell_id)
    return list(cell.outputs)


def shown(client: Client, cell_id: str) -> list[tuple[float, str]]:
    """What was displayed and replaced, with the time it was sent."""
    messages = client.published[cell_id]
    return [(at, text) for at, kind, text in messages if kind in {"display_data", "update_display_data"}]


def test_a_call_that_is_quickly_over_shows_its_result_alone(ran: Client) -> None:
    (took,) = outputs(ran, "took")
    assert float(took.text) > FIRST_S - EVERY_S or shown(ran, "short") == []
    assert outputs(ran, "short")[-1].output_type == "execute_result"


def test_the_last_lines_and_the_counts_are_shown_while_the_call_runs(ran: Client) -> None:
    *lines, counts = next(text for _, text in shown(ran, "long") if "says 14" in text).splitlines()
    assert len(lines) == LINES
    assert all(line.partition(" | ")[0] in NAMES for line in lines)
    assert counts.startswith("3 running · 0:0")


def test_what_targets_say_is_made_harmless_and_stays_on_its_line(ran: Client) -> None:
    text = next(text for _, text in shown(ran, "long") if "says 14" in text)
    for line in text.splitlines()[:-1]:
        name, said = line.split(" | ")
        assert said.startswith(f"{name} says ")
        assert said.endswith(r"\x1b]0;title\a")
    assert "\x1b" not in text


def test_the_display_is_taken_away_when_the_call_is_over(ran: Client) -> None:
    display, printed = outputs(ran, "long")
    assert display.data == {"text/plain": "", "text/html": ""}
    assert printed.text == "14\n"


def test_it_is_filled_at_most_four_times_a_second(ran: Client) -> None:
    for cell_id in ("long", "on", "failed"):
        times = [at for at, _ in shown(ran, cell_id)]
        assert len(times) - 2 <= (times[-1] - times[0]) / EVERY_S


def test_a_cell_of_waves_ends_as_one_table(ran: Client) -> None:
    (only,) = outputs(ran, "on")
    assert only.data["text/plain"].startswith("3 ok · 0:")
    assert "<table>" in only.data["text/html"]
    assert any("running" in text for _, text in shown(ran, "on"))


def test_a_result_at_the_end_of_a_cell_is_shown_once(ran: Client) -> None:
    live, result = outputs(ran, "last")
    assert live.data["text/plain"] == ""
    assert result.data["text/plain"].startswith("1 ok")


def test_the_table_of_a_failed_call_takes_the_place_of_what_was_live(ran: Client) -> None:
    table, error = outputs(ran, "failed")
    assert table.data["text/plain"].startswith("3 failed")
    assert error.ename == "FleetError"


def test_after_an_interrupt_the_counts_stay(ran: Client) -> None:
    counts, error = outputs(ran, "stopped")
    assert counts.data["text/plain"].startswith("1 cancelled · 0:0")
    assert error.ename == "KeyboardInterrupt"


def test_under_a_runner_a_copy_holds_the_table_and_nothing_else(sshd: Sshd, tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    inventory = sshd.inventory(NAMES, tmp_path / "hosts.ini")
    book = desk.notebook(LOAD, code("%%on web\necho begun; sleep 1.3; echo ended", cell_id="on"))
    assert desk.opsbook("run", book, "-i", inventory, "--quiet").code == 0
    (cell,) = (cell for cell in desk.run().notebook["cells"] if cell["id"] == "on")
    (only,) = cell["outputs"]
    assert "".join(only["data"]["text/plain"]).startswith("3 ok")


class Notebook:
    """A session in this process, with a display of the test's own."""

    def __init__(self, path: Path, display: Any) -> None:
        self.ended: list[str] = []
        options = RunOptions(connect_timeout_s=5, command_timeout_s=30)
        self.session = Session(inventory=load([path]), selected=None, options=options, channel=None)
        self.session.live.attach(display)
        self.session.show = self.session.live.show
        self._report = self.session.report
        self.session.report = self.report  # type: ignore[method-assign]
        self.fleet = Fleet(self.session, self.session.select(None))

    def report(self, event: Event) -> None:
        self._report(event)
        if isinstance(event, TargetEnded):
            self.ended.append(event.target)


class Output:
    """Keeps what is displayed, as a front end would."""

    def __init__(self) -> None:
        self.texts: list[Any] = []

    def __call__(self, value: Any, **options: Any) -> Output:
        self.texts.append(value)
        return self

    def update(self, value: Any, **options: Any) -> None:
        self.texts.append(value)


@pytest.fixture
def hosts(sshd: Sshd, tmp_path: Path) -> Path:
    return sshd.inventory(NAMES, tmp_path / "hosts.ini")


def test_a_display_that_hangs_holds_up_no_target(hosts: Path) -> None:
    waited = []
    seen = hosts.with_name("seen")

    def hang(value: Any, **options: Any) -> Output:
        seen.touch()
        wait_for(lambda: len(notebook.ended) == len(NAMES), seconds=25, what="the end of every target")
        waited.append(value)
        return Output()

    notebook = Notebook(hosts, hang)
    result = notebook.fleet.run(f"{UNTIL_SEEN.format(gate=seen)}; seq 300000", read_only=True)
    notebook.session.pool.close()
    assert len(waited) == 1
    assert {one.stdout.count("\n") for one in result} == {300_000}


def test_a_display_that_breaks_is_left_alone_and_the_call_goes_on(hosts: Path) -> None:
    tried = []
    seen = hosts.with_name("seen")

    def broken(value: Any, **options: Any) -> Output:
        tried.append(value)
        seen.touch()
        raise ConnectionError("the front end is gone")

    notebook = Notebook(hosts, broken)
    script = f"{UNTIL_SEEN.format(gate=seen)}; sleep 0.6"
    assert len(notebook.fleet.run(script, read_only=True).ok) == len(NAMES)
    notebook.session.pool.close()
    assert len(tried) == 1


def test_an_error_shows_its_table_where_the_live_view_cannot_be_replaced(hosts: Path) -> None:
    seen = hosts.with_name("seen")

    class Stuck(Output):
        def __call__(self, value: Any, **options: Any) -> Output:
            seen.touch()
            return super().__call__(value)

        def update(self, value: Any, **options: Any) -> None:
            raise ConnectionError("gone")

    output = Stuck()
    notebook = Notebook(hosts, output)
    with pytest.raises(FleetError):
        notebook.fleet.run(f"{UNTIL_SEEN.format(gate=seen)}; false", read_only=True)
    notebook.session.pool.close()
    assert repr(output.texts[-1]).startswith("3 failed")


def test_a_call_from_a_thread_of_the_authors_shows_nothing_live(hosts: Path) -> None:
    output = Output()
    notebook = Notebook(hosts, output)
    thread = threading.Thread(target=lambda: notebook.fleet.run("sleep 1.3", read_only=True))
    thread.start()
    thread.join(30)
    notebook.session.pool.close()
    assert len(notebook.ended) == len(NAMES)
    assert output.texts == []


def test_however_much_is_said_only_the_last_lines_are_kept(hosts: Path) -> None:
    live = LiveOutput()
    output = Output()
    live.attach(output)
    with live.one_output():
        live.begin()
        live.refresh("too early", seconds=FIRST_S / 2)
        live.said("web1", "x" * 5_000_000)
        live.said("web2", "".join(f"{number}\n" for number in range(100_000)))
        live.refresh("2 running", seconds=2)
    lines = output.texts[0]["text/plain"].splitlines()
    assert lines == [*(f"web2 | {number}" for number in range(100_000 - LINES, 100_000)), "2 running · 0:02"]
    assert output.texts[1]["text/plain"] == ""
