"""Groups the members of a tar into samples, as WebDataset does: a run of members that share a key (no torch).

A key is a member's path up to the first dot of its base name; what follows the dot is the member's extension. The last
suffix says whether a member is an image; where it is not known, the content does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from jobs.image_names import IMAGE_SUFFIXES, MASK_SUFFIX, OTHER_IMAGE_SUFFIXES, PLAIN_NAME, is_hidden_clutter
from jobs.phrases import counted_kinds
from jobs.shards.tar import Member
from promptsg_core.image_formats import is_surely_image

_LONGEST_SUFFIX = 12
_MOST_KINDS = 20


@dataclass
class ShardContents:
    """What a shard holds: how many images and, by kind, how many members of which nothing was made.

    A kind is a suffix such as `.txt`, or a name such as `.DS_Store`. `notes` are the `.json` members of samples.
    """

    images: int = 0
    notes: int = 0
    passed_over: Counter[str] = field(default_factory=Counter)

    def pass_over(self, name: str) -> None:
        """Counts a member of which nothing is made."""
        kind = _kind_of(name)
        self.passed_over[kind if kind in self.passed_over or len(self.passed_over) < _MOST_KINDS else "others"] += 1

    def held_instead(self) -> str:
        """What a shard without images holds, such as `12 .txt, 3 .json`; empty where it holds nothing at all."""
        return counted_kinds(self.passed_over + Counter({".json": self.notes}))


@dataclass
class Group:
    """Consecutive members with one key, as (extension in lower case, member).

    `images` are those that are images. `notes` are the `.json` members, and the one that is named as the sample's only
    image is: `X.rgb.json`, `X.rgb.jpg`. Both are known once the group is complete. `is_plain`: all names are plain.
    """

    key: str
    is_plain: bool = True
    members: list[tuple[str, Member]] = field(default_factory=list)
    images: list[Member] = field(default_factory=list)
    notes: list[Member] = field(default_factory=list)

    def complete(self) -> None:
        """Finds the images and the notes. To be called once all members are there."""
        if self.is_plain:  # nearly always: the extension alone tells them apart
            for extension, member in self.members:
                (self.notes if extension == "json" else self.images).append(member)
            return
        images = [named for named in self.members if _is_image(*named)]
        wanted = {"json", f"{images[0][0].rpartition('.')[0]}.json"} if len(images) == 1 else {"json"}
        self.images = [member for _, member in images]
        self.notes = [member for extension, member in self.members if extension in wanted]


def read_groups(members: Iterable[Member], contents: ShardContents | None = None) -> Iterator[Group]:
    """The groups that could be samples, in tar order. `contents` counts what is in them, and all that is not."""
    counted = ShardContents() if contents is None else contents
    group: Group | None = None
    for member in members:
        plain = PLAIN_NAME.fullmatch(member.name)
        if plain is not None:
            key, extension = plain.groups()
        else:
            key, extension = _split(member.name)
            if _is_note_of_others(member.name) or not (extension or _is_image(extension, member)):
                counted.pass_over(member.name)
                continue
        if group is None or group.key != key:
            if group is not None and _count(group, counted):
                yield group
            group = Group(key)
        group.is_plain &= plain is not None
        group.members.append((extension, member))
    if group is not None and _count(group, counted):
        yield group


def key_of(name: str) -> str:
    """The key of a member: its name up to the first dot of the base name."""
    return _split(name)[0]


def _split(name: str) -> tuple[str, str]:
    """(key, extension) of a member. A name without a stem before its first dot is a key as a whole."""
    folder, slash, base = name.rpartition("/")
    visible = base.lstrip(".")
    dots = base[: len(base) - len(visible)]
    stem, _, extension = visible.partition(".")
    return f"{folder}{slash}{dots}{stem}", extension.lower()


def _is_image(extension: str, member: Member) -> bool:
    """Whether a member is an image by its last suffix or, where that is unknown, by its content."""
    if f".{extension}".endswith(MASK_SUFFIX):
        return False
    last = f".{extension.rpartition('.')[2]}"
    if last in IMAGE_SUFFIXES or last in OTHER_IMAGE_SUFFIXES:
        return True
    return last != ".json" and member.data is not None and is_surely_image(member.data)


def _count(group: Group, contents: ShardContents) -> bool:
    """Completes a group and counts its members. Returns whether it could be meant as a sample, unlike a README.txt."""
    group.complete()
    images, notes = group.images, group.notes
    contents.images += len(images)
    contents.notes += len(notes)
    if group.is_plain:
        return True
    used = {id(member) for member in (*images, *notes)}
    for extension, member in group.members:
        is_mask = images and f".{extension}".endswith(MASK_SUFFIX)
        if id(member) not in used and not is_mask:
            contents.pass_over(member.name)
    return bool(used)


def _is_note_of_others(name: str) -> bool:
    """Whether a member was left by a desktop system, or is a note of WebDataset's own such as `__meta__.json`."""
    stem, _, extension = name.rpartition("/")[2].partition(".")
    own = stem.startswith("__") and stem.endswith("__") and extension.lower() == "json"
    return own or is_hidden_clutter(name)


def _kind_of(name: str) -> str:
    """The kind under which a member is counted: its last suffix, or the name of what a desktop system left."""
    base = name.rpartition("/")[2]
    if is_hidden_clutter(name):
        return "._*" if base.startswith("._") else base[:_LONGEST_SUFFIX]
    stem, dot, last = base.rpartition(".")
    if not (stem and dot and last):
        return "without a suffix"
    is_plain = len(last) <= _LONGEST_SUFFIX and last.isascii() and last.isalnum()
    return f".{last.lower()}" if is_plain else "others"
