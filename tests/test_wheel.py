"""The package as a person gets it: its wheel in an environment without the clone, called from another folder."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from patience import PATIENCE

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]

SMALL = (
    *("model=unet", "model.channels=32", "model.multipliers=[1]", "data.batch_size=4", "metrics=none"),
    *("trainer.max_steps=2", "trainer.validations=1", "trainer.accelerator=cpu", "trainer.precision=32-true"),
    *("sampler.steps=2", "logger=jsonl", "paths.cache=cache"),
)

Lab = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(["uv", "build", "--quiet", "--wheel", "-o", folder, ROOT], check=True)
    (made,) = folder.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def program(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``diffusion-lab`` of an environment that holds the wheel, and sees what the wheel needs in ours."""
    place = tmp_path_factory.mktemp("environment") / "lab"
    subprocess.run(["uv", "venv", "--quiet", "--python", sys.executable, place], check=True)
    python = place / "bin" / "python"
    subprocess.run(["uv", "pip", "install", "--quiet", "--python", python, "--no-deps", wheel], check=True)
    asked = [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    theirs = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    # A path in a .pth comes after theirs, and the .pth files in it are not read: the clone stays unseen.
    Path(theirs, "ours.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return place / "bin" / "diffusion-lab"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which the commands are called."""
    return tmp_path_factory.mktemp("somebody's home")


@pytest.fixture(scope="module")
def lab(program: Path, home: Path) -> Lab:
    def run(*words: str, code: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
        inherited = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
        done = subprocess.run(
            [program, *words],
            cwd=home,
            env={**inherited, "OMP_NUM_THREADS": "1", **environment},
            capture_output=True,
            text=True,
            timeout=12 * PATIENCE,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done

    return run


@pytest.fixture(scope="module")
def run_folder(lab: Lab, home: Path) -> Path:
    """A model that was trained for two steps on the built-in faces."""
    out = lab("train", *SMALL).stdout
    assert "next: diffusion-lab evaluate scores it, diffusion-lab inpaint image=me.jpg mask=hole.png uses it" in out
    (folder,) = (home / "logs" / "faces").iterdir()
    return folder


def steps(folder: Path) -> int:
    """How many a run was trained for, as its metrics say."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return 1 + max(line["step"] for line in lines if "train/loss" in line)


def test_the_configuration_is_packaged_as_it_is(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        prefix = "diffusion_lab/conf/"
        packaged = {name.removeprefix(prefix): archive.read(name) for name in archive.namelist() if prefix in name}
    listed = subprocess.run(["git", "ls-files", "conf"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    tracked = {path.removeprefix("conf/"): (ROOT / path).read_bytes() for path in listed.splitlines()}
    assert packaged == tracked


def test_the_environment_holds_the_wheel(program: Path, home: Path) -> None:
    where = "import diffusion_lab, hydra_plugins.processes as p; print(diffusion_lab.__file__, p.__file__)"
    said = subprocess.run([program.with_name("python"), "-c", where], cwd=home, capture_output=True, text=True).stdout
    assert str(ROOT) not in said
    assert said.count(str(program.parents[1])) == 2


def test_what_would_run_is_printed(lab: Lab, home: Path) -> None:
    said = lab("train", "--cfg", "job", *SMALL).stdout
    assert "max_steps: 2" in said
    assert not list(home.glob("outputs")), "Hydra's own folder"


def test_a_trained_model_is_scored_and_used(lab: Lab, run_folder: Path, home: Path) -> None:
    assert steps(run_folder) == 2
    lab("evaluate", "num_images=2", "~masks.half", "~masks.free_form", "paths.cache=cache")
    rows = json.loads((run_folder / "evaluation" / "results.json").read_text())["rows"]
    assert {row["method"] for row in rows} == {"diffusion", "mean fill", "Telea"}

    photo = np.random.default_rng(0).integers(0, 255, (48, 40, 3), dtype=np.uint8)
    hole = np.zeros((48, 40), dtype=np.uint8)
    hole[10:30, 10:30] = 255
    Image.fromarray(photo).save(home / "me.png")
    Image.fromarray(hole).save(home / "hole.png")
    said = lab("inpaint", "image=me.png", "mask=hole.png").stdout
    assert re.search(rf"inpainter: .*{run_folder.name}/inpainter", said)
    with Image.open(home / "inpainted.png") as picture:
        result = np.asarray(picture)
    assert np.array_equal(result[hole == 0], photo[hole == 0])
    assert not np.array_equal(result[hole == 255], photo[hole == 255])


def test_a_mistake_is_one_sentence_that_names_the_command(lab: Lab) -> None:
    assert lab("inpaint", "image=me.png", code=1).stderr == "error: diffusion-lab inpaint needs mask=...\n"
    assert "Could not find 'model/unnet'" in lab("train", "model=unnet", code=1).stderr


def test_a_sweep_over_groups_of_ones_own(lab: Lab, home: Path) -> None:
    """Each job of a sweep is a process that must find them too."""
    (home / "mine" / "schedule").mkdir(parents=True)
    shutil.copy(ROOT / "conf" / "schedule" / "cosine.yaml", home / "mine" / "schedule" / "own.yaml")
    lab("train", "-m", "--config-dir", "mine", "name=sweep", "schedule=linear,own", *SMALL)
    (sweep,) = (path for path in (home / "logs" / "sweep").iterdir() if path.is_dir())
    chosen = [(sweep / str(job) / ".hydra" / "overrides.yaml").read_text() for job in range(2)]
    assert "schedule=linear" in chosen[0]
    assert "schedule=own" in chosen[1]
    assert [steps(sweep / str(job)) for job in range(2)] == [2, 2]


def test_two_processes_train_together(lab: Lab, home: Path) -> None:
    (home / "mine2" / "schedule").mkdir(parents=True)
    shutil.copy(ROOT / "conf" / "schedule" / "cosine.yaml", home / "mine2" / "schedule" / "own.yaml")
    lab("train", "--config-dir", "mine2", "schedule=own", "name=both", "trainer.devices=2", *SMALL)
    (run,) = (path for path in (home / "logs" / "both").iterdir() if path.is_dir())
    assert steps(run) == 2
    assert (run / "inpainter" / "model.safetensors").is_file()


def test_slurm_starts_every_rank_by_the_command(program: Path, home: Path) -> None:
    """What `srun --ntasks=2 diffusion-lab train` does, as the two tasks see it."""
    words = [program, "train", "name=slurm", "hydra.run.dir=logs/slurm/run", "trainer.devices=2", *SMALL]
    tasks = [
        subprocess.Popen(
            words,
            cwd=home,
            env={
                **os.environ,
                **{"OMP_NUM_THREADS": "1", "SLURM_JOB_ID": str(20000 + os.getpid() % 10000), "SLURM_JOB_NAME": "lab"},
                **{"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_JOB_NODELIST": "localhost"},
                **{"SLURM_NODELIST": "localhost", "SLURM_NODEID": "0"},
                **{"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)},
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    said = [task.communicate(timeout=12 * PATIENCE)[0] for task in tasks]
    assert [task.returncode for task in tasks] == [0, 0], said
    assert steps(home / "logs" / "slurm" / "run") == 2
