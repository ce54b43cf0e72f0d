"""Score a model against its task's baselines: ``uv run evaluate.py``; ``conf/evaluate.yaml`` says what can be set."""

import shutil
from dataclasses import replace
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from diffusion_lab.cli import command
from diffusion_lab.scripts import as_trained, each_of_a_sweep, for_its_task, labelled, subject


@command(
    "evaluate",
    paths=[
        "inpainter",
        "output",
        "export",
        "data.root",
        "training.root",
        "fid.extractor.weights",
        "fd.extractor.weights",
    ],
    before=lambda arguments: as_trained(for_its_task(each_of_a_sweep(arguments))),
)
def main(cfg: DictConfig) -> None:
    from hydra.utils import instantiate

    from diffusion_lab import recipe
    from diffusion_lab.evaluation import Method, diffusion, evaluate, export, page, problems, weights_sha256

    inpainter, data, fabric, console, output, protocol, learned = subject(cfg)
    wanted = instantiate(cfg.attributes)
    task = instantiate(cfg.build, _convert_="all")
    degradations = instantiate(cfg.degradations, _convert_="all") or {"": task.degrade}
    published = cfg.get("protocol")
    masks = instantiate(published.masks if published else cfg.masks, _convert_="all")
    asked = problems(replace(inpainter.task, name=task.name), masks, degradations)
    if cfg.export:
        if fabric.is_global_zero:
            count = export(Path(cfg.export), data.pictures(cfg.split), asked, cfg.num_images)
            console.print(f"Wrote {count} pictures to {cfg.export}/images and their holes to masks/", highlight=False)
        return
    methods = [diffusion(name, inpainter, instantiate(sampler), wanted) for name, sampler in cfg.methods.items()]
    # A baseline that learns is made when the training pictures are there; most others are methods as they stand.
    made = instantiate(cfg.baselines, _convert_="all").values()
    methods += [each if isinstance(each, Method) else each(learned().pictures("train")) for each in made]
    unfinished = output / "unfinished"
    report = evaluate(
        methods,
        data.pictures(cfg.split),
        asked,
        extractor=instantiate(cfg.fid.extractor),
        fabric=fabric,
        num_images=cfg.num_images,
        batch_size=cfg.batch_size,
        seed=cfg.seed,
        completions=cfg.completions,
        gallery=cfg.report.pictures,
        reference=data.pictures(cfg.fid.reference) if cfg.fid.reference else None,
        cache=Path(cfg.paths.cache).expanduser() / "features",
        measures=instantiate(cfg.measures, _convert_="all"),
        sets=instantiate(cfg.sets, _convert_="all"),
        crops=cfg.crops,
        judge=instantiate(cfg.fd.extractor) if cfg.fd.extractor.weights else None,
        training=learned().pictures("train") if cfg.memorisation else None,
        labels=labelled(data, instantiate(cfg.get("labels")), cfg.split),
        protocol={
            **protocol,
            "task": task.name,
            **({"published": {"name": published.name, "pictures": published.pictures}} if published else {}),
            "fid_reference_split": cfg.fid.reference or cfg.split,
            "attributes": dict(wanted or {}),
            "measures": OmegaConf.to_container(cfg.measures, resolve=True),
            "sets": OmegaConf.to_container(cfg.sets, resolve=True),
            "samplers": {
                name: OmegaConf.to_container(sampler, resolve=True) if sampler else recipe.sampler(inpainter.recipe)
                for name, sampler in cfg.methods.items()
            },
        },
        unfinished=unfinished,
        inputs={
            "weights": weights_sha256(inpainter),
            "recipe": inpainter.recipe,
            "settings": OmegaConf.to_container(cfg, resolve=True),
        },
    )
    if fabric.is_global_zero:
        report = replace(report, recipe=inpainter.recipe)
        report.save(output)
        page.write(output / "report.html", {"": report})
        shutil.rmtree(unfinished, ignore_errors=True)
        report.show(console)
        sheets = "grid.png, nearest.png" if report.nearest else "grid.png"
        console.print(f"Saved to {output}: report.html, results.json, results.md, {sheets}", highlight=False)


if __name__ == "__main__":
    main()
