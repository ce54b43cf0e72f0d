"""What every inpainting method makes of holes whose posterior is known: ``python benchmarks/coverage.py``.

Three problems with an exact denoiser, so that all that is wrong is the method's: for some known parts of each, many
samples of the hole are held against the posterior. What exact draws show by the same figures says how much of that is
noise. Prints docs/coverage.md's table, draws its figure, and writes every row to a JSON file.
"""

import argparse
import json
import math
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor

from diffusion_lab.charts import beside, chart
from diffusion_lab.diffusion import samplers
from diffusion_lab.diffusion.denoiser import Condition
from diffusion_lab.diffusion.mixture import GivenTheRest, Mixture, Posterior
from diffusion_lab.diffusion.sampling import Sampler, keep_clean, sample, unconstrained, untouched
from diffusion_lab.diffusion.schedule import linear
from diffusion_lab.lessons.data import TURNS, roll

FIGURE = Path(__file__).parents[1] / "docs" / "figures" / "coverage.png"
SCENES, SAMPLES = 8, 250  # known parts of a problem, and fillings of each
TRUTHS, REACH = 100, 4  # sets of exact draws, and how many of their deviations are still noise
DIRECTIONS = 32
TOP, TOP_TRAINED = 8, 4  # a chart's upper end, in distances of exact draws; what lies beyond is drawn at its edge
CALLS = (10, 25, 100, 250, 1000)
FEW = CALLS[:-1]  # of solvers without noise, which have arrived by then


@dataclass(frozen=True)
class Problem:
    """What the numbers are, and which of them are asked for, ``(n,)`` bool."""

    whole: Mixture
    hole: Tensor


def neighbours(n: int, variance: float, correlation: float) -> Tensor:
    """Covariance ``(n, n)`` of numbers in a row, each correlated with its neighbours."""
    at = torch.arange(n, dtype=torch.float64)
    return variance * correlation ** (at[:, None] - at).abs()


def gaussian_row() -> Problem:
    """16 numbers in a row, neighbours correlated by .9, of which the middle 6 are lost."""
    hole = torch.zeros(16, dtype=torch.bool)
    hole[5:11] = True
    return Problem(Mixture(torch.zeros(1), torch.zeros(1, 16), neighbours(16, 0.3, 0.9)), hole)


def four_kinds() -> Problem:
    """3 numbers around +-.3 tell little of 3 others around +-.7: p(+, +) = .4, (+, -) .1, (-, +) .2, (-, -) .3."""
    signs = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    means = (signs * torch.tensor([0.3, 0.7])).repeat_interleave(3, dim=1)
    hole = torch.tensor([False] * 3 + [True] * 3)
    return Problem(Mixture(torch.tensor([0.4, 0.1, 0.2, 0.3]).log(), means, neighbours(6, 0.25**2, 0.8)), hole)


def swiss_roll(noise: float = 0.1, pieces: int = 160) -> Problem:
    """The lessons' roll: its first coordinate is known; its line is cut into pieces that are shorter than the noise."""
    edges = torch.linspace(*TURNS, pieces + 1, dtype=torch.float64)
    line = roll((edges[1:] + edges[:-1]) / 2, noise)
    return Problem(Mixture(torch.zeros(pieces), line, noise**2 * torch.eye(2)), torch.tensor([False, True]))


PROBLEMS: Mapping[str, Callable[[], Problem]] = {
    "Gaussian": gaussian_row,
    "mixture": four_kinds,
    "swiss roll": swiss_roll,
}


@dataclass(frozen=True)
class Method:
    """A way to fill holes: a sampler for each number of calls; one that was trained for it sees what is known."""

    make: Callable[[int], Sampler]
    trained: bool
    calls: Sequence[int] = CALLS


def repaint(calls: int) -> Sampler:
    """RePaint of about so many calls; 230 and 910 are settings of its paper."""
    steps, jump, resamples = {10: (4, 1, 3), 25: (7, 2, 4), 100: (28, 4, 4), 230: (50, 5, 5), 910: (100, 10, 10)}[calls]
    return samplers.repaint(steps, jump, resamples, clip=False)


