"""A folder is a model: `model.safetensors` and the `recipe.json` that rebuilds it."""

import importlib
import json
import math
import shlex
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from diffusion_lab.files import flush

PACKAGE = "diffusion_lab"


class Named(Protocol):
    """Anything with a name."""

    @property
    def name(self) -> str: ...


class Data(Protocol):
    """What a recipe says of the pictures that a model was trained on."""

    image_size: int

    @property
    def name(self) -> str: ...

    @property
    def crop(self) -> Named: ...

    @property
    def attributes(self) -> Sequence[str]: ...


def find(target: str) -> Any:
    """The class or function of this package that a recipe names, such as ``diffusion_lab.diffusion.schedule.linear``.

    Raises:
        ValueError: if it is not ours, whatever path leads to it, or does not exist.
    """
    module_name, _, name = target.rpartition(".")
    if module_name.split(".")[0] != PACKAGE:
        raise ValueError(f"the recipe names '{target}', but may only name what {PACKAGE} defines")
    try:
        found = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError):
        raise ValueError(f"the recipe names '{target}', which this version of {PACKAGE} does not have") from None
    # A module of ours imports things that are not ours; where a thing was defined is what counts.
    if not callable(found) or getattr(found, "__module__", "").split(".")[0] != PACKAGE:
        raise ValueError(f"the recipe names '{target}', but may only name what {PACKAGE} defines")
    return found


def build(node: Any) -> Any:
    """The object that a recipe describes.

    A mapping with ``_target_`` is called with its other entries; with ``_partial_: true`` it waits for the rest.

    Example:
        >>> build({"_target_": "diffusion_lab.diffusion.schedule.linear", "steps": 100}).steps
        100
        >>> build({"_target_": "os.system", "command": "true"})
        Traceback (most recent call last):
        ValueError: the recipe names 'os.system', but may only name what diffusion_lab defines
    """
    if isinstance(node, Mapping):
        entries = {key: build(value) for key, value in node.items() if key not in ("_target_", "_partial_")}
        if "_target_" not in node:
            return entries
        target = find(node["_target_"])
        return partial(target, **entries) if node.get("_partial_", False) else target(**entries)
    if isinstance(node, list | tuple):
        return [build(value) for value in node]
    return node


