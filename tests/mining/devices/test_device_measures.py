"""The measures in torch are those of numpy, of maps of every kind."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cam.errors import CamError
from cam.measures import MEASURES, measure_maps
from cam.placement import AxisPlacement, GridPlacement
from jobs.arrays import Float32Array
from jobs.mining.devices.device_measures import DeviceMeasures

GRID = (16, 8)
KINDS = ("positive", "relu", "signed", "one peak", "all equal", "two halves", "zero", "negative", "tiny", "NaN", "inf")
OVERLAPPING = GridPlacement(
    rows=AxisPlacement(size=256, patch=16, stride=16), columns=AxisPlacement(size=100, patch=16, stride=12)
)


def maps_of(kind: str, count: int = 40) -> Float32Array:
    """(count, 16, 8) float32."""
    random = np.random.default_rng(KINDS.index(kind))
    maps = random.random((count, *GRID), np.float32)
    if kind == "relu":
        maps = np.maximum(maps - 0.8, 0)
    elif kind == "signed":
        maps -= 0.5
    elif kind in ("one peak", "zero"):
        maps[:] = 0
        maps[:, 3, 5] = kind == "one peak"
    elif kind == "all equal":
        maps[:] = 0.25
    elif kind == "two halves":
        maps[:] = 0
        maps[:, 0, 0] = maps[:, 15, 7] = 0.5
    elif kind == "negative":
        maps = -maps
    elif kind == "tiny":
        maps *= np.float32(1e-37)
    elif kind in ("NaN", "inf"):
        maps[::2, 4, 4] = np.nan if kind == "NaN" else np.inf
        maps[1] = np.nan
    return maps


@pytest.mark.parametrize("placement", [None, OVERLAPPING], ids=["even", "overlapping"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_measure_is_that_of_numpy(kind: str, placement: GridPlacement | None) -> None:
    maps = maps_of(kind)
    with np.errstate(invalid="ignore"):
        wanted = measure_maps(maps, placement)
    (found,) = DeviceMeasures(GRID, placement)(torch.from_numpy(maps)[None]).numpy()
    assert found.dtype == np.float32 and found.shape == (len(MEASURES), len(maps))
    for measure, values in zip(MEASURES, found, strict=True):
        np.testing.assert_allclose(values, wanted[measure], rtol=1e-6, atol=1e-7, err_msg=measure)


def test_most_are_equal_to_the_last_bit() -> None:
    """Both sum in float64, so that the order of the terms is seldom seen in float32."""
    maps = maps_of("relu", 500)
    wanted = measure_maps(maps)
    (found,) = DeviceMeasures(GRID)(torch.from_numpy(maps)[None]).numpy()
    equal = {
        measure: float((values == wanted[measure]).mean()) for measure, values in zip(MEASURES, found, strict=True)
    }
    assert min(equal.values()) > 0.99, equal
    assert {equal[measure] for measure in ("min", "max", "area50", "area90")} == {1.0}


def test_kinds_of_maps_are_measured_side_by_side() -> None:
    kinds = np.stack([maps_of(kind) for kind in ("positive", "zero", "signed")])
    found = DeviceMeasures(GRID)(torch.from_numpy(kinds))
    for maps, together in zip(kinds, found, strict=True):
        torch.testing.assert_close(together, DeviceMeasures(GRID)(torch.from_numpy(maps)[None])[0], equal_nan=True)
    assert found[1, MEASURES.index("entropy")].isnan().all() and (found[1, MEASURES.index("mass")] == 0).all()


def test_a_placement_of_another_grid_is_refused() -> None:
    with pytest.raises(CamError):
        DeviceMeasures((4, 4), OVERLAPPING)
