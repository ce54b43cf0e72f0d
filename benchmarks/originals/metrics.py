"""What measures: pytorch-fid, torch-fidelity, lpips and scikit-image, with the same weights where there are any."""

from functools import partial
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor, nn

from diffusion_lab import metrics
from diffusion_lab.metrics.inception import InceptionV3

from .comparing import Comparison, Peer, apart


def features(seed: int, n: int) -> Tensor:
    """``(n, 64)``, positive and correlated."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(64, 64, generator=torch.Generator().manual_seed(99), dtype=torch.float64) / 8
    return (torch.randn(n, 64, generator=generator, dtype=torch.float64) @ mix + 0.1 * seed).relu()


def pictures(size: int, n: int = 2, seed: int = 0) -> Tensor:
    """uint8, smooth, with a little noise."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(n, 3, 8, 8, generator=generator)
    smooth = nn.functional.interpolate(coarse, (size, size), mode="bicubic").clamp(0, 1)
    return (smooth * 235 + 20 * torch.rand(n, 3, size, size, generator=generator)).to(torch.uint8)


def filled(theirs: nn.Module, ours: InceptionV3) -> Any:
    """Their Inception with our weights: each of our convolutions is one of theirs with its norm folded in."""
    layers = [layer for layer in theirs.modules() if hasattr(layer, "conv") and hasattr(layer, "bn")]
    convolutions = [layer for layer in ours.modules() if isinstance(layer, nn.Conv2d)]
    for layer, convolution in zip(layers, convolutions, strict=True):
        assert convolution.bias is not None
        layer.conv.weight.data = convolution.weight.data.clone()
        layer.bn.weight.data.fill_(1)
        layer.bn.bias.data = convolution.bias.data.clone()
        layer.bn.running_mean.zero_()
        layer.bn.running_var.fill_(1 - layer.bn.eps)
    return theirs.eval()


def unloaded(make: Any) -> nn.Module:
    """A network that asks for no file of weights."""
    with patch.object(nn.Module, "load_state_dict"), patch.object(torch, "load"):
        return make()  # type: ignore[no-any-return]


# pytorch-fid


def their_inception(ours: InceptionV3) -> Any:
    from pytorch_fid import inception

    with patch.object(inception, "load_state_dict_from_url"):
        return filled(unloaded(inception.InceptionV3), ours)


def fid_pytorch(n: int, m: int) -> float:
    from pytorch_fid.fid_score import calculate_frechet_distance

    sides = features(0, n), features(1, m)
    theirs = calculate_frechet_distance(
        *(f(x.numpy()) for x in sides for f in (lambda x: x.mean(0), lambda x: np.cov(x, rowvar=False)))
    )
    return abs(float(metrics.frechet_distance(*sides)) / theirs - 1)


def inception_pytorch(size: int, alike: bool) -> float:
    """`alike`: their values reach the network as (v - 128) / 128, as ours do; else as v / 127.5 - 1."""
    ours, images = metrics.inception(), pictures(size)
    theirs = their_inception(ours)
    theirs.normalize_input = not alike
    with torch.no_grad():
        values = (images.float() - 128) / 128 if alike else images / 255
        return apart(ours(images), theirs(values)[0].flatten(1))


# torch-fidelity


def fid_torch_fidelity(n: int, m: int) -> float:
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

    sides = features(0, n), features(1, m)
    theirs = fid_statistics_to_metric(*(fid_features_to_statistics(x) for x in sides), verbose=False)
    return abs(float(metrics.frechet_distance(*sides)) / theirs["frechet_inception_distance"] - 1)


def kid() -> float:
    from torch_fidelity.metric_kid import kid_features_to_metric

    sides = features(0, 200), features(1, 200)
    theirs = kid_features_to_metric(*sides, kid_subsets=1, kid_subset_size=200, verbose=False)
    return abs(float(metrics.kernel_distance(*sides)[0]) / theirs["kernel_inception_distance_mean"] - 1)


def inception_torch_fidelity(size: int) -> float:
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    ours, images = metrics.inception(), pictures(size)
    make = partial(FeatureExtractorInceptionV3, "inception", ["2048"], feature_extractor_weights_path="none")
    theirs = filled(unloaded(make), ours)
    with torch.no_grad():
        return apart(ours(images), theirs(images)[0])


