"""The loop itself: what it calls, what it keeps, and that rows do not hear of one another."""

import pickle
from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor

from diffusion_lab.diffusion import process, samplers
from diffusion_lab.diffusion.denoiser import Condition, Epsilon, NetworkDenoiser, Prediction
from diffusion_lab.diffusion.mixture import gaussian
from diffusion_lab.diffusion.noise import ExampleNoise
from diffusion_lab.diffusion.sampling import (
    Around,
    InTurn,
    Sampler,
    advance,
    from_x,
    keep_clean,
    keep_noised,
    sample,
    start,
    unconstrained,
)
from diffusion_lab.diffusion.schedule import linear
from diffusion_lab.diffusion.solvers import Ancestral
from diffusion_lab.recipe import build

CONF = Path(__file__).parents[2] / "conf"
SHAPE = (3, 8, 8)


class Smooth(torch.nn.Module):
    """A network in torch that looks at everything that it is given."""

    def __init__(self, condition_channels: int) -> None:
        super().__init__()
        self.condition_channels = condition_channels
        self.calls = 0

    def forward(self, x: Tensor, known: Tensor, time: Tensor, attributes: Tensor | None) -> Tensor:
        self.calls += 1
        seen = x.roll(1, -1) + known.sum(1, keepdim=True) + 0.001 * time.reshape(-1, 1, 1, 1)
        return torch.tanh(seen + (0 if attributes is None else attributes.nan_to_num(0.3).mean(1).reshape(-1, 1, 1, 1)))


def condition(seeds: list[int]) -> Condition:
    noise = ExampleNoise([seed + 1000 for seed in seeds], SHAPE)
    mask = torch.zeros(len(seeds), 1, 8, 8, dtype=torch.bool)
    mask[..., 2:6] = True
    fill = noise()
    known = torch.where(mask, fill, noise().tanh())
    return Condition(known=known, mask=mask, fill=fill, attributes=torch.ones(len(seeds), 2))


def walk(sampler: Sampler, seeds: list[int], model: NetworkDenoiser, constrain=keep_clean) -> Tensor:
    noise = ExampleNoise(seeds, SHAPE)
    return sample(model, sampler, model.schedule, noise(), condition(seeds), noise, constrain)


def model(condition_channels: int = 4) -> NetworkDenoiser:
    return NetworkDenoiser(Smooth(condition_channels), linear(), Epsilon())


SAMPLERS = {
    "ddim": samplers.ddim(10),
    "ddim_eta": samplers.ddim(10, eta=0.5),
    "quadratic": samplers.ddim_quadratic(10),
    "dynamic": samplers.ddim_thresholded(10),
    "ddpm": samplers.ddpm(20),
    "sections": samplers.ddpm_sections([4, 3, 3]),
    "ddim_sections": samplers.ddim_sections([4, 3, 3]),
    "strided": samplers.ddim_strided(10),
    "palette": samplers.palette(15),
    "dpm": samplers.dpm_solver(8),
    "dpm_karras": samplers.dpm_solver_karras(8, eta=1.0),
    "heun": samplers.heun(6),
    "churn": samplers.heun(6, churn=3.0, churn_noise=1.01, sigma_min=0.01, sigma_max=50.0),
    "free": samplers.classifier_free(8),
    "replacement": samplers.replacement(10),
    "repaint": samplers.repaint(12, 3, 3),
    "dps": samplers.dps(10),
    "mcg": samplers.mcg(10),
    "ddnm": samplers.ddnm(10),
}
every_sampler = pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS.keys())


@every_sampler
def test_the_network_is_asked_as_often_as_announced(sampler):
    denoiser = model()
    walk(sampler, [1, 2], denoiser)
    assert denoiser.network.calls == sampler.network_calls(denoiser.schedule)


@every_sampler
@pytest.mark.parametrize("channels", [0, 3, 4])
def test_a_seed_makes_the_same_picture_in_any_company(sampler, channels):
    denoiser = model(channels)
    together = walk(sampler, [5, 6, 7, 8], denoiser)
    alone = torch.cat([walk(sampler, [seed], denoiser) for seed in (5, 6, 7, 8)])
    assert bool(together.isfinite().all())
    assert (together - alone).abs().max() <= 2 / 255  # one 8-bit level
    assert torch.equal(together, walk(sampler, [5, 6, 7, 8], denoiser))
    assert not torch.equal(together[0], together[1])


