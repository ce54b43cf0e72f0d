import inspect
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import FrozenInstanceError, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file
from torch import Tensor

from diffusion_lab.diffusion.samplers import ddim
from diffusion_lab.inpainting import Inpainter
from diffusion_lab.registry import Candidate, Decision, gate, judge
from diffusion_lab.registry.gate import by_hand, protocol
from diffusion_lab.registry.probes import MASKS, probes, seconds_per_picture
from evaluated import N, results

Trained = Callable[..., Path]


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Equally fast models; the clock itself is tested where it is read."""
    monkeypatch.setattr(gate, "seconds_per_picture", lambda inpainters, rounds: [0.1] * len(inpainters))


@pytest.fixture
def candidate(trained: Trained) -> Candidate:
    return Candidate("run 0", trained() / "inpainter", results(), "# card")


def against(candidate: Candidate, **figures: Any) -> Candidate:
    """A champion with the same network and other figures."""
    return Candidate("faces@1", candidate.folder, results(**figures), "# card")


def refusals(decision: Decision) -> list[str]:
    return [check.name for check in decision.checks if not check.passed]


def test_the_first_model_needs_no_champion(candidate: Candidate) -> None:
    decision = judge(candidate, None)
    assert decision.passed
    assert [check.name for check in decision.checks] == [
        "card",
        "loads",
        "finite",
        "known pixels",
        "pictures",
        "champion",
    ]
    assert Decision.read(json.loads(json.dumps(decision.facts()))) == decision
    assert decision.champion is None
    assert not decision.by_hand
    assert decision.checks[3].sentence == "known pixels came back bit for bit in 6 pictures, completed here"
    assert decision.checks[4].sentence == f"the figures are of {N} pictures of built-in faces, 100 are needed"


def test_what_a_decision_says_stays(candidate: Candidate) -> None:
    decision = judge(candidate, None)
    for fact in (candidate, decision, decision.checks[0]):
        for name, value in vars(fact).items():
            with pytest.raises(FrozenInstanceError):
                setattr(fact, name, value)


def test_the_pipeline_judges_as_the_command_does() -> None:
    """Which has what `judge` has by default."""
    options = inspect.signature(judge).parameters.items()
    told = {name: option.default for name, option in options if option.default is not option.empty}
    file = Path(__file__).parents[2] / "conf" / "pipeline.yaml"
    gate = OmegaConf.to_container(OmegaConf.load(file).gate)
    assert isinstance(gate, dict)
    assert {name: gate[name] for name in told} == told | {"metrics": ["lpips"]}


@pytest.mark.parametrize(
    ("champion", "passes", "verdict"),
    [
        ({"lpips": 0.2, "seed": 1}, True, "no difference beyond chance"),
        ({"lpips": 0.23, "seed": 1}, True, "better"),
        ({"lpips": 0.1999, "seed": 1}, True, "no difference beyond chance"),
        ({"lpips": 0.19, "seed": 1}, False, "worse"),
    ],
)
def test_figures_count_beyond_their_interval(
    candidate: Candidate, champion: dict[str, Any], passes: bool, verdict: str
) -> None:
    """The pictures scatter five times as much as the models differ; paired, a hundredth shows all the same."""
    decision = judge(candidate, against(candidate, **champion))
    figures = [check for check in decision.checks if check.name.startswith("lpips")]
    assert [check.name for check in figures] == ["lpips, center, diffusion", "lpips, half, diffusion"]
    assert all(check.sentence.endswith(verdict) for check in figures)
    assert decision.passed == passes
    assert decision.champion == "faces@1"


def test_equal_models_are_not_told_apart(candidate: Candidate) -> None:
    """The interval is the point 0 then, which is worse and better than nothing."""
    decision = judge(candidate, against(candidate), fid_tolerance=0.0)
    assert decision.passed
    for check in decision.checks:
        if check.name.startswith("lpips"):
            assert check.sentence.endswith("worse by +0.0000 (+0.0000 to +0.0000): no difference beyond chance")


def test_each_mask_is_compared_with_itself(candidate: Candidate) -> None:
    """A champion that is better with one mask alone; with the other it has the candidate's figures."""
    champion = against(candidate)
    worse = champion.results["pictures"][1]
    assert worse["mask"] == "half"
    worse["lpips"] = [value - 0.05 for value in worse["lpips"]]
    decision = judge(candidate, champion)
    assert refusals(decision) == ["lpips, half, diffusion"]
    assert "lpips 0.2000 against 0.1500, worse by +0.0500" in decision.reasons[0]


