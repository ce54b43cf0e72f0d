"""Faces that are known to be there: the built-in ones are aligned, so that their eyes are where they are."""

import io
import zipfile
from collections.abc import Sequence

import numpy as np
import pytest
from PIL import Image

from diffusion_lab.data.celeba import built_in_faces
from diffusion_lab.data.crops import center148
from diffusion_lab.photo.faces import Face, apart, find

EYES = np.array([[65.7, 84.8], [111.2, 84.8]])
"""On the average of 200, in the square of 178."""


@pytest.fixture(scope="module")
def faces() -> list[Image.Image]:
    with zipfile.ZipFile(built_in_faces() / "img_align_celeba.zip") as archive:
        opened = [Image.open(io.BytesIO(archive.read(name))) for name in archive.namelist()[:12]]
    return [face.convert("RGB").crop((0, 28, 178, 206)) for face in opened]


def laid(photo: Image.Image, face: Image.Image, side: int, middle: tuple[int, int], turn: float) -> np.ndarray:
    """Puts a face into a photo, turned clockwise by degrees; the eyes then."""
    angle = np.deg2rad(turn)
    matrix = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    wide = face.resize((side, side)).rotate(-turn, Image.Resampling.BICUBIC, expand=True, fillcolor=(90, 110, 100))
    photo.paste(wide, (middle[0] - wide.width // 2, middle[1] - wide.height // 2))
    return (EYES / 178 - 0.5) * side @ matrix.T + middle


def distance(found: Sequence[Face], eyes: np.ndarray) -> float:
    """Of the nearest found eyes, in distances from eye to eye."""
    between = np.linalg.norm(eyes[1] - eyes[0])
    return min(float(np.linalg.norm(face.eyes - eyes, axis=1).max() / between) for face in found)


def test_the_eyes_of_aligned_faces_are_where_they_are_known_to_be(faces: list[Image.Image]) -> None:
    found = [find(face) for face in faces]
    assert [len(each) for each in found] == [1] * len(faces)
    off = np.stack([each[0].eyes - EYES for each in found])
    assert np.abs(off).max() < 8  # of 45 from eye to eye
    assert np.abs(off.mean(axis=0)).max() < 2
    expected = np.add(center148().eyes or (), (15, 35 - 28))
    assert np.abs(EYES - expected).max() < 2  # so that they are aligned to within 6 %
    eyes, (nose, mouth), ears = np.split(np.median([each[0].landmarks for each in found], axis=0), [2, 4])
    assert ears[0, 0] < eyes[0, 0] < nose[0] < eyes[1, 0] < ears[1, 0]
    assert eyes[:, 1].max() < nose[1] < mouth[1]
    left, top, right, bottom = np.median([each[0].box for each in found], axis=0)
    assert left < eyes[0, 0] < eyes[1, 0] < right
    assert top < eyes[0, 1] < mouth[1] < bottom


@pytest.mark.parametrize("turn", [-45, -20, 0, 45])
@pytest.mark.parametrize("side", [90, 178, 900])
def test_it_is_found_wherever_it_is_however_large_and_turned(faces: list[Image.Image], turn: int, side: int) -> None:
    """Up to a ninth of the photo's width: a face's box is half as wide as its picture."""
    photo = Image.new("RGB", (max(900, round(1.6 * side)), max(700, round(1.6 * side))), (90, 110, 100))
    middle = (photo.width // 2, photo.height // 2) if side > 500 else (photo.width - 150, 180)
    eyes = laid(photo, faces[1], side, middle, turn)
    found = find(photo)
    assert distance(found, eyes) < 0.2
    slope = found[0].eyes[1] - found[0].eyes[0]
    assert np.rad2deg(np.arctan2(slope[1], slope[0])) == pytest.approx(turn, abs=8)


def test_all_faces_are_found_and_each_once(faces: list[Image.Image]) -> None:
    photo = Image.new("RGB", (1100, 800), (90, 110, 100))
    places = [(200, 200, 300, 15), (600, 250, 160, -25), (950, 200, 120, 0), (300, 600, 220, -10), (800, 580, 350, 30)]
    known = [laid(photo, faces[i], side, (x, y), turn) for i, (x, y, side, turn) in enumerate(places)]
    found = find(photo)
    assert len(found) == len(known)
    assert all(distance(found, eyes) < 0.2 for eyes in known)
    assert [face.certainty for face in found] == sorted((face.certainty for face in found), reverse=True)
    again = find(photo)
    assert all(np.array_equal(a.landmarks, b.landmarks) for a, b in zip(found, again, strict=True))


def test_a_photo_twice_as_large_has_the_same_faces_twice_as_large(faces: list[Image.Image]) -> None:
    photo = Image.new("RGB", (1100, 800), (90, 110, 100))
    laid(photo, faces[2], 260, (700, 300), 12)
    (small,), (large,) = find(photo), find(photo.resize((2200, 1600), Image.Resampling.LANCZOS))
    assert large.landmarks == pytest.approx(2 * small.landmarks, abs=4)
    assert large.box == pytest.approx(2 * np.array(small.box), abs=8)


@pytest.mark.parametrize("size", [(1, 1), (5000, 2), (300, 200), (900, 900)])
def test_where_there_is_no_face_none_is_found(size: tuple[int, int]) -> None:
    assert find(Image.new("RGB", size, (10, 200, 10))) == []
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    assert find(Image.fromarray(noise)) == []


def test_of_overlapping_boxes_the_most_certain_one_is_kept() -> None:
    def face(certainty: float, left: float, side: float) -> Face:
        return Face(certainty, (left, 0, left + side, side), np.zeros((6, 2)))

    sure, near, within, far = face(0.9, 0, 10), face(0.8, 5, 10), face(0.95, 2, 4), face(0.6, 7, 10)
    assert apart([near, far, sure]) == [sure, far]
    assert apart([within, far], taken=[sure]) == [far]
    assert sure.overlap(near) == 0.5
    assert within.overlap(sure) == 1
