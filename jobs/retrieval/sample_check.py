"""A quick check of a checkpoint on a sample of images, without a run: do features find the person, and predictions
agree with the labels? A wrong assumption about the checkpoint shows in both.

Legend: n images.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from jobs.arrays import Float32Array, Int64Array
from jobs.errors import UserError
from jobs.identity import PERSON, training_classes
from jobs.mining.camera_rows.options import CameraOptions
from jobs.mining.number_maps import read_label_map
from jobs.phrases import counted
from jobs.retrieval.distances import EuclideanDistances
from jobs.retrieval.protocol import IdentityIndex, Side, rank_gallery
from jobs.retrieval.scores import summarise
from jobs.runs.request import LabelAgreement
from jobs.shards.person_sample import PersonSample, SampledImage
from jobs.shards.samples import Sample, read_samples, split_of
from jobs.shards.tar import TarReader
from jobs.shards.urls import Shard
from promptsg_core.settings import Settings

if TYPE_CHECKING:
    from promptsg_core.model import AnyModel

DEFAULT_IMAGES = 500
TRAINING, OTHERS = "training images", "other images"
_OF_A_PERSON = 4
_MOST_READ = 200_000  # samples of shards that are not named after the training split


@dataclass(frozen=True, kw_only=True)
class SampleCheckConfig:
    """Which checkpoint to check, on how many images of which shards.

    settings: what the tensors cannot tell. weights_key, image_size: as for `load_model`. label_map: a file of pid to
    class instead of the usual numbering. cameras: for a model with camera embeddings.
    """

    checkpoint: Path
    shards: tuple[Shard, ...]
    settings: Settings = field(default_factory=Settings)
    weights_key: str | None = None
    image_size: tuple[int, int] | None = None
    images: int = DEFAULT_IMAGES
    label_map: Path | None = None
    cameras: CameraOptions = field(default_factory=CameraOptions)
    device: str = "auto"
    precision: str = "auto"


@dataclass(frozen=True, kw_only=True)
class SampleRetrieval:
    """Retrieval among sampled images: each is a query, and all others are its gallery.

    across_cameras: whether images of the query's person and camera are left out, as usual; not where all images of each
    person are of one camera. rank1, mAP: over `queries`, which have a match; chance is the rank-1 of a random order.
    """

    name: str
    images: int
    persons: int
    across_cameras: bool
    queries: int
    rank1: float | None
    mAP: float | None
    chance: float | None


@dataclass(frozen=True, kw_only=True)
class SampleCheck:
    """What was found. `labels` is None where there is nothing to compare; `no_labels` then says why.

    read: the shards that were read, of `shards`. undecoded: sampled images that did not decode.
    """

    retrieval: tuple[SampleRetrieval, ...]
    labels: LabelAgreement | None
    no_labels: str | None
    other_numbering: bool
    undecoded: int
    read: int
    shards: int


@dataclass
class _Drawn:
    """A sample of training images and one of all others, the training pids, and how many shards were read."""

    training: PersonSample
    others: PersonSample
    pids: set[int] = field(default_factory=set)
    read: int = 0


def check_sample(config: SampleCheckConfig) -> SampleCheck:
    """Reads the shards once, and runs the model over the sample. Writes nothing.

    Raises UserError where there is no image of a person, and what loading the checkpoint and reading shards raise.
    """
    from jobs.mining.camera_rows.source import camera_source
    from jobs.mining.label_agreement import compare, is_conclusive, is_other_numbering
    from jobs.mining.predictions import predict
    from promptsg_core.checkpoint import load_model
    from promptsg_core.precision import compute_deterministically

    stated = None if config.label_map is None else read_label_map(config.label_map)
    compute_deterministically()
    model = load_model(
        config.checkpoint,
        device=config.device,
        precision=config.precision,
        settings=config.settings,
        weights_key=config.weights_key,
        image_size=config.image_size,
    )
    cameras = camera_source(model, config.cameras, config.shards)
    drawn = _draw(config.shards, config.images)
    pools = {TRAINING: drawn.training.persons(), OTHERS: drawn.others.persons()}
    pools = {name: persons for name, persons in pools.items() if persons}
    if not pools:
        raise UserError(f"no image of a known person in {counted(drawn.read, 'shard')}: nothing can be checked")
    retrieval: list[SampleRetrieval] = []
    agreement: LabelAgreement | None = None
    undecoded = 0
    labels, reason = _labels(stated, drawn, model)
    for name, persons in pools.items():
        found = predict(model, _limited(persons, config.images // len(pools)), cameras)
        undecoded += found.undecoded
        if len(found.samples):
            retrieval.append(_retrieval(name, found.samples, found.features))
        if name == TRAINING and labels is not None:
            agreement = compare(found.of_persons(), labels, model.config.num_classes)
    if agreement is not None and not is_conclusive(agreement):
        reason = f"too few training images: {agreement.images} of persons with a label"
        agreement = None
    return SampleCheck(
        retrieval=tuple(retrieval),
        labels=agreement,
        no_labels=reason,
        other_numbering=agreement is not None and is_other_numbering(agreement),
        undecoded=undecoded,
        read=drawn.read,
        shards=len(config.shards),
    )


def _draw(shards: Sequence[Shard], images: int) -> _Drawn:
    """Samples of images of persons. Training shards are all read, others until enough was read."""
    drawn = _Drawn(PersonSample(images, _OF_A_PERSON), PersonSample(images, _OF_A_PERSON))  # more than will be taken
    samples = 0
    for shard in sorted(shards, key=lambda shard: split_of(shard.name) != "train"):  # stable
        if samples >= _MOST_READ:
            break
        drawn.read += 1
        with TarReader(shard) as tar:
            for sample, data in read_samples(tar, shard.name):
                samples += split_of(shard.name) != "train"
                _offer(drawn, sample, data)
    return drawn


def _offer(drawn: _Drawn, sample: Sample, data: bytes | None) -> None:
    if sample.role != PERSON or sample.identity is None:
        return
    if sample.split != "train":
        sample_of = drawn.others
    elif sample.pid is None:  # it cannot have a label
        return
    else:
        drawn.pids.add(sample.pid)
        sample_of = drawn.training
    if data is not None:
        sample_of.offer(sample.identity, sample, data)


def _labels(
    stated: Mapping[int, int] | None, drawn: _Drawn, model: AnyModel
) -> tuple[Mapping[int, int] | None, str | None]:
    """pid -> class, or None and why there is nothing to compare."""
    if model.class_problem is not None:
        return None, model.class_problem
    if not drawn.pids:
        return None, "no image of the split train in these shards"
    if stated is not None:
        return stated, None
    labels = training_classes(drawn.pids)
    classes = model.config.num_classes
    if len(labels) != classes:
        return (
            None,
            f"{counted(len(labels), 'training person')} in these shards, but {counted(classes, 'class', 'classes')}",
        )
    return labels, None


def _limited(persons: Mapping[str, Sequence[SampledImage]], most: int) -> list[SampledImage]:
    """At most so many images: all of a person's, or none. Persons who have a match come first."""
    found: list[SampledImage] = []
    for images in sorted(persons.values(), key=lambda images: (_cameras(images) < 2, len(images) < 2)):  # stable
        if len(found) + len(images) <= max(most, _OF_A_PERSON):
            found += images
    return found


