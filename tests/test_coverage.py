"""The figures of docs/coverage.md: the truth passes, each kind of wrong is caught, what is exact elsewhere agrees."""

import importlib
import json
import math
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Generator, Tensor

from diffusion_lab.diffusion import samplers
from diffusion_lab.diffusion.mixture import GivenTheRest, Posterior, gaussian
from diffusion_lab.lessons.data import swiss_roll, swiss_roll_bits

PROBLEMS = ("Gaussian", "mixture", "swiss roll")
COUNT = 250


@pytest.fixture(scope="module")
def coverage() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parents[1])
        return importlib.import_module("benchmarks.coverage")


def asked(coverage: ModuleType, name: str):
    """A problem, its known parts, their posterior, draws to compare with, and the noise of the figures."""
    problem = coverage.PROBLEMS[name]()
    known = problem.whole.draw(coverage.SCENES, Generator().manual_seed(0))[:, ~problem.hole]
    posterior = GivenTheRest(problem.whole, problem.hole).posterior(known)
    reference = posterior.draw(COUNT, Generator().manual_seed(2))
    return problem, known, posterior, reference, coverage.noise_of(posterior, COUNT, truths=30)


@pytest.mark.parametrize("name", PROBLEMS)
def test_draws_of_the_posterior_are_as_exact_as_can_be_told(coverage, name):
    problem, _, posterior, reference, noise = asked(coverage, name)
    for seed in (7, 8, 9):
        draws = posterior.draw(COUNT, Generator().manual_seed(seed))
        assert noise.holds(coverage.figures(draws, posterior, reference))
    rows = coverage.SCENES * COUNT
    assert noise.mean["variance"] == pytest.approx(1, abs=0.02)
    assert noise.mean["in_50"] == pytest.approx(0.5, abs=0.01)
    assert noise.mean["in_90"] == pytest.approx(0.9, abs=0.01)
    assert noise.mean["bias"] == pytest.approx(COUNT**-0.5, rel=0.1)  # of a mean of so many draws
    if len(problem.hole) == 2:  # one number: each draw is in or out
        assert noise.deviation["in_50"] == pytest.approx((0.25 / rows) ** 0.5, rel=0.5)


def shifted(draws: Tensor, posterior: Posterior) -> Tensor:
    return draws + 0.3 * posterior.variance.sqrt()[:, None]


def halved(draws: Tensor, posterior: Posterior) -> Tensor:
    return posterior.mean[:, None] + (draws - posterior.mean[:, None]) * 0.5**0.5


def alone(draws: Tensor, posterior: Posterior) -> Tensor:
    """Each number of the hole right by itself, and no two of them drawn together."""
    return torch.stack([draws[:, :, i].roll(i, dims=1) for i in range(draws.shape[2])], dim=2)


def one_of_the_modes(draws: Tensor, posterior: Posterior) -> Tensor:
    """Whatever lies above the mean is drawn again below it."""
    below = draws <= posterior.mean[:, None]
    return torch.stack([torch.where(b.all(1)[:, None], d, d[b.all(1)][:1]) for d, b in zip(draws, below, strict=True)])


@pytest.mark.parametrize(
    ("name", "wrong", "by"),
    [
        ("Gaussian", shifted, {"bias", "distance"}),
        ("Gaussian", halved, {"variance", "in_50", "in_90", "distance"}),
        ("Gaussian", alone, {"distance"}),
        ("mixture", shifted, {"bias", "distance"}),
        ("mixture", halved, {"variance", "distance"}),
        ("mixture", one_of_the_modes, {"bias", "variance", "in_50", "distance"}),
        ("swiss roll", shifted, {"bias", "in_50", "distance"}),
        ("swiss roll", halved, {"variance", "in_50", "in_90", "distance"}),
    ],
)
def test_a_wrong_method_is_caught_by_the_figures_that_are_of_its_kind(coverage, name, wrong, by):
    _, _, posterior, reference, noise = asked(coverage, name)
    draws = posterior.draw(COUNT, Generator().manual_seed(7))
    found = coverage.figures(wrong(draws, posterior), posterior, reference)
    caught = {k for k in found if abs(found[k] - noise.mean[k]) > coverage.REACH * noise.deviation[k]}
    assert caught >= by
    assert not noise.holds(found)
    if wrong is alone:
        assert caught == by  # nothing that looks at one number can see it
    if wrong is halved:
        assert found["variance"] == pytest.approx(0.5, abs=0.05)
    if wrong is halved and name == "Gaussian":  # P(|N(0, 1/2)| < .6745) and P(|N(0, 1/2)| < 1.645), by erf
        assert found["in_50"] == pytest.approx(math.erf(0.674490), abs=0.03)
        assert found["in_90"] == pytest.approx(math.erf(1.644854), abs=0.02)
    if wrong is shifted:
        assert found["bias"] == pytest.approx(0.3, abs=4 * COUNT**-0.5 / coverage.SCENES**0.5)


def test_the_prior_in_place_of_the_posterior_is_caught(coverage):
    problem, _, posterior, reference, noise = asked(coverage, "Gaussian")
    prior = problem.whole.draw(coverage.SCENES * COUNT, Generator().manual_seed(7))[:, problem.hole]
    found = coverage.figures(prior.unflatten(0, (coverage.SCENES, COUNT)), posterior, reference)
    assert all(abs(found[k] - noise.mean[k]) > coverage.REACH * noise.deviation[k] for k in found)


