"""A run: one folder, trained into from the first step to the last, however often it is interrupted."""

import hashlib
import json
import logging
import os
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Protocol

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import LambdaCallback
from lightning.pytorch.loggers import Logger
from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Table
from torch import nn

from diffusion_lab import recipe
from diffusion_lab.files import held
from diffusion_lab.networks.summary import table
from diffusion_lab.training.callbacks import SameConfig
from diffusion_lab.training.checkpoints import SafeCheckpointIO, newest_valid
from diffusion_lab.training.loggers import OneLineAStep
from diffusion_lab.training.module import DiffusionModule
from diffusion_lab.training.progress import Bar

SEVERAL = "ddp"

RANKS = ("RANK", "SLURM_PROCID", "NODE_RANK", "GROUP_RANK", "LOCAL_RANK")
"""What torchrun, SLURM and Lightning say to the processes of a run; all are 0, or not there, in the first."""

SHAPING = ("seed", "data", "mask", "schedule", "model", "objective", "labels", "optimizer", "ema", "module", "trainer")
"""Groups of the config that bear on what comes of a run ..."""

INERT = (
    *("data.mask", "data.labels", "data.cache", "data.num_workers", "data.download", "data.mirror", "data.name"),
    *("trainer.folder", "trainer.max_steps", "trainer.validations", "trainer.accelerator", "trainer.devices"),
    *("trainer.num_nodes", "trainer.strategy", "trainer.log_every_n_steps", "trainer.callbacks", "trainer.loggers"),
)
"""... and what of them does not, is another's, or is said elsewhere."""

Summary = Callable[[Any, int], Table]
"""(network, examples of a step on one device) -> what there is to say of it before it is trained."""


class Data(recipe.Data, Protocol):
    """A LightningDataModule that says what it holds."""

    batch_size: int


def fast_precision(accelerator: str) -> str:
    """bf16 autocast where the hardware multiplies bfloat16, float32 elsewhere."""
    if accelerator != "cpu" and torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported() else "32-true"
    has_bf16 = bool(torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())
    return "bf16-mixed" if has_bf16 else "32-true"


def trainer(
    folder: Path | str,
    max_steps: int,
    validations: int,
    accelerator: str,
    devices: int,
    num_nodes: int,
    strategy: str | None,
    precision: str | None,
    gradient_clip_val: float | None,
    accumulate_grad_batches: int,
    log_every_n_steps: int,
    deterministic: bool,
    callbacks: Sequence[Callback | None],
    loggers: Sequence[Logger | None],
) -> Trainer:
    """A Lightning Trainer whose one epoch is the whole run.

    Args:
        folder: of the run.
        max_steps: optimiser steps in all.
        validations: how many over the run, the last at its end; fewer if they do not divide the steps.
        accelerator: auto, cpu, gpu or mps.
        devices: per node; on the CPU, processes.
        num_nodes: machines.
        strategy: None is one process, or DDP for several devices.
        precision: None is bf16 autocast where the hardware has it.
        gradient_clip_val: largest global norm of the gradient; None leaves it.
        accumulate_grad_batches: batches per step.
        log_every_n_steps: between lines of metrics.
        deterministic: only kernels that repeat bit for bit.
        callbacks: beside the progress bar; None, from ``callbacks.samples=null``, is nobody.
        loggers: where numbers go; None is nowhere.

    Raises:
        ValueError: for a device, strategy or precision that cannot be had here, and numbers that are none.
    """
    for name, value in {"devices": devices, "num_nodes": num_nodes, "max_steps": max_steps}.items():
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"trainer.{name} must be a whole number, 1 or more, got {value}")
    if accelerator in ("gpu", "cuda") and torch.cuda.device_count() < devices:
        raise ValueError(
            f"trainer.accelerator={accelerator} with trainer.devices={devices} was asked for, but this machine has "
            f"{torch.cuda.device_count()} GPUs: use trainer.accelerator=cpu, or fewer devices"
        )
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    several = devices * num_nodes > 1
    batches = max_steps * accumulate_grad_batches
    validations = next(n for n in range(max(1, min(validations, max_steps)), 0, -1) if max_steps % n == 0)
    try:
        return Trainer(
            default_root_dir=str(folder),
            accelerator=accelerator,
            devices=devices,
            num_nodes=num_nodes,
            strategy=strategy or (SEVERAL if several else "auto"),
            precision=precision or fast_precision(accelerator),  # type: ignore[arg-type]
            max_epochs=-1,
            max_steps=max_steps,
            val_check_interval=batches // validations,
            check_val_every_n_epoch=None,
            num_sanity_val_steps=0,
            gradient_clip_val=gradient_clip_val,
            accumulate_grad_batches=accumulate_grad_batches,
            log_every_n_steps=min(log_every_n_steps, max_steps),
            deterministic=deterministic,
            benchmark=not deterministic,  # cuDNN tries its convolutions once and keeps the fastest
            use_distributed_sampler=False,  # our samplers know their rank, and do not pad
            callbacks=[*filter(None, callbacks), Bar()],
            logger=list(filter(None, loggers)),
            plugins=[SafeCheckpointIO()],
            enable_model_summary=False,
        )
    except (MisconfigurationException, ValueError, ModuleNotFoundError) as error:
        raise ValueError(
            f"trainer.accelerator={accelerator} with trainer.strategy={strategy} and trainer.precision={precision} "
            f"is not to be had on this machine: leave them at their defaults, or trainer.accelerator=cpu ({error})"
        ) from None


def digest(config: Mapping[str, Any]) -> int:
    """A number below 2^63 that two configurations share only if they are equal."""
    return (
        int.from_bytes(hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode()).digest()[:8], "big")
        >> 1
    )


