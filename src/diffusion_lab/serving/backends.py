"""The forms that a network can serve in: as it is, compiled, or as an ONNX file, in floats or in part in integers."""

import copy
import json
import logging
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from diffusion_lab import recipe
from diffusion_lab.networks.export import Called, exportable, identity, read_onnx
from diffusion_lab.networks.unet import UNet
from diffusion_lab.serving import quantised

log = logging.getLogger(__name__)

NEAR = 0.1
"""How far x_0 and the noise together may be from the float32 network's, as a part of their length, in 8-bit integers.

A guard against files that went wrong: which stages are fit, `quantising.WORST` says by calls of the task. Of the output
alone the shipped base misses by less than .046 when it warms up, and its refiner, which is not fit, by up to .175."""

Backend = Callable[[nn.Module, Path, int], nn.Module]
"""(a network on the device that serves, the folder that it is from, its stage there) -> what is called in its place."""


def eager(network: nn.Module, folder: Path, stage: int = 0) -> nn.Module:
    """The network as it is."""
    return network


def compiled(network: nn.Module, folder: Path, stage: int = 0) -> nn.Module:
    """The network through `torch.compile`, which happens in the first calls and needs a C++ compiler on a CPU."""
    return Called(exportable(network), torch.compile(network.forward, fullgraph=True))


def bfloat16(network: nn.Module, folder: Path, stage: int = 0) -> nn.Module:
    """The network under autocast, bit for bit, but its weights are cast once, where autocast does it in every call."""
    inner = exportable(network)
    low = copy.deepcopy(inner).requires_grad_(False)
    for layer in low.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.to(torch.bfloat16)
            if isinstance(layer, nn.Conv2d) and isinstance(low, UNet) and low.last(layer.weight):
                layer.to(memory_format=torch.channels_last)

    def call(x: Tensor, condition: Tensor, time: Tensor, attributes: Tensor | None = None) -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16):
            said: Tensor = low(x, condition, time, attributes)
        return said.float()

    return Called(inner, call)


def onnxruntime(network: nn.Module, folder: Path, stage: int = 0, patience: float | None = None) -> nn.Module:
    """The network under ONNX Runtime, from `model.onnx` if the folder's manifest names it, else exported now.

    Args:
        network: see `Backend`.
        folder: likewise.
        stage: likewise.
        patience: seconds that an export may take; None waits.

    Raises:
        ValueError: if it is not to serve on the CPU, is one of several networks of a cascade, ONNX is not installed,
            `model.onnx` is of another inpainter, or the export took too long.
    """
    if "stages" in recipe.read(folder)["model"]:
        raise ValueError(
            "it is a cascade, and an ONNX file holds one network: set engine.backend=eager, compiled or int8"
        )
    device = next(network.parameters()).device
    if device.type != "cpu":
        raise ValueError(f"engine.backend=onnxruntime serves on the CPU, not on {device}: set engine.device=cpu")
    manifest, about = folder / "manifest.json", identity(folder)
    if manifest.is_file() and "model.onnx" in json.loads(manifest.read_text())["files"]:
        return Called(exportable(network), read_onnx(folder / "model.onnx", about))
    with tempfile.TemporaryDirectory() as made:
        file = Path(made) / "model.onnx"
        export(folder, file, patience)
        return Called(exportable(network), read_onnx(file, about))


def export(folder: Path, output: Path, patience: float | None = None) -> None:
    """Exports in a process of its own: tracing holds the interpreter for seconds, in which no job would get on.

    Raises:
        ValueError: why it could not be done.
    """
    command = [sys.executable, "-m", "diffusion_lab.networks.export", str(folder), "--output", str(output)]
    try:
        apart(command, patience)
    except subprocess.TimeoutExpired:
        raise ValueError(f"the export took longer than {patience:g} s: export it once, beside the model") from None


def int8(network: nn.Module, folder: Path, stage: int = 0) -> nn.Module:
    """The network under ONNX Runtime with most convolutions in 8-bit integers, made once for a model: see `quantised`.

    Args:
        network: see `Backend`.
        folder: likewise.
        stage: likewise.

    Raises:
        ValueError: if it is not to serve on the CPU, or such files cannot be made.
    """
    device = next(network.parameters()).device
    if device.type != "cpu":
        raise ValueError(f"engine.backend=int8 serves on the CPU, not on {device}: set engine.device=cpu")
    files = quantised.kept(folder)
    if files is None:
        log.info("engine.backend=int8: making 8-bit files of '%s', once; it takes a minute or several", folder)
        began = time.perf_counter()
        apart([sys.executable, "-m", "diffusion_lab.serving.quantising", str(folder)])
        files = quantised.kept(folder)
        if files is None:
            raise ValueError(f"the 8-bit files of '{folder}' are gone: is something emptying the cache?")
        log.info("engine.backend=int8: made in %.0f s, kept in '%s'", time.perf_counter() - began, files[0].parent)
    call = read_onnx(files[stage], {**identity(folder), "stage": str(stage)})
    return Called(exportable(network), call, NEAR)


def apart(command: Sequence[str], patience: float | None = None) -> None:
    """Runs a command in a process of its own.

    Raises:
        ValueError: with its last line, if it fails.
        TimeoutExpired: if it takes longer.
    """
    done = subprocess.run(command, capture_output=True, text=True, timeout=patience)
    if done.returncode:
        last = (done.stderr.strip() or f"{command[2]} ended with {done.returncode}").splitlines()[-1]
        raise ValueError(last.removeprefix("error: "))


BACKENDS: Mapping[str, Backend] = {"eager": eager, "compiled": compiled, "onnxruntime": onnxruntime, "int8": int8}
