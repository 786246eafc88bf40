"""An archive to search, and an index of its own for it."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from past_runs import NOON, ORIGIN, cell, write_run

from opsbook.model.run import RunState

LOCK = "E: Could not get lock /var/lib/dpkg/lock-frontend. It is held by process 4711 (unattended-upgr)"


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An archive with a run that failed, and an older one of another runbook."""
    write_run(
        tmp_path / "archive",
        cell("# Patch\n\n## Update the packages\n\nLook out for **held** kernels.", kind="markdown"),
        cell("kernel_version = check_kernel(web)", "\x1b[31mSetting up libssl3\x1b[0m (3.0.17-1~deb12u2) ...\n"),
        cell("%%on prod\napt-get -qy upgrade", "CVE-2026-1234 on 10.0.31.7\n証明書の有効期限が切れています\n"),
        error=LOCK,
        status=RunState.FAILED,
        targets=("web1", "db02"),
        parameters={"stack": "prod", "days": 30, "force": True},
    )
    write_run(
        tmp_path / "archive",
        cell("certbot renew --dry-run", "Renewed web1.example.org\n", lc_cell_meme={"current": f"{ORIGIN}-1-ab12"}),
        at=NOON - timedelta(days=40),
        book="certs",
        user="leo",
        targets=("web1",),
        parameters={"stack": "dev"},
        operator_reason="quarterly",
    )
    return tmp_path / "archive"
