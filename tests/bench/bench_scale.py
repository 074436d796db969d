"""What the commands that need no model take on a run of very many shards: seconds, and the peak of memory.

    python -m tests.bench.bench_scale FOLDER --make [--shards 2000] [--rows 1000]
    python -m tests.bench.bench_scale FOLDER [--only status stats-merge ...] [--repetitions 1] [--tree OTHER_CHECKOUT]

`--make` writes FOLDER/RUN without a model (2.6 GB for 10 million rows): the metadata are real, with three maps'
measures. The HDF5 files are copies of one or two, of maps of two patches, and the tars are sparse files: these commands
look at their sizes only. Each command runs in a
process of its own, whose peak is taken, and with `--tree` also from the code of another checkout, in turns. `mine` is
timed up to where it would load a model, and on to the shards that it draws, so that neither torch nor a model counts.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jobs.mining.config import MineConfig, build_config
from jobs.mining.request import request_of
from jobs.runs.events import EventLog, ShardReport
from jobs.runs.footer import ShardFooter, read_footer
from jobs.runs.layout import RunLayout
from jobs.runs.manifest import Manifest, create_manifest
from jobs.runs.request import ResolvedSettings
from jobs.shards.samples import Sample
from jobs.shards.shard_bytes import ShardBytes
from jobs.shards.urls import expand_shards
from tests.support.made_runs import made_shard

MAPS = ("mim_attention", "gradcam/mim", "gradcam++/mim")
_TAR = 1 << 20  # bytes, none of them on the disk
_IMAGES = 50  # of an identity
_BLOCKS = 8  # parts of `stats --merge`
_CLI = "import sys; from jobs.cli import main; sys.argv[0] = 'promptsg'; main()"


def make(folder: Path, shards: int, rows: int) -> None:
    """A run of so many shards of so many rows, of which about one in a hundred failed in each hundredth shard."""
    tars = folder / "tars"
    tars.mkdir(parents=True)
    for number in range(shards):
        with (tars / f"train-{number:06d}.tar").open("wb") as file:
            file.truncate(_TAR)
    listed = expand_shards([str(tars)])
    config = mine_config(folder)
    layout = RunLayout(config.output)
    manifest = create_manifest(layout, request_of(config, listed, ()), ResolvedSettings(precision="fp32"))
    template = {bad: _template(layout, manifest, listed[bad].name, rows, bad) for bad in (0, 1)}
    events = EventLog(layout.logs)
    for number, shard in enumerate(listed):
        bad = int(number % 100 == 1)
        if number > 1:
            _copy_maps(layout.shard_maps(listed[bad].name), layout.shard_maps(shard.name))
        footer = read_footer(layout.shard_metadata(listed[bad].name))
        tar = ShardBytes(size=_TAR, sha256="0" * 64, modified_ns=shard.modified_ns, parts_sha256="0" * 64)
        footer = replace(footer, shard=shard.name, tar=tar)
        _write_rows(layout.shard_metadata(shard.name), template[bad], footer, number, rows)
        events.shard(ShardReport(shard=shard.name, images=footer.images, failed=dict(footer.failed)))
    events.close()


def mine_config(folder: Path) -> MineConfig:
    """What the run of a folder was mined with; a file stands for the checkpoint, which is only hashed."""
    checkpoint = folder / "checkpoint.pth"
    checkpoint.write_bytes(b"not a model")
    values = {"shards": (str(folder / "tars"),), "checkpoint": checkpoint, "output": folder / "RUN", "maps": MAPS}
    return build_config(None, values, (), ())


def _template(layout: RunLayout, manifest: Manifest, name: str, rows: int, bad: int) -> pa.Table:
    """The rows of a shard as mining writes them; with `bad` one in a hundred has failed."""
    samples = [Sample(key=f"{i:06d}", tar_index=i, pid=1, camid=1, split="train") for i in range(rows)]
    for sample in samples[::100] if bad else ():
        sample.fail("image_corrupt", "made up")
    small = {name: np.ones((rows - sum(s.status != "ok" for s in samples), 2, 1), np.float32) for name in MAPS}
    made_shard(layout.root, manifest, name, samples, **small)
    return pq.read_table(layout.shard_metadata(name))


def _copy_maps(source: Path, path: Path) -> None:
    """The HDF5 file of another shard, under the name of its own. It has the same size."""
    shutil.copyfile(source, path)
    with h5py.File(path, "r+", locking=False) as file:
        file.attrs.modify("shard", path.stem)


def _write_rows(path: Path, template: pa.Table, footer: ShardFooter, number: int, rows: int) -> None:
    """A shard's Parquet file: keys, people, cameras and scores of its own, and random measures."""
    random = np.random.default_rng(number)
    pid = (number * rows + np.arange(rows)) // _IMAGES + 1
    keys = [f"{p:06d}_c{i % 6 + 1}s1_{number:06d}_{i:04d}" for i, p in enumerate(pid)]
    footer = replace(footer, keys=(min(keys), max(keys)))
    new = {
        "shard": pa.array([footer.shard] * rows),
        "key": pa.array(keys),
        "pid": pa.array(pid),
        "identity": pa.array([f"{p:04d}" for p in pid]),
        "camid": pa.array(np.arange(rows) % 6 + 1, pa.int32()),
    }
    columns = [
        new[field.name]
        if field.name in new
        else pa.array(random.integers(0, 1000, rows).astype(np.float32) / 1000)
        if pa.types.is_float32(field.type)
        else column
        for field, column in zip(template.schema, template.columns, strict=True)
    ]
    table = pa.Table.from_arrays(columns, schema=template.schema.with_metadata(footer.as_metadata()))
    pq.write_table(table, path, compression="zstd", write_page_checksum=True)


