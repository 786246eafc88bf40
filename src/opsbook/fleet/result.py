"""What a fleet call gives back: one result for each target, and the table a notebook shows of them.

The table is text and HTML with the same content: targets that ended alike share a row, the failed first.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from opsbook.model.outcome import count_states, group_results, name_ranges, telling_line
from opsbook.model.target import TargetState
from opsbook.ssh.result import CommandResult

if TYPE_CHECKING:
    from opsbook.fleet.fleet import Fleet

_SHOWN_LINES = 12
_UNFOLDED_LINES = 3
_COLOURS = {TargetState.OK: "#1a7f37", TargetState.SKIPPED: "#6e7781", TargetState.NOT_RUN: "#6e7781"}


class TargetResult(CommandResult, frozen=True, kw_only=True):
    """How one call ended on one target, and the seconds it took there."""

    target: str
    duration_s: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether it ended well."""
        return self.state is TargetState.OK

    @property
    def detail(self) -> str:
        """Why it did not end well, in one line: `exit 100   E: Could not get lock`."""
        if self.ok:
            return ""
        code = f"exit {self.exit_code}" if self.exit_code is not None else ""
        return "   ".join(part for part in (code, telling_line(self.state, self.reason, self.stderr)) if part)


class FleetResult:
    """The results of one call, in the order of the fleet."""

    def __init__(self, fleet: Fleet, results: tuple[TargetResult, ...], *, duration_s: float) -> None:
        self._fleet = fleet
        self._results = {result.target: result for result in results}
        self.duration_s = duration_s

    def __getitem__(self, name: str) -> TargetResult:
        return self._results[name]

    def __iter__(self) -> Iterator[TargetResult]:
        return iter(self._results.values())

    def __len__(self) -> int:
        return len(self._results)

    def where(self, wanted: Callable[[TargetResult], bool]) -> Fleet:
        """Return the fleet of those targets whose result is wanted."""
        return self._fleet.only(result.target for result in self if wanted(result))

    @property
    def ok(self) -> Fleet:
        """The targets that ended well."""
        return self.where(lambda result: result.ok)

    @property
    def failed(self) -> Fleet:
        """The targets that did not (skipped ones left out)."""
        return self.where(lambda result: result.state.is_failure)

    def table(self) -> FleetResult:
        """Return this, which shows itself as a table at the end of a cell."""
        return self

    def _groups(self) -> list[tuple[str, str, str, str]]:
        """List the table's rows: state, names, detail, and what they said (the same for the whole row)."""
        rows = []
        for group in group_results((result.target, result.state, result.detail) for result in self):
            said: dict[str, list[str]] = {}
            for name in group.names:
                said.setdefault(self[name].stdout.rstrip(), []).append(name)
            state = group.state.value.replace("_", " ")
            rows += [(state, name_ranges(names), group.detail, text) for text, names in said.items()]
        return rows

    @property
    def _headline(self) -> str:
        if not self._results:
            return "skipped: no target of this run is asked for here"
        minutes, seconds = divmod(round(self.duration_s), 60)
        return f"{count_states(result.state for result in self)} · {minutes}:{seconds:02}"

    def __repr__(self) -> str:
        rows = self._groups()
        wide = max((len(state) for state, *_ in rows), default=0)
        names_wide = min(30, max((len(names) for _, names, *_ in rows), default=0))
        lines = [self._headline]
        for state, names, detail, said in rows:
            lines.append(f"{state:<{wide}}  {names:<{names_wide}}  {detail}".rstrip())
            lines += [f"{'':<{wide}}    {line}".rstrip() for line in _shortened(said)]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        body = []
        for state, names, detail, said in self._groups():
            colour = _COLOURS.get(TargetState(state.replace(" ", "_")), "#cf222e")
            text = html.escape("\n".join(_shortened(said)))
            output = (
                f'<details open><summary>output</summary><pre style="margin:0">{text}</pre></details>' if said else ""
            )
            body.append(
                f'<tr><td style="text-align:left;color:{colour}"><b>{state}</b></td>'
                f'<td style="text-align:left">{html.escape(names)}</td>'
                f'<td style="text-align:left">{html.escape(detail)}{output}</td></tr>'
            )
        return f"<p>{html.escape(self._headline)}</p><table>{''.join(body)}</table>"


def _shortened(text: str) -> list[str]:
    """Keep a table readable: the first and the last lines of a long output."""
    lines = text.splitlines()
    if len(lines) <= _SHOWN_LINES:
        return lines
    half = _SHOWN_LINES // 2
    return [*lines[:half], f"… {len(lines) - 2 * half} lines …", *lines[-half:]]
