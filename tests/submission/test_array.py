"""Elements of a job array: which have to run again, and what SLURM says of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from jobs.commands.status import command
from jobs.runs.growth.added_output import AddedOutput
from jobs.runs.growth.run_json import add_addition
from jobs.runs.layout import RunLayout
from jobs.runs.manifest import read_manifest
from jobs.runs.metadata_rows import Results
from jobs.runs.request import Addition
from jobs.runs.run import open_run
from jobs.shards.columns import SampleColumns
from jobs.submission.array import (
    array_specification,
    missing_elements,
    submitted_count,
    submitted_maps,
    unfinished_elements,
)
from jobs.submission.options import ArrayOptions
from jobs.submission.queue import queued_elements, remember_jobs
from jobs.submission.scripts import JobPlace, array_script
from tests.support.made_runs import made_manifest, made_samples, made_shard

NAMES = ["gallery-000000", "gallery-000001", "query-000000"]


@pytest.fixture
def unfinished(tmp_path: Path) -> Path:
    """A run whose last shard is missing."""
    root = tmp_path / "RUN"
    manifest = made_manifest(root, NAMES)
    for name in NAMES[:2]:
        made_shard(root, manifest, name, made_samples(4))
    return root


def test_array_specifications() -> None:
    assert array_specification([]) == "" and array_specification([0, 1, 2, 5, 7, 8]) == "0-2,5,7-8"


def test_unfinished_elements_are_the_blocks_with_something_to_do() -> None:
    assert unfinished_elements(NAMES, set(NAMES), 3) == []
    assert unfinished_elements(NAMES, {NAMES[0]}, 3) == [1, 2]
    assert unfinished_elements(NAMES, set(NAMES[1:]), 2) == [0]
    assert unfinished_elements(NAMES, set(), 5) == [1, 3, 4]  # the others have no shard


def test_the_number_of_elements_is_that_of_the_submission(unfinished: Path) -> None:
    layout = RunLayout(unfinished)
    assert submitted_count(layout) is None and missing_elements(unfinished) == [2]
    assert missing_elements(unfinished, 1) == [0]
    (unfinished / "slurm").mkdir()
    (unfinished / "slurm" / "array.sbatch").write_text("promptsg mine --array-count 2 --drain-file x\n")
    assert submitted_count(layout) == 2 and missing_elements(unfinished) == [1]
    (unfinished / "slurm" / "array.sbatch").write_text("promptsg mine --array-count")
    assert submitted_count(layout) is None


def test_elements_that_have_to_add_maps_again(unfinished: Path) -> None:
    """After a submission with --add-maps: those with a shard that is done and does not have the maps."""
    layout = RunLayout(unfinished)
    script = array_script(
        ArrayOptions(tasks=3), 3, JobPlace(layout=layout, folder=unfinished, programs=unfinished),
        add_maps=("gradcam++/mim", "hirescam/mim"),
    )  # fmt: skip
    (unfinished / "slurm").mkdir()
    (unfinished / "slurm" / "array.sbatch").write_text(script)
    assert submitted_maps(layout) == ["gradcam++/mim", "hirescam/mim"] and submitted_count(layout) == 3
    assert missing_elements(unfinished) == [0, 1]  # the third shard has to be mined before
    number, manifest = add_addition(layout, read_manifest(layout), Addition(maps=("hirescam/mim", "gradcam++/mim")))
    output = AddedOutput(layout, manifest, number, NAMES[0], 1.0)
    samples = made_samples(4)
    output.add(
        SampleColumns.of(samples),
        Results(
            maps=dict.fromkeys(manifest.numbered_additions[number], np.ones((4, 16, 8), np.float32)),
            features=open_run(unfinished).read_features(NAMES[0]),
            score=np.zeros(4, np.float32),
            predicted=np.zeros(4, np.int64),
            probability=np.ones(4, np.float32),
        ),
    )
    assert output.commit().published and missing_elements(unfinished) == [1]


def test_status_has_the_queue(unfinished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a squeue that knows both jobs, one that is too slow, and none."""
    layout = RunLayout(unfinished)
    assert queued_elements(layout) == {}  # never submitted
    (unfinished / "slurm").mkdir()
    remember_jobs(layout, "7")
    remember_jobs(layout, "8")
    squeue = tmp_path / "bin" / "squeue"
    squeue.parent.mkdir()
    squeue.write_text(
        '#!/bin/bash\n[[ "$*" == *--jobs=7,8* ]] && printf "RUNNING 7_0\\nPENDING 7_[1-2]\\nPENDING 8\\n"\n'
    )
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", f"{squeue.parent}:/usr/bin:/bin")
    queue = {"RUNNING": ["7_0"], "PENDING": ["7_[1-2]", "8"]}
    assert queued_elements(layout) == queue
    said = CliRunner().invoke(command, [str(unfinished)]).stdout
    assert "SLURM: 1 running: 7_0\nSLURM: 2 pending: 7_[1-2], 8\n" in said
    content = json.loads(CliRunner().invoke(command, [str(unfinished), "--json"]).stdout)
    assert list(content)[-1] == "queue" and content["queue"] == queue
    monkeypatch.setattr("jobs.submission.queue._TIMEOUT_SECONDS", 0.2)
    squeue.write_text("#!/bin/bash\nexec sleep 5\n")
    assert queued_elements(layout) == {}
    squeue.unlink()
    assert queued_elements(layout) == {}
