"""What one shard leaves behind: its HDF5 file, its Parquet file and a report, published together or not at all."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cam.names import MapName
from jobs.arrays import BoolArray, Float32Array
from jobs.atomic import StagedFile, make_folder, publish_together, sha256_of
from jobs.errors import ShardError
from jobs.phrases import counted, one_line
from jobs.runs.events import ShardReport
from jobs.runs.footer import ShardFooter
from jobs.runs.integrity.run_json import refuse_replaced
from jobs.runs.integrity.seal import KEY as SEAL
from jobs.runs.integrity.seal import UNSEALED, seal
from jobs.runs.layout import RunLayout
from jobs.runs.manifest import Manifest
from jobs.runs.maps_file import FEATURES, KEY, MAPS, ShardMapsWriter, disk_error
from jobs.runs.metadata_rows import MetadataRows, Results
from jobs.runs.restart import remove_first_images
from jobs.shards.columns import SampleColumns
from jobs.shards.samples import KEPT, NOT_FINITE, OK
from jobs.shards.shard_bytes import ShardBytes


class Committed(NamedTuple):
    """`published` is False if another attempt had published the shard before; `report` is this attempt's."""

    published: bool
    report: ShardReport


class ShardOutput:
    """The two unpublished files of one shard. To be used by one thread.

    Every method raises ShardError, which means that nothing of the shard can be published. `commit` also raises
    RunReplacedError, which means that no shard can be: the job's run is no longer in the folder.
    """

    def __init__(
        self, layout: RunLayout, manifest: Manifest, shard: str, max_failed_fraction: float, *, replace: bool = False
    ) -> None:
        self.layout, self.manifest, self.shard, self.replace = layout, manifest, shard, replace
        self.max_failed_fraction = max_failed_fraction
        self._rows = MetadataRows(shard, manifest)
        self._maps = stage(layout.shard_maps(shard))
        attributes = {"fingerprint": manifest.fingerprint, "shard": shard}
        self._h5 = ShardMapsWriter(self._maps.file, self._maps.final, attributes)

    def add(self, samples: SampleColumns, results: Results | None) -> None:
        """Adds one batch: a row for each sample, and maps of those that are kept.

        `results` has a row for each sample whose status is in KEPT, in their order; None if there is none. A sample
        with non-finite results becomes a failed row.
        """
        if results is None:
            self._rows.add(samples, None, [])
            return
        imaged = samples.rows_with(KEPT)
        finite = _reject_non_finite(samples, imaged, results)
        kept = [row for row, is_finite in zip(imaged, finite.tolist(), strict=True) if is_finite]
        results = results if finite.all() else results.rows(finite)
        if kept:
            self._h5.append([samples.key[row] for row in kept], {**results.maps, **results.stored}, results.features)
        self._rows.add(samples, results, kept)

    def commit(
        self, tar: ShardBytes | None = None, passed_over: Mapping[str, int] | None = None, *, only_first: bool = False
    ) -> Committed:
        """Checks both files, and publishes the HDF5 file first and the Parquet file last.

        `tar` are the bytes that were mined. `passed_over` counts, by kind, the members of which nothing was made. With
        `only_first` the rows are those of the shard's first images: they are published where they do not make it done.
        """
        report = replace(self._report(passed_over or {}), only_first=only_first)
        self._refuse_too_many_failures(Counter(report.failed), only_first=only_first)
        layout = self.layout
        if only_first:
            layout = RunLayout(layout.root, frozenset([self.shard]))
            make_folder(layout.first_images)
            self._maps.final = layout.shard_maps(self.shard)
        self._h5.close(None if tar is None else tar.sha256)
        with errors_of_shard(self.shard, self._maps.final):
            self._maps.sync()
            check_maps(self._maps.path, self._h5.rows, self.manifest.maps)
            with stage(layout.shard_metadata(self.shard)) as rows:
                self._write_rows(rows, report, tar)
                check = partial(refuse_replaced, layout, self.manifest)
                again = self.replace or only_first
                published = publish_together(self._maps, rows, layout.lock, replace=again, check=check)
                if not only_first:
                    remove_first_images(layout, [self.shard])
                return Committed(published, report)

    def discard(self) -> None:
        """Removes what was not published."""
        self._h5.abandon()
        self._maps.discard()

    def _report(self, passed_over: Mapping[str, int]) -> ShardReport:
        statuses = self._rows.statuses()
        return ShardReport(
            shard=self.shard,
            images=self._h5.rows,
            failed={status: count for status, count in statuses.items() if status not in KEPT},
            partial={status: count for status, count in statuses.items() if status in KEPT and status != OK},
            zero_maps=dict(self._rows.zero_maps),
            passed_over=dict(passed_over),
            done_again=self._rows.done_again,
        )

    def _refuse_too_many_failures(self, failed: Counter[str], *, only_first: bool) -> None:
        """Raises ShardError where too many samples failed. Of the first images, a single good one is enough to look at.

        Of a few images, one that is damaged would be more than the fraction that is allowed of a shard.
        """
        if failed.total() > self.max_failed_fraction * len(self._rows) and not (only_first and self._h5.rows):
            reasons = ", ".join(f"{count} {reason}" for reason, count in failed.most_common())
            raise ShardError(
                f"{self.shard}: {failed.total()} of {len(self._rows)} samples failed ({reasons}), more than "
                f"max_failed_fraction {self.max_failed_fraction:g} allows; the first is {self._rows.first_failure()}"
            )

    def _write_rows(self, staged: StagedFile, report: ShardReport, tar: ShardBytes | None) -> None:
        footer = ShardFooter(
            fingerprint=self.manifest.fingerprint,
            shard=self.shard,
            h5_size=self._maps.path.stat().st_size,
            h5_sha256=sha256_of(self._maps.path),
            images=report.images,
            failed=report.failed,
            partial=report.partial,
            zero_maps=report.zero_maps,
            passed_over=report.passed_over,
            done_again=report.done_again,
            tar=tar,
            keys=self._rows.key_bounds(),
        )
        table = self._rows.table({**footer.as_metadata(), SEAL: UNSEALED})
        write_sealed(table, staged)
        written = pq.read_metadata(staged.path).num_rows
        if written != len(table):
            raise ShardError(
                f"{staged.final}: {written} of {counted(len(table), 'row')} came back when it was read again"
            )


