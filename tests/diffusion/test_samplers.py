"""The published samplers are put together as published: their path, their variance, and what stands around what."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from diffusion_lab.diffusion import paths, samplers
from diffusion_lab.diffusion.denoiser import Condition, Prediction
from diffusion_lab.diffusion.process import x_0_from_eps
from diffusion_lab.diffusion.sampling import Sampler, keep_clean, sample
from diffusion_lab.diffusion.schedule import jsd, linear

SHAPE = (2, 1, 4)
MASK = torch.tensor([[[True, True, False, False]]]).expand(2, 1, 4)
FACE = torch.tensor([[[0.1, -0.2, 0.7, -0.9]]], dtype=torch.float64).expand(SHAPE)
FILL = torch.full(SHAPE, 5.0, dtype=torch.float64)
GIVEN = Condition(known=torch.where(MASK, FILL, FACE), mask=MASK, fill=FILL)


class Model:
    """Says one x_0 everywhere, whatever x is, and remembers what it was shown."""

    condition_channels = 3

    def __init__(self, x_0: float = 0.3) -> None:
        self.x_0, self.shown, self.levels = x_0, [], []

    def __call__(self, x: Tensor, level: Tensor, condition: Condition) -> Prediction:
        self.shown.append(condition)
        self.levels.append(float(level[0]))
        gamma = level[:, None, None]
        x_0 = self.x_0 + 0 * x
        return Prediction(x_0, (x - gamma.sqrt() * x_0) / (1 - gamma).sqrt())


def walked(sampler: Sampler, model: Model, trained_on=None) -> tuple[list[Tensor], list[Prediction]]:
    """X before the first and after every step, and what was said, from fixed noise."""
    generator = torch.Generator().manual_seed(0)
    xs, said = [], []

    def noise() -> Tensor:
        return torch.randn(SHAPE, generator=generator, dtype=torch.float64)

    x_T = noise()
    xs.append(x_T)
    sample(
        model,
        sampler,
        trained_on or linear(),
        x_T,
        GIVEN,
        noise,
        keep_clean,
        lambda rows, prediction: (xs.append(rows.x), said.append(prediction)),
    )
    return xs, said


def spread(sampler: Sampler, level: float, next_level: float) -> float:
    """Variance of the noise that the sampler's step adds in the hole."""
    x = torch.zeros(1, 1, 4, dtype=torch.float64)
    at, to = (torch.tensor([value], dtype=torch.float64) for value in (level, next_level))
    said = sampler.wrap(Model())(x, at, Condition(known=x, mask=MASK[:1], fill=x))
    quiet, loud = (
        sampler.solver(x, said, at, to, lambda value=value: torch.full_like(x, value), sampler.solver.start(x))[0]
        for value in (0.0, 1.0)
    )
    return float((loud - quiet)[0, 0, 0]) ** 2


@pytest.mark.parametrize("trained_on", [linear(2000, 1e-6, 0.01), linear()], ids=["palette_train", "linear"])
def test_palette_walks_its_own_schedule_with_the_large_variance_and_a_clip(trained_on):
    published = linear(1000, 1e-4, 0.09)
    model = Model(x_0=3.0)
    _, said = walked(samplers.palette(1000), model, trained_on)
    assert model.levels == published.alpha_bar.flip(0)[:-1].tolist()
    assert all(bool((prediction.x_0 == 1).all()) for prediction in said)
    for t in (1000, 400, 2):
        level, next_level = published.alpha_bar[t].item(), published.alpha_bar[t - 1].item()
        beta = 1e-4 + (t - 1) * (0.09 - 1e-4) / 999
        assert spread(samplers.palette(), level, next_level) == pytest.approx(beta, rel=1e-9)
    # Fewer calls stride over the same levels, and pay the variance of the stride.
    assert set(samplers.palette(50).path(trained_on).tolist()) <= set(published.alpha_bar.tolist())


