"""Score an inpainter against two baselines: ``uv run evaluate.py``; see ``conf/evaluate.yaml`` for what can be set."""

from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from diffusion_lab.cli import command


@command("evaluate", paths=["inpainter", "output", "data.root", "fid.extractor.weights"])
def main(cfg: DictConfig) -> None:
    from hydra.utils import instantiate
    from lightning.fabric import Fabric
    from rich.console import Console

    from diffusion_lab.evaluation import diffusion, evaluate
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
    methods = [diffusion(name, inpainter, instantiate(sampler)) for name, sampler in cfg.methods.items()]
    console = Console(quiet=not fabric.is_global_zero)
    console.print(f"Evaluating {folder} on the {cfg.split} split of {data.name}", highlight=False)
    if fabric.is_global_zero:
        data.source.prepare()
    fabric.barrier()
    report = evaluate(
        [*methods, *instantiate(cfg.baselines, _convert_="all").values()],
        data.pictures(cfg.split),
        instantiate(cfg.masks, _convert_="all"),
        extractor=instantiate(cfg.fid.extractor),
        fabric=fabric,
        num_images=cfg.num_images,
        batch_size=cfg.batch_size,
        seed=cfg.seed,
        completions=cfg.completions,
        reference=data.pictures(cfg.fid.reference) if cfg.fid.reference else None,
        cache=Path(cfg.paths.cache).expanduser() / "features",
        protocol={
            "data": data.name,
            "trained_on": trained_on["name"],
            "crop": data.crop.name,
            "split": cfg.split,
            "inpainter": str(folder),
            "samplers": {
                name: OmegaConf.to_container(sampler, resolve=True) if sampler else inpainter.recipe["model"]["sampler"]
                for name, sampler in cfg.methods.items()
            },
        },
    )
    if fabric.is_global_zero:
        report.save(output)
        report.show(console)
        console.print(f"Saved to {output}: results.json, results.md, grid.png", highlight=False)


if __name__ == "__main__":
    main()
