"""Which model the commands for single images run, and how a model gets the prompts that it is given (no torch)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.errors import UserError
from jobs.mining.camera_rows.options import CameraOptions
from jobs.mining.early.files import check_model_words
from jobs.progress import loading_torch, told

if TYPE_CHECKING:
    from jobs.mining.camera_rows.source import HowExplained
    from promptsg_core.model import AnyModel
    from promptsg_core.settings import Settings


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """A checkpoint, the device and precision to run it in, what its tensors cannot tell, and further prompts.

    `model_settings` is the training code's YAML file and `model_set` has KEY VALUE pairs that win over it. A prompt is
    `TEXT` or `NAME=TEXT`. Without `checkpoint` the settings' TEST.WEIGHT names it. `weights_key` is the path of keys of
    the state dict to take where the file has several. `image_size` is (height, width) in pixels. `sie_coe` is the
    coefficient of a camera embedding, and `head` the head whose score is explained. The rest is as in CameraOptions.
    """

    checkpoint: Path | None = None
    weights_key: str | None = None
    image_size: tuple[int, int] | None = None
    device: str = "auto"
    precision: str = "auto"
    model_settings: Path | None = None
    prompt_mode: str | None = None
    neck_feat: str | None = None
    sie_coe: float | None = None
    head: str | None = None
    trained_on: str | None = None
    camera_map: Path | None = None
    camera: str | None = None
    prompts: tuple[str, ...] = ()
    model_set: tuple[tuple[str, str], ...] = ()

    def load(self) -> AnyModel:
        """The model. Raises UserError if no checkpoint is named, and what `load_model` raises."""
        from promptsg_core.settings import read_settings
        from promptsg_core.tokenise import parse_prompts

        settings = read_settings(self.model_settings, [word for pair in self.model_set for word in pair])
        checkpoint = self.checkpoint or settings.weight
        if checkpoint is None:
            raise UserError("no checkpoint: give --checkpoint FILE (or TEST.WEIGHT in --model-settings)")
        check_model_words(Path(checkpoint), self.device, self.precision, files=[self.camera_map])
        return load_with_prompts(
            Path(checkpoint),
            parse_prompts(self.prompts),
            device=self.device,
            precision=self.precision,
            settings=settings,
            weights_key=self.weights_key,
            image_size=self.image_size,
            prompt_mode=self.prompt_mode,
            neck_feat=self.neck_feat,
            sie_coe=self.sie_coe,
        )

    def explained(self, model: AnyModel) -> HowExplained:
        """The head and the cameras that are asked for. Raises UserError and ModelError where the model has others."""
        from jobs.mining.camera_rows.source import HowExplained, camera_source

        model.check_head(self.head)
        options = CameraOptions(trained_on=self.trained_on, camera_map=self.camera_map, camera=self.camera)
        return HowExplained(self.head, camera_source(model, options))


def parse_image_size(text: str) -> tuple[int, int]:
    """`384x128`, height times width in pixels, as numbers. Raises UserError."""
    height, _, width = text.partition("x")
    if not (height.isascii() and height.isdigit() and width.isascii() and width.isdigit()):
        raise UserError(f"image size {text!r}: give height and width in pixels, such as 384x128")
    return int(height), int(width)


@told("loading the checkpoint")
def load_with_prompts(
    checkpoint: Path,
    prompts: Mapping[str, str],
    *,
    device: str,
    precision: str,
    settings: Settings,
    weights_key: str | None = None,
    image_size: tuple[int, int] | None = None,
    prompt_mode: str | None = None,
    neck_feat: str | None = None,
    reweight: str | None = None,
    sie_coe: float | None = None,
) -> AnyModel:
    """A model that also knows these prompts (texts by name). Raises what `load_model` raises.

    Raises ModelError too for a text that CLIP cannot read, or whose words the checkpoint does not have.
    """
    with loading_torch():
        from promptsg_core.checkpoint import load_model
        from promptsg_core.precision import compute_deterministically
    from promptsg_core.tokenise import make_prompt

    compute_deterministically()
    made = {name: make_prompt(text) for name, text in prompts.items()}
    model = load_model(
        checkpoint,
        device=device,
        precision=precision,
        settings=settings,
        weights_key=weights_key,
        image_size=image_size,
        prompt_mode=prompt_mode,
        neck_feat=neck_feat,
        reweight=reweight,
        sie_coe=sie_coe,
    )
    model.add_prompts(made)
    return model