def test_a_model_of_one_step_is_one_too(candidate: Candidate) -> None:
    champion = against(candidate)
    for each in (candidate, champion):
        for row in each.results["rows"]:
            row["network_calls"] = min(row["network_calls"], 1)
    names = [check.name for check in judge(candidate, champion).checks if check.name.startswith("lpips")]
    assert names == ["lpips, center, diffusion", "lpips, half, diffusion"]


def test_models_need_rows_in_common(candidate: Candidate) -> None:
    champion = against(candidate)
    for row in champion.results["rows"]:
        row["method"] = f"another {row['method']}"
    said = "the results of run 0 and faces@1 have no rows of a model in common"
    assert judge(candidate, champion).reasons == [said]
    for each in (candidate, champion):
        each.results["rows"].clear()
    assert judge(candidate, champion).reasons == [said]


def test_more_is_better_for_some_metrics(candidate: Candidate) -> None:
    champion = against(candidate)
    for each, shift in ((candidate, 1.0), (champion, 0.0)):
        for row in each.results["pictures"]:
            row["psnr"] = (np.linspace(20, 30, N) + shift).tolist()
    assert not refusals(judge(candidate, champion, metrics=["psnr"]))
    assert refusals(judge(champion, candidate, metrics=["psnr"])) == [
        "psnr, center, diffusion",
        "psnr, half, diffusion",
    ]


def test_fid_has_a_tolerance(candidate: Candidate) -> None:
    champion = against(candidate)
    for row in champion.results["rows"]:
        row["fid"] = 28.0  # 30 is 7 % more
    assert judge(candidate, champion).passed
    assert refusals(judge(candidate, champion, fid_tolerance=0.05)) == [
        "fid, center, diffusion",
        "fid, half, diffusion",
    ]
    for row in champion.results["rows"]:
        row["fid"] = 27.0  # 30 is 11 % more
    assert refusals(judge(candidate, champion)) == ["fid, center, diffusion", "fid, half, diffusion"]


@pytest.mark.parametrize("who", [0, 1])
def test_fid_that_one_of_them_lacks_is_not_compared(candidate: Candidate, who: int) -> None:
    champion = against(candidate)
    rows = (candidate, champion)[who].results["rows"]
    rows[0]["fid"] = None
    assert (rows[0]["mask"], rows[0]["method"]) == ("center", "diffusion")
    decision = judge(candidate, champion)
    assert decision.passed
    assert [check.name for check in decision.checks if check.name.startswith("fid")] == ["fid, half, diffusion"]


def test_another_protocol_is_not_compared(candidate: Candidate) -> None:
    decision = judge(candidate, against(candidate, mask_set=2))
    assert refusals(decision) == ["protocol"]
    compared = [check.name for check in decision.checks][-3:]
    assert compared == ["pictures", "protocol", "seconds"]  # no figure is; how fast it is does not depend on it
    assert "mask_set 1 against 2" in decision.reasons[0]
    same = against(candidate, device="a GPU", batch_size=7, inpainter="elsewhere")
    judged = judge(candidate, same)
    assert judged.protocol == decision.protocol
    assert [check.sentence for check in judged.checks if check.name == "protocol"] == [
        f"both were evaluated under protocol {decision.protocol}"
    ]
    assert len(decision.protocol) == 16  # of a sum's 64 digits


