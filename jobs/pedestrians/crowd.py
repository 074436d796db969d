"""The images of a drawn data set: how many of whom, in which split, and under which names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from jobs.datasets.names import ParsedKey
from jobs.errors import UserError

FOLDERS = {"train": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"}
_EMPTY_DISTRACTORS = 3  # one in this many distractors shows nobody, as a false alarm of a detector does


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Images per split. `gallery` counts all of bounding_box_test, with its distractors and junk."""

    train: int
    query: int
    gallery: int
    distractors: int
    junk: int


@dataclass(frozen=True, kw_only=True)
class Crowd:
    """A data set to be drawn.

    train, test: identities of each part. images_per_camera: of each identity. distractors, junk: images that show
    others, and test identities badly cropped. Raises UserError for sizes that Market-1501's names and protocol do not
    allow.
    """

    train: int = 768
    test: int = 48
    images_per_camera: int = 3
    cameras: int = 6
    seed: int = 0
    distractors: int = 60
    junk: int = 24

    def __post_init__(self) -> None:
        least = {"train": 0, "test": 0, "images_per_camera": 2, "cameras": 1, "seed": 0, "distractors": 0, "junk": 0}
        for name, bound in least.items():
            if getattr(self, name) < bound:
                raise UserError(f"pedestrians: {name} is {getattr(self, name)}, it must be {bound} or more")
        if self.train + self.test > 9999:
            raise UserError(f"pedestrians: {self.train + self.test} identities, but names have room for 9999")
        if self.junk and not self.test:
            raise UserError(f"pedestrians: {self.junk} junk images need a test identity to show; set junk to 0")

    def shots(self) -> list[Shot]:
        """All images in the order train, query, gallery, and by key within each."""
        shots = [
            Shot(
                split=self._split_of(pid, number),
                parsed=ParsedKey(pid=pid, camid=camid, seq=1 + number % 2, frame=_frame(pid, number)),
                number=number,
                who=pid - 1,
            )
            for pid in range(1, self.train + self.test + 1)
            for camid in range(self.cameras)
            for number in range(self.images_per_camera)
        ]
        people = self.train + self.test
        for extra in range(self.distractors):
            empty = extra // self.cameras % _EMPTY_DISTRACTORS == 0
            shots.append(self._extra(0, extra, None if empty else people + extra))
        for extra in range(self.junk):
            shots.append(self._extra(-1, extra, self.train + extra % self.test))
        return sorted(shots, key=lambda shot: (tuple(FOLDERS).index(shot.split), shot.key))

    def _split_of(self, pid: int, number: int) -> str:
        """As in Market-1501, a test identity has one query image per camera, which is not in the gallery."""
        if pid <= self.train:
            return "train"
        return "query" if number == 0 else "gallery"

    def _extra(self, pid: int, extra: int, who: int | None) -> Shot:
        number = extra // self.cameras
        parsed = ParsedKey(pid=pid, camid=extra % self.cameras, seq=1, frame=_frame(pid, number))
        return Shot(split="gallery", parsed=parsed, number=number, who=who)


@dataclass(frozen=True, kw_only=True)
class Shot:
    """One image to be drawn. `number` counts the images of its pid and camera. `who` is the number of a look among
    those of the seed, or None for an image of nobody.
    """

    split: str
    parsed: ParsedKey
    number: int
    who: int | None

    @property
    def key(self) -> str:
        """The base name that Market-1501 would give it."""
        p = self.parsed
        pid = f"{p.pid:04d}" if p.pid >= 0 else str(p.pid)
        return f"{pid}_c{p.camid + 1}s{p.seq}_{p.frame:06d}_{self.number:02d}"


def count_images(shots: Sequence[Shot]) -> Counts:
    """How many images there are of each kind."""
    splits, pids = Counter(shot.split for shot in shots), Counter(shot.parsed.pid for shot in shots)
    return Counts(
        train=splits["train"], query=splits["query"], gallery=splits["gallery"], distractors=pids[0], junk=pids[-1]
    )


def _frame(pid: int, number: int) -> int:
    """A frame of the film that the image could be from; names need one."""
    return 1 + 25 * number + 100 * max(pid, 0)
