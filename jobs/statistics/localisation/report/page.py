"""The HTML page of `promptsg localise`, which needs no other file."""

from __future__ import annotations

import html
from collections.abc import Mapping

from jobs.phrases import counted, first_few
from jobs.statistics.localisation.blocks import OK, OTHER_ASPECT, MaskCounts
from jobs.statistics.localisation.findings import LocaliseFindings
from jobs.statistics.localisation.queries import QueriesLook
from jobs.statistics.localisation.sums import MEASURES
from jobs.statistics.report.html import (
    chosen_text,
    estimate_text,
    grouped_by_text,
    html_table,
    image_html,
    resampling_text,
    whole_page,
)
from jobs.statistics.report.with_interval import WithInterval

TITLE = "Are the maps on the persons?"


def report_page(found: LocaliseFindings, pictures: Mapping[str, bytes]) -> str:
    """One HTML page; `pictures` are the figures as PNG, by name."""
    body = [
        f"<h1>{TITLE}</h1>",
        _facts(found),
        f"<p class=note>{_READING}</p>",
        image_html("scores", pictures["scores"]),
        _scores(found),
    ]
    body += ["<h2>The fixed maps</h2>", f"<p class=note>{_FIXED}</p>"]
    body.append(image_html("fixed_maps", pictures["fixed_maps"]))
    if "parts" in pictures:
        body += [f"<h2>Parts</h2><p class=note>{_PARTS}</p>", image_html("parts", pictures["parts"]), _parts(found)]
    body.append("<h2>Do failures look at the background?</h2>")
    if "queries" in pictures:
        body.append(image_html("queries", pictures["queries"]))
    body.append(_queries(found))
    return whole_page(TITLE, body)


def mask_lines(counts: MaskCounts) -> list[str]:
    """A line for each thing that is odd in the masks: how many, and the first few."""
    lines = []
    for status, number in counts.status.most_common():
        if status != OK:
            reasons = f" ({first_few(counts.problems)})" if status == "unreadable" else ""
            lines.append(
                f"{counted(number, 'image')} left out, mask {status}{reasons}: {first_few(counts.examples[status])}"
            )
    if counts.other_aspect:
        lines.append(
            f"{counted(counts.other_aspect, 'mask has', 'masks have')} another ratio of height to width than their "
            "image, and are taken as "
            f"the whole image, stretched: {first_few(counts.examples[OTHER_ASPECT])}"
        )
    if counts.unnamed:
        labels = first_few(
            f"label {label} in {counted(number, 'mask')}" for label, number in sorted(counts.unnamed.items())
        )
        lines.append(f"labels without a name in --labels count as parts of the person: {labels}")
    return lines


def failures_line(look: QueriesLook) -> str:
    """Whether failed queries look elsewhere, in a sentence."""
    if look.right.value is None or look.wrong.value is None:
        kind = "wrong" if look.wrong.value is None else "right"
        return f"{look.map}: no query with a mask has a {kind} first match"
    return (
        f"{look.map}: {look.wrong.value:.3f} of the mass is on the person where the first match is wrong "
        f"({counted(look.queries_wrong, 'query', 'queries')}), {look.right.value:.3f} where it is right "
        f"({look.queries_right:,}); "
        f"difference {_signed(look.difference)}; correlation with AP {_signed(look.spearman)} (Spearman)"
    )


def _facts(found: LocaliseFindings) -> str:
    facts = {
        "run": found.run,
        "grouped by": grouped_by_text(found.question),
        "images chosen": chosen_text(found.question),
        "images with a mask": f"{found.images:,} of {found.counts.status.total():,}",
        "intervals": resampling_text(found.question, found.resamples),
    }
    rows = [[name, fact] for name, fact in facts.items()]
    rows += [["masks" if n == 0 else "", line] for n, line in enumerate(mask_lines(found.counts))]
    return html_table([], rows)


def _scores(found: LocaliseFindings) -> str:
    heads = ["", "mass on the person", "mass / area", "pointing", "AUC", "images", "identities", "without mass"]
    parts = []
    for g, label in enumerate(found.labels):
        rows = [
            [
                one.name,
                *(estimate_text(getattr(one, measure)) for measure in MEASURES),
                f"{one.images:,}",
                f"{one.identities:,}",
                f"{one.zero + one.not_finite:,}",
            ]
            for one in found.of_group(g)
        ]
        heading = f"<h3>{html.escape(label)}</h3>" if found.question.by else ""
        area = f"<p>The person's share of the image: {html.escape(estimate_text(found.area[g]))}</p>"
        parts.append(heading + area + html_table(heads, rows))
    return "".join(parts)


def _parts(found: LocaliseFindings) -> str:
    heads = ["group"] * bool(found.question.by)
    heads += ["map", "part", "share of the mass", "share of the area", "mass / area", "images"]
    rows = []
    for one in sorted(found.parts, key=lambda each: (each.group, found.question.maps.index(each.map))):
        cells = [
            one.map,
            one.part,
            estimate_text(one.on),
            estimate_text(one.area),
            estimate_text(one.ratio),
            f"{one.images:,}",
        ]
        rows.append([found.labels[one.group], *cells] if found.question.by else cells)
    return html_table(heads, rows)


def _queries(found: LocaliseFindings) -> str:
    if found.queries is None:
        return "<p>Not known: run <code>promptsg evaluate</code> first, then this command again.</p>"
    if not found.queries:
        return "<p>Not known: no query has a mask.</p>"
    heads = ["map", "measure", "right first match", "wrong first match", "wrong minus right", "Spearman with AP"]
    rows = [
        [
            one.map,
            one.measure,
            f"{estimate_text(one.right)}\n{counted(one.queries_right, 'query', 'queries')}",
            f"{estimate_text(one.wrong)}\n{counted(one.queries_wrong, 'query', 'queries')}",
            estimate_text(one.difference),
            estimate_text(one.spearman),
            estimate_text(one.pearson),
        ]
        for one in found.queries
    ]
    return f"<p class=note>{_FAILURES}</p>" + html_table([*heads, "Pearson with AP"], rows)


def _signed(estimate: WithInterval) -> str:
    if estimate.value is None:
        return "not defined"
    ends = "" if estimate.low is None or estimate.high is None else f" [{estimate.low:+.3f}, {estimate.high:+.3f}]"
    return f"{estimate.value:+.3f}{ends}"


_READING = (
    "A patch's mass counts by the part of the patch that the person covers. Mass / area: the share of the mass on the "
    "person over the person's share of the area; a uniform map has 1. For pointing and AUC a patch is on the person "
    "when more than half of it is. In brackets: intervals; a group with fewer than two identities has none."
)
_FIXED = (
    "The fixed prior is the mean mask, the same for every image: what knowing only where persons usually stand scores. "
    "The average of a map stands for the map in every image in the same way. A map that is no better than these says "
    "nothing of the single image."
)
_PARTS = (
    "Over the images that show the part. Mass / area is the mean share of the mass over the mean share of the area."
)
_FAILURES = (
    "Of the queries of `promptsg evaluate` that have a match and a mask. An interval of the difference that holds 0 "
    "does not tell them apart."
)
