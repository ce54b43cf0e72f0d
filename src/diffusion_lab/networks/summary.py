"""What a network costs, found without running it: every tensor lives on the meta device."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from rich.table import Table
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from diffusion_lab.networks.blocks import Attention, Stage
from diffusion_lab.networks.classifier import Classifier
from diffusion_lab.networks.dit import DiT, TokenAttention
from diffusion_lab.networks.unet import UNet

TRAINED_BYTES = 20
"""Per parameter in float32: the weight, its gradient, Adam's two moments and the running average."""


@dataclass(frozen=True)
class Summary:
    """What a network costs.

    Args:
        parameters: how many numbers are learned.
        flops: of one picture's way forward, a multiplication and an addition counted as two; training takes three
            times as many.
        attention: how many attention layers sit at each size in pixels, finest first.
        activations: bytes that one picture of a training step keeps in float32 for the way back; bf16 autocast keeps
            about half, and `normed` as one operation a third less. With checkpointing, what is kept between stages.
    """

    parameters: int
    flops: int
    attention: Mapping[int, int]
    activations: int

    def training_bytes(self, batch_size: int) -> int:
        """What a training step holds in float32: weights, gradients, Adam's moments, the average, activations."""
        return TRAINED_BYTES * self.parameters + batch_size * self.activations


def summarise(network: UNet | DiT | Classifier) -> Summary:
    """Follows one picture through a network, on the meta device wherever the network itself is.

    Example:
        >>> found = summarise(UNet(image_size=32, channels=32, attention=[16, 8], middle_attention=True, head_width=32))
        >>> dict(found.attention)
        {16: 5, 8: 6}
    """
    parameters = {name: torch.empty_like(p, device="meta") for name, p in network.named_parameters()}
    x, *others = network.example()
    inputs = (x.requires_grad_(), *others)
    weights = {p.untyped_storage()._cdata for p in parameters.values()}
    kept: dict[int, Tensor] = {}  # by storage: a tensor that two layers keep is kept once
    attention: Counter[int] = Counter()

    def keep(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage()._cdata not in weights:
            kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    def visit(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        if isinstance(module, Attention):
            attention[arguments[0].shape[-1]] += 1
        elif isinstance(module, TokenAttention):
            attention[math.isqrt(arguments[0].shape[1])] += 1
        else:
            keep(arguments[0])

    hooks = [
        m.register_forward_pre_hook(visit)
        for m in network.modules()
        if isinstance(m, Attention | TokenAttention | Stage)
    ]
    try:
        with FlopCounterMode(display=False) as counter, saved_tensors_hooks(keep, lambda tensor: tensor):
            functional_call(network, parameters, inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return Summary(
        parameters=sum(p.numel() for p in parameters.values()),
        flops=counter.get_total_flops(),
        attention=dict(sorted(attention.items(), reverse=True)),
        activations=sum(t.untyped_storage().nbytes() for t in kept.values()),
    )


def table(network: UNet | DiT | Classifier, batch_size: int) -> Table:
    """What the start of a run prints.

    Args:
        network: as built.
        batch_size: pictures per device in a training step.
    """
    found = summarise(network)
    places = ", ".join(f"{count} at {size} px" for size, count in found.attention.items())
    learned = sum(p.numel() for p in network.parameters() if p.requires_grad)
    some = f", of which {learned:,} are trained" if learned < found.parameters else ""
    rows = {
        "parameters": f"{found.parameters:,}{some}",
        "GFLOPs per picture": f"{found.flops / 1e9:,.2f} forward, {3 * found.flops / 1e9:,.2f} trained",
        "attention": places or "none",
        "memory of a training step": f"about {found.training_bytes(batch_size) / 2**30:,.1f} GiB in float32 for "
        f"{batch_size} pictures, {found.activations / 2**20:,.0f} MiB of activations each (about half in bf16)",
    }
    drawn = Table(title=type(network).__name__, show_header=False, title_justify="left")
    for name, value in rows.items():
        drawn.add_row(name, value)
    return drawn
