"""What SLURM says of a run's own jobs, on a machine that has SLURM."""

from __future__ import annotations

import json
import shutil
import subprocess

from jobs.atomic import write_whole
from jobs.runs.layout import RunLayout
from jobs.submission.scripts import scripts_folder

_TIMEOUT_SECONDS = 5.0
_JOBS = "jobs.json"


def remember_jobs(layout: RunLayout, *jobs: str) -> None:
    """Adds the ids of submitted jobs to RUN/slurm/jobs.json."""
    text = json.dumps([*_known_jobs(layout), *jobs]) + "\n"
    write_whole(scripts_folder(layout) / _JOBS, text.encode())


def queued_elements(layout: RunLayout) -> dict[str, list[str]]:
    """SLURM's state -> the array elements and jobs of this run that are in the queue with it.

    Empty if the run was not submitted from here, or if squeue is missing or too slow.
    """
    jobs = _known_jobs(layout)
    if not jobs or shutil.which("squeue") is None:
        return {}
    words = ["squeue", "--noheader", f"--jobs={','.join(jobs)}", "--format=%T %i"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):  # a slow scheduler must not delay what the files say
        return {}
    found: dict[str, list[str]] = {}
    for line in done.stdout.splitlines():
        state, _, element = line.partition(" ")
        found.setdefault(state, []).append(element)
    return found


def _known_jobs(layout: RunLayout) -> list[str]:
    try:
        content = json.loads((scripts_folder(layout) / _JOBS).read_bytes())
    except (OSError, ValueError):
        return []
    return [str(job) for job in content]