def test_a_models_own_sampler_is_not_protocol(candidate: Candidate) -> None:
    own = json.loads((candidate.folder / "recipe.json").read_text())["model"]["sampler"]
    alike = replace(candidate, results=results(samplers={"diffusion": own}))
    assert protocol(alike)["samplers"] == {"diffusion": "its own"}
    named = replace(candidate, results=results(samplers={"diffusion": {"_target_": "x", "steps": 50}}))
    assert protocol(named)["samplers"] == {"diffusion": {"_target_": "x", "steps": 50}}


def test_known_pixels_are_recomputed(candidate: Candidate, monkeypatch: pytest.MonkeyPatch) -> None:
    forward = Inpainter.forward

    def careless(self: Inpainter, image: Tensor, mask: Tensor, **rest: Any) -> Tensor:
        return forward(self, image, mask, **rest) + 1e-6

    monkeypatch.setattr(Inpainter, "forward", careless)
    decision = judge(candidate, None, pictures=4)
    assert refusals(decision) == ["known pixels"]
    assert decision.reasons == ["known pixels were changed in 4 of 4 pictures"]


def test_values_that_are_not_finite_are_refused(candidate: Candidate) -> None:
    path = candidate.folder / "model.safetensors"
    state = load_file(path)
    state[next(iter(state))].view(-1)[0] = torch.inf
    save_file(state, path)
    assert "finite" in refusals(judge(candidate, None))
    candidate.results["rows"][0]["psnr"] = float("nan")
    assert "finite" in refusals(judge(candidate, None))


