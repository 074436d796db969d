"""Single images: found by path, folder or glob, read, mined in one pass, and drawn as labelled panels."""

from __future__ import annotations

import glob
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cam.names import ATTENTION, MapName
from cam.overlay import Picture, Range, heatmap, overlay_heatmap, range_of
from cam.panels import captioned, column, enlarged, legend, padded, row, text_block
from jobs.atomic import make_folder, write_whole
from jobs.errors import UserError
from jobs.shards.samples import IMAGE_EXTENSIONS

if TYPE_CHECKING:
    from torch import Tensor

    from cam.targets import Target
    from promptsg_core.model import PromptSG

Array = NDArray[np.float32]
_CELLS = 6  # of a panel's row: what a screen shows without scrolling sideways


@dataclass(frozen=True, kw_only=True)
class Style:
    """How maps are drawn; `height` of each picture in pixels."""

    colormap: str
    alpha: float
    scale: str
    upsample: str
    height: int


@dataclass(frozen=True, kw_only=True)
class ImageMaps:
    """One image's results: pixels uint8 (H, W, 3) as the file has them; maps by name, each (h, w) float32 and raw."""

    path: Path
    pixels: Picture
    maps: dict[str, Array]
    heads: Array
    feature: Array
    predicted: int
    probability: float
    score: float
    target: str
    category: int | None = None  # the class, where one was asked for

    @property
    def score_text(self) -> str:
        """What was differentiated and its value, for a caption."""
        if self.target in ("predicted", "label"):
            known = self.target == "predicted" or self.category is None
            chosen = f"class {self.predicted}, p {self.probability:.2f}" if known else f"class {self.category}"
            return f"{self.target} ({chosen}): {self.score:.3g}"
        return f"{self.target}: {self.score:.3g}"


def find_images(arguments: Sequence[str]) -> list[Path]:
    """Files, the images of folders and of their subfolders, and globs, in order, each once.

    What does not exist stays in the list, so that reading names it. Raises UserError if nothing is left.
    """
    found: list[Path] = []
    for argument in arguments:
        path = Path(argument).expanduser()
        if path.is_dir():
            found += sorted(p for p in path.rglob("*") if p.suffix.lower().removeprefix(".") in IMAGE_EXTENSIONS)
        elif not path.exists() and glob.has_magic(argument):
            found += sorted(Path(p) for p in glob.glob(str(path), recursive=True))
        else:
            found.append(path)
    if not found:
        raise UserError(f"no image in {', '.join(arguments)}")
    return list(dict.fromkeys(found))


def read_images(paths: Sequence[Path], problems: list[str]) -> Iterator[tuple[Path, Tensor]]:
    """The images that can be read, uint8 (3, H, W) each, one at a time; adds a line to `problems` for each other."""
    from promptsg_core.errors import ImageError
    from promptsg_core.preprocess import read_image

    for path in paths:
        try:
            yield path, read_image(path)
        except ImageError as error:
            problems.append(str(error))


def mine_images(
    model: PromptSG,
    images: Iterable[tuple[Path, Tensor]],
    maps: Sequence[str],
    target: str | int | Target,
    batch_size: int,
    interpolation: str = "bilinear",
) -> Iterator[ImageMaps]:
    """The maps of each image, `batch_size` images to a pass: the pass, and so the bits, of `promptsg mine`."""
    import torch

    from cam.extract import extract_maps
    from promptsg_core.preprocess import resize_image

    size, waiting = model.config.image_size, iter(images)
    while part := list(islice(waiting, batch_size)):
        batch = torch.stack([resize_image(pixels, size, interpolation) for _, pixels in part])
        found = extract_maps(model, batch, maps, target)
        for number, (path, pixels) in enumerate(part):
            yield ImageMaps(
                path=path,
                pixels=np.ascontiguousarray(pixels.permute(1, 2, 0).numpy()),
                maps={name: values[number].cpu().numpy() for name, values in found.maps.items()},
                heads=found.attention_heads[number].cpu().numpy(),
                feature=found.features[number].cpu().numpy(),
                predicted=int(found.predicted[number]),
                probability=float(found.probability[number]),
                score=float(found.score[number]),
                target=target if isinstance(target, str) else getattr(target, "name", "label"),
                category=target if isinstance(target, int) else None,
            )


