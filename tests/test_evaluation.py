import hashlib
import io
import json
import math
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning.fabric import Fabric
from PIL import Image
from rich.console import Console
from torch import Tensor, nn

from diffusion_lab.bootstrap import interval
from diffusion_lab.data.degradations import jpeg
from diffusion_lab.data.masks import center, evaluation_mask, everything, half, rectangle
from diffusion_lab.evaluation import (
    Method,
    Problem,
    Report,
    evaluate,
    kernel,
    loop,
    mean_fill,
    memorisation,
    navier_stokes,
    problems,
    reference,
    telea,
)
from diffusion_lab.evaluation.bench import example_seeds
from diffusion_lab.evaluation.gallery import SIDE, candidates, chosen, small
from diffusion_lab.evaluation.results import read
from diffusion_lab.evaluation.uncertainty import by_area, by_attribute
from diffusion_lab.metrics import (
    FrechetDistance,
    frechet_distance,
    hole_crop,
    inception_discriminative_score,
    kernel_shares,
    l1_hole,
    precision_recall,
    psnr,
    seam,
)
from diffusion_lab.pictures import to_float, to_uint8
from diffusion_lab.protocol import canonical
from diffusion_lab.tasks import inpainting, restoration

KEYS = ["method", "mask", "n", "fid", "lpips", "psnr", "ssim", "l1_hole", "seconds_per_image", "network_calls"]
PROBLEMS = problems(inpainting(), {"center": center, "box": rectangle})
CENTER = problems(inpainting(), {"center": center})
FIGURES = ["fid", "lpips", "psnr", "ssim", "l1_hole"]


class Pixels(nn.Module):
    """Stands for Inception."""

    name, digest, resize = "pixels", "none", "not resized"

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def forward(self, images: Tensor) -> Tensor:
        self.seen += len(images)
        return nn.functional.adaptive_avg_pool2d(images.float() / 255, 2).flatten(1)


class Faces:
    """Eight smooth pictures."""

    digest = "faces"

    def __init__(self, n: int = 8, size: int = 32) -> None:
        coarse = torch.rand(n, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * 255
        self.images = nn.functional.interpolate(coarse, (size, size), mode="bilinear").to(torch.uint8)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, indices: Tensor | list[int]) -> Tensor:
        return self.images[torch.as_tensor(indices)]


def oracle(faces: Faces) -> Method:
    """Knows the truth: finds the picture whose known pixels these are."""

    def fill(image: Tensor, mask: Tensor, seeds: Tensor) -> Tensor:
        truth = to_float(faces.images)
        errors = ((truth[None] - image[:, None]).abs() * ~mask[:, None]).flatten(2).sum(dim=2)
        return torch.where(mask, truth[errors.argmin(dim=1)], image)

    return Method("oracle", fill, network_calls=7)


def noise(image: Tensor, mask: Tensor, seeds: Tensor) -> Tensor:
    draws = [torch.rand(image.shape[1:], generator=torch.Generator().manual_seed(s)) for s in seeds.tolist()]
    return torch.where(mask, torch.stack(draws) * 2 - 1, image)


def figures(report: Report) -> list[list[float]]:
    return [[row[key] for key in FIGURES] for row in report.rows]


@pytest.fixture(scope="module")
def report() -> Report:
    faces = Faces()
    methods = [oracle(faces), mean_fill(), telea(), navier_stokes(), Method("noise", noise)]
    facts = {"data": "toy faces", "crop": "full", "split": "test"}
    return evaluate(methods, faces, PROBLEMS, extractor=Pixels(), batch_size=3, protocol=facts)


def test_a_row_for_each_mask_and_method(report: Report) -> None:
    assert [[key for key in row if key != "identity"] for row in report.rows] == [KEYS] * 10
    assert [row.get("identity") for row in report.rows[:5]] == [None, None, "radius 0.1", "radius 0.1", None]
    assert [row["mask"] for row in report.rows] == ["center"] * 5 + ["box"] * 5
    assert [row["method"] for row in report.rows[:5]] == ["oracle", "mean fill", "Telea", "Navier-Stokes", "noise"]
    assert all(row["n"] == 8 and row["seconds_per_image"] > 0 for row in report.rows)
    assert [row["network_calls"] for row in report.rows[:2]] == [7, 0]


def test_the_truth_scores_perfectly(report: Report) -> None:
    for row in (report.rows[0], report.rows[5]):
        assert row["fid"] == pytest.approx(0, abs=1e-9)
        assert [row[key] for key in FIGURES[1:]] == pytest.approx([0, 100, 1, 0])  # psnr is capped where it is infinite


