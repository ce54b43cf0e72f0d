"""The pipeline, cut wherever it can be cut: with scripts that only pretend, and once with the real ones."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from diffusion_lab.inpainting import Inpainter
from diffusion_lab.registry import Decision, Registry, gate
from diffusion_lab.registry.gate import by_hand
from diffusion_lab.registry.stages import Stages
from evaluated import results
from patience import PATIENCE

ROOT = Path(__file__).parents[1]
RunScript = Callable[..., tuple[int, str, str]]


class Scripts:
    """Stand in for train.py and evaluate.py: note how they are called, and write what those would."""

    def __init__(self, inpainter: Inpainter, data: dict[str, Any]) -> None:
        self.inpainter, self.data = inpainter, data
        self.calls: list[tuple[str, Sequence[str]]] = []
        self.seed, self.lpips = 0, 0.2
        self.fails: set[str] = set()

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.calls]

    def call(self, stages: Stages, script: Path, overrides: Sequence[str]) -> None:
        self.calls.append((script.name, overrides))
        assert script.is_file()
        if script.name in self.fails:
            raise ValueError(f"{script.name} ended with exit code 1")
        if script.name == "train.py":
            with torch.no_grad():
                for parameter in self.inpainter.parameters():
                    parameter.normal_(std=0.05, generator=torch.Generator().manual_seed(self.seed))
            self.inpainter.save(stages.folder / "inpainter")
            OmegaConf.save({"data": self.data}, stages.folder / "config.yaml")
        else:
            (stages.folder / "evaluation").mkdir(exist_ok=True)
            figures = json.dumps(results(self.lpips, self.seed))
            (stages.folder / "evaluation" / "results.json").write_text(figures)


@pytest.fixture
def scripts(inpainter: Inpainter, faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scripts:
    data = {
        "_target_": "diffusion_lab.data.datamodule.FaceData",
        "source": {"_target_": "diffusion_lab.data.celeba.CelebA", "root": str(faces)},
        "crop": {"_target_": "diffusion_lab.data.crops.full"},
        "image_size": 16,
        "batch_size": 4,
        "mask": {"_target_": "diffusion_lab.data.masks.center", "_partial_": True},
        "seed": 0,
        "cache": str(tmp_path / "cache"),
    }
    made = Scripts(inpainter, data)
    monkeypatch.setattr(Stages, "call", lambda stages, script, overrides: made.call(stages, script, overrides))
    monkeypatch.setattr(gate, "seconds_per_picture", lambda inpainters, rounds: [0.1, 0.1])
    return made


@pytest.fixture
def where(tmp_path: Path) -> list[str]:
    return [f"paths.logs={tmp_path / 'logs, [é]=1'}", f"registry={tmp_path / 'models, (é)=1'}"]


@pytest.fixture
def registry(where: list[str]) -> Registry:
    return Registry(where[1].removeprefix("registry="))


def run_folder(tmp_path: Path) -> Path:
    (state,) = tmp_path.glob("logs*/faces/*/pipeline.json")
    return state.parent


def test_a_model_goes_from_training_to_production(
    scripts: Scripts, where: list[str], registry: Registry, tmp_path: Path, run_script: RunScript
) -> None:
    code, out, err = run_script(
        "pipeline.py",
        *where,
        "both.data.root=/my photos, [é]=1",
        "train.experiment=shipped",
        "train.model.multipliers=[1,2]",
        "evaluate.~masks.half",
        "evaluate.+masks.thick=lama_thick",
    )
    assert code == 0, err
    run = run_folder(tmp_path)
    assert f"faces@production is version 1 now ({registry.root}/faces/1)" in out
    assert "serve.py inpainter=faces@production" in out
    assert scripts.names == ["train.py", "evaluate.py"]
    trained, evaluated = (list(overrides) for _, overrides in scripts.calls)
    assert {"data.root=/my photos, [é]=1", "experiment=shipped", "model.multipliers=[1,2]"} <= {*trained}
    assert trained[-1] == f"hydra.run.dir='{run}'"
    assert {"data.root=/my photos, [é]=1", "~masks.half", "+masks.thick=lama_thick"} <= {*evaluated}
    assert evaluated[-2:] == [f"inpainter='{run / 'inpainter'}'", f"output='{run / 'evaluation'}'"]
    assert not registry.verify()
    folder = registry.resolve("faces@production")
    assert (folder / "model.safetensors").read_bytes() == (run / "inpainter" / "model.safetensors").read_bytes()
    assert (folder / "card.md").read_text().startswith("# faces\n")
    # Training's centre holes: one fraction; as many examples as the training split has pictures.
    seen = json.loads((folder / "inputs.json").read_text())
    assert len(seen["input_brightness"]) == 32
    assert len(set(seen["mask_fraction"])) == 1


@pytest.mark.parametrize("cut", ["train.py", "evaluate.py", "judged", "registered", "promoted"])
def test_a_second_call_goes_on_where_the_first_was_cut(
    cut: str,
    scripts: Scripts,
    where: list[str],
    registry: Registry,
    tmp_path: Path,
    run_script: RunScript,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Cut in a script, or when a stage's work is done and not yet noted."""
    scripts.fails = {cut}
    with monkeypatch.context() as patch:
        owner, name = {"judged": (Decision, "facts"), "registered": (Registry, "register")}.get(
            cut, (Registry, "promote")
        )
        work = getattr(owner, name)

        def cut_short(*arguments: Any) -> None:
            work(*arguments)
            raise ValueError("cut short")

        if not cut.endswith(".py"):
            patch.setattr(owner, name, cut_short)
        code, _, err = run_script("pipeline.py", *where, "train.seed=7")
    assert code == 1
    assert "cut short" in err or "ended with exit code 1" in err
    scripts.fails, before = set(), len(scripts.calls)
    code, out, err = run_script("pipeline.py", "resume=auto", where[0])  # the registry is remembered
    assert code == 0, err
    again = scripts.names[before:]
    assert again == {"train.py": ["train.py", "evaluate.py"], "evaluate.py": ["evaluate.py"]}.get(cut, [])
    assert all("seed=7" in overrides for name, overrides in scripts.calls if name == "train.py")
    assert [version.label for version in registry.list()] == ["faces@1"]
    assert [move["version"] for move in registry.history("faces")] == [1]
    assert not registry.verify()
    code, out, err = run_script("pipeline.py", f"resume={run_folder(tmp_path)}")
    assert code == 0, err
    assert out.count(": done ") == 5
    assert len(registry.history("faces")) == 1


