"""The families that are known: those of this package, and those that other packages register by an entry point.

[project.entry-points."promptsg.families"]
my_family = "my_package.my_module:FAMILY"
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Iterable
from importlib.metadata import entry_points
from typing import cast

from promptsg_core.config import FamilyConfig
from promptsg_core.errors import CheckpointError, ModelError
from promptsg_core.families.family import Family
from promptsg_core.families.refused import refused_family

GROUP = "promptsg.families"
_MODULES = ("promptsg", "clipreid", "transreid", "irra", "osnet")


@functools.cache
def families() -> tuple[Family, ...]:
    """All families, those of other packages first. Raises ModelError as `registered` does."""
    return (*registered(), *_built_in())


@functools.cache
def _built_in() -> tuple[Family, ...]:
    own = [importlib.import_module(f"promptsg_core.families.{name}").FAMILIES for name in _MODULES]
    return tuple(family for some in own for family in cast("tuple[Family, ...]", some))


@functools.cache
def registered() -> tuple[Family, ...]:
    """The families of other packages.

    Raises ModelError naming an entry point that cannot be loaded, that has no name in runs, or whose name in runs is
    taken: a run could not tell then whose model it is of. Families that share one type of configuration share its name.
    """
    found = []
    taken = {
        family.config.recorded_as: (family.config, f"{family.name}, which is built in")
        for family in reversed(_built_in())
    }
    own = {config for config, _ in taken.values()}
    for point in entry_points(group=GROUP):
        try:
            family = cast(Family, point.load())
            name = family.config.recorded_as
        except Exception as error:
            raise ModelError(f"the family {point.name} of {point.value} cannot be loaded: {error}") from error
        if name is None:
            raise ModelError(f"the family {point.name} of {point.value} has no name in runs: set recorded_as")
        config, holder = taken.setdefault(name, (family.config, f"{point.name} of {point.value}"))
        if config is not family.config or config in own:
            raise ModelError(
                f"the family {point.name} of {point.value} is recorded as {name!r} in runs, and so is {holder}: give "
                "its configuration a recorded_as of its own"
            )
        found.append(family)
    return tuple(found)


def others_registered() -> bool:
    """Whether other packages have registered families. None is loaded."""
    return bool(entry_points(group=GROUP))


def family_of(keys: Iterable[str]) -> Family:
    """The family of a checkpoint with these keys.

    Raises CheckpointError for a family that cannot give maps, with its name, and for keys of no known family.
    """
    names = list(keys)
    refused = refused_family(names)
    for family in families() if refused is None else registered():
        if family.signature.fits(names):
            return family
    if refused is not None:
        raise CheckpointError(f"a checkpoint of family {refused.family} is not supported: {refused.reason}")
    shown = ", ".join(sorted(names)[:4]) or "none"
    known = "; ".join(f"{family.name} has {' and '.join(family.signature.examples)}" for family in families())
    raise CheckpointError(f"no known family of checkpoints has these {len(names)} keys ({shown}, ...): {known}")


def config_of(recorded: object) -> type[FamilyConfig]:
    """The configuration's type of the family that run.json names; None is PromptSG. Raises ModelError for another."""
    for family in families():
        if family.config.recorded_as == recorded:
            return family.config
    raise ModelError(f"the run is of a model of the family {recorded!r}, which is not installed here")
