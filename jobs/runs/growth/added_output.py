"""What a later pass over a published shard adds to it: an HDF5 file of further maps, and their columns.

The files of the shard's own maps are not touched. The new HDF5 file is published first, then the shard's Parquet file
is replaced by one with further columns and a footer that names the new file. So a shard has one commit at any instant:
whoever reads it finds the old columns or all of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cam.measures import measure_maps
from cam.names import MapName, column_of
from jobs.arrays import BoolArray, Float32Array, Int64Array
from jobs.atomic import StagedFile, exclusive, sha256_of
from jobs.errors import ShardError, UserError
from jobs.phrases import counted
from jobs.runs.events import ShardReport
from jobs.runs.footer import ADDED_FACT, AddedFile, ShardFooter, read_rows
from jobs.runs.growth.stored_shard import NO_ROW, StoredShard, positions_with_results
from jobs.runs.integrity.run_json import refuse_replaced
from jobs.runs.integrity.seal import KEY as SEAL
from jobs.runs.integrity.seal import UNSEALED
from jobs.runs.layout import RunLayout
from jobs.runs.manifest import Manifest, read_manifest
from jobs.runs.maps_file import ADDITION, ShardMapsWriter
from jobs.runs.metadata_rows import Results
from jobs.runs.schema import known_measures, measure_fields
from jobs.runs.shard_output import Committed, check_maps, errors_of_shard, stage, write_sealed
from jobs.shards.columns import SampleColumns
from jobs.shards.samples import NOT_FINITE, OK
from jobs.shards.shard_bytes import ShardBytes

OTHER_PREDICTION = "other_prediction"  # the class whose map would be taken is not the one of the stored maps
PREDICTED = "predicted"


class _BatchRows:
    """The rows of a shard in one batch that have stored maps, n of them.

    row (n,): their places in the shard. result (n,): their places in the results of the batch, NO_ROW where the pass
    has none. status: those of the samples. is_other (n,) bool: the pass predicts another class. lacking: why a row
    lacks one of the further maps.
    """

    def __init__(self, row: Int64Array, result: Int64Array, status: Sequence[str]) -> None:
        self.row, self.result, self.status = row, result, status
        self.there: BoolArray = result != NO_ROW
        self.is_whole: BoolArray = np.array([one == OK for one in status], np.bool_)
        self.is_other: BoolArray = np.zeros(len(row), np.bool_)
        self.lacking = [None if there else one for there, one in zip(self.there.tolist(), status, strict=True)]

    def note(self, rows: BoolArray, reason: str) -> None:
        """Notes why rows lack a map; the first reason of a row counts."""
        for place in np.flatnonzero(rows).tolist():
            self.lacking[place] = self.lacking[place] or reason


class AddedOutput:
    """The unpublished files of one addition to one shard. To be used by one thread.

    The rows that have maps are those of the shard. Where one lacks a further map, that is NaN, and counted by reason.
    With `replace`, the maps of an earlier pass that some rows lack are replaced.
    Every method raises ShardError, which means that nothing is added to the shard. `commit` also raises
    RunReplacedError: the job's run is no longer in the folder.
    """

    def __init__(
        self,
        layout: RunLayout,
        manifest: Manifest,
        number: int,
        shard: str,
        max_failed_fraction: float,
        *,
        replace: bool = False,
    ) -> None:
        self.layout, self.manifest, self.number, self.shard, self.replace = layout, manifest, number, shard, replace
        self.max_failed_fraction = max_failed_fraction
        self._maps = manifest.numbered_additions[number]
        self._stored = StoredShard.read(layout, manifest, shard)
        self._row = 0  # the next one of the shard
        self._done_again = 0
        self._failed: Counter[str] = Counter()
        self._zero_maps = Counter(dict.fromkeys(self._maps, 0))
        self._measures: list[Float32Array] = []  # (maps x measures, rows with maps), batch by batch
        self._file = stage(layout.shard_added(shard, number))
        attributes: dict[str, str | int] = {"fingerprint": manifest.fingerprint, "shard": shard, ADDITION: number}
        self._h5 = ShardMapsWriter(self._file.file, self._file.final, attributes)

    def add(self, samples: SampleColumns, results: Results | None) -> None:
        """Adds one batch. `results` has a row for each sample whose status is in KEPT; None if there is none."""
        self._done_again += 0 if results is None else results.done_again
        self._stored.compare_images(self._row, samples)
        with_maps = np.flatnonzero(self._stored.h5_row[self._row : self._row + len(samples)] != NO_ROW)
        if len(with_maps):
            result = positions_with_results(samples)[with_maps]
            status = [samples.status[row] for row in with_maps]
            self._add_rows(_BatchRows(self._row + with_maps, result, status), results)
        self._row += len(samples)

    def commit(self, tar: ShardBytes | None = None, passed_over: Mapping[str, int] | None = None) -> Committed:
        """Checks both files, publishes the HDF5 file, and then replaces the Parquet file.

        `tar` are the bytes that were read. Nothing is published, and the result is False, where another worker has
        added the same maps before.
        """
        self._stored.compare_whole(self._row, tar)
        self._refuse_too_many_failures()
        self._h5.close(None if tar is None else tar.sha256)
        with errors_of_shard(self.shard, self._file.final):
            self._file.sync()
            check_maps(self._file.path, self._h5.rows, self._maps, features=False)
            own = self._own()  # hashed before, since all workers wait for the lock
            with exclusive(self.layout.lock):
                refuse_replaced(self.layout, self.manifest)
                return Committed(self._publish(own), self._report(passed_over or {}))

    def discard(self) -> None:
        """Removes what was not published."""
        self._h5.abandon()
        self._file.discard()

    def _add_rows(self, batch: _BatchRows, results: Results | None) -> None:
        """Adds rows of the shard that have maps."""
        if results is not None:
            there = batch.there
            self._compare(batch, results.features[batch.result[there]])
            batch.is_other[there] = self._of_other_classes(batch.row[there], results.predicted[batch.result[there]])
        maps: dict[str, Float32Array] = {}
        measures = []
        for name in self._maps:
            maps[name], measured = self._of_map(name, batch, results)
            measures.append(measured)
        self._failed.update(reason for reason in batch.lacking if reason is not None)
        self._measures.append(np.concatenate(measures))
        self._h5.append([self._stored.key[row] for row in batch.row], maps, None)

    def _of_map(self, name: str, batch: _BatchRows, results: Results | None) -> tuple[Float32Array, Float32Array]:
        """A map of the rows (n, h, w) and its measures (measures, n), NaN where a row lacks it, which is noted."""
        measured = np.full((len(known_measures()), len(batch.row)), np.nan, np.float32)
        if results is None:
            return np.full((len(batch.row), *self._stored.grid), np.nan, np.float32), measured
        found = results.maps[name]
        values = np.full((len(batch.row), *found.shape[1:]), np.nan, np.float32)
        of_target = MapName.parse(name).needs_target
        usable = batch.there & ~batch.is_other if of_target else batch.there
        good = usable.copy()
        finite = np.isfinite(found.reshape(len(found), -1)).all(axis=1)
        good[usable] = np.take(finite, batch.result[usable])
        values[good] = found[batch.result[good]]
        measures = measure_maps(found, self.manifest.measured_placement)
        measured[:, good] = np.stack([measures[one][batch.result[good]] for one in known_measures()])
        self._zero_maps[name] += int((~values.any(axis=(1, 2))).sum())
        # A row without a target rightly has no maps of the target.
        batch.note(usable & ~good & (batch.is_whole if of_target else True), NOT_FINITE)
        batch.note(batch.is_other & of_target, OTHER_PREDICTION)
        return values, measured

    def _compare(self, batch: _BatchRows, features: Float32Array) -> None:
        """Raises ShardError where the rows that have results are not what the pass made of them."""
        for row, status, there in zip(batch.row.tolist(), batch.status, batch.there.tolist(), strict=True):
            if there and self._stored.status[row] != status:
                raise ShardError(
                    f"{self.shard}: {self._stored.key[row]!r} is {status} now, and was {self._stored.status[row]} when "
                    "it was mined"
                )
        self._stored.compare_features(batch.row[batch.there], features, self.manifest.resolved.precision)

    def _of_other_classes(self, rows: Int64Array, predicted: Int64Array) -> BoolArray:
        """(n,) whether the maps would be those of another class than the stored ones.

        Where two classes are nearly as likely, another kind of device may find the other one.
        """
        before = self._stored.predicted[rows]
        other: BoolArray = (before != NO_ROW) & (predicted != before)
        return other if self.manifest.asked.target == PREDICTED else np.zeros_like(other)

    def _refuse_too_many_failures(self) -> None:
        if self._failed.total() > self.max_failed_fraction * len(self._stored):
            reasons = ", ".join(f"{count} {reason}" for reason, count in self._failed.most_common())
            raise ShardError(
                f"{self.shard}: {self._failed.total()} of "
                f"{counted(len(self._stored), 'image lacks', 'images lack')} the added maps ({reasons}), "
                f"more than max_failed_fraction {self.max_failed_fraction:g} allows"
            )

    def _own(self) -> AddedFile:
        """What the footer is to say of the HDF5 file."""
        return AddedFile(
            number=self.number,
            h5_size=self._file.path.stat().st_size,
            h5_sha256=sha256_of(self._file.path),
            failed=dict(self._failed),
        )

    def _publish(self, own: AddedFile) -> bool:
        """Publishes both files, while the lock of the run is held. Returns False where the maps are there already."""
        path = self.layout.shard_metadata(self.shard)
        if not path.is_file():
            raise self._mined_again()
        try:
            manifest = read_manifest(self.layout)  # which may have got further additions since this job began
            table = read_rows(path)
        except UserError as error:
            raise ShardError(f"{self.shard}: nothing can be added to it: {error}") from error
        footer = ShardFooter.from_metadata(table.schema.metadata, len(table))
        if footer.h5_sha256 != self._stored.footer.h5_sha256:
            raise self._mined_again()
        if (there := footer.added_file(self.number)) is not None:
            if not (self.replace and there.failed):
                return False
            table, footer = self._without(table, footer)
            with stage(path) as staged:  # a kill after this leaves a shard without the maps, never with those of others
                self._write(staged, table, footer, manifest)
                staged.publish()
        columns = {name: table[name] for name in table.column_names} | self._columns()
        with stage(path) as staged:
            grown = pa.table(columns).replace_schema_metadata(table.schema.metadata)
            self._write(staged, grown, self._grown(footer, own), manifest)
            self._file.publish()
            staged.publish()
        return True

    def _grown(self, footer: ShardFooter, own: AddedFile) -> ShardFooter:
        """The footer of the shard with this addition."""
        added = tuple(sorted((*footer.added, own), key=lambda file: file.number))
        return replace(footer, added=added, zero_maps={**footer.zero_maps, **self._zero_maps})

    def _without(self, table: pa.Table, footer: ShardFooter) -> tuple[pa.Table, ShardFooter]:
        """The rows and the footer of the shard as they would be without this addition."""
        facts = {name: value for name, value in table.schema.metadata.items() if name != ADDED_FACT.encode()}
        own = [field.name for field in measure_fields(self._maps, self.manifest.version_of_columns)]
        return table.drop_columns(own).replace_schema_metadata(facts), replace(
            footer,
            added=tuple(file for file in footer.added if file.number != self.number),
            zero_maps={name: count for name, count in footer.zero_maps.items() if name not in self._maps},
        )

    def _write(self, staged: StagedFile, table: pa.Table, footer: ShardFooter, manifest: Manifest) -> None:
        """Writes rows with a footer, their columns in the order of the run, seals the file, and reads it again."""
        schema = manifest.columns_with(file.number for file in footer.added)
        facts = {**(table.schema.metadata or {}), **_as_bytes({**footer.as_metadata(), SEAL: UNSEALED})}
        ordered = pa.table({name: table[name] for name in schema.names}, schema=schema.with_metadata(facts))
        write_sealed(ordered, staged)
        if not pq.read_table(staged.path).equals(ordered):
            raise ShardError(f"{staged.final}: other rows came back when it was read again")

    def _columns(self) -> dict[str, pa.Array]:
        """The further columns by name, (N,) with null where a row lacks a map."""
        fields = measure_fields(self._maps, self.manifest.version_of_columns)
        written = [f"{column_of(name)}_{one}" for name in self._maps for one in known_measures()]
        with_maps = self._stored.h5_row != NO_ROW
        found = {}
        for field in fields:
            values = np.full(len(self._stored), np.nan, np.float32)
            if self._measures:
                values[with_maps] = np.concatenate([part[written.index(field.name)] for part in self._measures])
            found[field.name] = pa.array(values, mask=np.isnan(values))
        return found

    def _report(self, passed_over: Mapping[str, int]) -> ShardReport:
        return ShardReport(
            shard=self.shard,
            images=self._h5.rows - self._failed.total(),
            failed=dict(self._failed),
            zero_maps=dict(self._zero_maps),
            passed_over=dict(passed_over),
            done_again=self._done_again,
        )

    def _mined_again(self) -> ShardError:
        return ShardError(f"{self.shard}: it was mined again while maps were added to it: give the same command again")


def _as_bytes(facts: Mapping[str, str]) -> dict[bytes, bytes]:
    return {name.encode(): value.encode() for name, value in facts.items()}
