"""The maps of single images as pictures and arrays."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from cam.names import check_methods, column_of
from cam.placement import placement_of
from jobs.atomic import make_folder
from jobs.errors import EXIT_ERROR, EXIT_OK, UserError
from jobs.mining.early.names import refuse_unknown_layers, refuse_unknown_methods
from jobs.mining.model_options import ModelOptions
from jobs.phrases import first_few
from jobs.progress import tracked
from jobs.rendering.looks import Looks
from jobs.rendering.single.files import find_images, save_arrays, save_picture, stems_for
from jobs.rendering.single.maps import ImageMaps, ImageReader, mine_images, requested_maps
from jobs.rendering.single.panels import PanelStyle, draw_labelled_panel, draw_map, limits_of


@dataclass(frozen=True, kw_only=True)
class VisualizeConfig:
    """Which images, which maps of them, how they look, and the folder `output` that they go to.

    `images` are files, folders and globs; only the first `num` images are drawn. `layers` are for the gradient methods,
    by default the model's first; they differentiate `target` (`predicted`, `feature` or `text`) or the logit of the
    class `target_class`. `height` is that of each picture in a panel, in pixels. `interpolation` says how images are
    resized for the model: `bilinear` or `bicubic`.
    """

    images: tuple[str, ...]
    model: ModelOptions
    output: Path = Path("attention")
    methods: tuple[str, ...] = ("all",)
    layers: tuple[str, ...] = ()
    target: str = "predicted"
    target_class: int | None = None
    num: int | None = None
    looks: Looks = field(default_factory=Looks)
    height: int = 256
    interpolation: str = "bilinear"
    batch_size: int = 64

    def __post_init__(self) -> None:
        check_methods(self.methods)


@dataclass(frozen=True, kw_only=True)
class VisualizeReport:
    """What was drawn in `output`: how many images, which maps of each, and a line for each unreadable image."""

    output: Path
    images: int
    maps: tuple[str, ...]
    problems: tuple[str, ...]

    @property
    def exit_status(self) -> int:
        """0 if all images were drawn, else 1."""
        return EXIT_ERROR if self.problems else EXIT_OK


def visualize(config: VisualizeConfig) -> VisualizeReport:
    """Writes pictures and raw maps of all images that can be read.

    Raises UserError if there is no image and no checkpoint, and CamError on a map that cannot be had.
    """
    refuse_unknown_methods(config.methods)
    refuse_unknown_layers(config.layers)
    paths = find_images(config.images)[: config.num]
    if not any(path.is_file() for path in paths):
        raise UserError(f"no such image: {first_few(paths)}")
    model = config.model.load()
    by_class = config.target_class is not None
    chosen = "label" if by_class else config.target
    names = requested_maps(model, config.methods, config.layers, chosen, config.model.head)
    target = config.target if config.target_class is None else config.target_class
    images = ImageReader(paths)
    how = config.model.explained(model)
    results: Iterable[ImageMaps] = mine_images(
        model, images, names, target, how, config.batch_size, config.interpolation
    )
    style = PanelStyle(looks=config.looks, height=config.height, placement=placement_of(model.config))
    if config.looks.scale != "image":  # only a scale of all pictures needs all maps before the first picture
        results = kept = list(results)
        style = replace(style, limits=limits_of(kept, config.looks.scale))
    stems = stems_for(paths)
    make_folder(config.output)
    for result in tracked(results, "drawing", "image", len(paths)):
        _save(result, config.output, stems[result.path], style)
    count = len(paths) - len(images.problems)
    return VisualizeReport(output=config.output, images=count, maps=tuple(names), problems=tuple(images.problems))


def _save(result: ImageMaps, folder: Path, stem: str, style: PanelStyle) -> None:
    """Writes the panel, the heatmap and overlay of each map, and the raw maps, under names that begin with `stem`."""
    save_picture(folder / f"{stem}__panel.png", draw_labelled_panel(result, style))
    for name in result.maps:
        heat, over = draw_map(result, name, style, result.pixels)
        save_picture(folder / f"{stem}__{column_of(name)}__heatmap.png", heat)
        save_picture(folder / f"{stem}__{column_of(name)}__overlay.png", over)
    save_arrays(folder / f"{stem}.npz", result)
