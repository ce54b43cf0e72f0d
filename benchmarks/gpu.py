"""What one GPU makes of the lab, in eight minutes: ``uv run python benchmarks/gpu.py --output FOLDER``.

Its parts, in this order, each in what is left of the time: the GPU tests; what the card can do at best (copies,
products of matrices); training steps of a 64 px model and of ADM-64, in every form that may be faster, beside
diffusers' own network; one step by kernel; sampling by batch size; the service's engine by clients. A part that fails
says why, and the others go on. `results.json` and `results.md` are written after each.

``--device cpu --toy`` rehearses it anywhere: networks too small for any figure to mean anything, nothing compiled.
"""

import argparse
import asyncio
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from diffusion_lab import cascade
from diffusion_lab.diffusion import samplers
from diffusion_lab.diffusion.denoiser import Epsilon, NetworkDenoiser
from diffusion_lab.diffusion.schedule import cosine
from diffusion_lab.inpainting import Inpainter, shipped
from diffusion_lab.networks.unet import UNet
from diffusion_lab.serving.engine import Finished, Job
from diffusion_lab.serving.local import LocalEngine

Row = dict[str, Any]
Step = Callable[[], Tensor]

SMALL: dict[str, Any] = {
    "image_size": 64,
    "channels": 128,
    "multipliers": [1, 2, 2, 2],
    "depth": 2,
    "attention": [16, 8],
    "middle_attention": True,
    "head_width": 64,
    "condition_channels": 0,
}
ADM: dict[str, Any] = {
    "image_size": 64,
    "channels": 192,
    "multipliers": [1, 2, 3, 4],
    "depth": 3,
    "attention": [32, 16, 8],
    "middle_attention": True,
    "head_width": 64,
    "condition_channels": 0,
    "out_channels": 6,
    "dropout": 0.1,
    "resample_blocks": True,
}
TOY: dict[str, Any] = {
    "image_size": 16,
    "channels": 32,
    "multipliers": [1, 1],
    "depth": 1,
    "attention": [8],
    "head_width": 32,
    "condition_channels": 0,
}


@dataclass(frozen=True)
class Bench:
    """What is measured on.

    Args:
        device: a GPU, or the CPU for a rehearsal.
        toy: networks and batches that are as small as can be.
        until: when all has to be over, on the performance counter.
    """

    device: torch.device
    toy: bool
    until: float

    @property
    def left(self) -> float:
        """Seconds."""
        return self.until - time.perf_counter()

    def wait(self) -> None:
        """Until the device has done what it was told."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def seconds(self, step: Callable[[], object], rounds: int, warm: int = 3) -> float:
        """The median time of a step, which is taken a few times before it counts."""
        found = []
        for number in range(warm + rounds):
            began = time.perf_counter()
            step()
            self.wait()
            if number >= warm:
                found.append(time.perf_counter() - began)
        return statistics.median(found)


def tests(bench: Bench) -> Iterator[Row]:
    """The tests that only a GPU can run."""
    chosen = ["-m", "gpu", "tests/test_gpu.py"] if not bench.toy else ["--collect-only", "tests/test_gpu.py"]
    command = [sys.executable, "-m", "pytest", "-q", "--no-header", "-p", "no:cacheprovider", *chosen]
    done = subprocess.run(command, capture_output=True, text=True, timeout=max(1.0, bench.left - 240), check=False)
    lines = [line for line in done.stdout.splitlines() if line.strip()]
    yield {"tests": lines[-1] if lines else done.stderr[-200:], "exit": done.returncode}
    yield from ({"tests": line, "exit": ""} for line in lines if line.startswith(("FAILED", "ERROR")))


def copy_rate(bench: Bench) -> float:
    """Bytes a second that are read and written when a large tensor is copied."""
    x = torch.empty(2**20 if bench.toy else 2**31, dtype=torch.uint8, device=bench.device)
    y = torch.empty_like(x)
    return 2 * x.numel() / bench.seconds(lambda: y.copy_(x), 10)


def matrix_rate(bench: Bench, dtype: torch.dtype) -> float:
    """Multiplications and additions a second of one product of large matrices."""
    side = 128 if bench.toy else 8192
    a, b = (torch.randn(side, side, dtype=dtype, device=bench.device) for _ in range(2))
    return 2 * side**3 / bench.seconds(lambda: a @ b, 10)


def ceilings(bench: Bench) -> Iterator[Row]:
    """What the machine can do at best."""
    yield {"what": "copy", "rate": f"{copy_rate(bench) / 1e9:.0f} GB/s"}
    for dtype in (torch.bfloat16, torch.float32):
        yield {
            "what": f"matrix product, {str(dtype).removeprefix('torch.')}",
            "rate": f"{matrix_rate(bench, dtype) / 1e12:.3g} T/s",
        }


def ours(options: Row, channels_last: bool) -> tuple[nn.Module, Callable[..., Tensor]]:
    """Our UNet, and how it is asked for (x, time)."""
    unet = UNet(**options, channels_last=channels_last)
    return unet, lambda network, x, time: network(x, x[:, :0], time)


def diffusers(options: Row, channels_last: bool) -> tuple[nn.Module, Callable[..., Tensor]]:
    """The same network as diffusers writes it."""
    from diffusers import UNet2DModel

    from diffusion_lab.networks.checkpoints import to_diffusers

    config, state = to_diffusers(options, UNet(**options).state_dict())
    unet = UNet2DModel.from_config(config)
    unet.load_state_dict(state)
    if channels_last:
        unet.to(memory_format=torch.channels_last)
    return unet, lambda network, x, time: network(x, time).sample


def training_step(bench: Bench, made: tuple[nn.Module, Callable[..., Tensor]], batch: int, compiled: bool) -> Step:
    """One optimiser step on noise, in bfloat16 with fused AdamW."""
    network, ask = made
    network.to(bench.device)
    size = TOY["image_size"] if bench.toy else SMALL["image_size"]
    optimizer = torch.optim.AdamW(network.parameters(), 1e-4, fused=True)
    x = torch.randn(batch, 3, size, size, device=bench.device)
    if any(p.is_contiguous(memory_format=torch.channels_last) and p.ndim == 4 for p in network.parameters()):
        x = x.contiguous(memory_format=torch.channels_last)
    time = torch.linspace(1, 999, batch, device=bench.device)
    called = torch.compile(network) if compiled else network

    def step() -> Tensor:
        with torch.autocast(bench.device.type, torch.bfloat16):
            loss = F.mse_loss(ask(called, x, time)[:, :3].float(), x)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    return step


def work(options: Row) -> int:
    """Multiplications and additions of one picture's way forward."""
    size = options["image_size"]
    network, ask = ours(options, False)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        ask(network, torch.zeros(1, 3, size, size), torch.zeros(1))
    return int(counter.get_total_flops())


