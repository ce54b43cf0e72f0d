"""A cascade in the engine: a job walks through its stages, and shares every stage's calls with who stands there."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from engines import Elementwise, alone, begun, code_of, elementwise, events_of, job, result_of, run, running, until
from fakes import Heard
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn

from diffusion_lab import recipe, tasks
from diffusion_lab.cascade import AGAIN, MOST, Cascade, load, reduced
from diffusion_lab.data.degradations import noisy_reduced
from diffusion_lab.diffusion.denoiser import Prediction
from diffusion_lab.diffusion.samplers import ddim, ddpm, dpm_solver, heun, repaint
from diffusion_lab.inpainting import Inpainter
from diffusion_lab.networks import export
from diffusion_lab.pictures import to_uint8
from diffusion_lab.serving.backends import BACKENDS
from diffusion_lab.serving.batching import begin
from diffusion_lab.serving.engine import Finished, Queued, Stepped, SwapRefused
from diffusion_lab.serving.local import LocalEngine
from diffusion_lab.serving.replica import Replica
from diffusion_lab.serving.settings import offered
from diffusion_lab.serving.swapping import checked
from diffusion_lab.tasks import refinement
from small import COARSE, MODEL, RESTORER, small_cascade, small_inpainter

CPU = torch.device("cpu")
SAMPLERS = [
    None,
    ddim(steps=2),
    ddpm(steps=6),
    heun(steps=3),
    dpm_solver(steps=4),
    repaint(steps=4, jump=2, resamples=2),
]


def of_elementwise(sizes: tuple[int, ...] = (4, 8), steps: int = 3) -> tuple[Cascade, list[Elementwise]]:
    """A cascade of networks that can be watched; refiners take so many steps, the first stage takes five."""
    networks = [Elementwise() for _ in sizes]
    stages = [elementwise(network) for network in networks]
    for stage in stages[1:]:
        stage.task, stage.sampler = refinement(noisy_reduced), ddim(steps=steps)
    cascade = Cascade(stages, sizes)
    cascade.recipe = {"data": {"image_size": sizes[-1], "crop": "full"}}
    return cascade.eval(), networks


@settings(max_examples=20, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, len(SAMPLERS) - 1),
            st.integers(1, 3),
            st.integers(1, 2),
            st.sampled_from([8, 8, 16, 32]),
            st.integers(0, 6),
        ),
        min_size=1,
        max_size=7,
    ),
    st.integers(1, 6),
    st.sampled_from([(4, 8), (8, 8), (2, 4, 8)]),
)
def test_a_job_is_the_same_bit_for_bit_in_any_company(
    asked: list[tuple[int, int, int, int, int]], max_batch: int, sizes: tuple[int, ...]
) -> None:
    cascade, networks = of_elementwise(sizes)

    async def main() -> None:
        async with running(cascade, max_batch=max_batch) as engine:

            async def arrive(i: int, sampler: int, n: int, parts: int, side: int, after: int) -> None:
                await asyncio.sleep(after / 2000)
                mine = job(i, *range(50 * i, 50 * i + n - 1), sampler=SAMPLERS[sampler], parts=parts, size=side)
                events = await events_of(engine, mine)
                finished, calls = events[-1], cascade.network_calls(mine.sampler, side)
                assert isinstance(finished, Finished)
                assert torch.equal(finished.pictures, alone(cascade, mine))
                assert finished.network_calls == calls
                steps = [event.step for event in events if isinstance(event, Stepped)]
                assert steps == list(range(1, calls + 1))

            await asyncio.gather(*(arrive(i, *one) for i, one in enumerate(asked)))
            # The cascade alone, which is compared with, asks for up to three, or so many windows.
            assert max(rows for network in networks for rows in network.calls) <= MOST

    run(main())


def test_jobs_of_a_real_network_are_within_one_level_of_the_cascade_alone() -> None:
    cascade = small_cascade()
    jobs = [job(i, i + 10, sampler=sampler, size=16) for i, sampler in enumerate(SAMPLERS)]

    async def main() -> None:
        async with running(cascade) as engine:
            finished = await asyncio.gather(*(result_of(engine, one) for one in jobs))
        for one, result in zip(jobs, finished, strict=True):
            # A coarse pixel that is rounded otherwise is a level on its way to the refiner, which may double it.
            missed = (to_uint8(result.pictures).int() - to_uint8(alone(cascade, one)).int()).abs()
            assert int(missed.max()) <= 2
            known = ~one.mask.expand_as(result.pictures)
            assert torch.equal(result.pictures[known], one.image.expand_as(result.pictures)[known])

    run(main())


def test_stages_go_on_side_by_side_and_each_shares_its_calls() -> None:
    cascade, (coarse, fine) = of_elementwise(steps=3)

    async def main() -> None:
        async with running(cascade) as engine:
            coarse.held = True
            first = await begun(engine, job(1))
            coarse.let(4)
            await until(lambda: len(coarse.calls) == 5)  # in the last step of its first stage
            others = [await begun(engine, job(2)), await begun(engine, job(3, sampler=ddim(steps=2)))]
            coarse.held = False
            coarse.let(1)
            await asyncio.gather(first, *others)
            # The first refines beside the others' coarse steps; the third comes after two of them, the second after 5.
            assert coarse.calls == [1] * 5 + [2, 2, 1, 1, 1]
            assert fine.calls == [1, 1, 2, 1, 1, 1, 1, 1]

    run(main())


def test_four_clients_ask_ten_calls_where_each_alone_asks_eight() -> None:
    """Network calls of four jobs of 5 + 3 steps: the first begins a step before the others, and that is all."""
    cascade, (coarse, fine) = of_elementwise(steps=3)

    async def main() -> None:
        async with running(cascade) as engine:
            coarse.held = True
            first = await begun(engine, job(1))
            await until(lambda: len(coarse.calls) == 1)
            others = [await begun(engine, job(seed)) for seed in (2, 3, 4)]
            coarse.held = False
            coarse.let(1)
            finished = await asyncio.gather(first, *others)
        assert (coarse.calls, fine.calls) == ([1, 4, 4, 4, 4, 3], [1, 4, 4, 3])
        assert [result.network_calls for result in finished] == [8] * 4

    run(main())


def test_a_large_square_shares_its_windows_calls_with_a_small_one_s_second_stage() -> None:
    cascade, (coarse, fine) = of_elementwise(steps=3)
    wide, small = job(1, size=16), job(2)
    wide.mask.fill_(True)
    again = AGAIN.network_calls(cascade.stages[1].denoiser.schedule)

    async def main() -> None:
        async with running(cascade) as engine:
            fine.held = True
            first = await begun(engine, wide)
            await until(lambda: len(fine.calls) == 1)  # in the first step of its second stage
            second = await begun(engine, small)
            fine.held = False
            fine.let(1)
            finished = [await first, await second]
            # Five coarse steps of the second go beside two of the first's second stage and three of its windows'.
            assert (coarse.calls, fine.calls) == ([1] * 10, [1] * 3 + [9] * (again - 1) + [10, 1, 1])
            for asked, made in zip((wide, small), finished, strict=True):
                assert torch.equal(made.pictures, alone(cascade, asked))

    run(main())


def test_a_job_that_was_cut_for_larger_squares_is_filled_in_small_ones(tmp_path: Path) -> None:
    """A swap came between; of a side that no model had it is refused."""
    plain, cascade = small_inpainter(), small_cascade()
    folder = saved(plain, tmp_path / "plain")
    asked = job(1, size=64)

    async def main() -> None:
        async with running(cascade) as engine:
            assert (engine.sides, engine.image_size) == ((16, 32, 64), 16)
            assert (await result_of(engine, asked)).pictures.shape[-1] == 64
            await engine.swap(folder)
            assert engine.sides == (16,)
            made = (await result_of(engine, asked)).pictures
            wanted = plain(*reduced(asked.image, asked.mask, 4), seeds=[1])
            assert (made[:, 0] - wanted).abs().max() <= 2 / 255
            with pytest.raises(ValueError, match="images of 3x16x16 or 3x32x32 or 3x64x64"):
                await anext(engine.submit(job(1, size=48)))

    run(main())


def test_previews_of_a_large_square_are_small_and_show_what_was_known() -> None:
    cascade = small_cascade()
    asked = job(1, 2, size=64, previews=50)
    asked.mask[:] = False
    asked.mask[..., 8:40, 12:52] = True
    small, hole = reduced(asked.image, asked.mask, 4)

    async def main() -> None:
        async with running(cascade) as engine:
            events = await events_of(engine, asked)
        shown = {event.step: event.preview for event in events if isinstance(event, Stepped)}
        assert [step for step, preview in shown.items() if preview is not None] == [*range(1, 10)]
        known = ~hole.expand(2, 1, 3, -1, -1)
        for step in range(1, 10):
            preview = shown[step]
            assert preview is not None
            assert preview.shape == (2, 1, 3, 16, 16)
            assert torch.equal(preview[known], to_uint8(small.expand(2, -1, -1, -1, -1))[known])
        last, ended = events[-1], shown[9]
        assert isinstance(last, Finished)
        assert ended is not None
        seen = torch.nn.functional.avg_pool2d(last.pictures.flatten(0, 1), 4)[:, None]
        assert (to_uint8(seen).int() - ended.int())[~known].abs().float().mean() < 40

    run(main())


def test_beyond_white_a_preview_is_white_before_it_is_enlarged() -> None:
    """Or black: else what is far beyond would colour the pixels around it."""
    cascade, _ = of_elementwise()
    asked = job(1)
    asked.mask.fill_(True)
    walk = begin(cascade, asked.image, asked.mask, asked.seeds, None)
    far = 5 * torch.randn(walk.given.shape, generator=torch.Generator().manual_seed(0))
    previews = [replace(walk, seen=Prediction(x, x)).preview() for x in (far, far.clamp(-1, 1))]
    assert previews[0].shape == (1, 3, 8, 8)
    assert walk.given.shape == (1, 3, 4, 4)
    assert torch.equal(*previews)


def test_previews_are_of_the_model_s_size_in_every_stage() -> None:
    cascade = small_cascade()
    asked = job(1, 2, size=16, previews=50)

    async def main() -> None:
        async with running(cascade) as engine:
            events = await events_of(engine, asked)
        assert events[0] == Queued(0)
        shown = {event.step: event.preview for event in events if isinstance(event, Stepped)}
        assert [step for step, preview in shown.items() if preview is not None] == [1, 2, 3, 4, 5]
        known = ~asked.mask.expand(2, 1, 3, -1, -1)
        for step in range(1, 6):
            preview = shown[step]
            assert preview is not None
            assert preview.shape == (2, 1, 3, 16, 16)
            assert torch.equal(preview[known], to_uint8(asked.image.expand(2, -1, -1, -1, -1))[known])
        # When the first stage has ended, what is seen is its filling, before the refiner has said anything.
        image, mask = asked.image.expand(2, -1, -1, -1), asked.mask.expand(2, -1, -1, -1)
        filled = cascade.first(*cascade.asked(0, image, mask, None), seeds=asked.seeds)
        given, _ = cascade.asked(1, image, mask, filled)
        assert (shown[3][:, 0].int() - to_uint8(given).int()).abs().max() <= 1  # type: ignore[index]

    run(main())


def test_a_job_that_is_given_up_in_its_second_stage_frees_its_place() -> None:
    cascade, (_, fine) = of_elementwise()
    heard = Heard()

    async def main() -> None:
        async with running(cascade, measures=heard, max_batch=1) as engine:
            fine.held = True
            events = engine.submit(job(0))
            assert await anext(events) == Queued(0)
            await fine.inside()
            waiting = await begun(engine, job(1))
            await events.aclose()
            fine.held = False
            fine.let(1)
            assert torch.equal((await waiting).pictures, alone(cascade, job(1)))
            assert fine.calls[:4] == [1] * 4  # one of the first job's, three of the second's
            assert len(fine.calls) == 4 + 3  # and three alone
            assert heard.gone == ["running"]
            assert engine.stats().running == 0

    run(main())


@pytest.mark.parametrize("raises", [True, False])
@pytest.mark.parametrize("stage", [0, 1])
def test_what_goes_wrong_in_a_stage_fails_its_job_alone(stage: int, raises: bool) -> None:
    cascade, networks = of_elementwise()

    def fault(channels: Tensor, output: Tensor) -> Tensor:
        poisoned = (channels[:, :3] == 7).flatten(1).any(1)
        if raises and bool(poisoned.any()):
            raise RuntimeError("seven")
        return torch.where(poisoned.reshape(-1, 1, 1, 1), torch.nan, output)

    networks[stage].fault = fault
    bad = job(0)
    bad.image.fill_(7.0)
    bad.mask[..., :4], bad.mask[..., 4:] = True, False

    async def main() -> None:
        async with running(cascade) as engine:
            sound = [job(i) for i in range(1, 4)]
            tasks = [asyncio.create_task(result_of(engine, one)) for one in sound]
            assert await code_of(engine, bad) == ("engine_error" if raises else "non_finite_output")
            for one, finished in zip(sound, await asyncio.gather(*tasks), strict=True):
                assert torch.equal(finished.pictures, alone(cascade, one))

    run(main())


def test_the_warm_up_asks_every_stage_for_a_full_batch() -> None:
    cascade, networks = of_elementwise((2, 4, 8))

    async def main() -> None:
        engine = LocalEngine(cascade, "first", max_batch=5)
        await engine.ready()
        assert [network.calls for network in networks] == [[1, 5]] * 3
        await engine.drain(1)

    run(main())


def saved(model: Cascade | Inpainter, folder: Path) -> Path:
    """A model's folder, with the picture that it makes of seed 0."""
    model.save(folder)
    asked = job(99, size=16)
    image, mask = asked.image, asked.mask
    golden = {"image": image, "mask": mask, "output": model(image, mask, seeds=[0])}
    save_file(golden, folder / "golden.safetensors")
    return folder


