"""Groups the members of a tar into samples, as WebDataset does: a run of members that share a key (no torch).

A key is a member's path up to the first dot of its base name; what follows the dot is the member's extension.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from jobs.image_names import IMAGE_SUFFIXES
from jobs.shards.tar import Member

_KEY = re.compile(r"^((?:.*/)?[^/.]+)\.([^/]+)$")


@dataclass
class Group:
    """Consecutive members with one key, as (extension in lower case, member)."""

    key: str
    members: list[tuple[str, Member]] = field(default_factory=list)

    @property
    def images(self) -> list[Member]:
        """The members whose extension is that of an image."""
        return [member for extension, member in self.members if f".{extension}" in IMAGE_SUFFIXES]

    @property
    def notes(self) -> list[Member]:
        """The `.json` members."""
        return [member for extension, member in self.members if extension == "json"]

    @property
    def is_sample(self) -> bool:
        """Whether the group could be meant as a sample: it has an image or metadata, and is not a lone README.txt."""
        return bool(self.images or self.notes)


def read_groups(members: Iterable[Member]) -> Iterator[Group]:
    """The groups that could be samples, in tar order. Members without a key or extension are passed over."""
    group: Group | None = None
    for member in members:
        found = None if _is_hidden(member.name) else _KEY.match(member.name)
        if found is None:
            continue
        key, extension = found[1], found[2].lower()
        if group is None or group.key != key:
            if group is not None and group.is_sample:
                yield group
            group = Group(key)
        group.members.append((extension, member))
    if group is not None and group.is_sample:
        yield group


def _is_hidden(name: str) -> bool:
    """Whether a member is a macOS resource fork, or a note of WebDataset's own such as `__meta__.json`."""
    base = name.rsplit("/", 1)[-1]
    stem = base.partition(".")[0]
    return base.startswith("._") or (stem.startswith("__") and stem.endswith("__"))
