"""The maps of a request: those of the checkpoint's family where none are named, and one for each prompt."""

from __future__ import annotations

import logging

from cam.names import parse_names
from jobs.mining.config import MineConfig
from jobs.progress import LongTask, loading_torch
from jobs.runs.manifest import Manifest

logger = logging.getLogger(__name__)


def with_maps(config: MineConfig, run: Manifest | None = None) -> MineConfig:
    """The configuration with all of its maps. A run that goes on says which are its own.

    Where none are named and there is a run, a line of the log says that its maps are taken. Raises what recognising
    the checkpoint raises.
    """
    if config.maps and not config.prompts:
        return config
    if run is not None:
        recorded = run.maps
        named = config.maps or tuple(name for name in recorded if name.partition(":")[2] not in config.prompts)
        prompted = tuple(name for name in recorded if name.partition(":")[2] in config.prompts)
        if set(named) <= set(recorded) and len(named) + len(prompted) == len(recorded):
            if not config.maps:
                logger.info("maps as in the run: %s", ", ".join(recorded))
            return config.model_copy(update={"maps": recorded})
    with loading_torch():
        from promptsg_core.checkpoint import recognise_file

    with LongTask(f"looking at {config.checkpoint}"):
        file = recognise_file(config.checkpoint, config.weights_key)
    family = file.family.config
    names = [*(config.maps or family.default_maps), *family.prompt_maps(tuple(config.prompts), file.tensors)]
    return config.model_copy(update={"maps": tuple(str(name) for name in parse_names(names))})