def test_an_inpainter_and_a_cascade_of_one_size_take_turns(tmp_path: Path) -> None:
    plain, cascade = small_inpainter(), small_cascade()
    folders = [saved(model, tmp_path / name) for model, name in ((cascade, "cascade"), (plain, "plain"))]
    asked = job(1, size=16)

    async def main() -> None:
        async with running(plain) as engine:
            for folder, model in zip(folders, (cascade, plain), strict=True):
                version = await engine.swap(folder)
                finished = await result_of(engine, asked)
                assert finished.version == version == engine.version
                assert finished.network_calls == model.network_calls()
                assert (finished.pictures - alone(model, asked)).abs().max() <= 2 / 255

    run(main())


def test_a_swap_to_another_task_is_refused_in_a_sentence(tmp_path: Path) -> None:
    small_inpainter(RESTORER).save(tmp_path / "restorer")

    async def main() -> None:
        async with running(small_cascade()) as engine:
            with pytest.raises(SwapRefused, match="is for the task jpeg and the service for inpainting: serve"):
                await engine.swap(tmp_path / "restorer")
            assert engine.task.name == "inpainting"
            assert (await result_of(engine, job(1, size=16))).version == "first"

    run(main())


def test_a_replica_finds_another_task_unfit(tmp_path: Path) -> None:
    for name, model in (
        ("cascade", small_cascade()),
        ("plain", small_inpainter()),
        ("jpeg", small_inpainter(RESTORER)),
    ):
        model.save(tmp_path / name)

    async def main() -> None:
        replica = Replica(tmp_path / "cascade", "cpu", max_batch=2, max_queue=2, seconds=60)
        await replica.reconfigure({})
        assert await replica.unfit(tmp_path / "plain") is None
        assert "is for the task jpeg" in (await replica.unfit(tmp_path / "jpeg") or "")

    run(main())
    assert tasks.of(recipe.read(tmp_path / "cascade")).name == "inpainting"  # as the front of the replicas reads it
    assert tasks.of(recipe.read(tmp_path / "jpeg")).holes is False


