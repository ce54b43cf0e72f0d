import asyncio
import base64
import gc
import json
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from fakes import FakeEngine, check_filled, decoded, encoded, files, hole, photo, until
from PIL import Image

from diffusion_lab.serving.desk import Desk
from diffusion_lab.serving.engine import JobFailed, NotReady, QueueFull
from diffusion_lab.serving.errors import Mistake
from diffusion_lab.serving.jobs import MOST_PREVIEWS, Jobs
from diffusion_lab.serving.measures import Measures
from diffusion_lab.serving.settings import JobSettings, Limits, offered
from small import MODEL


def parsed(lines: Iterator[str]) -> Iterator[tuple[int, str, Any]]:
    """Server-sent events as (id, name, data)."""
    block: dict[str, str] = {}
    for line in lines:
        if line:
            name, _, value = line.partition(": ")
            block[name] = value
        elif "data" in block:
            yield int(block["id"]), block["event"], json.loads(block["data"])
            block = {}


def followed(service: httpx.Client, job: str, after: int | None = None) -> list[tuple[int, str, Any]]:
    headers = {} if after is None else {"Last-Event-ID": str(after)}
    with service.stream("GET", f"/v1/jobs/{job}/events", headers=headers) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["cache-control"] == "no-cache"
        return list(parsed(answer.iter_lines()))


def started(service: httpx.Client, **data: str) -> dict[str, Any]:
    answer = service.post("/v1/jobs", files=files(), data=data)
    assert answer.status_code == 202
    assert answer.headers["location"] == f"/v1/jobs/{answer.json()['id']}"
    return answer.json()  # type: ignore[no-any-return]


class TestLife:
    def test_a_job_from_start_to_picture(self, service: httpx.Client, engine: FakeEngine) -> None:
        engine.held_at = 0
        job = started(service, seed="4", num_samples="2", previews="2")
        assert (job["status"], job["seeds"], job["model_version"]) == ("starting", [4, 5], "fake@1")
        until(lambda: service.get(f"/v1/jobs/{job['id']}").json()["position"] == 0)
        assert service.get(f"/v1/jobs/{job['id']}/images/0").json()["error"]["code"] == "no_such_image"
        engine.held_at = 3
        until(lambda: service.get(f"/v1/jobs/{job['id']}").json()["step"] == 3)
        assert service.get(f"/v1/jobs/{job['id']}").json()["status"] == "processing"
        engine.held_at = None
        events = followed(service, job["id"])
        assert [number for number, _, _ in events] == list(range(7))
        assert [name for _, name, _ in events] == ["queued", *["step"] * 5, "completed"]
        assert events[0][2] == {"position": 0}
        assert [data["step"] for _, name, data in events if name == "step"] == [1, 2, 3, 4, 5]
        assert [len(data["previews"]) for _, name, data in events if name == "step"] == [0, 2, 2, 0, 0]
        done = events[-1][2]
        assert done == service.get(f"/v1/jobs/{job['id']}").json()
        assert (done["status"], done["position"], done["network_calls"]) == ("succeeded", None, 5)
        assert [image["seed"] for image in done["images"]] == [4, 5]
        for image in done["images"]:
            answer = service.get(image["url"])
            assert (answer.headers["content-type"], answer.headers["x-seed"]) == ("image/png", str(image["seed"]))
            check_filled(decoded(answer.content))

    def test_previews_are_the_whole_picture_made_small(self, service: httpx.Client) -> None:
        large = {"image": encoded(Image.new("RGB", (800, 600), "blue")), "mask": encoded(hole(800, 600))}
        job = service.post("/v1/jobs", files=large, data={"previews": "1"}).json()
        (preview,) = next(data["previews"] for _, name, data in followed(service, job["id"]) if data.get("previews"))
        kind, _, content = preview.partition(",")
        assert kind == "data:image/webp;base64"
        shown = decoded(base64.b64decode(content)).astype(int)
        assert shown.shape == (384, 512, 3)
        red, green, blue = shown[144, 190]  # within the hole
        assert red > 200 > 60 > max(green, blue)

    def test_events_can_be_taken_up_again(self, service: httpx.Client) -> None:
        job = started(service)["id"]
        whole = followed(service, job)
        assert followed(service, job, after=3) == whole[4:]
        assert followed(service, job, after=len(whole) - 1) == []

    def test_two_can_watch_and_leave_while_it_goes_on(self, service: httpx.Client, engine: FakeEngine) -> None:
        engine.held_at = 2
        job = started(service)["id"]
        with service.stream("GET", f"/v1/jobs/{job}/events") as answer:
            events = parsed(answer.iter_lines())
            assert [next(events)[1] for _ in range(3)] == ["queued", "step", "step"]
        seen: list[str] = []
        watcher = threading.Thread(target=lambda: seen.extend(name for _, name, _ in followed(service, job)))
        watcher.start()
        engine.held_at = None
        watcher.join()
        assert seen[-1] == "completed"

    @pytest.mark.parametrize("stage", [0, 2])
    def test_cancelling_frees_its_place(self, service: httpx.Client, engine: FakeEngine, stage: int) -> None:
        engine.held_at = stage
        job = started(service)["id"]
        until(lambda: engine.running == 1)
        assert service.delete(f"/v1/jobs/{job}").json()["status"] == "canceled"
        assert engine.running == 0
        assert followed(service, job)[-1][1] == "canceled"
        assert service.delete(f"/v1/jobs/{job}").json()["status"] == "canceled"

    def test_cancelling_what_has_ended_changes_nothing(self, service: httpx.Client) -> None:
        job = started(service)["id"]
        done = followed(service, job)[-1][2]
        assert service.delete(f"/v1/jobs/{job}").json() == done

    @pytest.mark.parametrize(
        ("failure", "code", "message"),
        [
            (JobFailed("non_finite_output", "not a number"), "non_finite_output", "not a number"),
            (JobFailed("shutting_down", "the service ends"), "shutting_down", "the service ends"),
            (RuntimeError("the password is swordfish"), "internal_error", "the service has a fault"),
        ],
    )
    def test_a_job_that_fails_says_why(
        self, service: httpx.Client, engine: FakeEngine, failure: Exception, code: str, message: str
    ) -> None:
        engine.failure = failure
        _, name, job = followed(service, started(service)["id"])[-1]
        assert (name, job["status"]) == ("failed", "failed")
        assert job["error"] == {"code": code, "message": message, "param": None}

    @pytest.mark.parametrize(
        ("refusal", "status"), [(QueueFull("full", 7), 429), (NotReady("the engine warms up", 5), 503)]
    )
    def test_a_job_that_is_refused_never_was(
        self, service: httpx.Client, engine: FakeEngine, refusal: Exception, status: int
    ) -> None:
        engine.refusal = refusal
        answer = service.post("/v1/jobs", files=files())
        assert answer.status_code == status
        assert answer.headers["retry-after"] == ("7" if status == 429 else "5")

    @pytest.mark.parametrize("path", ["/v1/jobs/none", "/v1/jobs/none/events", "/v1/jobs/none/images/0"])
    def test_there_is_no_such_job(self, service: httpx.Client, path: str) -> None:
        answer = service.get(path)
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "no_such_job")

    def test_numbers_that_are_none(self, service: httpx.Client) -> None:
        job = started(service)["id"]
        assert followed(service, job)[-1][1] == "completed"
        assert service.get(f"/v1/jobs/{job}/images/1").status_code == 404
        assert service.get(f"/v1/jobs/{job}/images/x").status_code == 422
        wrong = service.get(f"/v1/jobs/{job}/events", headers={"Last-Event-ID": "x"})
        assert (wrong.status_code, wrong.json()["error"]["param"]) == (422, "last-event-id")


