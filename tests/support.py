"""Builds notebooks and runs the real command line on them, in a folder and an environment of their own."""

from __future__ import annotations

import atexit
import json
import os
import re
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import canary
import overhearing
from forks import REST_S, Forked, Forks

JsonObject = dict[str, Any]
NOTICE = """
import os, sys
line = " ".join(sys.orig_argv)
with open({log!r}, "a", errors="surrogateescape") as log:
    log.write(line + "\\n")
if {canary!r} in line + (str(os.environ) if "-m opsbook" in line or "ipykernel" in line else ""):
    open({leaked!r}, "a").write(line + "\\n")
"""
"""What every Python process of a desk says about itself when it starts: how a kernel that should not be is seen."""


def code(source: str, *tags: str, cell_id: str = "", **metadata: Any) -> JsonObject:
    """Return a code cell."""
    text = textwrap.dedent(source).strip("\n")
    meta: JsonObject = {**metadata, **({"tags": list(tags)} if tags else {})}
    made: JsonObject = {"cell_type": "code", "metadata": meta, "source": text, "outputs": [], "execution_count": None}
    return {**made, "id": cell_id or "code-" + re.sub(r"[^a-z0-9]", "", text.lower())[:20]}


def prose(text: str) -> JsonObject:
    """Return a markdown cell."""
    plain = textwrap.dedent(text).strip("\n")
    return {
        "cell_type": "markdown",
        "metadata": {},
        "source": plain,
        "id": "prose-" + re.sub(r"[^a-z0-9]", "", plain.lower())[:20],
    }


def parameters(source: str) -> JsonObject:
    """Return the cell that declares the parameters."""
    return code(source, "parameters", cell_id="parameters")


LOAD = code("%load_ext opsbook", cell_id="load")


def notebook_text(cells: Iterable[JsonObject], /, *, kernel: str = "python3", **changes: Any) -> str:
    """Return a notebook's JSON. Cells alike get ids apart."""
    numbered = [
        {**cell, "id": f"{cell['id']}-{index}" if cell["id"].startswith(("code-", "prose-")) else cell["id"]}
        for index, cell in enumerate(cells)
    ]
    spec = {"name": kernel, "display_name": kernel, "language": "python"}
    made = {"nbformat": 4, "nbformat_minor": 5, "metadata": {"kernelspec": spec}, "cells": numbered}
    return json.dumps({**made, **changes})


def wait_for(holds: Callable[[], Any], *, seconds: float = 10, what: str = "") -> Any:
    """Return what a condition came to, once it is true."""
    deadline = time.monotonic() + seconds
    while not (value := holds()):
        assert time.monotonic() < deadline, f"{what or holds} did not come to hold within {seconds} s"
        time.sleep(0.05)
    return value


@cache
def forks() -> Forks:
    """Return the one process of this one that forks for its commands."""
    made = Forks()
    atexit.register(made.close)
    return made


def processes_with(text: str) -> list[int]:
    """List the processes that have a text in their argument list."""
    found = []
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = place.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if text in line:
            found.append(int(place.parent.name))
    return found


@dataclass(frozen=True)
class Ran:
    """A command that has ended."""

    code: int
    out: str
    err: str

    def __post_init__(self) -> None:
        overhearing.check(self.out, self.err)

    @property
    def json(self) -> Any:
        """The one JSON document on stdout."""
        return json.loads(self.out)


@dataclass(frozen=True)
class Run:
    """One run's folder in the archive."""

    folder: Path

    @property
    def record(self) -> JsonObject:
        return dict(json.loads((self.folder / "run.json").read_bytes()))

    @property
    def copies(self) -> list[Path]:
        """The executed copy, if there is one."""
        return list(self.folder.glob("*--*.ipynb"))

    @property
    def copy(self) -> Path:
        (found,) = self.copies
        return found

    @property
    def notebook(self) -> JsonObject:
        return dict(json.loads(self.copy.read_bytes()))

    @property
    def journal(self) -> list[JsonObject]:
        return [json.loads(line) for line in (self.folder / "events.jsonl").read_bytes().splitlines()]

    def events(self, *kinds: str) -> list[JsonObject]:
        return [entry["event"] for entry in self.journal if entry["event"]["type"] in kinds]

    @property
    def states(self) -> dict[str, str]:
        """Cell states, by id."""
        return {cell["id"]: cell["state"] for cell in self.record["cells"]}

    @property
    def targets(self) -> dict[str, str]:
        """Target states, by name."""
        return {name: result["state"] for name, result in self.record["targets"]["results"].items()}

    @property
    def papermill(self) -> dict[str, str]:
        """The states the executed copy gives its code cells, in papermill's words, by id."""
        cells = [cell for cell in self.notebook["cells"] if cell["cell_type"] == "code"]
        return {cell["id"]: cell["metadata"]["papermill"]["status"] for cell in cells}

    def output(self, cell_id: str) -> str:
        """All text a cell of the executed copy shows."""
        (cell,) = (cell for cell in self.notebook["cells"] if cell["id"] == cell_id)
        said = [
            out.get("text") or out.get("data", {}).get("text/plain") or out.get("traceback", "")
            for out in cell["outputs"]
        ]
        return "".join("".join(part) for part in said)


