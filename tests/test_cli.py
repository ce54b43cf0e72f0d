import io
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from diffusion_lab import cli
from diffusion_lab.cli import quoted, resumed
from diffusion_lab.data.celeba import built_in_faces
from diffusion_lab.scripts import as_trained
from small import small_inpainter

ROOT = Path(__file__).parents[1]

RunScript = Callable[..., tuple[int, str, str]]


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1))
def test_any_path_reaches_the_config_as_typed(path: str) -> None:
    argument = quoted(f"image={path}", ["image"])
    if path in ("null", "auto") or path[0] in "'\"":
        assert argument == f"image={path}"
        return
    (override,) = OverridesParser.create().parse_overrides([argument])
    assert str(override.value()).replace(r"\${", "${") == path.replace(r"\${", "${")
    assert not override.is_sweep_override()


@pytest.mark.parametrize(
    ("script", "overrides", "said"),
    [
        ("train.py", ["trainer.max_stepz=4"], "there is no setting 'trainer.max_stepz'; there is max_steps"),
        ("train.py", ["model=unnet"], "Could not find 'model/unnet'"),
        ("train.py", ["trainer.accelerator=gpu", "trainer.devices=64", "logger=jsonl"], "this machine has"),
        ("train.py", ["model.attention=[17]"], "attention at [17] pixels never occurs"),
        ("train.py", ["data=celeba"], "data=celeba needs data.root"),
        ("train.py", ["resume=nowhere"], "'nowhere' is no run folder"),
        ("train.py", ["data.batch_size=5000", "logger=jsonl"], "data.batch_size=5000"),
        ("inpaint.py", ["image=a.png"], "inpaint.py needs mask=..."),
        ("inpaint.py", ["image=no, such [file]=é.png", "mask=b.png"], "no, such [file]=é.png"),
        ("evaluate.py", ["inpainter=nowhere"], "no recipe.json in 'nowhere'"),
    ],
)
def test_a_mistake_is_one_sentence(
    script: str, overrides: list[str], said: str, tmp_path: Path, run_script: RunScript
) -> None:
    extra = [f"paths.logs={tmp_path}", f"paths.cache={tmp_path}"]
    code, _, stderr = run_script(script, *overrides, *extra)
    assert code == 1
    assert said in stderr
    assert len(stderr.strip().splitlines()) == 1


def test_the_traceback_is_there_for_those_who_ask(monkeypatch: pytest.MonkeyPatch, run_script: RunScript) -> None:
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(HydraException, match="unnet"):
        run_script("train.py", "model=unnet")


def test_help_is_there_at_once() -> None:
    """Without torch, and by fewer than two million calls: a measure of work that does not look at the clock.

    Hydra by itself makes 4.6 million, most of them to copy what it stores once for each group that is listed.
    """
    probe = (
        "import cProfile, pstats, runpy, sys; sys.argv = ['train.py', '--help']\n"
        "profile = cProfile.Profile()\n"
        f"try: profile.runcall(runpy.run_path, {str(ROOT / 'train.py')!r}, run_name='__main__')\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'lightning', 'numpy', 'wandb', 'PIL'} & set(sys.modules), 'heavy'\n"
        "print('calls', pstats.Stats(profile).total_calls)"
    )
    result = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    *said, calls = result.stdout.splitlines()
    assert "mask: alternate_lines, center," in "\n".join(said)
    assert int(calls.split()[1]) < 2_000_000


def test_the_package_itself_is_light() -> None:
    probe = "import sys, diffusion_lab; sys.exit(', '.join({'torch', 'numpy', 'hydra', 'PIL'} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True)
    assert not result.stderr.strip()


def test_resume_puts_the_old_overrides_before_the_new(tmp_path: Path) -> None:
    run_folder = tmp_path / "faces" / "a, b=[c]"
    (run_folder / ".hydra").mkdir(parents=True)
    (run_folder / ".hydra" / "overrides.yaml").write_text("- model=unet\n- seed=3\n")
    (run_folder / "checkpoints").mkdir()
    (tmp_path / "latest").symlink_to(run_folder)
    for asked in (f"resume='{run_folder}'", "resume=auto", f"resume={tmp_path / 'latest'}"):
        arguments = resumed([asked, "seed=4", f"paths.logs={tmp_path}"])
        assert arguments[:2] == ["model=unet", "seed=3"]
        assert arguments[2:4] == ["seed=4", f"paths.logs={tmp_path}"]
        assert arguments[4:] == [f"hydra.run.dir='{run_folder}'"]
    assert resumed(["seed=4"]) == ["seed=4"]
    with pytest.raises(FileNotFoundError, match="found no run"):
        resumed(["resume=auto", f"paths.logs={tmp_path / 'empty'}"])


