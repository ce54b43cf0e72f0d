"""The LightningModule: forward noising, the loss, the optimiser, and the average of the weights."""

import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from diffusion_lab.data.datamodule import Batch
from diffusion_lab.diffusion.denoiser import Condition, Prediction
from diffusion_lab.diffusion.losses import Levels, LevelSampler, Loss
from diffusion_lab.diffusion.noise import KeyedNoise, Noise
from diffusion_lab.diffusion.process import add_noise
from diffusion_lab.diffusion.sampling import Constrain, Rows
from diffusion_lab.diffusion.schedule import NoiseSchedule
from diffusion_lab.tasks import Task
from diffusion_lab.training.ema import Averages

LearningRate = Callable[[int, int], float]
"""(step, steps in all) -> share of the optimiser's learning rate."""

Perturb = Callable[[Tensor, Noise], Tensor]
"""(eps, more noise) -> the noise that goes into x, while eps stays what is asked for."""


Diffuse = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(x_0, eps from N(0, 1), level (B,)) -> x ~ q(x | x_0), the forward process."""


class Trained(Protocol):
    """What has the parameters: a `NetworkDenoiser`, or a `NetworkClassifier`, which is called as one."""

    network: nn.Module
    schedule: NoiseSchedule

    def parameters(self) -> Iterator[nn.Parameter]:
        """Of an `nn.Module`."""

    def __call__(self, x: Tensor, level: Tensor, condition: Condition) -> Any:
        """What the loss is made of."""


class Artefact(Protocol):
    """What training makes: an Inpainter, a classifier, or another `nn.Module` around a denoiser."""

    denoiser: Trained
    constrain: Constrain
    recipe: dict[str, Any]

    def condition(self, given: Tensor, mask: Tensor, fill: Tensor, attributes: Tensor | None = None) -> Condition:
        """What the denoiser may see of an example."""

    def save(self, folder: Path | str) -> None:
        """Writes weights and recipe."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """Of an `nn.Module`."""


class Completing(Artefact, Protocol):
    """An artefact that makes anew what its task says."""

    task: Task

    def network_calls(self) -> int:
        """How often an example asks the network."""

    def __call__(
        self,
        image: Tensor,
        mask: Tensor,
        *,
        seeds: Tensor,
        on_step: Callable[[Rows, Prediction], None] | None = None,
    ) -> Tensor: ...


def unperturbed(eps: Tensor, noise: Noise) -> Tensor:
    """Eps as it is."""
    return eps


def warmup_cosine(step: int, steps: int, warmup: int, final: float = 0.0) -> float:
    """Rises linearly over `warmup` steps, then falls as a half cosine to `final`."""
    rise = min(1.0, (step + 1) / max(1, warmup))
    done = min(1.0, max(0, step - warmup) / max(1, steps - warmup))
    return rise * (final + (1 - final) * 0.5 * (1 + math.cos(math.pi * done)))


def warmup_constant(step: int, steps: int, warmup: int) -> float:
    """Rises linearly over `warmup` steps and stays."""
    return min(1.0, (step + 1) / max(1, warmup))


class DiffusionModule(LightningModule):
    """Trains the denoiser of an Inpainter, or of what is like one.

    Args:
        inpainter: whose denoiser is trained.
        levels: which levels an example is trained at.
        loss: what its prediction costs.
        optimizer: makes the optimiser of the parameters.
        learning_rate: its course over the run.
        ema: makes the averages of the denoiser; the first validates, samples and ships.
        max_skipped: steps in a row whose gradient may be non-finite before the run stops.
        perturb: changes the noise that goes into x (DDPM-IP); None leaves it.
        diffuse: the forward process; None is the Gaussian one.
        unsaid: share of the examples whose attributes are not said, for classifier-free guidance (Ho & Salimans 2022).
    """

    def __init__(
        self,
        inpainter: Artefact,
        levels: LevelSampler,
        loss: Loss,
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
        learning_rate: LearningRate,
        ema: Callable[[nn.Module], Averages],
        max_skipped: int = 10,
        perturb: Perturb | None = None,
        diffuse: Diffuse | None = None,
        unsaid: float = 0.1,
    ) -> None:
        super().__init__()
        self.inpainter = inpainter
        self.levels = levels
        self.loss = loss
        self.optimizer = optimizer
        self.learning_rate = learning_rate
        self.ema = ema(cast(nn.Module, inpainter.denoiser))
        self.max_skipped = max_skipped
        self.perturb = perturb or unperturbed
        self.diffuse = diffuse or add_noise
        self.unsaid = unsaid
        self.skipped = 0
        self.batches_seen = 0  # where the data goes on after a resume
        self.joined = (0, 0.0)  # step at which the run got its length, and the share of the learning rate until then
        self.hyperparameters: list[dict[str, Any]] = []  # of the optimiser's groups, as configured
        self.restored: list[dict[str, Any]] = []  # the same when the checkpoint was made

    def example_losses(self, batch: Batch) -> tuple[Levels, Tensor]:
        """Levels and loss of each example, ``(B,)``; noise and level follow from its key alone (DDPM algorithm 1)."""
        x_0, mask = batch.image, batch.mask
        noise = KeyedNoise(batch.key, x_0.shape[1:])
        levels = self.levels(self.inpainter.denoiser.schedule, noise.uniform(2))
        eps = noise()
        condition = self.inpainter.condition(batch.given, mask, noise(), self.said(batch.attributes, noise))
        x = self.diffuse(x_0, self.perturb(eps, noise), levels.level)
        x = self.inpainter.constrain(x, None, levels.level, levels.level, lambda: eps, condition)
        prediction = self.inpainter.denoiser(x, levels.level, condition)
        return levels, self.loss(prediction, x_0, eps, levels, mask)

    def said(self, attributes: Tensor, noise: KeyedNoise) -> Tensor | None:
        """The attributes as the denoiser is told them, ``(B, A)``; a row of NaN is left out. None if there are none."""
        if not attributes.shape[1]:
            return None
        silent = noise.uniform(1).to(attributes.device) < self.unsaid
        return attributes.masked_fill(silent, torch.nan)

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        # Dropout draws from the global generator: seeding it by the batch makes a resumed run repeat it.
        torch.manual_seed(int(batch.key[0]))
        self.batches_seen += 1
        levels, losses = self.example_losses(batch)
        self.log("train/loss", losses.mean(), prog_bar=True)
        return {"loss": losses.mean(), "losses": losses.detach(), "levels": levels}

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        with self.ema.applied():
            _, losses = self.example_losses(batch)
        self.log("val/loss", losses.mean(), batch_size=len(losses), sync_dist=True)

    def configure_gradient_clipping(
        self, optimizer: Optimizer, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Clips by the global norm, which is logged as it was before, and drops a gradient that is not finite.

        By now the gradients are averaged over the ranks, so that all ranks see the same norm and skip the same step.

        Raises:
            FloatingPointError: after `max_skipped` of them in a row.
        """
        norm = nn.utils.clip_grad_norm_(self.parameters(), gradient_clip_val or math.inf)
        if (self.global_step + 1) % self.trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            rate = optimizer.param_groups[0]["lr"]
            self.log_dict({"train/gradient_norm": norm, "train/learning_rate": rate})
        if torch.isfinite(norm):
            self.skipped = 0
            return
        self.skipped += 1
        optimizer.zero_grad(set_to_none=True)  # a parameter without gradient is not stepped
        if self.skipped >= self.max_skipped:
            raise FloatingPointError(
                f"the gradient was not finite for {self.skipped} steps in a row, the last at step {self.global_step}: "
                "lower optimizer.lr, or train with trainer.precision=32-true; the last checkpoint is from before"
            )

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Steps, and takes the step into the average before any callback can save it."""
        super().optimizer_step(*args, **kwargs)
        self.ema.update()

    def configure_optimizers(self) -> dict[str, Any]:  # type: ignore[override]
        optimizer = self.optimizer(self.inpainter.parameters())
        self.hyperparameters = [
            {key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups
        ]
        schedule = LambdaLR(optimizer, self.share)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def share(self, step: int) -> float:
        """Of the learning rate at a step: its course over the run.

        A run that was made longer joins the longer course from where it stood, no faster than a run begins.
        """
        steps, (begin, share) = self.trainer.max_steps, self.joined
        return min(self.learning_rate(step, steps), share + self.learning_rate(max(0, step - begin), steps - begin))

    def on_train_start(self) -> None:
        """Gives a restored optimiser the settings that are others now: with its state came those of before."""
        (optimizer,), (course,) = self.trainer.optimizers, self.trainer.lr_scheduler_configs
        for group, mine, its in zip(optimizer.param_groups, self.hyperparameters, self.restored, strict=False):
            group.update({key: value for key, value in mine.items() if value != its.get(key)})
        course.scheduler.base_lrs = [mine["lr"] for mine in self.hyperparameters]
        for group, mine in zip(optimizer.param_groups, self.hyperparameters, strict=True):
            group["lr"] = mine["lr"] * self.share(self.global_step)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["ema"] = self.ema.state_dict()
        checkpoint["batches_seen"] = self.batches_seen
        checkpoint["hyperparameters"] = self.hyperparameters
        checkpoint["course"] = (self.trainer.max_steps, self.share(self.global_step), self.joined)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Goes on where the checkpoint stands.

        Raises:
            ValueError: for a checkpoint of another architecture.
        """
        mine = {name: value.shape for name, value in self.state_dict().items()}
        its = {name: value.shape for name, value in checkpoint["state_dict"].items()}
        wrong = sorted(
            {*mine.keys() ^ its.keys(), *(name for name in mine.keys() & its.keys() if mine[name] != its[name])}
        )
        if wrong:
            raise ValueError(
                f"the checkpoint is of another architecture: {len(wrong)} tensors are missing, left over or misshapen, "
                f"the first is '{wrong[0]}': resume with the model that the run was started with"
            )
        self.ema.load_state_dict(checkpoint["ema"])
        self.batches_seen = checkpoint["batches_seen"]
        self.restored = checkpoint.get("hyperparameters", [])
        now, step = self.trainer.max_steps, checkpoint["global_step"]
        steps, share, self.joined = checkpoint.get("course", (now, 0.0, (0, 0.0)))
        if steps != now:
            self.joined = (step, share)
            course = self.learning_rate(step, now)
            if self.trainer.is_global_zero and not math.isclose(course, share):
                how = ", as in a warm-up" if course > share else ""
                print(
                    f"trainer.max_steps is {now} and was {steps}: at step {step} the learning rate is {share:.0%} of "
                    f"its largest and goes to the {course:.0%} of the new course{how}",
                    flush=True,
                )
