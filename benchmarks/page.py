"""Draws docs/figures/page.png: the page of a running service, with a hole painted and filled.

`uv run serve.py`, then `python benchmarks/page.py`; it needs chromium and chromedriver.
"""

import argparse
import io
import shutil
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image
from selenium import webdriver
from selenium.webdriver import ActionChains
from selenium.webdriver.support.ui import WebDriverWait

FIGURE = Path(__file__).parents[1] / "docs" / "figures" / "page.png"
SIZE = (1100, 780)
STROKES = [[(0.38, 0.74), (0.5, 0.77), (0.62, 0.74)], [(0.33, 0.48), (0.41, 0.48)]]
"""Places as parts of the picture: the mouth and an eye."""


def browser(profile: str) -> webdriver.Chrome:
    """Chromium without a window."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    size = f"--window-size={SIZE[0]},{SIZE[1]}"
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", size, f"--user-data-dir={profile}"):
        options.add_argument(argument)
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))


def shot(driver: webdriver.Chrome) -> Image.Image:
    """What is seen now."""
    return Image.open(io.BytesIO(driver.get_screenshot_as_png())).convert("RGB")


def main() -> None:
    """Paints, fills, and saves both views side by side."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--sample", default="000340.jpg")
    parser.add_argument("--seed", default="3")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as profile:
        driver = browser(profile)

        def find(selector: str) -> Any:
            return driver.find_element("css selector", selector)

        def until(view: str) -> None:
            WebDriverWait(driver, 60).until(lambda _: find("body").get_attribute("data-view") == view)

        # The picture is SIZE, whatever the window's frame takes.
        metrics = {"width": SIZE[0], "height": SIZE[1], "deviceScaleFactor": 1, "mobile": False}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        driver.get(options.url)
        WebDriverWait(driver, 60).until(lambda _: driver.find_elements("css selector", "[name=count]"))
        find(f"[data-sample='{options.sample}']").click()
        until("painting")
        WebDriverWait(driver, 60).until(lambda _: "found" in find("#face-text").text)
        find("#seed").clear()
        find("#seed").send_keys(options.seed)
        hole = find("#hole")
        width, height = hole.rect["width"], hole.rect["height"]
        for stroke in STROKES:
            chain = ActionChains(driver, duration=30)
            for i, (x, y) in enumerate(stroke):
                chain.move_to_element_with_offset(hole, round((x - 0.5) * width), round((y - 0.5) * height))
                if i == 0:
                    chain.click_and_hold()
            chain.release().perform()
        painted = shot(driver)
        find("#fill").click()
        until("done")
        split = "const s = document.querySelector('#compare'); s.value = 27; s.dispatchEvent(new Event('input'))"
        driver.execute_script(split)
        ActionChains(driver).move_to_element(find(".brand")).perform()
        filled = shot(driver)
        driver.quit()
    both = Image.new("RGB", (2 * SIZE[0] + 20, SIZE[1]), "white")
    both.paste(painted, (0, 0))
    both.paste(filled, (SIZE[0] + 20, 0))
    both.save(FIGURE, optimize=True)
    print(f"{FIGURE}: {FIGURE.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
