"""The console everything is printed on. The one module of this room that imports rich before it is needed."""

from __future__ import annotations

from rich.console import Console


class QuietConsole(Console):
    """A console whose reader may leave: that ends the printing, not the run."""

    def on_broken_pipe(self) -> None:
        """Print no more (rich would end the process)."""
        self.quiet = True
