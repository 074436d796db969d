"""Small pictures for reports: images beside their maps, as far as the shards can be opened (no torch)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from cam.overlay import Map, Picture
from cam.panels import row as side_by_side
from cam.placement import GridPlacement
from jobs.errors import UserError
from jobs.phrases import counted, first_few, one_line
from jobs.progress import tracked
from jobs.rendering.drawing.cells import no_map
from jobs.rendering.drawing.entry import ImageRow, rows_of
from jobs.rendering.extent import extent_of
from jobs.rendering.image_files import decode_row, encode
from jobs.rendering.looks import Looks
from jobs.rendering.page.pictures import thumbnail
from jobs.runs.rows.lookup import rows_by_key
from jobs.runs.run import Run
from jobs.shards.access import ShardAccess
from jobs.shards.locate import locate
from jobs.shards.random_access import SourceImages
from jobs.statistics.outliers import Outlier
from jobs.statistics.report.outliers import DrawnOutlier, DrawnOutliers, ImageId

MOST = 100  # pictures in a report, which then has about a megabyte
_HEIGHT = 128


@dataclass(frozen=True, kw_only=True)
class OutlierThumbnails(ShardAccess):
    """Draws the outliers of `promptsg stats`; see `jobs.statistics.report.outliers.OutlierDrawer`."""

    looks: Looks = field(default_factory=Looks)

    def draw(self, run: Run, outliers: Sequence[Outlier], map: str) -> DrawnOutliers:
        """Pictures of the first `MOST` outliers. Where a shard cannot be read, its images have none.

        Nor have those of a shard that would have to be read from start to end, such as a compressed one.
        """
        wanted = {(one.shard, one.key) for one in outliers[:MOST]}
        by_shard: dict[str, list[ImageRow]] = {}
        for row in rows_of(rows_by_key(run, wanted)):
            by_shard.setdefault(row["shard"], []).append(row)
        pictures: dict[ImageId, DrawnOutlier] = {}
        unread: list[str] = []
        problem = ""
        for shard, there in tracked(by_shard.items(), "drawing the outliers", "shard"):
            try:
                pictures |= self._of_shard(run, there, map)
            except UserError as error:
                unread.append(shard)
                problem = problem or one_line(error)
        told = f"No pictures of the outliers in {counted(len(unread), 'shard')} ({first_few(unread)}): {problem}"
        return DrawnOutliers(pictures=pictures, problem=told if unread else None, options=self.words)

    def _of_shard(self, run: Run, rows: list[ImageRow], map: str) -> dict[ImageId, DrawnOutlier]:
        """The pictures of some images of one shard. Raises UserError where they cannot be read as they were mined."""
        sources = locate(run.mined_shards([rows[0]["shard"]]), rows, self, scratch=None)
        with SourceImages(sources) as images:
            found: dict[ImageId, DrawnOutlier] = {}
            for row, values, data in zip(rows, run.maps_of(map, rows), images.read(rows), strict=True):
                image = thumbnail(decode_row(sources[row["shard"]], row, data), _HEIGHT)
                found[row["shard"], row["key"]] = self._beside(image, values, map, run.manifest.placement)
        return found

    def _beside(self, image: Picture, values: Map, map: str, placement: GridPlacement | None) -> DrawnOutlier:
        """An image, and the map over it."""
        if np.isfinite(values).all():
            over, extent = self.looks.overlay(image, values, None, placement), extent_of(map, values)
        else:
            over, extent = no_map(image), "no map"
        return DrawnOutlier(jpeg=encode(side_by_side([image, over], gap=2), "jpg"), extent=extent)