def test_a_hole_that_is_filled_with_no_numbers_is_refused(
    candidate: Candidate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights may be finite where what they make is not."""
    forward = Inpainter.forward

    def overflowing(self: Inpainter, image: Tensor, mask: Tensor, **rest: Any) -> Tensor:
        return forward(self, image, mask, **rest).where(~mask, torch.nan)

    monkeypatch.setattr(Inpainter, "forward", overflowing)
    decision = judge(candidate, None)
    assert refusals(decision) == ["known pixels"]
    assert "not finite" in decision.reasons[0]


@pytest.mark.parametrize("metrics", [("lpips",), ("lpips", "psnr"), ("lpips", "psnr", "ssim")])
def test_all_intervals_together_hold_as_often_as_asked(
    candidate: Candidate, metrics: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bonferroni: as many intervals as rows and metrics share the chance of an error."""
    asked: list[float] = []

    def noted(worse_by: Any, level: float) -> tuple[float, float]:
        asked.append(level)
        return -1.0, 1.0

    monkeypatch.setattr(gate, "interval", noted)
    champion = against(candidate, seed=1)
    for each in (*candidate.results["pictures"], *champion.results["pictures"]):
        each |= dict.fromkeys(("psnr", "ssim"), each["lpips"])
    judge(candidate, champion, metrics=metrics, confidence=0.9)
    assert len(asked) % len(metrics) == 0
    assert sum(1 - level for level in asked) == pytest.approx(0.1)


def test_just_enough_pictures_are_enough(candidate: Candidate) -> None:
    assert judge(candidate, None, least=N).passed
    assert refusals(judge(candidate, None, least=N + 1)) == ["pictures"]


def test_a_slow_model_is_refused(candidate: Candidate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "seconds_per_picture", lambda inpainters, rounds: [0.3, 0.2])
    decision = judge(candidate, against(candidate, seed=1))
    assert refusals(decision) == ["seconds"]
    assert "1.50 times as long, 1.25 are allowed" in decision.reasons[0]
    monkeypatch.setattr(gate, "seconds_per_picture", lambda inpainters, rounds: [0.25, 0.2])
    assert judge(candidate, against(candidate, seed=1)).passed  # as long as is allowed
    monkeypatch.setattr(gate, "seconds_per_picture", lambda inpainters, rounds: [0.3, 0.2])
    assert judge(candidate, against(candidate, seed=1), slower=1.6).passed


def test_time_is_measured_in_turns(trained: Trained) -> None:
    """Thirty network calls against three are told apart on any machine."""
    quick, slow = (Inpainter.load(trained(seed) / "inpainter") for seed in (0, 1))
    slow.sampler = ddim(steps=30)
    one, other = seconds_per_picture([quick, slow], rounds=5, at_least=0)
    assert other > 3 * one


def test_what_a_neighbour_costs_does_not_count(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two equal models on a clock that says what a call cost: the first call most, later ones their share of noise."""
    model = Inpainter.load(trained(0) / "inpainter")
    costs = [9.0, 9.0, 1.3, 1.0, 1.0, 1.2, 1.7, 1.0, 1.0, 3.0]
    spent = [0.0]

    def call(*_: object, **__: object) -> None:
        spent.append(spent[-1] + costs[len(spent) - 1])

    model.forward = call  # type: ignore[method-assign,assignment]
    monkeypatch.setattr(time, "process_time", lambda: spent[-1])
    assert seconds_per_picture([model, model], rounds=4, at_least=0) == pytest.approx([1.0, 1.0])
    assert len(spent) == 1 + len(costs)


@pytest.mark.parametrize(
    ("spoil", "refusal", "message"),
    [
        (lambda c: replace(c, card=" \n"), "card", "run 0 has no model card"),
        (lambda c: replace(c, results=results(n=99)), "pictures", "of 99 pictures of built-in faces, 100 are needed"),
        (lambda c: replace(c, folder=Path("nowhere")), "sound", "no recipe.json"),
        (lambda c: replace(c, results={"protocol": {"n": 200}}), "sound", "not what evaluate.py writes"),
        (lambda c: replace(c, results={"rows": []}), "pictures", "of 0 pictures of unnamed data, 100 are needed"),
        (
            lambda c: replace(c, results=results(n=99, trained_on="other faces")),
            "pictures",
            "of 99 pictures of built-in faces, 100 are needed; it was trained on other faces",
        ),
    ],
)
def test_what_is_missing_is_said(
    candidate: Candidate, spoil: Callable[[Candidate], Candidate], refusal: str, message: str
) -> None:
    decision = judge(spoil(candidate), None)
    assert refusals(decision) == [refusal]
    assert message in decision.reasons[0]


def test_results_without_each_picture_are_not_compared(candidate: Candidate) -> None:
    champion = against(candidate)
    old = replace(champion, results={key: champion.results[key] for key in ("rows", "protocol")})
    decision = judge(candidate, old)
    assert refusals(decision) == ["sound"]
    assert "the results of faces@1 have no lpips of each picture" in decision.reasons[0]


def test_a_lost_champion_stops_the_gate(candidate: Candidate, tmp_path: Path) -> None:
    champion = replace(against(candidate), folder=tmp_path / "champion")
    shutil.copytree(candidate.folder, champion.folder)
    (champion.folder / "model.safetensors").write_bytes(b"half")
    assert refusals(judge(candidate, champion)) == ["sound"]


def test_a_person_needs_a_reason() -> None:
    decision = by_hand("faces@1", "demo")
    assert decision.passed
    assert decision.by_hand
    assert (decision.candidate, decision.champion) == ("faces@1", None)
    with pytest.raises(ValueError, match="needs a reason"):
        by_hand("faces@1", " ")


def test_probes_are_the_same_faces_everywhere() -> None:
    asked, more = probes(24, 3), probes(24, 7)
    assert asked.image.shape == (3, 3, 24, 24)
    assert asked.mask.shape == (3, 1, 24, 24)
    assert torch.equal(more.image[:3], asked.image)
    assert torch.equal(more.mask[:3], asked.mask)
    assert len(MASKS) == 3
    assert asked.image.std() > 0.1  # faces, not a blank
    assert ((asked.mask.float().mean((1, 2, 3)) > 0) & (asked.mask.float().mean((1, 2, 3)) < 1)).all()
