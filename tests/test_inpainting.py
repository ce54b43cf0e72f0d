import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from diffusion_lab.diffusion import samplers
from diffusion_lab.diffusion.denoiser import Prediction
from diffusion_lab.diffusion.samplers import ddim, ddpm
from diffusion_lab.diffusion.sampling import Rows, Sampler
from diffusion_lab.inpainting import Inpainter
from diffusion_lab.pictures import to_uint8


def faces(count: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    image = torch.rand(count, 3, 16, 16, generator=generator) * 2 - 1
    return image, torch.rand(count, 1, 16, 16, generator=generator) < 0.4


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 2**32), st.floats(0, 1))
def test_known_pixels_come_back_bit_for_bit(inpainter: Inpainter, seed: int, share: float) -> None:
    image = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    mask = torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(seed)) < share
    result = inpainter(image, mask, seeds=[seed])
    known = ~mask.expand_as(image)
    assert torch.equal(result[known], image[known])
    assert bool(torch.isfinite(result).all())
    assert float(result.abs().max()) <= 1


SAMPLERS = [
    *(samplers.ddpm(4, clip=clip) for clip in (True, False)),
    *(samplers.ddim(4, eta=0.5, clip=clip) for clip in (True, False)),
    samplers.ddim_quadratic(4, clip=False),
    samplers.ddim_thresholded(4),
    samplers.palette(4),
    samplers.dpm_solver(4, clip=False),
    samplers.dpm_solver_karras(4, eta=1.0, clip=False),
    samplers.heun(4, churn=2.0, clip=False),
    samplers.replacement(4, clip=False),
    samplers.repaint(4, jump=2, resamples=2, clip=False),
    samplers.dps(4, clip=False),
    samplers.mcg(4, clip=False),
    samplers.ddnm(4, clip=False),
]


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("loud", [1.0, 1e4])
def test_a_picture_is_one_whatever_sampler_and_network_say(inpainter: Inpainter, sampler: Sampler, loud: float) -> None:
    handle = inpainter.denoiser.network.register_forward_hook(lambda module, inputs, output: loud * output)
    reached = []
    image, mask = faces(2)
    result = inpainter(
        image, mask, seeds=[0, 1], sampler=sampler, on_step=lambda rows, _: reached.append(rows.x.abs().max())
    )
    handle.remove()
    assert float(result.abs().max()) <= 1
    if loud > 1:
        assert max(reached) > 1  # else this would be no test of it


def test_what_lies_in_the_hole_is_never_looked_at(inpainter: Inpainter) -> None:
    image, mask = faces(2)
    other = torch.where(mask, torch.full_like(image, float("nan")), image)
    assert torch.equal(inpainter(image, mask, seeds=[1, 2]), inpainter(other, mask, seeds=[1, 2]))


@pytest.mark.parametrize("sampler", [ddim(steps=10), ddpm(steps=10), ddim(steps=10, eta=0.5)])
def test_a_seed_makes_the_same_picture_in_any_company(inpainter: Inpainter, sampler: object) -> None:
    image, mask = faces(4)
    noises: dict[int, list[Tensor]] = {1: [], 4: []}

    def fill(rows: slice, count: int) -> Tensor:
        def on_step(state: Rows, prediction: Prediction) -> None:
            noises[count].append(state.noise().clone())

        seeds = torch.arange(4)[rows]
        return inpainter(image[rows], mask[rows], seeds=seeds, sampler=sampler, on_step=on_step)  # type: ignore[arg-type]

    together, alone = fill(slice(0, 4), 4), fill(slice(2, 3), 1)
    assert all(torch.equal(a[2], b[0]) for a, b in zip(noises[4], noises[1], strict=True))
    assert int((to_uint8(together[2]).int() - to_uint8(alone[0]).int()).abs().max()) <= 1


def test_the_hole_is_shown_filled_with_noise_of_its_own(inpainter: Inpainter) -> None:
    """Palette, section 4.2: not with the noise that sampling starts from, which would tell nothing."""
    inputs: list[tuple[Tensor, ...]] = []
    network = inpainter.denoiser.network
    handle = network.register_forward_pre_hook(lambda module, given: inputs.append(given))
    image, mask = torch.zeros(4, 3, 16, 16), torch.ones(4, 1, 16, 16, dtype=torch.bool)
    inpainter(image, mask, seeds=range(4), sampler=ddim(steps=3))
    handle.remove()
    x_T, shown = inputs[0][0], inputs[0][1][:, :3]
    both = torch.stack([x_T.flatten(), shown.flatten()])
    assert both.std(1).tolist() == pytest.approx([1, 1], abs=0.05)
    assert abs(float(torch.corrcoef(both)[0, 1])) < 4 / both.shape[1] ** 0.5
    assert all(torch.equal(given[1][:, :3], shown) for given in inputs)  # drawn once


def test_other_seeds_make_other_pictures(inpainter: Inpainter) -> None:
    image, mask = faces(1)
    pair = inpainter(image.expand(2, -1, -1, -1), mask.expand(2, -1, -1, -1), seeds=[1, 2])
    assert not torch.equal(pair[0], pair[1])


def test_empty_and_full_masks(inpainter: Inpainter) -> None:
    image, mask = faces(1)
    assert torch.equal(inpainter(image, torch.zeros_like(mask), seeds=[0]), image)
    full = inpainter(image, torch.ones_like(mask), seeds=[0])
    assert torch.equal(full, inpainter(-image, torch.ones_like(mask), seeds=[0]))


def test_network_calls_are_what_the_network_sees(inpainter: Inpainter) -> None:
    image, mask = faces(2)
    calls = []
    handle = inpainter.denoiser.register_forward_hook(lambda *_: calls.append(1))
    inpainter(image, mask, seeds=[0, 1], sampler=ddpm(steps=7))
    handle.remove()
    assert len(calls) == inpainter.network_calls(ddpm(steps=7)) == 7


def test_attributes_reach_the_network_by_name(inpainter: Inpainter) -> None:
    network = inpainter.denoiser.network
    told = []
    handle = network.register_forward_pre_hook(lambda module, inputs: told.append(inputs[3]))
    inpainter.recipe["data"]["attributes"] = ["Smiling", "Young"]
    wanted = inpainter.attributes({"Young": 0})
    assert wanted[0].isnan().tolist() == [True, False]
    image, mask = faces(2)
    with pytest.raises(ValueError, match=r"told 0 attributes, and 2 were given"):
        inpainter(image, mask, seeds=[0, 1], attributes=wanted.expand(2, -1))
    torch.testing.assert_close(told[0], wanted.expand(2, -1), equal_nan=True)
    inpainter(image, mask, seeds=[0, 1])
    assert told[-1] is None
    handle.remove()
    with pytest.raises(ValueError, match="no attribute 'Bald'; it knows Smiling, Young"):
        inpainter.attributes({"Bald": 1})


def test_an_inpainter_that_was_told_nothing_says_so(inpainter: Inpainter) -> None:
    with pytest.raises(ValueError, match="it was trained without any: see labels="):
        inpainter.attributes({"Young": 1})
