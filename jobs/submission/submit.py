"""`promptsg submit`: a run as a SLURM job array, a block of shards to each element, then `finalize` (no torch)."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import click
import yaml

from jobs.atomic import make_folder, write_whole
from jobs.errors import UserError
from jobs.mining.config import MineConfig, build_config
from jobs.runs.layout import RunLayout
from jobs.shards.urls import expand_shards
from jobs.submission.queue import remember_jobs
from jobs.submission.scripts import Place, Request, array_script, finalize_script, sbatch_options

# These variables would win over the script's own lines, without a word.
_OVERRIDING = {
    "array": "SBATCH_ARRAY_INX",
    "open-mode": "SBATCH_OPEN_MODE",
    "output": "SBATCH_OUTPUT",
    "requeue": "SBATCH_NO_REQUEUE",
    "signal": "SBATCH_SIGNAL",
    "time": "SBATCH_TIMELIMIT",
    "partition": "SBATCH_PARTITION",
    "account": "SBATCH_ACCOUNT",
    "cpus-per-task": "SBATCH_CPUS_PER_TASK",
    "gpus-per-node": "SBATCH_GPUS_PER_NODE",
}


@click.command(name="submit", short_help="Mine as a SLURM job array, then finalize.")
@click.argument("config", type=click.Path(path_type=Path))
@click.option("--array-tasks", type=click.IntRange(1), required=True, help="Elements of the array; each takes a block.")
@click.option("--max-running", type=click.IntRange(1), help="Elements that may run at a time.  [default: all]")
@click.option("--gpus-per-task", type=click.IntRange(0), default=1, show_default=True, help="0 mines on CPUs.")
@click.option("--cpus-per-task", type=click.IntRange(1), help="Cores of an element: its GPUs times the decoding "
              "workers of each, and some.")  # fmt: skip
@click.option("--time", help="Time limit of an element, such as 4:00:00.")
@click.option("--partition", help="Also for the finalize job.")
@click.option("--account", help="Also for the finalize job.")
@click.option("--sbatch-arg", "sbatch", multiple=True, metavar="K=V", help="Any other option of sbatch, such as "
              "constraint=a100, or a bare K; repeatable.")  # fmt: skip
@click.option("--finalize-arg", "finalize", multiple=True, metavar="K=V", help="The same for the finalize job.")
@click.option("--max-requeues", type=click.IntRange(0), default=10, show_default=True, help="How often an element that "
              "meets its time limit or is preempted goes back to the queue.")  # fmt: skip
@click.option("--drain-seconds", type=click.IntRange(1, 65535), default=180, show_default=True, help="How long before "
              "its time limit an element is asked to stop.")  # fmt: skip
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Any setting of mine; wins over CONFIG.")
@click.option("--dry-run", is_flag=True, help="Print the scripts; write and submit nothing.")
def command(
    config: Path,
    array_tasks: int,
    max_running: int | None,
    gpus_per_task: int,
    cpus_per_task: int | None,
    sbatch: tuple[str, ...],
    finalize: tuple[str, ...],
    max_requeues: int,
    drain_seconds: int,
    settings: tuple[str, ...],
    dry_run: bool,
    **common: str | None,
) -> None:
    """Submit a run as a SLURM job array, with a job that finalizes it; CONFIG is a YAML file for `promptsg mine`.

    \b
    Example:
      promptsg submit mine.yaml --array-tasks 64 --max-running 16 --gpus-per-task 4 --cpus-per-task 32 \\
          --time 4:00:00 --partition gpu --sbatch-arg mem=128G --finalize-arg mem=64G

    The scripts are left in RUN/slurm. Submitting again goes on with what is not done.
    """
    shared = {name: value for name, value in common.items() if value is not None}
    counted = {"cpus-per-task": cpus_per_task, "gpus-per-node": gpus_per_task or None}
    own = {name: str(value) for name, value in counted.items() if value is not None}
    request = Request(
        array_tasks=array_tasks,
        max_running=max_running,
        gpus_per_task=gpus_per_task,
        max_requeues=max_requeues,
        drain_seconds=drain_seconds,
        options={**own, **shared, **sbatch_options("--sbatch-arg", sbatch)},
        finalize_options={**shared, **sbatch_options("--finalize-arg", finalize)},
    )
    submit(build_config(config, {}, settings), request, dry_run=dry_run)


def submit(config: MineConfig, request: Request, *, dry_run: bool = False) -> None:
    """Writes the scripts and submits them, or prints them. Raises UserError, with sbatch's words where that refuses."""
    count = len(expand_shards(config.shards))
    tasks = min(request.array_tasks, count)
    if tasks < request.array_tasks:
        idle = request.array_tasks - tasks
        click.echo(f"{count} shards give work to {tasks} tasks: the other {idle} are not asked for", err=True)
    place = Place(layout=RunLayout(config.output), folder=Path.cwd(), programs=Path(sys.executable).parent)
    array, finalize = array_script(request, tasks, place), finalize_script(request, place)
    if dry_run:
        click.echo(array + "\n" + finalize, nl=False)
        return
    _check_programs(place, request)
    _refuse_other_run(config, place.layout)
    for folder in (place.scripts, place.drain, place.layout.logs):
        make_folder(folder)
    settings = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    write_whole(place.scripts / "config.yaml", settings.encode())
    job = _sbatch(_written(place, "array.sbatch", array), request.options)
    remember_jobs(place.layout, job)
    try:
        after = _sbatch(
            _written(place, "finalize.sbatch", finalize), request.finalize_options, f"--dependency=afterany:{job}"
        )
    except UserError as error:
        raise UserError(
            f"array job {job} is submitted, but finalize is not: {error}; scancel {job}, or run `promptsg finalize` "
            "after it"
        ) from error
    remember_jobs(place.layout, after)
    _say(job, after, count, tasks, place.layout.root)


