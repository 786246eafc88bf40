"""A runbook's declared inputs, as values. Reading and converting them is the runbook room's work."""

from __future__ import annotations

from msgspec import Struct

from opsbook.model.target import JsonValue


class ParameterSpec(Struct, frozen=True, kw_only=True):
    """One parameter as the cell tagged `parameters` declares it."""

    name: str
    annotation: str | None = None
    """The annotation's source text, such as `Literal["dev", "prod"]`; None when the author gave none."""
    default: str | None = None
    """The default's source text; None when the parameter is required."""
    help: str = ""
    type_label: str = "any"
    """The type as a person reads it: `text`, `whole number`, `dev | prod`."""
    is_secret: bool = False

    @property
    def is_required(self) -> bool:
        """Whether a run must be given a value."""
        return self.default is None


class Binding(Struct, frozen=True, kw_only=True):
    """The values one run gives to a runbook's parameters, all of JSON types."""

    given: dict[str, JsonValue] = {}
    """What the caller gave, by name; injected after the parameters cell."""
    values: dict[str, JsonValue] = {}
    """What the caller gave and the literal defaults of the rest; a secret is its reference."""
    secrets: tuple[str, ...] = ()
    """The names of the secret parameters."""
