"""The pictures in a folder before and after a request: what is refused, what is listed, and what is removed."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jobs.atomic import exclusive, make_folder
from jobs.phrases import counted, shown
from jobs.rendering.index.listed import (
    ListedPicture,
    existing,
    is_removable,
    listed_in,
    merged,
    numbered_otherwise,
    read_list,
    refuse_another_order,
    write_list,
)
from jobs.rendering.index.pages import write_index
from jobs.rendering.requests import register

logger = logging.getLogger(__name__)
LOCK = ".pictures.lock"  # in the output folder: two commands may draw into it at once


@dataclass(frozen=True, kw_only=True)
class PictureFolder:
    """A folder that `requested` pictures are drawn into.

    `stale` ones, whose numbers contradict the requested ones, leave the list when these are drawn. Those that can be
    nothing else than pictures are removed.
    """

    folder: Path
    requested: Sequence[ListedPicture]
    stale: Sequence[ListedPicture]

    @property
    def removable(self) -> list[ListedPicture]:
        """The pictures that `finish` removes."""
        return [one for one in self.stale if is_removable(self.folder, one)]

    def begin(self, kind: str, digest: str) -> None:
        """Records the request, and lists its pictures beside all others: an interrupted command leaves some."""
        make_folder(self.folder)
        with exclusive(self.folder / LOCK):
            register(self.folder, kind, digest)
            write_list(self.folder, merged(self.requested, listed_in(self.folder)))

    def finish(self, run: str) -> tuple[int, Path | None]:
        """Removes what is stale and writes the list and the index. Returns how many it removed, and the index."""
        gone, removable = {one.file for one in self.stale}, self.removable
        with exclusive(self.folder / LOCK):
            for one in removable:
                (self.folder / one.file).unlink(missing_ok=True)
            others = [one for one in listed_in(self.folder) if one.file not in gone]
            pictures = existing(self.folder, merged(self.requested, others))
            write_list(self.folder, pictures)
            index = write_index(self.folder, run, pictures)
        if foreign := [one.file for one in self.stale if one not in removable]:
            logger.warning(
                "%s in the list of pictures of %s can be something else, such as %s: they stay, and leave the list",
                counted(len(foreign), "file"), self.folder, shown(foreign[0]),
            )  # fmt: skip
        return len(removable), index


def picture_folder(folder: Path, requested: Sequence[ListedPicture], *, overwrite: bool) -> PictureFolder:
    """The folder, once it is known that the request may be drawn into it.

    Raises UserError where its pictures have numbers of another order and `overwrite` does not allow to remove them.
    """
    stale = numbered_otherwise(requested, read_list(folder))
    if not overwrite:
        refuse_another_order(folder, stale, requested)
    return PictureFolder(folder=folder, requested=requested, stale=stale)
