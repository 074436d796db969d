"""Pictures of two runs: `render --style diff` and `gallery --other`, against colours computed here."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner

from cam.overlay import overlay_heatmap
from cam.placement import GridPlacement
from jobs.commands.render import command
from jobs.errors import UserError
from jobs.rendering.drawing.difference import draw_diff
from jobs.rendering.drawing.entry import Entry, ImageRow
from jobs.rendering.drawing.style import DIFF, OtherRun, PictureStyle
from jobs.rendering.plan import RenderPlan
from jobs.rendering.render_config import RenderConfig
from jobs.rendering.requests import digest_of
from jobs.runs.run import Run
from tests.rendering.test_gallery import MAPS, mined, page_of, peak, picture, write

ROW: ImageRow = {
    "shard": "s", "key": "k", "tar_index": 0, "h5_row": 0, "pid": 1, "camid": 2, "split": None, "width": 32,
    "height": 64, "image_offset": 0, "image_size": 1,
}  # fmt: skip
NAME = "mim_attention"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Run]:
    """Two runs over 12 images, of which the first map of B is that of the third image after; one key differs."""
    folder = tmp_path_factory.mktemp("two")
    return mined(folder / "a", 12, 6), mined(folder / "b", 12, 6, keys={8: "elsewhere"}, shift=3)


def drawn(a: np.ndarray, b: np.ndarray, other: GridPlacement | None = None) -> tuple[np.ndarray, np.ndarray]:
    """The picture of two maps over a grey image of 64x32 pixels, and that image."""
    image = np.full((64, 32, 3), 120, np.uint8)
    style = PictureStyle(kind=DIFF, maps=(NAME,), other=OtherRun(root=Path(), fingerprint="", placement=other))
    return draw_diff(Entry(row=ROW, image=image, maps={NAME: a}, others={NAME: b}), style), image


def holds(picture: np.ndarray, part: np.ndarray) -> bool:
    """Whether a picture has this part somewhere, but for rounding."""
    found = cv2.matchTemplate(picture, part.astype(np.uint8), cv2.TM_SQDIFF)
    return bool(found.min() < 0.2 * part.size)


def test_both_maps_have_one_scale_and_the_difference_is_centred_on_0() -> None:
    rng = np.random.default_rng(0)
    a, b = (rng.random((8, 4)).astype(np.float32) * size for size in (1, 50))  # B's raw values are larger
    shares = [map / map.sum() for map in (a, b)]
    limits = 0.0, float(max(share.max() for share in shares))
    found, image = drawn(a, b)
    for share in shares:
        assert holds(found, overlay_heatmap(image, share, limits=limits, alpha=0.8, fade=True))
    a = b = np.full((8, 4), 2, np.float32)
    found, image = drawn(a, b)
    same = np.rint(0.65 * 247 + 0.35 * 120)
    assert holds(found, np.full((64, 32, 3), same))


def test_a_patch_that_gains_is_red_and_one_that_loses_is_blue() -> None:
    a, b = np.ones((2, 1, 1), np.float32) * np.zeros((2, 8, 4), np.float32)
    a[0, 0], b[7, 3] = 1, 1
    found, _ = drawn(a, b)
    pure = {colour: np.rint(0.65 * np.array(colour) + 0.35 * 120) for colour in ((33, 102, 172), (178, 24, 43))}
    left_top = {colour: np.argwhere((np.abs(found - wanted) < 1.5).all(2)) for colour, wanted in pure.items()}
    blue, red = left_top.values()
    assert len(blue) and len(red) and blue[:, 0].max() < red[:, 0].min() and blue[:, 1].max() < red[:, 1].min()


def test_another_grid_is_laid_on_the_same_cells() -> None:
    fine = np.random.default_rng(1).random((16, 8)).astype(np.float32)
    coarse = fine.reshape(8, 2, 4, 2).sum((1, 3))
    found, image = drawn(coarse, fine)
    share = coarse / coarse.sum()
    assert holds(found, overlay_heatmap(image, share, limits=(0.0, float(share.max())), alpha=0.8, fade=True))
    assert holds(found, np.full((64, 32, 3), np.rint(0.65 * 247 + 0.35 * 120)))  # nothing changed


def test_a_map_without_mass_or_without_numbers_has_no_difference() -> None:
    found, _ = drawn(np.ones((8, 4), np.float32), np.zeros((8, 4), np.float32))
    grey = np.full((64, 32, 3), 235)
    assert holds(found, grey)


def test_the_command_draws_images_of_both_runs_and_names_the_others(runs: tuple[Run, Run], tmp_path: Path) -> None:
    a, b = (str(run.layout.root) for run in runs)
    words = [a, "--style", "diff", "--other", b, "--output", str(tmp_path)]
    result = CliRunner().invoke(command, words)
    assert result.exit_code == 0, result.output
    names = {f"{n:06d}__diff.png" for n in range(12) if n not in (3, 4, 8)}
    assert {path.name for path in tmp_path.glob("*.png")} == names
    assert f"left out, no maps of it in {b}: 1 (000008)" in result.output


def test_pictures_with_another_run_are_another_request() -> None:
    planned = RenderPlan(pa.table({"key": ["k"]}), [], [])
    others = [None, OtherRun(root=Path(), fingerprint="b"), OtherRun(root=Path(), fingerprint="c")]
    digests = [digest_of("a", PictureStyle(kind=DIFF, maps=(NAME,), other=other), planned) for other in others]
    assert len(set(digests)) == 3


def test_settings_that_cannot_be_are_refused(runs: tuple[Run, Run], tmp_path: Path) -> None:
    a, b = (run.layout.root for run in runs)
    with pytest.raises(UserError, match="--style diff needs --other"):
        RenderConfig(run=a, style="diff")
    with pytest.raises(UserError, match="no other style takes one"):
        RenderConfig(run=a, other=b)
    with pytest.raises(UserError, match="has no map 'rollout'"):
        RenderConfig(run=a, other=b, style="diff", maps=("rollout",)).picture_style(runs[0])


def test_the_gallery_has_the_pictures_and_numbers_of_both_runs(runs: tuple[Run, Run], tmp_path: Path) -> None:
    a, b = runs
    report = write(a, tmp_path / "out", other=b.layout.root)
    assert report.images == 8 and report.left_out["not_in_run_b"] == 1  # 3 and 4 are corrupt, 7 has no label
    page = page_of(tmp_path / "out")
    assert page["other"] == b.layout.root.name and [one["b"]["column"] for one in page["maps"]] == [
        "mim_attention__b", "gradcampp_mim__b",
    ]  # fmt: skip
    assert page["maps"][0]["b"]["grid"] == [8, 4] and [one["name"] for one in page["maps"]] == list(MAPS)
    for row, key in enumerate(page["rows"]["key"]):
        n = int(key)
        assert page["rows"]["mim_attention_max"][row] == n + 1
        assert page["rows"]["mim_attention__b_max"][row] == n + 4
        image = picture(tmp_path / "out", row, "original")
        want = overlay_heatmap(image, peak(n + 3), colormap="bone", alpha=0.8, fade=True)
        found = picture(tmp_path / "out", row, "mim_attention__b")
        assert np.abs(found.astype(int) - want).mean() < 4  # JPEG
