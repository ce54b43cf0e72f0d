"""Convolutions in 8-bit integers: made once, near the network, and never another model's."""

import asyncio
import json
import logging
import shutil
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any, NoReturn

import onnx
import pytest
import torch
from engines import job, result_of
from test_backends import half_of_x, ready

from diffusion_lab import cascade, files, inpainting, recipe
from diffusion_lab.cascade import Model
from diffusion_lab.data.crops import center148, full
from diffusion_lab.metrics.lpips import LPIPS
from diffusion_lab.networks.export import Call, example, identity
from diffusion_lab.networks.unet import UNet
from diffusion_lab.pictures import to_uint8
from diffusion_lab.serving import backends, quantised, quantising
from diffusion_lab.serving.backends import BACKENDS
from diffusion_lab.serving.engine import SwapRefused
from diffusion_lab.serving.fastest import candidates
from diffusion_lab.serving.local import LocalEngine, Unmeasured
from diffusion_lab.serving.run import local
from diffusion_lab.serving.swapping import checked
from small import MODEL, REFINER, RESTORER, UNET, small_cascade, small_inpainter

CPU = torch.device("cpu")
INT8 = BACKENDS["int8"]


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache without 8-bit files; what a compiler made stays, or every process would make it."""
    kept, fresh = files.cache(), tmp_path_factory.mktemp("cache")
    (fresh / "diffusion_lab").mkdir()
    for file in kept.glob("normed-*.so"):
        shutil.copy(file, fresh / "diffusion_lab")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(fresh))
        yield fresh / "diffusion_lab"


@pytest.fixture(scope="module")
def served(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Model, list[str]]:
    """A cascade's folder, the cascade in 8-bit integers, and what the log said."""
    folder, said = tmp_path_factory.mktemp("models") / "cascade", []
    small_cascade().save(folder)

    class Heard(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())

    handler, level = Heard(), backends.log.level
    backends.log.addHandler(handler)
    backends.log.setLevel(logging.INFO)
    try:
        return folder, checked(folder, CPU, backend=INT8).inpainter, said
    finally:
        backends.log.removeHandler(handler)
        backends.log.setLevel(level)


@pytest.fixture
def no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(command: Any) -> NoReturn:
        raise AssertionError("a process was started")

    monkeypatch.setattr(backends, "apart", refuse)


@pytest.mark.slow
def test_every_stage_is_near_its_network_and_not_it(served: tuple[Path, Model, list[str]]) -> None:
    folder, model, _ = served
    for stage, plain in zip(model.stages, small_cascade().stages, strict=True):
        network, truth = stage.denoiser.network, plain.denoiser.network
        for rows in (1, 3):
            given = example(truth, rows)
            with torch.no_grad():
                said, wanted = network(*given), truth(*given)
            assert 1e-4 < float((said - wanted).norm() / wanted.norm()) < 0.05
            assert torch.equal(network(*given), truth(*given))  # a gradient is wanted: float32
    with pytest.raises(SwapRefused, match=r"serves on the CPU, not on meta: set engine\.device=cpu"):
        checked(folder, torch.device("meta"), backend=INT8)


@pytest.mark.slow
def test_all_convolutions_but_the_first_and_the_last_are_integers(served: tuple[Path, Model, list[str]]) -> None:
    made = quantised.kept(served[0])
    assert made is not None
    assert len(made) == 2
    for file in made:
        graph = onnx.load(file).graph
        weights = {each.name: each for each in graph.initializer}
        makers = {name: node for node in graph.node for name in node.output}
        convolutions = [node for node in graph.node if node.op_type == "Conv"]
        kinds = []
        for node in convolutions:
            maker = makers.get(node.input[1])
            kinds.append(weights[(node if maker is None else maker).input[1 if maker is None else 0]].data_type)
        assert kinds[0] == kinds[-1] == onnx.TensorProto.FLOAT
        assert len(kinds) > 4
        assert set(kinds[1:-1]) == {onnx.TensorProto.INT8}
        integers = [onnx.numpy_helper.to_array(w) for w in weights.values() if w.data_type == onnx.TensorProto.INT8]
        convolved = [w for w in integers if w.ndim == 4]
        assert max(abs(int(edge)) for w in convolved for edge in (w.min(), w.max())) <= 64  # a bit is left over


