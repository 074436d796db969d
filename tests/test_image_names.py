"""Which names are images, and which were left by a desktop system."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.image_names import is_hidden_clutter, is_image


@pytest.mark.parametrize(
    "name",
    ["a.jpg", "A.JPG", "a.jpg.jpg", "a_0.93.jpg", "a.tif", "a.TIFF", "a.jfif", "a.jpe", "a.gif", "a.avif", "d/a.png"],
)
def test_the_last_suffix_makes_an_image(name: str) -> None:
    assert is_image(Path(name)) and not is_hidden_clutter(name)


@pytest.mark.parametrize("name", ["a.txt", "a.jpg.txt", "a", ".jpg", "a.heic", ""])
def test_any_other_file_is_no_image(name: str) -> None:
    assert not is_image(Path(name)) and not is_hidden_clutter(name)


@pytest.mark.parametrize(
    "name",
    ["._a.jpg", "d/._a.jpg", "__MACOSX/d/a.jpg", "d/__MACOSX/._a.jpg", "Thumbs.db", "d/thumbs.db", ".DS_Store",
     "d/.DS_Store", "desktop.ini"],
)  # fmt: skip
def test_what_desktop_systems_leave_is_never_an_image(name: str) -> None:
    assert is_hidden_clutter(name) and is_hidden_clutter(Path(name)) and not is_image(Path(name))
