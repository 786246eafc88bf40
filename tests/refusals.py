"""What a refusal has to be."""

from __future__ import annotations

from support import Desk, Ran


def check_refused(desk: Desk, ran: Ran, *words: str, exit_code: int = 2) -> None:
    """Two or three lines that say what and what to do; nothing started, nothing left behind."""
    lines = ran.err.splitlines()
    assert ran.code == exit_code, ran
    assert ran.out == ""
    assert "Traceback" not in ran.err
    assert 2 <= len(lines) <= 3, ran.err
    assert lines[0].startswith("error: ")
    assert lines[1].startswith("hint: ")
    for word in words:
        assert word in ran.err
    assert desk.kernels() == []
    assert len(desk.python_processes()) == 1
    assert desk.runs() == []