def _reject_non_finite(samples: SampleColumns, imaged: Sequence[int], results: Results) -> BoolArray:
    """(B,) whether all numbers of a row are finite; the other samples become failed, and name the first bad dataset.

    `imaged` are the B samples with results. One without a target has no maps of the target: NaN is correct there.
    """
    kept = np.ones(len(imaged), bool)
    stored = {**results.maps, **results.stored, FEATURES: results.features}
    if all(_is_surely_finite(values) for values in stored.values()):
        return kept
    without_target = np.array([samples.status[row] != OK for row in imaged], bool)
    for name, values in stored.items():
        good = np.isfinite(values.reshape(len(imaged), -1)).all(axis=1)
        if name in results.maps and MapName.parse(name).needs_target:
            good |= without_target
        for row in np.flatnonzero(kept & ~good).tolist():
            kept[row] = False
            samples.mark(imaged[row], NOT_FINITE, f"{name} has values that are not finite")
    return kept


def _is_surely_finite(values: Float32Array) -> bool:
    """Whether all values are finite, as their sum tells. False where they are not, and where the sum is too large."""
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(values.sum()))


def stage(final: Path) -> StagedFile:
    """A temporary file beside `final`. Raises ShardError where the disk does not take it."""
    try:
        return StagedFile(final)
    except OSError as error:
        raise disk_error(final, error) from error


@contextlib.contextmanager
def errors_of_shard(shard: str, maps: Path) -> Iterator[None]:
    """Whatever a shard's files make a library raise becomes a ShardError. `maps` is the path of its HDF5 file."""
    try:
        yield
    except OSError as error:
        raise disk_error(maps, error) from error
    except RuntimeError as error:  # HDF5 cannot close a file that it has read again
        raise ShardError(f"cannot read {maps} again: {one_line(error)}") from error
    except (pa.ArrowException, ValueError) as error:  # a value that a column cannot hold must cost this shard alone
        raise ShardError(f"{shard}: its metadata cannot be written: {one_line(error)}") from error


def write_sealed(table: pa.Table, staged: StagedFile) -> None:
    """Writes the rows of a shard, whose facts have room for the seal, seals the file, and has the disk take it."""
    pq.write_table(table, staged.file, compression="zstd", write_page_checksum=True)
    seal(staged.file)
    staged.sync()


def check_maps(path: Path, rows: int, maps: Sequence[str], *, features: bool = True) -> None:
    """Opens a finished HDF5 file again. Raises ShardError unless every dataset has every row."""
    datasets = [*([FEATURES] if features else []), *(f"{MAPS}/{name}" for name in maps)]
    names = [KEY] if rows == 0 else [KEY, *datasets]
    with h5py.File(path, "r", locking=False) as file:
        for name in names:
            if name not in file or len(file[name]) != rows:
                raise ShardError(
                    f"{path}: {name} does not have the {counted(rows, 'row that was', 'rows that were')} written"
                )
