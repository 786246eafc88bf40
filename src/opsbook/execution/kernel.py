"""The kernel's process: started, watched, interrupted and ended. Knows no messages.

It starts with the standard library alone, so that it boots while papermill is still being imported. Its sockets lie in
a short private folder (a Unix socket's path may not be long), which goes when the kernel does. It inherits one
descriptor, the control channel, and nothing of our screen.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from opsbook.config import EnvSettings
from opsbook.errors import RunbookError
from opsbook.execution.environment import kernel_environment
from opsbook.execution.terms import GUARD_VARIABLE, KILL, LEFT
from opsbook.model.message import CHANNEL_VARIABLE

OWN = "python3"
"""The kernel name that means opsbook's own interpreter."""
CONNECTION_FILE = "kernel.json"
_PREFIX = "opsbook-kernel-"
_INSIDE = {CONNECTION_FILE, "ipython", "jupyter", "children", LEFT}
"""What may lie in the folder besides the kernel's sockets: one with anything else in it is not swept away."""
PLACES = ("/tmp", "/var/tmp", "/dev/shm")  # noqa: S108  the folder made there is ours alone
"""Where the kernel's folder may be when nothing better is said."""
LONGEST = 60
"""Characters the place of a kernel's folder may have: a socket's whole path has about a hundred."""
_LAST_WORDS = 16 * 1024
"""Bytes of the end of what a kernel said outside the notebook that are looked at."""
END_S = 2.0
"""Seconds a kernel may take to end after it was told to, before it is killed."""
GUARD_S = 10.0
"""Seconds the guard may take to end everything, before it is killed itself."""


class Kernel:
    """One kernel process, behind its guard, and its folder."""

    def __init__(
        self, argv: Sequence[str], folder: Path, *, environment: Mapping[str, str], channel: socket.socket, cwd: Path
    ) -> None:
        self.folder = folder
        self.connection_file = folder / CONNECTION_FILE
        self._log = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  without a name: it may hold what programs print
        self.is_own = "opsbook.execution.launch" in argv
        """Whether it counts its output and waits for its reader."""
        self.withheld: frozenset[str] = frozenset()
        """Names of variables that are set here and that the kernel was not given."""
        self.left: tuple[int, ...] = ()
        """Processes the notebook started that could not be ended; to be read after `end`."""
        guarded, alive = os.pipe()  # its end closes when this process ends, however it ends
        self._alive = os.fdopen(alive, "wb", buffering=0)
        try:
            self.process = subprocess.Popen(  # noqa: S603  our own interpreter, or a kernelspec the user installed
                argv,
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
                env={**environment, CHANNEL_VARIABLE: str(channel.fileno()), GUARD_VARIABLE: str(guarded)},
                pass_fds=(channel.fileno(), guarded),
                cwd=cwd,
                start_new_session=True,
            )
        except BaseException:
            self._alive.close()
            self._log.close()
            raise
        finally:
            os.close(guarded)

    @property
    def alive(self) -> bool:
        """Whether the process lives, and nobody has had it killed: that takes a moment."""
        return not self._alive.closed and self.process.poll() is None

    @property
    def last_words(self) -> str:
        """The last line it said outside the notebook, such as an import that failed."""
        with suppress(OSError, ValueError):  # it is closed with the kernel
            size = os.fstat(self._log.fileno()).st_size
            lines = os.pread(self._log.fileno(), _LAST_WORDS, max(0, size - _LAST_WORDS)).decode(errors="replace")
            return next((line.strip() for line in reversed(lines.splitlines()) if line.strip()), "")
        return ""

    @property
    def how_it_ended(self) -> str:
        """Say how the process ended: `the kernel was killed by SIGKILL`."""
        code = self.process.poll()
        if code is None:
            return "the kernel was killed" if self._alive.closed else "the kernel lives"
        if code < 0:
            name = signal.Signals(-code).name
            hint = " (out of memory?)" if name == "SIGKILL" else ""
            return f"the kernel was killed by {name}{hint}"
        return f"the kernel ended by itself with exit code {code}"

    def interrupt(self) -> None:
        """Have the guard send SIGINT to the kernel itself; its group would take the fleet's own helpers along."""
        with suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGINT)

    def kill(self) -> None:
        """Have the guard kill the kernel and every process the notebook started."""
        with suppress(OSError, ValueError):  # it is gone already, or was told before
            self._alive.write(KILL)
            self._alive.close()

    def end(self, *, asked: bool) -> None:
        """Wait shortly for a kernel that was asked to end, then kill it and all it started, and remove its folder."""
        if asked:
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(END_S)
        self.kill()
        try:
            self.process.wait(GUARD_S)
        except subprocess.TimeoutExpired:
            self.process.kill()  # the kernel dies with its guard
            self.process.wait()
        with suppress(OSError):
            self.left = tuple(map(int, (self.folder / LEFT).read_text(encoding="ascii").split()))
        self._log.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def kernel_command(name: str) -> list[str]:
    """Return the command line that starts a kernel of this name; `python3` is opsbook's own interpreter.

    Raises:
        RunbookError: there is no such kernel.
    """
    python = [sys.executable, "-P", "-m"]
    if name in {"", OWN}:
        return [*python, "opsbook.execution.launch", "{connection_file}"]
    from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel  # noqa: PLC0415  slow, and rarely needed

    specs = KernelSpecManager()
    try:
        spec = list(specs.get_kernel_spec(name).argv)
    except NoSuchKernel:
        known = ", ".join(sorted({OWN, *specs.find_kernel_specs()}))
        raise RunbookError(f"there is no kernel {name!r} here", f"known kernels: {known}") from None
    return [*python, "opsbook.execution.guard", "{connection_file}", *spec]