@dataclass(frozen=True)
class Desk:
    """A folder somebody works in: notebooks, an inventory, an archive."""

    folder: Path
    extra: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("home", "site"):
            (self.folder / name).mkdir(exist_ok=True)
        log, leaked = self.folder / "processes", self.folder / canary.LEAKED
        notice = NOTICE.format(log=str(log), leaked=str(leaked), canary=canary.VARIABLE)
        (self.folder / "site/sitecustomize.py").write_text(notice)
        canary.plant(self.folder)

    @property
    def environment(self) -> dict[str, str]:
        site = str(self.folder / "site")
        return {"PATH": os.environ["PATH"], "HOME": str(self.folder / "home"), "PYTHONPATH": site, **self.extra}

    def write(self, name: str, data: str | bytes) -> Path:
        path = self.folder / name
        if name == "opsbook.toml" and isinstance(data, str):
            data = canary.settings(data, self.folder)
        path.write_bytes(data.encode() if isinstance(data, str) else data)
        return path

    def notebook(self, *cells: JsonObject, name: str = "book.ipynb", **changes: Any) -> Path:
        return self.write(name, notebook_text(cells, **changes))

    def start(self, *args: str | Path, env: Mapping[str, str] | None = None, **options: Any) -> subprocess.Popen[str]:
        """Start the command; whoever calls ends it."""
        streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(
            [sys.executable, "-m", "opsbook", *map(str, args)],
            cwd=self.folder,
            env=dict(self.environment if env is None else env),
            text=True,
            **{**streams, **options},
        )

    def fork(
        self,
        *args: str | Path,
        env: Mapping[str, str] | None = None,
        start_new_session: bool = False,
        terminal: int | None = None,
        **streams: int,
    ) -> Forked:
        """Start the command as `start` does, in a quarter of the time; not where its argument list is looked at.

        `terminal` is all of its streams, and the terminal of its session.
        """
        environment = self.environment if env is None else env
        words = list(map(str, args))
        assert Forks.can(words, environment), "this takes an interpreter of its own"
        if terminal is not None:
            streams = {"stdin": terminal, "stdout": terminal, "stderr": terminal}
        return forks().start(
            words,
            cwd=self.folder,
            env=environment,
            streams=streams,
            start_new_session=start_new_session,
            terminal=terminal is not None,
        )

    def opsbook(
        self, *args: str | Path, env: Mapping[str, str] | None = None, seconds: float = 60, **options: Any
    ) -> Ran:
        """Run the command to its end."""
        words, environment = list(map(str, args)), self.environment if env is None else env
        if options or not Forks.can(words, environment):
            return finish(self.start(*args, env=environment, **options), seconds=seconds)
        return finish(self.fork(*args, env=environment), seconds=seconds)

    def python_processes(self) -> list[str]:
        """The argument lines of every Python process that was started here."""
        file = self.folder / "processes"
        return file.read_text(errors="replace").splitlines() if file.exists() else []

    def kernels(self) -> list[str]:
        """The argument lines of the kernels that were started here."""
        return [line for line in self.python_processes() if "opsbook.execution.launch" in line or "ipykernel" in line]

    def runs(self) -> list[Run]:
        """The runs of the archive, oldest first."""
        found = (self.folder / "archive").glob("*/*/*/*Z-*")
        return sorted(map(Run, found), key=lambda run: run.record["started_at"])

    def run(self) -> Run:
        """The only run."""
        (only,) = self.runs()
        return only

    def run_of(self, ran: Ran) -> Run:
        """The run a command with `--json` has told of."""
        return Run(Path(ran.json["copy"]).parent)


def finish(process: subprocess.Popen[str] | Forked, *, seconds: float = 60) -> Ran:
    """Wait for a command to end."""
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        with suppress(subprocess.TimeoutExpired):  # what it has started may hold its pipes open
            process.communicate(timeout=REST_S)
        raise
    return Ran(code=process.returncode, out=out or "", err=err or "")
