"""guided-diffusion's networks and classifiers beside ours, from a file's tensors to a picture."""

import math
import tempfile
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffusion_lab import classifying
from diffusion_lab.diffusion import samplers
from diffusion_lab.diffusion.denoiser import Condition, NetworkDenoiser
from diffusion_lab.networks.checkpoints import __main__ as converter
from diffusion_lab.networks.checkpoints import from_guided_classifier, from_guided_diffusion
from diffusion_lab.networks.checkpoints.told import by_index

from .comparing import Draws, Network, apart, drawing, levels_of, middle, our_names, ours, walk
from .guided_process import LINEAR, diffusion


def randomised(network: nn.Module, seed: int = 0) -> Any:
    """Every weight random, those that start as zeros included; outputs are of order 1."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in network.named_parameters():
        spread = 0.2 if parameter.ndim == 1 else math.prod(parameter.shape[1:]) ** -0.5
        parameter.data = spread * torch.randn(parameter.shape, generator=generator)
        if parameter.ndim == 1 and name.endswith("weight"):
            parameter.data += 1  # of a norm
    return network.eval()


def unets() -> float:
    from guided_diffusion.unet import UNetModel

    x, t, none = torch.randn(2, 3, 16, 16), torch.tensor([3.0, 977.0]), torch.zeros(2, 0, 16, 16)
    worst = 0.0
    for updown, scale_shift, new_order, classes in product([False, True], [False, True], [False, True], [None, 5]):
        options = {"use_scale_shift_norm": scale_shift, "resblock_updown": updown}
        theirs = randomised(
            UNetModel(
                16, 3, 32, 6, 2, (2,), channel_mult=(1, 2), num_classes=classes, num_head_channels=16,
                use_new_attention_order=new_order, **options,
            )
        )  # fmt: skip
        mine = from_guided_diffusion(theirs.state_dict(), 16, head_width=16, heads_first=not new_order).build()
        told = {} if classes is None else {"y": torch.tensor([1, 4])}
        attributes = None if classes is None else F.one_hot(told["y"], classes).float()
        with torch.no_grad():
            worst = max(worst, apart(mine(x, none, t, attributes), theirs(x, t, **told)))
    return worst


def encoder(outputs: int = 5, size: int = 16) -> Any:
    from guided_diffusion.unet import EncoderUNetModel

    options: dict[str, Any] = {"channel_mult": (1, 2), "pool": "attention", "num_head_channels": 16}
    return randomised(
        EncoderUNetModel(size, 3, 32, outputs, 1, (2,), use_scale_shift_norm=True, resblock_updown=True, **options)
    )


def classifiers() -> float:
    theirs = encoder()
    mine = from_guided_classifier(theirs.state_dict(), 16, head_width=16).build()
    x, t = torch.randn(2, 3, 16, 16), torch.tensor([3.0, 977.0])
    with torch.no_grad():
        return apart(mine(x, t), theirs(x, t))


def upsampling_heads() -> float:
    """0 if it is refused with a sentence: no tensor of the file shows it."""
    from guided_diffusion.unet import UNetModel

    theirs = randomised(UNetModel(16, 3, 32, 3, 1, (2,), channel_mult=(1, 2), num_heads=4, num_heads_upsample=2))
    try:
        from_guided_diffusion(theirs.state_dict(), 16, heads=4, heads_up=2)
    except ValueError:
        return 0.0
    return math.inf


def whole() -> float:
    """From a file's tensors to a picture: a network of theirs, converted, and DDIM in 25 steps."""
    from guided_diffusion.unet import UNetModel

    network = randomised(UNetModel(16, 3, 32, 6, 1, (2,), channel_mult=(1, 2), num_head_channels=16))
    converted = from_guided_diffusion(network.state_dict(), 16, head_width=16).build()
    theirs, shape = diffusion("LEARNED_RANGE", "25"), (2, 3, 16, 16)
    x_T = Draws(["x_T"], shape=shape)()
    levels = levels_of(theirs.alphas_cumprod, range(24, -2, -1))
    with torch.no_grad():
        expected = theirs.ddim_sample_loop(network, shape, noise=x_T, device=torch.device("cpu"))
    mine = NetworkDenoiser(converted, LINEAR, ours(LINEAR, True).predicts, by_index)
    return apart(walk(mine, samplers.ddim(), levels, x_T, Draws(shape=shape)), expected)


def guidance(way: str, clip: bool) -> float:
    """Their samplers with cond_fn beside ours with the folder that their classifier's tensors become."""
    scale, shape, classifier = 3.0, (2, 3, 16, 16), encoder()
    theirs, wanted = diffusion("LEARNED_RANGE", "25"), torch.tensor([3, 3])
    levels = levels_of(theirs.alphas_cumprod, range(24, -2, -1))

    def cond_fn(x: Tensor, t: Tensor) -> Tensor:
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            chances = F.log_softmax(classifier(leaf, t), dim=-1)[range(2), wanted]
            return scale * torch.autograd.grad(chances.sum(), leaf)[0]

    x_T = Draws(["x_T"], shape=shape)()
    loop = theirs.p_sample_loop if way == "mean" else theirs.ddim_sample_loop
    network = Network(LINEAR.alpha_bar, learned=True)
    with drawing(Draws(shape=shape)):
        expected = loop(
            network, shape, noise=x_T, clip_denoised=clip, cond_fn=cond_fn, device=torch.device("cpu"), model_kwargs={}
        )
    with tempfile.TemporaryDirectory() as place:
        file, folder = Path(place) / "classifier.pt", Path(place) / "classifier"
        torch.save(classifier.state_dict(), file)
        asked = ["--schedule", "linear", "--image-size", "16", "--head-width", "16"]
        if converter.main([str(file), "--output", str(folder), *asked]):
            raise ValueError("their classifier was not converted")
        wish = {"3": 1.0}
        sampler = (
            classifying.mean_guided(folder, wish, scale, steps=25)
            if way == "mean"
            else classifying.guided(folder, wish, scale, samplers.ddim(clip=clip))
        )
    # The hole is everything, for samplers that put known pixels in whatever the model.
    condition = Condition(torch.zeros(shape), torch.ones_like(middle(shape)), fill=torch.zeros(shape))
    return apart(
        walk(ours(LINEAR, True), sampler, levels, x_T, Draws(our_names(levels), shape=shape), condition), expected
    )
