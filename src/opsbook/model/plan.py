"""What a run would do to which targets, as a value. Working it out is the fleet room's."""

from __future__ import annotations

from msgspec import Struct

from opsbook.model.lock import Standing
from opsbook.model.note import Note


class PlannedCell(Struct, frozen=True, kw_only=True):
    """One cell that asks for targets, as far as its text tells before anything runs."""

    id: str
    index: int
    """Position in the runbook, from 0, counting every cell of the file."""
    label: str
    line: str
    """What stands behind `%%on`; of Python the patterns it asks for."""
    python: bool = False
    """Whether Python asks for them: what it sends them, and whether it comes to that, only running it tells."""
    changes: bool = True
    targets: tuple[str, ...] = ()
    waves: tuple[tuple[str, ...], ...] = ()
    """The same targets in the waves they would be asked in; empty where they are asked all at once."""
    limit: int = 0
    """How many of them may fail."""
    open: str = ""
    """What has to be known first and is not, such as a variable that another cell sets; then there are no targets."""
    problem: str = ""
    """Why the cell would fail; empty when it would not for its line."""
    may_fail: bool = False
    """Whether the run goes on when it fails: it is tagged to raise."""
    tidies: str = ""
    """When it runs besides, or instead: `after a failure too`, `only after a failure`."""


class PlannedSecret(Struct, frozen=True, kw_only=True):
    """What a run would be given that nobody may see."""

    what: str
    reference: str
    """As anybody may see it."""
    later: bool = False
    """Whether only a run asks for it: it costs a process, a question to a server or one to a person."""
    problem: str = ""
    """Why it cannot be had."""


class Plan(Struct, frozen=True, kw_only=True):
    """What one run would be."""

    runbook: str
    pattern: str | None = None
    checking: bool = False
    """Whether it is a dry run."""
    selected: tuple[str, ...] = ()
    cells: tuple[PlannedCell, ...] = ()
    python: tuple[str, ...] = ()
    """The labels of the cells that choose targets in a way that only running them tells."""
    noted: tuple[Note, ...] = ()
    """What people have written about its cells."""
    refused: str = ""
    """Why it would be refused, by a note or for what another run left in the middle; empty when it would start."""
    gates: tuple[str, ...] = ()
    """The labels of the cells that have to be confirmed, and are not yet."""
    locks: tuple[Standing, ...] = ()
    """Who holds the targets now, or left them in the middle."""
    secrets: tuple[PlannedSecret, ...] = ()

    @property
    def problems(self) -> tuple[str, ...]:
        """Say what would keep it from running as it is."""
        lines = [cell.problem for cell in self.cells if not cell.may_fail]
        return tuple(filter(None, [*lines, *(one.problem for one in self.secrets)]))

    @property
    def reached(self) -> tuple[str, ...] | None:
        """The targets its cells ask for, in the inventory's order; None where only running it tells."""
        if self.python or any(cell.open for cell in self.cells):
            return None
        named = {name for cell in self.cells for name in cell.targets}
        return tuple(name for name in self.selected if name in named)
