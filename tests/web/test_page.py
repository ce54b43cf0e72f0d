"""The page in a real browser, against the real service with a tiny model of random weights."""

import asyncio
import base64
import io
import json
import math
import re
import shutil
import subprocess
import threading
import time
import zipfile
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import aclosing, contextmanager
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from diffusion_lab import serving
from diffusion_lab.data.celeba import built_in_faces
from diffusion_lab.data.crops import center148
from diffusion_lab.frames import Frame
from diffusion_lab.photo.faces import find
from small import DENOISER, MODEL, RESTORER, SEVERAL, small_inpainter

PAGE = Path(serving.__file__).with_name("page")
SAMPLES = sorted((PAGE / "samples").iterdir())
SIDE = 480
"""Of each sample, in pixels."""
WATCH = """const real = window.fetch; window.forms = [];
    window.fetch = (place, options = {}) => {
      if (options.body instanceof FormData) window.forms.push([new URL(place).pathname, options.body]);
      return real(place, options);
    }"""
SENT = """const text = (value) => typeof value === 'string' ? value : new Promise((done) => {
      const reader = new FileReader();
      reader.onload = () => done(reader.result.split(',')[1]);
      reader.readAsDataURL(value);
    });
    Promise.all(window.forms.filter(([path]) => path === arguments[0]).map(async ([, form]) => Object.fromEntries(
      await Promise.all([...form].map(async ([name, value]) => [name, await text(value)]))))).then(arguments[1])"""
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")

BOX = find_spec("axe_playwright_python")  # which is not imported: it would want Playwright
AXE = None if BOX is None or BOX.origin is None else Path(BOX.origin).with_name("axe.min.js")

in_browser = pytest.mark.skipif(
    CHROMIUM is None or DRIVER is None, reason="no chromium with chromedriver: apt-get install chromium chromium-driver"
)

PATIENCE = 300.0
"""Seconds after which something will not come at all, however busy the machine is."""

SCHEDULE = {"_target_": "diffusion_lab.diffusion.schedule.linear", "steps": 1000}
SAMPLER = {"_target_": "diffusion_lab.diffusion.samplers.ddim", "steps": 10}
LONGER = {**MODEL, "denoiser": {**DENOISER, "schedule": SCHEDULE}, "sampler": SAMPLER}


class Moody:
    """An engine that refuses as often as it is told to, and otherwise hands on."""

    def __init__(self, engine: Any) -> None:
        self.engine = engine
        self.refusals: list[Exception] = []
        self.given_up = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)

    async def submit(self, job: Any) -> AsyncGenerator[Any, None]:
        if self.refusals:
            raise self.refusals.pop()
        try:
            async with aclosing(self.engine.submit(job)) as events:
                async for event in events:
                    yield event
        except (GeneratorExit, asyncio.CancelledError):
            self.given_up += 1
            raise


class Brake:
    """Holds the network after a number of calls, so that a run is in its middle for as long as a test looks at it."""

    def __init__(self) -> None:
        self.calls = 0
        self._most = math.inf
        self._changed = threading.Condition()

    def __call__(self, *_: object) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self.calls < self._most)
            self.calls += 1

    def after(self, more: float) -> None:
        with self._changed:
            self._most = self.calls + more
            self._changed.notify_all()


class Service:
    """The app on a port of this machine.

    Args:
        url: where it listens.
        engine: behind it.
        brake: of its network.
    """

    def __init__(self, url: str, engine: Moody, brake: Brake) -> None:
        self.url = url
        self.engine = engine
        self.brake = brake

    @contextmanager
    def held(self) -> Iterator[None]:
        """A run that starts meanwhile comes as far as its fifth call; those that are given up make no more of them."""
        self.brake.after(5)
        try:
            yield
            calls = self.brake.calls
        finally:
            self.brake.after(math.inf)
        until(lambda: self.engine.stats().running == 0)
        assert self.brake.calls <= calls + 1  # the one that was held


def until(true: Callable[[], bool]) -> None:
    """Waits for something to become true."""
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.01)


@contextmanager
def listening(app: Any) -> Iterator[str]:
    """An app on a port of this machine."""
    uvicorn = pytest.importorskip("uvicorn")
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", timeout_graceful_shutdown=2))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.02)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()


@contextmanager
def behind(model: Mapping[str, Any], crop: str = "center148") -> Iterator[Service]:
    """The service in front of a small inpainter of a recipe, whose crop says where it expects eyes."""
    pytest.importorskip("uvicorn")
    from diffusion_lab.serving.api import create_app
    from diffusion_lab.serving.local import LocalEngine
    from diffusion_lab.serving.settings import offered

    inpainter = small_inpainter(model)
    inpainter.recipe = {**inpainter.recipe, "data": {**inpainter.recipe["data"], "crop": crop}}
    brake = Brake()
    inpainter.denoiser.network.register_forward_pre_hook(brake)
    engine = Moody(LocalEngine(inpainter, "tiny@1"))
    with listening(create_app(engine, offered(inpainter.recipe), trained_on="nothing")) as url:
        until(lambda: engine.stats().ready)
        yield Service(url, engine, brake)


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with behind(LONGER) as found:
        yield found


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--use-fake-device-for-media-stream",
        "--use-fake-ui-for-media-stream",
        f"--user-data-dir={tmp_path_factory.mktemp('profile')}",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    driver.set_script_timeout(PATIENCE)
    yield driver
    driver.quit()


