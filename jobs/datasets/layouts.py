"""Datasets on disk: which images there are, and what their names say (no torch).

Camera ids are 0-based, person ids as in the name. Every pattern is held against the whole base name, never against a
path: a folder may be called like an image.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from jobs.errors import UserError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp"})


@dataclass(frozen=True, kw_only=True)
class ParsedKey:
    """What a base name says: person, 0-based camera, and where known the sequence and frame."""

    pid: int
    camid: int
    seq: int | None = None
    frame: int | None = None


@dataclass(frozen=True, kw_only=True)
class Record:
    """One image of a dataset: `path` as it will be opened, `split`, and what its name says."""

    path: Path
    split: str
    parsed: ParsedKey

    @property
    def key(self) -> str:
        """The sample's key: the base name without its suffix; WebDataset ends a key at the first dot."""
        return self.path.stem.replace(".", "_")


@dataclass(kw_only=True)
class Listing:
    """The images of a dataset, the files that are none of them, and the listed files that are not there."""

    dataset: str
    records: list[Record] = field(default_factory=list)
    ignored: list[Path] = field(default_factory=list)
    missing: list[Path] = field(default_factory=list)


# Tried in this order; no name fits two. The numbers after the camera are kept where columns exist for them.
_PATTERNS: Mapping[str, re.Pattern[str]] = {
    "market1501": re.compile(r"(?P<pid>-1|\d{4})_c(?P<cam>\d+)s(?P<seq>\d+)_(?P<frame>\d+)_\d+"),
    "dukemtmc": re.compile(r"(?P<pid>\d{4})_c(?P<cam>\d+)_f(?P<frame>\d+)"),
    "cuhk03-np": re.compile(r"(?P<pid>\d{4})_c(?P<cam>\d+)_\d+"),
    "msmt17": re.compile(r"(?P<pid>\d{4})_\d{3}_(?P<cam>\d{2})_\d{4}\w+?_(?P<frame>\d+)_\d+(_ex)?"),
}


def parse_key(key: str) -> ParsedKey | None:
    """What a key in the way of any known dataset says, None for any other."""
    return next((parsed for name in _PATTERNS if (parsed := parse_as(name, key)) is not None), None)


def parse_as(dataset: str, key: str) -> ParsedKey | None:
    """What a key says by the pattern of one dataset."""
    found = _PATTERNS[dataset].fullmatch(key)
    return None if found is None else _parsed(found.groupdict())


def _parsed(groups: Mapping[str, str | None]) -> ParsedKey:
    """Cameras are counted from 1 in every known name."""
    seq, frame = groups.get("seq"), groups.get("frame")
    return ParsedKey(
        pid=int(groups["pid"] or 0),
        camid=int(groups["cam"] or 0) - 1,
        seq=None if seq is None else int(seq),
        frame=None if frame is None else int(frame),
    )


_FOLDERS = {"bounding_box_train": "train", "query": "query", "bounding_box_test": "gallery"}
_LISTS = {"list_train.txt": "train", "list_val.txt": "val", "list_query.txt": "query", "list_gallery.txt": "gallery"}


def list_folders(root: Path, dataset: str) -> Listing:
    """Market-1501's layout, which DukeMTMC, Occluded-Duke and CUHK03-NP share: one folder per split, flat."""
    listing = Listing(dataset=dataset)
    pattern = "dukemtmc" if dataset == "occluded-duke" else dataset
    for folder, split in _FOLDERS.items():
        if not (root / folder).is_dir():
            raise UserError(f"{root} has no folder {folder}, which {dataset} needs (it has {_names(root)})")
        for path in sorted((root / folder).iterdir()):
            parsed = parse_as(pattern, path.stem) if path.suffix.lower() in IMAGE_SUFFIXES else None
            if parsed is None or not path.is_file():
                listing.ignored.append(path)
            else:
                listing.records.append(Record(path=path, split=split, parsed=parsed))
    return listing


def list_msmt17(root: Path) -> Listing:
    """MSMT17, V1 (train, test) and V2 (mask_train_v2, mask_test_v2): lists of `path pid`.

    The pid is the list's: test pids start again at 0, and are told from training pids by their split. The camera is
    the third field of the base name.
    """
    listing = Listing(dataset="msmt17")
    for name, split in _LISTS.items():
        if not (root / name).is_file():
            raise UserError(f"{root} has no {name}, which msmt17 needs (it has {_names(root)})")
        folder = _msmt17_folder(root, "train" if split in ("train", "val") else "test")
        for number, line in enumerate((root / name).read_text().splitlines(), start=1):
            if not line.strip():
                continue
            words = line.split()
            parsed = parse_as("msmt17", PurePosixPath(words[0]).stem)
            if len(words) != 2 or parsed is None or not words[1].isdigit():
                raise UserError(f"{root / name}, line {number}: expected `path pid`, got {line!r}")
            path = _inside(folder, words[0], f"{root / name}, line {number}")
            if not path.is_file():
                listing.missing.append(path)
                continue
            parsed = ParsedKey(pid=int(words[1]), camid=parsed.camid, frame=parsed.frame)
            listing.records.append(Record(path=path, split=split, parsed=parsed))
    return listing


def _msmt17_folder(root: Path, kind: str) -> Path:
    for name in (kind, f"mask_{kind}_v2"):
        if (root / name).is_dir():
            return root / name
    raise UserError(f"{root} has neither {kind} nor mask_{kind}_v2, which msmt17 needs (it has {_names(root)})")


