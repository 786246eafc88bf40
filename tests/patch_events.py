"""The events of a patch run, and what is shown of them."""

from datetime import UTC, datetime, timedelta

from opsbook.model.event import (
    CallEnded,
    CallStarted,
    CellEnded,
    CellStarted,
    Entry,
    Intent,
    RunStarted,
    TargetEnded,
    TargetOutput,
)
from opsbook.model.run import CellRecord, CellState
from opsbook.model.target import TargetState
from opsbook.report.progress import PlainProgress
from opsbook.report.screen import screen
from opsbook.report.state import Progress

AT = datetime(2026, 11, 20, 11, 39, 58, tzinfo=UTC)
RUN_ID = "20261120T113958Z-patch-7f3a2c"
WEB = tuple(f"web{n:02}" for n in range(1, 19))
DB = tuple(f"db{n:02}" for n in range(1, 7))
WAVES = (WEB[:1], WEB[1:7], (*WEB[7:], *DB))
LOCK = "Reading package lists...\nE: Could not get lock /var/lib/dpkg/lock-frontend\n\n"
CELLS = tuple(
    CellRecord(id=key, index=number, label=label, tags=(tag,) if tag else ())
    for number, (key, label, tag) in enumerate(
        [
            ("params", "Parameters", "parameters"),
            ("check1", "Check the errata", ""),
            ("check2", "Check the errata", ""),
            ("announce", "Announce", "confirm"),
            ("update", "Update the packages", ""),
            ("reboot", "Reboot what needs it", ""),
            ("silence", "Silence off", "always"),
        ]
    )
)
STARTED = RunStarted(
    run_id=RUN_ID,
    title="Patch a stack of servers",
    runbook="runbooks/patch.ipynb",
    parameters={"stack": "prod"},
    pattern="prod",
    selected=(*WEB, *DB),
    cells=CELLS,
)


def entry(seconds, event, seq=1):
    return Entry(seq=seq, at=AT + timedelta(seconds=seconds), prev="0" * 64, event=event)


def wave(number, *, cell_id="update", **more):
    return CallStarted(
        call=number, cell_id=cell_id, kind="run", text="apt-get -qy upgrade", targets=WAVES[number - 1], wave=number,
        waves=3, **more,
    )  # fmt: skip


def ended(call, target, state=TargetState.OK, **more):
    return TargetEnded(call=call, cell_id="update", target=target, state=state, **more)


def output(call, target, text):
    return TargetOutput(call=call, target=target, stream="stdout", text=text)


def ran(cell_id, start, seconds):
    done = CellEnded(cell_id=cell_id, state=CellState.OK, duration_s=seconds)
    return [entry(start, CellStarted(cell_id=cell_id)), entry(start + seconds, done)]


def to_the_third_wave():
    """Two waves are done; in the third, one is done, two have failed, two are at work and twelve are waiting."""
    entries = [entry(0, STARTED), *ran("params", 0, 0.1), *ran("check1", 0.1, 2), *ran("check2", 2.1, 1.9)]
    entries += [*ran("announce", 4, 1), entry(5, CellStarted(cell_id="update"))]
    for number in (1, 2):
        entries.append(entry(5 + number, wave(number)))
        entries += [entry(6 + number, ended(number, name, duration_s=127)) for name in WAVES[number - 1]]
        entries.append(entry(6 + number, CallEnded(call=number, cell_id="update")))
    entries.append(entry(10, wave(3)))
    entries.append(entry(11, Intent(call=3, cell_id="update", target="web09", digest="d", kind="run")))
    entries.append(entry(12, output(3, "web08", "Reading database ...\n")))
    entries.append(entry(13, ended(3, "web08")))
    entries += [entry(14, ended(3, name, TargetState.FAILED, exit_code=100, stderr=LOCK)) for name in ("db02", "db03")]
    entries.append(entry(20, output(3, "web11", "Setting up libssl3 (3.0.17) ...\n10%\r\x1b[32m20%\x1b[0m\n")))
    return entries


def folded(entries):
    progress = Progress()
    for one in entries:
        progress.apply(one)
    return progress


def shown(entries, *, at, width=80, height=40):
    lines = screen(folded(entries), now=AT + timedelta(seconds=at), width=width, height=height)
    return [line.plain.rstrip() for line in lines]


def logged(entries):
    lines = []
    log = PlainProgress(lines.append)
    for one in entries:
        log.observe(one)
    log.close()
    return lines
