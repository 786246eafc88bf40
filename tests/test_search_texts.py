"""What a search reads of a run, whatever it holds, and of a query, whatever it is."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path

from archived import write_journal
from hypothesis import given, settings
from hypothesis import strategies as st
from past_runs import cell, write_run
from searching import NOW, books, look, only

from opsbook.archive.catch_up import ask_archive
from opsbook.archive.index import Index
from opsbook.archive.index_text import HEAD_CHARACTERS, RUN_CHARACTERS, TAIL_CHARACTERS, unpack
from opsbook.archive.query import FIELDS, Words
from opsbook.archive.question import match_of
from opsbook.archive.search import Search, search
from opsbook.archive.whole_output import reference
from opsbook.errors import UsageError
from opsbook.model import event as e

pytest_plugins = ["search_desk"]


def test_long_output_is_searched_at_its_beginning_and_at_its_end(root: Path) -> None:
    filler = "x" * 60 + "\n"
    middle = filler * ((HEAD_CHARACTERS + TAIL_CHARACTERS) // 60)
    write_run(root, cell("pass", f"beginning {middle} midpoint {middle} ending"), tail=2, book="long")
    told = [books(root, text) for text in ("beginning", "midpoint", "ending")]
    assert told == [["long"], [], ["long"]]


def test_a_run_that_said_a_hundred_times_too_much_takes_little_room(root: Path) -> None:
    said = "word " * (HEAD_CHARACTERS // 5)
    count = 2 * RUN_CHARACTERS // HEAD_CHARACTERS
    write_run(root, *(cell("pass", f"{said} cell{number}") for number in range(count)), tail=2, book="long")
    assert books(root, f"cell{count - 1}") == ["long"]
    packed = ask_archive(root, lambda index: index.rows("SELECT packed FROM texts"))
    kept = sum(len(passage.output) for (text,) in packed for passage in unpack(text))
    assert RUN_CHARACTERS < kept < 1.1 * RUN_CHARACTERS


def sum_up(root: Path, *said: str, tail: int = 2) -> Path:
    """Write a run whose copy shows a summary of what a cell said, and return its journal, which has it whole."""
    folder = write_run(root, cell("pass", ""), tail=tail, book="long")
    document = json.loads(folder.copy.read_text())
    document["cells"][0]["outputs"][0]["text"] = f"{reference(folder.run_id, 1)}\n----\nrow one\n"
    folder.copy.write_text(json.dumps(document))
    events = [[e.CellStarted(cell_id="cell-0"), e.CellOutput(cell_id="cell-0", stream="stdout", text=t)] for t in said]
    other = e.CellOutput(cell_id="cell-1", stream="stdout", text="elsewhere")
    write_journal(folder.journal, [*(event for pair in events for event in pair), other])
    return folder.journal


def test_what_a_copy_only_sums_up_is_searched_as_the_journal_has_it(root: Path) -> None:
    sum_up(root, "of the first try", f"beginning {'x' * HEAD_CHARACTERS} midpoint {'x' * TAIL_CHARACTERS} ending")
    words = ("row", "beginning", "midpoint", "ending", "first", "elsewhere")
    assert [books(root, f"output:{word}") for word in words] == [["long"], ["long"], [], ["long"], [], []]
    assert only(root, "ending").place.number == 1


def test_a_journal_that_is_none_hurts_no_search_and_what_is_whole_of_it_is_found(root: Path) -> None:
    journal = sum_up(root, "needle")
    nested = b'{"event": {"type": "cell_output", "x": ' + b"[" * 100_000
    journal.write_bytes(b'\xff "cell_output"\n' + nested + b"\n" + journal.read_bytes() + b'"cell_output"')
    gone, pipe, link = (sum_up(root, "needle", tail=tail) for tail in (3, 4, 5))
    gone.unlink()
    pipe.unlink()
    os.mkfifo(pipe)
    link.unlink()
    link.symlink_to(journal)
    assert {hit.place.name[-1] for hit in look(root, "row").hits} == {"5"}, "the newest of those that say the same"
    assert [hit.place.name[-1] for hit in look(root, "needle").hits] == ["2"]


HOSTILE = {
    "nested": '{"metadata": ' + "[" * 100_000,
    "cells are no list": '{"cells": {"a": 1}}',
    "cells are numbers": '{"cells": [1, 2]}',
    "wrong types": json.dumps(
        {"cells": [{"cell_type": 7, "source": {"a": 1}, "metadata": [], "outputs": "x", "id": 3}]}
    ),
    "outputs of all kinds": json.dumps(
        {
            "cells": [
                {"cell_type": "code", "source": "needle", "outputs": [1, {"text": 5}, {"data": [1]}, {"ename": {}}]}
            ]
        }
    ),
    "half characters": '{"cells": [{"cell_type": "code", "source": "\\ud800"}]}',
    "a NUL": json.dumps({"cells": [{"cell_type": "code", "source": "a\0needle\x1b]0;title\x07"}]}),
    "memes of all kinds": json.dumps(
        {
            "cells": [{"cell_type": "code", "source": "x", "metadata": {"lc_cell_meme": {"current": ["a"]}}}],
            "metadata": 1,
        }
    ),
}


def test_hostile_notebooks_in_the_archive_hurt_no_reader(root: Path) -> None:
    for number, text in enumerate(HOSTILE.values(), start=16):
        write_run(root, tail=number, book="hostile").copy.write_text(text)
    assert books(root, "apt-get") == ["patch"]
    assert books(root, "runbook:hostile") == ["hostile"]
    assert {hit.place.runbook for hit in look(root, "needle").hits} == {"hostile"}


PIECES = [
    '"',
    "(",
    ")",
    "[",
    "]",
    "*",
    ":",
    "-",
    "'",
    ";",
    "\0",
    "\ud800",
    " TO ",
    " OR ",
    " NOT ",
    " AND ",
    " NEAR ",
    "^",
]
QUERIES = st.lists(
    st.one_of(st.sampled_from([*PIECES, *(f"{field}:" for field in FIELDS)]), st.text(max_size=4)), max_size=12
).map("".join)


def test_no_query_whatever_it_is_breaks_the_search(root: Path) -> None:
    def work(index: Index) -> None:
        @settings(max_examples=150, deadline=None)
        @given(text=QUERIES)
        def check(text: str) -> None:
            with suppress(UsageError):
                search(index, Search(text=text), now=NOW)

        check()

    ask_archive(root, work)


def test_what_a_word_holds_stays_a_word() -> None:
    assert match_of(Words(text='a" OR b:c*\0', begins=True)) == '("a"" OR b:c* " *)'
