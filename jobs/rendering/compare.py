"""Two images side by side, how similar they are, and where that comes from."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from cam.names import check_methods
from cam.overlay import Picture
from cam.panels import column
from cam.placement import GridPlacement, placement_of
from jobs.atomic import make_folder
from jobs.errors import UserError
from jobs.mining.early.names import refuse_unknown_layers, refuse_unknown_methods
from jobs.mining.model_options import ModelOptions
from jobs.phrases import first_few
from jobs.rendering.looks import Looks
from jobs.rendering.panels import padded, text_block
from jobs.rendering.single.files import save_arrays, save_picture, stems_for
from jobs.rendering.single.maps import ImageMaps, ImageReader, ReadImage, cameras_of, mine_images, requested_maps
from jobs.rendering.single.panels import PanelStyle, draw_labelled_panel, limits_of

if TYPE_CHECKING:
    from jobs.mining.camera_rows.source import HowExplained
    from promptsg_core.model import AnyModel


@dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """Which two images, which maps of them, how they look, and the folder `output` that all goes to.

    By default `methods` are the model's own map, gradcam++ and hirescam, and `layers`, which are for the gradient
    methods, its first. `height` is that of each picture, in pixels.
    """

    query: Path
    gallery: Path
    model: ModelOptions
    output: Path = Path("comparison")
    methods: tuple[str, ...] = ()
    layers: tuple[str, ...] = ()
    looks: Looks = field(default_factory=Looks)
    height: int = 256

    def __post_init__(self) -> None:
        check_methods(self.methods)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The cosine similarity of the two features, the picture of both, and the files with their raw maps."""

    similarity: float
    picture: Path
    query_arrays: Path
    gallery_arrays: Path

    @property
    def files(self) -> tuple[Path, ...]:
        """All that was written."""
        return self.picture, self.query_arrays, self.gallery_arrays


def compare(config: CompareConfig) -> Comparison:
    """Writes comparison.png and the raw maps of both images.

    Raises UserError if an image cannot be read, and CamError on a map that cannot be had, both before writing.
    """
    refuse_unknown_methods(config.methods)
    refuse_unknown_layers(config.layers)
    if missing := [path for path in (config.query, config.gallery) if not path.is_file()]:
        raise UserError(f"no such image: {first_few(missing)}")
    model = config.model.load()
    methods = config.methods or (model.native_maps[0], "gradcam++", "hirescam")
    maps = requested_maps(model, methods, config.layers, "similarity")
    how = config.model.explained(model)
    reader = ImageReader([config.query, config.gallery])
    images = list(reader)
    if reader.problems:
        raise UserError("; ".join(reader.problems))
    query = _maps_towards(model, images[0], images[1], maps, how)
    gallery = _maps_towards(model, images[1], images[0], maps, how)
    stems = stems_for([config.query, config.gallery])
    comparison = Comparison(
        similarity=query.score,
        picture=config.output / "comparison.png",
        query_arrays=config.output / f"query__{stems[config.query]}.npz",
        gallery_arrays=config.output / f"gallery__{stems[config.gallery]}.npz",
    )
    make_folder(config.output)
    save_picture(comparison.picture, _draw(query, gallery, config, placement_of(model.config)))
    save_arrays(comparison.query_arrays, query)
    save_arrays(comparison.gallery_arrays, gallery)
    return comparison


def _maps_towards(model: AnyModel, image: ReadImage, other: ReadImage, maps: list[str], how: HowExplained) -> ImageMaps:
    """The maps of an image whose score is its similarity to the other one."""
    from cam.targets import similarity_target
    from promptsg_core.preprocess import resize_image

    pixels = resize_image(other.pixels, model.config.image_size).unsqueeze(0)
    target = similarity_target(model.normalised_features(pixels, cameras_of([other], how)))
    return next(mine_images(model, [image], maps, target, how))


def _draw(query: ImageMaps, gallery: ImageMaps, config: CompareConfig, placement: GridPlacement | None) -> Picture:
    limits = limits_of([query, gallery], config.looks.scale)
    style = PanelStyle(looks=config.looks, height=config.height, limits=limits, placement=placement)
    panels = [draw_labelled_panel(query, style, "query: "), draw_labelled_panel(gallery, style, "gallery: ")]
    body = column(panels)
    title = text_block([f"cosine similarity {query.score:.4f}"], body.shape[1], font_size=18)
    return padded(column([title, body]))
