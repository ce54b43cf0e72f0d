"""Score a model against its task's baselines: ``uv run evaluate.py``; ``conf/evaluate.yaml`` says what can be set."""

import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from diffusion_lab import sweeps
from diffusion_lab.cli import command, quoted
from diffusion_lab.scripts import as_trained, for_its_task, labelled, subject


def each_of_a_sweep(arguments: list[str]) -> list[str]:
    """Where `inpainter=` names a sweep, its finished jobs are scored instead, each in a process of its own.

    A job that was scored with the same arguments, and not trained since, is left as it is. Ends the script.

    Raises:
        ValueError: if there is nothing to score, one was not scored, or all would write to one place.
    """
    given = dict(argument.split("=", 1) for argument in arguments if "=" in argument)
    folder = Path(given.get("inpainter", "null").strip("'"))
    trained = sorted(folder.glob("*/inpainter/recipe.json"), key=lambda path: (len(path.parts[-3]), path))
    if (folder / "recipe.json").is_file() or not (trained or (folder / sweeps.SWEEP).is_file()):
        return arguments
    for name in ("output", "export"):
        if name in given:
            raise ValueError(f"{name}= is one place, and '{folder}' a sweep: name one of its jobs, or leave it out")
    rest = [argument for argument in arguments if not argument.startswith("inpainter=")]
    jobs, noted = [], (folder / sweeps.SWEEP).is_file()
    for place, path in enumerate(trained):
        run = path.parents[1]
        number = int(run.name) if run.name.isdigit() else place
        if noted and sweeps.Job(number, [], run).noted().get("code") != 0:
            continue
        job = sweeps.Job(number, [*rest, quoted(f"inpainter={path.parent}", ["inpainter"])], run / "evaluation")
        job.forget_unless(after=[path], before=[run / "evaluation" / "results.json"])
        jobs.append(job)
    if not jobs:
        raise ValueError(f"'{folder}' has no job that has ended well yet: there is nothing to score")
    print(f"{sum(job.code == 0 for job in jobs)} of {len(jobs)} jobs of {folder} are scored", flush=True)
    cards = [] if given.get("accelerator") == "cpu" else sweeps.graphics_cards(os.environ)
    places = sweeps.places(None, cards, int(given.get("devices", "1")), os.cpu_count() or 1)
    stopped = sweeps.run(jobs, lambda job: [sys.executable, str(Path(sys.argv[0]).absolute()), *job.overrides], places)
    failed = [str(job.folder.parent) for job in jobs if job.code != 0]
    if failed and not stopped:
        raise ValueError(f"{len(failed)} of {len(jobs)} jobs were not scored: {', '.join(failed)}")
    print(f"next: python -m diffusion_lab.evaluation leaderboard {folder}", flush=True)
    sys.exit(stopped)


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
