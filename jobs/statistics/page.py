"""The HTML page of `promptsg stats`, which needs nothing else: tables, and the figures inside."""

from __future__ import annotations

import base64
import html
from typing import Any

import numpy as np

from cam.names import column_of
from jobs.statistics.accumulate import MEASURED
from jobs.statistics.findings import Findings
from jobs.statistics.question import JUNK


def report(found: Findings, pictures: dict[str, bytes]) -> str:
    """One HTML page with the figures inside."""
    question, s = found.part.question, found.summary
    asked = {
        "run": found.run,
        "grouped by": ", ".join(name for name, _ in question.by) or "nothing (one group)",
        "images chosen": question.where or "all with maps",
        "images": f"{int(s.images.sum()):,} of {len(set(found.part.pid.tolist()) - {JUNK}):,} identities",
        "shards": f"{len(found.part.shards):,}",
        "intervals": f"95 % bootstrap over identities, {found.resamples:,} resamples, seed {question.seed}",
    }
    body = ["<h1>Where the model looks</h1>", _html_table(["", ""], [[a, b] for a, b in asked.items()], head=False)]
    body.append(f"<p class=note>{_READING}</p>")
    for k, name in enumerate(question.maps):
        body += [f"<h2>{html.escape(name)}</h2>", _measures_html(found, k)]
        wanted = [f"{kind}_{column_of(name)}" for kind in ("mean_map", "stripes", "distributions")]
        shown = [key for key in wanted if key in pictures]
        body += [f'<img alt="{key}" src="data:image/png;base64,{_base64(pictures[key])}">' for key in shown]
        if not shown:
            body.append("<p>Every map of this kind is without mass, so there is nothing to draw.</p>")
    body += [_consistency_html(found), _agreement_html(found), _outliers_html(found)]
    return _PAGE.format(body="\n".join(body))


def _measures_html(found: Findings, k: int) -> str:
    shown = ("entropy", "area50", "area90", "com_x", "com_y", "mass")
    heads = ["group", "images", "identities", "without mass", "entropy, nats", "area of 50 %", "area of 90 %"]
    s, rows = found.summary, []
    for g, label in enumerate(found.labels):
        row = [label, f"{s.images[g]:,}", f"{s.n_identities[g, k, 0]:,}", f"{s.zero[g, k]:,}"]
        for measure in shown:
            v = MEASURED.index(measure)
            row.append(_interval(s.value[g, k, v], s.low[g, k, v], s.high[g, k, v]))
        rows.append(row)
    return _html_table([*heads, "centre x", "centre y", "raw mass"], rows)


def _consistency_html(found: Findings) -> str:
    heads = ["map", "AUC", "same identity", "different identities", "pairs"]
    rows = [
        [name, _plain(f["auc"]), _plain(f["same_identity"]), _plain(f["different_identity"]),
         f"{f['same_pairs']:,} and {f['different_pairs']:,}"]
        for name, f in found.consistency.items()
    ]  # fmt: skip
    text = (
        "Mean correlation of two images' maps, taken by two cameras. AUC 0.5: identities cannot be told by their maps."
    )
    return f"<h2>Consistency across cameras</h2><p class=note>{text}</p>" + _html_table(heads, rows)


def _agreement_html(found: Findings) -> str:
    if not found.agreement:
        return ""
    names = found.part.groups.schema.names
    heads = [*(names if found.part.question.by else []), "maps", "Pearson", "Spearman", "top 20 % in common", "images"]
    table: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in found.agreement:
        table.setdefault((*(row[n] for n in names), row["map_a"], row["map_b"]), []).append(row)
    rows = []
    for key, of in table.items():
        group = ["null" if v is None else str(v) for v in key[:-2]] if found.part.question.by else []
        cells = [_interval(r["value"], r["low"], r["high"]) for r in of]
        rows.append([*group, f"{key[-2]} and {key[-1]}", *cells, f"{of[0]['n_images']:,}"])
    note = f"Over {len(found.part.sample.row):,} images of identities drawn at random."
    return f"<h2>Agreement between the maps of one image</h2><p class=note>{note}</p>" + _html_table(heads, rows)


def _outliers_html(found: Findings) -> str:
    if not found.outliers:
        return ""
    rows = [[found.keys[o.shard, o.row], o.shard, str(o.pid), f"{o.distance:.3f}"] for o in found.outliers]
    name = html.escape(found.part.question.maps[0])
    text = f"Images whose {name} is farthest from their identity's mean map: the share of mass that lies elsewhere."
    table = _html_table(["key", "shard", "pid", "distance"], rows)
    return f"<h2>Outliers</h2><p class=note>{text} The keys are in outliers.txt.</p>{table}"


def _html_table(heads: list[str], rows: list[list[str]], head: bool = True) -> str:
    top = "<tr>" + "".join(f"<th>{html.escape(h)}</th>" for h in heads) + "</tr>" if head else ""
    lines = ["<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows]
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
