"""The plan of the packages, held against every import in it: what may use what, and how a package is built.

An import counts wherever it stands: in a function, under TYPE_CHECKING, relative. Imports for types count for the
arrows between packages and for cycles between modules alike, since a reader has to follow them all the same.
"""

from __future__ import annotations

import ast
import functools
import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from jobs.cli import COMMANDS
from tests.support.imports import REPOSITORY, Import, cycles, imported_names, imports_of, modules_below, tree_of
from tests.support.packages import DOOR, LIBRARIES, PACKAGES, ROOT, package_of

# What each package may use beside itself. All may use the modules at the root of jobs, cam and promptsg_core.
ARROWS = {
    "commands": {*PACKAGES} - {"commands"},
    "rendering": {"mining", "statistics", "runs", "shards"},
    "faithfulness": {"mining", "statistics", "runs", "shards"},
    "retrieval": {"mining", "statistics", "runs", "shards"},
    "comparison": {"retrieval", "statistics", "runs", "shards"},
    "benchmark": {"mining", "statistics", "runs", "shards"},
    "submission": {"mining", "statistics", "runs", "shards"},
    "statistics": {"runs", "shards", "launch"},
    "mining": {"runs", "shards", "launch"},
    "training": {"shards", "datasets", "launch"},
    "pedestrians": {"shards", "datasets", "launch"},
    "runs": {"shards"},
    "shards": {"datasets"},
    "datasets": set[str](),
    "launch": set[str](),
}
MOST_MODULES = 20  # in one folder, its __init__ aside; and a command's own module, as each command must have one
MAY_IMPORT_CLICK = ("jobs.commands", "jobs.cli", "jobs.__main__")
# Functions that hand a dictionary of anything to another package, with the reason.
MAY_RETURN_ANYTHING = {
    "jobs.typed_config.gather": "options on their way into a typed configuration",
    "promptsg_core.training.parameter_groups": "what the optimizers of torch take",
}

MODULES = modules_below()


@functools.cache
def imports() -> list[Import]:
    """Every import between our modules; read when a test asks, as all processes collect the tests and one runs them."""
    return imports_of(MODULES)


def allowed(package: str) -> set[str]:
    """Every package that one may import from, itself included."""
    if package in LIBRARIES:
        return {package}
    if package == ROOT:
        return {ROOT, *LIBRARIES}
    if package == DOOR:
        return {DOOR, ROOT, *LIBRARIES, *PACKAGES}
    return {package, *ARROWS[package], ROOT, *LIBRARIES}


def assert_none(found: Iterable[object]) -> None:
    """Fails with one line for each thing found."""
    if lines := [str(one) for one in found]:
        pytest.fail("\n".join(lines), pytrace=False)


def test_the_table_names_the_packages_that_there_are() -> None:
    assert set(ARROWS) == set(PACKAGES)
    assert {package_of(name) for name in MODULES} == {DOOR, ROOT, *LIBRARIES, *PACKAGES}


@pytest.mark.parametrize("package", [DOOR, *ARROWS, ROOT, *LIBRARIES])
def test_a_package_uses_only_what_the_table_allows(package: str) -> None:
    ours = (one for one in imports() if package_of(one.source) == package)
    assert_none(one for one in ours if package_of(one.target) not in allowed(package))


def test_no_package_reaches_itself_through_others() -> None:
    pairs = {(package_of(one.source), package_of(one.target)) for one in imports()}
    for cycle in cycles(arrows_of(pairs)):
        steps = set(itertools.pairwise(cycle))
        print(*(one for one in imports() if (package_of(one.source), package_of(one.target)) in steps), sep="\n")
    assert_none(" -> ".join(cycle) for cycle in cycles(arrows_of(pairs)))


def test_no_package_within_a_package_reaches_itself_through_others() -> None:
    """A folder in a package, or in a library, counts as one, beside the modules that are not in any folder there."""
    pairs = {(folder_or_module(one.source), folder_or_module(one.target)) for one in imports()}
    assert_none(" -> ".join(cycle) for cycle in cycles(arrows_of(pairs)))


