"""``python -m diffusion_lab.training.reconstruct RUN --sigma-rel .07``: the average of another length, after training.

Post-hoc EMA (Karras et al. 2023, section 3.2): the profile that is wanted, as the least-squares combination of the
profiles that were kept.
"""

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from rich.console import Console
from rich.progress import track
from torch import Tensor

from diffusion_lab.inpainting import Inpainter
from diffusion_lab.training.ema import Power
from diffusion_lab.training.snapshots import Snapshot, snapshots

TOLERANCE = 0.1
"""Of the profile's norm: beyond it the combination is another average than the one that was asked for."""


def overlap(gamma_a: ArrayLike, step_a: ArrayLike, gamma_b: ArrayLike, step_b: ArrayLike) -> NDArray[np.float64]:
    """Integral of the product of two profiles, (gamma + 1) / t (tau / t)^gamma up to t (appendix C).

    Example:
        >>> float(overlap(0, 2, 0, 4))  # 1/2 up to 2 and 1/4 up to 4
        0.25
    """
    a, s, b, t = (np.asarray(value, dtype=np.float64) for value in (gamma_a, step_a, gamma_b, step_b))
    later = np.where(s > t, a, b)
    ratio = np.minimum(s, t) / np.maximum(s, t)
    return np.asarray((a + 1) * (b + 1) / (a + b + 1) * ratio**later / np.maximum(s, t))


def combination(wanted: Power, step: int, kept: Sequence[tuple[Power, int]]) -> tuple[NDArray[np.float64], float]:
    """The weights with which the kept averages come nearest to the wanted one, and how near that is.

    They sum to 1, which the paper leaves open: weights are large beside the way that they still move, so a sum that is
    off by a thousandth would cost more than the shape of the profile does.

    Args:
        wanted: profile.
        step: its last one.
        kept: profiles and their last steps, no two the same.

    Returns:
        ``(n,)``, and the L2 distance between the profiles as a share of the wanted one's norm.

    Example:
        >>> weights, error = combination(Power(0.07), 100, [(Power(0.05), 100), (Power(0.10), 100)])
        >>> weights.round(2).tolist(), round(error, 2)
        ([0.48, 0.52], 0.05)
    """
    gamma = np.array([profile.gamma for profile, _ in kept])
    steps = np.array([last for _, last in kept]) / step  # in units of the wanted one's, for the numerics
    among = overlap(gamma[:, None], steps[:, None], gamma, steps)
    with_wanted, norm = overlap(gamma, steps, wanted.gamma, 1), overlap(wanted.gamma, 1, wanted.gamma, 1)
    ones = np.ones((len(kept), 1))
    system = np.block([[among, ones], [ones.T, np.zeros((1, 1))]])  # with a multiplier for the sum
    weights = np.linalg.solve(system, np.append(with_wanted, 1))[:-1]
    missed = float(norm - 2 * with_wanted @ weights + weights @ among @ weights) / float(norm)
    return weights, math.sqrt(max(0.0, missed))


def reconstruct(run: Path, sigma_rel: float, step: int | None = None) -> Inpainter:
    """The inpainter of a run with the average of a length of its own.

    Args:
        run: folder of the run, with `inpainter/` and the snapshots in `ema/`.
        sigma_rel: length, as a share of the training.
        step: when that training ends; None is the last snapshot's.

    Raises:
        FileNotFoundError: without snapshots or inpainter.
        ValueError: if the snapshots cannot make this average, or are of another network.
    """
    found = snapshots(run / "ema")
    last = found[-1].step if step is None else step
    used = [snapshot for snapshot in found if snapshot.step <= last]
    if not used or last > found[-1].step:
        raise ValueError(
            f"the snapshots in '{run / 'ema'}' are of steps {found[0].step} to {found[-1].step}: "
            f"there is no average at step {last}"
        )
    weights, error = combination(Power(sigma_rel), last, [(snapshot.profile, snapshot.step) for snapshot in used])
    if error > TOLERANCE:
        widths = sorted({snapshot.profile.sigma_rel for snapshot in found})
        raise ValueError(
            f"{len(used)} snapshots make an average of sigma_rel {sigma_rel:g} at step {last} only to within "
            f"{error:.0%}: ask for one nearer to {widths[0]:g}..{widths[-1]:g}, or keep more of them by "
            "callbacks.snapshots.every_n_steps"
        )
    inpainter = Inpainter.load(run / "inpainter")
    state = combined(used, weights)
    parameters = dict(inpainter.denoiser.named_parameters())
    if {name: p.shape for name, p in parameters.items()} != {name: total.shape for name, total in state.items()}:
        raise ValueError(f"the snapshots in '{run / 'ema'}' are of another network than '{run / 'inpainter'}'")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(state[name])
    inpainter.recipe["training"] = {
        **inpainter.recipe.get("training", {}),
        "step": last,
        "average": f"{Power(sigma_rel)}, from {len(used)} snapshots, profile to within {error:.2g}",
    }
    return inpainter


def combined(used: Sequence[Snapshot], weights: NDArray[np.float64]) -> dict[str, Tensor]:
    """The weighted sum of snapshots by parameter name, in float64."""
    total: dict[str, Tensor] = {}
    console = Console(stderr=True)
    for snapshot, weight in track(list(zip(used, weights, strict=True)), "Reading", console=console, transient=True):

        def add(name: str, tensor: Tensor, weight: float = float(weight)) -> None:
            share = weight * tensor.double()
            total[name] = total[name] + share if name in total else share

        snapshot.each(add)
    return total


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m diffusion_lab.training.reconstruct",
        description="Make an inpainter with an average of another length, after training with callbacks=snapshots.",
    )
    parser.add_argument("run", type=Path, help="folder of the run")
    parser.add_argument("--sigma-rel", type=float, required=True, help="length of the average, such as .07")
    parser.add_argument("--step", type=int, help="where the training is to end; the last snapshot if not given")
    parser.add_argument("--output", type=Path, help="folder of the inpainter; beside the run's own if not given")
    asked = parser.parse_args(arguments)
    output = asked.output or asked.run / f"inpainter-{asked.sigma_rel:g}"
    try:
        if output.exists() and not (output / "recipe.json").is_file():
            raise ValueError(f"'{output}' exists and is no inpainter, so it is left alone: name another --output")
        inpainter = reconstruct(asked.run, asked.sigma_rel, asked.step)
        inpainter.save(output)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"wrote {output}: {inpainter.recipe['training']['average']}")
    print(f"next: evaluate.py inpainter={output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
