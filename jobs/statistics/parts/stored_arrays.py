"""The arrays of a .npz archive: whole, or some rows of one, so that a large one is never in memory."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

_LOCAL_HEADER = 30  # bytes before a member's name in a ZIP file; the lengths of the name and of what follows end them


@dataclass(frozen=True)
class _Rows:
    """Where the rows of an array begin in the file, one behind the other."""

    start: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]


class StoredArrays:
    """An archive whose bytes were compared with its checksums when it was opened; later only rows are read.

    Raises zipfile.BadZipFile, OSError or ValueError where the file is damaged or is not such an archive.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._state = path, _state(path)
        self._rows: dict[str, _Rows] = {}
        self._whole: dict[str, NDArray[Any]] = {}
        with zipfile.ZipFile(path) as archive:
            if bad := archive.testzip():
                raise zipfile.BadZipFile(f"Bad CRC-32 for file {bad!r}")
            self.names = tuple(info.filename.removesuffix(".npy") for info in archive.infolist())
            for name, info in zip(self.names, archive.infolist(), strict=True):
                if found := _rows_of(archive, info, path):
                    self._rows[name] = found

    def whole(self, name: str) -> NDArray[Any]:
        """An array. Raises KeyError where there is none of this name."""
        with np.load(self._path, allow_pickle=False) as file:
            found: NDArray[Any] = file[name]
        return found

    def rows(self, name: str, first: int, end: int) -> NDArray[Any]:
        """The rows from `first` to before `end`. One that was not written row by row stays in memory."""
        if name not in self._rows:
            if name not in self._whole:
                self._whole[name] = self.whole(name)
            return self._whole[name][first:end]
        if _state(self._path) != self._state:
            raise ValueError("it was written again meanwhile")
        at = self._rows[name]
        values = int(np.prod(at.shape[1:]))
        with self._path.open("rb") as file:
            file.seek(at.start + first * values * at.dtype.itemsize)
            found = np.fromfile(file, at.dtype, (end - first) * values)
        return found.reshape(end - first, *at.shape[1:])


def _state(path: Path) -> tuple[int, int, int]:
    state = path.stat()
    return state.st_ino, state.st_size, state.st_mtime_ns


def _rows_of(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path) -> _Rows | None:
    """Where an array's rows are; None where it is compressed, or written column by column."""
    with archive.open(info) as member:
        shape, by_column, dtype = _read_header(member)
        header = member.tell()
    if info.compress_type != zipfile.ZIP_STORED or by_column or not shape or dtype.hasobject:
        return None
    with path.open("rb") as file:
        file.seek(info.header_offset)
        local = file.read(_LOCAL_HEADER)
    name, extra = (int.from_bytes(length, "little") for length in (local[-4:-2], local[-2:]))
    return _Rows(info.header_offset + _LOCAL_HEADER + name + extra + header, shape, dtype)


def _read_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """The shape of an array in numpy's format, whether it was written column by column, and its type."""
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    version = np.lib.format.read_magic(file)
    if version not in read:
        raise ValueError(f"an array is written in version {version} of numpy's format")
    shape, by_column, dtype = read[version](file)
    return shape, by_column, dtype
