"""The marking script, on folders as students hand them in."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from diffusion_lab.labs import student
from diffusion_lab.labs.__main__ import main
from diffusion_lab.labs.course import everything, exercise
from diffusion_lab.labs.marking import limited

RIGHT = "import math\ndef forward_step(x, beta, eps):\n    return math.sqrt(1 - beta) * x + math.sqrt(beta) * eps"
WRONG = "def forward_step(x, beta, eps):\n    return (1 - beta) * x + beta**0.5 * eps"


def handed_in(folder: Path, *cells: str) -> Path:
    made = [{"cell_type": "code", "source": cell.splitlines(keepends=True)} for cell in cells]
    (folder / "1_diffusion.ipynb").write_text(json.dumps({"cells": made}))
    return folder


def test_only_definitions_are_run(tmp_path: Path) -> None:
    cells = ["%matplotlib inline\nK = 3", "print(1 / 0)", "def broken(:", "def f(): return K", "loss = f().backward()"]
    names = student.definitions(handed_in(tmp_path, *cells) / "1_diffusion.ipynb")
    assert names["f"]() == 3
    assert "loss" not in names


def test_of_other_exercises_only_what_is_needed_is_run(tmp_path: Path) -> None:
    cells = ["import math\nfrom nowhere import nothing", "K = 3", "def used(x): return K * x", RIGHT]
    cells += ["def asked(x): return used(math.ceil(x))"]
    names = student.definitions(handed_in(tmp_path, *cells) / "1_diffusion.ipynb", {"asked"})
    assert names["asked"](1.5) == 6
    assert {name for name in names if not name.startswith("__")} == {"math", "K", "used", "asked"}


def test_checking_an_exercise_imports_its_own_lab_and_no_trainer(tmp_path: Path) -> None:
    """A student who waits for a check waits for torch, and for nothing that another lab needs."""
    handed_in(tmp_path, "import torch", "import lightning", RIGHT)
    code = f"""
import sys
from diffusion_lab.labs.__main__ import main
main(["check", "1.2", "--folder", {str(tmp_path)!r}])
late = {{"lightning", "torchvision", "torchmetrics", "hydra", "fastapi", "matplotlib", "diffusion_lab.labs.lab3"}}
print(sorted(late & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "✓ 1.2\n[]\n"


def test_marks_of_a_class(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    handed_in(tmp_path, 'LANGUAGE = "vi"', WRONG + "\nprint(forward_step)")
    assert main(["check", "--all", "--json", f"--folder={tmp_path}"]) == 1
    marks = json.loads(capsys.readouterr().out)
    assert (marks["passed"], marks["of"]) == (0, len(everything()))
    second = next(row for row in marks["exercises"] if row["exercise"] == "1.2")
    assert second["property"] == "variance of the signal"
    assert "phương sai" in second["hint"]
    assert not second["passed"]
    others = [row for row in marks["exercises"] if row is not second]
    assert not any(row["written"] or row["passed"] or row["hint"] for row in others)


def test_the_file_written_last_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    handed_in(tmp_path, WRONG)
    script = tmp_path / "1_diffusion.py"
    script.write_text(f"# %%\n{RIGHT}\n# %%\nthis is no Python\n")
    assert main(["check", "1.2", f"--folder={tmp_path}"]) == 0
    assert capsys.readouterr().out == "✓ 1.2\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["check", "1.2"], "holds no notebook or script of lab 1"),
        (["check", "7.1"], "there is no exercise '7.1': the labs are 1 to 4"),
    ],
)
def test_mistakes_end_in_a_sentence(
    arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, f"--folder={tmp_path}"]) == 1
    assert said in capsys.readouterr().err


def test_what_is_no_notebook_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "1_diffusion.ipynb").write_text("{")
    assert main(["check", "1.2", f"--folder={tmp_path}"]) == 1
    assert "1_diffusion.ipynb' is no notebook" in capsys.readouterr().err


def test_a_function_without_end_fails() -> None:
    import threading

    never = threading.Event()
    outcome = limited(exercise("1.2"), lambda x, beta, eps: never.wait(), limit=0.1)
    never.set()
    assert outcome.failed is not None
    assert outcome.failed.name == "time"
