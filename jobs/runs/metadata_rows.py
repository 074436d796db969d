"""The model's results for a batch, and the metadata rows of one shard that are made of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cam.measures import MEASURES, measure_stack
from cam.names import column_of
from jobs.arrays import BoolArray, Float32Array, Int64Array
from jobs.runs.manifest import Manifest
from jobs.shards.columns import NAMES, SampleColumns
from jobs.shards.samples import KEPT

_Number = TypeVar("_Number", np.int64, np.float32)
_NONE = -1  # no row of the HDF5 file, no class


@dataclass(frozen=True, kw_only=True)
class Results:
    """The results for the samples of a batch that have an image, in their order: B rows.

    maps: name -> (B, h, w) float32, where the whole map of a row is NaN if the row has no such map. features (B, D)
    float32. score (B,) and probability (B,) float32. predicted (B,) int64: -1, with the probability NaN, for a model
    without classes. stored: further datasets (B, ...) float32 by name, which are stored but not measured. measures:
    (K, len(MEASURES), B) float32, those of the K maps in the order of the run's map names, as cam.measures has them;
    None where the writer is to compute them.
    done_again: how many rows were computed in fp32, since their numbers were not finite in the run's precision.
    """

    maps: Mapping[str, Float32Array]
    features: Float32Array
    score: Float32Array
    predicted: Int64Array
    probability: Float32Array
    stored: Mapping[str, Float32Array] = field(default_factory=dict)
    measures: Float32Array | None = None
    done_again: int = 0

    def rows(self, kept: BoolArray) -> Results:
        """Of the B rows those that are `kept` (B,)."""
        return Results(
            maps={name: values[kept] for name, values in self.maps.items()},
            features=self.features[kept],
            score=self.score[kept],
            predicted=self.predicted[kept],
            probability=self.probability[kept],
            stored={name: values[kept] for name, values in self.stored.items()},
            measures=None if self.measures is None else self.measures[:, :, kept],
            done_again=self.done_again,
        )


class MetadataRows:
    """The rows in tar order, kept column by column. They grow batch by batch.

    `stored` is the number of rows with maps, and `done_again` of those that were computed again in fp32. `zero_maps`
    counts the maps that are zero everywhere, by name.
    """

    def __init__(self, shard: str, manifest: Manifest) -> None:
        self.shard = shard
        self.stored = self.done_again = 0
        self.zero_maps = Counter(dict.fromkeys(manifest.maps, 0))
        self._schema = manifest.columns
        self._placement = manifest.measured_placement
        self._grid = (0, 0)
        self._of_samples: dict[str, list[object]] = {name: [] for name in self._schema.names if name in NAMES}
        self._h5_rows: list[Int64Array] = []
        self._predicted: list[Int64Array] = []
        self._numbers: list[Float32Array] = []  # (score, probability and the measures map by map; rows)

    def __len__(self) -> int:
        return len(self._of_samples["key"])

    def add(self, samples: SampleColumns, results: Results | None, kept: Sequence[int]) -> None:
        """Adds a row for each sample.

        `results` are those of the samples in the rows `kept`, in their order, which get the next h5 rows.
        """
        for name, column in self._of_samples.items():
            column += getattr(samples, name)
        h5_rows, predicted = np.full(len(samples), _NONE), np.full(len(samples), _NONE)
        numbers = np.full((2 + len(MEASURES) * len(self.zero_maps), len(samples)), np.nan, np.float32)
        if results is not None and kept:
            h5_rows[kept] = np.arange(self.stored, self.stored + len(kept))
            predicted[kept] = results.predicted
            numbers[:2, kept] = results.score, results.probability
            numbers[2:, kept] = self._measured(results)
            self.stored += len(kept)
        self._h5_rows.append(h5_rows)
        self._predicted.append(predicted)
        self._numbers.append(numbers)
        self.done_again += 0 if results is None else results.done_again

    def statuses(self) -> Counter[str]:
        """The number of rows by status."""
        return Counter(str(status) for status in self._of_samples["status"])

    def first_failure(self) -> str:
        """The key of the first row without maps, and its error. Raises ValueError if every row has maps."""
        for status, key, error in zip(*(self._of_samples[name] for name in ("status", "key", "error")), strict=True):
            if status not in KEPT:
                return f"{key!r}: {error}"
        raise ValueError("no row has failed")

    def key_bounds(self) -> tuple[str, str] | None:
        """The smallest and the largest key; None without rows."""
        keys = [str(key) for key in self._of_samples["key"]]
        return (min(keys), max(keys)) if keys else None

    def table(self, metadata: Mapping[str, str]) -> pa.Table:
        """All rows, with this key-value metadata. Raises ArrowException or ValueError if a value does not fit."""
        columns = {"shard": [self.shard] * len(self), **self._of_samples, **self._of_results()}
        return pa.table({name: columns[name] for name in self._schema.names}, self._schema.with_metadata(metadata))

    def _measured(self, results: Results) -> Float32Array:
        """(maps x measures, B): the measures map by map. The maps that are zero everywhere are counted."""
        count = len(results.score)
        maps = [results.maps[name] for name in self.zero_maps]
        self._grid = maps[0].shape[1:]
        for name, values in zip(self.zero_maps, maps, strict=True):
            self.zero_maps[name] += count - int(np.count_nonzero(values.reshape(count, -1).any(axis=1)))
        measures = measure_stack(np.stack(maps), self._placement) if results.measures is None else results.measures
        return measures.reshape(-1, count)

    def _of_results(self) -> dict[str, pa.Array]:
        """The columns of the results by name. NaN and no class become null, as in the rows without results."""
        h5_rows, predicted = (_joined(parts, np.int64) for parts in (self._h5_rows, self._predicted))
        without = h5_rows == _NONE
        found = {"h5_row": pa.array(h5_rows, mask=without)}
        found["predicted"] = pa.array(predicted, mask=predicted < 0).cast(pa.int32())
        for name, size in zip(("grid_h", "grid_w"), self._grid, strict=True):
            found[name] = pa.array(np.full(len(self), size, np.int32), mask=without)
        measures = [f"{column_of(name)}_{measure}" for name in self.zero_maps for measure in MEASURES]
        for row, name in enumerate(("score", "probability", *measures)):
            values = _joined([numbers[row] for numbers in self._numbers], np.float32)
            found[name] = pa.array(values, mask=np.isnan(values))
        return found


def _joined(parts: Sequence[NDArray[_Number]], dtype: type[_Number]) -> NDArray[_Number]:
    """All parts in one; of this type where there is none."""
    return np.concatenate(parts) if parts else np.zeros(0, dtype)
