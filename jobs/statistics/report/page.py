"""The HTML page of `promptsg stats`, which needs no other file: tables, and the figures inside."""

from __future__ import annotations

import html
from collections.abc import Mapping
from pathlib import Path

from cam.names import column_of, title_of
from jobs.phrases import counted
from jobs.statistics.accumulate import MEASURED
from jobs.statistics.agreement import AGREEMENTS, Agreement
from jobs.statistics.report.findings import Findings
from jobs.statistics.report.html import (
    chosen_text,
    estimate_text,
    facts_html,
    grouped_by_text,
    html_table,
    image_html,
    interval_text,
    number_text,
    resampling_text,
    whole_page,
)
from jobs.statistics.report.outliers import DrawnOutliers, outliers_html

_FIGURES = ("mean_map", "stripes", "distributions")
_SHOWN = ("entropy", "area50", "area90", "com_x", "com_y", "mass")


def report_page(
    found: Findings, pictures: Mapping[str, bytes], folder: Path, drawn: DrawnOutliers | None = None
) -> str:
    """One HTML page; `pictures` are the figures as PNG, by name, and `folder` is where all results are."""
    body = ["<h1>Where the model looks</h1>", _question_html(found), f"<p class=note>{_READING}</p>"]
    for k, name in enumerate(found.part.question.maps):
        body += [f"<h2>{html.escape(title_of(name))}</h2>", _measures_html(found, k), *_figures_html(name, pictures)]
    body += [_consistency_html(found), _agreement_html(found), outliers_html(found, folder, drawn)]
    return whole_page("Where the model looks", body)


def _question_html(found: Findings) -> str:
    part, question = found.part, found.part.question
    facts = {
        "run": found.run,
        "grouped by": grouped_by_text(question),
        "images chosen": chosen_text(question),
        "images": f"{int(found.summary.images.sum()):,} of {counted(len(part.identities), 'identity', 'identities')}",
        "shards": f"{len(part.shards):,}",
        "intervals": resampling_text(question, found.resamples),
    }
    return facts_html(facts)


def _measures_html(found: Findings, k: int) -> str:
    heads = ["group", "images", "identities", "without mass", "entropy, nats", "area of 50 %", "area of 90 %"]
    s, rows = found.summary, []
    for g, label in enumerate(found.labels):
        row = [label, f"{s.images[g]:,}", f"{s.n_identities[g, k, 0]:,}", f"{s.zero[g, k]:,}"]
        for measure in _SHOWN:
            v = MEASURED.index(measure)
            row.append(interval_text(s.value[g, k, v], s.low[g, k, v], s.high[g, k, v]))
        rows.append(row)
    return html_table([*heads, "centre x", "centre y", "raw mass"], rows)


def _figures_html(name: str, pictures: Mapping[str, bytes]) -> list[str]:
    """The figures of one map."""
    keys = [key for kind in _FIGURES if (key := f"{kind}_{column_of(name)}") in pictures]
    if not keys:
        return ["<p>Every map of this kind is without mass, so there is nothing to draw.</p>"]
    return [image_html(key, pictures[key]) for key in keys]


def _consistency_html(found: Findings) -> str:
    heads = ["map", "AUC", "same identity", "different identities", "pairs"]
    rows = []
    for name, entry in found.consistency.items():
        s = entry.overall
        means = [number_text(value) for value in (s.auc, s.same_identity, s.different_identity)]
        rows.append([name, *means, f"{s.same_pairs:,} and {s.different_pairs:,}"])
    text = "Mean correlation of the maps of two images by two cameras. AUC 0.5: maps do not tell identities apart."
    return f"<h2>Consistency across cameras</h2><p class=note>{text}</p>" + html_table(heads, rows)


def _agreement_html(found: Findings) -> str:
    if not found.agreement:
        return ""
    part = found.part
    heads = [*(key.name for key in part.question.by), "maps", "Pearson", "Spearman", "top 20 % in common", "images"]
    lines: dict[tuple[str, str, int], list[Agreement]] = {}
    for entry in found.agreement:
        lines.setdefault((entry.map_a, entry.map_b, entry.group), []).append(entry)
    groups, rows = part.groups.to_pylist(), []
    for (map_a, map_b, g), entries in lines.items():
        values = ["null" if v is None else str(v) for v in groups[g].values()] if part.question.by else []
        by_measure = {entry.measure: entry for entry in entries}
        cells = [estimate_text(by_measure[measure]) for measure in AGREEMENTS]
        rows.append([*values, f"{map_a} and {map_b}", *cells, f"{entries[0].n_images:,}"])
    note = f"Over {counted(len(part.sample.row), 'image')} of identities drawn at random."
    return f"<h2>Agreement between the maps of one image</h2><p class=note>{note}</p>" + html_table(heads, rows)


_READING = (
    "A map is read as a distribution of mass over the image's patches. Entropy: how spread it is. Area: the smallest "
    "share of patches that holds 50 or 90 % of the mass. Centre: 0 is left or top, 1 right or bottom. Raw mass: the "
    "sum of the map as it was stored. In brackets: intervals; a group with fewer than two identities has none."
)