def test_methods_are_ranked_as_they_must_be(report: Report) -> None:
    """Smooth pictures: continuing the border beats the mean colour, which beats noise."""
    for first in (0, 5):
        _, mean, fast_marching, flow, random = report.rows[first : first + 5]
        for smooth in (fast_marching, flow):
            assert smooth["l1_hole"] < mean["l1_hole"] < random["l1_hole"]
            assert smooth["psnr"] > mean["psnr"] > random["psnr"]
            assert smooth["lpips"] < random["lpips"]
            assert smooth["fid"] < random["fid"]


def test_figures_are_means_over_pictures(report: Report) -> None:
    faces = Faces()
    target, truth = faces.images, to_float(faces.images)
    holes = torch.stack([evaluation_mask(rectangle, 32, i) for i in range(8)])
    known = truth.masked_fill(holes, 0)
    mean = known.sum(dim=(2, 3), keepdim=True) / (~holes).sum(dim=(2, 3), keepdim=True)
    images = to_uint8(torch.where(holes, mean, truth))
    row = report.rows[6]
    assert row["psnr"] == pytest.approx(psnr(images, target).mean().item(), rel=1e-9)
    assert row["l1_hole"] == pytest.approx(l1_hole(images, target, holes).mean().item(), rel=1e-9)


def test_the_protocol_knows_the_pictures_by_their_pixels() -> None:
    def digest(faces: Faces, n: int) -> str:
        report = evaluate([mean_fill()], faces, CENTER, extractor=Pixels(), num_images=n)
        return str(report.protocol["pictures_sha256"])

    other = Faces()
    other.images[4, 0, 0, 0] ^= 1
    assert digest(other, 4) == digest(Faces(), 4)
    assert digest(other, 5) != digest(Faces(), 5)


def test_the_protocol_is_what_was_really_asked() -> None:
    """Another hole, degradation, seed or number of pictures is another protocol; batches and machines are not."""

    def name(problem: Problem, **options: Any) -> str:
        return evaluate([mean_fill()], Faces(), {"hole": problem}, extractor=Pixels(), **options).protocol_sha256

    whole = Problem(partial(center), inpainting())
    first = name(whole)
    assert name(whole, batch_size=3, protocol={"versions": "others", "inpainter": "elsewhere"}) == first
    others = [
        name(Problem(rectangle, inpainting())),
        name(Problem(everything, restoration("jpeg", jpeg))),
        name(Problem(everything, restoration("jpeg", partial(jpeg, quality=(5, 5))))),
        name(whole, seed=1),
        name(whole, num_images=7),
        name(whole, reference=Faces(5)),
        name(whole, protocol={"samplers": {"diffusion": {"steps": 3}}}),
    ]
    assert len({first, *others}) == 8


def test_the_report_names_its_protocol(report: Report) -> None:
    assert report.protocol["name"] == "faces-inpainting-v1"
    assert f"Protocol faces-inpainting-v1, sha256 {report.protocol_sha256[:16]}." in report.notes()
    assert f"| sha256 | {report.protocol_sha256} |" in report.markdown()


def test_a_paper_s_protocol_is_said_with_the_pictures_that_it_lacks(report: Report) -> None:
    facts = {**report.protocol, "published": {"name": "RePaint", "pictures": "CelebA-HQ at 256x256"}}
    notes = replace(report, protocol=facts).notes()
    said = "Holes and number of pictures are RePaint's; its own figures are of CelebA-HQ at 256x256"
    assert sum(note.startswith(said) for note in notes) == 1
    assert not any("RePaint" in note for note in report.notes())


def test_every_mean_has_an_interval_and_a_difference_from_the_first_method(report: Report) -> None:
    for row, each, found in zip(report.rows, report.pictures, report.uncertainty, strict=True):
        assert (found["mask"], found["method"]) == (row["mask"], row["method"])
        assert set(found["intervals"]) == set(FIGURES)
        first = next(other for other in report.pictures if other["mask"] == row["mask"])
        assert found["against"] == (None if each is first else first["method"])
        for figure, ends in found["intervals"].items():
            assert ends == pytest.approx(interval(np.array(each[figure])), rel=1e-5, abs=1e-12)
            assert ends[0] <= row[figure] + 1e-4 * abs(row[figure])
            assert row[figure] <= ends[1] + 1e-4 * abs(row[figure])
        for figure, difference in found["differences"].items():
            apart = np.array(each[figure]) - np.array(first[figure])
            assert difference["interval"] == pytest.approx(interval(apart), rel=1e-5, abs=1e-12)
            assert difference["mean"] == pytest.approx(apart.mean(), rel=1e-5, abs=1e-9)
    mean = report.uncertainty[1]["differences"]
    assert {figure: mean[figure]["verdict"] for figure in FIGURES} == dict.fromkeys(FIGURES, "worse")


