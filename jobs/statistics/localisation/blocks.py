"""Masks on the grids of the maps, block by block: how much of each patch the person and each part cover (no torch).

A block is some images of one shard, in the order of the tar, so that neither masks nor maps need much memory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import pyarrow.dataset as ds

from cam.placement import GridPlacement
from jobs.arrays import BoolArray, Float32Array, Int64Array, UInt8Array
from jobs.runs.run import Run
from jobs.shards.random_access import CRC_COLUMN
from jobs.statistics.chosen import ChosenImages
from jobs.statistics.localisation.labels import BACKGROUND, PERSON, LabelNames
from jobs.statistics.localisation.mask_files import FoundMask, MaskedImage, MaskFiles
from jobs.statistics.localisation.mask_image import MaskError, read_labels
from jobs.statistics.localisation.mask_scores import covered_share

OK, MISSING, EMPTY, UNREADABLE = "ok", "missing", "empty", "unreadable"
_IMAGES = 1024  # in a block
_EXAMPLES = 5
_COLUMNS = ("h5_row", "key", "width", "height", "image_size")

Grid = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class MaskBlock:
    """n images of a shard; `at` are their positions among the chosen images.

    status (n,): OK, or why the image has no mask: MISSING, EMPTY (no pixel is of a person) or UNREADABLE. person, by
    grid: (n, h, w) float32, the part of each patch that the person covers. parts, by grid and name: the same of each
    part that a mask of the block has; images without a mask have zeros.
    """

    shard: str
    at: slice
    keys: tuple[str, ...]
    status: tuple[str, ...]
    person: dict[Grid, Float32Array]
    parts: dict[Grid, dict[str, Float32Array]]


@dataclass
class MaskCounts:
    """What was found: images by status, with the first keys of each that is not OK; and what is odd in masks.

    problems: reasons of unreadable masks, with their numbers. other_aspect: masks that have another ratio of height to
    width than their image; they are taken as the whole image, stretched. unnamed: labels without a name in --labels,
    with the number of masks that have them.
    """

    status: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)
    problems: Counter[str] = field(default_factory=Counter)
    other_aspect: int = 0
    unnamed: Counter[int] = field(default_factory=Counter)

    def add(self, key: str, status: str) -> None:
        """Counts an image."""
        self.status[status] += 1
        if status != OK:
            self.note(status, key)

    def note(self, what: str, key: str) -> None:
        """Keeps the key as an example, if there are few."""
        keys = self.examples.setdefault(what, [])
        if len(keys) < _EXAMPLES:
            keys.append(key)


OTHER_ASPECT = "other aspect"  # among the examples


def mask_blocks(
    chosen: ChosenImages, files: MaskFiles, placements: Sequence[GridPlacement], names: LabelNames, counts: MaskCounts
) -> Iterator[MaskBlock]:
    """The masks of all chosen images, on each of the grids; `counts` is filled in."""
    for shard, span in chosen.spans():
        images = _images(chosen.run, shard, chosen.rows[span].astype(np.int64))
        found, start = files.read(shard, images), span.start
        while some := list(islice(found, _IMAGES)):
            yield _block(shard, slice(start, start + len(some)), some, placements, names, counts)
            start += len(some)


def _images(run: Run, shard: str, rows: Int64Array) -> list[MaskedImage]:
    """The chosen images of a shard, whose h5 rows rise."""
    columns = [*_COLUMNS, *(name for name in (CRC_COLUMN,) if name in run.schema.names)]
    table = run.read_metadata(columns, [shard], where=ds.field("h5_row").is_valid())
    there = table["h5_row"].to_numpy()
    table = table.take(np.searchsorted(there, rows))
    return [
        MaskedImage(
            key=row["key"],
            width=row["width"],
            height=row["height"],
            size=row["image_size"],
            crc32=row.get(CRC_COLUMN),
        )
        for row in table.to_pylist()
    ]


def _block(
    shard: str,
    at: slice,
    found: Sequence[tuple[MaskedImage, FoundMask]],
    placements: Sequence[GridPlacement],
    names: LabelNames,
    counts: MaskCounts,
) -> MaskBlock:
    grids = {placement.grid: placement for placement in placements}
    person = {grid: np.zeros((len(found), *grid), np.float32) for grid in grids}
    parts: dict[Grid, dict[str, Float32Array]] = {grid: {} for grid in grids}
    status = []
    for n, (image, mask) in enumerate(found):
        labels = _labels(image, mask, names, counts)
        counts.add(image.key, labels if isinstance(labels, str) else OK)
        status.append(labels if isinstance(labels, str) else OK)
        if isinstance(labels, str):
            continue
        by_part = _by_part(labels, names)
        for grid, placement in grids.items():
            person[grid][n] = covered_share(np.any(list(by_part.values()), axis=0), placement)
            for part, pixels in by_part.items():
                if part != PERSON:
                    shares = parts[grid].setdefault(part, np.zeros((len(found), *grid), np.float32))
                    shares[n] = covered_share(pixels, placement)
    keys = tuple(image.key for image, _ in found)
    return MaskBlock(shard=shard, at=at, keys=keys, status=tuple(status), person=person, parts=parts)


def _labels(image: MaskedImage, mask: FoundMask, names: LabelNames, counts: MaskCounts) -> UInt8Array | str:
    """The labels of an image's mask, or its status."""
    if mask.data is None and mask.problem is None:
        return MISSING
    try:
        if mask.data is None:
            raise MaskError(mask.problem)
        labels = read_labels(mask.data)
    except MaskError as error:
        counts.problems[str(error)] += 1
        return UNREADABLE
    present = np.flatnonzero(np.bincount(labels.ravel(), minlength=1))
    counts.unnamed.update(label for label in present.tolist() if names.is_unnamed(label))
    if all(names.part_of(label) == BACKGROUND for label in present.tolist()):
        return EMPTY
    if _is_stretched(image, labels.shape):
        counts.other_aspect += 1
        counts.note(OTHER_ASPECT, image.key)
    return labels


def _by_part(labels: UInt8Array, names: LabelNames) -> dict[str, BoolArray]:
    """Part -> (H, W) where it is, without the background."""
    found: dict[str, BoolArray] = {}
    for label in np.flatnonzero(np.bincount(labels.ravel())).tolist():
        if (part := names.part_of(label)) != BACKGROUND:
            here = labels == label
            found[part] = found[part] | here if part in found else here
    return found


def _is_stretched(image: MaskedImage, shape: tuple[int, ...]) -> bool:
    """Whether a mask's sides are in another proportion than the image's, by more than a pixel of rounding."""
    if not image.width or not image.height:
        return False
    height, width = shape
    return abs(width * image.height - height * image.width) > max(image.width, image.height)