def training(bench: Bench) -> Iterator[Row]:
    """Steps of each network in each form, ours and diffusers' in turn."""
    best = matrix_rate(bench, torch.bfloat16)
    models = (
        {"toy": (TOY, 2)}
        if bench.toy
        else {"64 px, 128 channels": (SMALL, 256), "ADM-64, with learned variance": (ADM, 128)}
    )
    for name, (options, batch) in models.items():
        flops = work(options)
        for channels_last in (False, True):
            for compiled in (False,) if bench.toy else (False, True):
                for who, make in (("ours", ours), ("diffusers", diffusers)):
                    if bench.left < (0 if bench.toy else 100):
                        return
                    form = ("compiled" if compiled else "eager") + (", channels last" if channels_last else "")
                    row: Row = {"network": name, "of": who, "form": form, "batch": batch}
                    try:
                        made = make(options, channels_last)
                        began = time.perf_counter()
                        step = training_step(bench, made, batch, compiled)
                        step()
                        bench.wait()
                        row["first step, s"] = round(time.perf_counter() - began, 1)
                        speed = batch / bench.seconds(step, 2 if bench.toy else 10)
                        row["pictures/s"] = round(speed, 1)
                        row["of the matrix rate"] = f"{3 * flops * speed / best:.1%}"
                    except (RuntimeError, ValueError, ImportError) as error:
                        row["error"] = said(error)
                    yield row
                    if bench.device.type == "cuda":
                        torch.cuda.empty_cache()


def kernels(bench: Bench) -> Iterator[Row]:
    """One eager training step of the 64 px network, by what took longest."""
    options, batch = (TOY, 2) if bench.toy else (SMALL, 256)
    step = training_step(bench, ours(options, False), batch, compiled=False)
    for _ in range(3):
        step()
    bench.wait()
    on_gpu = bench.device.type == "cuda"
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]) as seen:
        step()
        bench.wait()

    def spent(event: Any) -> float:
        return float(event.self_device_time_total if on_gpu else event.self_cpu_time_total)

    events = sorted(seen.key_averages(), key=spent, reverse=True)
    total = sum(map(spent, events)) or 1.0
    for event in events[:15]:
        yield {
            "kernel": event.key[:90],
            "calls": event.count,
            "ms": round(spent(event) / 1e3, 2),
            "share": f"{spent(event) / total:.0%}",
        }


