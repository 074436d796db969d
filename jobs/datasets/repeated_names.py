"""Keys that carry folders, for data sets in which base names repeat: SYSU-MM01, PRID2011 (no torch)."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from jobs.datasets.keys import base_key
from jobs.datasets.listing import Record
from jobs.phrases import shown


def with_folders(records: Sequence[Record]) -> list[Record]:
    """The records, with their folders in front of the keys in each split in which base names repeat.

    All keys of such a split have as many folders: so many that no two images of these splits have the same key, if
    folders can tell them apart.
    """
    folders = _folders(records)
    splits: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        splits[record.split].append(record)
    most = max((len(names) for names in folders.values()), default=0)
    repeating = {split for split, own in splits.items() if _distinct(own, folders, 0) < _distinct(own, folders, most)}
    if not repeating:
        return list(records)
    chosen = [record for record in records if record.split in repeating]
    all_of_them = _distinct(chosen, folders, most)
    depth = next(depth for depth in range(1, most + 1) if _distinct(chosen, folders, depth) == all_of_them)
    return [
        replace(record, prefix=_prefix(folders[record.path.parent], depth)) if record.split in repeating else record
        for record in records
    ]


def _folders(records: Sequence[Record]) -> dict[Path, tuple[str, ...]]:
    """The names of each folder's folders, below the one that all images have in common."""
    parents = {record.path.parent for record in records}
    if not parents:
        return {}
    common = os.path.commonpath([str(parent) for parent in parents])
    return {parent: tuple(map(shown, parent.relative_to(common).parts)) for parent in parents}


def _distinct(records: Sequence[Record], folders: dict[Path, tuple[str, ...]], depth: int) -> int:
    """How many keys there are with so many folders in front."""
    return len({_prefix(folders[record.path.parent], depth) + base_key(record.path) for record in records})


def _prefix(folders: tuple[str, ...], depth: int) -> str:
    return "".join(f"{name}/" for name in folders[max(0, len(folders) - depth) :])
