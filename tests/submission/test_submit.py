"""`promptsg submit`: the scripts against a golden one, text that stays text, and what is refused before the queue."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from jobs.commands.submit import command
from jobs.errors import UserError
from jobs.mining.config import build_config
from jobs.runs.layout import RunLayout
from jobs.submission.options import ArrayOptions
from jobs.submission.sbatch import submission_environment
from jobs.submission.scripts import JobPlace, array_script, directive, finalize_script
from jobs.submission.submit import SubmitConfig, submit

GOLDEN = Path(__file__).parent / "golden_array.sbatch"
EVIL = "a b'c\"d$(touch HIT)`touch HIT`;touch HIT #&|*%a@RUN@"
OPTIONS = ArrayOptions(tasks=2, gpus_per_task=0)


def write_config(folder: Path, shards: int = 12, output: str = "RUN") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(shards):
        (folder / f"train-{number:03d}.tar").touch()
    (folder / "m.pth").touch()
    content = {"shards": f"{folder}/train-{{000..{shards - 1:03d}}}.tar", "checkpoint": str(folder / "m.pth")}
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump({**content, "output": str(folder / output)}))
    return path


def invoke(config: Path, *words: str) -> Result:
    return CliRunner().invoke(command, [str(config), *words])


def dry_run(config: Path, *words: str) -> str:
    result = invoke(config, "--dry-run", *words)
    assert result.exit_code == 0, result.output + repr(result.exception)
    return result.stdout


def test_dry_run_prints_the_script_and_touches_nothing(tmp_path: Path) -> None:
    words = ["--array-tasks", "4", "--max-running", "2", "--gpus-per-task", "4", "--cpus-per-task", "32"]
    words += ["--time", "4:00:00", "--partition", "gpu", "--account", "reid", "--sbatch-arg", "mem=128G"]
    words += ["--sbatch-arg", "exclusive", "--finalize-time", "1:00:00", "--finalize-arg", "mem=64G"]
    printed = dry_run(write_config(tmp_path), *words)
    assert not (tmp_path / "RUN").exists()
    for place, name in ((tmp_path, "/DATA"), (Path.cwd(), "/WORK"), (Path(sys.executable).parent, "/BIN")):
        printed = re.sub(rf"{re.escape(str(place))}(?![\w-])", name, printed)
    assert printed == GOLDEN.read_text(encoding="utf-8")


def test_bash_accepts_the_scripts(tmp_path: Path) -> None:
    place = JobPlace(layout=RunLayout(tmp_path / EVIL.replace("/", "")), folder=tmp_path, programs=tmp_path)
    for script in (array_script(OPTIONS, 2, place), finalize_script(OPTIONS, place)):
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def fake(folder: Path, name: str, body: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(f"#!/bin/bash\n{body}\n")
    (folder / name).chmod(0o755)


def run_script(script: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": "/usr/bin:/bin", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "1", **variables}
    return subprocess.run(
        ["bash"], input=script, text=True, capture_output=True, cwd=folder, env=environment, timeout=60, check=False
    )


@pytest.mark.parametrize("gpus", [0, 4])
def test_every_path_arrives_as_text(tmp_path: Path, gpus: int) -> None:
    """Run, folder and programs with every character that a shell would act on."""
    work, programs, run = tmp_path / f"work {EVIL}", tmp_path / f"bin {EVIL}", tmp_path / f"run {EVIL}"
    for folder in (work, programs, run / "drain"):
        folder.mkdir(parents=True)
    program = "torchrun" if gpus else "promptsg"
    fake(programs, program, r'pwd; printf "<%s>\n" "$@"')
    fake(programs, "squeue", "echo N/A")
    place = JobPlace(layout=RunLayout(run), folder=work, programs=programs)
    done = run_script(array_script(replace(OPTIONS, gpus_per_task=gpus), 2, place), tmp_path)
    launch = ["--standalone", "--nproc-per-node=4", "--no-python", "promptsg"] if gpus else []
    mine = ["mine", "--config", f"{run}/slurm/config.yaml", "--array-index", "1", "--array-count", "2"]
    wanted = [str(work), *(f"<{word}>" for word in [*launch, *mine, "--drain-file", f"{run}/drain/7_1"])]
    assert done.returncode == 0 and done.stdout.splitlines()[1:] == wanted, done
    fake(programs, "promptsg", r'pwd; printf "<%s>\n" "$@"')
    done = run_script(finalize_script(OPTIONS, place), tmp_path)
    assert done.stdout.splitlines() == [str(work), "<finalize>", f"<{run}>"]
    assert not list(tmp_path.rglob("HIT"))


def test_each_job_has_its_own_time_limit(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    for words, array, finalize in [
        (["--time", "0:30:00"], "0:30:00", None),
        (["--finalize-time", "2:00:00"], None, "2:00:00"),
        (["--time", "0:30:00", "--finalize-time", "2:00:00"], "0:30:00", "2:00:00"),
        (["--finalize-time", "2:00:00", "--finalize-arg", "time=3:00:00"], None, "3:00:00"),
    ]:
        printed = dry_run(config, "--array-tasks", "2", *words)
        scripts = printed.split("#!/usr/bin/env bash\n")[1:]
        limits = [re.findall(r"^#SBATCH --time=(.*)$", script, flags=re.MULTILINE) for script in scripts]
        assert limits == [[array] if array else [], [finalize] if finalize else []]


def sbatch_reads(line: str) -> str:
    """A directive's value as sbatch's own parser takes it apart (get_argument in its proc_args.c)."""
    value, quote, escaped = "", "", False
    for char in line:
        if escaped:
            value, escaped = value + char, False
        elif char == "\\" and quote:
            escaped = True
        elif quote and char == quote:
            quote = ""
        elif not quote and char in "\"'":
            quote = char
        elif not quote and (char == "#" or char.isspace()):
            break
        else:
            value += char
    return value


@pytest.mark.parametrize("option", ["--time", "--finalize-time", "--partition", "--account", "--sbatch-arg"])
def test_every_option_arrives_as_text(tmp_path: Path, option: str) -> None:
    name = "comment" if option == "--sbatch-arg" else option.removeprefix("--").removeprefix("finalize-")
    value = EVIL + "\\"
    words = [option, f"comment={value}" if option == "--sbatch-arg" else value]
    printed = dry_run(write_config(tmp_path), "--array-tasks", "2", *words)
    lines = [line for line in printed.splitlines() if line.startswith(f"#SBATCH --{name}=")]
    assert len(lines) == (2 if option in ("--partition", "--account") else 1)
    assert {sbatch_reads(line.partition("=")[2]) for line in lines} == {value}
    code = [line for line in printed.splitlines() if not line.startswith("#")]
    assert not any("HIT" in line for line in code)
    result = invoke(tmp_path / "mine.yaml", "--array-tasks", "2", "--dry-run", option, f"{words[1]}\nrm -rf x")
    assert isinstance(result.exception, UserError) and "control character" in str(result.exception)


@pytest.mark.parametrize("value", ["gpu", "4:00:00", "a100|h100", "0-3%2", "/x y/%A_%a.out"])
def test_directives(value: str) -> None:
    assert sbatch_reads(directive(value)) == value
    assert (directive(value) == value) is (not set(value) & set(" |"))


def test_the_log_folder_is_no_pattern(tmp_path: Path) -> None:
    place = JobPlace(layout=RunLayout(Path("/x/50%a")), folder=tmp_path, programs=tmp_path)
    assert "#SBATCH --output=/x/50%%a/logs/%A_%a.out\n" in array_script(OPTIONS, 2, place)
    place = JobPlace(layout=RunLayout(Path("/x/a\\b")), folder=tmp_path, programs=tmp_path)
    with pytest.raises(UserError, match="has a backslash, which sbatch --output cannot take"):
        array_script(OPTIONS, 2, place)


def test_more_tasks_than_shards_are_not_requested(tmp_path: Path) -> None:
    result = invoke(write_config(tmp_path, shards=3), "--array-tasks", "8", "--max-running", "5", "--dry-run")
    assert "there are only 3 shards: 3 tasks are requested instead of 8" in result.stderr
    assert "#SBATCH --array=0-2%5\n" in result.stdout and "--array-count 3 " in result.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--sbatch-arg", "array=1-9"], "--sbatch-arg array is set by the batch script itself"),
        (["--sbatch-arg", "x y=1"], "is not an option of sbatch"),
        (["--sbatch-arg", "-p=1"], "is not an option of sbatch"),
        (["--finalize-arg", "dependency=x"], "--finalize-arg dependency is set by the batch script itself"),
        (["--set", "shard=x"], "unknown setting 'shard'; did you mean shards?"),
        (["--set", "maps=gradcam/mimm"], "unknown layer 'mimm' in gradcam/mimm; did you mean mim?"),
        (["--set", "maps=mim_atention"], "unknown map 'mim_atention'; did you mean mim_attention?"),
    ],
)
def test_refused_before_anything_is_written(tmp_path: Path, words: list[str], message: str) -> None:
    result = invoke(write_config(tmp_path), "--array-tasks", "2", *words)
    assert isinstance(result.exception, UserError) and message in str(result.exception)
    assert not (tmp_path / "RUN").exists()


def test_without_slurm_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    result = invoke(write_config(tmp_path), "--array-tasks", "2")
    assert isinstance(result.exception, UserError) and "there is no sbatch in PATH" in str(result.exception)
    assert not (tmp_path / "RUN").exists()


def test_submit_returns_the_jobs_and_writes_what_it_submits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a notebook calls it, with an sbatch that hands out ids and notes its words."""
    fake(tmp_path / "bin", "sbatch", rf'echo "$@" >> {tmp_path}/said; echo $(wc -l < {tmp_path}/said)01\;cluster')
    fake(tmp_path / "bin", "promptsg", "true")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    mining = build_config(write_config(tmp_path, shards=3), {})
    planned = submit(SubmitConfig(mining=mining, array=replace(OPTIONS, tasks=5), dry_run=True))
    assert (planned.array_job, planned.finalize_job) == (None, None) and not (tmp_path / "RUN").exists()
    done = submit(SubmitConfig(mining=mining, array=replace(OPTIONS, tasks=5)))
    assert done == replace(planned, array_job="101", finalize_job="201")
    assert (done.run, done.shards, done.tasks, done.idle_tasks) == (tmp_path / "RUN", 3, 3, 2)
    scripts = tmp_path / "RUN" / "slurm"
    assert (scripts / "array.sbatch").read_text() == done.array_script
    assert (scripts / "finalize.sbatch").read_text() == done.finalize_script
    assert build_config(scripts / "config.yaml", {}) == mining
    assert json.loads((scripts / "jobs.json").read_text()) == ["101", "201"]
    assert (tmp_path / "said").read_text().splitlines() == [
        f"--parsable {scripts}/array.sbatch",
        f"--parsable --dependency=afterany:101 {scripts}/finalize.sbatch",
    ]


