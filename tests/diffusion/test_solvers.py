"""Theorems: Gaussian in, Gaussian out; orders of convergence; limits."""

import math
from functools import partial

import pytest
import torch
from gaussians import exact_moments

from diffusion_lab.diffusion.denoiser import Condition, Prediction
from diffusion_lab.diffusion.mixture import gaussian
from diffusion_lab.diffusion.paths import heun_path, karras_path, repaint_path, uniform_path
from diffusion_lab.diffusion.process import renoise
from diffusion_lab.diffusion.sampling import Sampler, sample
from diffusion_lab.diffusion.schedule import jsd, linear
from diffusion_lab.diffusion.solvers import DDIM, Ancestral, DPMSolver, Heun, Solver, step_variance

C, MU = 0.3, 0.7
FACE = gaussian([MU], [[C**2]])


def run(solver: Solver, path: torch.Tensor, model=FACE):
    sampler = Sampler(lambda _: path, solver)
    return lambda x_T, noise: sample(model, sampler, linear(), x_T, Condition(), noise)


def moments(solver: Solver, path: torch.Tensor) -> tuple[float, float]:
    mean, covariance = exact_moments(run(solver, path), n=1, draws=len(path))
    return mean.item(), covariance.sqrt().item()


@pytest.mark.parametrize(
    ("steps", "mix", "deviation"),
    [(50, 0, 0.25292), (200, 0, 0.28416), (1000, 0, 0.29625), (50, 1, 0.31349), (200, 1, 0.30434), (1000, 1, 0.30092)],
)
def test_ddpm_makes_a_gaussian_of_the_exact_variance(steps, mix, deviation):
    mean, found = moments(Ancestral(mix), uniform_path(linear(), steps))
    assert found == pytest.approx(deviation, abs=6e-6)
    assert mean == pytest.approx(MU, abs=0.005)  # x_T is drawn from N(0, 1), the process ends at N(.0064 mu, ...)


@pytest.mark.slow
def test_sampled_gaussians_have_the_exact_variance_too():
    generator = torch.Generator().manual_seed(0)
    n = 20_000
    out = run(Ancestral(), uniform_path(linear(), 50))(
        torch.randn(n, 1, 1, generator=generator, dtype=torch.float64),
        lambda: torch.randn(n, 1, 1, generator=generator, dtype=torch.float64),
    )
    assert out.std().item() == pytest.approx(0.25292, abs=4 * 0.25292 / math.sqrt(2 * n))


@pytest.mark.parametrize(
    ("solver", "path", "tolerance"),
    [
        (DDIM(0.0), uniform_path(linear(), 200), 0.008),
        (DPMSolver(0.0), karras_path(linear(), 30), 0.008),
        (DPMSolver(1.0), karras_path(linear(), 60), 0.005),
        (Heun(), heun_path(linear(), 40), 0.005),
        (Heun(), heun_path(linear(), 40, churn=10.0), 0.01),
        (DPMSolver(0.0), uniform_path(jsd(), 200), 0.008),
        (Heun(), heun_path(jsd(), 40), 0.01),
        (Ancestral(), repaint_path(linear(), 250, 10, 3), 0.02),
        (DDIM(0.5), uniform_path(linear(), 200), 0.01),
    ],
)
def test_every_solver_turns_noise_into_the_data(solver, path, tolerance):
    mean, deviation = moments(solver, path)
    assert deviation == pytest.approx(C, abs=tolerance)
    assert mean == pytest.approx(MU, abs=0.03)


def log_snr_levels(steps: int) -> torch.Tensor:
    return torch.linspace(-4, 4, steps + 1, dtype=torch.float64).sigmoid()


def repeated(path: torch.Tensor) -> torch.Tensor:
    return torch.cat([path[:1], path[1:].repeat_interleave(2)])


