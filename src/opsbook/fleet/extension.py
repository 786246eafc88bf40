"""`%load_ext opsbook`: puts the API into the notebook, and makes parameters the types they are declared as.

Headless and in Jupyter alike: after a cell that declares or sets declared parameters, their values become those types
(an ISO date a date, a reference a Secret). Under a runner each cell ends with a handshake on the channel, so that
everything the cell reported is recorded before the cell is over.
"""

from __future__ import annotations

import ast
import sys
from typing import Annotated, Any, Literal

from IPython.display import display

from opsbook.errors import FleetError, OpsbookError
from opsbook.fleet import api
from opsbook.fleet.magic import on
from opsbook.fleet.operation import shell_value
from opsbook.fleet.session import Session, current
from opsbook.model.message import ATTEMPT_KEY
from opsbook.model.parameter import ParameterSpec
from opsbook.redaction import Secret
from opsbook.runbook.mark import without_mark
from opsbook.runbook.parameters import convert, read_parameters

_GIVEN = {
    "targets": api.targets,
    "once": api.once,
    "record": api.record,
    "secret": api.secret,
    "wait_until": api.wait_until,
    "Secret": Secret,
    "FleetError": FleetError,
    "Literal": Literal,
    "Annotated": Annotated,
}


def load(shell: Any) -> None:
    """Set the notebook up. Loading twice changes nothing."""
    if getattr(shell, "opsbook_extension", None) is not None:
        return
    session = current()
    session.secrets.set_environment()
    extension = _Extension(shell, session)
    shell.opsbook_extension = extension
    shell.push(_GIVEN)
    shell.register_magic_function(extension.on, magic_kind="cell", magic_name="on")
    shell.events.register("pre_run_cell", extension.before_cell)
    shell.events.register("post_run_cell", extension.after_cell)
    shell.set_custom_exc((OpsbookError,), _show_error)
    if session.channel is None:  # a runner takes it off itself
        shell.input_transformers_cleanup.insert(0, _take_mark_off)


def _take_mark_off(lines: list[str]) -> list[str]:
    """Return a cell's lines without the mark that has its output summed up."""
    return without_mark("".join(lines)).splitlines(keepends=True)


def _show_error(
    shell: Any, kind: type[BaseException], error: BaseException, trace: Any, tb_offset: int | None = None
) -> list[str]:
    """Show one of our errors as its sentence and its hint: our own frames help no author."""
    del trace, tb_offset
    hint = getattr(error, "hint", "")
    lines = [f"{kind.__name__}: {error}", *([f"hint: {hint}"] if hint else [])]
    shell._showtraceback(kind, error, lines)  # noqa: SLF001  IPython's own way to publish an error
    return lines


class _Extension:
    """The hooks of one shell."""

    def __init__(self, shell: Any, session: Session) -> None:
        self._shell = shell
        self._session = session
        self._declared: dict[str, ParameterSpec] = {}
        session.variables = self._variables
        session.show = display
        if session.channel is None and getattr(shell, "kernel", None) is not None:
            session.live.attach(display)  # a terminal could not take back what it has shown
            session.show = session.live.show

    def on(self, line: str, cell: str) -> None:
        """Run the cell's script on targets (`%%on`)."""
        with self._session.live.one_output():
            on(line, cell, self._shell.user_ns)

    on._ipython_magic_no_var_expand = True  # type: ignore[attr-defined]  # noqa: SLF001  we fill the line in ourselves

    def before_cell(self, info: Any) -> None:
        """A cell begins."""
        self._session.begin_cell(info.cell_id, self._attempt())

    def _attempt(self) -> int:
        """Return which attempt the cell is in, as the runner says beside its id; 1 where there is no runner."""
        parent = getattr(self._shell, "parent_header", None) or {}
        return int(parent.get("metadata", {}).get(ATTEMPT_KEY, 1))

    def after_cell(self, result: Any) -> None:
        """A cell's code has returned, or raised."""
        try:
            if result.info is not None and result.success:
                self._convert(result.info.raw_cell or "")
        finally:
            if self._session.channel is not None:
                sys.stdout.flush()
                sys.stderr.flush()
                self._session.await_calls()
                self._session.channel.close_cell(self._session.cell_id)

    def _convert(self, source: str) -> None:
        assigned = _assigned_names(source)
        if assigned is None:
            return
        declares = {spec.name: spec for spec in read_parameters(source) if spec.annotation is not None}
        self._declared |= declares
        namespace = self._shell.user_ns
        for name in assigned:
            spec = self._declared.get(name)
            if spec is None or name not in namespace:
                continue
            try:
                namespace[name] = convert(spec, namespace[name], reveal=self._session.secrets.reveal)
            except OpsbookError as error:
                print(f"error: {error}", file=sys.stderr)  # noqa: T201  the cell has run: all that is left is to say so

    def _variables(self) -> dict[str, str]:
        """Give the parameters as script variables; secrets never are."""
        names = {*self._declared, *self._session.parameters}
        values = {name: self._shell.user_ns[name] for name in names if name in self._shell.user_ns}
        return {name: shell_value(value) for name, value in values.items() if not isinstance(value, Secret)}


def _assigned_names(source: str) -> list[str] | None:
    """List what a cell of plain declarations assigns; None when the cell does anything else."""
    plain = "\n".join("" if line.lstrip().startswith(("%", "!")) else line for line in source.splitlines())
    try:
        tree = ast.parse(plain)
    except (SyntaxError, ValueError):
        return None
    names: list[str] = []
    for node in tree.body:
        target = node.targets[0] if isinstance(node, ast.Assign) and len(node.targets) == 1 else None
        target = node.target if isinstance(node, ast.AnnAssign) else target
        if isinstance(target, ast.Name):
            names.append(target.id)
        elif not isinstance(node, ast.Import | ast.ImportFrom | ast.Expr):
            return None
    return names
