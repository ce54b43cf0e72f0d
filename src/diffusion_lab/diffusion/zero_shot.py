"""Inpainting with a model that was not trained for it: what goes around the model, and what is done after each step.

The known pixels alone are drawn anew by `sampling.keep_noised` (replacement); RePaint is that on `paths.repaint_path`.
"""

from dataclasses import replace

import torch
from torch import Tensor

from diffusion_lab.diffusion.denoiser import Condition, Denoiser, Prediction
from diffusion_lab.diffusion.noise import Noise
from diffusion_lab.diffusion.process import add_noise, along


def known_pixels(condition: Condition) -> tuple[Tensor, Tensor]:
    """The known picture and the mask.

    Raises:
        ValueError: if there are none.
    """
    if condition.known is None or condition.mask is None:
        raise ValueError(
            "this sampler fills holes and needs known pixels and a mask: take sampler=ddpm for whole pictures"
        )
    return condition.known, condition.mask


class Blind:
    """Hides the known pixels from the model: it sees a picture that is all hole, whatever wraps it sees the truth.

    So a model that was trained with a share of full masks serves as an unconditional one. One without condition
    channels is left as it is.
    """

    def __init__(self, denoiser: Denoiser) -> None:
        self.denoiser = denoiser

    def __call__(self, x: Tensor, level: Tensor, condition: Condition) -> Prediction:
        mask = None if condition.mask is None else torch.ones_like(condition.mask)
        return self.denoiser(x, level, replace(condition, known=condition.fill, mask=mask))


class PosteriorGuide:
    """Diffusion posterior sampling (DPS, algorithm 1): the direction in which x_0 comes nearer to the known pixels.

    The gradient, found through the model, is that of their distance |known - x_0| in x: the paper's step size
    zeta' / distance times its gradient of the squared distance, but for a factor of 2. `follow_gradient` applies it.

    Args:
        denoiser: what is wrapped; asked once, but its backward pass is paid for.
        scale: length of the step; the published setting for inpainting is .5, with 1,000 steps.
    """

    def __init__(self, denoiser: Denoiser, scale: float = 0.5) -> None:
        self.denoiser = denoiser
        self.scale = scale

    def __call__(self, x: Tensor, level: Tensor, condition: Condition) -> Prediction:
        known, mask = known_pixels(condition)
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            prediction = self.denoiser(x, level, condition)
            missed = torch.where(mask, 0, known - prediction.x_0)
            distance = torch.linalg.vector_norm(missed.flatten(1), dim=1)  # (B,); its gradient at 0 is 0
            (uphill,) = torch.autograd.grad(distance.sum(), x)
        return replace(prediction.map(Tensor.detach), gradient=-self.scale * uphill)


def follow_gradient(
    x: Tensor, prediction: Prediction | None, level: Tensor, next_level: Tensor, noise: Noise, condition: Condition
) -> Tensor:
    """X moved by what the guide found, as it stands (DPS; MCG puts the known pixels in afterwards)."""
    return x if prediction is None or prediction.gradient is None else x + prediction.gradient


def rectify(
    x: Tensor, prediction: Prediction | None, level: Tensor, next_level: Tensor, noise: Noise, condition: Condition
) -> Tensor:
    """X as if the step had seen the known pixels in x_0 (DDNM eq. 13, whose A is the mask of what is known).

    A step takes signal' of x_0; eps stays what the model said of x.
    """
    known, mask = known_pixels(condition)
    if prediction is None:
        return x
    (signal,) = along(x, next_level.sqrt())
    return x + signal * torch.where(mask, 0, known - prediction.x_0)


def from_x_0(x: Tensor, prediction: Prediction | None, level: Tensor, lower_level: Tensor, eps: Tensor) -> Tensor:
    """A rise that forgets x: the last x_0 noised (time travel as in DDNM's program; its paper rises from x)."""
    assert prediction is not None, "a path that begins with a rise has no x_0 yet"
    return add_noise(prediction.x_0, eps, lower_level)
