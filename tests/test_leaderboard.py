"""The leaderboard: what may be said of configurations, over seeds and over pictures."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import t, ttest_rel

from diffusion_lab import sweeps
from diffusion_lab.bootstrap import interval
from diffusion_lab.evaluation import leaderboard
from diffusion_lab.evaluation.__main__ import main
from diffusion_lab.evaluation.leaderboard.standings import figure, student
from reported import report


def trained(
    sweep: Path,
    job: int,
    *overrides: str,
    loss: float = 0.5,
    better: float | None = None,
    methods: Sequence[str] = ("diffusion_10", "mean fill"),
    others: Sequence[str] = (),
    **facts: Any,
) -> None:
    """A job of a sweep as it would lie on disk; `better` of its evaluation, None: there is none.

    Of its evaluation are `methods` (a number in a name is that of calls), `others`, figures beside the usual ones, and
    `facts` of the protocol.
    """
    run = sweep / str(job)
    (run / ".hydra").mkdir(parents=True)
    (run / ".hydra" / "overrides.yaml").write_text("".join(f"- {each}\n" for each in overrides))
    lines = [{"step": 3, "val/loss": 2 * loss}, {"step": 5, "train/loss": 9.0}, {"step": 7, "val/loss": loss}]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if better is not None:
        made = report(seed=job, n=40, methods=methods, better=better, **facts)
        for row in made.rows:
            row |= dict.fromkeys(others, 0.5 - better)
        (run / "evaluation").mkdir()
        (run / "evaluation" / "results.json").write_text(made.json())


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """Three configurations of three seeds: `a` better than `b` by far more than seeds scatter, `b` than `c` by less."""
    job = 0
    for name, better in {"c": 0.1, "a": 0.2, "b": 0.104}.items():
        for seed, jitter in enumerate((-0.004, 0.001, 0.003)):
            own = jitter if name != "b" else -jitter
            told = [f"schedule={name}", f"seed={seed}", "experiment=x", f"paths.logs={tmp_path}"]
            trained(tmp_path, job, *told, loss=0.5 - better, better=better + own)
            job += 1
    return tmp_path


def test_order_and_verdicts(sweep: Path) -> None:
    (board,) = leaderboard.boards(leaderboard.runs([sweep]))
    assert [rank.entry.name for rank in board.ranks] == ["schedule=a", "schedule=b", "schedule=c"]
    found = leaderboard.facts(board)
    said = [row["differences"] for row in found["rows"]]
    assert said[0] == {"than_the_one_above": None, "than_the_first": None}
    assert [each["than_the_first"]["verdict"] for each in said[1:]] == ["worse", "worse"]
    assert said[2]["than_the_one_above"]["verdict"] == "inconclusive"
    assert found["by"] == "lpips"
    assert found["kinds"] == ["center", "half"]
    np.testing.assert_allclose(found["rows"][0]["curves"]["val/loss"], [[4, 0.6, 0.6, 0.6], [8, 0.3, 0.3, 0.3]])


def test_figures_are_those_of_the_reports(sweep: Path) -> None:
    """Means over seeds and kinds of holes; a difference is the paired t-test's, or the bootstrap's if that is wider."""
    (board,) = leaderboard.boards(leaderboard.runs([sweep]))
    values: dict[str, list[float]] = {}
    shares: dict[str, list[Any]] = {}
    for job, name in enumerate("cccaaabbb"):
        found = json.loads((sweep / str(job) / "evaluation" / "results.json").read_text())
        rows = [row for row in found["rows"] if row["method"] == "diffusion_10"]
        each = [entry["lpips"] for entry in found["pictures"] if entry["method"] == "diffusion_10"]
        values.setdefault(name, []).append(np.mean([row["lpips"] for row in rows]))
        shares.setdefault(name, []).append(np.mean(each, axis=0))
    for rank in board.ranks:
        name = rank.entry.name.removeprefix("schedule=")
        assert rank.entry.figures["lpips"].mean == pytest.approx(np.mean(values[name]))
        assert rank.entry.figures["lpips"].spread == pytest.approx(np.std(values[name], ddof=1))
    last = board.ranks[2].above
    assert last is not None
    over_seeds = ttest_rel(values["c"], values["b"]).confidence_interval(0.95)
    over_pictures = interval(np.mean(shares["c"], axis=0) - np.mean(shares["b"], axis=0))
    assert np.ptp(over_seeds) > np.ptp(over_pictures)
    assert last.over == "seeds"
    assert (last.low, last.high) == pytest.approx(tuple(over_seeds))


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=5), st.floats(0, 3))
def test_the_wider_interval_is_taken(values: list[float], scatter: float) -> None:
    shares = np.random.default_rng(0).normal(0, scatter, 30) + np.mean(values)
    found = figure(values, shares)
    widths = {"seeds": np.ptp(figure(values, None)[1:3]), "pictures": np.ptp(figure(values[:1], shares)[1:3])}
    assert found.high - found.low == pytest.approx(max(widths.values()))
    assert found.low - 1e-12 <= found.mean <= found.high + 1e-12  # of one value, means round
    assert widths[found.over] == pytest.approx(max(widths.values()))


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 5, 8, 29])
def test_students_quantile(degrees: int) -> None:
    for level in (0.5, 0.95, 0.99):
        assert student(level, degrees) == pytest.approx(t.ppf((1 + level) / 2, degrees), rel=1e-9)


def test_of_one_seed_nothing_is_said_of_trainings(tmp_path: Path) -> None:
    trained(tmp_path, 0, "model=a", better=0.2)
    trained(tmp_path, 1, "model=b", better=0.0)
    (board,) = leaderboard.boards(leaderboard.runs([tmp_path]))
    assert leaderboard.facts(board)["rows"][1]["differences"]["than_the_first"]["verdict"] == "inconclusive (one seed)"


def test_before_anything_is_evaluated_the_validations_stand_there(tmp_path: Path) -> None:
    for job, (name, loss) in enumerate([("a", 0.3), ("b", 0.2), ("a", 0.31), ("b", 0.21)]):
        trained(tmp_path, job, f"model={name}", f"seed={job // 2}", loss=loss)
    (board,) = leaderboard.boards(leaderboard.runs([tmp_path]))
    assert [rank.entry.name for rank in board.ranks] == ["model=b", "model=a"]
    assert board.ranks[1].above is not None
    assert board.ranks[1].above.mean == pytest.approx(0.1)


def test_two_protocols_share_no_table(tmp_path: Path) -> None:
    trained(tmp_path, 0, "model=a", better=0.2)
    trained(tmp_path, 1, "model=b", better=0.0, mask_set=2)
    assert len(leaderboard.boards(leaderboard.runs([tmp_path]))) == 2


def test_the_command(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trained(sweep, 9, "schedule=d", "experiment=x", f"paths.logs={sweep}")
    assert main(["leaderboard", str(sweep)]) == 0
    out = capsys.readouterr().out
    assert f"to {sweep}: 10 runs; 1 are not done or stand in no table" in out
    written = (sweep / "leaderboard.md").read_text().splitlines()
    names = [line.split(" | ")[0] for line in written[2:5]]
    assert names == [f"| schedule={each}, diffusion_10" for each in "abc"]
    assert written[4].split(" | ")[-2].endswith("inconclusive")
    assert main(["leaderboard", str(sweep), "--by", "psnr"]) == 0
    assert json.loads((sweep / "leaderboard.json").read_text())[0]["rows"][0]["configuration"] == "schedule=a"
    for mistake in (["--by", "beauty"], ["--by", "seconds_per_image"]):
        assert main(["leaderboard", str(sweep), *mistake]) == 1
        assert mistake[1] in capsys.readouterr().err
    assert main(["leaderboard", str(sweep / "0" / "evaluation")]) == 1
    assert "holds no run" in capsys.readouterr().err


def begun(sweep: Path) -> dict[str, str]:
    """A sweep of six jobs as it was cut, with what is to be said of those that are not done."""
    jobs = [[f"schedule={name}", "experiment=x"] for name in ("done", "unseen", "failed", "cut", "new", "none")]
    assert sweeps.enlist(sweep, jobs, ["schedule"], ["schedule=..."]) == [*range(6)]
    trained(sweep, 0, *jobs[0], better=0.2)
    for number in (1, 2, 3):
        trained(sweep, number, *jobs[number])
    (sweep / "4" / ".hydra").mkdir(parents=True)
    (sweep / "4" / ".hydra" / "overrides.yaml").write_text("- schedule=new\n- experiment=x\n")
    for number, code in {0: 0, 1: 0, 2: 3}.items():
        sweeps.Job(number, jobs[number], sweep / str(number)).note(code, 1.5)
    return {
        "schedule=unseen": "trained, not evaluated",
        "schedule=failed": "failed with exit code 3",
        "schedule=cut": "not ended, at step 8",
        "schedule=new": "begun",
        "schedule=none": "not begun",
    }


def test_how_far_the_jobs_are_that_are_not_done(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    states = begun(tmp_path)
    assert dict(leaderboard.unfinished([tmp_path], leaderboard.runs([tmp_path]))) == states
    assert main(["leaderboard", str(tmp_path)]) == 0
    said = [f"{name}: {state}" for name, state in states.items()]
    assert [line for line in capsys.readouterr().out.splitlines() if line in said] == said
    assert (tmp_path / "leaderboard.md").read_text().splitlines()[-5:] == [f"- {line}" for line in said]


def test_of_a_sweep_of_which_no_job_has_begun_all_are_listed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweeps.enlist(tmp_path, [["schedule=a", "seed=0"], ["schedule=b", "seed=0"]], ["schedule"], ["schedule=a,b"])
    assert main(["leaderboard", str(tmp_path)]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[:2] == ["schedule=a: not begun", "schedule=b: not begun"]
    assert out[-1].endswith("0 runs; 2 are not done or stand in no table")
    assert "schedule=b" in (tmp_path / "leaderboard.html").read_text()
    assert json.loads((tmp_path / "leaderboard.json").read_text()) == []
