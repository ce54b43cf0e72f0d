"""A cascade is right where everything is known: on a Gaussian whose coarse and fine parts have closed forms."""

import runpy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from diffusion_lab import cascade, recipe
from diffusion_lab.cascade import Cascade, joined, load, reduced, stage_seeds
from diffusion_lab.data.degradations import noisy_reduced
from diffusion_lab.diffusion.denoiser import Condition, Prediction
from diffusion_lab.diffusion.noise import ExampleNoise
from diffusion_lab.diffusion.process import along, eps_from_x_0
from diffusion_lab.diffusion.samplers import heun
from diffusion_lab.diffusion.schedule import cosine
from diffusion_lab.inpainting import Inpainter
from diffusion_lab.pictures import to_float, to_uint8
from diffusion_lab.tasks import inpainting, refinement
from small import small_cascade, small_inpainter

COARSE, FACTOR = 4, 2
SIDE = COARSE * FACTOR
DETAIL = 0.1  # deviation of what a block's pixels add to its mean, before their own mean is taken off

places = torch.stack(torch.meshgrid(torch.arange(COARSE), torch.arange(COARSE), indexing="ij"), -1).reshape(-1, 2)
COVARIANCE = 0.04 * torch.exp(-torch.cdist(places.double(), places.double()) / 2)  # (16, 16) of the block means
HOLE = torch.zeros(COARSE, COARSE, dtype=torch.bool)
HOLE[1:3, 1:3] = True


def blocks(x: Tensor) -> Tensor:
    """``(B, 3, 8, 8)`` by blocks: ``(B, 3, 16, 4)``."""
    return x.unfold(2, FACTOR, FACTOR).unfold(3, FACTOR, FACTOR).flatten(4).flatten(2, 3)


def pixels(of: Tensor) -> Tensor:
    """The inverse."""
    x = of.reshape(*of.shape[:2], COARSE, COARSE, FACTOR, FACTOR)
    return x.permute(0, 1, 2, 4, 3, 5).reshape(*of.shape[:2], SIDE, SIDE)


