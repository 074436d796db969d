"""What trainers wrap around a state dict: taken off, and refused by name where it is code."""

from __future__ import annotations

import argparse
import contextlib
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from promptsg_core.errors import CheckpointError
from promptsg_core.files.envelope import read_weights, strip_prefixes

STATE = {"image_encoder.proj": torch.arange(6.0).reshape(2, 3), "classifier.weight": torch.ones(4)}
AVERAGE = {name: tensor + 1 for name, tensor in STATE.items()}


def named(prefix: str, state: dict[str, Tensor] = STATE) -> dict[str, Tensor]:
    return OrderedDict((prefix + name, tensor) for name, tensor in state.items())


ENVELOPES: dict[str, tuple[Any, str]] = {
    "bare": (STATE, ""),
    "torchreid": ({"state_dict": STATE, "epoch": 60, "rank1": np.float64(0.951)}, "state_dict"),
    "numpy array": ({"state_dict": STATE, "cmc": np.arange(5, dtype=np.float32)}, "state_dict"),
    "compiled": (named("_orig_mod."), ""),
    "compiled and parallel": (named("module._orig_mod."), ""),
    "lightning": ({"state_dict": named("model."), "pytorch-lightning_version": "2.1.0"}, "state_dict"),
    "net": ({"net": STATE, "epoch": 3}, "net"),
    "model_state_dict": ({"model_state_dict": STATE}, "model_state_dict"),
    "one in another": ({"model": {"state_dict": STATE}}, "model.state_dict"),
    "the other way round": ({"state_dict": {"model": STATE}}, "state_dict.model"),
    "beside an optimizer": (
        {"optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 0.1}]}, "model": STATE},
        "model",
    ),
    "a name of its own": ({"student": STATE, "step": 3}, "student"),
    "module on some names": ({"module.image_encoder.proj": STATE["image_encoder.proj"],
                              "classifier.weight": STATE["classifier.weight"]}, ""),
    "only an average": ({"model_ema": STATE}, "model_ema"),
    "a tensor beside it": ({"state_dict": STATE, "best": torch.tensor(0.9)}, "state_dict"),
    "params": ({"params": STATE}, "params"),
    "weights": ({"weights": STATE}, "weights"),
    "teacher": ({"teacher": STATE}, "teacher"),
    "model_state": ({"model_state": STATE}, "model_state"),
    "module": ({"module": STATE}, "module"),
    "names in an array": ({"net": STATE, "names": np.array(["a", "b"])}, "net"),
    "compiled parts": ({"image_encoder._orig_mod.proj": STATE["image_encoder.proj"],
                        "classifier.weight": STATE["classifier.weight"]}, ""),
    "AveragedModel": ({"n_averaged": torch.tensor(3), **named("module.")}, ""),
}  # fmt: skip


def same(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> bool:
    return found.keys() == wanted.keys() and all(bool((found[name] == wanted[name]).all()) for name in wanted)


@pytest.mark.parametrize("name", ENVELOPES)
@pytest.mark.parametrize("zipped", [True, False])
def test_envelopes_are_taken_off(tmp_path: Path, name: str, zipped: bool) -> None:
    content, taken = ENVELOPES[name]
    torch.save(content, tmp_path / "c.pth", _use_new_zipfile_serialization=zipped)
    weights = read_weights(tmp_path / "c.pth")
    assert same(weights.tensors, STATE) and weights.taken == taken and weights.others == ()


def test_an_average_beside_the_weights_is_told_and_can_be_taken(tmp_path: Path) -> None:
    torch.save({"state_dict": named("module."), "state_dict_ema": named("module.", AVERAGE)}, tmp_path / "c.pth")
    weights = read_weights(tmp_path / "c.pth")
    assert same(weights.tensors, STATE) and (weights.taken, weights.others) == ("state_dict", ("state_dict_ema",))
    average = read_weights(tmp_path / "c.pth", "state_dict_ema")
    assert same(average.tensors, AVERAGE) and average.taken == "state_dict_ema"


def test_several_state_dicts_are_told_and_an_optimizer_is_none(tmp_path: Path) -> None:
    content = {"student": STATE, "teacher": AVERAGE, "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}}}
    torch.save(content, tmp_path / "c.pth")
    weights = read_weights(tmp_path / "c.pth")
    assert same(weights.tensors, AVERAGE) and (weights.taken, weights.others) == ("teacher", ("student",))


def test_an_average_under_flat_names_is_told_and_can_be_taken(tmp_path: Path) -> None:
    torch.save({"state_dict": {**named("model."), **named("model_ema.", AVERAGE)}}, tmp_path / "c.ckpt")
    weights = read_weights(tmp_path / "c.ckpt")
    assert same(weights.tensors, STATE) and weights.others == ("state_dict.model_ema",)
    assert same(read_weights(tmp_path / "c.ckpt", "state_dict.model_ema").tensors, AVERAGE)


def test_a_zip_that_was_packed_again_is_read_and_not_mapped(tmp_path: Path) -> None:
    state = {"x": torch.zeros(5000).index_fill(0, torch.tensor([4999]), 3.0), "y": torch.arange(4000.0)}
    torch.save(state, tmp_path / "c.pth")
    with (
        zipfile.ZipFile(tmp_path / "c.pth") as stored,
        zipfile.ZipFile(tmp_path / "d.pth", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for name in stored.namelist():
            packed.writestr(name, stored.read(name))
    assert (tmp_path / "d.pth").stat().st_size < (tmp_path / "c.pth").stat().st_size / 2
    assert same(read_weights(tmp_path / "d.pth").tensors, state)


def test_a_content_that_holds_itself_ends(tmp_path: Path) -> None:
    content: dict[str, Any] = {"x": torch.ones(1)}
    content["model"] = content
    torch.save(content, tmp_path / "c.pth")
    with pytest.raises(CheckpointError, match="model are not tensors"):
        read_weights(tmp_path / "c.pth")


def test_safetensors_are_read_by_content_and_not_by_name(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "c.pth")
    assert same(read_weights(tmp_path / "c.pth").tensors, STATE)


class Runs:
    """Its pickle runs a command."""

    def __reduce__(self) -> Any:
        return Path.touch, (Path("ran"),)


REFUSALS: dict[str, tuple[Any, str]] = {
    "a configuration object": ({"state_dict": STATE, "cfg": argparse.Namespace(a=1)}, r"cfg \(argparse.Namespace\)"),
    "a whole module": (torch.nn.Linear(2, 2), "whole object of class torch.nn.modules.linear.Linear"),
    "code": ({"state_dict": STATE, "hook": Runs()}, "code in a checkpoint is never run"),
    "no weights": ({"epoch": 3, "lr": 0.1}, r"epoch, lr are not tensors \(epoch is int, lr is float\)"),
    "two": ({"a": STATE, "b": AVERAGE}, "several state dicts in it, a, b: choose one by --weights-key"),
    "other things between": ({**STATE, "epoch": 3}, r"epoch are not tensors \(epoch is int\)"),
    "code in a list": ({"state_dict": STATE, "hooks": [1, argparse.Namespace()]}, r"hooks\.1 \(argparse\.Namespace\)"),
    "float8": ({"x": torch.ones(2).to(torch.float8_e4m3fn)}, "the tensor x is float8_e4m3fn; save it as float32"),
    "complex": ({"x": torch.ones(2, dtype=torch.complex64)}, "the tensor x is complex64"),
    "rows without bytes": (
        {"x": torch.ones(1).expand(10**9, 64)},
        r"shape \(1000000000, 64\), but .* only 4 bytes",
    ),
    "escapes": ({"\x1b[2Jx": 3, "y": torch.ones(1)}, r"\\x1b\[2Jx are not tensors"),
    "a list": ([STATE], "holds list"),
    "sparse": ({"x": torch.ones(2).to_sparse()}, "the tensor x is sparse"),
    "meta": ({"x": torch.ones(2, device="meta")}, "the tensor x is on the meta device"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("name", REFUSALS)
def test_refusals_say_which_key_holds_what(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, zipped: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    content, message = REFUSALS[name]
    if name == "float8" and not zipped:
        pytest.skip("torch does not read float8 in the old format")
    torch.save(content, "c.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=message) as refused:
        read_weights(Path("c.pth"))
    assert (
        str(refused.value).startswith("c.pth: ") and "\x1b" not in str(refused.value) and "\n" not in str(refused.value)
    )
    assert not Path("ran").exists()


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_torchscript_has_its_own_sentence(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2)), tmp_path / "c.pt")
    with pytest.raises(CheckpointError, match="a TorchScript archive"):
        read_weights(tmp_path / "c.pt")


def test_a_missing_path_names_what_is_there(tmp_path: Path) -> None:
    torch.save({"model": STATE, "epoch": 1}, tmp_path / "c.pth")
    with pytest.raises(CheckpointError, match=r"there is no 'ema' in it; it holds model \(a dict of 2\), epoch"):
        read_weights(tmp_path / "c.pth", "ema")


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_a_file_cut_anywhere_is_one_line_that_names_it(tmp_path: Path, kind: str) -> None:
    whole, cut = tmp_path / "c.pth", tmp_path / "cut.pth"
    if kind == "safetensors":
        save_file(STATE, whole)
    else:
        torch.save({"model": STATE, "epoch": 1}, whole, _use_new_zipfile_serialization=kind == "zip")
    data = whole.read_bytes()
    assert same(read_weights(whole).tensors, STATE)
    cuts = {*range(0, len(data), 7), *range(max(0, len(data) - 60), len(data)), *range(60)}
    for size in sorted(cuts):
        cut.write_bytes(data[:size])
        with pytest.raises(CheckpointError) as refused:
            read_weights(cut)
        assert "\n" not in str(refused.value) and str(refused.value).startswith(f"{cut}"), size
        assert "more than tensors" not in str(refused.value), size  # nobody put code into it


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_a_file_with_a_flipped_byte_is_read_or_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "c.pth"
    if kind == "safetensors":
        save_file(STATE, path)
    else:
        torch.save({"model": STATE, "epoch": 1}, path, _use_new_zipfile_serialization=kind == "zip")
    data = bytearray(path.read_bytes())
    for at in range(0, len(data), 5):
        data[at] ^= 0xA5
        path.write_bytes(data)
        with contextlib.suppress(CheckpointError):
            read_weights(path)
        data[at] ^= 0xA5


def test_a_family_s_own_root_is_no_prefix() -> None:
    state = {"base_model.visual.proj": torch.ones(1), "base_model.ln_final.weight": torch.ones(1)}
    assert strip_prefixes(state).keys() == state.keys()
    assert strip_prefixes({f"mim.{name}": tensor for name, tensor in STATE.items()}).keys() == {
        f"mim.{n}" for n in STATE
    }
    assert strip_prefixes(named("a.b.", STATE)).keys() == STATE.keys()
    clash = {"module.x": torch.ones(1), "x": torch.ones(1)}
    assert strip_prefixes(clash).keys() == clash.keys()


def test_a_pickle_that_is_no_torch_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "c.pth").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(CheckpointError, match=r"c\.pth: "):
        read_weights(tmp_path / "c.pth")
