"""Starting a run again: what `--overwrite` deletes, and which shards `--retry-failed` mines again."""

from __future__ import annotations

from collections.abc import Callable

from jobs.atomic import TEMPORARY, remove_leftovers
from jobs.errors import UserError
from jobs.runs.footer import read_footer
from jobs.runs.layout import RunLayout


def discard_run(layout: RunLayout, tell: Callable[[str], None]) -> None:
    """Deletes the files of a run, the commits first, and nothing else in its folder.

    `tell` is called with a line before each group of files is deleted. Raises UserError, and deletes nothing, while
    another process writes into the run.
    """
    for folder in (layout.maps, layout.metadata):
        remove_leftovers(folder)
        if live := list(folder.glob(f".*{TEMPORARY}")):
            raise UserError(f"{layout.root} is being written by another job ({live[0].name}); stop it first")
    for folder, ending in ((layout.metadata, ".parquet"), (layout.maps, ".h5"), (layout.logs, ".jsonl")):
        paths = [path for path in folder.iterdir() if path.suffix == ending] if folder.is_dir() else []
        if paths:
            tell(f"{len(paths)} files {folder}/*{ending}")
        for path in paths:
            path.unlink()
    for path in (layout.root / "metadata.parquet", layout.manifest):
        if path.exists():
            tell(str(path))
            path.unlink()


def has_failed_rows(layout: RunLayout, shard: str) -> bool:
    """Whether a published shard has images without maps, by its footer. Raises UserError if the footer is damaged."""
    return bool(read_footer(layout.shard_metadata(shard)).failed)
