"""Folders of pictures: each made once, whatever becomes of the others, of workers and of whole calls."""

import json
import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffusion_lab.restoring import RECORD, restored
from diffusion_lab.restoring.albums import listed
from diffusion_lab.restoring.workers import Made, Restore
from small import RESTORER, small_inpainter

RunScript = Callable[..., tuple[int, str, str]]


def save(path: Path, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(path, lossless=True)


def save_hole(path: Path, left: int = 6) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    hole = np.zeros((20, 24), np.uint8)
    hole[5:15, left : left + 8] = 255
    Image.fromarray(hole).save(path)


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three pictures, one of them in a folder below, with masks, in the working directory."""
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("a.webp", "b.png", "below/a.webp")):
        save(Path("photos", name), seed)
        save_hole(Path("masks", name).with_suffix(".png"), 2 + 4 * seed)
    small_inpainter().save("small")
    return tmp_path


def deadly(device: str, dies_at: str = "", once: str = "once") -> Restore:
    """Copies pictures; one of that name kills the process, once, and one called `bad` cannot be read."""

    def copy(image: Path, mask: Path | None, output: Path) -> Made:
        if image.stem == dies_at and not Path(once).exists():
            Path(once).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if image.stem == "bad":
            raise ValueError("it is no picture")
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_bytes(image.read_bytes() + (mask.read_bytes() if mask else b""))
        return Made((output,), ("copied",))

    return copy


def test_each_has_the_mask_of_its_name(photos: Path) -> None:
    pictures = listed(Path("photos"), Path("masks"), Path("filled"))
    assert [(each.name, str(each.mask), str(each.output)) for each in pictures] == [
        ("a.webp", "masks/a.png", "filled/a.png"),
        ("b.png", "masks/b.png", "filled/b.png"),
        ("below/a.webp", "masks/below/a.png", "filled/below/a.png"),
    ]
    names = [each.name for each in listed(Path("photos/*.webp"), Path("masks/a.png"), Path("filled"))]
    assert names == ["a.webp"]
    (deep,) = listed(Path("photos/below/*"), Path("masks/**/*.png"), Path("filled"))
    assert (deep.name, deep.mask) == ("a.webp", Path("masks/a.png"))  # names count from where the pattern begins
    everybody = listed(Path("photos"), Path("masks/b.png"), Path("filled"))
    assert {each.mask for each in everybody} == {Path("masks/b.png")}
    assert {each.mask for each in listed(Path("photos"), None, Path("filled"))} == {None}


def test_what_is_in_the_way_is_said(photos: Path) -> None:
    save(Path("photos/a.jpg"))
    with pytest.raises(ValueError, match=r"a.jpg and a.webp would both become filled/a.png"):
        listed(Path("photos"), None, Path("filled"))
    with pytest.raises(ValueError, match=r"photos/b.png would be overwritten"):
        listed(Path("photos/b.png*"), None, Path("photos"))
    with pytest.raises(ValueError, match=r"masks/b.png would be overwritten"):
        listed(Path("photos/b*"), Path("masks"), Path("masks"))
    with pytest.raises(FileNotFoundError, match=r"image=none/\* names no pictures"):
        listed(Path("none/*"), None, Path("filled"))
    save(Path("photos/filled/old.png"))  # of the call before
    assert all("old" not in each.name for each in listed(Path("photos/**/*.png"), None, Path("photos/filled")))


def test_only_what_is_missing_or_has_changed_is_made(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = Path("filled")

    def again(settings: dict[str, int] | None = None) -> str:
        pictures = listed(Path("photos"), Path("masks"), output)
        assert restored(pictures, output, settings or {"seed": 0}, deadly, ["cpu"]) == []
        return capsys.readouterr().out

    assert "1/3" in again()
    assert again() == "3 of 3 pictures are made already, in filled\n"
    (output / "b.png").unlink()
    assert "filled\n1/1" in again()
    os.utime("masks/below/a.png", ns=(1, 1))
    assert "filled\n1/1" in again()
    record = (output / RECORD).read_text()
    (output / RECORD).write_text(record[: record.rindex("wrote")])  # cut in the middle of its last line
    assert "filled\n1/1" in again()
    assert [json.loads(line)["image"] for line in (output / RECORD).read_text().splitlines()[1:]]
    with pytest.raises(ValueError, match="'filled' holds pictures that were made with seed=0, and now 1"):
        again({"seed": 1})
    assert "3 of 3" in again()


@pytest.mark.slow
def test_a_worker_that_dies_takes_one_picture_with_it(photos: Path) -> None:
    save(Path("photos/bad.png"))
    output, make = Path("filled"), partial(deadly, dies_at="b")
    pictures = listed(Path("photos"), None, output)
    failed = {each.picture.name: each.error for each in restored(pictures, output, {}, make, ["cpu", "cpu"])}
    assert failed.keys() == {"b.png", "bad.png"}
    assert failed["b.png"] == "its worker ended by signal 9, which may be want of memory"
    assert failed["bad.png"] == "it is no picture"
    (still,) = restored(pictures, output, {}, make, ["cpu", "cpu"])
    assert still.picture.name == "bad.png"
    assert (output / "b.png").read_bytes() == Path("photos/b.png").read_bytes()


def test_a_folder_is_what_as_many_calls_make(photos: Path, run_script: RunScript) -> None:
    settings = ["inpainter=small", "device=cpu", "num_samples=2", "seed=3"]
    for output, workers in (("one", 1), ("two", 2)):
        code, _, err = run_script(
            "inpaint.py", "image=photos", "mask=masks", f"output={output}", f"workers={workers}", *settings
        )
        assert code == 0, err
    for name in ("a.webp", "b.png", "below/a.webp"):
        mask = Path("masks", name).with_suffix(".png")
        code, _, err = run_script("inpaint.py", f"image=photos/{name}", f"mask={mask}", "output=single.png", *settings)
        assert code == 0, err
        for seed in (3, 4):
            made = Path(f"single-{seed}.png").read_bytes()
            for output in ("one", "two"):
                assert (Path(output) / Path(name).with_name(f"{Path(name).stem}-{seed}.png")).read_bytes() == made
    assert Path("one/a-3.png").read_bytes() != Path("one/a-4.png").read_bytes()


def test_failures_are_listed_and_the_others_made(photos: Path, run_script: RunScript) -> None:
    Path("photos/c.png").write_bytes(b"<html>")
    Path("masks/b.png").unlink()
    save_hole(Path("masks/c.png"))
    settings = ["image=photos", "mask=masks", "inpainter=small", "device=cpu"]
    code, _, err = run_script("inpaint.py", *settings)
    assert code == 1
    lines = err.splitlines()
    assert lines[0].startswith("b.png: of masks it must have one of its name, whatever the suffix, and has none")
    assert lines[1].startswith("c.png: image=photos/c.png cannot be read as a")
    assert lines[2].startswith("error: 2 of 4 pictures could not be restored")
    assert {path.name for path in Path("inpainted").rglob("*.png")} == {"a.png"}
    assert len([*Path("inpainted").rglob("*.png")]) == 2
    code, _, err = run_script("inpaint.py", *settings, "workers=0")
    assert (code, "workers=0 must be a whole number" in err) == (1, True)
    code, _, err = run_script("inpaint.py", *settings, "seed=1")
    assert (code, "made with seed=0, and now 1" in err) == (1, True)
    code, _, err = run_script("inpaint.py", *settings, "output=x", "workers=2", "inpainter=nowhere")
    assert (code, "no recipe.json in 'nowhere'" in err) == (1, True)


def test_tasks_without_masks(photos: Path, run_script: RunScript) -> None:
    small_inpainter(RESTORER).save("jpeg")
    code, _, err = run_script("restore.py", "image=photos", "inpainter=jpeg", "device=cpu")
    assert code == 0, err
    code, _, err = run_script("restore.py", "image=photos/b.png", "inpainter=jpeg", "device=cpu", "output=b.png")
    assert code == 0, err
    assert Path("restored/b.png").read_bytes() == Path("b.png").read_bytes()
    assert len([*Path("restored").rglob("*.png")]) == 3