@pytest.mark.parametrize(
    "sampler", [samplers.replacement(5), samplers.repaint(6, 2, 2), samplers.dps(5), samplers.mcg(5), samplers.ddnm(5)]
)
def test_methods_for_unconditional_models_show_them_no_known_pixels(sampler):
    model = Model()
    walked(sampler, model)
    for condition in model.shown:
        assert torch.equal(condition.known, FILL)
        assert bool(condition.mask.all())


def test_replacement_and_repaint_draw_the_known_pixels_at_the_levels_of_the_path():
    for sampler in (samplers.replacement(200), samplers.repaint(200, 20, 3)):
        path = sampler.path(linear())
        xs, _ = walked(sampler, Model())
        reached = path[1:][path.diff() >= 0]  # where each step ends; a rise follows within the same tick
        falls = torch.cat([path.diff()[1:] < 0, torch.tensor([False])])[path.diff() >= 0]
        missed = [
            (x - gamma.sqrt() * FACE)[~MASK] / (1 - gamma).sqrt()
            for x, gamma, rises in zip(xs[1:], reached, falls, strict=True)
            if not rises and gamma < 1
        ]
        noise = torch.cat(missed)
        assert noise.mean().abs() < 5 * len(noise) ** -0.5
        assert noise.var().item() == pytest.approx(1, abs=5 * (2 / len(noise)) ** 0.5)
        torch.testing.assert_close(xs[-1][~MASK], FACE[~MASK])


def test_ddnm_puts_the_known_pixels_into_x_0_and_leaves_eps_to_the_model():
    """DDNM's program: x' = signal' rectified x_0 + sigma' (eta z + sqrt(1 - eta^2) eps), nothing clipped."""
    sampler = samplers.ddnm(8, eta=0.6)
    levels = sampler.path(linear())
    xs, said = walked(sampler, Model(x_0=3.0))
    generator = torch.Generator().manual_seed(0)
    draws = [torch.randn(SHAPE, generator=generator, dtype=torch.float64) for _ in range(8)]  # x_T, and 7 steps' noise
    assert levels[0] == linear().alpha_bar[876]  # 1, 126, 251, ..., 876
    for i, end in enumerate(levels[1:].tolist()):
        fresh = draws[i + 1] if i < 7 else 0
        rectified = torch.where(MASK, 3.0, FACE)
        expected = end**0.5 * rectified + (1 - end) ** 0.5 * (0.6 * fresh + 0.8 * said[i].eps)
        torch.testing.assert_close(xs[i + 1], expected)
    torch.testing.assert_close(xs[-1], torch.where(MASK, 3.0, FACE))


def test_ddnm_travels_back_from_the_last_x_0_as_the_model_said_it():
    sampler = samplers.ddnm(8, jump=2, resamples=2)
    path = sampler.path(linear())
    tops = [path[i + 1].item() for i in range(len(path) - 1) if path[i + 1] < path[i]]
    assert len(tops) == 3
    risen = []

    def keep(rows, prediction):
        if rows.path[rows.index] < rows.path[rows.index - 1]:
            risen.append((rows.x, rows.path[rows.index].item(), prediction))

    constant = torch.full(SHAPE, 0.25, dtype=torch.float64)
    sample(Model(x_0=0.5), sampler, linear(), constant, GIVEN, lambda: constant, on_step=keep)
    assert [level for _, level, _ in risen] == tops
    for x, level, said in risen:
        assert bool((said.x_0 == 0.5).all())  # also where the picture is known
        torch.testing.assert_close(x, torch.full_like(x, level**0.5 * 0.5 + (1 - level) ** 0.5 * 0.25))


class Steep(Model):
    """Its x_0 is twice x."""

    def __call__(self, x: Tensor, level: Tensor, condition: Condition) -> Prediction:
        said = super().__call__(x, level, condition)
        return Prediction(2 * x, said.eps)


