"""One network call as a file: ``python -m diffusion_lab.networks.export INPAINTER --output model.onnx``.

The loop, the levels and the known pixels stay in Python. The call takes, for any number B of pictures and in float32:

- x ``(B, 3, S, S)``: the noisy pictures, scaled as the parametrisation scales them (all but EDM's: as they are);
- condition ``(B, condition_channels, S, S)``: known pixels with the noise of `fill` in the hole, then 1 in the hole and
  -1 elsewhere;
- time ``(B,)``: what the network is told of the level (see `told` in the recipe);
- attributes ``(B, A)``, where the network has any: NaN is not said;

and answers output ``(B, out_channels, S, S)``: what the recipe's `predicts` reads x_0 and the noise from.

ONNX is for exchange. A .pt2 is for whoever wrote it: to load one is to trust its author, as with a pickle.
"""

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from diffusion_lab import recipe
from diffusion_lab.files import replacing, sha256
from diffusion_lab.inpainting import Inpainter
from diffusion_lab.networks.dit import DiT
from diffusion_lab.networks.unet import UNet

OPSET = 18
"""Of ONNX: the oldest that PyTorch writes, so the most runtimes read it; no slower than 23 under ONNX Runtime 1.32."""
LARGEST = 2**31 - 2**24
"""Bytes of weights: an ONNX file ends at 2 GiB, and holds the graph too."""
NAMES = ("x", "condition", "time", "attributes")

Call = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]
"""(x, condition, time, attributes) -> output, as `UNet.forward`."""


def identity(folder: Path) -> dict[str, str]:
    """What an exported file carries to be known by: the recipe of an inpainter's folder and its weights' SHA-256."""
    return {"recipe": json.dumps(recipe.read(folder)), "weights": sha256(folder / "model.safetensors")}


def exportable(network: nn.Module) -> UNet | DiT:
    """The network, of which is known what it is called with.

    Raises:
        ValueError: if it is neither a UNet nor a DiT.
    """
    if not isinstance(network, UNet | DiT):
        raise ValueError(f"a {type(network).__name__} cannot be exported or compiled, only a UNet or a DiT")
    return network


def example(network: UNet | DiT, rows: int) -> tuple[Tensor, ...]:
    """What the network can be called with: noise, and attributes of which none is said."""
    generator = torch.Generator().manual_seed(0)
    given = [torch.randn(rows, *each.shape[1:], generator=generator) for each in network.example()]
    unsaid = [torch.full((rows, network.attributes), torch.nan)] if network.attributes else []
    return *given, *unsaid


def traced(network: UNet | DiT) -> ExportedProgram:
    """One call of a network on the CPU, in float32 and evaluation mode, for any number of pictures."""
    inputs = example(network, rows=2)  # with 1, the trace would hold for 1 alone
    batch = Dim("batch")
    with torch.no_grad():
        return torch.export.export(network, inputs, dynamic_shapes=({0: batch},) * len(inputs))


def write_onnx(network: UNet | DiT, output: Path, about: Mapping[str, str]) -> None:
    """Writes one call of a network as ONNX.

    Args:
        network: on the CPU, in evaluation mode.
        output: of the file, which is written whole or not at all.
        about: the metadata that it carries: see `identity`.

    Raises:
        ValueError: if what writes ONNX is not installed, or the network is too large for one file.
    """
    weights = sum(p.numel() * p.element_size() for p in network.parameters())
    if weights > LARGEST:
        raise ValueError(f"the network's {weights / 2**30:.1f} GiB do not fit into an ONNX file, which ends at 2 GiB")
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError:
        raise ValueError("ONNX needs packages that are not installed: uv sync --extra onnx") from None
    program = traced(network)
    names = NAMES[: len(example(network, rows=1))]
    shapes = ({0: "batch"}, *[None] * (len(names) - 1))  # the axis is the same in all of them; naming it twice warns
    written = torch.onnx.export(
        program,
        dynamo=True,
        opset_version=OPSET,
        input_names=names,
        output_names=["output"],
        dynamic_shapes=shapes,
        verbose=False,
    )
    assert written is not None
    written.model.metadata_props.update(about)
    with replacing(output) as fresh:
        written.save(fresh, external_data=False)


def write_pt2(network: UNet | DiT, output: Path, about: Mapping[str, str]) -> None:
    """Writes one call of a network as `torch.export` does; see `write_onnx`."""
    program = traced(network)
    with replacing(output) as fresh:
        torch.export.save(program, fresh, extra_files=dict(about))


FORMATS = {".onnx": write_onnx, ".pt2": write_pt2}


