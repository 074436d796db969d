"""The picture of the packages is the one that their imports give, and how it is laid out."""

from __future__ import annotations

import itertools
import xml.etree.ElementTree as ET

import pytest

from tests.support.draw_packages import PICTURE, draw, package_arrows
from tests.support.layers import Spacing, heights_of, implied, plan_of
from tests.support.packages import DOOR, LIBRARIES, ROOT

# Of four layers; `top` reaches `floor` over two bends.
USES = {"top": {"left", "right", "floor"}, "left": {"base"}, "right": {"base"}, "base": {"floor"}, "floor": set[str]()}
SPACING = Spacing(box=100, bend=20, layer=50)


def test_the_committed_picture_is_what_the_imports_give() -> None:
    drawn = draw(package_arrows())
    assert PICTURE.read_text(encoding="utf-8") == drawn, "draw it again: python -m tests.support.draw_packages"


def test_every_arrow_is_drawn_and_told_by_its_ends() -> None:
    uses = {"a": {"b", ROOT, "cam"}, "b": set[str](), "commands": {"a", "b"}, DOOR: {"a"}, ROOT: {"cam"}}
    page = ET.fromstring(draw({**uses, **{library: set() for library in LIBRARIES}}))
    texts = [element.text for element in page.iter() if element.text]
    assert [text for text in texts if " uses " in text] == ["a uses b"]
    assert "uses every package below" in texts and "uses a" in texts  # of the commands, and of the door
    assert texts.count("cam") == 2 and texts.count("promptsg_core") == 1  # the libraries, and the chip of a


def test_layers_by_hand() -> None:
    assert heights_of(USES) == {"top": 3, "left": 2, "right": 2, "base": 1, "floor": 0}
    assert implied(USES) == {("top", "floor")}
    plan = plan_of(USES, SPACING)
    assert {name: y for name, (_, y) in plan.boxes.items()} == {
        "top": 0, "left": 50, "right": 50, "base": 100, "floor": 150,
    }  # fmt: skip
    assert [y for _, y in plan.arrows["top", "floor"]] == [0, 50, 100, 150]
    assert set(plan.arrows) == {(a, b) for a, used in USES.items() for b in used}


def test_boxes_and_bends_keep_their_distance() -> None:
    plan = plan_of(USES, SPACING)
    bends = {point for way in plan.arrows.values() for point in way[1:-1]}
    items = [(x, y, 100) for x, y in plan.boxes.values()] + [(x, y, 20) for x, y in bends]
    for (x, y, size), (other_x, other_y, other_size) in itertools.combinations(items, 2):
        assert y != other_y or abs(x - other_x) >= (size + other_size) / 2 - 1e-6
    assert all(size / 2 <= x <= 220 - size / 2 for x, _, size in items)  # the widest layer: two boxes and a bend


def test_arrows_that_need_not_cross_do_not() -> None:
    plan = plan_of({"a": {"z"}, "b": {"y"}, "c": {"x"}, "x": set(), "y": set(), "z": set()}, SPACING)
    upper = sorted("abc", key=lambda name: plan.boxes[name])
    lower = sorted("xyz", key=lambda name: plan.boxes[name])
    assert [{"a": "z", "b": "y", "c": "x"}[name] for name in upper] == lower


def test_a_cycle_has_no_picture() -> None:
    uses = {"a": {"b"}, "b": {"a"}, "commands": set[str](), DOOR: set[str](), ROOT: set[str]()}
    with pytest.raises(ValueError, match="a -> b -> a"):
        draw({**uses, **{library: set() for library in LIBRARIES}})