def test_a_worse_model_stays_outside(
    scripts: Scripts, where: list[str], registry: Registry, tmp_path: Path, run_script: RunScript
) -> None:
    assert run_script("pipeline.py", *where)[0] == 0
    scripts.seed, scripts.lpips = 1, 0.3
    run = tmp_path / "logs, [é]=1" / "faces" / "worse"
    code, _, err = begin_in(run, where, run_script)
    assert code == 1
    assert "the gate refuses this model, and faces@production stays where it is: center, diffusion: lpips" in err
    assert [version.label for version in registry.list()] == ["faces@1"]
    decision = json.loads((run / "decision.json").read_text())
    assert (decision["passed"], decision["champion"]) == (False, "faces@1")
    # The gate is asked again, since the champion may be another one by then; the scripts are not.
    before = len(scripts.calls)
    assert run_script("pipeline.py", f"resume={run}")[0] == 1
    assert len(scripts.calls) == before


def begin_in(run: Path, where: list[str], run_script: RunScript) -> tuple[int, str, str]:
    """Begins a pipeline in a folder of that name, as a call that was cut before its first stage would have."""
    with Stages(run).alone([f"{key}='{value}'" for key, value in (each.split("=", 1) for each in where)]):
        pass
    return run_script("pipeline.py", f"resume={run}")


def test_the_gate_is_asked_again_if_the_champion_changed(
    scripts: Scripts,
    where: list[str],
    registry: Registry,
    tmp_path: Path,
    run_script: RunScript,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert run_script("pipeline.py", *where)[0] == 0
    register = Registry.register

    def overtaken(self: Registry, name: str, *rest: Any) -> int:
        number = register(self, name, *rest)
        first = self.resolve("faces@1")
        rival = register(self, name, first, first / "results.json", "# the rival's card")
        self.promote(name, rival, by_hand(f"faces@{rival}", "somebody was quicker"))
        return number

    monkeypatch.setattr(Registry, "register", overtaken)
    scripts.seed, scripts.lpips = 1, 0.15
    run = tmp_path / "logs, [é]=1" / "faces" / "overtaken"
    code, out, err = begin_in(run, where, run_script)
    assert code == 0, err
    assert "faces@production is faces@3 now, but the gate compared" in out
    assert json.loads((run / "decision.json").read_text())["champion"] == "faces@3"
    assert [move["version"] for move in registry.history("faces")] == [1, 3, 2]


def test_two_calls_do_not_work_in_one_folder(scripts: Scripts, where: list[str], tmp_path: Path) -> None:
    with (
        Stages(tmp_path / "run").alone([]),
        pytest.raises(ValueError, match=f"process {os.getpid()} on .*, or one that it started, is at work in"),
        Stages(tmp_path / "run").alone([]),
    ):
        pass


@pytest.fixture
def sleeper(tmp_path: Path) -> Iterator[Path]:
    script = tmp_path / "sleeper.py"
    script.write_text(
        "import os, sys, signal, pathlib\npid = pathlib.Path(sys.argv[1])\n"
        "pid.with_suffix('.part').write_text(str(os.getpid()))\npid.with_suffix('.part').rename(pid)\nsignal.pause()\n"
    )
    yield script
    if (tmp_path / "pid").is_file():
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)


