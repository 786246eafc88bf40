"""What is measured, and what is to be reached: the tasks, the rows of the table, and the goals that hang on them."""

from __future__ import annotations

import dataclasses
from typing import TypeAlias

from sample import Sample

OURS = "opsbook"
LIMIT = "limit"
Cells: TypeAlias = dict[tuple[str, int, str], list[Sample]]
"""Task, count and peer to the samples taken."""
LIBRARIES = (OURS, "paramiko", "asyncssh", "parallel-ssh")
WHOLE = "opsbook exec"
"""Our own command, shown beside the commands of others."""
COMMANDS = ("ssh", "pyinfra", "ansible", WHOLE)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """Samples to take, of each peer."""

    name: str
    count: int
    peers: tuple[str, ...]
    most_rounds: int = 1000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Goal:
    """Ours is to be at most this share of a peer's figure, or of the limit."""

    against: str
    most: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table."""

    label: str
    task: str
    count: int
    phase: str
    theirs: str = ""
    """The peers' phase, where it has another name."""
    goals: tuple[Goal, ...] = ()


TASKS = (
    *(Task(name="true", count=count, peers=(*LIBRARIES, *COMMANDS)) for count in (1, 20, 100)),
    Task(name="put", count=20, peers=LIBRARIES),
    # parallel-ssh hands output on line by line, at 3 s of CPU for 1.3 MB: minutes for a row that says nothing new
    Task(name="output", count=20, peers=(OURS, "paramiko", "asyncssh")),
    Task(name="idle", count=250, peers=(OURS, "paramiko", "asyncssh"), most_rounds=2),
    Task(name="flood", count=20, peers=(OURS,), most_rounds=2),
    *(Task(name="scale", count=count, peers=(OURS,), most_rounds=3) for count in (10, 100, 1000)),
)

ROWS = (
    Row(label="cold `true`, 1 target", task="true", count=1, phase="cold", goals=(Goal(against="paramiko", most=0.4),)),
    Row(label="cold `true`, 20 targets", task="true", count=20, phase="cold"),
    Row(
        label="cold `true`, 100 targets",
        task="true",
        count=100,
        phase="cold",
        goals=(
            Goal(against=LIMIT, most=1.15),
            Goal(against="ansible", most=0.15),
            Goal(against="asyncssh", most=1),
            Goal(against="parallel-ssh", most=1),
        ),
    ),
    Row(label="warm `true`, 1 target", task="true", count=1, phase="warm"),
    Row(label="warm `true`, 20 targets", task="true", count=20, phase="warm"),
    Row(
        label="warm `true`, 100 targets",
        task="true",
        count=100,
        phase="warm",
        goals=(Goal(against="ansible", most=0.05),),
    ),
    Row(label="same, five in a row", task="true", count=100, phase="loop"),
    Row(label="same, marked as changing", task="true", count=100, phase="changing", theirs="warm"),
    Row(label="10 MB to 20, cold", task="put", count=20, phase="cold", goals=(Goal(against="asyncssh", most=0.6),)),
    Row(label="10 MB to 20, warm", task="put", count=20, phase="warm", goals=(Goal(against="asyncssh", most=0.6),)),
    Row(label="1.3 MB from 20, warm", task="output", count=20, phase="warm", goals=(Goal(against="asyncssh", most=1),)),
    Row(label="closing 100", task="true", count=100, phase="close"),
)