@dataclass(frozen=True)
class Measured:
    """Seconds on the wall and of the processor, and the peak of memory in bytes."""

    seconds: float
    processor: float
    peak: int


def measure(code: str, words: Sequence[str], tree: Path) -> Measured:
    """A program in a process of its own, with the code of a checkout. Raises SystemExit where it fails."""
    before = time.perf_counter()
    with tempfile.TemporaryFile("w+") as said:
        environment = {**os.environ, "PYTHONPATH": str(tree)}
        # Where the bench is the parent, its own memory would count as the child's peak until the child is replaced.
        starter = [sys.executable, "-c", _STARTER, sys.executable, "-c", code, *words]
        process = subprocess.run(starter, cwd=tree, env=environment, stdout=said, stderr=subprocess.STDOUT, check=False)
        seconds = time.perf_counter() - before
        said.seek(0)
        lines = said.read().strip().splitlines()
    if process.returncode or not lines:
        raise SystemExit(f"{' '.join(words)}: status {process.returncode}: {lines[-4:-1]}")
    kilobytes, processor = lines[-1].split()
    return Measured(seconds, float(processor), int(kilobytes) * 1024)


_STARTER = """
import resource, subprocess, sys
status = subprocess.run(sys.argv[1:]).returncode
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print("\\n" + str(used.ru_maxrss), used.ru_utime + used.ru_stime)
sys.exit(status if status != 3 else 0)
"""

_MINE = """
import sys
from pathlib import Path
from types import SimpleNamespace
from jobs.mining import mine as program
from jobs.mining.summary import MiningSummary
from jobs.runs.manifest import read_manifest
from jobs.runs.layout import RunLayout
from jobs.mining.config import build_config

loaded = SimpleNamespace(kind="cpu", device="cpu", label_agreement=None, of_run=lambda manifest: loaded)
def load(config, options, shards, layout, *rest):
    loaded.resolved = read_manifest(layout).resolved
    return loaded
def work(loaded, manifest, config, options, block, drawn, progress, **more):
    return MiningSummary(run=config.output, shards=len(list(drawn)))
program._load, program._run_worker = load, work
folder, maps = Path(sys.argv[1]).parent, tuple(sys.argv[2:])
values = dict(shards=(str(folder / "tars"),), checkpoint=folder / "checkpoint.pth", output=folder / "RUN", maps=maps)
print(program.mine(build_config(None, values, (), ())))
assert "torch" not in sys.modules
"""