def test_a_method_against_itself_is_inconclusive(tmp_path: Path) -> None:
    twice = [mean_fill(), Method("again", mean_fill().fill), Method("noise", noise)]
    report = evaluate(twice, Faces(), CENTER, extractor=Pixels(), sets={"kid": kernel, "prdc": precision_recall})
    verdicts = [{entry["verdict"] for entry in row["differences"].values()} for row in report.uncertainty]
    assert verdicts[1] == {"inconclusive"}
    assert "worse" in verdicts[2]
    text = report.markdown()
    assert "## Against mean fill, on the same pictures" in text
    assert "+0.0000 (+0.0000 to +0.0000): inconclusive" in text
    assert "≈: inconclusive" in "".join(report.notes())


def test_figures_of_the_set(report: Report) -> None:
    """They are those of the features of all pictures, whatever the batches."""
    faces = Faces(40)
    sets = {
        "kid": kernel,
        "prdc": precision_recall,
        "ids": partial(inception_discriminative_score, least=20),
    }
    methods = [oracle(faces), mean_fill(), Method("noise", noise)]
    found = evaluate(methods, faces, CENTER, extractor=Pixels(), batch_size=7, sets=sets, crops=True)
    perfect, mean, random = found.rows
    assert (perfect["kid"], perfect["fid"], perfect["fid_hole"]) == pytest.approx((0, 0, 0), abs=1e-9)
    assert (perfect["precision"], perfect["coverage"], perfect["p_ids"]) == (1, 1, 0)
    assert perfect["u_ids"] == pytest.approx(0.5)
    assert perfect["kid"] < mean["kid"] < random["kid"]
    assert mean["fid_hole"] > mean["fid"]  # nothing that is known dilutes it
    holes = torch.stack([evaluation_mask(center, 32, i) for i in range(40)])
    images = to_uint8(mean_fill().fill(to_float(faces.images).masked_fill(holes, 0), holes, torch.zeros(40).long()))
    real, fake = Pixels()(faces.images), Pixels()(images)
    assert mean["fid"] == pytest.approx(frechet_distance(real, fake).item(), rel=1e-5)
    assert mean["kid"] == pytest.approx(kernel_shares(real, fake, paired=True).mean().item(), rel=1e-4)
    for name, values in precision_recall(real, fake, paired=True).items():
        assert mean[name] == pytest.approx(values.mean().item())
    crops = [Pixels()(hole_crop(x, holes)) for x in (faces.images, images)]
    assert mean["fid_hole"] == pytest.approx(frechet_distance(*crops).item(), rel=1e-5)
    assert len(found.pictures[1]["kid"]) == 40


def test_too_few_pictures_have_no_figures_of_a_set(tmp_path: Path) -> None:
    sets = {"kid": kernel, "prdc": precision_recall, "ids": inception_discriminative_score}
    report = evaluate([mean_fill()], Faces(), CENTER, extractor=Pixels(), num_images=3, sets=sets)
    assert [report.rows[0][name] for name in ("kid", "precision", "coverage", "p_ids", "u_ids")] == [None] * 5
    report.save(tmp_path)
    assert "KID" not in (tmp_path / "results.md").read_text(encoding="utf-8")


def test_by_the_area_of_the_hole() -> None:
    """A quarter of the picture in one kind and a half in the other; a picture that has both is in both bins."""
    report = evaluate([mean_fill()], Faces(), {**CENTER, **problems(inpainting(), {"half": half})}, extractor=Pixels())
    first, second = report.pictures
    assert set(second["hole_area"]) == {0.5}
    share = evaluation_mask(center, 32, 0).double().mean().item()
    assert first["hole_area"] == [pytest.approx(share, rel=1e-5)] * 8
    quarter, fifth = report.areas
    assert (quarter["from"], quarter["to"], quarter["n"]) == (int(share * 10) / 10, int(share * 10 + 1) / 10, 8)
    assert (fifth["from"], fifth["to"], fifth["n"]) == (0.5, 0.6, 8)
    for entry, each in ((quarter, first), (fifth, second)):
        assert entry["psnr"] == pytest.approx(np.mean(each["psnr"]), rel=1e-5)
        assert entry["intervals"]["psnr"] == pytest.approx(interval(np.array(each["psnr"])), rel=1e-5)
    assert "| 50% to 60% | mean fill | 8 |" in report.markdown()


def test_holes_of_a_picture_in_one_bin_are_drawn_together() -> None:
    rows = [
        {"mask": mask, "method": "a", "hole_area": [0.15, 0.15, 0.45], "lpips": values}
        for mask, values in (("x", [1.0, 3.0, 9.0]), ("y", [2.0, 4.0, 8.0]))
    ]
    few, many = by_area(rows, ["lpips"])
    assert (few["n"], few["lpips"]) == (4, 2.5)
    assert few["intervals"]["lpips"] == [1.5, 3.5]  # the one picture's mean and the other's
    assert (many["n"], many["lpips"], many["intervals"]) == (2, 8.5, {})  # of one picture


