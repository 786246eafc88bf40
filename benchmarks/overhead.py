"""What a run costs beside papermill's, on the same notebooks, in turn: whole processes, medians, ratios.

python benchmarks/overhead.py [ROUNDS]
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def notebook(cells: list[str]) -> str:
    """Return a notebook's text."""
    code = [
        {"cell_type": "code", "execution_count": None, "id": f"c{n}", "metadata": {}, "outputs": [], "source": source}
        for n, source in enumerate(cells)
    ]
    kernel = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    return json.dumps({"cells": code, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5})


def seconds(command: list[str], folder: Path) -> float:
    """Run a command and return how long it took."""
    begun = time.monotonic()
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return time.monotonic() - begun


def main() -> None:
    """Measure and print the table."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    programs = {"no-op, 2 cells": ["pass", "pass"], "100 print cells": ["print('x')"] * 100}
    tools = Path(sys.executable).parent
    print(f"{'notebook':<18}{'opsbook':>10}{'papermill':>11}{'ratio':>8}   (medians of {rounds}, seconds)")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for name, cells in programs.items():
            (folder / "n.ipynb").write_text(notebook(cells))
            ours: list[float] = []
            theirs: list[float] = []
            for _ in range(rounds):
                ours.append(seconds([str(tools / "opsbook"), "run", "n.ipynb", "--quiet"], folder))
                theirs.append(seconds([str(tools / "papermill"), "n.ipynb", "out.ipynb", "--no-progress-bar"], folder))
            a, b = statistics.median(ours), statistics.median(theirs)
            print(f"{name:<18}{a:>10.2f}{b:>11.2f}{a / b:>8.2f}")


if __name__ == "__main__":
    main()
