"""A run as one page: self-contained, without a script, the failed thing first, in the words of the summary.

Made from a record and an executed copy alone, both of which were masked when they were written. What the page may
contain, `html_markup` knows; here is said what it shows and in which order.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path

from opsbook.model.outcome import STATE_ORDER, name_ranges
from opsbook.model.run import CellState, RunRecord
from opsbook.model.target import TargetState
from opsbook.report.duration import format_duration
from opsbook.report.given import given_fields, run_summary
from opsbook.report.html_cells import cell_anchor, cell_sections
from opsbook.report.html_copy import PageCopy
from opsbook.report.html_markup import Html, document, element, joined, jump, shortened
from opsbook.report.phase import CELL_MARKS, RUN_MARKS, Phase, phase_words, words
from opsbook.report.summary import ErrorExcerpt, Summary, TargetGroup

MOST_ROWS = 1000
"""Rows of a table that are shown: the failed ones come first."""
MOST_TEXT = 5000
"""Characters of one text outside of the cells."""
UNFOLDED = 30
"""Targets up to which their table is unfolded: what is above it tells how many ended how."""


def render_page(
    record: RunRecord, copy: PageCopy, *, path: Path | None, notes: Sequence[str] = (), newer: str | None = None
) -> bytes:
    """Return the page of a run.

    `path` is its executed copy, `notes` what people have written about it since, `newer` the run that goes on with it.
    """
    summary = run_summary(record, copy=path, newer=newer)
    numbers = {cell.id: number for number, cell in enumerate(record.cells, start=1)}
    body = element(
        "main",
        _head(summary, record),
        *_what_failed(summary),
        *_listed("Notes", (*summary.notes, *notes), kind="notes"),
        *_steps(summary.phases, numbers),
        *_facts("Metrics", summary.metrics),
        *_facts("The run", [*_given(record), *_commands(summary)]),
        *_targets(record, numbers),
        *_cells(record, copy),
    )
    return document(summary.headline, body, style=files(__package__).joinpath("html.css").read_text("utf-8"))


def _head(summary: Summary, record: RunRecord) -> Html:
    mark, _ = RUN_MARKS[summary.status]
    lines = [element("h1", element("span", mark, kind="mark"), " ", _told(summary.headline))]
    lines.append(element("p", f"{record.runbook.title} · run {summary.run_id}", kind="aside"))
    return element("header", *lines, kind=f"verdict {summary.status}")


def _what_failed(summary: Summary) -> Iterator[Html]:
    """Show how the targets ended, the failed first, what a cell raised, and the checks that failed."""
    if summary.groups:
        rows = [_group(group) for group in summary.groups[:MOST_ROWS]]
        yield element("section", _table((), rows), *_more(len(summary.groups)), kind="groups")
    if summary.error:
        yield element("section", *_error(summary.error), kind="error")
    yield from _listed("Failed checks", summary.failed_checks, kind="checks")


def _group(group: TargetGroup) -> Html:
    count, code, reason = group.told
    detail = " · ".join(filter(None, (code, reason)))
    return _row((count, name_ranges(group.names), detail), kind=f"target {group.state}")


def _error(error: ErrorExcerpt) -> Iterator[Html]:
    yield element("h2", f'{error.name} in "{error.cell}"')
    yield element("pre", _told("\n".join(error.lines)), kind="said error")
    if error.more:
        yield element("p", f"… {error.more} more line{'' if error.more == 1 else 's'}", kind="aside")


def _steps(phases: Sequence[Phase], numbers: Mapping[str, int]) -> Iterator[Html]:
    if not phases:
        return
    rows = []
    for phase in phases[:MOST_ROWS]:
        state = CellState.SKIPPED if phase.did_nothing else phase.state
        took = format_duration(phase.duration_s) if phase.duration_s is not None else ""
        mark, _ = CELL_MARKS[state]
        label = jump(cell_anchor(numbers[phase.cell_ids[0]]), phase.label)
        rows.append(_row((mark, label, took, phase_words(phase)), kind=f"step {state}"))
    yield element("section", element("h2", "Steps"), _table((), rows), *_more(len(phases)), kind="steps")


def _given(record: RunRecord) -> Iterator[tuple[str, Html | str]]:
    for field in given_fields(record):
        if field.label == "parameters":
            yield field.label, joined(element("div", text) for text in field.texts[:MOST_ROWS])
        else:
            yield field.label, field.between.join(field.texts)


def _commands(summary: Summary) -> Iterator[tuple[str, Html | str]]:
    for label, text in (("copy", summary.copy), ("look", summary.look), ("go on", summary.go_on)):
        if text:
            yield label, element("code", text)


def _facts(title: str, facts: Iterable[tuple[str, Html | str]]) -> Iterator[Html]:
    rows = list(facts)
    if rows:
        pairs = [
            part
            for name, value in rows[:MOST_ROWS]
            for part in (element("dt", _told(name)), element("dd", _told(value)))
        ]
        yield element("section", element("h2", title), element("dl", *pairs), *_more(len(rows)), kind="facts")


def _targets(record: RunRecord, numbers: Mapping[str, int]) -> Iterator[Html]:
    """Show every target, the failed first."""
    results = sorted(record.targets.results.items(), key=lambda item: STATE_ORDER[item[1].state])
    if not results:
        return
    rows = []
    for name, result in results[:MOST_ROWS]:
        code = str(result.exit_code) if result.exit_code is not None else ""
        ended_in = "" if result.state is TargetState.OK else result.cell_id  # what went well did in many
        number = numbers.get(ended_in or "")
        where = jump(cell_anchor(number), str(number)) if number else ""
        texts = (name, words(result.state), code, format_duration(result.duration_s), where, result.reason)
        rows.append(_row(texts, kind=f"target {result.state}"))
    shown = _table(("target", "state", "exit", "took", "cell", "reason"), rows)
    folded = element("details", element("summary", f"all {len(results)}"), shown, is_open=len(results) <= UNFOLDED)
    yield element("section", element("h2", "Targets"), folded, *_more(len(results)), kind="targets")


def _cells(record: RunRecord, copy: PageCopy) -> Iterator[Html]:
    yield element("h2", "Cells")
    if copy.problem:
        why = f"{copy.problem}: what the cells said is not shown here; opsbook logs {record.run_id} may have it"
        yield element("p", why, kind="aside")
    yield joined(cell_sections(record, copy), "\n")


def _listed(title: str, texts: Sequence[str], *, kind: str) -> Iterator[Html]:
    if texts:
        items = element("ul", *(element("li", _told(text)) for text in texts[:MOST_ROWS]))
        yield element("section", element("h2", title), items, *_more(len(texts)), kind=kind)


def _table(header: Sequence[str], rows: Iterable[Html]) -> Html:
    """Return a table that a narrow screen can move sideways."""
    head = element("thead", element("tr", *(element("th", title) for title in header))) if header else ""
    return element("div", element("table", head, element("tbody", joined(rows, "\n"))), kind="wide")


def _row(texts: Sequence[Html | str], *, kind: str) -> Html:
    return element("tr", *(element("td", _told(text)) for text in texts), kind=kind)


def _told(text: Html | str) -> Html | str:
    return shortened(text, most=MOST_TEXT) if isinstance(text, str) else text


def _more(count: int) -> list[Html]:
    """Say how many rows are not shown."""
    left_out = count - MOST_ROWS
    return [element("p", f"… and {left_out} more, which the record has", kind="aside")] if left_out > 0 else []