def folder_or_module(module: str) -> str:
    within = ".".join(module.split(".")[: 2 if package_of(module) in LIBRARIES else 3])
    return within if within in MODULES and MODULES[within].name == "__init__.py" else module


def test_no_module_reaches_itself_through_others() -> None:
    assert_none(" -> ".join(cycle) for cycle in cycles(arrows_of({(one.source, one.target) for one in imports()})))


def arrows_of(pairs: set[tuple[str, str]]) -> dict[str, set[str]]:
    """name -> the other names that it uses."""
    found: dict[str, set[str]] = defaultdict(set)
    for source, target in pairs:
        if source != target:
            found[source].add(target)
    return found


def test_only_commands_know_click() -> None:
    knowing = (name for name, path in MODULES.items() if any(n.split(".")[0] == "click" for n in imported_names(path)))
    assert_none(name for name in knowing if not name.startswith(MAY_IMPORT_CLICK))


def test_no_two_public_classes_share_a_name() -> None:
    homes: dict[str, list[str]] = defaultdict(list)
    for module, tree in trees():
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                homes[node.name].append(module)
    assert_none(f"{name} is in {' and '.join(modules)}" for name, modules in homes.items() if len(modules) > 1)


def test_no_public_function_takes_a_dictionary_of_anything() -> None:
    """What travels between functions is typed: a dataclass, not a dictionary whose keys one has to know."""
    assert_none(
        f"{module}.{name}({argument.arg}: {ast.unparse(argument.annotation)})"
        for module, tree in trees()
        for name, function in public_functions(tree)
        for argument in arguments_of(function)
        if argument.annotation is not None and holds_dict_of_any(argument.annotation)
    )


def test_no_function_hands_a_dictionary_of_anything_to_another_package() -> None:
    returning = {
        f"{module}.{name}"
        for module, tree in trees()
        for name, function in public_functions(tree)
        if function.returns is not None and holds_dict_of_any(function.returns)
    }
    crossing = (
        f"{source} imports {name}"
        for source, path in MODULES.items()
        for name in sorted(imported_names(path) & returning - set(MAY_RETURN_ANYTHING))
        if package_of(source) != package_of(name)
    )
    assert_none(crossing)
    assert set(MAY_RETURN_ANYTHING) <= returning  # the list has no more than it needs


def trees() -> Iterator[tuple[str, ast.Module]]:
    """(module, its syntax tree) of every module."""
    return ((module, tree_of(path)) for module, path in MODULES.items())


def public_functions(tree: ast.Module) -> Iterator[tuple[str, ast.FunctionDef]]:
    """(name, function) of public functions, and of public methods of public classes, `__init__` included."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and is_public(node.name):
            yield node.name, node
        if isinstance(node, ast.ClassDef) and is_public(node.name):
            methods = [entry for entry in node.body if isinstance(entry, ast.FunctionDef) and is_public(entry.name)]
            yield from ((f"{node.name}.{method.name}", method) for method in methods)


def is_public(name: str) -> bool:
    return not name.startswith("_") or name == "__init__"


def arguments_of(function: ast.FunctionDef) -> list[ast.arg]:
    given = function.args
    starred = [one for one in (given.vararg, given.kwarg) if one is not None]
    return [*given.posonlyargs, *given.args, *given.kwonlyargs, *starred]


def holds_dict_of_any(annotation: ast.expr) -> bool:
    return any(ast.unparse(part) == "dict[str, Any]" for part in ast.walk(annotation))


def folders() -> list[Path]:
    """Every folder of modules, the packages' own included."""
    return sorted({path.parent for path in MODULES.values()})


