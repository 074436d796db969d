"""What the pictures of a folder were drawn for, so that an old picture is never taken for a newly requested one.

A picture that exists is kept, so that an interrupted `promptsg render` goes on. That is right for the same request
only.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from jobs.atomic import write_whole
from jobs.errors import UserError
from jobs.reading import reading
from jobs.rendering.drawing.job import PictureJob
from jobs.rendering.drawing.style import ONE_IMAGE_EACH, ONE_MAP_EACH, PictureStyle
from jobs.rendering.plan import RenderPlan

RECORD = ".requests.json"  # in the output folder: style -> digests of the requests drawn there


def digest_of(fingerprint: str, style: PictureStyle, planned: RenderPlan) -> str:
    """A digest that differs for requests whose pictures have the same names and other contents.

    `fingerprint` is the run's. Folders are compared with digests of earlier versions: what is hashed here stays.
    """
    keys: list[str] = planned.table["key"].to_pylist()
    request: dict[str, object] = {
        "run": fingerprint,
        "scale": style.looks.scale,
        "style": {
            "kind": style.kind,
            "maps": () if style.kind in ONE_MAP_EACH else style.maps,  # the map is in the picture's name
            "colormap": style.looks.colormap,
            "alpha": style.looks.share,
            "upsample": style.looks.upsample,
            "size": style.size,
            "limits": {},
        },
    }
    if style.placement is not None and not style.placement.is_even:
        request["centres"] = "placed"  # earlier versions drew overlapping patches as equal cells
    if style.looks.fade:
        request["fade"] = True  # earlier versions drew all overlays evenly
    if style.other is not None:
        request["other"] = style.other.fingerprint
    if style.looks.scale != "image":  # the ends of the colour scale are those of all selected images
        request["selected"] = sorted(keys)
    if style.kind not in ONE_IMAGE_EACH:
        request["pictures"] = [_contents(job, keys) for job in planned.jobs]
    return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()


def _contents(job: PictureJob, keys: Sequence[str]) -> list[object]:
    hits = [f"Hit(distance={hit.distance!r}, correct={hit.correct!r})" for hit in job.hits]
    return [job.name, [keys[row] for row in job.rows], hits, job.note]


def refuse_another_request(folder: Path, kind: str, digest: str, kept: int) -> None:
    """Raises UserError if `kept` pictures would be kept and the folder has some of this kind from another request."""
    path = folder / RECORD
    known = _read_record(path).get(kind, [])
    if kept and not known:
        raise UserError(
            f"{folder} has {kept} of these pictures, and {path} does not say what they were drawn for: --overwrite "
            "draws them anew, another --output leaves them"
        )
    if kept and set(known) - {digest}:
        raise UserError(
            f"{folder} has {kept} of these pictures, drawn for another selection or look: --overwrite draws "
            "them anew, another --output leaves them"
        )


def register(folder: Path, kind: str, digest: str) -> None:
    """Records a request in the folder, before its pictures are drawn."""
    path = folder / RECORD
    record = _read_record(path)
    known = record.get(kind, [])
    if digest not in known:
        write_whole(path, (json.dumps(record | {kind: [*known, digest]}, indent=1) + "\n").encode())


def _read_record(path: Path) -> dict[str, list[str]]:
    """Style -> digests; empty where there is no record. Raises UserError for a file that is not a record."""
    if not path.exists():
        return {}
    with reading(path, "the record of pictures", "remove it, or give another --output"):
        record = json.loads(path.read_bytes())
        return {str(kind): [str(digest) for digest in digests] for kind, digests in record.items()}
