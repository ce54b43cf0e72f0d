import math
from dataclasses import FrozenInstanceError

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffusion_lab.diffusion import process, schedule
from diffusion_lab.diffusion.schedule import NoiseSchedule

ALL = [
    schedule.linear(),
    schedule.quadratic(),
    schedule.constant(),
    schedule.jsd(),
    schedule.cosine(),
    schedule.sigmoid(),
    schedule.linear(2000, 1e-6, 0.01),
    schedule.linear(1000, 1e-4, 0.09),
    schedule.zero_terminal(schedule.linear()),
    schedule.linear(steps=1),
    schedule.cosine(steps=2),
]


@pytest.mark.parametrize("table", ALL)
def test_a_table_starts_at_data_and_falls(table):
    assert table.alpha_bar[0] == 1
    assert bool((table.alpha_bar.diff() < 0).all())
    assert bool((table.betas > 0).all())
    assert bool((table.betas <= 1).all())


def test_published_ends():
    assert schedule.linear().alpha_bar[-1].item() == pytest.approx(4.0358e-05, rel=1e-4)
    assert schedule.jsd().alpha_bar[-1] == 0
    assert schedule.cosine().betas[-1].item() == pytest.approx(0.999)
    # DDPM, section 4: KL(q(x_T | x_0) || N(0, 1)) is about 1e-5 bits per dimension at |x_0| <= 1.
    last = schedule.linear().alpha_bar[-1]
    assert (-last - torch.log1p(-last) + last).item() / 2 / math.log(2) < 3e-5


@pytest.mark.parametrize(
    ("steps", "last"),
    [(50, 7.744765699227e-06), (250, 3.264409135491e-05), (1000, 4.035829765376e-05), (4000, 4.246652275802e-05)],
)
def test_any_number_of_steps_ends_at_guided_diffusions_noise(steps, last):
    """Their get_named_beta_schedule("linear", T), printed by their program at 22e0df8."""
    assert schedule.linear(steps).alpha_bar[-1].item() == pytest.approx(last, rel=1e-12)


CURVES = {
    "linear": schedule.linear,
    "quadratic": schedule.quadratic,
    "constant": schedule.constant,
    "jsd": schedule.jsd,
    "cosine": schedule.cosine,
    "sigmoid": schedule.sigmoid,
    "zero_terminal": lambda steps: schedule.zero_terminal(schedule.linear(steps)),
}


@pytest.mark.parametrize("name", CURVES)
@given(st.integers(250, 5000), st.floats(0, 1))
def test_every_schedule_follows_one_curve_over_t_of_T(name, steps, u):
    here, published = (CURVES[name](T).level(torch.tensor([u * T])).item() for T in (steps, 1000))
    assert here == pytest.approx(published, abs=0.015)


def test_betas_that_are_said_are_taken_as_they_stand():
    """What a recipe says that was saved when the numbers were always said."""
    for T in (100, 4000):
        betas = torch.linspace(1e-4, 0.02, T, dtype=torch.float64)
        expected = torch.cat([torch.ones(1, dtype=torch.float64), (1 - betas).cumprod(0)])
        assert torch.equal(schedule.linear(T, 1e-4, 0.02).alpha_bar, expected)
    assert torch.equal(schedule.linear().alpha_bar, schedule.linear(1000, 1e-4, 0.02).alpha_bar)
    assert torch.equal(schedule.quadratic().alpha_bar, schedule.quadratic(1000, 1e-4, 0.02).alpha_bar)
    assert torch.equal(schedule.constant().alpha_bar, schedule.constant(1000, 0.01).alpha_bar)


def test_betas_above_one_are_refused():
    with pytest.raises(ValueError, match=r"no more variance than 1, but beta rises to 2 in 10 steps: use more of them"):
        schedule.linear(10)
    with pytest.raises(ValueError, match=r"beta rises to 1\.5 in 1000 steps"):
        schedule.quadratic(1000, 1e-4, 1.5)


@pytest.mark.parametrize("name", [name for name in CURVES if name != "zero_terminal"])
@pytest.mark.parametrize("steps", [0, -3])
def test_no_steps_are_refused(name, steps):
    with pytest.raises(ValueError, match=rf"schedule\.steps must be 1 or more, got {steps}"):
        CURVES[name](steps)


def test_jsd_betas_are_those_of_the_paper():
    t = torch.arange(1, 1001, dtype=torch.float64)
    torch.testing.assert_close(schedule.jsd().betas, 1 / (1000 - t + 1))


def test_quadratic_betas_are_those_of_latent_diffusion():
    """Its make_beta_schedule("linear", n, linear_start=.00085, linear_end=.012): roots on a line, squared."""
    t = torch.arange(1000, dtype=torch.float64) / 999
    roots = (1 - t) * math.sqrt(0.00085) + t * math.sqrt(0.012)
    torch.testing.assert_close(schedule.quadratic(1000, 0.00085, 0.012).betas, roots**2, rtol=1e-10, atol=0)


def test_a_single_step_may_take_everything_away():
    """The least that a schedule can be: jsd's beta_1 is 1, and so may a beta be that somebody names."""
    assert schedule.jsd(1).alpha_bar.tolist() == [1, 0]
    assert schedule.from_betas(torch.tensor([0.5, 1.0])).alpha_bar.tolist() == [1, 0.5, 0]


