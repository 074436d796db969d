"""A damaged image, from the folder to the maps and back: packed, failed, mended, packed again, mined again."""

from __future__ import annotations

from pathlib import Path

from jobs.datasets.packing import ShardConfig, pack
from jobs.mining.config import MineOptions, build_config
from jobs.mining.mine import mine
from jobs.runs.status import status
from jobs.runs.verify import verify
from tests.support.shard_files import textured_image
from tests.support.tiny import tiny_checkpoint


def test_a_mended_image_heals_the_run(tmp_path: Path) -> None:
    tiny_checkpoint(tmp_path / "m.pth", image_size=(64, 32))
    source = tmp_path / "data"
    for number in range(6):
        path = source / "query" / f"{number:02d}.rgb.jpg.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(textured_image(number))
    (source / "query" / "04.rgb.jpg.jpg").write_bytes(textured_image(4)[:100])
    shards = ShardConfig(
        source=source, dest=tmp_path / "shards", pattern=r"(?P<split>query)/(?P<pid>\d+).*", camid=0, images_per_shard=3
    )
    values = {
        "checkpoint": tmp_path / "m.pth", "shards": str(tmp_path / "shards" / "*.tar"), "output": tmp_path / "RUN",
        "workers": 0, "precision": "fp32", "device": "cpu", "maps": ["mim_attention"], "max_failed_fraction": 0.5,
    }  # fmt: skip
    config = build_config(None, values)

    assert pack(shards).packed_again == ()
    assert mine(config, MineOptions()).exit_status == 0
    assert status(tmp_path / "RUN").failed_images == {"image_corrupt": 1}
    times = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "RUN" / "metadata").iterdir()}

    (source / "query" / "04.rgb.jpg.jpg").write_bytes(textured_image(4))
    assert pack(shards).packed_again == ("query-000001.tar",)
    assert mine(config, MineOptions(retry_failed=True)).exit_status == 0
    assert status(tmp_path / "RUN").failed_images == {} and verify(tmp_path / "RUN").images == 6
    after = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "RUN" / "metadata").iterdir()}
    assert [name for name in sorted(after) if after[name] != times[name]] == ["query-000001.parquet"]
