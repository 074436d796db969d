"""Maps of another grid laid on the same cells of an image, by area (no torch).

A patch's mass lies evenly on the patch, as in `cam.measures`; the mass of a cell is what of it lies in the cell. So the
sum of a map stays, whatever the two grids are, and no value is invented between patches.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cam.placement import GridPlacement

_FLAT = 1e-6  # relative range within which the sums of a flat map differ by rounding alone


@dataclass(frozen=True, kw_only=True)
class Regrid:
    """From the patches of a placement to `cells` (h, w) equal cells of the image."""

    placement: GridPlacement
    cells: tuple[int, int]

    @property
    def is_same(self) -> bool:
        """Whether the patches are the cells, so that maps stay as they are."""
        return same_patches(self.placement, GridPlacement.even(self.cells))

    @property
    def weights(self) -> NDArray[np.float64]:
        """(M, h*w): the part of each of the M patches that lies in each cell; every row has a sum of 1."""
        parts = [
            axis.covered(np.arange(count + 1) / count)
            for axis, count in zip((self.placement.rows, self.placement.columns), self.cells, strict=True)
        ]
        return np.kron(parts[0], parts[1]).astype(np.float64)

    def apply(self, maps: NDArray[np.float32]) -> NDArray[np.float32]:
        """(B, M) maps of the placement's grid -> (B, h*w). A map that is flat on the cells but for rounding is flat."""
        if self.is_same:
            return maps
        laid: NDArray[np.float32] = maps @ self.weights.astype(np.float32)
        top = laid.max(axis=1, keepdims=True)
        flat = np.ptp(laid, axis=1, keepdims=True) <= _FLAT * top
        np.copyto(laid, top, where=flat)
        return laid


@dataclass(frozen=True, kw_only=True)
class CommonGrid:
    """The cells (h, w) that a map of both runs is compared on, and how each run's maps come there."""

    cells: tuple[int, int]
    a: Regrid
    b: Regrid

    @property
    def is_same(self) -> bool:
        """Whether no map is resampled."""
        return self.a == self.b

    @classmethod
    def of(cls, a: GridPlacement, b: GridPlacement) -> CommonGrid:
        """Patches that lie the same in both runs are the cells themselves; others are laid on the coarser grid."""
        if same_patches(a, b):
            as_they_are = Regrid(placement=GridPlacement.even(a.grid), cells=a.grid)
            return cls(cells=a.grid, a=as_they_are, b=as_they_are)
        cells = min(a.grid[0], b.grid[0]), min(a.grid[1], b.grid[1])  # the fewer in each direction
        return cls(cells=cells, a=Regrid(placement=a, cells=cells), b=Regrid(placement=b, cells=cells))


def same_patches(a: GridPlacement, b: GridPlacement) -> bool:
    """Whether the patches of two placements lie in the same places of an image, whatever its size in pixels."""
    return a.grid == b.grid and all(
        np.array_equal(one.ends, other.ends) for one, other in ((a.rows, b.rows), (a.columns, b.columns))
    )
