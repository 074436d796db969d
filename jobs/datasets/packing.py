"""Packing a data set into tar shards: listed, planned, then written one by one, each whole or not at all (no torch)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tqdm import tqdm

from jobs.atomic import StagedFile, make_folder, remove_leftovers
from jobs.datasets.described import list_csv, list_pattern
from jobs.datasets.listing import Listing, Record, require_folder
from jobs.datasets.recognise import list_dataset
from jobs.datasets.shard_plan import PlannedShard, ShardPlan, claim_folder, discard_plan, plan_shards
from jobs.datasets.tar_writer import sample_json, write_members
from jobs.errors import UserError
from jobs.identity import identity_of
from jobs.phrases import first_few


@dataclass(frozen=True, kw_only=True)
class ShardConfig:
    """A folder to be packed. At most one of `dataset`, `pattern` and `csv` says how it is laid out.

    `dataset` is a name of layouts.LAYOUTS or "auto". `splits` are those to pack, all if empty. `seed` counts only with
    `shuffle`. With `overwrite` the shards of an earlier request in `dest` are removed first.
    """

    source: Path
    dest: Path
    dataset: str = "auto"
    pattern: str | None = None
    csv: Path | None = None
    splits: tuple[str, ...] = ()
    images_per_shard: int = 1000
    shuffle: bool = False
    seed: int = 0
    overwrite: bool = False

    def __post_init__(self) -> None:
        if (self.pattern is not None) + (self.csv is not None) + (self.dataset != "auto") > 1:
            raise UserError("give one of --dataset, --pattern and --csv")
        if self.images_per_shard < 1:
            raise UserError(f"images_per_shard is {self.images_per_shard}, it must be 1 or more")


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

    `ignored` files are not images of the data set, `missing` ones are listed and do not exist. `removed` are the names
    of the shards of an earlier request.
    """

    dest: Path
    dataset: str
    splits: tuple[PackedSplit, ...]
    shards: tuple[Path, ...]
    ignored: tuple[Path, ...]
    missing: tuple[Path, ...]
    removed: tuple[str, ...]

    @property
    def images(self) -> int:
        """The images in all shards."""
        return sum(split.images for split in self.splits)


def pack(config: ShardConfig) -> PackingReport:
    """Packs the images below `config.source` into tar shards in `config.dest`, with a bar on a terminal.

    A shard that is there under its final name is whole and is kept, so an interrupted call can be repeated. Raises
    UserError for a layout that is not recognised, an unknown split, and a folder with shards of another request.
    """
    listing = _list_images(config)
    records = _only(listing.records, config.splits)
    plan = plan_shards(
        records,
        dataset=listing.dataset,
        images_per_shard=config.images_per_shard,
        seed=config.seed if config.shuffle else None,
    )
    removed = discard_plan(config.dest) if config.overwrite else []
    with tqdm(total=len(records), unit=" images", disable=None) as bar:  # None: only on a terminal
        for shard in write_shards(config.dest, plan):
            bar.update(len(shard.records))
    return PackingReport(
        dest=config.dest,
        dataset=listing.dataset,
        splits=_packed_splits(records),
        shards=tuple(config.dest / shard.file for shard in plan.shards),
        ignored=tuple(listing.ignored),
        missing=tuple(listing.missing),
        removed=tuple(removed),
    )


def write_shards(folder: Path, plan: ShardPlan) -> Iterator[PlannedShard]:
    """Writes the shards that are not there yet, and yields each one that is finished, old or new.

    Raises UserError if the folder holds the shards of another plan.
    """
    make_folder(folder)
    claim_folder(folder, plan)
    remove_leftovers(folder)
    for shard in plan.shards:
        final = folder / shard.file
        if not final.exists():
            with StagedFile(final) as staged:
                write_tar(staged.file, shard.records)
                staged.sync()
                staged.publish()
        yield shard


def write_tar(file: IO[bytes], records: Sequence[Record]) -> None:
    """Writes each record as `<key>.json` and `<key>.<suffix>`, the image's bytes untouched."""
    write_members(file, _members(records))


def _members(records: Sequence[Record]) -> Iterator[tuple[str, bytes]]:
    for record in records:
        try:
            image = record.path.read_bytes()
        except OSError as error:
            raise UserError(f"cannot read {record.path}: {error.strerror}") from error
        yield f"{record.key}.json", sample_json(record.parsed, record.split)
        yield f"{record.key}{record.path.suffix.lower()}", image


def _list_images(config: ShardConfig) -> Listing:
    if config.pattern is None and config.csv is None:
        return list_dataset(config.source, config.dataset)
    require_folder(config.source)
    if config.pattern is not None:
        listing = list_pattern(config.source, config.pattern)
    else:
        assert config.csv is not None
        listing = list_csv(config.source, config.csv)
    if not listing.records:
        others = [str(path.relative_to(config.source)) for path in [*listing.ignored, *listing.missing]]
        raise UserError(f"nothing below {config.source} fits (first files: {first_few(others) or 'none'})")
    return listing


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
        people = {identity_of(record.parsed.pid, record.key) for record in chosen} - {None}
        cameras = {record.parsed.camid for record in chosen}
        found.append(PackedSplit(split=name, images=len(chosen), identities=len(people), cameras=len(cameras)))
    return tuple(found)
