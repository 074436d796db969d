"""The layouts of the known data sets: which of their files are images, and in which split (no torch)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path, PurePosixPath

from jobs.datasets.folders import files_below
from jobs.datasets.keys import base_key
from jobs.datasets.listing import Listing, Record, names_in, path_below
from jobs.datasets.names import ParsedKey, parse_as
from jobs.errors import UserError
from jobs.identity import PERSON, Who
from jobs.image_names import is_image
from jobs.phrases import shown
from jobs.text_files import read_text

FOLDERS = {"bounding_box_train": "train", "query": "query", "bounding_box_test": "gallery"}
LISTS = {"list_train.txt": "train", "list_val.txt": "val", "list_query.txt": "query", "list_gallery.txt": "gallery"}
_LOOKED_AT = 50  # training images whose names tell a layout


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How a data set lies on disk: its images below a root folder, and whether a root folder has this layout."""

    list_images: Callable[[Path], Listing]
    fits: Callable[[Path], bool]


def list_folders(root: Path, *, dataset: str, pattern: str) -> Listing:
    """Market-1501's layout, which DukeMTMC, Occluded-Duke and CUHK03-NP share: one folder per split, flat.

    `pattern` is the data set whose names the images have. Raises UserError if a folder is missing.
    """
    listing = Listing(dataset=dataset)
    for folder, split in FOLDERS.items():
        for path in _in_split(root, folder, dataset):
            parsed = parse_as(pattern, base_key(path))
            if path.is_dir():
                _add_folder(listing, path)
            elif not is_image(path):
                listing.add_stray(path)
            elif parsed is None:
                listing.unfit.append(path)
            elif path.is_file():
                listing.records.append(Record(path=path, split=split, parsed=parsed))
            else:
                listing.missing.append(path)
    return listing


def _in_split(root: Path, folder: str, dataset: str) -> list[Path]:
    """What is in the folder of a split. Raises UserError if there is none."""
    path = root / folder
    if path.is_dir():
        return sorted(path.iterdir())
    if path.is_symlink():
        raise UserError(f"{path} is a link to {shown(path.readlink())}, which is not a folder; mend the link")
    raise UserError(f"{root} has no folder {folder}, which {dataset} needs (it has {names_in(root)})")


def _add_folder(listing: Listing, folder: Path) -> None:
    """Counts the images of a folder inside the folder of a split, which has none by its layout."""
    images = [path for path in files_below(folder) if is_image(path)]
    listing.unfit.extend(images)
    if not images:
        listing.ignored.append(folder)


def list_msmt17(root: Path) -> Listing:
    """MSMT17, V1 (train, test) and V2 (mask_train_v2, mask_test_v2): lists of `path pid`.

    The pid is the list's. All are persons, also those of pid 0; test pids start again at 0, so identities carry the
    folder's kind: `train/2` and `test/2`. The camera is the third field of the base name. Raises UserError for a
    missing list and for a line that is not `path pid`.
    """
    listing = Listing(dataset="msmt17")
    for name, split in LISTS.items():
        file = root / name
        if not file.is_file():
            raise UserError(f"{root} has no {name}, which msmt17 needs (it has {names_in(root)})")
        kind = "train" if split in ("train", "val") else "test"
        folder = _msmt17_folder(root, kind)
        for number, line in enumerate(read_text(file).splitlines(), start=1):
            if not line.strip():
                continue
            where = f"{file}, line {number}"
            path, parsed = _msmt17_line(folder, line, where)
            who = Who(PERSON, f"{kind}/{parsed.pid}")
            listing.add_listed(Record(path=path, split=split, parsed=parsed, stated=who), where)
    return listing


def _msmt17_folder(root: Path, kind: str) -> Path:
    for name in (kind, f"mask_{kind}_v2"):
        if (root / name).is_dir():
            return root / name
    raise UserError(f"{root} has neither {kind} nor mask_{kind}_v2, which msmt17 needs (it has {names_in(root)})")


def _msmt17_line(folder: Path, line: str, where: str) -> tuple[Path, ParsedKey]:
    words = line.split()
    parsed = parse_as("msmt17", base_key(PurePosixPath(words[0])))
    if len(words) != 2 or parsed is None or re.fullmatch("[0-9]{1,9}", words[1]) is None:
        raise UserError(f"{where}: expected `path pid`, got {line!r}")
    path = path_below(folder, words[0], where)
    return path, ParsedKey(pid=int(words[1]), camid=parsed.camid, frame=parsed.frame)


def _has_training_names(root: Path, *, pattern: str) -> bool:
    """Whether one of the first training images is named as the images of the data set `pattern` are."""
    folder = root / "bounding_box_train"
    if not folder.is_dir():
        return False
    first = islice((path for path in sorted(folder.iterdir()) if is_image(path)), _LOOKED_AT)
    return any(parse_as(pattern, base_key(path)) for path in first)


def _is_msmt17(root: Path) -> bool:
    return all((root / name).is_file() for name in LISTS)


def _is_duke(root: Path, *, occluded: bool) -> bool:
    return ("occluded" in root.name.lower()) == occluded and _has_training_names(root, pattern="dukemtmc")


def _in_folders(dataset: str, fits: Callable[[Path], bool] | None = None, pattern: str | None = None) -> Layout:
    """A layout of one folder per split; its images are named as those of `pattern`, by default the data set itself."""
    named_as = pattern or dataset
    return Layout(
        list_images=partial(list_folders, dataset=dataset, pattern=named_as),
        fits=fits or partial(_has_training_names, pattern=named_as),
    )


# To add a layout, add a line here, and what its file names say to names.py. `auto` takes the first that fits.
LAYOUTS: Mapping[str, Layout] = {
    "market1501": _in_folders("market1501"),
    "dukemtmc": _in_folders("dukemtmc", partial(_is_duke, occluded=False)),
    "occluded-duke": _in_folders("occluded-duke", partial(_is_duke, occluded=True), pattern="dukemtmc"),
    "msmt17": Layout(list_images=list_msmt17, fits=_is_msmt17),
    "cuhk03-np": _in_folders("cuhk03-np"),
}
