"""The average of the weights over the steps, which is what samples and what ships."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class ExponentialAverage:
    """An exponential moving average of a model's parameters.

    The first steps use the decay min(d, (1 + n) / (10 + n)), so that the average forgets the initial weights at once
    and is usable at any step.

    Args:
        model: whose parameters are averaged; buffers are left alone.
        decay: d, in [0, 1); an average over about 1 / (1 - d) steps.

    Example:
        >>> model = nn.Linear(1, 1, bias=False)
        >>> _ = nn.init.ones_(model.weight)
        >>> average = ExponentialAverage(model, decay=0.5)
        >>> _ = nn.init.zeros_(model.weight)
        >>> average.update()
        >>> with average.applied():
        ...     model.weight.item()  # the first step's decay is 1 / 10
        0.10000000149011612
        >>> model.weight.item()
        0.0
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"ema decay must be in [0, 1), got {decay}")
        self.decay = decay
        self.updates = 0
        self.names = [name for name, _ in model.named_parameters()]
        self.parameters = list(model.parameters())
        self.average = [parameter.detach().clone() for parameter in self.parameters]

    @torch.no_grad()
    def update(self) -> None:
        """Takes the parameters of one more step in."""
        self.average = [average.to(p.device) for average, p in zip(self.average, self.parameters, strict=True)]
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(self.average, [p.detach() for p in self.parameters], 1 - decay)
        self.updates += 1

    @torch.no_grad()
    def swap(self) -> None:
        """Exchanges average and parameters by value, so that compiled and fused code keeps its pointers."""
        for average, parameter in zip(self.average, self.parameters, strict=True):
            kept = parameter.detach().clone()
            parameter.copy_(average)
            average.copy_(kept)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model has the average weights inside, and its own again outside, whatever happened between."""
        self.swap()
        try:
            yield
        finally:
            self.swap()

    def state_dict(self) -> dict[str, Tensor | int]:
        """The average by parameter name, and the count of updates."""
        return {**dict(zip(self.names, self.average, strict=True)), "updates": self.updates}

    def load_state_dict(self, state: dict[str, Tensor | int]) -> None:
        """Goes on from a saved state; a missing name is an error."""
        missing = [name for name in self.names if name not in state]
        if missing:
            raise ValueError(f"the checkpoint holds no average of '{missing[0]}': it is of another model")
        self.updates = int(state["updates"])
        for name, average in zip(self.names, self.average, strict=True):
            average.copy_(torch.as_tensor(state[name]))
