import math

import pytest
import torch
from torch import Tensor

from diffusion_lab.diffusion import process
from diffusion_lab.diffusion.denoiser import Condition, Epsilon, NetworkDenoiser, Prediction
from diffusion_lab.diffusion.guidance import (
    ClassifierFree,
    ClassifierGuidance,
    Clip,
    DynamicThreshold,
    NetworkClassifier,
    ShiftedMean,
    after_step,
    exclusive,
    independent,
)
from diffusion_lab.diffusion.mixture import Mixture
from diffusion_lab.diffusion.paths import karras_path, log_snr_path, uniform_path
from diffusion_lab.diffusion.sampling import Sampler, sample
from diffusion_lab.diffusion.schedule import linear
from diffusion_lab.diffusion.solvers import DDIM, Ancestral, DPMSolver

S = 0.2  # deviation of both faces of the mixture, at -1 and +1


KINDS = Mixture(torch.zeros(2), torch.tensor([[-1.0], [1.0]]), torch.tensor([[S**2]], dtype=torch.float64))


def responsibilities(x: Tensor, level: Tensor) -> Tensor:
    """P(component | x), ``(B, 2)``."""
    return KINDS.log_joint(x, level, KINDS.log_weights).softmax(1)


def mixture(x: Tensor, level: Tensor, condition: Condition) -> Prediction:
    """The optimal denoiser of the mixture; attributes, if said, are the chance of the second kind."""
    share = responsibilities(x, level)
    if condition.attributes is not None:
        said = torch.where(condition.attributes.isnan(), 0.5, condition.attributes)
        share = share * torch.cat([1 - said, said], dim=1)
        share = share / share.sum(1, keepdim=True)
    return Prediction(*KINDS.seen(x, level, share))


LIKELIHOOD = torch.tensor([0.2, 0.9], dtype=torch.float64)  # p(y | component)
WEIGHT = float(LIKELIHOOD[1] / LIKELIHOOD.sum())  # of the second component given y, by Bayes' rule


def classifier(x: Tensor, level: Tensor, condition: Condition) -> Tensor:
    """log p(y | x), exact at every level."""
    return (responsibilities(x, level) * LIKELIHOOD).sum(1).log()


def weight_of(sampler: Sampler, n: int = 4000, **condition: Tensor) -> float:
    generator = torch.Generator().manual_seed(0)

    def noise() -> Tensor:
        return torch.randn(n, 1, generator=generator, dtype=torch.float64)

    out = sample(mixture, sampler, linear(), noise(), Condition(**condition), noise)
    assert (out.abs() - 1).abs().mean() < 2 * S  # still the two kinds of face, not something between
    return (out > 0).double().mean().item()


def guided(scale: float):
    return lambda model: ClassifierGuidance(model, classifier, scale)


ERROR = 4 * math.sqrt(WEIGHT * (1 - WEIGHT) / 4000)


@pytest.mark.parametrize(
    ("path", "solver"),
    [
        (lambda s: uniform_path(s, 100), Ancestral()),
        (lambda s: uniform_path(s, 100), DDIM()),
        (lambda s: log_snr_path(s, 60), DPMSolver(0.0)),
        (lambda s: karras_path(s, 60), DPMSolver(1.0)),
    ],
)
def test_guidance_in_eps_moves_the_weight_as_bayes_says(path, solver):
    assert weight_of(Sampler(path, solver)) == pytest.approx(0.5, abs=ERROR)
    assert weight_of(Sampler(path, solver, guided(1.0))) == pytest.approx(WEIGHT, abs=ERROR + 0.01)


@pytest.mark.parametrize("mix", [0.0, 1.0])
def test_guidance_of_the_mean_moves_it_as_well(mix):
    sampler = Sampler(
        lambda s: uniform_path(s, 300),
        ShiftedMean(mix),
        lambda model: ClassifierGuidance(model, classifier, 1.0, after_step),
    )
    assert weight_of(sampler) == pytest.approx(WEIGHT, abs=ERROR + 0.01)


def test_more_guidance_moves_it_further():
    weights = [weight_of(Sampler(lambda s: uniform_path(s, 50), DDIM(), guided(s))) for s in (0.0, 1.0, 3.0)]
    assert weights[0] == pytest.approx(0.5, abs=ERROR)
    assert weights[0] < weights[1] < weights[2]


