"""Score an inpainter against two baselines: ``uv run evaluate.py``; see ``conf/evaluate.yaml`` for what can be set."""

from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from diffusion_lab.cli import as_trained, command, subject


@command("evaluate", paths=["inpainter", "output", "data.root", "fid.extractor.weights"], before=as_trained)
def main(cfg: DictConfig) -> None:
    from hydra.utils import instantiate

    from diffusion_lab.evaluation import diffusion, evaluate

    inpainter, data, fabric, console, output, protocol = subject(cfg)
    wanted = instantiate(cfg.attributes)
    methods = [diffusion(name, inpainter, instantiate(sampler), wanted) for name, sampler in cfg.methods.items()]
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
            **protocol,
            "attributes": dict(wanted or {}),
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
