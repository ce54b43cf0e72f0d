import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffusion_lab.diffusion import paths
from diffusion_lab.diffusion.schedule import cosine, jsd, linear, zero_terminal

SCHEDULES = st.sampled_from([linear(), cosine(), jsd(), zero_terminal(linear()), linear(50)])
RISING = [paths.uniform_path, paths.quadratic_path, paths.karras_path, paths.log_snr_path]


@pytest.mark.parametrize("path", RISING)
@given(table=SCHEDULES, steps=st.integers(2, 100))
def test_paths_lead_from_noise_to_data(path, table, steps):
    levels = path(table, steps)
    assert len(levels) == steps + 1
    assert levels[-1] == 1
    assert bool((levels.diff() > 0).all())
    assert levels[0] >= table.alpha_bar[-1] - 1e-12


@pytest.mark.parametrize("path", [paths.uniform_path, paths.quadratic_path])
def test_all_steps_visit_the_noisiest_level_and_one_step_is_enough(path):
    assert torch.equal(path(linear(), 1), linear().alpha_bar[[-1, 0]])
    with pytest.raises(ValueError, match=r"sampler\.steps must be 1 or more, got 0"):
        path(linear(), 0)


def test_t_steps_visit_the_whole_table():
    assert torch.equal(paths.uniform_path(linear(), 1000), linear().alpha_bar.flip(0))
    assert torch.equal(paths.section_path(linear(), [1000]), linear().alpha_bar.flip(0))


def test_another_schedule_can_be_walked():
    walked = paths.uniform_path(linear(), 10, schedule=jsd())
    assert torch.equal(walked, jsd().alpha_bar[::100].flip(0))


def test_sections_are_strided_each_for_itself():
    path = paths.section_path(linear(), [90, 60, 60, 20, 20])
    t = linear().time(path).round().long().flip(0)
    assert len(path) == 251
    for section, count in enumerate([90, 60, 60, 20, 20]):
        within = t[(t > 200 * section) & (t <= 200 * (section + 1))]
        assert len(within) == count
        assert within[0] == 200 * section + 1
        assert within[-1] == 200 * (section + 1)
        assert within.diff().max() - within.diff().min() <= 1
    with pytest.raises(ValueError, match=r"section 1 of sampler\.sections has 5 steps, of which 6 were asked for"):
        paths.section_path(linear(10), [2, 6])


def test_the_first_sections_are_longer_where_t_does_not_divide():
    """11 steps in three sections are 4, 4 and 3, as guided-diffusion's respace.py has them."""
    path = paths.section_path(jsd(11), [4, 4, 3])
    torch.testing.assert_close(path, jsd(11).alpha_bar.flip(0))  # each t of each section, and so all of them
    with pytest.raises(ValueError, match=r"section 2 .* has 3 steps, of which 4 were asked for"):
        paths.section_path(jsd(11), [4, 4, 4])


def test_karras_levels_are_edms():
    path = paths.karras_path(linear(), 18, rho=7, sigma_min=0.002, sigma_max=80)
    sigma = ((1 - path) / path).sqrt()
    i = torch.arange(18, dtype=torch.float64)
    eq5 = (80 ** (1 / 7) + i / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    torch.testing.assert_close(sigma, torch.cat([eq5, torch.zeros(1, dtype=torch.float64)]), rtol=1e-7, atol=1e-7)
    with pytest.raises(ValueError, match="sigma_min must be above 0 and below"):
        paths.karras_path(linear(), 18, sigma_min=3.0, sigma_max=2.0)


@given(SCHEDULES, st.integers(2, 60))
def test_heun_calls_twice_at_every_inner_level(table, steps):
    path = paths.heun_path(table, steps)
    plain = paths.karras_path(table, steps)
    assert int((path.diff() >= 0).sum()) == 2 * steps - 1
    assert torch.equal(path.unique(), plain)


def test_churn_is_a_rise_by_edms_factor():
    path = paths.heun_path(linear(), 10, churn=2.0, churn_from=0.05, churn_to=50.0)
    sigma = ((1 - path) / path).sqrt()
    rises = sigma[1:] > sigma[:-1] * (1 + 1e-9)
    torch.testing.assert_close(
        (sigma[1:] / sigma[:-1])[rises], torch.full((int(rises.sum()),), 1.2, dtype=torch.float64)
    )
    plain = ((1 - (p := paths.karras_path(linear(), 10))) / p).sqrt()
    assert int(rises.sum()) == int(((plain >= 0.05) & (plain <= 50)).sum())
    assert int((path.diff() >= 0).sum()) == 19  # churn costs no network call
    most = paths.heun_path(linear(), 2, churn=40.0)
    assert ((1 - most[0]) / most[0]).sqrt().item() == pytest.approx(
        math.sqrt(2) * ((1 - linear().alpha_bar[-1]) / linear().alpha_bar[-1]).sqrt().item()
    )


def test_repaints_published_schedule_costs_2410_calls():
    path = paths.repaint_path(linear())
    assert int((path.diff() >= 0).sum()) == 2410
    assert int((path.diff() < 0).sum()) == 24 * 9
    assert path[0] == linear().alpha_bar[-1]
    assert path[-1] == 1


@pytest.mark.parametrize(
    ("steps", "jump", "resamples", "calls"), [(250, 10, 1, 250), (100, 10, 5, 460), (50, 5, 5, 230)]
)
def test_repaints_cheaper_settings_cost_what_was_published(steps, jump, resamples, calls):
    assert int((paths.repaint_path(linear(), steps, jump, resamples).diff() >= 0).sum()) == calls


@given(st.integers(1, 60), st.integers(1, 12), st.integers(1, 5))
def test_repaint_walks_each_stretch_as_often_as_asked(steps, jump, resamples):
    path = paths.repaint_path(linear(), steps, jump, resamples)
    feet = len(range(1, steps - jump + 1, jump))
    down, rises = path.diff() > 0, path.diff() < 0
    assert int(rises.sum()) == feet * (resamples - 1)
    assert int(down.sum()) == steps + feet * (resamples - 1) * jump
    assert path[-1] == 1
    assert torch.equal(path.unique(), paths.uniform_path(linear(), steps))


@pytest.mark.parametrize(("jump", "resamples"), [(0, 10), (10, 0)])
def test_impossible_jumps_are_refused(jump, resamples):
    with pytest.raises(ValueError, match="must be 1 or more"):
        paths.repaint_path(linear(), 50, jump, resamples)
