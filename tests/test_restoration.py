import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor, nn

from diffusion_lab import restoration
from diffusion_lab.data.crops import center148, full
from diffusion_lab.data.degradations import unchanged
from diffusion_lab.holes import as_mask
from diffusion_lab.opening import as_rgb, opened
from diffusion_lab.pictures import from_pil, to_uint8
from diffusion_lab.restoration import Square, cut_out, feathered, restore, square_around
from diffusion_lab.tasks import inpainting
from diffusion_lab.tasks import restoration as whole_picture


class Painter(nn.Module):
    """Stands in for an Inpainter: fills holes with pure red."""

    recipe = {"data": {"image_size": 16, "crop": "full"}}  # noqa: RUF012
    task = inpainting()

    def forward(self, image: Tensor, mask: Tensor, *, seeds: object, sampler: object, attributes: object) -> Tensor:
        red = torch.tensor([1.0, -1.0, -1.0]).view(1, 3, 1, 1).expand_as(image)
        return torch.where(mask, red, image)


def photo(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8))


@settings(max_examples=60, deadline=None)
@given(st.integers(5, 90), st.integers(5, 90), st.data())
def test_only_the_hole_changes_at_any_size(width: int, height: int, data: st.DataObject) -> None:
    # Of a hole of one pixel, resampling takes its colour from around it: what is asserted below needs two.
    top, left = data.draw(st.integers(0, height - 2)), data.draw(st.integers(0, width - 2))
    bottom, right = data.draw(st.integers(top + 2, height)), data.draw(st.integers(left + 2, width))
    mask = torch.zeros(1, height, width, dtype=torch.bool)
    mask[:, top:bottom, left:right] = True
    if bool(mask.all()):
        return
    picture = Image.new("RGB", (width, height), (0, 20, 40))
    (result,) = restore(Painter(), picture, mask, seeds=[0])  # type: ignore[arg-type]
    before, after = np.asarray(picture), np.asarray(result)
    known = ~mask[0].numpy()
    assert np.array_equal(before[known], after[known])
    # The whole hole was within the square that the model saw: its middle is red, however small or far out it is.
    red, green, blue = after[(top + bottom) // 2, (left + right) // 2].astype(int)
    assert red > 80
    assert max(green, blue) < red


def test_the_square_stays_where_it_holds_the_hole() -> None:
    mask = torch.zeros(1, 100, 60, dtype=torch.bool)
    mask[:, 40:50, 10:20] = True
    assert square_around(mask, (0, 20, 60, 80)) == square_around(mask, (0, 20, 60, 80))
    square = square_around(mask, (0, 20, 60, 80))
    assert (square.left, square.top, square.side) == (0, 20, 60)
    mask[:, 95:100] = True
    moved = square_around(mask, (0, 20, 60, 80))
    assert (moved.top, moved.side) == (40, 60)


@given(st.integers(1, 60), st.integers(1, 60), st.data())
def test_the_square_holds_the_hole_and_is_no_larger_than_it_must_be(
    width: int, height: int, data: st.DataObject
) -> None:
    """A hole of any shape, and any preferred square within the picture."""
    mask = torch.zeros(1, height, width, dtype=torch.bool)
    for _ in range(data.draw(st.integers(1, 3))):
        top, left = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
        mask[:, top : data.draw(st.integers(top + 1, height)), left : data.draw(st.integers(left + 1, width))] = True
    wanted = data.draw(st.integers(1, min(width, height)))
    x, y = data.draw(st.integers(0, width - wanted)), data.draw(st.integers(0, height - wanted))
    square = square_around(mask, (x, y, x + wanted, y + wanted))
    rows, columns = mask[0].any(1).nonzero().flatten().tolist(), mask[0].any(0).nonzero().flatten().tolist()
    assert square.side == max(wanted, rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1)
    for start, length, hole, preferred in (
        (square.left, width, columns, x),
        (square.top, height, rows, y),
    ):
        assert start <= hole[0]
        assert hole[-1] < start + square.side
        if square.side <= length:
            assert 0 <= start <= length - square.side  # nothing beyond the picture is shown
        if square.side == wanted and preferred <= hole[0] and hole[-1] < preferred + wanted:
            assert start == preferred
    assert int(square.cut(mask).sum()) >= int(mask.sum())  # borders are repeated, so that it may be more


def test_the_feather_lies_inside() -> None:
    mask = torch.zeros(1, 21, 21, dtype=torch.bool)
    mask[:, 5:16, 5:16] = True
    weight = feathered(mask, 3)
    assert torch.equal(weight > 0, mask)
    torch.testing.assert_close(weight[0, 10, 5:16], torch.tensor([1, 2, 3, 4, 4, 4, 4, 4, 3, 2, 1]) / 4)
    assert torch.equal(feathered(mask, 0), mask.float())


@pytest.mark.parametrize("enlarged", [1, 3])
def test_an_aligned_picture_is_shown_as_the_model_knows_it(enlarged: int) -> None:
    """Not as the largest square of it, in which the face is smaller than any that the model was trained on."""
    picture = photo(178, 218)
    mask = torch.zeros(1, 218 * enlarged, 178 * enlarged, dtype=torch.bool)
    mask[:, 100 * enlarged : 120 * enlarged, 60 * enlarged : 80 * enlarged] = True
    large = picture.resize((178 * enlarged, 218 * enlarged), Image.Resampling.NEAREST)
    cut = cut_out(large, mask, 148, center148())
    assert (cut.square.left, cut.square.top, cut.square.side) == (15 * enlarged, 35 * enlarged, 148 * enlarged)
    if enlarged == 1:
        assert torch.equal(cut.image, from_pil(center148()(picture)))
    assert cut_out(large.transpose(Image.Transpose.TRANSPOSE), mask.mT, 148, center148()).square.side == 178 * enlarged


def test_feathered_results_keep_known_pixels() -> None:
    mask = torch.zeros(1, 40, 40, dtype=torch.bool)
    mask[:, 10:30, 10:30] = True
    picture = photo(40, 40)
    (result,) = restore(Painter(), picture, mask, seeds=[0], feather=4)  # type: ignore[arg-type]
    assert np.array_equal(np.asarray(picture)[~mask[0].numpy()], np.asarray(result)[~mask[0].numpy()])


@settings(max_examples=30)
@given(st.integers(0, 2**31), st.integers(0, 6), st.sampled_from([3, 8, 1000]))
def test_the_paste_is_the_blend_written_out(seed: int, feather: int, strip: int) -> None:
    """Of a hole of any shape, at the picture's edges too, in strips of any height."""
    generator = np.random.default_rng(seed)
    mask = torch.zeros(1, 20, 24, dtype=torch.bool)
    for _ in range(3):
        top, left = generator.integers(0, 18), generator.integers(0, 22)
        mask[:, top : top + generator.integers(1, 12), left : left + generator.integers(1, 12)] = True
    if bool(mask.all()):
        return
    picture, red = photo(24, 20, seed), torch.tensor([1.0, -1.0, -1.0]).view(3, 1, 1).expand(3, 16, 16)
    cut = cut_out(picture, mask, 16, full())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(restoration, "STRIP", strip)
        result = restoration.paste_back(cut, red, feather)
    weight, known = feathered(mask, feather), from_pil(picture)
    wanted = torch.where(weight > 0, torch.lerp(known, red[:, :1, :1].expand_as(known), weight), known)
    assert np.abs(np.asarray(result).astype(int) - to_uint8(wanted).permute(1, 2, 0).numpy()).max() <= 1


@given(st.integers(20, 90), st.integers(20, 90), st.integers(4, 40), st.data())
def test_a_preview_s_hole_and_square_hold_those_of_the_picture(
    width: int, height: int, side: int, data: st.DataObject
) -> None:
    mask = torch.zeros(1, height, width, dtype=torch.bool)
    rows = data.draw(st.lists(st.integers(0, height - 1), min_size=1, max_size=3))
    columns = data.draw(st.lists(st.integers(0, width - 1), min_size=len(rows), max_size=len(rows)))
    mask[:, rows, columns] = True  # single pixels, which a coarser grid steps over
    cut = cut_out(photo(width, height), mask, 16, full())
    small = cut.within(side)
    wide, high = small.size
    assert max(wide, high) <= max(side, 1) or (wide, high) == (width, height)
    for row, column in zip(rows, columns, strict=True):
        y, x = row * high // height, column * wide // width  # the pixel that lies over it
        assert small.mask[0, y, x]
    found = small.mask[0].nonzero()
    assert (found >= torch.tensor([small.square.top, small.square.left])).all()
    assert (found < torch.tensor([small.square.top, small.square.left]) + small.square.side).all()


@given(st.integers(-9, 9), st.integers(-9, 9), st.integers(1, 25))
def test_beyond_the_edges_their_pixels_are_repeated(left: int, top: int, side: int) -> None:
    x = torch.arange(2 * 7 * 5).reshape(2, 7, 5)
    padded = np.pad(x.numpy(), ((0, 0), (40, 40), (40, 40)), mode="edge")
    wanted = padded[:, 40 + top : 40 + top + side, 40 + left : 40 + left + side]
    assert np.array_equal(Square(left, top, side).cut(x).numpy(), wanted)


def test_what_the_model_is_shown_is_resampled_as_its_training_pictures_were() -> None:
    """By Lanczos, which looks at all pixels; the nearest one alone would alias."""
    picture, mask = photo(40, 40), torch.zeros(1, 40, 40, dtype=torch.bool)
    mask[:, 10:20, 10:20] = True
    cut = cut_out(picture, mask, 16, full())
    assert torch.equal(cut.image, from_pil(picture.resize((16, 16), Image.Resampling.LANCZOS)))


@pytest.mark.parametrize(
    ("mask", "said"),
    [
        (torch.zeros(1, 30, 40, dtype=torch.bool), "black all over"),
        (torch.ones(1, 30, 40, dtype=torch.bool), "white all over"),
        (torch.ones(1, 40, 30, dtype=torch.bool), "the mask is 30x40 and the image 40x30"),
    ],
)
def test_masks_that_say_nothing(mask: Tensor, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        restore(Painter(), photo(40, 30), mask, seeds=[0])  # type: ignore[arg-type]


def encoded(picture: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def test_a_turned_photo_is_set_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees to see it upright
    content = encoded(photo(30, 20), "JPEG", exif=exif)
    assert opened(content, "image").size == (20, 30)


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "CMYK", "I;16", "1"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    grey = Image.new("L", (8, 8), 200)
    if mode == "I;16":
        picture = Image.fromarray(np.full((8, 8), 200 * 257, dtype=np.uint16))
    elif mode == "LA":
        picture = grey.convert("LA")
    else:
        picture = grey.convert("RGB").convert(mode)
    pixel = as_rgb(picture).getpixel((3, 3))
    assert isinstance(pixel, tuple)
    assert max(abs(value - (255 if mode == "1" else 200)) for value in pixel) <= 60 if mode in ("P", "1") else 2
    assert as_rgb(picture).mode == "RGB"


def test_white_is_the_hole() -> None:
    mask = Image.new("L", (4, 2), 0)
    mask.putpixel((3, 1), 255)
    mask.putpixel((0, 0), 127)
    assert as_mask(mask).nonzero().tolist() == [[0, 1, 3]]


@pytest.mark.parametrize("content", [b"", b"<html>", encoded(photo(64, 64), "PNG")[:300]])
def test_what_is_no_picture_is_said(content: bytes) -> None:
    with pytest.raises(ValueError, match="the image cannot be read"):
        opened(content, "image")


def test_bombs_and_animations_are_refused_before_they_are_decoded() -> None:
    with pytest.raises(ValueError, match="megapixels"):
        opened(encoded(Image.new("1", (9000, 9000)), "PNG"), "image")
    frames = [photo(8, 8, seed) for seed in range(3)]
    with pytest.raises(ValueError, match="animated"):
        opened(encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True), "image")


def test_pixels_survive_the_way_through_pil() -> None:
    picture = photo(12, 9)
    assert torch.equal(from_pil(picture), from_pil(as_rgb(picture)))


def test_no_completion_is_a_mistake() -> None:
    mask = torch.zeros(1, 20, 20, dtype=torch.bool)
    mask[:, 5:10, 5:10] = True
    with pytest.raises(ValueError, match="num_samples must be 1 or more"):
        restore(Painter(), Image.new("RGB", (20, 20)), mask, seeds=[])  # type: ignore[arg-type]


def test_a_whole_picture_is_restored_and_a_small_one_made_as_large_as_the_model() -> None:
    whole = Painter()
    whole.task = whole_picture("colorization", unchanged)
    for size, expected in (((40, 30), (40, 30)), ((8, 6), (16, 12)), ((4, 4), (16, 16))):
        (result,) = restore(whole, photo(*size), None, seeds=[0])  # type: ignore[arg-type]
        assert result.size == expected
        assert np.asarray(result).tolist() == np.full((*expected[::-1], 3), [255, 0, 0]).tolist()
    with pytest.raises(ValueError, match="leave the mask out"):
        restore(whole, photo(40, 30), torch.ones(1, 30, 40).bool(), seeds=[0])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="say where by a mask"):
        restore(Painter(), photo(40, 30), None, seeds=[0])  # type: ignore[arg-type]
