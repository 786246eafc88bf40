"""The examples in docstrings say what is so."""

from __future__ import annotations

import doctest
from importlib import import_module
from pathlib import Path

import pytest

import opsbook

SOURCE = Path(opsbook.__file__).parent
MODULES = sorted(
    ".".join(("opsbook", *file.relative_to(SOURCE).with_suffix("").parts))
    for file in SOURCE.rglob("*.py")
    if ">>> " in file.read_text(encoding="utf-8")
)


@pytest.mark.parametrize("module", MODULES)
def test_the_examples_of_a_module_are_true(module: str) -> None:
    result = doctest.testmod(import_module(module), raise_on_error=False)
    assert result.attempted, "a docstring that doctest does not see"
    assert not result.failed
