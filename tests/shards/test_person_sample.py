"""Samples by person: bounded, spread over cameras, and the same in every process."""

from __future__ import annotations

import random
from collections import Counter

from jobs.shards.person_sample import PersonSample
from jobs.shards.samples import Sample

IMAGES = [(f"p{person}", f"p{person}-{n}", n % 3) for person in range(40) for n in range(9)]


def drawn(persons: int | None, images: int, entries: list[tuple[str, str, int]] = IMAGES) -> dict[str, list[str]]:
    sample = PersonSample(persons, images)
    for number, (person, key, camid) in enumerate(entries):
        sample.offer(person, Sample(key=key, tar_index=number, camid=camid), key.encode())
    found = sample.persons()
    assert all(image.data == image.sample.key.encode() for images in found.values() for image in images)
    return {person: [image.sample.key for image in images] for person, images in found.items()}


def test_no_more_persons_and_images_are_kept_than_wanted() -> None:
    found = drawn(10, 4)
    assert len(found) == 10 and {len(keys) for keys in found.values()} == {4}
    assert all(key.startswith(f"{person}-") for person, keys in found.items() for key in keys)
    assert len(drawn(None, 4)) == 40
    assert {len(keys) for keys in drawn(None, 20).values()} == {9}
    assert drawn(10, 4, []) == {}


def test_the_order_of_the_images_decides_nothing_about_who_is_drawn() -> None:
    shuffled = IMAGES.copy()
    random.Random(0).shuffle(shuffled)
    assert list(drawn(10, 4, shuffled)) == list(drawn(10, 4))
    assert list(drawn(10, 4)) == list(drawn(None, 4))[:10]  # the first few of a larger sample
    assert sorted(drawn(10, 4), key=lambda person: int(person[1:])) != list(drawn(10, 4))


def test_images_are_spread_over_the_cameras() -> None:
    camera = {key: camid for _, key, camid in IMAGES}
    for keys in drawn(None, 4).values():
        assert sorted(Counter(camera[key] for key in keys).values()) == [1, 1, 2]
        assert len({camera[key] for key in keys[:3]}) == 3  # one of each camera first
    unbalanced = [("p", f"p-{n}", 0) for n in range(50)] + [("p", "p-50", 1)]
    assert "p-50" in drawn(1, 3, unbalanced)["p"][:2]