def test_classifier_free_guidance_is_linear_in_the_scale_and_asks_once():
    asked = []

    def model(x: Tensor, level: Tensor, condition: Condition) -> Prediction:
        asked.append(len(x))
        return mixture(x, level, condition)

    x = torch.linspace(-2, 2, 6, dtype=torch.float64)[:, None]
    level = torch.full((6,), 0.4, dtype=torch.float64)
    attributes = torch.full((6, 1), 0.8, dtype=torch.float64)
    condition = Condition(attributes=attributes)
    said, nothing = mixture(x, level, condition), mixture(x, level, Condition())
    for scale in (0.0, 1.0, 2.5):
        found = ClassifierFree(model, scale)(x, level, condition)
        torch.testing.assert_close(found.eps, nothing.eps + scale * (said.eps - nothing.eps))
        torch.testing.assert_close(process.add_noise(found.x_0, found.eps, level), x)
    assert asked == [12, 12, 12]

    def learned(x: Tensor, level: Tensor, condition: Condition) -> Prediction:
        assert condition.attributes is not None
        said = mixture(x, level, condition)
        return Prediction(said.x_0, said.eps, condition.attributes.nan_to_num(-1).expand_as(x))

    mix = ClassifierFree(learned)(x, level, condition).variance_mix
    assert torch.equal(mix, torch.full_like(x, 0.8))  # of what was said: guidance exaggerates the mean alone
    with pytest.raises(ValueError, match="needs attributes to guide towards"):
        ClassifierFree(model)(x, level, Condition())


def test_where_nobody_says_otherwise_a_guide_is_bayes_rule_and_a_free_one_goes_as_far_again():
    x, level = torch.linspace(-2, 2, 6).double()[:, None], torch.full((6,), 0.4).double()
    condition = Condition(attributes=torch.full((6, 1), 0.8).double())
    said, nothing = mixture(x, level, condition), mixture(x, level, Condition())
    free = ClassifierFree(mixture)(x, level, condition)
    torch.testing.assert_close(free.x_0, said.x_0 + (said.x_0 - nothing.x_0))
    bayes = ClassifierGuidance(mixture, classifier)(x, level, Condition())
    by_hand = responsibilities(x, level) * LIKELIHOOD
    exact = Prediction(*KINDS.seen(x, level, by_hand / by_hand.sum(1, keepdim=True)))
    torch.testing.assert_close(bayes.x_0, exact.x_0)
    torch.testing.assert_close(bayes.eps, exact.eps)


def test_classifier_free_guidance_of_scale_1_samples_the_conditional_model():
    attributes = torch.full((4000, 1), WEIGHT, dtype=torch.float64)
    sampler = Sampler(lambda s: uniform_path(s, 50), Ancestral(), lambda model: ClassifierFree(model, 1.0))
    assert weight_of(sampler, attributes=attributes) == pytest.approx(WEIGHT, abs=ERROR)


class Wild(torch.nn.Module):
    condition_channels = 0

    def forward(self, x: Tensor, known: Tensor, time: Tensor, attributes: Tensor | None) -> Tensor:
        return 3 * x.roll(1, -1)


@pytest.mark.parametrize("gamma", [0.0, 0.01, 0.5, 0.999, 1.0])
@pytest.mark.parametrize("wrap", [Clip, DynamicThreshold, lambda model: DynamicThreshold(model, 0.8)])
def test_clipped_predictions_are_pictures_and_agree_with_themselves(wrap, gamma):
    model = NetworkDenoiser(Wild(), linear(), Epsilon())
    x = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    level = torch.full((3,), gamma, dtype=torch.float64)
    said = wrap(model)(x, level, Condition())
    assert said.x_0.abs().max() <= 1
    if gamma < 1:
        torch.testing.assert_close(process.add_noise(said.x_0, said.eps, level), x, rtol=1e-5, atol=1e-5)


def test_dynamic_threshold_is_a_clip_where_nothing_leaves_the_range():
    x = torch.zeros(2, 3, 4, 4)
    level = torch.full((2,), 0.5, dtype=torch.float64)
    x_0 = torch.stack([torch.linspace(-0.9, 0.9, 48), torch.linspace(-2, 2, 48)]).reshape(2, 3, 4, 4)
    said = DynamicThreshold(lambda *_: Prediction(x_0, x_0), 1.0)(x, level, Condition())
    torch.testing.assert_close(said.x_0, torch.stack([x_0[0], x_0[1] / 2]))


def test_one_value_in_two_hundred_may_leave_the_range():
    """Imagen's 99.5 %: of 201 magnitudes 0, .01, ..., 2 the threshold is 1.99."""
    x_0 = torch.linspace(0, 2, 201, dtype=torch.float64).reshape(1, 1, 201)
    said = DynamicThreshold(lambda *_: Prediction(x_0, x_0))(x_0, torch.full((1,), 0.5).double(), Condition())
    torch.testing.assert_close(said.x_0, (x_0 / 1.99).clamp(max=1))