def test_a_cascade_is_checked_as_a_whole(tmp_path: Path) -> None:
    folder = saved(small_cascade(), tmp_path / "cascade")
    model = checked(folder, CPU, image_size=16)
    assert isinstance(model.inpainter, Cascade)
    assert model.task.name == "inpainting"
    with pytest.raises(SwapRefused, match="is for 16 px and the service for 8"):
        checked(folder, CPU, image_size=8)
    broken = load(folder)
    with torch.no_grad():
        next(broken.stages[1].parameters()).fill_(torch.nan)
    broken.save(tmp_path / "broken")
    with pytest.raises(SwapRefused, match=r"'inpainters\.1\..*' of '.*broken' holds values that are no numbers"):
        checked(tmp_path / "broken", CPU)
    other = load(folder)
    with torch.no_grad():
        for parameter in other.stages[1].parameters():
            parameter.mul_(3)
    golden = (folder / "golden.safetensors").read_bytes()
    other.save(folder)
    (folder / "golden.safetensors").write_bytes(golden)
    with pytest.raises(SwapRefused, match="levels of 255 away"):
        checked(folder, CPU)


def test_onnx_says_that_it_holds_one_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved(small_cascade(), tmp_path / "cascade")
    with pytest.raises(SwapRefused, match=r"cascade' cannot serve: it is a cascade, .*engine\.backend=eager"):
        checked(tmp_path / "cascade", CPU, backend=BACKENDS["onnxruntime"])
    assert export.main([str(tmp_path / "cascade"), "--output", str(tmp_path / "model.onnx")]) == 1
    assert "is a cascade, and a file holds one network" in capsys.readouterr().err


