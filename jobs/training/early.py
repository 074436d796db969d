"""What a training cannot be, by its words and files alone: told before torch is loaded and the images are read."""

from __future__ import annotations

from jobs.reading import check_files
from jobs.shards.urls import Shard, expand_shards
from jobs.training.config import TrainConfig
from promptsg_core.choices import check_device_name


def refuse_wrong_training(config: TrainConfig) -> list[Shard]:
    """The shards of a training. Raises UserError for shards or a file that are not there, ModelError for no device."""
    check_device_name(config.device)
    shards = expand_shards(config.shards)
    check_files([] if config.init is None else [config.init])
    return shards
