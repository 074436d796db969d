"""What is wrong with a request by its words and files alone: told before torch is loaded, which takes seconds."""

from __future__ import annotations

from jobs.errors import UserError
from jobs.faithfulness.plan import FaithfulnessConfig
from jobs.mining.early.files import check_model_words
from jobs.runs.query import check_selection
from jobs.runs.run import open_run


def refuse_wrong_request(config: FaithfulnessConfig) -> None:
    """Raises UserError or ModelError for a run, a map, a condition, a file, a device or a precision that cannot be."""
    run = open_run(config.run, evaluation=config.evaluation)
    run.choose_maps(config.maps)
    check_model_words(config.checkpoint, config.device, config.precision)
    if config.label_map is not None and not config.label_map.is_file():
        raise UserError(f"--label-map {config.label_map} does not exist or is not a file")
    if config.reference is not None:
        open_run(config.reference)
    check_selection(run, config.selection)
