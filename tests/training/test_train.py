"""`promptsg train`: the forward pass against inference, gradients, freezing, resuming, data, the command."""

from __future__ import annotations

import csv
import hashlib
import json
import math
import shlex
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from jobs.cli import main
from jobs.commands.train import command, describe
from jobs.errors import UserError
from jobs.launch.drain import Drain
from jobs.shards.urls import expand_shards
from jobs.training.augment import Augmentation, padded_crop
from jobs.training.config import TrainConfig, build_train_config
from jobs.training.data import TrainingImages, load_training_images
from jobs.training.folder import TrainingFolder
from jobs.training.loop import run_to_end
from jobs.training.sampler import IdentitySampler
from jobs.training.steps import Training
from jobs.training.train import train
from promptsg_core import load_model
from promptsg_core.families.promptsg.model import PromptSG
from promptsg_core.preprocess import decode_image, resize_image
from promptsg_core.training import (
    PROMPT_TOKENS,
    Objective,
    checkpoint_bytes,
    cosine_factor,
    parameter_groups,
    prepare_training,
    progress_of,
    small_config,
    step_factor,
    training_forward,
)
from tests.promptsg_core.test_clip_init import JOINT, clip_state
from tests.support.shard_files import image_bytes, market_shard, sample_members, write_tar
from tests.support.tiny import TINY, random_images, tiny_state

