"""Pictures against hand computation: colours, alignment, scaling, de-normalisation, panels."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cam.errors import CamError
from cam.overlay import apply_colormap, denormalize_image, heatmap, overlay_heatmap, range_of, resize_map, scale_map
from cam.panels import captioned, column, row


def test_red_is_high_and_blue_is_low() -> None:
    low, high = apply_colormap(np.array([[0.0, 1.0]], np.float32), "jet")[0].astype(int)
    assert low[2] > 100 > low[0] + low[1] and high[0] > 100 > high[1] + high[2]


def test_an_overlay_is_the_weighted_sum() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (12, 6, 3), dtype=np.uint8)
    values = rng.random((12, 6), dtype=np.float32)
    colours = apply_colormap(scale_map(values)).astype(float)
    found = overlay_heatmap(image, values, alpha=0.3).astype(float)
    assert np.abs(found - (0.3 * colours + 0.7 * image)).max() <= 0.5 + 1e-6
    np.testing.assert_array_equal(overlay_heatmap(image, values, alpha=0), image)


@pytest.mark.parametrize(("grid", "size"), [((16, 8), (256, 128)), ((21, 10), (256, 128)), ((18, 9), (144, 72))])
def test_a_patch_lights_up_where_it_lies(grid: tuple[int, int], size: tuple[int, int]) -> None:
    """The brightest pixel of each single hot patch is within its share of the picture, centred to a pixel."""
    for y in range(grid[0]):
        x = (3 * y) % grid[1]
        values = np.zeros(grid, np.float32)
        values[y, x] = 1
        big = resize_map(values, size)
        rows, columns = np.indices(size) + 0.5
        cell = size[0] / grid[0], size[1] / grid[1]
        if 0 < y < grid[0] - 1 and 0 < x < grid[1] - 1:  # at a border the blob is cut off
            assert (big * rows).sum() / big.sum() == pytest.approx((y + 0.5) * cell[0], abs=0.05)
            assert (big * columns).sum() / big.sum() == pytest.approx((x + 0.5) * cell[1], abs=0.05)
        top, left = np.unravel_index(big.argmax(), size)
        assert y * cell[0] - 1 <= top <= (y + 1) * cell[0] and x * cell[1] - 1 <= left <= (x + 1) * cell[1]


def test_nearest_keeps_patches_apart() -> None:
    values = np.arange(8, dtype=np.float32).reshape(4, 2) / 7
    np.testing.assert_array_equal(resize_map(values, (8, 4), "nearest"), values.repeat(2, 0).repeat(2, 1))


def test_scales() -> None:
    maps = np.stack([np.full((2, 2), 3.0), np.array([[0, 1], [2, 9]])]).astype(np.float32)
    assert range_of(maps, "image") is None and range_of(maps, "shared") == (0, 9)
    low, high = range_of(maps, "percentile") or (0, 0)
    assert 0 < low < high < 9
    maps[0, 0, 0] = np.nan  # a row without this map
    assert range_of(maps, "shared") == (0, 9)
    np.testing.assert_array_equal(scale_map(maps[1]), maps[1] / 9)
    np.testing.assert_array_equal(scale_map(np.full((2, 2), 5, np.float32)), np.zeros((2, 2)))
    np.testing.assert_array_equal(scale_map(maps[1], (1, 2)), [[0, 0], [1, 1]])


def test_denormalising_undoes_the_models_own_normalisation() -> None:
    pixels = torch.randint(0, 256, (2, 3, 5, 4), dtype=torch.uint8)
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)
    centre, spread = torch.tensor(mean).view(3, 1, 1), torch.tensor(std).view(3, 1, 1)
    normal = (pixels / 255 - centre) / spread
    np.testing.assert_array_equal(denormalize_image(normal, mean, std), pixels.permute(0, 2, 3, 1).numpy())
    np.testing.assert_array_equal(denormalize_image(normal[0].numpy(), mean, std), pixels[0].permute(1, 2, 0).numpy())


def test_unknown_names_are_refused_with_the_nearest() -> None:
    with pytest.raises(CamError, match="did you mean viridis"):
        heatmap(np.ones((2, 2), np.float32), (4, 4), colormap="virids")
    with pytest.raises(CamError, match="bilinear, nearest, bicubic"):
        resize_map(np.ones((2, 2), np.float32), (4, 4), "cubic")
    with pytest.raises(CamError, match="image, shared, percentile"):
        range_of(np.ones((1, 2, 2), np.float32), "all")


def test_text_never_runs_out_of_its_picture() -> None:
    """A caption is as wide as its picture, and its last columns stay white: nothing was cut off there."""
    picture = np.zeros((10, 120, 3), np.uint8)
    text = ["a caption that is much too long for so narrow a picture", "x" * 200, "größe 漢字 ok"]
    found = captioned(picture, text)
    assert found.shape[1] == 120 and found.shape[0] > 10 + 4 * 17
    assert (found[10:, -2:] == 255).all() and (found[10:] < 100).any()


def test_rows_and_columns() -> None:
    a, b = np.zeros((4, 3, 3), np.uint8), np.full((2, 5, 3), 9, np.uint8)
    side = row([a, b], gap=2)
    assert side.shape == (4, 10, 3) and (side[:2, 5:] == 9).all() and (side[2:, 5:] == 255).all()
    assert (side[:, 3:5] == 255).all()
    below = column([a, b], gap=1)
    assert below.shape == (7, 5, 3) and (below[5:, :] == 9).all() and (below[:4, 3:] == 255).all()


def test_a_fading_overlay_shows_the_image_where_the_map_is_low() -> None:
    image = np.full((2, 2, 3), 100, np.uint8)
    map = np.array([[0, 1], [0.5, 1]], np.float32)
    over = overlay_heatmap(image, map, alpha=0.8, fade=True, upsample="nearest")
    colours = heatmap(map, (2, 2), upsample="nearest").astype(np.float64)
    assert (over[0, 0] == 100).all()
    assert np.abs(over[0, 1] - (0.8 * colours[0, 1] + 20)).max() <= 0.5
    assert np.abs(over[1, 0] - (0.4 * colours[1, 0] + 60)).max() <= 0.5
