"""What nbformat's schema of format 4.5 asks of a notebook, known in a fraction of the time nbformat takes to import.

A run is refused by it before anything is claimed. It asks of what a run keeps alone: outputs only of cells that are
frozen, ids not at all. What it lets through nbformat takes; a test holds the two together. Newer minor formats may
hold more than this one knows.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

_NEWEST_MINOR = 5
_JSON_DATA = re.compile(r"application/(.*\+)?json")
"""Data that may be anything; all other data is text."""
_Text: TypeAlias = str | list[str]
_Count: TypeAlias = Annotated[int, Meta(ge=0)] | None
_Words: TypeAlias = str | UnsetType
_NOTEBOOK = frozenset({"metadata", "nbformat", "nbformat_minor", "cells"})


class ShapeError(Exception):
    """What is wrong with a notebook, and where."""


class _Kernel(Struct):
    name: str
    display_name: str


class _Language(Struct):
    name: str
    codemirror_mode: str | dict[str, Any] | UnsetType = UNSET
    file_extension: _Words = UNSET
    mimetype: _Words = UNSET
    pygments_lexer: _Words = UNSET


class _Metadata(Struct):
    kernelspec: _Kernel | UnsetType = UNSET
    language_info: _Language | UnsetType = UNSET
    orig_nbformat: Annotated[int, Meta(ge=1)] | UnsetType = UNSET
    title: _Words = UNSET
    authors: list[Any] = []


class _CellMetadata(Struct):
    tags: list[Annotated[str, Meta(pattern="^[^,]+$")]] = []
    name: Annotated[str, Meta(pattern="^.+$")] | UnsetType = UNSET
    jupyter: dict[str, Any] = {}


class _RawMetadata(_CellMetadata):
    format: _Words = UNSET


class _CodeMetadata(_CellMetadata):
    execution: dict[str, str] = {}
    collapsed: bool = False
    scrolled: bool | Literal["auto"] = False


class _Cell(Struct, kw_only=True, tag_field="cell_type"):
    source: _Text
    id: Any = None


class _Markdown(_Cell, kw_only=True, tag="markdown"):
    metadata: _CellMetadata
    attachments: dict[str, dict[str, Any]] = {}


class _Raw(_Cell, kw_only=True, tag="raw"):
    metadata: _RawMetadata
    attachments: dict[str, dict[str, Any]] = {}


class _Code(_Cell, kw_only=True, tag="code"):
    metadata: _CodeMetadata
    outputs: Any = UNSET
    execution_count: Any = UNSET


class _FrozenOutputs(Struct):
    outputs: list[dict[str, Any]]
    execution_count: _Count


class _Output(Struct, tag_field="output_type"):
    pass


class _Data(_Output, tag="display_data"):
    data: dict[str, Any]
    metadata: dict[str, Any]


class _Result(_Output, tag="execute_result"):
    data: dict[str, Any]
    metadata: dict[str, Any]
    execution_count: _Count


class _Stream(_Output, tag="stream"):
    name: str
    text: _Text


class _Error(_Output, tag="error"):
    ename: str
    evalue: str
    traceback: list[str]


_AnyCell: TypeAlias = _Markdown | _Raw | _Code
_AnyOutput: TypeAlias = _Data | _Result | _Stream | _Error
_OUTPUTS = ("display_data", "execute_result", "stream", "error")


def check_shape(tree: dict[str, Any], *, frozen: Iterable[int]) -> None:
    """Look at a notebook that is known to hold cells; `frozen` are the indices of those whose outputs are kept.

    Raises:
        ShapeError: nbformat would not take it.
    """
    newer = tree["nbformat_minor"] > _NEWEST_MINOR
    where = "the notebook"
    try:
        _refuse_unknown(tree, () if newer else _NOTEBOOK)
        where = "the notebook's metadata"
        msgspec.convert(tree["metadata"], _Metadata)
        for index, cell in enumerate(tree["cells"]):
            where = f"cell {index}"
            _check_cell(cell, newer=newer)
        for index in frozen:
            where = f"the outputs of cell {index}"
            for output in msgspec.convert(tree["cells"][index], _FrozenOutputs).outputs:
                _check_output(output, newer=newer)
    except (msgspec.ValidationError, ShapeError) as error:
        raise ShapeError(f"{where}: {error}") from None


def _check_cell(held: dict[str, Any], *, newer: bool) -> None:
    cell = msgspec.convert(held, _AnyCell)
    _refuse_unknown(held, () if newer else ("cell_type", *cell.__struct_fields__))
    if len(set(cell.metadata.tags)) < len(cell.metadata.tags):
        raise ShapeError("a tag stands there twice")
    for data in () if newer or isinstance(cell, _Code) else cell.attachments.values():
        _check_data(data)


def _check_output(held: dict[str, Any], *, newer: bool) -> None:
    if newer and held.get("output_type", _OUTPUTS[0]) not in _OUTPUTS:
        return
    output = msgspec.convert(held, _AnyOutput)
    _refuse_unknown(held, () if newer else ("output_type", *output.__struct_fields__))
    if isinstance(output, _Data | _Result) and not newer:
        _check_data(output.data)


def _check_data(data: dict[str, Any]) -> None:
    for kind, value in data.items():
        if not _JSON_DATA.fullmatch(kind):
            msgspec.convert(value, _Text)


def _refuse_unknown(held: dict[str, Any], known: Iterable[str]) -> None:
    """Refuse a key that is not known; where nothing is, all are."""
    unknown = sorted(held.keys() - known) if known else ()
    if unknown:
        raise ShapeError(f"it has a key nobody knows: {unknown[0][:60]!r}")
