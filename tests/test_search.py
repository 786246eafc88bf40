"""A search finds what stands in the archive and in the library, and shows where."""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from past_runs import NOON, ORIGIN, cell, write_run
from support import code, notebook_text, prose

from opsbook.archive.catch_up import ask_archive
from opsbook.archive.index import Index
from opsbook.archive.index_text import HEAD_CHARACTERS, RUN_CHARACTERS, TAIL_CHARACTERS, unpack
from opsbook.archive.query import FIELDS, Between, Words
from opsbook.archive.question import match_of
from opsbook.archive.search import Found, Hit, Search, cells_of_origin, search
from opsbook.archive.selection import Selection, select_runs, total_up
from opsbook.errors import UsageError
from opsbook.model.run import RunState

NOW = NOON + timedelta(days=10)
LOCK = "E: Could not get lock /var/lib/dpkg/lock-frontend. It is held by process 4711 (unattended-upgr)"


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An archive with a run that failed, and an older one of another runbook."""
    write_run(
        tmp_path / "archive",
        cell("# Patch\n\n## Update the packages\n\nLook out for **held** kernels.", kind="markdown"),
        cell("kernel_version = check_kernel(web)", "\x1b[31mSetting up libssl3\x1b[0m (3.0.17-1~deb12u2) ...\n"),
        cell("%%on prod\napt-get -qy upgrade", "CVE-2026-1234 on 10.0.31.7\n証明書の有効期限が切れています\n"),
        error=LOCK,
        status=RunState.FAILED,
        targets=("web1", "db02"),
        parameters={"stack": "prod", "days": 30, "force": True},
    )
    write_run(
        tmp_path / "archive",
        cell("certbot renew --dry-run", "Renewed web1.example.org\n", lc_cell_meme={"current": f"{ORIGIN}-1-ab12"}),
        at=NOON - timedelta(days=40),
        book="certs",
        user="leo",
        targets=("web1",),
        parameters={"stack": "dev"},
        operator_reason="quarterly",
    )
    return tmp_path / "archive"


def look(root: Path, text: str, *, library: tuple[Path, ...] = (), **more: object) -> Found:
    asked = Search(text=text, **more)  # type: ignore[arg-type]
    return ask_archive(root, lambda index: search(index, asked, now=NOW), library=library)


def books(root: Path, text: str, **more: object) -> list[str]:
    return sorted({hit.place.runbook for hit in look(root, text, **more).hits})


def only(root: Path, text: str) -> Hit:
    (hit,) = look(root, text).hits
    return hit


FOUND = {
    "libssl3": "patch",
    "libssl": "patch",
    "*ssl3*": "patch",
    "SETTING": "patch",
    "3.0.17-1~deb12u2": "patch",
    "lock-frontend": "patch",
    "/var/lib/dpkg/lock-frontend": "patch",
    "dpkg/lock": "patch",
    "CVE-2026-1234": "patch",
    "CVE-2026": "patch",
    "CVE-2026-123": "patch",
    "10.0.31.7": "patch",
    "kernel_version": "patch",
    "check_kernel": "patch",
    "証明書": "patch",
    "期限": "patch",
    "限切れ": "",
    '"held by process"': "patch",
    '"by held process"': "",
    '"libss"': "",
    "held": "patch",
    "heading:packages": "patch",
    "heading:held": "",
    "prose:held": "patch",
    "code:held": "",
    "source:held": "patch",
    "source:apt-get": "patch",
    "output:apt-get": "",
    "output:CVE": "patch",
    "error:lock-frontend": "patch",
    "output:lock-frontend": "",
    "param:prod": "patch",
    "param.stack:prod": "patch",
    "param.stack:PROD": "patch",
    "param.stack:pro": "",
    "param.stack:*o*": "patch",
    "param.days:30": "patch",
    "param.force:true": "patch",
    "param.force:True": "patch",
    "status:failed": "patch",
    "NOT status:failed": "certs",
    "status:failed OR certbot": "certs patch",
    "user:leo": "certs",
    "target:db02": "patch",
    "target:web*": "certs patch",
    "target:eb1": "",
    "runbook:certs": "certs",
    "runbook:certs.ipynb": "certs",
    "runbook:c*": "certs",
    "run:20261120": "patch",
    "run:000001 status:failed": "patch",
    "quarterly": "certs",
    "apt-get certbot": "",
    "apt-get OR certbot": "certs patch",
    "apt-get NOT prod": "",
    "NOT certbot": "patch",
    "status:failed NOT lock-frontend": "",
    "upgrade status:failed": "patch",
    "upgrade status:succeeded": "",
    f"meme:{ORIGIN}": "certs",
    f"meme:{ORIGIN.upper()}-2-ffff": "certs",
    "meme:7f9a": "certs",
    "meme:8f9a": "",
    "certbot meme:7f9a": "certs",
    "started:2026-11-20": "patch",
    "started:[* TO 2026-11-19]": "certs",
    "started:[2026-10-11 TO 2026-11-20] renew": "certs",
    "started:11d": "patch",
    "lock started:[2026-11-21 TO *]": "",
}


def test_each_query_finds_what_it_should_and_nothing_else(root: Path) -> None:
    told = ask_archive(
        root,
        lambda index: {
            text: " ".join(sorted({hit.place.runbook for hit in search(index, Search(text=text), now=NOW).hits}))
            for text in FOUND
        },
    )
    assert told == FOUND


def test_a_hit_says_where_it_stands_and_sets_off_what_was_asked_for(root: Path) -> None:
    hit = only(root, "libssl")
    place = hit.place
    assert (place.kind, place.name, place.status) == ("run", "20261120T120000Z-patch-000001", "failed")
    assert (place.number, place.cell, place.cell_id, place.label, place.state) == (2, 1, "cell-1", "Step 1", "ok")
    assert (place.at, place.user) == (NOON, "maya")
    assert hit.excerpt.part == "output"
    assert hit.excerpt.text == "Setting up libssl3 (3.0.17-1~deb12u2) ..."
    assert [hit.excerpt.text[start:end] for start, end in hit.excerpt.marks] == ["libssl"]


def test_a_run_that_is_found_as_a_whole_shows_the_cell_that_says_the_words(root: Path) -> None:
    shown = {hit.place.runbook: hit for hit in look(root, "status:failed OR certbot").hits}
    assert (shown["certs"].place.number, shown["certs"].excerpt.part) == (1, "code")
    assert (shown["patch"].place.number, shown["patch"].excerpt.marks) == (0, ())


def test_a_long_line_is_shown_around_what_was_asked_for(root: Path) -> None:
    write_run(root, cell("pass", f"{'before ' * 500}needle{' behind' * 500}\nnext line"), tail=2)
    shown = only(root, "needle").excerpt
    assert len(shown.text) < 200
    ((start, end),) = shown.marks
    assert shown.text[start:end] == "needle"
    assert "next line" not in shown.text


def test_the_same_cell_that_says_the_same_in_many_runs_is_one_hit(root: Path) -> None:
    for tail in range(10, 15):
        write_run(root, cell("systemctl restart nginx"), tail=tail, book="web", at=NOON + timedelta(hours=tail))
    write_run(root, cell("systemctl restart nginx"), tail=20, book="proxy")
    hits = {hit.place.runbook: hit for hit in look(root, "nginx").hits}
    assert {name: hit.also for name, hit in hits.items()} == {"web": 4, "proxy": 0}
    assert hits["web"].place.name.endswith("00000e")


def test_what_fits_better_comes_first_and_of_what_fits_alike_what_is_newer(root: Path) -> None:
    write_run(root, cell("## Needle\n\nhay", kind="markdown"), cell("1"), tail=2, book="heading")
    for tail, days in ((3, 1), (4, 300), (5, 2)):
        said = cell("pass", f"hay {tail} " * 30 + "needle")
        write_run(root, said, tail=tail, book=f"output{tail}", at=NOON - timedelta(days=days))
    assert [hit.place.runbook for hit in look(root, "needle").hits][-3:] == ["output3", "output5", "output4"]
    assert look(root, "needle").hits[0].place.runbook == "heading"
    assert (len(look(root, "needle", limit=2).hits), look(root, "needle", limit=2).more) == (2, True)


def test_the_library_is_searched_too_and_what_changes_in_it_is_seen(root: Path, tmp_path: Path) -> None:
    shelf = tmp_path / "runbooks"
    (shelf / "web").mkdir(parents=True)
    (shelf / ".ipynb_checkpoints").mkdir()
    file = shelf / "web" / "restart.ipynb"
    meme = {"lc_cell_meme": {"current": ORIGIN}}
    file.write_text(notebook_text([prose("# Restart\n\n## Drain the balancer"), code("certbot_hook()", **meme)]))
    (shelf / ".ipynb_checkpoints" / "restart-checkpoint.ipynb").write_text(file.read_text())
    (shelf / "broken.ipynb").write_text("{")
    (shelf / "loop").symlink_to(shelf)
    library = (shelf,)
    assert books(root, "drain", library=library) == ["restart"]
    assert books(root, "certbot", library=library) == ["certs", "restart"]
    assert books(root, "certbot", library=library, kind="book") == ["restart"]
    assert books(root, "certbot", library=library, kind="run") == ["certs"]
    origins = ask_archive(root, lambda index: cells_of_origin(index, ORIGIN.upper()), library=library)
    assert [(place.kind, place.number, place.state) for place in origins] == [("book", 2, ""), ("run", 1, "ok")]
    file.write_text(notebook_text([code("other_thing()")]))
    assert books(root, "drain", library=library) == []
    assert books(root, "other_thing", library=library) == ["restart"]
    file.unlink()
    assert books(root, "other_thing", library=library) == []


def test_a_time_given_beside_the_query_bounds_it(root: Path) -> None:
    since = Between(since=(NOON - timedelta(days=1)).timestamp())
    assert books(root, "apt-get OR certbot", between=since) == ["patch"]
    assert books(root, "apt-get OR certbot", between=Between(until=NOON.timestamp())) == ["certs"]
    assert books(root, "NOT nothing", between=since) == ["patch"]


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


def test_runs_are_selected_by_what_is_known_of_them(root: Path) -> None:
    write_run(root, cell("1"), tail=2, at=NOON + timedelta(days=1), checking=True, targets=("db[1]",))

    def ids(**meant: object) -> list[str]:
        selection = Selection(**meant)  # type: ignore[arg-type]
        names = ask_archive(root, lambda index: select_runs(index, selection, limit=10))
        return [f"{name.split('-')[1]}{name[-1]}" for name in names]

    assert ids() == ["patch2", "patch1", "certs1"]
    assert ids(runbook="patch") == ["patch2", "patch1"]
    assert ids(statuses=("failed", "lost")) == ["patch1"]
    assert ids(target="web1") == ["patch1", "certs1"]
    assert ids(target="db[1]") == ["patch2"]
    assert ids(target="db*") == ["patch2", "patch1"]
    assert ids(user="leo", target="web1") == ["certs1"]
    assert ids(user="l*") == ["certs1"]
    assert ids(user="l?*") == ids(user="[l]*") == ids(user="le?") == []
    assert ids(parameters=(("stack", "prod"), ("days", "30"))) == ["patch1"]
    assert ids(parameters=(("stack", "prod"), ("days", "31"))) == []
    assert ids(between=Between(since=NOON.timestamp())) == ["patch2", "patch1"]
    assert ids(between=Between(until=NOON.timestamp())) == ["certs1"]


def test_totals_count_no_dry_runs_and_take_the_median_of_what_went_well(root: Path) -> None:
    for tail, seconds in ((2, 10.0), (3, 20.0), (4, 90.0)):
        write_run(root, tail=tail, at=NOON + timedelta(days=tail), duration_s=seconds, user="leo")
    write_run(root, tail=5, at=NOON + timedelta(days=9), checking=True)
    certs, patch = ask_archive(root, lambda index: total_up(index, Selection()))
    assert (certs.runbook, certs.runs, certs.success_rate) == ("certs", 1, 1.0)
    assert (patch.runs, patch.succeeded, patch.success_rate, patch.median_s) == (4, 3, 0.75, 20.0)
    assert patch.last_success == patch.last_run == datetime(2026, 11, 24, 12, tzinfo=UTC)
    assert patch.operators == ("leo", "maya")
    (failed,) = ask_archive(root, lambda index: total_up(index, Selection(statuses=("failed",))))
    assert (failed.success_rate, failed.median_s, failed.last_success) == (0.0, None, None)
