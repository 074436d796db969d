"""One shard's HDF5 file of raw maps, features and keys, grown batch by batch."""

from __future__ import annotations

import io
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, TypeAlias

import h5py
import numpy as np

from jobs.arrays import Float32Array
from jobs.errors import ShardError, UserError
from jobs.system_errors import reason_of

MAPS, FEATURES, KEY = "maps", "features", "key"
TAR = "tar_sha256"  # an attribute of the file: the SHA-256 of the tar that was mined
ADDITION = "addition"  # an attribute of the files of maps that were added later: the number of the addition
HEADS = "mim_attention_heads"  # (N, heads, h, w), beside the maps where it was requested
_CHUNK_ROWS = 256  # reads a random row in microseconds and all rows at disk speed (measured against 1 and 4096)
_CHUNK_BYTES = 1 << 18
_VALUE_BYTES = 4  # float32
_CHUNK_CACHE = 16 << 20  # must hold the unfinished chunk of every dataset, or each batch would rewrite those chunks

# What h5py raises on damaged files.
HDF5_ERRORS = (OSError, KeyError, RuntimeError, ValueError, TypeError, AttributeError)

WritableBuffer: TypeAlias = bytearray | memoryview
ReadableBuffer: TypeAlias = bytes | WritableBuffer


def stored(file: h5py.File, name: str) -> h5py.Dataset:
    """A dataset whose values are in this very file.

    Raises KeyError where there is none of that name, and UserError where a link, a virtual dataset or external storage
    would have HDF5 read another file: a run may come from anybody.
    """
    parts = name.split("/")
    for depth in range(1, len(parts) + 1):
        if file.id.links.get_info("/".join(parts[:depth]).encode()).type != h5py.h5l.TYPE_HARD:
            raise _elsewhere_error(file, name)
    dataset = file[name]
    if not isinstance(dataset, h5py.Dataset):
        raise KeyError(name)
    if dataset.is_virtual or dataset.external:
        raise _elsewhere_error(file, name)
    return dataset


def _elsewhere_error(file: h5py.File, name: str) -> UserError:
    return UserError(
        f"{file.filename}: {name} leads to another file, which `promptsg mine` never writes; do not trust it"
    )


class ForgivingFile:
    """Keeps the first error of writing or reading in `error`, and drops all later writes.

    HDF5 cannot close a file that it cannot flush, and then keeps it open until the process ends. With this file it
    never sees an error and closes properly. The caller then raises the error that was kept.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.error: OSError | None = None
        self.extent = 0  # the bytes that the file needs, whether they were written or not

    def write(self, data: ReadableBuffer) -> int:
        """Writes. After an error it only says that it did."""
        size = memoryview(data).nbytes
        self.extent = max(self.extent, self.file.tell() + size)
        if self.error is None:
            try:
                self.file.write(data)
            except OSError as error:
                self.error = error
        return size

    def flush(self) -> None:
        """Flushes, or keeps the error."""
        if self.error is None:
            try:
                self.file.flush()
            except OSError as error:
                self.error = error

    def read(self, size: int = -1) -> bytes:
        """Reads. h5py recognises a file by this method, but calls `readinto`."""
        return self.file.read(size)

    def readinto(self, buffer: WritableBuffer) -> int:
        """Fills the buffer. What was never written reads as zeros."""
        view = memoryview(buffer).cast("B")
        data = b""
        try:
            data = self.file.read(len(view))
        except OSError as error:  # HDF5 reads an unfinished chunk again to add rows to it: zeros would be published
            self.error = self.error or error
        view[: len(data)] = data
        view[len(data) :] = bytes(len(view) - len(data))
        return len(view)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Moves to a position. Buffered bytes that no longer fit on the disk count as a write error."""
        try:
            return self.file.seek(offset, whence)
        except OSError as error:
            self.error = self.error or error
            return offset

    def tell(self) -> int:
        """The position in the file."""
        return self.file.tell()

    def truncate(self, size: int | None = None) -> int:
        """Truncates. After an error it only says that it did."""
        if self.error is None:
            try:
                return self.file.truncate(size)
            except OSError as error:
                self.error = error
        return size or 0


