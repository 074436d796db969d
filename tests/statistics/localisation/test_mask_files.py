"""Masks in shards and in folders: which are found, which are odd, and which shards are refused."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from jobs.commands.localise import command
from jobs.errors import UserError
from tests.statistics.localisation.made_masks import (
    LABELS,
    Made,
    a_mask,
    key_of,
    make,
    png,
    write_masks,
)
from tests.support.made_runs import as_first_version
from tests.support.shard_files import Member, textured_image, write_tar


def test_odd_masks_are_counted_and_named(made: Made, tmp_path: Path) -> None:
    result = CliRunner().invoke(command, [str(made.root), "--shards-root", str(made.tars), "--resamples", "20",
                                          "--output", str(tmp_path)], catch_exceptions=False)  # fmt: skip
    assert f"1 image left out, mask missing: {key_of(5)}" in result.output
    assert f"1 image left out, mask empty: {key_of(9)}" in result.output
    assert "1 image left out, mask unreadable (colours, not labels: write grey values or the indices" in result.output
    stretched = [key for key, mask in made.masks.items() if mask.shape == (7, 3)]
    assert "masks have another ratio" not in result.output and stretched  # a pixel of rounding is none
    assert "37 images with a mask" in result.output and "promptsg evaluate" in result.output
    content = json.loads((tmp_path / "localise.json").read_text())
    assert content["masks"]["status"] == {"ok": 37, "missing": 1, "empty": 1, "unreadable": 1}
    page = (tmp_path / "report.html").read_text()
    assert key_of(9) in page and page.count("<img") == 3 and (tmp_path / "figures" / "scores.png").stat().st_size > 500


def test_masks_of_folders_are_the_same(made: Made, tmp_path: Path) -> None:
    """No shard is opened then: it is not where run.json has it."""
    keys = list(made.masks)
    first = write_masks(tmp_path / "a", {key: made.masks[key] for key in keys[:20]})
    second = write_masks(tmp_path / "b", {key: made.masks[key] if n >= 20 else np.zeros((4, 2), np.uint8)
                                          for n, key in enumerate(keys)})  # fmt: skip
    there = made.find(output=tmp_path / "1")
    found = made.find(masks=(first, second), shards_root=None, output=tmp_path / "2")
    assert found.scores == there.scores and found.parts == there.parts
    assert found.counts.status == {"ok": 37, "missing": 3}
    with pytest.raises(UserError, match="is not a folder"):
        made.find(masks=(tmp_path / "c",))


def test_a_key_does_not_lead_out_of_the_folder_of_masks(tmp_path: Path) -> None:
    from jobs.statistics.localisation.mask_files import FoundMask, MaskedImage, MaskFolders

    (tmp_path / "in").mkdir()
    for name in ("secret.png", "in/a.png"):
        (tmp_path / name).write_bytes(png(LABELS))
    keys = ["../secret", str(tmp_path / "secret"), "a", "x\0", "b/../../secret"]
    images = [MaskedImage(key=key, width=1, height=1, size=None, crc32=None) for key in keys]
    found = dict(zip(keys, MaskFolders((tmp_path / "in",)).read("s", images), strict=True))
    assert [key for key, (_, mask) in found.items() if mask != FoundMask()] == ["a"]


def test_a_mask_of_another_aspect_is_taken_and_named(tmp_path: Path) -> None:
    keys = [key_of(n) for n in range(8)]
    made = make(tmp_path, {key: png(a_mask(np.random.default_rng(n), (24, 24) if n < 2 else (64, 32)))
                           for n, key in enumerate(keys)})  # fmt: skip
    findings = made.find()
    assert findings.counts.other_aspect == 2 and findings.counts.examples["other aspect"] == keys[:2]
    assert findings.images == 8


def replaced(path: Path, change: Callable[[list[Member]], list[Member]]) -> None:
    with tarfile.open(path) as tar:
        members = [(one.name, tar.extractfile(one).read()) for one in tar]  # type: ignore[union-attr]
    write_tar(path, change(members))


def test_a_shard_with_other_images_is_refused(small: Made) -> None:
    path = small.tars / "query-000000.tar"
    replaced(path, lambda members: [(name, textured_image(99) if name == f"{key_of(2)}.jpg" else data)
                                    for name, data in members])  # fmt: skip
    with pytest.raises(UserError, match=f"'{key_of(2)}' in .* is another image"):
        small.find()
    replaced(path, lambda members: [one for one in members if not one[0].startswith(key_of(2))])
    with pytest.raises(UserError, match=f"'{key_of(2)}' is not in it, or not in its place"):
        small.find()
    path.unlink()
    with pytest.raises(UserError, match=r"query-000000 does not exist: .*--shards-root, or the masks with --masks"):
        small.find()


def test_masks_that_were_packed_after_mining_are_read(small: Made) -> None:
    """The images are the same, so the maps are theirs; the order within a sample does not matter."""
    before = small.find()
    for path in small.tars.iterdir():
        replaced(path, lambda members: [one for n in range(0, len(members), 3) for one in members[n : n + 3][::-1]])
    assert small.find().scores == before.scores
    (small.tars / "query-000000.tar").write_bytes((small.tars / "query-000000.tar").read_bytes()[:3000])
    with pytest.raises(UserError, match="is not a whole tar"):
        small.find()


def test_a_run_of_the_first_version(small: Made, tmp_path: Path) -> None:
    before = small.find()
    old = as_first_version(small.root, tmp_path / "OLD")
    assert small.find(run=old).scores == before.scores
    replaced(small.tars / "query-000000.tar", lambda members: [
        (name, data + b"\0" if name == f"{key_of(0)}.jpg" else data) for name, data in members])  # fmt: skip
    with pytest.raises(UserError, match="is another image"):
        small.find(run=old)


def test_nothing_to_compare_is_said(small: Made, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none of 8 images has a mask in .*<key>\.png"):
        small.find(masks=(tmp_path,))
    for path in small.tars.iterdir():
        replaced(path, lambda members: [one for one in members if not one[0].endswith(".mask.png")])
    with pytest.raises(UserError, match=f"none of 8 images has a mask in the shards .*--masks.*: .*{key_of(4)}"):
        small.find()
    for n in range(8):
        (tmp_path / f"{key_of(n)}.png").write_bytes(png(np.zeros((4, 4), np.uint8)) if n else b"GIF")
    with pytest.raises(UserError, match=r"no mask .* can be used: 7 images empty, 1 image unreadable \(not a PNG\)"):
        small.find(masks=(tmp_path,))
    with pytest.raises(UserError, match="has no map"):
        small.find(maps=("gradcam",))
    with pytest.raises(UserError, match="--where is empty"):
        small.find(where=" ")