def test_by_attribute(tmp_path: Path) -> None:
    """Over all kinds of holes; an attribute of too few pictures, or of all but too few, is left out."""
    labels = {"bright": torch.arange(30) % 2, "rare": torch.arange(30) < 9, "common": torch.arange(30) > 8}
    faces = Faces(30)
    report = evaluate([mean_fill(), Method("noise", noise)], faces, PROBLEMS, extractor=Pixels(), labels=labels)
    assert [(entry["attribute"], entry["method"]) for entry in report.attributes] == [
        ("bright", "mean fill"),
        ("bright", "noise"),
    ]
    for entry, rows in zip(report.attributes, (report.pictures[::2], report.pictures[1::2]), strict=True):
        assert (entry["with"], entry["without"]) == (15, 15)
        assert set(entry["figures"]) == {"lpips", "psnr", "ssim", "l1_hole"}
        for name, found in entry["figures"].items():
            both = np.mean([row[name] for row in rows], axis=0)
            assert found["with"] == pytest.approx(both[1::2].mean(), rel=1e-5)
            assert found["without"] == pytest.approx(both[::2].mean(), rel=1e-5)
            assert found["difference"] == pytest.approx(found["with"] - found["without"], rel=1e-3, abs=1e-6)
            assert found["interval"][0] < found["difference"] < found["interval"][1]
    text = report.markdown()
    assert "These are 8 comparisons at 95 %: about 0 of them differ by chance." in text
    assert "| bright | noise | 15 | 15 |" in text
    report.save(tmp_path)
    assert json.loads((tmp_path / "results.json").read_text())["attributes"] == list(report.attributes)


def test_a_difference_between_pictures_that_is_there_is_found() -> None:
    """Of two groups of pictures one is noisier by far; the verdict is of that one."""
    rows = [
        {"mask": "x", "method": "a", "hole_area": [0.1] * 40, "lpips": [0.2 + 0.001 * i for i in range(40)]},
        {"mask": "y", "method": "a", "hole_area": [0.1] * 40, "lpips": [0.4 + 0.001 * i for i in range(40)]},
    ]
    late = np.arange(40) >= 20
    (found,) = by_attribute(rows, {"late": late}, ["lpips"], {"lpips": False})
    figure = found["figures"]["lpips"]
    assert figure["difference"] == pytest.approx(0.02)
    assert figure["verdict"] == "worse"
    even = np.arange(40) % 4 < 2
    (found,) = by_attribute(rows, {"even": even}, ["lpips"], {"lpips": False})
    assert found["figures"]["lpips"]["verdict"] == "inconclusive"


def copies(faces: Faces) -> Method:
    """Pastes the same picture, whatever is asked."""
    return Method("copies", lambda image, mask, seeds: torch.where(mask, to_float(faces.images[3]), image))


def test_a_method_that_copies_its_training_pictures_is_seen(tmp_path: Path) -> None:
    """Holes of the whole picture: a copy is at no distance, the truth at its own, which is no copy's."""
    faces, training = Faces(12), Faces(40)
    training.images = training.images[12:]  # all others
    seeds = example_seeds(0, torch.arange(12)).tolist()

    def know(image: Tensor, mask: Tensor, of: Tensor) -> Tensor:
        return to_float(faces.images[[seeds.index(seed) for seed in of.tolist()]])

    whole = problems(inpainting(), {"everything": everything})
    methods = [copies(training), Method("oracle", know)]
    options: dict[str, Any] = {"extractor": Pixels(), "training": training, "examples": 2}
    report = evaluate(methods, faces, whole, batch_size=12, **options)
    copied, true = report.rows
    features, learned = Pixels()(faces.images).double(), Pixels()(training.images).double()
    own = torch.cdist(features, learned, compute_mode="donot_use_mm_for_euclid_dist").min(dim=1)
    assert (copied["training_distance"], copied["nearer_than_truth"]) == (0, 1)
    assert true["training_distance"] == true["true_training_distance"] == copied["true_training_distance"]
    assert true["training_distance"] == pytest.approx(own.values.mean().item(), rel=1e-6)
    assert true["nearer_than_truth"] == 0
    assert report.protocol["training_n"] == 28
    captions = [caption for caption, _ in report.nearest]
    assert captions == ["everything: copies"] * 2 + ["everything: oracle"] * 2
    for number, (_, (truth, completion, nearest, of_truth)) in enumerate(report.nearest):
        place = own.values.argsort(stable=True)[number - 2] if number > 1 else number
        assert torch.equal(to_uint8(truth), faces.images[place])
        assert torch.equal(to_uint8(completion), faces.images[place] if number > 1 else training.images[3])
        assert torch.equal(to_uint8(nearest), training.images[own.indices[place] if number > 1 else 3])
        assert torch.equal(to_uint8(of_truth), training.images[own.indices[place]])
    report.save(tmp_path)
    with Image.open(tmp_path / "nearest.png") as sheet:
        assert sheet.height > 4 * 96
    assert "(nearest.png)" in (tmp_path / "results.md").read_text(encoding="utf-8")
    # Of more training pictures than are kept at once, and against another reference, the same is said.
    parted = evaluate(methods, faces, whole, batch_size=12, reference=Faces(5), **options)
    assert [row["training_distance"] for row in parted.rows] == [row["training_distance"] for row in report.rows]


