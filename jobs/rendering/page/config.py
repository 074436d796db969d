"""What `promptsg gallery` shows: the configuration."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from jobs.rendering.looks import Looks
from jobs.runs.query import RowSelection
from jobs.shards.access import ShardAccess

DEFAULT_LIMIT = 2000  # images on a page that a browser still shows quickly


@dataclass(frozen=True, kw_only=True)
class GalleryConfig(ShardAccess):
    """Which images of a run are on the page, how they look, and the folder `output` that it is written to.

    `evaluation` is the folder of `promptsg evaluate` whose scores are shown, by default RUN/evaluation, if it is there.
    `maps` are stored maps, by default all of the run. `thumb_height` is the height of pictures in pixels. `workers` are
    processes, by default one per core. `other` is a run B over the same images, to whose maps the page can switch; then
    the maps are by default all that both have. With `overwrite`, a gallery in the folder is replaced.
    """

    run: Path
    output: Path
    selection: RowSelection = field(default_factory=lambda: RowSelection(limit=DEFAULT_LIMIT))
    evaluation: Path | None = None
    maps: tuple[str, ...] = ()
    looks: Looks = field(default_factory=Looks)
    thumb_height: int = 128
    workers: int | None = None
    other: Path | None = None
    overwrite: bool = False
