import math
from dataclasses import FrozenInstanceError, replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffusion_lab.diffusion import process
from diffusion_lab.diffusion.denoiser import Data, Epsilon, Preconditioned, Prediction, Velocity
from diffusion_lab.diffusion.level_samplers import LossSecondMoment, lognormal_levels
from diffusion_lab.diffusion.likelihood import density
from diffusion_lab.diffusion.losses import (
    AttributeLoss,
    BoundLoss,
    DenoisingLoss,
    HybridLoss,
    Levels,
    at_times,
    continuous_levels,
    discrete_levels,
    input_perturbation,
    min_snr,
    p2,
)
from diffusion_lab.diffusion.schedule import jsd, linear

SHAPE = (4, 3, 8, 8)


def drawn(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(SHAPE, generator=generator, dtype=torch.float64) for _ in range(3))


def levels_at(t: list[int]):
    return at_times(linear(), torch.tensor(t), torch.ones(len(t), dtype=torch.float64))


def said_of(eps_said: torch.Tensor, x_0: torch.Tensor, eps: torch.Tensor, level: torch.Tensor) -> Prediction:
    return Epsilon().read(eps_said, process.add_noise(x_0, eps, level), level)


HOLE = torch.zeros(4, 1, 8, 8, dtype=torch.bool)
HOLE[0, :, :4], HOLE[1, :, :1, :1], HOLE[2] = True, True, True  # a half, a pixel, all, nothing


@pytest.mark.parametrize("of", [Epsilon(), Data(), Velocity(), Preconditioned()])
def test_the_truth_costs_nothing_and_an_empty_hole_too(of):
    x_0, eps, other = drawn()
    levels = levels_at([1, 300, 700, 1000])
    assert DenoisingLoss(of)(Prediction(x_0, eps), x_0, eps, levels, HOLE).abs().max() < 1e-12
    losses = DenoisingLoss(of)(said_of(other, x_0, eps, levels.level), x_0, eps, levels, HOLE)
    assert losses[3] == 0
    assert bool((losses[:3] > 0).all())


def test_the_loss_is_the_mean_over_the_hole_and_blind_outside():
    x_0, eps, other = drawn()
    levels = levels_at([500] * 4)
    said = said_of(other, x_0, eps, levels.level)
    losses = DenoisingLoss(Epsilon())(said, x_0, eps, levels, HOLE)
    for i in range(3):
        inside = HOLE[i].expand(3, 8, 8)
        assert losses[i].item() == pytest.approx((other - eps)[i][inside].square().mean().item(), rel=1e-9)
    outside = torch.where(HOLE, other, 1e3)
    torch.testing.assert_close(
        DenoisingLoss(Epsilon())(said_of(outside, x_0, eps, levels.level), x_0, eps, levels, HOLE), losses
    )


@given(st.integers(1, 8), st.integers(1, 8))
def test_the_loss_does_not_scale_with_the_area_of_the_hole(height, width):
    """A mean over all pixels does, so that small holes hardly train (Janspiry's fault)."""
    x_0, eps, _ = drawn()
    mask = torch.zeros(4, 1, 8, 8, dtype=torch.bool)
    mask[:, :, :height, :width] = True
    levels = levels_at([500] * 4)
    losses = DenoisingLoss(Epsilon())(said_of(eps + 0.5, x_0, eps, levels.level), x_0, eps, levels, mask)
    torch.testing.assert_close(losses, torch.full((4,), 0.25, dtype=torch.float64))


def test_losses_in_eps_x_0_and_v_differ_by_powers_of_the_snr():
    x_0, eps, other = drawn()
    levels = levels_at([50, 300, 600, 900])
    said, snr = said_of(other, x_0, eps, levels.level), levels.level / (1 - levels.level)
    full = torch.ones_like(HOLE)
    of_eps, of_x_0, of_v = (DenoisingLoss(of)(said, x_0, eps, levels, full) for of in (Epsilon(), Data(), Velocity()))
    torch.testing.assert_close(of_eps, snr * of_x_0)
    torch.testing.assert_close(of_v, (snr + 1) * of_x_0)  # Salimans & Ho 2022: "SNR + 1"
    torch.testing.assert_close(
        DenoisingLoss(Data(), min_snr)(said, x_0, eps, levels, full),
        torch.minimum(snr, torch.tensor(5.0)) / snr * of_eps,
    )
    torch.testing.assert_close(DenoisingLoss(Epsilon(), p2)(said, x_0, eps, levels, full), of_eps / (1 + snr))


