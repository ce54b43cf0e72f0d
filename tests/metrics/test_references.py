"""The table of docs/evaluation.md, of what takes no Inception."""

import importlib
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import pytest
import torch


@pytest.fixture(scope="module")
def references() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parents[2])
        return importlib.import_module("benchmarks.references")


def test_a_difference_is_the_largest_one(references) -> None:
    found = references.agreement("numpy", "three numbers", 3, torch.tensor([1.0, 2.5, -3.0]), [1.0, 2.0, -3.0])
    assert (found.tool, found.value, found.absolute) == (f"numpy {version('numpy')}", 0.0, 0.5)
    assert found.relative == pytest.approx(0.25)
    with pytest.raises(AssertionError):
        references.agreement("numpy", "of other shapes", 1, [1.0], [[1.0]])


def test_of_features_and_of_pictures_the_tools_say_the_same(references, tmp_path: Path) -> None:
    features = references.random_features(100, width=16)
    pictures = references.faces_and_fillings(3, 32, tmp_path)
    parts = [
        references.frechet_distances(*features, "random features"),
        references.kernel_distance(*features, "random features"),
        references.squared_errors_and_structure(*pictures),
    ]
    rows = list(references.measured(parts))
    assert len(rows) == 6
    assert all(row.relative < 1e-6 for row in rows)
    assert references.markdown(rows).count("\n") == 7


def test_what_is_not_installed_is_named(references, capsys: pytest.CaptureFixture[str]) -> None:
    def of_a_tool(name: str):
        print("its banner")
        importlib.import_module(name)
        yield references.agreement("numpy", "a number", 1, 1.0, 1.0)

    rows = list(references.measured([of_a_tool("no_such_tool"), of_a_tool("json")]))
    assert len(rows) == 1
    said = capsys.readouterr()
    assert said.err == "Left out: no_such_tool is not installed.\n"
    assert said.out == ""
