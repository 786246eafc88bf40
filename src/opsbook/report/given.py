"""What a run was given and what its cells came to, in the words every rendering uses. Texts are as recorded.

Knows neither terminal nor page: whoever renders these texts makes them harmless.
"""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from opsbook.model.run import CellRecord, CellSelection, RunRecord
from opsbook.report.duration import format_stamp
from opsbook.report.summary import Summary, show_value, summarise


class Given(Struct, frozen=True):
    """One fact of a run, as one or several texts, and what is set between them."""

    label: str
    texts: tuple[str, ...]
    between: str = ""


def run_summary(record: RunRecord, *, copy: Path | None, newer: str | None) -> Summary:
    """Return the summary above everything else a record holds; `newer` is the run that goes on with it."""
    summary = replace(summarise(record, copy=copy), parameters=())  # they are given in full
    if newer is None:
        return summary
    return replace(summary, notes=(*summary.notes, f"run {newer} goes on with it"), go_on="")


def given_fields(record: RunRecord) -> tuple[Given, ...]:
    """Say who ran what, with what, when and why; what there is nothing to say of is left out."""
    git = record.runbook.git
    version = f" @ {git.describe} ({'changed since' if git.dirty else 'clean'})" if git else ""
    ended = f", ended {format_stamp(record.ended_at)}" if record.ended_at else ""
    selected = f"{len(record.targets.selected)} selected" if record.targets.selected else ""
    where = "at a terminal" if record.operator.terminal else "without a terminal"
    fields = (
        Given("run", (record.run_id,)),
        Given("runbook", (f"{record.runbook.path}{version}",)),
        Given("parameters", tuple(f"{name}={show_value(value)}" for name, value in record.parameters.items()), "  "),
        Given("secrets", record.secrets, ", "),
        Given("part", _part(record.selection), " · "),
        Given("targets", _told(record.targets.pattern, selected), " · "),
        Given("operator", (f"{record.operator.user} on {record.operator.host}, {where}",)),
        Given("reason", _told(record.operator_reason)),
        Given("started", (f"{format_stamp(record.started_at)}{ended}",)),
        Given("exit code", (str(record.exit_code),) if record.exit_code is not None else ()),
        Given("parent", _told(record.parent)),
        Given("resumes", _told(record.resumed_from)),
        Given("checks", tuple(f"{one.name} {'ok' if one.ok else 'failed'}" for one in record.checks), " · "),
    )
    return tuple(field for field in fields if field.texts)


def cell_words(cell: CellRecord) -> str:
    """Say what a cell is called, and what there is to say of it besides its state."""
    tags = f" ({', '.join(cell.tags)})" if cell.tags and cell.tags != ("parameters",) else ""
    error = f": {cell.error.name}" if cell.error else ""
    more = ", ".join(_told(cell.reason, f"{cell.attempts} attempts" if cell.attempts > 1 else ""))
    return f"{cell.label}{tags}{error}" + (f" · {more}" if more else "")


def _part(selection: CellSelection) -> tuple[str, ...]:
    """Say which part of the runbook was run."""
    flags = (("section", selection.sections), ("only tags", selection.only_tags), ("skip tags", selection.skip_tags))
    return tuple(f"{name} {', '.join(names)}" for name, names in flags if names)


def _told(*texts: str | None) -> tuple[str, ...]:
    """Return the texts that say something."""
    return tuple(text for text in texts if text)
