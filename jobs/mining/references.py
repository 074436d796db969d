"""Reference features of the `similarity` target: the mean feature of a person's other images in an earlier run.

No torch. Features are normalised to unit length before they are averaged. Training identities are kept apart from the
others: some datasets start counting pids again for testing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from numpy.typing import NDArray

from jobs.errors import UserError
from jobs.runs.run import Run, open_run
from jobs.shards.samples import Sample

Array = NDArray[np.float32]
_TRAINING = ("train", "val")


class References:
    """Sums of features per person, and where each image's own feature lies so that it can be taken out again."""

    def __init__(self, root: Path, split: str | None = None) -> None:
        self.run = _finished(root)
        rows = self._rows(split)
        self._people: dict[tuple[bool, int], int] = {}
        person = [
            self._people.setdefault((kind in _TRAINING, pid), len(self._people))
            for kind, pid in zip(rows["split"].to_pylist(), rows["pid"].to_pylist(), strict=True)
        ]
        hashes = np.array([_hash(key) for key in rows["key"].to_pylist()], np.uint64)
        self._order = np.argsort(hashes, kind="stable")
        self._hashes = hashes[self._order]
        self._person = np.array(person, np.int64)
        self._shards = sorted(set(rows["shard"].to_pylist()))
        numbers = {shard: number for number, shard in enumerate(self._shards)}
        self._shard = np.array([numbers[shard] for shard in rows["shard"].to_pylist()], np.int64)
        self._row = np.array(rows["h5_row"].to_pylist(), np.int64)
        self._counts = np.bincount(self._person, minlength=len(self._people))
        self._sums = self._summed()

    @property
    def dimension(self) -> int:
        """Length of the features; 0 without any."""
        return int(self._sums.shape[1])

    def of(self, samples: Sequence[Sample], dimension: int) -> tuple[Array, NDArray[np.bool_]]:
        """(B, dimension) references, zero where there is none, and (B,) whether there is one."""
        totals, counts = np.zeros((len(samples), dimension)), np.zeros(len(samples), np.int64)
        whose: list[int] = []
        own: list[int] = []
        for number, sample in enumerate(samples):
            person = self._people.get((sample.split in _TRAINING, -1 if sample.pid is None else sample.pid))
            if person is None:
                continue
            mine = self._own(sample.key, person).tolist()
            totals[number], counts[number] = self._sums[person], self._counts[person] - len(mine)
            whose += [number] * len(mine)
            own += mine
        np.subtract.at(totals, np.array(whose, np.int64), self._features(np.array(own, np.int64), dimension))
        known = counts > 0
        return np.where(known[:, None], totals / np.maximum(counts, 1)[:, None], 0).astype(np.float32), known

    def _rows(self, split: str | None) -> pa.Table:
        dataset = self.run.metadata()
        wanted = ~pc.is_null(ds.field("h5_row")) & (ds.field("pid") > 0)
        if split is not None:
            wanted &= ds.field("split") == split
        rows = dataset.to_table(columns=["shard", "key", "h5_row", "pid", "split"], filter=wanted)
        if not len(rows):
            where = f" in split {split!r}" if split is not None else ""
            raise UserError(f"the reference run {self.run.layout.root} has no image of a known person{where}")
        return rows

    def _summed(self) -> NDArray[np.float64]:
        sums: NDArray[np.float64] | None = None
        for number, shard in enumerate(self._shards):
            mine = np.flatnonzero(self._shard == number)
            features = _unit(self.run.read_features(shard)[self._row[mine]])
            if sums is None:
                sums = np.zeros((len(self._people), features.shape[1]))
            np.add.at(sums, self._person[mine], features)
        return np.zeros((0, 0)) if sums is None else sums

    def _own(self, key: str, person: int) -> NDArray[np.int64]:
        """Positions of this very image among the references of its person."""
        first, last = (np.searchsorted(self._hashes, _hash(key), side=side) for side in ("left", "right"))
        same = self._order[first:last]
        return same[self._person[same] == person]

    def _features(self, positions: NDArray[np.int64], dimension: int) -> NDArray[np.float64]:
        """(n, dimension) unit features at these positions; each shard that they lie in is opened once."""
        found = np.zeros((len(positions), dimension))
        for number in np.unique(self._shard[positions]):
            here = np.flatnonzero(self._shard[positions] == number)
            rows = self._row[positions[here]].tolist()
            found[here] = _unit(self.run.read_features(self._shards[int(number)], rows))
        return found


def _finished(root: Path) -> Run:
    run = open_run(root)
    missing = [shard.name for shard in run.manifest.shards if shard.name not in run.layout.done()]
    if missing:
        raise UserError(
            f"the reference run {root} is not finished ({len(missing)} shards are missing, such as {missing[0]}): "
            "its features would change under way"
        )
    return run


def _unit(features: Array) -> NDArray[np.float64]:
    wide = features.astype(np.float64)
    return wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-12)


def _hash(key: str) -> np.uint64:
    return np.uint64(int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little"))
