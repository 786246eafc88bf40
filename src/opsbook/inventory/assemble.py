"""A whole draft becomes the Inventory: membership, order, and the variables merged by precedence.

Invariant: precedence is Ansible's: `all`, then groups by depth, then by priority, then by name; over them the files
beside the sources for `all`, then those for the other groups in the same order; then the host's own, then its files.
This module knows no file format.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from msgspec.structs import replace

from opsbook.inventory.connection import build_target
from opsbook.inventory.draft import ALL, UNGROUPED, Draft
from opsbook.inventory.place import Variable
from opsbook.model.target import Inventory


def assemble(draft: Draft, *, sources: Iterable[Path]) -> Inventory:
    """Return the finished inventory; the draft is complete afterwards too (every host and group has its place).

    Targets stand in the order in which they were first named. A group lists its own hosts as it names them, then those
    of its children, as Ansible does, so that `web[0]` means the same host there and here.

    Raises:
        InventoryError: a connection variable cannot be honoured.
    """
    _complete(draft)
    members = {name: _list_members(draft, name) for name in draft.groups}
    members[ALL] = tuple(draft.hosts)
    ranks = _rank_groups(draft)
    belongs: dict[str, list[str]] = {host: [] for host in draft.hosts}
    for group, hosts in members.items():
        for host in hosts:
            belongs[host].append(group)
    shared: dict[tuple[str, ...], dict[str, Variable]] = {}
    targets = []
    for host, own in draft.hosts.items():
        order = tuple(sorted(belongs[host], key=ranks.__getitem__))
        if order not in shared:
            shared[order] = _merge(draft, order)
        groups = tuple(sorted(group for group in order if group != ALL))
        variables = shared[order] | own
        for adjacent in draft.adjacent:
            variables |= adjacent.hosts.get(host, {})
        made = build_target(host, variables, groups=groups, ssh_config=draft.ssh_configs.get(host))
        targets.append(replace(made, sealed=_sealed(draft, host, order)))
    return Inventory(targets=tuple(targets), groups=members, sources=tuple(str(path) for path in sources))


def _sealed(draft: Draft, host: str, order: Iterable[str]) -> tuple[str, ...]:
    """Return the encrypted files that may set a host's variables."""
    files: list[str] = []
    for adjacent in draft.adjacent:
        if adjacent.sealed_groups or adjacent.sealed_hosts:
            files += [file for group in order for file in adjacent.sealed_groups.get(group, ())]
            files += adjacent.sealed_hosts.get(host, ())
    return tuple(files)


def _complete(draft: Draft) -> None:
    """Put groups without a parent under `all`, and exactly the hosts without another group into `ungrouped`."""
    children = {child for group in draft.groups.values() for child in group.children}
    for name in draft.groups:
        if name != ALL and name not in children:
            draft.groups[ALL].children[name] = None
    grouped = {host for name, group in draft.groups.items() if name not in {ALL, UNGROUPED} for host in group.hosts}
    ungrouped = draft.groups[UNGROUPED].hosts
    for host in draft.hosts:
        if host in grouped:
            ungrouped.pop(host, None)
        else:
            ungrouped[host] = None


def _list_members(draft: Draft, name: str) -> tuple[str, ...]:
    """Return a group's own hosts, then its children's, then theirs."""
    members: dict[str, None] = {}
    seen = {name}
    level = [name]
    while level:
        for group in level:
            draft.spend(5 + len(draft.groups[group].hosts) + len(draft.groups[group].children))  # a step each
            members.update(draft.groups[group].hosts)
        level = list(dict.fromkeys(c for group in level for c in draft.groups[group].children if c not in seen))
        seen.update(level)
    return tuple(members)


def _rank_groups(draft: Draft) -> dict[str, tuple[int, int, str]]:
    """Return each group's place in the precedence: depth (the longest way down from `all`), priority, name."""
    parents = dict.fromkeys(draft.groups, 0)
    for group in draft.groups.values():
        for child in group.children:
            parents[child] += 1
    depths = dict.fromkeys(draft.groups, 0)
    ready = [ALL]
    while ready:  # a group's depth is final once all of its parents are
        name = ready.pop()
        for child in draft.groups[name].children:
            depths[child] = max(depths[child], depths[name] + 1)
            parents[child] -= 1
            if parents[child] == 0:
                ready.append(child)
    return {name: (depths[name], group.priority, name) for name, group in draft.groups.items()}


def _merge(draft: Draft, order: Iterable[str]) -> dict[str, Variable]:
    """Return the groups' variables, a later group's over an earlier one's, and those of files over all of them."""
    merged: dict[str, Variable] = {}
    for group in order:
        merged |= draft.groups[group].variables
    for layer in ([ALL], [group for group in order if group != ALL]):
        for adjacent in draft.adjacent:
            for group in layer:
                merged |= adjacent.groups.get(group, {})
    return merged
