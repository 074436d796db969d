"""Reference features of the `similarity` target: the mean feature of a person's other images in an earlier run.

No torch. Features are normalised to unit length before they are averaged.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from numpy.typing import NDArray

from jobs.arrays import BoolArray, Float32Array, Float64Array, Int64Array
from jobs.errors import UserError
from jobs.identity import identities, identity_columns, identity_name, identity_of
from jobs.phrases import counted
from jobs.runs.run import Run, open_run
from jobs.shards.columns import SampleColumns

# One reference image: the hash of its key, its person, and where its feature is. Persons and shards are numbered.
_IMAGE = np.dtype([("hash", np.uint64), ("person", np.int64), ("shard", np.int64), ("h5_row", np.int64)])
_Images = NDArray[np.void]
_TRAINING_SPLITS = ("train", "val")


class References:
    """The sum of the features of each person, and where each image's own feature is, so that it can be subtracted.

    `root` is a finished run; with `split` only its images of that split are references. Raises UserError where the run
    is not finished, or has no image of a known person.
    """

    def __init__(self, root: Path, split: str | None = None) -> None:
        self.run = _open_finished(root)
        self._has_identities = "identity" in self.run.schema.names
        rows = self._rows(split)
        people = _people(rows).dictionary_encode()
        self._number_of = {name: number for number, name in enumerate(people.dictionary.to_pylist())}
        self._shards = sorted(set(rows["shard"].to_pylist()))
        images = self._images_of(rows, people.indices.to_numpy())
        self._counts = np.bincount(images["person"], minlength=len(self._number_of))
        self._sums = self._sum(images)
        self._images = images[np.argsort(images["hash"], kind="stable")]

    @property
    def dimension(self) -> int:
        """The length of the features; 0 if there are none."""
        return int(self._sums.shape[1])

    def of(self, samples: SampleColumns, dimension: int) -> tuple[Float32Array, BoolArray]:
        """(B, dimension) references, zero where there is none, and (B,) whether there is one."""
        totals, counts = np.zeros((len(samples), dimension)), np.zeros(len(samples), np.int64)
        own = []
        for number, (key, person) in enumerate(zip(samples.key, self._people_of(samples), strict=True)):
            if person is not None:
                same = self._same_image(key, person)
                totals[number], counts[number] = self._sums[person], self._counts[person] - len(same)
                own.append((number, same))
        if own:
            numbers = np.repeat([number for number, _ in own], [len(same) for _, same in own])
            np.subtract.at(totals, numbers, self._features(np.concatenate([same for _, same in own]), dimension))
        known = counts > 0
        means = totals / np.maximum(counts, 1)[:, None]
        return np.where(known[:, None], means, 0).astype(np.float32), known

    def _rows(self, split: str | None) -> pa.Table:
        """The rows that have a feature and show a known person."""
        wanted = ~pc.is_null(ds.field("h5_row"))
        if split is not None:
            wanted &= ds.field("split") == split
        columns = {"shard", "key", "h5_row", "pid", "split", *identity_columns(self.run.schema.names)}
        rows = self.run.read_metadata(sorted(columns), where=wanted)
        rows = rows.filter(pc.is_valid(identities(rows)))
        if not len(rows):
            where = f" in split {split!r}" if split is not None else ""
            raise UserError(f"the reference run {self.run.layout.root} has no image of a known person{where}")
        return rows

    def _people_of(self, samples: SampleColumns) -> list[int | None]:
        """The number of the person on each image; None for one that has no image here."""
        identities = samples.identity if self._has_identities else map(identity_of, samples.pid, samples.key)
        people = zip(identities, samples.pid, samples.split, strict=True)
        return [None if who is None else self._number_of.get(_person(who, pid, split)) for who, pid, split in people]

    def _images_of(self, rows: pa.Table, people: Int64Array) -> _Images:
        images = np.empty(len(rows), _IMAGE)
        shard_numbers = {shard: number for number, shard in enumerate(self._shards)}
        images["hash"] = [_hash(key) for key in rows["key"].to_pylist()]
        images["person"] = people
        images["shard"] = [shard_numbers[shard] for shard in rows["shard"].to_pylist()]
        images["h5_row"] = rows["h5_row"].to_numpy()
        return images

    def _sum(self, images: _Images) -> Float64Array:
        """(P, D): the sum of the unit features of each person. Reads each shard once."""
        sums: Float64Array | None = None
        images = images[np.argsort(images["shard"], kind="stable")]
        ends = np.searchsorted(images["shard"], np.arange(1, len(self._shards)))
        for shard, here in zip(self._shards, np.split(images, ends), strict=True):
            features = _unit(self.run.read_features(shard)[here["h5_row"]])
            if sums is None:
                sums = np.zeros((len(self._number_of), features.shape[1]))
            np.add.at(sums, here["person"], features)
        return np.zeros((0, 0)) if sums is None else sums

    def _same_image(self, key: str, person: int) -> _Images:
        """The references that are this image itself."""
        hashes, own = self._images["hash"], np.uint64(_hash(key))
        first, last = np.searchsorted(hashes, own, side="left"), np.searchsorted(hashes, own, side="right")
        found = self._images[first:last]
        same: _Images = found[found["person"] == person]
        return same

    def _features(self, images: _Images, dimension: int) -> Float64Array:
        """(n, dimension) unit features of these images. Opens each of their shards once."""
        found = np.zeros((len(images), dimension))
        for number in np.unique(images["shard"]):
            here = np.flatnonzero(images["shard"] == number)
            found[here] = _unit(self.run.read_features(self._shards[int(number)], images["h5_row"][here].tolist()))
        return found


def _people(rows: pa.Table) -> pa.Array:
    """(N,) text: who is on each row's image."""
    images = zip(identities(rows).to_pylist(), rows["pid"].to_pylist(), rows["split"].to_pylist(), strict=True)
    return pa.array([_person(*image) for image in images], pa.string())


def _person(identity: str, pid: int | None, split: str | None) -> str:
    """A person as references tell persons apart.

    An identity that is the pid alone says nothing of other splits, since the pids of some data sets start again.
    """
    if pid is None or identity not in (str(pid), identity_name(pid)):
        return identity
    return f"{'training' if split in _TRAINING_SPLITS else 'testing'}/{pid}"


def _open_finished(root: Path) -> Run:
    run = open_run(root)
    done = run.layout.done()
    if missing := [shard.name for shard in run.manifest.shards if shard.name not in done]:
        raise UserError(
            f"the reference run {root} is not finished: {counted(len(missing), 'shard is', 'shards are')} missing, "
            f"such as {missing[0]}. "
            "Its features would change while they are used"
        )
    return run


def _unit(features: Float32Array) -> Float64Array:
    """(n, D) at unit length; a zero vector stays zero."""
    wide = features.astype(np.float64)
    unit: Float64Array = wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-12)
    return unit


def _hash(key: str) -> int:
    """64 bits of a key: they take 8 bytes, where a text would take many more for each of very many images."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little")
