"""The API reference: it builds from the docstrings, all that users import is in it, and every link leads somewhere."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.api_reference import problems_of
from tests.support.imports import REPOSITORY

PAGE = '<html><body><h1 id="a b">A</h1>{}</body></html>'


def written(folder: Path, **pages: str) -> Path:
    """A folder with these pages, by name without .html."""
    for name, body in pages.items():
        (folder / f"{name}.html").write_text(PAGE.format(body))
    return folder


def on(page: str, problems: list[str]) -> list[str]:
    """What is said of one page, without its path."""
    return [line.partition(": ")[2] for line in problems if line.partition(": ")[0].endswith(page)]


def test_links_that_lead_nowhere_are_found(tmp_path: Path) -> None:
    links = (
        "#a%20b",
        "#c",
        "two.html",
        "two.html#a%20b",
        "two.html#d",
        "no.html",
        "https://example.org/#x",
        "three.css",
    )
    (tmp_path / "three.css").write_text("")
    folder = written(tmp_path, one="".join(f'<a href="{link}">to</a>' for link in links), two='<img src="no.png">')
    problems = problems_of(folder)
    assert on("one.html", problems) == [f"{link} leads nowhere" for link in ("#c", "two.html#d", "no.html")]
    assert on("two.html", problems) == ["no.png leads nowhere"]


def test_names_that_a_page_lacks_and_accidental_emphasis_are_found(tmp_path: Path) -> None:
    problems = problems_of(written(tmp_path, jobs='<p>(3, <em>size) to (4, </em>size)</p><p id="open_run"></p>'))
    lines = on("jobs.html", problems)
    assert lines[0] == "'size) to (4, ' stood between two *; write `code`"
    assert "jobs.mine is not on the page" in lines and "jobs.open_run is not on the page" not in lines
    assert "cam.GradCAM is not on the page" in on("cam.html", problems)


@pytest.mark.slow  # `.ci/run` builds it
def test_the_reference_builds_without_a_problem(tmp_path: Path) -> None:
    pytest.importorskip("pdoc", reason="needs pdoc: pip install '.[dev]'")
    command = [sys.executable, "-m", "tests.support.api_reference", str(tmp_path / "api")]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.endswith("0 problems\n"), done.stderr
    page = (tmp_path / "api" / "jobs.html").read_text()
    assert "Opens a run for reading." in page  # a function that is handed out on first use
    assert '<a href="#Run">Run</a>' in page  # types in signatures lead to their places
    calls = (tmp_path / "api" / "cam" / "classes.html").read_text()
    assert 'id="CamOnLayers.__call__"' in calls  # what a user calls has a page, though its name begins with __
