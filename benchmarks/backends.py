"""One network call in each form that serves: ``python benchmarks/backends.py``.

model=unet_attn at 64 px, on the CPU: as it is in float32 and under bfloat16 autocast, compiled, and under ONNX Runtime,
in float32 and with convolutions in 8-bit integers.
Calls are interleaved; each time is a median over the rounds, each ratio a median of ratios within a round, with its
quartiles. "Ready after" is what the form takes to be made, once, before the first job.
"""

import argparse
import platform
import statistics
import tempfile
import time
from pathlib import Path

import onnxruntime
import torch
from torch import Tensor

from diffusion_lab.networks.export import NAMES, Call, example, read_onnx, write_onnx
from diffusion_lab.networks.unet import UNet
from diffusion_lab.serving.quantising import quantise

SIZE = 64


def unet_attn() -> UNet:
    """The network of conf/model/unet_attn.yaml, with random weights of which none is zero."""
    torch.manual_seed(0)
    unet = UNet(
        image_size=SIZE,
        channels=64,
        multipliers=[1, 2, 2],
        depth=1,
        attention=[8],
        middle_attention=True,
        head_width=32,
        condition_channels=4,
        patch=2,
    )
    for parameter in unet.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    return unet.eval()


def bfloat16(unet: UNet) -> Call:
    """The network under autocast."""

    def call(x: Tensor, condition: Tensor, time: Tensor, attributes: Tensor | None = None) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return unet(x, condition, time, attributes).float()

    return call


def onnx(unet: UNet) -> Call:
    """The network under ONNX Runtime."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        write_onnx(unet, file, {})
        return read_onnx(file)


def int8(unet: UNet) -> Call:
    """The same with convolutions in 8-bit integers, whose ranges are those of noise: no matter for the time."""
    with tempfile.TemporaryDirectory() as folder:
        floats, file = Path(folder) / "floats.onnx", Path(folder) / "model.onnx"
        write_onnx(unet, floats, {})
        inputs = zip(NAMES, example(unet, rows=4), strict=False)
        quantise(floats, file, [{name: each.numpy() for name, each in inputs}])
        return read_onnx(file)


FORMS = {
    "eager": lambda unet: unet,
    "eager, bfloat16": bfloat16,
    "compiled": lambda unet: torch.compile(unet.forward, fullgraph=True),
    "onnxruntime": onnx,
    "int8": int8,
}


@torch.no_grad()
def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    unet = unet_attn()
    calls: dict[str, Call] = {}
    ready: dict[str, float] = {}
    for name, make in FORMS.items():
        began = time.perf_counter()
        calls[name] = make(unet)
        for rows in (1, 2):  # as the service does before the first job
            calls[name](*example(unet, rows), None)
        ready[name] = time.perf_counter() - began
    versions = f"torch {torch.__version__}, onnxruntime {onnxruntime.__version__}"
    print(f"{platform.machine()}, {versions}, {options.threads} threads, {SIZE} px, n = {options.rounds}")
    print("\n| batch | form | ms a call | ms a picture | eager takes so many times as long (quartiles) | ready after |")
    print("|---|---|---|---|---|---|")
    for rows in options.batches:
        inputs = (*example(unet, rows), None)
        seconds: dict[str, list[float]] = {name: [] for name in calls}
        for number in range(options.rounds + 2):
            for name, call in calls.items():
                began = time.perf_counter()
                call(*inputs)
                if number >= 2:  # the first two warm up
                    seconds[name].append(time.perf_counter() - began)
        for name, taken in seconds.items():
            middle = 1000 * statistics.median(taken)
            ratios = [a / b for a, b in zip(seconds["eager"], taken, strict=True)]
            low, median, high = statistics.quantiles(ratios, n=4)
            ratio = "" if name == "eager" else f"{median:.2f} ({low:.2f} to {high:.2f})"
            print(f"| {rows} | {name} | {middle:.0f} | {middle / rows:.0f} | {ratio} | {ready[name]:.0f} s |")


if __name__ == "__main__":
    main()
