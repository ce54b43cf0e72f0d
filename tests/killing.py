"""A method under test that kills its process at a moment of its own, whatever the speed of the machine."""

import os
import signal
from pathlib import Path

import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor

from diffusion_lab.evaluation import Method


def deadly(file: str, call: int, name: str = "deadly") -> Method:
    """Fills with noise; one call is a SIGKILL, if nobody has died of it before.

    Args:
        file: is made when it kills: there, it never does again.
        call: which, from 0.
        name: of the method.
    """
    calls = 0

    def fill(image: Tensor, mask: Tensor, seeds: Tensor) -> Tensor:
        nonlocal calls
        if calls == call and not Path(file).exists():
            Path(file).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        calls += 1
        draws = [torch.rand(image.shape[1:], generator=torch.Generator().manual_seed(s)) for s in seeds.tolist()]
        return torch.where(mask, torch.stack(draws).to(image) * 2 - 1, image)

    return Method(name, fill)


class Death(Callback):
    """Waits in a training for the death of its process, once: at a step of the job of seed 1.

    Args:
        file: is made when it waits: there, it never does again.
        step: at which.
    """

    def __init__(self, file: str, step: int = 9) -> None:
        self.file = Path(file)
        self.step = step

    def on_train_batch_end(self, trainer: Trainer, *_: object) -> None:
        first = not self.file.exists() and trainer.default_root_dir.endswith("1")
        if first and trainer.global_step == self.step:
            self.file.touch()
            signal.pause()
