"""Bits per dimension of an inpainter: `uv run likelihood.py`; see `conf/likelihood.yaml` for what can be set."""

from omegaconf import DictConfig, OmegaConf

from diffusion_lab.cli import command
from diffusion_lab.scripts import as_trained, subject


@command("likelihood", paths=["inpainter", "output", "data.root", "paths.logs", "paths.cache"], before=as_trained)
def main(cfg: DictConfig) -> None:
    from hydra.utils import instantiate

    from diffusion_lab.evaluation.likelihood import measure

    inpainter, data, fabric, console, output, protocol, _ = subject(cfg)
    if len(inpainter.stages) > 1:
        raise ValueError(
            "a cascade has no bound of its own, its stages have: take it apart by `python -m diffusion_lab.cascade "
            "FOLDER --output stages`, and name one by inpainter=stages/0 data=faces"
        )
    bits = measure(
        inpainter.stages[0],
        data.pictures(cfg.split),
        instantiate(cfg.masks, _convert_="all"),
        path=instantiate(cfg.path),
        variance_mix=cfg.variance_mix,
        first_variance=instantiate(cfg.first_variance),
        wrap=instantiate(cfg.wrap),
        fabric=fabric,
        num_images=cfg.num_images,
        batch_size=cfg.batch_size,
        seed=cfg.seed,
        protocol={
            **protocol,
            "path": OmegaConf.to_container(cfg.path, resolve=True),
            "first_variance": OmegaConf.to_container(cfg.first_variance, resolve=True),
            "wrap": OmegaConf.to_container(cfg.wrap, resolve=True),
        },
    )
    if fabric.is_global_zero:
        bits.save(output)
        bits.show(console)
        console.print(f"Saved to {output}: likelihood.json", highlight=False)


if __name__ == "__main__":
    main()