def test_edms_weight_and_preconditioning_make_the_plain_loss_of_the_output():
    x_0, eps, other = drawn()
    levels = levels_at([50, 300, 600, 900])
    kind, full = Preconditioned(0.5), torch.ones_like(HOLE)
    said = kind.read(other, process.add_noise(x_0, eps, levels.level), levels.level)
    sigma = ((1 - levels.level) / levels.level).sqrt()
    weight = (sigma**2 + 0.25) / (sigma * 0.5) ** 2  # lambda(sigma), EDM table 1
    expected = weight * (said.x_0 - x_0).square().mean((1, 2, 3))
    torch.testing.assert_close(DenoisingLoss(kind)(said, x_0, eps, levels, full), expected)


def test_weights_at_the_ends():
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    assert min_snr(ends).tolist() == [0, 5]
    assert p2(ends).tolist() == [1, 0]


def test_p2_is_choi_et_al_s_weight():
    level = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)
    expected = [1 / (2 + snr) ** 0.5 for snr in (0.25, 1.0, 9.0)]
    assert p2(level, k=2.0, gamma=0.5).tolist() == pytest.approx(expected)


@pytest.mark.parametrize(
    "loss",
    [
        DenoisingLoss(Epsilon()),
        DenoisingLoss(Data(), min_snr),
        BoundLoss(),
        HybridLoss(DenoisingLoss(Epsilon()), BoundLoss(), 0.7),
        AttributeLoss(),
    ],
)
def test_every_loss_heeds_the_level_samplers_weight(loss):
    """An importance-weighted sampler is unbiased through it alone."""
    x_0, eps, other = drawn()
    levels, weight = levels_at([1, 300, 700, 1000]), torch.tensor([0.5, 1.0, 2.0, 3.0], dtype=torch.float64)
    said = said_of(other, x_0, eps, levels.level)
    if isinstance(loss, AttributeLoss):
        said = torch.linspace(-3, -1, 4, dtype=torch.float64)
    full = torch.ones_like(HOLE)
    plain = loss(said, x_0, eps, levels, full)
    assert bool((plain > 0).all())
    torch.testing.assert_close(loss(said, x_0, eps, replace(levels, weight=weight), full), weight * plain)
    if isinstance(loss, AttributeLoss):
        torch.testing.assert_close(plain, -said)  # of a log-probability, as it is


def test_input_perturbation_adds_a_tenth_of_another_noise():
    eps, other, _ = drawn()
    torch.testing.assert_close(input_perturbation(eps, lambda: other), eps + 0.1 * other)  # DDPM-IP's own share
    torch.testing.assert_close(input_perturbation(eps, lambda: other, 0.3), eps + 0.3 * other)


@given(st.floats(0, 1, exclude_max=True), st.floats(0, 1, exclude_max=True))
def test_uniform_level_samplers_stay_on_the_table(u, w):
    uniforms = torch.tensor([[u, w]], dtype=torch.float64)
    discrete, continuous = discrete_levels(linear(), uniforms), continuous_levels(linear(), uniforms)
    t = int(linear().time(discrete.level).round())
    assert 1 <= t <= 1000
    assert discrete.level == linear().alpha_bar[t]
    assert discrete.next_level == linear().alpha_bar[t - 1]
    assert discrete.level <= continuous.level <= continuous.next_level
    assert continuous.next_level == discrete.next_level


@pytest.mark.parametrize("steps", [1, 2, 7, 1000])
@pytest.mark.parametrize("second", [0.0, 0.5, 0.999])
def test_every_step_of_the_schedule_is_trained_equally_often(steps, second):
    """t uniform on 1..T, both ends included (DDPM algorithm 1), for every level sampler that says it is."""
    schedule, each = jsd(steps), 10
    u = (torch.arange(each * steps, dtype=torch.float64) + 0.5) / (each * steps)
    uniforms = torch.stack([u, torch.full_like(u, second)], 1)
    for sampler in (discrete_levels, continuous_levels, LossSecondMoment(steps)):
        levels = sampler(schedule, uniforms)
        t = 1 + schedule.time(levels.next_level).round().long()
        assert torch.bincount(t, minlength=steps + 1).tolist() == [0, *[each] * steps]
        inside = second if sampler is continuous_levels else 0.0
        torch.testing.assert_close(levels.level, torch.lerp(schedule.alpha_bar[t], schedule.alpha_bar[t - 1], inside))
        assert levels.weight.tolist() == [1.0] * len(u)


