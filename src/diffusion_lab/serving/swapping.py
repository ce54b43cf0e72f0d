"""What a model must show before it serves: whole files, a model of the right size, and what it is known to do."""

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from diffusion_lab import cascade
from diffusion_lab.data.crops import Crop, named
from diffusion_lab.diffusion.denoiser import Condition, Denoiser, Prediction
from diffusion_lab.files import sha256
from diffusion_lab.inpainting import version_of
from diffusion_lab.networks.export import Called
from diffusion_lab.pictures import to_uint8
from diffusion_lab.serving.backends import Backend, eager
from diffusion_lab.serving.engine import SwapRefused
from diffusion_lab.tasks import Task

MOST_LEVELS = 8
"""How far, in 8-bit levels, the golden picture may be missed: room for another device's rounding."""


@dataclass(frozen=True)
class Model:
    """What is in service.

    Args:
        inpainter: in evaluation mode, on its device.
        version: its name.
        autocast: of its network calls; None is float32.
    """

    inpainter: cascade.Model
    version: str
    autocast: torch.dtype | None

    @property
    def device(self) -> torch.device:
        return next(self.inpainter.parameters()).device

    @property
    def image_size(self) -> int:
        return int(self.inpainter.recipe["data"]["image_size"])

    @property
    def crop(self) -> Crop:
        return named(self.inpainter.recipe["data"]["crop"])

    @property
    def task(self) -> Task:
        return self.inpainter.task

    def denoiser(self, stage: int) -> Denoiser:
        """What a stage's network says, at the precision of the service."""
        inner = self.inpainter.stages[stage].denoiser

        def denoise(x: Tensor, level: Tensor, condition: Condition) -> Prediction:
            with torch.autocast(x.device.type, self.autocast, enabled=self.autocast is not None):
                said: Prediction = inner(x, level, condition)
            return said

        return denoise


def verify(folder: Path) -> None:
    """Compares the files of a folder with its manifest; without one there is nothing to compare.

    Raises:
        SwapRefused: if a file is missing or is another one, or the manifest leaves out what is served.
    """
    manifest = folder / "manifest.json"
    if not manifest.is_file():
        return
    files = json.loads(manifest.read_text())["files"]
    if unnamed := {"model.safetensors", "recipe.json"} - set(files):
        raise SwapRefused(f"the manifest of '{folder}' does not name {', '.join(sorted(unnamed))}")
    for name, wanted in files.items():
        if Path(name).name != name or not (folder / name).is_file():
            raise SwapRefused(f"'{name}' of the manifest is not in '{folder}'")
        if sha256(folder / name) != wanted:
            raise SwapRefused(f"'{folder / name}' is not the file that the manifest describes: use another copy")


def checked(
    folder: Path,
    device: torch.device,
    image_size: int | None = None,
    task: Task | None = None,
    autocast: torch.dtype | None = None,
    backend: Backend = eager,
) -> Model:
    """The model of a folder, fit to serve.

    Args:
        folder: holds `model.safetensors` and `recipe.json`; `manifest.json` and `golden.safetensors` are held against
            them where they are.
        device: where it will serve.
        image_size: that it must have; None is any. Jobs are cut to the size of the model in service.
        task: that it must be for; None is any. Jobs have a hole, or none, as the task in service wants it.
        autocast: that it will serve with.
        backend: the form that its network will serve in; what is held against the golden picture has it already.

    Raises:
        SwapRefused: if it is not fit, with the reason.
    """
    try:
        verify(folder)
        inpainter = cascade.load(folder)
        for name, tensor in inpainter.state_dict().items():
            if not bool(tensor.isfinite().all()):
                raise SwapRefused(f"'{name}' of '{folder}' holds values that are no numbers")
        model = Model(inpainter.to(device), version_of(folder), autocast)
        if image_size not in (None, model.image_size):
            raise SwapRefused(
                f"'{folder}' is for {model.image_size} px and the service for {image_size}: serve it on its own"
            )
        if task is not None and task.name != model.task.name:
            raise SwapRefused(
                f"'{folder}' is for the task {model.task.name} and the service for {task.name}: serve it on its own"
            )
        for number, stage in enumerate(inpainter.stages):
            stage.denoiser.network = backend(stage.denoiser.network, folder, number)
        with torch.no_grad():
            for rows in (1, 2):  # what is compiled for one picture is compiled anew for several
                try_out(model, rows)
            if (folder / "golden.safetensors").is_file():
                compare(model, folder / "golden.safetensors")
    except SwapRefused:
        raise
    except Exception as error:  # whatever a damaged folder makes of our code
        raise SwapRefused(f"'{folder}' cannot serve: {str(error) or type(error).__name__}") from error
    return model


def try_out(model: Model, rows: int) -> None:
    """One network call of each stage, halfway: does it answer, with pictures of numbers, as near as it must be?"""
    image = torch.zeros(rows, 3, model.image_size, model.image_size, device=model.device)
    mask = torch.ones_like(image[:, :1], dtype=torch.bool)
    level = torch.full((rows,), 0.5, dtype=torch.float64)
    given = None
    for leg, stage in enumerate(model.inpainter.legs(model.image_size)):
        given, hole = model.inpainter.asked(leg, image, mask, given)
        x = torch.randn(given.shape, generator=torch.Generator().manual_seed(0)).to(model.device)
        ask = partial(model.denoiser(stage), x, level, Condition(known=x, mask=hole, fill=x))
        said = ask()
        if said.x_0.shape != x.shape or not bool(said.x_0.isfinite().all()):
            raise SwapRefused(
                f"the model answers {tuple(said.x_0.shape)} or no numbers where {tuple(x.shape)} was asked"
            )
        network = model.inpainter.stages[stage].denoiser.network
        if isinstance(network, Called) and network.near is not None:
            with torch.enable_grad():  # the network itself
                truth = ask()
            # x_0 alone may be next to nothing, of a grey picture. With the noise it is as long as what was asked.
            wanted = torch.cat([truth.x_0, truth.eps]).detach()
            missed = float((torch.cat([said.x_0, said.eps]) - wanted).norm() / wanted.norm())
            if not missed <= network.near:
                raise SwapRefused(
                    f"stage {stage} in this form misses the network's own answer by {missed:.0%} of its length, where "
                    f"{network.near:.0%} are allowed: set engine.backend=eager"
                )


def compare(model: Model, golden: Path) -> None:
    """Makes the picture that the model is known to make of seed 0."""
    known = load_file(golden, device=str(model.device))
    with torch.autocast(model.device.type, model.autocast, enabled=model.autocast is not None):
        made = model.inpainter(known["image"], known["mask"], seeds=[0])
    if not bool(made.isfinite().all()):
        raise SwapRefused(f"the picture of '{golden}' comes out with values that are no numbers")
    missed = int((to_uint8(made).int() - to_uint8(known["output"]).int()).abs().max())
    if missed > MOST_LEVELS:
        raise SwapRefused(
            f"the picture of '{golden}' comes out up to {missed} levels of 255 away, where {MOST_LEVELS} are allowed"
        )
