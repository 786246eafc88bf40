"""Runs are selected and counted by what is known of them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from past_runs import NOON, cell, write_run

from opsbook.archive.catch_up import ask_archive
from opsbook.archive.query import Between
from opsbook.archive.selection import Selection, select_runs, total_up

pytest_plugins = ["search_desk"]


def test_runs_are_selected_by_what_is_known_of_them(root: Path) -> None:
    write_run(root, cell("1"), tail=2, at=NOON + timedelta(days=1), checking=True, targets=("db[1]",))

    def ids(**meant: object) -> list[str]:
        selection = Selection(**meant)  # type: ignore[arg-type]
        names = ask_archive(root, lambda index: select_runs(index, selection, limit=10))
        return [f"{name.split('-')[1]}{name[-1]}" for name in names]

    assert ids() == ["patch2", "patch1", "certs1"]
    assert ids(runbook="patch") == ["patch2", "patch1"]
    assert ids(statuses=("failed", "lost")) == ["patch1"]
    assert ids(target="web1") == ["patch1", "certs1"]
    assert ids(target="db[1]") == ["patch2"]
    assert ids(target="db*") == ["patch2", "patch1"]
    assert ids(user="leo", target="web1") == ["certs1"]
    assert ids(user="l*") == ["certs1"]
    assert ids(user="l?*") == ids(user="[l]*") == ids(user="le?") == []
    assert ids(parameters=(("stack", "prod"), ("days", "30"))) == ["patch1"]
    assert ids(parameters=(("stack", "prod"), ("days", "31"))) == []
    assert ids(between=Between(since=NOON.timestamp())) == ["patch2", "patch1"]
    assert ids(between=Between(until=NOON.timestamp())) == ["certs1"]


def test_totals_count_no_dry_runs_and_take_the_median_of_what_went_well(root: Path) -> None:
    for tail, seconds in ((2, 10.0), (3, 20.0), (4, 90.0)):
        write_run(root, tail=tail, at=NOON + timedelta(days=tail), duration_s=seconds, user="leo")
    write_run(root, tail=5, at=NOON + timedelta(days=9), checking=True)
    certs, patch = ask_archive(root, lambda index: total_up(index, Selection()))
    assert (certs.runbook, certs.runs, certs.success_rate) == ("certs", 1, 1.0)
    assert (patch.runs, patch.succeeded, patch.success_rate, patch.median_s) == (4, 3, 0.75, 20.0)
    assert patch.last_success == patch.last_run == datetime(2026, 11, 24, 12, tzinfo=UTC)
    assert patch.operators == ("leo", "maya")
    (failed,) = ask_archive(root, lambda index: total_up(index, Selection(statuses=("failed",))))
    assert (failed.success_rate, failed.median_s, failed.last_success) == (0.0, None, None)
