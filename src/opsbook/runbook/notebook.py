"""Runbooks as read from disk: bytes read once, hashed, and understood without running anything.

The shape is checked here with a typed decode, because nbformat takes longer to import than a kernel to start; nbformat
itself comes in when the document is made (`make_document`) and validated. The bytes that were hashed are the bytes
that run. Knows nothing of kernels and runs.
"""

from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, cast

import msgspec
from msgspec import Struct

from opsbook.errors import RunbookError
from opsbook.model.parameter import ParameterSpec
from opsbook.runbook.file import RawNotebook, decode_notebook, read_bytes
from opsbook.runbook.header import Header, headings, read_header
from opsbook.runbook.mark import without_mark
from opsbook.runbook.parameters import read_parameters
from opsbook.runbook.tags import CLEANUP_TAGS, GATE_TAG, INJECTED_TAG, PARAMETERS_TAG, SKIP_TAGS, CellRules, read_tags

if TYPE_CHECKING:
    from nbformat import NotebookNode

Document: TypeAlias = "NotebookNode"
"""A notebook in nbformat's terms; named without importing it."""
_LABEL = 60
"""Characters of a line of code that name its cell."""
_ENDS_WORD = " \t,;()[]{}='\""
_SHOWN = 300
"""Characters of what nbformat says that are repeated: it repeats what it read."""


class Cell(Struct, frozen=True, kw_only=True):
    """One cell of a runbook."""

    id: str
    index: int
    kind: str
    """`code`, `markdown` or `raw`."""
    source: str
    tags: tuple[str, ...] = ()
    label: str = ""
    """The phase, the heading above it, or the first line of its code."""
    frozen: bool = False
    """Whether it is marked not to run any more (`run_through_control.frozen`)."""
    rules: CellRules = CellRules()
    """What its tags ask for."""
    left_out: str = ""
    """Why a run does not execute it, whatever happens; empty when it may."""
    still_asks: bool = False
    """Whether a gate is asked about although its code is left out."""

    @property
    def code(self) -> str:
        """Its source without the mark that has its output summed up."""
        return without_mark(self.source)

    @property
    def is_code(self) -> bool:
        """Whether there is something to execute."""
        return self.kind == "code" and bool(self.source.strip())

    @property
    def is_skipped(self) -> bool:
        """Whether no run executes it, whatever happens."""
        return bool(self.left_out)

    @property
    def asks(self) -> bool:
        """Whether it is asked about before the run goes on with it."""
        return GATE_TAG in self.tags and (self.still_asks or not self.left_out)

    @property
    def is_cleanup(self) -> bool:
        """Whether it still runs when another cell has not ended well."""
        return bool(CLEANUP_TAGS & set(self.tags))

    @property
    def sets_up(self) -> bool:
        """Whether the other cells need it: the parameters, or what loads opsbook."""
        loads = (line.split() == ["%load_ext", "opsbook"] for line in self.code.splitlines())
        return self.kind == "code" and (PARAMETERS_TAG in self.tags or any(loads))

    @property
    def fans_out(self) -> bool:
        """Whether its text is an `%%on` cell."""
        return self.code.split(maxsplit=1)[:1] == ["%%on"]

    @property
    def line(self) -> str:
        """What stands behind `%%on`; empty in any other cell."""
        return self.code.lstrip().splitlines()[0].removeprefix("%%on").strip() if self.fans_out else ""

    @property
    def asks_for_targets(self) -> bool:
        """Whether its text, as far as text can tell, asks for targets in Python."""
        return self.is_code and not self.fans_out and _calls_targets(self.code)

    @property
    def changes(self) -> bool:
        """Whether its text shows that it may change its targets."""
        if self.fans_out:
            return "--read-only" not in self.line.split()
        return self.kind == "code" and ".reboot(" in self.source


