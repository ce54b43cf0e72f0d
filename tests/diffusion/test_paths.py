import math

import numpy as np
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
    assert torch.equal(paths.respaced_path(linear(50), 50), linear(50).alpha_bar.flip(0))
    assert torch.equal(paths.section_path(linear(), [1000]), linear().alpha_bar.flip(0))


@pytest.mark.parametrize("path", [paths.karras_path, paths.log_snr_path, paths.heun_path, paths.respaced_path])
def test_two_ends_are_the_least_where_both_are_visited(path):
    """The noisiest level and that of t = 1, and from there to the data."""
    visited = path(linear(), 2).unique()
    torch.testing.assert_close(visited, linear().alpha_bar[[-1, 1, 0]], rtol=1e-12, atol=0)
    with pytest.raises(ValueError, match=r"sampler\.steps must be 2 or more, got 1$"):
        path(linear(), 1)


@pytest.mark.parametrize("path", [paths.karras_path, paths.log_snr_path, paths.heun_path])
def test_no_step_is_spent_where_noise_is_160_times_the_signal(path):
    """Pure noise has no ratio to space by; linear's own end, 157, is a start as it stands."""
    assert path(jsd(), 5)[0].item() == pytest.approx(1 / (1 + 160**2), rel=1e-9)
    assert path(linear(), 5)[0].item() == pytest.approx(linear().alpha_bar[-1].item(), rel=1e-9)


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
        paths.section_path(jsd(10), [2, 6])


def test_strides_are_guided_diffusions():
    """Its space_timesteps(1000, "ddim50") and (1000, "ddim25"), which count t from 0."""
    for steps, indices in ((50, range(0, 1000, 20)), (25, range(0, 1000, 40)), (12, range(0, 1000, 84))):
        path = paths.strided_path(linear(), steps)
        assert torch.equal(path, torch.cat([linear().alpha_bar[[t + 1 for t in reversed(indices)]], path[-1:]]))
        assert path[-1] == 1
    with pytest.raises(
        ValueError, match=r"no whole stride through 1000 steps visits 60 of them: set sampler\.steps to 59 or 63$"
    ):
        paths.strided_path(linear(), 60)
    with pytest.raises(ValueError, match=r"sampler\.steps must be 1 or more, got 0"):
        paths.strided_path(linear(), 0)


@given(st.integers(2, 300), st.integers(1, 300))
def test_a_stride_is_found_where_there_is_one(last, steps):
    found = [stride for stride in range(1, last) if math.ceil(last / stride) == steps]
    table = jsd(last)
    if not found:
        with pytest.raises(ValueError, match=rf"visits {steps} of them"):
            paths.strided_path(table, steps)
        return
    t = table.time(paths.strided_path(table, steps)).round().long().flip(0)
    assert t.tolist() == [0, *range(1, last + 1, min(found))]


@pytest.mark.parametrize("path", [paths.karras_path, paths.heun_path])
@pytest.mark.parametrize(("low", "high"), [(0, 80), (-1, 80), (0.1, 0)])
def test_ends_of_edms_levels_are_taken_as_they_are_said(path, low, high):
    with pytest.raises(ValueError, match=r"sampler\.sigma_min must be above 0 and below sampler\.sigma_max, got"):
        path(linear(), 18, sigma_min=low, sigma_max=high)


def test_a_table_of_one_or_two_steps_has_its_strides():
    assert paths.strided_path(jsd(1), 1).tolist() == [0, 1]
    assert paths.strided_path(jsd(2), 2).tolist() == [0, 0.5, 1]
    with pytest.raises(ValueError, match=r"visits 1 of them: set sampler\.steps to 2$"):
        paths.strided_path(jsd(2), 1)


def times_of(path: torch.Tensor, steps: int) -> list[int]:
    """The t that a path visits, from data to noise; jsd's level of t is 1 - t / T, which says t back exactly."""
    return ((1 - path.flip(0)) * steps).round().long().tolist()


# Run through guided-diffusion's space_timesteps (22e0df8), whose t = 0 is our 1; our path ends at t = 0, the data.
SPACED = [
    (100, [7, 3], [1, 9, 17, 25, 34, 42, 50, 51, 75, 100]),
    (10, [3, 2], [1, 3, 5, 6, 10]),
    (1000, [1], [1]),
    (1000, [10], [1, 112, 223, 334, 445, 556, 667, 778, 889, 1000]),
    # Strides of 49.95 add up to a little less than 499.5; multiplied they are 499.5, which rounds to 500.
    (
        1000,
        [21],
        [1, 51, 101, 151, 201, 251, 301, 351, 401, 451, 500, 550, 600, 650, 700, 750, 800, 850, 900, 950, 1000],
    ),
]


