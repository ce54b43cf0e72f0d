"""Films of the denoising, read back by Pillow."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageSequence
from torch import Tensor

from diffusion_lab.cascade import Model
from diffusion_lab.restoring import film
from small import small_cascade, small_inpainter

RunScript = Callable[..., tuple[int, str, str]]
BOX = (20, 16, 52, 40)


@pytest.fixture
def painted(tmp_path: Path, run_script: RunScript, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Calls `inpaint.py` on a photo of 80x60 pixels, and says what it says."""
    monkeypatch.chdir(tmp_path)
    noise = np.random.default_rng(0).integers(0, 256, (15, 20, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((80, 60), Image.Resampling.BICUBIC).save("me.png")
    mask = Image.new("L", (80, 60))
    mask.paste(255, BOX)
    mask.save("hole.png")
    small_inpainter().save("inpainter")
    small_cascade().save("cascade")

    def run(*settings: str, model: str = "inpainter", code: int = 0) -> str:
        wanted = ["image=me.png", "mask=hole.png", f"inpainter={model}", "output=out.png", "align=off"]
        got, out, err = run_script("inpaint.py", *wanted, *settings)
        assert got == code, err
        return out if code == 0 else err

    return run


def pixels(picture: Image.Image) -> NDArray[np.int16]:
    return np.asarray(picture.convert("RGB"), np.int16)


def frames(path: str) -> list[NDArray[np.int16]]:
    with Image.open(path) as moving:
        assert moving.info["loop"] == 0
        return [pixels(frame) for frame in ImageSequence.Iterator(moving)]


@pytest.mark.parametrize(("model", "calls"), [("inpainter", 3), ("cascade", 10)])
def test_a_film_goes_from_the_hole_to_the_result(painted: Callable[..., str], model: str, calls: int) -> None:
    painted(model=model)
    without = Path("out.png").read_bytes()
    assert f"wrote film.webp ({calls + 1} frames)" in painted("film=film.webp", model=model)
    assert Path("out.png").read_bytes() == without  # who looks changes nothing
    shown = frames("film.webp")
    known = np.ones((60, 80), bool)
    known[BOX[1] : BOX[3], BOX[0] : BOX[2]] = False
    with Image.open("me.png") as me, Image.open("out.png") as result:
        assert len(shown) == calls + 1
        for frame in shown:
            assert np.array_equal(frame[known], pixels(me)[known])
        assert np.array_equal(shown[-1], pixels(result))
    assert np.ptp(shown[0][~known], axis=0).tolist() == [0, 0, 0]
    assert all((one[~known] != other[~known]).any() for one, other in pairwise(shown))


def test_a_gif_is_the_same_up_to_its_palette(painted: Callable[..., str]) -> None:
    painted("film=film.webp")
    painted("film=film.gif")
    exact = frames("film.webp")
    for number, gif in enumerate(frames("film.gif")):
        apart = [np.abs(gif - webp).mean() for webp in exact]
        assert apart[number] == min(apart) < 12  # 256 colours for 4,800 different pixels
    assert number == len(exact) - 1
    with Image.open("film.gif") as moving:
        assert b"it is synthetic" in moving.info["comment"]
    with Image.open("film.webp") as moving:
        assert b"compositeWithTrainedAlgorithmicMedia" in moving.info["xmp"]


def test_each_completion_has_its_film(painted: Callable[..., str]) -> None:
    painted("film=film.webp", "num_samples=2", "seed=7")
    for seed in (7, 8):
        with Image.open(f"out-{seed}.png") as result:
            assert np.array_equal(frames(f"film-{seed}.webp")[-1], pixels(result))


def test_a_long_way_and_a_large_photo_make_a_film_that_can_be_sent(
    painted: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(film, "MOMENTS", 10)
    monkeypatch.setattr(film, "SIDE", 40)
    painted("film=film.webp", "sampler=ddim", "sampler.steps=37")
    shown = frames("film.webp")
    assert (len(shown), shown[0].shape) == (12, (30, 40, 3))
    with Image.open("out.png") as result:
        small = result.convert("RGB").resize((40, 30), Image.Resampling.BOX, reducing_gap=2.0)
        assert np.array_equal(shown[-1], pixels(small))


@pytest.mark.parametrize("settings", [["film=film.mp4"], ["film=film.gif", "image=.", "mask=."]])
def test_what_cannot_be_filmed_is_said_before_anything_is_made(
    painted: Callable[..., str], settings: list[str]
) -> None:
    said = painted(*settings, code=1)
    assert f"error: {settings[0]} must be a .gif or .webp, of one picture and not of a folder" in said
    assert not Path("out.png").exists()


@pytest.mark.parametrize("model", [small_inpainter(), small_cascade()])
def test_the_last_look_is_near_the_result(model: Model) -> None:
    """DDIM's last step goes to the network's x_0 itself."""
    side = 16
    image = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1
    mask = torch.zeros(2, 1, side, side, dtype=torch.bool)
    mask[..., 4:12, 2:14] = True
    looks: list[Tensor] = []
    with torch.no_grad():
        result = model(image, mask, seeds=[1, 2], look=looks.append)
    assert len(looks) == model.network_calls()
    torch.testing.assert_close(looks[-1], result, atol=1e-5, rtol=0)
    for look in looks:
        assert torch.equal(look.masked_select(~mask), image.masked_select(~mask))
