"""Submits a run as a SLURM job array, whose elements each mine a block of the shards, and a job that finalizes it."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from jobs.atomic import make_folder, write_whole
from jobs.errors import UserError
from jobs.mining.config import MineConfig
from jobs.mining.early.names import refuse_unknown_maps
from jobs.mining.family_maps import with_maps
from jobs.mining.growth.pending_additions import find_addition
from jobs.mining.request import request_of
from jobs.runs.layout import RunLayout
from jobs.runs.manifest import read_manifest, refuse_other
from jobs.shards.urls import Shard, expand_shards
from jobs.submission.options import ArrayOptions
from jobs.submission.queue import remember_jobs
from jobs.submission.sbatch import call_sbatch, check_programs
from jobs.submission.scripts import JobPlace, array_script, finalize_script


@dataclass(frozen=True, kw_only=True)
class SubmitConfig:
    """What to mine, and with which job array. With `dry_run` nothing is written or submitted.

    With `extend` the run gets the shards that it does not list yet. `add_maps` are maps that are added to the shards
    that are done, instead of mining any.
    """

    mining: MineConfig
    array: ArrayOptions
    extend: bool = False
    add_maps: tuple[str, ...] = ()
    dry_run: bool = False


@dataclass(frozen=True, kw_only=True)
class Submission:
    """What was submitted: the scripts and the ids of the jobs, which are None in a dry run.

    The array has `tasks` elements for `shards` shards. `idle_tasks` more were requested, and left out because there are
    fewer shards.
    """

    run: Path
    shards: int
    tasks: int
    idle_tasks: int
    array_script: str
    finalize_script: str
    array_job: str | None = None
    finalize_job: str | None = None


def submit(config: SubmitConfig) -> Submission:
    """Writes the scripts and submits them. A run that exists is continued.

    Raises UserError if the run that exists is another one, if a program is missing, and if sbatch refuses.
    """
    if config.extend and config.add_maps:
        raise UserError("--extend and --add-maps exclude each other: submit one, and after it the other")
    refuse_unknown_maps((*config.mining.maps, *config.add_maps))
    shards = expand_shards(config.mining.shards)
    place = JobPlace(layout=RunLayout(config.mining.output), folder=Path.cwd(), programs=Path(sys.executable).parent)
    tasks = min(config.array.tasks, len(shards))
    planned = Submission(
        run=config.mining.output,
        shards=len(shards),
        tasks=tasks,
        idle_tasks=config.array.tasks - tasks,
        array_script=array_script(config.array, tasks, place, extend=config.extend, add_maps=config.add_maps),
        finalize_script=finalize_script(config.array, place),
    )
    if config.dry_run:
        return planned
    check_programs(place.programs, "promptsg", *(["torchrun"] if config.array.gpus_per_task > 1 else []))
    _refuse_other_run(config, shards, place.layout)
    _write_scripts(planned, config.mining, place)
    array_job = _submit_array(config.array, place)
    finalize_job = _submit_finalize(config.array, place, array_job)
    return replace(planned, array_job=array_job, finalize_job=finalize_job)


def _refuse_other_run(config: SubmitConfig, shards: list[Shard], layout: RunLayout) -> None:
    """Refuses now what every element would refuse after its wait in the queue."""
    if layout.manifest.exists() or config.add_maps:
        earlier = read_manifest(layout)
        # A configuration file cannot hold KEY VALUE pairs.
        request = request_of(with_maps(config.mining, earlier), shards, ())
        refuse_other(layout, earlier, request, extend=config.extend)
        if config.add_maps:
            find_addition(layout, earlier, config.add_maps)


def _write_scripts(planned: Submission, mining: MineConfig, place: JobPlace) -> None:
    for folder in (place.scripts, place.drain, place.layout.logs):
        make_folder(folder)
    settings = yaml.safe_dump(mining.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    write_whole(place.scripts / "config.yaml", settings.encode())
    write_whole(place.scripts / "array.sbatch", planned.array_script.encode())
    write_whole(place.scripts / "finalize.sbatch", planned.finalize_script.encode())


def _submit_array(options: ArrayOptions, place: JobPlace) -> str:
    job = call_sbatch(place.scripts / "array.sbatch", options.for_array)
    remember_jobs(place.layout, job)
    return job


def _submit_finalize(options: ArrayOptions, place: JobPlace, array_job: str) -> str:
    """Submits the job that runs after the array, whatever becomes of its elements."""
    script = place.scripts / "finalize.sbatch"
    try:
        job = call_sbatch(script, options.for_finalize, f"--dependency=afterany:{array_job}")
    except UserError as error:
        raise UserError(
            f"array job {array_job} is submitted, but finalize is not: {error}; scancel {array_job}, or run `promptsg "
            "finalize` after it"
        ) from error
    remember_jobs(place.layout, job)
    return job
