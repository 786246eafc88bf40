"""The kernel's process: started, watched, interrupted and ended. Knows no messages.

It starts with the standard library alone, so that it boots while papermill is still being imported. Its sockets lie in
a short private folder (a Unix socket's path may not be long), which goes when the kernel does. It inherits one
descriptor, the control channel, and nothing of our screen.
"""

from __future__ import annotations

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

from opsbook.errors import RunbookError
from opsbook.model.message import CHANNEL_VARIABLE

GUARD_VARIABLE = "OPSBOOK_GUARD"
"""The environment variable that tells a kernel of ours which descriptor ends when its runner does."""
OWN = "python3"
"""The kernel name that means opsbook's own interpreter."""
LONGEST = 60
"""Characters the place of a kernel's folder may have: a socket's whole path has about a hundred."""
END_S = 2.0
"""Seconds a kernel may take to end after it was told to, before it is killed."""


class Kernel:
    """One kernel process and its folder."""

    def __init__(
        self, argv: Sequence[str], environment: Mapping[str, str], folder: Path, channel: socket.socket, cwd: Path
    ) -> None:
        self.folder = folder
        self.connection_file = folder / "kernel.json"
        self.connection_file.touch(mode=0o600)
        self.connection_file.write_text(json.dumps(_connection(folder)))
        self._log = folder / "kernel.log"
        guarded, self._alive = os.pipe()  # its end closes when this process ends, however it ends
        try:
            with self._log.open("wb") as log:
                self.process = subprocess.Popen(  # noqa: S603  our own interpreter, or a kernelspec the user installed
                    [part.replace("{connection_file}", str(self.connection_file)) for part in argv],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env={
                        **environment,
                        CHANNEL_VARIABLE: str(channel.fileno()),
                        GUARD_VARIABLE: str(guarded),
                        "JPY_PARENT_PID": str(os.getpid()),
                    },
                    pass_fds=(channel.fileno(), guarded),
                    cwd=cwd,
                    start_new_session=True,
                )
        except BaseException:
            os.close(self._alive)
            raise
        finally:
            os.close(guarded)

    @property
    def alive(self) -> bool:
        """Whether the process lives."""
        return self.process.poll() is None

    @property
    def last_words(self) -> str:
        """The last line it said outside the notebook, such as an import that failed."""
        with suppress(OSError):
            lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()
            return next((line.strip() for line in reversed(lines) if line.strip()), "")
        return ""

    @property
    def how_it_ended(self) -> str:
        """Say how the process ended: `the kernel was killed by SIGKILL`."""
        code = self.process.poll()
        if code is None:
            return "the kernel lives"
        if code < 0:
            name = signal.Signals(-code).name
            hint = " (out of memory?)" if name == "SIGKILL" else ""
            return f"the kernel was killed by {name}{hint}"
        return f"the kernel ended by itself with exit code {code}"

    def interrupt(self) -> None:
        """Send SIGINT to the kernel itself; its group would take the fleet's own helpers along."""
        with suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGINT)

    def kill(self) -> None:
        """Kill the kernel and every process of its group."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def end(self, *, asked: bool) -> None:
        """Wait shortly for a kernel that was asked to end, then kill it and all it started, and remove its folder."""
        if asked:
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(END_S)
        self.kill()
        self.process.wait()
        os.close(self._alive)
        shutil.rmtree(self.folder, ignore_errors=True)


def kernel_command(name: str) -> list[str]:
    """Return the command line that starts a kernel of this name; `python3` is opsbook's own interpreter.

    Raises:
        RunbookError: there is no such kernel.
    """
    if name in {"", OWN}:
        launch = [sys.executable, "-P", "-m", "opsbook.execution.launch", "-f", "{connection_file}"]
        return [*launch, "--HistoryManager.enabled=False"]
    from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel  # noqa: PLC0415  slow, and rarely needed

    specs = KernelSpecManager()
    try:
        return list(specs.get_kernel_spec(name).argv)
    except NoSuchKernel:
        known = ", ".join(sorted({OWN, *specs.find_kernel_specs()}))
        raise RunbookError(f"there is no kernel {name!r} here", f"known kernels: {known}") from None


def start_kernel(name: str, *, channel: socket.socket, cwd: Path) -> Kernel:
    """Start a kernel that works in `cwd`.

    Raises:
        RunbookError: there is no such kernel, or it cannot be started.
    """
    argv = kernel_command(name)
    try:
        folder = _private_folder()
    except (OSError, StopIteration) as error:
        raise RunbookError("there is no folder for the kernel's sockets", "XDG_RUNTIME_DIR, TMPDIR or /tmp") from error
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("OPSBOOK_")},
        "IPYTHONDIR": str(folder / "ipython"),
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
        "PWD": str(cwd),
    }
    try:
        return Kernel(argv, environment, folder, channel, cwd)
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise RunbookError(f"cannot start the kernel {name or OWN!r}: {error.strerror}") from error


def _private_folder() -> Path:
    """Make a folder only this user can enter, with a short path, that goes at the end."""
    places = (os.environ.get("XDG_RUNTIME_DIR", ""), tempfile.gettempdir(), "/tmp")  # noqa: S108  the folder in it is ours alone
    place = next(place for place in places if place and len(place) <= LONGEST and os.access(place, os.W_OK))
    return Path(tempfile.mkdtemp(prefix="opsbook-", dir=place))


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