def sampling(bench: Bench) -> Iterator[Row]:
    """Pictures a second of ten DDIM steps, by batch size."""
    options = {**(TOY if bench.toy else SMALL), "condition_channels": 4}
    size = options["image_size"]
    model = Inpainter(NetworkDenoiser(UNet(**options), cosine(), Epsilon()), samplers.ddim(2 if bench.toy else 10))
    model.eval().to(bench.device)
    alone = None
    for batch in (1, 2) if bench.toy else (1, 4, 16, 64, 256):
        image = torch.zeros(batch, 3, size, size, device=bench.device)
        mask = torch.ones_like(image[:, :1], dtype=torch.bool)
        with torch.inference_mode(), torch.autocast(bench.device.type, torch.bfloat16):
            speed = batch / bench.seconds(lambda: model(image, mask, seeds=range(batch)), 3, warm=1)  # noqa: B023
        alone = alone or speed
        yield {"batch": batch, "pictures/s": round(speed, 2), "times one at a time": round(speed / alone, 1)}


def service(bench: Bench) -> Iterator[Row]:
    """The shipped model in the service's engine, for so many clients who each wait for their picture."""
    model = cascade.load(shipped()).to(bench.device)
    size = int(model.recipe["data"]["image_size"])
    left, top, right, bottom = (round(size * part) for part in (0.25, 0.35, 0.75, 0.55))
    mask = torch.zeros(1, 1, size, size, dtype=torch.bool)
    mask[..., top:bottom, left:right] = True
    job = partial(Job, torch.zeros(1, 3, size, size), mask)
    each = 1 if bench.toy else 8

    async def client(engine: LocalEngine, number: int) -> list[float]:
        seconds = []
        for turn in range(each):
            async with aclosing(engine.submit(job((number * each + turn,)))) as events:
                seconds += [event.seconds async for event in events if isinstance(event, Finished)]
        return seconds

    async def load(clients: int) -> Row:
        engine = LocalEngine(model, "shipped", autocast=torch.bfloat16)
        await engine.ready()
        began = time.perf_counter()
        answers = await asyncio.gather(*(client(engine, number) for number in range(clients)))
        took = time.perf_counter() - began
        waits = sorted(second for answer in answers for second in answer)
        await engine.drain(1)
        return {
            "clients": clients,
            "pictures/s": round(len(waits) / took, 2),
            "p50, s": round(statistics.median(waits), 3),
            "p95, s": round(waits[int(0.95 * (len(waits) - 1))], 3),
        }

    for clients in (1,) if bench.toy else (1, 4, 16):
        yield asyncio.run(load(clients))


PARTS: dict[str, Callable[[Bench], Iterator[Row]]] = {
    "GPU tests": tests,
    "Ceilings": ceilings,
    "Training": training,
    "Kernels of one step": kernels,
    "Sampling": sampling,
    "Service": service,
}


def said(error: Exception) -> str:
    """The first line of an error, and its kind."""
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:160]}"


def markdown(facts: Row, parts: dict[str, list[Row]]) -> str:
    """The results to read."""
    lines = [f"# {facts['on']}", "", ", ".join(f"{key}: {value}" for key, value in facts.items())]
    for title, rows in parts.items():
        columns = list(dict.fromkeys(key for row in rows for key in row))
        lines += ["", f"## {title}", "", f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
        lines += ["| " + " | ".join(str(row.get(key, "")).replace("|", "/") for key in columns) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder for results.json and results.md")
    parser.add_argument("--seconds", type=float, default=470, help="for all of it")
    parser.add_argument("--device", type=torch.device, default=torch.device("cuda"))
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--toy", action="store_true", help="a rehearsal: the smallest networks")
    asked = parser.parse_args()
    if asked.device.type == "cuda" and not torch.cuda.is_available():
        parser.error("this machine has no GPU that torch can use; --device cpu --toy rehearses it")
    torch.manual_seed(0)
    bench = Bench(asked.device, asked.toy, time.perf_counter() + asked.seconds)
    card = torch.cuda.get_device_name(asked.device) if asked.device.type == "cuda" else platform.machine()
    facts: Row = {"on": card, "torch": torch.__version__, "toy": asked.toy}
    asked.output.mkdir(parents=True, exist_ok=True)
    parts: dict[str, list[Row]] = {}
    for title in asked.parts:
        began = time.perf_counter()
        rows = parts[title] = []
        try:
            for row in PARTS[title](bench):
                rows.append(row)
                print(f"{title}: {row}", flush=True)
        except Exception as error:
            rows.append({"error": said(error)})
            print(f"{title}: {said(error)}", flush=True)
        facts[f"seconds of {title}"] = round(time.perf_counter() - began, 1)
        (asked.output / "results.json").write_text(json.dumps({"facts": facts, "parts": parts}, indent=1))
        (asked.output / "results.md").write_text(markdown(facts, parts))
    sys.exit(any("error" in row for rows in parts.values() for row in rows))


if __name__ == "__main__":
    main()