class Page:
    """What a person does on the page, and what they see."""

    def __init__(self, driver: Any, service: Service, downloads: Path) -> None:
        self.driver = driver
        self.service = service
        self.downloads = downloads
        self.complaints_expected = False
        self._told: list[dict[str, Any]] = []

    def open(self, width: int = 1280, height: int = 800, *, touch: bool = False, colours: str = "light") -> None:
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": touch}
        features = [
            {"name": "prefers-color-scheme", "value": colours},
            {"name": "prefers-reduced-motion", "value": "reduce"},
        ]
        self.cdp("Emulation.setDeviceMetricsOverride", **metrics)
        self.cdp("Emulation.setTouchEmulationEnabled", enabled=touch)
        self.cdp("Emulation.setEmulatedMedia", features=features)
        self.cdp("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(self.downloads))
        self.driver.get(self.service.url)
        self.until("document.body.dataset.view === 'empty' && document.querySelector('[name=count]')")

    def cdp(self, command: str, **parameters: Any) -> Any:
        return self.driver.execute_cdp_cmd(command, parameters)

    def js(self, expression: str, *arguments: Any) -> Any:
        return self.driver.execute_script(f"return {expression}", *arguments)

    def until(self, condition: str) -> None:
        end = time.monotonic() + PATIENCE
        while not self.js(condition):
            assert time.monotonic() < end, f"never came true: {condition}; view {self.view}, notice '{self.notice}'"
            time.sleep(0.02)

    def find(self, selector: str) -> Any:
        return self.driver.find_element("css selector", selector)

    def click(self, selector: str) -> None:
        self.find(selector).click()

    @property
    def view(self) -> str:
        return str(self.js("document.body.dataset.view"))

    @property
    def notice(self) -> str:
        return str(self.js("document.querySelector('#notice-text').textContent"))

    @property
    def hole(self) -> float:
        """Which part of the picture is painted, as it is seen."""
        counted = """(() => { const c = document.createElement('canvas'), seen = document.querySelector('#hole');
            c.width = seen.width; c.height = seen.height; c.getContext('2d').drawImage(seen, 0, 0);
            const { data } = c.getContext('2d').getImageData(0, 0, c.width, c.height);
            let n = 0; for (let i = 3; i < data.length; i += 4) n += data[i] > 127;
            return n / (data.length / 4); })()"""
        self.driver.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")
        return float(self.js(counted))

    def take_sample(self, name: str = SAMPLES[0].name) -> None:
        self.click(f"[data-sample='{name}']")
        self.until("document.body.dataset.view === 'painting'")

    def drag(self, *points: tuple[float, float]) -> None:
        """A mouse drag over the picture; places are parts of its width and height."""
        from selenium.webdriver import ActionChains

        canvas = self.find("#hole")
        self.js("arguments[0].scrollIntoView({ block: 'center' })", canvas)
        width, height = canvas.rect["width"], canvas.rect["height"]
        chain = ActionChains(self.driver, duration=30)
        for i, (x, y) in enumerate(points):
            chain.move_to_element_with_offset(canvas, round((x - 0.5) * width), round((y - 0.5) * height))
            if i == 0:
                chain.click_and_hold()
        chain.release().perform()

    def keys(self, *presses: str) -> None:
        from selenium.webdriver import ActionChains

        ActionChains(self.driver, duration=0).send_keys(*presses).perform()

    def undo_by_keys(self) -> None:
        from selenium.webdriver import ActionChains, Keys

        ActionChains(self.driver, duration=0).key_down(Keys.CONTROL).send_keys("z").key_up(Keys.CONTROL).perform()

    def downloaded(self, selector: str, name: str) -> bytes:
        """What a button saves, once the browser says that it is whole: the file is there before."""
        before = len(self.told())
        self.click(selector)
        end = time.monotonic() + PATIENCE
        while True:
            told = self.told()[before:]
            if any(m["method"] == "Page.downloadProgress" and m["params"]["state"] == "completed" for m in told):
                break
            assert time.monotonic() < end, [path.name for path in self.downloads.iterdir()]
            time.sleep(0.02)
        path = self.downloads / name
        content = path.read_bytes()
        path.unlink()
        return content

    def told(self) -> list[dict[str, Any]]:
        """What the browser has said of its network and its page since it was opened."""
        self._told += [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        return self._told

    def faults(self) -> list[str]:
        """What axe-core finds wrong with the page as it stands."""
        assert AXE is not None
        if not self.js("Boolean(window.axe)"):
            self.driver.execute_script(AXE.read_text())
        found = self.driver.execute_async_script("axe.run().then((seen) => arguments[0](seen.violations))")
        return [f"{wrong['id']}: {[node['html'][:120] for node in wrong['nodes']]}" for wrong in found]

    def choose(self, path: Path) -> None:
        self.find("#file").send_keys(str(path))
        self.until("document.body.dataset.view === 'painting'")

    @property
    def face(self) -> str:
        """What the page says of the face."""
        return str(self.js("document.querySelector('#face-text').textContent"))

    def looked(self) -> None:
        """Waits until the service has said where the faces are."""
        self.until("document.querySelector('#face-text').textContent.includes('found')")

    def outlines(self) -> np.ndarray:
        """The corners that are drawn, ``(n, 2)``, in pixels of the picture."""
        drawn = self.js("document.querySelector('#outlines .over').getAttribute('d')")
        return np.array([[float(n) for n in pair.split()] for pair in re.findall(r"[ML]([^MLQZa]+)", drawn)])

    def eyes(self) -> np.ndarray:
        """Where the handles are, ``(2, 2)``, in percent of the picture."""
        return np.array(
            self.js(
                "[...document.querySelectorAll('.eye')].map(({ style }) => [style.left, style.top].map(parseFloat))"
            )
        )

    def correct(self) -> None:
        self.click("#face")
        self.until("document.body.dataset.view === 'correcting'")

    def drag_eye(self, number: int, to: tuple[float, float]) -> None:
        """Of the one on the left, 0, or on the right, 1, to a place in pixels of the picture."""
        from selenium.webdriver import ActionChains

        eye = self.driver.find_elements("css selector", ".eye")[number]
        boxes = [
            self.js("(({x, y, width, height}) => [x, y, width, height])(arguments[0].getBoundingClientRect())", seen)
            for seen in (self.find("#before"), eye)
        ]
        size = self.js(
            "(({naturalWidth, naturalHeight}) => [naturalWidth, naturalHeight])(document.querySelector('#before'))"
        )
        by = [
            round(boxes[0][k] + to[k] / size[k] * boxes[0][2 + k] - boxes[1][k] - boxes[1][2 + k] / 2) for k in (0, 1)
        ]
        drag = ActionChains(self.driver, duration=30).move_to_element(eye).click_and_hold()
        drag.move_by_offset(*by).release().perform()

    def watch_requests(self) -> None:
        """Keeps the forms that the page sends from now on."""
        self.driver.execute_script(WATCH)

    def sent(self, path: str) -> list[dict[str, str]]:
        """The fields of what was sent to an address, the image in base64."""
        return list(self.driver.execute_async_script(SENT, path))

    def pick(self, name: str, value: str) -> None:
        self.js(f"document.querySelector('[name={name}][value=\"{value}\"]').click()")

    def steps(self, count: int) -> None:
        moved = """const s = document.querySelector('#steps');
            for (let i = 0; i <= s.max; i++) { s.value = i; s.dispatchEvent(new Event('input'));
            if (document.querySelector('#steps-text').textContent === arguments[0]) return; }"""
        self.driver.execute_script(moved, str(count))
        assert self.js("document.querySelector('#steps-text').textContent") == str(count)

    def seed(self, seed: int) -> None:
        self.find("#seed").clear()
        self.find("#seed").send_keys(str(seed))

    def fill(self) -> None:
        self.click("#fill")

    def cancel(self) -> None:
        """Gives the run up, and waits until the engine has heard of it."""
        gone = self.service.engine.given_up
        self.click("#cancel")
        self.until("document.body.dataset.view === 'painting'")
        until(lambda: self.service.engine.given_up > gone)

    def finish(self) -> None:
        self.fill()
        self.until("document.body.dataset.view === 'done'")


@contextmanager
def watched(browser: Any, service: Service, tmp_path: Path) -> Iterator[Page]:
    """The page; afterwards nobody has complained, and nothing was asked of anybody else."""
    opened = Page(browser, service, tmp_path)
    for kind in ("browser", "performance"):
        browser.get_log(kind)
    yield opened
    complaints = [entry["message"] for entry in browser.get_log("browser") if entry["level"] != "INFO"]
    addresses = [m["params"]["request"]["url"] for m in opened.told() if m["method"] == "Network.requestWillBeSent"]
    own = (opened.service.url, "data:", "blob:", "about:", "chrome:", "chrome-untrusted:")  # the page's, the browser's
    foreign = [address for address in addresses if not address.startswith(own)]
    browser.get("about:blank")
    assert addresses
    assert foreign == []
    assert opened.complaints_expected or complaints == []


@pytest.fixture
def page(browser: Any, service: Service, tmp_path: Path) -> Iterator[Page]:
    with watched(browser, service, tmp_path) as found:
        yield found


@pytest.fixture
def restorer(browser: Any, tmp_path: Path) -> Iterator[Page]:
    """The page of a model that restores whole pictures."""
    with behind({**LONGER, "task": RESTORER["task"]}) as service, watched(browser, service, tmp_path) as found:
        yield found


@pytest.fixture
def jack(browser: Any, tmp_path: Path) -> Iterator[Page]:
    """The page of a model of several trades."""
    with behind({**LONGER, "task": SEVERAL["task"]}) as service, watched(browser, service, tmp_path) as found:
        yield found


def pixels(content: bytes) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(content)).convert("RGB"))


