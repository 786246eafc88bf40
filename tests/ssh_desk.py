"""Fixtures for ways to a host: a server, a jump host, and an ssh_config that knows both."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Sshd
from servers import Server, serve

from opsbook.model.message import RunOptions


@pytest.fixture(scope="module")
def server(sshd: Sshd, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serve(sshd, tmp_path_factory.mktemp("inner")) as made:
        yield made


@pytest.fixture(scope="module")
def bastion(sshd: Sshd, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of default patience, as a jump host has."""
    with serve(sshd, tmp_path_factory.mktemp("bastion"), MaxStartups="10:30:100") as made:
        yield made


@pytest.fixture
def config(server: Server, bastion: Server, tmp_path: Path) -> RunOptions:
    """The options of a run whose ssh_config knows two jump hosts, and whose known_hosts know both servers."""
    file, known = tmp_path / "config", tmp_path / "known"
    file.write_text(
        f"Host gate*\n HostName 127.0.0.1\n Port {bastion.port}\n IdentityFile {server.sshd.identity}\n"
        f"Host behind*\n HostName 127.0.0.3\n Port {server.port}\n IdentityFile {server.sshd.identity}\n"
    )
    known.write_text(server.known_hosts.read_text() + bastion.known_hosts.read_text())
    return RunOptions(known_hosts=(str(known),), ssh_config=str(file), connect_timeout_s=10)
