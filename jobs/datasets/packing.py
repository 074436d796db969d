"""Packing a data set into tar shards: listed, planned, then written one by one, each whole or not at all (no torch)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from jobs.datasets.described import SPLIT, Reading, list_csv, list_pattern
from jobs.datasets.finished import remove_listed
from jobs.datasets.folders import links_out
from jobs.datasets.listing import Listing, Record, require_folder
from jobs.datasets.plan_file import look_at_sources
from jobs.datasets.recognise import list_dataset
from jobs.datasets.repeated_names import with_folders
from jobs.datasets.shard_plan import plan_shards
from jobs.datasets.shard_writer import write_shards
from jobs.errors import UserError
from jobs.phrases import counted, first_few
from jobs.progress import Progress, told, tracked


@dataclass(frozen=True, kw_only=True)
class ShardConfig:
    """A folder to be packed. At most one of `dataset`, `pattern` and `csv` says how it is laid out.

    `dataset` is a name of layouts.LAYOUTS or "auto". `split_map` are pairs (name, new name) of splits; `splits` are
    those to pack, by their new names, all if empty. `camid` is the 0-based camera of all images where `pattern` or
    `csv` has none; else cameras count from `camid_base`, by default 0. With `follow_links` links to images outside
    `source` are packed too. `seed` counts only with `shuffle`. With `overwrite` the shards of an earlier request in
    `dest` are removed first.
    """

    source: Path
    dest: Path
    dataset: str = "auto"
    pattern: str | None = None
    csv: Path | None = None
    split_map: tuple[tuple[str, str], ...] = ()
    splits: tuple[str, ...] = ()
    camid: int | None = None
    camid_base: int | None = None
    follow_links: bool = False
    images_per_shard: int = 1000
    shuffle: bool = False
    seed: int = 0
    overwrite: bool = False

    def __post_init__(self) -> None:
        if (self.pattern is not None) + (self.csv is not None) + (self.dataset != "auto") > 1:
            raise UserError("give one of --dataset, --pattern and --csv")
        if self.images_per_shard < 1:
            raise UserError(f"images_per_shard is {self.images_per_shard}, it must be 1 or more")
        is_described = self.pattern is not None or self.csv is not None
        if not is_described and (self.camid is not None or self.camid_base is not None):
            raise UserError("--camid and --camid-base are for --pattern and --csv; the names of known data sets say it")
        if self.camid is not None and self.camid_base is not None:
            raise UserError("give one of --camid and --camid-base")
        self._check_split_map()

    def _check_split_map(self) -> None:
        for old, new in self.split_map:
            if not SPLIT.fullmatch(new):
                raise UserError(f"--split-map {old}={new}: the new name may have letters and digits only")
        if len({old for old, _ in self.split_map}) < len(self.split_map):
            raise UserError("--split-map gives one split two names")


@dataclass(frozen=True, kw_only=True)
class PackedSplit:
    """What was packed of one split. `identities` counts the persons, without distractors and junk."""

    split: str
    images: int
    identities: int
    cameras: int


@dataclass(frozen=True, kw_only=True)
class PackingReport:
    """What was packed: `splits` in alphabetical order, `shards` all files of the plan, whether new or kept.

    `identities` are the persons of all splits. `ignored` to `missing` are what was found and not packed, as in Listing.
    `removed` are the names of the shards of an earlier request, `packed_again` those of this request whose images had
    changed, `other_tars` the names of tars in `dest` that are none of its shards. `may_count_from_1`: the description's
    cameras do, and nobody said so.
    """

    dest: Path
    dataset: str
    splits: tuple[PackedSplit, ...]
    identities: int
    shards: tuple[Path, ...]
    ignored: tuple[Path, ...]
    unread: tuple[Path, ...]
    unfit: tuple[Path, ...]
    links_out: tuple[Path, ...]
    missing: tuple[Path, ...]
    removed: tuple[str, ...]
    packed_again: tuple[str, ...]
    other_tars: tuple[str, ...]
    may_count_from_1: bool

    @property
    def images(self) -> int:
        """The images in all shards."""
        return sum(split.images for split in self.splits)


def pack(config: ShardConfig) -> PackingReport:
    """Packs the images below `config.source` into tar shards in `config.dest`, and shows the progress.

    A shard that is there with the bytes that were packed is kept, so an interrupted call can be repeated; one whose
    images changed since is packed again. Raises UserError for a layout that is not recognised, an unknown split, a
    folder with shards of another request, and a file under a shard's name that is not this shard.
    """
    listing = _list_images(config)
    records = _only(listing.records, config.splits)
    plan = plan_shards(
        records,
        dataset=listing.dataset,
        images_per_shard=config.images_per_shard,
        seed=config.seed if config.shuffle else None,
    )
    sources = [
        look_at_sources(shard.records) for shard in tracked(plan.shards, "looking at the sizes of the images", "shard")
    ]
    removed = remove_listed(config.dest) if config.overwrite else []
    with Progress(sum(one.bytes for one in sources)) as progress:
        packed_again = write_shards(config.dest, plan, sources, progress)
    files = {shard.file for shard in plan.shards}
    return PackingReport(
        dest=config.dest,
        dataset=listing.dataset,
        splits=_packed_splits(records),
        identities=_count_people(records),
        shards=tuple(config.dest / shard.file for shard in plan.shards),
        ignored=tuple(listing.ignored),
        unread=tuple(listing.unread),
        unfit=tuple(listing.unfit),
        links_out=tuple(listing.links_out),
        missing=tuple(listing.missing),
        removed=tuple(removed),
        packed_again=tuple(packed_again),
        other_tars=tuple(path.name for path in sorted(config.dest.glob("*.tar")) if path.name not in files),
        may_count_from_1=_may_count_from_1(config, listing.records),
    )


@told("listing the images")
def _list_images(config: ShardConfig) -> Listing:
    """The images of a data set, with the names of splits and the keys that they get."""
    listing = _list_by_layout(config)
    if not config.follow_links:
        _leave_out_links(listing, config.source)
    _rename_splits(listing, dict(config.split_map))
    listing.records = with_folders(listing.records)
    return listing


def _list_by_layout(config: ShardConfig) -> Listing:
    if config.pattern is None and config.csv is None:
        return list_dataset(config.source, config.dataset)
    require_folder(config.source)
    renamed = frozenset(old for old, _ in config.split_map)
    reading = Reading(camid=config.camid, camid_base=config.camid_base or 0, renamed=renamed)
    if config.pattern is not None:
        listing = list_pattern(config.source, config.pattern, reading)
    else:
        assert config.csv is not None
        listing = list_csv(config.source, config.csv, reading)
    if not listing.records:
        others = [path.relative_to(config.source) for path in [*listing.unfit, *listing.ignored, *listing.missing]]
        raise UserError(f"nothing below {config.source} fits (first files: {first_few(others) or 'none'})")
    return listing


def _leave_out_links(listing: Listing, source: Path) -> None:
    """Takes the links to files outside the data set's folder out of the records."""
    listing.links_out = links_out({record.path for record in listing.records}, source)
    outside = set(listing.links_out)
    listing.records = [record for record in listing.records if record.path not in outside]
    if not listing.records:
        raise UserError(
            f"each of {counted(len(outside), 'image')} is a link that leads out of {source} "
            f"({first_few(listing.links_out)}); --follow-links packs what they lead to"
        )


