"""The folder a recorder's tests write into."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from recording import RUN_ID

from opsbook.archive.layout import Claim, RunFolder, run_folder


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[RunFolder]:
    claim = Claim(run_folder(tmp_path, RUN_ID))
    yield claim.folder
    claim.release()
