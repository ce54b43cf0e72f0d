import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from onnx import TensorProto, helper
from safetensors.torch import save_file

from diffusion_lab import recipe
from diffusion_lab.diffusion.samplers import ddim, dps
from diffusion_lab.inpainting import Inpainter
from diffusion_lab.networks.export import identity
from diffusion_lab.pictures import to_uint8
from diffusion_lab.serving.backends import BACKENDS
from diffusion_lab.serving.engine import Finished, Job, SwapRefused
from diffusion_lab.serving.local import LocalEngine, Unmeasured
from diffusion_lab.serving.run import local
from diffusion_lab.serving.swapping import checked
from patience import PATIENCE

CPU = torch.device("cpu")


def job(seed: int, steps: int = 3, count: int = 1) -> Job:
    generator = torch.Generator().manual_seed(seed)
    image, mask = torch.rand(3, 16, 16, generator=generator) * 2 - 1, torch.rand(1, 16, 16, generator=generator) < 0.4
    return Job(image[None], mask[None], seeds=tuple(range(seed, seed + count)), sampler=ddim(steps=steps))


def levels_between(inpainter: Inpainter, asked: Job, result: Finished) -> int:
    """How many 8-bit levels lie between a result and what the inpainter makes alone."""
    rows = (len(asked.seeds), -1, -1, -1)
    alone = inpainter(asked.image.expand(rows), asked.mask.expand(rows), seeds=asked.seeds, sampler=asked.sampler)
    return int((to_uint8(result.pictures[:, 0]).int() - to_uint8(alone).int()).abs().max())


def other(inpainter: Inpainter) -> Inpainter:
    """Another model of the same recipe."""
    made: Inpainter = recipe.build(inpainter.recipe["model"])
    torch.manual_seed(1)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    made.recipe = inpainter.recipe
    return made.eval()


def sign(folder: Path) -> None:
    """Writes the manifest of what the folder holds now."""
    files = [path for path in folder.iterdir() if path.name != "manifest.json"]
    digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    (folder / "manifest.json").write_text(json.dumps({"files": digests}))


def version(inpainter: Inpainter, folder: Path) -> Path:
    """A version of a registry, with its golden picture and its manifest."""
    inpainter.save(folder)
    asked = job(99)
    image, mask = asked.image, asked.mask
    save_file(
        {"image": image, "mask": mask, "output": inpainter(image, mask, seeds=[0])}, folder / "golden.safetensors"
    )
    sign(folder)
    return folder


