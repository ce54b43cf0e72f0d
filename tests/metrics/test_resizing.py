"""Each resizing against the tool whose name it bears: what the tool's network is shown, pixel by pixel."""

import pickle
import warnings
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

from diffusion_lab.metrics import (
    InceptionV3,
    Resizing,
    antialiased,
    clean_fid,
    dgm_eval,
    dgm_eval_clip,
    pytorch_fid,
    torch_fidelity,
)

SIZES = [(64, 64), (32, 48), (256, 256), (299, 299), (330, 512)]  # smaller, larger and as Inception has it


def pictures(height: int, width: int) -> Tensor:
    """Noise in every pixel, black and white among it: nothing is harder to resize alike."""
    generator = torch.Generator().manual_seed(height * width)
    images = torch.randint(0, 256, (2, 3, height, width), generator=generator)
    images[1] = (images[1] > 127) * 255
    return images.to(torch.uint8)


def of_pytorch_fid(images: Tensor) -> Tensor:
    """What its Inception hands to its first layer."""
    tool = pytest.importorskip("pytorch_fid.inception")
    shown = tool.InceptionV3.__new__(tool.InceptionV3)
    nn.Module.__init__(shown)
    shown.blocks, shown.output_blocks, shown.last_needed_block = nn.ModuleList([nn.Identity()]), [0], 0
    shown.resize_input, shown.normalize_input = True, True
    return shown(images.float() / 255)[0]  # as torchvision's ToTensor has it


def of_clean_fid(images: Tensor) -> Tensor:
    tool = pytest.importorskip("cleanfid.resize")
    resize = tool.build_resizer("clean")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, of an argument of clean-fid's
        resized = np.stack([resize(picture) for picture in images.permute(0, 2, 3, 1).numpy()])
    return (torch.from_numpy(resized).permute(0, 3, 1, 2) - 128) / 128


def of_pillow(images: Tensor) -> Tensor:
    """Its bilinear, which blurs what it shrinks, on floats as clean-fid has its bicubic."""
    resized = [
        np.asarray(Image.fromarray(plane).resize((299, 299), Image.Resampling.BILINEAR))
        for plane in images.flatten(0, 1).float().numpy()
    ]
    return (torch.from_numpy(np.stack(resized)).unflatten(0, images.shape[:2]) - 128) / 128


def of_torch_fidelity(images: Tensor) -> Tensor:
    resized = interpolate_bilinear_2d_like_tensorflow1x(images.float(), size=(299, 299), align_corners=False)
    return (resized - 128) / 128


IMAGENET = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
CLIP = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]  # OpenAI's `_transform`


def of_dgm_eval(images: Tensor, scale: tuple[list[float], list[float]] = IMAGENET) -> Tensor:
    """What its ``Resize((224, 224), BICUBIC)``, ``ToTensor`` and ``Normalize`` make of PIL's pictures."""
    resized = [
        np.asarray(Image.fromarray(picture).resize((224, 224), Image.Resampling.BICUBIC))
        for picture in images.permute(0, 2, 3, 1).numpy()
    ]
    x = torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2) / 255
    mean, deviation = (torch.tensor(numbers) for numbers in scale)
    return (x - mean[:, None, None]) / deviation[:, None, None]


@pytest.mark.parametrize(
    ("resizing", "tool", "levels"),
    [
        (antialiased(), of_pillow, 0.01),
        (pytorch_fid(), of_pytorch_fid, 0),
        (clean_fid(), of_clean_fid, 0.01),  # its kernel in float64, ours in float32
        (torch_fidelity(), of_torch_fidelity, 0),
        (dgm_eval(), of_dgm_eval, 0),
        (dgm_eval_clip(), partial(of_dgm_eval, scale=CLIP), 0),
    ],
    ids=["Pillow", "pytorch-fid", "clean-fid", "torch-fidelity", "dgm-eval", "dgm-eval of CLIP"],
)
def test_is_the_tool(resizing: Resizing, tool: Callable[[Tensor], Tensor], levels: float) -> None:
    """To so many levels of 255."""
    for size in SIZES:
        images = pictures(*size)
        shown, expected = resizing(images), tool(images)
        assert shown.shape == expected.shape
        assert 128 * (shown - expected).abs().max().item() <= levels, size


def test_no_two_are_the_same() -> None:
    """Of a small picture, in levels of 255; the default is pytorch-fid's but for how grey is scaled."""
    images = pictures(64, 64)
    shown = [resizing(images) for resizing in (antialiased(), pytorch_fid(), clean_fid(), torch_fidelity())]
    assert 128 * (shown[0] - shown[1]).abs().max().item() == pytest.approx(1, abs=0.01)
    for i, one in enumerate(shown):
        for other in shown[max(2, i + 1) :]:
            assert 128 * (one - other).abs().max().item() > 20


def test_the_extractor_is_known_by_its_resizing() -> None:
    """So that features of one are never taken for those of another, nor their figures compared."""
    made = [antialiased(), pytorch_fid(), clean_fid(), torch_fidelity()]
    with torch.device("meta"):
        words = [InceptionV3(resizing).resize for resizing in made]
        assert InceptionV3().resize == words[0]
    assert len(set(words)) == 4
    assert pickle.loads(pickle.dumps(made[2])) == made[2]
    with pytest.raises(FrozenInstanceError):
        made[0].words = words[1]  # type: ignore[misc]
