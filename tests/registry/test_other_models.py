"""The registry takes cascades, and models of other tasks, as it takes inpainters."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from diffusion_lab import cascade
from diffusion_lab.cascade import Cascade, Model
from diffusion_lab.registry import Candidate, Registry, card, gate, judge
from diffusion_lab.registry.probes import golden, probes, seconds_per_picture
from diffusion_lab.serving.swapping import checked
from evaluated import results
from small import RESTORER, SEVERAL, small_cascade, small_inpainter


@pytest.fixture
def _equally_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "seconds_per_picture", lambda inpainters, rounds: [0.1] * len(inpainters))


def made(kind: str) -> Model:
    return {
        "cascade": small_cascade,
        "restorer": lambda: small_inpainter(RESTORER),
        "several": lambda: small_inpainter(SEVERAL),
    }[kind]()


@pytest.mark.parametrize("kind", ["cascade", "restorer", "several"])
@pytest.mark.usefixtures("_equally_fast")
def test_a_model_goes_all_the_way_into_service(kind: str, tmp_path: Path) -> None:
    model = made(kind)
    model.save(tmp_path / "model")
    (tmp_path / "results.json").write_text(json.dumps(results()))
    text = card("faces", model.recipe, results())
    decision = judge(Candidate("a run", tmp_path / "model", results(), text), None)
    assert [check.name for check in decision.checks if not check.passed] == []

    registry = Registry(tmp_path / "registry")
    number = registry.register("faces", tmp_path / "model", tmp_path / "results.json", text)
    registry.promote("faces", number, decision)
    folder = registry.resolve("faces@production")
    known = load_file(folder / "golden.safetensors")
    assert bool(known["mask"].all()) == (kind == "restorer")  # which is never asked for a part
    again = cascade.load(folder)
    assert torch.equal(again(known["image"], known["mask"], seeds=[0]), known["output"])
    assert checked(folder, torch.device("cpu"), image_size=16, task=model.task).version == "faces@1"


@pytest.mark.usefixtures("_equally_fast")
def test_a_cascade_is_judged_beside_an_inpainter(tmp_path: Path) -> None:
    for name, model in (("cascade", small_cascade()), ("plain", small_inpainter())):
        model.save(tmp_path / name)
    candidate = Candidate("a run", tmp_path / "cascade", results(), "# card")
    decision = judge(candidate, Candidate("faces@1", tmp_path / "plain", results(), "# card"))
    assert decision.passed
    assert all(seconds > 0 for seconds in seconds_per_picture([small_cascade(), small_inpainter()], 1, at_least=0))


@pytest.mark.parametrize("stage", [0, 1])
def test_a_stage_that_is_broken_is_found(stage: int, tmp_path: Path) -> None:
    model = small_cascade()
    with torch.no_grad():
        next(model.stages[stage].parameters()).fill_(torch.nan)
    with pytest.raises(ValueError, match="not finite"):
        golden(model)
    model.save(tmp_path / "model")
    decision = judge(Candidate("a run", tmp_path / "model", results(), "# card"), None)
    assert "finite" in [check.name for check in decision.checks if not check.passed]
    assert f"inpainters.{stage}." in " ".join(check.sentence for check in decision.checks)


@pytest.mark.parametrize(
    ("kind", "says", "command"),
    [
        ("cascade", "fills holes in pictures of faces, 16x16", "inpaint.py inpainter=<this folder> image=me.jpg mask="),
        ("restorer", "restores whole pictures of faces (task jpeg), 16x16", "image=me.jpg` for pictures"),
        (
            "several",
            "or fills holes in them (task several), 16x16",
            "restore.py inpainter=<this folder> image=me.jpg [",
        ),
    ],
)
def test_the_card_says_what_the_model_does_and_how_it_is_called(
    kind: str, says: str, command: str, tmp_path: Path
) -> None:
    model = made(kind)
    text = card("faces", model.recipe, results())
    assert says in text
    assert command in text
    assert not isinstance(model, Cascade) or "| stage 2: network | UNet (" in text
    model.save(tmp_path / "model")
    code = text.split("```python\n")[1].split("```")[0].replace("this folder", str(tmp_path / "model"))
    asked = probes(16, 2, model.task)
    known: dict[str, Any] = {"image": asked.image, "mask": asked.mask}
    exec(code.replace("seeds=[0]", "seeds=[0, 1]"), known)
    assert torch.equal(known["made"], model(asked.image, asked.mask, seeds=[0, 1]))