def start_kernel(name: str, *, channel: socket.socket, cwd: Path, settings: EnvSettings) -> Kernel:
    """Start a kernel that works in `cwd`.

    Raises:
        RunbookError: there is no such kernel, or it cannot be started.
    """
    argv = kernel_command(name)
    folder = _private_folder()
    words = [part.replace("{connection_file}", str(folder / CONNECTION_FILE)) for part in argv]
    environment = kernel_environment(os.environ, settings, folder=folder, cwd=cwd)
    try:
        kernel = Kernel(words, folder, environment=environment, channel=channel, cwd=cwd)
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise RunbookError(f"cannot start the kernel {name or OWN!r}: {error.strerror}") from error
    kernel.withheld = frozenset(os.environ) - frozenset(environment)
    return kernel


def _private_folder() -> Path:
    """Make a folder only this user can enter, with a short path, that goes at the end; with its connection file in it.

    Raises:
        RunbookError: no place has room for one.
    """
    why = "none is short enough"
    for place in (os.environ.get("XDG_RUNTIME_DIR", ""), os.environ.get("TMPDIR", ""), *PLACES):
        if not place or len(place) > LONGEST:
            continue
        _sweep(Path(place))
        try:
            folder = _held_folder(place)
        except OSError as error:
            why = f"{place}: {error.strerror}"
            continue
        try:
            file = os.open(folder / CONNECTION_FILE, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(file, "w", encoding="ascii") as stream:
                json.dump(_connection(folder), stream)
        except OSError as error:
            why = f"{place}: {error.strerror}"
            shutil.rmtree(folder, ignore_errors=True)
        else:
            return folder
    raise RunbookError(f"there is no folder for the kernel's sockets: {why}", "XDG_RUNTIME_DIR, TMPDIR or /tmp")


def _held_folder(place: str) -> Path:
    """Make a folder and hold it for the life of this process, so that nobody sweeps it away."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=place))
        held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(held, fcntl.LOCK_EX)
        if folder.exists():
            return folder
        os.close(held)  # a sweep came between


def _sweep(place: Path) -> None:
    """Remove the folders of runners that were killed before there was a guard: those nobody holds."""
    for folder in place.glob(f"{_PREFIX}????????"):
        with suppress(OSError):
            held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(held).st_uid == os.geteuid() and all(map(_is_ours, folder.iterdir())):
                    shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(held)


def _is_ours(entry: Path) -> bool:
    return entry.name in _INSIDE or entry.name.startswith("k-")


def _connection(folder: Path) -> dict[str, object]:
    """Describe where the kernel listens: sockets in its folder, and a key nobody else has."""
    ports = {
        f"{name}_port": number for number, name in enumerate(("shell", "iopub", "stdin", "control", "hb"), start=1)
    }
    return {
        "transport": "ipc",
        "ip": str(folder / "k"),
        "key": secrets.token_hex(32),
        "signature_scheme": "hmac-sha256",
        "kernel_name": "",
        **ports,
    }
