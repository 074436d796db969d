"""Does what is said of the training set fit the embedding and the shards: another data set has other cameras."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from jobs.errors import UserError
from jobs.phrases import counted, did_you_mean, first_few, spelled_as
from jobs.shards.plan_beside import dataset_beside
from jobs.shards.urls import Shard

logger = logging.getLogger(__name__)

# The cameras of the data sets that `promptsg shard` knows by name.
CAMERAS: Mapping[str, int] = {"market1501": 6, "dukemtmc": 8, "occluded-duke": 8, "msmt17": 15}


def check_trained_on(name: str, rows: int, shards: Sequence[Shard], instead: str) -> None:
    """Raises UserError where the data set `name` has another number of cameras than the embedding has rows.

    Also where the shards say that they are of another data set. Shards that do not say it are warned about. `instead`
    names the options that help. Case and punctuation of `name` do not count.
    """
    name = spelled_as(name, CAMERAS) or name
    first = {Path(shard.url).parent: Path(shard.url) for shard in shards if shard.is_local}  # one of each folder
    found = {folder: dataset_beside(tar) for folder, tar in sorted(first.items())}
    for folder, dataset in found.items():
        if dataset not in (None, name):
            if near := did_you_mean(name.lower(), [dataset]):
                raise UserError(f"--trained-on is {name}, and the shards in {folder} are of {dataset}{near}")
            raise UserError(
                f"the checkpoint was trained on {name}, but the shards in {folder} are of {dataset}, whose cameras "
                f"are others: give {instead}"
            )
    if CAMERAS.get(name, rows) != rows:
        raise UserError(
            f"--trained-on is {name}, which has {counted(CAMERAS[name], 'camera')}, but the camera embedding of the "
            f"checkpoint has {counted(rows, 'row')}: name the data set that it was trained on, or give {instead}"
        )
    if name not in CAMERAS:
        logger.warning("--trained-on is %s, a data set whose cameras are not known%s; known are %s", name,
                       did_you_mean(name.lower(), CAMERAS), ", ".join(CAMERAS))  # fmt: skip
    silent = [str(folder) for folder, dataset in found.items() if dataset is None]
    silent += [shard.url for shard in shards if not shard.is_local]
    if silent:
        logger.warning("the shards in %s do not say which data set they are of: their cameras are taken as those of %s",
                       first_few(silent), name)  # fmt: skip
