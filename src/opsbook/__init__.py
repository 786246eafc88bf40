"""opsbook runs Jupyter notebooks as operations runbooks.

In a notebook, `%load_ext opsbook` or `import opsbook` gives the names below. They are looked up when they are first
used: importing the package loads nothing else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from opsbook.errors import FleetError
    from opsbook.fleet.api import once, record, secret, targets, wait_until
    from opsbook.redaction import Secret

    checking: bool

__version__ = "0.1.0"
__all__ = ["FleetError", "Secret", "checking", "once", "record", "secret", "targets", "wait_until"]

_HOMES = {"Secret": "opsbook.redaction", "FleetError": "opsbook.errors"} | dict.fromkeys(
    ("once", "record", "secret", "targets", "wait_until"), "opsbook.fleet.api"
)


def __getattr__(name: str) -> Any:
    """Import what is asked for. `checking`, whether this is a dry run, is looked up anew each time."""
    if name == "checking":
        from opsbook.fleet.api import is_checking  # noqa: PLC0415

        return is_checking()
    if name not in _HOMES:
        raise AttributeError(f"module 'opsbook' has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415

    return getattr(import_module(_HOMES[name]), name)


def load_ipython_extension(shell: Any) -> None:
    """Set a notebook up: what `%load_ext opsbook` calls."""
    from opsbook.fleet.extension import load  # noqa: PLC0415

    load(shell)
