"""The pages for users: links that lead somewhere, lines that fit, and a README that can be read in one sitting."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from jobs.shards import samples
from tests.support.documentation import PAGES, README, ROOT, anchors_of, blocks_of, links_of

LONGEST_LINE, MOST_WORDS = 120, 1800
PACKAGES = ("jobs", "cam", "promptsg_core")
SOURCES = "\n".join(path.read_text() for name in PACKAGES for path in (ROOT / name).rglob("*.py"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_within_the_project_leads_somewhere(page: Path) -> None:
    for link in links_of(page):
        if link.startswith(("https://", "http://")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name}: {link}"
        assert not anchor or anchor in anchors_of(target), f"{page.name}: {link}"


def test_the_readme_is_short() -> None:
    lines = README.read_text().splitlines()
    assert len(README.read_text().split()) <= MOST_WORDS
    too_long = [line for line in lines if len(line) > LONGEST_LINE and not re.fullmatch(r"\[[^]]+\]\(\S+\)", line)]
    assert not too_long


def test_every_page_is_linked_from_the_readme_or_from_a_page_that_is() -> None:
    seen, waiting = {README}, [README]
    while waiting:
        page = waiting.pop()
        for link in links_of(page):
            target = (page.parent / link.partition("#")[0]).resolve()
            if target.suffix == ".md" and target.exists() and target not in seen:
                seen.add(target)
                waiting.append(target)
    assert set(PAGES) <= seen, sorted(str(page) for page in set(PAGES) - seen)


def test_python_blocks_are_python() -> None:
    for page in PAGES:
        for block in blocks_of(page):
            if block.language == "python":
                compile(block.code, str(block), "exec")


def test_every_status_of_a_row_is_explained() -> None:
    """In the README and on the page about files: each word that a row's `status` may be."""
    words = {value for name, value in vars(samples).items() if name.isupper() and isinstance(value, str)}
    statuses = {word for word in words if re.fullmatch(r"[a-z_]+", word)}
    assert {"ok", "image_corrupt", "no_reference"} <= statuses and len(statuses) == 14
    for page in (README, ROOT / "jobs" / "runs" / "FORMAT.md"):
        named = set(re.findall(r"`([a-z_]+)`", page.read_text()))
        assert statuses <= named, sorted(statuses - named)


def messages() -> list[str]:
    """The messages that troubleshooting goes by: the first cell of each row below `| message |`."""
    text = (ROOT / "jobs" / "TROUBLESHOOTING.md").read_text()
    tables = re.findall(r"^\| message \|.*?\n\|[-|]+\n((?:\|.*\n)+)", text, flags=re.MULTILINE)
    return [row.split("|")[1].strip().strip("`") for table in tables for row in table.splitlines()]


@pytest.mark.parametrize("message", messages())
def test_troubleshooting_names_messages_that_the_program_has(message: str) -> None:
    """Each part between dots stands in the sources, where texts of several lines are joined."""
    joined = re.sub(r'"\s*\n\s*f?"', "", SOURCES)
    for part in message.split("..."):
        assert part.strip() in joined, part
