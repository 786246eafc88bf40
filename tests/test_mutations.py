"""The mutation table fits the code: a guarantee that moves takes its mutation along, else the table proves nothing."""

from __future__ import annotations

from pathlib import Path

from mutations import MUTATIONS, misplaced


def test_every_mutation_takes_out_what_stands_in_the_code_once() -> None:
    assert misplaced(MUTATIONS) == []
    assert len({one.name for one in MUTATIONS}) == len(MUTATIONS)


def test_every_mutation_names_tests_that_are_there() -> None:
    named = {test.partition("::")[0] for one in MUTATIONS for test in one.tests}
    assert [test for test in sorted(named) if not Path(__file__).with_name(Path(test).name).exists()] == []
