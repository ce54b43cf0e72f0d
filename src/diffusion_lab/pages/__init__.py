"""HTML files that hold all they need: they open without a network, and ask nobody for anything.

A page is written with `tag`, which escapes whatever is not HTML already, so that no name can break out of its place.
`page` puts the style and the scripts of this folder into it. A table of class ``sortable`` sorts by the buttons in its
head (`sortable`, table.js), and what carries ``data-kind`` is shown as `chips` of that name say.
"""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Mapping, Sequence
from pathlib import Path

HERE = Path(__file__).parent
_VOID = frozenset(("meta", "link", "img", "input", "br"))

Attributes = Mapping[str, str | bool | float | None]
"""Of a tag: text is escaped, True stands alone, False and None are left out."""


class Html(str):
    """Text that is HTML already."""

    __slots__ = ()


def tag(name: str, attributes: Attributes | None = None, *inside: str) -> Html:
    """An element; what is inside and no `Html` is text.

    Example:
        >>> tag("td", {"class": "wide", "hidden": True}, "a < b")
        '<td class="wide" hidden>a &lt; b</td>'
    """
    said = "".join(
        f" {key}" if value is True else f' {key}="{html.escape(str(value))}"'
        for key, value in (attributes or {}).items()
        if value is not None and value is not False
    )
    return Html(f"<{name}{said}>" if name in _VOID else f"<{name}{said}>{joined(*inside)}</{name}>")


def joined(*parts: str) -> Html:
    """Parts one after the other, those that are text escaped."""
    return Html("".join(part if isinstance(part, Html) else html.escape(part) for part in parts))


def heading(text: str, best: str | None = None, hint: str | None = None, words: bool = False) -> Html:
    """A column's head, by which its table sorts.

    Args:
        text: of the head.
        best: "low" or "high", which comes first at the first click; None: low, and neither is better.
        hint: what the column is, in words.
        words: whether its cells are words, which begin at the left, as their head then does.
    """
    button = tag("button", {"type": "button", "data-best": best, "title": hint}, text)
    return tag("th", {"scope": "col", "aria-sort": "none", "class": "text" if words else None}, button)


def cell(value: float | str | None, *inside: str, best: bool = False) -> Html:
    """A cell that sorts by its value; None comes last, and is a dash."""
    said = inside or ("-" if value is None else str(value),)
    number = isinstance(value, int | float)
    kind = " ".join(name for name, holds in (("number", number or value is None), ("best", best)) if holds)
    return tag("td", {"class": kind or None, "data-value": "" if value is None else str(value)}, *said)


def sortable(label: str, head: Sequence[Html], bodies: Sequence[tuple[str | None, Sequence[Html]]]) -> Html:
    """A table that sorts within each of its bodies, in a box that scrolls where it is too wide.

    Args:
        label: what it is called for those who do not see it.
        head: of its columns.
        bodies: a heading over its rows, or None; and rows, each a ``tr``. The heading is also its ``data-kind``.
    """
    parts = []
    for title, rows in bodies:
        over = [] if title is None else [tag("tr", {"class": "over"}, _over(title, len(head)))]
        parts.append(tag("tbody", {"data-kind": title}, *over, *rows))
    table = tag("table", {"class": "sortable"}, tag("thead", None, tag("tr", None, *head)), *parts)
    return tag("div", {"class": "scroll", "role": "region", "aria-label": label, "tabindex": "0"}, table)


def section(title: str, notes: Sequence[str], *inside: str, attributes: Attributes | None = None) -> Html:
    """A part of the page: its title, what has to be known of it, and itself."""
    said = [tag("p", {"class": "aside"}, note) for note in notes]
    return tag("section", attributes, tag("h2", None, title), *said, *inside)


def chips(name: str, label: str, values: Sequence[str]) -> Html:
    """Boxes to tick: what carries ``data-<name>`` of a value is seen as long as that is ticked."""
    boxes = [
        tag(
            "label", None, tag("input", {"type": "checkbox", "checked": True, "value": value}), tag("span", None, value)
        )
        for value in values
    ]
    return tag("fieldset", {"class": "chips", "data-filter": name}, tag("legend", None, label), *boxes)


def page(
    title: str, lead: Sequence[str], body: Sequence[str], styles: Sequence[Path] = (), scripts: Sequence[Path] = ()
) -> str:
    """A whole page.

    Its policy allows the scripts and styles that are in it, by their hashes, pictures that are in it, and nothing else.

    Args:
        title: in the tab, and above.
        lead: below the title.
        body: all else.
        styles: files beside those of this folder.
        scripts: the same.
    """
    style = "\n".join(_read(path) for path in (HERE / "page.css", *styles))
    early, late = _read(HERE / "theme.js"), "\n".join(_read(path) for path in (HERE / "table.js", *scripts))
    policy = "; ".join(
        (
            "default-src 'none'",
            "img-src data:",
            f"style-src {_hash(style)}",
            f"script-src {_hash(early)} {_hash(late)}",
            "base-uri 'none'",
            "form-action 'none'",
        )
    )
    icon = base64.b64encode((HERE / "icon.svg").read_bytes()).decode()
    head = tag(
        "head",
        None,
        tag("meta", {"charset": "utf-8"}),
        tag("meta", {"http-equiv": "Content-Security-Policy", "content": policy}),
        tag("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}),
        tag("meta", {"name": "color-scheme", "content": "light dark"}),
        tag("title", None, f"{title} · diffusion_lab"),
        tag("link", {"rel": "icon", "href": f"data:image/svg+xml;base64,{icon}"}),
        tag("style", None, Html(style)),
        tag("script", None, Html(early)),
    )
    theme = tag("button", {"id": "theme", "class": "button small", "type": "button", "aria-pressed": "false"}, "Dark")
    mark = Html((HERE / "icon.svg").read_text(encoding="utf-8").replace("<svg ", '<svg aria-hidden="true" ', 1))
    top = tag("header", {"class": "top"}, tag("p", {"class": "brand"}, mark, "diffusion_lab"), theme)
    main = tag("main", {"id": "main"}, tag("h1", None, title), *lead, *body)
    skip = tag("a", {"class": "skip", "href": "#main"}, "To the figures")
    whole = tag("html", {"lang": "en"}, head, tag("body", None, skip, top, main, tag("script", None, Html(late))))
    return f"<!doctype html>\n{whole}\n"


def _over(title: str, width: int) -> Html:
    return tag("th", {"scope": "rowgroup", "colspan": width}, tag("span", None, title))


def _read(path: Path) -> str:
    text = path.read_text(encoding="utf-8")
    assert "</script" not in text
    assert "</style" not in text
    return text


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