@pytest.mark.parametrize("name", ["Gaussian", "mixture"])
def test_the_conditional_model_is_exact_with_a_fine_solver_and_not_with_a_coarse_one(coverage, name):
    problem, known, posterior, reference, noise = asked(coverage, name)
    exact = []
    for calls in (10, 100):
        samples = coverage.filled(problem, coverage.METHODS["Heun"], calls, known, COUNT, seed=7)
        exact.append(noise.holds(coverage.figures(samples, posterior, reference)))
    assert exact == [False, True]


def test_an_affine_method_has_the_moments_that_its_authors_program_has(coverage):
    """RePaint's without jumps, on three numbers: tests/diffusion/test_zero_shot.py has them to the sixth decimal."""
    whole = gaussian([0.1, 0.0, -0.1], [[0.30, 0.24, 0.18], [0.24, 0.30, 0.24], [0.18, 0.24, 0.30]])
    problem, known = coverage.Problem(whole, torch.tensor([True, False, True])), torch.tensor([[0.9]]).double()
    posterior = GivenTheRest(whole, problem.hole).posterior(known)
    method = coverage.Method(lambda calls: samplers.replacement(calls, clip=False), trained=False)
    count = 4000
    samples = coverage.filled(problem, method, 50, known, count, seed=7)
    found = coverage.figures(samples, posterior, posterior.draw(count, Generator().manual_seed(2)))
    deviation = posterior.variance[0, 0].sqrt().item()
    assert deviation == pytest.approx(0.108**0.5)
    assert found["bias"] == pytest.approx(0.314630 / deviation, abs=4 * (0.123174 / count) ** 0.5 / deviation)
    assert found["variance"] == pytest.approx(0.123174 / 0.108, rel=4 * (2 / count) ** 0.5)


def test_the_roll_is_the_lessons(coverage):
    """Its pieces are short enough: the density, and draws of the lesson whose first coordinate happens to fit."""
    problem = coverage.PROBLEMS["swiss roll"]()
    generator = Generator().manual_seed(0)
    points = swiss_roll(1_000_000, generator, noise=0.1).double()
    some, one = points[:500], torch.ones(500, dtype=torch.float64)
    nats = problem.whole.log_joint(some, one, problem.whole.log_weights).logsumexp(1)
    apart = (nats + swiss_roll_bits(some, noise=0.1) * math.log(2)).abs()
    assert apart.quantile(0.95) < 0.005
    assert apart.max() < 0.2  # beyond the roll's outer end, where the last piece's middle lies short of it
    kept = points[(points[:, 0] - 0.3).abs() < 0.005, 1:]
    posterior = GivenTheRest(problem.whole, problem.hole).posterior(torch.tensor([[0.3]], dtype=torch.float64))
    assert len(kept) > 2000
    even = (torch.arange(len(kept)) + 0.5)[:, None] / len(kept)
    assert (posterior.cdf(kept[None])[0].sort(dim=0).values - even).abs().max() < 1.95 / len(kept) ** 0.5


def test_exact_from_is_where_the_last_stretch_of_exact_rows_begins(coverage):
    def rows(*exact: bool):
        return [{"calls": 10**i, "exact": e} for i, e in enumerate(exact)]

    assert coverage.exact_from(rows(True, False, True, True)) == 100
    assert coverage.exact_from(rows(True, True)) == 1
    assert coverage.exact_from(rows(True, False)) is None


def test_the_command_prints_a_row_for_each_method_writes_every_number_and_draws(
    coverage, tmp_path, capsys, monkeypatch
):
    for name, calls in (("DDIM", (2, 3)), ("DPM-Solver++", (25, 50))):
        monkeypatch.setitem(coverage.METHODS, name, replace(coverage.METHODS[name], calls=calls))
    said = ["--problems", "mixture", "--methods", "DDIM", "DPM-Solver++", "--samples", "20"]
    coverage.main([*said, "--output", str(tmp_path / "c.json"), "--figure", str(tmp_path / "c.png")])
    lines = [line for line in capsys.readouterr().out.split("\n") if line.startswith("|")]
    assert [line.split(" | ")[1] for line in lines[2:]] == ["*exact draws*", "DDIM", "DPM-Solver++"]
    assert len({line.count("|") for line in lines}) == 1
    assert "**" in lines[3]  # three steps are beyond the noise even of so few samples
    assert lines[3].endswith(" never |")
    assert "**" not in lines[4]
    assert lines[4].endswith(" 25 |")
    rows = json.loads((tmp_path / "c.json").read_text())["problems"]["mixture"]["rows"]
    assert [(row["method"], row["calls"], row["exact"]) for row in rows] == [
        ("DDIM", 2, False),
        ("DDIM", 3, False),
        ("DPM-Solver++", 25, True),
        ("DPM-Solver++", 50, True),
    ]
    assert (tmp_path / "c.png").stat().st_size > 1000


def test_every_method_asks_the_network_about_as_often_as_its_column_says(coverage):
    from diffusion_lab.diffusion.schedule import linear

    for name, method in coverage.METHODS.items():
        for calls in method.calls:
            assert method.make(calls).network_calls(linear()) == pytest.approx(calls, abs=1), name
