"""What `promptsg stats --by prompt` finds."""

from __future__ import annotations

from dataclasses import dataclass

from jobs.arrays import Float64Array
from jobs.statistics.agreement import Agreement
from jobs.statistics.prompts.attributes import AttributeAuc
from jobs.statistics.question import Question
from jobs.statistics.report.with_interval import WithInterval


@dataclass(frozen=True, kw_only=True)
class ShareMeans:
    """Means over images. mass: a prompt's share of the raw mass of all prompts' maps. won: the share of the patches at
    which its map, as a distribution, is the highest. Over all prompts each sums to 1."""

    mass: WithInterval
    won: WithInterval


@dataclass(frozen=True, kw_only=True)
class PromptRow:
    """Where one prompt looks: its mean map (h, w), of maps that sum to 1; the share of the mass in six stripes from the
    top; entropy in nats; the centre's height, 0 top to 1 bottom."""

    prompt: str
    text: str
    map: str
    mean: Float64Array
    stripes: tuple[WithInterval, ...]
    entropy: WithInterval
    com_y: WithInterval
    shares: ShareMeans
    images: int
    without_mass: int


@dataclass(frozen=True, kw_only=True)
class PromptFindings:
    """All results about the prompts of the run in the folder `run`."""

    run: str
    question: Question
    images: int
    identities: int
    prompts: tuple[PromptRow, ...]
    agreement: tuple[Agreement, ...]
    attributes: tuple[AttributeAuc, ...]
    resamples: int