def test_runs_that_begin_in_the_same_second_have_folders_of_their_own(
    tmp_path: Path, run_script: RunScript, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stopped(datetime):
        @classmethod
        def now(cls, tz: object = None) -> datetime:
            return datetime(2026, 11, 28, 12, 0, 0)

    monkeypatch.setattr(cli, "datetime", Stopped)
    folders = []
    for _ in range(2):
        code, out, err = run_script("train.py", "dry_run=true", "model=unet", f"paths.logs={tmp_path}")
        assert code == 0, err
        folders += re.findall(r"run folder: (.*)", out)
    assert len(set(folders)) == 2
    assert all(re.fullmatch(rf"{tmp_path}/faces/2026-11-28_12-00-00_[0-9a-f]{{8}}", folder) for folder in folders)
    assert len({cli.fresh_name() for _ in range(1000)}) == 1000  # an array job


def test_settings_of_the_data_go_over_those_of_the_run_unless_data_is_named() -> None:
    assert as_trained(["data.root='/x'", "seed=1"]) == ["++data.root='/x'", "seed=1"]
    assert as_trained(["data=folder", "data.root='/x'"]) == ["data=folder", "data.root='/x'"]
    assert as_trained(as_trained(["data.root=/x"])) == ["++data.root=/x"]  # a rank begins with what the first had


@pytest.mark.parametrize(
    ("align", "said"),
    [
        ([], "face: found, eyes at ("),
        (["align=off"], "face: not looked for, filled without alignment"),
        (["align=[[360,140],[405,130]]"], "face: given, eyes at (360, 140) and (405, 130)"),
        (["image=wall.png"], "face: none found, filled without alignment"),
        (["mask=corner.png"], "face: found, but not where the hole is (1 in all), filled without alignment"),
        (["align=[[40,50]]"], "align=[[40, 50]] must be auto, off, or both eyes as one looks at the picture"),
        (["align=[[40,50],[40,50]]"], "align=[[40, 50], [40, 50]] must be auto, off, or both eyes"),
        (["align=perhaps"], "align=perhaps must be auto, off, or both eyes"),
        (["align=null"], "align=None must be auto, off, or both eyes"),
    ],
)
def test_what_was_found_of_a_face_is_said(
    align: list[str], said: str, tmp_path: Path, run_script: RunScript, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with zipfile.ZipFile(built_in_faces() / "img_align_celeba.zip") as archive:
        face = Image.open(io.BytesIO(archive.read(archive.namelist()[0]))).crop((0, 28, 178, 206))
    photo = Image.new("RGB", (500, 300), (90, 110, 100))
    photo.save("wall.png")
    photo.paste(face.rotate(20), (300, 60))
    photo.save("me.png")
    for name, box in (("hole", (350, 130, 420, 160)), ("corner", (10, 10, 40, 40))):
        mask = Image.new("L", photo.size)
        mask.paste(255, box)
        mask.save(f"{name}.png")
    inpainter = small_inpainter()
    inpainter.recipe["data"]["crop"] = "center148"
    inpainter.save("inpainter")
    given = {"image": "me.png", "mask": "hole.png", "inpainter": "inpainter"}
    given |= dict(override.split("=", 1) for override in align)
    code, out, err = run_script("inpaint.py", *[f"{key}={value}" for key, value in given.items()])
    if "must be" in said:
        assert (code, said in err, len(err.strip().splitlines())) == (1, True, 1)
        return
    assert code == 0, err
    assert [line.startswith(said) for line in out.splitlines() if line.startswith("face:")] == [True]
    before, after = (np.asarray(Image.open(name)) for name in (given["image"], "inpainted.png"))
    known = np.asarray(Image.open(given["mask"])) == 0
    assert np.array_equal(before[known], after[known])
    assert not np.array_equal(before[~known], after[~known])
