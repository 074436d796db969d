"""One wording for an image in pictures, their index and ranked lists."""

from __future__ import annotations

import re
from pathlib import Path

from jobs.rendering.drawing.captions import ap_text, who_text

ROOT = Path(__file__).parents[2]


def test_who_an_image_shows_and_how_well_it_was_ranked() -> None:
    assert who_text(12, 3) == "pid 12 · cam 3 (c4)" and who_text(None, None, between="  ") == "pid ?  cam ?"
    assert who_text(0, 0) == "pid 0 · cam 0 (c1)"
    assert ap_text(0.31249) == "AP 0.312" and ap_text(0.0) == "AP 0.000" and ap_text(None) == ""


def test_the_words_stand_in_one_place() -> None:
    """So that a change of the wording reaches every picture and every page."""
    wording = re.compile(r"cam \{camera_text\(.*pid|pid \{.*cam |AP \{")
    found = {path.name for path in (ROOT / "jobs/rendering").rglob("*.py") if wording.search(path.read_text("utf-8"))}
    assert found == {"captions.py"}
    assert not wording.search((ROOT / "jobs/rendering/index/captions.py").read_text("utf-8"))
