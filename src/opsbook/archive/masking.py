"""A masked text in the place of one that secrets stand in, and what is told of that.

Knows no secret: what is to stand there, and where one stood, is said by whoever looked through the file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from msgspec.structs import replace

from opsbook.archive.files import write_over, write_whole
from opsbook.errors import ArchiveError
from opsbook.model.run import Incident

Tell = Callable[[Incident], None]
"""Takes in where a secret had been written in clear."""


def write_masked(file: Path, data: bytes | bytearray, found: Iterable[Incident], tell: Tell, *, insist: bool) -> None:
    """Replace what a file says, and tell where secrets stood in it.

    With `insist` it is written over where it cannot be replaced, and what stays in clear is told as well; without, what
    cannot be masked now is left for another time.

    Raises:
        ArchiveError: it could not be done; the file is as it was.
    """
    try:
        (write_over if insist else write_whole)(file, data)
    except ArchiveError:
        for incident in found if insist else ():
            tell(replace(incident, masked=False))
        raise
    for incident in found:
        tell(incident)