@pytest.mark.parametrize(("steps", "sections", "visited"), SPACED)
def test_sections_visit_guided_diffusions_t(steps, sections, visited):
    assert times_of(paths.section_path(jsd(steps), sections), steps) == [0, *visited]


@given(st.integers(2, 1200), st.data())
def test_every_list_is_guided_diffusions(steps, data):
    """Equal sections, the first ones longer by one if need be; in each, strides added up and rounded half to even."""
    sections = np.array_split(np.arange(1, steps + 1), data.draw(st.integers(1, min(steps, 6))))
    counts = [data.draw(st.integers(1, len(section))) for section in sections]
    visited = [0]
    for section, count in zip(sections, counts, strict=True):
        strides = np.full(count - 1, (len(section) - 1) / max(1, count - 1))
        visited += section[np.rint(np.cumsum([0.0, *strides])).astype(int)].tolist()
    assert times_of(paths.section_path(jsd(steps), counts), steps) == visited


def test_ddims_stride_is_the_least_that_visits_as_many_t():
    """ADM's "ddim50", ermongroup/ddim's `range(0, T, skip)` and DDNM's i * skip, all counted from 0."""
    assert times_of(paths.strided_path(jsd(1000), 50), 1000) == [0, *range(1, 1000, 20)]
    assert times_of(paths.strided_path(jsd(1000), 100), 1000) == [0, *range(1, 1000, 10)]
    assert times_of(paths.strided_path(jsd(1000), 30), 1000) == [0, *range(1, 1000, 34)]  # 34 to 35 visit 30 or 29
    assert times_of(paths.strided_path(jsd(1000), 1000), 1000) == [*range(1001)]
    assert times_of(paths.strided_path(jsd(7), 3), 7) == [0, 1, 4, 7]


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
    assert ((1 - most[1]) / most[1]).sqrt().item() == pytest.approx(
        math.sqrt(2) * ((1 - linear().alpha_bar[-1]) / linear().alpha_bar[-1]).sqrt().item()
    )


def test_churn_of_any_size_begins_at_s_min_itself():
    """EDM, algorithm 2: gamma = min(S_churn / N, sqrt(2) - 1) where S_min <= t <= S_max, which are 0 and infinity."""
    fifth = paths.rho_sigmas(linear(), 10, 7.0, None, None)[4].item()
    for options, count in (({"churn_from": fifth}, 5), ({"churn_to": fifth}, 6), ({}, 10)):
        path = paths.heun_path(linear(), 10, churn=0.5, **options)
        sigma = paths.ratio_at(path)
        grown = (sigma[1:] / sigma[:-1])[path.diff() < 0]
        torch.testing.assert_close(grown, torch.full((count,), 1.05, dtype=torch.float64))


def test_repaint_visits_its_authors_t():
    """Run through RePaint's program (8e2a055) at T = 1,000 with timestep_respacing 250 and 10."""
    t = times_of(paths.repaint_path(jsd(1000), resamples=1), 1000)
    assert t[:6] == [0, 1, 5, 9, 13, 17]
    assert t[-4:] == [988, 992, 996, 1000]
    assert len(t) == 251
    walked = times_of(paths.repaint_path(jsd(1000), steps=10, jump=3, resamples=2), 1000)
    down = [1000, 889, 778, 667]  # theirs rises one t at a time, ours at once: the same distribution
    assert walked[::-1] == [*down, *down, 556, 445, 334, 667, 556, 445, 334, 223, 112, 1, 334, 223, 112, 1, 0]


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


@given(st.integers(2, 60), st.integers(1, 12), st.integers(1, 5))
def test_repaint_walks_each_stretch_as_often_as_asked(steps, jump, resamples):
    path = paths.repaint_path(linear(), steps, jump, resamples)
    feet = len(range(1, steps - jump + 1, jump))
    down, rises = path.diff() > 0, path.diff() < 0
    assert int(rises.sum()) == feet * (resamples - 1)
    assert int(down.sum()) == steps + feet * (resamples - 1) * jump
    assert path[-1] == 1
    assert len(path.unique()) == steps + 1


@pytest.mark.parametrize("steps", [1, 51])
def test_repaint_asks_for_whole_t(steps):
    with pytest.raises(ValueError, match=rf"sampler\.steps must be .*, got {steps}"):
        paths.repaint_path(linear(50), steps)


@pytest.mark.parametrize(("jump", "resamples"), [(0, 10), (10, 0)])
def test_impossible_jumps_are_refused(jump, resamples):
    with pytest.raises(ValueError, match="must be 1 or more"):
        paths.repaint_path(linear(), 50, jump, resamples)
