"""The soak: what it calls growth, what it calls a wrong answer, and some seconds of it."""

import importlib
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from scipy.stats import linregress

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the soak reads /proc")


@pytest.fixture(scope="module")
def modules() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "benchmarks")
        yield


@pytest.fixture
def trends(modules: None) -> ModuleType:
    return importlib.import_module("soak.trend")


@pytest.fixture
def visits(modules: None) -> ModuleType:
    return importlib.import_module("soak.visits")


def test_a_trend_is_the_line_of_least_squares(trends: ModuleType) -> None:
    rng = np.random.default_rng(0)
    hours = np.sort(rng.uniform(0, 24, 200))
    values = 700 + 3.5 * hours + rng.normal(size=200)
    found, reference = trends.trend(hours, values), linregress(hours, values)
    assert found.slope == pytest.approx(reference.slope, rel=1e-9)
    assert found.level == pytest.approx(values.mean())
    assert 0.999 * reference.stderr < found.error < 1.3 * reference.stderr  # of noise that has no memory
    assert found.grows(3.0)
    assert not found.grows(3.5)


@pytest.mark.parametrize("memory", [0.0, 0.6, 0.85])
def test_noise_with_a_memory_is_seldom_taken_for_growth(trends: ModuleType, memory: float) -> None:
    """A level that wanders: white noise through x_i = memory x_(i-1) + noise."""
    rng, seen = np.random.default_rng(1), 0
    for _ in range(300):
        values = np.empty(90)
        values[0] = rng.normal() / np.sqrt(1 - memory**2)
        for i in range(1, 90):
            values[i] = memory * values[i - 1] + rng.normal()
        seen += trends.trend(np.arange(90) / 60, values).grows(0.0)
    assert seen / 300 < 0.1  # one-sided two standard errors would be 2.3 %


def test_a_leak_in_the_noise_is_seen(trends: ModuleType) -> None:
    hours = np.arange(60) / 60
    leaky = 700 + 14 * hours + np.random.default_rng(2).normal(0, 2, 60)  # 2 % an hour
    assert trends.trend(hours, leaky).grows(7.0)
    with pytest.raises(ValueError, match="takes 3 values, got 2"):
        trends.trend([0, 1], [1, 2])


def test_one_known_pixel_is_a_wrong_answer(visits: ModuleType) -> None:
    ask = visits.Ask.drawn(random.Random(0))
    answer = ask.pixels.copy()
    answer[ask.hole] = 255 - answer[ask.hole]
    ask.judged(visits.png(answer))
    row, column = np.argwhere(~ask.hole)[5]
    answer[row, column, 1] ^= 1
    with pytest.raises(AssertionError, match="1 known pixels changed"):
        ask.judged(visits.png(answer))


@pytest.mark.slow
def test_some_seconds_of_it(tmp_path: Path) -> None:
    """Lines come, the model is another one now and then, and no answer is wrong."""
    command = [sys.executable, str(ROOT / "benchmarks" / "soak.py"), "--folder", str(tmp_path), "--rate", "4"]
    short = ["--minutes", "0.5", "--every", "5", "--swap", "0.05"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, *short], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [json.loads(line) for line in (tmp_path / "lines.jsonl").read_text().splitlines()]
    verdict = json.loads((tmp_path / "verdict.json").read_text())
    assert sum(sum(line["visits"].values()) for line in lines) == verdict["visits"] >= 5
    assert verdict["wrong"] == []
    assert lines[-1]["handles"] > 0
    assert lines[-1]["rss"] > 100
    assert [line["hours"] for line in lines] == sorted(line["hours"] for line in lines)
