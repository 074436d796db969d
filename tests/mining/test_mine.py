"""`promptsg mine` end to end: real tars, a real (tiny) checkpoint, HDF5 and Parquet opened by other tools."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import duckdb
import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from click.testing import CliRunner

from cam import extract_maps
from cam.measures import MEASURES, measure_maps
from cam.names import column_of
from jobs.cli import main
from jobs.commands.mine import describe, show
from jobs.commands.shard import command as shard_command
from jobs.commands.status import command as status_command
from jobs.errors import UserError
from jobs.launch.ranks import Ranks
from jobs.mining.config import build_config, without_weight
from jobs.mining.mine import mine
from jobs.mining.summary import MiningSummary
from jobs.runs.run import open_run
from jobs.runs.status import status
from promptsg_core import load_model
from promptsg_core.preprocess import decode_image, resize_image
from tests.support.shard_files import market_shard, sample_members, tar_bytes, textured_image, write_tar
from tests.support.tiny import tiny_checkpoint

MAPS = ("mim_attention", "gradcam/mim", "gradcam++/mim", "hirescam/vit_proj", "gradcam/classifier")
# The default layout of a checkpoint with 128 patches is 16x8, so that nothing needs to be told.
LAYOUT = {"image_size": (64, 32)}
COUNTS = {"train-000000": 37, "query-000000": 20, "gallery-000000": 9}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint m.pth and three shards."""
    folder = tmp_path_factory.mktemp("inputs")
    tiny_checkpoint(folder / "m.pth", **LAYOUT)
    for number, (name, count) in enumerate(COUNTS.items()):
        market_shard(folder / f"{name}.tar", count, first=100 * number)
    return folder


def mining(inputs: Path, output: Path, shards: object = None, **options: object) -> MiningSummary:
    options = {"maps": MAPS, "workers": 0, "precision": "fp32", "device": "cpu", "batch_size": 8, **options}
    options |= {"checkpoint": inputs / "m.pth", "output": output, "shards": shards or str(inputs / "*.tar")}
    return mine(build_config(None, options))


def run(inputs: Path, output: Path, shards: object = None, **options: object) -> int:
    return mining(inputs, output, shards, **options).exit_status


