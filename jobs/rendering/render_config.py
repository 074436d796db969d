"""What `promptsg render` draws: the configuration."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from jobs.errors import UserError
from jobs.phrases import did_you_mean
from jobs.rendering.drawing.style import (
    DEFAULT_HEIGHT,
    DIFF,
    IDENTITY,
    ONE_MAP_EACH,
    PANEL,
    RANKED,
    SHEET,
    STYLES,
    PictureStyle,
    Size,
)
from jobs.rendering.image_files import FORMATS
from jobs.rendering.looks import Looks
from jobs.rendering.two_runs import other_run
from jobs.runs.query import RowSelection
from jobs.runs.query_list import QUERIES
from jobs.runs.run import Run, open_run
from jobs.shards.access import ShardAccess


@dataclass(frozen=True, kw_only=True)
class RenderConfig(ShardAccess):
    """Pictures of which images of a run, how they look, and where they go.

    `output` is a folder. By default it is RUN/pictures, which has a folder for each style. `style` is one of STYLES.
    `maps` are stored maps, by default all for panels and sheets, else the first. `size` is (height, width) of each
    image in pixels; without a width it follows the image, and without a size, overlays and heatmaps have the image's
    own and compositions a height of 256. `form` is png, jpg or webp. `queries` is queries.parquet or failures.txt of
    `promptsg evaluate`; ranked lists show its `topk` first images. `evaluation` is the folder of `promptsg evaluate`
    that `ap` and `first_rank` are from, by default the one that `queries` is in, else RUN/evaluation. `other` is the
    run B of the style `diff`, which draws by default all maps that both runs have. `per_page` images make a page of a
    sheet. `workers` are processes, by default one per core. With `overwrite`, pictures that exist are drawn again.

    Raises UserError on an unknown style or form, and on settings that contradict each other.
    """

    run: Path
    output: Path | None = None
    style: str = "overlay"
    maps: tuple[str, ...] = ()
    looks: Looks = field(default_factory=Looks)
    size: Size | None = None
    form: str = "png"
    selection: RowSelection = field(default_factory=RowSelection)
    queries: Path | None = None
    evaluation: Path | None = None
    topk: int = 10
    other: Path | None = None
    per_page: int = 8
    name_template: str | None = None
    workers: int | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_choice("--style", self.style, STYLES)
        _check_choice("--format", self.form, tuple(FORMATS))
        if self.style == RANKED and self.queries is None:
            raise UserError("--style ranked needs --queries: queries.parquet or failures.txt of `promptsg evaluate`")
        if (self.style == DIFF) != (self.other is not None):
            raise UserError("--style diff needs --other, the run to compare with, and no other style takes one")
        if self.style == DIFF and self.looks.scale != "image":
            raise UserError("--style diff has one scale for both maps of an image: leave out --scale")
        if self.name_template is not None and self.style in (SHEET, IDENTITY):
            raise UserError(f"--name-template does not apply to --style {self.style}, whose pictures show many images")

    @property
    def folder(self) -> Path:
        """Where the pictures go."""
        return self.output or self.run / "pictures"

    @property
    def style_folder(self) -> str:
        """What stands before the name of each picture: the default folder has one for each style."""
        return f"{self.style}/" if self.output is None else ""

    @property
    def is_numbered(self) -> bool:
        """Whether the names of the pictures begin with their numbers: where an order was requested.

        A list of keys is one too. Sheets have numbers of their own, and the user's own template says itself.
        """
        listed = self.selection.keys is not None or (self.queries is not None and self.queries.suffix != ".parquet")
        return (listed or self.selection.order_by is not None) and self.style != SHEET and self.name_template is None

    @property
    def scores(self) -> Path | None:
        """The folder of `promptsg evaluate`; None where it is the run's own."""
        if self.evaluation is None and self.queries is not None and self.queries.with_name(QUERIES).is_file():
            return self.queries.parent
        return self.evaluation

    def picture_style(self, run: Run) -> PictureStyle:
        """The style with the maps of this run. Raises UserError naming a map that the run does not have."""
        default = run.maps if self.style in (PANEL, SHEET) else run.maps[:1]
        if self.other is not None:
            return self._diff_style(run, open_run(self.other))
        size = self.size
        if size is None and self.style not in ONE_MAP_EACH:
            size = (DEFAULT_HEIGHT, None)
        return PictureStyle(
            kind=self.style,
            maps=run.choose_maps(self.maps) or default,
            looks=self.looks,
            size=size,
            placement=run.manifest.placement,
        )

    def _diff_style(self, run: Run, other: Run) -> PictureStyle:
        return PictureStyle(
            kind=self.style,
            other=other_run(other),
            maps=run.shared_maps(other, self.maps),
            looks=self.looks,
            size=self.size or (DEFAULT_HEIGHT, None),
            placement=run.manifest.placement,
        )


def _check_choice(option: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        hint = did_you_mean(value, choices) or "."
        raise UserError(f"{option} {value!r} is not known{hint} There are {', '.join(choices)}")
