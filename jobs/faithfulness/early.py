"""What a measurement cannot be, by its words and files alone: told before torch is loaded, which takes seconds."""

from __future__ import annotations

from jobs.errors import UserError
from jobs.faithfulness.plan import FaithfulnessConfig
from jobs.mining.early.files import check_model_words
from jobs.runs.heads.names import is_head
from jobs.runs.query import check_selection
from jobs.runs.run import Run, open_run


def refuse_wrong_request(config: FaithfulnessConfig) -> None:
    """Raises UserError or ModelError for a run, a map, a condition, a file, a device or a precision that cannot be."""
    run = open_run(config.run, evaluation=config.evaluation)
    maps_to_measure(run, config)
    check_model_words(
        config.checkpoint, config.device, config.precision, files=[config.label_map], reference=config.reference
    )
    check_selection(run, config.selection)


def maps_to_measure(run: Run, config: FaithfulnessConfig) -> tuple[str, ...]:
    """The maps that are asked for, by default all of the run.

    Raises UserError for one that the run lacks, and for a single head where random weights are to be compared too.
    """
    maps = run.choose_maps(config.maps) or run.maps
    if config.sanity and (heads := [name for name in maps if is_head(name)]):
        raise UserError(f"{heads[0]}: re-initialised models are not compared head by head; give --no-sanity")
    return maps
