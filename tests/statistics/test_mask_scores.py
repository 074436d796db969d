"""Localisation numbers against hand computation and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest

from cam.placement import GridPlacement
from jobs.statistics.localisation.mask_scores import covered_share, mask_auc, mass_on, mass_ratio, pointing


def test_the_covered_part_of_each_patch() -> None:
    mask = np.zeros((4, 4), bool)
    mask[:2, :2] = True
    mask[2, 3] = True
    np.testing.assert_allclose(covered_share(mask, GridPlacement.even((2, 2))), [[1, 0], [0, 0.25]])
    odd = np.zeros((32, 16), bool)
    odd[5:20, 3:11] = True
    assert covered_share(odd, GridPlacement.even((9, 5))).mean() == pytest.approx(odd.mean(), abs=1e-6)
    # Patches of 4 pixels every 3 of 7: three of the first one's four columns are covered, none of the second's.
    half = np.zeros((4, 7), bool)
    half[:, :3] = True
    placed = GridPlacement.of_patches((4, 7), patch_size=4, stride=3)
    np.testing.assert_allclose(covered_share(half, placed), [[0.75, 0]])


def test_mass_and_pointing_by_hand() -> None:
    share = np.array([[[1, 0], [0, 0.5]]] * 3)
    maps = np.array([[[3, 1], [0, 0]], [[0, 0], [0, 2]], [[0, 0], [0, 0]]], np.float32)
    np.testing.assert_allclose(mass_ratio(maps, share), [0.75 / 0.375, 0.5 / 0.375, np.nan])
    np.testing.assert_allclose(pointing(maps, share), [1, 0, np.nan])
    np.testing.assert_allclose(pointing(maps[:1, :, ::-1], share[:1]), [0])
    assert mass_ratio(np.ones((1, 2, 2)), share[:1]) == pytest.approx([1])  # a uniform map is chance
    assert pointing(np.ones((1, 2, 2)), share[:1]) == pytest.approx([0.25])  # one patch of four is more than half on it
    assert np.isnan(pointing(maps[:1], share[:1] / 2))  # none is: there is nothing to point at
    np.testing.assert_allclose(mass_on(maps, share), [0.75, 0.5, np.nan])
    np.testing.assert_allclose(mass_on(maps[:1], np.concatenate([share[:1], 1 - share[:1]])), [0.75, 0.25])


def test_auc_is_scikit_learns() -> None:
    metrics = pytest.importorskip("sklearn.metrics", reason="needs scikit-learn")
    rng = np.random.default_rng(0)
    maps = rng.integers(0, 6, (5, 8, 4)).astype(np.float32)  # with ties
    share = rng.random((5, 8, 4)).round(1)
    for one, part, found in zip(maps, share, mask_auc(maps, share), strict=True):
        assert found == pytest.approx(metrics.roc_auc_score(part.ravel() > 0.5, one.ravel()))
    one_for_all = [metrics.roc_auc_score(part.ravel() > 0.5, maps[0].ravel()) for part in share]
    np.testing.assert_allclose(mask_auc(maps[:1], share), one_for_all)
    assert np.isnan(mask_auc(maps, np.ones_like(share))).all()
    assert np.isnan(mask_auc(np.zeros((1, 2, 2)), np.ones((1, 2, 2)) / 2)).all()