def list_pattern(root: Path, pattern: str) -> Listing:
    """Any layout by a regular expression over the path below `root`, with groups pid and camid, optionally seq, frame
    and split (train without one). A group camid is taken as it is written: 0-based if the names are."""
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise UserError(f"--pattern {pattern!r} is not a regular expression: {error}") from error
    if not {"pid", "camid"} <= compiled.groupindex.keys():
        raise UserError(f"--pattern {pattern!r} needs the named groups (?P<pid>...) and (?P<camid>...)")
    listing = Listing(dataset="pattern")
    for path in sorted(p for p in root.rglob("*") if p.is_file()):
        found = compiled.fullmatch(path.relative_to(root).as_posix())
        if found is None or path.suffix.lower() not in IMAGE_SUFFIXES:
            listing.ignored.append(path)
            continue
        groups = found.groupdict()
        listing.records.append(_record(path, groups, f"--pattern on {path}"))
    return listing


def list_csv(root: Path, file: Path) -> Listing:
    """Any layout by a CSV of path,pid,camid,split (optionally seq,frame); paths are below `root`."""
    listing = Listing(dataset="csv")
    with file.open(newline="", encoding="utf-8-sig") as handle:
        rows = csv.DictReader(handle)
        if not {"path", "pid", "camid", "split"} <= set(rows.fieldnames or ()):
            raise UserError(f"{file}: the first line must name path,pid,camid,split; it is {rows.fieldnames}")
        for number, row in enumerate(rows, start=2):
            path = _inside(root, row["path"] or "", f"{file}, line {number}")
            if not path.is_file():
                listing.missing.append(path)
            else:
                listing.records.append(_record(path, row, f"{file}, line {number}"))
    return listing


def _record(path: Path, groups: Mapping[str, str | None], where: str) -> Record:
    numbers: dict[str, int | None] = {}
    for name in ("pid", "camid", "seq", "frame"):
        text = groups.get(name)
        try:
            numbers[name] = int(text) if text else None
        except ValueError as error:
            raise UserError(f"{where}: {name} is {text!r}, expected an integer") from error
    pid, camid = numbers["pid"], numbers["camid"]
    if pid is None or camid is None:
        raise UserError(f"{where}: pid and camid must not be empty")
    split = groups.get("split") or "train"
    if not re.fullmatch(r"[A-Za-z0-9]+", split):
        raise UserError(f"{where}: the split {split!r} names shards, so it may have letters and digits only")
    parsed = ParsedKey(pid=pid, camid=camid, seq=numbers["seq"], frame=numbers["frame"])
    return Record(path=path, split=split, parsed=parsed)


def _inside(root: Path, relative: str, where: str) -> Path:
    """`root / relative`, unless that leads out of `root`."""
    parts = PurePosixPath(relative)
    if not relative or parts.is_absolute() or ".." in parts.parts:
        raise UserError(f"{where}: the path {relative!r} leads out of {root}")
    return root / relative


DATASETS: Mapping[str, Callable[[Path], Listing]] = {
    "market1501": lambda root: list_folders(root, "market1501"),
    "dukemtmc": lambda root: list_folders(root, "dukemtmc"),
    "occluded-duke": lambda root: list_folders(root, "occluded-duke"),
    "msmt17": list_msmt17,
    "cuhk03-np": lambda root: list_folders(root, "cuhk03-np"),
}


def list_dataset(source: Path, dataset: str = "auto") -> Listing:
    """The images of a dataset below `source`, or below its only subfolder that looks like one.

    Raises UserError on a folder that is missing, an unknown name, and a layout that is not recognised.
    """
    if not source.is_dir():
        raise UserError(f"the dataset folder {source} does not exist")
    root = _root_of(source)
    if dataset == "auto":
        dataset = recognise(root)
    elif dataset not in DATASETS:
        raise UserError(f"unknown dataset {dataset!r}; known are {', '.join(DATASETS)}, auto")
    listing = DATASETS[dataset](root)
    if not listing.records:
        seen = _some(p.name for p in listing.ignored)
        raise UserError(f"no image of {root} is named as {dataset} names them{f' (seen: {seen})' if seen else ''}")
    return listing


def recognise(root: Path) -> str:
    """The dataset that a folder's layout and file names tell. Raises UserError naming the valid ones."""
    if all((root / name).is_file() for name in _LISTS):
        return "msmt17"
    stems = [path.stem for path in _first_files(root / "bounding_box_train")]
    for name in ("market1501", "dukemtmc", "cuhk03-np"):
        if any(parse_as(name, stem) for stem in stems):
            return "occluded-duke" if name == "dukemtmc" and "occluded" in root.name.lower() else name
    raise UserError(
        f"no known dataset is laid out as {root} is (it has {_names(root)}); name it with --dataset "
        f"({', '.join(DATASETS)}), or describe it with --pattern or --csv"
    )


def _root_of(source: Path) -> Path:
    """`source`, or the one folder in it that holds a dataset, as archives unpack."""
    if _looks_like_dataset(source):
        return source
    inside = [path for path in sorted(source.iterdir()) if path.is_dir() and _looks_like_dataset(path)]
    if len(inside) > 1:
        raise UserError(f"{source} holds several datasets: {_some(p.name for p in inside)}; name one of them")
    return inside[0] if inside else source


def _looks_like_dataset(folder: Path) -> bool:
    return (folder / "bounding_box_train").is_dir() or (folder / "list_train.txt").is_file()


def _first_files(folder: Path, count: int = 50) -> Iterator[Path]:
    if folder.is_dir():
        yield from sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)[:count]


def _names(folder: Path) -> str:
    return _some(path.name for path in sorted(folder.iterdir())) or "nothing in it"


def _some(names: Iterable[str], count: int = 8) -> str:
    listed = list(names)
    return ", ".join(listed[:count]) + (", ..." if len(listed) > count else "")