def ask(service: Service, picture: bytes, mask: bytes | None, **settings: Any) -> httpx.Response:
    return httpx.post(
        f"{service.url}/v1/restore",
        files={"image": picture} if mask is None else {"image": picture, "mask": mask},
        data={name: str(value) for name, value in settings.items()},
        headers={"Accept": "image/png"},
        timeout=PATIENCE,
    )


def test_sample_faces_are_of_the_test_partition() -> None:
    listed = (built_in_faces() / "list_eval_partition.txt").read_text().split()
    parts = dict(zip(listed[::2], listed[1::2], strict=True))
    assert len(SAMPLES) == 6
    with zipfile.ZipFile(built_in_faces() / "img_align_celeba.zip") as pictures:
        members = {Path(name).name: name for name in pictures.namelist()}
        for path in SAMPLES:
            assert parts[path.name] == "2"
            true = Image.open(io.BytesIO(pictures.read(members[path.name]))).convert("RGB").crop((0, 28, 178, 206))
            shown = Image.open(path).convert("RGB")
            assert shown.size == (SIDE, SIDE)  # the same face, of which the package holds 178 pixels
            small = shown.resize((178, 178), Image.Resampling.LANCZOS)
            difference = np.asarray(true, dtype=float) - np.asarray(small, dtype=float)
            assert np.abs(difference).mean() < 4


def test_nothing_is_inline_and_nothing_is_foreign() -> None:
    found: list[tuple[str, dict[str, str | None]]] = []

    class Tags(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            found.append((tag, dict(attrs)))

    Tags().feed((PAGE / "index.html").read_text())
    assert not [tag for tag in found if tag[0] == "style" or (tag[0] == "script" and "src" not in tag[1])]
    assert not [tag for tag in found if any(name == "style" or name.startswith("on") for name in tag[1])]
    for path in PAGE.iterdir():
        if path.is_file():
            text = re.sub(r"http://www.w3.org/2000/svg|^ *//.*| // .*", "", path.read_text(), flags=re.MULTILINE)
            assert "//" not in text, path


@in_browser
def test_paint_submit_watch_and_get_the_picture_of_the_api(page: Page) -> None:
    page.open()
    page.take_sample()
    assert page.js("document.querySelector('#fill').disabled")
    page.drag((0.3, 0.7), (0.5, 0.75), (0.7, 0.7))
    painted = page.hole
    assert 0.03 < painted < 0.2
    mask = page.downloaded("#export", "face-mask.png")
    hole = pixels(mask)[..., 0] > 127
    assert hole.shape == (SIDE, SIDE)
    assert abs(hole.mean() - painted) < 0.01

    page.pick("count", "1")
    page.steps(50)
    page.seed(7)
    page.click(".switch:has(#soft)")
    # Old values, since several events may come at once: an observer is told of each change, but sees only the last.
    watch = """window.seen = { value: new Set(), src: new Set() };
        new MutationObserver((changes) => {
          for (const change of changes) window.seen[change.attributeName].add(change.oldValue);
        }).observe(document.body, { subtree: true, attributeFilter: ['value', 'src'], attributeOldValue: true })"""
    page.driver.execute_script(watch)
    page.finish()
    assert page.js("window.seen.value.size") > 49  # every step
    assert page.js("[...window.seen.src].filter((s) => s?.startsWith('data:')).length") > 25

    result = page.downloaded("#download", "face-seed7.png")
    answer = ask(page.service, SAMPLES[0].read_bytes(), mask, steps=50, sampler="ddim", seed=7, feather=0)
    assert answer.status_code == 200, answer.text
    assert result == answer.content
    before, after = pixels(SAMPLES[0].read_bytes()), pixels(result)
    assert (after[~hole] == before[~hole]).all()
    assert (after[hole] != before[hole]).any()


@in_browser
@pytest.mark.slow
def test_several_completions_a_repeat_and_the_history(page: Page) -> None:
    page.open()
    page.take_sample()
    page.drag((0.4, 0.6), (0.6, 0.6))
    page.pick("count", "4")
    page.seed(40)  # which switches "Repeat this seed" on
    page.finish()
    first = page.downloaded("#download", "face-seed40.png")
    page.click("#completions button:nth-child(3)")
    assert page.downloaded("#download", "face-seed42.png") != first
    page.finish()
    assert page.downloaded("#download", "face-seed40.png") == first

    page.js("document.querySelector('#repeat').click()")
    page.finish()
    assert page.js("document.querySelector('#seed').value") != "40"
    assert page.js("document.querySelectorAll('#history li').length") == 3
    page.click("#history li:last-child button")
    assert page.js("document.querySelector('#seed').value") == "40"
    assert page.downloaded("#download", "face-seed40.png") == first

    page.click("#continue")
    page.until("document.body.dataset.view === 'painting'")
    assert page.hole == 0
    page.click("#forget")
    assert page.js("document.querySelector('#history-box').hidden")


@in_browser
def test_cancel_frees_the_engine_and_keeps_the_hole(page: Page) -> None:
    page.open()
    page.take_sample()
    page.drag((0.4, 0.6), (0.6, 0.6))
    painted = page.hole
    page.pick("count", "8")
    page.steps(1000)
    with page.service.held():
        page.fill()
        page.until("document.querySelector('#progress-text').textContent.startsWith('Step')")
        assert page.service.engine.stats().running == 1
        assert page.js("document.activeElement.id") == "cancel"
        page.cancel()
    assert page.hole == painted


@in_browser
def test_tools_undo_and_redo(page: Page) -> None:
    page.open()
    page.take_sample()
    page.pick("tool", "rectangle")
    page.drag((0.25, 0.25), (0.75, 0.75))
    assert page.hole == pytest.approx(0.25, abs=0.01)
    page.pick("tool", "eraser")
    page.drag((0.3, 0.5), (0.7, 0.5))
    erased = page.hole
    assert erased < 0.22
    page.click("#undo")
    assert page.hole == pytest.approx(0.25, abs=0.01)
    page.click("#redo")
    assert page.hole == erased
    page.click("#invert")
    assert page.hole == pytest.approx(1 - erased, abs=0.01)
    page.click("#clear")
    assert page.hole == 0
    assert page.js("document.querySelector('#fill').disabled")
    page.undo_by_keys()
    assert page.hole == pytest.approx(1 - erased, abs=0.01)
    for _ in range(3):
        page.click("#undo")
    assert page.hole == 0
    assert page.js("document.querySelector('#undo').disabled")


@in_browser
def test_a_mask_comes_back_as_it_was_exported(page: Page, tmp_path: Path) -> None:
    page.open()
    page.take_sample()
    mask = np.random.default_rng(0).random((SIDE, SIDE)) < 0.3
    path = tmp_path / "in.png"
    Image.fromarray(mask).save(path)
    page.find("#mask-file").send_keys(str(path))
    page.until("!document.querySelector('#export').disabled")
    exported = pixels(page.downloaded("#export", "face-mask.png"))[..., 0] > 127
    assert (exported == mask).all()


@in_browser
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["labels.png", "red.jpg", "clear.png", "one bit.gif"])
def test_a_mask_of_any_kind_is_the_same_hole(page: Page, tmp_path: Path, kind: str) -> None:
    inside = np.zeros((SIDE, SIDE), dtype=bool)
    inside[30:70, 40:120] = True
    red = np.zeros((SIDE, SIDE, 3), np.uint8)
    red[inside, 0] = 255
    clear = Image.new("RGBA", (SIDE, SIDE), "white")
    clear.putalpha(Image.fromarray(inside).convert("L"))
    made = {"labels.png": Image.fromarray(inside.astype(np.uint8)), "red.jpg": Image.fromarray(red), "clear.png": clear}
    made.get(kind, Image.fromarray(inside)).save(tmp_path / kind)
    page.open()
    page.take_sample()
    page.find("#mask-file").send_keys(str(tmp_path / kind))
    page.until("!document.querySelector('#export').disabled")
    assert page.hole == pytest.approx(inside.mean(), abs=0.005)


