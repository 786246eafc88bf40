"""From flags, header and settings to how much of a runbook is run, and for how long."""

from __future__ import annotations

from opsbook.config import Settings
from opsbook.errors import UsageError
from opsbook.model.amount import parse_duration
from opsbook.model.run import CellSelection, TimeLimits
from opsbook.runbook.notebook import Runbook

WHOLE = CellSelection()
TIMES = {
    "run_timeout": ("--timeout", "timeout"),
    "cell_timeout": ("--cell-timeout", "cell timeout"),
    "always_timeout": ("--always-timeout", "always timeout"),
}
"""The settings of how long things may take, with their flags and what a header calls them."""


def time_limits(runbook: Runbook, settings: Settings, **flags: str | None) -> TimeLimits:
    """Return how long things may take (`TIMES`): as the flags say, else the header, else the settings.

    Raises:
        UsageError: one is not a length of time.
    """
    seconds: dict[str, float | None] = {}
    for name, (flag, section) in TIMES.items():
        given = (
            (flag, flags.get(name)),
            (f"the header's {section!r}", runbook.header.section(section) or None),
            (name, getattr(settings, name)),
        )
        where, value = next(((where, value) for where, value in given if value is not None), ("", None))
        seconds[name] = _seconds(where, value)
    always = seconds["always_timeout"] or TimeLimits().always_s
    return TimeLimits(run_s=seconds["run_timeout"], cell_s=seconds["cell_timeout"], always_s=always)


def limits_again(before: TimeLimits, **flags: str | None) -> TimeLimits:
    """Return how long things may take in a run that goes on with another: as the flags say (`TIMES`), else as there.

    Raises:
        UsageError: one is not a length of time.
    """
    seconds = {name: _seconds(flag, flags.get(name)) for name, (flag, _) in TIMES.items()}
    return TimeLimits(
        run_s=seconds["run_timeout"] or before.run_s,
        cell_s=seconds["cell_timeout"] or before.cell_s,
        always_s=seconds["always_timeout"] or before.always_s,
    )


def _seconds(where: str, value: str | float | None) -> float | None:
    try:
        return None if value is None else parse_duration(value)
    except UsageError as error:
        raise UsageError(f"{where}: {error}", error.hint) from None


def chosen_part(*, section: tuple[str, ...], only_tags: tuple[str, ...], skip_tags: tuple[str, ...]) -> CellSelection:
    """Return the part of a runbook that flags name; tags are separated by commas.

    Raises:
        UsageError: a flag names nothing.
    """
    return CellSelection(
        sections=_named("--section", section),
        only_tags=_named("--only-tags", [tag for tags in only_tags for tag in tags.split(",")]),
        skip_tags=_named("--skip-tags", [tag for tags in skip_tags for tag in tags.split(",")]),
    )


def _named(flag: str, names: tuple[str, ...] | list[str]) -> tuple[str, ...]:
    words = tuple(name.strip() for name in names)
    if not all(words):
        raise UsageError(f"{flag} names nothing", "opsbook show RUNBOOK lists the steps")
    return words
