"""What is looked at before anything starts: a run that could not go through is refused while nothing has happened."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import suppress

from msgspec import Struct
from msgspec.structs import replace

from opsbook.errors import RefusedError, SecretError
from opsbook.execution.kernel import kernel_command
from opsbook.execution.request import RunRequest
from opsbook.model.plan import PlannedSecret
from opsbook.model.protocol import Prompter
from opsbook.redaction import INLINE, PROMPT, shown_reference
from opsbook.runbook.param_magic import KERNEL as SSH_KERNEL
from opsbook.runbook.param_magic import param_line
from opsbook.runbook.parameters import prompts_in
from opsbook.secrets.resolve import Resolver, is_exposed, is_stream, resolve

_COSTLY = ("cmd:", "vault:")
"""References that cost a process or a question to a server."""


class Checked(Struct, frozen=True, kw_only=True):
    """What is known of a run's secrets before it starts."""

    values: tuple[str, ...] = ()
    """What is to be masked from the first byte on."""
    exposed: tuple[str, ...] = ()
    """References of files that everybody on this machine can read."""

    def __repr__(self) -> str:
        """Show no value: a traceback may show this."""
        return f"Checked(exposed={self.exposed!r})"


def check_request(request: RunRequest, prompter: Prompter | None, resolver: Resolver) -> Checked:
    """Refuse a run that cannot go through; ask for what has to be typed; return what is known of its secrets then.

    Raises:
        RefusedError: a cell has to be confirmed, and there is nobody to ask; or a note blocks it.
        SecretError: a secret or a password is not where its reference says.
        RunbookError: there is no such kernel.
        ParameterError: the kernel takes no such value.
    """
    check_notes(request)
    check_gates(request, asked=prompter is not None)
    check_kernel(request)
    needed = [*_secrets(request), *_passwords(request)]
    values = [_value(one, resolver) for one in sorted(needed, key=lambda one: one.reference.startswith(PROMPT))]
    values += _values_before(request, resolver, known={one.reference for one in needed})
    for cell in request.runbook.code_cells:
        resolver.ask_now(*(() if cell.is_skipped else prompts_in(cell.code)))
    resolver.ask_no_more()
    exposed = dict.fromkeys(one.reference for one in needed if is_exposed(one.reference))
    return Checked(values=tuple(filter(None, values)), exposed=tuple(exposed))


def check_notes(request: RunRequest) -> None:
    """Refuse before anything starts what a note blocks that nobody has acknowledged.

    Raises:
        RefusedError: one does.
    """
    blocking = request.noted.blocking
    if blocking:
        flags = " ".join(f"--ack-note {note.id}" for note in blocking)
        raise RefusedError(f"this run is blocked: {'; '.join(note.sentence for note in blocking)}", f"{flags} insists")


def check_gates(request: RunRequest, *, asked: bool) -> None:
    """Refuse before anything starts when a gate could not be answered (SEMANTICS 25).

    Raises:
        RefusedError: a cell has to be confirmed, and nobody is `asked`.
    """
    gates = open_gates(request)
    if gates and not asked:
        raise RefusedError(
            f'"{gates[0]}" has to be confirmed, and there is no terminal to ask on',
            "give --yes to confirm it beforehand",
        )


def open_gates(request: RunRequest) -> tuple[str, ...]:
    """Return the labels of the cells that somebody still has to confirm."""
    if request.yes or request.options.checking:
        return ()
    granted = request.resumed.replay.granted if request.resumed is not None else frozenset()
    return tuple(cell.label for cell in request.runbook.code_cells if cell.asks and cell.id not in granted)


def check_kernel(request: RunRequest) -> None:
    """Refuse before anything starts a kernel that is not there, and what could not be written into its notebook.

    Raises:
        RunbookError: there is no such kernel.
        ParameterError: it takes no such value.
    """
    kernel_command(request.runbook.kernel)
    if request.runbook.kernel == SSH_KERNEL:
        for name, value in request.binding.given.items():
            param_line(name, value)


class _Needed(Struct, frozen=True, kw_only=True):
    """A reference a run may use, and where it stands."""

    reference: str
    what: str
    hint: str = "correct the reference, or set what it names"
    lazily: bool = False
    """Whether what it costs to ask for it is spent only when it is used: a run may have hundreds and use none."""


def _secrets(request: RunRequest) -> Iterator[_Needed]:
    """List what the notebook is given: the secret parameters and variables."""
    binding = request.binding
    for name in binding.secrets:
        reference = binding.values.get(name)
        if isinstance(reference, str):
            yield _Needed(reference=reference, what=f"parameter {name!r}", hint=f"give another with -p {name}=…")
    for name, reference in request.env.references.items():
        yield _Needed(reference=reference, what=f"{name} under [env] secrets")


def _passwords(request: RunRequest) -> Iterator[_Needed]:
    """List what the targets are reached with."""
    if request.inventory is None:
        return
    for name in ("password", "sudo_password"):
        reference = getattr(request.options, name)
        if reference is not None:
            yield _Needed(reference=reference, what=f"{name} under [ssh]", lazily=True)
    selected, seen = set(request.selected), set[str | None]({None})
    for target in (target for target in request.inventory.targets if target.name in selected):
        for reference in (target.password, target.become.password):
            if reference is not None and reference not in seen:
                seen.add(reference)
                what = f"a password of {target.name} in the inventory"
                yield _Needed(reference=reference, what=what, lazily=True)


def planned_secrets(request: RunRequest) -> Iterator[PlannedSecret]:
    """Say of each secret whether it can be had, at no cost; of the passwords of targets only which cannot."""
    for needed in _secrets(request):
        yield _planned(needed, asks=request.terminal)
    planned = (_planned(needed, asks=request.terminal) for needed in _passwords(request))
    yield from (one for one in planned if one.problem)


def _planned(needed: _Needed, *, asks: bool) -> PlannedSecret:
    planned = PlannedSecret(what=needed.what, reference=shown_reference(needed.reference))
    if needed.reference.startswith((*_COSTLY, PROMPT) if asks else _COSTLY) or is_stream(needed.reference):
        return replace(planned, later=True)
    try:
        resolve(needed.reference)
    except SecretError as error:
        return replace(planned, problem=f"{needed.what}: {error}")
    return planned


def _values_before(request: RunRequest, resolver: Resolver, *, known: Collection[str]) -> Iterator[str]:
    """Yield what the run that is resumed was given and can be had again; what cannot is missed when it is used."""
    for reference in request.resumed.secrets if request.resumed is not None else ():
        if reference not in known and not reference.startswith((PROMPT, INLINE)):
            with suppress(SecretError):
                yield resolver.resolve_early(reference)


def _value(needed: _Needed, resolver: Resolver) -> str:
    """Return what a reference stands for, or refuse it; nothing where that is left for when it is used."""
    if needed.lazily and needed.reference.startswith(_COSTLY):
        return ""
    try:
        return resolver.resolve_early(needed.reference)
    except SecretError as error:
        raise SecretError(f"{needed.what}: {error}", error.hint or needed.hint) from None