@pytest.mark.parametrize("make", [samplers.dps, samplers.mcg])
def test_dps_looks_at_the_clipped_x_0_as_its_authors_do(make):
    """And goes half the slope where nobody says otherwise, their setting for inpainting."""
    level = torch.full((2,), 0.5, dtype=torch.float64)
    x = torch.tensor([[[0.0, 0.0, 0.2, 0.9]]], dtype=torch.float64).expand(SHAPE)
    for options, scale in (({}, 0.5), ({"scale": 0.8}, 0.8)):
        said = make(**options).wrap(Steep())(x, level, GIVEN)
        # y - x_0 is (.7 - .4, -.9 - 1): the second pixel is clipped, so that nothing moves it.
        expected = torch.tensor([0.0, 0.0, scale * 2 * 0.3 / (0.3**2 + 1.9**2) ** 0.5, 0.0], dtype=torch.float64)
        torch.testing.assert_close(said.gradient, expected.expand(SHAPE))


def test_a_guide_stands_inside_the_clip():
    def uphill(denoiser):
        def guided(x: Tensor, level: Tensor, condition: Condition) -> Prediction:
            said = denoiser(x, level, condition)
            eps = said.eps - 50
            return Prediction(x_0_from_eps(x, eps, level), eps)

        return guided

    _, said = walked(samplers.guided(samplers.ddim(4), uphill), Model())
    assert all(bool((prediction.x_0 <= 1).all()) for prediction in said)


def test_classifier_free_guidance_stands_inside_the_clip():
    """As in GLIDE and Imagen: what is clipped is the guided x_0."""

    def told(x: Tensor, level: Tensor, condition: Condition) -> Prediction:
        assert condition.attributes is not None
        gamma = level[:, None, None]
        x_0 = 0.3 + condition.attributes.nan_to_num(0)[:, :, None] * torch.ones_like(x)
        return Prediction(x_0, (x - gamma.sqrt() * x_0) / (1 - gamma).sqrt())

    x, level = torch.zeros(SHAPE, dtype=torch.float64), torch.full((2,), 0.5, dtype=torch.float64)
    condition = Condition(attributes=torch.ones(2, 1, dtype=torch.float64))
    assert bool((samplers.classifier_free(scale=3.0).wrap(told)(x, level, condition).x_0 == 1).all())
    loose = samplers.classifier_free(scale=3.0, clip=False).wrap(told)(x, level, condition)
    torch.testing.assert_close(loose.x_0, torch.full_like(x, 3.3))
    # Where nobody says otherwise, what the attributes change counts twice, and DDIM draws no noise.
    plain = samplers.classifier_free(clip=False)
    said = plain.wrap(told)(x, level, condition)
    torch.testing.assert_close(said.x_0, torch.full_like(x, 2.3))
    quiet, loud = (plain.solver(x, said, level, level + 0.1, lambda value=value: x + value, ()) for value in (0, 1))
    assert torch.equal(quiet[0], loud[0])


@pytest.mark.parametrize("solver", [samplers.ddpm(variance_mix=1.0), samplers.palette(), samplers.ddim(eta=0.5)])
def test_rows_that_end_draw_no_noise_beside_rows_that_do_not(solver):
    """In the service rows at the end of their path share a step with others."""
    x = torch.zeros(SHAPE, dtype=torch.float64)
    level, next_level = torch.tensor([0.9, 0.4]).double(), torch.tensor([1.0, 0.6]).double()
    said = solver.wrap(Model())(x, level, GIVEN)
    ended, _ = solver.solver(x, said, level, next_level, lambda: torch.ones_like(x), ())
    torch.testing.assert_close(ended[0], torch.full_like(ended[0], 0.3))
    assert bool((ended[1] != ended[1].new_tensor(0.3)).all())


def test_as_many_steps_as_the_papers_have() -> None:
    """DDPM's thousand; 25, 15 and 10 of guided-diffusion's sections."""
    assert len(samplers.ddpm().path(linear(2000))) == 1001
    sections = samplers.ddim_sections(sections=(25, 15, 10)).path(linear())
    assert torch.equal(samplers.ddim_sections().path(linear()), sections)


