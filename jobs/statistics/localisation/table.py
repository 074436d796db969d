"""localise.parquet: a row for each chosen image, written block by block.

Which parts there are is known only after the last mask. So blocks wait in temporary files, and get their last columns
when all are there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from cam.names import column_of
from jobs.arrays import Float64Array
from jobs.atomic import StagedFile
from jobs.statistics.localisation.blocks import MaskBlock
from jobs.statistics.localisation.sums import MEASURES
from jobs.tables import float32_column

_FIRST = (
    pa.field("shard", pa.string(), nullable=False),
    pa.field("key", pa.string(), nullable=False),
    pa.field("mask", pa.string(), nullable=False),
    pa.field("person_area", pa.float32()),
)


@dataclass
class RowsWriter:
    """Takes blocks, and writes the table in the end. `scratch` is a folder for what waits."""

    scratch: Path
    maps: tuple[str, ...]
    _parts: set[str] = field(default_factory=set)
    _files: list[Path] = field(default_factory=list)

    def add(
        self,
        block: MaskBlock,
        area: Float64Array,
        scores: Mapping[str, Float64Array],
        part_areas: Mapping[str, Float64Array],
        on_parts: Mapping[tuple[str, str], Float64Array],
    ) -> None:
        """Takes a block of n rows: area (n,), scores (n, MEASURES) by map, part_areas (n,) by part, and on_parts (n,)
        by map and part, the share of the map's mass there. NaN becomes null."""
        columns: dict[str, pa.Array] = {
            "shard": pa.array([block.shard] * len(block.keys), pa.string()),
            "key": pa.array(block.keys, pa.string()),
            "mask": pa.array(block.status, pa.string()),
            "person_area": float32_column(area),
        }
        columns |= {_area(part): float32_column(values) for part, values in part_areas.items()}
        for name, values in scores.items():
            columns |= {_score(name, measure): float32_column(values[:, v]) for v, measure in enumerate(MEASURES)}
        columns |= {_on(name, part): float32_column(values) for (name, part), values in on_parts.items()}
        self._parts.update(part_areas)
        self._files.append(self.scratch / f"rows-{len(self._files)}.parquet")
        pq.write_table(pa.table(columns), self._files[-1])

    def publish(self, final: Path) -> None:
        """Writes the table under its final name, whole or not at all. A part that a block lacks has no area there."""
        schema = self._schema()
        with StagedFile(final) as staged:
            with pq.ParquetWriter(staged.file, schema, compression="zstd") as writer:
                for path in self._files:
                    writer.write_table(_completed(pq.read_table(path), schema))
            staged.sync()
            staged.publish()

    def _schema(self) -> pa.Schema:
        parts = sorted(self._parts)
        fields = [*_FIRST, *(pa.field(_area(part), pa.float32()) for part in parts)]
        for name in self.maps:
            fields += [pa.field(_score(name, measure), pa.float32()) for measure in MEASURES]
            fields += [pa.field(_on(name, part), pa.float32()) for part in parts]
        return pa.schema(fields)


def _completed(rows: pa.Table, schema: pa.Schema) -> pa.Table:
    """The rows with all columns: 0 for a part that is in no mask of them, null where there is no mask or no mass."""
    for field_ in schema:
        if field_.name not in rows.column_names:
            like = _like(field_.name, rows.column_names)
            values = rows[like].to_numpy() * 0  # null stays null
            rows = rows.append_column(field_, float32_column(values))
    return rows.select(schema.names).cast(schema)


def _like(column: str, there: list[str]) -> str:
    """The column that is null where this one of a part must be."""
    of_map = next((name for name in there if name.endswith("_on_person") and column.startswith(name[:-6])), None)
    return of_map or "person_area"


def _area(part: str) -> str:
    return f"area_{part}"


def _score(name: str, measure: str) -> str:
    return f"{column_of(name)}_{measure}"


def _on(name: str, part: str) -> str:
    return f"{column_of(name)}_on_{part}"
