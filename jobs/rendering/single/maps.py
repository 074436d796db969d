"""Single images through a model: read one at a time, and mined in one pass for each batch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cam.overlay import Picture
from jobs.arrays import Float32Array
from jobs.errors import UserError
from jobs.shards.samples import sample_of_name

if TYPE_CHECKING:
    from torch import Tensor

    from cam.targets import Target
    from jobs.mining.camera_rows.source import HowExplained
    from promptsg_core.cameras import Cameras
    from promptsg_core.model import AnyModel


@dataclass(frozen=True, kw_only=True)
class ReadImage:
    """An image file and its pixels, uint8 RGB (3, H, W)."""

    path: Path
    pixels: Tensor

    @property
    def camid(self) -> int | None:
        """The camera that the file's name tells, from 0, as of a member of a shard."""
        return sample_of_name(self.path.name.partition(".")[0]).camid


@dataclass(frozen=True, kw_only=True)
class ImageMaps:
    """One image's results: pixels uint8 (H, W, 3) as the file has them; maps by name, each (h, w) float32 and raw.

    `heads` is (heads, h, w), the attention of each head; `feature` is (D,). `category` is the class whose logit was
    differentiated, where one was requested.
    """

    path: Path
    pixels: Picture
    maps: dict[str, Float32Array]
    heads: Float32Array
    feature: Float32Array
    predicted: int
    probability: float
    score: float
    target: str
    category: int | None = None

    @property
    def score_text(self) -> str:
        """What was differentiated and its value, for a caption."""
        if self.target in ("similarity", "text"):  # cosines near 1 differ in their last digits
            return f"{self.target}: {self.score:.4f}"
        if self.target not in ("predicted", "label"):
            return f"{self.target}: {self.score:.3g}"
        if self.target == "label" and self.category is not None:
            return f"{self.target} (class {self.category}): {self.score:.3g}"
        return f"{self.target} (class {self.predicted}, p {self.probability:.2f}): {self.score:.3g}"


class ImageReader:
    """Reads image files one at a time; `problems` gets a line for each file that cannot be read."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = paths
        self.problems: list[str] = []

    def __iter__(self) -> Iterator[ReadImage]:
        from promptsg_core.errors import ImageError
        from promptsg_core.preprocess import read_image

        for path in self.paths:
            try:
                pixels = read_image(path)
            except ImageError as error:
                self.problems.append(str(error))
            else:
                yield ReadImage(path=path, pixels=pixels)


def requested_maps(
    model: AnyModel, methods: Sequence[str], layers: Sequence[str], target: str, head: str | None = None
) -> list[str]:
    """The names of the maps that methods, layers and the model's prompts stand for, each once.

    Raises CamError naming a map that the target does not reach, so that no image is read for nothing.
    """
    from cam.available import check_reachable, map_names
    from cam.names import MapName, parse_names

    chosen: str | list[str] | None = "all" if "all" in layers else list(layers) or None
    names = [name for method in methods for name in map_names(model, method, chosen, target, head)]
    names += [name for name in model.native_maps if MapName.parse(name).prompt in model.prompts]
    names = list(dict.fromkeys(names))
    check_reachable(model, parse_names(names), target, head=head)
    return names


def cameras_of(images: Sequence[ReadImage], how: HowExplained) -> Cameras | None:
    """The cameras of images. Raises UserError naming the first file without one."""
    found = how.cameras.of([image.camid for image in images])
    for image, error in zip(images, found.errors, strict=False):
        if error is not None:
            raise UserError(f"{image.path}: {error}: name the file as the data set does, or give --camera N or mean")
    return found.cameras


def mine_images(
    model: AnyModel,
    images: Iterable[ReadImage],
    maps: Sequence[str],
    target: str | int | Target,
    how: HowExplained,
    batch_size: int = 64,
    interpolation: str = "bilinear",
) -> Iterator[ImageMaps]:
    """The maps of each image, `batch_size` images to a pass: the pass, and so the bits, of `promptsg mine`.

    Raises UserError for an image whose camera the model does not know.
    """
    import torch

    from cam.extract import extract_maps
    from promptsg_core.preprocess import resize_image

    size, waiting = model.config.image_size, iter(images)
    while part := list(islice(waiting, batch_size)):
        batch = torch.stack([resize_image(image.pixels, size, interpolation) for image in part])
        found = extract_maps(model, batch, maps, target, head=how.head, cameras=cameras_of(part, how))
        for number, image in enumerate(part):
            yield ImageMaps(
                path=image.path,
                pixels=np.ascontiguousarray(image.pixels.permute(1, 2, 0).numpy()),
                maps={name: values[number].cpu().numpy() for name, values in found.maps.items()},
                heads=found.attention_heads[number].cpu().numpy(),
                feature=found.features[number].cpu().numpy(),
                predicted=int(found.predicted[number]),
                probability=float(found.probability[number]),
                score=float(found.score[number]),
                target=target if isinstance(target, str) else getattr(target, "name", "label"),
                category=target if isinstance(target, int) else None,
            )
