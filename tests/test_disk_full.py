"""A full disk at every size: a run is refused before anything ran, or its record is whole and says the truth."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Sshd
from support import LOAD, Desk, JsonObject, Ran, code

from opsbook.archive.journal import read_journal
from opsbook.model.event import Event, Intent, RunEnded, TargetEnded

needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can mount a small file system")
SIZES = [*range(4, 200, 4), *range(200, 520, 16), 1024]
"""In KiB, from one in which not even the claim fits to one in which everything does."""
EVERY = [*(f"size={size}k" for size in SIZES), *(f"nr_inodes={count}" for count in range(2, 24))]


@pytest.fixture
def desk(sshd: Sshd, tmp_path: Path) -> Iterator[Desk]:
    """Two targets that keep a line of each change that reached them, and a runbook that says more than fits."""
    sshd.inventory({"web1": "127.0.0.2", "web2": "127.0.0.3"}, tmp_path / "hosts.ini")
    made = Desk(tmp_path)
    made.write("opsbook.toml", 'inventory = ["hosts.ini"]\n')
    change = f"%%on web\necho {{}} $OPSBOOK_TARGET >> {tmp_path}/sent; head -c 8000 /dev/zero | tr '\\0' x"
    made.notebook(
        LOAD,
        code(change.format("first"), cell_id="first"),
        code("print('y' * 60_000)", cell_id="says"),
        code(change.format("second"), cell_id="second"),
    )
    (tmp_path / "archive").mkdir()
    yield made
    subprocess.run(["umount", "-l", str(tmp_path / "archive")], check=False, capture_output=True)


def mount(desk: Desk, limit: str) -> None:
    """Give the archive a disk of this size, or with this many files."""
    archive = desk.folder / "archive"
    subprocess.run(["umount", "-l", str(archive)], check=False, capture_output=True)
    line = ["mount", "-t", "tmpfs", "-o", f"{limit},mode=700", "tmpfs", str(archive)]
    done = subprocess.run(line, check=False, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")


def run_on(desk: Desk, limit: str) -> tuple[Ran, list[str]]:
    """Run on such a disk; return how that ended and what reached the targets."""
    mount(desk, limit)
    sent = desk.folder / "sent"
    sent.unlink(missing_ok=True)
    ran = desk.opsbook("run", "book.ipynb", "--json")
    return ran, sent.read_text().splitlines() if sent.exists() else []


def check(desk: Desk, ran: Ran, sent: list[str]) -> str:
    """Hold what has to be true at every size; return what happened in a word."""
    verified = desk.opsbook("archive", "verify")
    assert verified.code == 0, verified.out
    if not desk.runs():
        assert (ran.code, ran.out, sent) == (5, "", [])
        assert "disk" in ran.err
        return "refused"
    run = desk.run()
    record = run.record
    assert (record["exit_code"], ran.json["exit_code"]) == (ran.code, ran.code)
    assert ran.json["status"] == record["status"]
    assert not (run.folder / ".reserve").exists()
    if run.copies:
        assert run.notebook["nbformat"] == 4
    entries = list(read_journal(run.folder / "events.jsonl"))
    assert len(entries) == len((run.folder / "events.jsonl").read_bytes().splitlines())
    ended = entries[-1].event
    assert isinstance(ended, RunEnded)
    assert (ended.status, ended.exit_code, ended.reason) == (record["status"], ran.code, record["reason"])
    intended = [entry.event.target for entry in entries if isinstance(entry.event, Intent)]
    assert sorted(line.split()[1] for line in sent) == sorted(intended)
    _check_claims(record, [entry.event for entry in entries])
    if ran.code == 0:
        assert (record["status"], len(sent)) == ("succeeded", 4)
        return "succeeded"
    assert (ran.code, record["status"]) == (5, "failed"), record["reason"]
    assert "No space left" in record["reason"]
    states = {cell["id"]: cell["state"] for cell in record["cells"]}
    assert "running" not in states.values()
    assert states["first"] == "ok" or len(sent) < 4
    return f"failed after {len(sent)}"


def _check_claims(record: JsonObject, events: list[Event]) -> None:
    """The record calls no change done, or failed, that the journal knows no end of: a resumed run goes by that."""
    known = {(event.call, event.target) for event in events if isinstance(event, TargetEnded)}
    sent = {(event.call, event.target) for event in events if isinstance(event, Intent)}
    unknown = {target for _, target in sent - known}
    states = {name: result["state"] for name, result in record["targets"]["results"].items()}
    assert {name for name in unknown if states[name] != "lost"} == set()


@needs_root
@pytest.mark.parametrize(
    ("limit", "comes_to"),
    [
        ("size=8k", "refused"),
        ("size=60k", "refused"),
        ("nr_inodes=8", "refused"),
        ("size=120k", "failed"),
        ("size=180k", "failed"),
        ("size=1024k", "succeeded"),
    ],
)
def test_on_a_full_disk_a_run_is_refused_or_tells_the_truth(desk: Desk, limit: str, comes_to: str) -> None:
    assert check(desk, *run_on(desk, limit)).split()[0] == comes_to


FILL = """
with open("archive/other", "wb", buffering=0) as other:
    try:
        while other.write(b"x" * 4096):
            pass
    except OSError as full:
        print(full)
"""


@needs_root
def test_the_last_words_fit_where_others_have_taken_all_the_rest(desk: Desk) -> None:
    desk.notebook(code(FILL, cell_id="first"), code("1", cell_id="second"))
    ran, sent = run_on(desk, "size=512k")
    assert check(desk, ran, sent) == "failed after 0"
    assert desk.run().states["first"] == "ok"
    assert desk.run().copies, "nothing had to be given up for it"
    assert len(desk.folder.joinpath("archive/chain.jsonl").read_bytes().splitlines()) == 2


@needs_root
@pytest.mark.soak
def test_at_every_size_of_a_disk_a_run_is_refused_or_tells_the_truth(desk: Desk) -> None:
    seen = [(limit, check(desk, *run_on(desk, limit))) for limit in EVERY]
    sys.stdout.writelines(f"{limit:12}  {what}\n" for limit, what in seen)
    assert {what for _, what in seen} >= {"refused", "succeeded", "failed after 2"}
