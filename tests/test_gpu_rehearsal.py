"""What a GPU is given to do once there is one, rehearsed where there is none."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def rehearsed(output: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "benchmarks/gpu.py", "--output", str(output), *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900, check=False)


@pytest.mark.slow
def test_every_part_of_the_gpu_benchmark_runs_on_a_cpu(tmp_path: Path) -> None:
    """In toy size, and with every figure that its tables promise."""
    done = rehearsed(tmp_path, "--device", "cpu", "--toy", "--seconds", "800")
    assert done.returncode == 0, done.stdout + done.stderr
    parts = json.loads((tmp_path / "results.json").read_text())["parts"]
    forms = {(row["of"], row["form"]) for row in parts["Training"]}
    assert forms == {(who, form) for who in ("ours", "diffusers") for form in ("eager", "eager, channels last")}
    assert all(row["pictures/s"] > 0 for row in (*parts["Training"], *parts["Sampling"], *parts["Service"]))
    shares = [float(row["share"].rstrip("%")) for row in parts["Kernels of one step"]]
    assert 50 < sum(shares) <= 101
    assert shares == sorted(shares, reverse=True)
    assert (tmp_path / "results.md").read_text().count("\n## ") == len(parts) == 6


@pytest.mark.slow
def test_a_part_without_time_leaves_the_others_alone(tmp_path: Path) -> None:
    """The tests get a second at least, which is not enough for them."""
    done = rehearsed(tmp_path, "--device", "cpu", "--toy", "--seconds", "1", "--parts", "GPU tests", "Ceilings")
    assert done.returncode == 1
    parts = json.loads((tmp_path / "results.json").read_text())["parts"]
    assert "TimeoutExpired" in parts["GPU tests"][0]["error"]
    assert len(parts["Ceilings"]) == 3