@in_browser
@pytest.mark.slow
def test_who_imports_a_mask_that_can_be_read_in_two_ways_is_asked(page: Page, tmp_path: Path) -> None:
    classes = np.zeros((SIDE, SIDE), np.uint8)
    classes[: SIDE // 4], classes[SIDE // 4 : SIDE // 2] = 1, 2
    Image.fromarray(classes).save(tmp_path / "classes.png")
    page.complaints_expected = True  # the browser notes that the service said no
    page.open()
    page.take_sample()
    page.find("#mask-file").send_keys(str(tmp_path / "classes.png"))
    page.until("document.querySelector('#mask-dialog').open")
    assert "it is L and holds 0 (50 %), 1 (25 %), 2 (25 %)." in page.find("#mask-seen").text
    assert page.hole == 0
    page.click("#mask-dialog [value=nonzero]")
    page.until("!document.querySelector('#export').disabled")
    assert page.hole == pytest.approx(0.5, abs=0.01)
    page.click("#undo")
    assert page.hole == 0


@in_browser
@pytest.mark.slow
def test_keys_alone(page: Page) -> None:
    tab, enter, right, down, space, escape = "\ue004", "\ue007", "\ue014", "\ue015", " ", "\ue00c"
    page.open()
    for _ in range(20):
        page.keys(tab)
        if page.js("document.activeElement.matches('.sample')"):
            break
    assert page.js("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keys(enter)
    page.until("document.body.dataset.view === 'painting'")
    page.until("document.activeElement.id === 'hole'")
    page.keys(space, *[right] * 12, *[down] * 8, space)
    painted = page.hole
    assert painted > 0.02
    page.keys("r", space, *[right] * 10, *[down] * 10, escape)
    assert page.hole == painted
    page.keys("i")
    assert page.hole == pytest.approx(1 - painted, abs=0.01)
    page.keys("i")
    for _ in range(20):
        page.keys(tab)
        if page.js("document.activeElement.id") == "fill":
            break
    page.keys(enter)
    page.until("document.body.dataset.view === 'done'")
    page.find("#compare").send_keys(right)
    assert page.js("document.querySelector('#frame').style.getPropertyValue('--split')") == "11%"


@in_browser
def test_a_phone(page: Page) -> None:
    fits = "document.documentElement.scrollWidth <= 360 && document.querySelector('main').scrollWidth <= 360"
    page.open(360, 740, touch=True, colours="dark")
    assert page.js(fits)
    page.take_sample(SAMPLES[3].name)
    box = page.js("JSON.parse(JSON.stringify(document.querySelector('#hole').getBoundingClientRect()))")
    for kind, x in (("touchStart", 0.3), ("touchMove", 0.5), ("touchMove", 0.7), ("touchEnd", None)):
        point = [] if x is None else [{"x": box["x"] + x * box["width"], "y": box["y"] + 0.7 * box["height"]}]
        page.cdp("Input.dispatchTouchEvent", type=kind, touchPoints=point)
    assert page.hole > 0.03
    assert page.js(fits)
    page.looked()
    page.correct()
    assert page.js(fits)
    page.click("#face-done")
    page.steps(1000)
    with page.service.held():
        page.fill()
        page.until("document.querySelector('#progress-text').textContent.startsWith('Step')")
        assert page.js(fits)
        page.cancel()
    page.steps(5)
    page.finish()
    assert page.js(fits)


@in_browser
def test_every_control_has_a_name(page: Page) -> None:
    controls = {"button", "slider", "radio", "switch", "textbox", "spinbutton", "combobox", "link", "application"}

    def nameless(least: int = 8) -> list[str]:
        nodes = page.cdp("Accessibility.getFullAXTree")["nodes"]
        shown = [node for node in nodes if not node["ignored"] and node["role"]["value"] in controls]
        assert len(shown) >= least
        return [str(node) for node in shown if not node.get("name", {}).get("value", "").strip()]

    page.open()
    assert nameless() == []
    page.take_sample()
    page.drag((0.4, 0.6), (0.6, 0.6))
    assert nameless() == []
    page.correct()
    assert nameless() == []
    page.click("#face-done")
    page.finish()
    assert nameless() == []
    page.click("#curl")
    assert nameless(4) == []  # of the dialog; what lies below is out of reach


@in_browser
@pytest.mark.skipif(AXE is None, reason="without axe-playwright-python")
@pytest.mark.parametrize(("width", "colours"), [(1280, "light"), pytest.param(360, "dark", marks=pytest.mark.slow)])
def test_axe_finds_nothing_in_any_state(page: Page, width: int, colours: str, tmp_path: Path) -> None:
    """All rules of axe-core, the best practices too, in each of the five views, in a notice, a dialog and the docs."""
    page.open(width, 800, touch=width < 500, colours=colours)
    assert page.faults() == []
    (tmp_path / "no.png").write_bytes(b"not a picture")
    page.find("#file").send_keys(str(tmp_path / "no.png"))
    page.until("!document.querySelector('#notice').hidden")
    assert page.faults() == []
    page.take_sample()
    assert page.faults() == []
    page.drag((0.4, 0.6), (0.6, 0.6))
    assert page.faults() == []
    page.looked()
    assert page.faults() == []
    page.correct()
    assert page.faults() == []
    page.click("#face-off")
    assert page.faults() == []
    page.steps(50)
    with page.service.held():
        page.fill()
        page.until("document.querySelector('#progress-text').textContent.startsWith('Step')")
        assert page.faults() == []
        page.cancel()
    page.steps(5)
    page.finish()
    assert page.faults() == []
    page.click("#curl")
    assert page.faults() == []
    page.click("#curl-close")
    page.driver.get(f"{page.service.url}/docs")
    page.until("document.querySelector('.operation')")
    assert page.faults() == []


@in_browser
@pytest.mark.slow
def test_every_view_has_one_first_heading(page: Page) -> None:
    def headings() -> list[str]:
        shown = "[...document.querySelectorAll('h1')].filter((h) => h.checkVisibility()).map((h) => h.textContent)"
        return list(page.js(shown))

    page.open()
    seen = [headings()]
    page.take_sample()
    page.drag((0.4, 0.6), (0.6, 0.6))
    seen.append(headings())
    page.correct()
    seen.append(headings())
    page.click("#face-done")
    page.steps(50)
    with page.service.held():
        page.fill()
        page.until("document.querySelector('#progress-text').textContent.startsWith('Step')")
        seen.append(headings())
        page.cancel()
    page.steps(5)
    page.finish()
    seen.append(headings())
    assert [len(names) for names in seen] == [1] * 5, seen
    assert len({name for names in seen for name in names}) == 5


def photo_of(*faces: tuple[int, int, int, float]) -> Image.Image:
    """A larger photo with sample faces in it, each at a place, of a side, and turned clockwise by degrees."""
    photo = Image.new("RGB", (900, 600), (128, 128, 128))
    for path, (x, y, side, angle) in zip(SAMPLES[1:], faces, strict=False):
        face = (
            Image.open(path).convert("RGBA").resize((side, side)).rotate(-angle, Image.Resampling.BICUBIC, expand=True)
        )
        photo.paste(face, (x, y), face)
    return photo


def square_of(eyes: Any) -> np.ndarray:
    """The corners of what a model of this crop is shown of a face."""
    crop = center148()
    assert crop.eyes is not None
    assert crop.side is not None
    frame = Frame.of_eyes(np.asarray(eyes, dtype=float), np.array(crop.eyes) / crop.side)
    return frame.outside(np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]]))


