"""A notebook's file: its bytes, read once, and the shape that is found in them.

All of the bytes are looked at, also what no runbook needs: they are what runs and what is kept. Nothing that is no
plain file is waited for, and nothing without an end is read. Knows not what a cell means.
"""

from __future__ import annotations

import codecs
import os
import stat
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import UNSET, Struct, UnsetType

from opsbook.errors import RunbookError
from opsbook.model.target import MAX_NESTED
from opsbook.runbook.shape import ShapeError, check_shape

MAX_BYTES = 256 * 1024 * 1024
MAX_CELLS = 10_000


class _CellMetadata(Struct):
    tags: list[str] = []
    run_through_control: dict[str, object] = {}

    @property
    def frozen(self) -> bool:
        """Whether the cell is marked not to run any more."""
        return self.run_through_control.get("frozen") is True


class RawCell(Struct):
    """A cell as it stands in the file."""

    cell_type: Literal["code", "markdown", "raw"]
    source: str | list[str]
    metadata: _CellMetadata
    id: str | UnsetType = UNSET


class _KernelSpec(Struct, frozen=True):
    name: str = ""
    language: str = ""


class _Metadata(Struct):
    kernelspec: _KernelSpec = _KernelSpec()


class RawNotebook(Struct):
    """What a notebook's file has to hold."""

    nbformat: int
    nbformat_minor: int
    metadata: _Metadata
    cells: list[RawCell]


class _Version(Struct):
    nbformat: int


def read_bytes(path: Path) -> bytes:
    """Return the bytes of a local, regular file, without the mark of UTF-8 some editors put in front.

    Raises:
        RunbookError: there is no such file, or it cannot be read, is too large or something else than a file.
    """
    try:
        str(path).encode()
        _check_regular(path, path.stat())  # before it is opened: that alone is an act where it is a device
        # what lies there by now may be something else, which must not be waited for
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY), "rb") as file:
            _check_regular(path, os.fstat(file.fileno()))
            raw = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        near = sorted(other.name for other in path.parent.glob("*.ipynb")) if path.parent.is_dir() else []
        hint = f"notebooks in {path.parent}: {', '.join(near[:6])}" if near else "give the path of a .ipynb file"
        raise RunbookError(f"no such runbook: {path}", hint) from None
    except UnicodeEncodeError:
        raise RunbookError(f"the path {str(path)!r} is not valid Unicode", "rename the file") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise RunbookError(f"cannot read {path}: {reason}", "a runbook is a local .ipynb file") from error
    if len(raw) > MAX_BYTES:
        raise RunbookError(f"{path} is larger than {MAX_BYTES // 2**20} MiB", "clear its outputs first")
    return raw.removeprefix(codecs.BOM_UTF8)


def _check_regular(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise RunbookError(f"{path} is not a regular file", "a runbook is a local .ipynb file")
    if status.st_size > MAX_BYTES:
        raise RunbookError(f"{path} is larger than {MAX_BYTES // 2**20} MiB", "clear its outputs first")


def decode_notebook(raw: bytes, path: Path) -> RawNotebook:
    """Return the shape of a notebook.

    Raises:
        RunbookError: the bytes are no notebook of format 4, or none that nbformat takes; they nest without end, or hold
            more cells than anybody reads.
    """
    try:
        tree = msgspec.json.decode(raw)  # all of it: a typed decode looks at nothing it does not need
        version = msgspec.convert(tree, _Version).nbformat
        if version != 4:  # noqa: PLR2004  the format's own number
            raise RunbookError(
                f"{path.name} is in notebook format {str(version)[:20]}; opsbook runs format 4",
                f"convert it: jupyter nbconvert --to notebook --inplace {path.name}",
            )
        notebook = msgspec.convert(tree, RawNotebook)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        sentence = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        hint = "is the file complete?" if "truncated" in sentence else "a runbook is a Jupyter notebook (.ipynb)"
        raise RunbookError(f"{path.name} is not a notebook: {sentence}", hint) from None
    if _nests_deeper(tree, MAX_NESTED):
        raise RunbookError(f"{path.name} nests lists and mappings more than {MAX_NESTED} deep", "clear its outputs")
    if len(notebook.cells) > MAX_CELLS:
        raise RunbookError(f"{path.name} has more than {MAX_CELLS:,} cells", "divide it into several runbooks")
    kept = (index for index, cell in enumerate(notebook.cells) if cell.cell_type == "code" and cell.metadata.frozen)
    try:
        check_shape(tree, frozen=kept)
    except ShapeError as error:
        hint = "it has to be a notebook of Jupyter's format 4.5, or of an older or newer 4"
        raise RunbookError(f"{path.name} is not a valid notebook: {error}", hint) from None
    return notebook


def _nests_deeper(tree: object, most: int) -> bool:
    """Whether lists and mappings lie in one another more than so many times."""
    level = [tree]
    for _ in range(most + 1):
        groups = (one.values() if isinstance(one, dict) else one for one in level if isinstance(one, dict | list))
        level = [part for group in groups for part in group if isinstance(part, dict | list)]
    return bool(level)
