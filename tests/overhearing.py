"""The canary listened for in every process and in all that processes say, whoever starts them.

Whatever runs a notebook through `subprocess` or `Forks` gets the canary planted where it runs, and what `communicate`
returns is looked at. A thread looks at the processes of the machine as they come: none may have it in its argument
list, and none in its environment but those a notebook has started, here or on a target; and no run of this session is
without it.
"""

from __future__ import annotations

import os
import re
import subprocess
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import gettempdir
from typing import Any

import canary
from forks import Forks

EVERY_S = 0.1
"""Seconds between two looks: nothing tells that a process was started."""
LOOKS = 2
"""How often each is looked at: the first time it may not be yet what it is going to be."""
RUNS = re.compile(r"-m opsbook (?:-\S+ )*(?:run|resume|exec|demo)\b")
OWN = ("opsbook.execution.", "-m opsbook", "ipykernel")
"""What stands in the argument lists of opsbook's own processes."""
HANDS_ON = (*OWN, "sshd")
"""The same, of those whose children may have it: the kernel's, and what a notebook's command starts on a target."""
STARTED = re.compile(rb"(?:^|\0)(?:IPYTHONDIR=[^\0]*/opsbook-[^\0]*/ipython|OPSBOOK_TARGET=[^\0]+)(?:\0|$)")
"""What only a kernel's children, and those of a command on a target, find in their environment: it stays when they
have outlived all who stood above them, as the children of a killed kernel do until its guard has ended them."""


def overhear() -> None:
    """Plant the canary for whatever this process starts that runs a notebook, and look at what it is told."""
    begin, communicate, fork = subprocess.Popen.__init__, subprocess.Popen.communicate, Forks.start

    def start(self: Any, args: Any, *rest: Any, **options: Any) -> None:
        _plant_for(args if isinstance(args, str) else " ".join(map(str, args)), options.get("cwd"))
        begin(self, args, *rest, **options)

    def start_fork(self: Forks, args: Sequence[str], **options: Any) -> Any:
        _plant_for(" ".join(("-m opsbook", *args)), options["cwd"])
        return fork(self, args, **options)

    def told(self: Any, *args: Any, **options: Any) -> Any:
        said = communicate(self, *args, **options)
        check(*said)
        return said

    subprocess.Popen.__init__ = start  # type: ignore[method-assign]
    subprocess.Popen.communicate = told  # type: ignore[method-assign]
    Forks.start = start_fork  # type: ignore[method-assign]


def _plant_for(words: str, place: Any) -> None:
    if place is not None and RUNS.search(words) and Path(place).is_relative_to(gettempdir()):
        canary.plant(Path(place))


def check(*said: str | bytes | None) -> None:
    """Hold that the canary is in nothing a command has said."""
    data = (text.encode(errors="surrogateescape") if isinstance(text, str) else text for text in said if text)
    assert not any(map(canary.lies_in, data)), "the canary was printed"


class Processes:
    """Looks at the processes of this machine, each when it is new."""

    def __init__(self, root: Path, forms: Sequence[bytes] = canary.FORMS) -> None:
        self._root = root
        self._forms = forms
        self._looked: dict[str, int] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work, name="canary", daemon=True)
        self.leaks: list[str] = []
        """What was seen that should not be."""

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._over.set()
        self._thread.join()
        self.look()

    def _work(self) -> None:
        while not self._over.wait(EVERY_S):
            self.look()

    def look(self) -> None:
        """Look at those that are new."""
        now = {name: self._looked.get(name, 0) for name in os.listdir("/proc") if name.isdecimal()}  # noqa: PTH208
        for pid, looks in now.items():
            if looks < LOOKS:
                self.leaks += self._leaks(pid)
                now[pid] += 1
        self._looked = now

    def _leaks(self, pid: str) -> Iterator[str]:
        line = _read(pid, "cmdline")
        words = _words(line)
        if self._has(line):
            yield f"the canary is in the argument list of {pid}: {words}"
        given = _read(pid, "environ")
        if self._has(given) and (_is(words, OWN) or not _from_a_notebook(pid, given)):
            yield f"the canary is in the environment of {pid}: {words}"
        if "opsbook.execution.launch" in words and (place := self._unplanted(pid)):
            yield f"a notebook is run without the canary in {place}: {words}"

    def _has(self, data: bytes) -> bool:
        return any(form in data for form in self._forms)

    def _unplanted(self, pid: str) -> Path | None:
        """Return where the runner of a kernel works, if it is this session's and the canary is not there."""
        while "opsbook.execution.launch" in _words(_read(pid, "cmdline")):
            pid = _parent(pid)
        try:
            place = Path(f"/proc/{pid}/cwd").readlink()
            return place if place.is_relative_to(self._root) and not canary.is_planted(place) else None
        except OSError:
            return None  # it is gone


def _read(pid: str, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""  # it is gone


def _words(line: bytes) -> str:
    return line.replace(b"\0", b" ").decode(errors="replace")


def _is(words: str, names: Sequence[str]) -> bool:
    return any(name in words for name in names)


def _from_a_notebook(pid: str, given: bytes) -> bool:
    return STARTED.search(given) is not None or any(_is(one, HANDS_ON) for one in _above(pid))


def _parent(pid: str) -> str:
    return (_read(pid, "stat").rpartition(b")")[2].split() or [b"", b"0"])[1].decode()


def _above(pid: str) -> Iterator[str]:
    """Yield the argument lists of a process's ancestors."""
    while (pid := _parent(pid)) != "0":
        yield _words(_read(pid, "cmdline"))
