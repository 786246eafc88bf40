"""A real browser, and a server of this machine that it must not ask for anything."""

from __future__ import annotations

import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",  # it has none as root, and not in every container
    "--disable-gpu",
    "--disable-crash-reporter",
    "--disable-background-networking",
    "--no-first-run",
)


@dataclass(frozen=True)
class Listener:
    """Where hostile content points to, and what was asked of it."""

    port: int
    asked: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextmanager
def listening() -> Iterator[Listener]:
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, *args: object) -> None:
            del args

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield Listener(port=server.server_port, asked=asked)
        finally:
            server.shutdown()
            thread.join(10)


def opened(page: bytes, folder: Path) -> str:
    """Return what a browser has made of a page, once it has loaded it: its elements as they are then."""
    browser = next(filter(None, map(shutil.which, NAMES)), None)
    if browser is None:
        pytest.skip(f"no browser to look at the page with: none of {', '.join(NAMES)} is on the PATH")
    file = folder / "opened.html"
    file.write_bytes(page)
    profile = f"--user-data-dir={folder / 'profile'}"
    args = [browser, *FLAGS, profile, "--dump-dom", file.as_uri()]
    return subprocess.run(args, check=True, capture_output=True, text=True, timeout=60).stdout
