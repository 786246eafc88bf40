"""Listens in a Python process of the tests, from its first line on: whom it hands the canary when it starts a program.

The text of this file is what such a process runs as its `sitecustomize`, with a call of `listen` behind it. It is the
starter that tells, so no program is over too soon to be noticed. It imports only what every interpreter has loaded by
then, and pathlib is not: tests look at what a command loads.
"""

# ruff: noqa: PTH100, PTH113, PTH118, PTH119, PTH120, PTH123
import os
import sys

OWN = ("opsbook.execution.", "-m opsbook", "ipykernel")
"""What stands in the argument lists of opsbook's own processes, and of kernels."""
RUNNERS = ("-m opsbook.execution.launch", "-m opsbook.execution.guard")
"""The same, of what a runner starts for its notebook."""
JOINED = "OPSBOOK_CHANNEL"
"""The variable of a kernel that has a runner: what hands the canary on is looked for where that one works."""
EXTENSION, SHELL = "opsbook.fleet.extension", "IPython.core.interactiveshell"
"""What is imported where a notebook loads opsbook, and what is there before."""
STARTS = {
    "subprocess.Popen": lambda program, args, cwd, env: (args, env, cwd),
    "os.exec": lambda program, args, env: (args, env, None),
    "os.posix_spawn": lambda program, args, env: (args, env, None),
    "os.spawn": lambda mode, program, args, env: (args, env, None),
    "os.system": lambda command: ([command], None, None),
}
"""The audit events of a program's start; what each tells of arguments, environment (None: ours) and directory."""


class Listener:
    """What is looked for, and where what is found is written, a line each."""

    def __init__(self, forms: tuple[bytes, ...], handed_on: str, file: str) -> None:
        self.forms = forms
        self.handed_on = handed_on
        """What stands in settings that hand the canary to notebooks."""
        self.file = file
        self.had_it = self.is_in(os.environ)
        """Whether this process had it from its start: its starter has told, if it was not to."""

    def listen(self, *, runs_notebooks: bool = True) -> None:
        """Listen to the end of this process, also for a notebook that it loads opsbook in by itself."""
        if hasattr(sys, "canary_listener"):
            return  # this process was forked from one that listens
        sys.canary_listener = self  # type: ignore[attr-defined]
        alone = runs_notebooks and JOINED not in os.environ

        def hear(event: str, args: tuple) -> None:
            if event in STARTS:
                try:
                    self.tell(self.leaks_of(*STARTS[event](*args)))
                except Exception as error:  # noqa: BLE001  what is started tells its own error
                    self.tell([f"what {_us()} starts cannot be looked at: {type(error).__name__}"])
            elif event == "import" and alone and args[0] == EXTENSION and SHELL in sys.modules:
                self.tell(self.unplanted(None))

        sys.addaudithook(hear)

    def leaks_of(self, args: object, env: object = None, cwd: object = None) -> list[str]:
        """Return what is wrong with a program that is started; never the value."""
        words = [os.fsencode(word) for word in args]  # type: ignore[attr-defined]
        line = b" ".join(words).decode(errors="replace")
        given = os.environ if env is None else env
        name = "a program" if self.shows(words[0]) else os.path.basename(os.fsdecode(words[0]))
        leaks = []
        if self.shows(b"\0".join(words)):
            leaks += [f"the canary is in the argument list of {name}, started by {_us()}"]
        if self.is_in(given) and (_is(line, OWN) or not self.is_a_notebooks()):
            leaks += [f"the canary is in the environment of {name}, started by {_us()}"]
        if _is(line, RUNNERS):
            leaks += self.unplanted(None)
        elif "ipykernel" in line and JOINED not in given:  # type: ignore[operator]
            leaks += self.unplanted(cwd)
        return leaks

    def is_in(self, environment: object) -> bool:
        return self.shows(b"\0".join(map(os.fsencode, environment.values())))  # type: ignore[attr-defined]

    def shows(self, data: bytes) -> bool:
        return any(form in data for form in self.forms)

    def is_a_notebooks(self) -> bool:
        """Whether what is started may have it: a cell starts it, or a program that may have it itself."""
        if EXTENSION not in sys.modules:
            return self.had_it
        package = os.path.dirname(sys.modules["opsbook"].__file__ or "") + os.sep
        frame = sys._getframe(1)
        while frame is not None:
            file = frame.f_code.co_filename
            if "ipykernel_" in file or "<ipython-" in file:
                return True
            if file.startswith(package):
                return False
            frame = frame.f_back
        return True  # a library's thread

    def unplanted(self, cwd: object) -> list[str]:
        """Return what to say where the settings that hold in a directory do not hand it on."""
        place = folder = os.path.abspath(os.curdir if cwd is None else os.fsdecode(cwd))  # type: ignore[arg-type]
        settings = os.path.join(folder, "opsbook.toml")
        while not os.path.isfile(settings) and folder != os.path.dirname(folder):
            folder = os.path.dirname(folder)
            settings = os.path.join(folder, "opsbook.toml")
        try:
            with open(settings, encoding="utf-8") as file:
                found = self.handed_on in f"\n{file.read()}"
        except OSError:
            found = False
        return [] if found else [f"a notebook is run without the canary in {place}, by {_us()}"]

    def tell(self, leaks: list[str]) -> None:
        for leak in leaks:
            descriptor = os.open(self.file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            os.write(descriptor, leak.replace("\n", " ").encode(errors="replace") + b"\n")
            os.close(descriptor)


def _is(line: str, names: tuple[str, ...]) -> bool:
    return any(name in line for name in names)


def _us() -> str:
    """Say which process this is, without what it was given."""
    words = [os.path.basename(sys.orig_argv[0]), *sys.orig_argv[1:3]]
    return f"{os.getpid()} ({' '.join(word.partition(chr(10))[0][:60] for word in words)})"


def make_way(name: str, file: str) -> None:
    """Be what was found under a name first, and have what stands behind it on the path found under it."""
    folder = os.path.dirname(file)
    if name != "sitecustomize" or folder not in sys.path:
        return  # a forked command runs all of them itself
    sys.path.remove(folder)
    ours = sys.modules.pop(name)
    try:
        import sitecustomize  # noqa: F401
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        sys.modules[name] = ours