def describe(model: Mapping[str, Any], data: Data, training: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe of a model: how to rebuild it, what it was trained on and how, and with which versions.

    Args:
        model: what `build` makes it of.
        data: whose name, crop and size go with it.
        training: plain JSON, such as the objective, the seed and the steps.
    """
    return {
        "model": model,
        "data": {
            "name": data.name,
            "crop": data.crop.name,
            "image_size": data.image_size,
            "attributes": list(data.attributes),
        },
        "training": dict(training),
        "versions": {name: version(name) for name in ("diffusion-lab", "torch", "torchvision")},
    }


def first(recipe: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a recipe says of the model that decides what there is: of a cascade, its first stage.

    Example:
        >>> first({"model": {"sizes": [64, 256], "stages": [{"sampler": "coarse"}, {"sampler": "fine"}]}})
        {'sampler': 'coarse'}
    """
    model: Mapping[str, Any] = recipe["model"]
    return model["stages"][0] if "stages" in model else model


def sampler(recipe: Mapping[str, Any]) -> Any:
    """How a model samples of its own accord; of a cascade, a list of how its stages do.

    Example:
        >>> sampler({"model": {"sizes": [64, 256], "stages": [{"sampler": "coarse"}, {"sampler": "fine"}]}})
        ['coarse', 'fine']
    """
    model: Mapping[str, Any] = recipe["model"]
    return [stage["sampler"] for stage in model["stages"]] if "stages" in model else model["sampler"]


def task(recipe: Mapping[str, Any]) -> str:
    """The name of the task that a model was trained for.

    Example:
        >>> task({"model": {"task": {"_target_": "diffusion_lab.tasks.restoration", "name": "jpeg"}}})
        'jpeg'
        >>> task({"model": {}})  # from before there were tasks
        'inpainting'
    """
    node = first(recipe).get("task") or {"_target_": f"{PACKAGE}.tasks.inpainting"}
    return str(node.get("name") or node["_target_"].rpartition(".")[2])


def asked(recipe: Mapping[str, Any], wanted: Mapping[Any, float]) -> Tensor:
    """Attributes by name as a model of that recipe is told them: ``(1, A)``, NaN where not said.

    Raises:
        ValueError: for a name that the model was not trained with, or for anything but values by name.

    Example:
        >>> asked({"data": {"attributes": ["Smiling", "Young"]}}, {"Young": 1})
        tensor([[nan, 1.]])
    """
    if not isinstance(wanted, Mapping):
        raise ValueError(f"attributes={wanted} must say a value for each name, such as attributes={{{wanted}: 1}}")
    names = recipe["data"].get("attributes", [])
    said = {str(name): float(value) for name, value in wanted.items()}  # a command line reads 281 as a number
    if unknown := [name for name in said if name not in names]:
        known = f"it knows {listed(names)}" if names else "it was trained without any: see labels="
        raise ValueError(f"the model knows no attribute '{unknown[0]}'; {known}")
    return torch.tensor([[said.get(name, math.nan) for name in names]])


def listed(names: Sequence[str], most: int = 40) -> str:
    """Names in a sentence: all of them, or of many the first and the last.

    Example:
        >>> listed(["Smiling", "Young"]), listed([str(i) for i in range(1000)])
        ('Smiling, Young', '1000 of them, 0, 1, 2 ... 999')
    """
    if len(names) <= most:
        return ", ".join(names)
    return f"{len(names)} of them, {', '.join(names[:3])} ... {names[-1]}"


def save(model: nn.Module, recipe: Mapping[str, Any], folder: Path) -> None:
    """Writes a model beside its recipe; what stood there stands until the new one is complete.

    Args:
        model: its weights are saved, see `weights`.
        recipe: plain JSON; its entry "model" is what `build` makes the model of.
        folder: is made, or replaced whole.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    old = fresh.with_name(fresh.name + "-old")
    try:
        state = {key: value.detach().cpu().contiguous() for key, value in weights(model).items()}
        try:
            save_file(state, fresh / "model.safetensors")
        except SafetensorError as error:
            raise OSError(f"'{folder}' was not written ({error}); what stood there stands") from None
        (fresh / "recipe.json").write_text(json.dumps(recipe, indent=2) + "\n")
        for path in (*fresh.iterdir(), fresh):
            path.chmod(0o755 if path.is_dir() else 0o644)  # others may serve what we trained
            flush(path)
        if folder.exists():
            folder.rename(old)
        fresh.rename(folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def weights(model: nn.Module) -> dict[str, Tensor]:
    """A model's tensors as its layers use them: one that is computed from others, as a tuned one is, stands for them.

    Example:
        >>> layer = nn.utils.parametrizations.weight_norm(nn.Linear(2, 2))
        >>> sorted(layer.state_dict())
        ['bias', 'parametrizations.weight.original0', 'parametrizations.weight.original1']
        >>> sorted(weights(layer))
        ['bias', 'weight']
    """
    state: dict[str, Tensor] = {k: v for k, v in model.state_dict().items() if "parametrizations." not in k}
    for path, layer in model.named_modules():
        for name in getattr(layer, "parametrizations", ()):
            state[f"{path}.{name}".lstrip(".")] = getattr(layer, name)
    return state


def read(folder: Path) -> dict[str, Any]:
    """The recipe of a saved model.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is not JSON, or the name is a file's: one of the folder, or the weights of another project.
    """
    path = folder / "recipe.json"
    if not path.is_file():
        if folder.with_name("recipe.json").is_file():
            raise ValueError(f"'{folder}' is a file of an inpainter: name its folder '{folder.parent}'")
        if folder.is_file() or (folder / "config.json").is_file():
            raise ValueError(foreign(folder))
        raise FileNotFoundError(
            f"no recipe.json in '{folder}': name the inpainter/ folder of a run, or train one with train.py"
        )
    try:
        recipe: dict[str, Any] = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"'{path}' is not JSON ({error}): the folder is damaged, use another copy") from None
    return recipe


def foreign(weights: Path) -> str:
    """What to do with the weights of another project: the command that makes a folder of ours of them.

    Example:
        >>> print(foreign(Path("celebahq.pt")))  # doctest: +NORMALIZE_WHITESPACE
        'celebahq.pt' holds weights as another project wrote them; make an inpainter of them first with
        python -m diffusion_lab.networks.checkpoints celebahq.pt --output celebahq-inpainter
        --schedule linear --image-size 256 --head-width 64
        and name inpainter=celebahq-inpainter
        (these are the values of guided-diffusion's 256-pixel models and RePaint's; for others see
        docs/foreign_weights.md)
    """
    output = weights.with_name(f"{weights.name if weights.is_dir() else weights.stem}-inpainter")
    said = "--schedule linear" if weights.is_dir() else "--schedule linear --image-size 256 --head-width 64"
    paths = f"{shlex.quote(str(weights))} --output {shlex.quote(str(output))}"
    command = f"python -m {PACKAGE}.networks.checkpoints {paths} {said}"
    known = "diffusers' DDPM models" if weights.is_dir() else "guided-diffusion's 256-pixel models and RePaint's"
    return (
        f"'{weights}' holds weights as another project wrote them; make an inpainter of them first with {command} "
        f"and name inpainter={output} (these are the values of {known}; for others see docs/foreign_weights.md)"
    )


def load(folder: Path) -> nn.Module:
    """The model that a folder holds, in evaluation mode on the CPU.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if the recipe is damaged or names what is not ours, or a tensor is missing, left over or misshapen.
    """
    model = build(read(folder)["model"])
    take_weights(model, folder)
    return model.eval()  # type: ignore[no-any-return]


def take_weights(model: nn.Module, folder: Path, prefix: str = "") -> None:
    """Puts the weights of a saved model into one that was built alike, strictly.

    Args:
        model: takes them.
        folder: of the saved one.
        prefix: of the names of those that are meant; empty is all of them.

    Raises:
        FileNotFoundError: if there are none.
        ValueError: if they are damaged, or a tensor is missing, left over or misshapen.
    """
    weights = folder / "model.safetensors"
    if not weights.is_file():
        raise FileNotFoundError(f"no model.safetensors in '{folder}': the folder is incomplete, use another copy")
    try:
        state = {key[len(prefix) :]: value for key, value in load_file(weights).items() if key.startswith(prefix)}
    except SafetensorError as error:
        raise ValueError(f"'{weights}' is damaged ({error}): use another copy") from None
    wanted = model.state_dict()
    wrong = sorted(
        {*wanted.keys() ^ state.keys(), *(k for k in wanted.keys() & state.keys() if wanted[k].shape != state[k].shape)}
    )
    if wrong:
        raise ValueError(
            f"'{weights}' is of another architecture than the recipe: {len(wrong)} tensors are missing, left over or "
            f"misshapen, the first is '{wrong[0]}'"
        )
    model.load_state_dict({key: value.to(wanted[key].dtype) for key, value in state.items()})


def start_from(model: nn.Module, node: Mapping[str, Any], folder: Path) -> None:
    """Gives a model that is about to be trained the weights of a saved one, which may have had another schedule.

    Args:
        model: takes the weights.
        node: what `build` made it of.
        folder: of the saved one; of a cascade, the first stage whose network is built alike is taken.

    Raises:
        FileNotFoundError: if there are none.
        ValueError: if they are damaged, or of a model that was built otherwise or predicts something else.
    """
    saved = read(folder)["model"]
    parts = {f"inpainters.{i}.": stage for i, stage in enumerate(saved["stages"])} if "stages" in saved else {"": saved}
    alike = [prefix for prefix, part in parts.items() if _network(part) == _network(node)]
    prefix = (alike or [*parts])[0]
    theirs, mine = flat(parts[prefix]), flat(node)
    unlike = [
        f"{key} is {theirs.get(key, 'not set')} there and {mine.get(key, 'not set')} here"
        for key in sorted(theirs.keys() | mine.keys())
        if theirs.get(key) != mine.get(key) and key.startswith("denoiser.")
    ]
    said = [each for each in unlike if each.startswith(("denoiser.predicts", "denoiser.told"))]
    try:
        take_weights(model, folder, prefix)
    except ValueError:
        if not unlike:
            raise
        said = [each for each in unlike if each.startswith("denoiser.network")]
    if said:
        raise ValueError(
            f"start_from={folder} is of another model than this run: {', '.join(said)}: train with its settings"
        )


def _network(node: Mapping[str, Any]) -> Any:
    return node.get("denoiser", {}).get("network")


def flat(node: Any, name: str = "") -> dict[str, Any]:
    """The leaves of nested mappings by their dotted names.

    Example:
        >>> flat({"a": {"b": 1, "c": [2]}})
        {'a.b': 1, 'a.c': [2]}
    """
    if not isinstance(node, Mapping):
        return {name: node}
    return {key: leaf for part in node for key, leaf in flat(node[part], f"{name}.{part}".lstrip(".")).items()}
