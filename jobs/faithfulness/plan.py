"""What a faithfulness measurement is requested to do (no torch)."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from jobs.errors import UserError
from jobs.runs.query import RowSelection
from jobs.shards.access import ShardAccess

FILLS = ("blur", "mean")  # what a removed patch shows
RANDOM = "random"  # the order that every map is compared with
DEFAULT_LIMIT = 200


@dataclass(frozen=True, kw_only=True)
class FaithfulnessConfig(ShardAccess):
    """What to measure, of which images of a run, with which model.

    checkpoint: the one that the run was mined with; `any_checkpoint` accepts another.
    weights_key: the state dict of the checkpoint to take, by default that of the run.
    selection: without `order_by` and `keys`, its limit is a random sample.
    evaluation: the folder of `promptsg evaluate` whose ap and first_rank it may name; None is RUN/evaluation.
    maps: stored maps; all of them if empty.
    seed: of the random orders, the intervals and the random weights.
    steps: the steps from no patch removed to all. random: random orders for each image.
    sigma: the blur's standard deviation in pixels of the model's input; by default half a patch.
    sanity: whether to compare with re-initialised models, on `sanity_images` of the images.
    resamples: of the bootstrap. batch_size: images in one pass.
    precision: by default that of the run.
    label_map, reference: the file and the run that the run was mined with, if any.
    shards_root, allow_remote, allow_pipes: where the shards are now, and what may be opened.
    output: the folder for the results, by default RUN/faithfulness.

    Raises UserError for numbers that are too small.
    """

    run: Path
    checkpoint: Path
    weights_key: str | None = None
    selection: RowSelection = field(default_factory=lambda: RowSelection(limit=DEFAULT_LIMIT))
    evaluation: Path | None = None
    maps: tuple[str, ...] = ()
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
    any_checkpoint: bool = False
    output: Path | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        least = {"steps": self.steps, "random": self.random, "sanity_images": self.sanity_images,
                 "resamples": self.resamples, "batch_size": self.batch_size}  # fmt: skip
        for name, value in least.items():
            if value < 1:
                raise UserError(f"faithfulness: {name} is {value}, it must be 1 or more")
        if self.sigma is not None and self.sigma <= 0:
            raise UserError(f"faithfulness: sigma is {self.sigma}, it must be more than 0")
