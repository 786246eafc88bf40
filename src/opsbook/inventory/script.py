"""Inventory scripts run: a trusted program, no shell, one deadline for everything it is asked.

Invariant: when a question is over, answered or not, the program has ended, or its process group was killed. What it
prints is bounded, and no part of it but the last line on stderr is ever shown. This module knows no group and no host.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import time
from pathlib import Path

from opsbook.errors import InventoryError
from opsbook.inventory.files import MAX_BYTES
from opsbook.inventory.json_text import read_json
from opsbook.inventory.place import Place, located
from opsbook.model.target import JsonValue

TIMEOUT_S = 20.0
KEPT_STDERR = 64 * 1024
SHOWN = 300
CHUNK = 64 * 1024


class Script:
    """One inventory script and the time it has left, from now."""

    def __init__(self, path: Path, *, timeout_s: float = TIMEOUT_S) -> None:
        self._path = path
        self._timeout_s = timeout_s
        self._until = time.monotonic() + timeout_s

    def list(self) -> JsonValue:
        """Return what the script prints for `--list`.

        Raises:
            InventoryError: it cannot be run, fails, takes too long, or prints no JSON.
        """
        return self._decode(self._run("--list"))

    def host(self, name: str) -> JsonValue:
        """Return what the script prints for `--host NAME`; no variables where it prints nothing.

        Raises:
            InventoryError: as for `list`.
        """
        printed = self._run("--host", name)
        return self._decode(printed) if printed.strip() else {}

    def _run(self, *arguments: str) -> bytes:
        """Return what one call prints."""
        command = [str(self._path.absolute()), *arguments]
        try:
            process = subprocess.Popen(  # noqa: S603  the operator trusts this path by name
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as error:
            raise InventoryError(
                f"{self._path}: the inventory script cannot be run: {error.strerror}",
                "it begins with a line such as #!/usr/bin/env python3, and you may execute it",
            ) from error
        with process:
            try:
                printed, said = self._read(process)
                process.wait(max(0.0, self._until - time.monotonic()))
            except subprocess.TimeoutExpired:
                raise self._late() from None
            finally:
                if process.returncode is None:
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(process.pid, signal.SIGKILL)
        if process.returncode:
            raise InventoryError(
                f"{self._path}: the inventory script {_ending(process.returncode)}{_last_line(said)}",
                f"run it yourself: {self._path} {' '.join(arguments)}",
            )
        return printed

    def _read(self, process: subprocess.Popen[bytes]) -> tuple[bytes, bytes]:
        """Return both streams, read together to their ends; of stderr the last part."""
        printed, said = bytearray(), bytearray()
        with selectors.DefaultSelector() as selector:
            for stream, kept in ((process.stdout, printed), (process.stderr, said)):
                if stream is not None:
                    selector.register(stream, selectors.EVENT_READ, kept)
            while selector.get_map():
                left = self._until - time.monotonic()
                if left <= 0:
                    raise self._late()
                for key, _ in selector.select(left):
                    chunk = os.read(key.fd, CHUNK)
                    key.data.extend(chunk)
                    if not chunk:
                        selector.unregister(key.fileobj)
                if len(printed) > MAX_BYTES:
                    raise InventoryError(
                        f"{self._path}: the inventory script prints more than {MAX_BYTES // 1024**2} MiB",
                        "split it into several",
                    )
                del said[:-KEPT_STDERR]
        return bytes(printed), bytes(said)

    def _late(self) -> InventoryError:
        return InventoryError(
            f"{self._path}: the inventory script did not end within {self._timeout_s:g} s",
            "let it print _meta.hostvars, and let it cache what it asks others for",
        )

    def _decode(self, printed: bytes) -> JsonValue:
        """Return the JSON a script printed, as plain values."""
        with located(Place(path=self._path)):
            try:
                text = printed.decode("utf-8-sig")
            except UnicodeDecodeError as error:
                raise InventoryError("what it prints is not UTF-8", "print JSON in UTF-8") from error
            return read_json(text, what="what it prints")


def _ending(code: int) -> str:
    return f"was ended by signal {-code}" if code < 0 else f"failed with exit code {code}"


def _last_line(said: bytes) -> str:
    """Return the last line on stderr, fit to be printed."""
    lines = [line.strip() for line in said.decode("utf-8", "replace").splitlines()]
    last = next((line for line in reversed(lines) if line), "")
    shown = "".join(char if char.isprintable() else "?" for char in last)[:SHOWN]
    return f": {shown}" if shown else ""