@in_browser
@pytest.mark.slow
def test_the_faces_that_the_service_finds_are_outlined(page: Page, tmp_path: Path) -> None:
    photo = photo_of((500, 200, 240, -25), (120, 120, 220, 10))
    photo.save(tmp_path / "two.png")
    found = find(photo)
    assert len(found) == 2
    page.open()
    page.watch_requests()
    page.choose(tmp_path / "two.png")
    page.looked()
    assert page.face == "Faces: 2 found"
    expected = np.concatenate([square_of(face.eyes) for face in found])
    assert np.abs(page.outlines() - expected).max() < 0.01

    page.drag((0.68, 0.5), (0.7, 0.5))
    mask = pixels(page.downloaded("#export", "two-mask.png"))
    assert {*np.unique(mask)} == {0, 255}
    assert mask[expected[:, 1].astype(int), expected[:, 0].astype(int)].max() == 0  # no outline in what is sent
    page.pick("count", "1")
    page.finish()
    (sent,) = page.sent("/v1/jobs")
    assert base64.b64decode(sent["image"]) == (tmp_path / "two.png").read_bytes()
    assert "align" not in sent  # auto is what the service does by itself
    assert not page.js("document.querySelector('#outlines').checkVisibility()")


@in_browser
@pytest.mark.slow
def test_an_outline_that_is_larger_than_the_picture_is_seen_along_its_edges(page: Page, tmp_path: Path) -> None:
    close = Image.open(SAMPLES[0]).crop((60, 50, 420, 410))  # closer than the model's square
    close.save(tmp_path / "close.png")
    page.open()
    page.choose(tmp_path / "close.png")
    page.looked()
    corners = page.outlines()
    within = [[0.016 * 360, 0.984 * 360]] * 2
    assert np.abs(np.stack([corners.min(0), corners.max(0)], axis=1) - within).max() < 1e-6


@in_browser
@pytest.mark.slow
def test_the_handles_are_on_the_face_with_the_hole(page: Page, tmp_path: Path) -> None:
    photo = photo_of((500, 200, 240, -25), (120, 120, 220, 10))
    photo.save(tmp_path / "two.png")
    page.open()
    page.choose(tmp_path / "two.png")
    page.looked()
    for face in find(photo):
        (x, y), down = face.eyes.mean(axis=0), face.landmarks[3] - face.eyes.mean(axis=0)
        at = (x + down[0]) / 900, (y + down[1]) / 600
        page.drag(at, (at[0] + 0.01, at[1]))  # the mouth
        page.correct()
        assert np.abs(page.eyes() * [9, 6] - face.eyes).max() < 0.01
        page.click("#face-done")
        assert page.face == "Faces: 2 found"  # nothing was moved
        page.click("#clear")


@in_browser
@pytest.mark.slow
def test_a_model_that_knows_no_eyes_is_shown_no_face(browser: Any, tmp_path: Path) -> None:
    with behind(LONGER, crop="full") as service, watched(browser, service, tmp_path) as page:
        page.open()
        page.driver.execute_script("""const real = window.fetch;
            window.fetch = (place, options) => String(place).endsWith('/v1/faces') ? new Promise(() => {})
              : real(place, options)""")  # the service says so of itself, not of the picture
        page.take_sample()
        page.until("!document.querySelector('#face').checkVisibility()")
        assert len(page.outlines()) == 0


@in_browser
@pytest.mark.slow
def test_the_outlines_are_away_while_a_stroke_is_drawn(page: Page) -> None:
    from selenium.webdriver import ActionChains

    opacity = "getComputedStyle(document.querySelector('#faces')).opacity"
    page.open()
    page.take_sample()
    page.looked()
    assert page.js(opacity) == "1"
    stroke = ActionChains(page.driver, duration=30).move_to_element(page.find("#hole")).click_and_hold()
    stroke.move_by_offset(30, 10).perform()
    assert page.js(opacity) == "0"
    ActionChains(page.driver).release().perform()
    assert page.js(opacity) == "1"


