"""The values a run was given, as the cell that sets them: one literal assignment each, and nothing else.

What that cell's syntax tree shows are names and literals equal to the values, whatever these hold. Names were checked
against the declared ones before. NII's SSH kernel has `%param` lines instead.
"""

from __future__ import annotations

from typing import Any

from papermill.translators import PythonTranslator, Translator

from opsbook.runbook.param_magic import param_line


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


class ParamLines(Translator):  # type: ignore[misc]  # papermill is not typed
    """What papermill writes for NII's SSH kernel: lines alone, as a comment before them would go to a shell."""

    @classmethod
    def codify(cls, parameters: dict[str, Any], comment: str = "Parameters") -> str:
        """Return the source of the cell.

        Raises:
            ParameterError: the kernel takes no such value.
        """
        del comment
        return "".join(f"{param_line(name, value)}\n" for name, value in parameters.items())
