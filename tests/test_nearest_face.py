"""Copy and paste from the training pictures."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from diffusion_lab.data.masks import center, evaluation_mask, everything, free_form
from diffusion_lab.evaluation import nearest_face
from diffusion_lab.pictures import to_float, to_uint8


class Set:
    """Pictures of noise, or given ones."""

    digest = "set"

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, indices: Tensor | list[int]) -> Tensor:
        return self.images[torch.as_tensor(indices)]


def pictures(n: int, seed: int = 0, size: int = 16) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, 3, size, size), generator=generator).to(torch.uint8)


def asked(images: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return to_float(images).masked_fill(mask, 0), mask, torch.zeros(len(images), dtype=torch.int64)


@pytest.mark.parametrize("at_a_time", [4_000_000, 5 * 768, 1])
def test_is_exact_where_the_picture_itself_is_among_them(at_a_time: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many are looked at together."""
    monkeypatch.setattr("diffusion_lab.evaluation.copying._AT_A_TIME", at_a_time)
    training = Set(pictures(23))
    chosen = torch.tensor([4, 0, 22, 11])
    holes = torch.stack([evaluation_mask(free_form, 16, i) for i in range(4)])
    for ring in (0.0, 0.2):
        filled = nearest_face(training, ring).fill(*asked(training.images[chosen], holes))
        assert torch.equal(to_uint8(filled), training.images[chosen])
        assert torch.equal(filled.masked_select(~holes), to_float(training.images[chosen]).masked_select(~holes))


@given(st.integers(0, 10_000))
def test_is_the_least_squared_difference_of_the_known_pixels(seed: int) -> None:
    """Worked out picture by picture in whole numbers."""
    training, images = pictures(9, seed, 8), pictures(2, seed + 1, 8)
    holes = torch.stack([evaluation_mask(free_form, 8, seed + i) for i in range(2)])
    filled = nearest_face(Set(training)).fill(*asked(images, holes))
    for picture, hole, result in zip(images, holes, filled, strict=True):
        errors = [int((((picture.int() - face.int()) ** 2) * ~hole).sum()) for face in training]
        best = training[errors.index(min(errors))]
        assert torch.equal(to_uint8(result), torch.where(hole, best, picture))


def test_the_border_s_mean_colour_can_be_made_the_same() -> None:
    """A face that is darker by 20 levels all over, given no other: then it is exact again."""
    face = pictures(1) // 2 + 30
    hole = evaluation_mask(center, 16, 0)[None]
    darker = Set(face - 20)
    plain, matched = (nearest_face(darker, ring).fill(*asked(face, hole)) for ring in (0.0, 0.1))
    assert torch.equal(to_uint8(plain), torch.where(hole, face - 20, face))
    assert torch.equal(to_uint8(matched), face)


def test_where_nothing_is_known_it_is_the_first() -> None:
    training = Set(pictures(5))
    mask = evaluation_mask(everything, 16, 0)[None]
    assert torch.equal(to_uint8(nearest_face(training, 0.1).fill(*asked(pictures(1, 9), mask))), training.images[:1])


def test_its_options_and_pictures_are_its_identity() -> None:
    names = [nearest_face(Set(pictures(4, seed)), ring).identity for seed, ring in ((0, 0.0), (0, 0.1), (1, 0.0))]
    assert len(set(names)) == 3


def test_mistakes_are_told() -> None:
    with pytest.raises(ValueError, match=r"ring must be in \[0, 1\].*got 2"):
        nearest_face(Set(pictures(1)), 2)
    mask = evaluation_mask(center, 8, 0)[None]
    with pytest.raises(ValueError, match="training pictures have 16 pixels and are pasted into pictures of 8"):
        nearest_face(Set(pictures(1))).fill(*asked(pictures(1, size=8), mask))
