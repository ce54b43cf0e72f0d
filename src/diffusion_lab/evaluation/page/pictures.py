"""The pictures of a report's page: what was given, what was made of it, the truth, and where they differ."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from diffusion_lab.evaluation.gallery import Shown, small
from diffusion_lab.evaluation.memorisation import SHEET
from diffusion_lab.evaluation.report import Report
from diffusion_lab.pages import Html, section, tag
from diffusion_lab.pictures import to_uint8

BYTES = 8_000_000
"""That all pictures of a page take, at most."""

WHITE = 85
"""Levels of 255 by which a pixel differs where the map of errors is at its end."""

_RAMP = ((0.0, (14, 15, 17)), (0.35, (11, 95, 85)), (0.7, (88, 211, 189)), (1.0, (255, 246, 216)))
_FIRST = 6  # pictures of a kind that are seen at once


class _Look(NamedTuple):
    """One picture of a kind: its number, and what stands in the page of it."""

    number: int
    text: Html


def looks(report: Report) -> Html:
    """The section: cards of each kind, which report.js sorts and opens."""
    by_kind = {shown.kind: [_look(report, shown, i) for i in _in_turn(report, shown)] for shown in report.gallery}
    kept, left = _affordable(by_kind)
    options = [tag("option", {"value": method}, method) for method in report.methods]
    orders = {"worst": "the worst first", "best": "the best first", "middle": "the middle first"}
    picks = [
        _pick("of", "Completed by", options),
        _pick("order", "Order", [tag("option", {"value": key}, text) for key, text in orders.items()]),
    ]
    count, n = len(report.gallery[0].indices), report.protocol["n"]
    said = (
        f"Given, completed, the error and the truth, of {f'{count} of {n}' if count < n else f'all {n}'} pictures. "
        + (f"They are the best, the middle and the worst of {report.methods[0]} by LPIPS. " if count < n else "")
        + f"The error is the mean difference of the three channels: black is none, the lightest {WHITE} levels of 255 "
        "or more. Completions are synthetic."
        + (f" {left} pictures were left out, since all shall take {BYTES / 1e6:g} MB at most." if left else "")
    )
    sections = []
    for kind, cards in kept.items():
        more = tag("button", {"class": "button small more", "type": "button", "hidden": True}, f"All {len(cards)}")
        grid = tag("div", {"class": "cards", "data-first": str(_FIRST)}, *(card.text for card in cards))
        sections.append(tag("div", {"class": "kind", "data-kind": kind}, tag("h3", None, kind), grid, more))
    bar = tag("div", {"class": "bar"}, *picks)
    return section("Pictures", [said], bar, *sections, _dialog(), attributes={"id": "looks"})


def nearest(report: Report) -> Html:
    """The section: the completions that are nearest to a training picture, beside it."""
    rows = {f"{row['mask']}: {row['method']}": row for row in report.rows}
    cards = []
    for said, pictures in report.nearest:
        shown = [_webp(small(to_uint8(picture))) for picture in pictures]
        framed = [
            tag("figure", None, _img(uri, f"{said}: {name}"), tag("figcaption", None, name))
            for uri, name in zip(shown, SHEET, strict=True)
        ]
        row = tag("div", {"class": "row"}, *framed)
        marks = {"data-kind": rows[said]["mask"], "data-method": rows[said]["method"]}
        cards.append(tag("div", {"class": "near", **marks}, tag("h3", None, said), row))
    note = (
        "Of each method the completions that are nearest to a training picture, in the features of FID's extractor; "
        "beside them that picture, and the training picture that is nearest to the truth. A method that copies shows "
        "the same face twice where the truth has another."
    )
    grid = tag("div", {"class": "cards"}, *cards)
    return section("Nearest training pictures", [note], grid, attributes={"id": "nearest"})


def _pick(name: str, label: str, options: Sequence[Html]) -> Html:
    return tag("label", {"class": "pick"}, tag("span", None, label), tag("select", {"id": name}, *options))


def _dialog() -> Html:
    buttons = [
        tag("button", {"id": f"look-{name}", "class": "button small", "type": "button"}, text)
        for name, text in (("back", "Previous"), ("next", "Next"), ("close", "Close"))
    ]
    head = tag("div", {"class": "look-head"}, tag("h2", {"id": "look-title"}, "Picture"), *buttons)
    return tag("dialog", {"id": "look", "aria-labelledby": "look-title"}, head, tag("div", {"id": "look-body"}))


def _in_turn(report: Report, shown: Shown) -> list[int]:
    """Places of a kind's pictures: the first method's worst, its best, the one in the middle, the next worst ..."""
    _, ranks = _lpips(report, shown.kind, report.methods[0])
    places = sorted(range(len(shown.indices)), key=lambda place: ranks[shown.indices[place]])
    middle = sorted(places, key=lambda place: abs(places.index(place) - (len(places) - 1) / 2))
    turns = [place for three in zip(places[::-1], places, middle, strict=True) for place in three]
    return [*dict.fromkeys(turns)]


def _affordable(by_kind: Mapping[str, Sequence[_Look]]) -> tuple[dict[str, list[_Look]], int]:
    """The pictures that fit, taken in turn from all kinds, each kind's by index; and how many do not."""
    kept: dict[str, list[_Look]] = {kind: [] for kind in by_kind}
    room, left = BYTES, 0
    for turn in range(max(map(len, by_kind.values()))):
        for kind, cards in by_kind.items():
            for card in cards[turn : turn + 1]:
                room -= len(card.text)
                if room >= 0:
                    kept[kind].append(card)
                else:
                    left += 1
    return {kind: sorted(cards) for kind, cards in kept.items() if cards}, left


