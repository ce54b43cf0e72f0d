import io
import json
import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric import Fabric
from PIL import Image
from rich.console import Console
from torch import Tensor, nn

from diffusion_lab.data.masks import center, evaluation_mask, rectangle
from diffusion_lab.evaluation import Method, Report, evaluate, loop, mean_fill, navier_stokes, problems, telea
from diffusion_lab.evaluation.bench import example_seeds
from diffusion_lab.metrics import FrechetDistance, frechet_distance, l1_hole, psnr
from diffusion_lab.pictures import to_float, to_uint8
from diffusion_lab.tasks import inpainting

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
    assert [list(row) for row in report.rows] == [KEYS] * 10
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
    assert list(saved) == ["rows", "protocol", "pictures"]
    for row, each in zip(saved["rows"], saved["pictures"], strict=True):
        assert (each["mask"], each["method"]) == (row["mask"], row["method"])
        for figure in FIGURES[1:]:
            assert len(each[figure]) == 8
            assert sum(each[figure]) / 8 == pytest.approx(row[figure], rel=1e-5)
    assert saved["rows"] == [dict(row) for row in report.rows]
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
        report.rows, {**report.protocol, "data": object()}, report.examples, report.methods, report.pictures
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


def test_many_real_pictures_are_kept_as_sums(tmp_path: Path) -> None:
    fids = []
    for _ in range(2):
        extractor = Pixels()
        result = evaluate(
            [mean_fill()], Faces(), PROBLEMS, extractor=extractor, cache=tmp_path, reference=Faces(50)
        )  # more than the 12 features
        fids.append([row["fid"] for row in result.rows])
    assert extractor.seen == 16
    assert fids[0] == pytest.approx(fids[1], rel=1e-9)
    assert result.protocol["fid_reference_n"] == 50


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


def _on_devices(fabric: Fabric) -> list[dict[str, Any]]:
    torch.set_num_threads(1)
    report = evaluate(
        [mean_fill(), Method("noise", noise)], Faces(7), PROBLEMS, extractor=Pixels(), fabric=fabric, batch_size=2
    )
    many = FrechetDistance(Pixels())  # of more pictures than features only sums are kept
    many.update(Faces(37).images[fabric.global_rank :: 2], real=True)
    many.update(Faces(37).images[fabric.global_rank :: 2] // 2, real=False)
    everyone: list[Any] = [None] * fabric.world_size
    mine = (figures(report), report.examples[3][1][3].tolist(), many.compute().item())
    torch.distributed.all_gather_object(everyone, mine)
    torch.distributed.destroy_process_group()  # its threads end before the interpreter does
    return everyone


@pytest.mark.filterwarnings("ignore")
def test_two_devices_give_the_figures_of_one() -> None:
    """Seven pictures on two processes: none twice, none missing."""
    fabric = Fabric(accelerator="cpu", devices=2, strategy="ddp_spawn")
    (first, grid, many), second = fabric.launch(_on_devices)
    assert second == (first, grid, many)
    alone = evaluate([mean_fill(), Method("noise", noise)], Faces(7), PROBLEMS, extractor=Pixels(), batch_size=2)
    torch.testing.assert_close(torch.tensor(first), torch.tensor(figures(alone)), rtol=1e-6, atol=1e-7)
    assert grid == alone.examples[3][1][3].tolist()  # a picture that the second process made
    images = Faces(37).images
    assert many == pytest.approx(frechet_distance(Pixels()(images), Pixels()(images // 2)).item(), rel=1e-6)
