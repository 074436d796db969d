"""Builds the API reference from the docstrings and checks its links: `python -m tests.support.api_reference FOLDER`.

It has a page for each package that users import from, with all that the package hands out, and a page for each module
behind that. Needs pdoc, which is in the extra `dev`. Docstrings are read as Markdown.
"""

from __future__ import annotations

import importlib
import sys
import tempfile
import typing
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from urllib.parse import unquote, urldefrag, urlsplit

DOORS = ("jobs", "cam", "promptsg_core")
LIBRARIES = ("cam", "promptsg_core")
# pdoc leaves out what starts with an underscore; these are called by users.
_CALLS_SHOWN = """{% extends "default/module.html.jinja2" %}
{% macro is_public(doc) %}
    {%- if doc.name == "__call__" and doc.docstring %}true{% else %}{{ default_is_public(doc) }}{% endif -%}
{% endmacro %}
"""
_KEPT_AS_WRITTEN = "Error parsing type annotation"  # pdoc then shows the annotation's text


@dataclass
class Page(HTMLParser):
    """What a page links to, and what may be linked to on it; `emphasised` are words between two `*` of a docstring."""

    path: Path
    links: list[str] = field(default_factory=list)
    anchors: set[str] = field(default_factory=set)
    emphasised: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self._in_emphasis = False
        self.feed(self.path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._in_emphasis = tag == "em"
        for name, value in attrs:
            if name == "id" and value:
                self.anchors.add(value)
            elif name in ("href", "src") and value:
                self.links.append(value)

    def handle_data(self, data: str) -> None:
        if self._in_emphasis:
            self.emphasised.append(data)
            self._in_emphasis = False


def modules_shown() -> list[str]:
    """The dotted names of the modules that have a page, sorted.

    They are the packages in DOORS, the modules directly in LIBRARIES, and those with what DOORS hand out and with the
    types in its signatures.
    """
    handed = [getattr(door, name) for door in map(importlib.import_module, DOORS) for name in door.__all__]
    named = {one for thing in handed for one in _types_of(thing)}
    homes = {str(one.__module__) for one in (*handed, *named)}
    roots = {
        f"{name}.{path.stem}"
        for name in LIBRARIES
        for path in Path(importlib.import_module(name).__path__[0]).glob("*.py")
        if not path.stem.startswith("_")
    }
    return sorted({*DOORS, *homes, *roots})


def _types_of(thing: object) -> Iterator[type]:
    """Our types in the signature of a function, or in a class's fields and the signatures of its public methods."""
    parts = [thing]
    if isinstance(thing, type):
        parts += [
            part.fget if isinstance(part, property) else getattr(part, "__func__", part)
            for name, part in vars(thing).items()
            if not name.startswith("_") and (callable(part) or isinstance(part, (property, classmethod, staticmethod)))
        ]
    for part in parts:
        try:
            hints = typing.get_type_hints(part)
        except (NameError, TypeError):  # names that only a type checker imports
            continue
        yield from (one for hint in hints.values() for one in _ours_in(hint))


def _ours_in(hint: object) -> Iterator[type]:
    if isinstance(hint, type) and hint.__module__.partition(".")[0] in DOORS:
        yield hint
    for inner in typing.get_args(hint):
        yield from _ours_in(inner)


def build(folder: Path) -> list[str]:
    """Writes the reference into a folder. Returns what pdoc warned of."""
    import pdoc
    import pdoc.doc
    import pdoc.render

    # pdoc takes the bases of a generic class before the class itself, and so torch's `forward` for ReidModel's.
    pdoc.doc.Class._bases = property(lambda shown: shown.obj.__mro__)
    for name in DOORS:
        _hand_out_now(importlib.import_module(name))
    with tempfile.TemporaryDirectory() as templates, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        (Path(templates) / "module.html.jinja2").write_text(_CALLS_SHOWN)
        pdoc.render.configure(docformat="markdown", show_source=False, template_directory=Path(templates))
        pdoc.pdoc(*modules_shown(), output_directory=folder)
    said = [str(one.message) for one in caught if issubclass(one.category, UserWarning)]
    return [message for message in said if not message.startswith(_KEPT_AS_WRITTEN)]


def _hand_out_now(door: ModuleType) -> None:
    """Puts all that a package hands out on first use into its namespace, where pdoc looks."""
    vars(door).update({name: getattr(door, name) for name in door.__all__})


def problems_of(folder: Path) -> list[str]:
    """A line for each dead link, each emphasis that nobody meant, and each name that a door's page lacks."""
    pages = {path.resolve(): Page(path) for path in sorted(folder.rglob("*.html"))}
    return [*_dead_links(pages.values(), pages), *_accidents(pages.values()), *_lacking(folder, pages)]


def _dead_links(pages: Iterable[Page], known: typing.Mapping[Path, Page]) -> Iterator[str]:
    for page in pages:
        for link in page.links:
            address, anchor = urldefrag(link)
            if urlsplit(address).scheme:  # another site, or a picture within the page
                continue
            target = (page.path.parent / unquote(address)).resolve() if address else page.path.resolve()
            there = known[target].anchors if target in known else set[str]()
            if not target.is_file() or (anchor and unquote(anchor) not in there):
                yield f"{page.path}: {link} leads nowhere"


def _accidents(pages: Iterable[Page]) -> Iterator[str]:
    for page in pages:
        yield from (f"{page.path}: {words!r} stood between two *; write `code`" for words in page.emphasised)


def _lacking(folder: Path, pages: typing.Mapping[Path, Page]) -> Iterator[str]:
    for name in DOORS:
        door, path = importlib.import_module(name), (folder / f"{name}.html").resolve()
        there = pages[path].anchors if path in pages else set[str]()
        yield from (f"{path}: {name}.{one} is not on the page" for one in door.__all__ if one not in there)
        yield from (f"{name}.{one} has no docstring" for one in door.__all__ if not getattr(door, one).__doc__)


def main(folder: Path) -> int:
    """Builds, checks, and says what is wrong. Returns the exit status."""
    problems = [*build(folder), *problems_of(folder)]
    for line in problems:
        print(line, file=sys.stderr)
    print(f"{folder}/index.html: {len(list(folder.rglob('*.html')))} pages, {len(problems)} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
