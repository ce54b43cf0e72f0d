"""The Inpainter: one way through the code for "make this part of this picture anew"."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffusion_lab import recipe
from diffusion_lab.diffusion.denoiser import Condition, NetworkDenoiser, Prediction
from diffusion_lab.diffusion.noise import ExampleNoise, Noise
from diffusion_lab.diffusion.sampling import Constrain, Rows, Sampler, keep_clean, sample
from diffusion_lab.files import sha256
from diffusion_lab.tasks import Task, inpainting
from diffusion_lab.windows import Windows

OnStep = Callable[[Rows, Prediction], None]
Look = Callable[[Tensor], None]
"""Told of pictures ``(B, 3, H, W)`` in [-1, 1]."""


class Inpainter(nn.Module):
    """Fills the hole of a picture by a diffusion model, or whatever its task is; known pixels come back bit for bit.

    Args:
        denoiser: the trained model.
        sampler: how it samples unless told otherwise.
        constrain: how it was trained to see the known pixels of x.
        task: what it was trained for; None is `tasks.inpainting`, and so are all folders that name none.

    Example:
        >>> import torch
        >>> from diffusion_lab.diffusion import denoiser, samplers, schedule
        >>> from diffusion_lab.networks.unet import UNet
        >>> unet = UNet(image_size=16, channels=32, multipliers=[1])
        >>> model = denoiser.NetworkDenoiser(unet, schedule.linear(), denoiser.Epsilon())
        >>> inpainter = Inpainter(model, samplers.ddim(steps=2))
        >>> face, mask = torch.zeros(1, 3, 16, 16), torch.ones(1, 1, 16, 16, dtype=torch.bool)
        >>> inpainter(face, mask, seeds=[0]).shape
        torch.Size([1, 3, 16, 16])
    """

    def __init__(
        self,
        denoiser: NetworkDenoiser,
        sampler: Sampler,
        constrain: Constrain = keep_clean,
        task: Task | None = None,
    ) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.sampler = sampler
        self.constrain = constrain
        self.task = task or inpainting()
        self.recipe: dict[str, Any] = {}

    @property
    def stages(self) -> "Sequence[Inpainter]":
        """Itself: a cascade has more."""
        return (self,)

    @property
    def sides(self) -> tuple[int, ...]:
        """Of the pictures that it fills, in pixels: the one that it was trained on. A cascade has more."""
        return (int(self.recipe["data"]["image_size"]),)

    def legs(self, side: int) -> tuple[int, ...]:
        """The stages that a picture goes through: its one; see `Cascade.legs`."""
        return (0,)

    def taken(self, leg: int, sampler: Sampler | None) -> Sampler:
        """How its one stage samples; see `Cascade.taken`."""
        return sampler or self.sampler

    def asked(self, leg: int, image: Tensor, mask: Tensor, filled: Tensor | None) -> tuple[Tensor, Tensor]:
        """What its one stage is given, and the hole that it fills; see `Cascade.asked`."""
        return image, mask

    def windows(self, leg: int, hole: Tensor) -> Windows:
        """Where its network looks: at the whole; see `Cascade.windows`."""
        return Windows.over(hole, hole.shape[-1])

    def joined(self, leg: int, windows: Windows, made: Tensor, given: Tensor) -> Tensor:
        """What its stage has made, as a whole; see `Cascade.joined`."""
        return windows.joined(made)

    def condition(self, given: Tensor, mask: Tensor, fill: Tensor, attributes: Tensor | None = None) -> Condition:
        """What the model may see: what its task shows of the given picture, and what the face is like.

        Raises:
            ValueError: unless each picture is said to be of one class, of a model that was always told one.
        """
        if self.recipe.get("data", {}).get("exclusive", False):
            said = None if attributes is None else (attributes == 1).sum(1)
            if said is None or not bool((said == 1).all()):
                names = self.recipe["data"]["attributes"]
                raise ValueError(
                    f"this model never saw a picture without its class: say one, attributes={{{names[0]}: 1}}; "
                    f"it knows {recipe.listed(names)}"
                )
        return Condition(self.task.show(given, mask, fill), mask, attributes, fill)

    def attributes(self, wanted: Mapping[str, float]) -> Tensor:
        """What a face shall be like, as `forward` is told it; what is not named is not said.

        Args:
            wanted: 1 for an attribute that the face has, 0 for one that it has not, by name.

        Returns:
            ``(1, A)``, NaN where not said.

        Raises:
            ValueError: for a name that the model was not trained with.
        """
        return recipe.asked(self.recipe, wanted)

    def network_calls(self, sampler: Sampler | None = None, side: int | None = None) -> int:
        """How often a picture asks the network; of whatever side."""
        return (sampler or self.sampler).network_calls(self.denoiser.schedule)

    def forward(
        self,
        image: Tensor,
        mask: Tensor,
        *,
        seeds: Sequence[int] | Tensor,
        sampler: Sampler | None = None,
        attributes: Tensor | None = None,
        on_step: OnStep | None = None,
        look: Look | None = None,
    ) -> Tensor:
        """Fills the holes, or restores the pictures.

        Args:
            image: ``(B, 3, H, W)`` in [-1, 1], what is given; of a hole nothing is looked at, unless the task shows it.
            mask: ``(B, 1, H, W)`` bool, True = what is made anew.
            seeds: one per example; the same seed draws the same noise in any company.
            sampler: None is the model's own.
            attributes: ``(B, A)``, what the faces shall be like (see `attributes`); None says nothing.
            on_step: called after every network call.
            look: likewise, with what the model sees by then: its guess of the result, as that is returned.

        Returns:
            ``(B, 3, H, W)`` in [-1, 1], equal to `image` outside the mask.
        """
        noise = ExampleNoise(seeds, image.shape[1:], image.device)
        watched = looking(on_step, look, lambda x_0: torch.where(mask, x_0, image))
        return self.drawn(image, mask, noise, sampler, attributes, watched)

    def drawn(
        self,
        image: Tensor,
        mask: Tensor,
        noise: Noise,
        sampler: Sampler | None = None,
        attributes: Tensor | None = None,
        on_step: OnStep | None = None,
    ) -> Tensor:
        """The same from any noise, which is a seed's elsewhere: see `forward`."""
        x_T = noise()
        condition = self.condition(image, mask, noise(), attributes)
        x_0 = sample(
            self.denoiser,
            sampler or self.sampler,
            self.denoiser.schedule,
            x_T,
            condition,
            noise,
            self.constrain,
            on_step,
        )
        return torch.where(mask, x_0.clamp(-1, 1), image)

    def save(self, folder: Path | str) -> None:
        """Writes `model.safetensors` and `recipe.json`, all or nothing."""
        if "model" not in self.recipe:
            raise ValueError(
                "this inpainter has no recipe to be saved with: set inpainter.recipe = {'model': ...} first"
            )
        recipe.save(self, self.recipe, Path(folder))

    @classmethod
    def load(cls, folder: Path | str) -> "Inpainter":
        """The inpainter that a folder holds, strictly: see `recipe.load` for what it refuses."""
        model = recipe.load(Path(folder))
        if not isinstance(model, cls):
            raise ValueError(f"'{folder}' holds a {type(model).__name__}, not an Inpainter alone")
        model.recipe = recipe.read(Path(folder))
        return model


