"""Runs the command with every write to the archive watched, and ends or fails it at a chosen one.

Run as `python -P tests/crash.py`: it imports what a run needs once, then forks for every plan that comes in as a line
of JSON on stdin, and answers with a line when that child has ended. In the child `os.fsync` and its kin are wrapped:
each call our package makes on a watched file is a *site* (module, function, call, kind of file) with a number, and
leaves a line in a trace, written after the call. Only the runner is watched: the kernel is another program.

Knows the standard library, the command's entry and `Recorder.commit`. What is asserted of a trace is the affair of
`kills`.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import select
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, NoReturn

PACKAGE = f"{os.sep}src{os.sep}opsbook{os.sep}"
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
ON_FILES = ("open", "write", "pwrite", "fsync", "fdatasync", "ftruncate", "posix_fallocate")
ON_NAMES = ("mkdir", "rmdir", "unlink", "remove", "rename", "replace", "link")
SAME_CALL = {"rename": "replace", "remove": "unlink", "fdatasync": "fsync", "pwrite": "write"}
STALL_S = 1.0
"""Seconds a stalled call waits for what must not happen meanwhile, before the process is ended."""


class How(StrEnum):
    """What happens at the chosen call."""

    WATCH = "watch"
    BEFORE = "before"
    """Killed before it."""
    AFTER = "after"
    """Killed after it."""
    TORN = "torn"
    """A write does half of its work; then killed."""
    STALL = "stall"
    """It takes long, and never comes to be: whoever does not wait for it is seen. Then killed."""
    SHORT = "short"
    """A write does half of its work and says so, as it may."""
    FULL = "full"
    """It fails once: no space left."""
    BROKEN = "broken"
    """It fails once: an input/output error."""


FAILS = {How.FULL: errno.ENOSPC, How.BROKEN: errno.EIO}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One command to run, and what is to happen to it."""

    args: list[str]
    cwd: str
    environment: dict[str, str]
    trace: str = ""
    """The file the trace goes to; nothing is watched without one."""
    roots: list[str] = field(default_factory=list)
    """The folders whose files are watched."""
    site: str = ""
    """Where something is to happen; without its place in the code ("fsync run.json") all such sites are one."""
    nth: int = 0
    text: str = ""
    """What is to be written there; calls that write anything else are not counted."""
    how: How = How.WATCH
    kill_after_s: float | None = None
    """Seconds from the first watched call to the kill."""
    keep: bool = False
    """Whether the trace keeps the bytes of what was synced."""


