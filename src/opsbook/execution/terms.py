"""What runner, guard and our own kernel have agreed on. Imports nothing: it stands at the start of every kernel."""

from __future__ import annotations

GUARD_VARIABLE = "OPSBOOK_GUARD"
"""The environment variable that tells a guard which descriptor ends when its runner does."""
KILL = b"k"
"""What a runner that lives writes there: end everything, and leave the folder to me."""
LEFT = "left"
"""The file in the kernel's folder that names processes which could not be ended."""
COUNTED = frozenset(("stream", "display_data", "update_display_data", "execute_result", "error", "clear_output"))
"""The messages that are output: what our kernel counts when it hands them over, and the runner when they come."""
OUTPUTS_KEY = "opsbook_outputs"
"""Where in its reply to a cell our kernel says how many of them it handed over."""
IN_FLIGHT = 8
"""Messages that may be on their way at each end of our kernel's output; then the notebook waits."""
