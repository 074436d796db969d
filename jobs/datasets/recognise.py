"""A data set's folder to its images: which layout it has, and the listing by that layout (no torch)."""

from __future__ import annotations

from pathlib import Path

from jobs.datasets.layouts import LAYOUTS
from jobs.datasets.listing import Listing, names_in, require_folder
from jobs.errors import UserError
from jobs.phrases import did_you_mean, first_few, spelled_as

_SHOWN = 8


def list_dataset(source: Path, dataset: str = "auto") -> Listing:
    """The images of a data set below `source`, or below its only subfolder that looks like one.

    Raises UserError for a folder that is missing, an unknown name, and a layout that is not recognised.
    """
    require_folder(source)
    root = _root_of(source)
    dataset = recognise(root) if dataset == "auto" else _known_name(dataset)
    listing = LAYOUTS[dataset].list_images(root)
    if not listing.records:
        seen = first_few((path.name for path in [*listing.unfit, *listing.missing, *listing.ignored]), _SHOWN)
        raise UserError(f"no image of {root} is named as {dataset} names them{f' (seen: {seen})' if seen else ''}")
    return listing


def recognise(root: Path) -> str:
    """The name of the data set that a folder is laid out as. Raises UserError naming the known ones."""
    for name, layout in LAYOUTS.items():
        if layout.fits(root):
            return name
    raise UserError(
        f"no known dataset is laid out as {root} is (it has {names_in(root)}); name it with --dataset "
        f"({', '.join(LAYOUTS)}), or describe it with --pattern or --csv"
    )


def _known_name(name: str) -> str:
    """The name in LAYOUTS; case and punctuation do not count. Raises UserError naming the nearest and all."""
    known = spelled_as(name, LAYOUTS)
    if known is None:
        raise UserError(
            f"unknown dataset {name!r}{did_you_mean(name.lower(), LAYOUTS)}; known are {', '.join(LAYOUTS)}, auto"
        )
    return known


def _root_of(source: Path) -> Path:
    """`source`, or the one folder in it that holds a data set, as archives unpack."""
    if _looks_like_dataset(source):
        return source
    inside = [path for path in sorted(source.iterdir()) if path.is_dir() and _looks_like_dataset(path)]
    if len(inside) > 1:
        names = first_few((path.name for path in inside), _SHOWN)
        raise UserError(f"{source} holds several datasets: {names}; name one of them")
    return inside[0] if inside else source


def _looks_like_dataset(folder: Path) -> bool:
    return (folder / "bounding_box_train").is_dir() or (folder / "list_train.txt").is_file()
