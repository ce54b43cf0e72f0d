import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor

from diffusion_lab.metrics import l1_hole, psnr, seam, ssim


def pair(size: int = 24) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(4, 3, 6, 6, generator=generator) * 255
    target = torch.nn.functional.interpolate(coarse, (size, size + 8), mode="bilinear")
    noisy = target + 25 * torch.randn(target.shape, generator=generator)
    return noisy.clamp(0, 255).to(torch.uint8), target.to(torch.uint8)


def numpy(images: Tensor) -> np.ndarray:
    return images.permute(0, 2, 3, 1).numpy()


def test_psnr_agrees_with_skimage() -> None:
    images, target = pair()
    expected = [
        peak_signal_noise_ratio(t, x, data_range=255) for x, t in zip(numpy(images), numpy(target), strict=True)
    ]
    assert psnr(images, target).tolist() == pytest.approx(expected, rel=1e-12)


def test_ssim_agrees_with_skimage() -> None:
    images, target = pair()
    expected = [
        structural_similarity(
            t, x, data_range=255, channel_axis=-1, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
        for x, t in zip(numpy(images), numpy(target), strict=True)
    ]
    assert ssim(images, target).tolist() == pytest.approx(expected, rel=1e-9)


def test_equal_pictures() -> None:
    images, _ = pair()
    mask = torch.ones(4, 1, *images.shape[-2:], dtype=torch.bool)
    assert psnr(images, images).isposinf().all()
    torch.testing.assert_close(ssim(images, images), torch.ones(4, dtype=torch.float64))
    assert l1_hole(images, images, mask).tolist() == [0] * 4
    assert seam(images, images, mask).tolist() == [0] * 4


def test_l1_counts_the_hole_only() -> None:
    target = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    images = torch.full_like(target, 200)
    images[..., 4:] = 51
    mask = torch.zeros(2, 1, 8, 8, dtype=torch.bool)
    mask[0, ..., 4:] = True
    assert l1_hole(images, target, mask).tolist() == pytest.approx([0.2, 0.0])


def test_seam_sees_the_border_and_nothing_else() -> None:
    target = torch.full((3, 3, 8, 8), 100, dtype=torch.uint8)
    mask = torch.zeros(3, 1, 8, 8, dtype=torch.bool)
    mask[:, :, 2:6, 2:6] = True
    images = target.clone()
    images[0, :, 2:6, 2:6] = 151  # a step of 0.2 all around
    images[1, :, 3:5, 3:5] = 255  # inside the hole, away from its border
    images[2, :, :2] = 0  # known pixels above: a step of 100 on one side of four
    assert seam(images, target, mask).tolist() == pytest.approx([0.2, 0.0, 100 / 255 / 4])


def test_a_seam_of_the_truth_is_none() -> None:
    target = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    target[..., 4:] = 255
    mask = torch.zeros(1, 1, 8, 8, dtype=torch.bool)
    mask[..., 4:] = True
    assert seam(target, target, mask).item() == 0
    assert seam(torch.zeros_like(target), target, mask).item() == -1  # smeared over
    assert seam(target, target, torch.ones_like(mask)).item() == 0  # no border


@pytest.mark.parametrize("measure", [psnr, ssim])
def test_floats_are_refused(measure) -> None:
    with pytest.raises(ValueError, match="8-bit"):
        measure(torch.zeros(1, 3, 16, 16), torch.zeros(1, 3, 16, 16))


def test_ssim_of_tiny_pictures_is_refused() -> None:
    with pytest.raises(ValueError, match="11 pixels"):
        ssim(*(x[..., :8, :8] for x in pair()))
