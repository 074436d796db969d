"""The training class of each pid: its rank among the training pids, or what a JSON file says (no torch)."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from pathlib import Path

from jobs.errors import UserError
from jobs.identity import PERSON, identity_name, require_own_pids, training_classes
from jobs.mining.number_maps import read_label_map
from jobs.phrases import counted
from jobs.shards.columns import SampleColumns
from jobs.shards.person_sample import PersonSample
from jobs.shards.samples import read_samples, split_of
from jobs.shards.tar import TarReader
from jobs.shards.urls import Shard

AUTO = "auto"  # instead of a label map's path: learn it from the model's predictions
_TRAINING_SPLITS = ("train", "val", None)


def labels_for(
    shards: Sequence[Shard], label_map: Path | None, num_classes: int, drawn: PersonSample | None = None
) -> Mapping[int, int]:
    """pid -> class for a head of `num_classes`. Raises UserError, naming both numbers, where they do not agree.

    The training images of persons with a label are offered to `drawn`. Without it, a label map makes reading the shards
    unnecessary.
    """
    if label_map is not None:
        labels = read_label_map(label_map)
        if max(labels.values()) >= num_classes:
            raise UserError(
                f"the label map {label_map} names {counted(len(labels), 'pid')} and class {max(labels.values())}, "
                f"but the checkpoint has {counted(num_classes, 'class', 'classes')}"
            )
        if drawn is not None:
            training_pids(shards, drawn, labels, enough=0)  # some images suffice
        return labels
    labels = training_classes(training_pids(shards, drawn, enough=num_classes))
    if len(labels) != num_classes:
        raise UserError(
            f"the training shards have {counted(len(labels), 'pid')}, but the checkpoint has "
            f"{counted(num_classes, 'class', 'classes')}: list all "
            "training shards, or give --label-map FILE, a JSON object of pids to classes"
        )
    return labels


def training_pids(
    shards: Sequence[Shard],
    drawn: PersonSample | None = None,
    only: Container[int] | None = None,
    enough: int | None = None,
) -> set[int]:
    """The pids of all persons of the training split, without distractors and junk.

    Their images are offered to `drawn`, or those of the pids in `only`. Reads the shards and decodes no image. A shard
    may hold several splits. Where its name says another one than train, and its first sample too, the rest of it is
    read only if the other shards have fewer than `enough` pids; None: in any case. Raises UserError where a pid does
    not stand for one person.
    """
    people: set[tuple[int, str | None]] = set()
    left: list[Shard] = []
    for shard in shards:
        may_leave = enough is not None and split_of(shard.name) not in (None, "train")
        if not _add_people(people, shard, drawn, only, may_leave=may_leave):
            left.append(shard)
    for shard in left:
        if enough is not None and len({pid for pid, _ in people}) < enough:
            _add_people(people, shard, drawn, only, may_leave=False)
    require_own_pids(sorted(people, key=str))
    return {pid for pid, _ in people}


def _add_people(
    people: set[tuple[int, str | None]],
    shard: Shard,
    drawn: PersonSample | None,
    only: Container[int] | None,
    *,
    may_leave: bool,
) -> bool:
    """Adds the (pid, identity) of each training image. Returns False where the shard was left at its first sample."""
    with TarReader(shard) as tar:
        for sample, data in read_samples(tar, shard.name):
            if may_leave and sample.split != "train" and sample.tar_index == 0:
                return False
            if sample.split != "train" or sample.pid is None or sample.role != PERSON:
                continue
            people.add((sample.pid, sample.identity))
            if drawn is not None and data is not None and (only is None or sample.pid in only):
                drawn.offer(str(sample.pid), sample, data)
    return True


def classes_of(samples: SampleColumns, labels: Mapping[int, int]) -> list[int | None]:
    """The class of the person on each image, by `labels` (pid -> class); None where it is not one of them.

    A pid stands for a person of the training split. Elsewhere it does only if the identity is the pid itself: some data
    sets give the same pids to other persons there.
    """
    people = zip(samples.pid, samples.role, samples.split, samples.identity, strict=True)
    return [
        labels.get(pid)
        if pid is not None and role == PERSON and (split in _TRAINING_SPLITS or identity == identity_name(pid))
        else None
        for pid, role, split, identity in people
    ]
