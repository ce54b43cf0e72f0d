"""The scripts as a person uses them: train, resume, several devices, sweeps, evaluate, inpaint."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from diffusion_lab.data.folder import Folder
from diffusion_lab.training.loggers import read_metrics
from patience import PATIENCE, until
from processes import start, wait_for

ROOT = Path(__file__).parents[1]
RunScript = Callable[..., tuple[int, str, str]]


@pytest.fixture
def tiny(tiny: list[str]) -> list[str]:
    """12 steps of a network that draws numbers too, every one logged, a checkpoint after every 4."""
    steps = ["trainer.max_steps=12", "trainer.log_every_n_steps=1", "callbacks.checkpoint.every_n_train_steps=4"]
    return [*tiny, "model.dropout=0.1", *steps, "callbacks.stop.every_n_steps=1"]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "inpainter" / "model.safetensors")


def test_train_then_kill_and_resume_bit_for_bit(tiny: list[str], tmp_path: Path, run_script: RunScript) -> None:
    whole, killed = tmp_path / "logs" / "whole, [run]", tmp_path / "logs" / "faces" / "killed é=1"
    code, out, err = run_script("train.py", *tiny, f"hydra.run.dir={whole}")
    assert code == 0, err
    assert f"look at {whole}/samples/0000012.png" in out
    assert {"inpainter", "checkpoints", "samples", "metrics.jsonl", "config.yaml"} <= {p.name for p in whole.iterdir()}
    assert [line["step"] for line in read_metrics(whole) if "train/loss" in line] == list(range(12))

    held = tmp_path / "held"
    held.touch()
    hold = ["+callbacks.hold._target_=holding.Hold", "+callbacks.hold.step=6", f"+callbacks.hold.file={held}"]
    long = [*tiny, "trainer.max_steps=400", f"hydra.run.dir={killed}", *hold]
    process = start(*long, threads=torch.get_num_threads(), modules=Path(__file__).parent)
    wait_for(killed / "checkpoints" / "step=4.ckpt", process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    held.unlink()
    logs = f"paths.logs={tmp_path / 'logs'}"
    code, out, err = run_script("train.py", "resume=auto", "trainer.max_steps=12", "model.channels=64", logs)
    assert code == 1
    assert "resume with the model that the run was started with" in err
    code, out, err = run_script("train.py", f"resume={tmp_path / 'logs' / 'latest'}", "trainer.max_steps=12", logs)
    assert code == 0, err
    assert "resumed from step=" in out
    assert os.path.realpath(tmp_path / "logs" / "latest") == str(killed)
    one, other = weights(whole), weights(killed)
    assert all(torch.equal(one[name], other[name]) for name in one)
    code, out, err = run_script("train.py", f"resume={killed}", logs)
    assert code == 0, err
    assert "nothing was left to train at step 12" in out


@pytest.mark.slow
def test_two_processes_train_the_same_as_one(tiny: list[str], tmp_path: Path, run_script: RunScript) -> None:
    alone, both = tmp_path / "logs" / "alone", tmp_path / "logs" / "both"
    plain = [*tiny, "model.dropout=0", "trainer.validations=2"]
    process = start(*plain, "trainer.devices=2", f"hydra.run.dir={both}")
    code, _, err = run_script("train.py", *plain, f"hydra.run.dir={alone}")
    assert code == 0, err
    out = process.communicate(timeout=PATIENCE)[0]
    assert process.returncode == 0, out
    values = [[line["val/loss"] for line in read_metrics(run) if "val/loss" in line] for run in (alone, both)]
    assert values[0] == pytest.approx(values[1], rel=1e-4)
    one, other = weights(alone), weights(both)
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=1e-3, atol=1e-4)


def test_evaluate_and_inpaint_use_the_newest_run(tiny: list[str], tmp_path: Path, run_script: RunScript) -> None:
    logs, cache = f"paths.logs={tmp_path / 'logs'}", f"paths.cache={tmp_path / 'cache'}"
    code, _, err = run_script("train.py", *tiny, "data.image_size=32", "trainer.max_steps=2")
    assert code == 0, err
    learns = ["memorisation=true", "+baseline@baselines.nearest=nearest_face", "completions=2"]
    code, out, err = run_script(
        "evaluate.py", logs, cache, "num_images=3", f"output={tmp_path / 'scores'}", "~masks.half", *learns
    )
    assert code == 0, err
    results = json.loads((tmp_path / "scores" / "results.json").read_text())
    assert {(row["method"], row["mask"]) for row in results["rows"]} == {
        (method, mask)
        for method in ("diffusion", "mean fill", "Telea", "nearest face")
        for mask in ("center", "free_form")
    }
    assert all(row["n"] == 3 and row["fid"] > 0 and row["lpips"] > 0 for row in results["rows"])
    assert all(row["training_distance"] > 0 and row["diversity_hole"] >= 0 for row in results["rows"])
    assert (results["protocol"]["data"], results["protocol"]["crop"]) == ("CelebA", "center148")
    assert results["protocol"]["fid_biased"] is True
    names = {"report.html", "results.json", "results.md", "grid.png", "nearest.png"}
    assert {path.name for path in (tmp_path / "scores").iterdir()} == names

    photo = np.random.default_rng(0).integers(0, 255, (218, 178, 3), dtype=np.uint8)
    hole = np.zeros((218, 178), dtype=np.uint8)
    hole[90:150, 50:120] = 255
    Image.fromarray(photo).save(tmp_path / "me, [a]=é.png")
    Image.fromarray(hole).save(tmp_path / "hole.png")
    code, out, err = run_script(
        "inpaint.py",
        logs,
        f"image={tmp_path / 'me, [a]=é.png'}",
        f"mask={tmp_path / 'hole.png'}",
        f"output={tmp_path / 'out, é.png'}",
        "sampler=ddpm",
        "sampler.steps=3",
        "seed=5",
    )
    assert code == 0, err
    assert "3 network calls" in out
    with Image.open(tmp_path / "out, é.png") as picture:
        result = np.asarray(picture)
        assert "synthetic" in picture.info["Comment"]
    assert np.array_equal(result[hole == 0], photo[hole == 0])
    assert not np.array_equal(result[hole == 255], photo[hole == 255])


def test_training_pictures_that_are_not_here_are_asked_for(tmp_path: Path, run_script: RunScript) -> None:
    """Those of the model that comes with the package are no part of it."""
    places = [f"paths.logs={tmp_path / 'logs'}", f"paths.cache={tmp_path / 'cache'}"]
    code, _, err = run_script("evaluate.py", *places, "num_images=1", "memorisation=true")
    assert code == 1
    assert (
        "was trained on 12,000 generated faces, which are not here: name these pictures by data@training=folder" in err
    )


@pytest.mark.parametrize("script", [pytest.param("evaluate.py", marks=pytest.mark.slow), "likelihood.py"])
def test_scores_are_of_the_pictures_that_it_was_trained_on(
    script: str, tiny: list[str], tmp_path: Path, run_script: RunScript
) -> None:
    """Their split too, which the run chose: a test picture of another split may have been trained on."""
    own, tiny = tmp_path / "my cats, [é]", tiny[2:]
    own.mkdir()
    for i in range(24):
        Image.fromarray(np.full((40, 40, 3), 10 * i, dtype=np.uint8)).save(own / f"{i}.png")
    shares = ["data.shares=[1,1,4]", "data.split_seed=3"]
    test = len(Folder(own, shares=[1, 1, 4], seed=3).names("test"))
    assert test != len(Folder(own).names("test"))
    place = [f"paths.logs={tmp_path / 'logs'}", f"paths.cache={tmp_path / 'cache'}"]
    run = tmp_path / "logs" / "cats" / "run"
    size = ["data.image_size=32", "data.batch_size=2", "trainer.max_steps=1"]
    code, _, err = run_script(
        "train.py", "data=folder", f"data.root={own}", *tiny, *shares, *size, f"hydra.run.dir={run}"
    )
    assert code == 0, err

    less = {"evaluate.py": ["~masks.half", "~masks.free_form", "~baselines.telea"], "likelihood.py": ["steps=1"]}
    settings = [*less[script], *place, "accelerator=cpu"]
    written = {"evaluate.py": "results.json", "likelihood.py": "likelihood.json"}[script]

    def facts(folder: Path) -> tuple[str, int]:
        protocol = json.loads((folder / written).read_text())["protocol"]
        return protocol["data"], protocol["n"]

    code, out, err = run_script(script, *settings)
    assert code == 0, err
    assert f"Scoring {run}/inpainter on the test split of my cats, [é]" in " ".join(out.split())
    assert facts(run / "evaluation") == ("my cats, [é]", test)

    moved, copied = tmp_path / "moved, =[1]", tmp_path / "elsewhere" / "copied"
    own.rename(moved)
    code, _, err = run_script(script, *settings)
    assert (code, len(err.splitlines())) == (1, 1)
    assert f"There is no folder {own}" in err
    assert "say where they are now by data.root=<folder>, or name others by data=folder" in err
    code, _, err = run_script(script, *settings, f"data.root={moved}", f"output={tmp_path / 'moved'}")
    assert code == 0, err
    assert facts(tmp_path / "moved") == ("my cats, [é]", test)

    shutil.copytree(run / "inpainter", copied)
    assert str(tmp_path / "my cats") not in (copied / "recipe.json").read_text()  # of this machine it says nothing
    code, _, err = run_script(script, *settings, f"inpainter={copied}")
    assert (code, len(err.splitlines())) == (1, 1)
    assert f"'{copied}' was trained on my cats, [é], and no config.yaml of its run stands beside it" in err
    code, _, err = run_script(script, *settings, f"inpainter={copied}", f"data.root={moved}")
    assert code == 0, err
    assert facts(tmp_path / "elsewhere" / "evaluation") == ("my cats, [é]", test)
    named = ["data=faces", "num_images=2", f"output={tmp_path / 'others'}"]
    code, _, err = run_script(script, *settings, f"inpainter={copied}", *named)
    assert code == 0, err
    assert facts(tmp_path / "others") == ("built-in faces", 2)


def test_a_run_that_goes_on_under_other_settings_says_so(
    tiny: list[str], tmp_path: Path, run_script: RunScript
) -> None:
    run = tmp_path / "logs" / "run"
    code, _, err = run_script("train.py", *tiny, "trainer.max_steps=4", f"hydra.run.dir={run}")
    assert code == 0, err
    code, out, err = run_script("train.py", f"resume={run}", "trainer.max_steps=5")
    assert code == 0, err
    assert "other settings" not in out
    other = ["trainer.max_steps=6", "seed=1", "data.batch_size=8", "optimizer.lr=1e-3", "mask=center"]
    code, _, err = run_script("train.py", f"resume={run}", *other, "data.batch_size=5000")
    assert (code, "data.batch_size=5000" in err) == (1, True)  # a mistake is not what the next one is compared with
    code, out, err = run_script("train.py", f"resume={run}", *other)
    assert code == 0, err
    said = out.split("from step=5 on under other settings: ")[1].split(";")[0]
    assert {"seed=1 (was 0)", "data.batch_size=8 (was 4)", "optimizer.lr=0.001 (was 0.0016)"} <= set(said.split(", "))
    assert said.count("seed=1") == said.count("(was 0.0016)") == 1
    assert "mask._target_=diffusion_lab.data.masks.center (was diffusion_lab.data.masks.palette)" in said
    code, out, err = run_script("train.py", f"resume={run}", "trainer.max_steps=7")
    assert code == 0, err
    assert "other settings" not in out  # they are the run's own now
    lines = [line for line in read_metrics(run) if "train/loss" in line]
    logged = {"train/loss", "train/gradient_norm", "train/learning_rate", "train/pictures_per_second"}
    assert [line["step"] for line in lines] == list(range(7))
    assert all(logged <= line.keys() for line in lines)
    warming = [1.6e-3 * step / 100 for step in range(1, 6)] + [1e-3 * step / 100 for step in (6, 7)]
    assert [line["train/learning_rate"] for line in lines] == pytest.approx(warming, rel=1e-6)


@pytest.mark.slow
def test_torchrun(tiny: list[str], tmp_path: Path, run_script: RunScript, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its ranks would name the run after different seconds."""
    torchrun = [str(Path(sys.executable).with_name("torchrun")), "--nproc-per-node", "2", str(ROOT / "train.py")]
    run = tmp_path / "logs" / "x" / "run"
    place = [*tiny, "trainer.devices=2", "trainer.max_steps=2", f"hydra.run.dir={run}"]
    done = subprocess.run([*torchrun, *place], capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    assert [line["step"] for line in read_metrics(run) if "train/loss" in line] == [0, 1]
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    code, _, err = run_script("train.py", *tiny, "trainer.devices=2")
    assert code == 1
    assert "under torchrun every rank needs the same folder: add hydra.run.dir=" in err


@pytest.mark.slow
def test_sigterm_to_the_workers_too_ends_with_a_checkpoint(tiny: list[str], tmp_path: Path) -> None:
    run = tmp_path / "logs" / "stopped"
    process = start(*tiny, "trainer.max_steps=100000", "data.num_workers=2", f"hydra.run.dir={run}")
    wait_for(run / "checkpoints" / "step=*.ckpt", process)
    os.killpg(process.pid, signal.SIGTERM)
    out = process.communicate(timeout=PATIENCE)[0]
    assert process.returncode == 143, out
    step = int(out.split("stopped by SIGTERM at step ")[1].split(";")[0])
    assert (run / "checkpoints" / f"step={step}.ckpt").is_file()
    assert "Traceback" not in out


@pytest.mark.slow
@pytest.mark.parametrize("victims", [["main"], ["child"], ["main", "child"]])
def test_sigterm_to_any_rank_ends_all_with_a_checkpoint(tiny: list[str], tmp_path: Path, victims: list[str]) -> None:
    run = tmp_path / "logs" / "stopped"
    process = start(*tiny, "trainer.max_steps=100000", "trainer.devices=2", f"hydra.run.dir={run}")
    wait_for(run / "checkpoints" / "step=*.ckpt", process)
    children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
    for victim in victims:
        os.kill(process.pid if victim == "main" else int(children[0]), signal.SIGTERM)
    out = process.communicate(timeout=PATIENCE)[0]
    assert process.returncode == 143, out
    step = int(out.split("stopped by SIGTERM at step ")[1].split(";")[0])
    assert (run / "checkpoints" / f"step={step}.ckpt").is_file()
    until(lambda: not subprocess.run(["pgrep", "-g", str(process.pid)], capture_output=True, text=True).stdout)


@pytest.mark.slow
def test_a_sweep_outlives_a_job_that_fails(tiny: list[str], tmp_path: Path) -> None:
    """Job 0 fails on two devices; jobs 1 and 2 train their own configuration, and the sweep says what happened."""
    overrides = [o for o in tiny if not o.startswith("model.channels")]
    process = start(
        "-m", *overrides, "model.channels=33,32,64", "model.head_width=32", "trainer.devices=2", "name=sweep"
    )
    out = process.communicate(timeout=PATIENCE)[0]
    assert process.returncode == 1, out
    (sweep,) = (tmp_path / "logs" / "sweep").iterdir()
    assert not (sweep / "0" / "inpainter").exists()
    for job, channels in (("1", 32), ("2", 64)):
        recipe = json.loads((sweep / job / "inpainter" / "recipe.json").read_text())
        assert recipe["model"]["denoiser"]["network"]["channels"] == channels
        assert weights(sweep / job)["denoiser.network.encoder.conv_in.weight"].shape[0] == channels
    assert "exit 1" in out
    assert out.count("well") == 2
