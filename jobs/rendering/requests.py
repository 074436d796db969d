"""What the pictures of a folder were drawn for, so that an old picture never answers a new question.

A picture that is there stays, so that an interrupted `promptsg render` goes on; right for the same request only.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from jobs.errors import UserError
from jobs.rendering.plan import ONE_MAP_EACH, Config, Plan

if TYPE_CHECKING:
    from jobs.runs.run import Run

RECORD = ".requests.json"  # in the output folder: style -> digests of the requests drawn there


def digest_of(run: Run, config: Config, planned: Plan) -> str:
    """Tells requests apart whose pictures have the same names and other contents."""
    style, keys = config.style, planned.table["key"].to_pylist()
    asked: dict[str, Any] = {"run": run.manifest.fingerprint, "scale": config.scale, "style": asdict(style)}
    if style.kind in ONE_MAP_EACH:  # the map is in the picture's name
        asked["style"] = asdict(replace(style, maps=()))
    if config.scale != "image":  # the colours' ends are those of all that is selected
        asked["selected"] = sorted(keys)
    if style.kind not in (*ONE_MAP_EACH, "panel"):  # pages, identities and rankings: several images each
        asked["pictures"] = [[job.name, [keys[row] for row in job.rows], job.hits, job.note] for job in planned.jobs]
    return hashlib.sha256(json.dumps(asked, sort_keys=True, default=str).encode()).hexdigest()


def register(config: Config, digest: str, kept: int) -> None:
    """Notes a request before its pictures are drawn.

    Raises UserError if pictures would be kept and the folder has been drawn to for another request.
    """
    from jobs.atomic import make_folder, write_whole

    path = config.output / RECORD
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        known = [str(text) for text in record.get(config.style.kind, ())]
    except FileNotFoundError:
        record, known = {}, []
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise UserError(f"cannot read {path} ({error}); remove it, or give another --output") from error
    if kept and set(known) - {digest}:
        raise UserError(
            f"{config.output} has {kept} of these pictures, drawn for another selection or look: --overwrite draws "
            "them anew, another --output leaves them"
        )
    if digest not in known:
        make_folder(config.output)
        write_whole(path, (json.dumps(record | {config.style.kind: [*known, digest]}, indent=1) + "\n").encode())
