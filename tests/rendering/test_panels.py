"""Borders, margins, text and legends against hand computation."""

from __future__ import annotations

import numpy as np

from cam.overlay import apply_colormap
from jobs.rendering.panels import bordered, legend, padded, text_block


def test_borders_and_margins_lie_outside_of_the_picture() -> None:
    black = np.zeros((4, 3, 3), np.uint8)
    framed = bordered(black, (1, 2, 3), thickness=2)
    assert framed.shape == (8, 7, 3) and (framed[0] == (1, 2, 3)).all() and (framed[2:-2, 2:-2] == 0).all()
    wide = padded(black, margin=5)
    assert wide.shape == (14, 13, 3) and (wide[5:-5, 5:-5] == 0).all() and wide.sum() == 255 * 3 * (14 * 13 - 4 * 3)


def test_a_legend_runs_from_high_to_low_and_says_both_ends() -> None:
    bar = legend((0, 1), 100, colormap="jet")
    assert bar.shape[0] == 100
    colours = apply_colormap(np.linspace(1, 0, 100, dtype=np.float32)[:, None], "jet")
    np.testing.assert_array_equal(bar[:, :14], np.repeat(colours, 14, axis=1))
    assert bar[0, 5, 0] > 100 and bar[-1, 5, 2] > 100  # red on top, blue below
    texts = bar[:, 20:]
    assert (texts[:17] < 100).any() and (texts[-17:] < 100).any() and (texts[20:80] == 255).all()
    assert legend((0, 123456), 100).shape[1] > bar.shape[1]  # wide enough for its numbers


def test_text_alone_is_as_wide_as_it_was_told() -> None:
    block = text_block(["a line that does not fit in one", "another"], 120)
    assert block.shape[1] == 120 and block.shape[0] > 3 * 17 and (block < 100).any()
    assert (block[:, -2:] == 255).all()