METHODS: Mapping[str, Method] = {
    "replacement": Method(lambda calls: samplers.replacement(calls, clip=False), False),
    "RePaint": Method(repaint, False, (10, 25, 100, 230, 910)),
    "DDNM": Method(samplers.ddnm, False),
    "DPS": Method(lambda calls: samplers.dps(calls, clip=False), False),
    "MCG": Method(lambda calls: samplers.mcg(calls, clip=False), False),
    "Palette's": Method(lambda calls: replace(samplers.palette(calls), wrap=untouched), True),
    "DDPM": Method(lambda calls: samplers.ddpm(calls, clip=False), True),
    "DDIM": Method(lambda calls: samplers.ddim(calls, clip=False), True, FEW),
    "DPM-Solver++": Method(lambda calls: samplers.dpm_solver(calls, clip=False), True, FEW),
    "Heun": Method(lambda calls: samplers.heun((calls + 1) // 2, clip=False), True, FEW),
}


def filled(problem: Problem, method: Method, calls: int, known: Tensor, count: int, seed: int) -> Tensor:
    """Samples ``(S, count, h)`` of the hole, for known parts ``(S, n - h)``."""
    generator = Generator().manual_seed(seed)
    picture = torch.zeros(len(known) * count, len(problem.hole), dtype=torch.float64)
    picture[:, ~problem.hole] = known.repeat_interleave(count, dim=0)

    def noise() -> Tensor:
        return torch.randn(picture.shape, generator=generator, dtype=torch.float64)

    model = GivenTheRest(problem.whole, problem.hole) if method.trained else problem.whole
    constrain = keep_clean if method.trained else unconstrained
    condition = Condition(picture, problem.hole.expand_as(picture))
    x = sample(model, method.make(calls), linear(), noise(), condition, noise, constrain)
    return x[:, problem.hole].unflatten(0, (len(known), count))


def figures(samples: Tensor, posterior: Posterior, reference: Tensor) -> dict[str, float]:
    """Five figures of samples ``(S, m, h)``, all in units of the posterior's own deviations.

    Args:
        samples: of each known part.
        posterior: what they should be draws from.
        reference: as many draws from it, for the distance.

    Returns:
        "bias": root mean square, over known parts and numbers, of the error of the mean. "variance": mean ratio to
        the right one. "in_50", "in_90": share of numbers inside the central interval that holds so many of the
        posterior's. "distance": sliced Wasserstein-1, the mean over directions of how far sorted samples lie apart.
    """
    mean, deviation = posterior.mean[:, None], posterior.variance.sqrt()[:, None]
    z = (samples - mean) / deviation
    off_middle = (posterior.cdf(samples) - 0.5).abs()
    ways = torch.randn(z.shape[2], DIRECTIONS, generator=Generator().manual_seed(0), dtype=torch.float64)
    ways /= ways.norm(dim=0)
    apart = (z @ ways).sort(dim=1).values - ((reference - mean) / deviation @ ways).sort(dim=1).values
    found = {
        "bias": z.mean(dim=1).square().mean().sqrt(),
        "variance": z.var(dim=1).mean(),
        "in_50": (off_middle < 0.25).double().mean(),
        "in_90": (off_middle < 0.45).double().mean(),
        "distance": apart.abs().mean(),
    }
    return {name: value.item() for name, value in found.items()}


@dataclass(frozen=True)
class Noise:
    """What exact draws show, by figure: mean and standard deviation over sets as large as the samples'."""

    mean: Mapping[str, float]
    deviation: Mapping[str, float]

    def holds(self, found: Mapping[str, float]) -> bool:
        """Whether no figure is further off than noise reaches: as exact as so many samples can tell."""
        return all(abs(found[name] - self.mean[name]) <= REACH * self.deviation[name] for name in self.mean)


def noise_of(posterior: Posterior, count: int, truths: int = TRUTHS) -> Noise:
    """The figures of so many sets of exact draws, each against another."""
    generator = Generator().manual_seed(1)
    sets = [
        figures(posterior.draw(count, generator), posterior, posterior.draw(count, generator)) for _ in range(truths)
    ]
    values = {name: torch.tensor([row[name] for row in sets]) for name in sets[0]}
    return Noise({k: v.mean().item() for k, v in values.items()}, {k: v.std().item() for k, v in values.items()})


def measured(problem: Problem, methods: Mapping[str, Method], count: int) -> tuple[Noise, list[dict[str, Any]]]:
    """The noise of a problem's figures, and a row for each method and number of calls."""
    known = problem.whole.draw(SCENES, Generator().manual_seed(0))[:, ~problem.hole]
    posterior = GivenTheRest(problem.whole, problem.hole).posterior(known)
    noise, reference = noise_of(posterior, count), posterior.draw(count, Generator().manual_seed(2))
    rows = []
    for name, method in methods.items():
        for calls in method.calls:
            found = figures(filled(problem, method, calls, known, count, seed=3), posterior, reference)
            asked = method.make(calls).network_calls(linear())
            rows.append({"method": name, "calls": asked, "exact": noise.holds(found), **found})
    return noise, rows


def exact_from(rows: Sequence[Mapping[str, Any]]) -> int | None:
    """The number of calls from which on a method's rows, in order, are as exact as can be told; None: never."""
    found = None
    for row in reversed(rows):
        if not row["exact"]:
            break
        found = row["calls"]
    return found


SHOWN = {"bias": 2, "variance": 2, "in_50": 3, "in_90": 3, "distance": 3}
"""Digits after the point."""


def table(name: str, noise: Noise, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Markdown: what exact draws show, and each method at the most calls; what noise does not explain is bold."""
    exact = [f"{noise.mean[k]:.{digits}f} ± {noise.deviation[k]:.{digits + 1}f}" for k, digits in SHOWN.items()]
    lines = [f"| {name} | *exact draws* | | {' | '.join(exact)} | |"]
    for method in dict.fromkeys(row["method"] for row in rows):
        own = [row for row in rows if row["method"] == method]
        cells = []
        for k, digits in SHOWN.items():
            far = abs(own[-1][k] - noise.mean[k]) > REACH * noise.deviation[k]
            cells.append(f"**{own[-1][k]:.{digits}f}**" if far else f"{own[-1][k]:.{digits}f}")
        lines.append(f"| | {method} | {own[-1]['calls']:,} | {' | '.join(cells)} | {exact_from(own) or 'never'} |")
    return lines


def draw(results: Mapping[str, tuple[Noise, Sequence[Mapping[str, Any]]]], path: Path) -> None:
    """The sliced distance over the calls: methods without training on the left, with it on the right."""
    panels = []
    for trained, (problem, (noise, rows)) in product((False, True), results.items()):
        floor = noise.mean["distance"]
        lines: dict[str, list[tuple[float, float]]] = {"exact draws": [(CALLS[0], floor), (CALLS[-1], floor)]}
        for row in rows:
            if METHODS[row["method"]].trained == trained:
                lines.setdefault(row["method"], []).append((row["calls"], row["distance"]))
        title = f"{problem}, {'conditional' if trained else 'unconditional'} model"
        ends = (0.0, floor * (TOP_TRAINED if trained else TOP))
        panels.append(chart(lines, "network calls", "sliced distance", title, True, ends, size=(400, 250)))
    across = [panel for pair in zip(panels[: len(results)], panels[len(results) :], strict=True) for panel in pair]
    beside(across, 2).quantize(64).save(path, optimize=True)


def main(given: Sequence[str] | None = None) -> None:
    """Measures, prints, writes and draws."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", nargs="+", choices=PROBLEMS, default=list(PROBLEMS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--samples", type=int, default=SAMPLES, help="fillings of each known part")
    parser.add_argument("--output", type=Path, default=Path("coverage.json"), help="every row")
    parser.add_argument("--figure", type=Path, default=FIGURE)
    asked = parser.parse_args(given)
    began, results = time.process_time(), {}
    print(f"{platform.machine()}, torch {torch.__version__}; {SCENES} known parts, {asked.samples} samples of each\n")
    print("| problem | method | calls | bias | variance | in 50 % | in 90 % | sliced distance | exact from |")
    print("|---|---|---:|---:|---:|---:|---:|---:|---:|")
    for name in asked.problems:
        results[name] = measured(PROBLEMS[name](), {k: METHODS[k] for k in asked.methods}, asked.samples)
        print(*table(name, *results[name]), sep="\n", flush=True)
    written = {name: {"noise": vars(noise), "rows": rows} for name, (noise, rows) in results.items()}
    asked.output.write_text(json.dumps({"samples": asked.samples, "problems": written}, indent=1))
    draw(results, asked.figure)
    print(f"\n{math.ceil(time.process_time() - began)} s of CPU time")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
