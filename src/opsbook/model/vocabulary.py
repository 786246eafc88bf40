"""Words that are written to disk and may become more: an older reader takes one it does not know for `unknown`."""

from __future__ import annotations

from enum import StrEnum


class OpenVocabulary(StrEnum):
    """Some words, `unknown` among them, which is never written (SEMANTICS 29)."""

    @classmethod
    def _missing_(cls, value: object) -> OpenVocabulary:
        return cls("unknown")
