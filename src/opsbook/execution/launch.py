"""The kernel's side of its start: ipykernel in opsbook's own interpreter, behind a guard.

Run as `python -P -m opsbook.execution.launch CONNECTION_FILE`. `-P` keeps the working directory off the path until
opsbook is imported, so that an `opsbook.py` beside the notebook cannot take its place.
"""

from __future__ import annotations

import gc
import os
import sys

from opsbook.execution.guard import fork_guard


def main() -> None:
    """Fork the guard while the process is small, and become the kernel."""
    connection_file = sys.argv[1]
    fork_guard(os.path.dirname(connection_file))  # noqa: PTH120  pathlib is not loaded yet
    gc.disable()  # until the kernel serves: imports make hardly any garbage
    from opsbook.execution.own_kernel import serve  # noqa: PLC0415  the guard needs none of it

    serve(connection_file)


if __name__ == "__main__":
    main()
