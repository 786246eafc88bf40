"""The canary listened for in every process and in all that processes say, whoever starts them.

Whatever runs a notebook through `subprocess` or `Forks`, in opsbook or in plain Jupyter, gets the canary planted where
it runs, and what `communicate` returns is looked at. No process may have it in its argument list, and none in its
environment but those a notebook has started, here or on a target; and no notebook of this session is without it. Each
Python process that is started here tells what it starts (`listening`), however short that lives; what other programs
start is seen by a thread that looks at the processes of the machine as they come, and at each program that is executed
where the kernel tells it of them (Linux 6.6, as root): of those that are over at once it still sees most.
"""

from __future__ import annotations

import os
import re
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, nullcontext, suppress
from pathlib import Path
from tempfile import gettempdir
from typing import Any

import canary
import listening
from forks import LONGEST_S, Forks
from listening import OWN, Listener

EVERY_S = 0.1
"""Seconds between two looks: not every system tells that a process was started."""
LOOKS = 2
"""How often each is looked at: the first time it may not be yet what it is going to be."""
END_S = 10.0
"""Seconds a look may take: the system may hold one up at a process that is ending."""
CONNECTOR, EXECUTED = 11, 2
"""Linux's numbers of the netlink family that tells of processes, and of what it is to tell."""
PLAIN = ("ipykernel", "papermill", "load_ext")
"""What stands in the argument lists of processes that are a notebook's in plain Jupyter, or start its kernel."""
RUNS = re.compile(rf"-m opsbook (?:-\S+ )*(?:run|resume|exec|demo)\b|{'|'.join(PLAIN)}")
HANDS_ON = (*OWN, *PLAIN, "sshd")
"""What stands in those of processes whose children may have it: kernels', and what a command on a target starts."""
STARTED = re.compile(rb"(?:^|\0)(?:IPYTHONDIR=[^\0]*/opsbook-[^\0]*/ipython|OPSBOOK_TARGET=[^\0]+)(?:\0|$)")
"""What only a kernel's children, and those of a command on a target, find in their environment: it stays when they
have outlived all who stood above them, as the children of a killed kernel do until its guard has ended them."""


def ears(folder: Path, forms: tuple[bytes, ...] = canary.FORMS) -> Listener:
    """Return what listens, made to be a `sitecustomize` in a folder; what it hears stands there too, in `heard`."""
    made = Listener(forms, canary.HANDED_ON, str(folder / "heard"))
    folder.mkdir()
    (folder / "heard").touch()
    own = Path(listening.__file__).read_text()
    listens = f"Listener({forms!r}, {made.handed_on!r}, {made.file!r}).listen()\nmake_way(__name__, __file__)\n"
    (folder / "sitecustomize.py").write_text(f"{own}\n\n{listens}")
    return made


def heard_by(listener: Listener, env: Mapping[str, str] | None) -> dict[str, str]:
    """Return an environment in which each Python process listens, before anything else is on its path."""
    given = dict(os.environ if env is None else env)
    known = given.get("PYTHONPATH", "").split(os.pathsep)
    folder = str(Path(listener.file).parent)
    return given if folder in known else given | {"PYTHONPATH": os.pathsep.join(filter(None, (folder, *known)))}


def overhear(listener: Listener) -> None:
    """Plant the canary for whatever this process starts that runs a notebook, and look at what it is told.

    This process, and each that it starts, listens.
    """
    listener.listen(runs_notebooks=False)
    begin, communicate, fork = subprocess.Popen.__init__, subprocess.Popen.communicate, Forks.start

    def start(self: Any, args: Any, *rest: Any, **options: Any) -> None:
        _plant_for(args if isinstance(args, str) else " ".join(map(str, args)), options.get("cwd"))
        begin(self, args, *rest, **{**options, "env": heard_by(listener, options.get("env"))})

    def start_fork(self: Forks, args: Sequence[str], **options: Any) -> Any:
        _plant_for(" ".join(words := ("-m opsbook", *args)), options["cwd"])
        listener.tell(listener.leaks_of(words, options["env"]))
        return fork(self, args, **{**options, "env": heard_by(listener, options["env"])})

    def told(self: Any, input: Any = None, timeout: float | None = None) -> Any:  # noqa: A002  the real one's name
        # what a command has left behind may hold its pipes open for ever
        said = communicate(self, input, LONGEST_S if timeout is None else timeout)
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
    """Looks at the processes of this machine, each when it is new, and takes in what listeners have heard."""

    def __init__(self, root: Path, forms: Sequence[bytes] = canary.FORMS, *, heard: Path | None = None) -> None:
        self._root = root
        self._forms = forms
        self._heard = heard
        self._taken_in = 0
        """How many lines of it."""
        self._looked: dict[str, int] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work, name="canary", daemon=True)
        self.leaks: list[str] = []
        """What was seen or heard that should not be."""

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._over.set()
        self._thread.join(END_S)
        self.look()
        self.take_in()

    def take_in(self) -> None:
        """Take in what was heard since."""
        lines = self._heard.read_text().splitlines() if self._heard is not None else []
        self.leaks += lines[self._taken_in :]
        self._taken_in = len(lines)

    def _work(self) -> None:
        due = 0.0
        with news() or nullcontext() as told:
            while not self._over.is_set():
                if (left := due - time.monotonic()) <= 0:
                    self.look()
                    due = time.monotonic() + EVERY_S
                elif told is None:
                    self._over.wait(left)
                else:
                    self._hear(told, left)

    def _hear(self, told: socket.socket, seconds: float) -> None:
        """Wait until something is executed, and look at it at once; of what comes too fast some goes by."""
        told.settimeout(seconds)
        with suppress(OSError):
            (pid,) = struct.unpack_from("=I", told.recv(4096), 56)
            self.leaks += self._leaks(str(pid))

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


def news() -> socket.socket | None:
    """Return where the kernel tells of each program that is executed; None where it does not tell us."""
    asks = struct.pack("=IIIIHHII", 1, 1, 0, 0, 8, 0, 1, EXECUTED)
    with ExitStack() as failing:
        try:
            made = failing.enter_context(socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, CONNECTOR))
            made.bind((0, 1))
            made.send(struct.pack("=IHHII", 16 + len(asks), 3, 0, 0, 0) + asks)
        except (AttributeError, OSError):
            return None
        failing.pop_all()
        return made


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
    above = list(_above(pid))
    return STARTED.search(given) is not None or not above or any(_is(one, HANDS_ON) for one in above)  # it may be gone


def _parent(pid: str) -> str:
    return (_read(pid, "stat").rpartition(b")")[2].split() or [b"", b"0"])[1].decode()


def _above(pid: str) -> Iterator[str]:
    """Yield the argument lists of a process's ancestors."""
    while (pid := _parent(pid)) != "0":
        yield _words(_read(pid, "cmdline"))
