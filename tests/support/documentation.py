"""Reads the pages for users: their blocks of code, and the files that they link to."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
# What the README links to, beside what is only for contributors.
PAGES = (
    README,
    ROOT / "cam" / "MAPS.md",
    ROOT / "promptsg_core" / "CHECKPOINTS.md",
    ROOT / "jobs" / "runs" / "FORMAT.md",
    ROOT / "jobs" / "commands" / "GUIDE.md",
    ROOT / "jobs" / "TROUBLESHOOTING.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    ROOT / "slurm" / "README.md",
    ROOT / "configs" / "demo" / "README.md",
    ROOT / "tests" / "bench" / "README.md",
)


@dataclass(frozen=True)
class Block:
    """A block of code on a page, from its `line` on; `language` is bash, python, or what else is behind the ticks."""

    page: Path
    line: int
    language: str
    code: str

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


def blocks_of(page: Path) -> Iterator[Block]:
    """The blocks between ``` lines, in their order."""
    language, start, inside = "", 0, list[str]()
    open_ = False
    for number, line in enumerate(page.read_text().splitlines(), start=1):
        if not line.startswith("```"):
            inside.append(line)
        elif open_:
            yield Block(page, start, language, "\n".join(inside) + "\n")
            open_ = False
        else:
            language, start, inside, open_ = line.removeprefix("```").strip(), number + 1, [], True


def links_of(page: Path) -> list[str]:
    """The targets of all links and pictures of a page."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    return re.findall(r"\]\(([^)\s]+)\)", text)


def anchors_of(page: Path) -> set[str]:
    """The names by which headings are linked to, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}