def conditional(known: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and covariance of the hole's block means given the others, ``(..., 12)``: Gaussian conditioning."""
    inside, outside = HOLE.flatten(), ~HOLE.flatten()
    gain = COVARIANCE[inside][:, outside] @ torch.linalg.inv(COVARIANCE[outside][:, outside])
    return known.double() @ gain.T, COVARIANCE[inside][:, inside] - gain @ COVARIANCE[outside][:, inside]


class Optimal(nn.Module):
    """E[x_0 | x, what is shown], of a hole that is N(mean, covariance) given the rest."""

    condition_channels = 4

    def __init__(self, given) -> None:
        super().__init__()
        self.schedule = cosine(1000)
        self.given = given

    def forward(self, x: Tensor, level: Tensor, condition: Condition) -> Prediction:
        mask, mean, covariance = self.given(condition)
        size = x.shape[-1] ** 2
        signal, sigma = along(x.double(), level.sqrt(), (1 - level).sqrt())
        gain = (
            covariance
            * signal.reshape(-1)[0]
            @ torch.linalg.inv(
                covariance * signal.reshape(-1)[0] ** 2 + torch.eye(len(covariance)) * sigma.reshape(-1)[0] ** 2
            )
        )
        seen = x.double().reshape(len(x), 3, size)[..., mask]
        x_0 = x.double().reshape(len(x), 3, size).clone()
        x_0[..., mask] = mean + (seen - signal.reshape(-1)[0] * mean) @ gain.T
        x_0 = x_0.reshape(x.shape).to(x)
        return Prediction(x_0, eps_from_x_0(x, x_0, level))


def of_coarse(condition: Condition) -> tuple[Tensor, Tensor, Tensor]:
    assert condition.known is not None
    mean, covariance = conditional(condition.known.flatten(2)[..., ~HOLE.flatten()])
    return HOLE.flatten(), mean, covariance


def of_fine(condition: Condition) -> tuple[Tensor, Tensor, Tensor]:
    """The hole's block means are read out of the enlarged filling; around them lies what the blocks add."""
    assert condition.known is not None
    hole = pixels(HOLE.flatten()[:, None].expand(1, 1, 16, 4)).bool().flatten()
    up = nn.functional.interpolate(torch.eye(16).reshape(1, 16, 4, 4), SIDE, mode="bicubic", antialias=True)[0]
    up = up.reshape(16, -1).T.double()  # (64, 16)
    means = blocks(condition.known).mean(-1).double()  # of the known blocks they are right
    known = means[..., ~HOLE.flatten()] @ up[:, ~HOLE.flatten()].T
    rest = condition.known.flatten(2).double() - known
    means[..., HOLE.flatten()] = rest[..., hole] @ torch.linalg.pinv(up[hole][:, HOLE.flatten()]).T
    within = DETAIL**2 * (torch.eye(4) - 0.25).double()
    order = pixels(torch.arange(64.0).reshape(1, 1, 16, 4)).long().flatten()  # block-major place of every pixel
    covariance = torch.block_diag(*[within] * 16)[order][:, order]
    spread = pixels(means[..., None].expand(-1, -1, -1, 4)).flatten(2)
    return hole, spread[..., hole], covariance[hole][:, hole]


def test_the_optimal_cascade_draws_from_the_posterior() -> None:
    """Coarse given coarse, then fine given coarse, is the joint posterior: its mean and both of its variances."""
    n = 1500
    generator = torch.Generator().manual_seed(0)
    means = torch.linalg.cholesky(COVARIANCE) @ torch.randn(16, 3, generator=generator, dtype=torch.float64)
    noise = torch.randn(1, 3, 16, 4, generator=generator).double() * DETAIL
    image = pixels(means.T[None, ..., None] + noise - noise.mean(-1, keepdim=True)).float()
    mask = pixels(HOLE.flatten()[:, None].expand(1, 1, 16, 4)).bool()
    sampler = heun(steps=40, clip=False)
    base = Inpainter(Optimal(of_coarse), sampler)  # type: ignore[arg-type]
    refiner = Inpainter(Optimal(of_fine), sampler, task=refinement(noisy_reduced))  # type: ignore[arg-type]
    model = Cascade([base, refiner], [COARSE, SIDE])
    result = model(image.expand(n, -1, -1, -1), mask.expand(n, -1, -1, -1), seeds=range(n))
    assert torch.equal(torch.where(mask, image, result), image.expand(n, -1, -1, -1))

    hole = HOLE.flatten()
    mean, covariance = conditional(means.T[None][..., ~hole])
    drawn = blocks(result)[..., hole, :].double()  # (n, 3, 4 blocks, 4)
    coarse = drawn.mean(-1)
    error = (covariance.diagonal() / n).sqrt()
    assert bool(((coarse.mean(0) - mean[0]).abs() < 4.5 * error + 0.002).all())  # .002: half of an 8-bit level
    found = torch.cov((coarse - mean).reshape(-1, 4).T)
    torch.testing.assert_close(found, covariance, rtol=0.1, atol=0.0015)
    detail = drawn - coarse[..., None]
    assert detail.square().mean().item() == pytest.approx(DETAIL**2 * 0.75, rel=0.05)


def example(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(1, 3, 16, 16, generator=generator) * 2 - 1
    mask = torch.zeros(1, 1, 16, 16, dtype=torch.bool)
    mask[..., 3:12, 4:11] = True
    return image, mask


def test_known_pixels_are_kept_and_the_hole_is_never_looked_at() -> None:
    (image, mask), model = example(), small_cascade()
    result = model(image, mask, seeds=[5])
    assert torch.equal(torch.where(mask, image, result), image)
    assert torch.equal(model(torch.where(mask, 0.7, image), mask, seeds=[5]), result)


def test_a_picture_depends_on_its_seed_alone() -> None:
    (image, mask), model = example(), small_cascade()
    together = model(image.expand(3, -1, -1, -1), mask.expand(3, -1, -1, -1), seeds=[4, 5, 6])
    torch.testing.assert_close(together[1:2], model(image, mask, seeds=[5]), atol=2e-5, rtol=0)
    assert not torch.equal(together[0], together[1])


@pytest.mark.parametrize("stage", [0, 1])
def test_what_is_no_number_in_a_stage_is_none_in_the_result(stage: int) -> None:
    (image, mask), model = example(), small_cascade()
    with torch.no_grad():
        next(model.stages[stage].parameters()).fill_(torch.nan)
    result = model(image, mask, seeds=[5])
    assert bool(result[mask.expand_as(result)].isnan().all())
    assert torch.equal(torch.where(mask, image, result), image)


def test_another_refiner_leaves_the_base_its_noise() -> None:
    (image, mask), model = example(), small_cascade()
    fillings = []
    for refiner in (model.stages[1], small_inpainter()):
        refiner.task = refinement(noisy_reduced)
        other = Cascade([model.stages[0], refiner], [8, 16])
        seen = []
        asked = other.asked
        other.asked = lambda stage, *given, asked=asked, seen=seen: seen.append(given[-1]) or asked(stage, *given)  # type: ignore
        other(image, mask, seeds=[5])
        fillings.append(seen[1])
    assert torch.equal(*fillings)


def test_of_one_size_the_refiner_is_shown_the_filling_itself() -> None:
    image, mask = example()
    model = Cascade([small_inpainter(), refiner()], [16, 16])
    filled = model.stages[0](image, mask, seeds=[5])
    given, hole = model.asked(1, image, mask, filled)
    assert torch.equal(hole, mask)
    assert (given - filled).abs().max() <= 1 / 255 + 1e-6
    assert torch.equal(torch.where(mask, image, given), image)


class OfOnePixel(nn.Module):
    """Says of each pixel what it and what is shown there say, and of noise nothing else: it sees no windows."""

    condition_channels = 4

    def __init__(self, shift: float = 0.0) -> None:
        super().__init__()
        self.schedule, self.shift = cosine(100), shift
        self.weight = nn.Parameter(torch.tensor(0.3))

    def forward(self, x: Tensor, level: Tensor, condition: Condition) -> Prediction:
        assert condition.known is not None
        x_0 = condition.known + self.shift + self.weight * 0.1 * torch.sin(3 * x)
        return Prediction(x_0, eps_from_x_0(x, x_0, level))


def of_one_pixel(shift: float = 0.0) -> Cascade:
    """A cascade of 4 -> 16 pixels, whose networks look at each pixel alone."""
    base, fine = Inpainter(OfOnePixel(), heun(steps=2)), Inpainter(OfOnePixel(shift), heun(steps=2))  # type: ignore[arg-type]
    fine.task = refinement(noisy_reduced)
    return Cascade([base, fine], [4, 16])


def large(side: int, *boxes: tuple[int, int, int, int]) -> tuple[Tensor, Tensor]:
    """Pictures of noise, each with a hole."""
    image = torch.rand(len(boxes), 3, side, side, generator=torch.Generator().manual_seed(side)) * 1.6 - 0.8
    mask = torch.zeros(len(boxes), 1, side, side, dtype=torch.bool)
    for row, (left, top, right, bottom) in zip(mask, boxes, strict=True):
        row[:, top:bottom, left:right] = True
    return image, mask


def before_windows(model: Cascade, image: Tensor, mask: Tensor, seeds: list[int]) -> Tensor:
    """What the stages make of large pictures at their own sizes."""
    filled = None
    for number, stage in enumerate(model.stages):
        filled = stage(*model.asked(number, image, mask, filled), seeds=stage_seeds(seeds, number))
    assert filled is not None
    return filled


BOXES = (5, 3, 30, 20), (9, 9, 12, 12), (0, 0, 32, 31)


@pytest.mark.parametrize("side", [32, 64])
def test_who_looks_at_single_pixels_sees_no_windows(side: int) -> None:
    """The result is that of a last stage which is shown the large picture at once: no seam."""
    (image, mask), model = large(side, *BOXES), of_one_pixel()
    result = model(image, mask, seeds=[4, 5, 6])
    given, hole = model.asked(2, image, mask, before_windows(model, image, mask, [4, 5, 6]))
    whole = model.stages[1].drawn(
        given, hole, ExampleNoise(stage_seeds([4, 5, 6], 2), (3, side, side)), model.taken(2, None)
    )
    coarse = nn.functional.avg_pool2d(given - whole, side // 4)
    wanted = (whole + nn.functional.interpolate(coarse, side, mode="bicubic")).clamp(-1, 1)
    assert len(model.windows(2, hole)) > 5
    torch.testing.assert_close(result, torch.where(mask, wanted, image), atol=2e-5, rtol=0)
    assert (result - given)[mask.expand_as(result)].abs().max() > 0.01


@pytest.mark.parametrize("side", [32, 64])
def test_known_pixels_of_a_large_picture_are_kept_whatever_its_company(side: int) -> None:
    (image, mask), model = large(side, *BOXES), small_cascade()
    result = model(image, mask, seeds=[4, 5, 6])
    assert torch.equal(torch.where(mask, image, result), image)
    assert torch.equal(model(torch.where(mask, 0.7, image), mask, seeds=[4, 5, 6]), result)
    for row in range(3):
        alone = model(image[row : row + 1], mask[row : row + 1], seeds=[4 + row])
        missed = (alone - result[row : row + 1]).abs()
        assert int(to_uint8(alone).int().sub(to_uint8(result[row : row + 1]).int()).abs().max()) <= 2, missed.max()


def test_what_is_coarse_in_a_large_picture_keeps_its_colour() -> None:
    """Though its refiner would make all of it lighter; where the first stages have decided it, it does."""
    (image, mask), model = large(64, (4, 4, 60, 60)), of_one_pixel(shift=0.3)
    given, hole = model.asked(2, image, mask, before_windows(model, image, mask, [4]))
    moved = (model(image, mask, seeds=[4]) - given)[..., 24:40, 24:40]
    assert abs(float(moved.mean())) < 0.02
    assert float((model.stages[1](given, hole, seeds=[4]) - given)[..., 24:40, 24:40].mean()) > 0.15


def test_pictures_of_its_size_are_those_of_its_stages_alone_bit_for_bit() -> None:
    """As they were made before there were windows."""
    (image, mask), model = example(), small_cascade()
    filled = model.stages[0](*model.asked(0, image, mask, None), seeds=[5])
    wanted = model.stages[1](*model.asked(1, image, mask, filled), seeds=stage_seeds([5], 1))
    assert torch.equal(model(image, mask, seeds=[5]), torch.where(mask, wanted, image))


def test_a_large_picture_takes_one_more_stage() -> None:
    model = small_cascade()
    assert model.sides == cascade.sides(model.recipe) == (16, 32, 64)
    assert [model.legs(side) for side in model.sides] == [(0, 1), (0, 1, 1), (0, 1, 1)]
    assert [model.network_calls(side=side) for side in (None, 16, 32, 64)] == [6, 6, 10, 10]
    assert (small_inpainter().sides, cascade.sides(small_inpainter().recipe)) == ((16,), (16,))
    calls = []
    model(*large(64, (0, 0, 64, 64)), seeds=[1], on_step=lambda rows, said: calls.append(len(rows.x)))
    assert calls == [1] * 6 + [25] * 4
    with pytest.raises(ValueError, match="fills pictures of 16, 32, 64 px, not of 24"):
        model(*large(24, (5, 5, 9, 9)), seeds=[1])


def test_a_network_is_asked_about_so_many_windows_at_a_time() -> None:
    (image, mask), model = large(64, (0, 0, 64, 64)), small_cascade()
    rows = []
    model.stages[1].denoiser.network.register_forward_hook(lambda module, given, said: rows.append(len(said)))
    model(image, mask, seeds=[1])
    assert rows == [1] * 3 + [16, 9] * 4


def refiner() -> Inpainter:
    model = small_inpainter()
    model.task = refinement(noisy_reduced)
    return model


def test_a_refiner_is_shown_what_it_was_trained_on() -> None:
    """A base that fills in the true means gives the refiner the degradation of its training, noise aside."""
    image, mask = to_float(to_uint8(example()[0])), example()[1]
    model = small_cascade()
    small, hole = reduced(image, mask, 2)
    given, _ = model.asked(1, image, mask, torch.where(hole, torch.nn.functional.avg_pool2d(image, 2), small))
    trained = to_float(noisy_reduced(to_uint8(image), mask, [0], factor=2))
    assert (given - trained)[mask.expand_as(given)].abs().max() <= 2 / 255 + 1e-6


def test_coarse_pixels_are_means_of_what_is_known() -> None:
    image = torch.arange(16.0).reshape(1, 1, 4, 4).expand(1, 3, 4, 4)
    mask = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    mask[..., :2, 1:] = True
    mask[..., 2, :] = True  # a scratch of one pixel: every block of it knows a row
    small, hole = reduced(image, mask, 2)
    assert hole.flatten().tolist() == [False, True, False, False]
    assert small[0, 0].flatten().tolist() == [2.0, 0.0, 12.5, 14.5]


def test_it_is_a_folder_like_any_other(tmp_path: Path) -> None:
    (image, mask), model = example(), small_cascade()
    model.save(tmp_path / "cascade")
    again = load(tmp_path / "cascade")
    assert isinstance(again, Cascade)
    assert {path.name for path in (tmp_path / "cascade").iterdir()} == {"model.safetensors", "recipe.json"}
    assert torch.equal(again(image, mask, seeds=[5]), model(image, mask, seeds=[5]))
    assert again.network_calls() == 6
    assert recipe.task(again.recipe) == "inpainting"
    with pytest.raises(ValueError, match="not an Inpainter alone"):
        Inpainter.load(tmp_path / "cascade")


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[str]], None]:
    """``python -m diffusion_lab.cascade``, a module beside the imported one: its classes must not be others."""

    def run(arguments: list[str]) -> None:
        monkeypatch.setattr("sys.argv", ["cascade", *arguments])
        runpy.run_module("diffusion_lab.cascade", run_name="__main__")

    return run


def test_inpainters_that_were_trained_apart_are_joined(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: Callable[[list[str]], None]
) -> None:
    model = small_cascade()
    for stage, size, name in zip(model.stages, model.sizes, ("base", "refiner"), strict=True):
        stage.recipe["data"]["image_size"] = size
        stage.save(tmp_path / name)
    command([str(tmp_path / "base"), str(tmp_path / "refiner"), "--output", str(tmp_path / "both")])
    assert "a cascade of 8 -> 16 px, 6 network calls" in capsys.readouterr().out
    image, mask = example()
    assert torch.equal(load(tmp_path / "both")(image, mask, seeds=[5]), model(image, mask, seeds=[5]))
    stage.recipe["data"]["crop"] = "center148"
    stage.save(tmp_path / "refiner")
    with pytest.raises(ValueError, match="same crop"):
        joined([tmp_path / "base", tmp_path / "refiner"])


def test_a_cascade_is_taken_apart_and_joined_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: Callable[[list[str]], None]
) -> None:
    model = small_cascade()
    model.save(tmp_path / "both")
    command([str(tmp_path / "both"), "--output", str(tmp_path / "parts")])
    assert capsys.readouterr().out.count("an inpainter of") == 2
    stages = [Inpainter.load(tmp_path / "parts" / number) for number in "01"]
    assert [stage.recipe["data"]["image_size"] for stage in stages] == [*model.sizes]
    again = joined([tmp_path / "parts" / number for number in "01"])
    assert again.recipe["model"] == model.recipe["model"]
    image, mask = example()
    assert torch.equal(again(image, mask, seeds=[5]), model(image, mask, seeds=[5]))
    with pytest.raises(SystemExit):
        command([str(tmp_path / "parts" / "0"), "--output", str(tmp_path / "more")])
    assert "is one inpainter" in capsys.readouterr().err


