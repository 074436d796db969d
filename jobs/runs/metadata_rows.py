"""The model's results for a batch, and the metadata rows of one shard that are made of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import count

import pyarrow as pa

from cam.measures import MEASURES, measure_maps
from cam.names import column_of
from jobs.arrays import BoolArray, Float32Array, Int64Array
from jobs.runs.manifest import Manifest
from jobs.shards.samples import KEPT, Sample
from jobs.tables import nullable

_OF_SAMPLE = frozenset(column.name for column in fields(Sample))


@dataclass(frozen=True, kw_only=True)
class Results:
    """The results for the samples of a batch that have an image, in their order: B rows.

    maps: name -> (B, h, w) float32, where the whole map of a row is NaN if the row has no such map. features (B, D)
    float32. score (B,) and probability (B,) float32. predicted (B,) int64: -1, with the probability NaN, for a model
    without classes. stored: further datasets (B, ...) float32 by name, which are stored but not measured.
    """

    maps: Mapping[str, Float32Array]
    features: Float32Array
    score: Float32Array
    predicted: Int64Array
    probability: Float32Array
    stored: Mapping[str, Float32Array] = field(default_factory=dict)

    def rows(self, kept: BoolArray) -> Results:
        """Of the B rows those that are `kept` (B,)."""
        return Results(
            maps={name: values[kept] for name, values in self.maps.items()},
            features=self.features[kept],
            score=self.score[kept],
            predicted=self.predicted[kept],
            probability=self.probability[kept],
            stored={name: values[kept] for name, values in self.stored.items()},
        )


class MetadataRows:
    """The rows in tar order, kept column by column. They grow batch by batch.

    `stored` is the number of rows with maps. `zero_maps` counts the maps that are zero everywhere, by name.
    """

    def __init__(self, shard: str, manifest: Manifest) -> None:
        self.shard = shard
        self.stored = 0
        self.zero_maps = Counter(dict.fromkeys(manifest.maps, 0))
        self._schema = manifest.columns
        self._placement = manifest.measured_placement
        self._columns: dict[str, list[object]] = {name: [] for name in self._schema.names}

    def __len__(self) -> int:
        return len(self._columns["key"])

    def add(self, samples: Sequence[Sample], results: Results | None, result_rows: Mapping[int, int]) -> None:
        """Adds a row for each sample.

        `result_rows` says which row of `results` a sample has, by its tar_index. It has only the samples whose results
        are stored, and they get the next h5 rows, in their order.
        """
        rows = [result_rows.get(sample.tar_index) for sample in samples]
        of_model = {} if results is None else self._columns_of(results, sorted(result_rows.values()))
        for name, column in self._columns.items():
            if name == "shard":
                column += [self.shard] * len(samples)
            elif name == "h5_row":
                following = count(self.stored)
                column += [None if row is None else next(following) for row in rows]
            elif name in _OF_SAMPLE:
                column += [getattr(sample, name) for sample in samples]
            else:
                column += [None if row is None else of_model[name][row] for row in rows]
        self.stored += len(result_rows)

    def statuses(self) -> Counter[str]:
        """The number of rows by status."""
        return Counter(str(status) for status in self._columns["status"])

    def first_failure(self) -> str:
        """The key of the first row without maps, and its error. Raises ValueError if every row has maps."""
        for status, key, error in zip(*(self._columns[name] for name in ("status", "key", "error")), strict=True):
            if status not in KEPT:
                return f"{key!r}: {error}"
        raise ValueError("no row has failed")

    def key_bounds(self) -> tuple[str, str] | None:
        """The smallest and the largest key; None without rows."""
        keys = [str(key) for key in self._columns["key"]]
        return (min(keys), max(keys)) if keys else None

    def table(self, metadata: Mapping[str, str]) -> pa.Table:
        """All rows, with this key-value metadata. Raises ArrowException or ValueError if a value does not fit."""
        return pa.table(self._columns, schema=self._schema.with_metadata(metadata))

    def _columns_of(self, results: Results, stored: list[int]) -> dict[str, Sequence[float | None]]:
        """The columns that come from the model, one value for each row of the results. NaN and no class become null.

        Of the `stored` rows, the maps that are zero everywhere are counted.
        """
        size = len(results.score)
        h, w = next(iter(results.maps.values())).shape[1:]
        columns: dict[str, Sequence[float | None]] = {
            "predicted": [None if label < 0 else label for label in results.predicted.tolist()],
            "score": nullable(results.score),
            "probability": nullable(results.probability),
            "grid_h": [h] * size,
            "grid_w": [w] * size,
        }
        for name, maps in results.maps.items():
            measured = measure_maps(maps, self._placement)
            self.zero_maps[name] += int((~maps[stored].any(axis=(1, 2))).sum())
            for measure in MEASURES:
                columns[f"{column_of(name)}_{measure}"] = nullable(measured[measure])
        return columns
