"""Which of our modules imports which, read from the source: lazy, relative and type-only imports included."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

PACKAGES = ("jobs", "cam", "promptsg_core")
REPOSITORY = Path(__file__).parents[2]


@dataclass(frozen=True, kw_only=True)
class Import:
    """One import of a module by another; `line` is its line in the importing file."""

    source: str
    target: str
    line: int

    def __str__(self) -> str:
        return f"{self.source} (line {self.line}) imports {self.target}"


@functools.cache
def tree_of(path: Path) -> ast.Module:
    """The syntax tree of a file, parsed once."""
    return ast.parse(path.read_text(encoding="utf-8"), path)


def modules_below(root: Path = REPOSITORY) -> dict[str, Path]:
    """Dotted name -> file, of every module in our packages; a package's name stands for its `__init__`."""
    files = [path for package in PACKAGES for path in sorted((root / package).rglob("*.py"))]
    return {_dotted(path.relative_to(root)): path for path in files}


def imports_of(modules: Mapping[str, Path]) -> list[Import]:
    """Every import between these modules, wherever in the file it stands, in the order of files and lines."""
    found: dict[tuple[str, str], Import] = {}
    for source, path in modules.items():
        for name, line in _imported_names(source, path):
            target = _module_of(name, modules)
            if target is not None and target != source:
                found.setdefault((source, target), Import(source=source, target=target, line=line))
    return list(found.values())


def imported_names(path: Path) -> set[str]:
    """The dotted names that a file imports from anywhere, relative imports aside; `a.b` for `from a import b`."""
    return {name for name, _ in _imported_names("", path)}


def cycles(arrows: Mapping[str, set[str]]) -> list[list[str]]:
    """The shortest cycle of each group of names that reach each other, as [a, b, ..., a]; empty without cycles."""
    found: list[list[str]] = []
    for start in sorted(arrows):
        cycle = _way_back(start, arrows)
        if cycle and not any(set(cycle) & set(known) for known in found):
            found.append(cycle)
    return found


def _way_back(start: str, arrows: Mapping[str, set[str]]) -> list[str]:
    """The shortest way from a name to itself, by breadth first; empty where none leads back."""
    ways, seen = [[start]], {start}
    for way in ways:
        for name in sorted(arrows.get(way[-1], ())):
            if name == start:
                return [*way, start]
            if name not in seen:
                seen.add(name)
                ways.append([*way, name])
    return []


def _dotted(path: Path) -> str:
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


@functools.cache
def _import_nodes(path: Path) -> list[ast.Import | ast.ImportFrom | ast.Call]:
    """The statements of a file that import, and its calls of `import_module`."""
    found: list[ast.Import | ast.ImportFrom | ast.Call] = []
    for node in ast.walk(tree_of(path)):
        if isinstance(node, (ast.Import, ast.ImportFrom)) or (
            isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module")
        ):
            found.append(node)
    return found


def _imported_names(source: str, path: Path) -> Iterator[tuple[str, int]]:
    """(dotted name, line) of each import in a file; `import_module(f"a.{name}")` counts as an import of a."""
    for node in _import_nodes(path):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _base_of(node, source, is_package=path.name == "__init__.py")
            yield from ((f"{base}.{alias.name}", node.lineno) for alias in node.names)
        else:
            yield _constant_start(node.args[0]), node.lineno


def _base_of(node: ast.ImportFrom, source: str, *, is_package: bool) -> str:
    """The absolute name that `from ... import` starts at: one dot is the package of the importing module."""
    if not node.level:
        return node.module or ""
    package = source.split(".")
    package = package[: len(package) - (node.level - is_package)]
    return ".".join([*package, *([node.module] if node.module else [])])


def _constant_start(name: ast.expr) -> str:
    """The text, or the text before the first `{...}` of an f-string; empty where the name starts with a value."""
    start = name.values[0] if isinstance(name, ast.JoinedStr) else name
    return str(start.value).rstrip(".") if isinstance(start, ast.Constant) else ""


def _module_of(name: str, modules: Mapping[str, Path]) -> str | None:
    """The longest start of a dotted name that is one of our modules."""
    parts = name.split(".")
    starts = (".".join(parts[:count]) for count in range(len(parts), 0, -1))
    return next((start for start in starts if start in modules), None)
