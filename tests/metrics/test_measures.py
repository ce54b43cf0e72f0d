import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor

from diffusion_lab.metrics import PictureMean, hole_crop, l1_hole, psnr, seam, ssim
from diffusion_lab.metrics.inpainting import colourfulness


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
    assert seam(images, images, mask).tolist() == [1] * 4


def test_l1_counts_the_hole_only() -> None:
    target = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    images = torch.full_like(target, 200)
    images[..., 4:] = 51
    mask = torch.zeros(2, 1, 8, 8, dtype=torch.bool)
    mask[0, ..., 4:] = True
    assert l1_hole(images, target, mask).tolist() == pytest.approx([0.2, 0.0])
    mask[1, 0, 0, 7] = True  # one pixel
    assert l1_hole(images, target, mask).tolist() == pytest.approx([0.2, 0.2])


def test_seam_is_the_jump_over_the_border_over_the_true_one() -> None:
    target = torch.full((3, 3, 8, 8), 100, dtype=torch.uint8)
    target[:, :, :, 4:] = 110  # a step of 10 through the middle
    mask = torch.zeros(3, 1, 8, 8, dtype=torch.bool)
    mask[:, :, :, 4:] = True
    images = target.clone()
    images[0, :, :, 4:] = 130  # three times as much
    images[1, :, :, 5:] = 255  # inside the hole, away from its border
    images[2, :, :, 4:] = 105
    assert seam(images, target, mask).tolist() == pytest.approx([3.0, 1.0, 0.5])
    assert seam(images.mT, target.mT, mask.mT).tolist() == pytest.approx([3.0, 1.0, 0.5])


def test_seam_is_of_the_luma() -> None:
    target = torch.full((3, 3, 8, 8), 100, dtype=torch.uint8)
    target[..., 4:] = 110
    mask = torch.zeros(3, 1, 8, 8, dtype=torch.bool)
    mask[..., 4:] = True
    images = target.clone()
    for i in range(3):
        images[i, i, :, 4:] = 120  # one channel jumps 20, the others 10
    assert seam(images, target, mask).tolist() == pytest.approx([1.299, 1.587, 1.114])


def test_a_seam_where_the_truth_has_none() -> None:
    """Half a grey level is the least that counts, on either side."""
    flat = torch.full((1, 3, 8, 8), 100, dtype=torch.uint8)
    mask = torch.zeros(1, 1, 8, 8, dtype=torch.bool)
    mask[..., 4:] = True
    images = torch.where(mask, torch.tensor(103, dtype=torch.uint8), flat)
    assert seam(flat, flat, mask).item() == 1
    assert seam(images, flat, mask).item() == pytest.approx(6)
    assert seam(images, flat, torch.ones_like(mask)).item() == 1  # no border
    stepped = torch.where(mask, torch.tensor(255, dtype=torch.uint8), flat)
    assert seam(flat, stepped, mask).item() == pytest.approx(0.5 / 155)  # smeared over
    assert seam(*(x[:, :, :1] for x in (images, flat, mask))).item() == pytest.approx(6)  # one row: one pair


def test_the_crop_is_the_square_around_the_hole() -> None:
    images = torch.arange(64, dtype=torch.uint8).view(1, 1, 8, 8).expand(4, 3, 8, 8)
    mask = torch.zeros(4, 1, 8, 8, dtype=torch.bool)
    mask[0, 0, 2:5, 3:6] = True  # a square
    mask[1, 0, 7, 2:6] = True  # a line at the lower edge: the square above it
    mask[2, 0, :, 0] = True  # as high as the picture
    assert torch.equal(hole_crop(images[:1], mask[:1], side=3), images[:1, :, 2:5, 3:6])
    assert torch.equal(hole_crop(images[1:2], mask[1:2], side=4), images[:1, :, 4:, 2:6])
    assert torch.equal(hole_crop(images[2:], mask[2:], side=8), images[:2])  # of no hole too
    mask = mask.new_zeros(4, 1, 8, 8)
    mask[0, 0, 0, 2:6] = True  # a line at the upper edge: the square below it
    mask[1, 0, 3, 2:6] = True  # one in the middle: of its three other rows two are above it
    assert torch.equal(hole_crop(images[:1], mask[:1], side=4), images[:1, :, :4, 2:6])
    assert torch.equal(hole_crop(images[:1], mask[1:2], side=4), images[:1, :, 1:5, 2:6])
    enlarged = hole_crop(images, mask)
    assert (enlarged.shape, enlarged.dtype) == ((4, 3, 299, 299), torch.uint8)


def test_a_crop_that_shrinks_passes_over_no_pixel() -> None:
    dark = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    for row, column in ((0, 0), (3, 4), (7, 7)):
        lit = dark.clone()
        lit[..., row, column] = 255
        assert hole_crop(lit, torch.ones(1, 1, 8, 8, dtype=torch.bool), side=2).any()


def test_every_picture_has_its_hole() -> None:
    with pytest.raises(ValueError, match="shorter"):
        hole_crop(torch.zeros(3, 3, 8, 8, dtype=torch.uint8), torch.ones(2, 1, 8, 8, dtype=torch.bool))


@pytest.mark.parametrize("measure", [psnr, ssim])
def test_floats_are_refused(measure) -> None:
    with pytest.raises(ValueError, match="8-bit"):
        measure(torch.zeros(1, 3, 16, 16), torch.zeros(1, 3, 16, 16))


def test_ssim_of_tiny_pictures_is_refused() -> None:
    with pytest.raises(ValueError, match=r"11 pixels, got \(12, 10\)"):
        ssim(*(x[..., :12, :10] for x in pair()))
    assert ssim(*(x[..., :12, :11] for x in pair())).isfinite().all()


def test_colourfulness_is_the_formula_of_its_paper() -> None:
    """Hasler and Suesstrunk (2003), section 7, in plain NumPy."""
    images, _ = pair()
    for image, found in zip(images.numpy().astype(np.float64), colourfulness(images).tolist(), strict=True):
        red, green, blue = image
        rg, yb = red - green, 0.5 * (red + green) - blue
        expected = np.hypot(rg.std(), yb.std()) + 0.3 * np.hypot(rg.mean(), yb.mean())
        assert found == pytest.approx(expected, rel=1e-12)


def test_the_mean_is_over_pictures_and_not_over_batches() -> None:
    images, target = pair()
    metric = PictureMean(psnr)
    mask = torch.ones(4, 1, *images.shape[-2:], dtype=torch.bool)
    for part in (slice(0, 1), slice(1, 4)):
        metric.update(images[part], target[part], mask[part])
    assert metric.compute().item() == pytest.approx(psnr(images, target).mean().item(), rel=1e-12)


def test_a_measure_is_asked_once_for_a_batch() -> None:
    """`forward` says the batch's mean and adds it; torchmetrics would ask twice of a metric that did not say so."""
    images, target = pair()
    asked: list[int] = []

    def measure(images: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        asked.append(len(images))
        return psnr(images, target)

    metric = PictureMean(measure)
    mask = torch.ones(4, 1, *images.shape[-2:], dtype=torch.bool)
    for part in (slice(0, 1), slice(1, 4)):
        here = metric(images[part], target[part], mask[part])
        assert here.item() == pytest.approx(psnr(images[part], target[part]).mean().item(), rel=1e-12)
    assert asked == [1, 3]
    assert metric.compute().item() == pytest.approx(psnr(images, target).mean().item(), rel=1e-12)
