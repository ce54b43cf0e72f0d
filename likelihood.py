"""Bits per dimension of an inpainter: `uv run likelihood.py`; see `conf/likelihood.yaml` for what can be set."""

from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from diffusion_lab.cli import command


@command("likelihood", paths=["inpainter", "output", "data.root", "paths.logs", "paths.cache"])
def main(cfg: DictConfig) -> None:
    from hydra.utils import instantiate
    from lightning.fabric import Fabric
    from rich.console import Console

    from diffusion_lab.evaluation.likelihood import measure
    from diffusion_lab.inpainting import Inpainter, newest

    folder = Path(cfg.inpainter) if cfg.inpainter else newest(Path(cfg.paths.logs))
    output = Path(cfg.output or folder.parent / "evaluation")
    fabric = Fabric(accelerator=cfg.accelerator, devices=cfg.devices)
    fabric.launch()
    inpainter = Inpainter.load(folder).to(fabric.device).eval()
    trained_on = inpainter.recipe["data"]
    cfg.data.image_size = cfg.data.image_size or trained_on["image_size"]
    cfg.data.crop._target_ = cfg.data.crop._target_ or f"diffusion_lab.data.crops.{trained_on['crop']}"
    data = instantiate(cfg.data)
    console = Console(quiet=not fabric.is_global_zero)
    console.print(f"Measuring {folder} on the {cfg.split} split of {data.name}", highlight=False)
    if fabric.is_global_zero:
        data.source.prepare()
    fabric.barrier()
    bits = measure(
        inpainter,
        data.pictures(cfg.split),
        instantiate(cfg.masks, _convert_="all"),
        path=instantiate(cfg.path),
        variance_mix=cfg.variance_mix,
        wrap=instantiate(cfg.wrap),
        fabric=fabric,
        num_images=cfg.num_images,
        batch_size=cfg.batch_size,
        seed=cfg.seed,
        protocol={
            "data": data.name,
            "trained_on": trained_on["name"],
            "crop": data.crop.name,
            "split": cfg.split,
            "inpainter": str(folder),
            "path": OmegaConf.to_container(cfg.path, resolve=True),
            "wrap": OmegaConf.to_container(cfg.wrap, resolve=True),
        },
    )
    if fabric.is_global_zero:
        bits.save(output)
        bits.show(console)
        console.print(f"Saved to {output}: likelihood.json", highlight=False)


if __name__ == "__main__":
    main()
