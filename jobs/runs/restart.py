"""Starting a run again: what is deleted, which shards are mined again, and which tars are no longer what was mined."""

from __future__ import annotations

import contextlib
import logging
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from jobs.atomic import exclusive, make_folder
from jobs.errors import UserError
from jobs.leftovers import in_use, remove_leftovers
from jobs.phrases import counted, first_few
from jobs.progress import told
from jobs.runs.footer import read_facts
from jobs.runs.layout import RunLayout
from jobs.shards.shard_bytes import compare_bytes
from jobs.shards.urls import Shard

logger = logging.getLogger(__name__)


def discard_run(layout: RunLayout, tell: Callable[[str], None]) -> None:
    """Deletes the files of a run, the commits first, and nothing else in its folder.

    `tell` is called with a line before each group of files is deleted. Raises UserError, and deletes nothing, while
    another process writes into the run. A process that is about to publish a shard does so before, and the shard is
    deleted, or it waits and then finds no run.json: both hold the same lock.
    """
    make_folder(layout.logs)
    with exclusive(layout.lock):
        _discard_files(layout, tell)


def _discard_files(layout: RunLayout, tell: Callable[[str], None]) -> None:
    added = layout.added_folders()
    for folder in (layout.maps, layout.metadata, layout.first_images, *added):
        remove_leftovers(folder)
        if live := in_use(folder):
            raise UserError(f"{layout.root} is being written by another job ({live[0].name}); stop it first")
    own = (
        (layout.metadata, ".parquet"),
        (layout.maps, ".h5"),
        (layout.first_images, ".parquet"),
        (layout.first_images, ".h5"),
        (layout.logs, ".jsonl"),
    )
    for folder, ending in (*own, *((folder, ".h5") for folder in added)):
        paths = [path for path in folder.iterdir() if path.suffix == ending] if folder.is_dir() else []
        if paths:
            tell(f"{counted(len(paths), 'file')} {folder}/*{ending}")
        for path in paths:
            path.unlink()
    for folder in (*added, layout.first_images):
        with contextlib.suppress(OSError):  # other files may be in it
            folder.rmdir()
    for path in (layout.root / "metadata.parquet", layout.manifest):
        if path.exists():
            tell(str(path))
            path.unlink()


def remove_first_images(layout: RunLayout, shards: Iterable[str]) -> None:
    """Removes the first images of shards that are done now, the commits first."""
    if layout.first_images.is_dir():
        for shard in shards:
            for ending in (".parquet", ".h5"):
                (layout.first_images / f"{shard}{ending}").unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # those of other shards are in it
            layout.first_images.rmdir()


def has_failed_rows(layout: RunLayout, shard: str) -> bool:
    """Whether a published shard has images without maps, by its footer. Raises UserError if the footer is damaged."""
    return bool(read_facts(layout.shard_metadata(shard)).failed)


def may_have_changed(layout: RunLayout, shard: str, size: int | None, *, retry_failed: bool) -> bool:
    """Whether a shard that is done may have another size than when the run was started.

    It may if it had its size of now when it was mined, or if it is mined again because it has failed images. Raises
    UserError if its footer is damaged.
    """
    footer = read_facts(layout.shard_metadata(shard))
    if footer.tar is not None and footer.tar.size == size:
        return True
    return retry_failed and bool(footer.failed)


@dataclass(frozen=True, kw_only=True)
class ChangedShard:
    """A shard that is done and whose tar was written again: `how` it differs from what was mined.

    None where no difference was found, but only its size and parts of it were compared.
    """

    name: str
    how: str | None


def changed_shards(
    layout: RunLayout, listed: Sequence[Shard], now: Iterable[Shard], *, thorough: bool = False, whole: bool = False
) -> Iterator[ChangedShard]:
    """Which of the done shards among `now` are not, or may not be, what was mined.

    Of the shards in `layout.begun` the first images are compared. `listed` are the shards of run.json. `compare_bytes`
    says how much of a file is compared. A file that is gone has not changed: data sets move. Raises UserError if a
    footer is damaged.
    """
    then = {shard.name: shard for shard in listed}
    for shard in now:
        if not shard.is_local or shard.size is None:
            continue
        known = then.get(shard.name)
        as_listed = known is not None and (known.size, known.modified_ns) == (shard.size, shard.modified_ns)
        if (as_listed and not (thorough or whole)) or not layout.shard_metadata(shard.name).exists():
            continue
        read = read_facts(layout.shard_metadata(shard.name)).tar
        if read is not None:
            found = compare_bytes(shard, read, thorough=thorough, whole=whole)
            if found.how is not None or found.is_partial:
                yield ChangedShard(name=shard.name, how=found.how)
        elif known is not None and known.size != shard.size:  # an earlier version kept nothing but the size
            yield ChangedShard(name=shard.name, how=f"{known.size:,} bytes then, {shard.size:,} now")


@told("comparing the tars with what was mined")
def refuse_changed(layout: RunLayout, listed: Sequence[Shard], now: Iterable[Shard], *, retry_failed: bool) -> None:
    """Raises UserError where tars are no longer what was mined of them. Those that are mined again do not count.

    Tars of which only parts could be compared are a warning.
    """
    found = [
        shard
        for shard in changed_shards(layout, listed, now)
        if not (retry_failed and has_failed_rows(layout, shard.name))
    ]
    changed = [shard for shard in found if shard.how is not None]
    if changed:
        shown = first_few(f"{shard.name}: {shard.how}" for shard in changed)
        raise UserError(
            f"{counted(len(changed), 'shard')} of {layout.root} changed after being mined ({shown}). Put the tars back "
            f"that were mined, or delete the shards' files in {layout.metadata} to mine them as they are now"
        )
    if found:
        logger.warning("%s: %s", layout.root, only_parts_compared([shard.name for shard in found]))


def only_parts_compared(names: Sequence[str]) -> str:
    """That these shards' tars were written again, and what was compared of them."""
    return (
        f"{counted(len(names), 'tar was', 'tars were')} written again after being mined ({first_few(names)}): only the "
        "size, the beginning, the middle and the end were compared, and are the same; `promptsg verify` compares all"
    )


def as_it_is_now(shard: Shard) -> Shard | None:
    """A local shard with its size and time of writing as they are now; None where it cannot be looked at."""
    try:
        facts = Path(shard.url).stat()
    except (OSError, ValueError):
        return None
    if not (shard.is_local and stat.S_ISREG(facts.st_mode)):  # reading a named pipe may never end
        return None
    return replace(shard, size=facts.st_size, modified_ns=facts.st_mtime_ns)
