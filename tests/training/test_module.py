import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from diffusion_lab.data.datamodule import Batch, FaceData
from diffusion_lab.data.examples import floats
from diffusion_lab.diffusion.denoiser import Condition, Prediction
from diffusion_lab.diffusion.losses import input_perturbation
from diffusion_lab.diffusion.noise import KeyedNoise
from diffusion_lab.training.callbacks import Export
from diffusion_lab.training.checkpoints import SafeCheckpointIO
from diffusion_lab.training.loggers import JSONLinesLogger
from diffusion_lab.training.looks import Samples
from diffusion_lab.training.module import DiffusionModule, warmup_constant, warmup_cosine
from diffusion_lab.training.run import changes, digest, fit

MakeModule = Callable[..., DiffusionModule]
MakeTrainer = Callable[..., Trainer]


class Watch(Callback):
    """Remembers the pictures and the loss of every step, and poisons the losses of some."""

    def __init__(self, poisoned: range = range(0)) -> None:
        self.poisoned = poisoned
        self.indices: list[list[int]] = []
        self.losses: list[float] = []
        self.weights: list[torch.Tensor] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int) -> None:
        if trainer.global_step in self.poisoned:
            batch.image.fill_(float("nan"))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        self.indices.append(batch.index.tolist())
        self.losses.append(float(outputs["loss"]))
        self.weights.append(next(pl_module.parameters()).detach().clone())


def test_it_learns_the_pictures(make_module: MakeModule, make_trainer: MakeTrainer, data: FaceData) -> None:
    watch = Watch()
    make_trainer(120, watch).fit(make_module(), data)
    first, last = sum(watch.losses[:5]) / 5, sum(watch.losses[-20:]) / 20
    assert first == pytest.approx(1, abs=0.25)  # a zero-initialised output leaves E|eps|^2 = 1
    assert last < 0.6 * first


def test_noise_and_level_follow_from_the_key_alone(make_module: MakeModule, data: FaceData) -> None:
    module = make_module()
    torch.nn.init.normal_(module.inpainter.denoiser.network.conv_out.weight)  # type: ignore[union-attr, arg-type]
    data.prepare_data()
    batch = floats(next(iter(data.train_dataloader())))
    _, together = module.example_losses(batch)
    for i in reversed(range(4)):
        _, alone = module.example_losses(Batch(*(tensor[i : i + 1] for tensor in batch)))
        torch.testing.assert_close(alone[0], together[i], rtol=1e-5, atol=1e-6)


class Seen(torch.nn.Module):
    """A denoiser that remembers what it was asked, and says what it is given."""

    def __init__(self, schedule: Any) -> None:
        super().__init__()
        self.schedule = schedule
        self.network = torch.nn.Linear(1, 1)

    def forward(self, x: torch.Tensor, level: torch.Tensor, condition: Condition) -> Prediction:
        self.x, self.level, self.condition = x, level, condition
        return Prediction(torch.zeros_like(x), torch.zeros_like(x))


@pytest.mark.parametrize("perturbed", [False, True])
def test_a_step_shows_the_noised_hole_and_asks_for_its_noise(
    make_module: MakeModule, data: FaceData, perturbed: bool
) -> None:
    """DDPM algorithm 1 in the hole, Palette's known pixels outside, and DDPM-IP's perturbation in x alone."""
    module = make_module()
    seen = Seen(module.inpainter.denoiser.schedule)
    module.inpainter.denoiser = seen  # type: ignore[assignment]
    asked: list[torch.Tensor] = []

    def loss(prediction: Any, x_0: torch.Tensor, eps: torch.Tensor, levels: Any, mask: torch.Tensor) -> torch.Tensor:
        asked.append(eps)
        return x_0.new_zeros(len(x_0))

    module.loss = loss
    if perturbed:
        module.perturb = input_perturbation
    data.prepare_data()
    batch = floats(next(iter(data.train_dataloader())))
    module.example_losses(batch)
    (eps,) = asked
    gamma = seen.level.float()[:, None, None, None]
    hole, face = batch.mask.expand_as(eps), batch.image
    assert torch.equal(seen.x[~hole], face[~hole])
    inside = ((seen.x - gamma.sqrt() * face) / (1 - gamma).sqrt() - eps)[hole]
    if perturbed:
        assert 0.05 < inside.std() < 0.2  # a tenth of another noise
        assert abs(float(torch.corrcoef(torch.stack([inside, eps[hole]]))[0, 1])) < 0.3
    else:
        torch.testing.assert_close(inside, torch.zeros_like(inside), rtol=0, atol=1e-3)
    assert seen.condition.known is not None
    assert torch.equal(seen.condition.known[~hole], face[~hole])
    fill = seen.condition.known[hole]
    assert not torch.equal(fill, face[hole])
    assert abs(float(torch.corrcoef(torch.stack([fill, eps[hole]]))[0, 1])) < 0.3  # the noise there is noise of its own


