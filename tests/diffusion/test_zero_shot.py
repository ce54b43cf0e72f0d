"""Inpainting of a correlated Gaussian: what each method makes of the hole, exactly where the method is affine."""

import pytest
import torch
from gaussians import exact_moments
from torch import Tensor

from diffusion_lab.diffusion import samplers
from diffusion_lab.diffusion.denoiser import Condition, Epsilon, NetworkDenoiser, Prediction
from diffusion_lab.diffusion.mixture import GivenTheRest, gaussian
from diffusion_lab.diffusion.sampling import Constrain, Sampler, keep_clean, sample, unconstrained
from diffusion_lab.diffusion.schedule import linear
from diffusion_lab.diffusion.zero_shot import Blind, PosteriorGuide, known_pixels

COVARIANCE = [[0.30, 0.24, 0.18], [0.24, 0.30, 0.24], [0.18, 0.24, 0.30]]
FACE = gaussian([0.1, 0.0, -0.1], COVARIANCE)
HOLE = torch.tensor([True, False, True])
KNOWN = torch.tensor([0.0, 0.9, 0.0], dtype=torch.float64)
GAIN = FACE.covariance[HOLE][:, ~HOLE] / FACE.covariance[~HOLE][:, ~HOLE]
MEAN = FACE.mean[HOLE] + GAIN[:, 0] * (KNOWN[1] - FACE.mean[1])
SPREAD = FACE.covariance[HOLE][:, HOLE] - GAIN @ FACE.covariance[~HOLE][:, HOLE]


def condition(rows: int) -> Condition:
    return Condition(known=KNOWN.expand(rows, 1, 3), mask=HOLE.expand(rows, 1, 3))


def hole_moments(model, sampler: Sampler, draws: int, constrain: Constrain = unconstrained) -> tuple[Tensor, Tensor]:
    def run(x_T: Tensor, noise) -> Tensor:
        return sample(model, sampler, linear(), x_T, condition(len(x_T)), noise, constrain)

    mean, covariance = exact_moments(run, n=3, draws=draws)
    return mean[HOLE], covariance[HOLE][:, HOLE]


def bias(model, sampler: Sampler, draws: int) -> float:
    return (hole_moments(model, sampler, draws)[0] - MEAN).abs().max().item()


def test_the_conditional_model_is_exact():
    mean, covariance = hole_moments(
        GivenTheRest(FACE, HOLE), samplers.ddpm(300, variance_mix=1.0, clip=False), draws=310, constrain=keep_clean
    )
    torch.testing.assert_close(mean, MEAN, rtol=0, atol=0.005)
    torch.testing.assert_close(covariance, SPREAD, rtol=0, atol=0.005)


def test_repaint_is_less_biased_than_replacement():
    replacement = bias(FACE, samplers.replacement(50, clip=False), draws=160)
    repaint = bias(FACE, samplers.repaint(50, jump=5, resamples=4, clip=False), draws=800)
    again = bias(FACE, samplers.repaint(50, jump=5, resamples=10, clip=False), draws=2200)
    assert again < repaint < replacement / 1.5
    assert replacement > 0.3  # the fault that RePaint is for


def moments_of(sampler: Sampler, n: int = 3000) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)

    def noise() -> Tensor:
        return torch.randn(n, 1, 3, generator=generator, dtype=torch.float64)

    out = sample(FACE, sampler, linear(), noise(), condition(n), noise)[:, 0]
    return out[:, HOLE].mean(0), out[:, HOLE].T.cov(), out[:, ~HOLE]


# What the authors' programs make of this Gaussian (wyhuai/DDNM 00b58ea, functions/svd_ddnm.py; andreas128/RePaint
# 8e2a055), run on it without a clip, in float64, one noise at a time: exact, like ours.
AUTHORS = [
    (samplers.ddnm(100), 110, -0.081170, 0.086215),
    (samplers.ddnm(100, jump=10, resamples=3), 500, -0.060664, 0.084834),
    (samplers.repaint(50, jump=5, resamples=4, clip=False), 800, -0.132689, 0.095638),
    (samplers.replacement(50, clip=False), 160, -0.314630, 0.123174),
]


@pytest.mark.parametrize(("sampler", "draws", "off", "variance"), AUTHORS, ids=["ddnm", "travel", "repaint", "replace"])
def test_the_hole_is_filled_as_by_the_authors_programs(sampler, draws, off, variance):
    mean, covariance = hole_moments(FACE, sampler, draws)
    torch.testing.assert_close(mean - MEAN, torch.full_like(mean, off), rtol=0, atol=5e-6)
    torch.testing.assert_close(covariance.diag(), torch.full_like(mean, variance), rtol=0, atol=5e-6)


@pytest.mark.parametrize(
    ("sampler", "scale", "recorded"),
    [(samplers.dps, 0.1, 0.02), (samplers.dps, 0.5, 0.10), (samplers.mcg, 0.1, 0.07), (samplers.mcg, 0.5, 0.18)],
)
def test_the_bias_of_dps_and_mcg_is_as_recorded(sampler, scale, recorded):
    """Biased by construction: x_0 is taken for its posterior mean. docs/inpainting_methods.md has the figures."""
    mean, _, _ = moments_of(sampler(200, scale=scale, clip=False))
    standard_error = (SPREAD.diag().max() / 3000).sqrt().item()
    assert (mean - MEAN).mean().item() == pytest.approx(recorded, abs=4 * standard_error + 0.005)