CALLS = {
    samplers.ddpm: 1000,
    samplers.ddim: 50,
    samplers.ddim_quadratic: 50,
    samplers.ddim_thresholded: 50,
    samplers.ddpm_sections: 250,  # 90 + 60 + 60 + 20 + 20 (ADM, LSUN)
    samplers.ddim_sections: 50,
    samplers.ddim_strided: 50,
    samplers.palette: 1000,
    samplers.dpm_solver: 20,
    samplers.dpm_solver_karras: 20,
    samplers.heun: 35,  # EDM's 18 steps on CIFAR-10
    samplers.classifier_free: 50,
    samplers.replacement: 250,
    samplers.repaint: 2410,
    samplers.dps: 1000,
    samplers.mcg: 1000,
    samplers.ddnm: 100,
}
LEVEL, NEXT = 0.4, 0.7


@pytest.mark.parametrize("make", CALLS)
def test_where_nobody_says_otherwise_it_takes_as_many_calls_as_published_and_clips(make) -> None:
    """All but DDNM, whose program does not clip."""
    assert make().network_calls(linear()) == CALLS[make]
    x, level = torch.zeros(SHAPE, dtype=torch.float64), torch.full((2,), LEVEL, dtype=torch.float64)
    condition = replace(GIVEN, attributes=torch.ones(2, 1, dtype=torch.float64))
    x_0 = make().wrap(Model(x_0=3.0))(x, level, condition).x_0
    assert bool((x_0 == (3 if make is samplers.ddnm else 1)).all())


TILDE = (1 - NEXT) / (1 - LEVEL) * (1 - LEVEL / NEXT)  # DDPM eq. 7
SPREADS = dict.fromkeys(set(CALLS) - {samplers.classifier_free}, 0.0)
SPREADS |= dict.fromkeys([samplers.ddpm, samplers.ddpm_sections, samplers.replacement, samplers.repaint], TILDE)
SPREADS |= {samplers.dps: TILDE, samplers.mcg: TILDE, samplers.ddnm: 0.85**2 * (1 - NEXT)}
SPREADS[samplers.palette] = 1 - LEVEL / NEXT


@pytest.mark.parametrize("make", [make for make in CALLS if make in SPREADS])
def test_where_nobody_says_otherwise_it_draws_as_much_noise_as_published(make) -> None:
    """DDIM, DPM-Solver++ and EDM's algorithm 1 none, DDPM beta-tilde, Palette beta, DDNM .85 of all there is."""
    assert spread(make(), LEVEL, NEXT) == pytest.approx(SPREADS[make], rel=1e-9, abs=1e-12)


def test_edms_levels_are_spaced_by_the_seventh_root() -> None:
    assert torch.equal(samplers.heun().path(linear()), paths.heun_path(linear(), 18, rho=7))
    assert torch.equal(samplers.dpm_solver_karras().path(linear()), paths.karras_path(linear(), 20, rho=7))


def test_where_nobody_says_otherwise_churn_is_at_every_level_and_of_the_forward_process() -> None:
    """EDM, algorithm 2, with S_min 0 and S_noise 1."""
    sampler = samplers.heun(6, churn=3.0)
    assert int((sampler.path(linear()).diff() < 0).sum()) == 6
    x, eps = torch.full(SHAPE, 0.3).double(), torch.full(SHAPE, -1.7).double()
    level, lower = torch.full((2,), NEXT).double(), torch.full((2,), LEVEL).double()
    ratio = LEVEL / NEXT
    torch.testing.assert_close(sampler.rise(x, None, level, lower, eps), ratio**0.5 * x + (1 - ratio) ** 0.5 * eps)


def test_ddnms_time_travel_is_of_single_steps_where_nobody_says_otherwise() -> None:
    """Each move but the last is walked twice: travel_length 1 of its program, travel_repeat 2."""
    visited = jsd(4).time(samplers.ddnm(4, resamples=2).path(jsd(4))).round().long().tolist()
    assert visited == [4, 3, 4, 3, 2, 3, 2, 1, 2, 1, 0]
