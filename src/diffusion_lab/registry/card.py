"""The model card: what a stranger has to know of a model before using it, made from its recipe and its results."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from diffusion_lab import recipe as recipes
from diffusion_lab import tasks

TERMS = {
    "built-in faces": (
        "Synthetic faces that come with the package; `src/diffusion_lab/data/faces/README.md` says where they are from "
        "and on which terms. No picture is of a real person."
    ),
    "CelebA": (
        "CelebA is for non-commercial research only, and its pictures are of real people who were not asked: "
        "[its agreement](https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html) binds whoever uses a model trained on it."
    ),
}
UNKNOWN = "Whoever trained the model knows the terms of these pictures: ask before the model leaves the house."

LIMITS = (
    "It was trained on faces that are upright, frontal and cut out alike. Align others first.",
    "What it puts into a hole, or makes of a picture, is invented. It says nothing about how a person looks under a "
    "mask, a blur or a scar: do not use it to identify anybody, nor as evidence.",
    "It has the biases of its pictures: who is rare in them is restored worse, and towards those who are common.",
    "Pictures that it completed are synthetic in part. Those that this package writes say so in their metadata.",
)

COLUMNS = (
    ("fid", "FID ↓", ".2f"),
    ("lpips", "LPIPS ↓", ".4f"),
    ("psnr", "PSNR ↑", ".2f"),
    ("ssim", "SSIM ↑", ".3f"),
    ("l1_hole", "L1 hole ↓", ".4f"),
    ("seconds_per_image", "s/picture", ".3f"),
    ("network_calls", "calls", "d"),
)

TEMPLATE = """# {name}

A diffusion model that {does}, {size}x{size} pixels. Known pixels come back bit for bit.

| | |
|---|---|
{facts}

## Data and licence

Trained on {data}, crop {crop}. {terms}
The weights are under the licence of the package as far as the pictures' terms allow.

## Figures

{n} {split} pictures of {evaluated}; the same holes for every method (mask set {mask_set}, seed {seed}); {biased}FID by
{extractor}.

{table}

## Limits

{limits}

## Use

```python
from diffusion_lab.cascade import load

model = load("this folder")
# image (B, 3, {size}, {size}) in [-1, 1]; mask (B, 1, {size}, {size}) bool, True = {region}
made = model(image, mask, seeds=[0])
```

or `uv run {command}` for pictures of any size.
"""


def card(name: str, recipe: Mapping[str, Any], results: Mapping[str, Any], terms: str | None = None) -> str:
    """The card as markdown.

    Args:
        name: of the model.
        recipe: as it stands beside the weights.
        results: what `evaluate.py` wrote.
        terms: of the pictures that it was trained on; None says what the package knows of them.

    Raises:
        ValueError: if the recipe or the results lack what a card needs.
    """
    try:
        data, protocol = recipe["data"], results["protocol"]
        return TEMPLATE.format(
            name=name,
            **_words(tasks.of(recipe)),
            size=data["image_size"],
            facts="\n".join(_line(row) for row in _facts(recipe)),
            data=data["name"],
            crop=data["crop"],
            terms=terms or TERMS.get(data["name"], UNKNOWN),
            n=protocol["n"],
            split=protocol.get("split", ""),
            evaluated=protocol.get("data", "unnamed data"),
            mask_set=protocol["mask_set"],
            seed=protocol["seed"],
            biased="few, so compare FID at the same n only; " if protocol["fid_biased"] else "",
            extractor=protocol["extractor"],
            table=_table(results["rows"]),
            limits="\n".join(f"- {limit}" for limit in LIMITS),
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"a model card cannot be made: the recipe or the results lack {error}") from None


def _words(task: tasks.Task) -> dict[str, str]:
    """What the model does, what its mask means, and the command that calls it."""
    given = "inpainter=<this folder> image=me.jpg"
    if task.holes:
        does, region = "fills holes in pictures of faces", "hole"
        command = f"inpaint.py {given} mask=hole.png"
    elif task.holes is False:
        does, region = f"restores whole pictures of faces (task {task.name})", "all of it"
        command = f"restore.py {given}"
    else:
        does, region = f"restores pictures of faces or fills holes in them (task {task.name})", "hole, or all of it"
        command = f"restore.py {given} [mask=hole.png]"
    return {"does": does, "region": region, "command": command}


def _facts(recipe: Mapping[str, Any]) -> list[Sequence[str]]:
    made_with = ("made with", ", ".join(f"{key} {value}" for key, value in recipe.get("versions", {}).items()))
    if "stages" not in recipe["model"]:
        return [*_stage_facts(recipe["model"], recipe.get("training", {})), made_with]
    each = zip(recipe["model"]["stages"], recipe["training"]["stages"], strict=True)
    stages = [_stage_facts(model, training) for model, training in each]
    facts = [(f"stage {number}: {name}", what) for number, of in enumerate(stages, 1) for name, what in of]
    return [*facts, made_with]


def _stage_facts(model: Mapping[str, Any], training: Mapping[str, Any]) -> list[Sequence[str]]:
    denoiser = model["denoiser"]
    with torch.device("meta"):
        network = recipes.build(denoiser["network"])
    count = sum(parameter.numel() for parameter in network.parameters())
    facts: list[Sequence[str]] = [
        ("network", f"{_call(denoiser['network'])}, {count / 1e6:.2f} million parameters"),
        ("schedule", _call(denoiser["schedule"])),
        ("predicts", _call(denoiser["predicts"])),
        ("sampler", _call(model["sampler"])),
    ]
    facts += [(key, _call(training[key])) for key in ("mask", "optimizer") if key in training]
    facts += [(key, str(training[key])) for key in ("step", "seed") if key in training]
    return facts


def _call(node: Any) -> str:
    """A part of a recipe as one would write it down, without its own parts."""
    if not isinstance(node, Mapping):
        return str(node)
    named = str(node.get("_target_", "")).rsplit(".", 1)[-1]
    plain = [
        f"{key} {value}" for key, value in node.items() if not key.startswith("_") and not isinstance(value, Mapping)
    ]
    inner = [_call(value) for value in node.values() if isinstance(value, Mapping)]
    said = ", ".join([*plain, *inner])
    return f"{named} ({said})" if named and said else named or said


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    columns = [column for column in COLUMNS if column[0] in rows[0]]
    lines = [
        _line(["mask", "method", *(heading for _, heading, _ in columns)]),
        _line(["---", "---", *["---:"] * len(columns)]),
    ]
    for row in rows:
        figures = ["-" if row[key] is None else format(row[key], form) for key, _, form in columns]
        lines.append(_line([row["mask"], row["method"], *figures]))
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"
