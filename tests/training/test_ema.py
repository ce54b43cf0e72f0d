import itertools
import json
import shutil
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from safetensors.torch import load_file
from scipy.integrate import quad
from torch import Tensor, nn

from diffusion_lab.data.datamodule import Batch, FaceData
from diffusion_lab.diffusion.losses import Levels
from diffusion_lab.inpainting import Inpainter
from diffusion_lab.training.callbacks import Export, StopCleanly
from diffusion_lab.training.checkpoints import SafeCheckpointIO
from diffusion_lab.training.ema import Averages, Decay, Exponential, Power, exponential, power
from diffusion_lab.training.module import DiffusionModule
from diffusion_lab.training.reconstruct import combination, main, overlap, reconstruct
from diffusion_lab.training.run import fit
from diffusion_lab.training.snapshots import Snapshots

MakeModule = Callable[..., DiffusionModule]
MakeTrainer = Callable[..., Trainer]


def walk(model: nn.Linear, averages: Averages, steps: int) -> list[float]:
    values = [model.weight.item()]
    for step in range(steps):
        nn.init.constant_(model.weight, float(step + 1))
        averages.update()
        values.append(model.weight.item())
    return values


def test_average_is_the_weighted_sum_written_out() -> None:
    model = nn.Linear(1, 1, bias=False)
    averages = exponential(model, decays=[0.9])
    values = walk(model, averages, 200)
    expected = values[0]
    for n, value in enumerate(values[1:]):
        decay = min(0.9, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * value
    assert averages.average[0].item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("sigma_rel", [0.05, 0.10, 0.25])
def test_a_power_average_weighs_each_step_by_the_integral_of_its_profile(sigma_rel: float) -> None:
    model, profile = nn.Linear(1, 1, bias=False), Power(sigma_rel)
    averages = power(model, sigma_rel=[sigma_rel])
    values = walk(model, averages, 200)
    edges = (np.arange(201) / 200) ** (profile.gamma + 1)
    assert averages.average[0].item() == pytest.approx(float(np.diff(edges) @ values[1:]), rel=1e-5)


@pytest.mark.parametrize("sigma_rel", [0.01, 0.05, 0.10, 0.25, 12**-0.5])
def test_sigma_rel_is_the_standard_deviation_of_the_profile(sigma_rel: float) -> None:
    gamma = Power(sigma_rel).gamma

    def moment(k: int) -> float:
        return float(quad(lambda t: (gamma + 1) * t ** (gamma + k), 0, 1, points=[0.5, 0.9])[0])

    assert (moment(2) - moment(1) ** 2) ** 0.5 == pytest.approx(sigma_rel, rel=1e-6)


def test_several_rates_are_what_each_would_be_alone() -> None:
    model = nn.Linear(1, 1, bias=False)
    decays: list[Decay] = [Exponential(0.5), Exponential(0.8), Power(0.05), Power(0.1)]
    together, alone = Averages(model, decays), [Averages(model, [decay]) for decay in decays]
    for step in range(50):
        nn.init.constant_(model.weight, float(step))
        for averages in (together, *alone):
            averages.update()
    assert [average[0].item() for average in together.averages] == [a.average[0].item() for a in alone]
    assert len({average[0].item() for average in together.averages}) == 4
    with together.applied(2):
        assert model.weight.item() == alone[2].average[0].item()
    assert model.weight.item() == 49


def test_an_error_inside_leaves_the_raw_weights() -> None:
    model = nn.Linear(3, 3)
    averages = exponential(model, decays=[0.5])
    nn.init.zeros_(model.weight)
    averages.update()
    raw, averaged = model.weight.clone(), averages.average[0].clone()

    def validate() -> None:
        with averages.applied():
            assert torch.equal(model.weight, averaged)
            raise RuntimeError("validation broke")

    with pytest.raises(RuntimeError, match="validation broke"):
        validate()
    assert torch.equal(model.weight, raw)
    assert torch.equal(averages.average[0], averaged)


@pytest.mark.parametrize("make", [partial(exponential, decays=[0.99, 0.9]), power])
def test_state_goes_on_where_it_was(make: Callable[[nn.Module], Averages]) -> None:
    model, twin = nn.Linear(2, 2), nn.Linear(2, 2)
    averages = make(model)
    for _ in range(3):
        nn.init.normal_(model.weight)
        averages.update()
    twin.load_state_dict(model.state_dict())
    again = make(twin)
    again.load_state_dict(averages.state_dict())
    for net, ema in ((model, averages), (twin, again)):
        nn.init.ones_(net.weight)
        ema.update()
    for one, other in zip(averages.averages, again.averages, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert again.updates == averages.updates


def test_a_state_of_another_model_or_rate_is_refused() -> None:
    averages = exponential(nn.Linear(2, 2), decays=[0.9])
    with pytest.raises(ValueError, match="of another model"):
        averages.load_state_dict({"updates": 1, "averages": {"decay=0.9": {}}})
    with pytest.raises(ValueError, match=r"averages with sigma_rel=0.05, sigma_rel=0.1 and none with decay=0.9"):
        averages.load_state_dict(power(nn.Linear(2, 2)).state_dict())


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_a_decay_outside_the_unit_interval_is_refused(decay: float) -> None:
    with pytest.raises(ValueError, match=str(decay)):
        exponential(nn.Linear(1, 1), [decay])


@pytest.mark.parametrize("sigma_rel", [0.0, 0.3])
def test_a_width_that_no_profile_has_is_refused(sigma_rel: float) -> None:
    with pytest.raises(ValueError, match=str(sigma_rel)):
        power(nn.Linear(1, 1), [sigma_rel])


@pytest.mark.parametrize("decays", [[], [0.9, 0.9]])
def test_no_rate_or_the_same_twice_is_refused(decays: list[float]) -> None:
    with pytest.raises(ValueError, match="several different ones"):
        exponential(nn.Linear(1, 1), decays)


def test_overlap_is_the_integral() -> None:
    for (gamma_a, a), (gamma_b, b) in [((17, 3), (7, 5)), ((7, 5), (17, 3)), ((2, 4), (2, 4))]:
        integral, _ = quad(
            lambda t, a=a, b=b, g=gamma_a, h=gamma_b: (g + 1) / a * (t / a) ** g * (h + 1) / b * (t / b) ** h,
            0,
            min(a, b),
        )
        assert float(overlap(gamma_a, a, gamma_b, b)) == pytest.approx(integral, rel=1e-9)


def kept(count: int, every: int) -> list[tuple[Power, int]]:
    return [(Power(width), every * (i + 1)) for i in range(count) for width in (0.05, 0.10)]


def trajectory(steps: int) -> Tensor:
    """Weights that approach an optimum and jitter about it, far from 0, ``(steps, 64)`` float64."""
    generator = torch.Generator().manual_seed(0)
    start, end = torch.randn(2, 64, generator=generator, dtype=torch.float64)
    left = torch.exp(-5 * torch.arange(1, steps + 1) / steps)[:, None]
    return 10 + end + left * start + 0.3 * torch.randn(steps, 64, generator=generator, dtype=torch.float64)


def tracked(path: Tensor, sigma_rel: float) -> Tensor:
    """The average after each step, as training keeps it."""
    decay, averages = Power(sigma_rel), [path[0]]
    for step, value in enumerate(path[1:], start=1):
        averages.append(torch.lerp(value, averages[-1], decay(step)))
    return torch.stack(averages)


@pytest.mark.parametrize("sigma_rel", [0.05, 0.06, 0.07, 0.085, 0.10])
def test_reconstruction_is_the_average_tracked_directly(sigma_rel: float) -> None:
    """32 snapshots of 960 steps: the error is about a thousandth of the distance between the two that were kept."""
    path = trajectory(960)
    profiles = kept(32, every=30)
    weights, error = combination(Power(sigma_rel), 960, profiles)
    courses = {width: tracked(path, width) for width in (0.05, 0.10, sigma_rel)}
    made = sum(w * courses[p.sigma_rel][step - 1] for w, (p, step) in zip(weights, profiles, strict=True))
    missed, apart = made - courses[sigma_rel][-1], courses[0.05][-1] - courses[0.10][-1]
    assert float(missed.norm() / apart.norm()) < 0.002
    assert error < 0.0015
    assert weights.sum() == pytest.approx(1, abs=1e-12)


def test_more_snapshots_reach_further_and_nearer() -> None:
    errors = {
        (count, width): combination(Power(width), 480, kept(count, 480 // count))[1]
        for count in (4, 8, 16, 32)
        for width in (0.03, 0.07, 0.15)
    }
    for width in (0.03, 0.07, 0.15):
        fall = [errors[count, width] for count in (4, 8, 16, 32)]
        assert all(after < 0.7 * before for before, after in itertools.pairwise(fall))
    for count in (4, 8, 16, 32):
        assert errors[count, 0.07] < min(errors[count, 0.03], errors[count, 0.15])


def test_after_training_by_command(
    make_module: MakeModule,
    make_trainer: MakeTrainer,
    data: FaceData,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A run tracks .07 too; without its snapshots the command makes the same network of the other two."""
    run = tmp_path / "a run, [é]=1"
    module = make_module(ema=partial(power, sigma_rel=[0.05, 0.10, 0.07]))
    module.inpainter.recipe = {"model": RECIPE, "training": {"seed": 0}}
    make_trainer(64, Snapshots(run / "ema", every_n_steps=4), Export(run / "inpainter")).fit(module, data)
    for path in (run / "ema").glob("*-0.07.safetensors"):
        path.unlink()
    files = sorted(path.name for path in (run / "ema").iterdir())
    assert len(files) == 2 * 16
    assert files[0] == "0000004-0.05.safetensors"

    assert main([str(run), "--sigma-rel", ".07", "--output", str(tmp_path / "made")]) == 0
    assert "next: evaluate.py" in capsys.readouterr().out
    made = load_file(tmp_path / "made" / "model.safetensors")
    tracked = module.ema.tensors(2)
    missed = sum(float((made[f"denoiser.{name}"] - value).square().sum()) for name, value in tracked.items())
    pairs = zip(module.ema.averages[0], module.ema.averages[1], strict=True)
    apart = sum(float((a - b).square().sum()) for a, b in pairs)
    assert missed / apart < 0.002**2
    facts = json.loads((tmp_path / "made" / "recipe.json").read_text())["training"]
    assert facts["step"] == 64
    assert facts["average"].startswith("sigma_rel=0.07, from 32 snapshots")
    assert isinstance(Inpainter.load(tmp_path / "made"), Inpainter)

    of_a_kept_one = reconstruct(run, 0.10, step=32)
    stored = load_file(run / "ema" / "0000032-0.1.safetensors")
    for name, parameter in of_a_kept_one.denoiser.named_parameters():
        torch.testing.assert_close(parameter.detach(), stored[name], rtol=0, atol=1e-6)

    for arguments, sentence in [
        (["--sigma-rel", ".005"], "only to within"),
        (["--sigma-rel", ".07", "--step", "65"], "of steps 4 to 64: there is no average at step 65"),
        (["--sigma-rel", ".5"], "sigma_rel must be above 0"),
        (["--sigma-rel", ".07", "--output", str(run)], "is no inpainter, so it is left alone"),
    ]:
        assert main([str(run), *arguments]) == 1
        assert sentence in capsys.readouterr().err
    shutil.copy(run / "inpainter" / "recipe.json", run / "ema" / "0000004-0.05.safetensors")
    assert main([str(run), "--sigma-rel", ".07"]) == 1
    assert "is damaged" in capsys.readouterr().err
    shutil.rmtree(run / "ema")
    assert main([str(run), "--sigma-rel", ".07"]) == 1
    assert "train with ema=power callbacks=snapshots" in capsys.readouterr().err


def test_a_resumed_run_keeps_every_average_and_the_same_snapshots(
    make_module: MakeModule, make_trainer: MakeTrainer, data: FaceData, tmp_path: Path
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    make_trainer(12, Snapshots(whole, every_n_steps=5)).fit(make_module(ema=power), data)
    first = make_trainer(7, Snapshots(parts, every_n_steps=5))
    first.fit(make_module(ema=power), data)
    first.save_checkpoint(tmp_path / "checkpoints" / "step=7.ckpt")
    fit(make_module(ema=power), data, make_trainer(12, Snapshots(parts, every_n_steps=5)), tmp_path, {})
    for path in whole.iterdir():
        one, other = load_file(path), load_file(parts / path.name)
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_sigterm_in_the_middle_of_a_validation_saves_each_weight_in_its_place(
    make_module: MakeModule, make_trainer: MakeTrainer, data: FaceData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Validation has the average weights; the checkpoint of the stop is that of a run stopped while it trained."""

    def stopped(folder: Path, when: Callable[[int], bool]) -> dict[str, Any]:
        module = make_module()
        losses = module.example_losses

        def signalled(batch: Batch) -> tuple[Levels, Tensor]:
            if when(module.global_step):
                signal.raise_signal(signal.SIGTERM)
            return losses(batch)

        monkeypatch.setattr(module, "example_losses", signalled)
        with pytest.raises(SystemExit, match="143"):
            make_trainer(8, StopCleanly(folder, every_n_steps=1), validations=2).fit(module, data)
        return SafeCheckpointIO().load_checkpoint(folder / "step=4.ckpt")

    validating = stopped(tmp_path / "validating", lambda step: step == 4 and not torch.is_grad_enabled())
    training = stopped(tmp_path / "training", lambda step: step == 3 and torch.is_grad_enabled())
    for name, value in training["state_dict"].items():
        assert torch.equal(validating["state_dict"][name], value)
    (average,), (expected,) = (state["ema"]["averages"].values() for state in (validating, training))
    assert all(torch.equal(average[name], expected[name]) for name in expected)
    raw = validating["state_dict"]
    assert any(not torch.equal(raw[f"inpainter.denoiser.{name}"], average[name]) for name in average)


def test_snapshots_of_an_exponential_average_are_refused(
    make_module: MakeModule, make_trainer: MakeTrainer, data: FaceData, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"is for ema=power: .* with decay=0.9"):
        make_trainer(1, Snapshots(tmp_path / "ema", every_n_steps=1)).fit(make_module(), data)


RECIPE = {
    "_target_": "diffusion_lab.inpainting.Inpainter",
    "denoiser": {
        "_target_": "diffusion_lab.diffusion.denoiser.NetworkDenoiser",
        "network": {
            "_target_": "diffusion_lab.networks.unet.UNet",
            "image_size": 8,
            "channels": 32,
            "multipliers": [1],
            "depth": 1,
        },
        "schedule": {"_target_": "diffusion_lab.diffusion.schedule.linear"},
        "predicts": {"_target_": "diffusion_lab.diffusion.denoiser.Epsilon"},
    },
    "sampler": {"_target_": "diffusion_lab.diffusion.samplers.ddim", "steps": 2},
}
