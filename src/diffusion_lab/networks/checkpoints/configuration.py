"""diffusers' config.json of a UNet2DModel, and the arguments of our UNet."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from diffusion_lab.networks.checkpoints.recognition import exact
from diffusion_lab.networks.unet import UNet

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
    for key, plain in {"patch": 1, "rescale": False, "heads": 1, "conv_resample": True}.items():
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
