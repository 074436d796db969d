"""The columns of a run's metadata, as an explicit Arrow schema. It is never inferred: all files must have the same."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from cam.measures import MEASURES
from cam.names import column_of

SCHEMA_VERSION = 3
# What run.json says once shards or maps were added: earlier versions of the program do not know these, and must refuse
# the run. Its metadata keep the columns that they had.
GROWN_VERSION = 4
# The version of the schema that a column or a measure came with; all others came with version 1.
_SINCE = {"area90": 2, "role": 3, "identity": 3, "image_crc32": 3}
PLACED_SINCE = 3  # the version whose measures place overlapping patches where they are, instead of in equal cells

SAMPLE_FIELDS = (
    pa.field("shard", pa.string(), nullable=False),
    pa.field("key", pa.string(), nullable=False),
    pa.field("tar_index", pa.int64(), nullable=False),
    pa.field("h5_row", pa.int64()),
    pa.field("status", pa.string(), nullable=False),
    pa.field("error", pa.string()),
    pa.field("pid", pa.int64()),
    pa.field("role", pa.string()),
    pa.field("identity", pa.string()),
    pa.field("camid", pa.int32()),
    pa.field("seq", pa.int32()),
    pa.field("frame", pa.int64()),
    pa.field("split", pa.string()),
    pa.field("width", pa.int32()),
    pa.field("height", pa.int32()),
    pa.field("image_offset", pa.int64()),
    pa.field("image_size", pa.int64()),
    pa.field("image_crc32", pa.uint32()),
)
RESULT_FIELDS = (
    pa.field("predicted", pa.int32()),
    pa.field("score", pa.float32()),
    pa.field("probability", pa.float32()),
    pa.field("grid_h", pa.int32()),
    pa.field("grid_w", pa.int32()),
)


def metadata_schema(maps: Sequence[str], version: int = SCHEMA_VERSION) -> pa.Schema:
    """The schema of a run with these maps: columns of the sample, of the result, then the measures map by map."""
    of_sample = [field for field in SAMPLE_FIELDS if _SINCE.get(field.name, 1) <= version]
    return pa.schema([*of_sample, *RESULT_FIELDS, *measure_fields(maps, version)])


def measure_fields(maps: Sequence[str], version: int = SCHEMA_VERSION) -> list[pa.Field]:
    """The columns of the measures, map by map."""
    return [pa.field(f"{column_of(name)}_{one}", pa.float32()) for name in maps for one in known_measures(version)]


def known_measures(version: int = SCHEMA_VERSION) -> list[str]:
    """The measures of a map that a run of this version has."""
    return [measure for measure in MEASURES if _SINCE.get(measure, 1) <= version]
