"""Reading a run: metadata as a pyarrow dataset or row by row, maps and features by name and row."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds

from jobs.arrays import Float32Array, Int64Array
from jobs.errors import UserError
from jobs.phrases import did_you_mean
from jobs.runs.footer import ShardFooter, damaged_error, read_facts, read_rows
from jobs.runs.growth.added_maps import AddedMaps, added_maps
from jobs.runs.growth.run_json import grown_manifest
from jobs.runs.heads.names import head_names, is_head, refuse_shared_columns
from jobs.runs.heads.rows import MapRows, map_rows
from jobs.runs.integrity.belonging import maps_path, refuse_unlisted, unreadable
from jobs.runs.integrity.footers import RunFooters
from jobs.runs.layout import RunLayout
from jobs.runs.manifest import Manifest, read_manifest
from jobs.runs.maps_file import FEATURES, HDF5_ERRORS, HEADS, KEY, MAPS, stored
from jobs.runs.request import canonical_sha256
from jobs.shards.names import is_file_name
from jobs.shards.shard_bytes import ShardBytes
from jobs.shards.urls import Shard
from jobs.system_errors import cause_of

T = TypeVar("T")
# An option of newer versions of pyarrow.
_FORGET_FOOTERS = {"cache_metadata": False} if int(pa.__version__.partition(".")[0]) >= 20 else {}
_DENSE = 8  # one slice is faster than picking rows, up to so many rows of the slice for each row that is wanted


@dataclass(frozen=True)
class _OpenFile:
    """A Parquet file in the state in which it was opened."""

    path: str
    modified_ns: int
    size: int


class Run:
    """A run on disk, finished or still growing. Only published shards are seen.

    Of a shard that is not done, the images are seen that `mine --limit` took of it, if it did. Where another process
    mines that shard whole meanwhile, all of its images are seen, of which those are the first.

    Where a shard's files are not its own, such as another run's, every method that reads them raises UserError naming
    the file. `footers` has what the files say of themselves. `evaluation` is the folder of `promptsg evaluate`, by
    default RUN/evaluation: SQL expressions may name its `ap` and `first_rank`.
    """

    def __init__(self, root: Path, evaluation: Path | None = None) -> None:
        self.layout = RunLayout(root).reading_begun()
        self.evaluation = evaluation or self.layout.evaluation
        self.manifest: Manifest = read_manifest(self.layout)
        self.footers = RunFooters(self.layout, self.manifest.fingerprint)
        self._files: list[_OpenFile] | None = None  # those of the last dataset
        self._dataset: ds.Dataset | None = None
        self._checked: set[_OpenFile] = set()  # files whose footers were seen to be their shards' own
        self._added: tuple[AddedMaps, ...] | None = None if self.manifest.additions else ()
        self._heads: int | None = None

    @property
    def maps(self) -> tuple[str, ...]:
        """Names of the stored maps: those that the run was started with, and those that were added to every done shard.

        This does not change as long as the run is open.
        """
        return (*self.manifest.maps, *(name for one in self.added if one.is_complete for name in one.maps))

    @property
    def added(self) -> tuple[AddedMaps, ...]:
        """The maps that were added later, and on how many of the shards they are, as it was at the first look.

        Those that a done shard lacks are neither in `maps` nor in `schema`. Raises UserError as `published`, and where
        a footer is damaged.
        """
        if self._added is None:
            footers = self.reading_again(lambda: self.footers.all_of(self.published()))
            self._added = added_maps(self.manifest, footers)
        return self._added

    @property
    def heads(self) -> int | None:
        """How many heads of its attention the run stored, as its first shard with images has them.

        0 where it stored only their mean, and None where no shard with images is done. Raises UserError as `open_maps`.
        """
        if not self.manifest.has_heads:
            return 0
        if self._heads is None:
            for shard in self.published():
                if self.footer_of(shard).images:
                    with self.open_maps(shard) as file:
                        self._heads = int(stored(file, f"{MAPS}/{HEADS}").shape[1])
                    break
        return self._heads

    @property
    def schema(self) -> pa.Schema:
        """The columns of the metadata."""
        return self.manifest.columns_with(one.number for one in self.added if one.is_complete)

    @property
    def fingerprint(self) -> str:
        """The SHA-256 of what a reader sees of the run when all is done: its settings, all shards, and added maps.

        It is that of run.json as long as the run has not grown.
        """
        complete = [one.number for one in self.added if one.is_complete]
        shards = self.manifest.list_fingerprint
        return canonical_sha256({"shards": shards, "additions": complete}) if complete else shards

    def published(self) -> list[str]:
        """Names of the shards that are done, and of those of which the first images are there (`layout.begun`).

        Raises UserError where a Parquet file is there that is not a shard's.
        """
        published = self._list_shards()
        refuse_unlisted(self.layout, published, (shard.name for shard in self.manifest.recorded_shards))
        return sorted(published)

    def _list_shards(self) -> set[str]:
        """The shards with files as they are now, which `layout` then knows."""
        done, begun = self.layout.done_and_begun()
        if begun != self.layout.begun:  # they have been mined whole since, or others were begun
            self.layout = replace(self.layout, begun=frozenset(begun))
            self.footers = RunFooters(self.layout, self.manifest.fingerprint)
        return done | begun

    def reading_again(self, read: Callable[[], T]) -> T:
        """What `read` returns. It is called again where a begun shard became done, which removes its first images.

        Raises what `read` raises where that is not the reason.
        """
        while True:
            begun = self.layout.begun
            try:
                return read()
            except (UserError, OSError):
                if begun:
                    self._list_shards()
                if begun <= self.layout.begun:
                    raise

    def footer_of(self, shard: str) -> ShardFooter:
        """What a shard's file says of itself. Raises UserError where it is damaged or another's."""
        return self.reading_again(lambda: self.footers.of(shard))

    def metadata(self, shards: Iterable[str] | None = None) -> ds.Dataset:
        """The metadata of all published shards, or of the named ones: one row for each sample, failures included.

        Shards are in the order of their names, and rows in tar order. As long as the files stay the same, the same
        dataset is returned, which has read their footers before. Raises UserError naming a file that is damaged, or
        that is not its shard's.
        """
        files = self._checked_files(shards)
        if self._files != files:
            self._dataset = ds.dataset([file.path for file in files], schema=self.schema, format="parquet")
            self._files = files
        return self._dataset

    def metadata_files(self, shards: Iterable[str] | None = None) -> list[str]:
        """The paths of the Parquet files, in the order of the shards' names. Raises as `metadata`."""
        return [file.path for file in self._checked_files(shards)]

    def metadata_size(self) -> int:
        """The bytes of all metadata files that were looked at so far."""
        return sum(file.size for file in self._checked)

    def _checked_files(self, shards: Iterable[str] | None) -> list[_OpenFile]:
        """The published or named files as they are now. Raises UserError naming one that is not its shard's."""
        wanted = None if shards is None else sorted(shards)
        return self.reading_again(lambda: self._files_now(wanted))

    def _files_now(self, shards: Sequence[str] | None) -> list[_OpenFile]:
        names = self.published() if shards is None else shards
        files = []
        for name in names:
            path = self.layout.shard_metadata(name)
            try:
                state = path.stat()
            except OSError as error:
                raise damaged_error(path, error) from error
            files.append(_OpenFile(str(path), state.st_mtime_ns, state.st_size))
        self.footers.forget(name for name, file in zip(names, files, strict=True) if file not in self._checked)
        self.footers.all_of(names)
        self._checked.update(files)
        return files

    def mined_shards(self, names: Iterable[str]) -> list[Shard]:
        """The named shards; local ones with the size that their tars had when they were mined.

        A tar may change between the start of a run and its own turn. Raises UserError where a footer is damaged.
        """
        wanted = set(names)
        return [self._as_mined(shard) for shard in self.manifest.shards if shard.name in wanted]

    def _as_mined(self, shard: Shard) -> Shard:
        # Only a local file has a size before it is read.
        if shard.size is None:
            return shard
        tar = self.reading_again(lambda: self._tar_of(shard.name))
        return shard if tar is None else replace(shard, size=tar.size, modified_ns=tar.modified_ns)

    def _tar_of(self, shard: str) -> ShardBytes | None:
        """The tar that was mined. None where the shard is not done, or where its footer does not tell."""
        if shard in self.layout.begun or self.layout.shard_metadata(shard).exists():
            return self.footers.of(shard).tar
        return None

    def read_metadata(
        self, columns: Sequence[str], shards: Iterable[str] | None = None, where: ds.Expression | None = None
    ) -> pa.Table:
        """Columns of the metadata, of all rows or of those that meet a condition. Raises UserError as `metadata`."""
        wanted = None if shards is None else list(shards)
        return self.reading_again(lambda: self._read_table(columns, wanted, where))

    def _read_table(self, columns: Sequence[str], shards: list[str] | None, where: ds.Expression | None) -> pa.Table:
        try:
            # A dataset would keep the footers that it reads: with 10,000 files they take gigabytes.
            return self.metadata(shards).to_table(columns=list(columns), filter=where, **_FORGET_FOOTERS)
        except (pa.ArrowException, OSError) as error:
            self.refuse_damaged(shards)
            raise UserError(f"cannot read a file in {self.layout.metadata}: {cause_of(error)}") from error

    def refuse_damaged(self, shards: Iterable[str] | None = None) -> None:
        """Raises UserError naming the first file of which not all rows or columns can be read.

        Errors of pyarrow and DuckDB do not name it.
        """
        for name in sorted(self._list_shards() if shards is None else shards):
            self.reading_again(partial(self._refuse_damaged, name))

    def _refuse_damaged(self, shard: str) -> None:
        path = self.layout.shard_metadata(shard)
        numbers = [file.number for file in read_facts(path).added]
        manifest = grown_manifest(self.layout, self.manifest, numbers)
        known = numbers if manifest.numbered_additions.keys() >= set(numbers) else []
        if not read_rows(path).schema.equals(manifest.columns_with(known)):
            raise damaged_error(path, ValueError("it has other columns than the run"))

    def choose_maps(self, names: Sequence[str]) -> tuple[str, ...]:
        """The named maps, each once; `mim_attention#3` is head 3 of the attention, `mim_attention#all` is every head.

        Raises UserError for one that the run lacks, naming the nearest and all, or how many heads there are.
        """
        found: list[str] = []
        for name in names:
            if is_head(name):
                heads = head_names(self.layout.root, self.manifest, name, self.heads)
                refuse_shared_columns(heads, self.maps)
                found += heads
            else:
                self._require_map(name)
                found.append(name)
        return tuple(dict.fromkeys(found))

    def _require_map(self, name: str) -> None:
        if name not in self.maps:
            if incomplete := [one for one in self.added if name in one.maps]:
                raise UserError(f"{self.layout.root} has {name!r} not everywhere: {incomplete[0].describe()}")
            hint = did_you_mean(name, self.maps) or "."
            raise UserError(f"{self.layout.root} has no map {name!r}{hint} It has {', '.join(self.maps)}")

    def shared_maps(self, other: Run, names: Sequence[str] = ()) -> tuple[str, ...]:
        """The named maps, or all that the other run has too, in this run's order.

        Raises UserError for a name that one of the runs lacks, and where they have no map in common.
        """
        if names:
            return other.choose_maps(self.choose_maps(names))
        if shared := tuple(name for name in self.maps if name in other.maps):
            return shared
        raise UserError(
            f"{self.layout.root} and {other.layout.root} have no map in common: one has {', '.join(self.maps)}, the "
            f"other {', '.join(other.maps)}"
        )

    def read_maps(self, name: str, shard: str, rows: slice | Sequence[int] | None = None) -> Float32Array:
        """(N, h, w) float32 raw maps of a shard: all, a slice, or the given h5 rows in their order.

        `mim_attention#3` is one head, and `mim_attention_heads` gives (N, heads, h, w), if the run stored its heads.
        Where a row lacks the target, its maps of the target are NaN.

        Raises UserError naming the map or the shard that does not exist, or the shard to which a map was not added yet.
        """
        number = self.manifest.addition_of(name)
        if number is None and not (name == HEADS and self.manifest.has_heads) and self.choose_maps([name]) != (name,):
            raise UserError(f"{name} is not one map: read them one by one, or {HEADS} for all heads at once")
        return self._read(name, shard, rows, number)

    def read_features(self, shard: str, rows: slice | Sequence[int] | None = None) -> Float32Array:
        """(N, D) float32 retrieval features of a shard, not normalised; rows as in `read_maps`."""
        return self._read(None, shard, rows)

    def read_keys(self, shard: str) -> list[str]:
        """The keys of a shard's h5 rows."""
        with self.open_maps(shard) as file:
            return [key.decode() for key in stored(file, KEY)[:]]

    def maps_of(self, name: str, rows: pa.Table | Sequence[Mapping[str, object]]) -> Float32Array:
        """(N, h, w) float32 maps of metadata rows, in their order.

        `rows` is a table, or a list of mappings, with `shard` and `h5_row`. Raises UserError if a row has no map.
        """
        if not isinstance(rows, pa.Table):
            places = {name: [row[name] for row in rows] for name in ("shard", "h5_row")}
            rows = pa.table(places, schema=pa.schema([self.schema.field("shard"), self.schema.field("h5_row")]))
        if rows["h5_row"].null_count:
            raise UserError("a row without h5_row has no map; select status = 'ok'")
        numbers = rows["h5_row"].to_numpy()
        found: Float32Array = np.empty((0, 0, 0), np.float32)
        for shard, positions in positions_by_shard(rows["shard"]).items():
            maps = self.read_maps(name, shard, numbers[positions].tolist())
            if not len(found):
                found = np.empty((len(numbers), *maps.shape[1:]), np.float32)
            found[positions] = maps
        return found

    @contextlib.contextmanager
    def open_maps(self, shard: str, *, cache: int | None = None, addition: int | None = None) -> Iterator[h5py.File]:
        """The HDF5 file of a shard, open for reading, or with the number of an `addition` that of maps added later.

        `manifest.addition_of` says where a map is. `cache` are the bytes of chunks that are kept, by default HDF5's.

        Raises UserError if the shard is not done, or if the file is missing, damaged or another shard's, also where
        that shows only when something in it is read.
        """
        try:
            with self.reading_again(lambda: self._open(shard, cache, addition)) as file:
                yield file
        except HDF5_ERRORS as error:  # also of closing the file
            raise unreadable(self.layout, shard, error, addition) from error

    def _open(self, shard: str, cache: int | None, addition: int | None) -> h5py.File:
        self.require_files(shard)
        if addition is None:
            return self.footers.open_maps(shard, cache=cache)
        return self.footers.open_added(shard, addition, cache=cache)

    def require_files(self, shard: str) -> None:
        """Raises UserError unless the shard is done, or its first images are there."""
        if not is_file_name(shard):  # rows come from data: a name must not lead out of the folders
            raise UserError(f"{self.layout.root} has rows of a shard {shard!r}, which cannot be the name of its files")
        if not self.layout.shard_metadata(shard).is_file():
            raise UserError(f"the shard {shard!r} is not done in {self.layout.root}")

    def maps_path(self, name: str, shard: str) -> Path:
        """The HDF5 file that holds a map of a shard."""
        return maps_path(self.layout, shard, self.manifest.addition_of(name))

    def _read(
        self, name: str | None, shard: str, rows: slice | Sequence[int] | None, addition: int | None = None
    ) -> Float32Array:
        """Rows of a map, or of the features where `name` is None."""
        # First images that are removed while they are read are gone on some network file systems at once.
        return self.reading_again(lambda: self._read_now(name, shard, rows, addition))

    def _read_now(
        self, name: str | None, shard: str, rows: slice | Sequence[int] | None, addition: int | None
    ) -> Float32Array:
        with self.open_maps(shard, addition=addition) as file:
            try:
                dataset = stored(file, FEATURES) if name is None else map_rows(file, name)
            except KeyError:  # HDF5 says the same where it cannot read
                if self.footers.of(shard).images:
                    raise
                return np.empty((0, 0) if name is None else (0, 0, 0), np.float32)  # all images of it have failed
            if rows is None:
                return np.asarray(dataset[:])
            if isinstance(rows, slice):
                return np.asarray(dataset[rows])
            return _read_rows(dataset, np.asarray(rows, np.int64))