def limits_of(results: Sequence[ImageMaps], scale: str) -> dict[str, Range | None]:
    """The ends of each map's colour scale over all images; None where each picture has its own."""
    names = results[0].maps if results else ()
    return {name: range_of(np.stack([result.maps[name] for result in results]), scale) for name in names}


def draw_panel(result: ImageMaps, style: Style, limits: dict[str, Range | None], title: str = "") -> Picture:
    """original | heatmap | overlay for each map, captioned with file, map, target and the map's own numbers."""
    original = enlarged(result.pixels, style.height)
    cells = [captioned(original, ["original"], width=90)]
    for name, values in result.maps.items():
        heat, over = draw_map(result, name, style, limits[name], original.shape[:2])
        shown = [heat, over]
        if (ends := limits[name]) is not None:
            shown.append(legend(ends, style.height, colormap=style.colormap))
        cells.append(captioned(row(shown, gap=2), caption_of(result, name, values)))
    body = column([row(cells[i : i + _CELLS], gap=10) for i in range(0, len(cells), _CELLS)], gap=14)
    head = f"{title}{result.path.name}"
    return padded(np.concatenate([text_block([head], body.shape[1]), body]))


def draw_map(
    result: ImageMaps, name: str, style: Style, limits: Range | None, size: tuple[int, int] | None = None
) -> tuple[Picture, Picture]:
    """(heatmap, overlay) of one map over the image at `size`, by default the image's own."""
    image = result.pixels if size is None else enlarged(result.pixels, size[0])
    values = result.maps[name]
    heat = heatmap(values, image.shape[:2], colormap=style.colormap, limits=limits, upsample=style.upsample)
    over = overlay_heatmap(
        image, values, alpha=style.alpha, colormap=style.colormap, limits=limits, upsample=style.upsample
    )
    return heat, over


def caption_of(result: ImageMaps, name: str, values: Array) -> list[str]:
    """The map's name, its magnitude, which colours hide, and the target where one was differentiated."""
    parsed = MapName.parse(name)
    peak = float(values.max())
    if parsed.method == ATTENTION:
        lines = [name, f"peak {peak * values.size:.2f} x uniform"]
    else:
        lines = [name, "all zero" if peak == 0 else f"max {peak:.3g}"]
    return [*lines, result.score_text] if parsed.needs_target else lines


def save_picture(path: Path, picture: Picture) -> None:
    """Writes a PNG atomically."""
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(picture).save(out, "PNG")
    make_folder(path.parent)
    write_whole(path, out.getvalue())


def save_arrays(path: Path, result: ImageMaps) -> None:
    """Writes the raw maps, by name, with the feature and the numbers, as a .npz, atomically."""
    out = io.BytesIO()
    np.savez(
        out,
        feature=result.feature,
        mim_attention_heads=result.heads,
        predicted=result.predicted,
        probability=result.probability,
        score=result.score,
        target=result.target,
        **result.maps,  # type: ignore[arg-type]
    )
    make_folder(path.parent)
    write_whole(path, out.getvalue())


def names_for(paths: Sequence[Path]) -> dict[Path, str]:
    """A file name's stem for each image, its folders added where two images would share one."""
    stems: dict[Path, str] = {}
    taken: set[str] = set()
    for path in paths:
        parts = path.absolute().with_suffix("").parts
        count = 1
        name = parts[-1]
        while name in taken and count < len(parts) - 1:
            count += 1
            name = "__".join(parts[-count:])
        number = 2
        unique = name
        while unique in taken:  # the same path with two extensions
            unique, number = f"{name}__{number}", number + 1
        taken.add(unique)
        stems[path] = unique
    return stems
