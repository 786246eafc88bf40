"""Runbooks as read from disk: bytes read once, hashed, and understood without running anything.

The shape is checked here with a typed decode, because nbformat takes longer to import than a kernel to start; nbformat
itself comes in when the document is made (`make_document`) and validated. The bytes that were hashed are the bytes
that run. Knows nothing of kernels and runs.
"""

from __future__ import annotations

import ast
import codecs
import difflib
import hashlib
import re
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias, cast

import msgspec
from msgspec import UNSET, Struct, UnsetType

from opsbook.errors import RunbookError
from opsbook.model.parameter import ParameterSpec
from opsbook.runbook.header import Header, headings, read_header
from opsbook.runbook.parameters import read_parameters

if TYPE_CHECKING:
    from nbformat import NotebookNode

Document: TypeAlias = "NotebookNode"
"""A notebook in nbformat's terms; named without importing it."""
PARAMETERS_TAG = "parameters"
INJECTED_TAG = "injected-parameters"
TAGS = (PARAMETERS_TAG, INJECTED_TAG, "confirm", "always", "skip", "skip-execution", "raises-exception", "phase")
"""Tags that mean something to a run."""
TAGS_TO_COME = ("on-failure", "retry", "timeout")
MAX_BYTES = 256 * 1024 * 1024


class _CellMetadata(Struct):
    tags: list[str] = []
    run_through_control: dict[str, object] = {}


class _Cell(Struct):
    cell_type: Literal["code", "markdown", "raw"]
    source: str | list[str]
    metadata: _CellMetadata
    id: str | UnsetType = UNSET


class _KernelSpec(Struct, frozen=True):
    name: str = ""
    language: str = ""


class _Metadata(Struct):
    kernelspec: _KernelSpec = _KernelSpec()


class _Notebook(Struct):
    nbformat: int
    nbformat_minor: int
    metadata: _Metadata
    cells: list[_Cell]


class _Version(Struct):
    nbformat: int


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

    @property
    def is_code(self) -> bool:
        """Whether there is something to execute."""
        return self.kind == "code" and bool(self.source.strip())

    @property
    def is_skipped(self) -> bool:
        """Whether no run executes it, whatever happens."""
        return self.frozen or bool({"skip", "skip-execution"} & set(self.tags))

    @property
    def fans_out(self) -> bool:
        """Whether its text is an `%%on` cell."""
        return self.source.split(maxsplit=1)[:1] == ["%%on"]

    @property
    def line(self) -> str:
        """What stands behind `%%on`; empty in any other cell."""
        return self.source.lstrip().splitlines()[0].removeprefix("%%on").strip() if self.fans_out else ""

    @property
    def asks_for_targets(self) -> bool:
        """Whether its text, as far as text can tell, asks for targets in Python."""
        return self.is_code and not self.fans_out and _calls_targets(self.source)

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
        return any(cell.fans_out or cell.asks_for_targets for cell in self.code_cells)


def read_runbook(path: Path) -> Runbook:
    """Read a runbook from a local, regular file.

    Raises:
        RunbookError: there is no such file, or it is not a notebook opsbook can run.
        ParameterError: its parameters cell cannot be read.
    """
    return _understood(path, _read_bytes(path))


