"""The house keeps its shape: floors, owners, sizes and light imports, read from the source itself."""

from __future__ import annotations

import ast
import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Sshd

TESTS = Path(__file__).parent
PACKAGE = TESTS.parent / "src" / "opsbook"

FLOORS = {
    "errors": 0,
    "masked_stream": 0,
    "redaction": 0,
    "secret_forms": 0,
    "secret_index": 0,
    "token_patterns": 0,
    "config": 0,
    "model": 1,
    "runbook": 2,
    "inventory": 2,
    "secrets": 2,
    "locks": 2,
    "archive": 3,
    "ssh": 3,
    "fleet": 4,
    "execution": 4,
    "report": 4,
    "demo": 5,
    "cli": 6,
}
"""Each room and the height it lives at; the modules of the ground are rooms of their own, on one floor."""

GROUND = 0
DOORS = {
    "opsbook": {"opsbook.errors", "opsbook.fleet.api", "opsbook.fleet.extension", "opsbook.redaction"},
    "opsbook.__main__": {"opsbook.cli.main"},
}
"""The package's own two modules, and what each may point at."""

OWNERS = {
    "papermill": {"execution"},
    "nbclient": {"execution"},
    "jupyter_client": {"execution"},
    "jupyter_core": {"execution"},
    "zmq": {"execution"},
    "ipykernel": {"execution"},
    "nbformat": {"runbook.notebook"},
    "paramiko": {"ssh", "demo"},
    "cryptography": {"demo"},
    "click": {"cli"},
    "rich": {"cli", "report"},
    "yaml": {"inventory"},
    "IPython": {"fleet"},
    "hvac": {"secrets.vault"},
    "requests": {"secrets.vault"},
    "sqlite3": {"archive"},
    "msgspec": {""},
}
"""Each outside library and the rooms, or single modules, that may import it; an empty name is everywhere."""

NOWHERE = {"sqlite3", "pickle", "marshal", "shelve", "dbm"}
"""Of the standard library: a database is a cache that one room keeps, and JSON, not pickle, crosses processes."""

HEAVY = {"papermill", "nbformat", "nbclient", "paramiko", "rich", "yaml", "IPython", "hvac"}
VAGUE_NAMES = {"utils", "util", "helpers", "helper", "manager", "base", "common", "misc"}
MODULE_LINES = 400
FUNCTION_LINES = 50
LONG_FUNCTION_LINES = 40


@dataclass(frozen=True)
class Import:
    """One module that another one names."""

    module: str
    line: int
    deferred: bool
    """Inside a function, under TYPE_CHECKING, or in a string: it does not happen when the module is imported."""


@dataclass(frozen=True)
class Module:
    """One source file."""

    name: str
    path: Path
    text: str
    tree: ast.Module
    imports: tuple[Import, ...]

    @property
    def room(self) -> str:
        return self.name.split(".")[1] if "." in self.name else ""

    def where(self, found: Import) -> str:
        return f"{self.path.relative_to(PACKAGE.parent)}:{found.line}"


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@lru_cache(maxsize=1)
def modules() -> dict[str, Module]:
    paths = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}
    found: dict[str, Module] = {}
    for name, path in paths.items():
        text = path.read_text(encoding="utf-8")
        tree = ast.parse(text)
        imports = tuple(imports_of(tree, package=name if path.stem == "__init__" else "", known=frozenset(paths)))
        found[name] = Module(name=name, path=path, text=text, tree=tree, imports=imports)
    return found


def imports_of(tree: ast.Module, *, package: str, known: frozenset[str]) -> Iterator[Import]:
    """List what a module imports, also inside functions and under TYPE_CHECKING, and the modules its strings name."""
    deferred = {id(node) for block in ast.walk(tree) if defers(block) for node in ast.walk(block) if node is not block}
    for node in ast.walk(tree):
        late = id(node) in deferred
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, node.lineno, late)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports are absolute"
            source = node.module or ""
            inner = [f"{source}.{alias.name}" for alias in node.names if f"{source}.{alias.name}" in known]
            for name in inner:
                yield Import(name, node.lineno, late)
            if len(inner) < len(node.names) and source != package:
                yield Import(source, node.lineno, late)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in known - {"opsbook"}:
            yield Import(node.value, node.lineno, deferred=True)


def defers(node: ast.AST) -> bool:
    if isinstance(node, ast.If):
        return isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)


