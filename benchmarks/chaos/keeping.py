"""Whoever writes what others rely on: registry, evaluation, sweep, pipeline."""

import json
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from chaos import oracle
from chaos.oracle import Violation
from chaos.processes import Child, strike
from chaos.round import SIGNALS, Outcome, ended
from chaos.training import faces
from diffusion_lab.evaluation import Method, evaluate, kernel, mean_fill, problems
from diffusion_lab.metrics import seam
from diffusion_lab.registry import Registry
from diffusion_lab.registry.gate import by_hand
from diffusion_lab.tasks import inpainting
from evaluated import results
from small import COARSE, small_inpainter
from sweeping import call


def models(folder: Path, count: int) -> list[Path]:
    """Folders of small inpainters with weights of their own, each with the results of an evaluation."""
    made = [folder / f"model{seed}" for seed in range(count)]

    def make() -> None:
        for seed, place in enumerate(made):
            model = small_inpainter(COARSE)
            for parameter in model.parameters():
                torch.nn.init.normal_(parameter, std=0.05, generator=torch.Generator().manual_seed(seed))
            model.recipe["data"].update(name="built-in faces", image_size=8)
            model.save(place)
            (place / "results.json").write_text(json.dumps(results(seed=seed)))

    if not all((place / "results.json").is_file() for place in made):
        child = Child(make, folder / "models.txt")
        if child.wait():
            raise RuntimeError(f"see {folder / 'models.txt'}")
    return made


def timed(work: Callable[[], object], folder: Path, wall: bool = False) -> float:
    """CPU seconds, or those on the wall, that some work takes undisturbed; remembered in a folder."""
    note, begun = folder / ("wall" if wall else "cpu"), time.monotonic()
    if not note.is_file():
        child, seconds = Child(work, folder / "undisturbed.txt"), 0.0
        while child.poll() is None:
            seconds = time.monotonic() - begun if wall else max(seconds, child.seconds())
            time.sleep(0.01)
        if child.wait():
            raise RuntimeError(f"the undisturbed run failed: see {folder / 'undisturbed.txt'}")
        note.write_text(str(seconds))
    return float(note.read_text())


class Writers:
    """Two processes that register and promote the same four models in one registry, of which one is killed."""

    def prepare(self, folder: Path) -> None:
        self.models = models(folder / "registry", 4)
        self.seconds = timed(lambda: write(folder / "registry" / "undisturbed", self.models), folder / "registry")

    def round(self, folder: Path, rng: random.Random) -> Outcome:
        outcome, root = Outcome(), folder / "registry"
        orders = [rng.sample(self.models, len(self.models)) for _ in range(2)]
        children = [Child(lambda order=order: write(root, order), folder / "output.txt") for order in orders]  # type: ignore[misc]
        number, moment = rng.choice(SIGNALS), rng.uniform(0, 0.9) * self.seconds
        struck = strike(children[0], number, moment, rng)
        outcome.blows.append(f"{signal.Signals(number).name} at {moment:.2f} CPU s" + ("" if struck else ", too late"))
        codes = [child.wait() for child in children]
        ended(outcome, codes[1], "the writer that nobody touched")
        if codes[0] != 0:
            ended(outcome, Child(lambda: write(root, orders[0]), folder / "output.txt").wait(), "the second writer")
        outcome.violations += oracle.registry(root / "faces", self.models, "newest")
        return outcome


def write(root: Path, folders: list[Path]) -> None:
    """Registers models one after the other and moves an alias to each."""
    torch.set_num_threads(1)
    registry = Registry(root)
    for folder in folders:
        number = registry.register("faces", folder, folder / "results.json", f"# {folder.name}")
        registry.promote("faces", number, by_hand(f"faces@{number}", "chaos"), "newest")


class Smooth:
    """Pictures from a seed."""

    digest = "smooth"

    def __init__(self, n: int) -> None:
        coarse = torch.rand(n, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * 255
        self.images = torch.nn.functional.interpolate(coarse, (32, 32), mode="bilinear").to(torch.uint8)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, indices: torch.Tensor | list[int]) -> torch.Tensor:
        return self.images[torch.as_tensor(indices)]


class Pixels(torch.nn.Module):
    """Stands for Inception."""

    name, digest, resize = "pixels", "none", "not resized"

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.adaptive_avg_pool2d(images.float() / 255, 2).flatten(1)