def test_methods_that_keep_the_known_pixels_end_on_them():
    for sampler in (samplers.replacement(10), samplers.repaint(10, 2, 2), samplers.mcg(10), samplers.ddnm(10)):
        _, _, known = moments_of(sampler, n=20)
        torch.testing.assert_close(known, torch.full_like(known, 0.9))
    _, _, known = moments_of(samplers.dps(200, scale=0.1, clip=False))
    assert known.mean().item() == pytest.approx(0.9, abs=0.1)


def test_the_guide_is_the_slope_of_the_distance_through_the_model():
    x = torch.tensor([[[0.3, -0.2, 0.5]], [[-1.0, 0.4, 0.0]]], dtype=torch.float64)
    level = torch.tensor([0.3, 0.8], dtype=torch.float64)
    said = PosteriorGuide(FACE, 0.7)(x, level, condition(2))
    plain = FACE(x, level, condition(2))
    assert torch.equal(said.x_0, plain.x_0)
    assert said.gradient is not None
    assert not said.gradient.requires_grad
    step = 1e-6
    for row in range(2):
        for place in range(3):
            moved = x.clone()
            moved[row, 0, place] += step
            near = (KNOWN[1] - FACE(moved, level, condition(2)).x_0[row, 0, 1]).abs()
            here = (KNOWN[1] - plain.x_0[row, 0, 1]).abs()
            assert said.gradient[row, 0, place].item() == pytest.approx(-0.7 * (near - here).item() / step, abs=1e-5)


def test_the_distance_is_that_of_all_known_numbers_of_a_picture():
    """A model that says x itself is guided straight to what is known, by a step of length 1."""
    x, known = torch.randn(2, 4, 2, 3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mask = torch.zeros(4, 1, 3, 5, dtype=torch.bool)
    mask[..., 1] = True
    guide = PosteriorGuide(lambda x, *_: Prediction(x, x), 1)
    found = guide(x, torch.full((4,), 0.5).double(), Condition(known=known, mask=mask)).gradient
    away = torch.where(mask, 0, known - x)
    torch.testing.assert_close(found, away / away.square().sum((1, 2, 3), keepdim=True).sqrt())


def test_where_nobody_says_otherwise_the_guide_goes_half_the_slope():
    """DPS, appendix D: zeta' = .5 for inpainting."""
    x, level = torch.tensor([[[0.3, -0.2, 0.5]]], dtype=torch.float64), torch.tensor([0.3], dtype=torch.float64)
    half, whole = (guide(x, level, condition(1)).gradient for guide in (PosteriorGuide(FACE), PosteriorGuide(FACE, 1)))
    torch.testing.assert_close(half, whole / 2)


def test_the_guide_rests_when_the_known_pixels_are_met():
    full = Condition(known=KNOWN.expand(2, 1, 3), mask=torch.ones(2, 1, 3, dtype=torch.bool))
    said = PosteriorGuide(FACE, 0.7)(torch.randn(2, 1, 3, dtype=torch.float64), torch.full((2,), 0.5).double(), full)
    assert said.gradient is not None
    assert said.gradient.eq(0).all()


class Spy(torch.nn.Module):
    condition_channels = 4

    def forward(self, x: Tensor, known: Tensor, time: Tensor, attributes: Tensor | None) -> Tensor:
        self.known = known
        return x


def test_a_blind_model_sees_a_picture_that_is_all_hole():
    spy = Spy()
    model = Blind(NetworkDenoiser(spy, linear(), Epsilon()))
    x, fill, face = (torch.randn(2, 3, 4, 4) for _ in range(3))
    mask = torch.zeros(2, 1, 4, 4, dtype=torch.bool)
    mask[..., :2] = True
    seen = Condition(known=torch.where(mask, fill, face), mask=mask, fill=fill)
    model(x, torch.full((2,), 0.5, dtype=torch.float64), seen)
    assert torch.equal(spy.known[:, :3], fill)
    assert spy.known[:, 3].eq(1).all()
    with pytest.raises(ValueError, match="needs known pixels and a mask"):
        model(x, torch.full((2,), 0.5, dtype=torch.float64), Condition())


def test_a_picture_and_a_mask_are_needed_both():
    x, mask = torch.zeros(1, 1, 3), torch.ones(1, 1, 3, dtype=torch.bool)
    for half in (Condition(known=x), Condition(mask=mask)):
        with pytest.raises(ValueError, match="needs known pixels and a mask"):
            known_pixels(half)


def test_whole_pictures_are_refused_by_name():
    x = torch.zeros(1, 1, 3, dtype=torch.float64)
    with pytest.raises(ValueError, match="fills holes and needs known pixels and a mask: take sampler=ddpm"):
        sample(FACE, samplers.ddnm(2), linear(), x, Condition(), lambda: x)
