"""Draws the packages and the arrows between them from the imports: `python -m tests.support.draw_packages`.

It writes tests/pictures/packages.svg. A test holds that picture against the imports.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path

from tests.support.imports import REPOSITORY, cycles, imports_of, modules_below
from tests.support.layers import Plan, Spacing, implied, plan_of
from tests.support.packages import DOOR, LIBRARIES, PACKAGES, ROOT, package_of

PICTURE = REPOSITORY / "tests" / "pictures" / "packages.svg"

_BOX = (132, 46)  # width, height
_SPACING = Spacing(box=156, bend=30, layer=110)
_MARGIN = 24
_COLOURS = {"cam": "#1b6ca8", "promptsg_core": "#a8501b"}
_INK, _PALE, _PAPER, _FILL, _FRAME = "#222222", "#b9b9b9", "#ffffff", "#f4f6f8", "#8a939c"
_ARROW_HEAD = (
    '<marker id="{name}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
    '<path d="M0 0L8 4L0 8z" fill="{colour}"/></marker>'
)


def package_arrows() -> dict[str, set[str]]:
    """package -> the other packages that its modules import from; also for the door, the root and the libraries."""
    uses: dict[str, set[str]] = {package: set() for package in (DOOR, *PACKAGES, ROOT, *LIBRARIES)}
    for one in imports_of(modules_below()):
        source, target = package_of(one.source), package_of(one.target)
        if source != target:
            uses[source].add(target)
    return uses


def draw(uses: Mapping[str, set[str]]) -> str:
    """The picture as SVG. `uses` has a key for every package, `DOOR`, `ROOT` and the libraries. Raises ValueError for a
    cycle."""
    packages = sorted(set(uses) - {DOOR, "commands", ROOT, *LIBRARIES})
    between = {package: uses[package] & set(packages) for package in packages}
    if circles := cycles(between):
        raise ValueError(f"no layers can be drawn of a cycle: {' -> '.join(circles[0])}")
    plan = _moved(plan_of(between, _SPACING), across=_MARGIN, down=140)
    width = max(x for x, _ in plan.boxes.values()) + _SPACING.box / 2 + _MARGIN
    floor = max(y for _, y in plan.boxes.values()) + 70
    parts = [
        *_callers(uses, packages, width),
        *_arrows(plan, implied(between)),
        *(part for package in packages for part in _package(package, plan.boxes[package], uses[package])),
        _text(
            width / 2,
            92,
            "an arrow leads from a package to one that it uses; pale where a longer way leads there too",
            size=11,
        ),
        *_foundations(width, floor),
    ]
    return _page(parts, width, floor + 130)


def _moved(plan: Plan, across: float, down: float) -> Plan:
    def move(point: tuple[float, float]) -> tuple[float, float]:
        return point[0] + across, point[1] + down

    return Plan(
        boxes={name: move(point) for name, point in plan.boxes.items()},
        arrows={arrow: [move(point) for point in way] for arrow, way in plan.arrows.items()},
    )


def _callers(uses: Mapping[str, set[str]], packages: list[str], width: float) -> Iterator[str]:
    """The two ways in, on top: the command line, and what a notebook imports."""
    half = (width - 3 * _MARGIN) / 2
    for number, (name, title) in enumerate(
        (("commands", "commands (with cli)"), (DOOR, "jobs: what a notebook imports"))
    ):
        left = _MARGIN + number * (half + _MARGIN)
        yield _rectangle(left, 20, half, 46, _FILL)
        yield _text(left + half / 2, 39, title, bold=True)
        yield _text(left + half / 2, 56, _in_words(uses[name] & set(packages), packages), size=11)


def _in_words(used: set[str], packages: list[str]) -> str:
    unused = [package for package in packages if package not in used]
    if not unused:
        return "uses every package below"
    if len(unused) < len(used):
        return f"uses every package below but {', '.join(unused)}"
    return f"uses {', '.join(sorted(used))}"


def _arrows(plan: Plan, pale: set[tuple[str, str]]) -> Iterator[str]:
    """Pale arrows first, so that the others lie on them."""
    for arrow in sorted(plan.arrows, key=lambda arrow: (arrow not in pale, arrow)):
        style = (_PALE, "pale", 'stroke-width="1"') if arrow in pale else (_INK, "dark", 'stroke-width="1.6"')
        colour, head, line = style
        source, *bends, target = plan.arrows[arrow]
        start = (source[0] + _lean(source, (bends or [target])[0]), source[1] + _BOX[1] / 2)
        end = (target[0] + _lean(target, (bends or [source])[-1]), target[1] - _BOX[1] / 2 - 1)
        path = _curve([start, *bends, end])
        title = f"<title>{arrow[0]} uses {arrow[1]}</title>"
        yield f'<path d="{path}" fill="none" stroke="{colour}" {line} marker-end="url(#{head})">{title}</path>'


def _lean(box: tuple[float, float], other: tuple[float, float]) -> float:
    """How far from a box's middle an arrow meets it: towards where it comes from or goes to."""
    limit = _BOX[0] / 2 - 12
    return max(-limit, min(limit, (other[0] - box[0]) / 4))


