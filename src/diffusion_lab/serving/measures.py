"""What the service measures of itself, as Prometheus reads it; `monitor` compares two of its histograms with training.

==================================  =====================================================================
diffusion_lab_requests_total        answers by route and status code; 499 is a client that left
diffusion_lab_request_seconds       how long they took, by route
diffusion_lab_rejected_total        jobs not taken, by reason: queue_full, not_ready, memory
diffusion_lab_cancelled_total       jobs whose client left, by stage: queued, running
diffusion_lab_failed_total          jobs that failed, by code; non_finite_output counts NaNs
diffusion_lab_queue_depth           jobs that wait
diffusion_lab_running               jobs whose pictures are being made
diffusion_lab_queue_wait_seconds    from submission to the first step
diffusion_lab_batch_size            rows per step: pictures, or windows of large ones
diffusion_lab_step_seconds          one step of all running jobs; its count is the number of steps
diffusion_lab_ready                 1 if jobs are taken
diffusion_lab_heartbeat_seconds     since the model's thread last came round
diffusion_lab_model_info            1, labelled with the version in service
diffusion_lab_mask_fraction         share of the hole in what the model sees, of every square of a job
diffusion_lab_input_brightness      mean of the known pixels in [0, 1], of every square of a job
==================================  =====================================================================

Nothing is labelled by request, and no picture leaves through here.
"""

from collections.abc import Iterator
from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily
from torch import Tensor

from diffusion_lab.serving.engine import Code, Engine, Stage

MASK_FRACTION = tuple(i / 20 for i in range(1, 20))
"""Upper bounds of the histogram's buckets: twentieths of the square."""
BRIGHTNESS = tuple(i / 20 for i in range(1, 20))
"""Upper bounds of the histogram's buckets: twentieths of the range from black to white."""
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
PICTURES = (1, 2, 4, 8, 16, 32, 64, 128)


def mask_fraction(mask: Tensor) -> float:
    """The share of the hole in ``(1, S, S)`` bool."""
    return float(mask.float().mean())


def brightness(image: Tensor, mask: Tensor) -> float:
    """The mean of the known pixels of ``(3, S, S)``, from 0 for black to 1 for white; .5 if none is known."""
    known = ~mask.expand_as(image)
    return float(image[known].mean() + 1) / 2 if bool(known.any()) else 0.5


class Measures:
    """Counts and times; `engine.Measures` is what of it the engine calls, from whatever thread.

    Example:
        >>> import torch
        >>> measures = Measures()
        >>> measures.seen(torch.zeros(3, 8, 8), torch.ones(1, 8, 8, dtype=torch.bool))
        >>> "diffusion_lab_mask_fraction_sum 1.0" in measures.text().decode()
        True
    """

    def __init__(self) -> None:
        # A registry of its own: several services may live in one process, as in tests.
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)

        def counter(name: str, text: str, label: str) -> Counter:
            return Counter(f"diffusion_lab_{name}", text, [label], registry=self.registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(f"diffusion_lab_{name}", text, labels, registry=self.registry, buckets=buckets)

        self._requests = Counter(
            "diffusion_lab_requests", "Answers by route and status code", ["route", "code"], registry=self.registry
        )
        self._request_seconds = histogram("request_seconds", "Time to the end of an answer", SECONDS, "route")
        self._rejected = counter("rejected", "Jobs not taken", "reason")
        self._cancelled = counter("cancelled", "Jobs whose client left", "stage")
        self._failed = counter("failed", "Jobs that failed", "code")
        for code in get_args(Code):  # a series that begins with its first failure has not increased, for Prometheus
            self._failed.labels(code)
        self._queue_wait = histogram("queue_wait_seconds", "From submission to the first step", SECONDS)
        self._batch_size = histogram("batch_size", "Pictures per step", PICTURES)
        self._step_seconds = histogram("step_seconds", "One step of all running jobs", SECONDS)
        self._mask_fraction = histogram("mask_fraction", "Share of the hole in what the model sees", MASK_FRACTION)
        self._brightness = histogram("input_brightness", "Mean of the known pixels, 0 to 1", BRIGHTNESS)

    def waited(self, seconds: float) -> None:
        """A job left the queue for its first step."""
        self._queue_wait.observe(seconds)

    def stepped(self, rows: int, seconds: float) -> None:
        """One step of all running jobs was taken: so many pictures, in so many seconds."""
        self._batch_size.observe(rows)
        self._step_seconds.observe(seconds)

    def cancelled(self, stage: Stage) -> None:
        """Whoever asked for a job has gone."""
        self._cancelled.labels(stage).inc()

    def failed(self, code: Code) -> None:
        """A job has failed."""
        self._failed.labels(code).inc()

    def answered(self, route: str, code: int, seconds: float) -> None:
        """A request was answered to its end."""
        self._requests.labels(route, code).inc()
        self._request_seconds.labels(route).observe(seconds)

    def rejected(self, reason: str) -> None:
        """A job was not taken."""
        self._rejected.labels(reason).inc()

    def seen(self, image: Tensor, mask: Tensor) -> None:
        """A square of a job that was taken: ``(3, S, S)`` in [-1, 1] and ``(1, S, S)``."""
        self._mask_fraction.observe(mask_fraction(mask))
        self._brightness.observe(brightness(image, mask))

    def watch(self, engine: Engine) -> None:
        """Reads an engine's state at every scrape."""
        self.registry.register(_Watched(engine))

    def text(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self.registry)


class _Watched:
    """An engine's state as gauges, read when asked for."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def describe(self) -> list[GaugeMetricFamily]:
        return []  # asks nothing of the engine while it is being registered

    def collect(self) -> Iterator[GaugeMetricFamily]:
        stats = self.engine.stats()
        for name, text, value in (
            ("queue_depth", "Jobs that wait", stats.queued),
            ("running", "Jobs whose pictures are being made", stats.running),
            ("ready", "1 if jobs are taken", stats.ready),
            ("heartbeat_seconds", "Since the model's thread last came round", stats.heartbeat),
        ):
            yield GaugeMetricFamily(f"diffusion_lab_{name}", text, value=float(value))
        info = GaugeMetricFamily("diffusion_lab_model_info", "The version in service", labels=["version"])
        info.add_metric([self.engine.version], 1.0)
        yield info