def _lpips(report: Report, kind: str, method: str) -> tuple[Sequence[float], list[int]]:
    """LPIPS of each picture, and its place among all, 0 for the best."""
    values = next(each["lpips"] for each in report.pictures if (each["mask"], each["method"]) == (kind, method))
    ranks = np.empty(len(values), dtype=int)
    ranks[np.argsort(values, kind="stable")] = np.arange(len(values))
    return values, ranks.tolist()


def _look(report: Report, shown: Shown, place: int) -> _Look:
    index, truth = shown.indices[place], shown.truth[place]
    name = f"{shown.kind}, picture {index}"
    made = []
    for method, completions in shown.completions.items():
        values, ranks = _lpips(report, shown.kind, method)
        several = completions[place]
        said = f"LPIPS {values[index]:.4f}, {ranks[index] + 1} of {len(ranks)}"
        pictures = [_img(_webp(x), f"{name}: completed by {method}") for x in several]
        error = _img(_errors(several[0], truth), f"{name}: error of {method}")
        facts = {"data-of": method, "data-rank": str(ranks[index]), "data-all": str(len(ranks)), "data-said": said}
        made.append(tag("span", {"class": "of", **facts}, *pictures, error))
    given, true = _img(_webp(shown.given[place]), f"{name}: given"), _img(_webp(truth), f"{name}: truth")
    strip = tag("span", {"class": "strip"}, given, *made, true)
    said = tag("span", {"class": "card-said"}, tag("b", None, str(index)), tag("span", {"class": "card-lpips"}))
    return _Look(index, tag("button", {"class": "look", "type": "button", "data-name": name}, strip, said))


def _img(uri: str, alt: str) -> Html:
    return tag("img", {"src": uri, "alt": alt, "decoding": "async"})


def _webp(picture: Tensor) -> str:
    return _uri(Image.fromarray(picture.permute(1, 2, 0).numpy()), "WEBP", quality=88, method=4)


def _errors(made: Tensor, truth: Tensor) -> str:
    """The mean difference of the channels, in the colours of the ramp."""
    levels = (made.int() - truth.int()).abs().float().mean(dim=0).div(WHITE).clamp(max=1).mul(255).round()
    picture = Image.fromarray(levels.to(torch.uint8).numpy()).convert("L")
    picture.putpalette(_palette())
    return _uri(picture, "PNG", optimize=True)


def _palette() -> list[int]:
    ends = [end for end, _ in _RAMP]
    columns = [np.interp(np.arange(256) / 255, ends, [colour[c] for _, colour in _RAMP]) for c in range(3)]
    return [round(float(value)) for level in zip(*columns, strict=True) for value in level]


def _uri(picture: Image.Image, kind: str, **options: int) -> str:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(stream.getvalue()).decode()}"