def test_training_pictures_in_parts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Of which the features are computed once, kept on disk, and searched part by part."""
    options: dict[str, Any] = {"training": Faces(30), "cache": tmp_path}
    whole = evaluate([mean_fill()], Faces(7), CENTER, extractor=Pixels(), **options)
    monkeypatch.setattr(memorisation, "KEPT", 8)
    seen = []
    for _ in range(2):
        extractor = Pixels()
        parted = evaluate([mean_fill()], Faces(7), CENTER, extractor=extractor, **options)
        seen.append(extractor.seen)
        assert numbers(parted) == numbers(whole)
        for one, other in zip(parted.nearest, whole.nearest, strict=True):
            assert all(torch.equal(x, y) for x, y in zip(one[1], other[1], strict=True))
    assert seen == [37, 7]


def test_training_pictures_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match="training pictures have 16 pixels and the evaluated ones 32"):
        evaluate([mean_fill()], Faces(), CENTER, extractor=Pixels(), training=Faces(size=16))


class Corners(Pixels):
    """Another extractor."""

    name, digest = "corners", "other"

    def forward(self, images: Tensor) -> Tensor:
        return images[..., ::31, ::31].float().flatten(1)[:, :5] / 255


def test_a_second_extractor_has_a_distance_of_its_own() -> None:
    without = evaluate([mean_fill()], Faces(), CENTER, extractor=Pixels())
    report = evaluate([mean_fill()], Faces(), CENTER, extractor=Pixels(), judge=Corners())
    assert "fd" not in without.rows[0]
    holes = torch.stack([evaluation_mask(center, 32, i) for i in range(8)])
    truth = Faces().images
    images = to_uint8(mean_fill().fill(to_float(truth).masked_fill(holes, 0), holes, torch.zeros(8).long()))
    assert report.rows[0]["fd"] == pytest.approx(frechet_distance(Corners()(truth), Corners()(images)).item(), abs=1e-9)
    assert report.rows[0]["fid"] == without.rows[0]["fid"]
    assert report.protocol["fd_extractor"] == "corners"
    assert report.protocol_sha256 != without.protocol_sha256


def test_batch_size_does_not_change_the_figures(report: Report) -> None:
    again = evaluate([mean_fill(), Method("noise", noise)], Faces(), PROBLEMS, extractor=Pixels(), batch_size=8)
    expected = [row for i, row in enumerate(figures(report)) if i % 5 in (1, 4)]
    torch.testing.assert_close(torch.tensor(figures(again)), torch.tensor(expected), rtol=1e-5, atol=1e-6)


def test_without_a_terminal_progress_is_told_in_lines(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "SILENCE", -1.0)
    evaluate([mean_fill()], Faces(), CENTER, extractor=Pixels(), batch_size=4)
    lines = [line for line in capsys.readouterr().out.splitlines() if line]
    assert lines[:2] == ["real pictures: 25% of all is done", "real pictures: 50% of all is done"]
    assert lines[2:4] == ["center: mean fill: 75% of all is done", "center: mean fill: 100% of all is done"]
    assert lines[4].startswith("center: mean fill: 8 pictures at ")


def test_fewer_pictures_are_the_first_ones() -> None:
    few = evaluate([mean_fill()], Faces(), PROBLEMS, extractor=Pixels(), num_images=5)
    first = Faces()
    first.images = first.images[:5]
    assert figures(few) == figures(evaluate([mean_fill()], first, PROBLEMS, extractor=Pixels()))
    assert few.protocol["n"] == 5


def test_files(report: Report, tmp_path: Path) -> None:
    report.save(tmp_path / "deep" / "résultats, [1]=a")
    folder = tmp_path / "deep" / "résultats, [1]=a"
    assert sorted(file.name for file in folder.iterdir()) == ["grid.png", "results.json", "results.md"]
    saved = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    assert list(saved) == ["rows", "protocol", "protocol_sha256", "uncertainty", "areas", "attributes", "pictures"]
    assert saved["protocol_sha256"] == hashlib.sha256(canonical(saved["protocol"]).encode()).hexdigest()
    for row, each in zip(saved["rows"], saved["pictures"], strict=True):
        assert (each["mask"], each["method"]) == (row["mask"], row["method"])
        for figure in FIGURES:
            assert len(each[figure]) == 8
            assert sum(each[figure]) / 8 == pytest.approx(row[figure], rel=1e-5, abs=1e-9)
    assert saved["rows"] == [dict(row) for row in report.rows]
    assert read(folder).uncertainty == report.uncertainty  # as results.schema.json wants it
    facts = saved["protocol"]
    assert (facts["n"], facts["fid_biased"], facts["mask_set"], facts["extractor"]) == (8, True, 1, "pixels")
    assert facts["data"] == "toy faces"
    text = (folder / "results.md").read_text(encoding="utf-8")
    assert "# Inpainting: 8 test pictures: toy faces (full 32x32)" in text
    assert "FID* ↓" in text
    assert "biased" in text
    assert "Known pixels: unchanged by every method." in text
    assert text.count("**100.00**") == 2  # the oracle's PSNR is the best of each mask kind
    with Image.open(folder / "grid.png") as grid:
        assert grid.width > 7 * 96  # caption, truth, masked, five methods
        assert grid.height > 4 * 96  # two pictures of two mask kinds
        assert "synthetic" in grid.info["Comment"]


def test_the_grid_shows_truth_hole_and_completions(report: Report) -> None:
    kinds = [kind for kind, _ in report.examples]
    assert kinds == ["center", "center", "box", "box"]
    _, (truth, masked, completed, mean, *_) = report.examples[1]
    assert torch.equal(to_uint8(truth), Faces().images[1])
    assert torch.equal(completed, truth)
    hole = evaluation_mask(center, 32, 1)
    assert torch.equal(masked * ~hole, truth * ~hole)
    assert not torch.equal(masked, truth)
    assert mean.masked_select(hole.expand(3, -1, -1)).view(3, -1).std(dim=1).max() == 0


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40), st.integers(1, 45))
def test_the_best_the_middle_and_the_worst_are_looked_at(values: list[float], count: int) -> None:
    found, ordered = chosen(torch.tensor(values, dtype=torch.float64), count), sorted(values)
    assert found == sorted(set(found))
    assert len(found) == min(count, len(values))
    seen = sorted(values[i] for i in found)
    assert seen[0] == ordered[0]
    if count >= 2:
        assert seen[-1] == ordered[-1]
    if count >= 3:
        assert {ordered[(len(values) - 1) // 2], ordered[len(values) // 2]} & {*seen}


def test_the_pictures_to_look_at_are_those_that_were_made() -> None:
    """Those of the first method's LPIPS, for all methods; whatever the batches."""
    faces = Faces()
    methods = [mean_fill(), oracle(faces), Method("noise", noise)]
    found = evaluate(methods, faces, PROBLEMS, extractor=Pixels(), batch_size=3, gallery=3, completions=2)
    again = evaluate(methods, faces, PROBLEMS, extractor=Pixels(), batch_size=8, gallery=3, completions=2)
    assert [shown.kind for shown in found.gallery] == ["center", "box"]
    for shown, other, each in zip(found.gallery, again.gallery, found.pictures[::3], strict=True):
        assert shown.indices == chosen(torch.tensor(each["lpips"]), 3)
        truth = faces.images[shown.indices]
        assert torch.equal(shown.truth, truth)
        assert torch.equal(shown.completions["oracle"], truth[:, None].expand(-1, 2, -1, -1, -1))
        first, second = shown.completions["noise"].unbind(1)
        assert not torch.equal(first, second)
        holes = (shown.given != truth).any(dim=1, keepdim=True)
        assert torch.equal(first.masked_fill(holes, 0), truth.masked_fill(holes, 0))
        assert all(torch.equal(shown.completions[name], x) for name, x in other.completions.items())
    assert evaluate(methods, faces, CENTER, extractor=Pixels()).gallery == []


