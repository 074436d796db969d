"""What a published shard holds of its images, against which a later pass over the same shard is compared."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jobs.arrays import Float32Array, Int64Array
from jobs.errors import ShardError, UserError
from jobs.phrases import counted
from jobs.runs.footer import ShardFooter, read_footer, read_rows
from jobs.runs.integrity.belonging import check_pair, open_maps
from jobs.runs.layout import RunLayout
from jobs.runs.manifest import Manifest
from jobs.runs.maps_file import FEATURES, HDF5_ERRORS, stored
from jobs.shards.columns import SampleColumns
from jobs.shards.samples import KEPT
from jobs.shards.shard_bytes import ShardBytes

NO_ROW = -1
# How far apart the features of one image may be, as a share of their length. Other kinds of devices and other batches
# round otherwise; other weights differ by far more, and the images themselves are compared by their CRC-32.
_TOLERANCE = {"fp32": 1e-2}
_TOLERANCE_OF_HALF = 1e-1
_COMPARED = ("key", "tar_index", "h5_row", "status", "predicted", "grid_h", "grid_w")
_CRC = "image_crc32"


class StoredShard:
    """The rows of a published shard, in tar order: N rows, M of them with maps.

    key, status: texts (N,). h5_row (N,) int64, NO_ROW where a row has no maps. predicted (N,) int64, -1 where there is
    none. grid: the size of its maps in patches.
    """

    def __init__(self, layout: RunLayout, footer: ShardFooter, table: pa.Table) -> None:
        self.layout, self.footer = layout, footer
        self.key: list[str] = table["key"].to_pylist()
        self.status: list[str] = table["status"].to_pylist()
        self.h5_row = _numbers(table["h5_row"])
        self.predicted = _numbers(table["predicted"])
        self._crc32 = table[_CRC].to_pylist() if _CRC in table.column_names else [None] * len(table)
        sizes = [set(table[name].drop_null().to_pylist()) for name in ("grid_h", "grid_w")]
        self.grid = tuple(min(found, default=0) for found in sizes)

    def __len__(self) -> int:
        return len(self.key)

    @classmethod
    def read(cls, layout: RunLayout, manifest: Manifest, shard: str) -> StoredShard:
        """Those of a published shard. Raises ShardError where its files are not what was written."""
        path = layout.shard_metadata(shard)
        try:
            footer = check_pair(layout, shard, manifest.fingerprint, read_footer(path))
            table = read_rows(path, [name for name in (*_COMPARED, _CRC) if name in manifest.columns.names])
            with open_maps(layout, shard, footer):  # checks it
                pass
        except (UserError, *HDF5_ERRORS) as error:
            raise ShardError(f"{shard}: what is stored of it cannot be read: {error}") from error
        return cls(layout, footer, table)

    def compare_images(self, start: int, samples: SampleColumns) -> None:
        """Compares samples with the rows from `start` on. Raises ShardError naming the first that is another image."""
        for row, (key, crc32) in enumerate(zip(samples.key, samples.image_crc32, strict=True), start=start):
            if row >= len(self) or self.key[row] != key:
                held = f"{self.key[row]!r}" if row < len(self) else "no sample"
                raise ShardError(
                    f"{self.footer.shard}: its sample {row} is {key!r} now, and was {held} when it was mined"
                )
            before = self._crc32[row]
            if before is not None and crc32 is not None and before != crc32:
                raise ShardError(
                    f"{self.footer.shard}: the image of {key!r} has other bytes than when it was mined: put the tar "
                    "back that was mined"
                )

    def compare_features(self, rows: Int64Array, features: Float32Array, precision: str | None) -> None:
        """Compares features (n, D) with those stored of these rows. Raises ShardError where they are not the same.

        Features that are not finite are not compared.
        """
        if not len(rows):
            return
        before = self._features(self.h5_row[rows]).astype(np.float64)
        if before.shape != features.shape:
            raise ShardError(
                f"{self.footer.shard}: features of {features.shape[1]} numbers, stored are {before.shape[1]}"
            )
        length = np.maximum(np.linalg.norm(before, axis=1), 1e-12)
        apart = np.linalg.norm(features.astype(np.float64) - before, axis=1) / length
        apart = np.where(np.isfinite(apart), apart, 0.0)
        worst = int(apart.argmax())
        if apart[worst] > _TOLERANCE.get(precision or "", _TOLERANCE_OF_HALF):
            raise ShardError(
                f"{self.footer.shard}: the features of {self.key[rows[worst]]!r} differ from the stored ones by "
                f"{apart[worst]:.1%} of their length: these are other weights or other images, and their maps would "
                "not belong to the run"
            )

    def _features(self, h5_rows: Int64Array) -> Float32Array:
        """(n, D) the stored features of rising h5 rows, which lie close: those of all rows may not fit into memory."""
        first, last = int(h5_rows[0]), int(h5_rows[-1])
        try:
            with open_maps(self.layout, self.footer.shard, self.footer) as file:
                found: Float32Array = stored(file, FEATURES)[first : last + 1][h5_rows - first]
        except (UserError, *HDF5_ERRORS) as error:
            raise ShardError(f"{self.footer.shard}: its stored features cannot be read: {error}") from error
        return found

    def compare_whole(self, rows: int, tar: ShardBytes | None) -> None:
        """Compares the number of samples and the tar with what was mined. Raises ShardError where they differ."""
        if rows != len(self):
            raise ShardError(f"{self.footer.shard}: its tar has {counted(rows, 'sample')}, {len(self)} were mined")
        if tar is not None and self.footer.tar is not None and tar.sha256 != self.footer.tar.sha256:
            raise ShardError(f"{self.footer.shard}: its tar has other bytes than when it was mined: put that one back")


def positions_with_results(samples: SampleColumns) -> Int64Array:
    """(n,) int64: which row of the batch's results each of its n samples has, NO_ROW where it has none."""
    has_results = np.array([status in KEPT for status in samples.status], np.bool_)
    found: Int64Array = np.where(has_results, np.cumsum(has_results) - 1, NO_ROW)
    return found


def _numbers(column: pa.ChunkedArray) -> Int64Array:
    """(N,) int64 with -1 for null."""
    found: Int64Array = pc.fill_null(column.cast(pa.int64()), NO_ROW).to_numpy().astype(np.int64)
    return found
