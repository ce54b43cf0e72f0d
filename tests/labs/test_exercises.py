"""The reference solutions pass, and what students really write fails with a hint of its own."""

import asyncio
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from mistakes1 import MISTAKES as OF_LAB_1
from mistakes2 import MISTAKES as OF_LAB_2
from mistakes3 import MISTAKES as OF_LAB_3
from mistakes4 import MISTAKES as OF_LAB_4
from solutions import definitions
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from diffusion_lab.labs import check
from diffusion_lab.labs.course import everything, exercise
from diffusion_lab.labs.grading import Outcome, grade

MISTAKES = {**OF_LAB_1, **OF_LAB_2, **OF_LAB_3, **OF_LAB_4}
EXERCISES = everything()
SEEDS = range(2)


@pytest.fixture(scope="session")
def solved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, Any]]:
    """What the solved lab of an exercise defines."""
    labs: dict[str, dict[str, Any]] = {}

    def of(number: str) -> dict[str, Any]:
        lab = number[0]
        if lab not in labs:
            labs[lab] = definitions(lab, tmp_path_factory.mktemp(f"lab{lab}"))
        return dict(labs[lab])

    return of


@pytest.mark.parametrize("number", EXERCISES)
@pytest.mark.parametrize("seed", SEEDS)
def test_the_reference_passes(number: str, seed: int, solved: Callable[[str], dict[str, Any]]) -> None:
    outcome = grade(exercise(number), solved(number)[exercise(number).name], seed)
    assert outcome.passed, outcome.line("en")


@pytest.mark.parametrize(("number", "name"), MISTAKES)
@pytest.mark.parametrize("seed", SEEDS)
def test_a_mistake_gets_its_own_hint(
    number: str, name: str, seed: int, solved: Callable[[str], dict[str, Any]]
) -> None:
    names = solved(number)
    names["right"] = names[exercise(number).name]
    exec(MISTAKES[number, name], names)
    outcome = grade(exercise(number), names[exercise(number).name], seed)
    assert outcome.failed is not None
    assert outcome.failed.name == name, outcome.line("en")
    assert outcome.line("en") != outcome.line("vi")


@pytest.mark.parametrize("number", EXERCISES)
def test_what_is_not_written_is_no_mistake(number: str, solved: Callable[[str], dict[str, Any]]) -> None:
    names = solved(number)
    right = names[exercise(number).name]
    exec("def nothing(*of): ...", names)
    if isinstance(right, type):
        exec("class unwritten(right):\n    forward = nothing", names | {"right": right}, names)
    outcome = grade(exercise(number), names["unwritten" if isinstance(right, type) else "nothing"])
    assert not outcome.passed
    assert outcome.failed is None


def test_what_breaks_says_where(capsys: pytest.CaptureFixture[str]) -> None:
    def forward_step(x: Any, beta: float, eps: Any) -> Any:
        return x + undefined  # type: ignore[name-defined] # noqa: F821

    check("1.2", forward_step, "vi")
    said = capsys.readouterr().out
    assert said.startswith("✗ 1.2 (runs)")
    assert "NameError: name 'undefined' is not defined [forward_step: " in said


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        (lambda x, beta, eps: 3, "a tensor was expected, your function gives int"),
        (lambda x, beta, eps: x[:1], "the shape is (1, 2), expected (6, 2)"),
    ],
)
def test_what_is_no_tensor_of_the_shape_is_told_so(given: object, hint: str) -> None:
    assert hint in grade(exercise("1.2"), given).line("en")


@pytest.mark.parametrize(
    ("number", "way_out"),
    [("9.9", "the labs are 1 to 4"), ("1.9", "lab 1 has 1.1 to 1.8"), ("", "the labs are 1 to 4")],
)
def test_an_exercise_that_is_none_is_named(number: str, way_out: str) -> None:
    with pytest.raises(ValueError, match=f"no exercise '{number}': {way_out}"):
        check(number, None)


@pytest.mark.parametrize("number", [number for number in EXERCISES if number.startswith("4")])
def test_a_check_in_a_notebook_says_the_same(number: str, solved: Callable[[str], dict[str, Any]]) -> None:
    """The cells of a notebook run inside an event loop."""

    async def cell() -> Outcome:
        return grade(exercise(number), solved(number)[exercise(number).name], 0)

    outcome = asyncio.run(cell())
    assert outcome.passed, outcome.line("en")


def test_what_an_exercise_imports_late_is_there_before_its_function_is_timed() -> None:
    code = """
import sys
from diffusion_lab.labs.course import exercise
exercise("4.2")
early = "fastapi" in sys.modules
exercise("4.1")
print(early, "fastapi" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False True\n"


def test_no_check_waits_for_the_packages_of_training_and_measuring() -> None:
    """They take longer to import than all checks together take to run; torch's compiler is one of them."""
    slow = {"torchmetrics", "torchvision", "lightning", "hydra", "scipy", "matplotlib", "torch._dynamo", "sympy"}
    code = f"""
import sys
from diffusion_lab.labs.course import everything, exercise
for number in everything():
    exercise(number)
print(sorted({slow!r} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


class Work(TorchDispatchMode):
    """Counts what torch computes: calls, and numbers that they give."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = func(*args, **(kwargs or {}))
        self.calls += 1
        self.numbers += sum(one.numel() for one in tree_leaves(given) if isinstance(one, Tensor))
        return given


@pytest.mark.parametrize("number", EXERCISES)
def test_a_check_is_little_work(number: str, solved: Callable[[str], dict[str, Any]]) -> None:
    """A call is some microseconds, a number some nanoseconds: a second on one slow core."""
    with Work() as work:
        assert grade(exercise(number), solved(number)[exercise(number).name], 0).passed
    assert work.calls < 50_000, work.calls
    assert work.numbers < 20_000_000, work.numbers
