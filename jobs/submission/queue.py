"""What SLURM says of a run's own jobs, where there is a SLURM (no torch)."""

from __future__ import annotations

import json
import shutil
import subprocess

from jobs.atomic import write_whole
from jobs.runs.layout import RunLayout

_TIMEOUT_SECONDS = 5.0
_JOBS = "jobs.json"


def remember_jobs(layout: RunLayout, *jobs: str) -> None:
    """Adds the ids of submitted jobs to RUN/slurm/jobs.json."""
    known = _known_jobs(layout)
    text = json.dumps([*known, *jobs]) + "\n"
    write_whole(layout.root / "slurm" / _JOBS, text.encode())


def queued_elements(layout: RunLayout) -> dict[str, list[str]]:
    """SLURM's state -> this run's array elements and jobs in the queue; empty where nothing can be told."""
    jobs = _known_jobs(layout)
    if not jobs or shutil.which("squeue") is None:
        return {}
    words = ["squeue", "--noheader", f"--jobs={','.join(jobs)}", "--format=%T %i"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):  # a slow scheduler must not hold up what the files say
        return {}
    found: dict[str, list[str]] = {}
    for line in done.stdout.splitlines():
        state, _, element = line.partition(" ")
        found.setdefault(state, []).append(element)
    return found


def _known_jobs(layout: RunLayout) -> list[str]:
    try:
        content = json.loads((layout.root / "slurm" / _JOBS).read_bytes())
    except (OSError, ValueError):
        return []
    return [str(job) for job in content]
