"""What `promptsg shard` wrote beside a tar: shards.json says how many images each tar has, and its bytes (no torch)."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from jobs.datasets.shard_plan import PLAN


@dataclass(frozen=True, kw_only=True)
class ListedTar:
    """A tar's entry in `plan`: the number of its images, and the SHA-256 of its bytes. None: not stated."""

    plan: Path
    images: int | None
    sha256: str | None


def listed_tar(tar: Path) -> ListedTar | None:
    """The tar's entry in the shards.json beside it; None where there is none that can be read."""
    plan = tar.parent / PLAN
    try:
        facts = plan.stat()
    except OSError:
        return None
    return _entries(plan, facts.st_mtime_ns, facts.st_size).get(tar.name)


def dataset_beside(tar: Path) -> str | None:
    """The name of the data set that the tar was packed from, such as market1501; None where nothing says it."""
    content = _read(tar.parent / PLAN)
    name = content.get("dataset")
    return name if isinstance(name, str) else None


@functools.lru_cache(maxsize=16)
def _entries(plan: Path, _modified_ns: int, _size: int) -> Mapping[str, ListedTar]:
    """File name -> its entry. A plan lists many tars, so it is parsed once for each state of the file."""
    shards = _read(plan).get("shards")
    entries = [entry for entry in shards if isinstance(entry, dict)] if isinstance(shards, list) else []
    return {str(entry.get("file")): _entry(plan, entry) for entry in entries}


def _read(plan: Path) -> Mapping[str, object]:
    """The JSON object of a plan; empty where it cannot be read: `promptsg shard` says what is wrong with it."""
    try:
        content = json.loads(plan.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _entry(plan: Path, entry: Mapping[str, object]) -> ListedTar:
    images, sha256 = entry.get("images"), entry.get("sha256")
    return ListedTar(
        plan=plan,
        images=images if type(images) is int else None,
        sha256=sha256 if isinstance(sha256, str) else None,
    )