class Evaluation:
    """An evaluation of three methods on two kinds of hole, which is called again where it was killed."""

    def prepare(self, folder: Path) -> None:
        self.undisturbed = folder / "evaluation" / "undisturbed"
        self.seconds = timed(lambda: score(self.undisturbed), folder / "evaluation")

    def round(self, folder: Path, rng: random.Random) -> Outcome:
        outcome, output = Outcome(), folder / "evaluation"
        for blow in range(rng.choice((1, 1, 2))):
            child = Child(lambda: score(output), folder / f"output{blow}.txt")
            number, moment = rng.choice(SIGNALS), rng.uniform(0, 0.9) * self.seconds
            struck = strike(child, number, moment, rng)
            said = "" if struck else ", too late"
            outcome.blows.append(f"{signal.Signals(number).name} at {moment:.2f} CPU s{said}")
            if child.wait() == 0:
                break
        else:
            ended(outcome, Child(lambda: score(output), folder / "last.txt").wait(), "the evaluation called again")
        outcome.violations += oracle.same_results(output / "results.json", self.undisturbed / "results.json")
        outcome.violations += oracle.same_bytes(output / "grid.png", self.undisturbed / "grid.png")
        if (output / "unfinished").exists():
            outcome.violations.append(Violation("wrong", "what was unfinished is still there"))
        return outcome


def score(output: Path) -> None:
    """Evaluates, as evaluate.py does, with what is quick in the place of Inception and a trained model."""
    torch.set_num_threads(1)

    def noise(image: torch.Tensor, mask: torch.Tensor, seeds: torch.Tensor) -> torch.Tensor:
        draws = [torch.rand(image.shape[1:], generator=torch.Generator().manual_seed(s)) for s in seeds.tolist()]
        return torch.where(mask, torch.stack(draws) * 2 - 1, image)

    from diffusion_lab.data.masks import center, rectangle

    holes = problems(inpainting(), {"center": center, "box": rectangle})
    report = evaluate(
        [Method("first", noise), mean_fill(), Method("last", noise)],
        Smooth(7),
        holes,
        extractor=Pixels(),
        batch_size=2,
        measures={"seam": seam},
        sets={"kid": kernel},
        gallery=2,
        unfinished=output / "unfinished",
    )
    report.save(output)
    shutil.rmtree(output / "unfinished", ignore_errors=True)


JOBS = ("a", "b", "c.fails", "d", "e", "f")


class Sweep:
    """A sweep of quick jobs in two processes at once; one of them is killed and called again."""

    def prepare(self, folder: Path) -> None:
        (made(folder / "sweep" / "undisturbed") / "mended").touch()  # none of its jobs fails
        self.seconds = timed(lambda: call(str(folder / "sweep" / "undisturbed"), JOBS), folder / "sweep", wall=True)

    def round(self, folder: Path, rng: random.Random) -> Outcome:
        outcome, sweep = Outcome(), made(folder / "sweep")
        child = Child(lambda: call(str(sweep), JOBS), folder / "output.txt")
        number, moment = rng.choice(SIGNALS), rng.uniform(0, 0.9) * self.seconds
        alone = rng.random() < 0.5  # its jobs outlive it
        struck = strike(child, number, moment, rng, everybody=not alone, wall=True)
        outcome.blows.append(
            f"{signal.Signals(number).name} at {moment:.2f} s{' to it alone' if alone else ''}"
            + ("" if struck else ", too late")
        )
        child.wait()
        left_alone(child)
        before = {path: path.read_bytes() for path in sweep.glob("*/job.json")}
        well = [path for path, text in before.items() if json.loads(text)["code"] == 0]
        (sweep / "mended").touch()
        earlier = (sweep / "said").read_text().count("\n") if (sweep / "said").is_file() else 0
        ended(outcome, Child(lambda: call(str(sweep), JOBS), folder / "again.txt").wait(), "the sweep called again")
        begun = [line.split()[0] for line in (sweep / "said").read_text().splitlines()[earlier:]]
        codes = [json.loads((sweep / str(i) / "job.json").read_text())["code"] for i in range(len(JOBS))]
        outcome.violations += [Violation("lost", f"job {i} ended with {code}") for i, code in enumerate(codes) if code]
        done = {JOBS[int(path.parent.name)].split(".")[0] for path in well}
        outcome.violations += [
            Violation("doubled", f"job {name} was done and began again") for name in begun if name in done
        ]
        outcome.violations += oracle.once(begun, {job.split(".")[0] for job in JOBS} - done)
        return outcome


