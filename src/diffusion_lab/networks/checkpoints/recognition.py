"""What the tensors of guided-diffusion's layout show of the network that they belong to."""

from typing import Any

from diffusion_lab.networks.checkpoints.names import State, count


def recognise(state: State, image_size: int, levels: int | None = None) -> dict[str, Any]:
    """The arguments that the tensors show.

    Args:
        state: the file's tensors.
        image_size: in pixels.
        levels: how many sizes there are; None finds it from the way up.
    """
    numbers = {name.split(".")[1] for name in state if name.startswith("input_blocks.")}
    present = {int(number) for number in numbers if number.isdecimal()}
    stages = max(present, default=0)
    # Where sizes change without a convolution (conv_resample False), that stage has no tensors.
    bare = next((i for i in range(1, stages) if i not in present), None)
    if stages < 1 or "time_embed.0.weight" not in state:
        raise ValueError("the file is not of guided-diffusion's layout: it has no 'input_blocks' and 'time_embed'")
    if levels is None:
        ascents = count(state, "output_blocks.{}.")
        if not ascents:
            raise ValueError(
                "no 'output_blocks' in the file: it is no denoiser, and no classifier with attention pooling"
            )
        depth = next((i for i in range(ascents) if rises(state, i)), (bare or ascents) - 1)
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
        "conv_resample": bare is None,
    }


def rises(state: State, index: int) -> bool:
    """Whether the size doubles after a stage of the way up, by a convolution or a second residual block."""
    return any(
        f"output_blocks.{index}.{layer}.{kind}.weight" in state for layer in (1, 2) for kind in ("conv", "in_layers.2")
    )


def exact(ratio: float) -> float | int:
    """An integer where it is one, for a recipe that reads well."""
    return int(ratio) if ratio == int(ratio) else ratio


def asked_heads(state: State, heads: int | None, head_width: int | None, heads_up: int | None = None) -> dict[str, int]:
    """How attention divides into heads.

    Args:
        state: the file's tensors.
        heads: their number.
        head_width: or their channels.
        heads_up: their number on the way up ("num_heads_upsample"), where it was said; heads of one width have none.

    Raises:
        ValueError: unless exactly one of number and width is given, where there is attention; or for another number on
            the way up.
    """
    if not any(name.endswith("qkv.weight") for name in state):
        return {}
    if (heads is None) == (head_width is None):
        raise ValueError(
            "attention heads cannot be seen in the tensors: say either how many (heads) or how wide (head_width); "
            "OpenAI's 128-px model has 4 heads, its others and RePaint's heads of 64, Janspiry's Palette heads of 32"
        )
    if heads is None:
        return {"head_width": head_width or 0}
    if heads_up not in (None, -1, heads):
        raise ValueError(
            f"num_heads_upsample={heads_up} beside {heads} heads cannot be read: our UNet has as many heads on the way "
            "up as on the way down"
        )
    return {"heads": heads}
