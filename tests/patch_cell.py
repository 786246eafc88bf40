"""A cell that declares parameters, read and bound."""

from __future__ import annotations

from typing import Any

from hypothesis import settings

from opsbook.model.parameter import Binding, ParameterSpec
from opsbook.runbook.parameters import bind, read_parameters

FUZZ = settings(max_examples=200, deadline=None, database=None)
CELL = """\
# What to patch
stack: Literal["dev", "staging", "prod"]        # Stack to patch
waves: str = "1,25%,100%"                       # Hosts per wave
limit: Annotated[int, "1..100"] = 5
token: Secret = "env:MONITOR_TOKEN"             # never a value
since: date = date.today()
tags: list[str] = [
    "a",  # inner
    "b",
]  # All the tags
reboot = True  # Whether to reboot
"""


def read(source: str) -> dict[str, ParameterSpec]:
    return {spec.name: spec for spec in read_parameters(source)}


def one(annotation: str, text: str) -> Any:
    """Bind one flag's text by an annotation."""
    return bound(f"x: {annotation}", x=text).given["x"]


def bound(source: str, *, values: dict[str, Any] | None = None, **texts: str) -> Binding:
    return bind(read_parameters(source), texts, values or {}, runbook="patch.ipynb")
