"""The search for settings, on a training that takes no time."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from diffusion_lab import search
from patience import PATIENCE, until

TRAIN = """
import json, os, sys, time
told = dict(each.split("=", 1) for each in sys.argv[1:])
run = told["hydra.run.dir"].strip("'")
os.makedirs(run, exist_ok=True)
with open(os.path.join(run, "began"), "a") as file:
    file.write(" ".join(sys.argv[1:]) + "\\n")
x = float(told["x"])
if os.path.exists(os.path.join(run, "..", "breaks")):
    sys.exit(1)
with open(os.path.join(run, "metrics.jsonl"), "a") as file:
    for step in range(3):
        file.write(json.dumps({"step": step, "val/loss": (x - 0.3) ** 2 + (told["kind"] == "bad")}) + "\\n")
while os.path.exists(os.path.join(run, "..", "waits")):
    time.sleep(0.01)
"""

EVALUATE = """
import json, os, sys
told = dict(each.split("=", 1) for each in sys.argv[1:])
folder = os.path.join(told["inpainter"].strip("'"), "..", "evaluation")
os.makedirs(folder)
rows = [{"network_calls": calls, "fid": fid} for calls, fid in ((1, float(told["n"])), (1, 4.0), (0, 9.0))]
with open(os.path.join(folder, "results.json"), "w") as file:
    json.dump({"rows": rows}, file)
"""

SWEEP = """
import pathlib, sys
from diffusion_lab.search import main
sys.exit(main(pathlib.Path(__file__).parent))
"""

ASKED = ["--minimize", "val/loss", "x=interval(0.0,1.0)", "kind=choice(good,bad)", "seed=0"]


@pytest.fixture
def scripts(tmp_path: Path) -> Path:
    (tmp_path / "train.py").write_text(TRAIN)
    (tmp_path / "evaluate.py").write_text(EVALUATE)
    return tmp_path


def began(study: Path) -> int:
    return sum(len(path.read_text().splitlines()) for path in study.glob("*/began"))


def test_a_study_goes_on_in_one_file(scripts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = scripts / "study"
    assert search.main(scripts, [str(study), *ASKED, "--trials", "6"]) == 0
    assert search.main(scripts, [str(study), "--trials", "2"]) == 0
    out = capsys.readouterr().out
    assert "best of 8 trials: val/loss" in out
    assert began(study) == 8
    tried = [line for path in study.glob("*/began") for line in path.read_text().splitlines()]
    assert all("seed=0" in line for line in tried)
    best = float(out.split("val/loss ")[-1].split()[0])
    last = [json.loads(path.read_text().splitlines()[-1])["val/loss"] for path in study.glob("*/metrics.jsonl")]
    assert best == pytest.approx(min(last), rel=1e-5)
    assert search.main(scripts, [str(study), "--maximize", "val/loss"]) == 1
    assert "searches for something else" in capsys.readouterr().err


def test_a_hopeless_trial_is_told_to_stop(scripts: Path) -> None:
    """Optuna is asked after each validation, and SIGTERM, which saves a checkpoint, is what the training gets."""
    import optuna

    study_folder = scripts / "study"
    study = search.opened(study_folder, "val/loss", None, ASKED[2:], [])
    study.pruner = optuna.pruners.ThresholdPruner(upper=0.9)
    (study_folder / "waits").touch()
    study.enqueue_trial({"x": 0.3, "kind": "bad"})
    with pytest.raises(optuna.TrialPruned):
        search.tried(study.ask(), study.user_attrs["asked"], study_folder, scripts)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_trial_that_was_cut_goes_on_in_its_folder(scripts: Path, number: signal.Signals) -> None:
    study = scripts / "study"
    study.mkdir()
    (study / "waits").touch()
    (scripts / "sweep.py").write_text(SWEEP)
    process = subprocess.Popen([sys.executable, str(scripts / "sweep.py"), str(study), *ASKED], start_new_session=True)
    until(lambda: began(study) == 1)
    if number == signal.SIGKILL:  # as where the machine is cut off: of all processes at once
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    assert process.wait(PATIENCE) == (143 if number == signal.SIGTERM else -number)
    (study / "waits").unlink()
    assert search.main(scripts, [str(study), "--trials", "1"]) == 0
    first, again = (study / "0" / "began").read_text().splitlines()
    assert first == again
    assert not (study / "1").exists()


def test_a_key_of_the_results(scripts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["--maximize", "fid", "x=interval(0.0,1.0)", "kind=good", "--evaluate", "n=2", "--trials", "1"]
    assert search.main(scripts, [str(scripts / "study"), *asked]) == 0
    assert "fid 3 by" in capsys.readouterr().out


def test_failures_and_mistakes(
    scripts: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    study = scripts / "study"
    study.mkdir()
    (study / "breaks").touch()
    assert search.main(scripts, [str(study), *ASKED, "--trials", "2"]) == 1
    assert began(study) == 2
    assert "no trial has come to an end" in capsys.readouterr().err
    mistakes = {
        "is no study yet": [str(scripts / "other")],
        "there is nothing to search": [str(scripts / "other"), "--minimize", "val/loss", "x=1"],
        "use interval(a,b)": [str(scripts / "other"), "--minimize", "val/loss", "x=range(0.5,2.5)"],
    }
    for said, arguments in mistakes.items():
        assert search.main(scripts, arguments) == 1
        assert said in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert search.main(scripts, [str(study)]) == 1
    assert capsys.readouterr().err == "error: sweep.py needs Optuna: uv sync --extra optuna, or pip install optuna\n"
