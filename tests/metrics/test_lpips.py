from copy import deepcopy
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchmetrics.functional.image.lpips import _LPIPS

from diffusion_lab.metrics import LPIPS, diversity


@pytest.fixture(scope="module")
def perceptual() -> LPIPS:
    return LPIPS()


def smooth(n: int, size: int = 64, seed: int = 0) -> Tensor:
    coarse = torch.rand(n, 3, 8, 8, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return nn.functional.interpolate(coarse, (size, size), mode="bilinear")


def test_heads_are_those_that_torchmetrics_ships(perceptual: LPIPS) -> None:
    spec = find_spec("torchmetrics")
    assert spec is not None
    assert spec.origin is not None
    heads = torch.load(Path(spec.origin).parent / "functional/image/lpips_models/alex.pth", map_location="cpu")
    for level in range(5):
        assert torch.equal(heads[f"lin{level}.model.1.weight"], perceptual.get_submodule(f"lin{level}").weight)


@pytest.mark.filterwarnings("ignore:The parameter 'pretrained':UserWarning", "ignore:Arguments other than:UserWarning")
def test_agrees_with_torchmetrics_on_the_same_backbone(perceptual: LPIPS) -> None:
    theirs = _LPIPS(pretrained=True, net="alex", pnet_rand=True).eval()
    ours = (layer for layer in perceptual.features if isinstance(layer, nn.Conv2d))
    for layer, mine in zip((m for m in theirs.net.modules() if isinstance(m, nn.Conv2d)), ours, strict=True):
        layer.load_state_dict(mine.state_dict())
    x, y = smooth(3), smooth(3, seed=1)
    with torch.no_grad():
        torch.testing.assert_close(perceptual(x, y), theirs(x, y).flatten(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("contrast", [1.0, 1e-2, 1e-4])
def test_faint_pictures_are_as_far_apart_as_strong_ones(perceptual: LPIPS, contrast: float) -> None:
    """Activations count by their direction: without biases, contrast about the network's zero is no matter.

    The numbers are those of the package lpips 0.1.4 with this trunk, its biases 0 and its own heads, at contrast 1.
    """
    unbiased = deepcopy(perceptual)
    for layer in unbiased.features:
        if isinstance(layer, nn.Conv2d) and layer.bias is not None:
            layer.bias.zero_()
    x, y = (unbiased.shift + unbiased.scale * contrast * smooth(2, seed=seed) for seed in (0, 1))
    assert unbiased(x, y).tolist() == pytest.approx([0.24629387, 0.26246399], rel=1e-4)
    nothing = unbiased.shift.expand(1, 3, 64, 64)  # no activation has a direction
    assert unbiased(nothing, nothing).tolist() == [0]


def test_8_bit_and_float_pictures_measure_alike(perceptual: LPIPS) -> None:
    x, y = (((smooth(2, seed=s) + 1) * 127.5).to(torch.uint8) for s in (0, 1))
    torch.testing.assert_close(perceptual(x, y), perceptual(x / 127.5 - 1, y / 127.5 - 1))


def test_same_picture_is_0_and_symmetric(perceptual: LPIPS) -> None:
    x, y = smooth(2), smooth(2, seed=1)
    assert perceptual(x, x).tolist() == [0, 0]
    torch.testing.assert_close(perceptual(x, y), perceptual(y, x))
    assert (perceptual(x, y) > 0.05).all()


def test_a_gradient_passes(perceptual: LPIPS) -> None:
    x = smooth(1).requires_grad_()
    perceptual(x, smooth(1, seed=1)).sum().backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0


def test_too_small_pictures_are_refused(perceptual: LPIPS) -> None:
    assert perceptual(smooth(1, 31), smooth(1, 31)).item() == 0
    with pytest.raises(ValueError, match="31 pixels"):
        perceptual(smooth(1, 30), smooth(1, 30))


def test_diversity_is_the_mean_over_pairs(perceptual: LPIPS) -> None:
    a, b, c = (smooth(2, seed=s) for s in (0, 1, 2))
    expected = (perceptual(a, b) + perceptual(a, c) + perceptual(b, c)) / 3
    torch.testing.assert_close(diversity(perceptual, torch.stack([a, b, c])), expected)
    assert diversity(perceptual, torch.stack([a, a])).tolist() == [0, 0]
    with pytest.raises(ValueError, match="at least 2"):
        diversity(perceptual, a[None])


def test_diversity_in_the_hole(perceptual: LPIPS) -> None:
    """In a whole picture it is LPIPS; two halves of as many cells have it as their mean; without a hole it is 0."""
    several = torch.stack([smooth(2, seed=s) for s in (0, 1, 2)])
    everywhere = torch.ones(2, 1, *several.shape[-2:], dtype=torch.bool)
    whole = diversity(perceptual, several)
    torch.testing.assert_close(diversity(perceptual, several, everywhere), whole)
    assert diversity(perceptual, several, ~everywhere).tolist() == [0, 0]
    left = everywhere.clone()
    left[..., several.shape[-1] // 2 :] = False
    halves = [diversity(perceptual, several, hole) for hole in (left, ~left)]
    torch.testing.assert_close((halves[0] + halves[1]) / 2, whole)
    assert (halves[0] != halves[1]).all()


def test_known_pixels_do_not_dilute_diversity_in_the_hole(perceptual: LPIPS) -> None:
    """Two completions that differ in a small hole alone."""
    one, other = smooth(2, 64), smooth(2, 64, seed=1)
    hole = torch.zeros(2, 1, 64, 64, dtype=torch.bool)
    hole[..., 24:40, 24:40] = True
    several = torch.stack([one, torch.where(hole, other, one)])
    assert (diversity(perceptual, several, hole) > 3 * diversity(perceptual, several)).all()
