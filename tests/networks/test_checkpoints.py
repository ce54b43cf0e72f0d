from pathlib import Path
from typing import Any

import pytest
import torch
from guided_layout import Reference, published_shapes, random_state
from safetensors.torch import save_file
from torch import Tensor

from diffusion_lab.classifying import AttributeClassifier, Wish
from diffusion_lab.diffusion.denoiser import Condition
from diffusion_lab.inpainting import Inpainter
from diffusion_lab.networks.checkpoints import (
    Converted,
    from_guided_classifier,
    from_guided_diffusion,
    from_palette,
    read_tensors,
)
from diffusion_lab.networks.checkpoints.__main__ import main
from diffusion_lab.networks.classifier import Classifier
from diffusion_lab.networks.unet import UNet
from diffusion_lab.recipe import load, read

SMALL: dict[str, dict[str, Any]] = {
    "adm": {"attended": [8], "classes": 5, "out_channels": 6},
    "without_classes": {"attended": [16, 8], "out_channels": 6},
    "convolved": {"attended": [8], "resblock_updown": False},
    "bare": {"attended": [8], "resblock_updown": False, "conv_resample": False},
    "bare_deep": {
        "attended": [16, 4],
        "depth": 2,
        "multipliers": (1, 2, 2),
        "resblock_updown": False,
        "conv_resample": False,
    },
    "added": {"attended": [], "scale_shift": False, "resblock_updown": False},
    "deep": {"attended": [4], "depth": 3, "multipliers": (1, 1, 2)},
    "half": {"attended": [8], "multipliers": (0.5, 1)},
    "one_size": {"attended": [16], "multipliers": (1,)},
}


def small(**changes: Any) -> dict[str, Any]:
    return {"image_size": 16, "channels": 64, "multipliers": (1, 2), "depth": 1, "attended": [], **changes}


def arguments(classes: int | None) -> tuple[Tensor, Tensor, Tensor | None]:
    torch.manual_seed(1)
    chosen = None if classes is None else torch.tensor([0, classes - 1])
    return torch.randn(2, 3, 16, 16), torch.tensor([0.0, 731.0]), chosen


