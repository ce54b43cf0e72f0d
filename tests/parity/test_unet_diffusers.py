"""UNet2DModel against our UNet with its tensors, and back."""

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # its imports warn of what is not installed
    from diffusers import UNet2DModel

from diffusion_lab.networks.checkpoints import from_diffusers, to_diffusers
from diffusion_lab.networks.unet import UNet

PLAIN, ATTENDED, RESAMPLED = "DownBlock2D", "AttnDownBlock2D", "ResnetDownsampleBlock2D"

CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "plain": {"down": [PLAIN, PLAIN], "add_attention": False},
    "attention": {"down": [PLAIN, ATTENDED, ATTENDED], "channels": [16, 32, 32]},
    "every_size": {"down": [ATTENDED, ATTENDED], "attention_head_dim": 4, "layers_per_block": 1},
    "one_head": {"down": [PLAIN, ATTENDED], "attention_head_dim": None},
    "resnet": {"down": [RESAMPLED, ATTENDED, RESAMPLED], "channels": [16, 32, 32], "resnet": True},
    "scale_shift": {"down": [PLAIN, ATTENDED], "resnet_time_scale_shift": "scale_shift", "attn_norm_num_groups": 8},
    "adm": {
        "down": [RESAMPLED, ATTENDED],
        "resnet": True,
        "resnet_time_scale_shift": "scale_shift",
        "attn_norm_num_groups": 8,
        "out_channels": 6,
    },
    "classes": {"down": [PLAIN, ATTENDED], "num_class_embeds": 7},
    "odd_multipliers": {"down": [PLAIN, ATTENDED, PLAIN], "channels": [16, 24, 80], "layers_per_block": 3},
    "ddpm": {  # google/ddpm-celebahq-256 and kin
        "down": [PLAIN, ATTENDED],
        "attention_head_dim": None,
        "downsample_padding": 0,
        "flip_sin_to_cos": False,
        "freq_shift": 1,
        "norm_eps": 1e-6,
    },
    "known_pixels": {"down": [PLAIN, PLAIN], "in_channels": 6},
}


def theirs_of(
    down: list[str], channels: tuple[int, ...] = (16, 32), resnet: bool = False, **options: Any
) -> UNet2DModel:
    """A UNet2DModel for 16 pixels with random values in every tensor."""
    torch.manual_seed(0)
    model = UNet2DModel(
        sample_size=16,
        block_out_channels=tuple(channels),
        down_block_types=tuple(down),
        up_block_types=tuple(name.replace("Down", "Up") for name in reversed(down)),
        downsample_type="resnet" if resnet else "conv",
        upsample_type="resnet" if resnet else "conv",
        norm_num_groups=8,
        **options,
    )
    with torch.no_grad():
        for name, p in model.named_parameters():
            centre = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            p.copy_(centre + (0.2 if p.ndim == 1 else p[0].numel() ** -0.5) * torch.randn(p.shape))
    return model.eval()


def call(unet: UNet, x: Tensor, time: Tensor, classes: Tensor | None) -> Tensor:
    attributes = None
    if classes is not None:
        assert unet.embed_attributes is not None
        attributes = torch.nn.functional.one_hot(classes, unet.embed_attributes.in_features // 2).float()
    output: Tensor = unet(x[:, :3], x[:, 3:], time, attributes)
    return output


@pytest.mark.parametrize("name", CONFIGURATIONS)
@torch.no_grad()
def test_the_same_output_and_the_same_file_back(name: str):
    theirs = theirs_of(**CONFIGURATIONS[name])
    converted = from_diffusers(theirs.config, theirs.state_dict())
    ours = converted.build()
    assert isinstance(ours, UNet)

    x = torch.randn(3, theirs.config["in_channels"], 16, 16)
    time = torch.tensor([0, 17, 999])
    classes = torch.tensor([0, 6, 3]) if theirs.config["num_class_embeds"] else None
    expected = theirs(x, time, class_labels=classes).sample
    assert expected.std() > 0.1
    # DDPM's code counts its steps from 0, and so does this test: what a network is told is the denoiser's affair.
    torch.testing.assert_close(call(ours, x, time, classes), expected, rtol=1e-5, atol=1e-5)

    config, state = to_diffusers(converted.options, ours.state_dict())
    back = UNet2DModel.from_config(config)
    back.load_state_dict(state)
    if theirs.config["flip_sin_to_cos"]:
        assert set(state) == set(theirs.state_dict())
        assert all(torch.equal(tensor, state[key]) for key, tensor in theirs.state_dict().items())
    torch.testing.assert_close(back.eval()(x, time, class_labels=classes).sample, expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_the_attention_names_of_2022():
    theirs = theirs_of(**CONFIGURATIONS["attention"])
    older = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    state = {}
    for name, tensor in theirs.state_dict().items():
        for new, old in older.items():
            name = name.replace(f".{new}.", f".{old}.")
        state[name] = tensor
    assert any(".proj_attn." in name for name in state)
    now, then = (from_diffusers(theirs.config, tensors).state for tensors in (theirs.state_dict(), state))
    assert now.keys() == then.keys()
    assert all(torch.equal(tensor, then[name]) for name, tensor in now.items())


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"act_fn": "gelu"}, "act_fn='gelu', but our UNet can only have 'silu'"),
        ({"time_embedding_type": "fourier"}, "time_embedding_type='fourier'"),
        ({"sample_size": None}, "no sample_size"),
        ({"down_block_types": ["SkipDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"]}, "mixes blocks"),
        ({"resnet_time_scale_shift": "scale_shift"}, "middle's attention in None groups and the rest in 8"),
        ({"downsample_type": "resnet"}, "has no tensor 'down_blocks.0.downsamplers.0.norm1.weight'|mixes blocks"),
        ({"layers_per_block": 1}, "5 tensors|tensors of the file have no place|expected here"),
        ({"layers_per_block": 3}, "has no tensor 'down_blocks.0.resnets.2.norm1.weight'"),
    ],
)
def test_what_our_unet_cannot_be_is_said(changed: dict[str, Any], message: str):
    theirs = theirs_of(**CONFIGURATIONS["attention"])
    with pytest.raises(ValueError, match=message):
        from_diffusers({**theirs.config, **changed}, theirs.state_dict())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patch": 2}, "has no patch=2: only patch=1 can be written"),
        ({"rescale": True}, "has no rescale=True"),
        ({"attributes": 3}, "may be left unsaid"),
        ({"channels": 24}, "norms in 32 groups everywhere"),
    ],
)
def test_what_a_unet2dmodel_cannot_be_is_said(options: dict[str, Any], message: str):
    options = {"image_size": 16, "channels": 32, "multipliers": [1, 2], **options}
    with pytest.raises(ValueError, match=message):
        to_diffusers(options, UNet(**options).state_dict())


def test_a_tensor_without_a_place_is_an_error():
    theirs = theirs_of(**CONFIGURATIONS["plain"])
    with pytest.raises(ValueError, match=r"1 tensors of the file have no place in our network, such as 'extra.weight'"):
        from_diffusers(theirs.config, {**theirs.state_dict(), "extra.weight": torch.zeros(1)})