def room_of(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def functions(module: Module) -> Iterator[tuple[str, int]]:
    for node in ast.walk(module.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield f"{module.name}.{node.name}", (node.end_lineno or node.lineno) - node.lineno + 1


def test_every_room_has_a_floor() -> None:
    rooms = {module.room for module in modules().values()} - {"", "__main__"}
    assert rooms <= set(FLOORS), f"give these a floor here and in the design: {sorted(rooms - set(FLOORS))}"


def test_a_room_imports_only_from_lower_floors() -> None:
    wrong = []
    for module in modules().values():
        if module.name in DOORS:
            continue
        for found in module.imports:
            room = room_of(found.module)
            if found.module.split(".")[0] != "opsbook" or room in {"", module.room}:
                continue
            below = FLOORS[room] < FLOORS[module.room]
            both_on_the_ground = FLOORS[room] == FLOORS[module.room] == GROUND
            if not below and not both_on_the_ground:
                wrong.append(f"{module.where(found)}: {module.room} imports {found.module}")
    assert wrong == []


def test_the_package_points_only_at_its_doors_and_only_when_asked() -> None:
    for name, doors in DOORS.items():
        module = modules()[name]
        ours = [found for found in module.imports if found.module.startswith("opsbook.")]
        assert {found.module for found in ours} <= doors
        if name == "opsbook":
            assert [found for found in ours if not found.deferred] == []


def test_each_outside_library_has_its_owner() -> None:
    wrong = []
    for module in modules().values():
        for found in module.imports:
            library = found.module.split(".")[0]
            if library == "opsbook" or (library in sys.stdlib_module_names and library not in NOWHERE):
                continue
            place = module.name.removeprefix("opsbook").removeprefix(".")
            if not any(f"{place}.".startswith(f"{owner}." if owner else "") for owner in OWNERS.get(library, ())):
                wrong.append(f"{module.where(found)}: {place} imports {found.module}")
    assert wrong == []


def test_modules_do_not_import_each_other_in_circles() -> None:
    edges = {
        module.name: {
            found.module
            for found in module.imports
            if not found.deferred and found.module in modules() and found.module not in {module.name, "opsbook"}
        }
        for module in modules().values()
    }
    try:
        TopologicalSorter(edges).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(reversed(error.args[1])))


def test_modules_are_short_enough_to_read() -> None:
    long = {module.name: len(module.text.splitlines()) for module in modules().values()}
    assert {name: lines for name, lines in long.items() if lines > MODULE_LINES} == {}


def test_functions_are_short_enough_to_read() -> None:
    every = [found for module in modules().values() for found in functions(module)]
    long = [(name, lines) for name, lines in every if lines > LONG_FUNCTION_LINES]
    assert [found for found in long if found[1] > FUNCTION_LINES] == [], f"over {LONG_FUNCTION_LINES} lines: {long}"


def test_no_module_has_a_name_that_says_nothing() -> None:
    assert [name for name in modules() if VAGUE_NAMES & set(name.split("."))] == []


def test_every_module_says_what_it_is() -> None:
    assert [name for name, module in modules().items() if not (ast.get_docstring(module.tree) or "").strip()] == []


def test_test_folders_are_no_packages() -> None:
    assert list(TESTS.rglob("__init__.py")) == []


def test_every_public_name_is_there_and_none_is_a_rooms_name() -> None:
    package = importlib.import_module("opsbook")
    for name in package.__all__:
        assert getattr(package, name) is not None
    assert set(package.__all__) & set(FLOORS) == set()
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = package.nothing


def loaded_after(code: str, **environ: str) -> set[str]:
    """Run code in a fresh interpreter and return the names of the modules it has at its end."""
    told = "import atexit, sys\natexit.register(lambda: print('modules:', *sys.modules, file=sys.stderr))\n"
    done = subprocess.run(
        [sys.executable, "-c", told + code],
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert done.returncode == 0, done.stderr
    return set(done.stderr.rpartition("modules:")[2].split())


def libraries(names: set[str]) -> set[str]:
    return {name.split(".")[0] for name in names}


COMMAND = "import runpy, sys; sys.argv[1:] = {args!r}; runpy.run_module('opsbook', run_name='__main__')"
FLEET = """
import sys
from opsbook.fleet.session import current
from opsbook.fleet.api import targets
assert current() is current()
fleet = targets("web")
"""
FIRST_CONNECTION = """
assert "paramiko" not in sys.modules
result = fleet.run("echo there", read_only=True)
assert result["web1"].stdout == "there\\n", result
assert "paramiko" in sys.modules
"""


def test_importing_the_package_loads_nothing_else() -> None:
    names = loaded_after("import opsbook")
    assert {name for name in names if name.startswith("opsbook.")} == set()
    assert libraries(names) & set(OWNERS) == set()


def test_asking_for_help_loads_nothing_heavy() -> None:
    names = loaded_after(COMMAND.format(args=["--help"]))
    assert "opsbook.cli.main" in names
    assert libraries(names) & HEAVY == set()


def test_a_notebooks_fleet_loads_nothing_heavy_before_it_connects(sshd: Sshd, tmp_path: Path) -> None:
    inventory = sshd.inventory({"web1": "127.0.0.2"}, tmp_path / "hosts.ini")
    names = loaded_after(FLEET, OPSBOOK_INVENTORY=str(inventory))
    assert "opsbook.fleet.pool" in names
    assert libraries(names) & {"papermill", "nbclient", "nbformat", "paramiko"} == set()


def test_paramiko_comes_with_the_first_connection(sshd: Sshd, tmp_path: Path) -> None:
    inventory = sshd.inventory({"web1": "127.0.0.2"}, tmp_path / "hosts.ini")
    names = loaded_after(FLEET + FIRST_CONNECTION, OPSBOOK_INVENTORY=str(inventory))
    assert libraries(names) & {"papermill", "nbclient", "nbformat"} == set()


def test_the_notebook_extension_loads_no_engine() -> None:
    names = loaded_after("import opsbook.fleet.extension")
    assert "IPython" in names
    assert libraries(names) & {"papermill", "nbclient", "nbformat", "paramiko"} == set()
