"""What a faithfulness measurement is asked, what it explains, and what it found (no torch).

Legend: N images, O orders (each map, then random), F fills, K steps, S scores.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from cam.faithfulness import Score
    from cam.targets import Target
    from jobs.shards.random_access import Row

FILLS = ("blur", "mean")
RANDOM = "random"


@dataclass(frozen=True, kw_only=True)
class Config:
    """What to measure, of which images, with which model; the fields are the command's options."""

    maps: tuple[str, ...]
    checkpoint: Path
    where: str | None = None
    order_by: str | None = None
    limit: int | None = 200
    sample: int | None = None
    keys: Sequence[str] | None = None
    seed: int = 0
    steps: int = 16
    random: int = 3
    sigma: float | None = None
    sanity: bool = True
    sanity_images: int = 32
    resamples: int = 2000
    batch_size: int = 256
    device: str = "auto"
    precision: str | None = None
    label_map: Path | None = None
    reference: Path | None = None
    shards_root: str | None = None
    any_checkpoint: bool = False


@dataclass(frozen=True)
class Subject:
    """What is explained of some images: the score to follow, and the target whose gradient the maps are."""

    score: Score
    target: Callable[[slice], Target]


@dataclass(frozen=True, kw_only=True)
class Explained:
    """The scores by name, the first of which the areas are of; how to say it; and how to get them for some images."""

    scores: tuple[str, ...]
    title: str
    subject: Callable[[Sequence[Row], Tensor], Subject]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """curves (N, O, F, 2, K+1, S) float32, the random orders averaged to one; counts (K+1,) patches that are gone;
    correlations: what is random -> map -> (n, 2) Pearson and Spearman, of the n images `checked`."""

    rows: list[Row]
    orders: tuple[str, ...]
    curves: NDArray[np.float32]
    counts: NDArray[np.int64]
    correlations: dict[str, dict[str, NDArray[np.float64]]]
    checked: NDArray[np.int64]
    zero_maps: dict[str, int]
    scores: tuple[str, ...]
    title: str
    sigma: float
    precision: str
    checkpoint_sha256: str
