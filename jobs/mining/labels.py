"""The training class of each pid: its rank among the training pids, or what a JSON file says (no torch)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from jobs.errors import UserError
from jobs.identity import PERSON, role_of, training_classes
from jobs.shards.samples import read_samples
from jobs.shards.tar import TarReader
from jobs.shards.urls import Shard


def labels_for(shards: Sequence[Shard], label_map: Path | None, num_classes: int) -> Mapping[int, int]:
    """pid -> class for a head of `num_classes`. Raises UserError, naming both numbers, where they do not agree."""
    if label_map is not None:
        labels = read_label_map(label_map)
        if labels and max(labels.values()) >= num_classes:
            raise UserError(
                f"the label map {label_map} names {len(labels)} pids and class {max(labels.values())}, "
                f"but the checkpoint has {num_classes} classes"
            )
        return labels
    labels = training_classes(training_pids(shards))
    if len(labels) != num_classes:
        raise UserError(
            f"the training shards have {len(labels)} pids, but the checkpoint has {num_classes} classes: list all "
            "training shards, or give --label-map FILE, a JSON object of pids to classes"
        )
    return labels


def read_label_map(path: Path) -> dict[int, int]:
    """pid -> class of a JSON object such as {"2": 0, "7": 1}. Raises UserError naming the file and the entry."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read the label map {path}: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"the label map {path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f'the label map {path} is not an object of pids to classes, such as {{"2": 0}}')
    found = {}
    for pid, label in content.items():
        if not pid.lstrip("-").isdigit() or type(label) is not int or label < 0:
            raise UserError(f"the label map {path} has the entry {pid!r}: {label!r}; expected a pid and a class number")
        found[int(pid)] = label
    return found


def training_pids(shards: Sequence[Shard]) -> set[int]:
    """The pids of all persons of the training split, without distractors and junk.

    Reads the training shards once and decodes no image.
    """
    pids: set[int] = set()
    for shard in shards:
        with TarReader(shard) as tar:
            for sample, _ in read_samples(tar, shard.name):
                if sample.split != "train":
                    break  # all samples of a shard are of one split
                if sample.pid is not None and role_of(sample.pid, sample.key) == PERSON:
                    pids.add(sample.pid)
    return pids
