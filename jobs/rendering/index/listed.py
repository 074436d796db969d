"""The list of the pictures in a folder that `promptsg render` writes to, which its index page shows.

It is a Parquet file in the folder. A later request comes before the earlier ones, whose pictures stay in the list as
long as they exist.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path, PurePosixPath

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.errors import UserError
from jobs.phrases import counted
from jobs.reading import reading
from jobs.tables import write_parquet

LIST = ".pictures.parquet"  # in the output folder
_REMEDY = "remove it, or give another --output"


@dataclass(frozen=True, kw_only=True)
class ListedPicture:
    """One picture: its path below the folder, what it shows, and the request that it was last part of.

    `number` is its place in the requested order, None without one. `shard` and `key` are of the image that it is about.
    `caption` are the lines below it, `request` the headline above all pictures of the request.
    """

    file: str
    style: str
    number: int | None
    shard: str
    key: str
    caption: tuple[str, ...]
    request: str


_SCHEMA = pa.schema(
    [
        ("file", pa.string()),
        ("style", pa.string()),
        ("number", pa.int64()),
        ("shard", pa.string()),
        ("key", pa.string()),
        ("caption", pa.list_(pa.string())),
        ("request", pa.string()),
    ]
)


def read_list(folder: Path) -> list[ListedPicture]:
    """The pictures that are listed in a folder and exist. Raises UserError for a file that is not a list."""
    path = folder / LIST
    if not path.exists():
        return []
    with reading(path, "the list of pictures", _REMEDY):
        rows = pq.ParquetFile(path).read().cast(_SCHEMA).to_pylist()
        found = [ListedPicture(**{**row, "caption": tuple(row["caption"])}) for row in rows]
        if outside := [one.file for one in found if not _is_below(one.file)]:
            raise ValueError(f"{outside[0]!r} is not below the folder")
        if not all(one.caption for one in found):
            raise ValueError("a picture has no caption")
    return [one for one in found if (folder / one.file).is_file()]


def write_list(folder: Path, pictures: Sequence[ListedPicture]) -> None:
    """Writes the list, whole or not at all."""
    columns = {field.name: [getattr(one, field.name) for one in pictures] for field in fields(ListedPicture)}
    write_parquet(folder / LIST, pa.table(columns, schema=_SCHEMA))


def merged(requested: Sequence[ListedPicture], earlier: Iterable[ListedPicture]) -> list[ListedPicture]:
    """The requested pictures, then the others."""
    ours = {one.file for one in requested}
    return [*requested, *(one for one in earlier if one.file not in ours)]


def numbered_otherwise(requested: Sequence[ListedPicture], earlier: Sequence[ListedPicture]) -> list[ListedPicture]:
    """Earlier pictures of the style that a new order leaves with wrong numbers; none where both orders agree.

    They agree if each number that both have is that of the same image, as where only --limit differs.
    """
    if not requested or requested[0].number is None:
        return []
    style = requested[0].style
    numbered = [one for one in earlier if one.style == style and one.number is not None]
    images = {one.number: (one.shard, one.key) for one in requested}
    if all(images.get(one.number, (one.shard, one.key)) == (one.shard, one.key) for one in numbered):
        return []
    ours = {one.file for one in requested}
    return [one for one in numbered if one.file not in ours]


def refuse_another_order(folder: Path, stale: Sequence[ListedPicture]) -> None:
    """Raises UserError where there are pictures numbered in another order."""
    if stale:
        raise UserError(
            f"{folder} has {counted(len(stale), 'picture')}, numbered in another order, such as {stale[0].file}: "
            "--overwrite removes them and draws anew, another --output leaves them"
        )


def _is_below(file: str) -> bool:
    """Whether a path from a file, which may be anybody's, stays in the folder."""
    parts = PurePosixPath(file).parts
    return bool(parts) and not file.startswith("/") and ".." not in parts and "\\" not in file and "\0" not in file
