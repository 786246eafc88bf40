"""The files of runs are asked for beforehand: that changes nothing of what is read, and leaves nothing behind."""

from __future__ import annotations

import os
import threading
from contextlib import closing
from pathlib import Path

import pytest

from opsbook.archive.index_ahead import reading_ahead
from opsbook.archive.layout import RunFolder


@pytest.fixture
def folders(tmp_path: Path) -> list[RunFolder]:
    """Runs of which some have no files, and one a pipe that nobody writes."""
    made = [RunFolder(run_id=f"20261120T120000Z-a-{number:06x}", path=tmp_path / str(number)) for number in range(300)]
    for folder in made[::3]:
        folder.path.mkdir()
        folder.record.write_bytes(b"{}")
    os.mkfifo(made[0].copy)
    return made


def ahead() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("opsbook-ahead")]


@pytest.mark.parametrize("count", [0, 1, 16, 17, 127, 128, 129, 300])
def test_every_run_comes_once_and_in_order(folders: list[RunFolder], count: int) -> None:
    assert list(reading_ahead(folders[:count])) == folders[:count]
    assert ahead() == []


def test_one_that_is_stopped_leaves_no_thread(folders: list[RunFolder]) -> None:
    with closing(reading_ahead(folders)) as coming:
        assert next(coming) == folders[0]
        assert ahead(), "the files of the next ones are asked for"
    assert ahead() == []
