"""Who may look into the memory of a run's processes, which hold its secrets: no disk, and no stranger to them.

A process that crashes leaves no core file, and where the system hands its core to a collector (systemd-coredump,
apport), it holds none of the memory. Both are inherited, so that they hold for the kernel and all it starts. Runner and
guard are closed to debuggers of the same user as well; the kernel is not: a notebook that hangs can be looked at, and
may look at itself. Imports next to nothing, because the guard stands at the start of every kernel.
"""

from __future__ import annotations

import sys
from contextlib import suppress

_DUMPABLE = 4
"""The property (prctl) whether a process may be dumped and traced."""


def keep_memory_off_disks() -> None:
    """Let no crash of this process, or of one it starts from now on, write memory to a disk."""
    import resource  # noqa: PLC0415

    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    with suppress(OSError), open("/proc/self/coredump_filter", "w", encoding="ascii") as file:  # noqa: PTH123
        file.write("0")  # a collector is handed a core whatever the limit


def close_memory() -> None:
    """Let nobody but root trace this process or read its memory; what it starts is not concerned."""
    ask_kernel(_DUMPABLE, 0)


def ask_kernel(option: int, value: int) -> None:
    """Set a property of this process (prctl), where the system knows it."""
    if sys.platform == "linux":
        import ctypes  # noqa: PLC0415

        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)
