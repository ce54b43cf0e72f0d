"""What one operation for GroupNorm, scale, shift and SiLU gains on a CPU: ``python benchmarks/normed.py``.

Whole training steps (there, back, clipping, AdamW) and network calls of the two networks that ship (a base for 64 px,
and a refiner), in three forms: channels first, as PyTorch does it; channels last, as PyTorch does it; channels last
with `normed.cpp`. Steps are interleaved, on one thread, whose own CPU time is what counts: other work on the machine
costs it little. Each ratio is a median of ratios within a round, with its quartiles.
"""

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import torch
from torch import nn
from torch.nn import functional as F

from diffusion_lab.networks import normed
from diffusion_lab.networks.unet import UNet

SHARED: dict[str, Any] = {"image_size": 64, "multipliers": [1, 2, 2], "condition_channels": 4, "patch": 2}
NETWORKS: dict[str, dict[str, Any]] = {
    "base": {"channels": 64, "depth": 1, "attention": [8], "middle_attention": True, "head_width": 32},
    "refiner": {"channels": 48, "depth": 2},
}
FORMS = {"channels first": (False, False), "channels last": (True, False), "channels last, one operation": (True, True)}
"""(whether channels are last, whether the operation may be taken)"""


def built(options: dict[str, Any], last: bool) -> UNet:
    """A network of random weights of which none is zero."""
    torch.manual_seed(0)
    unet = UNet(**SHARED, **options, channels_last=last)
    for parameter in unet.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    return unet


def work(options: dict[str, Any], form: str, batch: int, trains: bool, low: bool) -> Callable[[], None]:
    """A training step, or a network call."""
    last, one = FORMS[form]
    unet = built(options, last)
    optimizer = torch.optim.AdamW(unet.parameters(), 1e-5, fused=True)
    x, condition, levels = torch.randn(batch, 3, 64, 64), torch.randn(batch, 4, 64, 64), torch.linspace(1, 999, batch)

    def run() -> None:
        with patch.object(normed, "can", lambda x: one), torch.set_grad_enabled(trains):
            with torch.autocast("cpu", torch.bfloat16, enabled=low):
                loss = F.mse_loss(unet(x, condition, levels).float(), x)
            if trains:
                loss.backward()
                nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)

    return run


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    if normed.kernel() is None:
        raise SystemExit("there is no C++ compiler: the operation cannot be made here")
    print(f"{platform.machine()}, torch {torch.__version__}, one thread, n = {rounds}")
    print("\n| network | what | precision | form | ms | channels first takes so many times as long (quartiles) |")
    print("|---|---|---|---|---:|---|")
    for name, options in NETWORKS.items():
        for what, batch, trains in (("a step of 16", 16, True), ("a call of 1", 1, False), ("a call of 16", 16, False)):
            for low in (True, False):
                runs = {form: work(options, form, batch, trains, low) for form in FORMS}
                taken: dict[str, list[float]] = {form: [] for form in FORMS}
                for number in range(rounds + 1):
                    for form, run in runs.items():
                        began = time.thread_time()
                        run()
                        if number:  # the first one warms up
                            taken[form].append(time.thread_time() - began)
                for form, seconds in taken.items():
                    ratios = [a / b for a, b in zip(taken["channels first"], seconds, strict=True)]
                    low_q, middle, high_q = statistics.quantiles(ratios, n=4)
                    ratio = "" if form == "channels first" else f"{middle:.2f} ({low_q:.2f} to {high_q:.2f})"
                    precision = "bfloat16" if low else "float32"
                    cost = 1000 * statistics.median(seconds)
                    print(f"| {name} | {what} | {precision} | {form} | {cost:.0f} | {ratio} |", flush=True)


if __name__ == "__main__":
    main()