class Watch:
    """The wrapped calls of one process."""

    def __init__(self, plan: Plan, begun: int) -> None:
        self._plan = plan
        self._roots = tuple(f"{root}{os.sep}" for root in plan.roots)
        self._begun = begun
        self._counts: Counter[str] = Counter()
        self._meant = 0
        """How many calls were those the plan means."""
        self._lock = threading.RLock()
        self._write = os.write
        self._trace = os.open(plan.trace, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def install(self) -> None:
        """Wrap the calls, and what tells a caller that an event is on disk."""
        for name in (*ON_FILES, *ON_NAMES):
            if hasattr(os, name):
                setattr(os, name, self._wrapped(name, getattr(os, name)))
        fcntl.flock = self._wrapped("flock", fcntl.flock)
        from opsbook.execution.recorder import Recorder

        real, note = Recorder.commit, self._note

        def commit(self: Recorder, event: Any, done: Callable[[str], None]) -> None:
            def told(why: str) -> None:
                if not why:
                    note(site="told", call="told", event=type(event).__name__)
                done(why)

            real(self, event, told)

        Recorder.commit = commit  # type: ignore[method-assign]

    def _wrapped(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        call = SAME_CALL.get(name, name)

        def watched(*args: Any, **options: Any) -> Any:
            where = self._where(call, args, options)
            if where is None:
                return real(*args, **options)
            return self._pass(call, *where, lambda *changed: real(*(changed or args), **options), args)

        return watched

    def _where(self, call: str, args: tuple[Any, ...], options: dict[str, Any]) -> tuple[str, str] | None:
        """Return the site and the path of a call that matters."""
        if call == "open" and not (len(args) > 1 and args[1] & WRITES):
            return None
        path = _path(args[0], options.get("dir_fd", options.get("src_dir_fd")))
        if not path.startswith(self._roots) and path not in self._plan.roots:
            return None
        frame = sys._getframe(2)
        while PACKAGE not in frame.f_code.co_filename:
            if frame.f_back is None:
                return None
            frame = frame.f_back
        module = frame.f_code.co_filename.rpartition(PACKAGE)[2]
        return f"{module}:{frame.f_code.co_name} {call} {kind(path)}", path

    def _pass(self, call: str, site: str, path: str, real: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        with self._lock:  # the trace has the order of the calls
            short = site.partition(" ")[2]
            self._counts[site] += 1
            nth = self._counts[site]
            if self._begun >= 0:
                os.close(self._begun)
                self._begun = -1
            is_meant = self._plan.site in {site, short}
            if is_meant and self._plan.text:
                is_meant = self._plan.text.encode() in bytes(args[1])
            self._meant += is_meant
            how = self._plan.how if is_meant and self._meant == self._plan.nth else How.WATCH
            self._before(how, real, args, call)
            if how in FAILS:
                self._note(site=site, call=call, nth=nth, path=path, error=how.value)
                raise OSError(FAILS[how], os.strerror(FAILS[how]), path)
            part = _part(args) if how is How.SHORT and call == "write" else ()
            facts = self._facts(call, path, args)
            try:
                result = real(*part)
            except OSError as error:
                facts = {"raised": error.errno}
                raise
            else:
                facts |= {"inode": os.fstat(result).st_ino} if call == "open" else {}
            finally:
                self._note(site=site, call=call, nth=nth, path=path, **facts)
                if how is How.AFTER:
                    _end()
            return result

    def _before(self, how: How, real: Callable[..., Any], args: tuple[Any, ...], call: str) -> None:
        if how is How.STALL:
            self._lock.release()
            time.sleep(STALL_S)
        if how is How.TORN and call == "write":
            real(*_part(args))
        if how in {How.BEFORE, How.TORN, How.STALL}:
            _end()

    def _facts(self, call: str, path: str, args: tuple[Any, ...]) -> dict[str, Any]:
        """Return what is worth knowing of a call about to be made: for a sync which bytes it puts on disk."""
        if call in {"replace", "link"}:
            return {"to": str(Path(args[1]).absolute()), "inode": Path(path).stat().st_ino}
        if call == "open":
            return {"new": not Path(path).exists()}
        if call not in {"fsync", "write"} or Path(path).is_dir():
            return {}
        about = os.fstat(args[0])
        facts: dict[str, Any] = {"inode": about.st_ino, "size": about.st_size}
        if call == "fsync":
            data = Path(path).read_bytes()[: about.st_size]
            facts["sha"] = hashlib.sha256(data).hexdigest()
            if self._plan.keep:
                facts["data"] = data.hex()
        return facts

    def _note(self, **entry: Any) -> None:
        self._write(self._trace, json.dumps(entry).encode() + b"\n")


def _part(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the arguments of a write of half as much."""
    return args[0], bytes(args[1])[: max(1, len(args[1]) // 2)], *args[2:]


def _path(place: Any, folder: int | None) -> str:
    """Return the whole path of what a call is about."""
    if isinstance(place, int):
        try:
            return str(Path(f"/proc/self/fd/{place}").readlink())
        except OSError:
            return ""
    within = Path.cwd() if folder is None else Path(f"/proc/self/fd/{folder}").readlink()
    return str(within / os.fsdecode(place))


KINDS = (
    (r".*/opsbook-[^/]+(/.*)?", "socket folder"),
    (r".*/hosts/[^/]+", "host log"),
    (r".*/[^/]+--\d{8}T\d{6}Z-[0-9a-f]{6}\.ipynb", "copy"),
    (r".*/\d{8}T\d{6}Z-[^/]+", "run folder"),
    (r".*/ids/[^/]+", "claim of an id"),
    (r".*/target-[0-9a-f]+\.lock", "lock of a target"),
    (r".*/[a-z0-9_]{8}", "probe"),  # of tempfile, for a folder that can be written
    (r".*/\d+", "folder of days"),
)


def kind(path: str) -> str:
    """Name the kind of a file, the same in every run; a draft is of its file's kind."""
    whole = re.sub(r"/\.([^/]+)\.[0-9a-f]{8}$", r"/\1", path)
    return next((name for shape, name in KINDS if re.fullmatch(shape, whole)), Path(whole).name)


def _end() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError  # not reached


def _child(plan: Plan, begun: int) -> NoReturn:
    """Be the command."""
    os.chdir(plan.cwd)
    os.environ.clear()
    os.environ.update(plan.environment)
    sys.argv = ["opsbook", *plan.args]
    if plan.trace:
        Watch(plan, begun).install()
    from opsbook.cli.main import main

    code = 70
    try:
        main()
    except SystemExit as done:
        code = int(done.code or 0)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _serve(plan: Plan, out: str, err: str) -> int:
    """Fork for a plan, kill the child when its time has come, and return how it ended, as a shell says it."""
    begins, begun = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(begins)
        for number, name in ((0, os.devnull), (1, out), (2, err)):
            flags = os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT | os.O_TRUNC
            os.dup2(os.open(name, flags, 0o600), number)
        _child(plan, begun)
    os.close(begun)
    ended = os.pidfd_open(pid)
    if plan.kill_after_s is not None:
        select.select([begins], [], [])  # closed by the first watched call, or by the end
        if not select.select([ended], [], [], plan.kill_after_s)[0]:
            os.kill(pid, signal.SIGKILL)  # ours, and not reaped: the number is nobody else's
    os.close(begins)
    status = os.waitpid(pid, 0)[1]
    os.close(ended)
    return os.waitstatus_to_exitcode(status)


def serve() -> None:
    """Run one plan after the other, until there are no more."""
    import nbformat  # noqa: F401  what runs import anyway, once
    import papermill.execute  # noqa: F401

    import opsbook.cli.run
    import opsbook.cli.runs
    import opsbook.cli.show
    import opsbook.execution.engine  # noqa: F401

    for line in sys.stdin:
        asked = json.loads(line)
        how = How(asked["plan"].pop("how"))
        code = _serve(Plan(**asked["plan"], how=how), asked["out"], asked["err"])
        sys.stdout.write(f"{code}\n")
        sys.stdout.flush()


def request(plan: Plan, out: str, err: str) -> str:
    """Return a plan as the line that asks for it."""
    return json.dumps({"plan": asdict(plan), "out": out, "err": err}) + "\n"


if __name__ == "__main__":
    serve()
