"""What identifies a request to mine, before any model is loaded: settings, the checkpoint's hash, the shards."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jobs.atomic import sha256_of
from jobs.errors import UserError
from jobs.mining.config import MineConfig, without_weight
from jobs.runs.layout import RunLayout
from jobs.runs.manifest import RecordedShard, RequestedSettings, RunRequest, read_manifest
from jobs.shards.urls import Shard

# Settings that change no stored number: a run may be resumed with others.
_FREE = frozenset({"shards", "checkpoint", "output", "device", "batch_size", "workers", "max_failed_fraction"})


def request_of(config: MineConfig, shards: Sequence[Shard], overrides: Sequence[str] | None = None) -> RunRequest:
    """The request that a configuration, its shards and KEY VALUE words make.

    Without `overrides` the request has none recorded. Raises UserError naming a file that cannot be read.
    """
    if not config.checkpoint.is_file():
        raise UserError(f"the checkpoint {config.checkpoint} does not exist or is not a file")
    settings = {key: value for key, value in config.model_dump(mode="json").items() if key not in _FREE}
    for name, path in (("model_settings", config.model_settings), ("label_map", config.label_map)):
        if path is not None:  # what a file says decides, not where it lies
            settings[name] = _hash_of(path)
    if config.reference is not None:
        settings["reference"] = read_manifest(RunLayout(config.reference)).fingerprint
    settings["checkpoint_sha256"] = sha256_of(config.checkpoint)
    if overrides is not None:
        settings["overrides"] = without_weight(overrides)  # the checkpoint's hash stands for it
    return RunRequest(
        asked=RequestedSettings.model_validate(settings),
        shards=tuple(RecordedShard(name=shard.name, url=shard.url, size=shard.size) for shard in shards),
    )


def _hash_of(path: Path) -> str:
    try:
        return sha256_of(path)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
