"""What people get wrong on the command line: one sentence, exit code 1, no traceback, and what stood still stands."""

import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from diffusion_lab.inpainting import shipped
from small import small_inpainter

RunScript = Callable[..., tuple[int, str, str]]

FEW = ["data.image_size=16", "model=unet", "model.channels=32", "model.multipliers=[1]", "metrics=none", "logger=jsonl"]
FEW += ["sampler.steps=2", "trainer.max_steps=1", "trainer.validations=1", "trainer.accelerator=cpu"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to stand in, with a photo, masks, broken pictures, and data of the wrong kind."""
    monkeypatch.chdir(tmp_path)
    photo = np.random.default_rng(0).integers(0, 255, (60, 50, 3), dtype=np.uint8)
    hole = np.zeros((60, 50), dtype=np.uint8)
    Image.fromarray(photo).save("me.png")
    for name, array in {"empty": hole, "full": hole + 255, "small": hole[:20]}.items():
        Image.fromarray(array).save(f"{name}.png")
    hole[20:40, 20:40] = 255
    Image.fromarray(hole).save("hole.png")
    Image.fromarray(np.repeat(np.arange(3, dtype=np.uint8), 20)[:, None].repeat(50, 1)).save("classes.png")
    Image.fromarray(np.linspace(0, 5, 60, dtype=np.float32)[:, None].repeat(50, 1)).save("floats.tif")
    Image.fromarray(photo).save("pages.tif", save_all=True, append_images=[Image.fromarray(photo)])
    Path("gone.png").symlink_to("nobody.png")
    Path("half.png").write_bytes(Path("me.png").read_bytes()[:2000])
    Path("page.png").write_text("<html>not found</html>")
    Path("none").mkdir()
    Path("one").mkdir()
    shutil.copy("me.png", "one/me.png")
    Path("links").mkdir()
    for name in "abcdefghijklmnop":
        shutil.copy("me.png", f"links/{name}.png")
    Path("links/z.png").symlink_to("nowhere.png")
    Path("zipped").mkdir()
    Path("zipped/list_eval_partition.txt").write_text("000001.jpg 0\n")
    with zipfile.ZipFile("whole.zip", "w") as archive:
        archive.write("me.png", "img_align_celeba/000001.jpg")
    Path("zipped/img_align_celeba.zip").write_bytes(Path("whole.zip").read_bytes()[:300])
    Path("partly/img_align_celeba").mkdir(parents=True)
    shutil.copy("me.png", "partly/img_align_celeba/000001.jpg")
    Path("partly/list_eval_partition.txt").write_text("000001.jpg 0\n000002.jpg 1\n")
    Path("weights.pt").touch()
    return tmp_path


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["schedulee=cosine"], "schedulee"),
        (["data.sise=3"], "there is no setting 'data.sise'; there is "),
        (["trainer.devices=0"], "trainer.devices must be a whole number, 1 or more, got 0"),
        (["trainer.devices=two"], "trainer.devices must be a whole number, 1 or more, got two"),
        (["trainer.max_steps=0"], "trainer.max_steps must be a whole number"),
        (["trainer.devices=64", "data.batch_size=32"], "cannot be divided over 64"),
        (["trainer.accelerator=cuda"], "this machine has"),
        (["trainer.accelerator=tpu"], "trainer.accelerator=tpu with trainer.strategy=None"),
        (["trainer.strategy=nonsense"], "with trainer.strategy=nonsense and trainer.precision=None is not to be had"),
        (["trainer.precision=nonsense"], "and trainer.precision=nonsense is not to be had on this machine: leave"),
        (["mask=folder"], "mask=folder needs mask.folder="),
        (["data.crop=center140"], "data.crop=center140 is no crop: name a function of diffusion_lab.data.crops"),
        (["data.image_size=17"], "image_size 17 does not halve 0 times in patches of 2: choose a multiple of 2"),
        (["data.batch_size=0"], "data.batch_size"),
        (["data.image_size=0"], "data.image_size"),
        (["sampler=ddim", "sampler.steps=0"], "sampler.steps must be 1 or more, got 0"),
        (["data=folder", "data.root=none"], "There are no pictures (png, jpg, webp, avif, heic, bmp, tif) in none"),
        (["data=folder", "data.root=nowhere"], "There is no folder nowhere"),
        (["data=folder", "data.root=links"], "1 pictures of links cannot be read, where 0 (0.1 %) may be"),
        (["data=folder", "data.root=one"], "holds no pictures (train 1, valid 0, test 0)"),
        (["data=celeba", "data.root=nowhere"], "There is no folder nowhere to read CelebA from: get img_align_celeba"),
        (["data=celeba", "data.root=none"], "none has neither img_align_celeba.zip nor a folder img_align_celeba"),
        (["data=celeba", "data.root=zipped"], "is not a whole zip file, perhaps half a download"),
        (["data=celeba", "data.root=partly"], "lacks 1 of the 2 pictures that list_eval_partition.txt lists"),
        (["start_from=nowhere"], "no recipe.json in 'nowhere'"),
        (["start_from=weights.pt"], "as another project wrote them"),
    ],
)
def test_train(folder: Path, run_script: RunScript, overrides: list[str], said: str) -> None:
    if "trainer.accelerator=cuda" in overrides and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    (folder / "logs").mkdir()
    (folder / "logs" / "latest").symlink_to("somewhere")
    code, _, stderr = run_script("train.py", *FEW, *overrides, "paths.logs=logs", "paths.cache=cache")
    assert code == 1
    assert said in stderr
    assert stderr.count("error: ") == 1
    assert "Traceback" not in stderr
    assert (folder / "logs" / "latest").readlink() == Path("somewhere")  # still the newest run that ran


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["mask=small.png"], "the mask is 50x20 and the image 50x60"),
        (["mask=empty.png"], "the mask is black all over"),
        (["mask=full.png"], "the mask is white all over"),
        (["mask=classes.png"], "it is L and holds 0 (33.3 %), 1 (33.3 %), 2 (33.3 %); say mask_mode=white if what is"),
        (["mask=hole.png", "mask_mode=black"], "mask_mode=black is none of white, transparent, nonzero"),
        (["mask=hole.png", "mask_mode=transparent"], "the mask (L) has no transparency"),
        (["image=floats.tif"], "the picture's values (F) go from 0 to 5, which does not say what white is"),
        (["image=pages.tif"], "image=pages.tif has 2 pages: save the one that you mean"),
        (["image=gone.png"], "image=gone.png cannot be read: it is a link to nobody.png, which is not there"),
        (["mask=none"], "mask=none cannot be read: it is a folder and no file"),
        (["image=half.png"], "image=half.png cannot be read"),
        (["image=page.png"], "image=page.png cannot be read"),
        (["mask=page.png"], "mask=page.png cannot be read"),
        (["image=nobody, [a]=é'.png"], "image=nobody, [a]=é'.png does not exist"),
        (["output=me.jpg"], "output=me.jpg"),
        (["outptu=a.png"], "there is no setting 'outptu'; there is output"),
        (["sampler.steps=5"], "no sampler is chosen that could have settings: add sampler=<one of"),
        (["sampler=ddim", "sampler.steps=0"], "sampler.steps must be 1 or more, got 0"),
        (["sampler=nope"], "Could not find 'sampler/nope'"),
        (["detail=much"], "detail=much must be pixels of a square's side, such as 256, 512 or 1024"),
        (["num_samples=0"], "num_samples must be 1 or more"),
        (["device=nonsense"], "device=nonsense is not to be had on this machine"),
        (["inpainter=nowhere"], "no recipe.json in 'nowhere'"),
        (["inpainter=weights.pt"], "as another project wrote them"),
        ([f"inpainter={shipped() / 'model.safetensors'}"], f"name its folder '{shipped()}'"),
    ],
)
def test_inpaint(folder: Path, run_script: RunScript, overrides: list[str], said: str) -> None:
    (folder / "out.png").write_text("what stood there")
    given = ["image=me.png", "mask=hole.png", "output=out.png", "paths.logs=logs"]
    names = {override.split("=")[0] for override in overrides}
    code, _, stderr = run_script("inpaint.py", *[g for g in given if g.split("=")[0] not in names], *overrides)
    assert code == 1
    assert said in stderr
    assert len(stderr.strip().splitlines()) == 1
    assert (folder / "out.png").read_text() == "what stood there"


@pytest.mark.parametrize("script", ["evaluate.py", "likelihood.py"])
@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["num_images=0"], "0"),
        (["num_images=5000"], "5000"),
        (["inpainter=nowhere"], "no recipe.json in 'nowhere'"),
        (["data=celeba", "data.root=partly"], "lacks 1 of the 2 pictures"),
        (["accelerator=cuda"], "accelerator=cuda devices=1 is not to be had on this machine"),
        (["spltt=train"], "there is no setting 'spltt'; there is split"),
        (["split=trian"], "There is no split 'trian'"),
    ],
)
def test_score(folder: Path, run_script: RunScript, script: str, overrides: list[str], said: str) -> None:
    if "accelerator=cuda" in overrides and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    if script == "likelihood.py":  # which the model that comes with the package, a cascade, has none of
        small_inpainter().save("small")
        given = {override.split("=")[0] for override in overrides}
        overrides = [
            *(each for each in ("inpainter=small", "data=faces") if each.split("=")[0] not in given),
            *overrides,
        ]
    code, _, stderr = run_script(script, "paths.logs=logs", "paths.cache=cache", "output=out", *overrides)
    assert code == 1
    assert said in stderr
    assert stderr.count("error: ") == 1
    assert "Traceback" not in stderr
    assert not (folder / "out").exists()


def test_a_cascade_has_no_likelihood(folder: Path, run_script: RunScript) -> None:
    code, _, stderr = run_script("likelihood.py", "paths.logs=logs", "paths.cache=cache", "output=out", "num_images=1")
    assert code == 1
    assert "a cascade has no bound of its own" in stderr
    assert len(stderr.strip().splitlines()) == 1


def test_weights_of_another_architecture(folder: Path, run_script: RunScript) -> None:
    shutil.copytree(shipped(), folder / "other")
    state = load_file(folder / "other" / "model.safetensors")
    save_file(dict(list(state.items())[1:]), folder / "other" / "model.safetensors")
    code, _, stderr = run_script("inpaint.py", "image=me.png", "mask=hole.png", "inpainter=other")
    assert code == 1
    assert "is of another architecture than the recipe: 1 tensors are missing" in stderr
