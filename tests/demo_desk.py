"""The demo fleet a module's tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from opsbook.demo import DemoFleet


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DemoFleet]:
    with DemoFleet.start(tmp_path_factory.mktemp("demo") / "fleet") as started:
        yield started