@in_browser
@pytest.mark.slow
def test_eyes_that_are_dragged_are_sent(page: Page, tmp_path: Path) -> None:
    photo_of((350, 150, 260, 20)).save(tmp_path / "me.png")
    content = (tmp_path / "me.png").read_bytes()
    page.open()
    page.watch_requests()
    page.choose(tmp_path / "me.png")
    page.looked()
    page.correct()
    wanted = [(430.0, 250.0), (520.0, 260.0)]
    for number, place in enumerate(wanted):
        page.drag_eye(number, place)
    page.click("#face-done")
    assert page.js("document.activeElement.id") == "face"
    assert page.face == "Face: set by you"

    page.drag((0.5, 0.5), (0.55, 0.55))
    page.pick("count", "1")
    page.seed(5)
    page.click(".switch:has(#soft)")
    page.finish()
    (sent,) = page.sent("/v1/jobs")
    eyes = json.loads(sent["align"])
    assert np.abs(np.array(eyes) - wanted).max() < 2  # a pixel of the screen
    assert np.abs(page.outlines() - square_of(eyes)).max() < 1  # which were rounded
    mine = page.downloaded("#download", "me-seed5.png")
    mask = base64.b64decode(sent["mask"])
    asked = {"seed": 5, "steps": sent["steps"], "sampler": sent["sampler"]}
    assert ask(page.service, content, mask, align=sent["align"], **asked).content == mine
    assert ask(page.service, content, mask, **asked).content != mine
    page.click("#curl")
    assert f"-F 'align={sent['align']}'" in page.js("document.querySelector('#curl-text').textContent")
    page.click("#curl-close")

    page.click("#edit")
    page.correct()
    page.click("#face-off")
    assert page.face == "Face: off"
    assert len(page.outlines()) == 0
    page.js("document.querySelector('#repeat').click()")
    page.seed(5)
    page.finish()
    assert page.sent("/v1/jobs")[1]["align"] == "off"
    page.click("#history li:last-child button")  # every run has its own
    page.click("#edit")
    assert page.face == "Face: set by you"
    page.correct()
    page.click("#face-auto")
    assert page.face == "Face: found"


@in_browser
@pytest.mark.slow
def test_a_photo_without_a_face_says_so_and_a_person_shows_it(page: Page, tmp_path: Path) -> None:
    from selenium.webdriver import ActionChains, Keys

    right, down, tab, enter, escape = "\ue014", "\ue015", "\ue004", "\ue007", "\ue00c"
    Image.new("RGB", (400, 300), (80, 160, 80)).save(tmp_path / "wall.png")
    page.open()
    page.watch_requests()
    page.choose(tmp_path / "wall.png")
    page.looked()
    hint = "document.querySelector('#hint').textContent"
    assert page.face == "Face: not found"
    assert "No face found: it may look worse." in page.js(hint)
    assert page.view == "painting"
    page.drag((0.4, 0.6), (0.6, 0.6))
    assert "No face found: it may look worse." in page.js(hint)
    page.pick("count", "1")
    page.finish()
    assert "no face found there" in page.js("document.querySelector('#result-text').textContent")
    page.click("#edit")

    page.find("#face").send_keys(enter)  # by keys alone: a step is a four hundredth of the longer side
    assert page.view == "correcting"
    assert page.js("document.activeElement.getAttribute('aria-label')") == "Eye on the left"
    page.keys(right, right, down)
    page.keys(escape)
    assert page.face == "Face: not found"
    page.keys(enter)
    page.keys(right, right, down, tab)
    assert page.js("document.activeElement.getAttribute('aria-label')") == "Eye on the right"
    ActionChains(page.driver, duration=0).key_down(Keys.SHIFT).send_keys(right).key_up(Keys.SHIFT).perform()
    page.keys(enter)
    assert page.view == "painting"
    assert page.js("document.activeElement.id") == "face"
    assert page.face == "Face: set by you"
    assert "worse" not in page.js(hint)
    square = square_of([[164.5, 136], [245.5, 135]])  # reaches beyond the picture, above
    assert abs(page.outlines() - square[:, None]).sum(-1).min(1)[2:].max() < 1
    assert page.outlines()[:, 1].min() == pytest.approx(0.016 * 400)
    page.finish()
    assert json.loads(page.sent("/v1/jobs")[1]["align"]) == [[200 - 37.5 + 2, 135 + 1], [200 + 37.5 + 8, 135]]


@in_browser
@pytest.mark.slow
def test_a_finger_beside_an_eye_moves_it(page: Page) -> None:
    page.open(360, 740, touch=True, colours="dark")
    page.take_sample()
    page.looked()
    page.correct()
    before = page.eyes()
    box = page.js("JSON.parse(JSON.stringify(document.querySelector('#eyes').getBoundingClientRect()))")

    def touch(kind: str, *places: tuple[float, float]) -> None:
        points = [{"x": box["x"] + x * box["width"], "y": box["y"] + y * box["height"]} for x, y in places]
        page.cdp("Input.dispatchTouchEvent", type=kind, touchPoints=points)

    touch("touchStart", (0.9, 0.7))
    touch("touchMove", (0.85, 0.75))
    touch("touchMove", (0.8, 0.8))
    until(lambda: bool(np.abs(page.eyes() - before - [[0, 0], [-10, 10]]).max() < 0.5))  # as the finger, and not to it
    touch("touchStart", (0.8, 0.8), (0.3, 0.3))  # who zooms moves nothing
    touch("touchEnd")
    until(lambda: bool((page.eyes() == before).all()))
    assert page.face == "Face: found"


@in_browser
@pytest.mark.slow
@pytest.mark.parametrize(
    "answer",
    ["new Promise(() => {})", "Promise.reject(new TypeError())", "Promise.resolve(new Response('', {status: 429}))"],
)
def test_a_service_that_does_not_say_where_faces_are_keeps_nobody_waiting(page: Page, answer: str) -> None:
    page.open()
    page.driver.execute_script(f"""const real = window.fetch; window.asked = 0;
        window.fetch = (place, options) => String(place).endsWith('/v1/faces') ? (window.asked++, {answer})
          : real(place, options)""")
    page.take_sample()
    page.until("window.asked === 1")
    page.drag((0.4, 0.6), (0.6, 0.6))
    assert page.face == "Face"
    page.finish()
    assert page.notice == ""
    page.click("#edit")
    page.correct()  # who knows better may say so all the same
    page.drag_eye(0, (50, 70))
    page.click("#face-done")
    assert page.face == "Face: set by you"


@in_browser
@pytest.mark.slow
def test_faces_that_come_late_are_those_of_the_picture_on_the_stage(page: Page, tmp_path: Path) -> None:
    Image.new("RGB", (200, 200), (80, 160, 80)).save(tmp_path / "wall.png")
    page.open()
    page.driver.execute_script("""const real = window.fetch; window.late = [];
        window.fetch = (place, { signal, ...options } = {}) => String(place).endsWith('/v1/faces')
          ? new Promise((done) => window.late.push(() => real(place, options).then(done)))
          : real(place, { signal, ...options })""")
    page.take_sample()
    page.click("#new")
    page.choose(tmp_path / "wall.png")
    page.until("window.late.length === 2")
    page.js("window.late[1]()")
    page.looked()
    page.driver.execute_async_script("window.late[0]().then(() => setTimeout(arguments[0], 50))")
    assert page.face == "Face: not found"
    assert len(page.outlines()) == 0


