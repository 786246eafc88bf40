"""Asks whether anything that is pinned has a known vulnerability.

A vulnerability fails. What could not be asked about, for want of a network or of an answer, is said in one line and
held against nobody: whoever reads the log knows whether there was an audit.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

LOCK = Path(__file__).resolve().parent.parent / "requirements.lock"
SECONDS = 300
UNREACHABLE = (
    *("your network may be blocking", "ConnectionError", "Connection error", "Max retries", "timed out"),
    *("Client Error", "Server Error", "Could not connect", "redirecting properly", "SSLError", "ServiceError"),
)
"""How pip-audit says that nobody answered, or only a proxy did; any other error of its own is one of ours."""


def judge(report: str, said: str) -> tuple[list[str], int]:
    """Return what to say of a report and of what stood on stderr, and the exit code."""
    try:
        found: list[dict[str, Any]] = json.loads(report)["dependencies"]
    except (ValueError, KeyError, TypeError):
        last = next((line for line in reversed(said.splitlines()) if line.strip()), "it said nothing")[:200]
        if any(sign in said for sign in UNREACHABLE):
            return [f"note: the audit of dependencies could not be done: {last}"], 0
        return [f"error: pip-audit failed: {last}"], 1
    lines = [
        f"error: {one['name']} {one['version']}: {flaw['id']}, fixed in {', '.join(flaw['fix_versions']) or 'none yet'}"
        for one in found
        for flaw in one.get("vulns", ())
    ]
    if lines:
        return lines, 1
    skipped = sum("skip_reason" in one for one in found)
    if skipped == len(found):
        return ["note: the audit of dependencies could not be done: there was an answer about none of them"], 0
    left_out = f", {skipped} of which nothing is known" if skipped else ""
    return [f"audit: no known vulnerability in {len(found)} dependencies{left_out}"], 0


def main() -> int:
    """Audit the lock file, say what came of it, and return the exit code."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.json")
        command = [sys.executable, "-m", "pip_audit", "--disable-pip", "--require-hashes", "--requirement", str(LOCK)]
        command += ["--progress-spinner", "off", "--format", "json", "--output", str(report)]
        try:
            said = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False).stderr
        except subprocess.TimeoutExpired:
            said = f"timed out after {SECONDS} s"
        lines, code = judge(report.read_text() if report.is_file() else "", said)
    print("\n".join(lines), file=sys.stderr if code else sys.stdout)
    return code


if __name__ == "__main__":
    sys.exit(main())
