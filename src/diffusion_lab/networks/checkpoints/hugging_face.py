"""The layout of diffusers' UNet2DModel, in both directions."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from diffusion_lab.networks.blocks import Attention, Downsample, ResBlock, Upsample
from diffusion_lab.networks.checkpoints.configuration import read_config, write_config
from diffusion_lab.networks.checkpoints.names import Converted, Parts, State, Taken, empty, one_hot_classes, pairs
from diffusion_lab.networks.unet import UNet

PARTS = Parts(
    residual={
        "norm_in": "norm1",
        "conv_in": "conv1",
        "embed": "time_emb_proj",
        "norm_out": "norm2",
        "conv_out": "conv2",
        "shortcut": "conv_shortcut",
    },
    attention={"norm": "group_norm", "qkv": "to_{}", "out": "to_out.0"},
    downsample={"conv": "conv"},
    upsample={"conv": "conv"},
)
ENDS = {
    "embed_level.0": "time_embedding.linear_1",
    "embed_level.2": "time_embedding.linear_2",
    "encoder.conv_in": "conv_in",
    "norm_out": "conv_norm_out",
    "conv_out": "conv_out",
}
OLDER = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""Attention's names in the files of 2022, google/ddpm-celebahq-256 among them."""


class Places:
    """Their name of one of our blocks, for a network of a certain depth."""

    def __init__(self, network: UNet, depth: int) -> None:
        self.network = network
        self.depth = depth

    def __call__(self, name: str) -> str:
        block = self.network.get_submodule(name)
        if name.startswith("encoder.middle."):
            if isinstance(block, Attention):
                return "mid_block.attentions.0"
            return f"mid_block.resnets.{min(int(name[-1]), 1)}"
        side, index, layer = name.removeprefix("encoder.").split(".")
        level, number = divmod(int(index), self.depth + 1)
        way = f"{side}_blocks.{level}"
        if isinstance(block, Attention):
            return f"{way}.attentions.{number}"
        changes = isinstance(block, Downsample | Upsample) or (side == "down" and number == self.depth) or layer != "0"
        if isinstance(block, ResBlock) and not changes:
            return f"{way}.resnets.{number}"
        return f"{way}.{side}samplers.0"


def layers(network: UNet, depth: int) -> dict[str, str]:
    """Our name of every layer, and theirs."""
    return dict(pairs(network, PARTS, Places(network, depth))) | ENDS


def from_diffusers(config: Mapping[str, Any], state: State) -> Converted:
    """Reads a UNet2DModel.

    Args:
        config: its config.json.
        state: its tensors.

    Raises:
        ValueError: for what our UNet cannot be, and for tensors that are missing, left over or misshapen.
    """
    options = read_config(config)
    state = {newer(name): tensor for name, tensor in state.items()}
    take = Taken(state)
    tensors: dict[str, Tensor] = {}
    if "class_embedding.weight" in state:
        table = state["class_embedding.weight"]
        options["attributes"] = len(table)
        tensors |= one_hot_classes(take("class_embedding.weight", table.shape))
    network = empty(UNet, options)
    assert isinstance(network, UNet)
    shapes = {name: tensor.shape for name, tensor in network.state_dict().items()}
    for layer, theirs in layers(network, options["depth"]).items():
        for leaf in ("weight", "bias"):
            name = f"{layer}.{leaf}"
            if name not in shapes:
                continue
            if layer.endswith(".qkv"):
                third = torch.Size([shapes[name][0] // 3, *shapes[name][1:]])
                tensors[name] = torch.cat([take(f"{theirs.format(one)}.{leaf}", third) for one in "qkv"])
            else:
                tensors[name] = take(f"{theirs}.{leaf}", shapes[name])
    if not config.get("flip_sin_to_cos", True):
        tensors["embed_level.0.weight"] = swap_halves(tensors["embed_level.0.weight"])
    take.finish()
    return Converted(UNet, options, tensors)


def to_diffusers(options: Mapping[str, Any], state: State) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Writes a UNet as a UNet2DModel: its config.json and its tensors.

    Args:
        options: arguments of our `UNet`.
        state: its tensors.

    Raises:
        ValueError: for what a UNet2DModel cannot be: patches, rescaled sums, several heads by number, attributes that
            are no classes.
    """
    network = empty(UNet, options)
    assert isinstance(network, UNet)
    config, left = write_config(options, network), dict(state)
    tensors: dict[str, Tensor] = {}
    if network.embed_attributes is not None:
        weight, bias = left.pop("embed_attributes.weight"), left.pop("embed_attributes.bias")
        values, said = weight.chunk(2, dim=1)
        if said.any() or bias.any():
            raise ValueError("a UNet2DModel knows classes only, but this network's attributes may be left unsaid")
        tensors["class_embedding.weight"] = values.T.contiguous()
    for layer, theirs in layers(network, config["layers_per_block"]).items():
        for leaf in ("weight", "bias"):
            if (tensor := left.pop(f"{layer}.{leaf}", None)) is None:
                continue
            if layer.endswith(".qkv"):
                thirds = zip("qkv", tensor.chunk(3), strict=True)
                tensors |= {f"{theirs.format(one)}.{leaf}": third.clone() for one, third in thirds}
            else:
                tensors[f"{theirs}.{leaf}"] = tensor
    assert not left, sorted(left)
    return config, tensors


def newer(name: str) -> str:
    """A tensor's name as diffusers writes it today."""
    layer, _, leaf = name.rpartition(".")
    above, _, last = layer.rpartition(".")
    return f"{above}.{OLDER[last]}.{leaf}" if last in OLDER and above.split(".")[-2:-1] == ["attentions"] else name


def swap_halves(weight: Tensor) -> Tensor:
    """A map of (sines, cosines) as one of (cosines, sines)."""
    return weight.roll(weight.shape[1] // 2, dims=1)
