"""DiT's network beside ours, with the same weights."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffusion_lab.networks.dit import DiT as Ours
from diffusion_lab.networks.dit import place_embedding

from .comparing import Comparison, Peer, apart
from .guided_networks import randomised

CLASSES = 5
NAMES = {
    "t_embedder.mlp": "embed_level",
    "final_layer.linear": "out",
    "final_layer.adaLN_modulation.1": "embed_out",
    "attn.qkv": "attention.qkv",
    "attn.proj": "attention.out",
    "mlp.fc1": "mlp.0",
    "mlp.fc2": "mlp.2",
    "adaLN_modulation.1": "embed",
}
"""Parts of theirs, and where they are in ours."""


def renamed(theirs: nn.Module, patch: int, outputs: int) -> dict[str, Tensor]:
    """Their tensors by our names; class labels become attributes of which one is 1."""
    state = {}
    for name, tensor in theirs.state_dict().items():
        for part, mine in NAMES.items():
            name = name.replace(part, mine)
        state[name] = tensor
    state["embed_patches.weight"] = state.pop("x_embedder.proj.weight").flatten(1)
    state["embed_patches.bias"] = state.pop("x_embedder.proj.bias")
    # Of an attribute's value and whether it is said, theirs knows the value; the last row of its table is silence.
    table = state.pop("y_embedder.embedding_table.weight")
    state["embed_attributes.weight"] = torch.cat([table[:CLASSES].T, torch.zeros_like(table[:CLASSES].T)], dim=1)
    state["embed_attributes.bias"] = torch.zeros(table.shape[1])
    for kind in ("weight", "bias"):  # a patch's pixels come before its channels there
        out = state[f"out.{kind}"].unflatten(0, (patch * patch, outputs))
        state[f"out.{kind}"] = out.transpose(0, 1).flatten(0, 1)
    del state["pos_embed"]
    return state


def networks() -> float:
    from models import DiT as Theirs

    worst = 0.0
    for patch, learned in ((2, True), (4, False)):
        theirs = randomised(
            Theirs(16, patch, 3, hidden_size=48, depth=3, num_heads=3, num_classes=CLASSES, learn_sigma=learned)
        )
        theirs.pos_embed.data.copy_(place_embedding(16 // patch, 16 // patch, 48)[None])  # compared in `places`
        outputs = 6 if learned else 3
        mine = Ours(16, patch, 48, 3, 3, condition_channels=0, out_channels=outputs, attributes=CLASSES)
        mine.load_state_dict(renamed(theirs, patch, outputs))
        x, t, y = torch.randn(2, 3, 16, 16), torch.tensor([3.0, 977.0]), torch.tensor([1, 4])
        with torch.no_grad():
            made = mine(x, torch.zeros(2, 0, 16, 16), t, F.one_hot(y, CLASSES).float())
            worst = max(worst, apart(made, theirs(x, t, y)))
    return worst


def places() -> float:
    from models import get_2d_sincos_pos_embed

    return apart(place_embedding(7, 7, 48), torch.from_numpy(get_2d_sincos_pos_embed(48, 7)))


DIT = Peer(
    "facebookresearch/DiT",
    "ed81ce2229091fd4ecc9a223645f95cf379d582b",
    [
        Comparison("DiT, patches of 2 and 4, classes, learned variance", networks),
        Comparison("embedding of a patch's place", places),
    ],
)
