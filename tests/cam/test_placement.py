"""Where overlapping patches lie: centres and maps against hand computation, weights against OpenCV's."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from cam.errors import CamError
from cam.measures import measure_maps
from cam.overlay import UPSAMPLE, overlay_heatmap, resize_map
from cam.placement import AxisPlacement, GridPlacement, placement_of
from promptsg_core.families.promptsg.config import ModelConfig

STRIDE_12 = GridPlacement.of_patches((256, 128), patch_size=16, stride=12)


def one_hot(grid: tuple[int, int], patch: tuple[int, int]) -> np.ndarray:
    values = np.zeros(grid, np.float32)
    values[patch] = 1
    return values


def test_centres_by_hand() -> None:
    """Patches of 16 pixels every 12: the last of 10 columns covers pixels 108 to 124 of 128."""
    assert STRIDE_12.grid == (21, 10) and not STRIDE_12.is_even
    assert (STRIDE_12.columns.centres * 128).tolist() == [8, 20, 32, 44, 56, 68, 80, 92, 104, 116]
    assert (STRIDE_12.rows.centres[[0, -1]] * 256).tolist() == [8, 248]
    begin, end = STRIDE_12.columns.ends
    assert (begin[-1] * 128, end[-1] * 128) == (108, 124)
    assert placement_of(ModelConfig(stride=12)) == STRIDE_12 and placement_of(object()) is None


@pytest.mark.parametrize(
    ("size", "patch", "stride", "even"),
    [((256, 128), 16, 16, True), ((16, 16), 16, 5, True), ((256, 128), 16, 12, False), ((40, 40), 16, 16, False)],
)
def test_what_is_even(size: tuple[int, int], patch: int, stride: int, even: bool) -> None:
    """Equal cells are patches that fill the image without overlap. A rim that no patch covers makes them uneven."""
    placed = GridPlacement.of_patches(size, patch, stride)
    same = np.allclose(placed.columns.centres, AxisPlacement.even(placed.columns.count).centres)
    assert placed.is_even is even and same is even


@pytest.mark.parametrize("patch", [(20, 9), (0, 0), (10, 9), (7, 4)])
def test_the_centre_of_mass_of_one_patch_is_its_centre(patch: tuple[int, int]) -> None:
    found = measure_maps(one_hot((21, 10), patch)[None], STRIDE_12)
    assert found["com_x"] * 128 == pytest.approx(8 + 12 * patch[1])
    assert found["com_y"] * 256 == pytest.approx(8 + 12 * patch[0])


def test_stripes_of_overlapping_patches() -> None:
    """A stripe is 256 / 6 = 42.667 pixels. The row of pixels 36 to 52 has 6.667 of its 16 pixels in the first one."""
    found = measure_maps(one_hot((21, 10), (3, 0))[None], STRIDE_12)
    assert [found[f"stripe_{i}"].item() for i in range(6)] == pytest.approx([20 / 48, 28 / 48, 0, 0, 0, 0])
    np.testing.assert_allclose(STRIDE_12.rows.covered(np.arange(7) / 6).sum(axis=1), 1)


@pytest.mark.parametrize("upsample", list(UPSAMPLE))
@pytest.mark.parametrize("size", [(256, 128), (300, 75), (512, 256)])
def test_a_hot_patch_is_drawn_at_its_true_pixels(upsample: str, size: tuple[int, int]) -> None:
    """The last column's centre is at 116 of 128; in equal cells it would be drawn at 121.6. Also in colours."""
    for y, x in ((10, 9), (3, 0), (12, 5)):
        drawn = resize_map(one_hot((21, 10), (y, x)), size, upsample, STRIDE_12)
        top = np.argwhere(drawn >= drawn.max() - 1e-6) + 0.5
        if 0 < x < 9:  # at the rim the value goes on to the border, which moves the middle of what is drawn
            assert top[:, 1].mean() / size[1] * 128 == pytest.approx(8 + 12 * x, abs=1)
        assert top[:, 0].mean() / size[0] * 256 == pytest.approx(8 + 12 * y, abs=1)
        # Half of the value is left half-way to the next centre; with cubic curves a pixel beyond.
        inner = drawn[int((8 + 12 * y) / 256 * size[0])] >= 0.5 * drawn.max()
        edge = 128 * (np.flatnonzero(np.diff(inner.astype(int))) + 1) / size[1]
        wanted = {9: [110], 0: [14], 5: [62, 74]}[x]
        np.testing.assert_allclose(edge, wanted, atol=1.5 if upsample == "bicubic" else 128 / size[1])
    image = np.zeros((256, 128, 3), np.uint8)
    drawn = overlay_heatmap(image, one_hot((21, 10), (10, 9)), alpha=1, colormap="bone", placement=STRIDE_12)
    light = drawn[128, :, 0].astype(int)
    assert (light[116:] == light[116]).all() and (light[:115] < light[116]).all()  # the centre lies between 115 and 116


@pytest.mark.parametrize("upsample", list(UPSAMPLE))
@pytest.mark.parametrize(("count", "pixels"), [(8, 128), (10, 64), (9, 72), (5, 3), (1, 7)])
def test_weights_of_equal_cells_are_opencvs(upsample: str, count: int, pixels: int) -> None:
    values = np.random.default_rng(0).random((1, count), dtype=np.float32)
    wanted = cv2.resize(values, (pixels, 1), interpolation=UPSAMPLE[upsample])
    weights = AxisPlacement.even(count).weights(pixels, upsample)
    np.testing.assert_allclose(values @ weights.T, wanted, atol=2e-6)
    np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-6)


def test_where_cells_are_equal_nothing_changes() -> None:
    placed = GridPlacement.of_patches((256, 128), patch_size=16, stride=16)
    values = np.random.default_rng(1).random((3, 16, 8), dtype=np.float32)
    for upsample in UPSAMPLE:
        np.testing.assert_array_equal(
            resize_map(values[0], (201, 99), upsample, placed), resize_map(values[0], (201, 99), upsample)
        )
    for name, found in measure_maps(values, placed).items():
        np.testing.assert_array_equal(found, measure_maps(values)[name], err_msg=name)


def test_a_map_of_another_grid_is_refused() -> None:
    with pytest.raises(CamError, match="a map of 16x8 does not lie on 21x10 patches"):
        resize_map(np.ones((16, 8), np.float32), (64, 32), placement=STRIDE_12)
    with pytest.raises(CamError, match="16x8"):
        measure_maps(np.ones((1, 16, 8), np.float32), STRIDE_12)
    with pytest.raises(CamError, match="patches of 16 pixels, every 12, do not fit 8 pixels"):
        GridPlacement.of_patches((8, 8), 16, 12)


def test_the_models_convolution_has_these_patches() -> None:
    """A bright column of pixels is seen by exactly the patches whose extent holds it."""
    patches = torch.nn.functional.unfold(torch.arange(128.0).expand(1, 1, 256, 128), 16, stride=12)
    means = patches.mean(dim=1).reshape(21, 10)[0] + 0.5  # the middle of each patch, in pixels from the left
    np.testing.assert_allclose(means, STRIDE_12.columns.centres * 128, rtol=1e-6)
