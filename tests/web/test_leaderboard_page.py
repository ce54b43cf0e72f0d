"""The leaderboard's page in a browser."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_page import AXE, browser, in_browser
from test_report import Sheet, watched

from diffusion_lab.evaluation.__main__ import main
from test_leaderboard import sweep, trained
from test_pages import HOSTILE

pytestmark = in_browser
__all__ = ["browser", "sweep"]  # the fixtures

NAMES = [f"schedule={each}, diffusion_10" for each in "abc"]


@pytest.fixture
def sheet(browser: Any, sweep: Path) -> Iterator[Sheet]:
    """Of three configurations and of one that is not evaluated; nobody complains, and nothing is asked of anybody."""
    trained(sweep, 9, f"schedule={HOSTILE}", "experiment=x")
    assert main(["leaderboard", str(sweep)]) == 0
    yield from watched(browser, sweep / "leaderboard.html")


def test_the_best_come_first_and_what_is_not_done_last(sheet: Sheet) -> None:
    sheet.open()
    rows = ".figures tbody tr"
    assert sheet.seen(f"{rows} > th") == NAMES
    assert sheet.seen(f"{rows} > :last-child .verdict") == ["worse", "worse"]
    assert sheet.seen(f"{rows} > :nth-last-child(2) .verdict") == ["worse", "inconclusive"]
    (left,) = sheet.seen("section:last-of-type tbody td")
    assert left == "not evaluated"
    sheet.head("psnr").click()
    assert sheet.seen(f"{rows} > th")[0] == NAMES[0]
    sheet.head("psnr").click()
    assert sheet.seen(f"{rows} > th")[0] != NAMES[0]


def test_who_is_not_ticked_is_in_no_table_and_in_no_drawing(sheet: Sheet) -> None:
    """Every configuration has a curve, and a thread through its settings and figures that is not broken."""
    sheet.open()
    drawn = "svg g[data-method]"
    before = len(sheet.seen(drawn))
    assert before % 3 == 0
    threads = sheet.js("[...document.querySelectorAll('.wide g path')].map((x) => x.getAttribute('d'))")
    assert [thread.count("M") for thread in threads] == [1] * 3
    assert len({thread.count("L") for thread in threads}) == 1
    sheet.tick(NAMES[1])
    assert sheet.seen(".figures tbody th") == [NAMES[0], NAMES[2]]
    gone = sheet.js(
        "[...document.querySelectorAll(arguments[0])].filter((x) => x.hasAttribute('hidden')).length", drawn
    )
    assert gone == before // 3


@pytest.mark.skipif(AXE is None, reason="without axe-playwright-python")
@pytest.mark.parametrize(("width", "colours"), [(1280, "light"), (390, "dark")])
def test_axe_finds_nothing_and_nothing_is_too_wide(sheet: Sheet, width: int, colours: str) -> None:
    sheet.open(width, colours=colours)
    assert sheet.faults() == []