def test_cosine_is_the_formula_below_the_cap():
    u = torch.arange(0, 900, dtype=torch.float64) / 1000
    f = torch.cos((u + 0.008) / 1.008 * math.pi / 2).square()
    torch.testing.assert_close(schedule.cosine().alpha_bar[:900], f / f[0])


@pytest.mark.parametrize("table", ALL)
def test_time_inverts_level_at_the_table_exactly(table):
    t = torch.arange(0, table.steps + 1, dtype=torch.float64)
    assert torch.equal(table.level(t), table.alpha_bar)
    torch.testing.assert_close(table.time(table.alpha_bar), t, rtol=0, atol=1e-6)


@given(st.sampled_from(ALL[:9]), st.floats(0, 1))
def test_time_inverts_level_between_the_entries(table, u):
    t = torch.tensor([u * table.steps], dtype=torch.float64)
    torch.testing.assert_close(table.time(table.level(t)), t, rtol=0, atol=1e-4)


@given(st.sampled_from(ALL), st.floats(0, 1))
def test_time_stays_within_the_table(table, level):
    t = table.time(torch.tensor([level], dtype=torch.float64))
    assert 0 <= t.item() <= table.steps


@pytest.mark.parametrize("table", [schedule.linear(), schedule.jsd(10)])
def test_beyond_the_table_lie_its_ends(table):
    t = table.time(torch.tensor([-0.5, table.alpha_bar[-1] / 2, 1.5], dtype=torch.float64))
    assert t.tolist() == [table.steps, table.steps, 0]
    assert table.time(torch.tensor([1.5], dtype=torch.float64).expand(3)).tolist() == [0, 0, 0]  # as a path's level is
    levels = table.level(torch.tensor([-1.0, table.steps + 1.0]))
    assert torch.equal(levels, table.alpha_bar[[0, -1]])


def test_a_table_stays_as_it_was_checked():
    with pytest.raises(FrozenInstanceError):
        schedule.jsd(3).alpha_bar = torch.ones(4, dtype=torch.float64)


def test_zero_terminal_keeps_the_first_signal_and_ends_at_noise():
    plain, rescaled = schedule.linear(), schedule.zero_terminal(schedule.linear())
    assert rescaled.alpha_bar[-1] == 0
    assert rescaled.alpha_bar[1].item() == pytest.approx(plain.alpha_bar[1].item(), rel=1e-12)
    # Amplitudes stay on the same line between the two ends.
    before, after = plain.alpha_bar[1:].sqrt(), rescaled.alpha_bar[1:].sqrt()
    slope = (after[0] - after[-1]) / (before[0] - before[-1])
    torch.testing.assert_close(after, after[-1] + slope * (before - before[-1]))


@pytest.mark.parametrize(
    "table",
    [
        torch.tensor([0.9, 0.5], dtype=torch.float64),
        torch.tensor([1.0, 0.5, 0.6], dtype=torch.float64),
        torch.tensor([1.0, 0.5, 0.5], dtype=torch.float64),
        torch.tensor([1.0, -0.1], dtype=torch.float64),
        torch.tensor([1.0, 0.5]),
        torch.tensor([1.0], dtype=torch.float64),
    ],
)
def test_what_is_no_table_is_refused(table):
    with pytest.raises(ValueError, match="alpha_bar must"):
        NoiseSchedule(table)


def test_the_ends_of_a_table_that_is_refused_are_named():
    with pytest.raises(ValueError, match=r"must fall from 1 towards 0, got 0\.9 \.\.\. 0\.5$"):
        NoiseSchedule(torch.tensor([0.9, 0.8, 0.6, 0.5], dtype=torch.float64))


def test_log_snr_is_infinite_at_the_two_ends_only():
    log_snr = process.log_snr(schedule.jsd(10).alpha_bar)
    assert log_snr[0] == math.inf
    assert log_snr[-1] == -math.inf
    assert bool(log_snr[1:-1].isfinite().all())


@pytest.mark.parametrize("tau", [0.5, 1.0, 2.0])
def test_sigmoid_is_the_formula_below_the_cap(tau):
    """Jabri et al. 2022, algorithm 1, with start -3 and end 3."""
    t = torch.arange(0, 600, dtype=torch.float64)
    sigmoid = lambda z: 1 / (1 + math.exp(-z / tau))  # noqa: E731
    curve = torch.tensor([(sigmoid(3) - sigmoid(6 * u / 1000 - 3)) / (sigmoid(3) - sigmoid(-3)) for u in t.tolist()])
    torch.testing.assert_close(schedule.sigmoid(tau=tau).alpha_bar[:600], curve.double())
    assert torch.equal(schedule.sigmoid().alpha_bar, schedule.sigmoid(1000, -3, 3, 1).alpha_bar)  # the paper's default


@pytest.mark.parametrize("make", [schedule.cosine, schedule.sigmoid])
def test_no_step_adds_more_than_the_cap(make):
    assert make(steps=10, max_beta=0.3).betas.max().item() == pytest.approx(0.3)
    assert make(steps=10).betas.max().item() == pytest.approx(0.999)


def test_a_curve_that_falls_to_nothing_is_cut_off_where_nobody_says_where() -> None:
    assert schedule.from_alpha_bar(lambda u: 1 - u, 10).betas[-1].item() == pytest.approx(0.999)
