"""The report's page in a real browser, opened as a file."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_page import AXE, PATIENCE, browser, in_browser

from diffusion_lab.evaluation import Report, page
from diffusion_lab.evaluation.uncertainty import uncertainties
from reported import KINDS, METHODS, report
from test_pages import HOSTILE

pytestmark = in_browser
__all__ = ["browser"]  # the fixture

N = 10


class Sheet:
    """What a person does on the page, and what they see."""

    def __init__(self, driver: Any, url: str) -> None:
        self.driver = driver
        self.url = url

    def open(self, width: int = 1280, height: int = 900, *, colours: str = "light") -> None:
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        features = [
            {"name": "prefers-color-scheme", "value": colours},
            {"name": "prefers-reduced-motion", "value": "reduce"},
        ]
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        self.driver.get(self.url)
        self.until("document.readyState === 'complete'")

    def js(self, expression: str, *arguments: Any) -> Any:
        return self.driver.execute_script(f"return {expression}", *arguments)

    def until(self, condition: str) -> None:
        end = time.monotonic() + PATIENCE
        while not self.js(condition):
            assert time.monotonic() < end, f"never came true: {condition}"
            time.sleep(0.02)

    def seen(self, selector: str) -> list[str]:
        """The text of what is there to be seen."""
        found = (
            "[...document.querySelectorAll(arguments[0])].filter((x) => x.checkVisibility()).map((x) => x.textContent)"
        )
        return list(self.js(found, selector))

    def column(self, number: int, kind: str) -> list[float]:
        rows = f".figures tbody[data-kind='{kind}'] tr:not(.over)"
        values = (
            "[...document.querySelectorAll(arguments[0])].map((row) => Number(row.cells[arguments[1]].dataset.value))"
        )
        return list(self.js(values, rows, number))

    def head(self, figure: str) -> Any:
        return self.driver.find_element("css selector", f".figures thead button[title='{figure}']")

    def tick(self, value: str) -> None:
        self.js("document.querySelector(`.chips input[value='${arguments[0]}']`).click()", value)

    def pick(self, name: str, value: str) -> None:
        self.driver.find_element("css selector", f"#{name} option[value='{value}']").click()

    def press(self, *keys: str) -> None:
        from selenium.webdriver import ActionChains

        ActionChains(self.driver, duration=0).send_keys(*keys).perform()

    def faults(self) -> list[str]:
        """What axe finds, and whether the page is wider than its window."""
        assert AXE is not None
        if not self.js("'axe' in window"):
            self.driver.execute_script(AXE.read_text())
        wide = self.js("document.documentElement.scrollWidth > document.documentElement.clientWidth")
        found = self.driver.execute_async_script("axe.run().then((seen) => arguments[0](seen.violations))")
        return ["too wide"] * wide + [
            f"{wrong['id']}: {[node['html'][:120] for node in wrong['nodes']]}" for wrong in found
        ]

    def ranks(self, kind: str) -> list[int]:
        """Of the pictures that are seen, by LPIPS of the method that is chosen."""
        said = [text.split("LPIPS")[1] for text in self.seen(f".kind[data-kind='{kind}'] .look")]
        return [int(text.split(",")[1].split()[0]) for text in said]


def opened(browser: Any, folder: Path, made: Report) -> Iterator[Sheet]:
    page.write(folder / "report é, [1].html", {"": made})
    yield from watched(browser, folder / "report é, [1].html")


def watched(browser: Any, path: Path) -> Iterator[Sheet]:
    sheet = Sheet(browser, path.as_uri())
    for kind in ("browser", "performance"):
        browser.get_log(kind)
    yield sheet
    told = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [m["params"]["request"]["url"] for m in told if m["method"] == "Network.requestWillBeSent"]
    complaints = [entry["message"] for entry in browser.get_log("browser") if entry["level"] != "INFO"]
    browser.execute_script("localStorage.clear()")
    browser.get("about:blank")
    assert asked
    assert [url for url in asked if not url.startswith(("file:", "data:", "about:", "chrome"))] == []
    assert complaints == []


@pytest.fixture
def sheet(browser: Any, tmp_path: Path) -> Iterator[Sheet]:
    """Opened; afterwards nobody has complained, and nothing was asked of anybody."""
    yield from opened(browser, tmp_path, report(n=2 * N, shown=N, labelled=True))


def test_tables_sort_within_each_kind(sheet: Sheet) -> None:
    """At first the best first, then the worst, then as it was; whichever way less or more is better."""
    sheet.open()
    before = sheet.column(2, "half")
    for column, figure, best_first in ((1, "fid", False), (3, "psnr", True)):
        for way in (best_first, not best_first):
            sheet.head(figure).click()
            for kind in KINDS:
                values = sheet.column(column, kind)
                assert values == sorted(values, reverse=way)
        assert sheet.js("document.querySelectorAll('.figures th[aria-sort$=ending]').length") == 1
        sheet.head(figure).click()
        assert sheet.column(2, "half") == before


def test_a_keyboard_sorts(sheet: Sheet) -> None:
    from selenium.webdriver import Keys

    sheet.open()
    sheet.js("arguments[0].focus()", sheet.head("lpips"))
    sheet.press(Keys.ENTER, Keys.ENTER)
    values = sheet.column(2, "center")
    assert values == sorted(values, reverse=True)
    assert sheet.js("document.activeElement.closest('th').ariaSort") == "descending"


def test_what_is_not_ticked_is_not_seen(sheet: Sheet) -> None:
    sheet.open()
    rows = ".figures tbody tr:not(.over) th"
    assert sheet.seen(rows) == [*METHODS] * 2
    sheet.tick("half")
    assert sheet.seen(rows) == [*METHODS]
    assert sheet.seen(".over span") == ["center"] * 2  # of the figures, and of the differences
    assert sheet.seen(".kind h3") == ["center"]
    sheet.tick("mean fill")
    assert sheet.seen(rows) == ["ddim_10", "ddim_50"]
    assert sheet.seen("#seen") == ["2 of 6 rows"]
    drawn = "[...document.querySelectorAll('g[data-method]')].filter((x) => x.getClientRects().length)"
    assert {*sheet.js(f"{drawn}.map((x) => x.dataset.method)")} == {"ddim_10", "ddim_50"}
    sheet.tick("half")
    sheet.tick("mean fill")
    assert sheet.seen(rows) == [*METHODS] * 2
    assert sheet.seen("#seen") == [""]


def test_a_difference_by_chance_is_called_inconclusive(browser: Any, tmp_path: Path) -> None:
    made = report(methods=["one"])
    twice = [made.pictures[0], {**made.pictures[0], "method": "two"}]
    rows = [made.rows[0], {**made.rows[0], "method": "two"}]
    both = Report(rows, made.protocol, [], ["one", "two"], twice, uncertainties(twice, {"lpips": False}), [])
    for sheet in opened(browser, tmp_path, both):
        sheet.open()
        assert {*sheet.seen(".verdict")} == {"inconclusive"}


def test_groups_of_faces_stand_beside_each_other(sheet: Sheet) -> None:
    """What is hard to fill is worse whatever the method; an odd number says nothing."""
    sheet.open()
    rows = ".attributes tbody tr"
    assert sheet.seen(f"{rows} > :nth-child(2)") == [*METHODS] * 2
    assert sheet.seen(f"{rows} > :nth-child(3)") == [str(N)] * 6
    made = report(n=2 * N, labelled=True)
    shared = np.mean([each["lpips"] for each in made.pictures], axis=0)
    hard = shared > np.median(shared)
    lpips_at = sheet.js("document.querySelector(\".attributes button[title='lpips']\").closest('th').cellIndex")
    for row, method in enumerate(METHODS):
        lpips = np.mean([each["lpips"] for each in made.pictures if each["method"] == method], axis=0)
        found = float(sheet.js(f"document.querySelectorAll('{rows}')[{row}].cells[{lpips_at}].dataset.value"))
        assert found == pytest.approx(lpips[hard].mean() - lpips[~hard].mean(), rel=1e-4)
    assert sheet.seen(f"{rows} > :nth-child({lpips_at + 1}) .verdict")[:3] == ["worse"] * 3
    sheet.driver.find_element("css selector", ".attributes thead button[title='lpips']").click()
    assert sheet.seen(f"{rows} > th") == ["odd"] * 3 + ["hard"] * 3
    sheet.tick("mean fill")
    assert len(sheet.seen(f"{rows} > th")) == 4


def test_completions_lie_beside_their_nearest_training_pictures(sheet: Sheet) -> None:
    sheet.open()
    assert sheet.seen(".near h3") == [f"{kind}: {method}" for kind in KINDS for method in METHODS]
    assert sheet.seen(".near:first-child figcaption") == ["truth", "completion", "its nearest", "truth's nearest"]
    sheet.until("[...document.querySelectorAll('.near img')].filter((x) => x.naturalWidth === 15).length === 24")
    sheet.tick("half")
    sheet.tick("ddim_10")
    assert sheet.seen(".near h3") == ["center: ddim_50", "center: mean fill"]


def test_pictures_come_in_the_order_that_is_chosen(sheet: Sheet) -> None:
    """Six at first and then all, the worst first, the best first, and from the middle outwards."""
    sheet.open()
    for kind in KINDS:
        ranks = sheet.ranks(kind)
        assert len(ranks) == 6
        assert ranks == sorted(ranks, reverse=True)
        sheet.driver.find_element("css selector", f".kind[data-kind='{kind}'] .more").click()
        assert len(sheet.ranks(kind)) == N
    worst = sheet.seen(".kind[data-kind='center'] .look b")
    sheet.pick("order", "best")
    assert sheet.seen(".kind[data-kind='center'] .look b") == worst[::-1]
    sheet.pick("order", "middle")
    away = [abs(rank - 1 - (2 * N - 1) / 2) for rank in sheet.ranks("center")]
    assert away == sorted(away)
    sheet.pick("of", "mean fill")
    made = report(n=2 * N).pictures[2]["lpips"]
    numbers = [int(text) for text in sheet.seen(".kind[data-kind='center'] .look b")]
    assert sheet.ranks("center") == [1 + sorted(made).index(made[number]) for number in numbers]
    assert sheet.js(
        "[...document.querySelectorAll('.of')].filter((x) => !x.hidden).every((x) => x.dataset.of === 'mean fill')"
    )
    loaded = "[...document.images].filter((x) => x.complete && x.naturalWidth === 16).length"
    sheet.until(f"{loaded} === {2 * N * (2 + 3 * 3)}")


def test_a_picture_opens_and_leads_to_the_next(sheet: Sheet) -> None:
    """With a mouse and with keys; it says what each method made of it, and gives the focus back."""
    from selenium.webdriver import Keys

    sheet.open()
    cards = ".kind[data-kind='center'] .look"
    order = [f"center, picture {text}" for text in sheet.seen(f"{cards} b")]
    sheet.driver.find_element("css selector", f"{cards}:not([hidden])").click()
    assert sheet.js("document.querySelector('#look').open")
    assert sheet.seen("#look-title") == order[:1]
    assert [text.split(" LPIPS")[0] for text in sheet.seen("#look-body h3")] == ["Asked ", *METHODS]
    assert sheet.js("document.querySelectorAll('#look-body img').length") == 2 + 3 * 3
    for key, number in ((Keys.ARROW_RIGHT, 1), (Keys.ARROW_RIGHT, 2), (Keys.ARROW_LEFT, 1)):
        sheet.press(key)
        assert sheet.seen("#look-title") == [order[number]]
    sheet.press(Keys.ESCAPE)
    sheet.until("!document.querySelector('#look').open")
    sheet.until(f"document.activeElement.dataset.name === '{order[1]}'")
    sheet.press(Keys.ENTER)
    assert sheet.seen("#look-title") == [order[1]]


@pytest.mark.skipif(AXE is None, reason="without axe-playwright-python")
@pytest.mark.parametrize(("width", "colours"), [(1280, "light"), (390, "dark")])
def test_axe_finds_nothing_and_nothing_is_too_wide(sheet: Sheet, width: int, colours: str) -> None:
    """As it opens, with all its facts unfolded, and with a picture open."""
    sheet.open(width, colours=colours)
    sheet.js("document.querySelectorAll('details').forEach((x) => { x.open = true })")
    sheet.tick("ddim_50")
    assert sheet.faults() == []
    sheet.driver.find_element("css selector", ".look:not([hidden])").click()
    assert sheet.faults() == []


def test_colours_can_be_chosen_and_stay(sheet: Sheet) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    sheet.open(colours="light")
    light = sheet.js(ground)
    sheet.driver.find_element("css selector", "#theme").click()
    dark = sheet.js(ground)
    sheet.open(colours="light")
    assert sheet.js(ground) == dark != light
    assert sheet.js("document.querySelector('#theme').ariaPressed") == "true"
    sheet.driver.find_element("css selector", "#theme").click()
    assert sheet.js(ground) == light


def test_hostile_names_are_only_names(browser: Any, tmp_path: Path) -> None:
    made = report(methods=[HOSTILE, "b"], kinds=[HOSTILE, "half"], shown=2, data=HOSTILE, inpainter=HOSTILE)
    for sheet in opened(browser, tmp_path, made):
        sheet.open()
        assert sheet.seen(".figures tbody th[scope=row]") == [HOSTILE, "b"] * 2
        assert sheet.seen(".over span")[0] == HOSTILE
        sheet.js("document.querySelector('.look').click()")
        assert sheet.seen("#look-title") == [f"{HOSTILE}, picture {sheet.seen('.look b')[0]}"]
        sheet.js("document.querySelector('.chips input').click()")
        assert sheet.seen(".over span") == ["half"] * 2