def test_pictures_to_look_at_are_small_and_few_enough() -> None:
    """A grey stays that grey; 256 MB hold all candidates of a row."""
    large = torch.full((2, 3, 3, 2 * SIDE, 2 * SIDE), 77, dtype=torch.uint8)
    assert torch.equal(small(large), torch.full((2, 3, 3, SIDE, SIDE), 77, dtype=torch.uint8))
    for size, completions in ((64, 1), (256, 4)):
        count = candidates(10**9, size, completions)
        assert count * completions * 3 * min(size, SIDE) ** 2 <= 256 * 2**20
        assert candidates(10, size, completions) == 10
    with pytest.raises(ValueError, match="Cannot show -1 pictures"):
        evaluate([mean_fill()], Faces(), CENTER, extractor=Pixels(), gallery=-1)


def test_the_table_is_printed(report: Report) -> None:
    screen = io.StringIO()
    report.show(Console(file=screen, width=80))
    text = screen.getvalue()
    assert "Navier-Stokes" in text
    assert "biased" in text
    assert "…" not in text  # nothing is cut off on a narrow screen


def test_a_failed_save_leaves_what_was_there(report: Report, tmp_path: Path) -> None:
    report.save(tmp_path)
    before = (tmp_path / "results.json").read_text()
    broken = Report(
        report.rows,
        {**report.protocol, "data": object()},
        report.examples,
        report.methods,
        report.pictures,
        report.uncertainty,
        report.areas,
    )
    with pytest.raises(TypeError):
        broken.save(tmp_path)
    assert (tmp_path / "results.json").read_text() == before
    assert sorted(file.name for file in tmp_path.iterdir()) == ["grid.png", "results.json", "results.md"]


