"""Every job of a sweep is done once, whoever is killed, and however many work on it."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import sweeping
from diffusion_lab import cli, sweeps
from patience import PATIENCE, until
from processes import start, wait_for
from sweeping import call


def begun(folder: Path, *jobs: str) -> "subprocess.Popen[str]":
    """A call in a process of its own."""
    return subprocess.Popen([sys.executable, sweeping.__file__, str(folder), *jobs], text=True, stdout=subprocess.PIPE)


def said(folder: Path) -> list[str]:
    """Which jobs began, in order."""
    path = folder / "said"
    return [line.split()[0] for line in path.read_text().splitlines()] if path.is_file() else []


def test_jobs_that_are_done_are_not_done_again_and_those_that_failed_are(tmp_path: Path) -> None:
    folder = str(tmp_path)
    assert call(folder, ["a", "b.fails", "c"]) == 3
    assert said(tmp_path) == ["a", "b", "c"]
    (tmp_path / "mended").touch()
    assert call(folder, ["a", "b.fails", "c", "d"]) == 0
    assert said(tmp_path) == ["a", "b", "c", "b", "d"]
    assert call(folder, ["d", "a"]) == 0
    assert len(said(tmp_path)) == 5
    assert json.loads((tmp_path / "sweep.json").read_text())["jobs"] == [
        [f"job={x}"] for x in ("a", "b.fails", "c", "d")
    ]
    assert sweeps.asked(tmp_path) == ["job=..."]


def test_a_killed_call_is_gone_on_with_while_what_it_left_over_is_at_work(tmp_path: Path) -> None:
    first = begun(tmp_path, "a", "b.waits", "c")
    until(lambda: said(tmp_path) == ["a", "b"])
    first.kill()
    assert first.stdout is not None
    first.stdout.close()  # its job writes there still
    first.wait()
    second = begun(tmp_path, "a", "b.waits", "c")
    until(lambda: said(tmp_path) == ["a", "b", "c"])  # a is done, b still at work under its lock
    (tmp_path / "go").touch()
    out = second.communicate(timeout=PATIENCE)[0]
    assert second.returncode == 0, out
    assert said(tmp_path) == ["a", "b", "c", "b"]  # nobody had noted how b ended: it goes on from its last checkpoint
    assert "job 0" not in out


def test_several_calls_share_a_sweep(tmp_path: Path) -> None:
    names = [f"{number}" for number in range(6)]
    calls = [begun(tmp_path, *names) for _ in range(3)]
    for each in calls:
        each.communicate(timeout=PATIENCE)
    assert [each.returncode for each in calls] == [0, 0, 0]
    assert sorted(said(tmp_path)) == names


def test_a_call_that_is_told_to_stop_tells_its_job(tmp_path: Path) -> None:
    first = begun(tmp_path, "a", "b.waits", "c")
    until(lambda: said(tmp_path) == ["a", "b"])
    first.send_signal(signal.SIGTERM)
    out = first.communicate(timeout=PATIENCE)[0]
    assert first.returncode == 143, out
    assert not (tmp_path / "1" / sweeps.JOB).exists()  # it was stopped, and has not ended
    assert said(tmp_path) == ["a", "b"]


def test_a_job_that_is_killed_is_a_failure_and_the_others_run(tmp_path: Path) -> None:
    first = begun(tmp_path, "a.waits", "b")
    until(lambda: said(tmp_path) == ["a"])
    child = subprocess.run(["pgrep", "-P", str(first.pid)], capture_output=True, text=True).stdout.split()[0]
    os.kill(int(child), signal.SIGKILL)
    first.communicate(timeout=PATIENCE)
    assert json.loads((tmp_path / "0" / sweeps.JOB).read_text())["code"] == -signal.SIGKILL
    assert said(tmp_path) == ["a", "b"]


def test_jobs_side_by_side_have_a_device_each(tmp_path: Path) -> None:
    assert call(str(tmp_path), [f"{number}" for number in range(5)], cards=["0", "GPU-1"]) == 0
    lines = [line.split() for line in (tmp_path / "said").read_text().splitlines()]
    assert sorted(name for name, _ in lines) == [f"{number}" for number in range(5)]
    assert {card for _, card in lines} == {"0", "GPU-1"}
    assert (tmp_path / "0" / "output.txt").is_file()


@given(st.lists(st.integers(0, 99).map(str), max_size=9, unique=True), st.integers(1, 4), st.none() | st.integers(1, 9))
def test_places(cards: list[str], each: int, jobs: int | None) -> None:
    """As many as were asked for, or as there are devices for; no device twice as long as there are enough."""
    found = sweeps.places(jobs, cards, each, 8)
    fit = len(cards) // each
    assert len(found) == (jobs or max(1, fit))
    groups = [place["CUDA_VISIBLE_DEVICES"].split(",") for place in found if "CUDA_VISIBLE_DEVICES" in place]
    assert len(groups) == (len(found) if fit else 0)
    assert all(len(group) == each for group in groups)
    used = [card for group in groups[:fit] for card in group]
    assert len(used) == len(set(used))
    assert set(used) <= set(cards)


def test_a_job_keeps_its_number(tmp_path: Path) -> None:
    """By what is swept: under another order, with more values, and when a setting of all jobs is new."""
    two = [["seed=0", "model=unet"], ["seed=1", "model=unet"]]
    assert sweeps.enlist(tmp_path, two, ["seed"], ["seed=0,1"]) == [0, 1]
    assert sweeps.enlist(tmp_path, [["seed=2"], ["seed=1"], ["seed=0"]], ["seed"], []) == [2, 1, 0]
    assert sweeps.enlist(tmp_path, [["seed=1", "steps=9"], ["seed=0", "steps=9"]], ["seed"], []) == [1, 0]
    both = [["seed=1", "steps=9", "lr=1"], ["seed=1", "steps=9", "lr=2"]]
    assert sweeps.enlist(tmp_path, both, ["lr"], []) == [3, 4]


def test_one_word_goes_on_with_the_newest_sweep(tmp_path: Path) -> None:
    logs = f"paths.logs={tmp_path}"
    sweep, run = tmp_path / "night" / "b, [c]", tmp_path / "night" / "run"
    sweeps.enlist(sweep, [["seed=0"]], ["seed"], ["experiment=night", "seed=0,1", "hydra.launcher.jobs=2", logs])
    place = f"hydra.sweep.dir='{sweep}'"
    expected = ["--multirun", "seed=0,1", "hydra.launcher.jobs=2", "experiment=night", logs, place]
    assert cli.resumed(["-m", "experiment=night", "resume=auto", logs]) == expected
    assert cli.resumed(["experiment=night", "resume=auto", logs]) == expected
    assert set(cli.resumed([f"resume={sweep}", "seed=0,1,2"])) == {*expected} - {"seed=0,1"} | {"seed=0,1,2"}
    (run / "checkpoints").mkdir(parents=True)
    (run / ".hydra").mkdir()
    (run / ".hydra" / "overrides.yaml").write_text("- seed=5\n")
    os.utime(run / "checkpoints", (2**32, 2**32))
    assert cli.resumed(["experiment=night", "resume=auto", logs])[0] == "seed=5"  # written to last
    assert cli.resumed(["-m", "experiment=night", "resume=auto", logs]) == expected
    with pytest.raises(ValueError, match="is no sweep"):
        cli.resumed(["-m", f"resume={run}"])


@pytest.mark.slow
def test_a_sweep_that_is_killed_goes_on_by_one_word(tiny: list[str], tmp_path: Path) -> None:
    """SIGKILL to all of it in the middle of its second job: the first is left alone, the second goes on."""
    asked = [*tiny, "name=night", "seed=0,1,2", "trainer.max_steps=12", "callbacks.checkpoint.every_n_train_steps=4"]
    death = ["+callbacks.death._target_=killing.Death", f"+callbacks.death.file={tmp_path / 'died'}"]
    process = start("-m", *asked, *death, modules=Path(__file__).parent)
    wait_for(tmp_path / "died", process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    (sweep,) = (tmp_path / "logs" / "night").iterdir()
    before = {path: path.stat().st_mtime_ns for path in (sweep / "0").rglob("*") if path.is_file()}
    again = start("-m", "name=night", f"paths.logs={tmp_path / 'logs'}", "resume=auto", modules=Path(__file__).parent)
    out = again.communicate(timeout=PATIENCE)[0]
    assert again.returncode == 0, out
    assert before == {path: path.stat().st_mtime_ns for path in before}
    assert "1 of 3 jobs are done" in out
    assert "\njob 0:" not in out
    assert "resumed from step=8.ckpt" in out
    assert out.count("well") == 3
    for job in ("0", "1", "2"):
        steps = [line["step"] for line in sweeps.read_metrics(sweep / job) if "val/loss" in line]
        assert steps == [11], f"job {job} was validated at {steps}"


SCRIPT = """
from pathlib import Path
from diffusion_lab import cli
from diffusion_lab.cli import command, kept, resumed, run_folder

