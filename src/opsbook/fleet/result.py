"""What a fleet call gives back: one result for each target, and the table a notebook shows of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from msgspec.structs import asdict

from opsbook.errors import FleetError
from opsbook.fleet.table import html_table, text_result, text_table
from opsbook.model.event import TargetEnded
from opsbook.model.outcome import ResultGroup, count_alike, count_states, explain, group_ended
from opsbook.model.target import TargetState
from opsbook.ssh.result import CommandResult

if TYPE_CHECKING:
    from opsbook.fleet.fleet import Fleet


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
        return explain(self)

    @property
    def shown(self) -> TargetResult:
        """The result as it is shown to people."""
        return self

    def __repr__(self) -> str:
        return text_result(group_ended([self])[0], seconds=self.duration_s)


class RecalledResult(TargetResult, frozen=True, kw_only=True):
    """A result of an earlier run of which the whole text is not there any more; the rest of it is as good as new."""

    why: str
    """Why the text is not what the target said, for the author."""
    ask: Callable[[], TargetResult] | None = None
    """Asks the target again; None for a call that may change it."""

    @property  # type: ignore[misc]  # it hides the field: what stands in it is for people, and is not handed out
    def stdout(self) -> str:
        """What the target says when it is asked again."""
        return self._asked().stdout

    @property  # type: ignore[misc]
    def stderr(self) -> str:
        """What the target says there when it is asked again."""
        return self._asked().stderr

    def _asked(self) -> TargetResult:
        """Ask again, or raise: the text is not what the target said."""
        if self.ask is None:
            why = f"{self.why}, and a change is not made again to hear it"
            what_to_do = "read .shown instead (its kept part), and resume with --accept-changes"
            raise FleetError(f"{self.target}: {why}; {what_to_do}", "that run's folder has the target's whole log")
        return self.ask()

    @property
    def shown(self) -> TargetResult:
        """The result with the text there is: not all of it, or masked."""
        kept = asdict(self)
        del kept["why"], kept["ask"]
        return TargetResult(**kept | {"truncated": True})

    @property
    def detail(self) -> str:
        """See `TargetResult.detail`."""
        return self.shown.detail

    def __repr__(self) -> str:
        return repr(self.shown)


def recalled_result(ended: TargetEnded, source: str) -> TargetResult:
    """Return a result as an earlier run (`source`; empty for an earlier attempt) saw it (SEMANTICS 22)."""
    fields = {name: getattr(ended, name) for name in TargetResult.__struct_fields__}
    if not (ended.truncated or ended.masked):
        return TargetResult(**fields)
    what = "holds a secret and was masked" if ended.masked else "was longer than what is kept"
    return RecalledResult(**fields, why=f"what it said in {source or 'the attempt before'} {what}")


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

    def groups(self) -> tuple[ResultGroup, ...]:
        """Return the targets that ended alike and said the same as groups, the failed first, then the largest.

        Each has `names`, `state`, `detail`, `stdout` and `stderr`, without the white space at their ends; stderr is
        that of its first target.
        """
        return group_ended(one.shown for one in self)

    def table(self) -> FleetResult:
        """Return this, which shows itself as a table at the end of a cell."""
        return self

    def __repr__(self) -> str:
        groups = self.groups()
        return text_table(self._headline(groups), groups)

    def _repr_html_(self) -> str:
        groups = self.groups()
        return html_table(self._headline(groups), groups)

    def _headline(self, groups: tuple[ResultGroup, ...]) -> str:
        if not self._results:
            return "skipped: no target of this run is asked for here"
        minutes, seconds = divmod(round(self.duration_s), 60)
        parts = (count_states(result.state for result in self), f"{minutes}:{seconds:02}", count_alike(groups))
        return " · ".join(filter(None, parts))
