"""Our figures beside those of the tools that others measure with, on the same pictures.

    uv run --group benchmarks python benchmarks/references.py

Both sides get built-in faces, and these faces with a half filled by a classical method; pytorch-fid and clean-fid read
them from folders, as they do for anybody. No tool's own weights are downloaded: each is given those of
`diffusion_lab.metrics.inception` in its own graph, batch norms and all, and lpips the trunk of
`diffusion_lab.metrics.LPIPS` under its own heads. Prints a table in Markdown and writes it to a JSON file; a tool that
is not installed is named and left out.
"""

import argparse
import contextlib
import importlib
import io
import json
import platform
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.inception import BasicConv2d

from diffusion_lab import metrics
from diffusion_lab.data.cache import Pictures, build
from diffusion_lab.data.celeba import CelebA, built_in_faces
from diffusion_lab.data.crops import center148
from diffusion_lab.evaluation.baselines import telea
from diffusion_lab.metrics.features import find_archive
from diffusion_lab.pictures import to_float, to_pil, to_uint8

BATCH = 25
Extract = Callable[[Tensor], Tensor]
"""Pictures, uint8 (N, 3, H, W), to features (N, d)."""
Pair = tuple[Tensor, Tensor]
"""Of faces and of their fillings."""


@dataclass(frozen=True)
class Agreement:
    """How far a figure of ours lies from a tool's.

    `value` is the mean of the tool's numbers, `absolute` the largest difference from them, and `relative` that
    difference over the mean of their sizes.
    """

    tool: str
    what: str
    n: int
    value: float
    absolute: float
    relative: float


def agreement(package: str, what: str, n: int, ours: Any, theirs: Any) -> Agreement:
    """Of numbers, or of as many in arrays of one shape."""
    a, b = (np.asarray(x, dtype=np.float64) for x in (ours, theirs))
    assert a.shape == b.shape, (package, what, a.shape, b.shape)
    absolute = float(np.abs(a - b).max())
    return Agreement(
        f"{package} {version(package)}", what, n, float(b.mean()), absolute, absolute / float(np.abs(b).mean())
    )