cli.configuration = lambda: Path(__file__).parent / "conf"

@command("train", before=resumed)
def main(cfg):
    run_folder().mkdir(parents=True, exist_ok=True)
    kept()
    with Path(cfg.paths.logs, "said").open("a") as file:
        print(cfg.x, run_folder().name, cfg.steps, file=file)
    if cfg.x == cfg.fails:
        raise ValueError("as it was told")

main()
"""

CONFIG = """
defaults: [_self_, override hydra/launcher: processes, override hydra/job_logging: none]
name: night
x: 0
steps: 1
fails: null
resume: null
paths: {logs: null}
trainer: {devices: 1, accelerator: cpu}
hydra:
  output_subdir: null
  run: {dir: "${paths.logs}/${name}/${fresh_name:}"}
  sweep: {dir: "${paths.logs}/${name}/${fresh_name:}", subdir: "${hydra.job.num}"}
"""


def test_the_command_line(tmp_path: Path) -> None:
    """A failure, one word that goes on, one job of an array by its number, and a new setting for all jobs."""
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "train.yaml").write_text(CONFIG)
    (tmp_path / "train.py").write_text(SCRIPT)
    logs = tmp_path / "logs"

    def called(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, str(tmp_path / "train.py"), *arguments, "name=night", f"paths.logs='{logs}'"]
        return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})

    def told() -> list[str]:
        return (logs / "said").read_text().splitlines()

    done = called("-m", "x=4,5", "fails=5")
    assert done.returncode == 1, done.stderr
    assert told() == ["4 0 1", "5 1 1"]
    assert "error: 1 of 2 jobs failed: job 1 with exit code 1" in done.stderr.splitlines()[-1]
    (sweep,) = (logs / "night").iterdir()
    task = {"SLURM_ARRAY_TASK_ID": "2", "SLURM_PROCID": "1", "SLURM_NTASKS": "2"}
    array = ["x=4,5,6", "fails=5", f"hydra.sweep.dir={sweep}", f"hydra.launcher.only={task['SLURM_ARRAY_TASK_ID']}"]
    done = called("-m", *array, **task)
    assert done.returncode == 0, done.stderr
    assert told()[2:] == ["6 2 1"]
    done = called("resume=auto", "fails=null")
    assert done.returncode == 0, done.stderr
    assert told()[3:] == ["4 0 1", "5 1 1", "6 2 1"]  # under another setting than they ended with
    done = called("-m", "resume=auto")
    assert done.returncode == 0, done.stderr
    assert len(told()) == 6
    assert "3 of 3 jobs are done" in done.stdout


def test_a_job_takes_itself_for_no_rank() -> None:
    ranked = {"SLURM_PROCID": "3", "SLURM_NTASKS": "8", "SLURM_JOB_ID": "1", "RANK": "3", "HOME": "/home/me"}
    assert sweeps.unranked(ranked) == {"HOME": "/home/me"}