def looking(on_step: OnStep | None, look: Look | None, picture: Callable[[Tensor], Tensor]) -> OnStep | None:
    """What is called after a network call, so that both are told.

    Args:
        on_step: told of the rows and what the network said; None is nobody.
        look: told of the pictures; None is nobody.
        picture: makes these of the network's x_0, in [-1, 1].
    """
    if look is None:
        return on_step

    def told(rows: Rows, prediction: Prediction) -> None:
        if on_step is not None:
            on_step(rows, prediction)
        look(picture(prediction.x_0.clamp(-1, 1)))

    return told


def shipped() -> Path:
    """The inpainter that comes with the package; its card.md says what it was trained on."""
    return Path(__file__).parent / "shipped"


def device(asked: str) -> torch.device:
    """Where to call a network: ``cpu``, ``cuda:1`` and so on; ``auto`` is the first GPU, or the CPU without one.

    Raises:
        ValueError: if it cannot be had here.
    """
    name = ("cuda" if torch.cuda.is_available() else "cpu") if asked == "auto" else asked
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError):  # the latter of a PyTorch that was built without CUDA
        raise ValueError(f"device={asked} is not to be had on this machine: use device=auto, or cpu") from None


def newest(logs: Path) -> Path:
    """The inpainter of the newest run below a folder of logs, or the one that comes with the package."""
    found = sorted(logs.glob("**/inpainter/recipe.json"), key=lambda path: path.stat().st_mtime)
    return found[-1].parent if found else shipped()


def version_of(model: Path) -> str:
    """How a folder's model is called: name@number in a registry, else the beginning of its weights' SHA-256."""
    folder = model.resolve()
    if (folder / "manifest.json").is_file():
        return f"{folder.parent.name}@{folder.name}"
    return sha256(folder / "model.safetensors")[:12]
