"""The values a run was given, as the cell that sets them: one literal assignment each, and nothing else.

What that cell's syntax tree shows are names and literals equal to the values, whatever these hold. Names were checked
against the declared ones before.
"""

from __future__ import annotations

from typing import Any

from papermill.translators import PythonTranslator, Translator


class Literals(PythonTranslator):  # type: ignore[misc]  # papermill is not typed
    """papermill's way to write Python, without its reading of the parameters cell and without a formatter."""

    @classmethod
    def codify(cls, parameters: dict[str, Any], comment: str = "Parameters") -> str:
        """Return the source of the cell; papermill would hand it to black where that is installed."""
        return str(Translator.codify.__func__(cls, parameters, comment))

    @classmethod
    def inspect(cls, parameters_cell: Any) -> list[Any]:
        """Find nothing: ours were read already, and papermill's expression takes its time squared over long lines."""
        del parameters_cell
        return []