def _cameras(images: Iterable[SampledImage]) -> int:
    return len({image.sample.camid for image in images if image.sample.camid is not None})


def _retrieval(name: str, samples: Sequence[Sample], features: Float32Array) -> SampleRetrieval:
    identity = np.unique([str(sample.identity) for sample in samples], return_inverse=True)[1]
    camid, across = _cameras_of(samples, identity)
    side = Side(features, identity.astype(np.int64), camid)
    ranking = rank_gallery(side, side, EuclideanDistances(features, features), topk=1, block=256)
    scores = summarise(ranking.ap, ranking.inp, ranking.first)
    return SampleRetrieval(
        name=name,
        images=len(samples),
        persons=len(np.unique(identity)),
        across_cameras=across,
        queries=scores.queries,
        rank1=scores.cmc[0],
        mAP=scores.mAP,
        chance=_chance(side),
    )


def _cameras_of(samples: Sequence[Sample], identity: Int64Array) -> tuple[Int64Array, bool]:
    """(n,) cameras, and whether they are real: where nobody was seen by two, each image is a camera of its own."""
    known = np.array([-1 if sample.camid is None else sample.camid for sample in samples], np.int64)
    pairs = np.unique(np.stack([identity, known]), axis=1)
    if len(np.unique(pairs[0])) < pairs.shape[1]:
        return known, True
    return np.arange(len(samples), dtype=np.int64), False


def _chance(side: Side) -> float | None:
    """The rank-1 of a random order: the mean share of matches in a query's gallery."""
    index = IdentityIndex(side)
    shares = []
    for identity, camid in zip(side.identity.tolist(), side.camid.tolist(), strict=True):
        hits, left_out = index.split(identity, camid)
        if len(hits):
            shares.append(len(hits) / (len(side) - len(left_out)))
    return float(np.mean(shares)) if shares else None