@pytest.mark.parametrize("folder", folders(), ids=lambda folder: folder.relative_to(REPOSITORY).as_posix())
def test_a_folder_says_what_is_in_it_and_is_not_crowded(folder: Path) -> None:
    assert ast.get_docstring(tree_of(folder / "__init__.py"))
    own = set(COMMANDS) if folder == REPOSITORY / "jobs" / "commands" else set[str]()
    assert len([path for path in folder.glob("*.py") if path.stem not in {"__init__", *own}]) <= MOST_MODULES


def test_the_tests_of_a_package_are_in_the_folder_of_its_name() -> None:
    tests = REPOSITORY / "tests"
    assert [package for package in (*PACKAGES, *LIBRARIES) if not list(tests.glob(f"{package}/test_*.py"))] == []


# The checks above are as good as what they read; so here is a tree with one of each, read by the same functions.
TREE = {
    "jobs/__init__.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from jobs.runs.run import open_run\n",
    "jobs/cli.py": "import importlib\ndef get(name):\n    return importlib.import_module(f'jobs.commands.{name}')\n",
    "jobs/errors.py": "",
    "jobs/commands/__init__.py": "from .mine import command\n",
    "jobs/commands/mine.py": "import click\ndef command():\n    from jobs.runs import run as opened\n",
    "jobs/runs/__init__.py": "",
    "jobs/runs/layout.py": "from . import run\nfrom .. import errors\nimport cam.names, json\n",
    "jobs/runs/run.py": "from ..runs.layout import RunLayout\nfrom jobs.errors import UserError\n",
    "cam/__init__.py": "import numpy\n",
    "cam/names.py": "from cam import MapName\nimport cam\n",
    "promptsg_core/__init__.py": "",
}


@pytest.fixture
def tree(tmp_path: Path) -> dict[str, Path]:
    for name, text in TREE.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return modules_below(tmp_path)


def test_every_kind_of_import_is_read(tree: dict[str, Path]) -> None:
    assert set(tree) == {name.removesuffix("/__init__.py").removesuffix(".py").replace("/", ".") for name in TREE}
    assert set(imports_of(tree)) == {
        Import(source="jobs", target="jobs.runs.run", line=3),
        Import(source="jobs.cli", target="jobs.commands", line=3),
        Import(source="jobs.commands", target="jobs.commands.mine", line=1),
        Import(source="jobs.commands.mine", target="jobs.runs.run", line=3),
        Import(source="jobs.runs.layout", target="jobs.runs.run", line=1),
        Import(source="jobs.runs.layout", target="jobs.errors", line=2),
        Import(source="jobs.runs.layout", target="cam.names", line=3),
        Import(source="jobs.runs.run", target="jobs.runs.layout", line=1),
        Import(source="jobs.runs.run", target="jobs.errors", line=2),
        Import(source="cam.names", target="cam", line=1),
    }
    assert imported_names(tree["jobs.commands.mine"]) == {"click", "jobs.runs.run"}


def test_a_cycle_is_found_and_shown(tree: dict[str, Path]) -> None:
    found = cycles(arrows_of({(one.source, one.target) for one in imports_of(tree)}))
    assert found == [["jobs.runs.layout", "jobs.runs.run", "jobs.runs.layout"]]
    assert cycles({"a": {"b"}, "b": {"c"}, "c": {"a", "b"}, "d": {"e"}, "e": {"d"}, "f": {"a", "d"}}) == [
        ["a", "b", "c", "a"],
        ["d", "e", "d"],
    ]
    assert cycles({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def test_a_dictionary_of_anything_is_seen_inside_another_type() -> None:
    text = (
        "def f(a, b: int, c: dict[str, Any] | None, *, d: list[dict[str, Any]], e: dict[str, int], **g: dict[str, Any])"
        ": ...\n"
        "def _g(x: dict[str, Any]): ..."
    )
    ((name, function),) = public_functions(ast.parse(text))
    found = [one.arg for one in arguments_of(function) if one.annotation and holds_dict_of_any(one.annotation)]
    assert (name, found) == ("f", ["c", "d", "g"])