def digests(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def mined(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("run") / "RUN"
    assert run(inputs, output) == 0
    return output


def test_every_image_has_its_row_and_its_maps(inputs: Path, mined: Path) -> None:
    model = load_model(inputs / "m.pth", device="cpu", precision="fp32")
    for name, count in COUNTS.items():
        table = pq.read_table(mined / "metadata" / f"{name}.parquet")
        whole = (inputs / f"{name}.tar").read_bytes()
        rows = table.to_pylist()
        assert len(rows) == count and [r["tar_index"] for r in rows] == list(range(count))
        assert [r["h5_row"] for r in rows] == list(range(count)) and {r["status"] for r in rows} == {"ok"}
        assert {(r["grid_h"], r["grid_w"], r["width"], r["height"]) for r in rows} == {(16, 8, 16, 32)}
        pixels = []
        for row in rows:  # the offset leads to the very bytes
            data = whole[row["image_offset"] :][: row["image_size"]]
            assert row["pid"] == int(row["key"][:4]) and row["camid"] == int(row["key"][6]) - 1
            pixels.append(resize_image(decode_image(data), model.config.image_size))
        wanted = extract_maps(model, torch.stack(pixels), MAPS)
        with h5py.File(mined / "maps" / f"{name}.h5") as file:
            assert [key.decode() for key in file["key"][:]] == [row["key"] for row in rows]
            np.testing.assert_allclose(file["features"][:], wanted.features.numpy(), rtol=1e-4, atol=1e-5)
            for map_name in MAPS:
                stored = file[f"maps/{map_name}"]
                assert stored.dtype == np.float32 and stored.fletcher32 and stored.shape == (count, 16, 8)
                exact = wanted.maps[map_name].numpy()
                np.testing.assert_allclose(stored[:], exact, rtol=1e-4, atol=1e-5 * exact.max(), err_msg=map_name)
                measured = measure_maps(stored[:])
                for measure in MEASURES:
                    column = np.array([r[f"{column_of(map_name)}_{measure}"] for r in rows], float)
                    np.testing.assert_allclose(column, measured[measure], rtol=1e-5)
        assert [r["predicted"] for r in rows] == wanted.predicted.tolist()
        np.testing.assert_allclose([r["score"] for r in rows], wanted.score.numpy(), rtol=1e-4)
        np.testing.assert_allclose([r["probability"] for r in rows], wanted.probability.numpy(), rtol=1e-4)


def test_duckdb_reads_all_shards_as_one_table(mined: Path) -> None:
    query = (
        f"SELECT split, count(*), avg(gradcampp_mim_entropy) FROM '{mined}/metadata/*.parquet' GROUP BY 1 ORDER BY 1"
    )
    found = duckdb.sql(query).fetchall()
    assert [(split, count) for split, count, _ in found] == [("gallery", 9), ("query", 20), ("train", 37)]
    assert all(0 < entropy <= np.log(128) for _, _, entropy in found)


def test_the_store_reads_by_name_and_row(mined: Path) -> None:
    opened = open_run(mined)
    table = opened.metadata().to_table(columns=["shard", "key", "h5_row", "camid"]).slice(5, 50)
    picked = table.take([*reversed(range(0, 50, 7)), 3, 3])
    maps = opened.maps_of("gradcam++/mim", picked)
    for row, found in zip(picked.to_pylist(), maps, strict=True):
        assert opened.read_keys(row["shard"])[row["h5_row"]] == row["key"]
        np.testing.assert_array_equal(found, opened.read_maps("gradcam++/mim", row["shard"])[row["h5_row"]])
    assert opened.read_features("query-000000", slice(2, 5)).shape == (3, 96)
    with pytest.raises(
        UserError, match=r"has no map 'gradcam/vit_last'; did you mean gradcam/mim\? It has mim_attention"
    ):
        opened.read_maps("gradcam/vit_last", "query-000000")
    with pytest.raises(UserError, match="'nothing' is not done"):
        opened.read_maps("mim_attention", "nothing")


def test_footers_vouch_for_the_maps(mined: Path) -> None:
    for name, count in COUNTS.items():
        facts = pq.read_schema(mined / "metadata" / f"{name}.parquet").metadata
        h5 = (mined / "maps" / f"{name}.h5").read_bytes()
        assert facts[b"promptsg.h5_sha256"].decode() == hashlib.sha256(h5).hexdigest()
        assert int(facts[b"promptsg.h5_size"]) == len(h5) and int(facts[b"promptsg.images"]) == count
        assert facts[b"promptsg.fingerprint"].decode() == open_run(mined).manifest.fingerprint


def test_a_second_call_finds_nothing_to_do_and_needs_no_torch(inputs: Path, mined: Path) -> None:
    before = digests(mined / "maps")
    code = "import sys; from jobs.cli import main\ntry: main(sys.argv[1:])\nfinally: print('torch' in sys.modules)"
    words = ["mine", "--shards", f"{inputs}/*.tar", "--checkpoint", f"{inputs}/m.pth", "--output", str(mined)]
    words += ["--precision", "fp32", *(word for name in MAPS for word in ("--maps", name))]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    assert done.stdout == f"3 of 3 shards are done in {mined}; nothing to do\nFalse\n", done.stderr
    assert digests(mined / "maps") == before


@pytest.mark.parametrize("options", [{"batch_size": 1}, {"batch_size": 64}, {"workers": 2}])
def test_batch_size_and_workers_change_no_result(inputs: Path, mined: Path, tmp_path: Path, options: dict) -> None:
    assert run(inputs, tmp_path / "RUN", **options) == 0
    one, other = open_run(mined), open_run(tmp_path / "RUN")
    assert one.manifest.fingerprint == other.manifest.fingerprint
    for shard in COUNTS:
        assert one.read_keys(shard) == other.read_keys(shard)
        for name in MAPS:
            a, b = one.read_maps(name, shard), other.read_maps(name, shard)
            assert np.abs(a - b).max() <= 1e-5 * a.max()


def test_the_others_are_left_after_the_summary_is_told(
    inputs: Path, mined: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last rank to leave may end the others: what is printed must be out by then, and it answers for all."""
    order: list[object] = []

    def leave(ranks: Ranks, status: int) -> int:
        order.append(status)
        return 3

    monkeypatch.setattr(Ranks, "leave", leave)
    values = {"maps": MAPS, "precision": "fp32", "checkpoint": inputs / "m.pth", "output": mined}
    config = build_config(None, {**values, "shards": str(inputs / "*.tar")})
    summary = mine(config, before_leaving=order.append)
    assert order[0] == replace(summary, exit_status=0) and order[1:2] == [0]
    assert summary.nothing_to_do and (summary.done, summary.total, summary.own_status) == (3, 3, 0)
    assert summary.exit_status == 3


def test_what_another_request_changes_is_named(inputs: Path, mined: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds another run: maps was .* and is now \[\"mim_attention\"\]"):
        run(inputs, mined, maps=["mim_attention"])
    with pytest.raises(UserError, match='precision was "fp32" and is now "bf16"'):
        run(inputs, mined, precision="bf16")
    with pytest.raises(UserError, match=r"1 shard is no longer listed \(gallery-000000\)"):
        run(inputs, mined, [str(inputs / "train*.tar"), str(inputs / "query*.tar")])
    other = tmp_path / "other"
    other.mkdir()
    tiny_checkpoint(other / "m.pth", seed=1, **LAYOUT)
    for path in inputs.glob("*.tar"):
        (other / path.name).write_bytes(path.read_bytes())
    with pytest.raises(UserError, match="checkpoint_sha256 was"):
        run(other, mined)
    (other / "m.pth").write_bytes((inputs / "m.pth").read_bytes())
    assert run(other, mined) == 0  # the same shards, moved
    market_shard(other / "query-000000.tar", 3)
    with pytest.raises(UserError, match=r"1 shard changed \(query-000000: \d+ then, \d+ bytes now\)"):
        run(other, mined)


def test_precision_auto_is_what_it_became_where_the_run_was_started(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run of two nodes of different kinds; the second would take bf16 by itself."""
    from jobs.mining import model as model_module

    shards, output = str(inputs / "gallery*.tar"), tmp_path / "RUN"
    monkeypatch.setattr(model_module, "resolve_precision", lambda name, device: "fp32")
    assert run(inputs, output, shards, precision="auto") == 0
    manifest = open_run(output).manifest
    assert manifest.resolved.precision == "fp32" and "CPU" in (manifest.device or "")
    before = digests(output / "maps")
    (output / "metadata" / "gallery-000000.parquet").unlink()
    monkeypatch.setattr(model_module, "resolve_precision", lambda name, device: "bf16" if name == "auto" else name)
    monkeypatch.setattr(model_module, "can_compute", lambda precision, device: False)
    message = r"RUN was started on a CPU .*, where precision auto became fp32, and a CPU .* cannot compute in fp32: go"
    with pytest.raises(UserError, match=message) as refused:
        run(inputs, output, shards, precision="auto")
    assert "overwrite" not in str(refused.value) and "delete" not in str(refused.value)
    monkeypatch.setattr(model_module, "can_compute", lambda precision, device: True)
    assert run(inputs, output, shards, precision="auto") == 0
    assert open_run(output).manifest == manifest and digests(output / "maps") == before


def test_two_nodes_of_different_kinds_that_start_a_run_at_once_agree(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from jobs.mining import model as model_module

    shards, output = str(inputs / "gallery*.tar"), tmp_path / "RUN"
    load, kinds = model_module.load, []

    def slow_load(config: object, *rest: object) -> object:
        """The other node writes run.json while this one loads."""
        loaded = load(config, *rest)  # type: ignore[arg-type]
        kinds.append(loaded.resolved.precision)
        if len(kinds) == 1:
            monkeypatch.setattr(model_module, "resolve_precision", lambda name, device: "fp32")
            assert run(inputs, output, shards, precision="auto") == 0
            (output / "metadata" / "gallery-000000.parquet").unlink()
            monkeypatch.setattr(model_module, "resolve_precision", lambda name, device: "bf16")
        return loaded

    monkeypatch.setattr(model_module, "resolve_precision", lambda name, device: "bf16")
    monkeypatch.setattr(model_module, "load", slow_load)
    assert run(inputs, output, shards, precision="auto") == 0
    assert kinds == ["bf16", "fp32", "fp32"] and open_run(output).manifest.resolved.precision == "fp32"


def test_bad_images_are_rows_and_bad_shards_do_not_stop_the_others(
    inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = [m for n in range(30) for m in sample_members(f"{n:04d}_c1s1_000000_00", textured_image(n), pid=n)]
    write_tar(tmp_path / "a.tar", [*good, ("bad.jpg", b"?"), *sample_members("late", textured_image(5))])
    (tmp_path / "b.tar").write_bytes(tar_bytes(good)[:20_000])
    write_tar(tmp_path / "c.tar", [*good[:6], ("bad.jpg", b"?")])
    write_tar(tmp_path / "d.tar", good)
    write_tar(tmp_path / "e.tar", [])
    output = tmp_path / "RUN"
    summary = mining(inputs, output, str(tmp_path / "*.tar"), max_failed_fraction=0.05)
    assert summary.exit_status == 3
    assert (summary.done, summary.total, summary.shards, summary.images, summary.failed_images) == (2, 5, 2, 61, 1)
    rows = pq.read_table(output / "metadata" / "a.parquet").to_pylist()
    assert [r["status"] for r in rows] == ["ok"] * 30 + ["image_corrupt", "ok"]
    assert rows[30]["h5_row"] is None and rows[31]["h5_row"] == 30 and rows[30]["score"] is None
    assert open_run(output).read_keys("a")[30] == "late"
    assert sorted(p.name for p in (output / "maps").iterdir()) == ["a.h5", "d.h5"]
    assert not (output / "metadata" / "e.parquet").exists()
    show(summary)
    out, said = capsys.readouterr()
    assert out.startswith("61 images in 2 shards, ") and out.endswith(f"; 2 of 5 shards are done in {output}\n")
    assert "failed: b: " in said and "is not a whole tar" in said
    assert "failed: c: 1 of 4 samples failed (1 image_corrupt), more than max_failed_fraction 0.05 allows" in said
    assert "failed: e: no image in it: the tar is empty; leave " in said
    found = status(output)
    assert (found.done, sorted(found.failed), found.missing) == (2, ["b", "c", "e"], [])
    assert (found.images, found.failed_images) == (61, {"image_corrupt": 1})
    (tmp_path / "b.tar").write_bytes(tar_bytes(good))
    again = mining(inputs, output, str(tmp_path / "*.tar"), max_failed_fraction=0.05)
    assert (again.done, again.images, again.exit_status) == (3, 30, 3)  # a mended shard is taken as it is now
    (tmp_path / "d.tar").write_bytes(tar_bytes(good[:4]))
    with pytest.raises(UserError, match=r"1 shard changed \(d: "):  # a shard that is done may not change
        run(inputs, output, str(tmp_path / "*.tar"), max_failed_fraction=0.05)


def test_maps_that_are_not_finite_become_failed_rows(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import jobs.mining.passes.plain as plain

    def spoil(*args: object, **options: object) -> object:
        result = extract_maps(*args, **options)  # type: ignore[arg-type]
        result.maps["gradcam/mim"][1, 3, 3] = float("nan")
        return result

    monkeypatch.setattr(plain, "extract_maps", spoil)
    output = tmp_path / "RUN"
    assert run(inputs, output, str(inputs / "query*.tar"), max_failed_fraction=1.0, batch_size=10) == 0
    rows = pq.read_table(output / "metadata" / "query-000000.parquet").to_pylist()
    assert [i for i, r in enumerate(rows) if r["status"] != "ok"] == [1, 11]
    assert rows[1]["status"] == "map_not_finite" and rows[1]["error"].startswith("gradcam/mim")
    assert rows[1]["h5_row"] is None and rows[1]["gradcam_mim_mass"] is None and rows[2]["h5_row"] == 1
    stored = open_run(output).read_maps("gradcam/mim", "query-000000")
    assert stored.shape[0] == 18 and np.isfinite(stored).all()


def test_all_zero_maps_are_kept_and_counted(inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import jobs.mining.passes.plain as plain

    def darken(*args: object, **options: object) -> object:
        result = extract_maps(*args, **options)  # type: ignore[arg-type]
        result.maps["gradcam/mim"][0] = 0
        return result

    monkeypatch.setattr(plain, "extract_maps", darken)
    output = tmp_path / "RUN"
    summary = mining(inputs, output, str(inputs / "query*.tar"), batch_size=10)
    assert (summary.exit_status, summary.zero_maps) == (0, 2)
    assert "2 maps are all zero" in describe(summary)
    assert status(output).zero_maps == {"gradcam/mim": 2}
    row = pq.read_table(output / "metadata" / "query-000000.parquet").to_pylist()[0]
    assert (row["gradcam_mim_max"], row["gradcam_mim_mass"], row["gradcam_mim_entropy"]) == (0, 0, None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"maps": ["gradcam/mimm"]}, "unknown layer 'mimm' in gradcam/mimm; did you mean mim"),
        (
            {"maps": ["gradcam/classifier"], "target": "feature"},
            "target feature does not pass through layer classifier",
        ),
        ({"maps": ["hirescam/vit_last"]}, "take hirescam/vit_proj"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"batchsize": 8}, r"unknown setting 'batchsize'; did you mean batch_size\? Settings are shards, checkpoint"),
        ({"target": "class"}, "target is 'class'"),
        ({"prompt_mode": "both"}, "prompt_mode is 'both': 'both' is not one of composed, simplified"),
        ({"device": "tpu"}, "device 'tpu' is not one"),
    ],
)
def test_wrong_requests_are_refused_before_anything_is_written(
    inputs: Path, tmp_path: Path, options: dict, message: str
) -> None:
    with pytest.raises((UserError, ValueError), match=message):
        run(inputs, tmp_path / "RUN", **options)
    assert not (tmp_path / "RUN").exists()


def test_configuration_file_options_and_set_in_that_order(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("shards: a.tar\ncheckpoint: m.pth\noutput: RUN\nbatch_size: 3\nworkers: 4\nprecision: fp16\n")
    config = build_config(
        file, {"workers": 2, "batch_size": None, "maps": ()}, ["precision=fp32", "maps=[gradcam/mim]"]
    )
    assert (config.batch_size, config.workers, config.precision) == (3, 2, "fp32")
    assert config.maps == ("gradcam/mim",) and config.shards == ("a.tar",)
    with pytest.raises(UserError, match="checkpoint is missing: give --checkpoint"):
        build_config(None, {"shards": ("a.tar",), "output": "x"})
    with pytest.raises(UserError, match="--set takes key=value, got 'workers'"):
        build_config(file, {}, ["workers"])


def test_the_checkpoint_comes_from_test_weight_only_where_nothing_else_names_it(inputs: Path, tmp_path: Path) -> None:
    (tmp_path / "m.yml").write_text(f"TEST: {{WEIGHT: {inputs}/m.pth}}\n")
    (tmp_path / "c.yaml").write_text(f"shards: a.tar\noutput: R\nmodel_settings: {tmp_path}/m.yml\n")
    assert build_config(tmp_path / "c.yaml", {}).checkpoint == inputs / "m.pth"
    words = ("TEST.WEIGHT", "other.pth", "TEST.NECK_FEAT", "after")
    assert build_config(tmp_path / "c.yaml", {}, (), words).checkpoint.name == "other.pth"
    assert build_config(tmp_path / "c.yaml", {"checkpoint": Path("mine.pth")}, (), words).checkpoint.name == "mine.pth"
    assert without_weight(words) == ["TEST.NECK_FEAT", "after"]
    with pytest.raises(ValueError, match="KEY VALUE pairs"):
        build_config(tmp_path / "c.yaml", {}, (), ("TEST.NECK_FEAT",))


def test_a_file_size_limit_fails_the_shard_and_leaves_no_litter(inputs: Path, tmp_path: Path) -> None:
    """A real limit on file sizes: the kernel refuses the write, as a full disk does."""

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))

    words = [sys.executable, "-m", "jobs", "mine", "--shards", f"{inputs}/*.tar", "--workers", "0", "--device", "cpu"]
    words += ["--checkpoint", f"{inputs}/m.pth", "--output", str(tmp_path / "RUN")]
    done = subprocess.run(words, capture_output=True, text=True, preexec_fn=limit)
    assert done.returncode == 3, done.stderr
    assert done.stderr.count("cannot write") >= 3 and "File too large" in done.stderr and "Traceback" not in done.stderr
    assert list((tmp_path / "RUN" / "maps").iterdir()) == [] == list((tmp_path / "RUN" / "metadata").iterdir())
    assert CliRunner().invoke(main, words[3:]).exit_code == 0
    assert status(tmp_path / "RUN").done == 3


def test_sigterm_stops_with_75_and_the_same_command_goes_on(inputs: Path, tmp_path: Path) -> None:
    for number in range(30):
        market_shard(tmp_path / f"t-{number:02d}.tar", 10, first=number)
    words = [sys.executable, "-m", "jobs", "mine", "--shards", f"{tmp_path}/t-*.tar", "--device", "cpu"]
    words += ["--checkpoint", f"{inputs}/m.pth", "--output", str(tmp_path / "RUN"), "--batch-size", "4"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 240
    while not list(tmp_path.glob("RUN/metadata/*.parquet")):
        assert time.monotonic() < deadline and process.poll() is None, "no shard was published"
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 75, err
    assert "stopped on SIGTERM; the same command goes on from here" in out
    found = status(tmp_path / "RUN")
    assert 1 <= found.done < 30 and not found.failed
    assert not list(tmp_path.glob("RUN/*/.*.tmp"))
    assert CliRunner().invoke(main, [*words[3:], "--workers", "0"]).exit_code == 0
    assert status(tmp_path / "RUN").images == 30 * 10


def test_status_as_json_and_as_text(mined: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "jobs", "status", str(mined), "--json"], capture_output=True, text=True, check=True
    )
    content = json.loads(done.stdout)
    assert (content["shards"], content["done"], content["images"], content["failed"]) == (3, 3, 66, {})
    text = CliRunner().invoke(status_command, [str(mined)])
    assert text.exit_code == 0 and "3 of 3 shards done" in text.output and "66 images" in text.output
    logs = list((mined / "logs").glob("*.jsonl"))
    assert logs
    for path in logs:  # without a log the footers tell
        path.rename(path.with_suffix(".gone"))
    assert status(mined).images == 66
    for path in logs:
        path.with_suffix(".gone").rename(path)


@pytest.mark.parametrize(
    ("splits", "images"), [(("query", "train"), 986), pytest.param((), 2189, marks=pytest.mark.slow)]
)
def test_the_published_sample(
    golden: Path, market_sample: Path, tmp_path: Path, splits: tuple[str, ...], images: int
) -> None:
    """Real images through the command, against recorded maps of eight of them, in float32."""
    words = [str(market_sample), str(tmp_path / "shards"), *(word for split in splits for word in ("--split", split))]
    assert CliRunner().invoke(shard_command, words).exit_code == 0
    config = build_config(
        None,
        {
            "shards": str(tmp_path / "shards"), "checkpoint": golden / "promptsg_h_composed_s16.pth",
            "output": tmp_path / "RUN", "precision": "fp32", "device": "cpu", "maps": (MAPS[0], MAPS[2]),
        },
    )  # fmt: skip
    assert mine(config).exit_status == 0
    recorded = np.load(golden / "promptsg_h_composed_s16.npz")
    opened = open_run(tmp_path / "RUN")
    table = opened.metadata().to_table(columns=["shard", "key", "h5_row", "predicted", "status"])
    assert table.num_rows == images and set(table["status"].to_pylist()) == {"ok"}
    keys = table["key"].to_pylist()
    picked = table.take([keys.index(name.removesuffix(".jpg")) for name in recorded["names"].tolist()])
    assert picked["predicted"].to_pylist() == recorded["predicted"].tolist()
    for name in ("mim_attention", "gradcam++/mim"):
        wanted = recorded[column_of(name)]
        found = opened.maps_of(name, picked)
        assert (np.abs(found - wanted).max((1, 2)) / wanted.max((1, 2))).max() < 1e-3
