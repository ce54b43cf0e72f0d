"""The layout of diffusers' UNet2DModel, in both directions."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from diffusion_lab.networks.blocks import Attention, Downsample, ResBlock, Upsample
from diffusion_lab.networks.checkpoints.guided import exact
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

NEEDED: dict[str, tuple[Any, ...]] = {
    "act_fn": ("silu", "swish"),
    "center_input_sample": (False,),
    "class_embed_type": (None,),
    "mid_block_scale_factor": (1,),
    "mid_block_type": ("UNetMidBlock2D",),
    "time_embedding_type": ("positional",),
    "time_embedding_dim": (None,),
}
"""What a configuration may say of what our UNet has no choice about; the first is what silence means."""

DOWN = {
    (False, False): "DownBlock2D",
    (False, True): "ResnetDownsampleBlock2D",
    (True, False): "AttnDownBlock2D",
    (True, True): "AttnDownBlock2D",
}
"""Their block's name by (attention, size changes in residual blocks)."""

UP = {key: name.replace("Down", "Up") for key, name in DOWN.items()}


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


def read_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of our UNet that a config.json asks for."""
    for key, allowed in NEEDED.items():
        if config.get(key, allowed[0]) not in allowed:
            raise ValueError(f"config.json asks for {key}={config[key]!r}, but our UNet can only have {allowed[0]!r}")
    if config.get("sample_size") is None:
        raise ValueError("config.json has no sample_size: write the picture's size in pixels into it")
    down, up = list(config["down_block_types"]), list(config["up_block_types"])
    attended = [name == "AttnDownBlock2D" for name in down]
    inside = "resnet" in (config.get("downsample_type"), config.get("upsample_type"))
    blocks = any(name.startswith("Resnet") for name in [*down, *up]) or (any(attended) and inside)
    last = len(down) - 1
    wanted = [DOWN[flag, blocks] for flag in attended]
    # The coarsest size changes no size, so that its block may have either name.
    if (
        any(a != b and i < last for i, (a, b) in enumerate(zip(down, wanted, strict=True)))
        or [name.startswith("Attn") for name in reversed(up)] != attended
    ):
        raise ValueError(f"config.json mixes blocks that our UNet does not mix: {down} and {up}")
    groups = config.get("norm_num_groups", 32)
    scale_shift = config.get("resnet_time_scale_shift", "default") != "default"
    middle = bool(config.get("add_attention", True))
    own_groups = config.get("attn_norm_num_groups") or (None if scale_shift else groups)
    if middle and own_groups != groups:
        raise ValueError(
            f"config.json norms the middle's attention in {own_groups} groups and the rest in {groups}, "
            "but our UNet can only have one number"
        )
    widths, size = config["block_out_channels"], config["sample_size"]
    head_width = config.get("attention_head_dim", 8)
    return {
        "image_size": size if isinstance(size, int) else size[0],
        "channels": widths[0],
        "multipliers": [exact(width / widths[0]) for width in widths],
        "depth": config.get("layers_per_block", 2),
        "attention": [(size if isinstance(size, int) else size[0]) // 2**i for i, flag in enumerate(attended) if flag],
        "middle_attention": middle,
        "head_width": head_width,
        "condition_channels": config.get("in_channels", 3) - 3,
        "out_channels": config.get("out_channels", 3),
        "dropout": config.get("dropout", 0.0),
        "scale_shift": scale_shift,
        "resample_blocks": blocks,
        "frequency_shift": config.get("freq_shift", 0),
        "norm_groups": groups,
        "norm_eps": config.get("norm_eps", 1e-5),
        "pad_after": config.get("downsample_padding", 1) == 0,
    }


def write_config(options: Mapping[str, Any], network: UNet) -> dict[str, Any]:
    """The config.json of a UNet."""
    for key, plain in {"patch": 1, "rescale": False, "heads": 1}.items():
        if options.get(key, plain) != plain:
            raise ValueError(f"a UNet2DModel has no {key}={options[key]}: only {key}={plain} can be written")
    blocks = bool(options.get("resample_blocks", False))
    multipliers, size = options.get("multipliers", (1, 2, 4)), options["image_size"]
    attended = [size // 2**i in options.get("attention", ()) for i in range(len(multipliers))]
    groups = options.get("norm_groups", 32)
    if any(isinstance(m, nn.GroupNorm) and m.num_groups != groups for m in network.modules()):
        raise ValueError(f"a UNet2DModel norms in {groups} groups everywhere, but not all channels here divide so")
    return {
        "_class_name": "UNet2DModel",
        "sample_size": size,
        "in_channels": 3 + network.condition_channels,
        "out_channels": network.conv_out.out_channels,
        "block_out_channels": [round(network.channels * multiplier) for multiplier in multipliers],
        "layers_per_block": options.get("depth", 2),
        "down_block_types": [DOWN[flag, blocks] for flag in attended],
        "up_block_types": [UP[flag, blocks] for flag in reversed(attended)],
        "downsample_type": "resnet" if blocks else "conv",
        "upsample_type": "resnet" if blocks else "conv",
        "downsample_padding": 0 if options.get("pad_after", False) else 1,
        "add_attention": bool(options.get("middle_attention", False)),
        "attention_head_dim": options.get("head_width"),
        "norm_num_groups": groups,
        "attn_norm_num_groups": groups,
        "norm_eps": options.get("norm_eps", 1e-5),
        "freq_shift": options.get("frequency_shift", 0),
        "flip_sin_to_cos": True,
        "dropout": options.get("dropout", 0.0),
        "resnet_time_scale_shift": "scale_shift" if options.get("scale_shift", True) else "default",
        "num_class_embeds": options.get("attributes") or None,
    }