class Runbook(Struct, frozen=True, kw_only=True):
    """A notebook, read and understood."""

    path: Path
    raw: bytes
    sha256: str
    header: Header
    cells: tuple[Cell, ...]
    parameters: tuple[ParameterSpec, ...]
    kernel: str
    """The kernelspec's name; empty when the notebook names none."""
    in_memory: bool = False
    """Whether it was made here and lies nowhere: its path is a name alone."""

    @property
    def name(self) -> str:
        """The file's name without its ending: what runs of it are called."""
        return self.path.stem

    @property
    def title(self) -> str:
        """The first heading, or the name."""
        return self.header.title or self.name

    @property
    def code_cells(self) -> tuple[Cell, ...]:
        """The cells there is something to execute in, those injected by an earlier run left out."""
        return tuple(cell for cell in self.cells if cell.is_code and INJECTED_TAG not in cell.tags)

    @property
    def parameters_cell(self) -> Cell | None:
        """The cell tagged `parameters`."""
        return next((cell for cell in self.cells if PARAMETERS_TAG in cell.tags), None)

    @property
    def asks_for_targets(self) -> bool:
        """Whether its text, as far as text can tell, will ask for targets."""
        return any(cell.fans_out or cell.asks_for_targets for cell in self.code_cells if not cell.is_skipped)


def read_runbook(path: Path) -> Runbook:
    """Read a runbook from a local, regular file.

    Raises:
        RunbookError: there is no such file, or it is not a notebook opsbook can run.
        ParameterError: its parameters cell cannot be read.
    """
    return _understood(path, read_bytes(path))


def compose_runbook(name: str, steps: Sequence[tuple[str, str]], *, title: str = "") -> Runbook:
    """Make a runbook of this name in memory, from `(label, code)` pairs, a cell each; without a label it is the last's.

    Raises:
        RunbookError: the code cannot be kept in a notebook.
    """
    cells: list[dict[str, object]] = [_cell("title", "markdown", f"# {title or name}")]
    for number, (label, source) in enumerate(steps, start=1):
        if label:
            cells.append(_cell(f"label-{number}", "markdown", f"## {label}"))
        cells.append({**_cell(f"cell-{number}", "code", source), "outputs": [], "execution_count": None})
    spec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    document = {"nbformat": 4, "nbformat_minor": 5, "metadata": {"kernelspec": spec}, "cells": cells}
    try:
        raw = msgspec.json.encode(document)
    except UnicodeEncodeError:
        raise RunbookError(f"{name}: the text is not valid Unicode") from None
    return msgspec.structs.replace(_understood(Path(name), raw), in_memory=True)


def _cell(cell_id: str, kind: str, source: str) -> dict[str, object]:
    return {"id": cell_id, "cell_type": kind, "metadata": {}, "source": source}


def _understood(path: Path, raw: bytes) -> Runbook:
    document = decode_notebook(raw, path)
    cells = tuple(_label(_cells(document)))
    tagged = [cell for cell in cells if PARAMETERS_TAG in cell.tags]
    if len(tagged) > 1:
        raise RunbookError(
            f"{path.name} has {len(tagged)} cells tagged 'parameters'",
            "keep the tag on the one cell that declares them all",
        )
    first_code = next((cell.index for cell in cells if cell.is_code), len(cells))
    opening = [cell.source for cell in cells[:first_code] if cell.kind == "markdown"]
    return Runbook(
        path=path,
        raw=raw,
        sha256=hashlib.sha256(raw).hexdigest(),
        header=read_header(opening),
        cells=cells,
        parameters=read_parameters(tagged[0].code) if tagged else (),
        kernel=document.metadata.kernelspec.name,
    )