@every_sampler
def test_rows_that_share_a_network_call_walk_as_if_alone(sampler):
    """What the service does: join, predict once, and let each `advance` with its part of the prediction."""
    denoiser, seeds = model(), [1, 2, 3, 4]
    wrapped = sampler.wrap(denoiser)

    def rows_of(seeds: list[int]):
        noise = ExampleNoise(seeds, SHAPE)
        x_T = noise()
        return start(x_T, sampler.path(denoiser.schedule), sampler, keep_clean, condition(seeds), noise)

    whole, split = rows_of(seeds), [rows_of([seed]) for seed in seeds]
    while not whole.done:
        with torch.no_grad():
            joined = [torch.cat([rows.x for rows in split]), torch.cat([rows.level for rows in split])]
            whole = advance(whole, wrapped(whole.x, whole.level, whole.condition))
            said = wrapped(*joined, whole.condition)
            split = [advance(rows, said.map(lambda t, i=i: t[i : i + 1])) for i, rows in enumerate(split)]
    assert (whole.x - torch.cat([rows.x for rows in split])).abs().max() <= 2 / 255


def test_known_pixels_stand_as_the_constraint_says():
    seen = []
    denoiser, seeds = model(), [1, 2]
    for constrain in (keep_clean, keep_noised):
        noise = ExampleNoise(seeds, SHAPE)
        where = condition(seeds)
        assert where.known is not None
        assert where.mask is not None
        sampler = samplers.repaint(12, 3, 3)
        sampler = replace(sampler, constrain=constrain)

        def keep(rows, prediction):
            seen.append((rows.path[rows.index], rows.x[~rows.condition.mask.expand_as(rows.x)]))

        sample(denoiser, sampler, denoiser.schedule, noise(), where, noise, on_step=keep)
        known = where.known[~where.mask.expand_as(where.known)]
        for level, x in seen:
            if constrain is keep_clean:
                assert torch.equal(x, known)
            else:
                left = (x - float(level.sqrt()) * known) / max(1e-6, float((1 - level).sqrt()))
                assert level == 1 or left.square().mean().item() == pytest.approx(1, abs=0.5)
        torch.testing.assert_close(seen[-1][1], known)
        seen.clear()


@pytest.mark.parametrize("constrain", [keep_clean, keep_noised])
def test_the_first_call_sees_known_pixels_as_every_other_does(constrain):
    """At the start of the path no step was taken yet that would have put them in."""
    seen = []
    where, noise = condition([1, 2]), ExampleNoise([1, 2], SHAPE)
    assert where.known is not None
    assert where.mask is not None

    def watched(x: Tensor, level: Tensor, condition: Condition) -> Prediction:
        seen.append(x)
        return Prediction(torch.zeros_like(x), x)

    x_T = noise()
    sample(watched, samplers.ddim(3), linear(), x_T, where, noise, constrain)
    outside = ~where.mask.expand_as(x_T)
    assert torch.equal(seen[0][~outside], x_T[~outside])
    if constrain is keep_clean:
        assert torch.equal(seen[0][outside], where.known[outside])
    else:
        level = linear().alpha_bar[-1:].expand(2)
        eps = ExampleNoise([1, 2], SHAPE)
        eps()  # x_T itself
        assert torch.equal(seen[0][outside], process.add_noise(where.known, eps(), level)[outside])


def test_keep_noised_is_the_forward_process_outside_the_hole():
    where, eps = condition([1]), torch.randn(1, *SHAPE)
    level = torch.tensor([0.3], dtype=torch.float64)
    x = torch.randn(1, *SHAPE)
    assert where.known is not None
    assert where.mask is not None
    found = keep_noised(x, None, level, level, lambda: eps, where)
    noised = 0.3**0.5 * where.known + 0.7**0.5 * eps  # DDPM eq. 4
    torch.testing.assert_close(found, torch.where(where.mask, x, noised))


def test_on_step_sees_every_call_and_wraps_nest_from_the_inside():
    order, seen = [], []

    def named(name: str):
        def wrap(inner):
            def call(x, level, where):
                said = inner(x, level, where)
                order.append(name)
                return said

            return call

        return wrap

    sampler = replace(samplers.heun(3, clip=False), wrap=Around([named("inner"), named("outer")]))
    face = gaussian([0.0], [[1.0]])
    x = torch.zeros(2, 1, 1, dtype=torch.float64)
    sample(face, sampler, linear(), x, Condition(), lambda: x, on_step=lambda rows, said: seen.append(rows.index))
    assert order == ["inner", "outer"] * 5
    assert seen == [1, 2, 3, 4, 5]


