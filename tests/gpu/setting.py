"""What all parts of `python -m tests.gpu` are told: the device, the sizes, where files go, when to end."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from tests.support.imports import REPOSITORY

WHEELS = REPOSITORY / ".whl"


@dataclass(frozen=True, kw_only=True)
class Setting:
    """`device` is cuda, or cpu to try the program itself. `small`: a tiny model and short times.

    `out` gets the results, and `scratch` all other files. `wheels` is the folder that packages are installed from, if
    any. `ends` is when all must be over, by the monotonic clock, which all processes of a machine share.
    """

    out: Path
    scratch: Path
    device: str = "cuda"
    small: bool = False
    wheels: Path | None = None
    ends: float = float("inf")

    @property
    def seconds_left(self) -> float:
        """The time that is left for everything."""
        return self.ends - time.monotonic()

    @property
    def on_gpu(self) -> bool:
        """Whether this is about a GPU, and not about the program itself."""
        return self.device != "cpu"

    @property
    def checkpoint(self) -> Path:
        """The checkpoint of the model that is measured: the part `model` writes it."""
        return self.scratch / "model.pth"

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of that model's images, in pixels."""
        return (64, 32) if self.small else (256, 128)

    @property
    def shards(self) -> Path:
        """The folder of the shards that are mined: the part `model` writes them."""
        return self.scratch / "shards"
