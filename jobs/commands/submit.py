"""`promptsg submit`: a run as a SLURM job array, then `finalize`."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from jobs.commands.options import PromptsgCommand, echo, option_group, option_with_default
from jobs.mining.config import build_config
from jobs.phrases import counted
from jobs.submission.options import CORES_PER_GPU, ArrayOptions, sbatch_options
from jobs.submission.submit import Submission, SubmitConfig, submit


def _array_options(
    array_tasks: int,
    max_running: int | None,
    gpus_per_task: int,
    cpus_per_task: int | None,
    time: str | None,
    finalize_time: str | None,
    partition: str | None,
    account: str | None,
    sbatch_arg: tuple[str, ...],
    finalize_arg: tuple[str, ...],
    max_requeues: int,
    drain_seconds: int,
) -> ArrayOptions:
    return ArrayOptions(
        tasks=array_tasks,
        max_running=max_running,
        gpus_per_task=gpus_per_task,
        cpus_per_task=cpus_per_task,
        time=time,
        finalize_time=finalize_time,
        partition=partition,
        account=account,
        sbatch=sbatch_options("--sbatch-arg", sbatch_arg),
        finalize=sbatch_options("--finalize-arg", finalize_arg),
        max_requeues=max_requeues,
        drain_seconds=drain_seconds,
    )


_array = option_group(
    "array",
    _array_options,
    click.option("--array-tasks", type=click.IntRange(1), required=True, help="The number of elements of the array. "
                 "Each mines a block of the shards."),
    click.option("--max-running", type=click.IntRange(1), help="How many elements may run at a time.  [default: all]"),
    option_with_default("--gpus-per-task", type=click.IntRange(0), default=1, help="GPUs of an element. "
                 "0 mines on CPUs."),
    click.option("--cpus-per-task", type=click.IntRange(1), help="Cores of an element, which decode the images.  "
                 f"[default: {CORES_PER_GPU} for each of its GPUs]"),
    click.option("--time", help="The time limit of an element, such as 4:00:00."),
    click.option("--finalize-time", help="The time limit of the finalize job.  [default: the partition's]"),
    click.option("--partition", help="The partition. Also for the finalize job."),
    click.option("--account", help="The account. Also for the finalize job."),
    click.option("--sbatch-arg", multiple=True, metavar="K=V", help="Any other option of sbatch, such as "
                 "constraint=a100, or a bare K. Repeatable."),
    click.option("--finalize-arg", multiple=True, metavar="K=V", help="The same for the finalize job."),
    option_with_default("--max-requeues", type=click.IntRange(0), default=10, help="How often an element "
                 "goes back to the queue when it reaches its time limit or is preempted."),
    option_with_default("--drain-seconds", type=click.IntRange(1, 65535), default=180, help="How long "
                 "before its time limit an element is asked to stop."),
)  # fmt: skip


@click.command(name="submit", cls=PromptsgCommand)
@click.argument("config", type=click.Path(path_type=Path), required=False)
@_array
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="Any setting of mine. It wins over CONFIG. Repeatable.",
)
@click.option("--extend", is_flag=True, help="Add the shards that the run does not list yet, with the same settings.")
@click.option("--add-maps", multiple=True, metavar="NAME", help="Add a map to the shards that are done. Repeatable.")
@click.option("--dry-run", is_flag=True, help="Print the scripts. Write and submit nothing.")
def command(
    config: Path | None,
    array: ArrayOptions,
    settings: tuple[str, ...],
    extend: bool,
    add_maps: tuple[str, ...],
    dry_run: bool,
) -> None:
    """Submit a run as a SLURM job array, with a job that finalizes it. CONFIG is a YAML file for `promptsg mine`.

    Without a file, --set gives all that mine needs, as in the command that `promptsg bench` prints.

    \b
    Example:
      promptsg submit mine.yaml --array-tasks 64 --max-running 16 --gpus-per-task 4 \\
          --time 4:00:00 --partition gpu --sbatch-arg mem=128G --finalize-arg mem=64G

    The scripts are left in RUN/slurm. Submitting again continues with the shards that are not done.
    """
    mining = build_config(config, {}, settings)
    submission = submit(SubmitConfig(mining=mining, array=array, extend=extend, add_maps=add_maps, dry_run=dry_run))
    if submission.idle_tasks:
        echo(
            f"there are only {counted(submission.shards, 'shard')}: "
            f"{counted(submission.tasks, 'task is', 'tasks are')} requested instead of "
            f"{submission.tasks + submission.idle_tasks}",
            err=True,
        )
    if dry_run:
        echo(f"{submission.array_script}\n{submission.finalize_script}", nl=False)
    else:
        echo(describe(submission))


def describe(submission: Submission) -> str:
    """What was submitted, and what to type next."""
    job, after, run = submission.array_job, submission.finalize_job, submission.run
    return "\n".join(
        [
            f"array job {job}: {counted(submission.shards, 'shard')} over {counted(submission.tasks, 'task')}; "
            f"finalize job {after} runs "
            "after it",
            f"  watch:   promptsg status {shlex.quote(str(run))}; squeue --jobs={job},{after}",
            f"  logs:    {run}/logs/{job}_*.out",
            f"  drain:   scancel --batch --signal=USR2 {job}   (each element stops between batches and is requeued)",
            f"  cancel:  scancel {job}",
        ]
    )
