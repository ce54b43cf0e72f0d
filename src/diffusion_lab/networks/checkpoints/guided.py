"""The layout of OpenAI's guided-diffusion, which RePaint and Janspiry's Palette share."""

from typing import Any

from torch import Tensor

from diffusion_lab.networks.blocks import Attention
from diffusion_lab.networks.checkpoints.names import (
    Converted,
    Parts,
    State,
    Taken,
    count,
    empty,
    one_hot_classes,
    pairs,
)
from diffusion_lab.networks.classifier import Classifier
from diffusion_lab.networks.unet import UNet

PARTS = Parts(
    residual={
        "norm_in": "in_layers.0",
        "conv_in": "in_layers.2",
        "embed": "emb_layers.1",
        "norm_out": "out_layers.0",
        "conv_out": "out_layers.3",
        "shortcut": "skip_connection",
    },
    attention={"norm": "norm", "qkv": "qkv", "out": "proj_out"},
    downsample={"conv": "op"},
    upsample={"conv": "conv"},
)
ENDS = {
    "embed_level.0": "time_embed.0",
    "embed_level.2": "time_embed.2",
    "encoder.conv_in": "input_blocks.0.0",
    "norm_out": "out.0",
    "conv_out": "out.2",
    "pool.qkv": "out.2.qkv_proj",
    "pool.out": "out.2.c_proj",
}
PALETTE = "denoise_fn."
PALETTE_SCHEDULE = {
    "gammas",
    "sqrt_recip_gammas",
    "sqrt_recipm1_gammas",
    "posterior_log_variance_clipped",
    "posterior_mean_coef1",
    "posterior_mean_coef2",
}


def place(name: str) -> str:
    """Their name of one of our blocks.

    Example:
        >>> place("encoder.down.0.1"), place("encoder.middle.2"), place("up.3.0")
        ('input_blocks.1.1', 'middle_block.2', 'output_blocks.3.0')
    """
    if name.startswith("encoder.down."):
        index, layer = name.removeprefix("encoder.down.").split(".")
        return f"input_blocks.{int(index) + 1}.{layer}"
    return name.replace("encoder.middle.", "middle_block.").replace("up.", "output_blocks.")


def from_guided_diffusion(
    state: State,
    image_size: int,
    heads: int | None = None,
    head_width: int | None = None,
    heads_first: bool = True,
) -> Converted:
    """Reads a denoiser of guided-diffusion's layout.

    Args:
        state: the file's tensors.
        image_size: in pixels, which the tensors do not show.
        heads: of attention, which they do not show either; or `head_width`.
        head_width: channels of each attention head.
        heads_first: whether q, k and v stand together for each head ("use_new_attention_order" False, their default).

    Raises:
        ValueError: for what is missing, left over, misshapen, or has to be asked for.
    """
    options = recognise(state, image_size) | asked_heads(state, heads, head_width)
    if options["condition_channels"]:
        seen = 3 + options["condition_channels"]
        raise ValueError(f"the network looks at {seen} channels, but only one that looks at x alone is read")
    take, classes = Taken(state), {}
    if "label_emb.weight" in state:
        table = state["label_emb.weight"]
        options["attributes"] = len(table)
        classes = one_hot_classes(take("label_emb.weight", table.shape))
    tensors = rename(UNet, options, take, heads_first) | classes
    take.finish()
    return Converted(UNet, options, tensors)


def from_palette(
    state: State,
    image_size: int,
    heads: int | None = None,
    head_width: int | None = None,
    heads_first: bool = True,
) -> Converted:
    """Reads Janspiry's Palette, whose network sees the known pixels before x; we see x before the known pixels.

    Args:
        state: the file's tensors. Its tables of the noise schedule are left out.
        image_size: as in `from_guided_diffusion`, like the rest.
        heads: of attention.
        head_width: channels of each attention head.
        heads_first: whether q, k and v stand together for each head.

    Raises:
        ValueError: as in `from_guided_diffusion`.
    """
    network = {
        name.removeprefix(PALETTE).replace("cond_embed.", "time_embed."): tensor
        for name, tensor in state.items()
        if name not in PALETTE_SCHEDULE
    }
    known_first = network.get("input_blocks.0.0.weight")
    if known_first is not None and known_first.shape[1] == 6:
        network["input_blocks.0.0.weight"] = known_first.roll(3, dims=1)
    options = recognise(network, image_size) | asked_heads(network, heads, head_width) | {"condition_channels": 3}
    take = Taken(network)
    tensors = rename(UNet, options, take, heads_first)
    take.finish()
    return Converted(UNet, options, tensors)


