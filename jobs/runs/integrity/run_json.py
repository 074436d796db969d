"""Whether run.json still is the one that a job began with."""

from __future__ import annotations

import json

from jobs.errors import ShardError, UserError
from jobs.runs.layout import RunLayout
from jobs.runs.manifest import Manifest


class RunReplacedError(UserError):
    """The run that a job works on was deleted, and perhaps another was started in its folder."""


def refuse_replaced(layout: RunLayout, manifest: Manifest) -> None:
    """Raises RunReplacedError unless the run in the folder still is the one of this manifest.

    Raises ShardError where run.json cannot be read.
    """
    try:
        content = json.loads(layout.manifest.read_bytes())
    except (FileNotFoundError, ValueError):
        content = None
    except OSError as error:
        raise ShardError(f"cannot read {layout.manifest}: {error.strerror}") from error
    there = (content.get("fingerprint"), content.get("run_id")) if isinstance(content, dict) else None
    if there != (manifest.fingerprint, manifest.run_id):
        how = "replaced by another run" if there else "deleted"
        raise RunReplacedError(
            f"{layout.root} was {how} while this job was mining it (--overwrite of another job?): "
            "nothing more is published, and this job ends"
        )