def test_changed_known_pixels_are_told() -> None:
    def careless(image: Tensor, mask: Tensor, seeds: Tensor) -> Tensor:
        filled = image.clone()
        filled[:3, :, 0, 0] += 1e-6  # no 8-bit picture would show it
        return filled

    result = evaluate([mean_fill(), Method("careless", careless)], Faces(), CENTER, extractor=Pixels())
    assert result.protocol["known_pixels_changed"] == {"center: careless": 3}
    assert "Known pixels were CHANGED by center: careless in 3 pictures." in result.notes()


def test_what_lies_in_the_hole_is_hidden() -> None:
    peeked = []

    def peek(image: Tensor, mask: Tensor, seeds: Tensor) -> Tensor:
        peeked.append(image.masked_select(mask).abs().max().item())
        return image

    evaluate([Method("peek", peek)], Faces(), PROBLEMS, extractor=Pixels())
    assert peeked == [0.0] * 2


def test_seeds_depend_on_seed_and_index_alone() -> None:
    seeds = example_seeds(0, torch.arange(100))
    assert len(set(seeds.tolist())) == 100
    assert (seeds >= 0).all()
    assert torch.equal(example_seeds(0, torch.tensor([7, 3])), seeds[[7, 3]])
    assert not set(example_seeds(1, torch.arange(100)).tolist()) & set(seeds.tolist())


def test_real_features_are_kept_on_disk(tmp_path: Path) -> None:
    counts = []
    for n in (None, None, 4):
        extractor = Pixels()
        result = evaluate([mean_fill()], Faces(), PROBLEMS, extractor=extractor, cache=tmp_path, num_images=n)
        counts.append(extractor.seen)
        if n is None:
            fids = [row["fid"] for row in result.rows]
            assert fids == pytest.approx([row["fid"] for row in result.rows], rel=1e-5)
    assert counts == [24, 16, 12]  # real and twice fake; twice fake; another n is another set
    files = list(tmp_path.iterdir())
    assert len(files) == 2
    files[0].write_bytes(b"cut short")
    files[1].write_bytes(b"")
    evaluate([mean_fill()], Faces(), PROBLEMS, extractor=Pixels(), cache=tmp_path)