class TestStore:
    """The store is bounded in jobs, bytes and time."""

    @staticmethod
    def desk(engine: FakeEngine) -> Desk:
        return Desk(engine, offered({"model": MODEL}), Limits(), Measures())

    @staticmethod
    async def run(jobs: Jobs, count: int = 1, previews: int = 0) -> list[str]:
        ids = []
        for _ in range(count):
            order = await jobs.desk.take(encoded(photo()), encoded(hole()), JobSettings(), previews=previews)
            work = await jobs.start(order, "")
            ids.append(work.state.id)
            assert work.task is not None
            if jobs.desk.engine.held_at is None:  # type: ignore[attr-defined]
                await work.task
        return ids

    def known(self, jobs: Jobs, ids: list[str]) -> list[bool]:
        found = []
        for job in ids:
            try:
                jobs.find(job, "")
                found.append(True)
            except Mistake:
                found.append(False)
        return found

    def test_the_oldest_that_have_ended_make_room(self) -> None:
        async def main() -> None:
            jobs = Jobs(self.desk(FakeEngine()), most=3)
            assert self.known(jobs, await self.run(jobs, 5)) == [False, False, True, True, True]

        asyncio.run(main())

    def test_those_under_way_do_not(self) -> None:
        async def main() -> None:
            engine = FakeEngine()
            engine.held_at = 1
            jobs = Jobs(self.desk(engine), most=2)
            await self.run(jobs, 2)
            with pytest.raises(Mistake, match="under way"):
                await self.run(jobs)
            await jobs.close()
            assert engine.running == 0
            assert jobs.desk.held == 0

        asyncio.run(main())

    def test_bytes_and_seconds(self) -> None:
        async def main() -> None:
            few = Jobs(self.desk(FakeEngine()), most_bytes=1)
            assert self.known(few, await self.run(few, 3)) == [False, False, True]
            short = Jobs(self.desk(FakeEngine()), seconds=0.0)
            assert self.known(short, await self.run(short)) == [False]

        asyncio.run(main())

    def test_pictures_are_let_go_at_the_end(self) -> None:
        async def main() -> None:
            desk = self.desk(FakeEngine())
            await self.run(Jobs(desk), 3)

            def let_go() -> bool:
                gc.collect()  # a job's task and its frames hold each other
                return desk.held == 0

            until(let_go)  # the thread that has encoded the last picture may not have come round yet

        asyncio.run(main())

    def test_old_previews_go_first(self) -> None:
        from diffusion_lab.serving.jobs import JobState, Work

        work = Work(JobState(id="a", status="starting", seeds=[0], model_version="v"), "")
        for step in range(3):
            work.tell("step", {"step": step, "previews": ["x" * (MOST_PREVIEWS // 2)]})
        assert [len(data["previews"]) for _, data in work.events] == [0, 1, 1]
        assert work.size <= MOST_PREVIEWS