def programs(run: Path, out: Path) -> dict[str, tuple[str, list[str]]]:
    """Name -> the program and its words."""
    parts = [str(out / "parts" / f"part-{i:05d}-of-{_BLOCKS:05d}.npz") for i in range(_BLOCKS)]
    render = ["render", str(run), "--dry-run", "--output", str(out / "pictures")]
    return {
        "status": (_CLI, ["status", str(run)]),
        "status-failed": (_CLI, ["status", str(run), "--failed"]),
        "mine-all-done": (_MINE, [str(run), *MAPS]),
        "mine-one-left": (_MINE, [str(run), *MAPS]),
        "render-where": (_CLI, [*render, "--where", "pid = 77 AND camid = 2"]),
        "render-order-by": (_CLI, [*render, "--order-by", "gradcam_mim_entropy", "--limit", "50"]),
        "evaluate": (_EVALUATE, [str(run)]),
        "finalize": (_CLI, ["finalize", str(run)]),
        "stats-merge": (_CLI, ["stats", str(run), "--merge", *parts, "--output", str(out / "stats")]),
    }


_EVALUATE = """
import sys
from jobs.retrieval.correlates import measure_columns
from jobs.retrieval.selection import select_side
from jobs.runs.run import open_run

run = open_run(sys.argv[1])
for where, columns in (("pid % 100 = 7 AND camid = 1", measure_columns(run.maps)), ("pid % 100 = 7", [])):
    print(select_side(run, where, "--where", columns, keep_junk=False)[1])
"""


def main() -> None:
    """Prints for each command the medians of seconds and the largest peak, for each tree."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--make", action="store_true")
    parser.add_argument("--shards", type=int, default=2000)
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--only", nargs="+", metavar="COMMAND")
    parser.add_argument("--repetitions", type=int, default=1)
    parser.add_argument("--tree", type=Path, help="Another checkout to compare with.")
    asked = parser.parse_args()
    if asked.make:
        make(asked.folder, asked.shards, asked.rows)
    run = RunLayout(asked.folder.resolve() / "RUN")
    here = Path(__file__).resolve().parents[2]
    trees = {"other": asked.tree.resolve(), "here": here} if asked.tree else {"here": here}
    out = asked.folder.resolve() / "out"
    chosen = {name: one for name, one in programs(run.root, out).items() if not asked.only or name in asked.only}
    if "stats-merge" in chosen and not (out / "parts").is_dir():
        for block in range(_BLOCKS):
            words = ["stats", str(run.root), "--by", "camid", "--block", f"{block}/{_BLOCKS}", "--output", str(out)]
            measure(_CLI, words, here)
    for name, (code, words) in chosen.items():
        found: dict[str, list[Measured]] = {tree: [] for tree in trees}
        for _ in range(asked.repetitions):
            for tree, path in trees.items():
                found[tree].append(_one(name, code, words, path, run))
        for tree, values in found.items():
            print(f"{name:16s} {tree:6s} {_told(values)}", flush=True)


def _told(values: Sequence[Measured]) -> str:
    """The medians of the seconds, the largest peak, and the load of the machine."""
    seconds = statistics.median(value.seconds for value in values)
    processor = statistics.median(value.processor for value in values)
    peak, load = max(value.peak for value in values) / 1e6, os.getloadavg()[0]
    return f"{seconds:7.1f} s  {processor:7.1f} s of processor  {peak:7.0f} MB  load {load:.1f}"


def _one(name: str, code: str, words: list[str], tree: Path, run: RunLayout) -> Measured:
    """One measurement. `mine-one-left` lacks the last shard's metadata for its time."""
    if name != "mine-one-left":
        return measure(code, words, tree)
    last = max(run.metadata.iterdir())
    aside = Path(shutil.move(last, run.logs / "aside"))
    try:
        return measure(code, words, tree)
    finally:
        aside.rename(last)


if __name__ == "__main__":
    main()