def submission_environment(variables: Mapping[str, str], options: Mapping[str, str | None]) -> dict[str, str]:
    """Variables for sbatch: none of a job that this may run in, and none that would overrule the script's lines."""
    always = {"array", "open-mode", "output", "requeue", "signal"}
    overruled = {variable for name, variable in _OVERRIDING.items() if name in always or name in options}
    return {
        name: value
        for name, value in variables.items()
        if name not in overruled and (name == "SLURM_CONF" or not name.startswith("SLURM_"))
    }


def _check_programs(place: Place, request: Request) -> None:
    if shutil.which("sbatch") is None:
        raise UserError("there is no sbatch in PATH: submit from a login node of a SLURM cluster, or use --dry-run")
    path = f"{place.programs}{os.pathsep}{os.environ.get('PATH', '')}"
    for program in ("promptsg", "torchrun") if request.gpus_per_task > 1 else ("promptsg",):
        if shutil.which(program, path=path) is None:
            raise UserError(f"there is no {program} in {place.programs} or PATH: install this program with pip first")


def _refuse_other_run(config: MineConfig, layout: RunLayout) -> None:
    """What every element would refuse after its wait in the queue is refused here."""
    from jobs.mining.request import request_of
    from jobs.runs.manifest import read_manifest, refuse_other

    request = request_of(config, expand_shards(config.shards), ())  # a configuration file cannot carry KEY VALUE pairs
    if layout.manifest.exists():
        refuse_other(layout, read_manifest(layout), request)


def _written(place: Place, name: str, script: str) -> Path:
    path = place.scripts / name
    write_whole(path, script.encode())
    return path


def _sbatch(script: Path, options: Mapping[str, str | None], *words: str) -> str:
    """Submits and returns the job's id."""
    done = subprocess.run(
        ["sbatch", "--parsable", *words, str(script)],
        env=submission_environment(os.environ, options),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise UserError(f"sbatch refused {script}: {' '.join(done.stderr.split())}")
    return done.stdout.strip().partition(";")[0]  # "id" or "id;cluster"


def _say(job: str, after: str, shards: int, tasks: int, run: Path) -> None:
    click.echo(f"array job {job}: {shards} shards over {tasks} tasks; finalize job {after} runs after it")
    click.echo(f"  watch:   promptsg status {shlex.quote(str(run))}; squeue --jobs={job},{after}")
    click.echo(f"  logs:    {run}/logs/{job}_*.out")
    click.echo(f"  drain:   scancel --batch --signal=USR2 {job}   (each element stops between batches and is requeued)")
    click.echo(f"  cancel:  scancel {job}")
