import asyncio
import hashlib
import json
import pickle
import shutil
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from diffusion_lab import recipe
from diffusion_lab.diffusion.samplers import ddim
from diffusion_lab.inpainting import Inpainter, version_of
from diffusion_lab.serving import swapping
from diffusion_lab.serving.engine import Finished, Job, Stepped, SwapRefused
from diffusion_lab.serving.local import LocalEngine
from diffusion_lab.serving.swapping import checked
from patience import PATIENCE

CPU = torch.device("cpu")


def picture(seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(1, 3, 16, 16, generator=generator) * 2 - 1, torch.rand(1, 1, 16, 16, generator=generator) < 0.4


def job(seed: int, steps: int = 3) -> Job:
    return Job(*picture(seed), seeds=(seed,), sampler=ddim(steps=steps))


def alone(inpainter: Inpainter, asked: Job) -> Tensor:
    return inpainter(asked.image, asked.mask, seeds=asked.seeds, sampler=asked.sampler)[:, None]


def sign(folder: Path) -> None:
    """Writes the manifest of what the folder holds now."""
    files = [path for path in folder.iterdir() if path.name != "manifest.json"]
    digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    (folder / "manifest.json").write_text(json.dumps({"files": digests}))


@pytest.fixture
def candidate(inpainter: Inpainter, tmp_path: Path) -> Path:
    """A version of a registry: another model of the same size, with its golden picture and its manifest."""
    other: Inpainter = recipe.build(inpainter.recipe["model"])
    torch.manual_seed(1)
    for parameter in other.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    other.recipe = inpainter.recipe
    folder = tmp_path / "faces" / "2"
    other.eval().save(folder)
    image, mask = picture(99)
    golden = {"image": image, "mask": mask, "output": other(image, mask, seeds=[0])}
    save_file(golden, folder / "golden.safetensors")
    sign(folder)
    return folder


@asynccontextmanager
async def running(inpainter: Inpainter) -> AsyncIterator[LocalEngine]:
    engine = LocalEngine(inpainter, "faces@1")
    await engine.ready()
    try:
        yield engine
    finally:
        await engine.drain(0)


async def result_of(engine: LocalEngine, asked: Job) -> Finished:
    last = [event async for event in engine.submit(asked)][-1]
    assert isinstance(last, Finished)
    return last


def run(coroutine: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(coroutine, PATIENCE))


def test_new_jobs_get_the_new_model_and_running_ones_end_on_the_old(inpainter: Inpainter, candidate: Path) -> None:
    new = Inpainter.load(candidate)
    asked, fresh = job(1, steps=6), job(2, steps=3)
    go = threading.Event()
    calls: list[str] = []

    def hold(*_: Any) -> None:
        calls.append("old")
        assert len(calls) == 1 or go.wait(PATIENCE)

    async def main() -> None:
        async with running(inpainter) as engine:
            inpainter.denoiser.register_forward_pre_hook(hold)
            events = engine.submit(asked)
            while not isinstance(await anext(events), Stepped):
                pass
            assert await engine.swap(candidate) == engine.version == "faces@2"
            engine.inpainter.denoiser.register_forward_pre_hook(lambda *_: calls.append("new"))
            task = asyncio.create_task(result_of(engine, fresh))
            while engine.stats().queued == 0:
                await asyncio.sleep(0.001)
            go.set()
            old = [event async for event in events][-1]
            assert isinstance(old, Finished)
            assert (old.version, (await task).version) == ("faces@1", "faces@2")
            assert calls == ["old"] * 2 + ["old", "new"] * 3 + ["old"]  # three steps with both
            assert torch.allclose(old.pictures, alone(inpainter, asked), atol=1 / 255)
            assert torch.allclose((await task).pictures, alone(new, fresh), atol=1 / 255)

    run(main())


def flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 0x40
    path.write_bytes(content)


def flipped_byte(folder: Path) -> None:
    flip(folder / "model.safetensors", -100)


def flipped_byte_of_the_header(folder: Path) -> None:
    (folder / "manifest.json").unlink()
    flip(folder / "model.safetensors", 9)


def flipped_byte_of_the_recipe(folder: Path) -> None:
    flip(folder / "recipe.json", 30)


def change(folder: Path, function: Callable[[dict[str, Tensor]], None]) -> None:
    state = load_file(folder / "model.safetensors")
    function(state)
    save_file(state, folder / "model.safetensors")
    sign(folder)


def wrong_shape(folder: Path) -> None:
    def reshape(state: dict[str, Tensor]) -> None:
        name = next(iter(state))
        state[name] = torch.zeros(7, 7)

    change(folder, reshape)


def missing_tensor(folder: Path) -> None:
    change(folder, lambda state: state.__delitem__(next(iter(state))))


def nan_weights(folder: Path) -> None:
    def spoil(state: dict[str, Tensor]) -> None:
        next(iter(state.values())).view(-1)[0] = torch.nan

    change(folder, spoil)


def other_weights(folder: Path) -> None:
    def shift(state: dict[str, Tensor]) -> None:
        for tensor in state.values():
            tensor *= 1.5

    change(folder, shift)


class Trap:
    """Leaves a trace when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.trace,)


def pickle_in_place_of_weights(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(pickle.dumps(Trap(folder / "executed")))
    sign(folder)


def checkpoint_alone(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()
    torch.save(Trap(folder / "executed"), folder / "last.ckpt")


def another_image_size(folder: Path) -> None:
    described = recipe.read(folder)
    described["data"]["image_size"] = 32
    (folder / "recipe.json").write_text(json.dumps(described))
    sign(folder)


def foreign_target(folder: Path) -> None:
    described = recipe.read(folder)
    described["model"] = {"_target_": "os.system", "command": f"touch {folder / 'executed'}"}
    (folder / "recipe.json").write_text(json.dumps(described))
    sign(folder)


def missing_recipe(folder: Path) -> None:
    (folder / "recipe.json").unlink()


def manifest_of_other_files(folder: Path) -> None:
    (folder / "manifest.json").write_text(json.dumps({"files": {}}))


def manifest_that_reaches_out(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder.parents[1] / "secret").write_bytes(b"")
    manifest["files"]["../../secret"] = hashlib.sha256(b"").hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))


def manifest_that_is_no_json(folder: Path) -> None:
    (folder / "manifest.json").write_text("{")


def damaged_golden_picture(folder: Path) -> None:
    (folder / "golden.safetensors").write_bytes(b"no tensors")
    sign(folder)


def absent(folder: Path) -> None:
    shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (flipped_byte, "not the file"),
        (flipped_byte_of_the_header, "damaged"),
        (flipped_byte_of_the_recipe, "not the file"),
        (wrong_shape, "misshapen"),
        (missing_tensor, "missing"),
        (nan_weights, "holds values that are no numbers"),
        (other_weights, "levels of 255"),
        (pickle_in_place_of_weights, "damaged"),
        (checkpoint_alone, "no recipe.json"),
        (another_image_size, "32 px"),
        (foreign_target, "os.system"),
        (missing_recipe, "recipe.json"),
        (manifest_of_other_files, "does not name"),
        (manifest_that_reaches_out, "secret"),
        (manifest_that_is_no_json, "cannot serve"),
        (damaged_golden_picture, "cannot serve"),
        (absent, "no recipe.json"),
    ],
)
def test_what_is_not_fit_is_refused_and_no_job_is_lost(
    inpainter: Inpainter, candidate: Path, damage: Callable[[Path], None], reason: str
) -> None:
    damage(candidate)

    async def main() -> None:
        async with running(inpainter) as engine:
            jobs = [job(i, steps=20) for i in range(3)]
            tasks = [asyncio.create_task(result_of(engine, one)) for one in jobs]
            with pytest.raises(SwapRefused, match=reason):
                await engine.swap(candidate)
            assert engine.version == "faces@1"
            assert engine.stats().ready
            for one, finished in zip(jobs, await asyncio.gather(*tasks), strict=True):
                assert finished.version == "faces@1"
                assert torch.allclose(finished.pictures, alone(inpainter, one), atol=1 / 255)
            assert (await result_of(engine, job(5))).version == "faces@1"
            assert not (candidate / "executed").exists()

    run(main())


def test_a_golden_picture_may_round_otherwise(candidate: Path) -> None:
    golden = load_file(candidate / "golden.safetensors")
    golden["output"] = golden["output"] + torch.where(golden["mask"], 5 / 127.5, 0)
    save_file(golden, candidate / "golden.safetensors")
    sign(candidate)
    assert checked(candidate, CPU).image_size == 16


def test_a_run_s_folder_needs_neither_manifest_nor_golden_picture(inpainter: Inpainter, tmp_path: Path) -> None:
    inpainter.save(tmp_path / "inpainter")
    model = checked(tmp_path / "inpainter", CPU, image_size=16)
    assert model.version == hashlib.sha256((tmp_path / "inpainter" / "model.safetensors").read_bytes()).hexdigest()[:12]
    assert torch.equal(alone(model.inpainter, job(1)), alone(inpainter, job(1)))


def test_versions_are_named_after_their_place_in_a_registry(candidate: Path) -> None:
    assert version_of(candidate) == "faces@2"


def test_neither_the_loop_nor_the_jobs_wait_for_a_slow_load(
    inpainter: Inpainter, candidate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loading, go = threading.Event(), threading.Event()

    def slow(*arguments: Any) -> Any:
        loading.set()
        assert go.wait(PATIENCE)
        return checked(*arguments)

    monkeypatch.setattr("diffusion_lab.serving.local.checked", slow)

    async def main() -> None:
        async with running(inpainter) as engine:
            swap = asyncio.create_task(engine.swap(candidate))
            while not loading.is_set():
                await asyncio.sleep(0.001)
            assert (await result_of(engine, job(1))).version == "faces@1"
            assert not swap.done()
            go.set()
            assert await swap == "faces@2"
            assert (await result_of(engine, job(1))).version == "faces@2"

    run(main())


def test_an_engine_that_ends_takes_no_new_model(inpainter: Inpainter, candidate: Path) -> None:
    async def main() -> None:
        async with running(inpainter) as engine:
            await engine.drain(0)
            with pytest.raises(SwapRefused, match="about to end"):
                await engine.swap(candidate)

    run(main())


@pytest.mark.slow
def test_good_and_bad_models_by_turns_under_load_lose_no_job(inpainter: Inpainter, candidate: Path) -> None:
    bad = candidate.with_name("3")
    shutil.copytree(candidate, bad)
    flipped_byte(bad)
    good = candidate.with_name("1")
    shutil.copytree(candidate, good)

    async def main() -> None:
        versions: set[str] = set()
        async with running(inpainter) as engine:
            done = asyncio.Event()

            async def client(i: int) -> int:
                count = 0
                while not done.is_set():
                    versions.add((await result_of(engine, job(i, steps=3 + i))).version)
                    count += 1
                return count

            clients = [asyncio.create_task(client(i)) for i in range(6)]
            for i in range(20):
                if i % 2:
                    with pytest.raises(SwapRefused):
                        await engine.swap(bad)
                else:
                    await engine.swap([candidate, good][i // 2 % 2])
            done.set()
            assert min(await asyncio.gather(*clients)) > 0
        assert versions <= {"faces@1", "faces@2"}

    run(main())


def test_the_tolerance_is_what_the_message_says(candidate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(swapping, "MOST_LEVELS", -1)
    with pytest.raises(SwapRefused, match="up to 0 levels of 255 away, where -1"):
        checked(candidate, CPU)
