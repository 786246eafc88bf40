"""Which runs a person means, by what is known of them, and what they come to by runbook; answered by the index."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from datetime import UTC, datetime

from msgspec import Struct

from opsbook.archive.index import Index
from opsbook.archive.index_items import BOOK, DAMAGED, PRIVATE, RUN
from opsbook.archive.index_text import DOC_BITS
from opsbook.archive.query import And, Between, Exact, Or, Param, Query
from opsbook.archive.question import make_question
from opsbook.model.run import RunState

STATUSES = (*(state.value for state in RunState), DAMAGED, PRIVATE)
"""What a run's status may be."""
_EVERY = -1
"""As many as there are."""


class Selection(Struct, frozen=True, kw_only=True):
    """What runs are to be like; `*` in a name or a value stands for anything, and what is empty for all."""

    statuses: tuple[str, ...] = ()
    runbook: str = ""
    target: str = ""
    user: str = ""
    parameters: tuple[tuple[str, str], ...] = ()
    between: Between = Between()

    @property
    def is_all(self) -> bool:
        """Whether it means every run."""
        return self == Selection()

    @property
    def query(self) -> Query:
        """The same as a query."""
        named = {"runbook": self.runbook, "target": self.target, "user": self.user}
        statuses = tuple(Exact(field="status", value=status) for status in self.statuses)
        return And(
            parts=(
                self.between,
                *([Or(parts=statuses)] if statuses else []),
                *(Exact(field=field, value=value) for field, value in named.items() if value),
                *(Param(name=name, value=value) for name, value in self.parameters),
            )
        )


class Totals(Struct, frozen=True, kw_only=True):
    """What the runs of one runbook come to. A dry run, and one of a part, counts as none of them."""

    runbook: str
    runs: int
    running: int
    succeeded: int
    success_rate: float | None
    """Of the runs that have ended, from 0 to 1; None when there is none."""
    median_s: float | None
    """Seconds a success took."""
    last_success: datetime | None
    last_run: datetime
    operators: tuple[str, ...]
    """Who ran it, the most frequent first."""


def select_runs(index: Index, selection: Selection, *, limit: int) -> list[str]:
    """Return the ids of the newest runs that are meant."""
    question = make_question(selection.query, kind=RUN)
    sql = f"SELECT name FROM items WHERE key IN (SELECT doc >> {DOC_BITS} FROM ({question.sql})) ORDER BY key DESC"  # noqa: S608
    return [name for (name,) in index.rows(sql, *question.values, limit)]


def total_up(index: Index, selection: Selection) -> list[Totals]:
    """Return the totals of the runbooks whose runs are meant, by name."""
    question = make_question(selection.query, kind=RUN)
    meant = f" AND key IN (SELECT doc >> {DOC_BITS} FROM ({question.sql}))"  # noqa: S608  its text is ours alone
    meant, values = ("", ()) if selection.is_all else (meant, (*question.values, _EVERY))
    sql = (
        "SELECT runbook, status, duration, second, user FROM items"  # noqa: S608
        f" WHERE NOT short AND kind = ? AND status NOT IN (?, ?){meant} ORDER BY runbook, key"
    )
    by_runbook: dict[str, list[tuple[str, float | None, int, str]]] = {}
    for runbook, *rest in index.rows(sql, RUN, DAMAGED, PRIVATE, *values):
        by_runbook.setdefault(runbook, []).append(tuple(rest))
    return [_totals(runbook, rows) for runbook, rows in by_runbook.items()]


def count_items(index: Index) -> tuple[int, int, dict[str, int]]:
    """Return how many runs there are, how many runbooks, and how many of the runs are damaged or private."""
    kinds = dict(index.rows("SELECT kind, count(*) FROM items GROUP BY kind"))
    unread = index.rows("SELECT status, count(*) FROM items WHERE status IN (?, ?) GROUP BY status", DAMAGED, PRIVATE)
    return kinds.get(RUN, 0), kinds.get(BOOK, 0), dict(unread)


def _totals(runbook: str, rows: list[tuple[str, float | None, int, str]]) -> Totals:
    running = sum(status == RunState.RUNNING for status, *_ in rows)
    well = [(duration, second) for status, duration, second, _ in rows if status == RunState.SUCCEEDED]
    ended = len(rows) - running
    took = [duration for duration, _ in well if duration is not None]
    return Totals(
        runbook=runbook,
        runs=len(rows),
        running=running,
        succeeded=len(well),
        success_rate=len(well) / ended if ended else None,
        median_s=statistics.median(took) if took else None,
        last_success=_moment(max(second for _, second in well)) if well else None,
        last_run=_moment(max(second for _, _, second, _ in rows)),
        operators=_by_frequency(user for *_, user in rows),
    )


def _by_frequency(names: Iterable[str]) -> tuple[str, ...]:
    counts: dict[str, int] = {}
    for name in names:
        counts[name] = counts.get(name, 0) + 1
    return tuple(sorted(counts, key=lambda name: (-counts[name], name)))


def _moment(second: int) -> datetime:
    return datetime.fromtimestamp(second, UTC)
