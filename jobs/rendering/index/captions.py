"""What the index says below each picture: who it shows, from which camera, how well it was ranked, the map's range."""

from __future__ import annotations

import pyarrow as pa

from jobs.phrases import counted, shown
from jobs.rendering.drawing.captions import ap_text, who_text
from jobs.rendering.drawing.job import PictureJob
from jobs.rendering.extent import GRID_COLUMNS, end_columns, extent_text
from jobs.rendering.index.listed import ListedPicture
from jobs.rendering.plan import RenderPlan
from jobs.rendering.render_config import RenderConfig
from jobs.runs.evaluation.query_scores import AP, FIRST_RANK, ROW, SCORES, known_scores, with_scores
from jobs.runs.run import Run


def list_of(run: Run, config: RenderConfig, planned: RenderPlan) -> list[ListedPicture]:
    """The pictures of a request, in its order, as the index lists them."""
    captions, headline = Captions(planned.table, known_scores(run)), request_text(config)
    found = []
    for job in planned.jobs:
        shard, key = captions.image(job)
        found.append(
            ListedPicture(
                file=job.name,
                style=config.style,
                number=job.number,
                shard=shard,
                key=key,
                caption=captions.of(job),
                request=headline,
                map=job.map,
            )
        )
    return found


def request_text(config: RenderConfig) -> str:
    """What was requested, in one line: `overlay · where pid = 12 · order by ap · limit 50`."""
    selection = config.selection
    parts = [
        config.style,
        selection.where and f"where {selection.where}",
        selection.keys is not None and counted(len(selection.keys), "listed key"),
        config.queries and f"queries of {config.queries.name}",
        selection.order_by and f"order by {selection.order_by}",
        selection.sample and f"a random sample of {selection.sample}",
        selection.limit and f"limit {selection.limit}",
        config.other and f"beside {config.other.resolve().name}",
    ]
    return " · ".join(part for part in parts if part)


class Captions:
    """The captions of pictures of a plan's table; `scores` are those of queries, None where they are not known."""

    def __init__(self, table: pa.Table, scores: pa.Table | None) -> None:
        self._columns = {name: table[name].to_pylist() for name in table.column_names}
        self._scores = with_scores(table.select(ROW), scores).select(SCORES).to_pylist()

    def of(self, job: PictureJob) -> tuple[str, ...]:
        """The lines below a picture; the first is its title."""
        if job.identity:
            return shown(job.identity), counted(len(job.rows), "image")
        first = job.rows[0]
        if len(job.rows) > 1 and not job.hits:
            return job.name.rpartition("/")[2].partition(".")[0], counted(len(job.rows), "image")
        who = who_text(self._columns["pid"][first], self._columns["camid"][first])
        return tuple(line for line in (shown(self._key(first)), who, self._score(first), self._extent(job)) if line)

    def image(self, job: PictureJob) -> tuple[str, str]:
        """(shard, key) of the first image of a picture; of an identity's page, its name."""
        return ("", job.identity) if job.identity else (self._columns["shard"][job.rows[0]], self._key(job.rows[0]))

    def _key(self, row: int) -> str:
        return str(self._columns["key"][row])

    def _score(self, row: int) -> str:
        score = self._scores[row]
        if score[AP] is None:
            return ""
        return f"{ap_text(score[AP])} · first match at rank {score[FIRST_RANK]}"

    def _extent(self, job: PictureJob) -> str:
        """The one map of a picture, and its range where the metadata have it."""
        if job.map is None:
            return ""
        row = job.rows[0]
        low, top, h, w = (self._columns.get(name, {row: None})[row] for name in (*end_columns(job.map), *GRID_COLUMNS))
        return job.map if None in (low, top, h, w) else f"{job.map}: {extent_text(job.map, low, top, h * w)}"
