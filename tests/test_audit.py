"""The audit of dependencies: a vulnerability fails, and an audit that could not be done is said to be none."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

import pytest

CLEAN = {"name": "click", "version": "8.2", "vulns": []}
SKIPPED = {"name": "click", "skip_reason": "Dependency not found on PyPI"}
FLAWED = {"name": "click", "version": "8.2", "vulns": [{"id": "PYSEC-1", "fix_versions": ["8.3"], "aliases": []}]}


@pytest.fixture
def judge() -> Callable[[str, str], tuple[list[str], int]]:
    spec = importlib.util.spec_from_file_location("audit", Path(__file__).parent.parent / ".ci/audit.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found: Callable[[str, str], tuple[list[str], int]] = module.judge
    return found


@pytest.mark.parametrize(
    ("dependencies", "said", "words", "code"),
    [
        ([CLEAN, CLEAN], "", "no known vulnerability in 2 dependencies", 0),
        ([CLEAN, SKIPPED], "", "2 dependencies, 1 of which nothing is known", 0),
        ([SKIPPED, FLAWED], "", "click 8.2: PYSEC-1, fixed in 8.3", 1),
        ([SKIPPED, SKIPPED], "No known vulnerabilities found", "could not be done", 0),
        (None, "ERROR: Tip: your network may be blocking this service", "could not be done", 0),
        (None, "timed out after 300 s", "could not be done", 0),
        (None, "ERROR: 403 Client Error: Forbidden for url", "could not be done", 0),
        (None, "ERROR: requirement has no hashes", "pip-audit failed: ERROR: requirement has no hashes", 1),
        (None, "No module named pip_audit", "pip-audit failed", 1),
        (None, "", "pip-audit failed", 1),
    ],
)
def test_an_audit_says_what_it_found_or_that_there_was_none(
    judge: Callable[[str, str], tuple[list[str], int]], dependencies: object, said: str, words: str, code: int
) -> None:
    report = "" if dependencies is None else json.dumps({"dependencies": dependencies, "fixes": []})
    lines, ended = judge(report, said)
    assert words in "\n".join(lines)
    assert ended == code