def test_an_array_without_its_finalize_job_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake(tmp_path / "bin", "sbatch", '[[ "$*" == *afterany* ]] && { echo no such partition >&2; exit 1; }; echo 7')
    fake(tmp_path / "bin", "promptsg", "true")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    result = invoke(write_config(tmp_path), "--array-tasks", "2")
    assert isinstance(result.exception, UserError)
    assert "array job 7 is submitted, but finalize is not: sbatch refused" in str(result.exception)
    assert "no such partition; scancel 7" in str(result.exception)
    assert json.loads((tmp_path / "RUN" / "slurm" / "jobs.json").read_text()) == ["7"]


def test_a_job_s_own_variables_are_left_behind() -> None:
    given = {"HOME": "/", "SLURM_CONF": "/c", "SLURM_JOB_ID": "1", "SLURM_CPUS_PER_TASK": "2",
             "SBATCH_SIGNAL": "USR1@5", "SBATCH_PARTITION": "p", "SBATCH_ACCOUNT": "a"}  # fmt: skip
    kept = submission_environment(given, {"partition": "gpu"})
    assert kept == {"HOME": "/", "SLURM_CONF": "/c", "SBATCH_ACCOUNT": "a"}


@pytest.mark.parametrize(
    ("child", "restarts", "state", "status", "requeued"),
    [
        ("exit 75", 0, "RUNNING", 75, True),
        ("exit 1", 9, "RUNNING", 75, True),  # what torchrun makes of 75
        ("exit 75", 10, "RUNNING", 75, False),
        ("exit 75", 0, "CANCELLED", 75, False),
        ("exit 0", 0, "RUNNING", 0, False),  # it finished in time after all
    ],
)
def test_a_drained_element_requeues_itself(
    tmp_path: Path, child: str, restarts: int, state: str, status: int, requeued: bool
) -> None:
    """A signal to the shell, and two more while it waits for the child, which ends only when it has seen the file."""
    programs, run = tmp_path / "bin", tmp_path / "RUN"
    (run / "drain").mkdir(parents=True)
    fake(
        programs, "promptsg", f'touch {tmp_path}/up; until [ -e "${{@: -1}}" ]; do sleep 0.05; done; sleep 0.5; {child}'
    )
    fake(programs, "squeue", f'[[ "$*" == *%T* ]] && echo {state}')
    fake(programs, "scontrol", f'echo "$*" > {tmp_path}/requeued')
    script = array_script(OPTIONS, 2, JobPlace(layout=RunLayout(run), folder=tmp_path, programs=programs))
    (tmp_path / "array.sbatch").write_text(script)
    (run / "drain" / "7_1").touch()  # an earlier attempt's request does not count
    environment = {"PATH": "/usr/bin:/bin", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "1"}
    environment |= {"SLURM_RESTART_COUNT": str(restarts)}
    shell = subprocess.Popen(["bash", tmp_path / "array.sbatch"], env=environment, stdout=subprocess.PIPE, text=True)
    while not (tmp_path / "up").exists():
        time.sleep(0.02)
    time.sleep(0.2)
    assert shell.poll() is None and not (run / "drain" / "7_1").exists()
    for number, file in [(signal.SIGUSR2, ""), (signal.SIGTERM, "SIGTERM\n"), (signal.SIGUSR2, "SIGTERM\n")]:
        shell.send_signal(number)
        time.sleep(0.1)
        assert (run / "drain" / "7_1").read_text() == file
    printed, _ = shell.communicate(timeout=30)
    assert shell.returncode == status, printed
    assert (tmp_path / "requeued").exists() is requeued
    if requeued:
        assert (tmp_path / "requeued").read_text() == "requeue 7_1\n" and "goes back to the queue" in printed
    elif status:
        assert "submit again to go on" in printed


