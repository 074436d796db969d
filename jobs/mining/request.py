"""A request to mine before any model is loaded: what is wrong with it, and what identifies it.

Settings, the checkpoint's hash and the shards identify it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jobs.atomic import sha256_of
from jobs.errors import UserError
from jobs.mining.config import MineConfig, without_weight
from jobs.mining.early.files import check_checkpoint_file, check_model_words
from jobs.mining.early.names import refuse_unknown_maps
from jobs.runs.layout import RunLayout
from jobs.runs.manifest import read_manifest
from jobs.runs.request import RecordedShard, RequestedSettings, RunRequest
from jobs.shards.urls import Shard

# Settings that change no stored number: a run may be resumed with others.
_FREE = frozenset({"shards", "checkpoint", "output", "device", "batch_size", "workers", "max_failed_fraction"})
# Settings that earlier versions did not have. Without a value they are not recorded, so that earlier runs go on.
_ADDED = frozenset({"weights_key", "image_size", "head", "sie_coe", "trained_on", "camera_map", "camera"})


def refuse_wrong_mining(config: MineConfig, add_maps: Sequence[str] = ()) -> None:
    """Raises UserError, ModelError or CamError for what cannot be by words and files alone: before torch is loaded.

    These are a map, a file, a run, a device or a precision.
    """
    refuse_unknown_maps((*config.maps, *add_maps))
    files = (config.label_map, config.camera_map, config.model_settings)
    check_model_words(config.checkpoint, config.device, config.precision, files=files, reference=config.reference)


def request_of(config: MineConfig, shards: Sequence[Shard], overrides: Sequence[str] | None = None) -> RunRequest:
    """The request of a configuration, its shards and its `overrides`, which are KEY VALUE words.

    With `overrides` None the request says nothing about them. Raises UserError naming a file that cannot be read.
    """
    check_checkpoint_file(config.checkpoint)
    settings = {
        key: value
        for key, value in config.model_dump(mode="json").items()
        if key not in _FREE and not (key in _ADDED and value is None)
    }
    # What is in a file decides, not where the file is.
    if config.model_settings is not None:
        settings["model_settings"] = _hash_of(config.model_settings)
    if isinstance(config.label_map, Path):
        settings["label_map"] = _hash_of(config.label_map)
    if config.camera_map is not None:
        settings["camera_map"] = _hash_of(config.camera_map)
    if config.reference is not None:
        settings["reference"] = read_manifest(RunLayout(config.reference)).list_fingerprint
    settings["checkpoint_sha256"] = sha256_of(config.checkpoint)
    if overrides is not None:
        settings["overrides"] = without_weight(overrides)  # the checkpoint's hash stands for it
    return RunRequest(
        asked=RequestedSettings.model_validate(settings),
        shards=tuple(_recorded(shard) for shard in shards),
    )


def _recorded(shard: Shard) -> RecordedShard:
    if shard.modified_ns is None:
        return RecordedShard(name=shard.name, url=shard.url, size=shard.size)
    return RecordedShard(name=shard.name, url=shard.url, size=shard.size, modified_ns=shard.modified_ns)


def _hash_of(path: Path) -> str:
    try:
        return sha256_of(path)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
