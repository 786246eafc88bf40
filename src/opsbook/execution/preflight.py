"""What is looked at before anything starts: a run that could not go through is refused while nothing has happened."""

from __future__ import annotations

from collections.abc import Iterator

from opsbook.errors import RefusedError, SecretError
from opsbook.execution.kernel import kernel_command
from opsbook.execution.request import RunRequest
from opsbook.model.parameter import Binding
from opsbook.model.protocol import Prompter
from opsbook.model.target import JsonValue
from opsbook.secrets.resolve import resolve


def check_request(request: RunRequest, prompter: Prompter | None) -> tuple[str, ...]:
    """Refuse a run that cannot go through; return the secrets it may use, as far as they can be known beforehand.

    Raises:
        RefusedError: a cell has to be confirmed, and there is nobody to ask.
        SecretError: a secret or a password is not where its reference says.
        RunbookError: there is no such kernel.
    """
    _check_gates(request, prompter)
    values = (*_check_secrets(request.binding), *_check_passwords(request))
    kernel_command(request.runbook.kernel)
    return tuple(filter(None, values))


def _check_gates(request: RunRequest, prompter: Prompter | None) -> None:
    """Refuse before anything starts when a gate could not be answered (SEMANTICS 25)."""
    granted = request.resumed.replay.granted if request.resumed is not None else frozenset()
    gates = [cell.label for cell in request.runbook.code_cells if cell.asks and cell.id not in granted]
    if gates and prompter is None and not (request.yes or request.options.checking):
        raise RefusedError(
            f'"{gates[0]}" has to be confirmed, and there is no terminal to ask on',
            "give --yes to confirm it beforehand",
        )


def _check_secrets(binding: Binding) -> Iterator[str]:
    """Refuse before anything starts when a secret is not there."""
    for name in binding.secrets:
        yield _check_reference(binding.values.get(name), f"parameter {name!r}", hint=f"give another with -p {name}=…")


def _check_passwords(request: RunRequest) -> Iterator[str]:
    """Refuse before anything starts when a password the targets are reached with is not there."""
    if request.inventory is None:
        return
    hint = "correct the reference, or set what it names"
    for name in ("password", "sudo_password"):
        yield _check_reference(getattr(request.options, name), f"{name} under [ssh]", hint=hint)
    selected, seen = set(request.selected), set[str | None]()
    for target in (target for target in request.inventory.targets if target.name in selected):
        for reference in {target.password, target.become.password} - seen:
            seen.add(reference)
            yield _check_reference(reference, f"a password of {target.name} in the inventory", hint=hint)


def _check_reference(reference: JsonValue, what: str, *, hint: str) -> str:
    """Return what a reference stands for, or refuse it. A command is not run twice for that: it gives nothing here."""
    if isinstance(reference, str) and not reference.startswith("cmd:"):
        try:
            return resolve(reference)
        except SecretError as error:
            raise SecretError(f"{what}: {error}", error.hint or hint) from None
    return ""
