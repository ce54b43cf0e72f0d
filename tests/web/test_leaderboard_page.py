"""The leaderboard's page in a browser."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_page import AXE, browser, in_browser
from test_report import Sheet, watched

from diffusion_lab import sweeps
from diffusion_lab.evaluation.__main__ import main
from test_leaderboard import begun, sweep, trained
from test_pages import HOSTILE

pytestmark = in_browser
__all__ = ["browser", "sweep"]  # the fixtures

OTHERS = ["ssim", "l1_hole", "precision", "recall", "density", "coverage", "seam", "fid_hole", "diversity", "fd"]
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


@pytest.fixture
def costly(browser: Any, tmp_path: Path) -> Iterator[Sheet]:
    """Of two configurations, each sampled in 10 and in 50 calls, with many figures and long names."""
    for job, name in enumerate("abab"):
        own = [f"schedule={name}", f"model.attention_resolutions=[16,8,{name}]", f"seed={job // 2}", "experiment=x"]
        better = 0.3 if name == "b" else 0.0
        trained(tmp_path, job, *own, better=better, methods=("ddim_10", "ddim_50"), others=OTHERS)
    assert main(["leaderboard", str(tmp_path)]) == 0
    yield from watched(browser, tmp_path / "leaderboard.html")


def test_quality_stands_over_cost_where_costs_differ(costly: Sheet) -> None:
    """LPIPS and FID over calls: 50 calls lie right of 10, and the better configuration lies lower at both."""
    costly.open()
    plots = "[...document.querySelectorAll('section')].find((x) => x.textContent.startsWith('Quality and cost'))"
    assert costly.js(f"[...{plots}.querySelectorAll('figcaption')].map((x) => x.textContent[0])") == ["L", "F"]
    assert "network calls" in costly.js(f"{plots}.textContent")
    found = costly.js(
        f"[...{plots}.querySelector('svg').querySelectorAll('g[data-method]')].map((group) => "
        "[group.dataset.method, ...['cx', 'cy'].map((at) => Number(group.querySelector('circle').getAttribute(at)))])"
    )
    places = {("schedule=b" in name, name.endswith("_50")): (x, y) for name, x, y in found}
    assert len(places) == len(found) == 4
    few, many = (places[True, calls][0] for calls in (False, True))
    assert few < many
    for calls in (False, True):
        assert places[False, calls][0] == places[True, calls][0]
        assert places[False, calls][1] < places[True, calls][1]  # downwards


@pytest.mark.parametrize("width", [1280, 1920])
def test_no_table_scrolls_sideways_in_a_window(costly: Sheet, width: int) -> None:
    """All figures are there all the same."""
    costly.open(width)
    boxes = "[...document.querySelectorAll('.scroll')]"
    assert costly.js(f"{boxes}.filter((x) => x.scrollWidth > x.clientWidth).map((x) => x.ariaLabel)") == []
    shown = costly.js("[...document.querySelectorAll('thead button[title]')].map((x) => x.title)")
    assert len(shown) == len(set(shown))
    assert {"lpips", "psnr", "fid", "network_calls", *OTHERS} <= set(shown)


def test_how_far_the_jobs_are_that_are_not_done(browser: Any, tmp_path: Path) -> None:
    states = begun(tmp_path)
    assert main(["leaderboard", str(tmp_path)]) == 0
    for sheet in watched(browser, tmp_path / "leaderboard.html"):
        sheet.open()
        table = "section:last-of-type"
        names = sheet.seen(f"{table} tbody th")
        assert dict(zip(names, sheet.seen(f"{table} tbody td"), strict=True)) == states
        sides = [f"{table} thead th:last-child", f"{table} tbody td"]
        align = "getComputedStyle(document.querySelector(arguments[0])).textAlign"
        assert {sheet.js(align, side) for side in sides} == {"left"}


def test_a_sweep_that_has_not_begun_has_a_page(browser: Any, tmp_path: Path) -> None:
    sweeps.enlist(tmp_path, [["schedule=a"], ["schedule=b"]], ["schedule"], ["schedule=a,b"])
    assert main(["leaderboard", str(tmp_path)]) == 0
    for sheet in watched(browser, tmp_path / "leaderboard.html"):
        sheet.open()
        assert sheet.seen("tbody td") == ["not begun"] * 2


@pytest.mark.skipif(AXE is None, reason="without axe-playwright-python")
@pytest.mark.parametrize(("width", "colours"), [(1280, "light"), (390, "dark")])
def test_axe_finds_nothing_and_nothing_is_too_wide(sheet: Sheet, width: int, colours: str) -> None:
    sheet.open(width, colours=colours)
    assert sheet.faults() == []