@pytest.mark.parametrize("percentile", [-0.1, 0.0, 1.01, 99.5])
def test_a_percentile_is_a_share(percentile):
    """Imagen's 99.5 % is .995."""
    with pytest.raises(ValueError, match=rf"percentile must be in \(0, 1\], got {percentile}"):
        DynamicThreshold(Wild(), percentile)


@pytest.mark.parametrize("mix", [None, 0.3])
@pytest.mark.parametrize("next_gamma", [0.6, 1.0])
def test_guides_heed_the_gradient_as_algorithms_1_and_2_say(mix, next_gamma):
    """Of the mean: + Sigma scale grad log p(y | x), Sigma fixed or learned; of eps: - sigma scale grad (ADM)."""
    x = torch.tensor([[0.4], [-0.7]], dtype=torch.float64)
    level, next_level = (torch.full((2,), g, dtype=torch.float64) for g in (0.2, next_gamma))
    learned = None if mix is None else torch.full_like(x, mix)

    def model(x: Tensor, level: Tensor, condition: Condition) -> Prediction:
        said = mixture(x, level, condition)
        return Prediction(said.x_0, said.eps, learned)

    found = ClassifierGuidance(model, classifier, 2.0, after_step)(x, level, Condition())
    step = 1e-6
    slope = (classifier(x + step, level, Condition()) - classifier(x - step, level, Condition())) / (2 * step)
    beta = 1 - 0.2 / next_gamma  # what the forward process adds on the way from x' to x
    tilde = 1 / (1 / (1 - next_gamma) + 0.2 / next_gamma / beta) if next_gamma < 1 else beta  # precisions add up
    variance = tilde ** (1 - (mix or 0)) * beta ** (mix or 0)
    moved, still = (
        solver(x, found, level, next_level, lambda: torch.zeros_like(x), ())[0]
        for solver in (ShiftedMean(), Ancestral())
    )
    torch.testing.assert_close(moved, still + variance * 2.0 * slope[:, None], rtol=1e-6, atol=1e-8)
    if mix is None:  # a fixed variance is the one that is asked for
        moved, still = (
            solver(x, found, level, next_level, lambda: torch.zeros_like(x), ())[0]
            for solver in (ShiftedMean(0.7), Ancestral(0.7))
        )
        between = tilde**0.3 * beta**0.7
        torch.testing.assert_close(moved, still + between * 2.0 * slope[:, None], rtol=1e-6, atol=1e-8)
    # In eps: eps - sigma scale grad log p(y | x) (algorithm 2)
    said = ClassifierGuidance(model, classifier, 2.0)(x, level, Condition())
    eps = mixture(x, level, Condition()).eps
    torch.testing.assert_close(said.eps, eps - math.sqrt(0.8) * 2.0 * slope[:, None], rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(process.add_noise(said.x_0, said.eps, level), x)


class Sums(torch.nn.Module):
    """Logits by a formula: the sums of each half of the picture, and the time."""

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        left, right = x.chunk(2, dim=-1)
        return torch.stack([left.sum((1, 2, 3)), right.sum((1, 2, 3)) + 0 * time], dim=1)


def test_the_log_probability_is_the_sum_over_what_is_asked():
    model = NetworkClassifier(Sums(), linear())
    x = torch.randn(3, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    level = torch.full((3,), 0.5, dtype=torch.float64)
    asked = torch.tensor([[1.0, 0.0], [math.nan, 1.0], [math.nan, math.nan]])
    chance = model.logits(x, level).sigmoid()
    expected = torch.stack([(chance[0, 0] * (1 - chance[0, 1])).log(), chance[1, 1].log(), torch.tensor(0.0)])
    torch.testing.assert_close(model(x, level, Condition(attributes=asked)), expected)
    x.requires_grad_()
    model(x, level, Condition(attributes=asked)).sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert x.grad[2].abs().sum() == 0
    with pytest.raises(ValueError, match=r"knows 2 attributes, and 5 were given: set model\.outputs=5"):
        model(x, level, Condition(attributes=torch.ones(3, 5)))
    with pytest.raises(ValueError, match="needs attributes to ask for"):
        model(x, level, Condition())


def test_of_classes_one_holds():
    """Their chances are a softmax, and what is asked for is a set of classes: exactly those, or all but some."""
    logits = torch.randn(6, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3
    p, nan = logits.exp() / logits.exp().sum(), math.nan

    def asked(*wanted: float) -> float:
        return exclusive(logits[None], torch.tensor([wanted], dtype=torch.float64)).exp().item()

    assert asked(nan, 1, nan, nan, nan, nan) == pytest.approx(p[1].item())
    assert asked(0, 1, 0, 0, 0, 0) == pytest.approx(p[1].item())  # a label says the same
    assert asked(nan, 1, nan, 1, nan, nan) == pytest.approx((p[1] + p[3]).item())
    assert asked(0, nan, nan, 0, nan, nan) == pytest.approx((1 - p[0] - p[3]).item())
    assert asked(*[nan] * 6) == pytest.approx(1)
    model = NetworkClassifier(Sums(), linear(), reads=exclusive)
    x, level = torch.randn(4, 3, 4, 4), torch.full((4,), 0.5, dtype=torch.float64)
    torch.testing.assert_close(model.chances(x, level), model.logits(x, level).softmax(1))
    apart = NetworkClassifier(Sums(), linear(), reads=independent)
    torch.testing.assert_close(apart.chances(x, level), model.logits(x, level).sigmoid())


@pytest.mark.parametrize("wanted", [[math.nan, 1.0], [0.0, math.nan], [math.nan, math.nan], [1.0, 1.0]])
def test_a_softmax_guides_by_finite_gradients(wanted):
    x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    model = NetworkClassifier(Sums(), linear(), reads=exclusive)
    condition = Condition(attributes=torch.tensor([wanted, wanted]))
    (gradient,) = torch.autograd.grad(model(x, torch.full((2,), 0.5).double(), condition).sum(), x)
    assert bool(gradient.isfinite().all())
    certain = wanted == [1.0, 1.0] or all(map(math.isnan, wanted))  # one of all there are: nothing to go uphill for
    assert bool((gradient.abs() < 1e-6).all()) == certain


def test_several_pictures_are_asked_for_each_by_its_own_classes():
    logits = torch.tensor([[0.0, math.log(2), math.log(5)], [0.0, 0.0, 0.0]], dtype=torch.float64)
    wanted = torch.tensor([[1.0, 0.0, 0.0], [0.0, math.nan, math.nan]], dtype=torch.float64)
    assert exclusive(logits, wanted).exp().tolist() == pytest.approx([1 / 8, 2 / 3])
    assert independent(logits, wanted).exp().tolist() == pytest.approx([1 / 2 * 1 / 3 * 1 / 6, 1 / 2])


@pytest.mark.parametrize("kept", [("known", "mask"), ("known", "fill"), ("mask", "fill"), ("known",), ("fill",)])
def test_x_reaches_the_classifier_as_it_is_where_nothing_can_be_noised(kept):
    x, known, fill = torch.randn(3, 2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    level, attributes = torch.full((2,), 0.3, dtype=torch.float64), torch.ones(2, 2)
    given = {"known": known, "mask": torch.zeros(2, 1, 4, 4, dtype=torch.bool), "fill": fill}
    model = NetworkClassifier(Sums(), linear())
    found = model(x, level, Condition(attributes=attributes, **{name: given[name] for name in kept}))
    assert torch.equal(found, model(x, level, Condition(attributes=attributes)))


def test_clean_known_pixels_reach_the_classifier_as_noisy_as_the_hole():
    network = Sums()
    model, shown = NetworkClassifier(network, linear()), []
    network.register_forward_pre_hook(lambda module, inputs: shown.append(inputs[0]))
    generator = torch.Generator().manual_seed(0)
    x, fill = torch.randn(2, 1, 3, 4, 4, generator=generator)
    level = torch.full((1,), 0.3, dtype=torch.float64)
    mask = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    mask[..., :2] = True
    known = torch.where(mask, fill, 0.7)
    seen = torch.where(mask, x, 0.3**0.5 * known + 0.7**0.5 * fill)  # DDPM eq. 4
    leaf = x.clone().requires_grad_()
    condition = Condition(known, mask, torch.tensor([[1.0, 1.0]]), fill)
    said = model(leaf, level, condition)
    torch.testing.assert_close(shown[-1], seen)
    torch.testing.assert_close(said, model(seen, level, Condition(attributes=condition.attributes)))
    said.sum().backward()
    assert leaf.grad is not None
    assert (leaf.grad[..., 2:] == 0).all()  # nothing but the hole is guided
    assert (leaf.grad[..., :2] != 0).all()
