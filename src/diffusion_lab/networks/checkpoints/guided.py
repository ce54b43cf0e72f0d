"""The layout of OpenAI's guided-diffusion, which RePaint and Janspiry's Palette share."""

from typing import Any

from torch import Tensor

from diffusion_lab.networks.blocks import Attention
from diffusion_lab.networks.checkpoints.names import (
    Converted,
    Parts,
    State,
    Taken,
    empty,
    one_hot_classes,
    pairs,
)
from diffusion_lab.networks.checkpoints.recognition import asked_heads, recognise
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
    heads_up: int | None = None,
) -> Converted:
    """Reads a denoiser of guided-diffusion's layout.

    Args:
        state: the file's tensors.
        image_size: in pixels, which the tensors do not show.
        heads: of attention, which they do not show either; or `head_width`.
        head_width: channels of each attention head.
        heads_first: whether q, k and v stand together for each head ("use_new_attention_order" False, their default).
        heads_up: "num_heads_upsample", if it was set: no tensor shows it, and our UNet can only have `heads`.

    Raises:
        ValueError: for what is missing, left over, misshapen, or has to be asked for.
    """
    options = recognise(state, image_size) | asked_heads(state, heads, head_width, heads_up)
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
    heads_up: int | None = None,
) -> Converted:
    """Reads Janspiry's Palette, whose network sees the known pixels before x; we see x before the known pixels.

    Args:
        state: the file's tensors. Its tables of the noise schedule are left out.
        image_size: as in `from_guided_diffusion`, like the rest.
        heads: of attention.
        head_width: channels of each attention head.
        heads_first: whether q, k and v stand together for each head.
        heads_up: "num_heads_upsample".

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
    options = recognise(network, image_size) | asked_heads(network, heads, head_width, heads_up)
    options["condition_channels"] = 3
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
