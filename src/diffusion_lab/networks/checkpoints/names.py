"""Which tensor of a network stands where in another project's file."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from diffusion_lab.networks.blocks import Attention, Downsample, ResBlock, Upsample

State = Mapping[str, Tensor]


@dataclass(frozen=True)
class Converted:
    """A network of ours, made of somebody else's tensors.

    Args:
        network: which class.
        options: its arguments.
        state: its tensors, float32, strictly those that it has.
    """

    network: type[nn.Module]
    options: dict[str, Any]
    state: dict[str, Tensor]

    def build(self) -> nn.Module:
        """The network with its tensors, in evaluation mode."""
        network = empty(self.network, self.options).to_empty(device="cpu")
        network.load_state_dict(self.state)
        return network.eval()


@dataclass(frozen=True)
class Parts:
    """What another project calls the parts of each block."""

    residual: Mapping[str, str]
    attention: Mapping[str, str]
    downsample: Mapping[str, str]
    upsample: Mapping[str, str]


def empty(network: type[nn.Module], options: Mapping[str, Any]) -> nn.Module:
    """A network without memory, whose shapes and names are true."""
    with torch.device("meta"):
        return network(**options)


def pairs(network: nn.Module, parts: Parts, place: Callable[[str], str]) -> Iterator[tuple[str, str]]:
    """(our name, their name) of every layer inside blocks.

    Args:
        network: ours.
        parts: their names of the parts.
        place: from our name of a block to theirs.
    """
    tables: dict[type, Mapping[str, str]] = {
        ResBlock: parts.residual,
        Attention: parts.attention,
        Downsample: parts.downsample,
        Upsample: parts.upsample,
    }
    for name, module in network.named_modules():
        for ours, theirs in tables.get(type(module), {}).items():
            yield f"{name}.{ours}", f"{place(name)}.{theirs}"


class Taken:
    """Hands out the tensors of a file, and knows which nobody took."""

    def __init__(self, state: State) -> None:
        self.state = dict(state)
        self.left = set(state)

    def __call__(self, name: str, shape: torch.Size) -> Tensor:
        """A tensor by name; a convolution over single pixels may stand where a linear map is meant.

        Raises:
            ValueError: if it is missing or of another shape.
        """
        if name not in self.state:
            raise ValueError(f"the file has no tensor '{name}', which a network of its other tensors' kind would have")
        tensor = self.state[name]
        if tensor.ndim > len(shape) and set(tensor.shape[len(shape) :]) == {1}:
            tensor = tensor.flatten(len(shape) - 1)
        if tensor.shape != shape:
            raise ValueError(f"the tensor '{name}' is {tuple(tensor.shape)}, but {tuple(shape)} was expected here")
        self.left.discard(name)
        return tensor.detach().to(torch.float32)

    def finish(self) -> None:
        """Insists that everything was taken.

        Raises:
            ValueError: naming what was not.
        """
        if self.left:
            first = sorted(self.left)[0]
            raise ValueError(f"{len(self.left)} tensors of the file have no place in our network, such as '{first}'")


def one_hot_classes(table: Tensor) -> dict[str, Tensor]:
    """A table of classes ``(classes, width)`` as our map of attributes: a class is the attribute that is 1."""
    weight = torch.cat([table.T, torch.zeros_like(table.T)], dim=1)
    return {"embed_attributes.weight": weight, "embed_attributes.bias": torch.zeros(len(weight))}


def count(state: State, pattern: str) -> int:
    """How many of ``pattern.format(0)``, ``pattern.format(1)``, ... begin names of the file without a gap."""
    found = 0
    while any(name.startswith(pattern.format(found)) for name in state):
        found += 1
    return found
