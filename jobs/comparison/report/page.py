"""The HTML page of `promptsg diff`, which needs no other file: tables, and the figures inside."""

from __future__ import annotations

import html
from collections.abc import Mapping
from pathlib import Path

from cam.names import title_of
from jobs.comparison.findings import RunDifference
from jobs.comparison.measures import MEANINGS, MEASURES
from jobs.comparison.report.figures import RETRIEVAL, mean_maps_name
from jobs.comparison.retrieval_change import RetrievalChange
from jobs.phrases import counted, shown
from jobs.statistics.report.draw_command import DrawCommand
from jobs.statistics.report.findings import Statistic
from jobs.statistics.report.html import (
    WithEnds,
    chosen_text,
    command_html,
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

_HEADS = {
    "pearson": "Pearson", "spearman": "Spearman", "top20": "top 20 % in common", "moved": "mass elsewhere",
    "com_shift": "centre moved", "com_dx": "to the right", "com_dy": "downwards", "area50_shift": "area of 50 %",
}  # fmt: skip
_LISTED = 50
_ELSEWHERE = "For shards that have moved add --shards-root FOLDER, for shards on a server --allow-remote."


def report_page(found: RunDifference, pictures: Mapping[str, bytes], changed: Path) -> str:
    """One HTML page; `pictures` are the figures as PNG, by name, and `changed` the file of the changed images' keys."""
    body = ["<h1>What changed from run A to run B</h1>", _question_html(found), _notes_html(found), _reading_html()]
    body += _retrieval_html(found, pictures)
    by_place = {(one.map, one.group, one.measure): one for one in found.statistics}
    for name in found.maps:
        body += [f"<h2>{html.escape(title_of(name))}</h2>", _measures_html(found, name, by_place)]
        figure = mean_maps_name(name)
        body.append(
            image_html(figure, pictures[figure])
            if figure in pictures
            else "<p>No pair has two maps of this kind with mass, so there is nothing to draw.</p>"
        )
    return whole_page("What changed between two runs", [*body, _changed_html(found, changed)])


def _question_html(found: RunDifference) -> str:
    facts = {
        "run A": found.run_a,
        "run B": found.run_b,
        "grouped by": grouped_by_text(found.question),
        "images chosen": chosen_text(found.question),
        "images": f"{counted(found.counts.pairs, 'pair')} of {counted(found.counts.images, 'image')} of run A",
        "intervals": resampling_text(found.question, found.resamples),
    }
    return facts_html(facts)


def _notes_html(found: RunDifference) -> str:
    if not found.notes:
        return ""
    lines = "".join(f"<li>{html.escape(shown(note))}</li>" for note in found.notes)
    return f"<ul class=note>{lines}</ul>"


def _reading_html() -> str:
    intro = "The maps of one image in both runs, read as distributions of mass. In brackets: 95 % intervals."
    rows = [[_HEADS[measure], meaning] for measure, meaning in MEANINGS.items()]
    return f"<p class=note>{intro}</p>" + html_table(["measure", "meaning"], rows)


def _measures_html(found: RunDifference, name: str, by_place: Mapping[tuple[str, int, str], Statistic]) -> str:
    one, rows = found.maps[name], []
    for g, label in enumerate(found.labels):
        cells = [estimate_text(by_place[name, g, measure]) for measure in MEASURES]
        rows.append([label, f"{one.pairs[g]:,}", f"{found.identities[g]:,}", *cells])
    return html_table(["group", "pairs", "identities", *(_HEADS[measure] for measure in MEASURES)], rows)


def _retrieval_html(found: RunDifference, pictures: Mapping[str, bytes]) -> list[str]:
    title = "<h2>Where B looks elsewhere, does it retrieve better?</h2>"
    if found.retrieval is None:
        return [title, f"<p>Average precision is not known: {html.escape(shown(found.no_retrieval))}</p>"]
    one = found.retrieval
    facts = [
        ["queries", f"{one.queries:,} with a match in both runs ({one.only_a:,} in A only, {one.only_b:,} in B only)"],
        ["ranked", one.settings],
        ["AP of A", f"{one.source_a}"],
        ["AP of B", f"{one.source_b}"],
        ["mAP of A", _on_one_line(one.map_a)],
        ["mAP of B", _on_one_line(one.map_b)],
        ["mean change of AP", _on_one_line(one.change)],
        ["AP rose, fell", f"{counted(len(one.won), 'query', 'queries')} (won.txt), {len(one.lost):,} (lost.txt)"],
        ["first image became right, wrong", f"{one.rank1_won:,}, {one.rank1_lost:,}"],
    ]
    if one.without_pair:
        facts.insert(1, ["not compared", f"{one.without_pair:,} of them: not chosen, or without maps in a run"])
    figure = [image_html(RETRIEVAL, pictures[RETRIEVAL])] if RETRIEVAL in pictures else []
    return [title, html_table([], facts), *figure, _parts_html(found, one), _correlations_html(one)]


def _parts_html(found: RunDifference, one: RetrievalChange) -> str:
    if not one.parts:
        return ""
    rows = [
        [f"{number_text(part.least)} to {number_text(part.most)}", f"{part.queries:,}", _on_one_line(part.ap_change)]
        for part in one.parts
    ]
    return html_table([f"mass of {found.question.maps[0]} elsewhere", "queries", "mean change of AP"], rows)


def _correlations_html(one: RetrievalChange) -> str:
    note = (
        "Correlation of the change of AP with each measure over the queries. A positive one with the mass that lies "
        "elsewhere means: the more B looks elsewhere, the better it retrieves."
    )
    rows = [
        [
            line.map,
            _HEADS[line.measure],
            f"{line.queries:,}",
            interval_text(line.spearman, line.spearman_low, line.spearman_high),
            interval_text(line.pearson, line.pearson_low, line.pearson_high),
        ]
        for line in one.correlations
    ]
    return f"<p class=note>{note}</p>" + html_table(["map", "measure", "queries", "Spearman", "Pearson"], rows)


def _changed_html(found: RunDifference, changed: Path) -> str:
    if not found.changed:
        return ""
    listed = found.changed[:_LISTED]
    rows = [[image.key, image.shard, *map(number_text, image.values)] for image in listed]
    name = html.escape(found.question.maps[0])
    note = (
        f"Images of which most of the mass of {name} lies elsewhere in B. changed.txt has the keys of "
        f"{counted(len(found.changed), 'image')}, the largest change first."
    )
    command = command_html(draw_changed(found, changed).anywhere)
    draw = f"<p class=note>{note} To draw the first {_LISTED} of them:</p>{command}<p class=note>{_ELSEWHERE}</p>"
    heads = ["key", "shard", *(_HEADS[measure] for measure in MEASURES)]
    return f"<h2>Most changed images</h2>{draw}" + html_table(heads, rows)


def draw_changed(found: RunDifference, changed: Path) -> DrawCommand:
    """How to look at the images whose keys are in the file `changed`: both runs side by side."""
    return DrawCommand(
        run=Path(found.run_a),
        other=Path(found.run_b),
        keys=changed,
        output=changed.parent / "changed",
        style="diff",
        map=found.question.maps[0],
        limit=_LISTED,
    )


def _on_one_line(one: WithEnds) -> str:
    return estimate_text(one).replace("\n", " ")