FROZEN = {"bottleneck.bias", "bottleneck_proj.bias", "mim.cross_attn.k_proj.bias"}
QK = {"mim.cross_attn.q_proj", "mim.cross_attn.k_proj", "mim.q_ln", "mim.kv_ln"}
SMALL: dict[str, Any] = {"image_size": (32, 16), "identities": 4, "images_each": 2, "precision": "fp32"}


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a shard of 40 training images, five of each of 8 identities."""
    folder = tmp_path_factory.mktemp("shards")
    market_shard(folder / "train-000000.tar", 40)
    return folder


@pytest.fixture(scope="module")
def data(shards: Path) -> TrainingImages:
    return load_training_images(expand_shards([str(shards)]), (32, 16))


def config_of(output: Path, **changes: Any) -> TrainConfig:
    """The configuration of a training so small that a step takes milliseconds."""
    small = {"shards": ("x",), "output": output, "scratch": "init" not in changes, "log_every": 2, "save_every": 1000}
    return TrainConfig(**{**small, **SMALL, **changes})


class StopAfter(Drain):
    """A request to stop that comes when a training has done so many steps."""

    def __init__(self, training: Training, steps: int) -> None:
        self.training, self.steps = training, steps

    @property
    def requested(self) -> str | None:  # type: ignore[override]
        return "SIGTERM" if self.training.step >= self.steps else None


def run(training: Training, stop_after: int = 10**9) -> bool:
    return run_to_end(training, StopAfter(training, stop_after))


def tiny_model(**changes: Any) -> PromptSG:
    config, state = tiny_state(**changes)
    model = PromptSG(config)
    model.load_state_dict({key: t for key, t in state.items() if key in model.state_dict()})
    return model


def test_the_forward_pass_is_the_inference_models() -> None:
    model = tiny_model().eval()
    images = random_images(model.config, 5)
    block_outputs: list[Tensor] = []
    for block in model.image_encoder.transformer.blocks:
        block.register_forward_hook(lambda module, args, output: block_outputs.append(output))
    out = training_forward(model, images)
    encoded = model.encode(images)
    head = model.head(encoded)
    assert len(block_outputs) == 2 * TINY["vision_layers"]
    assert torch.equal(out.cls_intermediate, block_outputs[TINY["vision_layers"] - 2][:, 0])
    pairs = ((out.cls_final, encoded.cls_final), (out.v, encoded.v), (out.text, encoded.text))
    pairs += ((out.v_final, head.v_final), (out.attention, head.attention))
    pairs += ((out.logits, head.logits), (out.logits_cls, head.logits_cls))
    for ours, theirs in pairs:
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_the_loss_is_the_weighted_sum_of_its_terms() -> None:
    model = tiny_model().train()
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    out = training_forward(model, random_images(model.config, 6))
    terms = {name: value.item() for name, value in Objective()(out, labels).items()}
    parts = ("id_cls", "id_mim", "triplet_intermediate", "triplet_cls", "triplet_mim")
    expected = sum(terms[name] for name in parts) + 0.5 * terms["contrastive"]
    assert set(terms) == {"loss", "contrastive", *parts}
    assert terms["loss"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("freeze_text", [True, False])
def test_gradients_reach_all_that_is_trained_and_nothing_frozen(freeze_text: bool) -> None:
    model = prepare_training(tiny_model(), freeze_text=freeze_text)
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    out = training_forward(model, random_images(model.config, 6))
    Objective()(out, labels)["loss"].backward()
    for name, parameter in model.named_parameters():
        if name in FROZEN or (freeze_text and name.startswith(("text_encoder.", "prompt_composer."))):
            assert parameter.grad is None, name
        else:
            assert parameter.grad is not None, name
            assert parameter.grad.abs().sum() > 0, name


def test_every_trained_parameter_is_in_one_group_at_its_rate() -> None:
    model = prepare_training(tiny_model(), freeze_text=True)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = parameter_groups(model, {"tower": 1.0, "new": 2.0, "qk": 3.0}, weight_decay=0.1)
    found = Counter(names[id(p)] for group in groups for p in group["params"])
    assert found == Counter(name for name, p in model.named_parameters() if p.requires_grad)
    for group in groups:
        for name in (names[id(p)] for p in group["params"]):
            qk = name.rsplit(".", 1)[0] in QK
            rate = 3.0 if qk else 1.0 if name.startswith("image_encoder.") else 2.0
            assert group["lr"] == group["base_lr"] == rate, name
            decayed = model.get_parameter(name).ndim > 1 and "embedding" not in name
            assert group["weight_decay"] == (0.1 if decayed else 0.0), name


def test_batch_norms_learn_their_statistics_in_training(data: TrainingImages, tmp_path: Path) -> None:
    training = Training(config_of(tmp_path, steps=1), data)
    before = {key: t.clone() for key, t in training.model.named_buffers() if "running" in key}
    training.advance()
    assert len(before) == 6
    assert all(not torch.equal(before[key], dict(training.model.named_buffers())[key]) for key in before)


def test_schedules() -> None:
    assert [step_factor(s, 0, [20, 40]) for s in (0, 19, 20, 39, 40)] == pytest.approx([1, 1, 0.1, 0.1, 0.01])
    assert [step_factor(s, 4, [20]) for s in (0, 1, 3, 4, 20)] == pytest.approx([0.25, 0.5, 1, 1, 0.1])
    assert [cosine_factor(s, 4, 14) for s in (0, 3, 4, 9, 14)] == pytest.approx([0.25, 1, 1, 0.5, 0])


def test_paper_defaults_and_epochs(data: TrainingImages, tmp_path: Path) -> None:
    torch.save(clip_state(), tmp_path / "clip.pth")
    config = config_of(tmp_path, init=tmp_path / "clip.pth")
    assert tuple(config.rates[name] for name in ("tower", "new", "qk")) == pytest.approx((5e-6, 5e-5, 5e-4))
    assert (config.optimizer, config.schedule, config.contrastive_weight) == ("adam", "step", 0.5)
    training = Training(config, data)
    assert training.steps == 60 * 5  # 40 images, 8 a step
    assert [training.factor(5 * epoch) for epoch in (0, 19, 20, 40)] == pytest.approx([1, 1, 0.1, 0.01])


def test_a_short_training_lowers_the_loss(data: TrainingImages, tmp_path: Path) -> None:
    training = Training(config_of(tmp_path, steps=30, warmup=5, erase=0, unit_triplets=False, lr_qk=0.01), data)
    assert run(training)
    losses = [row["loss"] for row in training.rows]
    assert len(losses) == 15
    assert np.mean(losses[-3:]) < 0.85 * np.mean(losses[:3])
    with (tmp_path / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == list(range(2, 31, 2))
    assert float(rows[-1]["loss"]) == losses[-1]
    assert float(rows[4]["lr_qk"]) == pytest.approx(1e-2 * cosine_factor(9, 5, 30))
    assert Image.open(tmp_path / "curve.png").size == (1440, 432)
    assert not (tmp_path / "resume.pt").exists()
    about = json.loads((tmp_path / "train.json").read_text())
    assert (about["finished"], about["step"], about["images"], about["identities"]) == (True, 30, 40, 8)


def test_resuming_gives_what_an_uninterrupted_training_gives(data: TrainingImages, tmp_path: Path) -> None:
    whole, parts = config_of(tmp_path / "whole", steps=9), config_of(tmp_path / "parts", steps=9)
    assert run(Training(whole, data))
    assert not run(Training(parts, data), stop_after=3)
    assert not run(Training(parts, data), stop_after=6)
    last = Training(parts, data)
    assert run(last)
    assert last.step == 9
    wanted, found = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "parts"))
    assert wanted.keys() == found.keys()
    for key, tensor in wanted.items():
        torch.testing.assert_close(found[key], tensor, rtol=0, atol=1e-6, msg=key)
    assert (tmp_path / "parts/model.safetensors").read_bytes() == (tmp_path / "whole/model.safetensors").read_bytes()


def test_a_damaged_state_is_one_line(data: TrainingImages, tmp_path: Path) -> None:
    config = config_of(tmp_path, steps=4)
    assert not run(Training(config, data), stop_after=2)
    path = tmp_path / "resume.pt"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"resume.pt is damaged"):
        run(Training(config, data))
    path.unlink()
    assert run(Training(config, data))  # what the message says
    assert json.loads((tmp_path / "train.json").read_text())["step"] == 4


def test_a_killed_training_goes_on_from_its_last_save(data: TrainingImages, tmp_path: Path) -> None:
    config, folder = config_of(tmp_path, steps=6), TrainingFolder(tmp_path)
    killed = Training(config, data)
    (tmp_path / "log.csv").write_text("left by the training that was killed\n")
    for _ in range(4):
        killed.advance()
    folder.save(killed)
    with (tmp_path / "log.csv").open() as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["4"]
    saved = {key: tensor.clone() for key, tensor in killed.model.state_dict().items()}
    killed.advance()  # lost
    again = Training(config, data)
    assert folder.restore(again)
    assert (again.step, again.rows) == (4, killed.rows)
    for key, tensor in again.model.state_dict().items():
        assert torch.equal(tensor, saved[key]), key
    assert any(not torch.equal(tensor, saved[key]) for key, tensor in killed.model.state_dict().items())
    again.advance()
    for key, tensor in again.model.state_dict().items():
        torch.testing.assert_close(tensor, killed.model.state_dict()[key], rtol=0, atol=1e-6, msg=key)


def test_another_training_is_refused_and_a_finished_one_is_left_alone(data: TrainingImages, tmp_path: Path) -> None:
    config = config_of(tmp_path, steps=2)
    assert run(Training(config, data))
    before = (tmp_path / "model.safetensors").stat().st_mtime_ns
    assert run(Training(config, data))
    assert (tmp_path / "model.safetensors").stat().st_mtime_ns == before
    with pytest.raises(UserError, match=r"other settings: seed \(0, now 5\)"):
        run(Training(config_of(tmp_path, steps=2, seed=5), data))
    darker = replace(data, images=data.images // 2)
    with pytest.raises(UserError, match="other settings: images"):
        run(Training(config, darker))


def test_a_signature_is_what_it_always_was(data: TrainingImages, tmp_path: Path) -> None:
    """A training that an earlier version began must go on: the names, their order and the values are recorded here."""
    torch.save(clip_state(), tmp_path / "clip.pth")
    found = Training(config_of(tmp_path, steps=7, device="cpu", workers=3), data).signature
    assert list(found.items()) == [
        ("init", None), ("image_size", [32, 16]), ("stride", None), ("identities", 4), ("images_each", 2),
        ("epochs", 60), ("steps", 7), ("optimizer", "adamw"), ("schedule", "cosine"), ("warmup", 50),
        ("decay_epochs", [20, 40]), ("lr_tower", 0.001), ("lr_new", 0.001), ("lr_qk", 0.003), ("weight_decay", 0.05),
        ("id_weight", 1.0), ("triplet_weight", 1.0), ("contrastive_weight", 0.5), ("unit_triplets", True),
        ("erase", 0.1), ("seed", 0), ("precision", "fp32"), ("weights", "fp32"), ("images", data.digest),
        ("trained_parameters", 4187520),
    ]  # fmt: skip
    tuned = Training(config_of(tmp_path, init=tmp_path / "clip.pth"), data).signature
    assert tuned.keys() == found.keys()
    sha256 = hashlib.sha256((tmp_path / "clip.pth").read_bytes()).hexdigest()
    assert (tuned["init"], tuned["steps"], tuned["lr_qk"]) == (sha256, 300, 0.0005)


def test_a_loss_that_is_no_number_ends_the_training(data: TrainingImages, tmp_path: Path) -> None:
    training = Training(config_of(tmp_path, steps=9), data)
    with torch.no_grad():
        training.model.classifier.weight[0, 0] = torch.nan
    with pytest.raises(UserError, match="loss is nan at step 2: lower --lr-tower"):
        run(training)
    assert not (tmp_path / "model.safetensors").exists()


def assert_same_model(trained: PromptSG, path: Path, **told: Any) -> None:
    """The file loads as the model that was trained: the same logits of both heads, the same maps."""
    loaded = load_model(path, device="cpu", precision="fp32", **told)
    images = random_images(trained.config, 4)
    out = trained.eval().forward_with_attention(images)
    again = loaded.forward_with_attention(images)
    for ours, theirs in zip(out["logits"], again["logits"], strict=True):
        torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(again["mim_attention"], out["mim_attention"], rtol=1e-4, atol=1e-6)


def test_from_scratch_the_file_keeps_only_the_words_of_the_prompts(data: TrainingImages, tmp_path: Path) -> None:
    training = Training(config_of(tmp_path, steps=3), data)
    assert run(training)
    path = tmp_path / "model.safetensors"
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    rows = json.loads(metadata["promptsg.token_rows"])
    assert rows == [320, 343, 539, 1125, 2533, 49406, 49407] == list(PROMPT_TOKENS)
    config = json.loads(metadata["promptsg.config"])
    assert (config["image_size"], config["text_heads"], config["vocab_size"]) == ([32, 16], 8, 7)
    stored = load_file(path)["prompt_composer.token_embedding.weight"]
    assert torch.equal(stored, training.model.prompt_composer.token_embedding.weight[rows])
    assert_same_model(training.model, path)


def test_from_clip_the_text_tower_stays_and_the_file_loads(data: TrainingImages, tmp_path: Path) -> None:
    words = torch.randn(49408, 128, generator=torch.Generator().manual_seed(5))
    clip = clip_state() | {"token_embedding.weight": words}
    torch.save(clip, tmp_path / "clip.pth")
    training = Training(config_of(tmp_path / "out", steps=3, init=tmp_path / "clip.pth"), data)
    before = {key: tensor.clone() for key, tensor in training.model.state_dict().items()}
    assert run(training)
    for key, tensor in training.model.named_parameters():
        kept = key.startswith(("text_encoder.", "prompt_composer.")) or key in FROZEN
        assert torch.equal(tensor, before[key]) == kept, key
    assert torch.equal(before["prompt_composer.token_embedding.weight"], words)
    assert training.model.config.embed_dim == JOINT
    # What the file's metadata says as well: neither head counts nor this grid can be read off the shapes.
    told = {"image_size": (32, 16), "text_heads": 2}
    assert_same_model(training.model, tmp_path / "out" / "model.safetensors", **told)


def test_half_precision_files_keep_vectors_whole(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = PromptSG(small_config(4))
    (tmp_path / "m.safetensors").write_bytes(checkpoint_bytes(model, half=True))
    stored = load_file(tmp_path / "m.safetensors")
    assert stored["bottleneck.running_var"].dtype == torch.float32
    weight = model.mim.cross_attn.q_proj.weight
    assert torch.equal(stored["mim.cross_attn.q_proj.weight"], weight.half())
    assert sum(p.numel() for p in model.parameters()) - 49401 * 64 < 1.1e6  # without the words of no prompt


def test_training_images_are_those_of_the_split_in_the_order_of_the_shards(tmp_path: Path) -> None:
    members = []
    for key, number, more in (
        ("0007_c1s1_000001_00", 1, {"split": "train"}),
        ("0002_c2s1_000002_00", 2, {"split": "train"}),
        ("0007_c3s1_000003_00", 3, {"split": "query"}),
        ("-1_c3s1_000004_00", 4, {"split": "train", "pid": -1}),
        ("0000_c3s1_000005_00", 5, {"split": "train"}),  # a distractor, as Market-1501 names them
    ):
        members += sample_members(key, image_bytes(number, (40, 20)), **more)
    write_tar(tmp_path / "a.tar", members)
    images = load_training_images(expand_shards([str(tmp_path)]), (32, 16))
    assert images.pids == (2, 7)
    assert images.labels.tolist() == [1, 0]
    assert images.keys == ("0007_c1s1_000001_00", "0002_c2s1_000002_00")
    for row, number in enumerate((1, 2)):
        assert torch.equal(images.images[row], resize_image(decode_image(image_bytes(number, (40, 20))), (32, 16)))


def test_training_images_are_of_persons_that_have_one_pid_each(tmp_path: Path) -> None:
    members = sample_members("a", image_bytes(1), split="train", pid=4, role="person", identity="train/4")
    members += sample_members("b", image_bytes(2), split="train", pid=5, role="distractor")
    members += sample_members("0000_c1s1_000001_00", image_bytes(3), split="train", pid=0, identity="train/0")
    write_tar(tmp_path / "a.tar", members)
    images = load_training_images(expand_shards([str(tmp_path)]), (32, 16))
    assert (images.pids, images.keys) == ((0, 4), ("a", "0000_c1s1_000001_00")) and images.labels.tolist() == [1, 0]
    write_tar(tmp_path / "b.tar", sample_members("c", image_bytes(4), split="train", pid=4, identity="other/4"))
    with pytest.raises(UserError, match="the pid 4 stands for two persons, 'train/4' and 'other/4'"):
        load_training_images(expand_shards([str(tmp_path)]), (32, 16))


def test_shards_without_training_images_or_with_many_damaged_ones_are_refused(tmp_path: Path) -> None:
    market_shard(tmp_path / "query-000000.tar", 5)
    with pytest.raises(UserError, match="no training image among the 5 samples of query-000000"):
        load_training_images(expand_shards([str(tmp_path / "query-000000.tar")]), (32, 16))
    write_tar(tmp_path / "train-000000.tar", sample_members("0001_c1s1_000001_00", b"no image"))
    with pytest.raises(UserError, match="too many cannot be used: 1 image_corrupt"):
        load_training_images(expand_shards([str(tmp_path / "train-000000.tar")]), (32, 16))


def test_batches_hold_p_identities_with_k_images_each() -> None:
    labels = torch.tensor([0] * 5 + [1] * 2 + [2] * 4 + [3] * 9 + [4] * 4)
    sampler = IdentitySampler(labels, identities=2, images_each=4, seed=1)
    assert sampler.steps_per_epoch == 3
    for first in range(0, 20, 2):  # a round: two batches of the five identities, none twice
        batches = [sampler.batch(step) for step in (first, first + 1)]
        drawn = [label for batch in batches for label in labels[batch].tolist()]
        assert sorted(Counter(drawn).values()) == [4, 4, 4, 4]
        for batch in batches:
            for label, rows in ((int(labels[group[0]]), group) for group in batch.reshape(2, 4)):
                assert len(set(rows.tolist())) == (2 if label == 1 else 4)
    assert {int(i) for step in range(60) for i in labels[sampler.batch(step)]} == {0, 1, 2, 3, 4}
    again = IdentitySampler(labels, identities=2, images_each=4, seed=1)
    other = IdentitySampler(labels, identities=2, images_each=4, seed=2)
    assert all(np.array_equal(sampler.batch(step), again.batch(step)) for step in (7, 3))
    assert any(not np.array_equal(sampler.batch(step), other.batch(step)) for step in range(4))
    with pytest.raises(UserError, match="16 identities cannot be drawn from 5: give --identities between 2 and 5"):
        IdentitySampler(labels, identities=16, images_each=4, seed=1)


def test_crops_move_the_image_over_black() -> None:
    image = torch.arange(1, 1 + 3 * 4 * 3, dtype=torch.uint8).view(3, 4, 3)
    seen = set()
    for seed in range(80):
        crop = padded_crop(image, 1, np.random.default_rng(seed))
        same = []
        for down in (-1, 0, 1):
            for right in (-1, 0, 1):
                moved = torch.zeros_like(image)
                rows, columns = range(max(0, down), min(4, 4 + down)), range(max(0, right), min(3, 3 + right))
                for y in rows:
                    for x in columns:
                        moved[:, y, x] = image[:, y - down, x - right]
                if torch.equal(crop, moved):
                    same.append((down, right))
        assert len(same) == 1, crop
        seen.update(same)
    assert len(seen) == 9


def test_augmentation_flips_erases_and_repeats_itself() -> None:
    images = torch.full((200, 3, 40, 20), 128, dtype=torch.uint8)
    images[:, :, :, 0] = 0
    same = Augmentation(flip=0, padding=0, erase=0)(images, np.random.default_rng(0))
    assert torch.equal(same, images)
    flipped = Augmentation(flip=1, padding=0, erase=0)(images, np.random.default_rng(0))
    assert torch.equal(flipped, images.flip(3))
    erased = Augmentation(flip=0, padding=0, erase=1)(images, np.random.default_rng(0))
    changed = (erased != images).any(dim=1)
    shares = changed.float().mean(dim=(1, 2))
    assert 0.01 < shares.min() < 0.05
    assert 0.3 < shares.max() < 0.42
    assert shares.mean().item() == pytest.approx(0.2, abs=0.03)  # areas are uniform; the tallest do not fit
    for mask in changed:  # one rectangle
        rows, columns = mask.any(dim=1).nonzero(), mask.any(dim=0).nonzero()
        box = (int(rows.max() - rows.min()) + 1) * (int(columns.max() - columns.min()) + 1)
        assert int(mask.sum()) >= 0.95 * box
    augment = Augmentation()
    first, second = (augment(images, np.random.default_rng(4)) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, augment(images, np.random.default_rng(5)))
    assert int((images == 128).sum()) == images.numel() - 200 * 3 * 40  # the given images are not written to


def test_the_command_trains_from_its_yaml_defaults(shards: Path, tmp_path: Path) -> None:
    (tmp_path / "train.yaml").write_text(
        f"shards: {shards}/*.tar\noutput: {tmp_path}/elsewhere\nscratch: true\nimage_size: [32, 16]\nseed: 3\n"
        "identities: 4\nimages_each: 2\nsteps: 9\nlr_new: 0.002\nepochs: 7\nstride: null\n"
    )
    words = ["--config", str(tmp_path / "train.yaml"), "--output", str(tmp_path / "out"), "--device", "cpu"]
    result = CliRunner().invoke(command, [*words, "--warmup", "4", "--set", "steps=2"])
    assert result.exit_code == 0, result.output
    assert "40 images of 8 identities; 2 steps on cpu" in result.output
    assert f"{tmp_path}/out/model.safetensors after 2 steps" in result.output
    asked = json.loads((tmp_path / "out" / "train.json").read_text())["signature"]
    assert (asked["seed"], asked["lr_new"], asked["lr_qk"], asked["lr_tower"]) == (3, 0.002, 0.006, 0.001)
    # A default of the command does not win over the file.
    assert (asked["epochs"], asked["warmup"], asked["steps"]) == (7, 4, 2)
    assert not (tmp_path / "elsewhere").exists()


def test_overwrite_deletes_a_training_and_says_what(shards: Path, tmp_path: Path) -> None:
    out = tmp_path / "my out"
    words = ["train", "--shards", str(shards / "train-*.tar"), "--output", str(out), "--scratch", "--device", "cpu"]
    words += ["--image-size", "32", "16", "--identities", "4", "--images-each", "2", "--precision", "fp32"]
    first = CliRunner().invoke(main, [*words, "--steps", "1"])
    assert first.exit_code == 0, first.output
    (out / "notes.txt").write_text("kept")
    refused = CliRunner().invoke(main, [*words, "--steps", "2"])
    assert refused.exit_code == 1 and "or --overwrite to delete it" in refused.output
    done = CliRunner().invoke(main, [*words, "--steps", "2", "--overwrite"])
    assert done.exit_code == 0, done.output
    for name in ("train.json", "model.safetensors", "log.csv", "curve.png"):
        assert f"overwriting: deleted {out / name}\n" in done.output
    assert json.loads((out / "train.json").read_text())["step"] == 2 and (out / "notes.txt").exists()
    again = CliRunner().invoke(main, [*words, "--steps", "1", "--overwrite", "--shards", "gone-*.tar"])
    assert again.exit_code == 1 and (out / "train.json").exists()  # what cannot be begun deletes nothing


def test_the_next_step_after_a_training_runs_as_printed(shards: Path, tmp_path: Path) -> None:
    out = tmp_path / "it's out"
    words = ["train", "--shards", str(shards / "train-*.tar"), "--output", str(out), "--scratch", "--device", "cpu"]
    words += ["--image-size", "32", "16", "--identities", "4", "--images-each", "2", "--steps", "1"]
    done = CliRunner().invoke(main, words)
    last = done.output.splitlines()[-1]
    assert last.startswith("next: promptsg mine ")
    mined = CliRunner().invoke(main, shlex.split(last)[2:])
    assert mined.exit_code == 0 and "1 of 1 shard is done" in mined.output, mined.output
    assert (out / "RUN" / "run.json").exists()


def test_settings_that_are_none_are_named_with_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("optimiser: adam\n")
    known = r"unknown setting 'optimiser'; did you mean optimizer\? Settings are shards, output, scratch, init"
    with pytest.raises(UserError, match=known):
        CliRunner().invoke(command, ["--config", str(tmp_path / "bad.yaml")], catch_exceptions=False)
    with pytest.raises(UserError, match=r"unknown setting 'weightdecay'; did you mean weight_decay\? Settings"):
        CliRunner().invoke(command, ["--set", "weightdecay=1"], catch_exceptions=False)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"output": "y"}, "shards is missing: give --shards or set it in the configuration file"),
        ({"identities": 1}, "identities is 1: Input should be greater than or equal to 2"),
        ({"image_size": [32, 0]}, "image_size.1 is 0: Input should be greater than 0"),
        ({"erase": 2}, "erase is 2: Input should be less than or equal to 1"),
        ({"optimizer": "sgd"}, "optimizer is 'sgd': Input should be 'adam' or 'adamw'"),
        ({"scratch": "true"}, "scratch is 'true'"),
    ],
)
def test_values_that_are_not_valid_are_refused(values: dict[str, Any], message: str) -> None:
    given = values if "output" in values else {"shards": "x", "output": "y", "scratch": True, **values}
    with pytest.raises(UserError, match=message):
        build_train_config(None, given)


def test_the_start_chooses_the_recipe_and_given_values_win() -> None:
    given = {"shards": "x.tar", "output": "y"}
    scratch = build_train_config(None, {**given, "scratch": True, "warmup": 3})
    assert scratch.shards == ("x.tar",)
    assert (scratch.steps, scratch.warmup, scratch.optimizer, scratch.unit_triplets) == (3000, 3, "adamw", True)
    assert (scratch.image_size, scratch.lr_tower, scratch.weight_decay, scratch.erase) == ((128, 64), 1e-3, 0.05, 0.1)
    clip = build_train_config(None, {**given, "init": "clip.pth", "lr_new": "1e-4"})  # YAML reads 1e-4 as a text
    assert (clip.steps, clip.warmup, clip.optimizer, clip.unit_triplets) == (None, 0, "adam", False)
    assert (clip.image_size, clip.lr_tower, clip.weight_decay, clip.erase) == ((256, 128), 5e-6, 1e-4, 0.5)
    assert clip.rates["qk"] == pytest.approx(1e-3)
    assert build_train_config(None, {**given, "init": "clip.pth", "lr_qk": 0.5}).rates["qk"] == 0.5


def test_training_is_one_call(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of(tmp_path / "out", shards=(str(shards),), steps=2, device="cpu")
    monkeypatch.setattr(Drain, "requested", "SIGTERM")
    stopped = train(config)
    assert (stopped.drained, stopped.step, stopped.steps, stopped.exit_status) == ("SIGTERM", 0, 2, 75)
    assert "stopped on SIGTERM after 0 of 2 steps; the same command goes on from here" in describe(stopped)
    monkeypatch.undo()
    report = train(config)
    assert (report.drained, report.step, report.exit_status) == (None, 2, 0)
    assert (report.images, report.identities, report.device, report.precision) == (40, 8, "cpu", "fp32")
    assert report.checkpoint == tmp_path / "out" / "model.safetensors" and report.checkpoint.exists()
    assert train(config).step == 2  # it is finished, and left alone


@pytest.mark.parametrize("words", [[], ["--scratch", "--init", "clip.pth"]])
def test_one_start_is_needed(words: list[str]) -> None:
    with pytest.raises(UserError, match=r"^give either --init with a CLIP state dict, or --scratch for a small model"):
        CliRunner().invoke(command, ["--shards", "x", "--output", "y", *words], catch_exceptions=False)


def test_attention_entropy_of_a_uniform_map_is_one() -> None:
    model = tiny_model().eval()
    out = training_forward(model, random_images(model.config, 3))
    uniform = replace(out, attention=torch.full((3, 32), 1 / 32), logits=torch.eye(3))
    figures = progress_of(uniform, torch.tensor([0, 1, 0]))
    assert figures["attention_entropy"].item() == pytest.approx(1, abs=1e-5)
    assert figures["accuracy"].item() == pytest.approx(2 / 3)
    half = replace(uniform, attention=torch.tensor([[0.5, 0.5] + [0.0] * 30] * 3))
    assert progress_of(half, torch.tensor([0, 1, 0]))["attention_entropy"].item() == pytest.approx(1 / math.log2(32))
