"""The site of the documentation."""

import subprocess
import tomllib
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).parents[1]


class Page(HTMLParser):
    """What a page names: places that it links to, what a browser fetches for it, and its own anchors."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.fetched: list[str] = []
        self.anchors: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {key: value or "" for key, value in attrs}
        self.anchors |= {given[key] for key in ("id", "name") if key in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        elif tag in ("link", "script", "img", "source", "iframe"):
            self.fetched += [given[key] for key in ("src", "href") if given.get(key)]


def named(navigation: list[dict[str, object]]) -> Iterator[str]:
    for entry in navigation:
        for place in entry.values():
            yield from named(place) if isinstance(place, list) else [str(place)]


def test_every_page_is_in_the_navigation() -> None:
    places = set(named(tomllib.loads((ROOT / "zensical.toml").read_text())["project"]["nav"]))
    pages = {f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")}
    assert {place for place in places if place.startswith("docs/")} == pages
    assert {"README.md", "src/diffusion_lab/shipped/card.md"} <= places
    rooms = {path.parent.name for path in (ROOT / "src" / "diffusion_lab").glob("*/__init__.py")}
    references = {Path(place).stem for place in places if place.startswith("reference/")}
    assert references == rooms - {"commands"} | {"library"}


@pytest.mark.slow
def test_the_site_has_no_broken_link_and_asks_nobody_else() -> None:
    done = subprocess.run([ROOT / "scripts" / "docs"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    site = ROOT / "build" / "site"
    pages = {path: Page(path) for path in site.rglob("*.html") if path.name != "404.html"}
    assert len(pages) > 30
    broken = []
    for path, page in pages.items():
        outside = [place for place in page.fetched if urlsplit(place).netloc]
        assert not outside, f"{path} fetches {outside}"
        for place in [*page.links, *page.fetched]:
            parts = urlsplit(place)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            if not target.is_file() or (parts.fragment and unquote(parts.fragment) not in pages[target].anchors):
                broken.append(f"{path.relative_to(site)}: {place}")
    assert not broken, broken
    classes = (site / "reference" / "diffusion" / "index.html").read_text(encoding="utf-8")
    assert 'id="diffusion_lab.diffusion.sampling.sample"' in classes
