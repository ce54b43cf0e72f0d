"""Train, evaluate, ask the gate, register, promote: `uv run pipeline.py`; `resume=auto` goes on where it was cut.

An override that begins with `train.` or `evaluate.` is that script's, one that begins with `both.` is both's:
`pipeline both.data=celeba both.data.root=/data/celeba train.trainer.max_steps=20000 evaluate.num_images=1000`.
"""

import json
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from diffusion_lab.cli import as_called, command, configured_beside, fresh_name, quoted

SCRIPTS = ("both", "train", "evaluate")


def listed(values: list[str]) -> str:
    """A list of texts as Hydra reads it, whatever they hold."""
    return "[" + ",".join(quoted(f"text={value}", ["text"]).removeprefix("text=") for value in values) + "]"


def gathered(arguments: list[str]) -> list[str]:
    """Puts a resumed run's arguments before the new ones, and the scripts' overrides into lists."""
    asked = [argument.partition("=")[2].strip("'") for argument in arguments if argument.startswith("resume=")]
    rest = [argument for argument in arguments if not argument.startswith("resume=")]
    if asked and asked[-1] not in ("", "null"):
        from diffusion_lab.registry.stages import earlier, newest

        logs = [argument.partition("=")[2].strip("'") for argument in rest if argument.startswith("paths.logs=")]
        folder = newest(Path(logs[-1] if logs else "logs")) if asked[-1] == "auto" else Path(asked[-1])
        rest = [*earlier(folder), *rest, quoted(f"resume={folder}", ["resume"])]
    own = [argument for argument in rest if argument.split(".")[0] not in SCRIPTS]
    theirs = {
        script: [argument.removeprefix(f"{script}.") for argument in rest if argument.startswith(f"{script}.")]
        for script in SCRIPTS
    }
    return [*own, *(f"{script}={listed(overrides)}" for script, overrides in theirs.items() if overrides)]


@command("pipeline", paths=["registry", "resume", "paths.logs", "paths.cache"], before=gathered)
def main(cfg: DictConfig) -> None:
    from hydra.core.hydra_config import HydraConfig
    from hydra.utils import instantiate
    from rich.console import Console

    from diffusion_lab import recipe
    from diffusion_lab.commands.registry import show
    from diffusion_lab.registry import Candidate, Decision, Moved, Registry, card, inputs
    from diffusion_lab.registry.stages import Stages

    folder = Path(cfg.resume or Path(cfg.paths.logs) / cfg.name / fresh_name())
    own = [text for text in HydraConfig.get().overrides.task if text.split("=")[0] not in (*SCRIPTS, "resume")]
    arguments = [*own, *(f"{script}.{text}" for script in SCRIPTS for text in cfg[script])]
    stages = Stages(folder)
    registry = Registry(cfg.registry)
    here = Path(__file__).parent
    inpainter, results = folder / "inpainter", folder / "evaluation" / "results.json"

    def path(key: str, value: Any) -> str:
        return quoted(f"{key}={value}", [key])

    where = [*configured_beside(), *(path(f"paths.{key}", cfg.paths[key]) for key in ("logs", "cache"))]

    def train() -> dict[str, Any]:
        stages.call(
            here / "train.py",
            [*where, f"name={cfg.name}", "next=null", *cfg.both, *cfg.train, path("hydra.run.dir", folder)],
        )
        return {"inpainter": str(inpainter)}

    def evaluate() -> dict[str, Any]:
        stages.call(
            here / "evaluate.py",
            [*where, *cfg.both, *cfg.evaluate, path("inpainter", inpainter), path("output", results.parent)],
        )
        return {"results": str(results)}

    def gate() -> dict[str, Any]:
        figures = json.loads(results.read_text(encoding="utf-8"))
        (folder / "card.md").write_text(card(cfg.name, recipe.read(inpainter), figures, cfg.terms), encoding="utf-8")
        candidate = Candidate(str(folder), inpainter, figures, (folder / "card.md").read_text(encoding="utf-8"))
        judge = instantiate(cfg.gate, _convert_="all")
        decision: Decision = judge(candidate, registry.champion(cfg.name, cfg.alias))
        (folder / "decision.json").write_text(
            json.dumps(decision.facts(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
        )
        show(decision, Console())
        if not decision.passed:
            raise ValueError(
                f"the gate refuses this model, and {cfg.name}@{cfg.alias} stays where it is: "
                f"{'; '.join(decision.reasons)} (all reasons: {folder / 'decision.json'})"
            )
        return {"decision": str(folder / "decision.json")}

    def register() -> dict[str, Any]:
        trained = OmegaConf.load(folder / "config.yaml")
        data = instantiate(trained.data)
        text = (folder / "card.md").read_text(encoding="utf-8")
        seen = inputs(data.pictures("train"), data.mask)
        return {"version": registry.register(cfg.name, inpainter, results, text, seen)}

    def promote() -> dict[str, Any]:
        decision = Decision.read(json.loads((folder / "decision.json").read_text(encoding="utf-8")))
        version = stages.done["register"]["version"]
        return {"kept": str(registry.promote(cfg.name, version, decision, cfg.alias))}

    with stages.alone(arguments):
        print(f"run folder: {folder}", flush=True)
        stages.once("train", train)
        stages.once("evaluate", evaluate)
        while True:
            stages.once("gate", gate)
            version = stages.once("register", register)["version"]
            try:
                stages.once("promote", promote)
            except Moved as moved:  # somebody else's model won the place in the meantime: compare with that one
                print(moved, flush=True)
                stages.forget("gate")
                continue
            break
    said = (
        f"{cfg.name}@{cfg.alias} is version {version} now ({registry.resolve(f'{cfg.name}@{version}')}). "
        f"Services started with serve.py inpainter={cfg.name}@{cfg.alias} watch that name and change over; "
        f"`diffusion-lab registry --root {cfg.registry} rollback {cfg.name}` takes it back."
    )
    print(as_called(said))


if __name__ == "__main__":
    main()