@pytest.mark.slow
def test_a_script_that_outlives_the_pipeline_keeps_the_folder_locked(sleeper: Path, tmp_path: Path) -> None:
    """Kill -9 reaches the pipeline alone: what it started must not be trained into twice."""
    run = tmp_path / "run"
    program = (
        "import sys\nfrom pathlib import Path\nfrom diffusion_lab.registry import stages\n"
        "s = stages.Stages(Path(sys.argv[1]))\n"
        "with s.alone([]): s.call(Path(sys.argv[2]), [sys.argv[3]])\n"
    )
    pipeline = subprocess.Popen([sys.executable, "-c", program, str(run), str(sleeper), str(tmp_path / "pid")])
    wait_for(tmp_path, "pid", pipeline)
    pipeline.kill()
    pipeline.wait()
    with pytest.raises(ValueError, match="is at work"), Stages(run).alone([]):
        pass
    os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)
    (tmp_path / "pid").unlink()
    with (run / ".pipeline.lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # waits until the kernel has let the dead script's go
    with Stages(run).alone([]):
        pass


def wait_for(folder: Path, pattern: str, process: "subprocess.Popen[Any]") -> None:
    until = time.monotonic() + PATIENCE
    while not list(folder.glob(pattern)):
        assert process.poll() is None, f"{pattern} did not come"
        assert time.monotonic() < until, f"{pattern} did not come"
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["resume=auto"], "resume=auto found no run of pipeline.py"),
        (["resume=nowhere"], "'nowhere' has no pipeline.json"),
        (["trainn.seed=1"], "trainn"),
    ],
)
def test_mistakes_end_in_a_sentence(
    arguments: list[str], message: str, where: list[str], run_script: RunScript
) -> None:
    code, out, err = run_script("pipeline.py", *where, *arguments)
    assert code == 1
    assert message in err
    assert err.count("\n") == 1
    assert "begins" not in out


@pytest.mark.slow
def test_the_real_scripts_killed_in_training_and_resumed(faces: Path, where: list[str], tmp_path: Path) -> None:
    logs, models = (each.split("=", 1)[1] for each in where)
    arguments = [
        *where,
        f"paths.cache={tmp_path / 'cache'}",
        "gate.least=4",
        "both.data=celeba",
        f"both.data.root={faces}",
        "both.data.image_size=32",
        "train.data.batch_size=4",
        "train.model=unet",
        "train.model.channels=32",
        "train.model.multipliers=[1]",
        "train.metrics=none",
        "train.logger=jsonl",
        "train.sampler.steps=2",
        "train.trainer.max_steps=40",
        "train.trainer.validations=1",
        "train.trainer.accelerator=cpu",
        "train.trainer.precision=32-true",
        "train.callbacks.checkpoint.every_n_train_steps=4",
        "evaluate.num_images=4",
        "evaluate.~masks.half",
        "evaluate.~masks.free_form",
        "evaluate.~baselines.telea",
        "evaluate.~baselines.mean",
        "evaluate.accelerator=cpu",
    ]
    command = [sys.executable, str(ROOT / "pipeline.py")]
    first = subprocess.Popen([*command, *arguments], stdout=subprocess.DEVNULL, start_new_session=True)
    wait_for(Path(logs), "faces/*/checkpoints/step=*.ckpt", first)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    done = subprocess.run(
        [*command, "resume=auto", f"paths.logs={logs}"], capture_output=True, text=True, timeout=1500, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "resumed from step=" in done.stdout, done.stdout
    assert "faces@production is version 1 now" in done.stdout
    registry = Registry(models)
    assert not registry.verify()
    folder = registry.resolve("faces@production")
    assert Inpainter.load(folder).recipe["data"]["image_size"] == 32
    facts = json.loads((folder / "results.json").read_text())
    assert len(facts["pictures"][0]["lpips"]) == facts["protocol"]["n"] == 4
    assert len(json.loads((folder / "inputs.json").read_text())["mask_fraction"]) == 32
