"""What one shard leaves behind: its HDF5 file, its Parquet file, and a report; published together or not at all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cam.measures import MEASURES, measure_maps
from cam.names import MapName, column_of
from jobs.atomic import StagedFile, publish_together, sha256_of
from jobs.errors import ShardError
from jobs.runs.events import ShardReport
from jobs.runs.footer import ShardFooter
from jobs.runs.layout import RunLayout
from jobs.runs.manifest import Manifest
from jobs.runs.maps_file import KEY, ShardMapsWriter, disk_error
from jobs.shards.samples import KEPT, NOT_FINITE, OK, Sample
from jobs.tables import nullable


@dataclass(frozen=True, kw_only=True)
class Results:
    """The model's numbers for the samples of a batch that have an image, in their order, as numpy arrays.

    maps: name -> (B, h, w) float32, whole maps of NaN where a row has no such map; features (B, D) float32; score,
    probability (B,) float32; predicted (B,) int64; stored: further
    datasets of any shape (B, ...), which are not measured.
    """

    maps: Mapping[str, NDArray[np.float32]]
    features: NDArray[np.float32]
    score: NDArray[np.float32]
    predicted: NDArray[np.int64]
    probability: NDArray[np.float32]
    stored: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)


class ShardOutput:
    """The two unpublished files of one shard, and the rows so far. One thread only."""

    def __init__(
        self, layout: RunLayout, manifest: Manifest, shard: str, max_failed_fraction: float, *, replace: bool = False
    ) -> None:
        self.layout, self.manifest, self.shard, self.replace = layout, manifest, shard, replace
        self.max_failed_fraction = max_failed_fraction
        self.columns: dict[str, list[Any]] = {name: [] for name in manifest.columns.names}
        self.zero_maps = Counter(dict.fromkeys(manifest.maps, 0))
        self._maps = _stage(layout.shard_maps(shard))
        attributes = {"fingerprint": manifest.fingerprint, "shard": shard}
        self._h5 = ShardMapsWriter(self._maps.file, self._maps.final, attributes)

    def add(self, samples: Sequence[Sample], results: Results | None) -> None:
        """Adds one batch: a row per sample, and maps of those that are kept. `results` is None if none is."""
        good = [sample for sample in samples if sample.status in KEPT]
        if results is not None:
            finite = self._reject_not_finite(good, results)
            keys = [sample.key for sample, kept in zip(good, finite, strict=True) if kept]
            rows = np.where(finite, self._h5.rows + np.cumsum(finite) - 1, -1)
            if keys:
                maps = {name: values[finite] for name, values in {**results.maps, **results.stored}.items()}
                self._h5.append(keys, maps, results.features[finite])
            self._add_rows(samples, results, finite, rows)
        else:
            self._add_rows(samples, None, np.zeros(0, bool), np.zeros(0, int))

    def commit(self) -> tuple[bool, ShardReport]:
        """Checks both files, publishes HDF5 first and Parquet last; False if another attempt had published already."""
        statuses = Counter(self.columns["status"])
        failed = Counter({status: count for status, count in statuses.items() if status not in KEPT})
        report = ShardReport(
            shard=self.shard,
            images=self._h5.rows,
            failed=dict(failed),
            partial={status: count for status, count in statuses.items() if status in KEPT - {OK}},
            zero_maps=dict(self.zero_maps),
        )
        self._refuse_too_many_failures(failed)
        self._h5.close()
        try:
            self._maps.sync()
            _check_maps(self._maps.path, self._h5.rows, self.manifest.maps)
            with _stage(self.layout.shard_metadata(self.shard)) as rows:
                self._write_rows(rows, report)
                return publish_together(self._maps, rows, self.layout.lock, replace=self.replace), report
        except OSError as error:
            raise disk_error(self._maps.final, error) from error
        except (pa.ArrowException, ValueError) as error:  # a row that no column takes must cost this shard alone
            raise ShardError(f"{self.shard}: its metadata cannot be written: {' '.join(str(error).split())}") from error

    def discard(self) -> None:
        """Removes what was not published."""
        self._h5.abandon()
        self._maps.discard()

    def _reject_not_finite(self, samples: Sequence[Sample], results: Results) -> NDArray[np.bool_]:
        """(B,) whether every number of a row is finite; the others become failed rows that name the first bad map.

        A row without a target has no map of it: NaN is what is meant there.
        """
        kept = np.ones(len(samples), bool)
        meant = np.array([sample.status != OK for sample in samples])
        for name, values in {**results.maps, **results.stored, "features": results.features}.items():
            finite = np.isfinite(values.reshape(len(samples), -1)).all(axis=1)
            if name in results.maps and MapName.parse(name).needs_target:
                finite |= meant
            for row in np.flatnonzero(kept & ~finite).tolist():
                kept[row] = False
                samples[row].status, samples[row].error = NOT_FINITE, f"{name} has values that are not finite"
        return kept

    def _add_rows(
        self,
        samples: Sequence[Sample],
        results: Results | None,
        finite: NDArray[np.bool_],
        rows: NDArray[np.int64],
    ) -> None:
        numbers = {} if results is None else self._numbers(results, rows)
        position = -1
        for sample in samples:
            row = asdict(sample)
            had_image = sample.status in KEPT or sample.status == NOT_FINITE
            position += had_image
            for name, column in self.columns.items():
                if name in row:
                    column.append(row[name])
                elif name == "shard":
                    column.append(self.shard)
                else:
                    column.append(numbers[name][position] if had_image and finite[position] else None)

    def _numbers(self, results: Results, rows: NDArray[np.int64]) -> dict[str, list[Any]]:
        """Column -> one value per image for the columns that come from the model; NaN becomes null."""
        count = len(results.score)
        h, w = next(iter(results.maps.values())).shape[1:]
        columns: dict[str, list[Any]] = {
            "h5_row": rows.tolist(),
            "predicted": results.predicted.tolist(),
            "score": nullable(results.score),
            "probability": results.probability.tolist(),
            "grid_h": [h] * count,
            "grid_w": [w] * count,
        }
        for name, maps in results.maps.items():
            measured = measure_maps(maps)
            self.zero_maps[name] += int((measured["max"] == 0).sum())
            for measure in MEASURES:
                columns[f"{column_of(name)}_{measure}"] = nullable(measured[measure])
        return columns

    def _refuse_too_many_failures(self, failed: Counter[str]) -> None:
        total, bad = len(self.columns["key"]), failed.total()
        if bad > self.max_failed_fraction * total:
            reasons = ", ".join(f"{count} {reason}" for reason, count in failed.most_common())
            first = next(i for i, status in enumerate(self.columns["status"]) if status not in KEPT)
            raise ShardError(
                f"{self.shard}: {bad} of {total} samples failed ({reasons}), more than max_failed_fraction "
                f"{self.max_failed_fraction:g} allows; the first is {self.columns['key'][first]!r}: "
                f"{self.columns['error'][first]}"
            )

    def _write_rows(self, staged: StagedFile, report: ShardReport) -> None:
        footer = ShardFooter(
            fingerprint=self.manifest.fingerprint,
            shard=self.shard,
            h5_size=self._maps.path.stat().st_size,
            h5_sha256=sha256_of(self._maps.path),
            images=report.images,
            failed=report.failed,
            partial=report.partial,
            zero_maps=report.zero_maps,
        )
        schema = self.manifest.columns.with_metadata(footer.as_metadata())
        table = pa.table(self.columns, schema=schema)
        pq.write_table(table, staged.file, compression="zstd", write_page_checksum=True)
        staged.sync()
        written = pq.read_metadata(staged.path).num_rows
        if written != len(table):
            raise ShardError(f"{staged.final}: {written} of {len(table)} rows came back when it was read again")


def _stage(final: Path) -> StagedFile:
    try:
        return StagedFile(final)
    except OSError as error:
        raise disk_error(final, error) from error


def _check_maps(path: Path, rows: int, maps: Sequence[str]) -> None:
    """Reopens a finished HDF5 file and looks whether every dataset is there with every row."""
    with h5py.File(path, "r", locking=False) as file:
        wanted = [KEY] if rows == 0 else [KEY, "features", *(f"maps/{name}" for name in maps)]
        for name in wanted:
            if name not in file or len(file[name]) != rows:
                raise ShardError(f"{path}: {name} does not have the {rows} rows that were written")