def test_lognormal_levels_are_lognormal():
    u = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    levels = lognormal_levels(linear(), torch.stack([u, u], 1))
    log_sigma = ((1 - levels.level) / levels.level).sqrt().log()
    assert log_sigma.mean().item() == pytest.approx(-1.2, abs=1e-6)
    assert log_sigma.std().item() == pytest.approx(1.2, abs=0.01)
    t = linear().time(levels.level)
    torch.testing.assert_close(levels.next_level, torch.maximum(linear().level(t - 1), levels.level))
    assert bool((levels.next_level > levels.level).all())  # a whole step, up to the last one to the data
    assert bool((levels.next_level[t <= 1] == 1).all())


def test_both_tails_of_the_lognormal_end_alike():
    """At 7 deviations, of which one draw in 10^12 knows."""
    levels = lognormal_levels(linear(), torch.tensor([[0.0, 0.0], [1.0, 0.0]], dtype=torch.float64), 0.0, 1.0)
    low, high = ((1 - levels.level) / levels.level).sqrt().log().tolist()
    assert low == pytest.approx(-7.0345, abs=1e-4)
    assert high == pytest.approx(7.0345, abs=1e-3)


def test_second_moment_sampler_is_guided_diffusions():
    """Its LossSecondMomentResampler: history_per_term=10, uniform_prob=.001, and as many steps as a schedule has."""
    assert LossSecondMoment()(linear(), torch.zeros(1, 2, dtype=torch.float64)).weight.tolist() == [1]
    sampler, schedule = LossSecondMoment(steps=3), jsd(3)
    every = at_times(schedule, torch.arange(1, 4), torch.ones(3, dtype=torch.float64))
    for _ in range(10):
        assert sampler.probabilities().eq(1 / 3).all()
        sampler.observe(schedule, every, torch.tensor([1.0, 2.0, 5.0]))
    expected = [0.999 * loss / 8 + 0.001 / 3 for loss in (1, 2, 5)]
    assert sampler.probabilities().tolist() == pytest.approx(expected)
    with pytest.raises(ValueError, match="is longer than"):
        sampler.observe(schedule, at_times(schedule, torch.tensor([1]), torch.ones(1)), torch.ones(2))


def test_second_moment_draws_lie_between_the_sums_of_the_chances():
    """A draw on the edge is the next t's, one beyond what the sum has lost by rounding the last one's."""
    u = torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0], dtype=torch.float64)
    levels = LossSecondMoment(steps=4)(jsd(4), torch.stack([u, u], 1))
    assert levels.level.tolist() == [0.75, 0.5, 0.25, 0, 0]


def test_second_moment_sampler_is_uniform_until_it_knows_every_t():
    sampler = LossSecondMoment(steps=5, history=2)
    schedule = jsd(5)
    assert sampler.probabilities().eq(0.2).all()
    once = LossSecondMoment(steps=5, history=2)
    once.observe(schedule, at_times(schedule, torch.arange(1, 6), torch.ones(5)), torch.arange(5.0))
    assert once.probabilities().eq(0.2).all()
    for t in range(1, 6):
        assert sampler.probabilities().eq(0.2).all()
        for _ in range(2):
            sampler.observe(schedule, at_times(schedule, torch.tensor([t]), torch.ones(1)), torch.tensor([float(t)]))
    # iDDPM eq. 18 and its code's .001 of uniform draws
    expected = 0.999 * torch.arange(1, 6, dtype=torch.float64) / 15 + 0.001 / 5
    torch.testing.assert_close(sampler.probabilities(), expected)


def test_second_moment_sampler_forgets_the_oldest_and_undoes_its_own_weight():
    sampler, schedule = LossSecondMoment(steps=2, history=2, uniform=0.0), jsd(2)
    for loss in (100.0, 3.0, 4.0):  # the first is forgotten
        levels = at_times(schedule, torch.tensor([1, 2]), torch.tensor([0.5, 2.0], dtype=torch.float64))
        sampler.observe(schedule, levels, torch.tensor([loss * 0.5, 5.0 * 2.0]))
    deviation = math.sqrt((9 + 16) / 2)
    assert sampler.probabilities()[0].item() == pytest.approx(deviation / (deviation + 5))


