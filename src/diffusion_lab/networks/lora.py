"""Low-rank adaptation (LoRA, Hu et al. 2021): a network is tuned by a small change to each of its weights."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

Factors = dict[str, tuple[Tensor, Tensor]]
"""By the name of a weight ``(rows, ...)``: B ``(rows, rank)`` and A ``(rank, columns)``, B A its change."""


class LowRank(nn.Module):
    """W + (alpha / rank) B A (Hu et al. 2021, eq. 3); A begins as noise and B as zeros, so the sum begins as W.

    The kernel of a convolution is a matrix with a row for each output channel.

    Args:
        weight: W, of whose shape the factors are.
        rank: columns of B and rows of A.
        alpha: how much the product counts.
    """

    def __init__(self, weight: Tensor, rank: int, alpha: float) -> None:
        super().__init__()
        rows, columns = len(weight), weight[0].numel()
        self.down = nn.Parameter(weight.new_empty(rank, columns).normal_(std=1 / math.sqrt(columns)))
        self.up = nn.Parameter(weight.new_zeros(rows, rank))
        self.scale = alpha / rank

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.scale * (self.up @ self.down).reshape(weight.shape)


def adapt(network: nn.Module, rank: int = 8, alpha: float = 8.0) -> None:
    """Freezes a network and gives every matrix and kernel of it a change of low rank, which alone is trained.

    Biases, norms, and weights that have no more than `rank` rows or columns stay as they are.

    Args:
        network: changed in place; what it computes is the same until it is trained.
        rank: of the changes.
        alpha: how much they count; with alpha = rank they are B A.

    Raises:
        ValueError: for a rank below 1, or one that no weight is larger than.
    """
    if rank < 1 or alpha <= 0:
        raise ValueError(f"finetune.rank must be 1 or more and finetune.alpha above 0, got {rank} and {alpha}")
    network.requires_grad_(False)
    layers = [layer for layer in network.modules() if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Linear)]
    large = [layer for layer in layers if min(len(layer.weight), layer.weight[0].numel()) > rank]
    if not large:
        raise ValueError(f"finetune.rank={rank} is as large as every weight of the network: take a smaller one")
    for layer in large:
        parametrize.register_parametrization(layer, "weight", LowRank(layer.weight, rank, alpha))


def factors(base: Mapping[str, Tensor], tuned: Mapping[str, Tensor], rank: int) -> Factors:
    """The best factors of the changes between two networks' weights: exact where the changes have that rank.

    The first `rank` singular triples are taken, which is the nearest matrix of that rank (Eckart and Young).

    Args:
        base: weights by name.
        tuned: the same after training.
        rank: of the factors.

    Returns:
        Of the weights that differ.

    Raises:
        ValueError: if the names or the shapes differ, or a bias or another vector has changed, which has no factors.
    """
    if unlike := sorted(
        {*base.keys() ^ tuned.keys(), *(k for k in base.keys() & tuned.keys() if base[k].shape != tuned[k].shape)}
    ):
        raise ValueError(f"the two are of unlike architectures, the first tensor that differs is '{unlike[0]}'")
    found: Factors = {}
    for name, weight in base.items():
        change = (tuned[name].double() - weight.double()).flatten(1) if weight.ndim > 1 else tuned[name] - weight
        if not change.any():
            continue
        if weight.ndim < 2:
            raise ValueError(f"'{name}' has changed too, and a vector has no factors: this was not a low-rank tuning")
        left, size, right = torch.linalg.svd(change, full_matrices=False)
        shared = size[:rank].sqrt()
        found[name] = ((left[:, :rank] * shared).float(), (shared[:, None] * right[:rank]).float())
    return found


def joined(base: Mapping[str, Tensor], changes: Factors, strength: float = 1.0) -> dict[str, Tensor]:
    """A network's weights with the changes added.

    Args:
        base: weights by name.
        changes: of some of them.
        strength: 0 leaves the base, 1 is the tuned network; between and beyond works too.

    Raises:
        ValueError: if a change is of a weight that is not there, or of another shape.
    """
    made = dict(base)
    for name, (up, down) in changes.items():
        if name not in base or (len(base[name]), base[name][0].numel()) != (len(up), down.shape[1]):
            raise ValueError(f"the change of '{name}' fits no weight of this model")
        made[name] = (base[name].float() + strength * (up @ down).reshape(base[name].shape)).to(base[name].dtype)
    return made