def open_run(root: str | Path, *, evaluation: str | Path | None = None) -> Run:
    """Opens a run for reading. Raises UserError if the folder is not a run.

    `evaluation` is the folder of the run's `promptsg evaluate`, by default RUN/evaluation.

    >>> run = open_run("RUN")
    >>> run.maps
    ('mim_attention', 'gradcam++/mim')
    >>> rows = run.metadata().to_table(columns=["shard", "key", "h5_row", "pid"])
    >>> rows["pid"][:3].to_pylist()
    [1, 1, 1]
    >>> run.maps_of("gradcam++/mim", rows[:3]).shape  # (N, h, w) float32, raw
    (3, 8, 4)
    """
    return Run(Path(root), None if evaluation is None else Path(evaluation))


def positions_by_shard(shards: pa.ChunkedArray) -> dict[str, Int64Array]:
    """Shard -> the positions of its rows, rising, in a column (N,) of shard names."""
    if not len(shards):
        return {}
    encoded = pa.chunked_array(shards).combine_chunks().dictionary_encode()
    numbers = encoded.indices.to_numpy()
    ends = np.cumsum(np.bincount(numbers, minlength=len(encoded.dictionary)))
    positions = np.split(np.argsort(numbers, kind="stable"), ends[:-1])
    return dict(zip(encoded.dictionary.to_pylist(), positions, strict=True))


def _read_rows(dataset: MapRows, rows: Int64Array) -> Float32Array:
    """The rows of an HDF5 dataset in any order, also repeated."""
    # h5py wants rising, distinct rows, and picks them slowly: rows that lie close are read as one slice.
    unique, inverse = np.unique(rows, return_inverse=True)
    if not len(unique):
        return np.asarray(dataset[:0])
    first, end = int(unique[0]), int(unique[-1]) + 1
    if end - first <= _DENSE * len(unique):
        return np.asarray(dataset[first:end])[unique - first][inverse]
    return np.asarray(dataset[unique])[inverse]
