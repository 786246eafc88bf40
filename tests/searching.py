"""How tests search an archive."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from past_runs import NOON

from opsbook.archive.catch_up import ask_archive
from opsbook.archive.search import Found, Hit, Search, search

NOW = NOON + timedelta(days=10)


def look(root: Path, text: str, *, library: tuple[Path, ...] = (), **more: object) -> Found:
    asked = Search(text=text, **more)  # type: ignore[arg-type]
    return ask_archive(root, lambda index: search(index, asked, now=NOW), library=library)


def books(root: Path, text: str, **more: object) -> list[str]:
    return sorted({hit.place.runbook for hit in look(root, text, **more).hits})


def only(root: Path, text: str) -> Hit:
    (hit,) = look(root, text).hits
    return hit
