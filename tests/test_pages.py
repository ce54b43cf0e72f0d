"""Pages that hold all they need: what is text stays text, and only what belongs to them runs."""

import base64
import hashlib
import itertools
import re
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

import diffusion_lab
from diffusion_lab.pages import HERE, Html, cell, heading, page, sortable, tag
from diffusion_lab.pages.plots import Bar, Dot, bars, dots

HOSTILE = "</script></style><script>alert(1)</script>'\"&amp;<!--"


class Read(HTMLParser):
    """What a browser would make of a page: tags with their attributes, and the text of each kind of tag."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "img", "input", "br"):
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append((self._open[-1] if self._open else "", data))

    def text(self, tag: str) -> list[str]:
        return [text for kind, text in self.texts if kind == tag]


@given(st.text(), st.text())
def test_text_and_attributes_come_out_as_they_went_in(text: str, value: str) -> None:
    text, value = (re.sub(r"[\r\x00]", "", said) for said in (text, value))  # which HTML has not
    found = Read(tag("p", {"title": value}, text))
    assert found.tags == [("p", {"title": value})]
    assert "".join(found.text("p")) == text


def test_nothing_breaks_out_of_a_page() -> None:
    plots = [
        dots(HOSTILE, HOSTILE, [Dot(HOSTILE, 1, 1, None, 0, {"data-method": HOSTILE})], HOSTILE),
        bars(HOSTILE, HOSTILE, [(HOSTILE, [Bar(HOSTILE, 1, None, 0, {})])]),
    ]
    table = sortable(HOSTILE, [heading(HOSTILE, "low", HOSTILE)], [(HOSTILE, [tag("tr", None, cell(HOSTILE))])])
    found = Read(page(HOSTILE, [tag("p", None, HOSTILE)], [table, *plots]))
    assert [name for name, _ in found.tags].count("script") == 2
    assert [name for name, _ in found.tags].count("style") == 1
    assert found.text("title")[0] == f"{HOSTILE} · diffusion_lab"
    assert found.text("td") == [HOSTILE]


def test_a_page_runs_only_what_its_policy_names() -> None:
    found = Read(page("A", [], [Html("<script>stray()</script>")]))
    policy = next(said["content"] for name, said in found.tags if said.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None

    def named(text: str) -> bool:
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" in policy

    early, stray, late = found.text("script")
    assert (named(early), named(stray), named(late)) == (True, False, True)
    assert named(found.text("style")[0])
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    for _, said in found.tags:
        for key in ("src", "href"):
            assert (said.get(key) or "#").startswith(("#", "data:"))


def test_it_is_a_sibling_of_the_service() -> None:
    """A colour or font of the same name is the same."""
    service = HERE.parent / "serving" / "page"
    both = [
        dict(re.findall(r"^\s*(--[\w-]+): (.*);$", path.read_text(), flags=re.MULTILINE))
        for path in (service / "page.css", HERE / "page.css")
    ]
    shared = both[0].keys() & both[1].keys()
    assert {"--ground", "--ink", "--accent", "--serif"} <= shared
    assert {key: both[0][key] for key in shared} == {key: both[1][key] for key in shared}
    assert (service / "icon.svg").read_bytes() == (HERE / "icon.svg").read_bytes()


def test_the_files_of_pages_lie_in_the_package() -> None:
    assert Html.__module__ == "diffusion_lab.pages"
    assert HERE.is_relative_to(next(iter(diffusion_lab.__path__)))
    assert {"page.css", "table.js", "theme.js", "icon.svg"} <= {path.name for path in HERE.iterdir()}


def circles(drawing: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r'<circle class="dot" cx="([\d.]+)" cy="([\d.]+)"', drawing)]


def test_dots_lie_where_their_values_say() -> None:
    """Costs and values that grow by the same factor stand at the same distance, and what costs nothing left of all."""
    values = [(0, 8.0), (10, 4.0), (100, 2.0), (1000, 1.0)]
    found = circles(dots("LPIPS", "", [Dot(f"m{y}x", x, y, None, 0, {}) for x, y in values], "calls"))
    (free, _), (ten, _), (hundred, _), (thousand, _) = found
    assert free < ten
    assert hundred - ten == pytest.approx(thousand - hundred, abs=0.15)
    heights = [y for _, y in found]
    steps = [lower - upper for upper, lower in itertools.pairwise(heights)]
    assert all(step == pytest.approx(steps[0], abs=0.15) for step in steps)
    assert heights[0] < heights[-1]  # more is higher


def test_the_axis_of_values_that_lie_close_is_plain() -> None:
    found = circles(dots("PSNR", "", [Dot("ab"[k], 5, y, None, 0, {}) for k, y in enumerate((20.0, 21.0))], "calls"))
    third = circles(dots("PSNR", "", [Dot("abc"[k], 5, y, None, 0, {}) for k, y in enumerate((20.0, 20.5, 21.0))], "c"))
    assert found == [third[0], third[2]]
    assert third[1][1] == pytest.approx((third[0][1] + third[2][1]) / 2, abs=0.1)


def test_what_differs_by_its_number_is_joined_and_named_once() -> None:
    drawing = dots("FID", "", [Dot(f"ddim_{x}", x, 1 / x, None, 0, {}) for x in (50, 5, 10)], "calls")
    line = re.findall(r'<path class="line k0" d="M([^"]+)"', drawing)
    assert len(line) == 1
    xs = [float(point.split()[0]) for point in line[0].split("L")]
    assert xs == sorted(xs)
    assert re.findall(r'class="name">([^<]+)<', drawing) == ["ddim"]


def test_bars_are_as_long_as_their_values() -> None:
    group = [Bar("a", 1.0, (0.5, 2.0), 0, {}), Bar("b", 0.25, None, 1, {}), Bar("c", 0.0, None, 2, {})]
    drawing = bars("LPIPS", "", [("10% to 20%", group)])
    one, quarter, none = (float(width) for width in re.findall(r'class="block" [^>]*width="([\d.]+)"', drawing))
    assert quarter / one == pytest.approx(0.25, rel=1e-2)
    assert none <= 1
    low, high = (float(x) for x in re.findall(r'class="whisker" d="M([\d.]+) [\d.]+H([\d.]+)"', drawing)[0])
    assert high - low == pytest.approx(1.5 * one, abs=0.2)


@given(st.lists(st.tuples(st.integers(0, 1000), st.floats(-1e3, 1e3)), min_size=1, max_size=30))
def test_any_values_can_be_drawn(values: list[tuple[int, float]]) -> None:
    """All dots lie in the drawing, and an axis has few ticks."""
    drawing = dots("x", "", [Dot(f"{i}n", x, y, (y - 1, y + 1), i, {}) for i, (x, y) in enumerate(values)], "calls")
    for x, y in circles(drawing):
        assert 0 <= x <= 340
        assert -0.1 <= y <= 236.1
    assert "nan" not in drawing
    assert drawing.count('class="axis"') < 20