def _curve(points: list[tuple[float, float]]) -> str:
    """A path that passes every point vertically."""
    (x, y), *others = points
    path = f"M{x:.0f} {y:.0f}"
    for to_x, to_y in others:
        bend = (to_y - y) / 2
        path += f"C{x:.0f} {y + bend:.0f} {to_x:.0f} {to_y - bend:.0f} {to_x:.0f} {to_y:.0f}"
        x, y = to_x, to_y
    return path


def _package(name: str, centre: tuple[float, float], used: set[str]) -> Iterator[str]:
    """A box with the package's name and a chip for each library that it uses."""
    x, y = centre[0] - _BOX[0] / 2, centre[1] - _BOX[1] / 2
    yield _rectangle(x, y, *_BOX, _FILL)
    yield _text(centre[0], centre[1] - 4, name, bold=True)
    chips = [library for library in LIBRARIES if library in used]
    sizes = [6.2 * len(library) + 10 for library in chips]
    left = centre[0] - (sum(sizes) + 4 * max(len(chips) - 1, 0)) / 2
    for library, size in zip(chips, sizes, strict=True):
        yield _rectangle(left, centre[1] + 4, size, 14, _COLOURS[library], rounded=7)
        yield _text(left + size / 2, centre[1] + 14.5, library, size=10, colour=_PAPER)
        left += size + 4


def _foundations(width: float, top: float) -> Iterator[str]:
    """What every package may use, below: the modules at the root of jobs, and the two libraries."""
    yield _text(width / 2, top - 12, "every package may use what is below", size=12)
    yield _rectangle(_MARGIN, top, width - 2 * _MARGIN, 40, _FILL)
    yield _text(width / 2, top + 25, "modules at the root of jobs", bold=True)
    half = (width - 3 * _MARGIN) / 2
    for number, library in enumerate(LIBRARIES):
        left = _MARGIN + number * (half + _MARGIN)
        yield _rectangle(left, top + 62, half, 40, _COLOURS[library])
        yield _text(left + half / 2, top + 87, library, bold=True, colour=_PAPER)


def _rectangle(x: float, y: float, width: float, height: float, fill: str, rounded: float = 6) -> str:
    box = f'x="{x:.0f}" y="{y:.0f}" width="{width:.0f}" height="{height:.0f}" rx="{rounded:.0f}"'
    return f'<rect {box} fill="{fill}" stroke="{_FRAME}"/>'


def _text(x: float, y: float, text: str, *, size: int = 14, bold: bool = False, colour: str = _INK) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x:.0f}" y="{y:.0f}" font-size="{size}" fill="{colour}"{weight}>{escape(text)}</text>'


def _page(parts: list[str], width: float, height: float) -> str:
    heads = "".join(_ARROW_HEAD.format(name=n, colour=c) for n, c in (("dark", _INK), ("pale", _PALE)))
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}"'
        ' font-family="DejaVu Sans, Verdana, sans-serif" text-anchor="middle">',
        f"<defs>{heads}</defs>",
        f'<rect width="100%" height="100%" fill="{_PAPER}"/>',
        *parts,
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def main(picture: Path = PICTURE) -> None:
    """Writes the picture."""
    picture.write_text(draw(package_arrows()), encoding="utf-8")


if __name__ == "__main__":
    main()
