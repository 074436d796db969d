"""Ready lists of prompts for the attribute labels of data sets, which are package data (no torch)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict

from jobs.errors import UserError
from jobs.phrases import did_you_mean

PROMPT_SETS = ("market-attributes", "duke-attributes")
# Of six equal stripes of the image from the top, those in which a part of a person mostly is.
STRIPES_OF = {"head": (0,), "upper": (1, 2), "lower": (3, 4), "feet": (5,)}


class Probe(BaseModel):
    """A prompt for one value of one attribute label: its text; label and value of the published files, whose values
    are numbered from 1; and the part where the attribute shows, None where it has none of its own."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    text: str
    label: str
    value: int
    part: Literal["head", "upper", "lower", "feet"] | None = None


def read_prompt_set(name: str) -> dict[str, Probe]:
    """The probes of a list, by the prompts' names. Raises UserError for an unknown list."""
    if name not in PROMPT_SETS:
        hint = did_you_mean(name, PROMPT_SETS) or "."
        raise UserError(f"there is no list of prompts {name!r}{hint} Lists are {', '.join(PROMPT_SETS)}")
    content = yaml.safe_load((files("configs") / "prompts" / f"{name}.yml").read_text(encoding="utf-8"))
    return {prompt: Probe(**entry) for prompt, entry in content.items()}


def prompts_of(names: Sequence[str], own: Mapping[str, str]) -> dict[str, str]:
    """The texts of the lists by name, after a user's own. Raises UserError where one name has two texts."""
    found = dict(own)
    for name in names:
        for prompt, probe in read_prompt_set(name).items():
            if found.setdefault(prompt, probe.text) != probe.text:
                raise UserError(f"two prompts are called {prompt}: {found[prompt]!r} and {probe.text!r} of {name}")
    return found


def probes_among(prompts: Mapping[str, str]) -> dict[str, Probe]:
    """Those of the prompts (texts by name) that are of a list: of the list that has most of them."""
    best: dict[str, Probe] = {}
    for name in PROMPT_SETS:
        probes = read_prompt_set(name)
        here = {prompt: probe for prompt, probe in probes.items() if prompts.get(prompt) == probe.text}
        best = here if len(here) > len(best) else best
    return best
