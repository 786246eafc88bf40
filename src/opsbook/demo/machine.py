"""One simulated machine's folder: the files its tools read and write, and what a boot changes in them.

The folder is the machine's whole state, in files a POSIX shell reads with `read`: what the tools in `tools/` know of
each other they know through `state/`. Knows nothing of SSH and starts no process.
"""

from __future__ import annotations

import os
import time
import uuid
from importlib.resources import files
from pathlib import Path

from opsbook.demo.catalogue import REFUSED_COMMANDS, MachineSpec

_TOOLS = files("opsbook.demo").joinpath("tools")
_UPTIME_BEFORE_S = 41 * 86400 + 3 * 3600 + 7 * 60
"""How long a machine says it has been up when the fleet starts."""
_OS_RELEASE = """\
PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"
NAME="Debian GNU/Linux"
VERSION_ID="12"
VERSION="12 (bookworm)"
VERSION_CODENAME=bookworm
ID=debian
"""


def make_machine(folder: Path, spec: MachineSpec) -> None:
    """Write a machine's folder, which must not exist: its tools, its packages, its units, and a first boot long ago."""
    for part in ("bin", "tmp", "state/installed", "state/pending", "state/units", "state/restart"):
        (folder / part).mkdir(parents=True, mode=0o700)
    _install_tools(folder / "bin")
    state = folder / "state"
    for package, version in spec.packages.items():
        (state / "installed" / package).write_text(f"{version} amd64\n")
    for update in spec.updates:
        (state / "pending" / update.package).write_text(f"{update.version} amd64 {update.kilobytes}\n")
    for unit in spec.units:
        (state / "units" / unit).write_text("active\n")
    (state / "kernel").write_text(f"{spec.kernel}\n")
    for path, text in {
        "etc/hostname": f"{spec.name}\n",
        "etc/os-release": _OS_RELEASE,
        "etc/debian_version": "12.11\n",
    }.items():
        _write_own_file(folder, path, text)
    _start_clock(folder, started=time.time() - _UPTIME_BEFORE_S)
    os.mkfifo(control_path(folder), 0o600)


def control_path(folder: Path) -> Path:
    """Return the FIFO through which a machine's tools ask for a reboot."""
    return folder / "state" / "control"


def has_tools(folder: Path) -> bool:
    """Whether all simulated tools still stand in the machine's `bin`: without them, the real ones would answer."""
    try:
        present = {entry.name for entry in os.scandir(folder / "bin")}
    except OSError:
        return False
    return present.issuperset(tool.name for tool in _TOOLS.iterdir()) and present.issuperset(REFUSED_COMMANDS)


def boot_machine(folder: Path) -> None:
    """Do to the state what a reboot does: a new boot id, the newest kernel, every service up, no lock left behind."""
    state = folder / "state"
    kernels = [path.name.removeprefix("linux-image-") for path in (state / "installed").glob("linux-image-[0-9]*")]
    (state / "kernel").write_text(f"{max(kernels)}\n")
    for unit in (state / "units").iterdir():
        unit.write_text("active\n")
    for path in (*(state / "restart").iterdir(), state / "dpkg-lock" / "pid"):
        path.unlink(missing_ok=True)
    (folder / "root/var/run/reboot-required").unlink(missing_ok=True)
    if (state / "dpkg-lock").is_dir():
        (state / "dpkg-lock").rmdir()
    (state / "booting").touch()
    _start_clock(folder, started=time.time())


def finish_boot(folder: Path) -> None:
    """Let the services be up: from here on the machine says that it is running."""
    (folder / "state" / "booting").unlink(missing_ok=True)


def _start_clock(folder: Path, *, started: float) -> None:
    """Write when the machine started and a boot id of its own."""
    text = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(started))
    (folder / "state" / "boot").write_text(f"{int(started)}\n{text}\n")
    _write_own_file(folder, "proc/sys/kernel/random/boot_id", f"{uuid.uuid4()}\n")


def _write_own_file(folder: Path, path: str, text: str) -> None:
    """Write a file that this machine's `cat` shows in place of the real one."""
    own = folder / "root" / path
    own.parent.mkdir(parents=True, exist_ok=True)
    own.write_text(text)


def _install_tools(target: Path) -> None:
    """Copy the tools into a machine's `bin`, so that nothing a command does there reaches another machine."""
    tools = {tool.name: tool.read_bytes() for tool in _TOOLS.iterdir()}
    tools |= dict.fromkeys(REFUSED_COMMANDS, tools["not-simulated"])
    for name, content in tools.items():
        tool = target / name
        tool.write_bytes(content)
        tool.chmod(0o700)