def test_a_resumed_run_is_the_uninterrupted_one(
    make_module: MakeModule, make_trainer: MakeTrainer, data: FaceData, tmp_path: Path
) -> None:
    """Data order, noise, dropout, optimiser and average; 11 steps is in the middle of the second epoch."""

    class Stop(Callback):
        def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
            if trainer.global_step == 11:
                trainer.save_checkpoint(tmp_path / "checkpoints" / "step=11.ckpt")
                raise KeyboardInterrupt

    whole, before, after = Watch(), Watch(), Watch()
    uninterrupted = make_module(dropout=0.2)
    make_trainer(20, whole).fit(uninterrupted, data)
    with pytest.raises(SystemExit):
        make_trainer(20, before, Stop()).fit(make_module(dropout=0.2), data)
    resumed = make_module(dropout=0.2)
    fit(resumed, data, make_trainer(20, after), tmp_path, {})
    assert before.indices + after.indices == whole.indices
    assert before.losses + after.losses == whole.losses
    pairs = zip(uninterrupted.ema.average, resumed.ema.average, strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_a_checkpoint_holds_nothing_but_tensors_and_plain_values(
    make_module: MakeModule, make_trainer: MakeTrainer, data: FaceData, tmp_path: Path
) -> None:
    module, trainer = make_module(), make_trainer(2)
    trainer.fit(module, data)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    state = SafeCheckpointIO().load_checkpoint(tmp_path / "a.ckpt")  # reads with weights_only
    name = "inpainter.denoiser.network." + next(n for n, _ in module.inpainter.denoiser.network.named_parameters())
    assert torch.equal(state["state_dict"][name], module.state_dict()[name])
    average = state["ema"]["averages"]["decay=0.9"][module.ema.names[-1]]
    assert not torch.equal(average, module.ema.parameters[-1])  # raw there, average here


def test_a_gradient_that_is_not_finite_is_skipped(
    make_module: MakeModule, make_trainer: MakeTrainer, data: FaceData
) -> None:
    watch, module = Watch(poisoned=range(2, 4)), make_module()
    make_trainer(6, watch).fit(module, data)
    assert math.isnan(watch.losses[2])
    assert torch.equal(watch.weights[1], watch.weights[3])
    assert not torch.equal(watch.weights[3], watch.weights[4])
    assert all(bool(torch.isfinite(average).all()) for average in module.ema.average)


def test_too_many_in_a_row_end_the_run(make_module: MakeModule, make_trainer: MakeTrainer, data: FaceData) -> None:
    watch = Watch(poisoned=range(2, 20))
    with pytest.raises(FloatingPointError, match=r"3 steps in a row, the last at step 4"):
        make_trainer(20, watch).fit(make_module(max_skipped=3), data)


def test_average_weights_validate_and_ship(
    make_module: MakeModule, make_trainer: MakeTrainer, data: FaceData, tmp_path: Path
) -> None:
    """What is validated, drawn and exported is the average, not the raw weights (Janspiry's fault)."""
    from safetensors.torch import load_file

    seen: list[torch.Tensor] = []
    module = make_module()

    class Spy(Callback):
        def on_validation_start(self, *_: Any) -> None:
            module.inpainter.denoiser.register_forward_hook(
                lambda denoiser, *_: seen.append(next(denoiser.parameters()).detach().clone())
            )

    trainer = make_trainer(5, Spy(), Samples(tmp_path / "samples", count=2, strip=1), Export(tmp_path / "inpainter"))
    trainer.fit(module, data)
    average, raw = module.ema.average[0], module.ema.parameters[0]
    assert not torch.equal(average, raw)
    assert seen
    assert all(torch.equal(weights, average) for weights in seen)
    exported = load_file(tmp_path / "inpainter" / "model.safetensors")
    assert torch.equal(exported[f"denoiser.{module.ema.names[0]}"], average)
    assert (tmp_path / "samples" / "0000005.png").is_file()


def test_the_best_by_a_metric_is_kept(
    make_module: MakeModule, make_trainer: MakeTrainer, data: FaceData, tmp_path: Path
) -> None:
    import json

    class Falling(Callback):
        values = iter([3.0, 1.0, 2.0])

        def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            pl_module.log("val/fake", next(self.values))

    trainer = make_trainer(6, Falling(), Export(tmp_path / "inpainter", monitor="val/fake"), validations=3)
    trainer.fit(make_module(), data)
    recipe = json.loads((tmp_path / "inpainter" / "recipe.json").read_text())
    assert recipe["training"]["step"] == 4


def test_an_unknown_metric_is_named(
    make_module: MakeModule, make_trainer: MakeTrainer, data: FaceData, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"'val/psnrr', but the metrics are: .*val/loss"):
        make_trainer(1, Export(tmp_path / "inpainter", monitor="val/psnrr")).fit(make_module(), data)


def test_learning_rates() -> None:
    assert [warmup_cosine(s, 110, warmup=10) for s in (0, 9, 10, 60, 110)] == pytest.approx([0.1, 1, 1, 0.5, 0])
    assert warmup_cosine(200, 110, warmup=10, final=0.1) == pytest.approx(0.1)
    assert [warmup_constant(s, 110, warmup=4) for s in (0, 3, 100)] == pytest.approx([0.25, 1, 1])


class Rates(Callback):
    """Remembers the learning rate of every step and stops the run after one, as a kill would."""

    def __init__(self, stop: int | None = None) -> None:
        self.stop = stop
        self.values: list[float] = []

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        self.values.append(optimizer.param_groups[0]["lr"])

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == self.stop:
            trainer.save_checkpoint(Path(trainer.default_root_dir) / "checkpoints" / f"step={self.stop}.ckpt")
            raise KeyboardInterrupt


def test_a_longer_run_joins_its_course_as_a_run_begins(
    make_module: MakeModule,
    make_trainer: MakeTrainer,
    data: FaceData,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """8 steps that fall to 0, then 24: the rate rises by a quarter a step, as in the warm-up of 4, up to the cosine."""

    def trained(steps: int, stop: int | None = None) -> list[float]:
        rates, module = Rates(stop), make_module(lr=1.0)
        module.learning_rate = partial(warmup_cosine, warmup=4)
        fit(module, data, make_trainer(steps, rates), tmp_path, {})
        return rates.values

    def cosine(step: int, steps: int) -> float:
        return 0.5 + 0.5 * math.cos(math.pi * (step - 4) / (steps - 4))

    first = trained(8)
    assert first == pytest.approx([0.25, 0.5, 0.75, 1, 1, cosine(5, 8), cosine(6, 8), cosine(7, 8)])
    assert "learning rate" not in capsys.readouterr().out
    with pytest.raises(SystemExit):
        trained(24, stop=10)
    assert (
        "trainer.max_steps is 24 and was 8: at step 8 the learning rate is 0% of its largest and goes to the 90% of "
        "the new course, as in a warm-up"
    ) in capsys.readouterr().out
    joined = trained(24)  # interrupted within the rise, and resumed again
    assert "learning rate" not in capsys.readouterr().out
    assert joined == pytest.approx([0.75, *(cosine(step, 24) for step in range(11, 24))])


def test_a_run_made_longer_before_its_end_does_not_begin_anew(
    make_module: MakeModule, make_trainer: MakeTrainer, data: FaceData, tmp_path: Path
) -> None:
    with pytest.raises(SystemExit):
        fit(make_module(lr=1.0), data, make_trainer(20, Rates(stop=5)), tmp_path, {})
    rates = Rates()
    fit(
        make_module(lr=1.0), data, make_trainer(9, rates), tmp_path, {}
    )  # warmup_constant: the rate stands at its largest
    assert rates.values == [1.0] * 4


def test_settings_of_the_optimiser_that_are_others_reach_a_resumed_one(
    make_module: MakeModule, make_trainer: MakeTrainer, data: FaceData, tmp_path: Path
) -> None:
    fit(make_module(lr=2e-3), data, make_trainer(4), tmp_path, {})
    module = make_module(lr=5e-4)
    module.optimizer = partial(torch.optim.AdamW, lr=5e-4, weight_decay=0.3)
    trainer = make_trainer(6)
    fit(module, data, trainer, tmp_path, {})
    (group,) = trainer.optimizers[0].param_groups
    assert (group["lr"], group["weight_decay"], group["betas"]) == (5e-4, 0.3, (0.9, 0.999))
    assert all(
        float(state["step"]) == 6 for state in trainer.optimizers[0].state.values()
    )  # its moments are the old ones


@pytest.mark.parametrize("accumulate", [1, 2])
def test_gradient_and_rate_are_logged_as_they_were(
    make_module: MakeModule, make_trainer: MakeTrainer, data: FaceData, tmp_path: Path, accumulate: int
) -> None:
    """The norm of the whole gradient before it is clipped, and the rate of that step; of every second one."""

    class Norms(Callback):
        values: ClassVar[list[float]] = []

        def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
            squares = [p.grad.double().square().sum() for p in pl_module.parameters() if p.grad is not None]
            self.values.append(float(torch.stack(squares).sum().sqrt()))

    Norms.values.clear()
    trainer, module = make_trainer(4, Norms()), make_module(lr=0.5)
    trainer.accumulate_grad_batches = accumulate
    trainer.log_every_n_steps = 2
    trainer.loggers = [JSONLinesLogger(tmp_path)]
    trainer.gradient_clip_val = 1e-3
    module.learning_rate = partial(warmup_constant, warmup=8)
    trainer.fit(module, data)
    lines = [
        line for line in map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines()) if "train/loss" in line
    ]
    assert [line["step"] for line in lines] == [1, 3]
    assert [line["train/gradient_norm"] for line in lines] == pytest.approx([Norms.values[i] for i in (1, 3)], rel=1e-5)
    assert all(norm > 1e-2 for norm in Norms.values)  # clipped, they would be 1e-3
    assert [line["train/learning_rate"] for line in lines] == pytest.approx([0.5 * 2 / 8, 0.5 * 4 / 8])


def test_what_changes_is_said_once_by_the_name_that_a_person_writes() -> None:
    def config(lr: float, seed: int, **rest: Any) -> dict[str, Any]:
        optimizer = {"lr": lr, "build": {"lr": lr, "betas": [0.9, 0.999]}}
        data = {"seed": seed, "root": "/a", "cache": "/a", "num_workers": 0}
        return {
            "optimizer": optimizer,
            "module": {"optimizer": optimizer["build"]},
            "data": data,
            "seed": seed,
            "trainer": {"max_steps": 5, "folder": "/a", "precision": None},
            **rest,
        }

    assert changes(config(1.0, 0), config(1.0, 0)) == []
    assert changes(config(1.0, 0), config(2.0, 3)) == ["seed=3 (was 0)", "optimizer.lr=2.0 (was 1.0)"]
    assert changes(config(1.0, 0), config(1.0, 0, labels={"a": 1})) == ["labels.a=1 (was None)"]
    moved = config(1.0, 0, paths={"cache": "/b"}, trainer={"max_steps": 9, "folder": "/b", "precision": None})
    moved["data"] |= {"cache": "/b", "num_workers": 4}
    assert changes(config(1.0, 0), moved) == []
    assert changes(config(1.0, 0), config(1.0, 0, trainer={"precision": 32})) == ["trainer.precision=32 (was None)"]


def test_digest_tells_configurations_apart() -> None:
    assert digest({"a": 1, "b": [1, 2]}) == digest({"b": [1, 2], "a": 1})
    assert digest({"a": 1}) != digest({"a": 2})
    assert 0 <= digest({"a": 1}) < 2**63


def test_attributes_are_said_by_key_but_for_a_share(make_module: MakeModule) -> None:
    module = make_module()
    attributes = torch.tensor([[1.0, 0.0]]).expand(400, -1)
    assert module.unsaid == 0.1
    said = module.said(attributes, KeyedNoise(torch.arange(400), (1,)))
    assert said is not None
    silent = said.isnan().all(dim=1)
    assert torch.equal(said[~silent], attributes[~silent])  # a row is said whole, or left out whole
    assert silent.sum() == pytest.approx(40, abs=4 * 6)  # four standard deviations of Binomial(400, .1)
    again = module.said(attributes[:7], KeyedNoise(torch.arange(7), (1,)))
    torch.testing.assert_close(again, said[:7], equal_nan=True)
    assert module.said(torch.empty(4, 0), KeyedNoise(torch.arange(4), (1,))) is None
