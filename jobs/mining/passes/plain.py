"""What a pass of a batch takes and gives, and the plain one: operator by operator.

Legend: B batch, H W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from cam.extract import Extraction, extract_maps
from cam.targets import Target
from jobs.mining.config import MineConfig
from promptsg_core.cameras import Cameras
from promptsg_core.model import AnyModel
from promptsg_core.prompts import Captions


class Pass(Protocol):
    """One pass of a batch: everything that is computed of images on the model's device.

    What it gives lies on the model's device. It is valid until the next call, which may write into the same memory:
    what is queued on the current stream before that call still reads this batch's numbers.
    """

    def __call__(
        self, images: Tensor, target: Target, cameras: Cameras | None = None, captions: Captions | None = None
    ) -> Extraction:
        """(B, 3, H, W) uint8, best on the model's device already -> the maps and what goes with them.

        The tensors of `target` and `cameras` are best on the host: they are checked there, without waiting for the
        device, and copied up. Raises CamError and ModelError as `cam.extract_maps`.
        """


@dataclass(frozen=True, kw_only=True)
class PlainPass:
    """Each operator is launched on its own."""

    model: AnyModel
    maps: tuple[str, ...]
    head: str | None = None
    gradcam_plus_plus: str = "rectified"

    def __call__(
        self, images: Tensor, target: Target, cameras: Cameras | None = None, captions: Captions | None = None
    ) -> Extraction:
        """As of `Pass`."""
        return extract_maps(
            self.model,
            images,
            maps=self.maps,
            target=target,
            gradcam_plus_plus=self.gradcam_plus_plus,
            head=self.head,
            cameras=cameras,
            captions=captions,
        )


def plain_pass(model: AnyModel, config: MineConfig) -> PlainPass:
    """The pass that a configuration asks for."""
    return PlainPass(model=model, maps=config.maps, head=config.head, gradcam_plus_plus=config.gradcam_plus_plus)
