"""A bounded sample of images, drawn by person in one pass over shards (no torch)."""

from __future__ import annotations

import hashlib
import heapq
from collections import Counter
from dataclasses import dataclass

from jobs.shards.samples import Sample


@dataclass(frozen=True)
class SampledImage:
    """A sample, and the bytes of its image."""

    sample: Sample
    data: bytes


class PersonSample:
    """Keeps up to `images` images of each of up to `persons` persons (None: of all) of those that it is offered.

    Hashes of the names decide which: the same shards in the same order give the same images, in every process. Each
    person's images are spread over the cameras. What is not kept takes no memory.
    """

    def __init__(self, persons: int | None, images: int) -> None:
        self._most_persons, self._most_images = persons, images
        self._kept: dict[str, list[SampledImage]] = {}
        self._last: list[tuple[int, str]] = []  # a heap: first the person that gives way to the next one

    def offer(self, person: str, sample: Sample, data: bytes) -> None:
        """Keeps the image, or not. `person` is who it shows."""
        if person not in self._kept and not self._make_room(person):
            return
        images = self._kept[person]
        images.append(SampledImage(sample, data))
        if len(images) > self._most_images:
            images.remove(_of_the_fullest_camera(images))

    def persons(self) -> dict[str, list[SampledImage]]:
        """person -> the images that are kept, a first one of each camera before any second one.

        The order of the persons has nothing to do with their names or shards: the first few are a sample too.
        """
        return {person: _one_camera_after_the_other(self._kept[person]) for person in sorted(self._kept, key=_hash)}

    def _make_room(self, person: str) -> bool:
        """Whether a new person is kept, in place of another one if there are enough."""
        entry = (-_hash(person), person)
        if self._most_persons is not None and len(self._kept) >= self._most_persons:
            if entry < self._last[0]:
                return False
            del self._kept[heapq.heappop(self._last)[1]]
        heapq.heappush(self._last, entry)
        self._kept[person] = []
        return True


def _of_the_fullest_camera(images: list[SampledImage]) -> SampledImage:
    count = Counter(image.sample.camid for image in images)
    return max(images, key=lambda image: (count[image.sample.camid], _hash(image.sample.key)))


def _one_camera_after_the_other(images: list[SampledImage]) -> list[SampledImage]:
    seen: Counter[int | None] = Counter()
    placed = []
    for image in sorted(images, key=lambda image: _hash(image.sample.key)):
        placed.append((seen[image.sample.camid], image))
        seen[image.sample.camid] += 1
    return [image for _, image in sorted(placed, key=lambda entry: entry[0])]


def _hash(name: str) -> int:
    digest = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8)
    return int.from_bytes(digest.digest(), "big")
