"""What a power cut leaves of a run: its trace replayed onto a disk that keeps nothing it was not asked to keep.

A file's bytes are on disk as far as its last fsync, a name when its folder was synced. SIGKILL cannot show that, since
the system keeps what was written; this can. Two disks: one loses every name that was not synced, the other has every
name at once and loses only bytes (a rename before the file's fsync leaves an empty file there).
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import crash
import nbformat
from kills import Trace
from support import JsonObject

from opsbook.archive.history import iter_runs
from opsbook.archive.verify import verify_archive


@dataclass
class Disk:
    """A file system, as its log says it is: what programs see, and what is on the platter."""

    eager: bool
    """Whether names are on disk at once."""
    folders: set[str] = field(default_factory=set)
    names: dict[str, int] = field(default_factory=dict)
    kept_folders: set[str] = field(default_factory=set)
    kept_names: dict[str, int] = field(default_factory=dict)
    bytes: dict[int, bytes] = field(default_factory=dict)

    def take(self, entry: JsonObject) -> None:
        """Take one call in."""
        path, inode = entry.get("path", ""), entry.get("inode", 0)
        match entry["call"]:
            case "mkdir":
                self.folders.add(path)
            case "open" if entry["new"]:
                self.names[path], self.bytes[inode] = inode, b""
            case "replace":
                self.names.pop(path, None)
                self.names[entry["to"]] = inode
            case "link":
                self.names[entry["to"]] = inode
            case "unlink":
                self.names.pop(path, None)
            case "rmdir":
                self.folders.discard(path)
            case "fsync" if "data" in entry:
                self.bytes[inode] = bytes.fromhex(entry["data"])
            case "fsync":
                self._keep(path)
        if self.eager:
            self.kept_folders, self.kept_names = set(self.folders), dict(self.names)

    def _keep(self, folder: str) -> None:
        """A folder was synced: its entries are on disk, and those that went are gone from it."""
        inside = {name: inode for name, inode in self.names.items() if _parent(name) == folder}
        others = {name: inode for name, inode in self.kept_names.items() if _parent(name) != folder}
        self.kept_names = {**others, **inside}
        below = {name for name in self.folders if _parent(name) == folder}
        self.kept_folders = {name for name in self.kept_folders if _parent(name) != folder} | below

    def write(self, root: str, place: Path) -> None:
        """Write what is left of the folder `root` after a power cut."""
        place.mkdir()
        left = sorted(folder for folder in self.kept_folders if f"{folder}/".startswith(f"{root}/"))
        there = {_parent(root)}
        for folder in left:
            if _parent(folder) in there:
                there.add(folder)
                (place / os.path.relpath(folder, root)).mkdir(exist_ok=True)
        for name, inode in self.kept_names.items():
            if _parent(name) in there and name.startswith(f"{root}/"):
                (place / os.path.relpath(name, root)).write_bytes(self.bytes.get(inode, b""))


def _parent(path: str) -> str:
    return path.rpartition("/")[0]


def cuts(trace: Trace, *, eager: bool) -> Iterator[tuple[Disk, list[JsonObject]]]:
    """Yield the disk after each call that changes it, and what had happened by then."""
    disk = Disk(eager=eager)
    for number, entry in enumerate(trace.entries, start=1):
        if {"error", "raised"} & entry.keys() or entry["call"] in {"write", "flock"}:
            continue
        disk.take(entry)
        yield disk, list(trace.entries[:number])


def check_cuts(trace: Trace, archive: Path, scratch: Path, *, ended_as: str) -> int:
    """Check what every power cut during a run would leave; return how many there were."""
    count = 0
    for eager in (False, True):
        done: list[JsonObject] = []
        place = scratch / "cut"
        for disk, done in cuts(trace, eager=eager):
            shutil.rmtree(place, ignore_errors=True)
            disk.write(str(archive), place)
            check_cut(place, done, f"names at once: {eager}; after {done[-1]}"[:400])
            count += 1
        status = [run.record.status for run in iter_runs(place) if run.record is not None]
        assert status == [ended_as], (eager, status)  # it has said how it ended, and everything of that is on disk
    return count


def check_cut(place: Path, done: list[JsonObject], shown: str) -> None:
    """What somebody was told of is there, what is there is whole, and nothing that did not end is a success."""
    told = any(entry["call"] == "told" for entry in done)
    runs = list(iter_runs(place))
    assert len(runs) == 1 or not told, shown
    found = verify_archive(place)
    assert found.is_well, (found, shown)
    for copy in place.rglob("*.ipynb"):
        if not copy.name.startswith("."):
            nbformat.validate(json.loads(copy.read_bytes()))
    for run in runs:
        assert run.record is not None or not run.folder.record.exists(), (shown, run.problem)
        assert run.record is not None or not told, shown
        if told:
            synced = [one for one in done if one["call"] == "fsync" and crash.kind(one["path"]) == "events.jsonl"]
            assert run.folder.journal.read_bytes().startswith(bytes.fromhex(synced[-1]["data"])), shown
        if run.record is not None:
            ended = b'"run_ended"' in (run.folder.journal.read_bytes() if run.folder.journal.exists() else b"")
            final = json.loads(run.folder.record.read_bytes())["status"] != "running"
            assert run.record.status == "interrupted" or ended or final, shown
