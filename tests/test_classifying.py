from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from diffusion_lab import recipe
from diffusion_lab.classifying import AttributeClassifier, Wish, guided, mean_guided
from diffusion_lab.diffusion import samplers
from diffusion_lab.diffusion.denoiser import Condition, Prediction
from diffusion_lab.diffusion.sampling import Constrain, keep_clean, keep_noised, sample, unconstrained
from diffusion_lab.inpainting import Inpainter
from diffusion_lab.training.loggers import read_metrics
from small import MODEL as INPAINTER
from small import UNET, small_inpainter

MODEL = {
    "_target_": "diffusion_lab.classifying.AttributeClassifier",
    "denoiser": {
        "_target_": "diffusion_lab.diffusion.guidance.NetworkClassifier",
        "network": {
            "_target_": "diffusion_lab.networks.classifier.Classifier",
            "image_size": 16,
            "outputs": 2,
            "channels": 16,
            "multipliers": [1, 1],
            "head_width": 16,
        },
        "schedule": {"_target_": "diffusion_lab.diffusion.schedule.cosine", "steps": 100},
    },
}


@pytest.fixture
def classifier() -> AttributeClassifier:
    torch.manual_seed(0)
    made: AttributeClassifier = recipe.build(MODEL)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    made.recipe = {"model": MODEL, "data": {"name": "none", "attributes": ["Smiling", "Young"]}}
    return made.eval()


def hole(size: int = 16) -> Tensor:
    mask = torch.zeros(2, 1, size, size, dtype=torch.bool)
    mask[..., :8] = True
    return mask


def test_a_folder_is_the_classifier(classifier: AttributeClassifier, inpainter: Inpainter, tmp_path: Path) -> None:
    classifier.save(tmp_path / "classifier")
    again = AttributeClassifier.load(tmp_path / "classifier")
    x, level = torch.randn(2, 3, 16, 16), torch.tensor([0.2, 0.9], dtype=torch.float64)
    assert torch.equal(again(x, level), classifier(x, level))
    assert again.recipe["data"]["attributes"] == ["Smiling", "Young"]
    inpainter.save(tmp_path / "inpainter")
    with pytest.raises(ValueError, match="holds a Inpainter, not a classifier"):
        AttributeClassifier.load(tmp_path / "inpainter")


def test_a_wish_is_the_log_probability_of_what_is_named_alone(classifier: AttributeClassifier) -> None:
    x, level = torch.randn(2, 3, 16, 16), torch.tensor([0.2, 0.9], dtype=torch.float64)
    chance = classifier(x, level)
    torch.testing.assert_close(Wish(classifier, {"Young": 0})(x, level, Condition()), (1 - chance[:, 1]).log())
    both = Wish(classifier, {"Young": 0, "Smiling": 1})(x, level, Condition())
    torch.testing.assert_close(both, ((1 - chance[:, 1]) * chance[:, 0]).log())


def test_a_wish_that_cannot_be_heard_is_refused(classifier: AttributeClassifier) -> None:
    with pytest.raises(ValueError, match="no attribute 'Bald'; it knows Smiling, Young"):
        Wish(classifier, {"Bald": 1})
    with pytest.raises(ValueError, match="needs attributes to guide towards"):
        Wish(classifier, {})


@pytest.mark.parametrize("algorithm", [1, 2])
def test_guidance_raises_what_is_wished_for_and_leaves_known_pixels(
    classifier: AttributeClassifier, inpainter: Inpainter, tmp_path: Path, algorithm: int
) -> None:
    classifier.save(tmp_path)
    image, mask = torch.rand(2, 3, 16, 16) * 2 - 1, hole()

    def sampler(scale: float) -> samplers.Sampler:
        if algorithm == 1:
            return mean_guided(tmp_path, {"Young": 1}, scale, steps=5)
        return guided(tmp_path, {"Young": 1}, scale, samplers.ddim(5))

    def young(scale: float) -> float:
        filled = inpainter(image, mask, seeds=[0, 1], sampler=sampler(scale))
        assert torch.equal(torch.where(mask, 0, filled), torch.where(mask, 0, image))
        return float(classifier(filled, torch.ones(2, dtype=torch.float64))[:, 1].mean().detach())

    assert young(20.0) > young(0.0)
    plain = samplers.ddpm(5) if algorithm == 1 else samplers.ddim(5)
    unguided = inpainter(image, mask, seeds=[0, 1], sampler=plain)
    still = inpainter(image, mask, seeds=[0, 1], sampler=sampler(0.0))
    torch.testing.assert_close(still, unguided, rtol=0, atol=1e-3)