def test_second_moment_sampling_is_unbiased_and_resumes():
    schedule, sampler = jsd(4), LossSecondMoment(steps=4, history=1, uniform=0.1)
    every = at_times(schedule, torch.arange(1, 5), torch.ones(4, dtype=torch.float64))
    sampler.observe(schedule, every, torch.tensor([8.0, 1.0, 1.0, 0.5]))
    u = (torch.arange(10_000, dtype=torch.float64) + 0.5) / 10_000
    levels = sampler(schedule, torch.stack([u, u], 1))
    t = schedule.time(levels.level).round().long()
    assert levels.weight.mean().item() == pytest.approx(1, abs=1e-3)
    for step in range(1, 5):  # every t counts a quarter
        assert (levels.weight * (t == step)).mean().item() == pytest.approx(0.25, abs=1e-3)
    resumed = LossSecondMoment(steps=4, history=1, uniform=0.1)
    resumed.load_state_dict(sampler.state_dict())
    assert torch.equal(resumed.probabilities(), sampler.probabilities())
    with pytest.raises(ValueError, match=r"objective\.levels\.steps is 4, but the schedule's is 1000"):
        sampler(linear(), torch.rand(2, 2, dtype=torch.float64))


def test_the_bound_term_is_the_kl_of_two_gaussians():
    """Written out after Nichol & Dhariwal 2021, eqs. 4, 10-12 and 15, in bits."""
    x_0, eps, other = drawn()
    mix = torch.rand(SHAPE, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    t = [2, 300, 700, 1000]
    levels, table = levels_at(t), linear().alpha_bar
    said = said_of(other, x_0, eps, levels.level)
    found = BoundLoss()(Prediction(said.x_0, said.eps, mix), x_0, eps, levels, torch.ones_like(HOLE))
    for i, step in enumerate(t):
        ab, ab_previous, beta = table[step], table[step - 1], linear().betas[step - 1]
        tilde = (1 - ab_previous) / (1 - ab) * beta
        x = ab.sqrt() * x_0[i] + (1 - ab).sqrt() * eps[i]
        true = ab_previous.sqrt() * beta / (1 - ab) * x_0[i] + (1 - beta).sqrt() * (1 - ab_previous) / (1 - ab) * x
        mean = (x - beta / (1 - ab).sqrt() * other[i]) / (1 - beta).sqrt()  # DDPM eq. 11
        variance = torch.exp(mix[i] * beta.log() + (1 - mix[i]) * tilde.log())
        kl = 0.5 * (variance.log() - tilde.log() - 1 + (tilde + (true - mean).square()) / variance)
        assert found[i].item() == pytest.approx(kl.mean().item() / math.log(2), rel=1e-8)


@pytest.mark.parametrize("mix", [0.0, 0.3, 1.0])
def test_a_variance_that_nobody_learned_is_the_one_that_was_asked_for(mix):
    x_0, eps, other = drawn()
    levels, full = levels_at([2, 300, 700, 1000]), torch.ones_like(HOLE)
    fixed = said_of(other, x_0, eps, levels.level)
    learned = Prediction(fixed.x_0, fixed.eps, torch.full_like(x_0, mix))
    bits = BoundLoss(variance_mix=mix)(fixed, x_0, eps, levels, full)
    torch.testing.assert_close(bits, BoundLoss()(learned, x_0, eps, levels, full))
    assert torch.equal(bits, BoundLoss()(fixed, x_0, eps, levels, full)) == (mix == 0)  # else beta-tilde


def test_the_last_term_is_the_discretised_decoder_with_the_clipped_variance():
    """DDPM eq. 13; iDDPM's first variance is beta-tilde of the second step."""
    values = torch.arange(256, dtype=torch.float64).reshape(1, 1, 256) / 127.5 - 1
    eps = torch.linspace(-2, 2, 256, dtype=torch.float64).reshape(1, 1, 256)
    levels, table = levels_at([1]), linear().alpha_bar
    x = process.add_noise(values, eps, levels.level)
    said = Epsilon().read(eps * 0.9, x, levels.level)
    found = BoundLoss()(said, values, eps, levels, torch.ones(1, 1, 256, dtype=torch.bool))
    tilde = (1 - table[1]) / (1 - table[2]) * linear().betas[1]
    mean, deviation = said.x_0, tilde.sqrt()  # the posterior of the last step is x_0 itself
    upper = torch.where(values > 0.999, torch.inf, values + 1 / 255)
    lower = torch.where(values < -0.999, -torch.inf, values - 1 / 255)
    mass = 0.5 * (torch.erf((upper - mean) / deviation / 2**0.5) - torch.erf((lower - mean) / deviation / 2**0.5))
    assert found.item() == pytest.approx(-mass.log2().mean().item(), rel=1e-6)


def test_the_decoder_holds_where_probabilities_underflow():
    for dtype in (torch.float32, torch.float64):
        x_0 = torch.tensor([[[-1.0, 0.5, 1.0]]], dtype=dtype).requires_grad_()
        bits = BoundLoss()(
            Prediction(-x_0, torch.zeros_like(x_0)),
            x_0.detach(),
            torch.zeros_like(x_0),
            levels_at([1]),
            torch.ones(1, 1, 3, dtype=torch.bool),
        )
        (slope,) = torch.autograd.grad(bits.sum(), x_0)
        assert bool(bits.isfinite().all())
        assert bool(slope.isfinite().all())
        assert bool((slope != 0).all())


def test_hybrid_loss_stops_the_means_gradient():
    x_0, eps, output = drawn()
    levels = levels_at([1, 300, 700, 1000])
    output.requires_grad_()
    mix = torch.full(SHAPE, 0.5, dtype=torch.float64, requires_grad=True)
    said = said_of(output, x_0, eps, levels.level)
    said = Prediction(said.x_0, said.eps, mix)
    full = torch.ones_like(HOLE)
    simple, bound = DenoisingLoss(Epsilon()), BoundLoss(decoder=density)
    hybrid = HybridLoss(simple, bound, 0.7)(said, x_0, eps, levels, full)
    torch.testing.assert_close(hybrid, simple(said, x_0, eps, levels, full) + 0.7 * bound(said, x_0, eps, levels, full))
    of_hybrid = torch.autograd.grad(hybrid.sum(), (output, mix), retain_graph=True)
    (of_simple,) = torch.autograd.grad(simple(said, x_0, eps, levels, full).sum(), output, retain_graph=True)
    _, of_bound = torch.autograd.grad(bound(said, x_0, eps, levels, full).sum(), (output, mix))
    torch.testing.assert_close(of_hybrid[0], of_simple)
    torch.testing.assert_close(of_hybrid[1], 0.7 * of_bound)


def test_a_thousandth_of_a_thousand_terms_is_the_bounds_weight():
    """iDDPM: lambda = .001 times the sum over T = 1,000 is once the mean."""
    x_0, eps, other = drawn()
    levels, full = levels_at([2, 300, 700, 1000]), torch.ones_like(HOLE)
    simple, bound, said = DenoisingLoss(Epsilon()), BoundLoss(), said_of(other, x_0, eps, levels.level)
    apart = [loss(said, x_0, eps, levels, full) for loss in (simple, bound)]
    torch.testing.assert_close(HybridLoss(simple, bound)(said, x_0, eps, levels, full), apart[0] + apart[1])


def test_levels_of_no_table_decode_with_next_to_no_variance():
    """Nobody has named another for them, and the posterior's is 0 in the step that ends at level 1."""
    seen = []

    def decoder(x_0: torch.Tensor, mean: torch.Tensor, log_variance: torch.Tensor) -> torch.Tensor:
        seen.append(log_variance.exp().max().item())
        return torch.zeros_like(x_0)

    x_0, eps, _ = drawn()
    ends = torch.ones(4, dtype=torch.float64)
    levels = Levels(ends / 2, ends, ends)
    BoundLoss(decoder=decoder)(Prediction(x_0, eps), x_0, eps, levels, torch.ones_like(HOLE))
    assert 0 < seen[0] < 1e-20
    with pytest.raises(FrozenInstanceError):
        levels.weight = ends * 2


@pytest.mark.parametrize("of", [Epsilon(), Data(), Velocity()])
def test_the_means_gradient_stops_before_any_bound(of):
    """Whatever the bound looks at, x_0 or eps."""
    x_0, eps, output = drawn()
    levels, full = levels_at([1, 300, 700, 1000]), torch.ones_like(HOLE)
    output.requires_grad_()
    simple = DenoisingLoss(Epsilon())
    said = said_of(output, x_0, eps, levels.level)
    hybrid = HybridLoss(simple, DenoisingLoss(of), 0.7)(said, x_0, eps, levels, full)
    (found,) = torch.autograd.grad(hybrid.sum(), output, retain_graph=True)
    (wanted,) = torch.autograd.grad(simple(said, x_0, eps, levels, full).sum(), output)
    torch.testing.assert_close(found, wanted)