def faces_and_fillings(count: int, size: int, cache: Path) -> tuple[Tensor, Tensor]:
    """Built-in test faces, and the same with a half filled by Telea's method: uint8 (count, 3, size, size) each."""
    real = Pictures(build(CelebA(built_in_faces()), "test", center148(), size, cache))[list(range(count))]
    hole = torch.zeros(len(real), 1, size, size, dtype=torch.bool)
    hole[..., size // 2 :] = True
    filled = to_uint8(telea().fill(to_float(real), hole, torch.arange(len(real))))
    return real, torch.where(hole, filled, real)


def random_features(count: int, width: int = 64) -> tuple[Tensor, Tensor]:
    """Two sets of correlated float64 features (count, width) that overlap."""
    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(width, width, generator=generator, dtype=torch.float64) / width**0.5
    real, fake = (torch.randn(count, width, generator=generator, dtype=torch.float64) @ mix for _ in range(2))
    return real, 0.9 * fake + 0.1


def in_batches(extract: Extract, images: Tensor) -> Tensor:
    """Features of many pictures."""
    with torch.no_grad():
        return torch.cat([extract(part) for part in images.split(BATCH)])


# -- the tools' Inception --------------------------------------------------------------------------------------------


def published_inception() -> dict[str, Tensor]:
    """Inception's weights as pytorch-fid and torch-fidelity name them; its classifier, which no FID looks at, is 0."""
    with torch.device("meta"):
        graph = torchvision.models.inception_v3(num_classes=1008, aux_logits=False, init_weights=False)
        ours = [name for name, layer in metrics.InceptionV3().named_modules() if isinstance(layer, nn.Conv2d)]
    theirs = [name for name, layer in graph.named_modules() if isinstance(layer, BasicConv2d)]
    archive = torch.jit.load(find_archive()).state_dict()
    state = {"fc.weight": torch.zeros(1008, 2048), "fc.bias": torch.zeros(1008)}
    for one, other in zip(ours, theirs, strict=True):
        weight, mean, var, beta = (archive[f"net.{one}.{part}"] for part in ("weight", "mean", "var", "beta"))
        state[f"{other}.conv.weight"] = weight
        state |= {f"{other}.bn.running_mean": mean, f"{other}.bn.running_var": var, f"{other}.bn.bias": beta}
        state |= {f"{other}.bn.weight": torch.ones_like(beta), f"{other}.bn.num_batches_tracked": torch.tensor(0)}
    return state


def by_pytorch_fid(folders: tuple[Path, Path], ours: Pair) -> Iterator[Agreement]:
    """Features of files, and FID, by its own functions."""
    inception, score = (importlib.import_module(f"pytorch_fid.{name}") for name in ("inception", "fid_score"))
    with patch.object(inception, "load_state_dict_from_url", lambda *_, **__: published_inception()):
        network = inception.InceptionV3()
    theirs = [score.get_activations(sorted(folder.glob("*.png")), network, BATCH, num_workers=0) for folder in folders]
    yield agreement(
        "pytorch-fid", "Inception's features of files", len(ours[0]), torch.cat(ours), np.concatenate(theirs)
    )
    moments = [(x.mean(axis=0), np.cov(x, rowvar=False)) for x in theirs]
    fid = score.calculate_frechet_distance(*moments[0], *moments[1])
    yield agreement("pytorch-fid", "FID of files", len(ours[0]), metrics.frechet_distance(*ours), fid)


def by_clean_fid(folders: tuple[Path, Path], ours: Pair) -> Iterator[Agreement]:
    """Features of files, FID and KID, by its own functions in the mode "clean"."""
    tool = importlib.import_module("cleanfid.fid")
    archive = torch.jit.load(find_archive()).eval()
    theirs = [
        tool.get_folder_features(
            str(folder), lambda x: archive((x - 128) / 128), 0, batch_size=BATCH, device="cpu", verbose=False
        )
        for folder in folders
    ]
    yield agreement("clean-fid", "Inception's features of files", len(ours[0]), torch.cat(ours), np.concatenate(theirs))
    yield agreement(
        "clean-fid", "FID of files", len(ours[0]), metrics.frechet_distance(*ours), tool.fid_from_feats(*theirs)
    )
    kid = tool.kernel_distance(*theirs, num_subsets=1, max_subset_size=len(ours[0]))
    yield agreement("clean-fid", "KID of files, in one subset", len(ours[0]), metrics.kernel_distance(*ours)[0], kid)


def by_torch_fidelity(weights: Path, pictures: Pair, ours: Pair) -> Iterator[Agreement]:
    """Features, FID, KID, precision and recall, by its own functions."""
    inception, fid, kid, prc = (
        importlib.import_module(f"torch_fidelity.{name}")
        for name in ("feature_extractor_inceptionv3", "metric_fid", "metric_kid", "metric_prc")
    )
    torch.save(published_inception(), weights)
    network = inception.FeatureExtractorInceptionV3("inception", ["2048"], str(weights))
    theirs = [in_batches(lambda x: network(x)[0], images) for images in pictures]
    n = len(ours[0])
    yield agreement("torch-fidelity", "Inception's features", n, torch.cat(ours), torch.cat(theirs))
    statistics = [fid.fid_features_to_statistics(x) for x in theirs]
    value = fid.fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]
    yield agreement("torch-fidelity", "FID", n, metrics.frechet_distance(*ours), value)
    found = kid.kid_features_to_metric(*theirs, kid_subsets=1, kid_subset_size=n, verbose=False)
    value = found["kernel_inception_distance_mean"]
    yield agreement("torch-fidelity", "KID, in one subset", n, metrics.kernel_distance(*ours)[0], value)
    mine = metrics.precision_recall(*ours)
    pair = [mine[name].mean() for name in ("precision", "recall")]
    value = prc.calculate_precision_recall_full(*reversed(theirs), neighborhood=3)
    yield agreement("torch-fidelity", "precision and recall, 3 neighbours", n, pair, value)


# -- tools that take features or pictures ----------------------------------------------------------------------------


def frechet_distances(real: Tensor, fake: Tensor, which: str) -> Iterator[Agreement]:
    """By the three tools' formulas, of features (n, d)."""
    n = len(real)
    ours = metrics.frechet_distance(real, fake)
    moments = [(x.mean(axis=0), np.cov(x, rowvar=False)) for x in (real.numpy(), fake.numpy())]
    tool = importlib.import_module("pytorch_fid.fid_score")
    value = tool.calculate_frechet_distance(*moments[0], *moments[1])
    yield agreement("pytorch-fid", f"Frechet distance, {which}", n, ours, value)
    value = importlib.import_module("cleanfid.fid").fid_from_feats(real.numpy(), fake.numpy())
    yield agreement("clean-fid", f"Frechet distance, {which}", n, ours, value)
    tool = importlib.import_module("torch_fidelity.metric_fid")
    statistics = [tool.fid_features_to_statistics(x) for x in (real, fake)]
    value = tool.fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]
    yield agreement("torch-fidelity", f"Frechet distance, {which}", n, ours, value)


def kernel_distance(real: Tensor, fake: Tensor, which: str) -> Iterator[Agreement]:
    """By torchmetrics, in one subset of all pictures; its extractor is the identity."""
    tool = importlib.import_module("torchmetrics.image.kid")
    metric = tool.KernelInceptionDistance(feature=nn.Identity(), subsets=1, subset_size=len(real))
    metric.update(real, real=True)
    metric.update(fake, real=False)
    ours = metrics.kernel_distance(real, fake)[0]
    yield agreement("torchmetrics", f"KID in one subset, {which}", len(real), ours, metric.compute()[0])


