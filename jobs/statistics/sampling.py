"""Which images are kept for what compares pairs of maps: whole identities, drawn by a hash of who they are.

The draw depends on the identity, the seed and nothing else, so that blocks of shards agree on it.
"""

from __future__ import annotations

import hashlib

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jobs.arrays import BoolArray, UInt64Array
from jobs.identity import NOBODY, identity_numbers
from jobs.statistics.chosen import ChosenImages


def sampled_images(chosen: ChosenImages) -> BoolArray:
    """(N,) whether an image is in the sample: an identity's images all are, or none; images of nobody one by one."""
    question = chosen.question
    known = chosen.identity != NOBODY
    of_identity = _drawn(_identity_hashes(chosen.identities), question.seed, question.fraction)
    of_cluster = np.zeros(len(chosen.identity), bool)
    of_cluster[known] = of_identity[chosen.identity[known]]
    sampled: BoolArray = of_cluster[chosen.cluster]
    nobody = np.flatnonzero(~known[chosen.cluster])
    shards = np.array([_text_hash(name) for name in chosen.shards], np.uint64)
    images = _mix(shards[chosen.shard_of[nobody]] + chosen.rows[nobody].astype(np.uint64))
    sampled[nobody] = _drawn(images, question.seed, question.fraction)
    return sampled


def _drawn(hashes: UInt64Array, seed: int, fraction: float) -> BoolArray:
    """(n,) a share of about `fraction` of the hashes, the same for the same seed."""
    limit = np.uint64(min(fraction * 2.0**64, 2.0**64 - 2048))
    found: BoolArray = _mix(hashes + _mix(np.array([seed], np.uint64))) < limit
    return found


def _identity_hashes(names: pa.StringArray) -> UInt64Array:
    """(P,) the number that an identity is, or the hash of its text."""
    numbers = identity_numbers(names)
    hashes: UInt64Array = pc.fill_null(numbers, 0).to_numpy().astype(np.uint64)
    for index in np.flatnonzero(pc.is_null(numbers).to_numpy(zero_copy_only=False)).tolist():
        hashes[index] = _text_hash(names[index].as_py())
    return hashes


def _mix(x: UInt64Array) -> UInt64Array:
    """The finaliser of SplitMix64 (Steele et al. 2014): well-spread 64-bit numbers from any."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: UInt64Array = x ^ (x >> np.uint64(31))
    return mixed


def _text_hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