def alone(folder: Path) -> AbstractContextManager[object]:
    """Keeps a second training out of a run's folder; its first process asks for all of its ranks.

    Raises:
        ValueError: on entering, if another run is at work there, naming its process.
    """
    if any(os.environ.get(name, "0") != "0" for name in RANKS):
        return nullcontext()
    return held(folder / ".train.lock")


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The settings in which two configs train otherwise, each said once: groups refer to each other.

    Example:
        >>> changes({"seed": 0, "data": {"seed": 0, "flip": True}}, {"seed": 1, "data": {"seed": 1, "flip": True}})
        ['seed=1 (was 0)']
    """
    old, new = ({key: flat for key, flat in recipe.flat(each).items() if _shapes(key)} for each in (before, now))
    differ = [key for key in old.keys() | new.keys() if old.get(key) != new.get(key)]
    said: dict[tuple[str, str], str] = {}
    for key in sorted(differ, key=lambda key: (key.startswith("module."), key.count("."), key)):
        change = f"{new.get(key)} (was {old.get(key)})"
        said.setdefault((key.split(".")[-1], change), f"{key}={change}")
    return list(said.values())


def _shapes(key: str) -> bool:
    parts = key.split(".")
    return parts[0] in SHAPING and ".".join(parts[:2]) not in INERT


def announce(network: nn.Module, data: Data, folder: Path, summary: Summary = table, devices: int = 1) -> None:
    """Prints what is about to be trained, and on what."""
    console = Console()
    console.print(summary(network, data.batch_size // devices))
    console.print(
        f"data: {data.name}, crop {data.crop.name}, size {data.image_size}; {data.batch_size} examples a step, "
        f"{data.batch_size // devices} on each of {devices} devices",
        highlight=False,
    )
    console.print(f"run folder: {folder}", highlight=False, soft_wrap=True)


def fit(
    module: DiffusionModule,
    data: Data,
    trainer: Trainer,
    folder: Path,
    config: Mapping[str, Any],
    summary: Summary = table,
    advice: str = "",
) -> None:
    """Trains to the end, from the newest whole checkpoint of the folder if there is one.

    Args:
        module: what is trained.
        data: what it is trained on.
        trainer: on which devices.
        folder: of the run.
        config: resolved; ranks that hold different ones refuse to train together.
        summary: of the network, printed at the start.
        advice: what to do next, printed at the end.

    Raises:
        ValueError: if the devices cannot have equal parts of a batch.
    """
    assert isinstance(data, LightningDataModule)
    if data.batch_size % trainer.world_size:
        raise ValueError(
            f"data.batch_size={data.batch_size} is for all devices together and cannot be divided over "
            f"{trainer.world_size}: set it to a multiple of that"
        )
    trainer.callbacks[:0] = [SameConfig(digest(config)), OneLineAStep()]
    # Batches are made faster than they are used; Lightning's advice to use more workers does not hold here.
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*exists and is not empty.*")  # it is resumed
    warnings.filterwarnings("ignore", message=".*isinstance\\(treespec, LeafSpec\\).*")
    checkpoint = newest_valid(folder / "checkpoints")
    if trainer.is_global_zero:
        data.prepare_data()  # what is wrong with the data is said before anything is started or written
        logs = Path(config.get("paths", {}).get("logs", folder.parent.parent))

        def started(trainer: Trainer, module: LightningModule) -> None:
            latest(folder, logs)
            OmegaConf.save(OmegaConf.create(dict(config)), folder / "config.yaml")
            for logger in trainer.loggers:
                logger.log_hyperparams(dict(config))

        trainer.callbacks.append(LambdaCallback(on_train_start=started))
        announce(module.inpainter.denoiser.network, data, folder, summary, trainer.world_size)
        print(
            f"device: {trainer.strategy.root_device}, {trainer.precision}"
            + (f"; resumed from {checkpoint.name}" if checkpoint else ""),
            flush=True,
        )
        if checkpoint and (folder / "config.yaml").is_file():
            before: Any = OmegaConf.to_container(OmegaConf.load(folder / "config.yaml"))
            if other := changes(before, config):
                print(
                    f"from {checkpoint.stem} on under other settings: {', '.join(other)}; no uninterrupted run "
                    "ends where this one will",
                    flush=True,
                )
    start = time.monotonic()
    trainer.fit(module, data, ckpt_path=checkpoint)
    if trainer.is_global_zero and checkpoint and checkpoint.stem == f"step={trainer.global_step}":
        print(f"nothing was left to train at step {trainer.global_step}: go on with a larger trainer.max_steps")
    trainer.save_checkpoint(folder / "checkpoints" / f"step={trainer.global_step}.ckpt")
    if trainer.is_global_zero:
        print(farewell(folder, time.monotonic() - start, advice), flush=True)


def begun(folder: Path) -> bool:
    """Whether a run has checkpoints to go on from."""
    return any((folder / "checkpoints").glob("*.ckpt"))


def latest(folder: Path, logs: Path) -> None:
    """Points `latest`, in the folder of logs, at this run."""
    logs.mkdir(parents=True, exist_ok=True)
    link = logs / "latest"
    fresh = logs / f".latest-{os.getpid()}"
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(os.path.relpath(folder.resolve(), logs.resolve()))
    os.replace(fresh, link)


def farewell(folder: Path, seconds: float, advice: str) -> str:
    """What a person wants to know at the end of a run."""
    sheets = sorted((folder / "samples").glob("*.png"))
    lines = [f"trained in {seconds / 60:.1f} min"]
    lines += [f"the {made.parent.name} is {made.parent}" for made in sorted(folder.glob("*/recipe.json"))]
    if sheets:
        lines.append(f"look at {sheets[-1]}")
    if advice:
        lines.append(f"next: {advice}")
    return "\n".join(lines)