def neighbours(real: Tensor, fake: Tensor, which: str) -> Iterator[Agreement]:
    """The four figures of prdc, by 3 and by 5 neighbours."""
    tool = importlib.import_module("prdc")
    names = ("precision", "recall", "density", "coverage")
    for k in (3, 5):
        ours = metrics.precision_recall(real, fake, neighbours=k, around=k)
        theirs = tool.compute_prdc(real.numpy(), fake.numpy(), k)
        pair = [ours[name].mean().item() for name in names], [theirs[name] for name in names]
        yield agreement("prdc", f"precision, recall, density, coverage by {k} neighbours, {which}", len(real), *pair)


def squared_errors_and_structure(real: Tensor, fake: Tensor) -> Iterator[Agreement]:
    """PSNR and SSIM of each picture, by scikit-image."""
    tool = importlib.import_module("skimage.metrics")
    n = len(real)
    pairs = list(zip(*(x.permute(0, 2, 3, 1).numpy() for x in (real, fake)), strict=True))
    theirs = [tool.peak_signal_noise_ratio(y, x, data_range=255) for y, x in pairs]
    yield agreement("scikit-image", "PSNR of each picture", n, metrics.psnr(fake, real), theirs)
    as_wang = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    theirs = [tool.structural_similarity(y, x, data_range=255, channel_axis=-1, **as_wang) for y, x in pairs]
    yield agreement("scikit-image", "SSIM of each picture", n, metrics.ssim(fake, real), theirs)


def perceptual_distance(real: Tensor, fake: Tensor) -> Iterator[Agreement]:
    """LPIPS of each picture, by lpips."""
    ours = metrics.LPIPS()
    theirs = importlib.import_module("lpips").LPIPS(net="alex", pnet_rand=True, verbose=False)
    convolutions = [[x for x in net.modules() if isinstance(x, nn.Conv2d)] for net in (ours.features, theirs.net)]
    for mine, layer in zip(*convolutions, strict=True):
        layer.load_state_dict(mine.state_dict())
    with torch.no_grad():
        values = theirs(to_float(fake), to_float(real)).flatten()
        yield agreement("lpips", "LPIPS of each picture", len(real), ours(fake, real), values)


# -- all of it -------------------------------------------------------------------------------------------------------


def measured(parts: Iterable[Iterator[Agreement]]) -> Iterator[Agreement]:
    """What the tools that are installed say, without what they print and warn of; the others are named on stderr."""
    for part in parts:
        quiet = contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO())
        try:
            with quiet[0], quiet[1], warnings.catch_warnings(action="ignore"):
                found = list(part)
        except ModuleNotFoundError as error:
            print(f"Left out: {error.name} is not installed.", file=sys.stderr)
        else:
            yield from found


def markdown(rows: Iterable[Agreement]) -> str:
    """A line for each."""
    lines = ["| tool | what | n | its value (mean) | largest difference | relative |", "|---|---|---:|---:|---:|---:|"]
    lines += [f"| {x.tool} | {x.what} | {x.n:,} | {x.value:.6g} | {x.absolute:.1e} | {x.relative:.1e} |" for x in rows]
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=100, help="faces of the built-in test split")
    parser.add_argument("--size", type=int, default=64, help="of a picture, in pixels")
    parser.add_argument("--features", type=int, default=1000, help="rows of random features")
    parser.add_argument("--cache", type=Path, default=Path(".cache"), help="folder of decoded pictures")
    parser.add_argument("--output", type=Path, default=Path("references.json"), help="every row")
    asked = parser.parse_args()
    real, fake = faces_and_fillings(asked.pictures, asked.size, asked.cache)
    features = random_features(asked.features)
    resizings = {
        "pytorch-fid": metrics.pytorch_fid(),
        "clean-fid": metrics.clean_fid(),
        "torch-fidelity": metrics.torch_fidelity(),
    }
    ours: dict[str, Pair] = {}
    for name, resizing in resizings.items():
        extract = metrics.inception(resize=resizing)
        ours[name] = in_batches(extract, real), in_batches(extract, fake)
    with tempfile.TemporaryDirectory() as made:
        folders = Path(made, "real"), Path(made, "fake")
        for folder, images in zip(folders, (real, fake), strict=True):
            folder.mkdir()
            for i, image in enumerate(images):
                to_pil(to_float(image)).save(folder / f"{i:05d}.png")
        rows = list(
            measured(
                [
                    squared_errors_and_structure(real, fake),
                    perceptual_distance(real, fake),
                    frechet_distances(*features, "random features"),
                    kernel_distance(*features, "random features"),
                    neighbours(*features, "random features"),
                    by_pytorch_fid(folders, ours["pytorch-fid"]),
                    by_clean_fid(folders, ours["clean-fid"]),
                    by_torch_fidelity(Path(made, "inception.pth"), (real, fake), ours["torch-fidelity"]),
                    kernel_distance(*ours["torch-fidelity"], "Inception's features"),
                    neighbours(*ours["torch-fidelity"], "Inception's features"),
                ]
            )
        )
    facts = f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}, {asked.size} pixels"
    asked.output.write_text(json.dumps({"facts": facts, "rows": [asdict(row) for row in rows]}, indent=1))
    print(f"{facts}\n\n{markdown(rows)}")


if __name__ == "__main__":
    main()
