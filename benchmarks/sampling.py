"""What the sampling loop costs beside the network call: ``python benchmarks/sampling.py``.

At 32x32, batch 16, for every solver and inpainting method: the network's own time in the loop, the rest of the loop,
and the drawing of the noise apart. DPS's backward pass through the network is counted as the network's.
"""

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from diffusion_lab.diffusion import samplers
from diffusion_lab.diffusion.denoiser import Condition, Epsilon, NetworkDenoiser
from diffusion_lab.diffusion.noise import ExampleNoise
from diffusion_lab.diffusion.sampling import Sampler, keep_clean, sample
from diffusion_lab.diffusion.schedule import linear
from diffusion_lab.networks.unet import UNet

BATCH, SIZE = 16, 32
SAMPLERS: dict[str, Callable[[int], Sampler]] = {
    "ddim": samplers.ddim,
    "ddpm": samplers.ddpm,
    "dpm_solver": samplers.dpm_solver,
    "dpm_solver_sde": partial(samplers.dpm_solver, eta=1.0),
    "heun": samplers.heun,
    "ddim_dynamic": samplers.ddim_thresholded,
    "replacement": samplers.replacement,
    "repaint": partial(samplers.repaint, jump=2, resamples=2),
    "ddnm": samplers.ddnm,
    "dps": samplers.dps,
}


class Clock:
    """Seconds spent inside what it wraps."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def timed(self, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def call(*args: Tensor) -> Tensor:
            start = time.perf_counter()
            out = function(*args)
            self.seconds += time.perf_counter() - start
            return out

        return call


class Timed(nn.Module):
    """A network whose calls a clock times."""

    def __init__(self, network: UNet, clock: Clock) -> None:
        super().__init__()
        self.network = network
        self.condition_channels = network.condition_channels
        self.call = clock.timed(network)

    def forward(self, x: Tensor, known: Tensor, level: Tensor, attributes: Tensor | None) -> Tensor:
        return self.call(x, known, level, attributes)


def run(sampler: Sampler, network: UNet) -> tuple[float, float, float, int]:
    """Milliseconds a network call: network, loop, noise; and the number of calls."""
    network_clock, noise_clock = Clock(), Clock()
    model = NetworkDenoiser(Timed(network, network_clock), linear(), Epsilon())
    shape = (3, SIZE, SIZE)
    noise = ExampleNoise(range(BATCH), shape)
    mask = torch.zeros(BATCH, 1, SIZE, SIZE, dtype=torch.bool)
    mask[..., SIZE // 4 : 3 * SIZE // 4, SIZE // 4 : 3 * SIZE // 4] = True
    fill = noise()
    condition = Condition(known=torch.where(mask, fill, torch.zeros(())), mask=mask, fill=fill)
    backward = torch.autograd.grad
    torch.autograd.grad = network_clock.timed(backward)  # type: ignore[assignment, arg-type]
    start = time.perf_counter()
    try:
        sample(model, sampler, model.schedule, noise(), condition, noise_clock.timed(noise), keep_clean)
    finally:
        torch.autograd.grad = backward
    whole = time.perf_counter() - start
    calls = sampler.network_calls(model.schedule)
    rest = whole - network_clock.seconds - noise_clock.seconds
    return 1e3 * network_clock.seconds / calls, 1e3 * rest / calls, 1e3 * noise_clock.seconds / calls, calls


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--channels", type=int, default=64)
    options = parser.parse_args()
    torch.manual_seed(0)
    network = UNet(image_size=SIZE, channels=options.channels, multipliers=[1, 2, 2], condition_channels=4).eval()
    parameters = sum(p.numel() for p in network.parameters())
    print(f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print(f"{SIZE}x{SIZE}, batch {BATCH}, {parameters / 1e6:.1f}M parameters, median of {options.repeats} runs")
    runs: dict[str, list[tuple[float, float, float, int]]] = {name: [] for name in SAMPLERS}
    for _ in range(options.repeats):
        for name, make in SAMPLERS.items():
            runs[name].append(run(make(options.steps), network))
    print(f"{'sampler':<16}{'calls':>6}{'network ms':>12}{'loop ms':>9}{'share':>8}{'noise ms':>10}")
    for name, results in runs.items():
        model, loop, noise, calls = (statistics.median(column) for column in zip(*results, strict=True))
        print(f"{name:<16}{calls:>6.0f}{model:>12.2f}{loop:>9.2f}{loop / model:>8.1%}{noise:>10.2f}")


if __name__ == "__main__":
    main()
