"""The list of the pictures in a folder that `promptsg render` writes to, which its index page shows.

It is a Parquet file in the folder. A later request comes before the earlier ones, whose pictures stay in the list as
long as they exist.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path, PurePosixPath

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.errors import UserError
from jobs.phrases import counted
from jobs.progress import told
from jobs.reading import reading
from jobs.rendering.image_files import FORMATS
from jobs.tables import write_parquet

LIST = ".pictures.parquet"  # in the output folder
_REMEDY = "remove it, or give another --output"


@dataclass(frozen=True, kw_only=True)
class ListedPicture:
    """One picture: its path below the folder, what it shows, and the request that it was last part of.

    `number` is its place in the requested order, None without one. `shard` and `key` are of the image that it is about.
    `caption` are the lines below it, `request` the headline above all pictures of the request. `map` is the one map
    that it shows, None where it shows several and in lists of earlier versions.
    """

    file: str
    style: str
    number: int | None
    shard: str
    key: str
    caption: tuple[str, ...]
    request: str
    map: str | None = None


_SCHEMA = pa.schema(
    [
        ("file", pa.string()),
        ("style", pa.string()),
        ("number", pa.int64()),
        ("shard", pa.string()),
        ("key", pa.string()),
        ("caption", pa.list_(pa.string())),
        ("request", pa.string()),
        ("map", pa.string()),
    ]
)


def read_list(folder: Path) -> list[ListedPicture]:
    """The pictures that are listed in a folder and exist. Raises UserError for a file that is not a list."""
    return existing(folder, listed_in(folder))


def listed_in(folder: Path) -> list[ListedPicture]:
    """The pictures that are listed in a folder, also those that do not exist. Raises as `read_list` does."""
    path = folder / LIST
    if not path.exists():
        return []
    with reading(path, "the list of pictures", _REMEDY):
        table = pq.ParquetFile(path).read()
        if "map" not in table.column_names:  # earlier versions did not write it
            table = table.append_column("map", pa.nulls(table.num_rows, pa.string()))
        rows = table.cast(_SCHEMA).to_pylist()
        found = [ListedPicture(**{**row, "caption": tuple(row["caption"])}) for row in rows]
        if outside := [one.file for one in found if not _is_below(one.file)]:
            raise ValueError(f"{outside[0]!r} is not below the folder")
        if not all(one.caption for one in found):
            raise ValueError("a picture has no caption")
    return found


@told("looking for the pictures that are listed")
def existing(folder: Path, pictures: Sequence[ListedPicture]) -> list[ListedPicture]:
    """Those of the pictures that exist. Each folder is read once: asking for each file takes minutes over a network."""
    there = {below: _files_in(folder / below) for below in {PurePosixPath(one.file).parent for one in pictures}}
    return [one for one in pictures if PurePosixPath(one.file).name in there[PurePosixPath(one.file).parent]]


def _files_in(folder: Path) -> frozenset[str]:
    """The names of the files in a folder; none where there is no such folder."""
    try:
        with os.scandir(folder) as entries:
            return frozenset(entry.name for entry in entries if entry.is_file())
    except (FileNotFoundError, NotADirectoryError):
        return frozenset()


def write_list(folder: Path, pictures: Sequence[ListedPicture]) -> None:
    """Writes the list, whole or not at all."""
    columns = {field.name: [getattr(one, field.name) for one in pictures] for field in fields(ListedPicture)}
    write_parquet(folder / LIST, pa.table(columns, schema=_SCHEMA))


def merged(requested: Sequence[ListedPicture], earlier: Iterable[ListedPicture]) -> list[ListedPicture]:
    """The requested pictures, then the others."""
    ours = {one.file for one in requested}
    return [*requested, *(one for one in earlier if one.file not in ours)]


def numbered_otherwise(requested: Sequence[ListedPicture], earlier: Sequence[ListedPicture]) -> list[ListedPicture]:
    """Earlier pictures of the style and the maps that the request leaves with wrong numbers; none where both agree.

    Orders agree if each number that both have is that of the same image, as where only --limit differs. Then those are
    left over that have a requested picture's number with more digits or fewer: many pictures need more.
    """
    if not requested or requested[0].number is None:
        return []
    style, maps = requested[0].style, {one.map for one in requested}
    numbered = [
        one for one in earlier if one.style == style and one.number is not None and (one.map is None or one.map in maps)
    ]
    images = {one.number: (one.shard, one.key) for one in requested}
    ours = {one.file for one in requested}
    if any(images.get(one.number, (one.shard, one.key)) != (one.shard, one.key) for one in numbered):
        return [one for one in numbered if one.file not in ours]
    digits = {one.number: _digits(one) for one in requested}
    return [one for one in numbered if digits.get(one.number, _digits(one)) != _digits(one)]


def _digits(one: ListedPicture) -> str:
    """A picture's number as its name begins with it."""
    return PurePosixPath(one.file).name.partition("_")[0]


def refuse_another_order(folder: Path, stale: Sequence[ListedPicture], requested: Sequence[ListedPicture]) -> None:
    """Raises UserError where there are pictures whose numbers contradict the requested ones."""
    if stale:
        images = {(one.number, one.shard, one.key) for one in requested}
        same = all((one.number, one.shard, one.key) in images for one in stale)
        how = "numbered with another number of digits" if same else "numbered in another order"
        raise UserError(
            f"{folder} has {counted(len(stale), 'picture')}, {how}, such as {stale[0].file}: "
            "--overwrite removes them and draws anew, another --output leaves them"
        )


def is_removable(folder: Path, picture: ListedPicture) -> bool:
    """Whether a listed file can only be a numbered picture in this folder: the list may be anybody's.

    It has a picture's ending, its name begins with its own number, and no link leads out of the folder.
    """
    path = folder / picture.file
    is_picture = path.suffix[1:] in FORMATS and re.match(rf"0*{picture.number}_", path.name) is not None
    return is_picture and path.parent.resolve().is_relative_to(folder.resolve())


def _is_below(file: str) -> bool:
    """Whether a path from a file, which may be anybody's, stays in the folder."""
    parts = PurePosixPath(file).parts
    return bool(parts) and not file.startswith("/") and ".." not in parts and "\\" not in file and "\0" not in file