def half_of_x(path: Path, about: Mapping[str, str]) -> None:
    """Writes a graph that a network of 16 pixels could be, and that answers x / 2."""
    names = {"x": 3, "condition": 3}
    pictures = {n: helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", c, 16, 16]) for n, c in names.items()}
    time = helper.make_tensor_value_info("time", TensorProto.FLOAT, ["batch"])
    output = helper.make_tensor_value_info("output", TensorProto.FLOAT, ["batch", 3, 16, 16])
    half = helper.make_tensor("half", TensorProto.FLOAT, [], [0.5])
    node = helper.make_node("Mul", ["x", "half"], ["output"])
    graph = helper.make_graph([node], "half", [*pictures.values(), time], [output], [half])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    helper.set_model_props(model, dict(about))
    onnx.save(model, path)


@asynccontextmanager
async def ready(engine: LocalEngine) -> AsyncIterator[LocalEngine]:
    await engine.ready()
    try:
        yield engine
    finally:
        await engine.drain(0)


async def result_of(engine: LocalEngine, asked: Job) -> Finished:
    last = [event async for event in engine.submit(asked)][-1]
    assert isinstance(last, Finished)
    return last


def run(coroutine: Coroutine[Any, Any, None], seconds: float = PATIENCE) -> None:
    asyncio.run(asyncio.wait_for(coroutine, seconds))


def test_a_file_of_the_manifest_serves_in_the_network_s_place(inpainter: Inpainter, tmp_path: Path) -> None:
    folder = tmp_path / "faces" / "1"
    inpainter.save(folder)
    half_of_x(folder / "model.onnx", identity(folder))
    sign(folder)
    model = checked(folder, CPU, backend=BACKENDS["onnxruntime"])
    x = torch.randn(5, 3, 16, 16)
    network = model.inpainter.denoiser.network
    with torch.no_grad():
        assert torch.equal(network(x, x, torch.ones(5)), x / 2)
    assert torch.equal(network(x, x, torch.ones(5)), inpainter.denoiser.network(x, x, torch.ones(5)))  # has a gradient


def test_the_golden_picture_is_held_against_the_file(inpainter: Inpainter, tmp_path: Path) -> None:
    folder = version(inpainter, tmp_path / "faces" / "1")
    half_of_x(folder / "model.onnx", identity(folder))
    sign(folder)
    assert checked(folder, CPU).version == "faces@1"
    with pytest.raises(SwapRefused, match=r"golden.*levels of 255 away"):
        checked(folder, CPU, backend=BACKENDS["onnxruntime"])


def test_a_swap_keeps_the_backend_and_refuses_a_file_of_another_model(inpainter: Inpainter, tmp_path: Path) -> None:
    first, good, bad = (tmp_path / "faces" / name for name in "123")
    for folder, made in ((first, inpainter), (good, other(inpainter)), (bad, inpainter)):
        made.save(folder)
        half_of_x(folder / "model.onnx", identity(good if folder == bad else folder))
        sign(folder)

    async def main() -> None:
        async with ready(local(first, Unmeasured(), device="cpu", backend="onnxruntime")) as engine:
            before = await result_of(engine, job(1))
            with pytest.raises(SwapRefused, match="of another inpainter: its weights differs"):
                await engine.swap(bad)
            assert await engine.swap(good) == "faces@2"
            after = await result_of(engine, job(1))
            assert (before.version, after.version) == ("faces@1", "faces@2")
            assert torch.equal(before.pictures, after.pictures)  # other weights, but the same graph answers

    run(main())


@pytest.mark.parametrize(
    ("device", "backend", "message"),
    [
        ("cpu", "tensorrt", "engine.backend=tensorrt is none of eager, compiled, onnxruntime"),
        ("meta", "onnxruntime", "engine.backend=onnxruntime serves on the CPU, not on meta: set engine.device=cpu"),
    ],
)
def test_a_backend_that_cannot_be_is_refused(
    device: str, backend: str, message: str, inpainter: Inpainter, tmp_path: Path
) -> None:
    inpainter.save(tmp_path / "inpainter")
    with pytest.raises(ValueError, match=message):
        local(tmp_path / "inpainter", Unmeasured(), device=device, backend=backend)


def test_bfloat16_is_served_if_asked_for(inpainter: Inpainter, tmp_path: Path) -> None:
    folder = version(inpainter, tmp_path / "faces" / "1")

    async def main() -> None:
        made = []
        for bfloat16 in (False, True):
            async with ready(local(folder, Unmeasured(), device="cpu", bfloat16=bfloat16)) as engine:
                made.append((await result_of(engine, job(1))).pictures)
        assert not torch.equal(*made)
        assert float((made[0] - made[1]).abs().mean()) < 0.05

    run(main())
    with pytest.raises(ValueError, match=r"leave engine\.bfloat16 out"):
        local(folder, Unmeasured(), device="cpu", backend="onnxruntime", bfloat16=True)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["onnxruntime", "compiled"])
def test_jobs_are_done_alike_before_and_after_a_swap_under_load(
    backend: str, inpainter: Inpainter, tmp_path: Path
) -> None:
    models = {"faces@1": inpainter, "faces@2": other(inpainter)}
    first, second = (version(made, tmp_path / name.replace("@", "/")) for name, made in models.items())
    made: list[tuple[Job, Finished]] = []

    async def main() -> None:
        async with ready(local(first, Unmeasured(), device="cpu", backend=backend)) as engine:
            compiles = torch._dynamo.utils.counters["stats"]["unique_graphs"]
            done = asyncio.Event()

            async def client(seed: int) -> None:
                while not done.is_set():
                    asked = job(seed, steps=3 + seed, count=1 + seed % 3)
                    made.append((asked, await result_of(engine, asked)))

            clients = [asyncio.create_task(client(seed)) for seed in range(4)]
            while len(made) < 8:
                await asyncio.sleep(0.01)
            assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == compiles  # all of it before the first job
            before = len(made)
            assert await engine.swap(second) == "faces@2"
            served = len(made)
            assert served > before  # nobody waited for the new form
            while len(made) < served + 8:
                await asyncio.sleep(0.01)
            done.set()
            await asyncio.gather(*clients)
            gradient = Job(job(7).image, job(7).mask, (7,), dps(steps=3))
            made.append((gradient, await result_of(engine, gradient)))

    run(main(), seconds=1500)
    assert {result.version for _, result in made} == set(models)
    for asked, result in [*made[:6], *made[-6:]]:
        assert levels_between(models[result.version], asked, result) <= 1
