"""Where a run's prompts look: mean maps and stripes of each, their agreement, and whether they show attributes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cam.measures import STRIPES
from cam.names import MapName, column_of
from jobs.atomic import StagedFile, make_folder
from jobs.errors import UserError
from jobs.identity import identity_codes, identity_columns
from jobs.progress import LongTask
from jobs.prompt_sets import probes_among
from jobs.runs.metadata_sql import refuse_blank
from jobs.runs.query import RowSelection, select_rows, warn_of_unfinished
from jobs.runs.run import Run, open_run
from jobs.statistics.accumulate import MEASURED, accumulate
from jobs.statistics.agreement import agreements
from jobs.statistics.chosen import ChosenImages, choose_images
from jobs.statistics.config import StatsConfig
from jobs.statistics.intervals.resamples import mean_over_identities
from jobs.statistics.parts.partial import Partial
from jobs.statistics.prompts.attributes import AttributeAuc, StripeShares, attribute_aucs, read_attributes
from jobs.statistics.prompts.findings import PromptFindings, PromptRow, ShareMeans
from jobs.statistics.prompts.report.files import PromptFiles, write_prompts
from jobs.statistics.prompts.shares import PromptShares, prompt_shares
from jobs.statistics.question import Question, make_question
from jobs.statistics.report.with_interval import WithInterval
from jobs.statistics.stored import stored_columns
from jobs.statistics.summary import GroupSummary, summarise
from jobs.tables import float32_column

PROMPT = "prompt"  # what --by says


@dataclass(frozen=True, kw_only=True)
class PromptResult:
    """What was found, and the files with it."""

    findings: PromptFindings
    files: PromptFiles


def is_by_prompt(config: StatsConfig, run: Run) -> bool:
    """Whether maps are grouped by their prompts; a metadata column called prompt would win."""
    return PROMPT in config.by and PROMPT not in run.schema.names


def prompt_stats(config: StatsConfig, attributes: Path | None = None) -> PromptResult:
    """Compares the prompts of a run, and writes all results into the folder `prompts` of the configuration's folder.

    `attributes` is a table of the identities' attribute labels. Raises UserError where the run has no map of a prompt,
    if --by names more than the prompt, for blocks of shards, and as `stats` does.
    """
    if config.where is not None:
        refuse_blank(config.where, "--where")
    run = open_run(config.run, evaluation=config.evaluation)
    warn_of_unfinished(run)
    if config.by != (PROMPT,) or config.block is not None:
        raise UserError("--by prompt compares maps and not images: give it alone, without --block; --where selects")
    maps = prompt_maps(run, config.maps)
    question = make_question(run, where=config.where or "", maps=maps, seed=config.seed, sample=config.sample)
    chosen = choose_images(run, question, run.published(), stored_columns(run, maps))
    part = accumulate(chosen)
    folder = config.folder / "prompts"
    make_folder(folder)
    share_means = _write_shares(chosen, maps, folder / "prompts.parquet", config)
    findings = PromptFindings(
        run=str(run.layout.root),
        question=question,
        images=len(chosen.rows),
        identities=len(chosen.identities),
        prompts=_rows(part, run, share_means, config),
        agreement=tuple(agreements(part, config.resamples)),
        attributes=() if attributes is None else _attributes(run, question, attributes, config),
        resamples=config.resamples,
    )
    return PromptResult(findings=findings, files=write_prompts(findings, folder))


def prompt_maps(run: Run, chosen: Sequence[str] = ()) -> tuple[str, ...]:
    """The run's maps of named prompts, or those chosen of them, of one kind: their masses are compared.

    Raises UserError where there are none, or of several kinds.
    """
    prompts = run.manifest.asked.prompts
    names = [name for name in run.choose_maps(chosen) or run.maps if MapName.parse(name).prompt in prompts]
    if not names:
        raise UserError(
            f"{run.layout.root} has no map of a named prompt: mine with --prompt NAME=TEXT or --prompt-set; it has "
            f"{', '.join(run.maps)}"
        )
    kinds = list(dict.fromkeys(MapName.parse(name).method for name in names))
    if len(kinds) > 1 and chosen:
        raise UserError(f"--by prompt compares maps of one kind, and these are of {', '.join(kinds)}")
    return tuple(name for name in names if MapName.parse(name).method == kinds[0])


def _rows(part: Partial, run: Run, means: dict[str, ShareMeans], config: StatsConfig) -> tuple[PromptRow, ...]:
    summary: GroupSummary = summarise(part, config.resamples)
    texts = run.manifest.asked.prompts

    def of(k: int, measure: str) -> WithInterval:
        v = MEASURED.index(measure)
        return WithInterval.of(summary.value[0, k, v], summary.low[0, k, v], summary.high[0, k, v])

    found = []
    for k, name in enumerate(part.question.maps):
        prompt = str(MapName.parse(name).prompt)
        found.append(
            PromptRow(
                prompt=prompt,
                text=texts[prompt],
                map=name,
                mean=summary.maps[name].mean[0],
                stripes=tuple(of(k, f"stripe_{i}") for i in range(STRIPES)),
                entropy=of(k, "entropy"),
                com_y=of(k, "com_y"),
                shares=means[name],
                images=int(summary.good[0, k]),
                without_mass=int(summary.zero[0, k] + summary.not_finite[0, k]),
            )
        )
    return tuple(found)


def _write_shares(
    chosen: ChosenImages, maps: tuple[str, ...], final: Path, config: StatsConfig
) -> dict[str, ShareMeans]:
    """Writes a row for each image; returns the means over images, by map."""
    values = np.empty((len(chosen.rows), 2 * len(maps)), np.float32)
    schema = _schema(maps)
    with StagedFile(final) as staged:
        with (
            LongTask("comparing prompts", len(chosen.rows), "image") as task,
            pq.ParquetWriter(staged.file, schema, compression="zstd") as writer,
        ):
            for block, table in _tables(chosen, maps, schema):
                values[block.at] = np.concatenate([block.mass, block.won], axis=1)
                writer.write_table(table)
                task.advance(len(block.mass))
        staged.sync()
        staged.publish()
    people = chosen.identity[chosen.cluster]
    mean, low, high = mean_over_identities(
        values.astype(np.float64), people, resamples=config.resamples, seed=config.seed
    )
    found = [WithInterval.of(*ends) for ends in zip(mean, low, high, strict=True)]
    return {name: ShareMeans(mass=found[k], won=found[len(maps) + k]) for k, name in enumerate(maps)}


def _tables(chosen: ChosenImages, maps: tuple[str, ...], schema: pa.Schema) -> Iterator[tuple[PromptShares, pa.Table]]:
    keys: list[str] = []
    shard = ""
    for block in prompt_shares(chosen, maps):
        if block.shard != shard:
            shard, keys = block.shard, chosen.run.read_keys(block.shard)
        columns = [
            pa.array([shard] * len(block.mass), pa.string()),
            pa.array([keys[row] for row in chosen.rows[block.at].tolist()], pa.string()),
        ]
        for k in range(len(maps)):
            columns += [float32_column(block.mass[:, k]), float32_column(block.won[:, k])]
        yield block, pa.table(columns, schema=schema)


def _schema(maps: tuple[str, ...]) -> pa.Schema:
    fields = [pa.field(name, pa.string(), nullable=False) for name in ("shard", "key")]
    for name in maps:
        fields += [pa.field(f"{column_of(name)}_{kind}", pa.float32()) for kind in ("mass_share", "won")]
    return pa.schema(fields)


def _attributes(run: Run, question: Question, path: Path, config: StatsConfig) -> tuple[AttributeAuc, ...]:
    """Whether prompts of a ready list show their attributes. Raises UserError where none can be compared."""
    attributes = read_attributes(path)
    probes = probes_among(run.manifest.asked.prompts)
    maps = {str(MapName.parse(name).prompt): name for name in question.maps}
    columns = [f"{column_of(name)}_stripe_{i}" for name in question.maps for i in range(STRIPES)]
    selection = RowSelection(where=config.where)
    known = list(dict.fromkeys(["pid", *identity_columns(run.schema.names), *columns]))
    table = select_rows(run, selection, columns=known, also="h5_row IS NOT NULL AND pid IS NOT NULL")
    stripes = {
        name: np.stack([table[f"{column_of(name)}_stripe_{i}"].to_numpy() for i in range(STRIPES)], axis=1)
        for name in question.maps
    }
    shares = StripeShares(
        pid=table["pid"].to_numpy(),
        identity=identity_codes(table).codes,
        stripes={name: values.astype(np.float64) for name, values in stripes.items()},
    )
    found = attribute_aucs(shares, maps, probes, attributes, config.resamples, config.seed)
    if not any(one.images_with or one.images_without for one in found):
        raise UserError(
            f"{path}: no image has a label of a prompt that is of a list (see `mine --prompt-set`); the table has "
            f"{', '.join(attributes.values) or 'no label'}, and the run has the prompts {', '.join(maps)}"
        )
    return tuple(found)
