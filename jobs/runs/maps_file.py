"""One shard's HDF5 file of raw maps, features and keys, grown batch by batch."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import h5py
import numpy as np
from numpy.typing import NDArray

from jobs.errors import ShardError

MAPS, FEATURES, KEY = "maps", "features", "key"
HEADS = "mim_attention_heads"  # (N, heads, h, w), beside the maps where it was asked for
_CHUNK_ROWS = 256  # a random row costs microseconds and a scan runs at disk speed (measured against 1 and 4096)
_CHUNK_BYTES = 1 << 18
_CHUNK_CACHE = 16 << 20  # must hold the unfinished chunk of every dataset, or each batch would rewrite it


class ForgivingFile:
    """A file whose first write error is kept in `error` and whose later writes are dropped.

    HDF5 cannot close a file that it cannot flush, and then keeps it open until the process ends. Told that all is
    well it closes properly, and the caller raises the error that was kept.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.error: OSError | None = None
        self.extent = 0  # the bytes that the file needs, written or not

    def write(self, data: Any) -> int:
        """Writes, or pretends to after an error."""
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
        """As a file's; h5py tells a file from a path by this method, and calls `readinto`."""
        return self.file.read(size)

    def readinto(self, buffer: Any) -> int:
        """Reads; what was never written reads as zeros."""
        view = memoryview(buffer).cast("B")
        count = 0
        with contextlib.suppress(OSError):
            count = self.file.readinto(view)  # type: ignore[attr-defined]
        view[count:] = bytes(len(view) - count)
        return len(view)

    def seek(self, offset: int, whence: int = 0) -> int:
        """As a file's; buffered bytes that no longer fit on the disk are the kept error's business."""
        try:
            return self.file.seek(offset, whence)
        except OSError as error:
            self.error = self.error or error
            return offset

    def tell(self) -> int:
        """As a file's."""
        return self.file.tell()

    def truncate(self, size: int | None = None) -> int:
        """Truncates, or pretends to after an error."""
        if self.error is None:
            try:
                return self.file.truncate(size)
            except OSError as error:
                self.error = error
        return size or 0


class ShardMapsWriter:
    """Appends rows of maps (B, h, w) float32 and features (B, D) float32; `close` writes the keys.

    Raises ShardError, with the path and the space needed, when the disk does not take it.
    """

    def __init__(self, file: IO[bytes], path: Path, attributes: Mapping[str, str]) -> None:
        self.path = path
        self.rows = 0
        self._keys: list[bytes] = []
        self._file = ForgivingFile(file)
        # libver keeps the format readable by HDF5 1.10; no timestamps: equal content gives equal bytes.
        self._h5 = h5py.File(self._file, "w", libver=("earliest", "v110"), rdcc_nbytes=_CHUNK_CACHE)
        for name, value in attributes.items():
            self._h5.attrs[name] = value
        self._h5.create_group(MAPS)

    def append(
        self, keys: Sequence[str], maps: Mapping[str, NDArray[np.float32]], features: NDArray[np.float32]
    ) -> None:
        """Adds one batch; all arrays have as many rows as there are keys."""
        for name, values in maps.items():
            self._extend(f"{MAPS}/{name}", values)
        self._extend(FEATURES, features)
        self._keys += [key.encode() for key in keys]
        self.rows += len(keys)
        self._check()

    def close(self) -> None:
        """Writes the keys and closes the HDF5 file; the underlying file stays open."""
        longest = max((len(key) for key in self._keys), default=1)
        kind = h5py.string_dtype("utf-8", longest)
        chunks = (_CHUNK_ROWS,)
        keys = np.array(self._keys, dtype=f"S{longest}").astype(kind)
        self._h5.create_dataset(KEY, data=keys, maxshape=(None,), chunks=chunks, fletcher32=True)
        self._h5.close()
        self._check()

    def abandon(self) -> None:
        """Closes without another byte, for a shard that will not be published."""
        self._file.error = self._file.error or OSError("abandoned")
        if self._h5:
            self._h5.close()

    def _extend(self, name: str, values: NDArray[np.float32]) -> None:
        if name not in self._h5:
            row_bytes = int(np.prod(values.shape[1:])) * 4
            rows = max(1, min(_CHUNK_ROWS, _CHUNK_BYTES // row_bytes))
            shape = values.shape[1:]
            self._h5.create_dataset(
                name, shape=(0, *shape), maxshape=(None, *shape), chunks=(rows, *shape), dtype="<f4", fletcher32=True
            )
        dataset = self._h5[name]
        dataset.resize(self.rows + len(values), axis=0)
        dataset[self.rows :] = values

    def _check(self) -> None:
        if self._file.error is not None:
            raise disk_error(self.path, self._file.error, self._file.extent)


def disk_error(path: Path, error: OSError, needed: int | None = None) -> ShardError:
    """What to tell a user whose disk refuses: the path, the reason, the room that it takes, and what is left there."""
    with contextlib.suppress(OSError):
        free = shutil.disk_usage(path.parent).free
        takes = f"it takes at least {needed:,} bytes, " if needed else ""
        return ShardError(f"cannot write {path}: {error.strerror or error} ({takes}{free:,} are free there)")
    return ShardError(f"cannot write {path}: {error.strerror or error}")
