"""Features of both sides in memory, and how many queries fit beside them."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from jobs.arrays import Float32Array
from jobs.errors import UserError
from jobs.phrases import counted
from jobs.progress import told
from jobs.retrieval.rerank import RerankConfig
from jobs.runs.run import Run

_LARGEST_BLOCK = 1024  # more query rows make the matrix product no faster
_COMPARED = 512  # rows whose directions are compared: 130,000 pairs
_FEATURE_ROWS = 4096  # read at a time
# The interpreter, its libraries, DuckDB and one block of float64 features, measured; the rest is planned for.
_PROGRAM = 400_000_000


@told("reading the features")
def load_features(
    run: Run, queries: pa.Table, gallery: pa.Table, memory: int, rerank: RerankConfig | None
) -> tuple[Float32Array, int]:
    """The features (N + M, D) of both sides, queries first, and how many queries at a time fit in `memory` bytes.

    Raises UserError if the memory does not suffice, before the features are read.
    """
    width = run.read_features(queries["shard"][0].as_py(), slice(0, 1)).shape[1]
    block = plan_block(len(queries), len(gallery), width, memory, rerank)
    features = np.empty((len(queries) + len(gallery), width), np.float32)
    read_features(run, queries, features[: len(queries)])
    read_features(run, gallery, features[len(queries) :])
    return features, block


def median_cosine(features: Float32Array) -> float | None:
    """The median cosine of pairs of different rows of (N, D), over evenly spaced rows; None for a single row.

    At 1 all features point in one direction: then the rank of an image is decided by rounding and by small parts.
    """
    spaced = np.unique(np.linspace(0, len(features) - 1, min(len(features), _COMPARED)).astype(np.int64))
    if len(spaced) < 2:
        return None
    rows = features[spaced].astype(np.float64)
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.finfo(np.float64).tiny)
    return float(np.median((rows @ rows.T)[np.triu_indices(len(rows), 1)]))


def plan_block(queries: int, gallery: int, width: int, memory: int, rerank: RerankConfig | None = None) -> int:
    """How many query rows fit beside the features in `memory` bytes. Raises UserError naming the bytes if none does."""
    images = queries + gallery
    fixed = _PROGRAM + images * width * 4 + (images if rerank else gallery) * 64
    row = width * 12 + gallery * 4
    if rerank is not None:
        fixed += rerank.memory(images)
        row = width * 12 + images * 20  # float64 beside the float32 that it comes from
    if memory < fixed + row:
        what = "re-ranking" if rerank else "ranking"
        raise UserError(
            f"{what} {counted(queries, 'query', 'queries')} against {counted(gallery, 'image')} needs up to "
            f"{(fixed + row) / 1e9:.2f} GB, and --memory "
            f"allows {memory / 1e9:.2f} GB: raise it to {-(-(fixed + row) // 10**8) / 10:g}GB, or select fewer images"
        )
    return min(_LARGEST_BLOCK, (memory - fixed) // row)


def read_features(run: Run, table: pa.Table, out: Float32Array) -> None:
    """Fills (N, D) float32 with the features of the rows, in the table's order, which is that of shards and h5 rows."""
    shards = table["shard"].to_numpy(zero_copy_only=False)
    rows = table["h5_row"].to_numpy()
    starts = np.flatnonzero(np.append(True, shards[1:] != shards[:-1])).tolist()
    for start, stop in zip(starts, [*starts[1:], len(table)], strict=True):
        for first in range(start, stop, _FEATURE_ROWS):
            part = slice(first, min(first + _FEATURE_ROWS, stop))
            out[part] = run.read_features(shards[start], rows[part])
