"""The images that a measurement is about: rows of the metadata, and their pixels from the shards."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from jobs.errors import UserError
from jobs.leftovers import scratch_folder
from jobs.runs.query import RowSelection, select_rows
from jobs.shards.captions import read_captions
from jobs.shards.locate import locate
from jobs.shards.random_access import CRC_COLUMN, ROW_COLUMNS, SourceImages, changed_error

if TYPE_CHECKING:
    import pyarrow as pa
    from torch import Tensor

    from jobs.runs.run import Run
    from jobs.shards.access import ShardAccess
    from promptsg_core.model import AnyModel

CHUNK = 32  # images whose pixels are held at once
_COLUMNS = (*ROW_COLUMNS, "h5_row", "pid", "camid", "split", "predicted")
CAPTION = "caption"  # a column of rows here, of no file
_OF_LATER_RUNS = ("role", "identity", CRC_COLUMN)  # earlier versions of the program did not write them


def select_images(run: Run, selection: RowSelection) -> pa.Table:
    """The selected rows that have all maps. Raises UserError where there is none."""
    if selection.order_by is None and selection.keys is None and selection.sample is None:
        # The first rows of a run are few identities of one split, so without an order the limit is a sample.
        selection = replace(selection, sample=selection.limit)
    known = [name for name in _OF_LATER_RUNS if name in run.schema.names]
    rows = select_rows(run, selection, columns=[*_COLUMNS, *known], also="status = 'ok'")
    if not rows.num_rows:
        raise UserError(f"no image of {run.layout.root} with maps fits the selection")
    return rows


def with_captions(run: Run, rows: pa.Table, access: ShardAccess) -> pa.Table:
    """The rows with a column `caption`: a run does not keep the captions, so they are read from the shards again."""
    import pyarrow as pa

    found: dict[tuple[str, str], str | None] = {}
    for shard in access.find(run.mined_shards(rows["shard"].to_pylist())):
        found.update({(shard.name, key): text for key, text in read_captions(shard)})
    names = zip(rows["shard"].to_pylist(), rows["key"].to_pylist(), strict=True)
    return rows.append_column(CAPTION, pa.array([found.get(name) for name in names], pa.string()))


def read_images(run: Run, rows: pa.Table, model: AnyModel, access: ShardAccess) -> Iterator[tuple[int, Tensor]]:
    """(number of the first row, (B, 3, H, W) uint8 on the model's device), as mining gave them to the model.

    Raises UserError naming a shard that is missing or does not hold what was mined.
    """
    import torch

    from promptsg_core.errors import ImageError
    from promptsg_core.images import DEFAULT_MAX_PIXELS
    from promptsg_core.preprocess import decode_image, resize_image

    mined = run.manifest.asked
    max_pixels = mined.max_image_pixels or DEFAULT_MAX_PIXELS
    size, device = model.config.image_size, model.device
    listed = rows.to_pylist()
    with scratch_folder() as scratch:
        sources = locate(run.mined_shards(row["shard"] for row in listed), listed, access, scratch)
        with SourceImages(sources) as files:
            for start in range(0, len(listed), CHUNK):
                some = listed[start : start + CHUNK]
                pixels = []
                for row, data in zip(some, files.read(some), strict=True):
                    try:
                        image = decode_image(data, max_pixels=max_pixels)
                    except ImageError as error:
                        raise changed_error(
                            sources[row["shard"]], row, f"what lies there is no image ({error})"
                        ) from error
                    pixels.append(resize_image(image, size, mined.interpolation))
                yield start, torch.stack(pixels).to(device)