@pytest.mark.slow
def test_known_pixels_come_back_bit_for_bit_and_a_hole_nearly(served: tuple[Path, Model, list[str]]) -> None:
    generator = torch.Generator().manual_seed(0)
    image, mask = torch.rand(2, 3, 16, 16, generator=generator) * 2 - 1, torch.zeros(2, 1, 16, 16, dtype=torch.bool)
    mask[:, :, 4:12, 2:10] = True
    with torch.no_grad():
        made, truth = (model(image, mask, seeds=[3, 4]) for model in (served[1], small_cascade()))
    hole = mask.expand_as(image)
    assert torch.equal(made[~hole], image[~hole])
    levels = (to_uint8(made).int() - to_uint8(truth).int()).abs()[hole]
    assert int(levels.max()) > 0
    assert float(levels.float().mean()) < 2


@pytest.mark.slow
def test_they_are_made_once_and_the_log_says_so(served: tuple[Path, Model, list[str]], no_process: None) -> None:
    folder, _, said = served
    before, after = said
    assert before == f"engine.backend=int8: making 8-bit files of '{folder}', once; it takes a minute or several"
    assert after.startswith("engine.backend=int8: made in ")
    assert str(files.cache()) in after
    checked(folder, CPU, backend=INT8)
    other, model = folder.with_name("other"), small_cascade()
    torch.nn.init.zeros_(next(model.parameters()))
    model.save(other)
    with pytest.raises(SwapRefused, match="a process was started"):
        checked(other, CPU, backend=INT8)


