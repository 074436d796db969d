"""Starting a run again: what `--overwrite` deletes, and which shards `--retry-failed` redoes (no torch)."""

from __future__ import annotations

import json

from jobs.commit import TEMPORARY, remove_leftovers
from jobs.errors import UserError
from jobs.layout import RunLayout


def discard_run(layout: RunLayout) -> list[str]:
    """Deletes a run's own files, the commits first, and says what they were; nothing else in the folder is touched.

    Raises UserError, deleting nothing, while another process writes into the run.
    """
    if not layout.manifest.exists():
        return []
    for folder in (layout.maps, layout.metadata):
        remove_leftovers(folder)
        if live := list(folder.glob(f".*{TEMPORARY}")):
            raise UserError(f"{layout.root} is being written by another job ({live[0].name}); stop it first")
    said = []
    for folder, ending in ((layout.metadata, ".parquet"), (layout.maps, ".h5"), (layout.logs, ".jsonl")):
        paths = [path for path in folder.iterdir() if path.suffix == ending] if folder.is_dir() else []
        for path in paths:
            path.unlink()
        if paths:
            said.append(f"{len(paths)} files {folder}/*{ending}")
    for path in (layout.root / "metadata.parquet", layout.manifest):
        if path.exists():
            path.unlink()
            said.append(str(path))
    return said


def has_failed_rows(layout: RunLayout, shard: str) -> bool:
    """Whether a published shard has images without maps, by its footer."""
    import pyarrow.parquet as pq

    facts = pq.read_schema(layout.shard_metadata(shard)).metadata
    return bool(json.loads(facts[b"promptsg.failed"]))