def from_guided_classifier(state: State, image_size: int, head_width: int = 64, heads_first: bool = True) -> Converted:
    """Reads a classifier with attention pooling.

    Args:
        state: the file's tensors.
        image_size: in pixels.
        head_width: channels of each attention head; their code has 64 for all.
        heads_first: of the attention between the blocks; the pooling always has q, k and v apart.

    Raises:
        ValueError: as in `from_guided_diffusion`.
    """
    if "out.2.positional_embedding" not in state:
        raise ValueError(
            "no 'out.2.positional_embedding' in the file: only a classifier with attention pooling is read"
        )
    positions = state["out.2.positional_embedding"]  # (channels, 1 + pixels)
    smallest = round((positions.shape[1] - 1) ** 0.5)
    levels = (image_size // smallest).bit_length()
    options = recognise(state, image_size, levels)
    for unknown_here in ("condition_channels", "out_channels", "middle_attention"):
        del options[unknown_here]
    options |= {"outputs": state["out.2.c_proj.weight"].shape[0], "head_width": head_width}
    take = Taken(state)
    tensors = rename(Classifier, options, take, heads_first)
    tensors["pool.positions"] = take("out.2.positional_embedding", positions.shape).T.contiguous()
    take.finish()
    return Converted(Classifier, options, tensors)


def recognise(state: State, image_size: int, levels: int | None = None) -> dict[str, Any]:
    """The arguments that the tensors show.

    Args:
        state: the file's tensors.
        image_size: in pixels.
        levels: how many sizes there are; None finds it from the way up.
    """
    stages = count(state, "input_blocks.{}.") - 1
    if stages < 1 or "time_embed.0.weight" not in state:
        raise ValueError("the file is not of guided-diffusion's layout: it has no 'input_blocks' and 'time_embed'")
    if levels is None:
        ascents = count(state, "output_blocks.{}.")
        if not ascents:
            raise ValueError(
                "no 'output_blocks' in the file: it is no denoiser, and no classifier with attention pooling"
            )
        depth = next((i for i in range(ascents) if rises(state, i)), ascents - 1)
    else:
        depth = (stages + 1) // levels - 1
    channels = state["time_embed.0.weight"].shape[1]
    firsts = range(1, stages + 1, depth + 1)  # the first residual block at each size
    if any(f"input_blocks.{i}.0.in_layers.2.weight" not in state for i in firsts):
        raise ValueError(f"the file's {stages} stages do not divide into sizes of {depth} residual blocks each")
    widths = [state[f"input_blocks.{i}.0.in_layers.2.weight"].shape[0] for i in firsts]
    embed = state["input_blocks.1.0.emb_layers.1.weight"]
    return {
        "image_size": image_size,
        "channels": channels,
        "multipliers": [exact(width / channels) for width in widths],
        "depth": depth,
        "attention": [
            image_size // 2**level for level, i in enumerate(firsts) if f"input_blocks.{i}.1.qkv.weight" in state
        ],
        "middle_attention": "middle_block.1.qkv.weight" in state,
        "condition_channels": state["input_blocks.0.0.weight"].shape[1] - 3,
        "out_channels": state["out.2.weight"].shape[0] if "out.2.weight" in state else 0,
        "scale_shift": embed.shape[0] == 2 * widths[0],
        "resample_blocks": f"input_blocks.{depth + 1}.0.in_layers.0.weight" in state,
    }


def rises(state: State, index: int) -> bool:
    """Whether the size doubles after a stage of the way up, by a convolution or a second residual block."""
    return any(
        f"output_blocks.{index}.{layer}.{kind}.weight" in state for layer in (1, 2) for kind in ("conv", "in_layers.2")
    )


def exact(ratio: float) -> float | int:
    """An integer where it is one, for a recipe that reads well."""
    return int(ratio) if ratio == int(ratio) else ratio


def asked_heads(state: State, heads: int | None, head_width: int | None) -> dict[str, int]:
    """How attention divides into heads.

    Raises:
        ValueError: unless exactly one of the two is given, where there is attention.
    """
    if not any(name.endswith("qkv.weight") for name in state):
        return {}
    if (heads is None) == (head_width is None):
        raise ValueError(
            "attention heads cannot be seen in the tensors: say either how many (heads) or how wide (head_width); "
            "OpenAI's 128-px model has 4 heads, its others and RePaint's heads of 64, Janspiry's Palette heads of 32"
        )
    return {"heads": heads} if heads is not None else {"head_width": head_width or 0}


def rename(
    network: type[UNet] | type[Classifier], options: dict[str, Any], take: Taken, heads_first: bool
) -> dict[str, Tensor]:
    """Our tensors, but for classes and the pooling's positions."""
    ours = empty(network, options)
    shapes = {name: tensor.shape for name, tensor in ours.state_dict().items()}
    tensors = {}
    layers = dict(pairs(ours, PARTS, place)) | ENDS
    for layer, theirs in layers.items():
        for leaf in ("weight", "bias"):
            if (name := f"{layer}.{leaf}") in shapes:
                tensors[name] = take(f"{theirs}.{leaf}", shapes[name])
    if heads_first:
        for layer, module in ours.named_modules():
            if isinstance(module, Attention):
                for leaf in ("qkv.weight", "qkv.bias"):
                    tensors[f"{layer}.{leaf}"] = apart(tensors[f"{layer}.{leaf}"], module.heads)
    return tensors


def apart(qkv: Tensor, heads: int) -> Tensor:
    """Rows ordered (head, q or k or v, width) in our order (q or k or v, head, width).

    Example:
        >>> import torch
        >>> apart(torch.arange(6), heads=2).tolist()
        [0, 3, 1, 4, 2, 5]
    """
    return qkv.reshape(heads, 3, -1, *qkv.shape[1:]).transpose(0, 1).flatten(0, 2)
