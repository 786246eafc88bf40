"""An archive of three runs."""

from __future__ import annotations

from pathlib import Path

import pytest
from chained import IDS, make_run


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    root = tmp_path / "archive"
    for run_id in IDS:
        make_run(root, run_id)
    return root
