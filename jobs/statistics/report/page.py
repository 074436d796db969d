"""The HTML page of `promptsg stats`, which needs no other file: tables, and the figures inside."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence

import numpy as np

from cam.names import column_of
from jobs.phrases import shown
from jobs.statistics.accumulate import MEASURED
from jobs.statistics.agreement import AGREEMENTS, Agreement
from jobs.statistics.report.findings import Findings

_FIGURES = ("mean_map", "stripes", "distributions")
_SHOWN = ("entropy", "area50", "area90", "com_x", "com_y", "mass")


def report_page(found: Findings, pictures: Mapping[str, bytes]) -> str:
    """One HTML page; `pictures` are the figures as PNG, by name."""
    body = ["<h1>Where the model looks</h1>", _question_html(found), f"<p class=note>{_READING}</p>"]
    for k, name in enumerate(found.part.question.maps):
        body += [f"<h2>{html.escape(name)}</h2>", _measures_html(found, k), *_figures_html(name, pictures)]
    body += [_consistency_html(found), _agreement_html(found), _outliers_html(found)]
    return _PAGE.format(body="\n".join(body))


def _question_html(found: Findings) -> str:
    part, question = found.part, found.part.question
    facts = {
        "run": found.run,
        "grouped by": ", ".join(key.name for key in question.by) or "nothing (one group)",
        "images chosen": question.where or "all with maps",
        "images": f"{int(found.summary.images.sum()):,} of {len(part.identities):,} identities",
        "shards": f"{len(part.shards):,}",
        "intervals": f"95 % bootstrap over identities, {found.resamples:,} resamples, seed {question.seed}",
    }
    return _html_table(["", ""], [[name, fact] for name, fact in facts.items()], head=False)


def _measures_html(found: Findings, k: int) -> str:
    heads = ["group", "images", "identities", "without mass", "entropy, nats", "area of 50 %", "area of 90 %"]
    s, rows = found.summary, []
    for g, label in enumerate(found.labels):
        row = [label, f"{s.images[g]:,}", f"{s.n_identities[g, k, 0]:,}", f"{s.zero[g, k]:,}"]
        for measure in _SHOWN:
            v = MEASURED.index(measure)
            row.append(_interval(s.value[g, k, v], s.low[g, k, v], s.high[g, k, v]))
        rows.append(row)
    return _html_table([*heads, "centre x", "centre y", "raw mass"], rows)


def _figures_html(name: str, pictures: Mapping[str, bytes]) -> list[str]:
    """The figures of one map."""
    keys = [key for kind in _FIGURES if (key := f"{kind}_{column_of(name)}") in pictures]
    if not keys:
        return ["<p>Every map of this kind is without mass, so there is nothing to draw.</p>"]
    return [f'<img alt="{key}" src="data:image/png;base64,{_base64(pictures[key])}">' for key in keys]


def _consistency_html(found: Findings) -> str:
    heads = ["map", "AUC", "same identity", "different identities", "pairs"]
    rows = []
    for name, entry in found.consistency.items():
        s = entry.overall
        means = [_plain(value) for value in (s.auc, s.same_identity, s.different_identity)]
        rows.append([name, *means, f"{s.same_pairs:,} and {s.different_pairs:,}"])
    text = "Mean correlation of the maps of two images by two cameras. AUC 0.5: maps do not tell identities apart."
    return f"<h2>Consistency across cameras</h2><p class=note>{text}</p>" + _html_table(heads, rows)


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
        cells = [_interval(e.value, e.low, e.high) for e in (by_measure[measure] for measure in AGREEMENTS)]
        rows.append([*values, f"{map_a} and {map_b}", *cells, f"{entries[0].n_images:,}"])
    note = f"Over {len(part.sample.row):,} images of identities drawn at random."
    return f"<h2>Agreement between the maps of one image</h2><p class=note>{note}</p>" + _html_table(heads, rows)


def _outliers_html(found: Findings) -> str:
    if not found.outliers:
        return ""
    rows = [[outlier.key, outlier.shard, outlier.identity, f"{outlier.distance:.3f}"] for outlier in found.outliers]
    name = html.escape(found.part.question.maps[0])
    text = f"Images whose {name} is farthest from their identity's mean map: the share of mass that lies elsewhere."
    table = _html_table(["key", "shard", "identity", "distance"], rows)
    return f"<h2>Outliers</h2><p class=note>{text} The keys are in outliers.txt.</p>{table}"


def _html_table(heads: Sequence[str], rows: Sequence[Sequence[str]], head: bool = True) -> str:
    top = "<tr>" + "".join(f"<th>{html.escape(shown(h))}</th>" for h in heads) + "</tr>" if head else ""
    lines = ["<tr>" + "".join(f"<td>{html.escape(shown(cell))}</td>" for cell in row) + "</tr>" for row in rows]
    return f"<div class=wide><table>{top}{''.join(lines)}</table></div>"


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _plain(value: float | None) -> str:
    return "–" if value is None or np.isnan(value) else f"{value:.3g}"


def _interval(value: float | None, low: float | None, high: float | None) -> str:
    if low is None or np.isnan(low):
        return _plain(value)
    return f"{_plain(value)}\n[{_plain(low)}, {_plain(high)}]"


_READING = (
    "A map is read as a distribution of mass over the image's patches. Entropy: how spread it is. Area: the smallest "
    "share of patches that holds 50 or 90 % of the mass. Centre: 0 is left or top, 1 right or bottom. Raw mass: the "
    "sum of the map as it was stored. In brackets: intervals; a group with fewer than two identities has none."
)
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Where the model looks</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 1080px; margin: 2em auto; padding: 0 1em }}
h1 {{ font-size: 1.6em }} h2 {{ font-size: 1.2em; margin-top: 2em; border-bottom: 1px solid #ccc }}
table {{ border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums }}
th, td {{ text-align: left; padding: .25em .8em .25em 0; border-bottom: 1px solid #eee; vertical-align: top }}
th {{ vertical-align: bottom }} td {{ white-space: pre }}
.wide {{ overflow-x: auto }} .note {{ color: #555; max-width: 46em }}
img {{ max-width: 100%; display: block; margin: 1em 0 }}
</style></head><body>
{body}
</body></html>
"""