def left_alone(child: Child) -> None:
    """Returns when all that a dead process started has ended; it keeps the folder until then."""
    until = time.monotonic() + 120
    while any(pid != child.pid for pid in child.members()) and time.monotonic() < until:
        time.sleep(0.05)


def made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


PRETENDED = """
import os, pathlib, shutil, sys, time
words = dict(word.split("=", 1) for word in sys.argv[1:])
words = {key: value.strip("'") for key, value in words.items()}
given, run = pathlib.Path(words["given"]), pathlib.Path(words["run"])
with (run / "said").open("a") as file:
    file.write(words["script"] + "\\n")
time.sleep(0.1)
def put(source, place):
    place.parent.mkdir(parents=True, exist_ok=True)
    fresh = place.with_name("." + place.name + str(os.getpid()))
    shutil.copyfile(source, fresh)
    os.replace(fresh, place)
if words["script"] == "train":
    for name in ("recipe.json", "model.safetensors"):
        put(given / name, run / "inpainter" / name)
    put(given / "config.yaml", run / "config.yaml")
else:
    put(given / "results.json", run / "evaluation" / "results.json")
time.sleep(0.1)
"""


class Pipeline:
    """`pipeline.py` with quick scripts in the place of training and evaluation, killed and gone on with."""

    def prepare(self, folder: Path) -> None:
        self.home = folder / "pipeline"
        (self.model,) = models(self.home, 1)
        (self.model / "config.yaml").write_text(json.dumps({"data": data(folder)}))  # JSON is YAML
        self.scripts = made(self.home / "scripts")
        for name in ("train", "evaluate"):
            (self.scripts / f"{name}.py").write_text(PRETENDED)
        self.seconds = timed(self.call(self.home / "undisturbed", ["resume=null"]), self.home, wall=True)

    def call(self, folder: Path, words: list[str]) -> Callable[[], None]:
        def run() -> None:
            from diffusion_lab.commands import pipeline
            from diffusion_lab.registry.stages import Stages

            torch.set_num_threads(1)
            real = Stages.call

            def pretended(stages: Stages, name: Path, overrides: object) -> None:
                asked = [f"script={name.stem}", f"given={self.model}", f"run={stages.folder}"]
                real(stages, self.scripts / name.name, asked)

            Stages.call = pretended  # type: ignore[method-assign]
            sys.argv = [str(Path(pipeline.__file__)), *words, f"paths.logs={folder / 'logs'}"]
            if "resume=auto" not in words:
                own = ("gate.least=4", "gate.pictures=1", "gate.rounds=1", f"registry={folder / 'registry'}")
                sys.argv += [*own, "name=faces"]
            pipeline.main()

        return run

    def round(self, folder: Path, rng: random.Random) -> Outcome:
        outcome = Outcome()
        child = Child(self.call(folder, ["resume=null"]), folder / "output.txt")
        number, moment = rng.choice(SIGNALS), rng.uniform(0, 0.95) * self.seconds
        alone = rng.random() < 0.3
        struck = strike(child, number, moment, rng, everybody=not alone, wall=True)
        outcome.blows.append(
            f"{signal.Signals(number).name} at {moment:.2f} s{' to it alone' if alone else ''}"
            + ("" if struck else ", too late")
        )
        child.wait()
        left_alone(child)
        begun = list(folder.glob("logs/faces/*/pipeline.json"))
        again = Child(self.call(folder, ["resume=auto" if begun else "resume=null"]), folder / "again.txt")
        ended(outcome, again.wait(), "the pipeline that went on")
        for run in folder.glob("logs/faces/*/pipeline.json"):
            stages = json.loads(run.read_text())["done"]
            wanted = {"train", "evaluate", "gate", "register", "promote"}
            outcome.violations += [Violation("lost", f"stage {name} is not done") for name in wanted - stages.keys()]
        outcome.violations += oracle.registry(folder / "registry" / "faces", [self.model], "production", [1])
        return outcome


def data(folder: Path) -> dict[str, object]:
    """A datamodule's node over the pictures that trainings use."""
    return {
        "_target_": "diffusion_lab.data.datamodule.FaceData",
        "source": {"_target_": "diffusion_lab.data.celeba.CelebA", "root": str(faces(folder / "faces"))},
        "crop": {"_target_": "diffusion_lab.data.crops.full"},
        "image_size": 8,
        "batch_size": 4,
        "mask": {"_target_": "diffusion_lab.data.masks.center", "_partial_": True},
        "seed": 0,
        "cache": str(folder / "cache"),
    }
