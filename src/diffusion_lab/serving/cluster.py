"""Starts replicas under Ray Serve, and Ray itself where none runs."""

import logging
import os
from pathlib import Path
from typing import Any

import torch

from diffusion_lab.serving.engine import Measures, SwapRefused
from diffusion_lab.serving.replica import Replica
from diffusion_lab.serving.replicas import LOOK, ReplicatedEngine
from diffusion_lab.serving.swapping import checked

SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is reported home
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # else `uv run` makes every replica an environment of its own
    "RAY_worker_niceness": "0",  # else replicas get what everything else on the machine leaves over
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # what a replica without a GPU sees is no matter: it serves on the CPU
}
"""Of Ray, for its processes; whoever has set them already has their way."""


def replicated(
    folder: Path,
    measures: Measures,
    *,
    address: str | None = None,
    app: str = "diffusion_lab",
    replicas: int = 2,
    most_replicas: int | None = None,
    cpus: float = 1.0,
    gpus: float = 0.0,
    max_batch: int = 16,
    max_queue: int = 64,
    seconds: float = 600.0,
    object_store: int = 200 * 2**20,
) -> ReplicatedEngine:
    """An engine of replicas under Ray Serve.

    Args:
        folder: of the inpainter, on a path that every machine sees.
        measures: is told what the replicas do.
        address: of a running Ray, or auto for the one on this machine; None starts one, which ends with the engine.
        app: name in Ray Serve; a service that starts under a name that is taken takes its replicas over.
        replicas: at least.
        most_replicas: under load; None is always the same number.
        cpus: that Ray sets aside for each.
        gpus: likewise, part of one is possible; with 0 they serve on the CPU.
        max_batch: pictures in a network call.
        max_queue: jobs that may wait, per replica.
        seconds: until a job is given up.
        object_store: bytes of shared memory, if Ray is started.

    Raises:
        ValueError: if the model is not fit, Ray is not to be had, or this machine is too small.
    """
    folder = folder.absolute()
    try:
        checked(folder, torch.device("cpu"))  # a mistake shows before anything is started
    except SwapRefused as refused:
        raise ValueError(str(refused)) from None
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    try:
        import ray
        from ray import serve
    except ImportError:
        raise ValueError("engine=ray needs Ray: uv sync --extra ray") from None
    start(address, object_store)
    try:
        if address is None:
            has: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
            for kind, each in (("CPU", cpus), ("GPU", gpus)):
                if replicas * each > has.get(kind, 0):
                    raise ValueError(
                        f"{replicas} replicas of {each:g} {kind}s do not fit on this machine of "
                        f"{has.get(kind, 0):g}: set engine.replicas= or engine.{kind.lower()}s="
                    )
        serve.start(proxy_location="Disabled")  # the only door is ours
        places = max_batch + max_queue
        scale: dict[str, Any] = {"num_replicas": replicas}
        if most_replicas is not None:
            scale = {
                "autoscaling_config": {
                    "min_replicas": replicas,
                    "max_replicas": most_replicas,
                    "target_ongoing_requests": max_batch,
                }
            }
        deployment = serve.deployment(
            Replica,
            name="replica",
            max_ongoing_requests=places,
            user_config={},  # so that Ray Serve awaits `reconfigure`
            health_check_period_s=LOOK,
            graceful_shutdown_timeout_s=seconds,  # one that is not needed any more ends its jobs
            ray_actor_options={"num_cpus": cpus, "num_gpus": gpus},
            logging_config={"log_level": "WARNING", "enable_access_log": False},
            **scale,
        )
        bound = deployment.bind(  # type: ignore[attr-defined]
            folder, "cuda" if gpus else "cpu", max_batch, places, seconds
        )
        handle = serve.run(bound, name=app, route_prefix=None)

        def close() -> None:
            if address is not None:
                serve.delete(app)
            ray.shutdown()

        return ReplicatedEngine(handle, folder, max_queue=max_queue, seconds=seconds, measures=measures, close=close)
    except BaseException:
        ray.shutdown()
        raise


def start(address: str | None, object_store: int) -> None:
    """Starts Ray, or joins it.

    Args:
        address: None starts it.
        object_store: bytes of shared memory, if it is started.

    Raises:
        ValueError: if it can do neither.
    """
    import ray

    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    try:
        if address is not None:
            ray.init(address=address, logging_level=logging.WARNING)
        else:
            ray.init(
                address="local",
                include_dashboard=False,
                object_store_memory=object_store,
                logging_level=logging.WARNING,
            )
    except Exception as error:  # Ray raises errors of every kind here
        where = f"join Ray at {address}" if address is not None else "start Ray"
        raise ValueError(f"cannot {where}: {error}") from error
