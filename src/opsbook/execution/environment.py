"""What a kernel is given of the environment: an allow-list, what `[env]` adds, and nothing that runs code at its start.

A run on a server, from cron and on a laptop then see the same variables, and a token that lies about in somebody's
shell reaches no notebook that did not ask for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path

from opsbook.config import EnvSettings

ALLOWED = (
    *("HOME", "USER", "LOGNAME", "SHELL", "PATH"),  # who, and where programs are
    *("LANG", "LANGUAGE", "LC_*", "TZ"),  # how text and times are written
    *("TMPDIR", "XDG_*"),  # where files go
    *("SSH_AUTH_SOCK", "KRB5CCNAME", "KRB5_CONFIG"),  # how targets are logged in to
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE"),  # whom to trust
    *("VIRTUAL_ENV", "LD_LIBRARY_PATH"),  # what opsbook's own interpreter was started with
    # the same: whoever can set these has already run code in opsbook itself
    *("PYTHONPATH", "PYTHONHOME", "PYTHONNOUSERSITE", "PYTHONUSERBASE", "PYTHONPYCACHEPREFIX"),
    *("PYTHONDONTWRITEBYTECODE", "PYTHONUTF8", "PYTHONHASHSEED", "PYTHONWARNINGS", "PYTHONFAULTHANDLER"),
)
"""Names and patterns. Not among them: TERM (there is no terminal), proxies (their addresses carry passwords),
PYTHONSTARTUP and everything else that makes a program run something first."""
OURS = "OPSBOOK_"
"""Variables of this beginning are settings of the runner's: the notebook has them over the channel."""


def kernel_environment(environ: Mapping[str, str], settings: EnvSettings, *, folder: Path, cwd: Path) -> dict[str, str]:
    """Return the environment of a kernel that has `folder` for itself and works in `cwd`."""
    return {
        **{name: value for name, value in environ.items() if is_passed(name, settings)},
        **settings.set_,
        "IPYTHONDIR": str(folder / "ipython"),
        "JUPYTER_CONFIG_DIR": str(folder / "jupyter"),
        "JUPYTER_NO_CONFIG": "1",
        "JUPYTER_RUNTIME_DIR": str(folder),
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
        "PWD": str(cwd),
    }


def is_passed(name: str, settings: EnvSettings) -> bool:
    """Whether a variable reaches the kernel."""
    wanted = (*ALLOWED, *settings.pass_)
    return not name.startswith(OURS) and any(fnmatchcase(name, pattern) for pattern in wanted)
