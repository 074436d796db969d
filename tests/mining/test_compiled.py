"""Compiled towers: when, of which batches, and what happens where it fails, with a stand-in for the compiler."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from cam.extract import Extraction
from cam.targets import PREDICTED
from jobs.mining.config import CompileChoice, MineConfig
from jobs.mining.passes import choice
from jobs.mining.passes.choice import choose_pass
from jobs.mining.passes.compiled import CompiledPass
from jobs.mining.passes.inductor import Compiled, compile_blocks
from jobs.mining.passes.plain import PlainPass
from jobs.mining.passes.wish import IMAGES_PER_THREAD, CompileWish
from promptsg_core import precision
from promptsg_core.model import AnyModel
from promptsg_core.towers.stack import one_after_another, stacks_of
from tests.support.small_models import small_model

SIZE = 4
MAPS = {
    "promptsg composed": ("mim_attention", "gradcam/vit_last", "gradcam++/mim"),
    "clipreid": ("cls_attention", "hirescam/vit_norm"),
    "transreid jpm": ("cls_attention", "hirescam/vit_norm"),
    "irra": ("activation",),
}


class StandIn:
    """A compiler that notes what it is given; what it makes runs the blocks and adds `error` times the tokens."""

    def __init__(self, error: float = 0.0) -> None:
        self.error = error
        self.compiled: list[tuple[int, tuple[int, ...]]] = []
        self.runs: list[int] = []

    def __call__(self, blocks: Sequence[nn.Module], x: Tensor) -> Compiled:
        self.compiled.append((len(blocks), tuple(x.shape)))

        def run(x: Tensor) -> Tensor:
            self.runs.append(len(x))
            return one_after_another(blocks, x) * (1 + self.error)

        return run


def refuse(blocks: Sequence[nn.Module], x: Tensor) -> Compiled:
    raise RuntimeError("the compiler g++ was not found\nmore")


def images_of(model: AnyModel, count: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, *model.config.image_size), dtype=torch.uint8, generator=generator)


def tensors(found: Extraction) -> dict[str, Tensor]:
    others = {one.name: getattr(found, one.name) for one in fields(found) if one.name != "maps"}
    return {**others, **found.maps}


def assert_same(found: Extraction, wanted: Extraction) -> None:
    for name, tensor in tensors(wanted).items():
        torch.testing.assert_close(tensors(found)[name], tensor, rtol=0, atol=0, equal_nan=True, msg=name)


def run_on(one: CompiledPass | PlainPass, images: Tensor) -> Extraction:
    cameras = "mean" if isinstance(one, PlainPass) and one.model.camera_rows else None
    if isinstance(one, CompiledPass) and one.plain.model.camera_rows:
        cameras = "mean"
    return one(images, PREDICTED, cameras)


@pytest.mark.parametrize("kind", ["promptsg composed", "clipreid", "transreid jpm"])
def test_only_full_batches_go_through_what_was_compiled_once(kind: str) -> None:
    plain, compiler = PlainPass(model=small_model(kind), maps=MAPS[kind]), StandIn()
    compiled = CompiledPass(plain, SIZE, compiler)
    for seed, count in enumerate((2, SIZE, 1, SIZE, SIZE + 1)):
        images = images_of(plain.model, count, seed)
        assert_same(run_on(compiled, images), run_on(plain, images))
    assert len(compiler.compiled) == 1 and compiler.compiled[0][1][0] == SIZE
    assert compiler.runs == [SIZE] * 3  # the first batch is also compared with the plain one


def test_the_results_are_those_of_what_was_compiled_and_the_model_is_left_as_it_was() -> None:
    plain = PlainPass(model=small_model("promptsg composed"), maps=MAPS["promptsg composed"])
    images = images_of(plain.model, SIZE)
    wanted = plain(images, PREDICTED)
    found = CompiledPass(plain, SIZE, StandIn(error=5e-6))(images, PREDICTED)
    assert not torch.equal(found.features, wanted.features)
    torch.testing.assert_close(found.features, wanted.features, rtol=1e-3, atol=1e-4)
    assert_same(plain(images, PREDICTED), wanted)


@pytest.mark.parametrize(
    ("compiler", "because"),
    [
        (refuse, r"\(the compiler g\+\+ was not found more\)"),
        (StandIn(error=1e-3), r"differ by 0.001 of their norm, and 1e-05 is allowed"),
        (StandIn(error=float("nan")), r"differ by nan"),
    ],
)
def test_where_it_fails_the_plain_pass_does_it_and_that_is_said_once(
    compiler: StandIn, because: str, caplog: pytest.LogCaptureFixture
) -> None:
    plain = PlainPass(model=small_model("promptsg composed"), maps=MAPS["promptsg composed"])
    compiled = CompiledPass(plain, SIZE, compiler)
    images = images_of(plain.model, SIZE)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert_same(compiled(images, PREDICTED), plain(images, PREDICTED))
    (record,) = caplog.records
    assert "runs as it is, not compiled" in record.message and re.search(because, record.message)


def test_what_it_cost_is_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    plain = PlainPass(model=small_model("promptsg composed"), maps=MAPS["promptsg composed"])
    with caplog.at_level(logging.INFO):
        CompiledPass(plain, SIZE, StandIn())(images_of(plain.model, SIZE), PREDICTED)
    assert [record.message for record in caplog.records] == [
        f"compiling the image tower for batches of {SIZE}, which takes minutes (--compile off leaves it out)",
        "the image tower is compiled: it took 0 s, and its tokens differ by 0 of their norm",
    ]


def config(tmp_path: Path) -> MineConfig:
    return MineConfig(shards=("a.tar",), checkpoint=tmp_path / "a.pth", output=tmp_path / "RUN", maps=("activation",))


@pytest.mark.parametrize(
    ("wanted", "images", "dtype", "amx", "compiler", "compiled"),
    [
        ("auto", IMAGES_PER_THREAD * 2, torch.bfloat16, True, True, True),
        ("auto", IMAGES_PER_THREAD * 2 - 1, torch.bfloat16, True, True, False),  # two threads
        ("auto", None, torch.bfloat16, True, True, False),
        ("auto", 10**9, torch.float32, True, True, False),
        ("auto", 10**9, torch.bfloat16, False, True, False),
        ("auto", 10**9, torch.bfloat16, True, False, False),
        ("off", 10**9, torch.bfloat16, True, True, False),
        ("on", 1, torch.float32, False, False, True),
    ],
)
def test_when_a_tower_is_compiled(
    wanted: CompileChoice,
    images: int | None,
    dtype: torch.dtype,
    amx: bool,
    compiler: bool,
    compiled: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(choice, "cpu_has_amx", lambda: amx)
    monkeypatch.setattr(choice, "has_compiler", lambda: compiler)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    chosen = choose_pass(
        small_model("promptsg composed").convert(dtype), config(tmp_path), CompileWish(choice=wanted, images=images)
    )
    assert isinstance(chosen, CompiledPass if compiled else PlainPass)


def test_a_tower_without_blocks_is_not_compiled(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        chosen = choose_pass(small_model("osnet"), config(tmp_path), CompileWish(choice="on"))
    assert isinstance(chosen, PlainPass) and "this model has none" in caplog.records[0].message


def test_images_are_estimated_from_the_bytes_of_shards() -> None:
    assert CompileWish.for_bytes("auto", 16384 * 4000) == CompileWish(choice="auto", images=4000)
    assert CompileWish.for_bytes("auto", None) == CompileWish(choice="auto")
    assert CompileWish(images=20_000).pays(1) and not CompileWish(images=19_999).pays(1)


def test_instructions_are_read_from_what_linux_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for words, amx, bf16 in ((" avx512_bf16 avx2", False, True), ("amx_bf16 amx_tile", True, True), ("", False, False)):
        monkeypatch.setattr(precision, "_cpu_words", lambda words=words: set(words.split()))
        assert (precision.cpu_has_amx(), precision._cpu_has_bf16()) == (amx, bf16)


@pytest.mark.slow  # runs the C++ compiler for about half a minute
@pytest.mark.skipif(not choice.has_compiler(), reason="needs a C++ compiler")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["promptsg composed", "transreid jpm"])
def test_a_real_compiler_gives_the_same_maps(
    kind: str, dtype: torch.dtype, caplog: pytest.LogCaptureFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In fp32 within 1e-5 of each map's norm, without recompiling, and nothing is left on the disk."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    plain = PlainPass(model=small_model(kind).convert(dtype), maps=MAPS[kind])
    compiled = CompiledPass(plain, SIZE, compile_blocks)
    with caplog.at_level(logging.INFO, logger="jobs"):
        for seed, count in enumerate((SIZE, 3, SIZE)):
            images = images_of(plain.model, count, seed)
            found, wanted = run_on(compiled, images), run_on(plain, images)
            for name, tensor in wanted.maps.items():
                if dtype == torch.float32:
                    assert float((found.maps[name] - tensor).norm()) <= 1e-5 * float(tensor.norm()), name
    own = [record.levelname for record in caplog.records if record.name.startswith("jobs")]
    assert own == ["INFO", "INFO"] and not compiled.blocks.failed
    assert len(stacks_of(plain.model)) == 1
    assert [
        path for path in tmp_path.rglob("*") if path.is_file()
    ] == [] and "TORCHINDUCTOR_CACHE_DIR" not in os.environ