def _rename_splits(listing: Listing, names: Mapping[str, str]) -> None:
    known = sorted({record.split for record in listing.records})
    for old in names:
        if old not in known:
            raise UserError(f"--split-map: there is no split {old!r}; there are {first_few(known)}")
    listing.records = [
        replace(record, split=names[record.split]) if record.split in names else record for record in listing.records
    ]


def _may_count_from_1(config: ShardConfig, records: Sequence[Record]) -> bool:
    is_open = (config.pattern is not None or config.csv is not None) and config.camid is None
    return is_open and config.camid_base is None and min(record.parsed.camid for record in records) == 1


def _only(records: Sequence[Record], splits: Sequence[str]) -> list[Record]:
    known = sorted({record.split for record in records})
    for split in splits:
        if split not in known:
            raise UserError(f"there is no split {split!r}; there are {', '.join(known)}")
    return [record for record in records if not splits or record.split in splits]


def _packed_splits(records: Sequence[Record]) -> tuple[PackedSplit, ...]:
    found = []
    for name in sorted({record.split for record in records}):
        chosen = [record for record in records if record.split == name]
        cameras = {record.parsed.camid for record in chosen}
        found.append(
            PackedSplit(split=name, images=len(chosen), identities=_count_people(chosen), cameras=len(cameras))
        )
    return tuple(found)


def _count_people(records: Sequence[Record]) -> int:
    return len({record.who.identity for record in records} - {None})