@pytest.mark.parametrize("most", [100, 20, 5])
def test_many_pictures_are_kept_as_sums(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    """Both sets kept, the real one summed, both summed: the same FID; what needs features themselves is left out."""
    monkeypatch.setattr(reference, "KEPT", most)
    fids = []
    for _ in range(2):
        extractor = Pixels()
        result = evaluate(
            [mean_fill()],
            Faces(),
            PROBLEMS,
            extractor=extractor,
            cache=tmp_path,
            reference=Faces(50),
            sets={"kid": kernel},
        )
        fids.append([row["fid"] for row in result.rows])
    assert extractor.seen == 16
    assert fids[0] == pytest.approx(fids[1], rel=1e-9)
    assert result.protocol["fid_reference_n"] == 50
    holes = torch.stack([evaluation_mask(center, 32, i) for i in range(8)])
    truth = Faces().images
    images = to_uint8(mean_fill().fill(to_float(truth).masked_fill(holes, 0), holes, torch.zeros(8).long()))
    assert fids[0][0] == pytest.approx(frechet_distance(Pixels()(Faces(50).images), Pixels()(images)).item(), rel=1e-4)
    assert ("kid" in result.rows[0]) == (most == 100)
    assert ("fid" in result.uncertainty[0]["intervals"]) == (most >= 8)


def test_one_picture_has_no_fid(tmp_path: Path) -> None:
    result = evaluate([mean_fill()], Faces(), CENTER, extractor=Pixels(), num_images=1)
    assert result.rows[0]["fid"] is None
    assert result.notes()[0] == "FID: there is none of a single picture."
    result.save(tmp_path)
    assert "| center | mean fill | - |" in (tmp_path / "results.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("n", [0, -1, 9])
def test_a_number_of_pictures_that_is_not_there(n: int) -> None:
    with pytest.raises(ValueError, match=f"Cannot evaluate {n} pictures: this split has 8; ask for 1 to 8"):
        evaluate([mean_fill()], Faces(), PROBLEMS, extractor=Pixels(), num_images=n)


def test_nothing_to_evaluate() -> None:
    with pytest.raises(ValueError, match="at least one method"):
        evaluate([], Faces(), PROBLEMS, extractor=Pixels())


def test_a_completion_that_is_not_finite_names_its_picture() -> None:
    def broken(image: Tensor, mask: Tensor, seeds: Tensor) -> Tensor:
        bad = seeds == example_seeds(0, torch.tensor([5]))
        return image.masked_fill(bad.view(-1, 1, 1, 1) & mask, math.nan)

    with pytest.raises(ValueError, match="not finite of picture 5 with the center mask"):
        evaluate([Method("broken", broken)], Faces(), PROBLEMS, extractor=Pixels(), batch_size=4)


def test_baselines_leave_known_pixels_alone_and_bear_any_mask() -> None:
    truth = to_float(Faces(4).images)
    masks = torch.stack([evaluation_mask(partial(center), 32, i) for i in range(4)])
    masks[2], masks[3] = False, True
    for method in (mean_fill(), telea(), navier_stokes()):
        filled = method.fill(truth, masks, torch.zeros(4, dtype=torch.int64))
        assert torch.equal(torch.where(masks, truth, filled), truth)
        assert filled.isfinite().all()
        assert filled[3].std() == 0  # of an unknown picture nothing is known, and nothing leaks


def everything_of_seven(fabric: Fabric | None = None) -> Report:
    return evaluate(
        [mean_fill(), Method("noise", noise)],
        Faces(7),
        PROBLEMS,
        extractor=Pixels(),
        fabric=fabric,
        batch_size=2,
        completions=2,
        measures={"seam": seam},
        sets={"kid": kernel, "prdc": precision_recall, "ids": partial(inception_discriminative_score, least=3)},
        crops=True,
        judge=Corners(),
        training=Faces(19),
        labels={"even": torch.arange(7) % 2},
    )


def numbers(report: Report) -> list[list[float | None]]:
    """All figures but the time."""
    return [
        [x for key, x in row.items() if key not in ("method", "mask", "identity", "seconds_per_image")]
        for row in report.rows
    ]


def leaves(tree: Any) -> list[float]:
    """All numbers of nested lists and mappings, in order."""
    if isinstance(tree, Mapping):
        tree = list(tree.values())
    if isinstance(tree, list):
        return [x for part in tree for x in leaves(part)]
    return [float(tree)] if isinstance(tree, int | float) else []


def _on_devices(fabric: Fabric) -> tuple[Any, ...]:
    torch.set_num_threads(1)
    report = everything_of_seven(fabric)
    many = FrechetDistance(Pixels())  # of more pictures than features only sums are kept
    many.update(Faces(37).images[fabric.global_rank :: 2], real=True)
    many.update(Faces(37).images[fabric.global_rank :: 2] // 2, real=False)
    everyone: list[Any] = [None] * fabric.world_size
    parts = (report.uncertainty, report.areas, report.protocol_sha256)
    grid = to_uint8(report.examples[3][1][3]).tolist()
    mine = (numbers(report), parts, grid, many.compute().item())
    torch.distributed.all_gather_object(everyone, mine)
    torch.distributed.destroy_process_group()  # its threads end before the interpreter does
    # What comes back has to fit into a pipe, 64 KB: nobody reads it before this process has ended.
    return *mine, everyone[0] == everyone[1]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_two_devices_give_the_figures_of_one() -> None:
    """Seven pictures on two processes: none twice, none missing."""
    fabric = Fabric(accelerator="cpu", devices=2, strategy="ddp_spawn")
    first, parts, grid, many, alike = fabric.launch(_on_devices)
    assert alike  # both processes have the same
    alone = everything_of_seven()
    assert len(first[0]) == 22
    assert parts[2] == alone.protocol_sha256
    # LPIPS is float32, and rounds otherwise when pictures come in other batches.
    assert leaves([first, *parts[:2]]) == pytest.approx(leaves([numbers(alone), alone.uncertainty, alone.areas]), 1e-5)
    assert grid == to_uint8(alone.examples[3][1][3]).tolist()  # a picture that the second process made
    images = Faces(37).images
    assert many == pytest.approx(frechet_distance(Pixels()(images), Pixels()(images // 2)).item(), rel=1e-6)