def compose_runbook(name: str, steps: Sequence[tuple[str, str]]) -> Runbook:
    """Make a runbook of this name in memory, from `(label, code)` pairs, a cell each.

    Raises:
        RunbookError: the code cannot be kept in a notebook.
    """
    cells: list[dict[str, object]] = [_cell("title", "markdown", f"# {name}")]
    for number, (label, source) in enumerate(steps, start=1):
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
    document = _decode(raw, path)
    cells = tuple(_label(_cells(document)))
    tagged = [cell for cell in cells if PARAMETERS_TAG in cell.tags]
    if len(tagged) > 1:
        raise RunbookError(
            f"{path.name} has {len(tagged)} cells tagged 'parameters'",
            "keep the tag on the one cell that declares them all",
        )
    for cell in cells:
        _check_tags(cell)
    first_code = next((cell.index for cell in cells if cell.is_code), len(cells))
    opening = [cell.source for cell in cells[:first_code] if cell.kind == "markdown"]
    return Runbook(
        path=path,
        raw=raw,
        sha256=hashlib.sha256(raw).hexdigest(),
        header=read_header(opening),
        cells=cells,
        parameters=read_parameters(tagged[0].source) if tagged else (),
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
        document.metadata.setdefault(
            "kernelspec", {"name": "python3", "display_name": "Python 3", "language": "python"}
        )
        nbformat.validate(document)
    except (nbformat.ValidationError, AttributeError, KeyError, TypeError) as error:
        sentence = str(error).strip().partition("\n")[0]
        raise RunbookError(f"{runbook.path.name} is not a valid notebook: {sentence}") from error
    return cast("Document", document)


def _read_bytes(path: Path) -> bytes:
    try:
        str(path).encode()
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise RunbookError(f"{path} is not a regular file", "a runbook is a local .ipynb file")
        if status.st_size > MAX_BYTES:
            raise RunbookError(f"{path} is larger than {MAX_BYTES // 2**20} MiB", "clear its outputs first")
        return path.read_bytes().removeprefix(codecs.BOM_UTF8)
    except FileNotFoundError:
        near = sorted(other.name for other in path.parent.glob("*.ipynb")) if path.parent.is_dir() else []
        hint = f"notebooks in {path.parent}: {', '.join(near[:6])}" if near else "give the path of a .ipynb file"
        raise RunbookError(f"no such runbook: {path}", hint) from None
    except UnicodeEncodeError:
        raise RunbookError(f"the path {str(path)!r} is not valid Unicode", "rename the file") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise RunbookError(f"cannot read {path}: {reason}", "a runbook is a local .ipynb file") from error


def _decode(raw: bytes, path: Path) -> _Notebook:
    try:
        version = msgspec.json.decode(raw, type=_Version).nbformat
        if version != 4:  # noqa: PLR2004  the format's own number
            raise RunbookError(
                f"{path.name} is in notebook format {version}; opsbook runs format 4",
                f"convert it: jupyter nbconvert --to notebook --inplace {path.name}",
            )
        return msgspec.json.decode(raw, type=_Notebook)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        sentence = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        hint = "is the file complete?" if "truncated" in sentence else "a runbook is a Jupyter notebook (.ipynb)"
        raise RunbookError(f"{path.name} is not a notebook: {sentence}", hint) from None


def _cells(document: _Notebook) -> list[Cell]:
    cells, seen = [], set()
    for index, cell in enumerate(document.cells):
        source = cell.source if isinstance(cell.source, str) else "".join(cell.source)
        own = cell.id if isinstance(cell.id, str) and re.fullmatch(r"[A-Za-z0-9_-]{1,64}", cell.id) else ""
        if not own or own in seen:
            # a stable stand-in in the characters nbformat allows: libraries would mint a new random one at every load
            own = f"{index}-{hashlib.sha256(source.encode('utf-8', 'replace')).hexdigest()[:32]}"
        seen.add(own)
        frozen = cell.metadata.run_through_control.get("frozen") is True
        tags = tuple(cell.metadata.tags)
        cells.append(Cell(id=own, index=index, kind=cell.cell_type, source=source, tags=tags, frozen=frozen))
    return cells


def _label(cells: list[Cell]) -> list[Cell]:
    """Give each code cell the name a reader would use for it."""
    heading, labelled = "", []
    for cell in cells:
        if cell.kind == "markdown":
            heading = next((text for level, text in reversed(headings(cell.source)) if level > 1), heading)
        phase = next((tag.partition(":")[2] for tag in cell.tags if tag.startswith("phase:")), "")
        own = "Parameters" if PARAMETERS_TAG in cell.tags else ""
        first_line = next((line.strip() for line in cell.source.splitlines() if line.strip()), "")
        label = phase or own or heading or first_line[:60]
        labelled.append(msgspec.structs.replace(cell, label=label))
    return labelled


def _check_tags(cell: Cell) -> None:
    """Refuse a tag that would mean something else than its author thinks: a misspelt gate is no gate."""
    for tag in cell.tags:
        name = tag.partition(":")[0]
        if name in TAGS_TO_COME and cell.is_code:
            raise RunbookError(f'the tag {tag!r} (cell "{cell.label}") is not supported yet', "see docs/limits.md")
        near = difflib.get_close_matches(name.lower(), TAGS, n=1, cutoff=0.8)
        if near and name not in TAGS and cell.is_code:
            raise RunbookError(f'unknown tag {tag!r} (cell "{cell.label}")', f"did you mean {near[0]!r}?")


def _calls_targets(source: str) -> bool:
    """Whether Python source calls `targets(...)` or `opsbook.targets(...)`; by its look where it is IPython's own."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return bool(re.search(r"\btargets\s*\(", source))
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name == "targets":
                return True
    return False
