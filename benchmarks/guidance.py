"""What guidance does to an attribute, over its scale: ``python benchmarks/guidance.py --help``.

Faces are painted from nothing (the hole is the whole picture) by two models: one that a classifier of noisy faces
guides (algorithm 1), and one that was told the attribute in training (classifier-free). The attribute is the mean
luminance of a region of the result, measured on its 8-bit pixels, never by what guided it. FID is against the test
split. Values go to a JSON file, the curves and the faces of each scale to docs/figures.
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from diffusion_lab.charts import beside, chart
from diffusion_lab.classifying import mean_guided
from diffusion_lab.data.cache import Pictures, build
from diffusion_lab.data.celeba import CelebA, built_in_faces
from diffusion_lab.data.crops import center148
from diffusion_lab.data.labels import Measured
from diffusion_lab.diffusion.samplers import classifier_free
from diffusion_lab.evaluation.bench import example_seeds
from diffusion_lab.inpainting import Inpainter
from diffusion_lab.metrics import FrechetDistance, inception
from diffusion_lab.pictures import sheet, to_uint8

FIGURES = Path(__file__).parents[1] / "docs" / "figures"
CACHE = Path.home() / ".cache" / "diffusion_lab"


def painted(inpainter: Inpainter, sampler: Any, n: int, wanted: dict[str, float] | None, batch: int = 32) -> Tensor:
    """``(n, 3, S, S)`` in [-1, 1], faces from nothing; picture i always starts from the same noise."""
    size = inpainter.recipe["data"]["image_size"]
    told = inpainter.attributes(wanted) if wanted else None
    parts = []
    for start in range(0, n, batch):
        seeds = example_seeds(0, torch.arange(start, min(n, start + batch)))
        image, mask = torch.zeros(len(seeds), 3, size, size), torch.ones(len(seeds), 1, size, size, dtype=torch.bool)
        attributes = None if told is None else told.expand(len(seeds), -1)
        parts.append(inpainter(image, mask, seeds=seeds, sampler=sampler, attributes=attributes))
    return torch.cat(parts)


def main(given: Sequence[str] | None = None) -> None:
    """Measures, writes and draws."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inpainter", help="folder of a model of experiment=both, which the classifier guides")
    parser.add_argument("--classifier", help="folder of experiment=classifier")
    parser.add_argument("--told", help="folder of a model of experiment=attributes, for classifier-free guidance")
    parser.add_argument("--regions", nargs="+", default=["hair"])
    parser.add_argument("--scales", nargs="+", type=float, default=[0, 0.3, 1, 3, 10, 30])
    parser.add_argument("-n", type=int, default=100)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--output", type=Path, default=Path("guidance.json"), help="its name is the figures', too")
    asked = parser.parse_args(given)

    source, crop, measured = CelebA(built_in_faces(), name="built-in faces"), center148(), Measured()
    train, test = (Pictures(build(source, split, crop, 32, CACHE)).images for split in ("train", "test"))
    median = measured.luminance(train, crop).median(dim=0).values
    fid = FrechetDistance(inception(), keep_real=True)
    fid.update(test, real=True)

    ways = []
    if asked.inpainter:
        ways.append(("classifier", Inpainter.load(asked.inpainter)))
    if asked.told:
        ways.append(("classifier-free", Inpainter.load(asked.told)))
    rows: list[dict[str, Any]] = []
    faces: dict[tuple[str, str, float], Tensor] = {}
    for region in asked.regions:
        wish, column = {f"{region}_luminance_above_median": 1.0}, list(measured.regions).index(region)
        for way, model in ways:
            for scale in asked.scales:
                if way == "classifier":
                    sampler = mean_guided(asked.classifier, wish, scale, asked.steps)
                    pictures = painted(model, sampler, asked.n, None)
                else:
                    pictures = painted(model, classifier_free(asked.steps, scale), asked.n, wish)
                images = to_uint8(pictures)
                values = measured.luminance(images, crop)[:, column]
                fid.reset()
                for start in range(0, asked.n, 32):
                    fid.update(images[start : start + 32], real=False)
                rows.append(
                    {
                        "way": way,
                        "region": region,
                        "scale": scale,
                        "n": asked.n,
                        "luminance": float(values.mean()),
                        "share": float((values > median[column]).double().mean()),
                        "fid": float(fid.compute()),
                    }
                )
                faces[way, region, scale] = pictures[:10]
                print(time.strftime("%X"), rows[-1], flush=True)
                asked.output.write_text(json.dumps({"median": median.tolist(), "rows": rows}, indent=1))
    draw(rows, faces, asked.output.stem)


def draw(rows: Sequence[dict[str, Any]], faces: dict[tuple[str, str, float], Tensor], name: str) -> None:
    """The curves, and the same ten seeds at every scale."""
    series = sorted({(row["way"], row["region"]) for row in rows}, reverse=True)
    charts = []
    labels = {"share": "share above the median", "luminance": "luminance", "fid": f"FID, n = {rows[0]['n']}"}
    for key, label in labels.items():
        lines = {
            f"{way}, {region}": [(r["scale"], r[key]) for r in rows if (r["way"], r["region"]) == (way, region)]
            for way, region in series
        }
        charts.append(chart(lines, "guidance scale", label, size=(380, 280)))
    save(beside(charts, 3), FIGURES / f"{name}.png")
    scales = sorted({scale for *_, scale in faces})
    drawn = [[faces[way, region, scale][i] for scale in scales] for way, region in series for i in range(3)]
    save(sheet(drawn, [f"scale {scale:g}" for scale in scales], side=80), FIGURES / f"{name}_faces.png")


def save(picture: Image.Image, path: Path) -> None:
    """A figure of few colours."""
    picture.quantize(256).save(path, optimize=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