def test_every_stage_serves_in_the_backend_s_form(tmp_path: Path) -> None:
    """A swap too brings each of the networks into it."""
    folder = saved(small_cascade(), tmp_path / "cascade")
    called: list[int] = []

    def form(network: nn.Module, folder: Path, stage: int) -> nn.Module:
        assert network.image_size == (8, 16)[stage]
        unet = export.exportable(network)

        def call(x: Tensor, condition: Tensor, time: Tensor, attributes: Tensor | None) -> Tensor:
            called.append(x.shape[-1])
            made: Tensor = network(x, condition, time, attributes)
            return made

        return export.Called(unet, call)

    async def main() -> None:
        async with running(small_inpainter(), backend=form) as engine:
            await engine.swap(folder)
            called.clear()
            finished = await result_of(engine, job(1, size=16))
            assert (finished.pictures - alone(small_cascade(), job(1, size=16))).abs().max() <= 2 / 255
        assert called == [8] * 3 + [16] * 3

    run(main())


@pytest.mark.slow
def test_every_stage_is_compiled(tmp_path: Path) -> None:
    cascade = small_cascade()
    folder = saved(cascade, tmp_path / "cascade")
    model = checked(folder, CPU, backend=BACKENDS["compiled"])
    assert all(stage.denoiser.network.call is not None for stage in model.inpainter.stages)
    asked = job(1, 2, size=16)

    async def main() -> None:
        compiles = torch._dynamo.utils.counters["stats"]["unique_graphs"]
        assert compiles >= 2
        async with running(model.inpainter, max_batch=2) as engine:
            finished = await result_of(engine, asked)
        missed = to_uint8(finished.pictures).int() - to_uint8(alone(cascade, asked)).int()
        assert int(missed.abs().max()) <= 2
        assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == compiles

    run(main())


def test_samplers_and_steps_are_those_of_the_first_stage() -> None:
    coarse = {**COARSE, "sampler": {"_target_": "diffusion_lab.diffusion.samplers.heun", "steps": 7}}
    cascade = {"model": {"stages": [coarse, MODEL], "sizes": [8, 16]}}
    assert list(offered(cascade)) == ["heun", "ddpm", "ddim", "dpm_solver"]
    assert offered(cascade)["heun"].steps == 7
    assert recipe.first(cascade) is coarse