def order(errors: list[float], steps: list[int]) -> float:
    x, y = torch.tensor(steps, dtype=torch.float64).log(), torch.tensor(errors, dtype=torch.float64).log()
    return -(((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum()).item()


@pytest.mark.parametrize(
    ("solver", "refine", "expected"),
    [
        (DDIM(0.0), log_snr_levels, 1),
        (DPMSolver(0.0), log_snr_levels, 2),
        (Heun(), lambda steps: repeated(log_snr_levels(steps)), 2),
    ],
)
def test_order_of_convergence_along_the_flow(solver, refine, expected):
    steps = [256, 512, 1024]
    x = torch.linspace(-2, 2, 5, dtype=torch.float64).reshape(5, 1, 1)
    errors = []
    for count in steps:
        path = refine(count)
        (start, end) = (float(g) for g in (path[0], path[-1]))
        # Along the probability flow of a Gaussian the standardised x stays what it is.
        standardised = (x - math.sqrt(start) * MU) / math.sqrt(start * C**2 + 1 - start)
        exact = math.sqrt(end) * MU + math.sqrt(end * C**2 + 1 - end) * standardised
        found = run(solver, path)(x, lambda: torch.zeros_like(x))
        errors.append((found - exact).abs().max().item())
    assert order(errors, steps) == pytest.approx(expected, abs=0.15)


@pytest.mark.parametrize(("solver", "expected"), [(Ancestral(), 1), (DPMSolver(1.0), 2)])
def test_weak_order_of_the_stochastic_solvers(solver, expected):
    steps = [64, 128, 256]
    errors = []
    for count in steps:
        path = log_snr_levels(count)
        start, end = float(path[0]), float(path[-1])
        deviation = math.sqrt(start * C**2 + 1 - start)
        walk = run(solver, path, gaussian([0.0], [[C**2]]))
        _, covariance = exact_moments(lambda x_T, noise, walk=walk, d=deviation: walk(d * x_T, noise), 1, count)
        errors.append(abs(covariance.item() - (end * C**2 + 1 - end)))
    assert order(errors, steps) == pytest.approx(expected, abs=0.2)


def test_second_order_pays_at_64_network_calls():
    x = torch.ones(1, 1, 1, dtype=torch.float64)
    exact, ddim, multistep, heun = (
        run(solver, path)(x, lambda: torch.zeros_like(x)).item()
        for solver, path in [
            (DPMSolver(), log_snr_levels(4096)),
            (DDIM(0.0), log_snr_levels(64)),
            (DPMSolver(), log_snr_levels(64)),
            (Heun(), repeated(log_snr_levels(32))),
        ]
    )
    assert abs(multistep - exact) < abs(ddim - exact) / 100
    assert abs(heun - exact) < abs(ddim - exact) / 5


def steps_of(solver: Solver, levels: list[float]) -> torch.Tensor:
    path = torch.tensor(levels, dtype=torch.float64)
    x = torch.linspace(-1, 1, 4, dtype=torch.float64).reshape(4, 1, 1)
    return run(solver, path)(x, lambda: torch.full_like(x, 0.1))


@pytest.mark.parametrize("solver", [DDIM(0.0), DPMSolver(0.0), Heun()])
def test_first_steps_are_ddim_from_level_0_too(solver):
    for levels in ([0.2, 0.5], [0.0, 0.5], [0.2, 1.0], [0.0, 1.0]):
        torch.testing.assert_close(steps_of(solver, levels), steps_of(DDIM(0.0), levels))


@pytest.mark.parametrize("make", [DDIM, DPMSolver, Heun])
def test_where_nobody_says_otherwise_noise_plays_no_part(make):
    """Song et al.'s DDIM, Lu et al.'s ODE solver, EDM's algorithm 1."""
    path, x = torch.tensor([0.1, 0.3, 0.6, 0.9, 1.0], dtype=torch.float64), torch.ones(4, 1, 1, dtype=torch.float64)
    quiet, loud = (run(make(), path)(x, lambda value=value: torch.full_like(x, value)) for value in (0.0, 1.0))
    assert torch.equal(quiet, loud)


@pytest.mark.parametrize("solver", [Ancestral(), DPMSolver(1.0)])
def test_first_stochastic_steps_are_ancestral(solver):
    for levels in ([0.2, 0.5], [0.0, 0.5], [0.2, 1.0]):
        torch.testing.assert_close(steps_of(solver, levels), steps_of(Ancestral(), levels))


@pytest.mark.parametrize("eta", [1e-3, 0.01, 0.5, 1.0])
def test_the_first_sde_step_from_pure_noise_forgets_it(eta):
    """x' = signal' x_0 + sigma' z: whatever eta above 0 is, the process has had infinite time."""
    x, level, next_level = torch.linspace(-2, 2, 5).double(), torch.zeros(5).double(), torch.full((5,), 0.3).double()
    solver = DPMSolver(eta)
    found, _ = solver(x, Prediction(x / 2 + 1, x), level, next_level, lambda: x.flip(0), solver.start(x))
    torch.testing.assert_close(found, 0.3**0.5 * (x / 2 + 1) + 0.7**0.5 * x.flip(0))


@pytest.mark.parametrize("solver", [Ancestral(1.0), DPMSolver(0.0), DPMSolver(1.0)])
@pytest.mark.parametrize("level", [0.0, 0.4, 1.0])
def test_a_step_that_does_not_move_leaves_x_as_it_is(solver, level):
    """A corrector's levels repeat, and these have nothing to correct."""
    x, at = torch.linspace(-2, 2, 5).double().reshape(5, 1), torch.full((5,), level).double()
    before = (x + 1, torch.full((5,), 0.7).double())
    found, _ = solver(x, Prediction(x / 2 + 1, x / 3), at, at, lambda: x + 1, before)
    assert torch.equal(found, x)


def test_heun_has_nothing_to_correct_after_pure_noise():
    """The first step's length in sigma / signal is infinite, and so would be the mean of its slopes."""
    torch.testing.assert_close(steps_of(Heun(), [0.0, 0.3, 0.3]), steps_of(DDIM(), [0.0, 0.3]))


def no_noise() -> torch.Tensor:
    raise AssertionError("noise was drawn")


@pytest.mark.parametrize(
    ("solver", "levels"),
    [
        (Ancestral(1.0), [0.2, 1.0]),
        (DDIM(1.0), [0.2, 1.0]),
        (DPMSolver(1.0), [0.2, 1.0]),
        (DDIM(0.0), [0.2, 0.5, 1.0]),
        (DPMSolver(0.0), [0.2, 0.5, 1.0]),
        (Heun(), [0.2, 0.5, 0.5, 1.0]),
    ],
)
def test_no_noise_is_drawn_that_has_no_part(solver, levels):
    """The next draw of a seed is the next noise, whatever was walked before."""
    x = torch.ones(4, 1, 1, dtype=torch.float64)
    assert bool(run(solver, torch.tensor(levels, dtype=torch.float64))(x, no_noise).isfinite().all())


@pytest.mark.parametrize("mix", [0.0, 0.6, 1.0])
def test_sigma_1_is_beta_1_and_the_others_lie_between(mix):
    """DDPM, sections 3.2 and 3.3; iDDPM eq. 15. Of rows at different steps."""
    x, table = torch.zeros(3, 1, dtype=torch.float64), linear().alpha_bar
    t = torch.tensor([1, 2, 1000])
    found = step_variance(x, Prediction(x, x), table[t], table[t - 1], mix)[:, 0].tolist()
    betas = (1e-4 + (t.double() - 1) * (0.02 - 1e-4) / 999).tolist()
    tilde = [float((1 - table[i - 1]) / (1 - table[i])) * beta for i, beta in zip(t.tolist(), betas, strict=True)]
    assert found == pytest.approx([betas[0], *(tilde[i] ** (1 - mix) * betas[i] ** mix for i in (1, 2))], rel=1e-9)


def test_the_last_multistep_is_of_first_order():
    """At level 1 half the log-SNR is infinite: D = x_0, and x' is what the model says last."""
    x, level = torch.linspace(-2, 2, 5).double(), torch.full((5,), 0.9).double()
    for eta in (0.0, 1.0):
        found, _ = DPMSolver(eta)(x, Prediction(x / 2, x), level, torch.ones_like(level), no_noise, (x + 1, level))
        assert torch.equal(found, x / 2)


@pytest.mark.parametrize("solver", [DDIM(0.5), DPMSolver(0.0), DPMSolver(1.0), Heun()])
def test_nothing_is_infinite_between_pure_noise_and_data(solver):
    for levels in ([0.0, 0.3, 0.3, 0.6, 0.6, 1.0], [0.0, 0.0, 0.5, 1.0, 1.0], [0.1, 0.8, 0.4, 0.4, 1.0, 0.2, 1.0]):
        assert bool(steps_of(solver, levels).isfinite().all())


@pytest.mark.parametrize("solver", [DPMSolver(0.0), DPMSolver(1.0), Heun()])
def test_nothing_from_before_a_rise_is_remembered(solver):
    noise = 0.1 * torch.ones(4, 1, 1, dtype=torch.float64)
    x = torch.linspace(-1, 1, 4, dtype=torch.float64).reshape(4, 1, 1)
    up, down = (torch.tensor(levels, dtype=torch.float64) for levels in ([0.1, 0.3, 0.5], [0.2, 0.6, 0.8]))
    level, lower = up[-1:].expand(4), down[:1].expand(4)
    apart = run(solver, down)(renoise(run(solver, up)(x, lambda: noise), level, lower, noise), lambda: noise)
    torch.testing.assert_close(run(solver, torch.cat([up, down]))(x, lambda: noise), apart)


def test_memory_can_be_gathered_by_rows():
    x = torch.randn(3, 2, 5, dtype=torch.float64)
    level, next_level = (torch.full((3,), g, dtype=torch.float64) for g in (0.2, 0.4))
    said = Prediction(x / 2, x / 3)
    for solver in (Ancestral(), DPMSolver(1.0), Heun()):
        _, memory = solver(
            x, said, level, next_level, lambda: torch.zeros(3, 2, 5, dtype=torch.float64), solver.start(x)
        )
        assert all(len(tensor) == 3 for tensor in (*memory, *solver.start(x)))
        rows = torch.tensor([2, 0])
        kept = tuple(tensor[rows] for tensor in memory)
        zero = partial(torch.zeros, 3, 2, 5, dtype=torch.float64)
        whole, _ = solver(x, said, next_level, (next_level + 1) / 2, zero, memory)
        part, _ = solver(
            x[rows],
            Prediction(x[rows] / 2, x[rows] / 3),
            next_level[rows],
            (next_level[rows] + 1) / 2,
            lambda: torch.zeros(2, 2, 5, dtype=torch.float64),
            kept,
        )
        torch.testing.assert_close(part, whole[rows])


def test_rows_may_stand_at_different_levels():
    x = torch.randn(2, 1, 3, dtype=torch.float64)
    level = torch.tensor([0.1, 0.5], dtype=torch.float64)
    next_level = torch.tensor([0.2, 0.9], dtype=torch.float64)
    for solver in (DDIM(0.0), DPMSolver(0.0), Heun()):
        both, _ = solver(x, Prediction(x / 2, x / 3), level, next_level, lambda: x, solver.start(x))
        for i in range(2):
            row = slice(i, i + 1)
            alone, _ = solver(
                x[row], Prediction(x[row] / 2, x[row] / 3), level[row], next_level[row], lambda: x, solver.start(x[row])
            )
            torch.testing.assert_close(both[row], alone)


@pytest.mark.parametrize("mix", [0.0, 0.25, 1.0])
def test_a_learned_variance_has_the_last_word(mix):
    x = torch.zeros(1, 1, 4, dtype=torch.float64)
    level, next_level = (torch.tensor([g], dtype=torch.float64) for g in (0.3, 0.6))
    said = Prediction(x, x, variance_mix=torch.full_like(x, mix))
    stepped, _ = Ancestral(0.7)(x, said, level, next_level, lambda: torch.ones_like(x), ())
    beta = 1 - 0.3 / 0.6
    tilde = (1 - 0.6) / (1 - 0.3) * beta
    # iDDPM eq. 15
    torch.testing.assert_close(
        stepped.square(), torch.full_like(x, math.exp(mix * math.log(beta) + (1 - mix) * math.log(tilde)))
    )


@pytest.mark.parametrize(("make", "eta"), [(Ancestral, 1.1), (DDIM, 1.1), (DDIM, -0.1), (DPMSolver, 2.0)])
def test_impossible_shares_of_noise_are_refused(make, eta):
    with pytest.raises(ValueError, match=f"must be in .0, 1., got {eta}"):
        make(eta)
