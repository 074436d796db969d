"""What CONTRIBUTING.md says is so: the packages, and where to add what."""

from __future__ import annotations

import re

import pytest

from tests.support.imports import REPOSITORY, modules_below
from tests.support.packages import PACKAGES

TEXT = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")
WALK = TEXT[TEXT.index("## Where do I add") : TEXT.index("## Setting up")]
# A row of the walk: a linked file, and the names in it that matter.
ROWS = re.findall(r"^\| \[([^]]+)\]\(([^)]+)\) \| (.*) \|$", WALK, re.MULTILINE)


def test_every_package_has_its_line() -> None:
    packages = TEXT[TEXT.index("## The packages") : TEXT.index("## Where do I add")]
    assert sorted(re.findall(r"^\| `(\w+)` \|", packages, re.MULTILINE)) == sorted(PACKAGES)


def test_every_answer_is_one_or_two_files() -> None:
    answers = WALK.split("\n| … ")[1:]
    assert [answer.partition(" |")[0] for answer in answers] == [
        "a map method",
        "a dataset layout",
        "a style of pictures",
        "a command",
        "a model family",
    ]
    files = [len(re.findall(r"^\| (\[|`jobs/)", answer, re.MULTILINE)) for answer in answers]
    assert set(files) <= {1, 2}


@pytest.mark.parametrize(("name", "link", "told"), ROWS, ids=[name for name, *_ in ROWS])
def test_the_files_and_the_names_in_them_are_there(name: str, link: str, told: str) -> None:
    assert name == link
    code = (REPOSITORY / link).read_text(encoding="utf-8")
    for word in re.findall(r"`(\w+)`", told):
        assert re.search(rf"^(def |class )?{word}\b", code, re.MULTILINE), word


def test_links_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", TEXT)
    assert [link for link in links if "://" not in link and not (REPOSITORY / link).exists()] == []


def test_paths_and_names_in_the_text_are_there() -> None:
    named = re.findall(r"`((?:jobs|cam|promptsg_core|tests)(?:/[\w.]+)+)`", TEXT)
    assert len(named) > 5
    assert [path for path in named if not (REPOSITORY / path).exists()] == []
    everything = "\n".join(path.read_text(encoding="utf-8") for path in modules_below().values())
    for name in ("RELEVANCE_METHODS", "TappedModel"):
        assert name in WALK and re.search(rf"^(class )?{name}\b", everything, re.MULTILINE), name
