"""The program that runs the papers' own beside ours: what it does without them, and how it counts."""

import importlib
import math
from pathlib import Path
from types import ModuleType

import pytest
import torch


@pytest.fixture
def originals(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(Path(__file__).parents[1])
    return importlib.import_module("benchmarks.originals.__main__")


def test_without_the_programs_it_says_how_to_get_each(originals, capsys) -> None:
    assert originals.main([]) == 1
    said = capsys.readouterr().out
    for peer in originals.PEERS:
        assert (f"github.com/{peer.repository} PEERS/{peer.name} " in said) == bool(peer.commit)
        assert peer.commit in said
        assert len(peer.commit) in (0, 40)


def test_an_installed_peer_needs_no_folder(originals, tmp_path, capsys) -> None:
    assert originals.main(["--peers", str(tmp_path), "--only", "scikit-image"]) == 0
    rows = capsys.readouterr().out.strip().split("\n")[2:]
    assert len(rows) == len(originals.SCIKIT_IMAGE.comparisons)
    assert all(row.startswith("| scikit-image | ") for row in rows)


def test_a_row_is_open_that_fails_or_differs_by_more_than_its_reason_covers(originals, tmp_path) -> None:
    from benchmarks.originals.comparing import Comparison, Peer

    def fails() -> float:
        raise TypeError("no such option")

    measured = {
        "equal": Comparison("equal", lambda: 1e-6),
        "told": Comparison("told", lambda: 0.1, "by nature", at_most=0.2),
        "beyond": Comparison("beyond", lambda: 0.3, "by nature", at_most=0.2),
        "apart": Comparison("apart", lambda: 1e-4),
        "lost": Comparison("lost", lambda: math.nan),
        "fails": Comparison("fails", fails),
    }
    rows, open_ends = originals.lines(Peer("scikit-image", "", list(measured.values())), tmp_path)
    ends = {name: row.split(" | ")[-1] for name, row in zip(measured, rows, strict=True)}
    assert ends["equal"] == " |"
    assert ends["told"] == "by nature |"
    assert ends["beyond"] == ends["apart"] == ends["lost"] == "**unexplained** |"
    assert ends["fails"] == "**failed**: TypeError: no such option |"
    assert open_ends == 4


def test_a_peer_is_forgotten_after_its_rows(originals, tmp_path) -> None:
    from benchmarks.originals.comparing import at_home

    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "their_package.py").write_text(f"import blobfile_of_theirs\nNAME = {name!r}\n")
    seen = []
    for name in ("one", "two"):
        with at_home(tmp_path / name, ["blobfile_of_theirs"]):
            seen.append(importlib.import_module("their_package").NAME)
    assert seen == ["one", "two"]
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("blobfile_of_theirs")


def test_draws_of_a_name_are_the_same_whoever_asks_for_what_in_between(originals) -> None:
    from benchmarks.originals.comparing import Draws, drawing, merged, our_names

    theirs = Draws(["z", "g", "z"])
    with drawing(theirs):
        first, _, second = torch.randn_like(torch.empty(1)), torch.randn(2, 3), torch.randn(2, 3)
    ours = Draws(["z", "z"])
    assert torch.equal(ours(), first)
    assert torch.equal(ours(), second)
    levels = torch.tensor([0.1, 0.4, 0.3, 0.2, 0.5, 1.0])  # a step, two rises, two steps
    assert merged(levels).tolist() == torch.tensor([0.1, 0.4, 0.2, 0.5, 1.0]).tolist()
    names = ["start", "z", "unused", "u", "unused", "u", "g", "z", "g", "unused"]
    assert list(our_names(levels, start="start", kept="g")) == names