def test_a_rise_is_the_forward_process_from_one_level_to_the_other():
    """DDPM eq. 2, and S_noise of EDM's algorithm 2 times as much noise."""
    x, eps = torch.randn(2, 2, 3, dtype=torch.float64)
    level, lower = torch.full((2,), 0.8).double(), torch.full((2,), 0.2).double()
    torch.testing.assert_close(from_x(x, None, level, lower, eps), 0.5 * x + 0.75**0.5 * eps)
    torch.testing.assert_close(from_x(x, None, level, lower, eps, 1.003), 0.5 * x + 1.003 * 0.75**0.5 * eps)


def test_a_path_that_only_rises_asks_nobody():
    x, eps = torch.randn(2, 2, 1, 3, dtype=torch.float64)
    sampler = Sampler(lambda _: torch.tensor([0.8, 0.2], dtype=torch.float64), Ancestral())
    found = sample(lambda *_: pytest.fail("was asked"), sampler, linear(), x, Condition(), lambda: eps)
    torch.testing.assert_close(found, 0.5 * x + 0.75**0.5 * eps)


def test_rows_and_samplers_stay_as_they_are():
    """The service keeps them between ticks; what follows is another."""
    x = torch.zeros(1, 1, 1, dtype=torch.float64)
    sampler = samplers.ddim(3)
    rows = start(x, sampler.path(linear()), sampler, unconstrained, Condition(), lambda: x)
    for kept, name in ((sampler, "wrap"), (rows, "index")):
        with pytest.raises(FrozenInstanceError):
            setattr(kept, name, None)
    advance(rows, Prediction(x, x))
    assert rows.index == 0


def test_constraints_apply_in_turn():
    plus = lambda x, *_: x + 1  # noqa: E731
    twice = lambda x, *_: x * 2  # noqa: E731
    x, level = torch.zeros(1, 1), torch.ones(1, dtype=torch.float64)
    assert InTurn([plus, twice])(x, None, level, level, lambda: x, Condition()).item() == 2
    assert InTurn([twice, plus])(x, None, level, level, lambda: x, Condition()).item() == 1


def test_nothing_is_differentiated_and_inference_mode_is_not_used():
    denoiser = model()
    denoiser.network.weight = torch.nn.Parameter(torch.ones(1))
    out = walk(samplers.dps(3), [1], denoiser)
    assert not out.requires_grad
    assert not out.is_inference()
    assert denoiser.network.weight.grad is None


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float64])
def test_other_dtypes_pass_through(half):
    x = torch.randn(2, 3, 8, 8, dtype=half)
    for sampler in (samplers.ddpm(3), samplers.dpm_solver(3, eta=1.0), samplers.heun(3)):
        out = sample(model(0), sampler, linear(), x, Condition(), lambda: torch.randn_like(x))
        assert out.dtype == half


def test_a_swiss_roll_is_a_batch_of_points():
    x = torch.randn(5, 2)
    for sampler in (samplers.ddpm(3), samplers.dpm_solver(3), samplers.heun(3)):
        out = sample(lambda x, level, _: Prediction(x / 2, x / 3), sampler, linear(), x, Condition(), lambda: x)
        assert out.shape == (5, 2)


@pytest.mark.parametrize("group", ["schedule", "sampler", "objective"])
def test_every_option_is_built_by_its_recipe(group):
    files = sorted((CONF / group).glob("*.yaml"))
    assert len(files) > 5
    for file in files:
        options = yaml.safe_load(file.read_text())
        if "classifier" in options:  # a folder: tests/test_configs.py makes one
            continue
        built = build(options)
        if group == "sampler":
            assert built.network_calls(linear()) > 0
        if group == "objective":
            assert {"loss", "levels", "told"} <= built.keys()


def test_steps_of_every_sampler_yaml_can_be_overridden():
    for file in (CONF / "sampler").glob("*.yaml"):
        options = yaml.safe_load(file.read_text())
        if "classifier" in options:
            continue
        if "steps" in options:
            calls = build(options | {"steps": 12}).network_calls(linear())
            assert calls >= 12, file
        else:  # the length is in the sections, or is the process's own
            assert {"sections", "process"} & set(options), file


def test_ancestral_steps_with_no_constraint_leave_x_alone():
    x, level = torch.ones(1, 1), torch.ones(1, dtype=torch.float64)
    assert unconstrained(x, None, level, level, lambda: x, Condition()) is x
    assert Ancestral().start(x) == ()


@every_sampler
def test_samplers_can_be_sent_to_another_process(sampler):
    sent = pickle.loads(pickle.dumps(sampler))
    assert torch.equal(walk(sent, [3], model()), walk(sampler, [3], model()))
