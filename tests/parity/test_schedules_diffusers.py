"""Schedules equal diffusers' tables; theirs are float32 products."""

from functools import partial

import diffusers
import pytest
import torch

from diffusion_lab.diffusion import schedule
from diffusion_lab.diffusion.paths import karras_path

# numpy of diffusers' tensors, in their own code
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


ENDS = {"beta_start": 1e-4, "beta_end": 0.02}  # taken as they stand, whatever T is, by them and by us


@pytest.mark.parametrize("steps", [10, 1000, 2000])
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (partial(schedule.linear, start=1e-4, end=0.02), {"beta_schedule": "linear", **ENDS}),
        (partial(schedule.quadratic, start=1e-4, end=0.02), {"beta_schedule": "scaled_linear", **ENDS}),
        (schedule.cosine, {"beta_schedule": "squaredcos_cap_v2"}),
    ],
)
def test_alpha_bar(ours, theirs, steps):
    table = diffusers.DDPMScheduler(num_train_timesteps=steps, **theirs).alphas_cumprod.double()
    torch.testing.assert_close(ours(steps).alpha_bar[1:], table, rtol=1e-4, atol=1e-9)


def test_zero_terminal():
    table = diffusers.DDIMScheduler(rescale_betas_zero_snr=True, beta_end=0.02).alphas_cumprod.double()
    ours = schedule.zero_terminal(schedule.linear())
    torch.testing.assert_close(ours.alpha_bar[1:], table, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("steps", [5, 18, 50])
def test_karras_levels(steps):
    scheduler = diffusers.EulerDiscreteScheduler(use_karras_sigmas=True)
    scheduler.set_timesteps(steps)
    levels = 1 / (1 + scheduler.sigmas.double().square())
    torch.testing.assert_close(karras_path(schedule.linear(), steps), levels, rtol=1e-4, atol=1e-9)