class ShardMapsWriter:
    """Appends rows of maps (B, h, w) float32 and features (B, D) float32. `close` writes the keys.

    Raises ShardError, with the path and the space needed, if the disk does not take the bytes.
    """

    def __init__(self, file: IO[bytes], path: Path, attributes: Mapping[str, str | int]) -> None:
        self.path = path
        self.rows = 0
        self._keys: list[bytes] = []
        self._datasets: dict[str, h5py.Dataset] = {}  # looking one up takes as long as adding rows to it
        self._file = ForgivingFile(file)
        # libver keeps the format readable by HDF5 1.10. There are no timestamps: equal content gives equal bytes.
        self._h5 = h5py.File(self._file, "w", libver=("earliest", "v110"), rdcc_nbytes=_CHUNK_CACHE)
        for name, value in attributes.items():
            self._h5.attrs[name] = value
        self._h5.create_group(MAPS)

    def append(self, keys: Sequence[str], maps: Mapping[str, Float32Array], features: Float32Array | None) -> None:
        """Adds one batch: arrays of as many rows as there are keys. A file of added maps has no features."""
        for name, values in maps.items():
            self._extend(f"{MAPS}/{name}", values)
        if features is not None:
            self._extend(FEATURES, features)
        self._keys += [key.encode() for key in keys]
        self.rows += len(keys)
        self._check()

    def close(self, tar_sha256: str | None = None) -> None:
        """Writes the keys, and the hash of the tar, and closes the HDF5 file. The underlying file stays open."""
        if tar_sha256 is not None:
            self._h5.attrs[TAR] = tar_sha256
        longest = max((len(key) for key in self._keys), default=1)
        keys = np.array(self._keys, dtype=f"S{longest}").astype(h5py.string_dtype("utf-8", longest))
        self._datasets.clear()  # or they would keep the file open
        self._h5.create_dataset(KEY, data=keys, maxshape=(None,), chunks=(_CHUNK_ROWS,), fletcher32=True)
        self._h5.close()
        self._check()

    def abandon(self) -> None:
        """Closes without writing anything more, for a shard that will not be published."""
        self._file.error = self._file.error or OSError("abandoned")
        self._datasets.clear()
        if self._h5:
            self._h5.close()

    def _extend(self, name: str, values: Float32Array) -> None:
        """Appends rows to a dataset, which the first batch creates."""
        dataset = self._datasets.get(name)
        if dataset is None:
            shape = values.shape[1:]
            row_bytes = int(np.prod(shape)) * _VALUE_BYTES
            rows = max(1, min(_CHUNK_ROWS, _CHUNK_BYTES // row_bytes))
            dataset = self._datasets[name] = self._h5.create_dataset(
                name, shape=(0, *shape), maxshape=(None, *shape), chunks=(rows, *shape), dtype="<f4", fletcher32=True
            )
        _append_rows(dataset.id, self.rows, np.ascontiguousarray(values, "<f4"))

    def _check(self) -> None:
        if self._file.error is not None:
            raise disk_error(self.path, self._file.error, self._file.extent)


def _append_rows(dataset: h5py.h5d.DatasetID, rows: int, values: Float32Array) -> None:
    """Adds rows to a dataset that has `rows` of them. h5py's usual way takes as long as what HDF5 does for it."""
    shape = values.shape
    dataset.set_extent((rows + shape[0], *shape[1:]))
    there = dataset.get_space()
    there.select_hyperslab((rows, *(0 for _ in shape[1:])), shape)
    dataset.write(h5py.h5s.create_simple(shape), there, values)


def disk_error(path: Path, error: OSError, needed: int | None = None) -> ShardError:
    """The error for a file that the disk does not take: the path, the reason, the bytes needed and the bytes free."""
    message = f"cannot write {path}: {reason_of(error)}"
    try:
        free = shutil.disk_usage(path.parent).free
    except OSError:
        return ShardError(message)
    takes = f"it takes at least {needed:,} bytes, " if needed else ""
    return ShardError(f"{message} ({takes}{free:,} are free there)")
