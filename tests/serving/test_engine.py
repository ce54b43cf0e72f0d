import asyncio
import pickle
import subprocess
import sys
from contextlib import aclosing, suppress
from dataclasses import FrozenInstanceError, replace

import pytest
import torch
from engines import (
    SAMPLERS,
    Elementwise,
    alone,
    begun,
    code_of,
    elementwise,
    events_of,
    job,
    result_of,
    run,
    running,
    until,
)
from fakes import Clock, Heard
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from diffusion_lab.diffusion.denoiser import Condition, Denoiser, Prediction
from diffusion_lab.diffusion.noise import Noise
from diffusion_lab.diffusion.samplers import ddim, ddim_thresholded, ddnm, ddpm, repaint
from diffusion_lab.diffusion.sampling import Sampler
from diffusion_lab.diffusion.solvers import Ancestral, Memory
from diffusion_lab.inpainting import Inpainter
from diffusion_lab.pictures import to_uint8
from diffusion_lab.serving.batching import Question, SharedCalls, begin, joined
from diffusion_lab.serving.engine import (
    Finished,
    NotReady,
    Queued,
    QueueFull,
    Stepped,
)
from diffusion_lab.serving.local import LocalEngine


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """That the engine goes by."""
    clock = Clock()
    monkeypatch.setattr("diffusion_lab.serving.local.time", clock)
    return clock


def question(channels: int = 3, side: int = 4, known: int | None = 3, told: int | None = None) -> Question:
    condition = Condition(
        known=None if known is None else torch.zeros(1, known, side, side),
        attributes=None if told is None else torch.zeros(1, told),
    )
    return Question(torch.zeros(1, channels, side, side), torch.full((1,), 0.5), condition)


def test_questions_of_one_kind_are_those_that_can_be_joined() -> None:
    """Of two kinds none can: `torch.cat` refuses them, or one of them would not be asked as it was meant."""
    kinds = [
        question(),
        question(channels=4),
        question(side=8),
        question(known=4),
        question(known=None),
        question(told=2),
        question(told=3),
        replace(question(), x=torch.zeros(1, 3, 4, 4, dtype=torch.float64)),
    ]
    for i, one in enumerate(kinds):
        assert [one.kind() == other.kind() for other in kinds] == [i == j for j in range(len(kinds))]
        both = joined([one, replace(one, x=one.x + 1)])
        assert torch.equal(both.part(slice(1, 2)).x, one.x + 1)
        assert both.kind() == joined([one]).kind() == one.kind()


def test_where_a_walk_stands_and_what_it_asks_stays() -> None:
    """A step makes another walk: who holds this one may go on from it again."""
    asked = job(1)
    for fixed in (begin(elementwise(Elementwise()), asked.image, asked.mask, asked.seeds, None), question()):
        for name, value in vars(fixed).items():
            with pytest.raises(FrozenInstanceError):
                setattr(fixed, name, value)


