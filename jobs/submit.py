"""`promptsg submit`: a run as a SLURM job array, a block of shards to each element, then `finalize` (no torch)."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import click
import yaml

from jobs.commit import make_folder, write_whole
from jobs.config import MineConfig, build_config
from jobs.errors import UserError
from jobs.layout import RunLayout
from jobs.shards import expand_shards
from jobs.slurm_queue import remember_jobs

_BLANK = re.compile(r"@([A-Z_]+)@")
_OPTION_NAME = re.compile(r"[a-z][a-z0-9-]*")
# What the batch script decides itself; its trap, its log and its blocks rest on them.
_OURS = (
    "array",
    "chdir",
    "dependency",
    "nodes",
    "ntasks",
    "open-mode",
    "output",
    "parsable",
    "requeue",
    "signal",
    "wrap",
)
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


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to ask SLURM for. `options` and `finalize_options` are sbatch's own, name to value (None: a bare flag)."""

    array_tasks: int
    max_running: int | None
    gpus_per_task: int
    max_requeues: int
    drain_seconds: int
    options: Mapping[str, str | None]
    finalize_options: Mapping[str, str | None]


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where the jobs run: the run, the folder that the configuration's relative paths are meant in, the programs."""

    layout: RunLayout
    folder: Path
    programs: Path

    @property
    def scripts(self) -> Path:
        """RUN/slurm: the scripts as they were submitted, and the configuration that they name."""
        return self.layout.root / "slurm"

    @property
    def drain(self) -> Path:
        """RUN/drain: a file here asks the element of its name to stop."""
        return self.layout.root / "drain"


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
        options={**own, **shared, **_options("--sbatch-arg", sbatch)},
        finalize_options={**shared, **_options("--finalize-arg", finalize)},
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
    after = _sbatch(
        _written(place, "finalize.sbatch", finalize), request.finalize_options, f"--dependency=afterany:{job}"
    )
    remember_jobs(place.layout, job, after)
    _say(job, after, count, tasks, place.layout.root)


def array_script(request: Request, tasks: int, place: Place) -> str:
    """The batch script of an element (pure)."""
    launch = "promptsg"
    if request.gpus_per_task > 1:
        # --no-python: `python -m` would look for the program in the working folder first.
        launch = f"torchrun --standalone --nproc-per-node={request.gpus_per_task} --no-python promptsg"
    limit = f"%{request.max_running}" if request.max_running is not None else ""
    return _filled(
        "array.sbatch",
        {
            "ARRAY": f"0-{tasks - 1}{limit}",
            "ARRAY_COUNT": str(tasks),
            "LOG": _log(place, "%A_%a.out"),
            "DRAIN_SECONDS": str(request.drain_seconds),
            "OPTIONS": _directives(request.options),
            "BIN": shlex.quote(str(place.programs)),
            "FOLDER": shlex.quote(str(place.folder)),
            "DRAIN": shlex.quote(str(place.drain)),
            "CONFIG": shlex.quote(str(place.scripts / "config.yaml")),
            "LAUNCH": launch,
            "MAX_REQUEUES": str(request.max_requeues),
        },
    )


def finalize_script(request: Request, place: Place) -> str:
    """The batch script of the job after the array (pure)."""
    return _filled(
        "finalize.sbatch",
        {
            "LOG": _log(place, "finalize_%j.out"),
            "OPTIONS": _directives(request.finalize_options),
            "BIN": shlex.quote(str(place.programs)),
            "FOLDER": shlex.quote(str(place.folder)),
            "RUN": shlex.quote(str(place.layout.root)),
        },
    )


def directive(value: str) -> str:
    r"""A value as sbatch itself reads #SBATCH lines: in double quotes, where `\` escapes and nothing is expanded.

    Raises UserError on a line break or another control character, which would end the line.
    """
    if any(ord(char) < 32 or ord(char) == 127 for char in value):
        raise UserError(f"{value!r} has a control character, which no #SBATCH line can hold")
    if re.fullmatch(r"[\w@%+=:,./\[\]*-]+", value, flags=re.ASCII):
        return value
    return '"' + re.sub(r'(["\\])', r"\\\1", value) + '"'


def submission_environment(variables: Mapping[str, str], options: Mapping[str, str | None]) -> dict[str, str]:
    """Variables for sbatch: none of a job that this may run in, and none that would overrule the script's lines."""
    always = {"array", "open-mode", "output", "requeue", "signal"}
    overruled = {variable for name, variable in _OVERRIDING.items() if name in always or name in options}
    return {
        name: value
        for name, value in variables.items()
        if name not in overruled and (name == "SLURM_CONF" or not name.startswith("SLURM_"))
    }


def _filled(template: str, values: Mapping[str, str]) -> str:
    """A template of the slurm folder, its @BLANKS@ filled in one pass: what is filled in is not looked at again."""
    return _BLANK.sub(lambda match: values[match[1]], files("slurm").joinpath(template).read_text(encoding="utf-8"))


def _log(place: Place, name: str) -> str:
    folder = str(place.layout.logs)
    if "\\" in folder:  # sbatch takes it as "expand nothing in this name"
        raise UserError(f"the run's folder {place.layout.root} has a backslash, which sbatch --output cannot take")
    return directive(f"{folder.replace('%', '%%')}/{name}")


def _directives(options: Mapping[str, str | None]) -> str:
    lines = [f"#SBATCH --{name}" + ("" if value is None else f"={directive(value)}") for name, value in options.items()]
    return "\n".join(lines) or "# (no further options)"


def _options(flag: str, words: Sequence[str]) -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for word in words:
        name, equals, value = word.partition("=")
        name = name.removeprefix("--")
        if _OPTION_NAME.fullmatch(name) is None:
            raise UserError(f"{flag} {word!r} is not an option of sbatch: give its long name, such as {flag} mem=64G")
        if name in _OURS:
            raise UserError(f"{flag} {name} is what the batch script decides itself; see `promptsg submit --help`")
        found[name] = value if equals else None
    return found


def _check_programs(place: Place, request: Request) -> None:
    if shutil.which("sbatch") is None:
        raise UserError("there is no sbatch in PATH: submit from a login node of a SLURM cluster, or use --dry-run")
    path = f"{place.programs}{os.pathsep}{os.environ.get('PATH', '')}"
    for program in ("promptsg", "torchrun") if request.gpus_per_task > 1 else ("promptsg",):
        if shutil.which(program, path=path) is None:
            raise UserError(f"there is no {program} in {place.programs} or PATH: install this program with pip first")


def _refuse_other_run(config: MineConfig, layout: RunLayout) -> None:
    """What every element would refuse after its wait in the queue is refused here."""
    from jobs.manifest import asked_by, read_manifest, refuse_other

    asked = asked_by(config, expand_shards(config.shards))
    if layout.manifest.exists():
        manifest = read_manifest(layout)
        asked["asked"]["overrides"] = manifest.content["asked"].get("overrides", [])
        refuse_other(layout, manifest, asked)


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
