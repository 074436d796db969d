"""Calls sbatch, in an environment that does not change what the script says."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from jobs.errors import UserError
from jobs.submission.options import SbatchOptions

# Variables that win over a line of the script without a message: those of lines that every script has, ...
_OVERRIDE_SCRIPT = frozenset(
    {"SBATCH_ARRAY_INX", "SBATCH_OPEN_MODE", "SBATCH_OUTPUT", "SBATCH_NO_REQUEUE", "SBATCH_SIGNAL"}
)
# ... and those of options that a script may have.
_OVERRIDE_OPTION = {
    "time": "SBATCH_TIMELIMIT",
    "partition": "SBATCH_PARTITION",
    "account": "SBATCH_ACCOUNT",
    "cpus-per-task": "SBATCH_CPUS_PER_TASK",
    "gpus-per-node": "SBATCH_GPUS_PER_NODE",
}


def call_sbatch(script: Path, options: SbatchOptions, *words: str) -> str:
    """Submits a script that has these options, and returns the job's id. Raises UserError with sbatch's message."""
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


def submission_environment(variables: Mapping[str, str], options: SbatchOptions) -> dict[str, str]:
    """The variables for sbatch, without those of a job that this process is in, and those that override the script."""
    overriding = _OVERRIDE_SCRIPT | {variable for name, variable in _OVERRIDE_OPTION.items() if name in options}
    return {
        name: value
        for name, value in variables.items()
        if name not in overriding and (name == "SLURM_CONF" or not name.startswith("SLURM_"))
    }


def check_programs(folder: Path, *programs: str) -> None:
    """Raises UserError unless sbatch is in PATH, and each of the programs is in PATH or in the folder."""
    if shutil.which("sbatch") is None:
        raise UserError("there is no sbatch in PATH: submit from a login node of a SLURM cluster, or use --dry-run")
    path = f"{folder}{os.pathsep}{os.environ.get('PATH', '')}"
    for program in programs:
        if shutil.which(program, path=path) is None:
            raise UserError(f"there is no {program} in {folder} or PATH: install this program with pip first")