@pytest.mark.parametrize("heads_first", [True, False])
@pytest.mark.parametrize("name", SMALL)
@torch.no_grad()
def test_a_guided_diffusion_file_computes_what_its_names_say(name: str, heads_first: bool):
    options = small(**SMALL[name])
    state = random_state(published_shapes(**options))
    ours = from_guided_diffusion(state, 16, head_width=32, heads_first=heads_first).build()
    assert isinstance(ours, UNet)
    x, time, classes = arguments(options.get("classes"))
    reference = Reference(state, 32, heads_first, options.get("conv_resample", True))
    expected = reference.denoise(x, time, options["depth"], classes)
    attributes = None if classes is None else torch.nn.functional.one_hot(classes, options["classes"]).float()
    assert expected.std() > 0.1
    torch.testing.assert_close(ours(x, x[:, :0], time, attributes), expected, rtol=1e-4, atol=1e-5)
    assert ours.attention_sizes == sorted({*options["attended"], 16 // 2 ** (len(options["multipliers"]) - 1)})[::-1]


@pytest.mark.parametrize("resampling", [{}, {"resblock_updown": False, "conv_resample": False}])
@pytest.mark.parametrize("heads_first", [True, False])
@torch.no_grad()
def test_a_classifier_file_computes_what_its_names_say(heads_first: bool, resampling: dict[str, bool]):
    options = small(attended=[8], pooled=10, multipliers=(1, 2, 2), depth=2, **resampling)
    state = random_state(published_shapes(**options))
    ours = from_guided_classifier(state, 16, head_width=32, heads_first=heads_first).build()
    x, time, _ = arguments(None)
    expected = Reference(state, 32, heads_first, not resampling).classify(x, time, 2)
    assert expected.std() > 0.1
    torch.testing.assert_close(ours(x, time), expected, rtol=1e-4, atol=1e-5)


def palette_file(**changes: Any) -> dict[str, Tensor]:
    """Janspiry's Network: the same layout under another name, its tables of the schedule beside it."""
    state = random_state(published_shapes(**small(in_channels=6, attended=[8], **changes)))
    renamed = {f"denoise_fn.{name.replace('time_embed', 'cond_embed')}": tensor for name, tensor in state.items()}
    return {**renamed, "gammas": torch.rand(2000), "posterior_mean_coef1": torch.rand(2000)}


@torch.no_grad()
def test_palette_sees_the_known_pixels_first():
    state = palette_file()
    ours = from_palette(state, 16, head_width=32).build()
    assert isinstance(ours, UNet)
    x, _, _ = arguments(None)
    known, gamma = torch.randn(2, 3, 16, 16), torch.tensor([0.1, 0.9])
    tensors = {
        name.removeprefix("denoise_fn.").replace("cond_embed", "time_embed"): tensor for name, tensor in state.items()
    }
    expected = Reference(tensors, 32, True).denoise(torch.cat([known, x], dim=1), gamma, 1)
    torch.testing.assert_close(ours(x, known, gamma), expected, rtol=1e-4, atol=1e-5)


PUBLISHED: dict[str, tuple[dict[str, Any], dict[str, Any], int]] = {
    "64x64_diffusion": (
        {"image_size": 64, "channels": 192, "multipliers": (1, 2, 3, 4), "depth": 3, "classes": 1000},
        {"head_width": 64, "heads_first": False},
        295_904_454,
    ),
    "128x128_diffusion": (
        {"image_size": 128, "channels": 256, "multipliers": (1, 1, 2, 3, 4), "depth": 2, "classes": 1000},
        {"heads": 4},
        421_529_606,
    ),
    "256x256_diffusion": (
        {"image_size": 256, "channels": 256, "multipliers": (1, 1, 2, 2, 4, 4), "depth": 2, "classes": 1000},
        {"head_width": 64},
        553_838_086,
    ),
    "256x256_diffusion_uncond, lsun, RePaint's celeba256_250000": (
        {"image_size": 256, "channels": 256, "multipliers": (1, 1, 2, 2, 4, 4), "depth": 2},
        {"head_width": 64},
        552_814_086,
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_files_are_recognised_by_names_and_shapes(name: str):
    options, asked, parameters = PUBLISHED[name]
    shapes = published_shapes(**options, attended=[32, 16, 8], out_channels=6)
    state = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
    assert sum(tensor.numel() for tensor in state.values()) == parameters
    found = from_guided_diffusion(state, options["image_size"], **asked).options
    for key in ("image_size", "channels", "depth"):
        assert found[key] == options[key]
    assert found["multipliers"] == list(options["multipliers"])
    assert found["attention"] == [32, 16, 8]
    assert (found["middle_attention"], found["scale_shift"], found["resample_blocks"]) == (True, True, True)
    assert (found["condition_channels"], found["out_channels"]) == (0, 6)
    assert found.get("attributes") == options.get("classes")


@pytest.mark.parametrize(
    ("image_size", "multipliers", "depth"),
    [(64, (1, 2, 3, 4), 4), (128, (1, 1, 2, 3, 4), 2), (256, (1, 1, 2, 2, 4, 4), 2), (512, (0.5, 1, 1, 2, 2, 4, 4), 2)],
)
def test_published_classifiers_are_recognised(image_size: int, multipliers: tuple[float, ...], depth: int):
    shapes = published_shapes(image_size, 128, multipliers, depth, [32, 16, 8], pooled=1000)
    state = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
    found = from_guided_classifier(state, image_size)
    assert found.network is Classifier
    assert found.options["multipliers"] == list(multipliers)
    assert (found.options["depth"], found.options["outputs"], found.options["attention"]) == (depth, 1000, [32, 16, 8])


def uncond() -> dict[str, Tensor]:
    return random_state(published_shapes(**small(attended=[8], out_channels=6)))


def test_another_number_of_heads_on_the_way_up_is_refused():
    """No tensor shows it ("num_heads_upsample"), so that it would be wrong in silence."""
    with pytest.raises(ValueError, match=r"num_heads_upsample=4 beside 2 heads cannot be read"):
        from_guided_diffusion(uncond(), 16, heads=2, heads_up=4)
    for same in ({"heads": 2, "heads_up": 2}, {"heads": 2, "heads_up": -1}, {"head_width": 32, "heads_up": 4}):
        assert from_guided_diffusion(uncond(), 16, **same).network is UNet


def test_heads_have_to_be_said():
    for asked in ({}, {"heads": 2, "head_width": 32}):
        with pytest.raises(ValueError, match="attention heads cannot be seen in the tensors"):
            from_guided_diffusion(uncond(), 16, **asked)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s | {"extra.weight": torch.zeros(1)}, "1 tensors of the file have no place .* 'extra.weight'"),
        (lambda s: {k: v for k, v in s.items() if k != "out.0.bias"}, "has no tensor 'out.0.bias'"),
        (lambda s: s | {"out.0.bias": torch.zeros(3)}, r"'out.0.bias' is \(3,\), but \(64,\) was expected"),
        (lambda s: {k: v for k, v in s.items() if "output_blocks" not in k}, "no 'output_blocks' in the file"),
        (lambda s: {"weight": torch.zeros(1)}, "not of guided-diffusion's layout"),
        (lambda s: random_state(published_shapes(**small(in_channels=6, attended=[8]))), "looks at 6 channels"),
    ],
)
def test_what_does_not_fit_is_an_error(change: Any, message: str):
    with pytest.raises(ValueError, match=message):
        from_guided_diffusion(change(uncond()), 16, head_width=32)


def fill(folder: Path) -> Tensor:
    torch.manual_seed(0)
    image, mask = torch.rand(1, 3, 16, 16) * 2 - 1, torch.zeros(1, 1, 16, 16, dtype=torch.bool)
    mask[..., 4:12, 4:12] = True
    inpainter = Inpainter.load(folder)
    filled = inpainter(image, mask, seeds=[3])
    assert torch.equal(torch.where(mask, 0, filled), torch.where(mask, 0, image))
    return filled


@pytest.mark.slow
def test_a_file_becomes_an_inpainter_that_fills_holes_by_repaint(tmp_path: Path):
    file, folder = tmp_path / "celeba hq.pt", tmp_path / "inpainter"
    torch.save(uncond(), file)
    said = [str(file), "--output", str(folder), "--schedule", "linear", "--image-size", "16", "--head-width", "32"]
    assert main(said) == 0
    assert fill(folder).isfinite().all()


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file, folder = tmp_path / "celeba hq.pt", tmp_path / "inpainter"
    torch.save(uncond(), file)
    said = [str(file), "--output", str(folder), "--schedule", "linear"]
    assert main(said) == 1
    assert capsys.readouterr().err == "error: the picture's size cannot be seen in the tensors: say --image-size\n"
    assert main([*said, "--image-size", "16", "--head-width", "32", "--data", "CelebA-HQ"]) == 0

    found = Inpainter.load(folder)
    expected = from_guided_diffusion(uncond(), 16, head_width=32)
    assert all(
        torch.equal(tensor, expected.state[name]) for name, tensor in found.denoiser.network.state_dict().items()
    )
    assert read(folder)["data"] == {"name": "CelebA-HQ", "crop": "full", "image_size": 16}
    # The network is told the index of the step, from 0; at t = T of 1,000 that is 999.
    level = found.denoiser.schedule.alpha_bar[[1, 1000]]
    assert found.denoiser.told(found.denoiser.schedule, level).tolist() == [0, 999]
    x, _, _ = arguments(None)
    output = expected.build()(x, x[:, :0], torch.tensor([0.0, 999.0]))
    said_of_x = found.denoiser(x, level, Condition())
    torch.testing.assert_close(said_of_x.eps, output[:, :3])
    torch.testing.assert_close(said_of_x.variance_mix, (output[:, 3:] + 1) / 2)
    assert found.network_calls() == 2410


def test_palettes_and_classifiers_by_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    palette, classifier = tmp_path / "palette.pth", tmp_path / "classifier.safetensors"
    torch.save(palette_file(), palette)
    save_file(random_state(published_shapes(**small(pooled=4))), classifier)
    rest = ["--schedule", "linear", "--image-size", "16", "--head-width", "32"]
    beta = ["--steps", "2000", "--start", "1e-6", "--end", "0.01"]
    assert main([str(palette), "--output", str(tmp_path / "p"), *rest, *beta]) == 0
    found = Inpainter.load(tmp_path / "p")
    assert found.denoiser.condition_channels == 3
    assert found.denoiser.schedule.steps == 2000
    assert found.denoiser.told(found.denoiser.schedule, torch.tensor([0.25])).tolist() == [0.25]
    assert main([str(classifier), "--output", str(tmp_path / "c"), *rest]) == 0
    assert isinstance(load(tmp_path / "c"), AttributeClassifier)
    # Janspiry's program samples with beta-tilde.
    sampler = read(tmp_path / "p")["model"]["sampler"]
    assert sampler == {"_target_": "diffusion_lab.diffusion.samplers.palette", "variance_mix": 0.0}
    capsys.readouterr()
    assert main([str(palette), "--output", str(tmp_path / "p"), *rest, *beta, "--rescale-timesteps"]) == 1
    assert "told gamma, which does not depend on T: leave out --rescale-timesteps" in capsys.readouterr().err


def converted(state: dict[str, Tensor], folder: Path, *said: str) -> Path:
    save_file(state, folder / "file.safetensors")
    rest = ["--schedule", "linear", "--image-size", "16", *said]
    assert main([str(folder / "file.safetensors"), "--output", str(folder / "made"), *rest]) == 0
    return folder / "made"


@pytest.mark.parametrize(("said", "told"), [([], [0, 1999, 3999]), (["--rescale-timesteps"], [0, 499.75, 999.75])])
def test_a_model_of_4000_steps(tmp_path: Path, said: list[str], told: list[float]):
    """guided-diffusion's betas are 1,000 / T of what they are at T = 1,000, and so is t if it is rescaled."""
    denoiser = Inpainter.load(converted(uncond(), tmp_path, "--steps", "4000", "--head-width", "32", *said)).denoiser
    assert denoiser.schedule.betas[[0, -1]].tolist() == pytest.approx([2.5e-5, 5e-3])
    assert denoiser.schedule.alpha_bar[-1].item() == pytest.approx(4.246652275802e-05)
    assert denoiser.told(denoiser.schedule, denoiser.schedule.alpha_bar[[1, 2000, 4000]]).tolist() == told


def test_a_class_is_said_as_attributes_are(tmp_path: Path):
    state = random_state(published_shapes(**small(attended=[8], classes=5, out_channels=6)))
    (tmp_path / "names.txt").write_text("tench\ncat\ndog, Canis\nbus\nkite\n")
    folder = converted(state, tmp_path, "--head-width", "32", "--classes", str(tmp_path / "names.txt"))
    inpainter = Inpainter.load(folder)
    x, _, _ = arguments(None)
    mask = torch.ones(2, 1, 16, 16, dtype=torch.bool)
    told = inpainter.attributes({"dog, Canis": 1}).expand(2, -1)
    condition = inpainter.condition(x, mask, x, told)
    with torch.no_grad():
        expected = Reference(state, 32, True).denoise(x, torch.tensor([9.0, 730.0]), 1, torch.tensor([2, 2]))
        found = inpainter.denoiser(x, inpainter.denoiser.schedule.alpha_bar[[10, 731]], condition)
    torch.testing.assert_close(found.eps, expected[:, :3], rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="no attribute 'cow'; it knows tench, cat, dog, Canis, bus, kite"):
        inpainter.attributes({"cow": 1})
    for wrong in (None, told * torch.nan, inpainter.attributes({"cat": 1, "bus": 1}), inpainter.attributes({"cat": 0})):
        with pytest.raises(ValueError, match=r"never saw a picture without its class: say one, attributes={tench: 1}"):
            inpainter.condition(x, mask, x, wrong)


def test_openais_classifiers_guide_by_the_softmax_over_their_classes(tmp_path: Path):
    state = random_state(published_shapes(**small(attended=[8], pooled=10)))
    classifier = AttributeClassifier.load(converted(state, tmp_path, "--head-width", "32", "--steps", "4000"))
    x = arguments(None)[0].requires_grad_()
    logits = Reference(state, 32, True).classify(x, torch.tensor([120.0, 3000.0]), 1)
    (expected,) = torch.autograd.grad(logits.log_softmax(1)[:, 7].sum(), x)
    level = classifier.denoiser.schedule.alpha_bar[[121, 3001]]
    for seven in (7, "7"):  # Hydra reads {7: 1} as a number
        (found,) = torch.autograd.grad(Wish(classifier, {seven: 1})(x, level, Condition()).sum(), x)
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)
    with pytest.raises(ValueError, match=r"no attribute '10'; it knows 0, 1, .* 9"):
        Wish(classifier, {10: 1})
    torch.testing.assert_close(classifier(x, level), logits.softmax(1), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (["--schedule", "cosine", "--start", "0.1"], "--schedule cosine is not made of --steps, --start: take linear"),
        (["--schedule", "zero_terminal"], "--schedule zero_terminal is not made of --steps: take linear"),
        (["--schedule", "lienar"], "'diffusion_lab.diffusion.schedule.lienar', which this version"),
        (["--schedule", "linear", "--steps", "10"], "beta rises to 2 in 10 steps"),
        (["--schedule", "linear", "--num-heads-upsample", "8"], "num_heads_upsample=8 beside 2 heads cannot be read"),
        (["--schedule", "linear", "--classes", "names.txt"], "names classes, but the network knows none"),
    ],
)
def test_mistakes_on_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], said: list[str], message: str
):
    save_file(uncond(), tmp_path / "file.safetensors")
    where = [str(tmp_path / "file.safetensors"), "--output", str(tmp_path / "made"), "--image-size", "16"]
    assert main([*where, "--heads", "2", *said]) == 1
    found = capsys.readouterr().err
    assert message in found
    assert found.startswith("error: ")
    assert found.count("\n") == 1
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda p: torch.save({"epoch": 3, "state_dict": {}}, p), "holds more than named tensors"),
        (lambda p: p.write_bytes(b"not a checkpoint"), "cannot be read as tensors"),
        (lambda p: torch.save(Converted(UNet, {}, {}), p), "cannot be read as tensors"),
    ],
)
def test_files_that_are_not_tensors(tmp_path: Path, content: Any, message: str):
    content(tmp_path / "file.pt")
    with pytest.raises(ValueError, match=message):
        read_tensors(tmp_path / "file.pt")


def test_a_file_that_is_not_there(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="there is no file"):
        read_tensors(tmp_path / "file.pt")