def test_a_call_is_halved_until_it_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Down to one row, and nobody asks CUDA, which is not there."""
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: pytest.fail("this is a CPU"))
    asked: list[int] = []

    def denoiser(x: Tensor, level: Tensor, condition: Condition) -> Prediction:
        asked.append(len(x))
        if len(x) > 1:
            raise torch.OutOfMemoryError("too many")
        return Prediction(x, -x)

    calls = SharedCalls(4)
    many = joined([replace(question(), x=torch.full((1, 3, 4, 4), float(i))) for i in range(5)])
    answer = calls.ask(denoiser, many)
    assert asked == [4, 2, 1, 1, 1, 1, 1]
    assert torch.equal(answer.x_0, many.x)
    assert calls.most == 1
    with pytest.raises(ValueError, match="at least 1 row, got 0"):
        SharedCalls(0)


arrivals = st.lists(
    st.tuples(st.integers(0, len(SAMPLERS) - 1), st.integers(1, 3), st.integers(1, 3), st.integers(0, 6)),
    min_size=1,
    max_size=8,
)


@settings(max_examples=25, deadline=None)
@given(arrivals, st.integers(1, 6))
def test_a_job_is_the_same_bit_for_bit_in_any_company(asked: list[tuple[int, int, int, int]], max_batch: int) -> None:
    network = Elementwise()
    inpainter = elementwise(network)

    async def main() -> None:
        async with running(inpainter, max_batch=max_batch) as engine:

            async def arrive(i: int, sampler: int, n: int, parts: int, after: int) -> None:
                await asyncio.sleep(after / 2000)
                mine = job(i, *range(50 * i, 50 * i + n - 1), sampler=SAMPLERS[sampler], parts=parts)
                finished = await result_of(engine, mine)
                assert torch.equal(finished.pictures, alone(inpainter, mine))
                assert finished.network_calls == inpainter.network_calls(mine.sampler)

            await asyncio.gather(*(arrive(i, *one) for i, one in enumerate(asked)))
            assert max(network.calls) <= max(max_batch, 9)  # a gradient's call is not divided

    run(main())


def test_a_job_in_company_is_within_one_level_of_the_inpainter_alone(inpainter: Inpainter) -> None:
    jobs = [job(i, i + 10, sampler=sampler, size=16) for i, sampler in enumerate(SAMPLERS)]

    async def main() -> None:
        async with running(inpainter, max_batch=8) as engine:
            finished = await asyncio.gather(*(result_of(engine, one) for one in jobs))
        for one, result in zip(jobs, finished, strict=True):
            wanted = alone(inpainter, one)
            assert int((to_uint8(result.pictures).int() - to_uint8(wanted).int()).abs().max()) <= 1
            known = ~one.mask.expand_as(result.pictures)
            assert torch.equal(result.pictures[known], one.image.expand_as(result.pictures)[known])

    run(main())


def test_what_leaves_the_range_of_pictures_is_cut_off() -> None:
    network = Elementwise()
    network.fault = lambda channels, output: output * 20
    asked = job(1, sampler=ddim(steps=2, clip=False))

    async def main() -> None:
        inpainter = elementwise(network)
        async with running(inpainter) as engine:
            pictures = (await result_of(engine, asked)).pictures
            assert float(pictures.abs().max()) == 1
            assert torch.equal(pictures, alone(inpainter, asked))

    run(main())


def test_different_samplers_steps_and_wraps_share_the_network_calls() -> None:
    network = Elementwise(held=True)
    jobs = [ddim(steps=6), ddpm(steps=9), repaint(steps=6, jump=2, resamples=2), ddnm(steps=7), ddim_thresholded(8)]

    async def main() -> None:
        inpainter = elementwise(network)
        async with running(inpainter) as engine:
            first = await begun(engine, job(0, sampler=ddim(steps=1)))
            await network.inside()
            others = [await begun(engine, job(i, sampler=sampler)) for i, sampler in enumerate(jobs)]
            network.held = False
            network.let(1)
            await asyncio.gather(first, *others)
            most = max(inpainter.network_calls(sampler) for sampler in jobs)
            assert len(network.calls) == 1 + most
            assert network.calls[1:7] == [5] * 6
            assert sum(network.calls) == 1 + sum(inpainter.network_calls(sampler) for sampler in jobs)

    run(main())


def test_a_job_joins_between_two_steps_of_another() -> None:
    network = Elementwise(held=True)

    async def main() -> None:
        async with running(elementwise(network)) as engine:
            first = await begun(engine, job(1))
            network.let(2)
            await until(lambda: len(network.calls) == 3)
            second = await begun(engine, job(2))
            network.let(20)
            await asyncio.gather(first, second)
            assert network.calls == [1, 1, 1, 2, 2, 1, 1, 1]

    run(main())


def test_jobs_start_in_their_turn_and_a_large_one_beside_others() -> None:
    network = Elementwise(held=True)
    rows = [2, 2, 1, 5, 1, 1]  # the second does not fit beside the first; the fourth is more than a call

    async def main() -> None:
        async with running(elementwise(network), max_batch=3) as engine:
            asked = [job(i, *range(n - 1), sampler=ddim(steps=2)) for i, n in enumerate(rows)]
            tasks = [await begun(engine, asked[0])]
            await network.inside()
            tasks += [await begun(engine, one) for one in asked[1:]]
            network.held = False
            network.let(1)
            await asyncio.gather(*tasks)
            assert network.calls == [2, 3, 3, *[3, 3, 3], *[3, 3, 1]]

    run(main())


def test_a_full_queue_and_an_engine_that_is_not_ready_refuse() -> None:
    network = Elementwise(held=True)

    async def main() -> None:
        engine = LocalEngine(elementwise(network), "first", max_batch=1, max_queue=2)
        assert not engine.stats().ready
        with pytest.raises(NotReady, match="warms up"):
            await anext(engine.submit(job(0)))
        network.let(2)
        await engine.ready()
        assert engine.stats().ready
        tasks = [await begun(engine, job(0))]
        await until(lambda: engine.stats().running == 1)
        tasks += [await begun(engine, job(i)) for i in (1, 2)]
        with pytest.raises(QueueFull) as full:
            await anext(engine.submit(job(3)))
        assert full.value.retry_after >= 1
        assert pickle.loads(pickle.dumps(full.value)).retry_after == full.value.retry_after
        network.held = False
        network.let(1)
        await asyncio.gather(*tasks)
        await engine.drain(1)
        with pytest.raises(NotReady, match="ends"):
            await anext(engine.submit(job(4)))

    run(main())


def test_the_estimated_wait_is_that_of_the_steps_ahead(clock: Clock) -> None:
    network = Elementwise(held=True)

    def fault(channels: Tensor, output: Tensor) -> Tensor:
        clock.now += 0.5 * len(output)
        return output

    network.fault = fault

    async def main() -> None:
        async with running(elementwise(network), max_batch=2, max_queue=1) as engine:
            network.let(40)
            await result_of(engine, job(0, sampler=ddim(steps=40)))
            runs = await begun(engine, job(1, 2, sampler=ddim(steps=100)))
            network.let(10)
            for _ in range(40 + 11):
                await network.inside()  # the last of them is held
            waits = await begun(engine, job(3, sampler=ddim(steps=20)))
            with pytest.raises(QueueFull) as full:
                await anext(engine.submit(job(4)))
            assert 0 <= full.value.retry_after - 0.5 * (2 * 90 + 20) <= 1
            runs.cancel()
            waits.cancel()
            await asyncio.gather(runs, waits, return_exceptions=True)

    run(main())


def test_a_job_that_is_given_up_frees_its_place_within_one_step() -> None:
    network, heard = Elementwise(held=True), Heard()

    async def main() -> None:
        async with running(elementwise(network), max_batch=2, measures=heard) as engine:
            events = engine.submit(job(0, 1))
            assert await anext(events) == Queued(0)
            await network.inside()
            waiting = await begun(engine, job(2))
            await events.aclose()  # while its first step is under way
            network.let(1)
            await network.inside()
            assert network.calls == [2, 1]
            assert engine.stats().running == 1
            assert heard.gone == ["running"]
            network.let(5)
            await waiting
            assert network.calls == [2, 1, 1, 1, 1, 1]

    run(main())


def test_a_job_that_is_given_up_in_the_queue_is_never_started() -> None:
    network, heard = Elementwise(held=True), Heard()

    async def main() -> None:
        async with running(elementwise(network), max_batch=1, measures=heard) as engine:
            first = await begun(engine, job(0))
            await network.inside()
            second = await begun(engine, job(1))
            third = engine.submit(job(2))
            assert await anext(third) == Queued(1)
            second.cancel()
            assert await anext(third) == Queued(0)
            assert heard.gone == ["queued"]
            network.let(20)
            await first
            assert isinstance([event async for event in third][-1], Finished)
            assert network.calls == [1] * 10

    run(main())


def test_many_clients_that_leave_at_any_time_leave_nothing_behind() -> None:
    heard = Heard()

    async def main() -> None:
        async with running(elementwise(Elementwise()), max_batch=4, max_queue=1000, measures=heard) as engine:

            async def leave(i: int) -> None:
                async with aclosing(engine.submit(job(i, sampler=SAMPLERS[i % 8]))) as events:
                    for _ in range(i % 6):
                        with suppress(StopAsyncIteration):
                            await anext(events)

            await asyncio.gather(*(leave(i) for i in range(200)))
            await until(lambda: engine.stats().queued + engine.stats().running == 0)
            assert torch.equal((await result_of(engine, job(1))).pictures, alone(engine.inpainter, job(1)))
            assert heard.failures == []
            assert max(heard.steps) <= 4

    run(main())


def test_a_job_that_is_late_leaves_the_queue_or_the_batch(clock: Clock) -> None:
    network, heard = Elementwise(held=True), Heard()

    async def main() -> None:
        async with running(elementwise(network), max_batch=1, measures=heard, seconds=30) as engine:
            first = asyncio.create_task(code_of(engine, job(0, seconds=1.0)))
            await network.inside()
            second = asyncio.create_task(code_of(engine, job(1, seconds=1.0)))
            third = await begun(engine, job(2))
            await until(lambda: engine.stats().queued == 2)
            clock.now += 2.0
            network.let(1)
            assert [await first, await second] == ["deadline_exceeded"] * 2
            network.let(5)
            await third
            assert heard.failures == ["deadline_exceeded"] * 2
            assert network.calls == [1] * 6

    run(main())


class Breaking:
    """A solver that fails in its second step."""

    def start(self, x: Tensor) -> Memory:
        return (torch.zeros(len(x)),)

    def __call__(
        self, x: Tensor, prediction: Prediction, level: Tensor, next_level: Tensor, noise: Noise, memory: Memory
    ) -> tuple[Tensor, Memory]:
        if memory[0].any():
            raise RuntimeError("no second step")
        return Ancestral()(x, prediction, level, next_level, noise, ())[0], (memory[0] + 1,)


def breaking_constraint(
    x: Tensor, prediction: Prediction | None, level: Tensor, next_level: Tensor, noise: Noise, condition: Condition
) -> Tensor:
    if prediction is None:
        return x
    raise RuntimeError("no constraint")


def breaking_start(
    x: Tensor, prediction: Prediction | None, level: Tensor, next_level: Tensor, noise: Noise, condition: Condition
) -> Tensor:
    raise RuntimeError("no start")


def breaking_wrap(denoiser: Denoiser) -> Denoiser:
    def wrapped(x: Tensor, level: Tensor, condition: Condition) -> Prediction:
        denoiser(x, level, condition)
        raise RuntimeError("no answer")

    return wrapped


def infinite(denoiser: Denoiser) -> Denoiser:
    return lambda x, level, condition: denoiser(x, level, condition).map(lambda tensor: tensor * torch.inf)


@pytest.mark.parametrize(
    ("poisoned", "code"),
    [
        (replace(ddim(steps=5), solver=Breaking()), "engine_error"),
        (replace(ddim(steps=5), constrain=breaking_constraint), "engine_error"),
        (replace(ddim(steps=5), constrain=breaking_start), "engine_error"),
        (replace(ddim(steps=5), wrap=breaking_wrap), "engine_error"),
        (replace(ddim(steps=5), wrap=infinite), "non_finite_output"),
    ],
)
def test_a_poisoned_sampler_fails_alone(poisoned: Sampler, code: str) -> None:
    heard = Heard()

    async def main() -> None:
        inpainter = elementwise(Elementwise())
        async with running(inpainter, measures=heard) as engine:
            bad = asyncio.create_task(code_of(engine, job(0, sampler=poisoned)))
            good = [job(i, sampler=SAMPLERS[i]) for i in range(1, 5)]
            pictures = await asyncio.gather(*(result_of(engine, one) for one in good))
            assert await bad == code
            for one, finished in zip(good, pictures, strict=True):
                assert torch.equal(finished.pictures, alone(inpainter, one))
            assert heard.failures == [code]
            assert engine.stats().running == 0

    run(main())


@pytest.mark.parametrize("raises", [True, False])
def test_a_picture_that_the_network_cannot_bear_fails_alone(raises: bool) -> None:
    network = Elementwise()

    def fault(channels: Tensor, output: Tensor) -> Tensor:
        poisoned = (channels[:, :3] == 7).flatten(1).any(1)
        if raises and bool(poisoned.any()):
            raise RuntimeError("seven")
        return torch.where(poisoned.reshape(-1, 1, 1, 1), torch.nan, output)

    network.fault = fault

    async def main() -> None:
        inpainter = elementwise(network)
        async with running(inpainter) as engine:
            sound = [job(i, sampler=ddpm(steps=9)) for i in range(1, 4)]
            tasks = [asyncio.create_task(result_of(engine, one)) for one in sound]
            bad = job(0)
            bad = replace(bad, image=torch.where(bad.mask, bad.image, 7.0))
            assert await code_of(engine, bad) == ("engine_error" if raises else "non_finite_output")
            for one, finished in zip(sound, await asyncio.gather(*tasks), strict=True):
                assert torch.equal(finished.pictures, alone(inpainter, one))

    run(main())


def test_what_does_not_fit_into_memory_is_divided() -> None:
    network = Elementwise(held=True)

    def fault(channels: Tensor, output: Tensor) -> Tensor:
        if len(output) > 3:
            raise torch.OutOfMemoryError("too many")
        return output

    async def main() -> None:
        inpainter = elementwise(network)
        async with running(inpainter, max_batch=16) as engine:
            jobs = [job(i, i + 1, sampler=ddpm(steps=i + 2)) for i in range(5)]
            tasks = [await begun(engine, jobs[0])]
            await network.inside()
            tasks += [await begun(engine, one) for one in jobs[1:]]
            network.fault, network.held = fault, False
            network.let(1)
            pictures = [finished.pictures for finished in await asyncio.gather(*tasks)]
            # The first call has one job's two rows; the next has all ten, which are halved until they fit, for good.
            assert network.calls == [2, 10, 5, *[2] * (2 + 3 + 4 + 5 + 6 - 1)]
            network.fault = lambda channels, output: output
            for one, made in zip(jobs, pictures, strict=True):
                assert torch.equal(made, alone(inpainter, one))

    run(main())


def test_a_picture_that_fits_into_no_memory_fails_alone() -> None:
    network = Elementwise()

    def fault(channels: Tensor, output: Tensor) -> Tensor:
        if bool((channels[:, :3] == 7).any()):
            raise torch.OutOfMemoryError("too large")
        return output

    network.fault = fault

    async def main() -> None:
        inpainter = elementwise(network)
        async with running(inpainter) as engine:
            bad = job(0)
            bad = replace(bad, image=torch.where(bad.mask, bad.image, 7.0))
            good = asyncio.create_task(result_of(engine, job(1)))
            assert await code_of(engine, bad) == "engine_error"
            assert torch.equal((await good).pictures, alone(inpainter, job(1)))

    run(main())


def test_a_drain_lets_jobs_end_and_takes_none() -> None:
    network = Elementwise(held=True)

    async def main() -> None:
        async with running(elementwise(network), max_batch=1) as engine:
            tasks = [await begun(engine, job(i)) for i in (1, 2)]
            drain = asyncio.create_task(engine.drain(30))
            await until(lambda: engine.stats().draining)
            assert not engine.stats().ready
            with pytest.raises(NotReady) as refused:
                await anext(engine.submit(job(3)))
            assert refused.value.retry_after >= 1
            assert not drain.done()
            network.let(10)
            await asyncio.gather(*tasks)
            await drain

    run(main())


def test_a_drain_that_takes_too_long_fails_what_is_left(clock: Clock) -> None:
    network, heard = Elementwise(held=True), Heard()

    async def main() -> None:
        async with running(elementwise(network), max_batch=1, measures=heard) as engine:
            tasks = [asyncio.create_task(code_of(engine, job(i))) for i in (1, 2)]
            await network.inside()
            await until(lambda: engine.stats().queued == 1)
            drain = asyncio.create_task(engine.drain(1.0))
            await until(lambda: engine.stats().draining)
            clock.now += 2.0
            network.let(1)
            assert [await task for task in tasks] == ["shutting_down"] * 2
            await drain
            assert network.calls == [1]
            assert heard.failures == ["shutting_down"] * 2

    run(main())


@pytest.mark.parametrize(("previews", "shown"), [(0, []), (1, [2]), (3, [1, 2, 4]), (50, [1, 2, 3, 4])])
def test_previews_lie_evenly_on_the_way(previews: int, shown: list[int]) -> None:
    async def main() -> None:
        async with running(elementwise(Elementwise())) as engine:
            asked = job(1, 2, previews=previews)
            events = await events_of(engine, asked)
            assert events[0] == Queued(0)
            steps = [event for event in events if isinstance(event, Stepped)]
            assert [(event.step, event.steps) for event in steps] == [(i, 5) for i in range(1, 6)]
            assert [event.step for event in steps if event.preview is not None] == shown
            for event in steps:
                if event.preview is not None:
                    assert event.preview.shape == (2, 1, 3, 8, 8)
                    known = ~asked.mask.expand(2, 1, 3, -1, -1)
                    assert torch.equal(event.preview[known], to_uint8(asked.image.expand(2, -1, -1, -1, -1))[known])
            finished = events[-1]
            assert isinstance(finished, Finished)
            assert finished.version == "first"
            assert finished.network_calls == 5
            assert finished.seconds > 0

    run(main())


def test_a_job_of_another_size_is_an_error_before_anything_is_queued() -> None:
    async def main() -> None:
        async with running(elementwise(Elementwise())) as engine:
            for wrong in (job(1, size=16), replace(job(1), seeds=())):
                with pytest.raises(ValueError, match="3x8x8"):
                    await anext(engine.submit(wrong))
            with pytest.raises(ValueError, match="steps"):
                await anext(engine.submit(job(1, sampler=ddim(steps=0))))
            assert engine.stats().queued + engine.stats().running == 0

    run(main())


def test_the_heart_beats_when_idle_and_stops_with_the_network(clock: Clock) -> None:
    network = Elementwise(held=True)

    async def main() -> None:
        async with running(elementwise(network)) as engine:
            for _ in range(3):
                clock.now += 10.0
                await until(lambda: engine.stats().heartbeat < 1)
            task = await begun(engine, job(1))
            await network.inside()
            clock.now += 10.0
            assert engine.stats().heartbeat == pytest.approx(10.0, abs=0.1)
            network.let(5)
            await task

    run(main())


def test_a_model_that_cannot_answer_is_never_ready() -> None:
    network = Elementwise()

    def fault(channels: Tensor, output: Tensor) -> Tensor:
        raise RuntimeError("broken from the start")

    network.fault = fault

    async def main() -> None:
        engine = LocalEngine(elementwise(network), "first")
        with pytest.raises(RuntimeError, match="broken from the start"):
            await engine.ready()
        assert not engine.stats().ready
        await engine.drain(1)

    run(main())


def test_bfloat16_stays_near_float32(inpainter: Inpainter) -> None:
    asked = job(1, size=16)

    async def main() -> None:
        async with running(inpainter, autocast=torch.bfloat16) as engine:
            pictures = (await result_of(engine, asked)).pictures
        wanted = alone(inpainter, asked)
        assert not torch.equal(pictures, wanted)
        assert float((pictures - wanted).abs().mean()) < 0.05

    run(main())


def test_the_engine_needs_no_web_framework_trainer_or_config_language() -> None:
    absent = ["fastapi", "starlette", "uvicorn", "prometheus_client", "lightning", "hydra", "wandb", "torchmetrics"]
    script = f"import sys; sys.modules.update(dict.fromkeys({absent})); import diffusion_lab.serving.local"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=300)