@in_browser
@pytest.mark.slow
@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl")
def test_the_curl_line_makes_the_same_picture(page: Page, tmp_path: Path) -> None:
    page.open()
    page.take_sample()
    page.drag((0.4, 0.6), (0.6, 0.6))
    page.pick("count", "1")
    page.finish()
    seed = page.js("document.querySelector('#seed').value")
    shown = page.downloaded("#download", f"face-seed{seed}.png")
    page.click("#curl")
    line = page.js("document.querySelector('#curl-text').textContent")
    for selector, name in (("#save-picture", "picture.jpg"), ("#save-mask", "mask.png")):
        (tmp_path / "curl").mkdir(exist_ok=True)
        (tmp_path / "curl" / name).write_bytes(page.downloaded(selector, name))
    subprocess.run(["sh", "-c", line], cwd=tmp_path / "curl", check=True, capture_output=True, timeout=PATIENCE)
    assert (tmp_path / "curl" / "filled.png").read_bytes() == shown


@in_browser
@pytest.mark.slow
def test_a_key_is_asked_for_until_it_is_right(page: Page) -> None:
    from diffusion_lab.serving.api import create_app
    from diffusion_lab.serving.security import Keys, digest
    from diffusion_lab.serving.settings import offered

    page.complaints_expected = True  # browsers log each answer of 401
    app = create_app(page.service.engine, offered({"model": LONGER}), keys=Keys([digest("open sesame")]))
    with listening(app) as url:
        page.service = Service(url, page.service.engine, page.service.brake)
        page.driver.get(url)
        asked = "document.querySelector('#key-dialog').open"
        wrong = "!document.querySelector('#key-wrong').hidden"
        page.until(asked)
        assert not page.js(wrong)
        assert AXE is None or page.faults() == []
        page.keys("\ue00c")  # escape: it can be asked again
        page.until("document.querySelector('#notice-action').textContent === 'Enter it'")
        page.click("#notice-action")
        page.find("#key").send_keys("swordfish\n")
        page.until(wrong)
        assert page.js(asked)
        page.find("#key").send_keys("open sesame\n")
        page.until("document.querySelector('[name=count]')")
        page.take_sample()
        page.drag((0.4, 0.6), (0.6, 0.6))
        page.finish()
        page.click("#curl")
        assert 'Authorization: Bearer $KEY"' in page.js("document.querySelector('#curl-text').textContent")
        page.driver.execute_script("sessionStorage.clear()")


@in_browser
@pytest.mark.slow
def test_a_busy_service_is_asked_again(page: Page) -> None:
    from diffusion_lab.serving.engine import NotReady, QueueFull

    page.complaints_expected = True  # browsers log each answer of 429 and 503
    page.open()
    page.take_sample()
    page.drag((0.4, 0.6), (0.6, 0.6))
    page.seed(3)
    said = """window.said = [];
        new MutationObserver(() => window.said.push(document.querySelector('#notice-text').textContent))
        .observe(document.querySelector('#notice-text'), { childList: true })"""
    page.driver.execute_script(said)
    page.service.engine.refusals = [NotReady("warming up", 1), QueueFull("64 jobs wait", 60)]
    page.fill()
    page.until("!document.querySelector('#notice').hidden")
    assert page.notice == "Many people are painting right now."
    assert page.js("document.querySelector('#notice-action').textContent").startswith("Try again (")
    page.click("#notice-action")
    page.until("document.body.dataset.view === 'done'")  # by itself, after the second that it asked for
    assert "The service is not ready yet." in page.js("window.said")
    assert page.js("document.querySelector('#notice').hidden")
    assert page.js("document.querySelector('#seed').value") == "3"


@in_browser
@pytest.mark.slow
def test_a_service_that_is_gone_keeps_the_work(page: Page) -> None:
    page.complaints_expected = True
    page.open()
    page.take_sample()
    page.drag((0.4, 0.6), (0.6, 0.6))
    painted = page.hole
    page.cdp("Network.enable")
    gone = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
    page.cdp("Network.emulateNetworkConditions", offline=True, **gone)
    page.fill()
    page.until("!document.querySelector('#notice').hidden")
    page.cdp("Network.emulateNetworkConditions", offline=False, **gone)
    assert page.notice.startswith("The service does not answer.")
    assert page.hole == painted
    page.click("#notice-action")
    page.until("document.body.dataset.view === 'done'")


@in_browser
@pytest.mark.slow
@pytest.mark.parametrize("how", ["paste", "drop"])
def test_pictures_that_are_pasted_or_dropped(page: Page, how: str) -> None:
    page.open()
    given = """const bytes = Uint8Array.from(atob(arguments[0]), (c) => c.charCodeAt(0));
        const data = new DataTransfer(); data.items.add(new File([bytes], 'me.jpg', { type: 'image/jpeg' }));
        document.dispatchEvent(arguments[1] === 'paste' ? new ClipboardEvent('paste', { clipboardData: data })
          : new DragEvent('drop', { dataTransfer: data, cancelable: true }))"""
    page.driver.execute_script(given, base64.b64encode(SAMPLES[1].read_bytes()).decode(), how)
    page.until("document.body.dataset.view === 'painting'")
    assert page.js("document.querySelector('#before').naturalWidth") == SIDE


@in_browser
@pytest.mark.slow
def test_a_photo_that_lies_on_its_side(page: Page, tmp_path: Path) -> None:
    upright = photo_of((350, 150, 260, 20))
    turned = Image.Exif()
    turned[0x0112] = 6  # to be turned to the right before it is looked at
    path = tmp_path / "phone.jpg"
    upright.rotate(90, expand=True).save(path, quality=95, exif=turned)
    page.open()
    page.watch_requests()
    page.choose(path)
    page.looked()
    (face,) = find(upright)
    assert np.abs(page.outlines() - square_of(face.eyes)).max() < 3  # in pixels of the upright picture; JPEG costs some
    page.correct()
    page.drag_eye(0, (440, 260))
    page.click("#face-done")
    page.drag((0.5, 0.5), (0.55, 0.5))
    page.pick("count", "1")
    page.finish()
    (sent,) = page.sent("/v1/jobs")
    assert base64.b64decode(sent["image"]) == path.read_bytes()  # the person's own file
    assert np.abs(np.array(json.loads(sent["align"])) - [(440, 260), face.eyes[1]]).max() < 2
    seed = page.js("document.querySelector('#seed').value")
    assert Image.open(io.BytesIO(page.downloaded("#download", f"phone-seed{seed}.png"))).size == upright.size


@in_browser
@pytest.mark.slow
def test_leaving_in_the_middle_frees_the_engine(page: Page) -> None:
    page.open()
    page.take_sample()
    page.drag((0.4, 0.6), (0.6, 0.6))
    page.steps(1000)
    gone = page.service.engine.given_up
    with page.service.held():
        page.fill()
        page.until("document.querySelector('#progress-text').textContent.startsWith('Step')")
        page.click("#new")
        assert page.view == "empty"
        until(lambda: page.service.engine.given_up == gone + 1)
    page.take_sample()
    page.drag((0.4, 0.6), (0.6, 0.6))
    with page.service.held():
        page.fill()
        page.until("document.querySelector('#progress-text').textContent.startsWith('Step')")
        page.driver.get("about:blank")
        until(lambda: page.service.engine.given_up == gone + 2)


