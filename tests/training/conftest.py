"""A module and data small enough to train within a test."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from torch import nn

from diffusion_lab.data import crops
from diffusion_lab.data.celeba import CelebA
from diffusion_lab.data.datamodule import FaceData
from diffusion_lab.data.masks import rectangle
from diffusion_lab.diffusion import schedule
from diffusion_lab.diffusion.denoiser import Epsilon, NetworkDenoiser
from diffusion_lab.diffusion.losses import DenoisingLoss, discrete_levels
from diffusion_lab.diffusion.samplers import ddim
from diffusion_lab.inpainting import Inpainter
from diffusion_lab.networks.unet import UNet
from diffusion_lab.training.ema import Averages, exponential
from diffusion_lab.training.module import DiffusionModule, warmup_constant
from diffusion_lab.training.run import trainer

SIZE = 8
ONE_AVERAGE = partial(exponential, decays=[0.9])


@pytest.fixture
def data(faces: Path, tmp_path: Path) -> FaceData:
    source = CelebA(faces)
    return FaceData(source, crops.center148(), SIZE, batch_size=4, mask=rectangle, seed=3, cache=tmp_path / "cache")


@pytest.fixture
def make_module() -> Callable[..., DiffusionModule]:
    """A fresh module with the same weights each time."""

    def make(
        lr: float = 2e-3,
        max_skipped: int = 3,
        dropout: float = 0.0,
        ema: Callable[[nn.Module], Averages] = ONE_AVERAGE,
    ) -> DiffusionModule:
        seed_everything(0, verbose=False)
        unet = UNet(image_size=SIZE, channels=32, multipliers=[1], depth=1, dropout=dropout)
        inpainter = Inpainter(NetworkDenoiser(unet, schedule.linear(), Epsilon()), ddim(steps=2))
        inpainter.recipe = {"model": {}}
        return DiffusionModule(
            inpainter,
            levels=discrete_levels,
            loss=DenoisingLoss(Epsilon()),
            optimizer=partial(torch.optim.AdamW, lr=lr),
            learning_rate=partial(warmup_constant, warmup=2),
            ema=ema,
            max_skipped=max_skipped,
        )

    return make


@pytest.fixture
def make_trainer(tmp_path: Path) -> Callable[..., Trainer]:
    def make(max_steps: int, *callbacks: Callback, validations: int = 1) -> Trainer:
        return trainer(
            folder=tmp_path,
            max_steps=max_steps,
            validations=validations,
            accelerator="cpu",
            devices=1,
            num_nodes=1,
            strategy=None,
            precision="32-true",
            gradient_clip_val=1.0,
            accumulate_grad_batches=1,
            log_every_n_steps=1,
            deterministic=True,
            callbacks=callbacks,
            loggers=[],
        )

    return make