@pytest.mark.parametrize("constrain", [keep_clean, keep_noised, unconstrained])
def test_the_guided_mean_leaves_known_pixels_to_the_model(
    classifier: AttributeClassifier, tmp_path: Path, constrain: Constrain
) -> None:
    """An unconditional model knows no pixels to keep; others keep theirs as they were trained to."""
    classifier.save(tmp_path)
    generator = torch.Generator().manual_seed(0)
    x, eps, face = torch.randn(3, 2, 3, 16, 16, generator=generator)
    condition = Condition() if constrain is unconstrained else Condition(face, hole(), fill=eps)
    seen = []

    def model(x: Tensor, level: Tensor, condition: Condition) -> Prediction:
        seen.append((x, float(level[0])))
        return Prediction(x / 2, x / 2)

    def painted(scale: float) -> Tensor:
        sampler = mean_guided(tmp_path, {"Young": 1}, scale, steps=4)
        return sample(model, sampler, classifier.denoiser.schedule, x, condition, lambda: eps, constrain)

    assert not torch.allclose(painted(20.0), painted(0.0))
    for at, level in seen:
        if constrain is not unconstrained:
            kept = face if constrain is keep_clean else level**0.5 * face + (1 - level) ** 0.5 * eps
            torch.testing.assert_close(torch.where(hole(), 0, at), torch.where(hole(), 0, kept))


def test_guidance_asks_the_network_no_more_often(classifier: AttributeClassifier, tmp_path: Path) -> None:
    classifier.save(tmp_path)
    schedule = classifier.denoiser.schedule
    assert guided(tmp_path, {"Young": 1}, 2.0, samplers.ddim(7)).network_calls(schedule) == 7


@pytest.mark.slow
def test_a_classifier_is_trained_by_the_same_script_and_guides_the_others(
    run_script: Callable[..., tuple[int, str, str]], inpainter: Inpainter, faces: Path, tmp_path: Path
) -> None:
    logs, run = tmp_path / "logs", tmp_path / "logs" / "run"
    code, out, err = run_script(
        "train.py",
        "experiment=classifier",
        "data=celeba",
        f"data.root={faces}",
        "data.image_size=16",
        "data.batch_size=4",
        "model.channels=16",
        "model.multipliers=[1,1]",
        "model.head_width=16",
        "logger=jsonl",
        "trainer.max_steps=4",
        "trainer.validations=1",
        "trainer.precision=32-true",
        f"paths.logs={logs}",
        f"paths.cache={tmp_path / 'cache'}",
        f"hydra.run.dir={run}",
    )
    assert code == 0, err
    assert f"the classifier is {run / 'classifier'}" in out
    assert {"val/loss", "val/accuracy"} <= {key for line in read_metrics(run) for key in line}
    assert (run / "samples" / "0000004.png").is_file()
    assert not list(logs.glob("**/inpainter"))  # nobody takes it for one
    inpainter.save(tmp_path / "inpainter")
    Image.new("RGB", (40, 40), "grey").save(tmp_path / "me.png")
    drawn = Image.new("L", (40, 40), "black")
    drawn.paste(255, (10, 0, 30, 20))
    drawn.save(tmp_path / "hole.png")
    code, out, err = run_script(
        "inpaint.py",
        f"image={tmp_path / 'me.png'}",
        f"mask={tmp_path / 'hole.png'}",
        f"output={tmp_path / 'out.png'}",
        f"inpainter={tmp_path / 'inpainter'}",
        "sampler=classifier_guided",
        f"sampler.classifier='{run / 'classifier'}'",
        "sampler.attributes={hair_luminance_above_median: 1}",
        "sampler.sampler.steps=3",
    )
    assert code == 0, err
    assert "3 network calls" in out
    code, _, err = run_script("inpaint.py", "image=a.png", "mask=b.png", "sampler=classifier_guided")
    assert code == 1
    assert "inpaint.py needs sampler.attributes=..., sampler.classifier=..." in err


@pytest.mark.slow
def test_a_class_on_the_command_line(
    run_script: Callable[..., tuple[int, str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = {**UNET, "condition_channels": 0, "attributes": 3}
    model = {**INPAINTER, "denoiser": {**INPAINTER["denoiser"], "network": network}}
    made = small_inpainter(model)
    made.recipe["data"] |= {"attributes": ["0", "1", "2"], "exclusive": True}
    made.save(tmp_path / "inpainter")
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (40, 40), "grey").save("me.png")
    drawn = Image.new("L", (40, 40), "black")
    drawn.paste(255, (10, 0, 30, 20))
    drawn.save("hole.png")

    def filled(*said: str) -> tuple[int, str]:
        code, _, err = run_script("inpaint.py", "image=me.png", "mask=hole.png", "inpainter=inpainter", *said)
        return code, err

    pictures = []
    for name in "01":
        assert filled(f"attributes={{{name}: 1}}", f"output={name}.png") == (0, "")
        pictures.append(Image.open(f"{name}.png").tobytes())
    assert pictures[0] != pictures[1]
    for said, message in {
        "attributes=null": "never saw a picture without its class: say one, attributes={0: 1}; it knows 0, 1, 2",
        "attributes={9: 1}": "the model knows no attribute '9'; it knows 0, 1, 2",
        "attributes=2": "attributes=2 must say a value for each name, such as attributes={2: 1}",
    }.items():
        code, err = filled(said)
        assert code == 1
        assert message in err
        assert "Traceback" not in err