def read_onnx(path: Path, wanted: Mapping[str, str] | None = None) -> Call:
    """The call that an ONNX file holds, on the CPU, with as many threads as PyTorch has.

    Args:
        path: of the file.
        wanted: the metadata that it must carry, as `identity` says it of a folder; None takes any file.

    Raises:
        ValueError: if ONNX Runtime is not installed, the file is no such thing, or it is of another inpainter.
    """
    try:
        import onnxruntime  # type: ignore[import-untyped]
    except ImportError:
        raise ValueError("ONNX needs packages that are not installed: uv sync --extra onnx") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its own classes, which share no base
        raise ValueError(f"'{path}' is not an ONNX file that ONNX Runtime reads ({error})") from None
    names = [each.name for each in session.get_inputs()]
    if tuple(names) != NAMES[: len(names)]:
        raise ValueError(f"'{path}' takes {', '.join(names)}, not the {', '.join(NAMES)} of a network here")
    carried = session.get_modelmeta().custom_metadata_map
    for name, value in (wanted or {}).items():
        if name not in carried or not _alike(carried[name], value):
            raise ValueError(f"'{path}' is of another inpainter: its {name} differs; export it again")

    def call(x: Tensor, condition: Tensor, time: Tensor, attributes: Tensor | None = None) -> Tensor:
        given = [x, condition, time]
        if len(names) == len(NAMES):
            shape = (len(x), session.get_inputs()[-1].shape[1])
            given.append(torch.full(shape, torch.nan) if attributes is None else attributes)
        elif attributes is not None:
            raise ValueError(f"this network is told 0 attributes, and {attributes.shape[1]} were given")
        feed = {name: each.detach().numpy() for name, each in zip(names, given, strict=True)}
        return torch.from_numpy(session.run(None, feed)[0])

    return call


def _alike(carried: str, wanted: str) -> bool:
    """Whether two values of metadata say the same; a recipe may be laid out otherwise."""
    try:
        return bool(json.loads(carried) == json.loads(wanted))
    except json.JSONDecodeError:
        return carried == wanted


class Called(nn.Module):
    """A network in another form, in the network's place.

    Whoever wants a gradient asks the network itself: the other form has none, or would have to be made for it first.

    Args:
        network: gives the gradients, the parameters and the device.
        call: the same function.
        near: how far x_0 and the noise may be from the network's, as a part of their length, where that is more
            than rounding; None leaves that open.
    """

    def __init__(self, network: UNet | DiT, call: Call, near: float | None = None) -> None:
        super().__init__()
        self.network = network
        self.condition_channels = network.condition_channels
        self.call = call
        self.near = near

    def forward(self, x: Tensor, condition: Tensor, time: Tensor, attributes: Tensor | None = None) -> Tensor:
        call = self.network if torch.is_grad_enabled() else self.call
        return call(x, condition, time, attributes)


def main(given: Sequence[str] | None = None) -> int:
    """Exports as the command line says; what is wrong is said in one sentence.

    Args:
        given: the arguments; None reads the command line's.

    Returns:
        0, or 1 if it could not be done.
    """
    parser = argparse.ArgumentParser(
        prog="python -m diffusion_lab.networks.export",
        description="Write one network call of an inpainter to a file. ONNX is for exchange; load no .pt2 of others.",
    )
    parser.add_argument("inpainter", type=Path, help="folder with model.safetensors and recipe.json")
    parser.add_argument("--output", type=Path, required=True, help="file to write: .onnx or .pt2")
    asked = parser.parse_args(given)
    write = FORMATS.get(asked.output.suffix)
    try:
        if write is None:
            raise ValueError(f"'{asked.output}' ends neither with {' nor with '.join(FORMATS)}")
        if "stages" in recipe.read(asked.inpainter)["model"]:
            raise ValueError(f"'{asked.inpainter}' is a cascade, and a file holds one network: export its stages")
        network = exportable(Inpainter.load(asked.inpainter).denoiser.network)
        about = identity(asked.inpainter)
        write(network, asked.output, about)
        # A .pt2 that this process wrote a moment ago is as safe to load as it was to write.
        call = read_onnx(asked.output, about) if write is write_onnx else torch.export.load(asked.output).module()
        inputs = example(network, rows=3)
        with torch.no_grad():
            missed = float((call(*inputs) - network(*inputs)).abs().max())
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    size = asked.output.stat().st_size / 1e6
    print(f"wrote {asked.output}: {size:.1f} MB, for any batch; with 3 pictures within {missed:.1e} of the network")
    return 0


if __name__ == "__main__":
    sys.exit(main())
