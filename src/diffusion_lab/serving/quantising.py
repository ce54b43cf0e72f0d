"""Makes a model's networks with convolutions in 8-bit integers: ``python -m diffusion_lab.serving.quantising FOLDER``.

Of every stage's ONNX file all convolutions but the first and the last become integers (Jacob et al. 2018,
arXiv:1712.05877): weights by their channel, what goes in and out by the range that it had while the model did its own
task on a few of the built-in faces. A stage whose integers miss what the network said there stays in float32: the
shipped refiner's do, and fill with grain.
"""

import argparse
import contextlib
import io
import math
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from diffusion_lab import cascade
from diffusion_lab.data.cache import RESAMPLING
from diffusion_lab.data.celeba import CelebA, built_in_faces
from diffusion_lab.data.crops import Crop, named
from diffusion_lab.data.decoding import decode
from diffusion_lab.data.masks import center, drawn, everything, free_form, half
from diffusion_lab.inpainting import version_of
from diffusion_lab.networks.export import NAMES, Call, Called, exportable, identity, read_onnx, write_onnx
from diffusion_lab.pictures import from_pil, to_float, to_uint8
from diffusion_lab.serving.backends import NEAR
from diffusion_lab.serving.quantised import keep
from diffusion_lab.serving.swapping import Model, try_out
from diffusion_lab.tasks import Task

FACES = 8
"""That the model is asked about."""
MASKS = (center, half, free_form, everything)
"""Their holes, in turn: a part of the picture, or all of it."""

WORST = 0.5
"""How far the answer to a call of the task may be from the network's, as a part of its length. The shipped base misses
by .03 to .25, and its fillings look as good (LPIPS .058 for .060); the refiner by .05 to 2.3, and with it .204."""

Feed = Mapping[str, NDArray[Any]]
"""The inputs of a network call, by their names in the ONNX file, and where it was answered the output."""


def given(task: Task, crop: Crop, size: int) -> tuple[Tensor, Tensor]:
    """What a person would hand in of some of the built-in faces, and the regions that are to be made.

    Args:
        task: degrades them; one that takes no hole has whole pictures for regions.
        crop: of the faces.
        size: of the pictures, in pixels.

    Returns:
        ``(B, 3, S, S)`` in [-1, 1] and ``(B, 1, S, S)`` bool.
    """
    source = CelebA(built_in_faces())
    squares = []
    for name in source.names("train")[:FACES]:
        picture = decode(source.read(name))
        squares.append(from_pil(picture.crop(crop.seen(*picture.size)).resize((size, size), RESAMPLING)))
    image = torch.stack(squares)
    masks = [everything] if task.holes is False else MASKS
    region = torch.cat([drawn(masks[i % len(masks)], size, [i]) for i in range(FACES)])
    return to_float(task.degrade(to_uint8(image), region, range(FACES))), region


@torch.no_grad()
def recorded(model: cascade.Model) -> list[list[Feed]]:
    """The network calls of every stage while the model does its task, the first stage's first."""
    data = model.recipe["data"]
    image, region = given(model.task, named(data["crop"]), int(data["image_size"]))
    # Who was always told a class is told one; the others hear nothing, as most people say nothing.
    classes = len(data.get("attributes", ())) if data.get("exclusive", False) else 0
    said = torch.eye(classes)[torch.arange(FACES) % classes] if classes else None
    calls: list[list[Feed]] = [[] for _ in model.stages]
    with contextlib.ExitStack() as watching:
        for stage, heard in zip(model.stages, calls, strict=True):

            def hear(network: nn.Module, inputs: tuple[Any, ...], output: Tensor, heard: list[Feed] = heard) -> None:
                x, condition, time, told = inputs
                if told is None and (count := exportable(network).attributes):
                    told = torch.full((len(time), count), torch.nan)
                full = zip((*NAMES, "output"), (x, condition, time, told, output), strict=True)
                heard.append({name: each.numpy().copy() for name, each in full if each is not None})

            watching.callback(stage.denoiser.network.register_forward_hook(hear).remove)
        model(image, region, seeds=range(FACES), attributes=said)
    return calls


