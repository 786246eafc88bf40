"""Fixtures for what passes over links with faults: the proxies of a test, and fleets behind them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from conftest import Sshd
from faults import Network, network
from rig import Rig, known_hosts

from opsbook.model.target import Target


@pytest.fixture
def net() -> Iterator[Network]:
    with network() as made:
        yield made


@pytest.fixture
def rig(sshd: Sshd, tmp_path: Path) -> Iterator[Callable[..., Rig]]:
    """Makes rigs that know the server's key wherever a proxy puts it."""
    known = str(known_hosts(sshd, tmp_path))
    with ExitStack() as stack:

        def make(*targets: Target, **options: Any) -> Rig:
            folder = tmp_path / f"rig{len(list(tmp_path.glob('rig*')))}"
            made = Rig(targets, folder, **{"known_hosts": (known,), **options})
            stack.callback(made.close)
            return made

        yield make
