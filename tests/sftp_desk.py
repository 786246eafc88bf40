"""Fixtures for files on their way: a server, a notebook that moves them, and folders they go to."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Sshd
from transfers import (
    Notebook,
    opened,
    sftp_server,
)

from opsbook.fleet import transfer


@pytest.fixture(scope="session")
def server(sshd: Sshd, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with sftp_server(sshd, tmp_path_factory.mktemp("sftp")) as made:
        yield made


@pytest.fixture
def notebook(server: Sshd) -> Iterator[Notebook]:
    with opened(server) as made:
        yield made


@pytest.fixture
def there(tmp_path: Path) -> Path:
    """A folder on the target, which is this machine."""
    made = tmp_path / "there"
    made.mkdir()
    return made


@pytest.fixture
def public(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder other users can look into, and in it one to stage files that no other test uses."""
    with tempfile.TemporaryDirectory(dir=transfer.STAGING) as made:
        for name in (".", "there", "staging"):
            (Path(made) / name).mkdir(exist_ok=True)
            (Path(made) / name).chmod(0o755)
        monkeypatch.setattr(transfer, "STAGING", f"{made}/staging")
        yield Path(made)
