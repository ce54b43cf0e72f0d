"""What a fine-tuning changed, apart from the model: ``python -m diffusion_lab.adapters keep BASE TUNED --output FILE``.

A low-rank tuning (`train.py finetune=lora`) saves the whole model. The changes alone are a small file, and several may
lie beside one base: ``... merge BASE FILE --output FOLDER`` makes the whole of them again.
"""

import argparse
import hashlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from diffusion_lab.files import replacing
from diffusion_lab.inpainting import Inpainter
from diffusion_lab.networks import lora


@dataclass(frozen=True)
class Adapter:
    """The changes of a model's weights.

    Args:
        base: `digest` of the weights that they are changes of.
        rank: of the changes.
        changes: by the name of the weight.
    """

    base: str
    rank: int
    changes: lora.Factors

    def save(self, path: Path) -> None:
        """Writes one safetensors file, whole or not at all."""
        tensors = {
            f"{name}.{part}": t.contiguous()
            for name, pair in self.changes.items()
            for part, t in zip(("up", "down"), pair, strict=True)
        }
        with replacing(path) as fresh:
            fresh.write_bytes(save(tensors, {"base": self.base, "rank": str(self.rank)}))

    @classmethod
    def load(cls, path: Path) -> "Adapter":
        """Of a file that `save` wrote.

        Raises:
            FileNotFoundError: if there is none.
            ValueError: if it is none of ours, or damaged.
        """
        if not path.is_file():
            raise FileNotFoundError(f"no file '{path}': make one by `python -m diffusion_lab.adapters keep`")
        try:
            with safe_open(path, framework="pt") as file:
                facts = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no mapping
            names = [name.removesuffix(".up") for name in tensors if name.endswith(".up")]
            changes = {name: (tensors.pop(f"{name}.up"), tensors.pop(f"{name}.down")) for name in names}
            if tensors:
                raise KeyError(*tensors)
            return cls(facts["base"], int(facts["rank"]), changes)
        except (SafetensorError, KeyError, ValueError) as error:
            raise ValueError(
                f"'{path}' is no adapter ({error}): `keep` makes them of a base and a tuned model"
            ) from None


def digest(weights: Mapping[str, Tensor]) -> str:
    """SHA-256 of all weights, their names and their shapes, in float32."""
    summed = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        summed.update(f"{name}{[*tensor.shape]}".encode())
        summed.update(tensor.detach().float().contiguous().numpy().tobytes())
    return summed.hexdigest()


def kept(base: Inpainter, tuned: Inpainter) -> Adapter:
    """What a fine-tuning changed.

    Raises:
        ValueError: if the tuned one was not trained by `finetune=lora`, or is of another architecture.
    """
    tuning = tuned.recipe.get("training", {}).get("finetune")
    if not tuning:
        raise ValueError("the tuned model was not trained with finetune=lora: all of it has changed, keep it whole")
    before, after = base.state_dict(), tuned.state_dict()
    return Adapter(digest(before), tuning["rank"], lora.factors(before, after, tuning["rank"]))


def merged(base: Inpainter, adapter: Adapter, strength: float = 1.0) -> Inpainter:
    """The base with the changes added; `strength` as in `lora.joined`.

    Raises:
        ValueError: if the changes are of other weights than the base's.
    """
    weights = base.state_dict()
    if (found := digest(weights)) != adapter.base:
        raise ValueError(f"the adapter belongs to a base of digest {adapter.base[:12]}, and this one's is {found[:12]}")
    base.load_state_dict(lora.joined(weights, adapter.changes, strength))
    training = base.recipe.get("training", {})
    base.recipe = {**base.recipe, "training": {**training, "adapter": {"base": adapter.base, "strength": strength}}}
    return base


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m diffusion_lab.adapters", description="Low-rank changes of a model, apart from it."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    keep = commands.add_parser("keep", help="what a run with finetune=lora has changed, as a file")
    keep.add_argument("base", type=Path, help="folder of the inpainter that it started from")
    keep.add_argument("tuned", type=Path, help="folder of the inpainter that it made")
    keep.add_argument("--output", required=True, type=Path, help="the file")
    merge = commands.add_parser("merge", help="a whole inpainter of a base and such a file")
    merge.add_argument("base", type=Path, help="folder of the inpainter that the changes are of")
    merge.add_argument("adapter", type=Path, help="the file")
    merge.add_argument("--strength", type=float, default=1.0, help="0: the base; 1: as it was tuned")
    merge.add_argument("--output", required=True, type=Path, help="folder of the inpainter")
    asked = parser.parse_args(arguments)
    try:
        base = Inpainter.load(asked.base)
        if asked.command == "keep":
            adapter = kept(base, Inpainter.load(asked.tuned))
            adapter.save(asked.output)
        else:
            adapter = Adapter.load(asked.adapter)
            merged(base, adapter, asked.strength).save(asked.output)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    share = sum(t.numel() for pair in adapter.changes.values() for t in pair) / sum(
        p.numel() for p in base.parameters()
    )
    print(f"{asked.output}: {len(adapter.changes)} weights changed at rank {adapter.rank}, {share:.1%} of its numbers")


if __name__ == "__main__":
    main()
