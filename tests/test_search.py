"""A search finds what stands in the archive and in the library, and shows where."""

from __future__ import annotations

import json
import os
from datetime import timedelta
from pathlib import Path

from past_runs import NOON, ORIGIN, cell, write_run
from searching import NOW, books, look, only
from support import code, notebook_text, prose

from opsbook.archive.catch_up import ask_archive
from opsbook.archive.query import Between
from opsbook.archive.search import Search, cells_of_origin, search

pytest_plugins = ["search_desk"]


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


def test_a_heading_and_the_cells_under_it_are_one_hit_that_names_what_ran(root: Path) -> None:
    for tail in (2, 3):
        folder = write_run(
            root, cell("## Certbot\n\nlook", kind="markdown"), cell("1"), cell("2"), tail=tail, book="web"
        )
        record = json.loads(folder.record.read_text())
        for one in record["cells"]:
            one["label"] = "Certbot"
        folder.record.write_text(json.dumps(record))
    hits = look(root, "heading:certbot").hits
    assert [(hit.place.runbook, hit.place.cell > 0, hit.also) for hit in hits] == [("web", True, 1)]


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
    file.rename(Path(os.fsdecode(bytes(file.parent) + b"/latin-\xe9.ipynb")))  # no index can hold such a name
    assert books(root, "other_thing OR certbot", library=library) == ["certs"]


def test_a_time_given_beside_the_query_bounds_it(root: Path) -> None:
    since = Between(since=(NOON - timedelta(days=1)).timestamp())
    assert books(root, "apt-get OR certbot", between=since) == ["patch"]
    assert books(root, "apt-get OR certbot", between=Between(until=NOON.timestamp())) == ["certs"]
    assert books(root, "NOT nothing", between=since) == ["patch"]