def test_a_failure_without_a_request_keeps_its_status(tmp_path: Path) -> None:
    (tmp_path / "RUN" / "drain").mkdir(parents=True)
    fake(tmp_path / "bin", "promptsg", "exit 3")
    fake(tmp_path / "bin", "squeue", "true")
    place = JobPlace(layout=RunLayout(tmp_path / "RUN"), folder=tmp_path, programs=tmp_path / "bin")
    assert run_script(array_script(OPTIONS, 2, place), tmp_path).returncode == 3


@pytest.mark.parametrize(
    ("words", "cores"),
    [
        ([], ["8"]),
        (["--gpus-per-task", "4"], ["32"]),
        (["--gpus-per-task", "4", "--cpus-per-task", "6"], ["6"]),
        (["--gpus-per-task", "0"], []),  # on CPUs the site decides
        (["--gpus-per-task", "0", "--cpus-per-task", "6"], ["6"]),
        (["--sbatch-arg", "cpus-per-task=3"], ["3"]),
        (["--gpus-per-task", "2", "--sbatch-arg", "cpus-per-gpu=4"], []),  # Slurm refuses the two together
    ],
)
def test_an_element_has_eight_cores_for_each_gpu(tmp_path: Path, words: list[str], cores: list[str]) -> None:
    printed = dry_run(write_config(tmp_path), "--array-tasks", "2", *words)
    assert re.findall(r"^#SBATCH --cpus-per-task=(.*)$", printed, flags=re.MULTILINE) == cores


def test_a_run_is_submitted_to_grow(tmp_path: Path) -> None:
    config, more = write_config(tmp_path), ["--array-tasks", "2"]
    plain = dry_run(config, *more)
    assert "--extend" not in plain and "--add-maps" not in plain
    assert plain.replace("/config.yaml \\", "/config.yaml --extend \\") == dry_run(config, *more, "--extend")
    added = dry_run(config, *more, "--add-maps", "gradcam++/mim", "--add-maps", "cross_attention:backpack")
    assert "/config.yaml --add-maps gradcam++/mim --add-maps cross_attention:backpack \\\n" in added
    for words, wanted in (
        (["--extend", "--add-maps", "gradcam/mim"], "exclude each other"),
        (["--add-maps", "gradcam/mimm"], "did you mean"),
    ):
        refused = invoke(config, *more, "--dry-run", *words)
        assert refused.exit_code == 1 and wanted in str(refused.exception)