def test_weights_are_stored_in_half_the_bytes_when_asked(tmp_path: Path, command: Callable[[list[str]], None]) -> None:
    model = small_cascade()
    model.save(tmp_path / "whole")
    command([str(tmp_path / "whole"), "--output", str(tmp_path / "parts")])
    parts = [str(tmp_path / "parts" / number) for number in "01"]
    command([*parts, "--output", str(tmp_path / "half"), "--half"])
    whole, half = ((tmp_path / name / "model.safetensors").stat().st_size for name in ("whole", "half"))
    assert half < 0.75 * whole
    for kept, rounded in zip(model.parameters(), load(tmp_path / "half").parameters(), strict=True):
        assert rounded.dtype == torch.float32
        assert torch.equal(kept.half().float(), rounded)


@pytest.mark.parametrize("sizes", [[8], [8, 12], [16, 8], [8, 16, 32]])
def test_sizes_that_do_not_fit_are_said(sizes: list[int]) -> None:
    with pytest.raises(ValueError, match="sizes"):
        Cascade([small_inpainter(), refiner()], sizes)


def test_one_stage_alone_is_said() -> None:
    with pytest.raises(ValueError, match="two stages or more"):
        Cascade([small_inpainter()], [8])


def test_a_stage_that_refines_nothing_is_said() -> None:
    assert inpainting() == small_inpainter().task
    with pytest.raises(ValueError, match="one is for inpainting"):
        Cascade([small_inpainter(), small_inpainter()], [8, 16])
