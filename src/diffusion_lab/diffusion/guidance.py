"""Wrappers that change what a denoiser says."""

from dataclasses import replace

from torch import Tensor

from diffusion_lab.diffusion.denoiser import Condition, Denoiser, Prediction
from diffusion_lab.diffusion.process import eps_from_x_0


class Clip:
    """Holds x_0 within [-1, 1] and makes eps agree with it (DDPM's code; the paper leaves it unsaid)."""

    def __init__(self, denoiser: Denoiser) -> None:
        self.denoiser = denoiser

    def __call__(self, x: Tensor, level: Tensor, condition: Condition) -> Prediction:
        prediction = self.denoiser(x, level, condition)
        x_0 = prediction.x_0.clamp(-1, 1)
        return replace(prediction, x_0=x_0, eps=eps_from_x_0(x, x_0, level))
