import json
import math
import shlex
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffusion_lab.serving.measures import Measures
from diffusion_lab.serving.monitor import FIGURES, Histogram, compare, histograms, main, trained_inputs

Visit = Callable[..., None]


class Service:
    """The real measures behind a real address, without the model."""

    def __init__(self) -> None:
        self.measures = Measures()
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200 if self.path == "/metrics" else 404)
                self.end_headers()
                self.wfile.write(service.measures.text() if self.path == "/metrics" else b"")

            def log_message(self, *arguments: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def visit(self, fractions: list[float], brightness: float = 0.5) -> None:
        """A job for each fraction: that share of the rows is the hole, and the picture has one grey."""
        for fraction in fractions:
            mask = (torch.arange(100) < round(fraction * 100)).view(1, 100, 1).expand(1, 100, 100)
            self.measures.seen(torch.full((3, 100, 100), 2 * brightness - 1), mask)


@pytest.fixture
def service() -> Iterator[Service]:
    made = Service()
    thread = threading.Thread(target=made.server.serve_forever)
    thread.start()
    yield made
    made.server.shutdown()
    thread.join()
    made.server.server_close()


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    """Training: holes from nothing to half of the square, pictures of every grey between .4 and .6."""
    values = {
        "mask_fraction": np.linspace(0, 0.5, 500).tolist(),
        "input_brightness": np.linspace(0.4, 0.6, 500).tolist(),
    }
    (tmp_path / "inputs.json").write_text(json.dumps(values))
    return tmp_path


def test_visitors_like_training_are_said_to_be(
    service: Service, inputs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for grey in np.linspace(0.4, 0.6, 20):
        service.visit(np.linspace(0, 0.5, 10).tolist(), float(grey))
    assert main([service.url, "--inputs", str(inputs)]) == 0
    out = capsys.readouterr().out
    assert out.count("as in training") == 2
    assert "of 200 squares" in out


def test_larger_holes_are_drift(service: Service, inputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for grey in np.linspace(0.4, 0.6, 20):
        service.visit(np.linspace(0.4, 0.9, 10).tolist(), float(grey))
    assert main([f"{service.url}/metrics", "--inputs", str(inputs / "inputs.json")]) == 1
    fraction, brightness = capsys.readouterr().out.splitlines()
    assert fraction.startswith("mask fraction: DRIFTED, distance 0.8")
    assert brightness.startswith("input brightness: as in training")


def test_a_sentence_can_be_checked_by_hand() -> None:
    live = Histogram((0.25, 0.5, math.inf), (40, 60, 200))
    verdict = compare("mask fraction", live, sorted([0.1, 0.2, 0.3, 0.6] * 100), bound=0.2, least=100)
    assert verdict.drifted
    assert verdict.sentence == (
        "mask fraction: DRIFTED, distance 0.45 (0.20 is allowed): 30% of 200 squares are at or below 0.5, "
        "of training 75%"
    )


def test_chance_is_no_drift() -> None:
    """Two samples of one distribution: beyond the line once in a hundred at most, even with no bound of our own."""
    generator = np.random.default_rng(0)
    bounds = (*np.linspace(0.05, 0.95, 19).tolist(), math.inf)
    alarms = 0
    for _ in range(400):
        trained, seen = sorted(generator.random(500).tolist()), generator.random(150)
        live = Histogram(bounds, tuple(float((seen <= bound).sum()) for bound in bounds))
        alarms += compare("x", live, trained, bound=0.0, least=1).drifted
    assert alarms <= 12  # 4 expected


def test_too_few_visitors_are_not_judged(service: Service, inputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    service.visit([0.95] * 9)
    assert main([service.url, "--inputs", str(inputs)]) == 0
    assert "mask fraction: 9 squares, too few to tell (100 are needed)" in capsys.readouterr().out
    assert main([service.url, "--inputs", str(inputs), "--least", "5", "--bound", "0.3"]) == 1


def test_each_call_looks_at_what_is_new(service: Service, inputs: Path, tmp_path: Path) -> None:
    seen = ["--since", str(tmp_path / "seen.json")]
    like = [float(value) for value in np.linspace(0, 0.5, 10)]
    for grey in np.linspace(0.4, 0.6, 100):
        service.visit(like, float(grey))
    assert main([service.url, "--inputs", str(inputs), *seen]) == 0
    for grey in np.linspace(0.4, 0.6, 12):
        service.visit([0.9] * 10, float(grey))
    # A tenth of all requests, so they drown in the whole, but all of the new ones.
    assert main([service.url, "--inputs", str(inputs)]) == 0
    assert main([service.url, "--inputs", str(inputs), *seen]) == 1
    service.measures = Measures()  # the service starts anew
    for grey in np.linspace(0.4, 0.6, 20):
        service.visit(like, float(grey))
    assert main([service.url, "--inputs", str(inputs), *seen]) == 0


def test_what_cannot_be_read_is_said(
    service: Service, inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken.json").write_text('{"mask_fraction": [0.1]}')
    for arguments, message in (
        (["http://127.0.0.1:9", "--inputs", str(inputs)], "http://127.0.0.1:9/metrics does not answer"),
        ([service.url + "/page", "--inputs", str(inputs)], "404"),
        ([service.url, "--inputs", str(tmp_path / "nowhere")], "a version that pipeline.py registered has it"),
        ([service.url, "--inputs", str(tmp_path / "broken.json")], "is damaged"),
        ([service.url, "--inputs", str(inputs), "--since", str(tmp_path / "broken.json")], "delete it"),
    ):
        assert main(arguments) == 2
        assert message in capsys.readouterr().err
    with pytest.raises(ValueError, match="no histogram diffusion_lab_mask_fraction"):
        histograms("# HELP nothing\n")


@given(st.lists(st.floats(0, 1), max_size=60), st.integers(0, 1000))
def test_values_fall_into_the_buckets_they_were_counted_in(values: list[float], seed: int) -> None:
    bounds = (*sorted(np.random.default_rng(seed).uniform(0.01, 1, 5)), math.inf)

    def counted(said: list[float]) -> tuple[int, ...]:
        return tuple(sum(value <= bound for value in said) for bound in bounds)

    made = Histogram(bounds, counted(values)).values()
    assert made == sorted(made)
    assert counted(made) == counted(values)


def test_tables_of_what_was_compared(service: Service, inputs: Path, tmp_path: Path) -> None:
    """SciPy's distance of Kolmogorov and Smirnov between the two tables is the one that the verdict has."""
    for grey in np.linspace(0.4, 0.6, 20):
        service.visit(np.linspace(0.2, 0.9, 10).tolist(), float(grey))
    main([service.url, "--inputs", str(inputs), "--tables", str(tmp_path / "made" / "tables")])
    tables = {}
    for name in ("current", "reference"):
        names, *rows = (tmp_path / "made" / "tables" / f"{name}.csv").read_text().splitlines()
        columns = np.array([row.split(",") for row in rows], dtype=float).T
        tables[name] = dict(zip(names.split(","), columns, strict=True))
        assert {column: len(x) for column, x in tables[name].items()} == dict.fromkeys(FIGURES, len(rows))
    assert len(tables["current"]["mask_fraction"]) == 200
    assert len(tables["reference"]["mask_fraction"]) == 500
    found, trained = histograms(service.measures.text().decode()), trained_inputs(inputs)
    for name in FIGURES:
        distance = scipy.stats.ks_2samp(tables["current"][name], tables["reference"][name]).statistic
        assert f"distance {distance:.2f} (" in compare(name, found[name], trained[name], 0.2, 1).sentence


@pytest.mark.slow
@pytest.mark.network
def test_evidently_sees_which_figure_drifts(service: Service, inputs: Path, tmp_path: Path) -> None:
    """By the words of docs/pipeline.md, in an environment of its own."""
    for grey in np.linspace(0.4, 0.6, 20):
        service.visit(np.linspace(0.4, 0.9, 10).tolist(), float(grey))
    assert main([service.url, "--inputs", str(inputs), "--tables", str(tmp_path / "drift")]) == 1
    page = (Path(__file__).parents[2] / "docs" / "pipeline.md").read_text()
    packages, _, rest = page.partition("uv run --no-project ")[2].partition(" python - <<end\n")
    program = rest.partition("end\n```")[0] + "print('verdict', report.json())"
    command = ["uv", "run", "--no-project", *shlex.split(packages), "python", "-"]
    done = subprocess.run(command, input=program, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.partition("verdict ")[2])
    chance = {m["config"]["column"]: m["value"] for m in told["metrics"] if "column" in m["config"]}
    assert chance["mask_fraction"] < 1e-6
    assert chance["input_brightness"] > 0.05
    assert "mask_fraction" in (tmp_path / "drift" / "report.html").read_text()