def quantise(floats: Path, output: Path, calls: Sequence[Feed]) -> None:
    """Writes an ONNX file again, its convolutions but the first and the last in 8-bit integers.

    Args:
        floats: in float32.
        output: of the new one.
        calls: that set the ranges.

    Raises:
        ValueError: if there is none in between.
    """
    import onnx
    from onnxruntime.quantization import (  # type: ignore[import-untyped]
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process  # type: ignore[import-untyped]

    class Calls(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            # A picture at a time: all of them together would take as much more memory.
            self.left: Iterator[Feed] = (
                {name: call[name][row : row + 1] for name in NAMES if name in call}
                for call in calls
                for row in range(len(call["x"]))
            )

        def get_next(self) -> Feed | None:
            return next(self.left, None)

    shaped = output.with_suffix(".shaped.onnx")
    quant_pre_process(str(floats), str(shaped), skip_symbolic_shape=True)
    convolutions = [node.name for node in onnx.load(str(shaped)).graph.node if node.op_type == "Conv"]
    if len(convolutions) < 3:
        raise ValueError(
            "this network has no convolutions that could be 8-bit integers: set engine.backend=eager or onnxruntime"
        )
    quantize_static(
        str(shaped),
        str(output),
        Calls(),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=["Conv"],
        # What goes into the first and comes out of the last is the picture itself, and they cost little.
        nodes_to_exclude=[convolutions[0], convolutions[-1]],
        per_channel=True,
        reduce_range=True,  # weights of 7 bits: without VNNI two products of 8 bits overflow the 16 that add them
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=CalibrationMethod.MinMax,
    )


def missed(call: Call, calls: Sequence[Feed]) -> float:
    """How far the worst of some answers is from the network's, as a part of its length; infinite if it is no number."""
    worst = 0.0
    for feed in calls:
        x, condition, time, told = (None if name not in feed else torch.from_numpy(feed[name]) for name in NAMES)
        assert x is not None
        assert condition is not None
        assert time is not None
        truth = torch.from_numpy(feed["output"])
        far = float((call(x, condition, time, told) - truth).norm() / truth.norm())
        worst = max(worst, far if far < math.inf else math.inf)
    return worst


def make(folder: Path) -> None:
    """Makes the files of a model, and keeps them; a stage whose integers miss too much is kept in float32.

    Args:
        folder: of the model.

    Raises:
        ValueError: if all of them miss too much, it has no convolutions for it, or packages are missing.
        OSError: if they cannot be kept.
    """
    model = cascade.load(folder)
    about = identity(folder)
    calls = recorded(model)
    with tempfile.TemporaryDirectory() as made:
        files, integers = [], 0
        for number, stage in enumerate(model.stages):
            network = exportable(stage.denoiser.network)
            floats, output = Path(made) / f"{number}-floats.onnx", Path(made) / f"{number}.onnx"
            write_onnx(network, floats, {**about, "stage": str(number)})
            quantise(floats, output, calls[number])
            call = read_onnx(output, {**about, "stage": str(number)})
            if missed(call, calls[number]) > WORST:
                call, output = read_onnx(floats, {**about, "stage": str(number)}), floats
            else:
                integers += 1
            stage.denoiser.network = Called(network, call, NEAR)
            files.append(output)
        if not integers:
            raise ValueError("no network of this model is near itself in 8-bit integers: set engine.backend=eager")
        with torch.no_grad():
            try_out(Model(model, version_of(folder), None), 1)
        keep(folder, files)


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code; what is wrong is one sentence on stderr."""
    parser = argparse.ArgumentParser(
        prog="python -m diffusion_lab.serving.quantising",
        description="Make what engine.backend=int8 serves, and keep it in the user's cache.",
    )
    parser.add_argument("folder", type=Path, help="with model.safetensors and recipe.json")
    asked = parser.parse_args(arguments)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            make(asked.folder)
    except Exception as error:  # of libraries too, whose errors share no base
        print(f"error: {str(error) or type(error).__name__}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