@in_browser
def test_the_api_is_there_to_read(page: Page) -> None:
    described = httpx.get(f"{page.service.url}/openapi.json", timeout=PATIENCE).json()["paths"]
    page.open(360, 740, touch=True)
    page.click("[href='docs']")
    page.until("document.querySelector('.operation')")
    shown = page.js("[...document.querySelectorAll('.route')].map((route) => route.textContent)")
    assert sorted(shown) == sorted(f"{m.upper()}{path}" for path, operations in described.items() for m in operations)
    assert page.js("document.documentElement.scrollWidth") <= 360
    page.click("nav a:last-of-type")
    assert page.js("document.querySelector(location.hash)")


@in_browser
def test_what_is_no_picture_is_refused_in_a_sentence(page: Page, tmp_path: Path) -> None:
    page.open()
    path = tmp_path / "no.png"
    path.write_bytes(b"not a picture")
    page.find("#file").send_keys(str(path))
    page.until("!document.querySelector('#notice').hidden")
    assert page.notice == "This file is not a picture that the browser can read."
    assert page.view == "empty"


@in_browser
@pytest.mark.slow
def test_the_camera(page: Page) -> None:
    page.open()
    page.click("#camera")
    page.until("document.querySelector('#camera-dialog').open && document.querySelector('#video').videoWidth > 0")
    page.click("#shoot")
    page.until("document.body.dataset.view === 'painting'")
    assert page.js("document.querySelector('#before').naturalWidth") >= 240
    assert page.js("document.querySelector('#video').srcObject") is None


@in_browser
@pytest.mark.slow
def test_colours_follow_the_system_until_told_otherwise(page: Page) -> None:
    ground: Callable[[], str] = lambda: page.js("getComputedStyle(document.body).backgroundColor")  # noqa: E731
    page.open(colours="dark")
    dark = ground()
    page.open(colours="light")
    light = ground()
    assert dark != light
    page.click("#theme")
    assert ground() == dark
    page.driver.refresh()
    page.until("document.body.dataset.view === 'empty'")
    assert ground() == dark
    page.driver.execute_script("localStorage.clear()")


TO_PAINT = "[...document.querySelectorAll('[data-paint]')].filter((part) => part.checkVisibility()).length"
"""How much of what is for painting is seen."""
SAYS = "document.querySelector('#fill').textContent"


@in_browser
@pytest.mark.slow
def test_what_has_no_hole_has_no_brush(restorer: Page, tmp_path: Path) -> None:
    page = restorer
    page.open()
    assert "jpeg" in page.js("document.querySelector('#model').textContent")
    assert "restore" in page.js("document.title")
    assert page.js(TO_PAINT) == 0
    page.watch_requests()
    page.take_sample()
    assert page.js(TO_PAINT) == 0
    assert page.sent("/v1/faces") == []  # the whole picture is restored, its faces as they stand
    assert page.js("document.activeElement.id") == "fill"
    assert page.js(SAYS) == "Restore"
    assert page.js("document.querySelector('#hint').textContent") == "The whole picture is made anew."
    page.keys("b", "i")  # which would paint, where there is a hole
    page.undo_by_keys()
    assert AXE is None or page.faults() == []

    page.pick("count", "2")
    page.steps(50)
    page.seed(7)
    page.driver.execute_script("""window.seen = new Set();
        new MutationObserver((changes) => changes.forEach((change) => window.seen.add(change.oldValue)))
          .observe(document.querySelector('#after'), { attributeFilter: ['src'], attributeOldValue: true })""")
    page.finish()
    assert page.js("[...window.seen].filter((source) => source?.startsWith('data:')).length") > 25  # previews
    assert page.js(SAYS) == "Restore again"
    assert page.js("document.querySelector('#compare').checkVisibility()")
    result = page.downloaded("#download", "face-seed7.png")
    answer = ask(page.service, SAMPLES[0].read_bytes(), None, steps=50, sampler="ddim", seed=7)
    assert answer.status_code == 200, answer.text
    assert np.abs(pixels(result).astype(int) - pixels(answer.content)).max() <= 1  # two rows together, one alone
    assert (pixels(result) != pixels(SAMPLES[0].read_bytes())).any(-1).mean() > 0.99

    page.click("#completions button:nth-child(2)")
    second = page.downloaded("#download", "face-seed8.png")
    page.click("#curl")
    assert not page.js("document.querySelector('#save-mask').checkVisibility()")
    line = page.js("document.querySelector('#curl-text').textContent")
    assert "mask" not in line
    (tmp_path / "curl").mkdir()
    (tmp_path / "curl" / "picture.jpg").write_bytes(page.downloaded("#save-picture", "picture.jpg"))
    page.click("#curl-close")
    subprocess.run(["sh", "-c", line], cwd=tmp_path / "curl", check=True, capture_output=True, timeout=PATIENCE)
    again = (tmp_path / "curl" / "filled.png").read_bytes()
    assert np.abs(pixels(again).astype(int) - pixels(second)).max() <= 1

    assert "hole" not in page.js("document.body.innerText").lower()
    page.click("#edit")
    page.until("document.body.dataset.view === 'painting'")
    assert page.js(SAYS) == "Restore"
    with page.service.held():
        page.fill()
        page.until("document.querySelector('#progress-text').textContent.startsWith('Step')")
        assert "hole" not in page.js("document.body.innerText").lower()
        page.cancel()
    page.click("#history li button")
    assert page.downloaded("#download", "face-seed7.png") == result


@in_browser
@pytest.mark.slow
def test_a_brush_that_nobody_has_to_take(jack: Page) -> None:
    page = jack
    page.open()
    assert "several" in page.js("document.querySelector('#model').textContent")
    page.take_sample()
    assert page.js(TO_PAINT) > 5
    page.pick("count", "1")
    page.seed(7)
    assert page.js(SAYS) == "Restore"
    page.finish()
    before, whole = pixels(SAMPLES[0].read_bytes()), pixels(page.downloaded("#download", "face-seed7.png"))
    assert (whole != before).any(-1).mean() > 0.99
    page.click("#edit")
    page.until("document.body.dataset.view === 'painting'")

    page.drag((0.3, 0.7), (0.7, 0.7))
    painted = page.hole
    assert page.js(SAYS) == "Fill the hole"
    page.finish()
    assert page.js(SAYS) == "Fill again"
    part = pixels(page.downloaded("#download", "face-seed7.png"))
    assert abs((part != before).any(-1).mean() - painted) < 0.02
    page.click("#edit")
    page.until("document.body.dataset.view === 'painting'")
    page.click("#clear")
    page.click("#invert")  # all of it is the whole picture as well
    assert page.js(SAYS) == "Restore"
    page.finish()
    assert (pixels(page.downloaded("#download", "face-seed7.png")) == whole).all()