# lpips


def distances(x: Tensor, y: Tensor) -> float:
    import lpips

    ours, theirs = metrics.LPIPS(), lpips.LPIPS(net="alex", pnet_rand=True, verbose=False).eval()
    for layer, convolution in zip(
        (layer for layer in theirs.net.modules() if isinstance(layer, nn.Conv2d)),
        (layer for layer in ours.features if isinstance(layer, nn.Conv2d)),
        strict=True,
    ):
        layer.load_state_dict(convolution.state_dict())
    with torch.no_grad():
        return apart(ours(x, y), theirs(x, y).flatten())


def perceptual(size: int) -> float:
    x, y = (pictures(size, 4, seed) / 127.5 - 1 for seed in (0, 1))
    return distances(x, y)


def faint() -> float:
    """Near black against black: activations are so small that the guard of their division counts."""
    black = torch.full((4, 3, 64, 64), -0.03)
    black[:, 1], black[:, 2] = -0.088, -0.188  # AlexNet's mean: its first layer sees 0 but for its bias
    return distances(black + 1e-4 * torch.randn(black.shape, generator=torch.Generator().manual_seed(0)), black)


# scikit-image


def noisy(size: int) -> tuple[Tensor, Tensor]:
    x = pictures(size, 4)
    noise = torch.randint(-20, 21, x.shape, generator=torch.Generator().manual_seed(2))
    return (x.int() + noise).clamp(0, 255).to(torch.uint8), x


def psnr() -> float:
    from skimage.metrics import peak_signal_noise_ratio

    x, y = noisy(48)
    theirs = [peak_signal_noise_ratio(b.numpy(), a.numpy(), data_range=255) for a, b in zip(x, y, strict=True)]
    return apart(metrics.psnr(x, y), torch.tensor(theirs))


def ssim(**options: Any) -> float:
    from skimage.metrics import structural_similarity

    x, y = noisy(48)
    theirs = [
        structural_similarity(a.numpy(), b.numpy(), channel_axis=0, data_range=255, **options)
        for a, b in zip(x, y, strict=True)
    ]
    return apart(metrics.ssim(x, y), torch.tensor(theirs))


SCALED = "theirs scales values by 127.5 to [-1, 1]; the graph of 2015 subtracts 128 and divides by it, as ours does"
RESIZED = "theirs resizes as TensorFlow 1 did, by the pixels' corners; ours by their centres, as torch does"
PYTORCH_FID = Peer(
    "mseitzer/pytorch-fid",
    "b9c18118d082cbd263c1b8963fc4221dc1cbb659",
    [
        Comparison("Frechet distance, 300 and 400 features of 64", partial(fid_pytorch, 300, 400)),
        Comparison("Inception, same weights, 299 px, values scaled alike", partial(inception_pytorch, 299, True)),
        Comparison("Inception, same weights, 64 px, values scaled alike", partial(inception_pytorch, 64, True)),
        Comparison(
            "Inception, same weights, 64 px, as they scale values", partial(inception_pytorch, 64, False), SCALED, 0.01
        ),
    ],
    inside="src",
)
TORCH_FIDELITY = Peer(
    "torch-fidelity",
    "",
    [
        Comparison("Frechet distance, 300 and 400 features of 64", partial(fid_torch_fidelity, 300, 400)),
        Comparison("kernel distance of 200 and 200 features, one subset", kid),
        Comparison("Inception, same weights, 299 px", partial(inception_torch_fidelity, 299)),
        Comparison("Inception, same weights, 64 px", partial(inception_torch_fidelity, 64), RESIZED, 0.3),
    ],
)
LPIPS = Peer(
    "lpips",
    "",
    [
        Comparison("AlexNet, 64 px", partial(perceptual, 64)),
        Comparison("AlexNet, 31 px", partial(perceptual, 31)),
        Comparison("AlexNet, pictures of almost one colour", faint),
    ],
)
SCIKIT_IMAGE = Peer(
    "scikit-image",
    "",
    [
        Comparison("PSNR, 48 px", psnr),
        Comparison(
            "SSIM, 48 px, its options as in Wang et al.",
            partial(ssim, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, win_size=11),
        ),
        Comparison("SSIM, 48 px, its options as they come", ssim, "a flat window of 7, and sample covariances", 0.1),
    ],
)