def make_document(runbook: Runbook) -> Document:
    """Return the runbook as an nbformat document of the current minor version, validated, with our cell ids.

    Raises:
        RunbookError: nbformat does not accept it.
    """
    import nbformat  # noqa: PLC0415  takes longer to import than everything else a refused run needs

    try:
        document = nbformat.from_dict(  # type: ignore[no-untyped-call]
            msgspec.json.decode(runbook.raw)
        )
        for cell, known in zip(document.cells, runbook.cells, strict=True):
            cell["id"] = known.id
            if known.kind == "code" and not known.frozen:
                cell["outputs"], cell["execution_count"] = [], None  # what an earlier run said; this one says its own
        # an executed copy that is run again gets this run's values, not those of the run it came from
        document.cells = [cell for cell in document.cells if INJECTED_TAG not in cell.metadata.get("tags", [])]
        document.nbformat_minor = max(5, document.nbformat_minor)
        _mend_metadata(document)
        nbformat.validate(document)
    except (nbformat.ValidationError, AttributeError, KeyError, TypeError) as error:
        sentence = str(error).strip().partition("\n")[0][:_SHOWN]
        raise RunbookError(f"{runbook.path.name} is not a valid notebook: {sentence}") from error
    return cast("Document", document)


def _mend_metadata(document: Document) -> None:
    """Name the language where nothing does, and leave out marks of earlier runs that papermill could not read."""
    spec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    kernel = document.metadata.setdefault("kernelspec", spec)
    if not document.metadata.get("language_info", {}).get("name"):
        kernel.setdefault("language", "python")
    for node in (document, *document.cells):
        if not isinstance(node.metadata.get("papermill", {}), dict):
            del node.metadata["papermill"]


def _cells(document: RawNotebook) -> list[Cell]:
    cells, seen = [], set()
    for index, cell in enumerate(document.cells):
        source = cell.source if isinstance(cell.source, str) else "".join(cell.source)
        own = cell.id if isinstance(cell.id, str) and re.fullmatch(r"[A-Za-z0-9_-]{1,64}", cell.id) else ""
        if not own or own in seen:
            # a stable stand-in in the characters nbformat allows: libraries would mint a new random one at every load
            own = f"{index}-{hashlib.sha256(source.encode('utf-8', 'replace')).hexdigest()[:32]}"
        seen.add(own)
        frozen = cell.metadata.frozen
        tags = tuple(cell.metadata.tags)
        skip = next((f"tagged {tag}" for tag in tags if tag in SKIP_TAGS), "")
        cells.append(
            Cell(
                id=own,
                index=index,
                kind=cell.cell_type,
                source=source,
                tags=tags,
                frozen=frozen,
                left_out="frozen" if frozen else skip,
            )
        )
    return cells


def _label(cells: list[Cell]) -> list[Cell]:
    """Give each code cell the name a reader would use for it."""
    heading, labelled = "", []
    for cell in cells:
        if cell.kind == "markdown":
            heading = next((text for level, text in reversed(headings(cell.source)) if level > 1), heading)
        own = "Parameters" if PARAMETERS_TAG in cell.tags else ""
        first_line = next((line.strip() for line in cell.code.splitlines() if line.strip()), "")
        own = own or ("Set up" if not heading and cell.code.split() == ["%load_ext", "opsbook"] else "")
        label = own or heading or _shortened(first_line)
        rules = read_tags(cell.tags, cell=label) if cell.is_code else CellRules()
        labelled.append(msgspec.structs.replace(cell, label=rules.phase or label, rules=rules))
    return labelled


def _shortened(line: str) -> str:
    """Return a line, or its beginning: cut at an end of a word, so that no token is shown in part."""
    begun = line[:_LABEL]
    ends = max(map(begun.rfind, _ENDS_WORD)) if len(line) > _LABEL else -1
    return begun if len(line) <= _LABEL else f"{begun[: max(ends, 0)].rstrip()}…"


def _calls_targets(source: str) -> bool:
    """Whether Python source calls `targets(...)` or `opsbook.targets(...)`; by its look where it is IPython's own."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return bool(re.search(r"\btargets\s*\(", source))
    return any(isinstance(node, ast.Call) and is_targets(node) for node in ast.walk(tree))


def is_targets(call: ast.Call) -> bool:
    """Whether a call is one of `targets`."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    return name == "targets"
