"""Which heads the text after a `#` names, of those that a run has."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from cam.names import HEAD, MapName, column_of
from jobs.errors import UserError
from jobs.phrases import counted
from jobs.runs.manifest import Manifest
from jobs.runs.maps_file import HEADS
from promptsg_core.families.map_names import CLS_ATTENTION, MIM_ATTENTION

_ALL = "all"


def is_head(name: str) -> bool:
    """Whether a name is that of a head, or of all heads."""
    return HEAD in name


def attention_with_heads(manifest: Manifest) -> str:
    """The map that is the mean of a run's heads: PromptSG's own attention, or that of another family's last block."""
    # The configuration of PromptSG is recorded without a family: it was the first one.
    return CLS_ATTENTION if "family" in manifest.resolved.model else MIM_ATTENTION


def head_names(root: Path, manifest: Manifest, text: str, count: int | None) -> tuple[str, ...]:
    """The names of the heads that `NAME#3` or `NAME#all` stands for; `count` is how many there are, None if unknown.

    `root` is the run's folder. Raises UserError where the run stored no heads, or not of this map, or not so many.
    """
    own, _, number = text.partition(HEAD)
    name = attention_with_heads(manifest)
    if not manifest.has_heads:
        raise UserError(
            f"{root} has no single heads, so no {text!r}: `promptsg mine` stores them with --attention-heads all"
        )
    if own != name:
        raise UserError(f"{root} stores the heads of {name}, and of no other map: {text!r} is not one of them")
    if count is None:
        raise UserError(f"{root} has no finished shard with images, so that the number of its heads is not known yet")
    if number == _ALL:
        return tuple(str(MapName(name, head=head)) for head in range(count))
    if not (number.isascii() and number.isdecimal() and int(number) < count):
        raise UserError(
            f"{root} has no map {text!r}: {name} has {counted(count, 'head')}, {name}{HEAD}0 to "
            f"{name}{HEAD}{count - 1} ({name}{HEAD}{_ALL} is all of them)"
        )
    return (str(MapName(name, head=int(number))),)


def refuse_shared_columns(heads: Iterable[str], maps: Sequence[str]) -> None:
    """Raises UserError where the results of a head would have the name of those of a prompt's map of the run."""
    for head in heads:
        if other := [name for name in maps if column_of(name) == column_of(head)]:
            raise UserError(
                f"{head} and the run's map {other[0]} would share the column {column_of(head)}: read the map "
                f"{HEADS} from Python instead"
            )


def without_heads(names: Iterable[str]) -> list[str]:
    """The maps that have columns in the metadata: single heads have none."""
    return [name for name in names if not is_head(name)]
