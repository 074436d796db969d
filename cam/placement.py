"""Where the patches of a grid lie on an image, as fractions of it: overlapping patches are no equal cells.

A patch of `patch` pixels begins every `stride` pixels, the first at the rim, and nothing is padded: the model's
embedding is an unpadded strided convolution. So the centre of patch i is at (patch / 2 + i * stride) / size. Patches
that do not overlap and fill the image are equal cells, with centres at (i + 0.5) / n. With stride 12 and patches of 16
pixels, 10 columns cover 124 of 128 pixels, and the last centre is at 116 instead of the 121.6 of equal cells.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from cam.errors import CamError

Fractions = NDArray[np.float64]
_CUBIC = -0.75  # the constant of the cubic convolution kernel (Keys 1981), as OpenCV has it


@runtime_checkable
class PatchSizes(Protocol):
    """A model's sizes in pixels: of its input (height, width), of a square patch, and from one patch to the next."""

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of the images that the model sees."""

    @property
    def patch_size(self) -> int:
        """The height and width of a patch."""

    @property
    def stride(self) -> int:
        """From the beginning of a patch to that of the next."""


@dataclass(frozen=True, kw_only=True)
class AxisPlacement:
    """n patches along one axis of an image of `size` pixels. Raises CamError for sizes that hold no patch."""

    size: int
    patch: int
    stride: int

    def __post_init__(self) -> None:
        if self.stride < 1 or not 1 <= self.patch <= self.size:
            raise CamError(f"patches of {self.patch} pixels, every {self.stride}, do not fit {self.size} pixels")

    @classmethod
    def even(cls, count: int) -> AxisPlacement:
        """`count` equal cells."""
        return cls(size=count, patch=1, stride=1)

    @property
    def count(self) -> int:
        """n, how many patches there are."""
        return (self.size - self.patch) // self.stride + 1

    @property
    def first(self) -> float:
        """The centre of the first patch, as a fraction of the axis."""
        return self.patch / 2 / self.size

    @property
    def step(self) -> float:
        """From one centre to the next, as a fraction of the axis."""
        return self.stride / self.size

    @property
    def is_even(self) -> bool:
        """Whether the centres are those of n equal cells."""
        return self.patch * self.count == self.size and self.stride * (self.count - 1) == self.size - self.patch

    @property
    def centres(self) -> Fractions:
        """(n,) the patches' centres, as fractions of the axis."""
        return (self.patch / 2 + np.arange(self.count) * self.stride) / self.size

    @property
    def ends(self) -> tuple[Fractions, Fractions]:
        """(n,) where each patch begins and (n,) where it ends, as fractions of the axis."""
        begin = np.arange(self.count) * self.stride
        return begin / self.size, (begin + self.patch) / self.size

    def covered(self, edges: Fractions) -> Fractions:
        """(k+1,) rising fractions of the axis -> (n, k): the part of each patch that lies in each interval."""
        begin, end = self.ends
        overlap = np.minimum(end[:, None], edges[None, 1:]) - np.maximum(begin[:, None], edges[None, :-1])
        shares: Fractions = np.clip(overlap, 0, None) * (self.size / self.patch)
        return shares

    @lru_cache(maxsize=64)  # noqa: B019 - placements are few, small and frozen
    def weights(self, pixels: int, upsample: str) -> NDArray[np.float32]:
        """(pixels, n): the share of each patch in each of so many pixels along the axis; every row has a sum of 1.

        A patch's value is at its centre; beyond the outermost centres the outermost values go on. `upsample` is
        bilinear, nearest or bicubic. For equal cells these are the weights of OpenCV's resizing.
        """
        places = ((np.arange(pixels) + 0.5) / pixels - self.first) / self.step  # 0 at the first centre, 1 at the second
        base = np.floor(places + 0.5) if upsample == "nearest" else np.floor(places)
        found = np.zeros((pixels, self.count))
        for offset, shares in _taps(places - base, upsample).items():
            patches = np.clip(base + offset, 0, self.count - 1).astype(np.int64)
            np.add.at(found, (np.arange(pixels), patches), shares)
        return found.astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class GridPlacement:
    """The patches of a grid: its `rows` along the height and its `columns` along the width of the image."""

    rows: AxisPlacement
    columns: AxisPlacement

    @classmethod
    def of_patches(cls, image_size: tuple[int, int], patch_size: int, stride: int) -> GridPlacement:
        """Square patches on an image of (height, width) pixels. Raises CamError for sizes that hold no patch."""
        height, width = image_size
        return cls(
            rows=AxisPlacement(size=height, patch=patch_size, stride=stride),
            columns=AxisPlacement(size=width, patch=patch_size, stride=stride),
        )

    @classmethod
    def even(cls, grid: tuple[int, int]) -> GridPlacement:
        """(h, w) equal cells."""
        return cls(rows=AxisPlacement.even(grid[0]), columns=AxisPlacement.even(grid[1]))

    @classmethod
    def of_maps(cls, grid: tuple[int, int], known: GridPlacement | None) -> GridPlacement:
        """Where the patches of maps (h, w) lie: as is known, else in equal cells.

        Raises CamError for maps of another grid than the known one.
        """
        if known is None:
            return cls.even(grid)
        known.check(grid)
        return known

    @property
    def grid(self) -> tuple[int, int]:
        """(h, w) the shape of a map."""
        return self.rows.count, self.columns.count

    @property
    def is_even(self) -> bool:
        """Whether the patches' centres are those of equal cells."""
        return self.rows.is_even and self.columns.is_even

    def check(self, grid: tuple[int, ...]) -> None:
        """Raises CamError for a map of another shape than (h, w)."""
        if grid != self.grid:
            raise CamError(f"a map of {'x'.join(map(str, grid))} does not lie on {self.grid[0]}x{self.grid[1]} patches")


def _taps(beyond: Fractions, upsample: str) -> dict[int, Fractions]:
    """How far pixels lie beyond a centre, in patches -> the shares of the patches around it, by their distance."""
    if upsample == "nearest":
        return {0: np.ones(beyond.shape)}
    if upsample == "bilinear":
        return {0: 1 - beyond, 1: beyond}
    return {offset: _cubic_kernel(np.abs(beyond - offset)) for offset in (-1, 0, 1, 2)}


def _cubic_kernel(distance: Fractions) -> Fractions:
    """The cubic convolution kernel at distances from 0 to 2 patches (Keys 1981, eq. 4)."""
    near = ((_CUBIC + 2) * distance - (_CUBIC + 3)) * distance**2 + 1
    far = _CUBIC * (((distance - 5) * distance + 8) * distance - 4)
    return np.where(distance <= 1, near, far)


def placement_of(model: object) -> GridPlacement | None:
    """Where a model's patches lie, by its configuration; None for one that does not have PatchSizes."""
    if not isinstance(model, PatchSizes):
        return None
    return GridPlacement.of_patches(model.image_size, model.patch_size, model.stride)
