"""The HTML page of `promptsg stats --by prompt`, which needs no other file."""

from __future__ import annotations

from collections.abc import Mapping

from jobs.phrases import counted
from jobs.statistics.agreement import AGREEMENTS, Agreement
from jobs.statistics.prompts.findings import PromptFindings
from jobs.statistics.report.html import (
    chosen_text,
    estimate_text,
    facts_html,
    html_table,
    image_html,
    resampling_text,
    whole_page,
)

TITLE = "Where each prompt looks"


def report_page(found: PromptFindings, pictures: Mapping[str, bytes]) -> str:
    """One HTML page; `pictures` are the figures as PNG, by name."""
    body = [f"<h1>{TITLE}</h1>", _facts(found), f"<p class=note>{_READING}</p>"]
    body += [image_html(name, pictures[name]) for name in ("mean_maps", "stripes") if name in pictures]
    body.append(_prompts(found))
    if found.attributes:
        body += [
            f"<h2>Attributes</h2><p class=note>{_ATTRIBUTES}</p>",
            image_html("attributes", pictures["attributes"]),
        ]
        body.append(_attributes(found))
    if found.agreement:
        body += [f"<h2>Agreement between prompts</h2><p class=note>{_AGREEMENT}</p>"]
        body += [image_html("agreement", pictures["agreement"]), _agreement(found)]
    return whole_page(TITLE, body)


def _facts(found: PromptFindings) -> str:
    facts = {
        "run": found.run,
        "maps": ", ".join(one.map for one in found.prompts),
        "images chosen": chosen_text(found.question),
        "images": f"{found.images:,} of {counted(found.identities, 'identity', 'identities')}",
        "intervals": resampling_text(found.question, found.resamples),
    }
    return facts_html(facts)


def _prompts(found: PromptFindings) -> str:
    heads = [
        "prompt",
        "text",
        "share of the mass",
        "patches won",
        "entropy, nats",
        "centre y",
        "images",
        "without mass",
    ]
    rows = [
        [
            one.prompt,
            one.text,
            estimate_text(one.shares.mass),
            estimate_text(one.shares.won),
            estimate_text(one.entropy),
            estimate_text(one.com_y),
            f"{one.images:,}",
            f"{one.without_mass:,}",
        ]
        for one in found.prompts
    ]
    return html_table(heads, rows)


def _attributes(found: PromptFindings) -> str:
    heads = ["prompt", "label", "part", "AUC", "AUC of the others", "images with", "images without", "identities"]
    rows = [
        [
            one.prompt,
            one.label,
            one.part,
            estimate_text(one.auc),
            estimate_text(one.others),
            f"{one.images_with:,}",
            f"{one.images_without:,}",
            f"{one.identities:,}",
        ]
        for one in found.attributes
    ]
    return html_table(heads, rows)


def _agreement(found: PromptFindings) -> str:
    pairs: dict[tuple[str, str], list[Agreement]] = {}
    for entry in found.agreement:
        pairs.setdefault((entry.map_a, entry.map_b), []).append(entry)
    prompts = {one.map: one.prompt for one in found.prompts}
    rows = []
    for (a, b), entries in pairs.items():
        by_measure = {entry.measure: entry for entry in entries}
        cells = [estimate_text(by_measure[measure]) for measure in AGREEMENTS]
        rows.append([f"{prompts[a]} and {prompts[b]}", *cells, f"{entries[0].n_images:,}"])
    return html_table(["prompts", "Pearson", "Spearman", "top 20 % in common", "images"], rows)


_READING = (
    "A map is read as a distribution of mass over the image's patches. Share of the mass: of the raw mass of all "
    "prompts' maps; weights of attention have the same mass for every prompt. Patches won: the share of the patches at "
    "which the prompt's map is higher than those of all other prompts. In brackets: intervals."
)
_ATTRIBUTES = (
    "AUC: the probability that an image of a person with the attribute has a larger share of the prompt's attention on "
    "the part where the attribute shows than an image of a person without. 0.5: the attention does not show it. Beside "
    "it: the mean of the other prompts on the same part. Where that is as high, posture or size tells as much."
)
_AGREEMENT = "Of the maps of one image, on average. 1: two prompts look at the same patches."
