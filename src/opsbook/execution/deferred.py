"""Work put off, or left out: what a library does when it is imported, or first asked, and a short run does not need."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from types import ModuleType
from typing import Any

_VALIDATOR = "NBFORMAT_VALIDATOR"
_FEW = 50
"""Cells up to which a notebook is validated sooner than the fast validator is compiled."""


class _PutOff(ModuleType):
    """Stands for a module until something of it is used. Python's own lazy module is loaded by `import` already."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name != "__path__":  # the import system looks around
            raise AttributeError(name)
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(import_module(self.__name__), name)


def put_off(name: str) -> None:
    """Let `import name` do nothing until something of it is used; then it is imported as ever."""
    sys.modules.setdefault(name, _PutOff(name))


def choose_validator(cells: int) -> None:
    """Let nbformat validate a notebook of so many cells by whichever of its two ways is the faster one."""
    os.environ[_VALIDATOR] = "jsonschema" if cells <= _FEW else "fastjsonschema"
