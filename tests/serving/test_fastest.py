"""The choice of a form, by a clock that the forms themselves move."""

import logging
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from fakes import FakeEngine, served
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from diffusion_lab.inpainting import Inpainter
from diffusion_lab.networks.export import example
from diffusion_lab.networks.unet import UNet
from diffusion_lab.serving import fastest
from diffusion_lab.serving.api import create_app
from diffusion_lab.serving.backends import Backend, bfloat16, eager
from diffusion_lab.serving.fastest import SECONDS, Fastest, candidates
from diffusion_lab.serving.local import Unmeasured
from diffusion_lab.serving.run import local
from diffusion_lab.serving.settings import offered
from small import MODEL


class Timer:
    """Tells the time that the forms say they took."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def form(self, alone: float, each: float, made: float = 0.0, calls: list[int] | None = None) -> Backend:
        """A form that takes so long alone, and for each picture more; and to be made."""
        timer = self

        class Slow(nn.Module):
            def forward(self, x: Tensor, condition: Tensor, time: Tensor) -> Tensor:
                timer.now += alone + each * (len(x) - 1)
                if calls is not None:
                    calls.append(len(x))
                return x

        def backend(network: nn.Module, folder: Path, stage: int) -> nn.Module:
            timer.now += made
            return Slow()

        return backend


@pytest.fixture
def network() -> UNet:
    return UNet(16, 32, (1,), 1)


def refusing(network: nn.Module, folder: Path, stage: int) -> nn.Module:
    raise ValueError("ONNX needs packages that are not installed")


@pytest.mark.parametrize(
    ("alone", "each", "chosen"),
    [
        (0.5, 0.5, "other"),
        (2.0, 2.0, "eager"),
        (0.95, 0.95, "eager"),  # not by enough
        (0.5, 1.1, "other"),  # slower for several, and by far faster for one
        (1.1, 0.4, "other"),
        (0.9, 1.05, "eager"),
    ],
)
def test_the_fastest_for_one_and_for_several_is_chosen(
    network: UNet, tmp_path: Path, caplog: pytest.LogCaptureFixture, alone: float, each: float, chosen: str
) -> None:
    caplog.set_level(logging.INFO)
    timer = Timer()
    choose = Fastest({"eager": timer.form(0.1, 0.1), "other": timer.form(alone / 10, each / 10)}, timer)
    choose(network, tmp_path)
    assert choose.name == chosen
    assert f"served by {chosen} (eager 100.0 ms a picture, other " in caplog.text


def test_it_is_known_in_time_however_slow_the_forms_are(network: UNet, tmp_path: Path) -> None:
    timer, calls = Timer(), []
    slow = timer.form(1.0, 0.1, made=9.0, calls=calls)
    choose = Fastest({"eager": timer.form(1.0, 0.1), "slow": slow, "last": timer.form(0.0, 0.0)}, timer)
    choose(network, tmp_path)
    assert choose.name == "eager"  # the last one was not begun
    assert timer.now - 100 < SECONDS
    assert calls == [1, 4] * 2  # a round to warm up, and one that counts


def test_what_cannot_be_had_is_left_out(network: UNet, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    choose = Fastest({"eager": eager, "onnxruntime": refusing})
    assert choose(network, tmp_path) is network
    assert choose.name == "eager"
    assert "no onnxruntime here: ONNX needs packages that are not installed" in caplog.text
    with pytest.raises(ValueError, match="not installed"):
        Fastest({"only": refusing})(network, tmp_path)


def test_the_choice_stays_while_jobs_run(network: UNet, tmp_path: Path) -> None:
    timer, calls = Timer(), []
    choose = Fastest({"eager": timer.form(1.0, 1.0), "other": timer.form(0.5, 0.5, calls=calls)}, timer)
    choose(network, tmp_path)
    timed = len(calls)
    choose(UNet(16, 32, (1,), 1), tmp_path)
    assert len(calls) == timed


def test_bfloat16_is_a_candidate_only_if_it_may_be() -> None:
    assert list(candidates(low=False)) == ["eager", "onnxruntime"]
    assert list(candidates(low=True)) == ["eager", "bfloat16", "onnxruntime"]


def test_under_bfloat16_a_network_says_nearly_the_same_and_keeps_its_gradient(network: UNet, tmp_path: Path) -> None:
    for p in network.parameters():
        nn.init.normal_(p, std=0.05)
    given = [torch.randn(x.shape, generator=torch.Generator().manual_seed(0)) for x in network.example()]
    low = bfloat16(network, tmp_path)
    with torch.no_grad():
        said, truth = low(*given), network(*given)
    assert said.dtype == torch.float32
    assert not torch.equal(said, truth)
    assert (said - truth).norm() < 0.03 * truth.norm()
    assert torch.equal(low(*given), network(*given))  # a gradient is wanted: float32


class Casts(TorchDispatchMode):
    """Counts the tensors of a network's own that are cast."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.shapes = {p.shape for p in network.parameters() if p.ndim > 1}
        self.weights = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.weights += func is torch.ops.aten._to_copy.default and args[0].shape in self.shapes
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("last", [False, None])
def test_under_bfloat16_weights_are_cast_once_and_nothing_else_changes(tmp_path: Path, last: bool | None) -> None:
    """Bit for bit what autocast says, which casts every weight in every call."""
    network = UNet(16, 32, (1, 2), 1, attention=(8,), head_width=32, channels_last=last).eval()
    for p in network.parameters():
        nn.init.normal_(p, std=0.1)
    low = bfloat16(network, tmp_path)
    for rows in (1, 3):
        given = example(network, rows)
        with torch.no_grad(), Casts(network) as cast:
            said = low(*given)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16), Casts(network) as casts:
            truth = network(*given)
        assert torch.equal(said, truth.float())
        weights = sum(isinstance(layer, nn.Conv2d | nn.Linear) for layer in network.modules())
        assert (cast.weights, casts.weights) == (0, weights)


@pytest.mark.parametrize(("best", "named"), [("eager", "eager"), ("bfloat16", "bfloat16")])
def test_the_service_says_what_it_chose(
    inpainter: Inpainter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, best: str, named: str
) -> None:
    def known(low: bool, integers: bool) -> dict[str, Backend]:
        assert (low, integers) == (True, False)
        return {best: {"eager": eager, "bfloat16": bfloat16}[best]}

    monkeypatch.setattr("diffusion_lab.serving.run.candidates", known)
    inpainter.save(tmp_path / "model")
    engine = local(tmp_path / "model", Unmeasured(), device="cpu", backend="auto", bfloat16=True)
    assert engine.form == named
    assert local(tmp_path / "model", Unmeasured(), device="cpu").form == "eager"
    fake = FakeEngine()
    fake.form = named
    with served(create_app(fake, offered({"model": MODEL}))) as url:
        assert httpx.get(f"{url}/v1/info").json()["backend"] == named


def test_an_export_that_takes_too_long_is_given_up(
    inpainter: Inpainter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inpainter.save(tmp_path / "model")
    monkeypatch.setattr(fastest, "EXPORTING", 0.01)
    with pytest.raises(ValueError, match=r"the export took longer than 0\.01 s"):
        candidates(low=False)["onnxruntime"](inpainter.denoiser.network, tmp_path / "model")
