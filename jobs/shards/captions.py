"""The captions of images: the text `caption` in the JSON of their samples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

from jobs.errors import UserError
from jobs.shards.samples import read_samples
from jobs.shards.tar import TarReader
from jobs.shards.urls import Shard

_LOOKED_AT = 100  # samples, to find out whether a data set has captions


def read_captions(shard: Shard) -> Iterator[tuple[str, str | None]]:
    """(key, caption or None) of each sample, in tar order. Raises what reading a shard raises."""
    with TarReader(shard) as tar:
        for sample, _ in read_samples(tar, shard.name):
            yield sample.key, sample.caption


def require_captions(shards: Sequence[Shard], why: str, problem: str | None = None) -> None:
    """Raises UserError where none of the first samples of the first shard has a caption; `why` says what needs them.

    `problem` is what to say instead of how to give a caption or a text.
    A shard that is read from a command or another machine is not looked at: it would be read twice.
    """
    first = next((shard for shard in shards if shard.is_local), None)
    if first is not None and not any(caption for _, caption in islice(read_captions(first), _LOOKED_AT)):
        if problem is not None:
            raise UserError(f"{why}: {problem}; the samples of {first.url} have no captions")
        raise UserError(
            f"{why} needs a caption of each image, and the samples of {first.url} have none: put a text `caption` into "
            "their JSON, or give the text with --prompt"
        )