@pytest.mark.slow
def test_a_damaged_file_is_made_anew_and_is_the_same(
    served: tuple[Path, Model, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = served[0]
    made = quantised.kept(folder)
    assert made is not None
    whole = [file.read_bytes() for file in made]
    damaged = bytearray(whole[1])
    damaged[len(damaged) // 2] ^= 1  # ONNX Runtime would not notice
    for content in (bytes(damaged), whole[1][:1000], None):
        made[1].unlink()
        if content is not None:
            made[1].write_bytes(content)
        assert quantised.kept(folder) is None
    monkeypatch.setattr(backends, "apart", lambda command: quantising.make(Path(command[-1])))
    with torch.no_grad():
        assert checked(folder, CPU, backend=INT8).inpainter.stages[1] is not None
    assert [file.read_bytes() for file in made] == whole
    assert quantised.kept(folder) == made


@pytest.mark.slow
def test_what_another_recipe_weights_or_version_made_is_not_found(
    served: tuple[Path, Model, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = served[0]
    same, other, tuned = tmp_path / "same", tmp_path / "other", tmp_path / "tuned"
    for copy in (same, other, tuned):
        shutil.copytree(folder, copy)
    told = recipe.read(other)
    told["model"]["stages"][0]["sampler"]["steps"] = 4
    (other / "recipe.json").write_text(json.dumps(told))
    model = cascade.load(tuned)
    with torch.no_grad():
        next(model.parameters()).flatten()[0] += 1
    model.save(tuned)
    found = quantised.kept(folder)
    assert found is not None
    assert quantised.kept(same) == found
    assert quantised.kept(other) is None
    assert quantised.kept(tuned) is None
    monkeypatch.setattr(quantised, "version", lambda name: "0.0")
    assert quantised.kept(folder) is None


def test_a_file_that_answers_otherwise_is_refused(tmp_path: Path, no_process: None) -> None:
    folder = tmp_path / "model"
    small_inpainter().save(folder)
    half_of_x(tmp_path / "half.onnx", {**identity(folder), "stage": "0"})
    quantised.keep(folder, [tmp_path / "half.onnx"])
    with pytest.raises(SwapRefused, match=r"stage 0 in this form misses .* by \d+% .* 10% are allowed: set engine\."):
        checked(folder, CPU, backend=INT8)
    half_of_x(tmp_path / "half.onnx", {**identity(folder), "stage": "1"})
    quantised.keep(folder, [tmp_path / "half.onnx"])
    with pytest.raises(ValueError, match="of another inpainter: its stage differs"):
        INT8(small_inpainter().denoiser.network, folder, 0)


def test_nothing_is_kept_that_is_not_near(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "model"
    small_inpainter(RESTORER).save(folder)
    monkeypatch.setattr(quantising, "recorded", lambda model: [[]])
    monkeypatch.setattr(quantising, "write_onnx", lambda network, output, about: half_of_x(output, about))
    monkeypatch.setattr(quantising, "quantise", lambda floats, output, calls: shutil.copy(floats, output))
    assert quantising.main([str(folder)]) == 1
    assert "error: stage 0 in this form misses the network's own answer by" in capsys.readouterr().err
    assert quantised.kept(folder) is None


@pytest.mark.parametrize(("far", "wanted"), [((0.2, 0.6), ["integers", "floats"]), ((0.6, 0.6), None)])
def test_a_stage_whose_integers_miss_stays_in_floats(
    far: tuple[float, float], wanted: list[str] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, misses = tmp_path / "cascade", iter(far)
    made = small_cascade()
    torch.nn.init.constant_(next(made.parameters()), far[0])  # a model of its own
    made.save(folder)
    monkeypatch.setattr(quantising, "recorded", lambda model: [[], []])
    monkeypatch.setattr(quantising, "write_onnx", lambda network, output, about: output.write_text("floats"))
    monkeypatch.setattr(quantising, "quantise", lambda floats, output, calls: output.write_text("integers"))
    monkeypatch.setattr(quantising, "read_onnx", lambda file, about: None)
    monkeypatch.setattr(quantising, "try_out", lambda model, rows: None)
    monkeypatch.setattr(quantising, "missed", lambda call, calls: next(misses))
    if wanted is None:
        with pytest.raises(ValueError, match=r"no network of this model is near .* set engine\.backend=eager"):
            quantising.make(folder)
        assert quantised.kept(folder) is None
        return
    quantising.make(folder)
    assert [file.read_text() for file in quantised.kept(folder) or []] == wanted


def test_the_worst_answer_counts() -> None:
    x = torch.tensor([3.0, 4.0]).reshape(1, 2, 1, 1)
    calls = [
        {"x": x.numpy(), "condition": x.numpy(), "time": x[0, 0, 0].numpy(), "output": k * x.numpy()} for k in (1, 2)
    ]
    assert quantising.missed(lambda x, condition, time, told: 1.1 * x, calls) == pytest.approx(0.45)
    assert quantising.missed(lambda x, condition, time, told: x / 0, calls) == torch.inf


def test_what_cannot_be_made_is_said_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    half_of_x(tmp_path / "half.onnx", {})
    with pytest.raises(ValueError, match=r"no convolutions that could be 8-bit integers: set engine\.backend"):
        quantising.quantise(tmp_path / "half.onnx", tmp_path / "out.onnx", [])
    assert quantising.main([str(tmp_path / "nothing")]) == 1
    assert capsys.readouterr().err.startswith("error: no recipe.json in")
    folder = tmp_path / "model"
    small_inpainter().save(folder)
    with pytest.raises(ValueError, match=r"leave engine\.bfloat16 out"):
        local(folder, Unmeasured(), device="cpu", backend="int8", bfloat16=True)
    with pytest.raises(ValueError, match=r"engine\.backend is eager: set engine\.backend=int8"):
        local(folder, Unmeasured(), device="cpu", int8=True)

    def absent(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(quantised, "version", absent)
    with pytest.raises(ValueError, match="not installed: uv sync --extra onnx"):
        local(folder, Unmeasured(), device="cpu", backend="int8")


@pytest.mark.slow
def test_auto_takes_it_where_it_may_and_its_files_are_there(
    served: tuple[Path, Model, list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    no_process: None,
) -> None:
    caplog.set_level(logging.INFO)
    assert "int8" not in candidates(low=True)
    assert list(candidates(low=False, integers=True)) == ["eager", "int8", "onnxruntime"]
    asked: list[bool] = []

    def known(low: bool, integers: bool) -> Any:
        asked.append(integers)
        return {name: BACKENDS[name] for name in (["int8"] if integers else ["eager"])}

    monkeypatch.setattr("diffusion_lab.serving.run.candidates", known)
    fresh = tmp_path / "fresh"
    small_inpainter(REFINER).save(fresh)
    forms = [
        local(folder, Unmeasured(), device="cpu", backend="auto", int8=int8).form
        for folder, int8 in ((served[0], True), (served[0], False), (fresh, True))
    ]
    assert forms == ["int8", "eager", "eager"]
    assert asked == [True, False, False]
    assert caplog.text.count("no int8 yet: start the service with engine.backend=int8 once, which makes it") == 1


def test_the_calls_are_those_of_the_model_s_own_task() -> None:
    task = small_inpainter().task
    image, holes = quantising.given(task, center148(), 32)
    assert image.shape == (8, 3, 32, 32)
    assert float(image.flatten(1).std(1).min()) > 0.1  # faces
    shares = [float(hole.float().mean()) for hole in holes]
    assert shares[0] == 0.25
    assert shares[3] == 1
    restored = small_inpainter(RESTORER)
    given, region = quantising.given(restored.task, center148(), 32)
    assert bool(region.all())
    assert 0 < float((given - image).abs().mean()) < 0.2  # their JPEGs
    first, second = quantising.recorded(small_cascade())
    assert len(first) == len(second) == 3  # network calls
    assert first[0]["x"].shape == (8, 3, 8, 8)
    assert second[0]["condition"].shape == (8, 3, 16, 16)
    assert [*first[0]] == ["x", "condition", "time", "output"]
    again = quantising.recorded(small_cascade())
    assert all((a[k] == b[k]).all() for a, b in zip([*first, *second], [*again[0], *again[1]], strict=True) for k in a)
    assert quantising.given(task, full(), 16)[0].shape == (8, 3, 16, 16)


@pytest.mark.parametrize("exclusive", [True, False])
def test_who_was_always_told_a_class_is_told_one(exclusive: bool) -> None:
    denoiser = {**MODEL["denoiser"], "network": {**UNET, "attributes": 3}}
    model = small_inpainter({**MODEL, "denoiser": denoiser})
    model.recipe["data"] |= {"attributes": ["a", "b", "c"], "exclusive": exclusive}
    (calls,) = quantising.recorded(model)
    told = torch.from_numpy(calls[0]["attributes"])
    assert told.shape == (8, 3)
    if exclusive:
        assert told.sum(1).tolist() == [1.0] * 8
        assert told.sum(0).tolist() == [3.0, 3.0, 2.0]
    else:
        assert bool(told.isnan().all())


@pytest.mark.slow
def test_the_shipped_model_serves_pictures_that_look_as_good(tmp_path: Path) -> None:
    """Through the engine, on faces that neither it nor the ranges have seen."""
    source = quantising.CelebA(quantising.built_in_faces())
    pictures = []
    for name in source.names("test")[:8]:
        picture = center148()(quantising.decode(source.read(name)))
        pictures.append(quantising.from_pil(picture.resize((256, 256), quantising.RESAMPLING)))
    mask = torch.zeros(1, 1, 256, 256, dtype=torch.bool)
    mask[..., 64:192, 64:192] = True
    made: dict[str, list[torch.Tensor]] = {"eager": [], "int8": []}
    for backend, into in made.items():

        async def main(backend: str = backend, into: list[torch.Tensor] = into) -> None:
            engine: LocalEngine = local(inpainting.shipped(), Unmeasured(), device="cpu", backend=backend)
            assert engine.form == backend
            async with ready(engine):
                for seed, image in enumerate(pictures):
                    asked = job(seed, size=256)
                    into.append((await result_of(engine, type(asked)(image[None], mask, (seed,)))).pictures[:, 0])

        asyncio.run(main())  # without a limit: the files take minutes, more on a busy machine
    truth, lpips = torch.stack(pictures), LPIPS().eval()
    with torch.no_grad():
        far = {name: lpips(torch.cat(each), truth).flatten() for name, each in made.items()}
    difference = far["int8"] - far["eager"]
    levels = 127.5 * (torch.cat(made["int8"]) - torch.cat(made["eager"])).abs()[mask.expand_as(truth)]
    assert abs(float(difference.mean())) < 0.1 * float(far["eager"].mean())
    assert 0.1 < float(levels.mean()) < 4


@pytest.mark.slow
def test_a_call_is_what_the_session_says(served: tuple[Path, Model, list[str]]) -> None:
    """The form calls the very file of its stage."""
    made = quantised.kept(served[0])
    assert made is not None
    for number, (stage, file) in enumerate(zip(served[1].stages, made, strict=True)):
        network = stage.denoiser.network
        call: Call = backends.read_onnx(file, {**identity(served[0]), "stage": str(number)})
        given = example(network.network, 2)
        assert isinstance(network.network, UNet)
        with torch.no_grad():
            assert torch.equal(network(*given), call(*given, None))
