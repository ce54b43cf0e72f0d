"""A training step of our UNet against its peers at equal work.

``uv run --group benchmarks python benchmarks/network.py``. diffusers gets the very same network, written in its layout;
denoising-diffusion-pytorch's Unet has blocks of its own, and gets the width at which it needs as many multiplications.
"As shipped" is float32 and plain AdamW; "tuned" is bfloat16 autocast and fused AdamW on every side. Steps are
interleaved; each cell is a median over the rounds, each ratio a median of ratios within a round, with its quartiles.
"""

import argparse
import platform
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

warnings.simplefilter("ignore")
from denoising_diffusion_pytorch import Unet  # noqa: E402
from diffusers import UNet2DModel  # noqa: E402

from diffusion_lab.networks.checkpoints import to_diffusers  # noqa: E402
from diffusion_lab.networks.unet import UNet  # noqa: E402

Forward = Callable[[Tensor, Tensor], Tensor]
SIZE = 32
OPTIONS: dict[str, Any] = {
    "image_size": SIZE,
    "channels": 64,
    "multipliers": [1, 2, 2],
    "depth": 2,
    "attention": [16, 8],
    "middle_attention": True,
    "head_width": 32,
    "condition_channels": 0,
}


def ours() -> tuple[nn.Module, Forward]:
    """Our UNet."""
    unet = UNet(**OPTIONS)
    return unet, lambda x, time: unet(x, x[:, :0], time)


def diffusers() -> tuple[nn.Module, Forward]:
    """The same in diffusers."""
    config, state = to_diffusers(OPTIONS, UNet(**OPTIONS).state_dict())
    unet = UNet2DModel.from_config(config)
    unet.load_state_dict(state)
    return unet, lambda x, time: unet(x, time).sample


def denoising_diffusion_pytorch(dim: int) -> tuple[nn.Module, Forward]:
    """denoising-diffusion-pytorch's, of a certain width."""
    unet = Unet(dim, dim_mults=(1, 2, 2), full_attn=(False, True, True), attn_dim_head=32)
    return unet, unet


def flops(made: tuple[nn.Module, Forward]) -> int:
    """Multiplications and additions of one picture's way forward."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        made[1](torch.zeros(1, 3, SIZE, SIZE), torch.zeros(1))
    return counter.get_total_flops()


def training_step(made: tuple[nn.Module, Forward], tuned: bool, batch: int) -> Callable[[], None]:
    """One optimiser step on noise."""
    network, forward = made
    optimizer = torch.optim.AdamW(network.parameters(), 1e-4, fused=True if tuned else None)
    x, time = torch.randn(batch, 3, SIZE, SIZE), torch.linspace(1, 999, batch)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=tuned):
            loss = F.mse_loss(forward(x, time).float(), x)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def convolution_rate(dtype: torch.dtype) -> float:
    """Operations a second of one 3x3 convolution and its backward pass: what the machine can do."""
    x = torch.randn(32, 128, 16, 16, dtype=dtype, requires_grad=True)
    w = torch.randn(128, 128, 3, 3, dtype=dtype, requires_grad=True)
    gradient, best = torch.ones(32, 128, 16, 16, dtype=dtype), float("inf")
    for _ in range(10):
        began = time.perf_counter()
        F.conv2d(x, w, padding=1).backward(gradient)
        best = min(best, time.perf_counter() - began)
    return 3 * 2 * x.numel() * 128 * 9 / best


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    work = flops(ours())
    dim = min(range(32, 128, 8), key=lambda d: abs(flops(denoising_diffusion_pytorch(d)) - work))
    makers = {
        "ours": ours,
        "diffusers": diffusers,
        f"denoising-diffusion-pytorch, dim {dim}": lambda: denoising_diffusion_pytorch(dim),
    }
    print(
        f"{platform.machine()}, torch {torch.__version__}, {options.threads} threads, {SIZE} px, batch {options.batch}"
    )
    for tuned in (False, True):
        rate = convolution_rate(torch.bfloat16 if tuned else torch.float32)
        built = {name: make() for name, make in makers.items()}
        steps = {name: training_step(made, tuned, options.batch) for name, made in built.items()}
        seconds: dict[str, list[float]] = {name: [] for name in steps}
        for number in range(options.rounds + 2):
            for name, step in steps.items():
                began = time.perf_counter()
                step()
                if number >= 2:  # the first two warm up
                    seconds[name].append(time.perf_counter() - began)
        print(f"\n{'tuned' if tuned else 'as shipped'}, n = {options.rounds}")
        print(
            "| network | parameters | GFLOPs | pictures/s | of the convolution rate | ours is faster by (quartiles) |"
        )
        print("|---|---|---|---|---|---|")
        for name, (network, _) in built.items():
            speed, cost = options.batch / statistics.median(seconds[name]), flops(built[name])
            quartiles = statistics.quantiles([a / b for a, b in zip(seconds[name], seconds["ours"], strict=True)], n=4)
            ratio = "" if name == "ours" else f"{quartiles[1]:.2f} ({quartiles[0]:.2f} to {quartiles[2]:.2f})"
            count = sum(p.numel() for p in network.parameters())
            print(f"| {name} | {count:,} | {cost / 1e9:.2f} | {speed:.1f} | {3 * cost * speed / rate:.0%} | {ratio} |")


if __name__ == "__main__":
    main()
