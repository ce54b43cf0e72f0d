from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from diffusion_lab.data.degradations import enlarged, jpeg, luma, noisy_reduced, shrunk
from diffusion_lab.data.masks import center, everything
from diffusion_lab.evaluation import Method, as_it_is, edge_repeat, evaluate, lanczos, mirror, problems
from diffusion_lab.inpainting import Inpainter
from diffusion_lab.metrics import colourfulness
from diffusion_lab.pictures import to_float, to_uint8
from diffusion_lab.tasks import Task, inpainting, refinement, restoration, several
from small import small_inpainter

RESTORATION = restoration("colorization", luma)


def of_task(task: Task) -> Inpainter:
    model = small_inpainter()
    model.task = task
    return model


def seen_by(task: Task, image: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What the network is shown, and the result."""
    model = of_task(task)
    shown = []
    network = model.denoiser.network.forward

    def spy(x, condition, time, attributes=None):
        shown.append(condition)
        return network(x, condition, time, attributes)

    model.denoiser.network.forward = spy  # type: ignore[method-assign]
    return model(image, mask, seeds=[7]), shown[0]


def test_what_the_network_is_shown() -> None:
    image = torch.rand(1, 3, 16, 16) * 2 - 1
    hole = center(16, torch.Generator())[None]
    whole = everything(16, torch.Generator())[None]
    filled, shown = seen_by(inpainting(), image, hole)
    assert torch.equal(torch.where(hole, image, shown), image)
    assert not torch.isclose(shown, image)[hole.expand(1, 3, 16, 16)].any()
    changed = torch.where(hole, 0.25, image)  # what lies in the hole is never looked at
    assert torch.equal(seen_by(inpainting(), changed, hole)[0], filled)
    for task, mask in ((RESTORATION, whole), (refinement(noisy_reduced), hole), (several(luma), whole)):
        restored, shown = seen_by(task, image, mask)
        assert torch.equal(shown, image)
        assert torch.equal(torch.where(mask, image, restored), image)
    assert torch.equal(seen_by(several(luma), image, hole)[1], seen_by(inpainting(), image, hole)[1])


def test_a_folder_without_a_task_is_an_inpainters() -> None:
    assert small_inpainter().task == inpainting()


@pytest.mark.parametrize(("task", "mask"), [(inpainting(), None), (RESTORATION, torch.ones(1, 4, 4).bool())])
def test_a_mask_that_is_missing_or_useless_is_said(task: Task, mask: torch.Tensor | None) -> None:
    with pytest.raises(ValueError, match=f"task {task.name}"):
        task.region(mask, 4, 4)


def test_a_region_is_the_mask_or_everything() -> None:
    mask = torch.rand(1, 4, 5) < 0.5
    assert torch.equal(inpainting().region(mask, 4, 5), mask)
    assert torch.equal(several(luma).region(mask, 4, 5), mask)
    assert bool(several(luma).region(None, 4, 5).all())
    assert RESTORATION.region(None, 4, 5).shape == (1, 4, 5)


class Faces:
    """A few smooth pictures, as an evaluation takes them."""

    digest = "smooth"

    def __init__(self, count: int = 3, side: int = 32) -> None:
        coarse = torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(0))
        large = torch.nn.functional.interpolate(coarse, size=side, mode="bicubic").clamp(0, 1)
        self.images = (large * 255).round().to(torch.uint8)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, indices) -> torch.Tensor:
        return self.images[indices]


class Pixels:
    """Features that need no weights."""

    name, digest, resize = "pixels", "none", "as they are"

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.avg_pool2d(images.double(), 16).flatten(1)


def test_every_method_is_given_the_same_and_no_more() -> None:
    faces, given = Faces(), []

    def remember(image: torch.Tensor, mask: torch.Tensor, seeds: torch.Tensor) -> torch.Tensor:
        given.append((image, mask))
        return image

    asked = problems(restoration("jpeg", jpeg), None, {"quality 5": partial(jpeg, quality=(5, 5))})
    report = evaluate([Method("a", remember), Method("b", remember)], faces, asked, extractor=Pixels(), batch_size=2)
    assert [row["mask"] for row in report.rows] == ["quality 5", "quality 5"]
    (first, whole), *_ = given
    assert bool(whole.all())
    assert torch.equal(first, to_float(jpeg(faces.images[:2], whole, [0, 0], (5, 5))))
    assert torch.equal(torch.cat([x for x, _ in given[:2]]), torch.cat([x for x, _ in given[2:]]))


def test_masks_and_degradations_are_crossed() -> None:
    asked = problems(refinement(noisy_reduced), {"center": center, "all": everything}, {"2x": luma, "4x": luma})
    assert list(asked) == ["center, 2x", "center, 4x", "all, 2x", "all, 4x"]


def test_colours_are_counted_beside_the_usual_figures() -> None:
    faces = Faces()
    measures = {"colourfulness": lambda images, target, mask: colourfulness(images)}
    asked = problems(RESTORATION)
    report = evaluate([as_it_is("grey")], faces, asked, extractor=Pixels(), measures=measures)
    assert report.rows[0]["colourfulness"] == 0
    assert "colour" in report.markdown()


def test_colourfulness_as_hasler_and_suesstrunk_define_it() -> None:
    """Half red, half blue: rg is 255 and 0, yb 127.5 and -255."""
    picture = torch.zeros(1, 3, 2, 2, dtype=torch.uint8)
    picture[0, 0, 0], picture[0, 2, 1] = 255, 255
    spread, mean = (127.5**2 + 191.25**2) ** 0.5, (127.5**2 + 63.75**2) ** 0.5
    assert colourfulness(picture).item() == pytest.approx(spread + 0.3 * mean)


def test_lanczos_finds_the_small_copy_whatever_its_factor() -> None:
    for factor in (4, 8):
        small = shrunk(Faces().images // 2 + 64, factor)
        given = to_float(enlarged(small, factor))
        result = lanczos().fill(given, torch.ones(3, 1, 32, 32).bool(), torch.zeros(3))
        for x, of in zip(to_uint8(result), small, strict=True):
            source = Image.fromarray(of.permute(1, 2, 0).numpy())
            wanted = np.asarray(source.resize((32, 32), Image.Resampling.LANCZOS)).astype(int)
            assert np.abs(x.permute(1, 2, 0).numpy() - wanted).max() <= 2


def test_edges_are_repeated_and_mirrored_outwards() -> None:
    image = torch.arange(8.0).expand(1, 3, 8, 8)
    mask = torch.zeros(1, 1, 8, 8, dtype=torch.bool)
    mask[..., :4] = True
    assert edge_repeat().fill(image, mask, torch.zeros(1))[0, 0, 0].tolist() == [4, 4, 4, 4, 4, 5, 6, 7]
    assert mirror().fill(image, mask, torch.zeros(1))[0, 0, 0].tolist() == [7, 6, 5, 4, 4, 5, 6, 7]
