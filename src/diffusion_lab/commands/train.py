"""Train a face inpainter: `uv run train.py`, any setting as an override, `--help` for the list."""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from diffusion_lab.cli import as_called, command, kept, resumed, run_folder

PATHS = ["data.root", "paths.logs", "paths.cache", "hydra.run.dir", "hydra.sweep.dir", "resume", "start_from"]


@command("train", paths=PATHS, before=resumed)
def main(cfg: DictConfig) -> None:
    import torch
    from hydra.utils import instantiate
    from lightning.pytorch import seed_everything
    from lightning.pytorch.callbacks import LambdaCallback

    from diffusion_lab import recipe
    from diffusion_lab.trained_on import located, portable
    from diffusion_lab.training.run import alone, announce, begun, fit

    config: dict[str, Any] = dict(OmegaConf.to_container(cfg, resolve=True))  # type: ignore[arg-type]
    config["data"] = located(config["data"])
    seed_everything(cfg.seed, verbose=False)
    data = instantiate(cfg.data)
    if cfg.dry_run:
        with torch.device("meta"):  # the largest networks are described without being held in memory
            announce(recipe.build(config["model"]), data, run_folder(), instantiate(cfg.summary))
        return
    with alone(run_folder()):
        inpainter = recipe.build(config["inpainter"])
        if cfg.start_from and not begun(run_folder()):
            recipe.start_from(inpainter, config["inpainter"], Path(cfg.start_from))
        if cfg.get("finetune"):
            if not cfg.start_from:
                raise ValueError("finetune= changes a trained model a little: name its folder by start_from=")
            instantiate(cfg.finetune)(inpainter.denoiser.network)
        training = {
            key: config.get(key) for key in ("finetune", "objective", "optimizer", "mask", "seed", "start_from")
        }
        training["data"] = portable(config["data"], data.name)
        inpainter.recipe = recipe.describe(config["inpainter"], data, training)
        module = instantiate(cfg.module, inpainter=inpainter)
        trainer = instantiate(cfg.trainer)
        if trainer.is_global_zero:
            trainer.callbacks.append(LambdaCallback(on_train_start=lambda *_: kept()))
        fit(module, data, trainer, run_folder(), config, instantiate(cfg.summary), cfg.next and as_called(cfg.next))


if __name__ == "__main__":
    main()
